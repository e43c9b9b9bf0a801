//! Walking everything that roots reach.
//!
//! What was visited is one bit per record, by its ordinal in its segment's footer, so that memory is a
//! bit per block of the store and not an id. Blocks that name nothing (leaves, parts, streams) are marked without
//! being read. The walk keeps its path on a stack of its own: a chain of any length is safe.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::index::Probes;
use super::layout::{Entry, RECORD_HEADER_BYTES, SegmentId, Trailer, aligned};
use super::table::Table;
use super::{Error, Role, Shared};
use crate::block::{self, Block, BlockId, Kind};

/// The blocks found reachable in one segment.
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

/// Why a block that something names cannot be had.
#[derive(Debug)]
pub(super) enum Why {
    Missing,
    Unreadable(block::Error),
    Malformed(block::Error),
    WrongKind(Kind),
}

/// A block that something names and that cannot be had.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) id: BlockId,
    /// The block that names it; a root's name if a commit does.
    pub(super) parent: Result<BlockId, String>,
    pub(super) place: Option<(SegmentId, u64)>,
    pub(super) why: Why,
}

/// A walk of a store as it is when it starts.
pub(super) struct Walk<'a> {
    shared: &'a Shared,
    probes: Arc<Probes>,
    /// Places of records known to be damaged.
    damaged: &'a BTreeSet<(SegmentId, u64)>,
    /// What was reached.
    pub(super) marks: BTreeMap<SegmentId, SegmentMarks>,
    /// Blocks that are faulty or name, directly or not, a faulty one.
    pub(super) tainted: BTreeSet<BlockId>,
    /// Blocks visited.
    pub(super) visited: u64,
}

struct Frame {
    id: BlockId,
    children: std::vec::IntoIter<BlockId>,
    tainted: bool,
}

/// What a visit of one block came to.
enum Visit {
    Fine,
    Tainted,
    Enter(Vec<BlockId>),
}

impl<'a> Walk<'a> {
    pub(super) fn new(shared: &'a Shared, damaged: &'a BTreeSet<(SegmentId, u64)>) -> Self {
        let (marks, tainted) = (BTreeMap::new(), BTreeSet::new());
        Self { shared, probes: shared.index.probes(), damaged, marks, tainted, visited: 0 }
    }

    /// Where a block is, leaving out the segment that a writer is filling.
    pub(super) fn find(&self, id: &BlockId) -> Result<Option<Entry>, Error> {
        if let Role::Reader(reader) = &self.shared.role
            && let Some((_, table)) = &reader.active
            && let Some((_, entry)) = table.find(id, |_| true)?
        {
            return Ok(Some(entry));
        }
        self.probes.find(id)
    }

