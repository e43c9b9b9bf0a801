//! What entries do, borrowed from their bytes.

use bson::RawDocument;
use bson::raw::RawArray;

use super::known::Known;
use super::{OpTime, Ts, Uuid};

/// What one entry is.
#[derive(Debug, Clone)]
pub enum Parsed<'a> {
    /// One operation, in effect at the entry's timestamp.
    Single(Operation<'a>),
    /// Several operations, or a part of a transaction: for [`super::transactions::Assembler`].
    ApplyOps(ApplyOps<'a>),
    /// A prepared transaction is committed.
    Commit(Commit<'a>),
    /// A transaction is aborted.
    Abort(Abort<'a>),
}

/// What one entry, or one operation inside an applyOps, does.
#[derive(Debug, Clone)]
pub enum Operation<'a> {
    /// No effect on documents or catalog; the row of the table says why.
    Noop(&'static Known),
    /// Insert (upsert: an existing document with this `_id` is replaced).
    Insert {
        /// Namespace at write time.
        ns: &'a str,
        /// Collection; goes before `ns`.
        uuid: Option<Uuid>,
        /// The document.
        document: &'a RawDocument,
    },
    /// Update of the document with `_id`.
    Update {
        /// Namespace at write time.
        ns: &'a str,
        /// Collection; goes before `ns`.
        uuid: Option<Uuid>,
        /// `o2`: its `_id` is the one before the update. A replacement may carry an `_id` of equal
        /// value and another number type: it is stored under that.
        id: &'a RawDocument,
        /// What to do.
        update: Update<'a>,
        /// `b`: inserts if the document is missing, whatever the rules.
        upsert: bool,
    },
    /// Delete of the document with `_id`.
    Delete {
        /// Namespace at write time.
        ns: &'a str,
        /// Collection; goes before `ns`.
        uuid: Option<Uuid>,
        /// `o`: its `_id` is that of the document.
        id: &'a RawDocument,
    },
    /// A catalog command.
    Command {
        /// Database.
        db: &'a str,
        /// Collection; none for `dropDatabase` and in old user applyOps.
        uuid: Option<Uuid>,
        /// Which.
        command: Command<'a>,
    },
}

/// The three forms of an update.
#[derive(Debug, Clone, Copy)]
pub enum Update<'a> {
    /// Whole new document.
    Replace(&'a RawDocument),
    /// `o` with `$set`/`$unset` (`$v:1`).
    V1(&'a RawDocument),
    /// The `diff` of a `$v:2` update.
    V2(&'a RawDocument),
}

/// Catalog commands. `name` is a collection's name in the operation's database.
#[derive(Debug, Clone, Copy)]
pub enum Command<'a> {
    /// A new collection (or, inside applyOps, a view).
    Create {
        /// Its name.
        name: &'a str,
        /// `o`: the options, besides `create` and `idIndex`.
        spec: &'a RawDocument,
        /// Spec of the `_id` index, where the entry has one.
        id_index: Option<&'a RawDocument>,
    },
    /// The collection is removed.
    Drop {
        /// Its name.
        name: &'a str,
    },
    /// What is left of the database is removed.
    DropDatabase,
    /// The collection gets another name in the same database.
    Rename {
        /// Full namespace before.
        from: &'a str,
        /// Full namespace after.
        to: &'a str,
        /// The collection that had the name and is dropped.
        drop_target: Option<Uuid>,
        /// Whether `options.temp` stays.
        stay_temp: bool,
    },
    /// Options or an index change.
    CollMod {
        /// Its name.
        name: &'a str,
        /// `o`: the changes, besides `collMod`.
        changes: &'a RawDocument,
    },
    /// One index on an empty or new collection.
    CreateIndexes {
        /// Collection.
        name: &'a str,
        /// `o`: the index spec, besides `createIndexes`.
        spec: &'a RawDocument,
    },
    /// Indexes are being built; they are not usable yet.
    StartIndexBuild(IndexBuild<'a>),
    /// The indexes exist from here on.
    CommitIndexBuild(IndexBuild<'a>),
    /// The build is forgotten.
    AbortIndexBuild(IndexBuild<'a>),
    /// One index is removed.
    DropIndexes {
        /// Collection.
        name: &'a str,
        /// Name of the index.
        index: &'a str,
    },
    /// All documents are removed.
    EmptyCapped {
        /// Its name.
        name: &'a str,
    },
    /// The collection becomes capped (old servers only).
    ConvertToCapped {
        /// Its name.
        name: &'a str,
        /// `o`.
        spec: &'a RawDocument,
    },
    /// Documents between two record ids are removed. Only in collections that are left out.
    TruncateRange {
        /// Full namespace.
        ns: &'a str,
    },
    /// Data files appear outside the oplog: the collection must be scanned again.
    ImportCollection {
        /// `o`.
        spec: &'a RawDocument,
    },
    /// setFCV turns a time series view and its buckets into one collection, or back: the
    /// collection must be scanned again.
    ViewlessTimeseries {
        /// `o`.
        spec: &'a RawDocument,
    },
}

/// The collection, build and specs of an index build entry.
#[derive(Debug, Clone, Copy)]
pub struct IndexBuild<'a> {
    /// Collection.
    pub name: &'a str,
    /// The build.
    pub build: Uuid,
    /// Index specs.
    pub indexes: &'a RawArray,
}

/// The session of a transaction entry.
#[derive(Debug, Clone, Copy)]
pub struct Session<'a> {
    /// `lsid`.
    pub lsid: Option<&'a RawDocument>,
    /// `txnNumber`.
    pub txn_number: Option<i64>,
}

/// What an applyOps entry is to its transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApplyOpsRole {
    /// More entries follow (`partialTxn`).
    Partial,
    /// The transaction waits for a decision (`prepare`).
    Prepare,
    /// Last entry of a chain, if an open one ends at `prev`; else on its own.
    Terminal,
    /// On its own whatever `prev` says (vectored insert, `multiOpType` 1).
    Standalone,
}

/// An applyOps entry.
#[derive(Debug, Clone, Copy)]
pub struct ApplyOps<'a> {
    /// What it is to its transaction.
    pub role: ApplyOpsRole,
    /// `count`: operations in the whole chain.
    pub count: Option<u64>,
    /// `prevOpTime`; none if absent or null.
    pub prev: Option<OpTime>,
    /// Session.
    pub session: Session<'a>,
    /// The operations: see [`super::operations`].
    pub operations: &'a RawArray,
}

/// A commitTransaction entry.
#[derive(Debug, Clone, Copy)]
pub struct Commit<'a> {
    /// `prevOpTime`: the prepare entry; none if absent or null.
    pub prev: Option<OpTime>,
    /// From when on the operations are visible. At or below the entry's own timestamp.
    pub commit_ts: Ts,
    /// Session.
    pub session: Session<'a>,
}

/// An abortTransaction entry.
#[derive(Debug, Clone, Copy)]
pub struct Abort<'a> {
    /// `prevOpTime`: the prepare entry; none if an unprepared chain is aborted.
    pub prev: Option<OpTime>,
    /// Session.
    pub session: Session<'a>,
}

/// The operations of an applyOps, in order. Nested `n` are left out.
pub struct Operations<'a> {
    pub(super) at: OpTime,
    pub(super) elements: bson::raw::RawArrayIter<'a>,
}
