//! Writing segments.
//!
//! Owns the segment being filled (the *active* one) and those full but not yet sealed. Order of
//! writes of a segment: create, allocate, header, fsync, directory fsync; records in order, each
//! only where space was allocated before, with room for the footer always kept back; at the end
//! fsync, footer, cut to length, fsync. A crash leaves a prefix of the records (anything behind the
//! last fsync may be torn, which the seeded checksums show) and no valid footer, or a whole sealed
//! segment: the first fsync of a seal makes the records durable before a footer can exist.

use std::collections::HashMap;
use std::collections::hash_map::Entry as MapEntry;
use std::path::Path;
use std::sync::Arc;

use super::Error;
use super::fs::{Disk, File, FsError};
use super::identity::Identity;
use super::layout::{
    ENTRY_BYTES, Entry, RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES, SegmentId,
    Trailer, encode_segment_header,
};
use super::scan::entry_of;
use crate::block::{BlockId, Dictionary, Kind, StoredForm};

/// Bytes of records gathered before they are written: enough to make writes few, little to lose
/// from the processor's cache.
const BUFFER_BYTES: usize = 256 << 10;
/// Space is reserved in steps of this, so that small stores stay small and a full disk shows early.
pub(super) const ALLOCATE_STEP_BYTES: u64 = 8 << 20;

/// A dictionary is put into a segment when blocks of so many times its bytes would have used it there.
const WORTH_TIMES: usize = 8;

/// Where and how segments are written.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) identity: Identity,
    pub(super) segment_bytes: u64,
    pub(super) durable: bool,
}

/// A segment that takes records.
#[derive(Debug)]
pub(super) struct Active {
    target: Target,
    pub(super) id: SegmentId,
    file: Arc<dyn File>,
    capacity: u64,
    allocated: u64,
    /// Where the buffer starts in the file; everything before is written.
    written: u64,
    buffer: Vec<u8>,
    raw_bytes: u64,
    entries: HashMap<BlockId, Entry>,
    dictionaries: HashMap<StoredForm, Presence>,
}

/// Whether a dictionary stands in a segment.
#[derive(Debug)]
enum Presence {
    Here(BlockId),
    /// So many raw bytes were appended that would have used it.
    MissedBy(usize),
}

impl Active {
    /// Starts a segment that has room for at least one record of `first_span` bytes.
    pub(super) fn create(
        target: &Target,
        directory: &Path,
        id: SegmentId,
        first_span: u64,
    ) -> Result<Self, Error> {
        let least = SEGMENT_HEADER_BYTES + first_span + Trailer::footer_bytes(2);
        let capacity = target.segment_bytes.max(least);
        let allocated = ALLOCATE_STEP_BYTES.max(least).min(capacity);
        let path = directory.join(id.file_name());
        let file = target.disk.create(&path)?;
        let started: Result<(), FsError> = (|| {
            file.allocate(allocated)?;
            file.write_at(0, &encode_segment_header(&target.identity, id))?;
            if target.durable {
                file.sync()?;
                target.disk.sync_dir(directory)?;
            }
            Ok(())
        })();
        if let Err(error) = started {
            let removed = target.disk.remove(&path);
            if let Err(leftover) = removed {
                tracing::warn!(%leftover, "a segment that could not be started stays behind");
            }
            return Err(Error::from(error));
        }
        let written = SEGMENT_HEADER_BYTES;
        Ok(Self {
            target: target.clone(),
            id,
            file,
            capacity,
            allocated,
            written,
            buffer: Vec::with_capacity(BUFFER_BYTES),
            raw_bytes: 0,
            entries: HashMap::new(),
            dictionaries: HashMap::new(),
        })
    }

