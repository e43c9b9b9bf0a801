//! What is backed up and what is left out, with the reason for each.
//!
//! The rule is by name and the same for every version, so that two heads of one source always agree
//! on what their content is. A name in no row is kept: leaving out is always stated.

/// What is done with a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Backed up.
    Keep,
    /// Not scanned, not tracked.
    Leave(Reason),
}

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

/// How a row names collections.
#[derive(Debug, Clone, Copy)]
enum Name {
    /// This collection.
    Is(&'static str),
    /// Every collection whose name starts so.
    Starts(&'static str),
}

/// A row: database, collections, reason.
type Row = (&'static str, Name, Reason);

/// What is left out besides `local` and `system.profile`.
const LEFT_OUT: &[Row] = &[
    ("admin", Name::Is("system.keys"), Reason::Keys),
    ("config", Name::Is("external_validation_keys"), Reason::Keys),
    ("config", Name::Is("transactions"), Reason::NotLogged),
    ("config", Name::Is("image_collection"), Reason::NotLogged),
    ("config", Name::Is("system.preimages"), Reason::NotLogged),
    ("config", Name::Is("system.sessions"), Reason::Momentary),
    ("config", Name::Is("system.indexBuilds"), Reason::Momentary),
    ("config", Name::Starts("tenantMigration"), Reason::Momentary),
    ("config", Name::Starts("sampledQueries"), Reason::Momentary),
    ("config", Name::Starts("analyzeShardKeySplitPoints"), Reason::Momentary),
    ("config", Name::Is("queryAnalyzers"), Reason::Momentary),
    ("config", Name::Is("lockpings"), Reason::Momentary),
    ("config", Name::Is("locks"), Reason::Momentary),
    ("config", Name::Is("mongos"), Reason::Momentary),
    ("config", Name::Is("actionlog"), Reason::Momentary),
    ("config", Name::Starts("cache."), Reason::Rebuilt),
    ("config", Name::Starts("shard.catalog."), Reason::Rebuilt),
    ("config", Name::Is("vectorClock"), Reason::NodeState),
];

/// The rule for a collection `db.name`.
#[must_use]
pub fn rule(ns: &str) -> Rule {
    let (db, collection) = split(ns);
    if db == "local" || collection == "system.profile" {
        return Rule::Leave(Reason::NodeState);
    }
    let row = LEFT_OUT.iter().find(|(of, name, _)| {
        *of == db
            && match name {
                Name::Is(whole) => collection == *whole,
                Name::Starts(start) => collection.starts_with(start),
            }
    });
    row.map_or(Rule::Keep, |(_, _, reason)| Rule::Leave(*reason))
}

/// Whether a collection is backed up.
#[must_use]
pub fn kept(ns: &str) -> bool {
    rule(ns) == Rule::Keep
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
            assert_eq!(rule(ns), Rule::Keep, "{ns}");
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
            assert_eq!(rule(ns), Rule::Leave(reason), "{ns}");
        }
    }
}
