//! Oplog slices: chained runs of entries for storage. The format is `format-spec/05-slices.md`.

use std::collections::BTreeSet;

use bson::{RawDocument, RawDocumentBuf};

use super::{Error, OpTime, Position};
use crate::block::BlockId;

/// The largest entry: a document of 16 MiB and its surroundings.
pub const MAX_ENTRY_BYTES: usize = (16 << 20) + (64 << 10);
/// The largest slice, in raw bytes, so that one can be held in memory and its document stays small.
pub const MAX_SLICE_BYTES: usize = 64 << 20;

/// What is known of a slice without reading its entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceHeader {
    /// Optime of the entry before the first.
    pub prev: OpTime,
    /// The first entry.
    pub first: Position,
    /// The last entry.
    pub last: Position,
    /// Number of entries.
    pub entries: u64,
    /// Sum of their lengths, in bytes.
    pub raw_bytes: u64,
    /// Kinds of operation seen, inner ones included.
    pub kinds: BTreeSet<String>,
}

impl SliceHeader {
    /// The slice's document in a tree of links: `_id` is the first timestamp, `pieces` the
    /// [`crate::block::stream`] blocks of the entries.
    #[must_use]
    pub fn to_document(&self, _pieces: &[BlockId]) -> RawDocumentBuf {
        unimplemented!()
    }

    /// Reads what [`SliceHeader::to_document`] wrote.
    ///
    /// # Errors
    /// [`super::SliceError::Document`].
    pub fn from_document(_document: &RawDocument) -> Result<(Self, Vec<BlockId>), Error> {
        unimplemented!()
    }

    /// Checks that this slice goes on where `last`, the end of the one before, is.
    ///
    /// # Errors
    /// [`super::SliceError::Gap`].
    pub fn follows(&self, _last: OpTime) -> Result<(), Error> {
        unimplemented!()
    }
}

/// Collects entries into a slice.
pub struct SliceBuilder {
    _todo: (),
}

impl SliceBuilder {
    /// A slice that goes on after `prev`.
    #[must_use]
    pub fn new(_prev: OpTime) -> Self {
        unimplemented!()
    }

    /// Appends the next entry.
    ///
    /// # Errors
    /// [`super::SliceError`] `Order`, `EntryTooLarge`, `Full`; those of [`super::position`].
    pub fn push(&mut self, _entry: &RawDocument) -> Result<Position, Error> {
        unimplemented!()
    }

    /// Raw bytes so far.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        unimplemented!()
    }

    /// Whether there is no entry yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        unimplemented!()
    }

    /// Optime of the last entry, or `prev`.
    #[must_use]
    pub fn last(&self) -> OpTime {
        unimplemented!()
    }

    /// The header and the byte stream.
    ///
    /// # Errors
    /// [`super::SliceError::Empty`].
    pub fn finish(self) -> Result<(SliceHeader, Vec<u8>), Error> {
        unimplemented!()
    }
}

/// The entries of a slice's byte stream, in order, not checked against a header.
pub fn entries(_bytes: &[u8]) -> impl Iterator<Item = Result<&RawDocument, Error>> {
    std::iter::empty()
}

/// Checks a byte stream against its header: order, ends, counts.
///
/// # Errors
/// [`super::SliceError`].
pub fn check(_header: &SliceHeader, _bytes: &[u8]) -> Result<(), Error> {
    unimplemented!()
}
