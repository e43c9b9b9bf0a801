//! What can be wrong with an entry, an update, a chain or a slice.

use super::{OpTime, Ts};

/// Errors of the oplog floor. The caller keeps the entry itself; the error says which it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Bytes that are not BSON.
    #[error("invalid BSON in the oplog: {0}")]
    Bson(#[source] Box<bson::error::Error>),

    /// An entry whose elements do not fit its length.
    #[error("an oplog entry is not valid BSON; read it again from another member")]
    Malformed,

    /// An entry without a usable timestamp; nothing else can be said about it.
    #[error("an oplog entry has no valid `ts`; read it again from another member")]
    NoTimestamp,

    /// An entry of an oplog version other than 2.
    #[error("oplog entry {at} has version `v` {found}, only 2 is known; upgrade this program")]
    Version {
        /// The entry.
        at: OpTime,
        /// Its `v`; none if it is missing or not a number.
        found: OptionalNumber,
    },

    /// A field that this kind of entry must have is missing or of another type.
    #[error("oplog entry {at} ({op} on {ns}): field `{field}` is missing or of the wrong type")]
    Field {
        /// The entry.
        at: OpTime,
        /// Its `op`, followed by the command's name.
        op: Box<str>,
        /// Its `ns`.
        ns: Box<str>,
        /// Path of the field in the entry.
        field: &'static str,
    },

    /// An entry of a form this version does not know. Stops the job; never skipped.
    #[error(
        "oplog entry {at}: {what} is not known to this version (op {op:?}, command {command:?}, \
         namespace {ns:?}); the backup stands before this entry: upgrade this program"
    )]
    Unknown {
        /// The entry.
        at: OpTime,
        /// Which part of it is unknown.
        what: UnknownPart,
        /// Its `op`.
        op: Box<str>,
        /// The first field of `o`, where `op` is `c`.
        command: Option<Box<str>>,
        /// Its `ns`.
        ns: Box<str>,
    },

    /// An update that cannot be applied.
    #[error(transparent)]
    Update(#[from] UpdateError),

    /// A transaction that does not fit what came before.
    #[error(transparent)]
    Transaction(#[from] TransactionError),

    /// A slice that is not what its header says, or an entry that does not fit one.
    #[error(transparent)]
    Slice(#[from] SliceError),
}

/// Boxed, so that results of this floor and of those above stay small.
impl From<bson::error::Error> for Error {
    fn from(error: bson::error::Error) -> Self {
        Self::Bson(Box::new(error))
    }
}

/// A number or nothing, for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionalNumber(pub Option<i64>);

impl std::fmt::Display for OptionalNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(number) => number.fmt(f),
            None => f.write_str("absent"),
        }
    }
}

/// What of an entry is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnknownPart {
    /// The value of `op`.
    Op,
    /// The command of a `c` entry.
    Command,
    /// A transaction command inside an applyOps.
    NestedTransaction,
    /// The form of an update: `$v`, or a modifier other than `$set` and `$unset`.
    UpdateForm,
    /// The value of `multiOpType`.
    MultiOpType,
}

impl std::fmt::Display for UnknownPart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Op => "the operation",
            Self::Command => "the command",
            Self::NestedTransaction => "a transaction command inside an applyOps",
            Self::UpdateForm => "the form of the update",
            Self::MultiOpType => "the multiOpType",
        })
    }
}

/// Why an update cannot be applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateError {
    /// Bytes that are not BSON, in the update or in the document.
    #[error("invalid BSON in an update or in the document it changes: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
    /// A diff that breaks the rules of its form.
    #[error("invalid update in the oplog: {what}")]
    Diff {
        /// Which rule.
        what: &'static str,
    },
    /// Nested deeper than a server allows.
    #[error("an update or document is nested deeper than {limit} levels")]
    TooDeep {
        /// The bound.
        limit: usize,
    },
    /// The result would be larger than any server could hold.
    #[error("an update makes a document larger than {limit_bytes} bytes")]
    TooLarge {
        /// The bound, in bytes.
        limit_bytes: usize,
    },
}

/// Why a transaction entry does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransactionError {
    /// The entry continues or decides something that was never seen.
    #[error("transaction entry {at} refers to {prev}, which is not held; entries are missing")]
    UnknownPredecessor {
        /// The entry.
        at: OpTime,
        /// Its `prevOpTime`.
        prev: OpTime,
    },
    /// The chain has not the number of operations that its last entry states.
    #[error("transaction ending at {at} states {stated} operations, its entries hold {found}")]
    Count {
        /// The last entry.
        at: OpTime,
        /// Its `count`.
        stated: u64,
        /// Operations in the chain.
        found: u64,
    },
    /// More transactions are open than any server can have.
    #[error("more than {limit} transactions are open at {at}; the oplog is not plausible")]
    TooMany {
        /// The entry that was one too many.
        at: OpTime,
        /// The bound.
        limit: usize,
    },
    /// An open transaction without entries (only in restored state).
    #[error("an open transaction has no entries")]
    Empty,
    /// Two open transactions end at one entry.
    #[error("two open transactions end at {at}")]
    Duplicate {
        /// The entry.
        at: OpTime,
    },
}

/// Why a slice is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SliceError {
    /// An entry's timestamp is not above that of the entry before, or its term is lower.
    #[error("oplog entry {next} does not come after {last}; the history forked or was reordered")]
    Order {
        /// The entry before.
        last: OpTime,
        /// The entry refused.
        next: OpTime,
    },
    /// The slice does not start where the one before ends.
    #[error("an oplog slice starts after {prev}, the one before it ends at {last}: a gap")]
    Gap {
        /// Where the slice before ends.
        last: OpTime,
        /// Where this one says it goes on from.
        prev: OpTime,
    },
    /// An entry larger than a server writes.
    #[error("an oplog entry of {len_bytes} bytes is larger than {limit_bytes}")]
    EntryTooLarge {
        /// Its length, in bytes.
        len_bytes: usize,
        /// The bound, in bytes.
        limit_bytes: usize,
    },
    /// The entry no longer fits; finish this slice and start the next.
    #[error("the oplog slice is full ({limit_bytes} bytes)")]
    Full {
        /// The bound, in bytes.
        limit_bytes: usize,
    },
    /// More kinds of operation than exist.
    #[error("an oplog slice has more than {limit} kinds of operation; the oplog is not plausible")]
    TooManyKinds {
        /// The bound.
        limit: usize,
    },
    /// A slice of no entries.
    #[error("an oplog slice has no entries")]
    Empty,
    /// The bytes differ from what the header says of them.
    #[error("the oplog slice from {first} is not what its header says: {what} differs")]
    Mismatch {
        /// `_id` of the slice.
        first: Ts,
        /// Which property.
        what: &'static str,
    },
    /// A slice's document is not of the form of the format specification.
    #[error("a slice's document has no valid `{field}`")]
    Document {
        /// The field.
        field: &'static str,
    },
    /// The byte stream is not a run of BSON documents.
    #[error("an oplog slice is not a run of whole BSON documents (byte {offset})")]
    Malformed {
        /// Offset in the stream, in bytes.
        offset: usize,
    },
}
