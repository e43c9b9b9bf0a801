//! The table: which actions on which resources each role of this program needs, and why.
//!
//! `check` compares it with what a user has, `commands` makes commands of it, and `tests/access` takes each row away and looks what
//! comes of it: documentation, check and program cannot drift apart.

use super::resource::Resource;

/// What this program does at a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Backs it up: `sync`, `daemon`, `verify`.
    Source,
    /// Pushes jobs to it, and repairs and removes there: `sync` and `daemon --blockstore`, `snapshot delete`, `fsck --repair`.
    Blockstore,
    /// Reads jobs from it, under pins: `restore`, `rebuild`, `fsck`, `snapshots`, `points --blockstore`.
    BlockstoreRead,
    /// Removes from it what nothing reaches: `groom`.
    Groom,
    /// Restores into it: `restore --to`.
    Target,
    /// Brings it back to a point: `restore --rewind`.
    Rewind,
}

/// Where one of these roles is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// What is backed up.
    Source,
    /// Where jobs are pushed.
    Blockstore,
    /// What is restored into.
    Target,
}

impl Place {
    /// What messages call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Blockstore => "blockstore",
            Self::Target => "target",
        }
    }
}

/// How much depends on a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Weight {
    /// The program fails without it.
    Needed,
    /// Needed until the repository was made.
    Once,
    /// The program works without it, less well, and says so.
    Advised,
}

/// An action that is needed on a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// On what.
    pub resource: Resource,
    /// The server's name of the action.
    pub action: &'static str,
    /// How much depends on it.
    pub weight: Weight,
    /// For what.
    pub why: &'static str,
}

/// A version of a server, major and minor.
pub type Version = (u32, u32);

/// The first with time series, and with resources for their buckets.
const TIME_SERIES: Version = (5, 0);

