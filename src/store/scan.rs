//! Walking the records of a segment from its start, by reading (never through a map).
//!
//! Recovery, readers of the active segment, fsck and compaction all see records through this one
//! walk. A record's header is believed only if its seeded checksum holds.

use std::sync::Arc;

use super::Error;
use super::fs::File;
use super::layout::{
    ALIGNMENT, Entry, RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES, SegmentId, StoreUuid,
};
use crate::block::{self, BlockId, Dictionary, StoredForm};

/// Bytes read at once: above the largest record, so that a record is at most two reads.
const WINDOW_BYTES: u64 = 2 << 20;

/// What stands at the scanner's place.
#[derive(Debug)]
pub(super) enum Step<'a> {
    /// A record whose header holds. The payload's checksum is not looked at yet.
    Record { offset: u64, header: RecordHeader, payload: &'a [u8] },
    /// The limit was reached exactly at the end of a record.
    End,
    /// No record: which check failed.
    Invalid { offset: u64, what: &'static str },
}

/// A walk over the records of a segment.
pub(super) struct Scanner {
    file: Arc<dyn File>,
    store: StoreUuid,
    segment: SegmentId,
    next: u64,
    limit: u64,
    window: Vec<u8>,
    window_start: u64,
}

impl Scanner {
    /// Walks the records from the start of the segment to `limit`, in bytes, which the file has.
    pub(super) fn new(
        file: Arc<dyn File>,
        store: StoreUuid,
        segment: SegmentId,
        limit: u64,
    ) -> Self {
        let (window, window_start) = (Vec::new(), 0);
        Self { file, store, segment, next: SEGMENT_HEADER_BYTES, limit, window, window_start }
    }

    /// Makes the bytes `from..from + len` available; they end at or before the limit.
    fn load(&mut self, from: u64, len: u64) -> Result<(), Error> {
        let end = self.window_start + self.window.len() as u64;
        if from >= self.window_start && from + len <= end {
            return Ok(());
        }
        let bytes = (self.limit - from).min(WINDOW_BYTES.max(len));
        self.window.resize(bytes as usize, 0);
        self.window_start = from;
        Ok(self.file.read_at(from, &mut self.window)?)
    }

    fn header(&mut self, offset: u64) -> Result<Result<RecordHeader, &'static str>, Error> {
        if self.limit.saturating_sub(offset) < RECORD_HEADER_BYTES as u64 {
            return Ok(Err("a record header would not fit"));
        }
        self.load(offset, RECORD_HEADER_BYTES as u64)?;
        let at = (offset - self.window_start) as usize;
        let bytes = &self.window[at..at + RECORD_HEADER_BYTES];
        Ok(match RecordHeader::decode(bytes, &self.store, self.segment, offset) {
            Ok(header) if offset + header.span() > self.limit => {
                Err("the record would reach past the end")
            }
            other => other,
        })
    }

    /// The next record. After [`Step::End`] or [`Step::Invalid`] it says the same again, unless
    /// [`Scanner::resync`] found a later record.
    pub(super) fn step(&mut self) -> Result<Step<'_>, Error> {
        let offset = self.next;
        if offset == self.limit {
            return Ok(Step::End);
        }
        let header = match self.header(offset)? {
            Ok(header) => header,
            Err(what) => return Ok(Step::Invalid { offset, what }),
        };
        self.load(offset, header.span())?;
        self.next = offset + header.span();
        let at = (offset - self.window_start) as usize + RECORD_HEADER_BYTES;
        let payload = &self.window[at..at + header.stored_len as usize];
        Ok(Step::Record { offset, header, payload })
    }

    /// Looks for the next valid record header behind an invalid one and moves there.
    pub(super) fn resync(&mut self) -> Result<bool, Error> {
        let mut offset = self.next + ALIGNMENT;
        while offset + RECORD_HEADER_BYTES as u64 <= self.limit {
            if self.header(offset)?.is_ok() {
                self.next = offset;
                return Ok(true);
            }
            offset += ALIGNMENT;
        }
        Ok(false)
    }
}

/// The entry of a scanned record.
pub(super) const fn entry_of(segment: SegmentId, offset: u64, header: &RecordHeader) -> Entry {
    Entry { id: header.id, segment, offset, stored_len: header.stored_len, kind: header.kind }
}

/// Restores and checks the raw bytes of a record, which needs the dictionary that its header names; says which check
/// failed.
pub(super) fn open_payload(
    header: &RecordHeader,
    payload: &[u8],
    dictionary: Option<&Dictionary>,
) -> Result<Vec<u8>, block::Error> {
    let damaged = |what| block::Error::Damaged { id: header.id, what };
    if header.form != dictionary.map_or(StoredForm::PLAIN, Dictionary::form) {
        return Err(damaged("the dictionary that it was compressed with cannot be had"));
    }
    let raw = block::decompress(header.codec, payload, header.raw_len as usize, dictionary)
        .map_err(|_| damaged("the stored bytes do not decompress"))?;
    if BlockId::of(header.kind, &raw) != header.id {
        return Err(damaged("the content does not hash to its name"));
    }
    Ok(raw)
}
