//! Walking the records of a segment from its start, by reading (never through a map).
//!
//! Recovery, readers of the active segment, fsck and compaction all see records through this one
//! walk. A record's header is believed only if its seeded checksum holds.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use super::fs::{File, FsError};
use super::identity::Identity;
use super::layout::{
    ALIGNMENT, Entry, RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES, Sealing, SegmentId,
    StoreUuid,
};
use crate::block::{self, Dictionary, StoredForm};

/// Bytes read at once: above the largest record, so that a record is at most two reads.
const WINDOW_BYTES: u64 = 2 << 20;

/// Bytes read at once near what could not be read.
const CAREFUL_BYTES: u64 = 4 << 10;

/// What a disk reads or fails to read as a whole, at least.
const SECTOR_BYTES: u64 = 512;

/// What stands at the scanner's place.
#[derive(Debug)]
pub(super) enum Step<'a> {
    /// A record whose header holds. The payload's checksum is not looked at yet.
    Record { offset: u64, header: RecordHeader, payload: &'a [u8] },
    /// The limit was reached exactly at the end of a record.
    End,
    /// No record: which check failed.
    Invalid { offset: u64, what: &'static str },
    /// What stands there cannot be read from the disk, of a record if its header can.
    Unreadable { offset: u64, header: Option<RecordHeader>, error: FsError },
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
    /// Where the last window ends that could not be read.
    careful_until: u64,
    /// The same of small ones: in there, no more is read than is needed.
    exact_until: u64,
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
        let next = SEGMENT_HEADER_BYTES;
        let (careful_until, exact_until) = (0, 0);
        Self { file, store, segment, next, limit, window, window_start, careful_until, exact_until }
    }

    /// Makes the bytes `from..from + len` available; they end at or before the limit.
    fn load(&mut self, from: u64, len: u64) -> Result<(), FsError> {
        let end = self.window_start + self.window.len() as u64;
        if from >= self.window_start && from + len <= end {
            return Ok(());
        }
        let window = match from {
            from if from < self.exact_until => len,
            from if from < self.careful_until => CAREFUL_BYTES,
            _ => WINDOW_BYTES,
        };
        let bytes = (self.limit - from).min(window.max(len));
        self.read(from, bytes).or_else(|error| {
            if bytes <= len {
                return Err(error);
            }
            let until = if window == WINDOW_BYTES {
                &mut self.careful_until
            } else {
                &mut self.exact_until
            };
            *until = from + bytes;
            // A sector that cannot be read costs what needs it, and nothing around it.
            self.load(from, len)
        })
    }

    fn read(&mut self, from: u64, bytes: u64) -> Result<(), FsError> {
        self.window.resize(bytes as usize, 0);
        self.window_start = from;
        let read = self.file.read_at(from, &mut self.window);
        if read.is_err() {
            self.window.clear();
        }
        read
    }

    fn header(&mut self, offset: u64) -> Result<Result<RecordHeader, &'static str>, FsError> {
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

    /// The next record. After any other step it says the same again, unless [`Scanner::resync`] found a later
    /// record.
    pub(super) fn step(&mut self) -> Step<'_> {
        let offset = self.next;
        if offset == self.limit {
            return Step::End;
        }
        let header = match self.header(offset) {
            Ok(Ok(header)) => header,
            Ok(Err(what)) => return Step::Invalid { offset, what },
            Err(error) => return Step::Unreadable { offset, header: None, error },
        };
        if let Err(error) = self.load(offset, header.span()) {
            return Step::Unreadable { offset, header: Some(header), error };
        }
        self.next = offset + header.span();
        let at = (offset - self.window_start) as usize + RECORD_HEADER_BYTES;
        let payload = &self.window[at..at + header.stored_len as usize];
        Step::Record { offset, header, payload }
    }

    /// Looks for the next valid record header behind the start of a record, and moves there.
    pub(super) fn resync_behind(&mut self, offset: u64) -> bool {
        self.next = offset;
        self.resync()
    }

    /// Looks for the next valid record header behind what is none or cannot be read, and moves there.
    pub(super) fn resync(&mut self) -> bool {
        let mut offset = self.next + ALIGNMENT;
        while offset + RECORD_HEADER_BYTES as u64 <= self.limit {
            match self.header(offset) {
                Ok(Ok(_)) => {
                    self.next = offset;
                    return true;
                }
                Ok(Err(_)) => offset += ALIGNMENT,
                // Of a header that two sectors hold, the first may be the bad one.
                Err(_) => offset = (offset / SECTOR_BYTES + 1) * SECTOR_BYTES,
            }
        }
        false
    }
}

/// The entry of a scanned record.
pub(super) const fn entry_of(segment: SegmentId, offset: u64, header: &RecordHeader) -> Entry {
    Entry { id: header.id, segment, offset, stored_len: header.stored_len, kind: header.kind }
}

/// Restores and checks the raw bytes of a record, which needs the dictionary that its header names; says which check
/// failed.
pub(super) fn open_payload(
    identity: &Identity,
    header: &RecordHeader,
    payload: &[u8],
    dictionary: Option<&Dictionary>,
) -> Result<Bytes, block::Error> {
    let damaged = |what| block::Error::Damaged { id: header.id, what };
    if header.form != dictionary.map_or(StoredForm::PLAIN, Dictionary::form) {
        return Err(damaged("the dictionary that it was compressed with cannot be had"));
    }
    let stored = unseal(identity, header, payload).map_err(damaged)?;
    let (kind, raw_len) = ([header.kind.to_byte()], header.raw_len as usize);
    let joined = block::decompress_behind(&kind, header.codec, &stored, raw_len, dictionary)
        .map_err(|_| damaged("the stored bytes do not decompress"))?;
    if identity.name_joined(&joined) != header.id {
        return Err(damaged("the content does not hash to its name"));
    }
    Ok(Bytes::from(joined).slice(kind.len()..))
}

/// The stored bytes of a record without their seal. An encrypted store has no record without one.
pub(super) fn unseal<'a>(
    identity: &Identity,
    header: &RecordHeader,
    payload: &'a [u8],
) -> Result<Cow<'a, [u8]>, &'static str> {
    match (&identity.keys, header.sealing) {
        (None, Sealing::None) => Ok(Cow::Borrowed(payload)),
        (Some(keys), Sealing::XChaCha20Poly1305) => keys.open(header, payload).map(Cow::Owned),
        (None, Sealing::XChaCha20Poly1305) => {
            Err("the record is sealed, and the store has no keys")
        }
        (Some(_), Sealing::None) => {
            Err("the record is not sealed, as every one of an encrypted store is")
        }
    }
}
