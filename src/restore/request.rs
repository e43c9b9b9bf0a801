//! What a user asks of a restore: which namespaces, to where, and what may be replaced.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::At;

/// A restore as asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// The point in time.
    pub at: At,
    /// Which namespaces; none means all. Users and roles are restored only with all, or with a
    /// filter that names `admin`.
    pub namespaces: Vec<Filter>,
    /// What may happen to namespaces that the target already has.
    pub existing: Existing,
    /// Whether to believe that blocks that are present are also whole.
    pub trust: bool,
    /// Whether it will only be planned: files then tell as much beforehand as a server.
    pub only_plan: bool,
    /// Where to.
    pub target: Target,
    /// The mongod to build a data directory with; else `$MONGOD`, else the one on `PATH`.
    pub mongod: Option<PathBuf>,
}

impl Request {
    /// Whether blocks are hashed when they are written, and not before: what is written has no name until all of it is whole.
    pub(super) fn checks_while_writing(&self) -> bool {
        matches!(self.target, Target::Dump(_) | Target::Archive(_))
            && !self.only_plan
            && !self.trust
    }
}

/// What may happen to namespaces that the target already has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Existing {
    /// Nothing: one that is in the way is an error.
    #[default]
    Refuse,
    /// Those that the backup has, within the filters, are replaced.
    Drop,
    /// As [`Existing::Drop`], and those within the filters that the backup lacks are removed, but
    /// for the server's own.
    Exact,
}

impl fmt::Display for Existing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refuse => "refuse",
            Self::Drop => "drop",
            Self::Exact => "exact",
        })
    }
}

/// A database, or one collection of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// The database.
    pub database: String,
    /// The collection, none for all of the database.
    pub collection: Option<String>,
}

/// A text that names neither a database nor a collection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a namespace: give DB or DB.COLLECTION")]
pub struct ParseFilterError {
    text: String,
}

impl Filter {
    /// Whether a namespace `db.name` is of the database, or is the collection.
    pub(crate) fn covers(&self, ns: &str) -> bool {
        let (database, name) = ns.split_once('.').unwrap_or((ns, ""));
        database == self.database && self.collection.as_deref().is_none_or(|of| of == name)
    }
}

impl FromStr for Filter {
    type Err = ParseFilterError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (database, collection) = match text.split_once('.') {
            None => (text, None),
            Some((database, collection)) => (database, Some(collection)),
        };
        if database.is_empty() || collection.is_some_and(str::is_empty) {
            return Err(ParseFilterError { text: text.to_owned() });
        }
        Ok(Self { database: database.to_owned(), collection: collection.map(str::to_owned) })
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.collection {
            None => f.write_str(&self.database),
            Some(collection) => write!(f, "{}.{collection}", self.database),
        }
    }
}

/// Where a restore goes.
#[derive(Clone, PartialEq, Eq)]
pub enum Target {
    /// A running replica set or stand-alone server, by connection string.
    Live(String),
    /// A directory as mongodump writes it.
    Dump(PathBuf),
    /// A file as `mongodump --archive` writes it.
    Archive(PathBuf),
    /// A data directory that a mongod opens.
    DbPath(PathBuf),
}

/// A text that names no target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a target is mongodb://..., mongodb+srv://..., dump:DIR, archive:FILE or dbpath:DIR \
     (what was given is not repeated: it may hold a password)"
)]
pub struct ParseTargetError;

impl FromStr for Target {
    type Err = ParseTargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scheme, rest) = text.split_once(':').ok_or(ParseTargetError)?;
        match scheme {
            "mongodb" | "mongodb+srv" => Ok(Self::Live(text.to_owned())),
            _ if rest.is_empty() => Err(ParseTargetError),
            "dump" => Ok(Self::Dump(PathBuf::from(rest))),
            "archive" => Ok(Self::Archive(PathBuf::from(rest))),
            "dbpath" => Ok(Self::DbPath(PathBuf::from(rest))),
            _ => Err(ParseTargetError),
        }
    }
}

/// Without user, password and options.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Live(uri) => {
                let rest = uri.split_once("://").map_or(uri.as_str(), |(_, rest)| rest);
                let hosts = rest.split(['/', '?']).next().unwrap_or_default();
                let hosts = hosts.rsplit_once('@').map_or(hosts, |(_, hosts)| hosts);
                write!(f, "mongodb://{hosts}")
            }
            Self::Dump(dir) => write!(f, "dump:{}", dir.display()),
            Self::Archive(file) => write!(f, "archive:{}", file.display()),
            Self::DbPath(dir) => write!(f, "dbpath:{}", dir.display()),
        }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
