//! What can go wrong with a head.

use std::path::PathBuf;

use crate::oplog::{self, OpTime, Ts, Uuid};
use crate::store::fs::FsError;
use crate::{block, tree};

/// An error of the head floor. After one from an open head, load it again from its last root.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tree could not be read or written.
    #[error(transparent)]
    Tree(#[from] tree::Error),

    /// A block could not be read or written.
    #[error(transparent)]
    Block(#[from] block::Error),

    /// An entry could not be understood or applied.
    #[error(transparent)]
    Oplog(#[from] oplog::Error),

    /// An update waiting since the entry at `ts` could not be applied to its document.
    #[error("the update by the oplog entry at {ts} cannot be applied: {source}")]
    Update {
        /// The entry.
        ts: Ts,
        /// Why.
        source: oplog::Error,
    },

    /// A file of changes on scratch could not be written or read. Nothing is lost: load the head
    /// again once there is room.
    #[error(transparent)]
    Scratch(#[from] FsError),

    /// A file of changes on scratch does not read back as written. Nothing is lost: load the head
    /// again.
    #[error("scratch file {} is damaged at byte {offset}: {what}", path.display())]
    ScratchDamaged {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// Which check failed.
        what: &'static str,
    },

    /// One of our own stored documents is not of its form.
    #[error("a stored {what} has no valid `{field}`; run fsck")]
    Malformed {
        /// Which document.
        what: &'static str,
        /// Which field.
        field: &'static str,
    },

    /// A user's options or index spec that is not valid BSON.
    #[error("the {what} of {ns} is not valid BSON: {source}")]
    Bson {
        /// Options or index spec.
        what: &'static str,
        /// The collection.
        ns: String,
        /// Why.
        source: bson::error::Error,
    },

    /// An entry at or before the last one applied, or of a lower term: the history forked or was
    /// reordered.
    #[error("oplog entry {next} does not come after {last}, the last one applied")]
    OutOfOrder {
        /// The last one applied.
        last: OpTime,
        /// The entry refused.
        next: OpTime,
    },

    /// An operation on a collection that the catalog lacks although it should have it.
    #[error(
        "oplog entry at {ts} changes {ns} ({uuid:?}), which the head does not have; scan again"
    )]
    UnknownCollection {
        /// The entry.
        ts: Ts,
        /// Its namespace.
        ns: String,
        /// Its collection.
        uuid: Option<Uuid>,
    },

    /// A name that two collections would have.
    #[error("oplog entry at {ts} gives {uuid} the name {ns}, which {holder} has; scan again")]
    NameTaken {
        /// The entry.
        ts: Ts,
        /// The name.
        ns: String,
        /// The collection that should get it.
        uuid: Uuid,
        /// The collection that has it.
        holder: Uuid,
    },

    /// Documents that no entry carries: the source must be scanned again.
    #[error("oplog entry at {ts} on {ns}: {why}; the source must be scanned again")]
    NeedsRescan {
        /// The entry.
        ts: Ts,
        /// The collection.
        ns: String,
        /// Why.
        why: Rescan,
    },

    /// A catalog command with a part this version does not know. Stops the job; never skipped.
    #[error(
        "oplog entry at {ts}: {command} on {ns} has `{field}`, which is not known to this version; the backup stands before this entry: upgrade this program"
    )]
    UnknownField {
        /// The entry.
        ts: Ts,
        /// The command.
        command: &'static str,
        /// The collection.
        ns: String,
        /// The field, as a path from the command.
        field: String,
    },

    /// Collections that had to make room for others of their name while the scan was caught up
    /// with, and never got a name again: the scan raced a rollback.
    #[error("at the end of the scan {names:?} still stand aside; scan again")]
    MovedAside {
        /// The names that were taken from them.
        names: Vec<String>,
    },

    /// An earlier error left the head half changed.
    #[error("the head failed before; load it again from its last committed root")]
    Spent,
}

/// Why a collection must be scanned again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rescan {
    /// Data files were imported.
    #[error("importCollection brings documents that are in no entry")]
    Imported,
    /// setFCV converts time series collections.
    #[error("time series collections are converted in place")]
    ViewlessTimeseries,
    /// A collection became capped in place.
    #[error("convertToCapped removes documents without naming them")]
    ConvertedToCapped,
    /// The feature compatibility version changed while collections were being scanned.
    #[error("the feature compatibility version changed during the scan")]
    FcvChanged,
    /// A range of record ids was truncated.
    #[error("truncateRange removes documents by record id, which a backup does not have")]
    Truncated,
}