    /// The ordinal of an entry in its segment's table; makes the marks of the segment.
    fn ordinal(&mut self, entry: &Entry) -> Result<u64, Error> {
        if let Role::Reader(reader) = &self.shared.role
            && let Some((segment, table)) = &reader.active
            && segment.id == entry.segment
        {
            self.marks_of(entry.segment, None, table.count());
            return table.lower_bound(&entry.id);
        }
        let segment = self.shared.segments.sealed(entry.segment)?;
        if !self.marks.contains_key(&entry.segment) {
            let (trailer, table) = segment.entries()?;
            let count = table.count();
            self.marks_of(entry.segment, trailer, count).table = trailer.is_none().then_some(table);
        }
        let known = &self.marks[&entry.segment];
        let found = match (&known.trailer, &known.table) {
            (Some(trailer), _) => segment.table(trailer).find(&entry.id, |other| other == entry)?,
            (None, Some(table)) => table.find(&entry.id, |other| other == entry)?,
            (None, None) => None,
        };
        found.map(|(ordinal, _)| ordinal).ok_or_else(|| Error::Damaged {
            path: self.shared.segments.path(entry.segment),
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
        self.marks.entry(id).or_insert_with(|| SegmentMarks {
            trailer,
            table: None,
            bits: vec![0; count.div_ceil(64) as usize],
            live_blocks: 0,
            live_bytes: 0,
        })
    }

    fn mark(&mut self, entry: &Entry) -> Result<bool, Error> {
        let ordinal = self.ordinal(entry)?;
        let marks = self.marks.get_mut(&entry.segment);
        Ok(marks.expect("ordinal() made the marks of the segment").set(ordinal, entry))
    }

    fn read(&self, entry: &Entry) -> Result<Block, Error> {
        match &self.shared.role {
            Role::Reader(reader) => match &reader.active {
                Some((segment, _)) if segment.id == entry.segment => segment.read(entry),
                _ => self.shared.segments.sealed(entry.segment)?.read(entry),
            },
            Role::Writer(_) => self.shared.segments.sealed(entry.segment)?.read(entry),
        }
    }

    /// Visits a block and all below; tells of every fault. `on_fault` may end the walk.
    pub(super) fn root(
        &mut self,
        name: &str,
        id: BlockId,
        on_fault: &mut dyn FnMut(Fault) -> Result<(), Error>,
        on_block: &mut dyn FnMut(u64),
    ) -> Result<(), Error> {
        let mut stack: Vec<Frame> = Vec::new();
        let mut next = Some(id);
        loop {
            if let Some(child) = next.take() {
                let parent = stack.last().map_or_else(|| Err(name.to_owned()), |top| Ok(top.id));
                match self.visit(child, parent, on_fault)? {
                    Visit::Enter(children) => {
                        let children = children.into_iter();
                        stack.push(Frame { id: child, children, tainted: false });
                    }
                    Visit::Tainted => taint(&mut stack),
                    Visit::Fine => {}
                }
                on_block(self.visited);
            }
            let Some(top) = stack.last_mut() else { return Ok(()) };
            next = top.children.next();
            if next.is_none() {
                let done = stack.pop().expect("there was a last frame");
                if done.tainted {
                    self.tainted.insert(done.id);
                    taint(&mut stack);
                }
            }
        }
    }

    fn visit(
        &mut self,
        id: BlockId,
        parent: Result<BlockId, String>,
        on_fault: &mut dyn FnMut(Fault) -> Result<(), Error>,
    ) -> Result<Visit, Error> {
        let is_root = parent.is_err();
        let mut fault = |walk: &mut Self, entry: Option<Entry>, why| {
            walk.tainted.insert(id);
            let place = entry.map(|entry| (entry.segment, entry.offset));
            on_fault(Fault { id, parent: parent.clone(), place, why })?;
            Ok(Visit::Tainted)
        };
        let known = self.tainted.contains(&id);
        let Some(entry) = self.find(&id)? else {
            return if known { Ok(Visit::Tainted) } else { fault(self, None, Why::Missing) };
        };
        match self.mark(&entry) {
            Ok(true) => {}
            Ok(false) => return Ok(if known { Visit::Tainted } else { Visit::Fine }),
            Err(_) if known => return Ok(Visit::Tainted),
            Err(error @ (Error::Damaged { .. } | Error::SegmentGone { .. })) => {
                return fault(self, Some(entry), Why::Unreadable(error.into()));
            }
            Err(error) => return Err(error),
        }
        self.visited += 1;
        if self.damaged.contains(&(entry.segment, entry.offset)) {
            let damaged = block::Error::Damaged { id, what: "its record is damaged" };
            return fault(self, Some(entry), Why::Unreadable(damaged));
        }
        if entry.kind == Kind::Commit || (is_root && entry.kind != Kind::Links) {
            return fault(self, Some(entry), Why::WrongKind(entry.kind));
        }
        if !entry.kind.has_references() {
            return Ok(Visit::Fine);
        }
        let block = match self.read(&entry) {
            Ok(block) => block,
            Err(error) => return fault(self, Some(entry), Why::Unreadable(error.into())),
        };
        match block::references(block.kind, &block.bytes) {
            Ok(children) => Ok(Visit::Enter(children)),
            Err(error) => fault(self, Some(entry), Why::Malformed(error)),
        }
    }
}

fn taint(stack: &mut [Frame]) {
    if let Some(top) = stack.last_mut() {
        top.tainted = true;
    }
}
