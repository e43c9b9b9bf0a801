//! What a privilege is about, and which held privilege allows what is needed.
//!
//! The rule is the server's own (`AuthorizationSession`): a pattern over all databases leaves out `local` and `config`, and none
//! but that of the very name, of any database's collection of that name, or of buckets reaches a `system.` collection.

use bson::{Bson, Document, doc};
use serde::Serialize;

/// Start of the names of collections that only a privilege of their own reaches.
const SYSTEM: &str = "system.";
/// Start of the names of the buckets of time series.
const BUCKETS: &str = "system.buckets.";
/// Databases that a pattern over all does not reach.
const APART: [&str; 2] = ["config", "local"];

/// What a privilege is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// Everything there is.
    Any,
    /// The set itself.
    Cluster,
    /// All collections that are not the system's, in all databases but `config` and `local`.
    Normal,
    /// A database, and its collections that are not the system's.
    Database(String),
    /// Any database's collection of that name.
    Named(String),
    /// A collection.
    Collection(String, String),
    /// Buckets of time series: of a database or of all (empty), of one series or of all (empty).
    Buckets(String, String),
}

impl Resource {
    /// Reads the `resource` of a privilege; none if it is of a kind that nothing here needs.
    #[must_use]
    pub fn read(resource: &Document) -> Option<Self> {
        let text = |name| resource.get_str(name).ok();
        let set = |name| resource.get_bool(name).unwrap_or(false);
        if set("anyResource") {
            return Some(Self::Any);
        }
        if set("cluster") {
            return Some(Self::Cluster);
        }
        if let Some(series) = text("system_buckets") {
            return Some(Self::Buckets(text("db").unwrap_or_default().into(), series.into()));
        }
        Some(match (text("db")?, text("collection")?) {
            ("", "") => Self::Normal,
            (db, "") => Self::Database(db.into()),
            ("", name) => Self::Named(name.into()),
            (db, name) => Self::Collection(db.into(), name.into()),
        })
    }

    /// As `createRole` takes it.
    #[must_use]
    pub fn to_document(&self) -> Document {
        match self {
            Self::Any => doc! { "anyResource": true },
            Self::Cluster => doc! { "cluster": true },
            Self::Normal => doc! { "db": "", "collection": "" },
            Self::Database(db) => doc! { "db": db, "collection": "" },
            Self::Named(name) => doc! { "db": "", "collection": name },
            Self::Collection(db, name) => doc! { "db": db, "collection": name },
            Self::Buckets(db, series) => doc! { "db": db, "system_buckets": series },
        }
    }

    /// Whether who holds an action on this has it on all of `wanted`.
    #[must_use]
    pub fn covers(&self, wanted: &Self) -> bool {
        if *self == Self::Any || self == wanted {
            return true;
        }
        let reached = |db: &String| !APART.contains(&db.as_str());
        match (self, wanted) {
            (Self::Normal, Self::Database(db)) => reached(db),
            (Self::Normal, Self::Collection(db, name)) => reached(db) && !name.starts_with(SYSTEM),
            (Self::Database(of), Self::Collection(db, name)) => {
                of == db && !name.starts_with(SYSTEM)
            }
            (Self::Named(of), Self::Collection(_, name)) => of == name,
            (Self::Buckets(of, series), Self::Collection(db, name)) => {
                let found = name.strip_prefix(BUCKETS);
                (of.is_empty() || of == db)
                    && found.is_some_and(|found| series.is_empty() || series == found)
            }
            (Self::Buckets(of, series), Self::Buckets(db, found)) => {
                (of.is_empty() || of == db) && (series.is_empty() || series == found)
            }
            _ => false,
        }
    }
}

impl std::fmt::Display for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Any => f.write_str("everything"),
            Self::Cluster => f.write_str("the cluster"),
            Self::Normal => f.write_str("all databases"),
            Self::Database(db) => write!(f, "database {db}"),
            Self::Named(name) => write!(f, "{name} of all databases"),
            Self::Collection(db, name) => write!(f, "{db}.{name}"),
            Self::Buckets(db, series) => {
                let part = |name: &str| if name.is_empty() { "*".to_owned() } else { name.into() };
                write!(f, "{}.{BUCKETS}{}", part(db), part(series))
            }
        }
    }
}

impl Serialize for Resource {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Bson::from(self.to_document()).serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(db: &str, name: &str) -> Resource {
        Resource::read(&doc! { "db": db, "collection": name }).expect("a resource")
    }

    #[test]
    fn patterns_reach_what_the_server_lets_them_reach() {
        let buckets = Resource::read(&doc! { "system_buckets": "" }).expect("buckets");
        for (held, wanted, expected) in [
            (of("", ""), of("shop", "orders"), true),
            (of("", ""), of("shop", "system.js"), false),
            (of("", ""), of("local", "oplog.rs"), false),
            (of("", ""), of("config", ""), false),
            (of("", ""), of("admin", ""), true),
            (of("local", ""), of("local", "oplog.rs"), true),
            (of("admin", ""), of("admin", "system.users"), false),
            (of("", "system.js"), of("shop", "system.js"), true),
            (of("shop", ""), of("", ""), false),
            (of("shop", ""), of("crm", "people"), false),
            (Resource::Any, of("", ""), true),
            (Resource::Any, Resource::Cluster, true),
            (buckets.clone(), of("shop", "system.buckets.t"), true),
            (buckets, of("shop", "orders"), false),
        ] {
            assert_eq!(held.covers(&wanted), expected, "{held} for {wanted}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let buckets = Resource::Buckets("shop".into(), String::new());
        let one = Resource::Collection("shop".into(), "orders".into());
        for resource in [Resource::Any, Resource::Cluster, Resource::Normal, buckets, one] {
            assert_eq!(Resource::read(&resource.to_document()), Some(resource));
        }
        assert_eq!(Resource::read(&doc! { "tenant": 1 }), None);
    }
}