/// A resource of the table.
#[derive(Clone, Copy)]
enum On {
    Cluster,
    Normal,
    Database(&'static str),
    Named(&'static str),
    Collection(&'static str, &'static str),
    Buckets,
    /// A collection of the blockstore's database.
    Repository(&'static str),
}

/// A row of the table.
struct Row(On, &'static [&'static str], Weight, &'static str);

use On::{Buckets, Cluster, Collection, Database, Named, Normal, Repository};
use Weight::{Advised, Needed, Once};

const SOURCE: &[Row] = &[
    Row(Cluster, &["listDatabases"], Needed, "all databases are listed"),
    Row(
        Cluster,
        &["useUUID"],
        Needed,
        "collections are read by UUID, so that a rename loses nothing",
    ),
    Row(
        Cluster,
        &["serverStatus"],
        Advised,
        "a rollback of the member while collections are listed is seen",
    ),
    Row(
        Normal,
        &["find", "listCollections", "listIndexes"],
        Needed,
        "collections are copied and compared",
    ),
    Row(
        Normal,
        &["collStats"],
        Advised,
        "large collections are copied in several ranges at once, and progress has a total",
    ),
    Row(
        Database("config"),
        &["find", "listCollections", "listIndexes"],
        Needed,
        "open transactions are found, and settings copied",
    ),
    Row(Collection("local", "oplog.rs"), &["find"], Needed, "the oplog is followed"),
    Row(
        Collection("local", "oplog.rs"),
        &["collStats"],
        Advised,
        "how long the oplog lasts is told before it is full once",
    ),
    Row(
        Collection("admin", "system.version"),
        &["find", "listIndexes"],
        Needed,
        "the feature compatibility version is read, majorities are waited for",
    ),
    Row(Collection("admin", "system.users"), &["find", "listIndexes"], Needed, "users are copied"),
    Row(Collection("admin", "system.roles"), &["find", "listIndexes"], Needed, "roles are copied"),
    Row(Named("system.js"), &["find", "listIndexes"], Needed, "stored functions are copied"),
    Row(Named("system.views"), &["find", "listIndexes"], Needed, "views are copied"),
    Row(Buckets, &["find", "listIndexes"], Needed, "time series are copied"),
];

/// A collection is made by whoever may insert into it.
const BLOCKSTORE: &[Row] = &[
    Row(Repository("repository"), &["find"], Needed, "the repository is opened"),
    Row(Repository("repository"), &["insert"], Once, "the repository is made"),
    Row(Repository("generation"), &["find", "update"], Needed, "sessions that write are started"),
    Row(Repository("generation"), &["insert"], Once, "the repository is made"),
    Row(
        Repository("blocks"),
        &["find", "insert", "update"],
        Needed,
        "blocks are asserted and sent; none is removed",
    ),
    Row(Repository("blocks"), &["createIndex"], Once, "the repository is made"),
    Row(
        Repository("sessions"),
        &["find", "insert", "update", "remove"],
        Needed,
        "sessions live and end, those of the dead too",
    ),
    Row(
        Repository("daemons"),
        &["find", "insert", "update", "remove"],
        Needed,
        "the daemon is known to others",
    ),
    Row(
        Repository("jobs"),
        &["find", "insert", "update"],
        Needed,
        "jobs are taken and committed to",
    ),
    Row(
        Repository("snapshots"),
        &["find", "insert", "update", "remove"],
        Needed,
        "snapshots come, are kept, and expire",
    ),
    Row(Repository("snapshots"), &["createIndex"], Once, "the repository is made"),
    Row(
        Repository("slices"),
        &["find", "insert", "remove"],
        Needed,
        "oplog slices come and expire",
    ),
    Row(Repository("slices"), &["createIndex"], Once, "the repository is made"),
];

const BLOCKSTORE_READ: &[Row] = &[
    Row(Repository("repository"), &["find"], Needed, "the repository is opened"),
    Row(Repository("blocks"), &["find"], Needed, "blocks are read"),
    Row(
        Repository("sessions"),
        &["insert", "update", "remove"],
        Needed,
        "the session that holds the pins lives and ends",
    ),
    Row(Repository("daemons"), &["find"], Needed, "whose a job is is told"),
    Row(Repository("jobs"), &["find", "update"], Needed, "jobs are read, and pins counted"),
    Row(Repository("snapshots"), &["find", "update"], Needed, "snapshots are read and pinned"),
    Row(Repository("slices"), &["find"], Needed, "oplog slices are read"),
];

const GROOM: &[Row] = &[
    Row(Repository("repository"), &["find"], Needed, "the repository is opened"),
    Row(Repository("generation"), &["find", "update"], Needed, "the generation is raised"),
    Row(
        Repository("blocks"),
        &["find", "remove"],
        Needed,
        "blocks that nothing reaches are removed",
    ),
    Row(
        Repository("sessions"),
        &["find", "insert", "update", "remove"],
        Needed,
        "writers are waited for, the dead among them ended",
    ),
    Row(Repository("daemons"), &["find", "remove"], Needed, "daemons that are dead are forgotten"),
    Row(Repository("jobs"), &["find"], Needed, "jobs are read"),
    Row(
        Repository("snapshots"),
        &["find", "update"],
        Needed,
        "snapshots are read, pins of the dead undone",
    ),
    Row(Repository("slices"), &["find"], Needed, "oplog slices are read"),
];

/// The marker of an unfinished restore.
const MARKER: On = Collection("headstock_restore", "marker");

const TARGET: &[Row] = &[
    Row(Cluster, &["getParameter"], Needed, "the feature compatibility version is read"),
    Row(Normal, &["listCollections"], Needed, "what is there is looked at"),
    Row(Database("config"), &["listCollections"], Needed, "what is there is looked at"),
    Row(Database("admin"), &["dbStats"], Advised, "whether there is space is told before"),
    Row(
        Normal,
        &["createCollection", "convertToCapped", "collMod", "createIndex"],
        Needed,
        "collections, views and indexes are made",
    ),
    Row(
        Normal,
        &["insert", "bypassDocumentValidation"],
        Needed,
        "documents are written, also those that a validator would refuse now",
    ),
    Row(
        Normal,
        &["dropCollection"],
        Needed,
        "what is replaced is dropped, and the marker at the end",
    ),
    Row(Normal, &["find"], Needed, "what was restored is counted and compared"),
    Row(
        Normal,
        &["dbHash"],
        Advised,
        "documents are compared by the server's own hash, not only counted",
    ),
    Row(MARKER, &["update", "remove"], Needed, "a restore that is not finished is marked"),
    Row(
        Named("system.js"),
        &["find", "insert", "remove", "bypassDocumentValidation"],
        Needed,
        "stored functions are restored",
    ),
    Row(Named("system.views"), &["find"], Advised, "views are compared"),
    Row(
        Buckets,
        &["find", "insert", "bypassDocumentValidation", "createIndex", "collMod", "dropCollection"],
        Needed,
        "time series are restored",
    ),
    Row(
        Normal,
        &["createUser", "createRole", "grantRole", "revokeRole"],
        Needed,
        "users and roles are merged",
    ),
    Row(
        Collection("admin", "system.users"),
        &["find"],
        Needed,
        "that users are there is looked at",
    ),
    Row(
        Collection("admin", "system.roles"),
        &["find"],
        Needed,
        "that roles are there is looked at",
    ),
];

const REWIND: &[Row] = &[
    Row(
        Collection("local", "oplog.rs"),
        &["find"],
        Needed,
        "that its history is the job's is proved by the oplog",
    ),
    Row(
        Collection("admin", "system.version"),
        &["find"],
        Needed,
        "the feature compatibility version is read, majorities are waited for",
    ),
    Row(Normal, &["find"], Needed, "what views are on may be read, and users are merged"),
    Row(Cluster, &["getParameter"], Needed, "the feature compatibility version is read"),
    Row(Database("admin"), &["dbStats"], Advised, "whether there is space is told before"),
    Row(
        Normal,
        &["insert", "update", "remove", "bypassDocumentValidation"],
        Needed,
        "documents that differ are written",
    ),
    Row(
        Normal,
        &["createCollection", "convertToCapped", "collMod", "dropCollection"],
        Needed,
        "collections that differ are made, changed, renamed and dropped",
    ),
    Row(Normal, &["createIndex", "dropIndex"], Needed, "indexes that differ are built and dropped"),
    Row(
        Named("system.js"),
        &["insert", "update", "remove", "bypassDocumentValidation"],
        Needed,
        "stored functions that differ are written",
    ),
    Row(
        Buckets,
        &[
            "insert",
            "update",
            "remove",
            "bypassDocumentValidation",
            "createIndex",
            "dropIndex",
            "collMod",
            "dropCollection",
        ],
        Needed,
        "time series that differ are written",
    ),
    Row(
        Normal,
        &["createUser", "createRole", "grantRole", "revokeRole", "dropUser", "dropRole"],
        Needed,
        "users and roles that differ are written",
    ),
];

impl Role {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Source,
        Self::Blockstore,
        Self::BlockstoreRead,
        Self::Groom,
        Self::Target,
        Self::Rewind,
    ];

    /// Where it is played.
    #[must_use]
    pub const fn place(self) -> Place {
        match self {
            Self::Source => Place::Source,
            Self::Blockstore | Self::BlockstoreRead | Self::Groom => Place::Blockstore,
            Self::Target | Self::Rewind => Place::Target,
        }
    }

    /// As options and JSON name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Blockstore => "blockstore",
            Self::BlockstoreRead => "blockstore-read",
            Self::Groom => "groom",
            Self::Target => "target",
            Self::Rewind => "rewind",
        }
    }