    /// Where the next record goes.
    pub(super) fn end(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Bytes reserved on the disk.
    pub(super) fn allocated(&self) -> u64 {
        self.allocated
    }

    pub(super) fn count(&self) -> u64 {
        self.entries.len() as u64
    }

    pub(super) fn entry(&self, id: &BlockId) -> Option<Entry> {
        self.entries.get(id).copied()
    }

    fn needed_for(&self, span: u64) -> u64 {
        self.end() + span + Trailer::footer_bytes(self.count() + 1)
    }

    /// Whether a record of that many bytes, or two that have as many together, and the footer then needed still fit.
    pub(super) fn fits(&self, span: u64) -> bool {
        self.needed_for(span) + ENTRY_BYTES as u64 <= self.capacity
    }

    /// A dictionary that stands here.
    pub(super) fn dictionary(&self, form: StoredForm) -> Option<BlockId> {
        match self.dictionaries.get(&form)? {
            Presence::Here(id) => Some(*id),
            Presence::MissedBy(_) => None,
        }
    }

    /// Whether a block of so many bytes is to be compressed with a dictionary: it stands here, or so much has missed it, or is
    /// known to come, this one included, that it is worth its place.
    pub(super) fn may_use(
        &mut self,
        dictionary: &Dictionary,
        raw_bytes: usize,
        ahead_bytes: usize,
    ) -> bool {
        let presence = self.dictionaries.entry(dictionary.form());
        match presence.or_insert(Presence::MissedBy(0)) {
            Presence::Here(id) => *id == dictionary.id(),
            Presence::MissedBy(bytes) => {
                let users_bytes = bytes.saturating_add(ahead_bytes.max(raw_bytes));
                *bytes = bytes.saturating_add(raw_bytes);
                is_worth(dictionary, users_bytes)
            }
        }
    }

    /// Appends a record that [`Active::fits`], unless the block is here already. Returns the bytes
    /// added. On an error of allocation nothing changed.
    pub(super) fn append(&mut self, header: &RecordHeader, payload: &[u8]) -> Result<u64, Error> {
        let (span, offset) = (header.span(), self.end());
        let needed = self.needed_for(span);
        if needed > self.allocated {
            let step = (self.allocated + ALLOCATE_STEP_BYTES).max(needed).min(self.capacity);
            self.file.allocate(step)?;
            self.allocated = step;
        }
        let MapEntry::Vacant(place) = self.entries.entry(header.id) else { return Ok(0) };
        let bytes = header.encode(&self.target.identity.uuid, self.id, offset);
        self.buffer.extend_from_slice(&bytes);
        self.buffer.extend_from_slice(payload);
        let padding = span as usize - RECORD_HEADER_BYTES - payload.len();
        self.buffer.extend_from_slice(&[0; 8][..padding]);
        self.raw_bytes += u64::from(header.raw_len);
        place.insert(entry_of(self.id, offset, header));
        if header.kind == Kind::Dictionary {
            self.dictionaries.insert(StoredForm::with(&header.id), Presence::Here(header.id));
        }
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush()?;
        }
        Ok(span)
    }

    /// Writes what is buffered.
    pub(super) fn flush(&mut self) -> Result<(), Error> {
        if !self.buffer.is_empty() {
            self.file.write_at(self.written, &self.buffer)?;
            self.written += self.buffer.len() as u64;
            self.buffer.clear();
        }
        Ok(())
    }

    /// The file, for a reader of a record that is written, or for a sync outside of locks.
    pub(super) fn file(&self) -> Arc<dyn File> {
        Arc::clone(&self.file)
    }

    /// The bytes of a record that is still in the buffer.
    pub(super) fn buffered(&self, entry: &Entry) -> Option<&[u8]> {
        let from = usize::try_from(entry.offset.checked_sub(self.written)?).ok()?;
        self.buffer.get(from..from + RECORD_HEADER_BYTES + entry.stored_len as usize)
    }

    /// Seals a segment that is flushed. Returns its length in bytes.
    pub(super) fn seal(&self) -> Result<u64, Error> {
        let mut entries: Vec<Entry> = self.entries.values().copied().collect();
        let sums = (self.raw_bytes, false);
        seal_file(&self.target, &*self.file, self.id, self.end(), sums, &mut entries)
    }
}

/// Whether a dictionary is worth its place in a segment, for so many raw bytes of blocks that use it there.
pub(super) fn is_worth(dictionary: &Dictionary, users_bytes: usize) -> bool {
    users_bytes / WORTH_TIMES >= dictionary.raw().len()
}

/// Makes records durable, then writes the footer behind them (with their raw bytes, and whether there are damaged ones between
/// them), cuts the file there and makes that durable. Returns the length.
pub(super) fn seal_file(
    target: &Target,
    file: &dyn File,
    id: SegmentId,
    data_end: u64,
    sums: (u64, bool),
    entries: &mut [Entry],
) -> Result<u64, Error> {
    entries.sort_unstable_by_key(|entry| entry.id);
    let footer = Trailer::encode_footer(&target.identity.uuid, id, data_end, sums, entries);
    if target.durable {
        file.sync()?;
    }
    let size = data_end + footer.len() as u64;
    file.write_at(data_end, &footer)?;
    file.set_size(size)?;
    if target.durable {
        file.sync()?;
    }
    Ok(size)
}
