//! What is backed up and what is left out, with the reason for each.
//!
//! The rule is by name and the same for every version, so that two heads of one source always agree
//! on what their content is. A name in no row is kept: leaving out is always stated.

/// Why a namespace is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// Belongs to one member and is not replicated.
    NodeState,
    /// Keys that would be wrong, or a secret, anywhere else.
    Keys,
    /// Changes without entries of its own.
    NotLogged,
    /// The server makes it anew from other data.
    Rebuilt,
    /// Says only what servers are doing at the moment.
    Momentary,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NodeState => "state of one member, not replicated",
            Self::Keys => "keys that are valid only in the running set",
            Self::NotLogged => "changed by the server without oplog entries",
            Self::Rebuilt => "made anew by the server",
            Self::Momentary => "momentary state of running servers",
        })
    }
}

/// Which collections of a database a row is about.
#[derive(Debug, Clone, Copy)]
pub enum Name {
    /// All.
    Any,
    /// The one of this name.
    Is(&'static str),
    /// Every one whose name starts so.
    Starts(&'static str),
}

impl Name {
    fn covers(self, collection: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Is(name) => collection == name,
            Self::Starts(start) => collection.starts_with(start),
        }
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Is(name) => f.write_str(name),
            Self::Starts(start) => write!(f, "{start}*"),
        }
    }
}

/// A row: what is left out, and why.
#[derive(Debug, Clone, Copy)]
pub struct LeftOut {
    /// The database; none for any.
    pub database: Option<&'static str>,
    /// Its collections.
    pub collections: Name,
    /// Why.
    pub reason: Reason,
}

const fn any(collections: Name, reason: Reason) -> LeftOut {
    LeftOut { database: None, collections, reason }
}

const fn of(database: &'static str, collections: Name, reason: Reason) -> LeftOut {
    LeftOut { database: Some(database), collections, reason }
}

use Name::{Any, Is, Starts};
use Reason::{Keys, Momentary, NodeState, NotLogged, Rebuilt};

/// The table: all that is left out. Everything else is backed up.
pub static LEFT_OUT: &[LeftOut] = &[
    of("local", Any, NodeState),
    any(Is("system.profile"), NodeState),
    of("admin", Is("system.keys"), Keys),
    of("config", Is("external_validation_keys"), Keys),
    of("config", Is("transactions"), NotLogged),
    of("config", Is("image_collection"), NotLogged),
    of("config", Is("system.preimages"), NotLogged),
    of("config", Is("system.sessions"), Momentary),
    of("config", Is("system.indexBuilds"), Momentary),
    of("config", Starts("tenantMigration"), Momentary),
    of("config", Starts("sampledQueries"), Momentary),
    of("config", Starts("analyzeShardKeySplitPoints"), Momentary),
    of("config", Is("queryAnalyzers"), Momentary),
    of("config", Is("lockpings"), Momentary),
    of("config", Is("locks"), Momentary),
    of("config", Is("mongos"), Momentary),
    of("config", Is("actionlog"), Momentary),
    of("config", Starts("cache."), Rebuilt),
    of("config", Starts("shard.catalog."), Rebuilt),
    of("config", Is("vectorClock"), NodeState),
];

/// Why a collection `db.name` is left out; none if it is backed up.
#[must_use]
pub fn left_out(ns: &str) -> Option<Reason> {
    let (db, collection) = split(ns);
    let covers = |row: &&LeftOut| {
        row.database.is_none_or(|of| of == db) && row.collections.covers(collection)
    };
    LEFT_OUT.iter().find(covers).map(|row| row.reason)
}

/// Whether a collection is backed up.
#[must_use]
pub fn kept(ns: &str) -> bool {
    left_out(ns).is_none()
}

/// The database and the collection of a namespace; the collection is empty if there is no dot.
#[must_use]
pub fn split(ns: &str) -> (&str, &str) {
    ns.split_once('.').unwrap_or((ns, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows() {
        for ns in [
            "app.users",
            "app.system.views",
            "app.system.js",
            "app.system.buckets.t",
            "app.cache.chunks",
            "admin.system.users",
            "admin.system.version",
            "config.settings",
            "config.chunks",
            "config.locksmith",
            "localhost.c",
            "config.localReshardingOperations.donor",
        ] {
            assert_eq!(left_out(ns), None, "{ns}");
        }
        for (ns, reason) in [
            ("local.oplog.rs", Reason::NodeState),
            ("app.system.profile", Reason::NodeState),
            ("admin.system.keys", Reason::Keys),
            ("config.transactions", Reason::NotLogged),
            ("config.tenantMigrationDonors", Reason::Momentary),
            ("config.cache.chunks.app.users", Reason::Rebuilt),
            ("config.vectorClock", Reason::NodeState),
        ] {
            assert_eq!(left_out(ns), Some(reason), "{ns}");
        }
    }
}
