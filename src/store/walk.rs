//! Walking everything that roots reach.
//!
//! What was visited is marked ([`Marks`]): memory is two bits per block of the store and not an id, but for some that are not even looked up
//! again where another tree names them too. Blocks that name nothing (leaves, parts, streams) are marked without
//! being read. The walk keeps its path on a stack of its own: a chain of any length is safe.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, PoisonError};

use super::index::Probes;
use super::layout::{Entry, SegmentId};
use super::marks::Marks;
use super::sync::Mutex;
use super::{Error, Role, Shared};
use crate::block::{self, Block, BlockId, Kind};

/// Blocks that are known to be visited without a look-up, by half of their names: with the slack of the table, 36 MB.
const SEEN_MAX: usize = 7 << 18;

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
    marks: &'a Mutex<Marks>,
    /// Blocks that are faulty or name, directly or not, a faulty one.
    pub(super) tainted: BTreeSet<BlockId>,
    /// Blocks visited.
    pub(super) visited: u64,
    seen: HashSet<[u8; 16]>,
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
    pub(super) fn new(
        shared: &'a Shared,
        damaged: &'a BTreeSet<(SegmentId, u64)>,
        marks: &'a Mutex<Marks>,
    ) -> Self {
        let (probes, tainted) = (shared.index.probes(), BTreeSet::new());
        Self { shared, probes, damaged, marks, tainted, visited: 0, seen: HashSet::new() }
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

    fn mark(&self, entry: &Entry) -> Result<bool, Error> {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        marks.walk_to(self.shared, entry)
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

    /// Visits a block and all below; tells of every fault. Both functions may end the walk.
    pub(super) fn root(
        &mut self,
        name: &str,
        id: BlockId,
        on_fault: &mut dyn FnMut(Fault) -> Result<(), Error>,
        on_block: &mut dyn FnMut(u64) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut stack: Vec<Frame> = Vec::new();
        let mut next = Some(id);
        loop {
            // What a commit names must be of a certain kind, so that is looked at.
            let is_new = |id: &BlockId| stack.is_empty() || !self.seen.contains(&half_of(id));
            if let Some(child) = next.take().filter(is_new) {
                let parent = stack.last().map_or_else(|| Err(name.to_owned()), |top| Ok(top.id));
                match self.visit(child, parent, on_fault)? {
                    Visit::Enter(children) => {
                        let children = children.into_iter();
                        stack.push(Frame { id: child, children, tainted: false });
                    }
                    Visit::Tainted => taint(&mut stack),
                    Visit::Fine if self.seen.len() < SEEN_MAX => {
                        _ = self.seen.insert(half_of(&child))
                    }
                    Visit::Fine => {}
                }
                on_block(self.visited)?;
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
            Err(error @ (Error::Damaged { .. } | Error::SegmentGone { .. } | Error::Io(_))) => {
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

/// Half of a name, which is enough to tell blocks apart.
fn half_of(id: &BlockId) -> [u8; 16] {
    let (half, _) = id.as_bytes().split_first_chunk().expect("a name has 32 bytes");
    *half
}

fn taint(stack: &mut [Frame]) {
    if let Some(top) = stack.last_mut() {
        top.tainted = true;
    }
}