    const fn rows(self) -> &'static [Row] {
        match self {
            Self::Source => SOURCE,
            Self::Blockstore => BLOCKSTORE,
            Self::BlockstoreRead => BLOCKSTORE_READ,
            Self::Groom => GROOM,
            Self::Target => TARGET,
            Self::Rewind => REWIND,
        }
    }

    /// What it needs at a server of that version, the blockstore being that database.
    #[must_use]
    pub fn needs(self, database: &str, version: Version) -> Vec<Need> {
        let is_there = |row: &&Row| !matches!(row.0, Buckets) || version >= TIME_SERIES;
        let rows = self.rows().iter().filter(is_there);
        rows.flat_map(|Row(on, actions, weight, why)| {
            let resource = on.resource(database);
            actions.iter().map(move |action| {
                let resource = resource.clone();
                Need { resource, action, weight: *weight, why }
            })
        })
        .collect()
    }
}

impl On {
    fn resource(self, database: &str) -> Resource {
        match self {
            Cluster => Resource::Cluster,
            Normal => Resource::Normal,
            Database(db) => Resource::Database(db.into()),
            Named(name) => Resource::Named(name.into()),
            Collection(db, name) => Resource::Collection(db.into(), name.into()),
            Buckets => Resource::Buckets(String::new(), String::new()),
            Repository(name) => Resource::Collection(database.into(), name.into()),
        }
    }
}
