//! Oplog slices: chained runs of entries for storage. The format is `format-spec/05-slices.md`.
//!
//! A slice is a header and a byte stream, the entries one after the other as the source wrote them.
//! Invariants, checked when a slice is built and again when it is read: timestamps rise strictly,
//! terms never fall, the first entry lies above `prev`, and `prev` is the last optime of the slice
//! before. Timestamps are not contiguous, so a gap between slices shows only by that chain.

use std::collections::BTreeSet;

use bson::raw::{RawArrayBuf, RawBsonRef, cstr};
use bson::{DateTime, RawDocument, RawDocumentBuf, Timestamp, rawdoc};

use super::fields::integer;
use super::kinds::{self, MAX_KINDS};
use super::{Error, OpTime, Position, SliceError, Ts, position};
use crate::block::stream::STREAM_BLOCK_BYTES;
use crate::block::{BlockId, link, linked};

/// The largest entry: a document of 16 MiB and its surroundings.
pub const MAX_ENTRY_BYTES: usize = (16 << 20) + (64 << 10);
/// The largest slice, in raw bytes, so that one can be held in memory and its document stays small.
pub const MAX_SLICE_BYTES: usize = 64 << 20;
/// Version of the slice's document.
const FORMAT: i32 = 1;
/// The smallest BSON document, in bytes.
const MIN_DOCUMENT_BYTES: usize = 5;

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
    /// Kinds of operation seen, inner ones included: see [`super::known::lookup_kind`].
    pub kinds: BTreeSet<String>,
}

/// A slice as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// What is known of it without reading its entries.
    pub header: SliceHeader,
    /// The [`crate::block::stream`] blocks of its entries, in order.
    pub pieces: Vec<BlockId>,
}

impl SliceHeader {
    /// The slice's document in a tree of links: `_id` is the first timestamp, `pieces` the
    /// [`crate::block::stream`] blocks of the entries.
    #[must_use]
    pub fn to_document(&self, pieces: &[BlockId]) -> RawDocumentBuf {
        let kinds: RawArrayBuf = self.kinds.iter().map(String::as_str).collect();
        let blocks: RawArrayBuf = pieces.iter().map(link).collect();
        rawdoc! {
            "_id": Timestamp::from(self.first.optime.ts),
            "format": FORMAT,
            "prev": optime_document(self.prev),
            "first": position_document(self.first),
            "last": position_document(self.last),
            "entries": as_long(self.entries),
            "bytes": as_long(self.raw_bytes),
            "kinds": kinds,
            "blocks": blocks,
        }
    }

    /// Reads what [`SliceHeader::to_document`] wrote.
    ///
    /// # Errors
    /// [`SliceError::Document`].
    pub fn from_document(document: &RawDocument) -> Result<(Self, Vec<BlockId>), Error> {
        let reader = DocumentReader { document };
        if reader.value("format")?.as_i32() != Some(FORMAT) {
            return Err(wrong("format"));
        }
        let header = Self {
            prev: reader.optime("prev")?,
            first: reader.position("first")?,
            last: reader.position("last")?,
            entries: reader.count("entries")?,
            raw_bytes: reader.count("bytes")?,
            kinds: reader.kinds()?,
        };
        let ordered = header.prev.ts < header.first.optime.ts
            && header.first.optime.ts <= header.last.optime.ts
            && header.prev.term <= header.first.optime.term
            && header.first.optime.term <= header.last.optime.term;
        if !ordered {
            return Err(wrong("last"));
        }
        if reader.value("_id")?.as_timestamp().map(Ts::from) != Some(header.first.optime.ts) {
            return Err(wrong("_id"));
        }
        if header.entries == 0 {
            return Err(wrong("entries"));
        }
        if header.raw_bytes > MAX_SLICE_BYTES as u64 {
            return Err(wrong("bytes"));
        }
        let blocks = reader.blocks()?;
        if blocks.len() as u64 != header.raw_bytes.div_ceil(STREAM_BLOCK_BYTES as u64) {
            return Err(wrong("blocks"));
        }
        Ok((header, blocks))
    }

