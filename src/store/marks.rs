//! Which records of which segments are live: two bits each, by its ordinal in its segment's table.
//!
//! A walk of what a commit reaches marks them, and so does, while a compaction runs, whoever puts a block
//! that is there already: the commit that is to name it is not made yet. Where the walk was is a bit of its own:
//! what somebody else keeps it must visit all the same, for what stands below. When a segment is about to be
//! copied it is closed: from then on a block without a mark counts as absent there, and is appended anew.

use std::collections::{BTreeMap, BTreeSet};

use super::layout::{ENTRY_BYTES, Entry, RECORD_HEADER_BYTES, SegmentId, Trailer, aligned};
use super::table::Table;
use super::{Error, Role, Shared, run};

/// The live records of one segment.
#[derive(Debug)]
pub(super) struct SegmentMarks {
    trailer: Option<Trailer>,
    /// The table, where there is no trailer that describes one.
    table: Option<Table>,
    walked: Vec<u64>,
    live: Vec<u64>,
    /// Blocks marked.
    pub(super) live_blocks: u64,
    /// Bytes of their records, headers and padding included.
    pub(super) live_bytes: u64,
    /// Bytes of the dictionaries in the segment and of their places in the footer.
    pub(super) dictionary_bytes: u64,
}

impl SegmentMarks {
    fn keep(&mut self, ordinal: u64, entry: &Entry) {
        if set(&mut self.live, ordinal) {
            self.live_blocks += 1;
            self.live_bytes += aligned(RECORD_HEADER_BYTES as u64 + u64::from(entry.stored_len));
        }
    }

    /// Whether the record of an ordinal is marked.
    pub(super) fn has(&self, ordinal: u64) -> bool {
        self.live[(ordinal / 64) as usize] & (1 << (ordinal % 64)) != 0
    }
}

/// Bytes of the dictionaries of a segment, their places in its footer included.
fn dictionary_bytes(trailer: Option<Trailer>, table: &Table) -> Result<u64, Error> {
    let record = |entry: &Entry| aligned(RECORD_HEADER_BYTES as u64 + u64::from(entry.stored_len));
    let found = run::dictionaries(trailer, table)?;
    Ok(found.iter().map(|entry| record(entry) + ENTRY_BYTES as u64).sum())
}

/// Sets a bit. False if it was set before.
fn set(bits: &mut [u64], ordinal: u64) -> bool {
    let (word, bit) = ((ordinal / 64) as usize, 1 << (ordinal % 64));
    let fresh = bits[word] & bit == 0;
    bits[word] |= bit;
    fresh
}

/// Tables of segments that are kept for the next look-ups, of a few megabytes each: a tree's blocks stand together.
const TABLES_MAX: usize = 4;

/// The live records of a store's segments.
#[derive(Debug, Default)]
pub(super) struct Marks {
    by_segment: BTreeMap<SegmentId, SegmentMarks>,
    closed: BTreeSet<SegmentId>,
    /// The last used last.
    tables: Vec<(SegmentId, Table)>,
}

impl Marks {
    /// Those of a segment; none if none was set.
    pub(super) fn of(&self, id: SegmentId) -> Option<&SegmentMarks> {
        self.by_segment.get(&id)
    }

    /// Marks a record that a walk has come to. False if it was there before.
    pub(super) fn walk_to(&mut self, shared: &Shared, entry: &Entry) -> Result<bool, Error> {
        let (ordinal, marks) = self.find(shared, entry)?;
        marks.keep(ordinal, entry);
        Ok(set(&mut marks.walked, ordinal))
    }

    /// The segments in which something lives and whose tables may lack what is damaged.
    pub(super) fn with_gaps(&self) -> BTreeSet<SegmentId> {
        let has_gaps = |marks: &SegmentMarks| marks.trailer.is_none_or(|trailer| trailer.has_gaps);
        let living = self.by_segment.iter().filter(|(_, marks)| marks.live_blocks > 0);
        living.filter(|(_, marks)| has_gaps(marks)).map(|(id, _)| *id).collect()
    }

