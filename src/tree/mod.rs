//! Ordered maps from key to document over blocks. (Contract; the essay comes with the code.)

use bson::{RawDocument, RawDocumentBuf};

use crate::block::{self, BlockId, BlockRead, BlockWrite};
use crate::store::RepositorySalt;

/// Order-preserving encoding of the value of an `_id`: equal for `_id`s that the server's unique
/// index holds equal under simple collation, ordered as BSON comparison orders them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Vec<u8>);

impl Key {
    /// The key of a document: that of its first `_id` field.
    pub fn of_document(_document: &RawDocument) -> Result<Self, Error> {
        unimplemented!()
    }
    /// The key of an `_id` value.
    pub fn of_value(_value: bson::RawBsonRef<'_>) -> Result<Self, Error> {
        unimplemented!()
    }
    /// The encoded bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Whether documents stand in key order or in the order they were appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// By key.
    Keyed,
    /// By position (capped collections).
    Positional,
}

/// What the leaves hold, hence the kind of their blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// User documents: [`crate::block::Kind::Leaf`].
    Documents,
    /// Our own documents that name blocks: [`crate::block::Kind::Links`].
    Links,
}

/// How a tree is cut. Two trees compare by root only if built with the same shape.
#[derive(Clone)]
pub struct Shape {}

impl Shape {
    /// The shape of a repository's trees.
    pub fn new(_salt: RepositorySalt, _order: Order, _content: Content) -> Self {
        unimplemented!()
    }
}

/// A tree: its top block and what is under it. The empty tree has no block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Root {
    /// The top block, none for an empty tree.
    pub top: Option<BlockId>,
    /// Levels of inner nodes above the leaves.
    pub level: u8,
    /// Documents.
    pub documents: u64,
    /// Sum of their BSON lengths.
    pub bytes: u64,
}

impl Root {
    /// As a BSON value for `Links` documents (the block as a [`crate::block::link`]).
    pub fn to_bson(&self) -> bson::RawDocumentBuf {
        unimplemented!()
    }
    /// Reads [`Root::to_bson`] back.
    pub fn from_bson(_document: &RawDocument) -> Result<Self, Error> {
        unimplemented!()
    }
}

/// Errors of the tree floor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A block could not be read or written.
    #[error(transparent)]
    Block(#[from] block::Error),
    /// The caller's input stream failed.
    #[error("{0}")]
    Input(#[source] Box<dyn std::error::Error + Send + Sync>),
    // also: Malformed node/leaf naming the block, OutOfOrder, NoId, TooDeep, DocumentTooLarge...
}

/// Builds a tree from documents in order. Keyed: strictly ascending keys.
pub struct Builder<'a> {
    _blocks: &'a dyn BlockWrite,
}

impl<'a> Builder<'a> {
    /// Starts an empty tree.
    pub fn new(_blocks: &'a dyn BlockWrite, _shape: &Shape) -> Self {
        unimplemented!()
    }
    /// Appends a document.
    pub fn push(&mut self, _document: &RawDocument) -> Result<(), Error> {
        unimplemented!()
    }
    /// Appends every document of an existing tree of the same shape, whose keys are all above what
    /// was pushed, adopting its nodes unread where the cuts fall alike.
    pub fn push_tree(&mut self, _root: &Root) -> Result<(), Error> {
        unimplemented!()
    }
    /// Documents and bytes pushed so far.
    pub fn counts(&self) -> (u64, u64) {
        unimplemented!()
    }
    /// Writes what is left and names the tree.
    pub fn finish(self) -> Result<Root, Error> {
        unimplemented!()
    }
}

/// A change to one key of a keyed tree.
pub enum Edit {
    /// Insert or replace. The document's own key must be the edit's key.
    Put(RawDocumentBuf),
    /// Remove, if there.
    Delete,
    /// Compute the new document (or none) from the present one (or none).
    Merge(Merge),
}

