//! The oplog as pure data: entries, diffs, transactions, slices. No I/O.
//!
//! - [`position`] and [`parse()`] turn an entry into what it does: an [`Operation`], or a part of a
//!   transaction. What is not understood is [`Error::Unknown`], never skipped.
//! - [`known`] is the table of every operation and command with its treatment.
//! - [`apply`] computes the document that an update leaves, byte for byte as a secondary does.
//! - [`transactions`] tells when held operations take effect.
//! - [`mod@slice`] packs entries into chained runs for storage.
//!
//! Documents are handled as raw bytes. A field that an update does not touch keeps its bytes,
//! duplicate names and invalid UTF-8 included.

mod command;
mod diff_v1;
mod diff_v2;
mod error;
mod fields;
mod kinds;
mod operation;
mod optime;
mod parse;
mod raw;
mod update;
pub mod known;
pub mod slice;
pub mod transactions;

pub use error::{Error, OptionalNumber, SliceError, TransactionError, UnknownPart, UpdateError};
pub use operation::{
    Abort, ApplyOps, ApplyOpsRole, Command, Commit, IndexBuild, Operation, Operations, Parsed,
    Session, Update,
};
pub use optime::{OpTime, ParseTsError, ParseUuidError, Position, Ts, Uuid};
pub use parse::{operations, parse, position, read};
pub use update::{NameOrder, Rules, apply};
