//! What can go wrong with a restore.

use crate::{block, head, oplog, store, tree};

/// An error of the restore floor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The restore was told to stop.
    #[error("the restore was stopped; the target keeps its marker and is not complete: run again")]
    Cancelled,
    /// A block could not be read.
    #[error(transparent)]
    Block(#[from] block::Error),
    /// A tree could not be read.
    #[error(transparent)]
    Tree(#[from] tree::Error),
    /// The scratch store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The head could not be opened or advanced.
    #[error(transparent)]
    Head(#[from] head::Error),
    /// An oplog entry could not be read.
    #[error(transparent)]
    Oplog(#[from] oplog::Error),
}