    /// Sets no more marks in a segment.
    pub(super) fn close(&mut self, id: SegmentId) {
        self.closed.insert(id);
    }

    /// Keeps a record for somebody who found it instead of appending its block. False if it cannot be kept
    /// any more: the segment is closed and goes without it.
    pub(super) fn keep(&mut self, shared: &Shared, entry: &Entry) -> Result<bool, Error> {
        let is_closed = self.closed.contains(&entry.segment);
        let (ordinal, marks) = self.find(shared, entry)?;
        if !is_closed {
            marks.keep(ordinal, entry);
        }
        Ok(marks.has(ordinal))
    }

    /// The marks of an entry's segment, made if there are none, and its ordinal in them.
    fn find(&mut self, shared: &Shared, entry: &Entry) -> Result<(u64, &mut SegmentMarks), Error> {
        let ordinal = self.ordinal(shared, entry)?;
        let marks = self.by_segment.get_mut(&entry.segment);
        Ok((ordinal, marks.expect("ordinal() made the marks of the segment")))
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
            let (count, dictionary_bytes) = (table.count(), dictionary_bytes(trailer, &table)?);
            let marks = self.marks_of(entry.segment, trailer, count);
            marks.dictionary_bytes = dictionary_bytes;
            marks.table = trailer.is_none().then_some(table);
        }
        let known = &self.by_segment[&entry.segment];
        let kept = self.tables.iter().position(|(id, _)| *id == entry.segment);
        let found = match (&known.trailer, &known.table, kept) {
            (_, Some(table), _) => table.find(&entry.id, |other| other == entry)?,
            (_, _, Some(kept)) => {
                self.tables[kept..].rotate_left(1);
                let (_, table) = self.tables.last().expect("one was found");
                table.find(&entry.id, |other| other == entry)?
            }
            (Some(trailer), None, None) => {
                if self.tables.len() == TABLES_MAX {
                    self.tables.remove(0);
                }
                let table = segment.table(trailer);
                let found = table.find(&entry.id, |other| other == entry)?;
                self.tables.push((entry.segment, table));
                found
            }
            (None, None, None) => None,
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
            walked: vec![0; count.div_ceil(64) as usize],
            live: vec![0; count.div_ceil(64) as usize],
            live_blocks: 0,
            live_bytes: 0,
            dictionary_bytes: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::block::{BlockWrite as _, Kind};
    use crate::store::sync::Mutex;
    use crate::store::walk::Walk;
    use crate::store::{Options, Store};

    /// Somebody puts a node anew while a walk is still elsewhere: what stands below it is live all the same.
    #[test]
    fn a_walk_goes_on_below_what_somebody_keeps() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let store = Store::create(dir.path(), Options::default()).expect("create");
        let leaf = store.put(Kind::Leaf, b"a leaf").expect("put");
        let mut node = 1_u32.to_le_bytes().to_vec();
        node.extend_from_slice(leaf.as_bytes());
        let node = store.put(Kind::Node, &node).expect("put");
        let shared = &*store.shared;
        shared.settled_commit().expect("sealed");
        let marks = Mutex::new(Marks::default());
        let entry = shared.find(&node).expect("look up").expect("it is there");
        assert!(marks.lock().expect("marks").keep(shared, &entry).expect("keep"));
        let links = store.put(Kind::Links, &links_to(&node)).expect("put");
        shared.settled_commit().expect("sealed");
        let none = BTreeSet::new();
        let mut walk = Walk::new(shared, &none, &marks);
        walk.root("job", links, &mut |fault| panic!("{fault:?}"), &mut |_| Ok(())).expect("walk");
        let entry = shared.find(&leaf).expect("look up").expect("it is there");
        let live = marks.lock().expect("marks").of(entry.segment).expect("marks").live_blocks;
        assert_eq!(live, 2, "the node and its leaf");
    }

    fn links_to(id: &crate::block::BlockId) -> Vec<u8> {
        let mut document = bson::RawDocumentBuf::new();
        document.append(bson::raw::cstr!("node"), crate::block::link(id));
        document.into_bytes()
    }
}
