//! Which records of which segments are live: a bit each, by its ordinal in its segment's table.
//!
//! A walk of what a commit reaches sets them, and so does, while a compaction runs, whoever puts a block
//! that is there already: the commit that is to name it is not made yet. When a segment is about to be
//! copied it is closed: from then on a block without a mark counts as absent there, and is appended anew.

use std::collections::{BTreeMap, BTreeSet};

use super::layout::{Entry, RECORD_HEADER_BYTES, SegmentId, Trailer, aligned};
use super::table::Table;
use super::{Error, Role, Shared};

/// The live records of one segment.
#[derive(Debug)]
pub(super) struct SegmentMarks {
    trailer: Option<Trailer>,
    /// The table, where there is no trailer that describes one.
    table: Option<Table>,
    bits: Vec<u64>,
    /// Blocks marked.
    pub(super) live_blocks: u64,
    /// Bytes of their records, headers and padding included.
    pub(super) live_bytes: u64,
}

impl SegmentMarks {
    fn set(&mut self, ordinal: u64, entry: &Entry) -> bool {
        let (word, bit) = ((ordinal / 64) as usize, 1 << (ordinal % 64));
        let fresh = self.bits[word] & bit == 0;
        if fresh {
            self.bits[word] |= bit;
            self.live_blocks += 1;
            self.live_bytes += aligned(RECORD_HEADER_BYTES as u64 + u64::from(entry.stored_len));
        }
        fresh
    }

    /// Whether the record of an ordinal is marked.
    pub(super) fn has(&self, ordinal: u64) -> bool {
        self.bits[(ordinal / 64) as usize] & (1 << (ordinal % 64)) != 0
    }
}

/// The live records of a store's segments.
#[derive(Debug, Default)]
pub(super) struct Marks {
    by_segment: BTreeMap<SegmentId, SegmentMarks>,
    closed: BTreeSet<SegmentId>,
}

impl Marks {
    /// Those of a segment; none if none was set.
    pub(super) fn of(&self, id: SegmentId) -> Option<&SegmentMarks> {
        self.by_segment.get(&id)
    }

    /// Marks a record. False if it was marked before.
    pub(super) fn mark(&mut self, shared: &Shared, entry: &Entry) -> Result<bool, Error> {
        let ordinal = self.ordinal(shared, entry)?;
        let marks = self.by_segment.get_mut(&entry.segment);
        Ok(marks.expect("ordinal() made the marks of the segment").set(ordinal, entry))
    }

    /// Sets no more marks in a segment.
    pub(super) fn close(&mut self, id: SegmentId) {
        self.closed.insert(id);
    }

    /// Keeps a record for somebody who found it instead of appending its block. False if it cannot be kept
    /// any more: the segment is closed and goes without it.
    pub(super) fn keep(&mut self, shared: &Shared, entry: &Entry) -> Result<bool, Error> {
        if !self.closed.contains(&entry.segment) {
            return self.mark(shared, entry).map(|_| true);
        }
        let ordinal = self.ordinal(shared, entry)?;
        Ok(self.of(entry.segment).is_some_and(|marks| marks.has(ordinal)))
    }

    /// The ordinal of an entry in its segment's table; makes the marks of the segment.
    fn ordinal(&mut self, shared: &Shared, entry: &Entry) -> Result<u64, Error> {
        if let Role::Reader(reader) = &shared.role
            && let Some((segment, table)) = &reader.active
            && segment.id == entry.segment
        {
            self.marks_of(entry.segment, None, table.count());
            return table.lower_bound(&entry.id);
        }
        let segment = shared.segments.sealed(entry.segment)?;
        if !self.by_segment.contains_key(&entry.segment) {
            let (trailer, table) = segment.entries()?;
            let count = table.count();
            self.marks_of(entry.segment, trailer, count).table = trailer.is_none().then_some(table);
        }
        let known = &self.by_segment[&entry.segment];
        let found = match (&known.trailer, &known.table) {
            (Some(trailer), _) => segment.table(trailer).find(&entry.id, |other| other == entry)?,
            (None, Some(table)) => table.find(&entry.id, |other| other == entry)?,
            (None, None) => None,
        };
        found.map(|(ordinal, _)| ordinal).ok_or_else(|| Error::Damaged {
            path: shared.segments.path(entry.segment),
            offset: entry.offset,
            what: "an index run names a record that the segment does not have",
        })
    }

    fn marks_of(
        &mut self,
        id: SegmentId,
        trailer: Option<Trailer>,
        count: u64,
    ) -> &mut SegmentMarks {
        self.by_segment.entry(id).or_insert_with(|| SegmentMarks {
            trailer,
            table: None,
            bits: vec![0; count.div_ceil(64) as usize],
            live_blocks: 0,
            live_bytes: 0,
        })
    }
}
