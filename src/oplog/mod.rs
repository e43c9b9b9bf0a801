//! The oplog as pure data: entries, diffs, transactions, slices. No I/O. (Contract.)

use bson::{RawDocument, RawDocumentBuf, Timestamp};

/// A position in the oplog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpTime {
    /// Cluster time: seconds and increment. The unique, strictly increasing key of an entry.
    pub ts: Ts,
    /// Election term; -1 where the server wrote none.
    pub term: i64,
}

/// A cluster time. Wraps the server's timestamp with its order; prints as `secs,inc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ts {
    /// Seconds since the Unix epoch.
    pub secs: u32,
    /// Ordinal within the second.
    pub inc: u32,
}

impl From<Timestamp> for Ts {
    fn from(t: Timestamp) -> Self {
        Self { secs: t.time, inc: t.increment }
    }
}
impl From<Ts> for Timestamp {
    fn from(t: Ts) -> Self {
        Self { time: t.secs, increment: t.inc }
    }
}

/// A collection's UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(pub [u8; 16]);

/// Errors: malformed entry, unknown op/command/diff version (naming optime and entry), ...
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An entry of a form this version does not know. Stops the job; never skipped.
    #[error("oplog entry at {ts:?} is not known to this version: {what}")]
    Unknown {
        /// Where.
        ts: Ts,
        /// What.
        what: String,
    },
}

/// Header of an entry, all that tailing needs.
#[derive(Debug, Clone, Copy)]
pub struct Position {
    /// Its optime.
    pub optime: OpTime,
    /// Its wall clock, milliseconds since the Unix epoch.
    pub wall_ms: i64,
}

/// Reads an entry's position, checking `v`.
pub fn position(_entry: &RawDocument) -> Result<Position, Error> {
    unimplemented!()
}

/// What one entry, or one operation inside an applyOps, does. Borrowed from the entry.
pub enum Operation<'a> {
    /// No effect on documents.
    Noop,
    /// Insert (upsert).
    Insert {
        /// Namespace at write time.
        ns: &'a str,
        /// Collection.
        uuid: Option<Uuid>,
        /// The document.
        document: &'a RawDocument,
    },
    /// Update of the document with `_id`.
    Update {
        /// Namespace at write time.
        ns: &'a str,
        /// Collection.
        uuid: Option<Uuid>,
        /// `o2._id`.
        id: bson::RawBsonRef<'a>,
        /// What to do.
        update: Update<'a>,
        /// `b`.
        upsert: bool,
    },
    /// Delete of the document with `_id`.
    Delete {
        /// Namespace at write time.
        ns: &'a str,
        /// Collection.
        uuid: Option<Uuid>,
        /// `o._id`.
        id: bson::RawBsonRef<'a>,
    },
    /// A catalog command.
    Command {
        /// Database.
        db: &'a str,
        /// Collection.
        uuid: Option<Uuid>,
        /// Which.
        command: Command<'a>,
    },
}

/// The three forms of an update.
pub enum Update<'a> {
    /// Whole new document.
    Replace(&'a RawDocument),
    /// `$v:1` `$set`/`$unset`.
    V1(&'a RawDocument),
    /// `$v:2` diff.
    V2(&'a RawDocument),
}

/// Catalog commands (the helper completes the list by reference/oplog.md 1.6).
pub enum Command<'a> {
    /// create
    Create {
        /// Collection name.
        name: &'a str,
        /// `o`.
        spec: &'a RawDocument,
    },
    /// ... Drop, DropDatabase, Rename{from,to,drop_target,stay_temp}, CollMod, CreateIndexes,
    /// StartIndexBuild, CommitIndexBuild, AbortIndexBuild, DropIndexes{name}, EmptyCapped, ...
    Drop,
}

/// Applies a `$v:2` diff as a secondary does.
pub fn apply_v2(_old: &RawDocument, _diff: &RawDocument) -> Result<RawDocumentBuf, Error> {
    unimplemented!()
}
/// Applies `$v:1` modifiers as a secondary does. `numeric_order`: 5.0+ ordering of appended names.
pub fn apply_v1(_old: &RawDocument, _o: &RawDocument) -> Result<RawDocumentBuf, Error> {
    unimplemented!()
}

// Also owed: `parse(entry) -> Parsed` (Single(Operation) | ApplyOps{...} | Commit{...} | Abort{...}),
// `transactions::Assembler<H>` (chains by prevOpTime; H = handle of held operations, so that the
// caller decides where they live), `slice` (header document, entry stream encode/iterate, chaining).