/// What [`Edit::Merge`] computes.
pub type Merge = Box<
    dyn FnOnce(
            Option<&RawDocument>,
        ) -> Result<Option<RawDocumentBuf>, Box<dyn std::error::Error + Send + Sync>>
        + Send,
>;

/// Applies edits, in strictly ascending key order, in one sweep: reads and writes only nodes on the
/// way to a changed key. The result is what a bulk build of the final content gives.
pub fn edit(
    _blocks: &dyn BlockWrite,
    _shape: &Shape,
    _root: &Root,
    _edits: &mut dyn Iterator<Item = Result<(Key, Edit), Error>>,
) -> Result<Root, Error> {
    unimplemented!()
}

/// What to do with one document of a positional tree.
pub enum Verdict {
    /// Leave it.
    Keep,
    /// Put another in its place.
    Replace(RawDocumentBuf),
    /// Remove it.
    Remove,
    /// Leave it and every one after it, unread.
    KeepRest,
}

/// Walks a positional tree from its first document, edits as `judge` says, then appends.
pub fn edit_positional(
    _blocks: &dyn BlockWrite,
    _shape: &Shape,
    _root: &Root,
    _judge: &mut dyn FnMut(&RawDocument) -> Result<Verdict, Error>,
    _append: &mut dyn Iterator<Item = Result<RawDocumentBuf, Error>>,
) -> Result<Root, Error> {
    unimplemented!()
}

/// Removes the first `count` documents of a positional tree, reading only the path to the cut.
pub fn trim_front(
    _blocks: &dyn BlockWrite,
    _shape: &Shape,
    _root: &Root,
    _count: u64,
) -> Result<Root, Error> {
    unimplemented!()
}

/// Reads one document of a keyed tree.
pub fn get(
    _blocks: &dyn BlockRead,
    _root: &Root,
    _key: &Key,
) -> Result<Option<RawDocumentBuf>, Error> {
    unimplemented!()
}

/// A position in a tree, moving forward.
pub struct Cursor<'a> {
    _blocks: &'a dyn BlockRead,
}

impl<'a> Cursor<'a> {
    /// Before the first document.
    pub fn new(_blocks: &'a dyn BlockRead, _root: &Root) -> Self {
        unimplemented!()
    }
    /// Moves before the first document whose key is at or above `key`.
    pub fn seek(&mut self, _key: &Key) -> Result<(), Error> {
        unimplemented!()
    }
    /// Moves before the document with `rank` documents before it.
    pub fn seek_rank(&mut self, _rank: u64) -> Result<(), Error> {
        unimplemented!()
    }
    /// The next document.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<RawDocumentBuf>, Error> {
        unimplemented!()
    }
    /// The rest of the current leaf as one run of BSON documents (a large document alone, its parts
    /// joined), moving past it. For bulk restore.
    pub fn next_run(&mut self) -> Result<Option<bytes::Bytes>, Error> {
        unimplemented!()
    }
}

/// One difference between two trees.
#[derive(Debug, Clone, PartialEq)]
pub enum Difference {
    /// Only in the second.
    Added(RawDocumentBuf),
    /// Only in the first.
    Removed(RawDocumentBuf),
    /// In both, with other bytes: first, second.
    Changed(RawDocumentBuf, RawDocumentBuf),
}

/// Lists the differences of two keyed trees of one shape, in key order, reading only where they
/// differ. Stops early if `found` returns false.
pub fn diff(
    _a_blocks: &dyn BlockRead,
    _a: &Root,
    _b_blocks: &dyn BlockRead,
    _b: &Root,
    _found: &mut dyn FnMut(Key, Difference) -> Result<bool, Error>,
) -> Result<(), Error> {
    unimplemented!()
}

/// Checks a whole tree: node forms, key order, separators, counts, sizes, cut rule.
/// `visited` gets each block as it is checked, for progress.
pub fn verify(
    _blocks: &dyn BlockRead,
    _shape: &Shape,
    _root: &Root,
    _visited: &mut dyn FnMut(&BlockId),
) -> Result<(), Error> {
    unimplemented!()
}
