//! What can go wrong with a tree.

use crate::block::{self, BlockId};

use super::{MAX_DOCUMENT_BYTES, MAX_LEVEL, MAX_NESTING};

/// An error of the tree floor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A block could not be read or written.
    #[error(transparent)]
    Block(#[from] block::Error),
    /// The caller's input stream or its merge failed.
    #[error("{0}")]
    Input(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A block of a tree breaks a rule of the format. Run fsck to learn which snapshots it touches.
    #[error("tree block {id} is malformed: {what}")]
    Malformed {
        /// The block.
        id: BlockId,
        /// Which rule it breaks.
        what: &'static str,
    },
    /// A tree's root record breaks a rule of the format.
    #[error("tree root is malformed: {what}")]
    MalformedRoot {
        /// Which rule it breaks.
        what: &'static str,
    },
    /// A document or an edit whose key is not above the one before it.
    #[error("keys out of order: {what}")]
    OutOfOrder {
        /// What stood in which order.
        what: &'static str,
    },
    /// A document without `_id` in a keyed tree.
    #[error("a document of a keyed tree has no _id")]
    NoId,
    /// Bytes that are not BSON where a key was to be read.
    #[error("invalid BSON in a key: {what}")]
    InvalidBson {
        /// Which rule they break.
        what: &'static str,
    },
    /// An `_id` nested deeper than any server stores.
    #[error("an _id is nested deeper than {MAX_NESTING} levels")]
    NestedTooDeep,
    /// An edit that puts a document with another key.
    #[error("an edit puts a document whose _id is not the edit's key")]
    KeyMismatch,
    /// A document above the limit.
    #[error("a document of {len} bytes is above the limit of {limit}")]
    DocumentTooLarge {
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes: [`MAX_DOCUMENT_BYTES`], or that of a tree of our own documents.
        limit: usize,
    },
    /// A tree that would need more levels than a root may have.
    #[error("a tree would have more than {MAX_LEVEL} levels")]
    TooManyLevels,
    /// A tree of the other order than the operation needs.
    #[error("the operation needs a {needed} tree")]
    WrongOrder {
        /// `keyed` or `positional`.
        needed: &'static str,
    },
}

impl Error {
    pub(super) const fn too_large(len: usize) -> Self {
        Self::DocumentTooLarge { len, limit: MAX_DOCUMENT_BYTES }
    }

    pub(super) const fn malformed(id: &BlockId, what: &'static str) -> Self {
        Self::Malformed { id: *id, what }
    }
}