    /// Checks that this slice goes on where `last`, the end of the one before, is.
    ///
    /// # Errors
    /// [`SliceError::Gap`].
    pub fn follows(&self, last: OpTime) -> Result<(), Error> {
        if self.prev == last {
            return Ok(());
        }
        Err(SliceError::Gap { last, prev: self.prev }.into())
    }
}

/// Counts are bounded by [`MAX_SLICE_BYTES`].
fn as_long(count: u64) -> i64 {
    i64::try_from(count).expect("bounded by MAX_SLICE_BYTES")
}

fn optime_document(optime: OpTime) -> RawDocumentBuf {
    rawdoc! { "ts": Timestamp::from(optime.ts), "t": optime.term }
}

fn position_document(position: Position) -> RawDocumentBuf {
    let mut document = optime_document(position.optime);
    document.append(cstr!("wall"), DateTime::from_millis(position.wall_ms));
    document
}

fn wrong(field: &'static str) -> Error {
    SliceError::Document { field }.into()
}

/// Reads fields of a slice's document.
struct DocumentReader<'a> {
    document: &'a RawDocument,
}

impl<'a> DocumentReader<'a> {
    fn value(&self, field: &'static str) -> Result<RawBsonRef<'a>, Error> {
        self.document.get(field).ok().flatten().ok_or_else(|| wrong(field))
    }

    fn inner(&self, field: &'static str) -> Result<&'a RawDocument, Error> {
        self.value(field)?.as_document().ok_or_else(|| wrong(field))
    }

    fn optime(&self, field: &'static str) -> Result<OpTime, Error> {
        let inner = self.inner(field)?;
        let ts = inner.get_timestamp("ts").map_err(|_| wrong(field))?;
        let term = inner.get_i64("t").map_err(|_| wrong(field))?;
        Ok(OpTime { ts: ts.into(), term })
    }

    fn position(&self, field: &'static str) -> Result<Position, Error> {
        let wall = self.inner(field)?.get_datetime("wall").map_err(|_| wrong(field))?;
        Ok(Position { optime: self.optime(field)?, wall_ms: wall.timestamp_millis() })
    }

    fn count(&self, field: &'static str) -> Result<u64, Error> {
        let count = integer(self.value(field)?).and_then(|count| u64::try_from(count).ok());
        count.ok_or_else(|| wrong(field))
    }

    fn kinds(&self) -> Result<BTreeSet<String>, Error> {
        let array = self.value("kinds")?.as_array().ok_or_else(|| wrong("kinds"))?;
        let mut kinds = BTreeSet::new();
        for value in array {
            let kind = value.ok().and_then(RawBsonRef::as_str).ok_or_else(|| wrong("kinds"))?;
            if kinds.len() >= MAX_KINDS {
                return Err(SliceError::TooManyKinds { limit: MAX_KINDS }.into());
            }
            kinds.insert(kind.to_owned());
        }
        Ok(kinds)
    }

    fn blocks(&self) -> Result<Vec<BlockId>, Error> {
        let array = self.value("blocks")?.as_array().ok_or_else(|| wrong("blocks"))?;
        array
            .into_iter()
            .map(|value| value.ok().and_then(linked).ok_or_else(|| wrong("blocks")))
            .collect()
    }
}

/// Follows a run of entries: one rule for building and for checking.
#[derive(Debug, Clone)]
struct Run {
    prev: OpTime,
    ends: Option<(Position, Position)>,
    entries: u64,
    len_bytes: usize,
    kinds: BTreeSet<String>,
}

impl Run {
    fn new(prev: OpTime) -> Self {
        Self { prev, ends: None, entries: 0, len_bytes: 0, kinds: BTreeSet::new() }
    }

    fn last(&self) -> OpTime {
        self.ends.map_or(self.prev, |(_, last)| last.optime)
    }

    fn push(&mut self, entry: &RawDocument) -> Result<Position, Error> {
        let len_bytes = entry.as_bytes().len();
        if len_bytes > MAX_ENTRY_BYTES {
            return Err(
                SliceError::EntryTooLarge { len_bytes, limit_bytes: MAX_ENTRY_BYTES }.into()
            );
        }
        if self.len_bytes + len_bytes > MAX_SLICE_BYTES {
            return Err(SliceError::Full { limit_bytes: MAX_SLICE_BYTES }.into());
        }
        let position = position(entry)?;
        let (last, next) = (self.last(), position.optime);
        if next.ts <= last.ts || next.term < last.term {
            return Err(SliceError::Order { last, next }.into());
        }
        kinds::collect(entry, &mut self.kinds)?;
        self.ends = Some((self.ends.map_or(position, |(first, _)| first), position));
        self.entries += 1;
        self.len_bytes += len_bytes;
        Ok(position)
    }

    fn finish(self) -> Result<SliceHeader, SliceError> {
        let (first, last) = self.ends.ok_or(SliceError::Empty)?;
        Ok(SliceHeader {
            prev: self.prev,
            first,
            last,
            entries: self.entries,
            raw_bytes: self.len_bytes as u64,
            kinds: self.kinds,
        })
    }
}

/// Collects entries into a slice.
#[derive(Debug, Clone)]
pub struct SliceBuilder {
    run: Run,
    bytes: Vec<u8>,
}

impl SliceBuilder {
    /// A slice that goes on after `prev`.
    #[must_use]
    pub fn new(prev: OpTime) -> Self {
        Self { run: Run::new(prev), bytes: Vec::new() }
    }

    /// Appends the next entry.
    ///
    /// # Errors
    /// [`SliceError`] `Order`, `EntryTooLarge`, `Full`, `TooManyKinds`; those of
    /// [`super::position`]. The entry is not in the slice then.
    pub fn push(&mut self, entry: &RawDocument) -> Result<Position, Error> {
        let position = self.run.push(entry)?;
        self.bytes.extend_from_slice(entry.as_bytes());
        Ok(position)
    }

    /// Raw bytes so far.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is no entry yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Optime of the last entry, or `prev`.
    #[must_use]
    pub fn last(&self) -> OpTime {
        self.run.last()
    }

    /// The header and the byte stream.
    ///
    /// # Errors
    /// [`SliceError::Empty`].
    pub fn finish(self) -> Result<(SliceHeader, Vec<u8>), Error> {
        Ok((self.run.finish()?, self.bytes))
    }
}

/// The entries of a slice's byte stream, in order, not checked against a header.
#[must_use]
pub fn entries(bytes: &[u8]) -> Entries<'_> {
    Entries { bytes, offset: 0 }
}

/// Iterator of [`entries`].
#[derive(Debug, Clone)]
pub struct Entries<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Entries<'a> {
    fn entry(&self) -> Option<&'a RawDocument> {
        let rest = &self.bytes[self.offset..];
        let len = u32::from_le_bytes(*rest.first_chunk::<4>()?) as usize;
        if !(MIN_DOCUMENT_BYTES..=MAX_ENTRY_BYTES).contains(&len) {
            return None;
        }
        RawDocument::from_bytes(rest.get(..len)?).ok()
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<&'a RawDocument, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.offset == self.bytes.len() {
            return None;
        }
        let Some(entry) = self.entry() else {
            let error = SliceError::Malformed { offset: self.offset };
            self.offset = self.bytes.len();
            return Some(Err(error.into()));
        };
        self.offset += entry.as_bytes().len();
        Some(Ok(entry))
    }
}

/// Checks a byte stream against its header: order, ends, counts, kinds.
///
/// # Errors
/// [`SliceError`].
pub fn check(header: &SliceHeader, bytes: &[u8]) -> Result<(), Error> {
    let mut run = Run::new(header.prev);
    for entry in entries(bytes) {
        run.push(entry?)?;
    }
    let found = run.finish()?;
    let differs = [
        ("first", found.first != header.first),
        ("last", found.last != header.last),
        ("entries", found.entries != header.entries),
        ("bytes", found.raw_bytes != header.raw_bytes),
        ("kinds", found.kinds != header.kinds),
    ];
    match differs.into_iter().find(|(_, differs)| *differs) {
        None => Ok(()),
        Some((what, _)) => Err(SliceError::Mismatch { first: header.first.optime.ts, what }.into()),
    }
}

#[cfg(test)]
mod tests;
