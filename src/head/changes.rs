//! Changes to collections ordered by key that wait for the next sweep.
//!
//! In memory up to a budget, then in sorted runs on scratch. The number of runs is bounded by merging
//! neighbours. A key's updates wait as they are; when there are too many, the document is read and
//! they are folded into it.

use std::collections::btree_map;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Error;
use super::catalog::Incarnation;
use super::change::{Change, Context};
use super::merge::{Merged, Source, combine, update_failed};
use super::runs::{CHUNK_BYTES, Record, Run, Scratch};
use crate::block::BlockRead;
use crate::oplog::Uuid;
use crate::tree::{self, Key};

/// Runs open at once: each holds a file and, while merged, a chunk in memory.
const MAX_RUNS: usize = 16;
/// Neighbouring runs merged into one when there are too many: half, so that a change is rewritten
/// few times.
const MERGE_RUNS: usize = 8;
/// Updates of one key that may wait before its document is read.
const MAX_UPDATES: usize = 64;
/// Bytes of updates of one key that may wait before its document is read.
const MAX_UPDATES_BYTES: usize = 1 << 20;

/// The changes of one collection in memory. All are of one incarnation: a collection that is emptied
/// or removed is forgotten first ([`Changes::forget`]).
#[derive(Debug)]
struct Slot {
    incarnation: Incarnation,
    changes: BTreeMap<Key, Change>,
    bytes: usize,
}

/// A collection as changes refer to it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    pub uuid: Uuid,
    pub incarnation: Incarnation,
    pub root: tree::Root,
}

/// What waiting changes say of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Was {
    /// Nothing for certain.
    Unknown,
    There,
    Missing,
}

impl Was {
    fn after(change: &Change) -> Self {
        match change {
            Change::Put(_) => Self::There,
            Change::Delete => Self::Missing,
            Change::Updates(_) => Self::Unknown,
        }
    }
}

/// All waiting changes.
#[derive(Debug)]
pub(super) struct Changes {
    slots: BTreeMap<Uuid, Slot>,
    bytes: usize,
    runs: Vec<Arc<Run>>,
    budget_bytes: usize,
    scratch: Scratch,
    context: Context,
}

impl Changes {
    pub fn new(budget_bytes: usize, scratch: Scratch, context: Context) -> Self {
        Self { slots: BTreeMap::new(), bytes: 0, runs: Vec::new(), budget_bytes, scratch, context }
    }

    /// Bytes in memory and in runs.
    pub fn pending_bytes(&self) -> u64 {
        self.bytes as u64 + self.run_bytes()
    }

    /// Bytes in runs.
    pub fn run_bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.bytes()).sum()
    }

    /// Adds a change after those waiting. Tells what those in memory said of the document.
    pub fn record(
        &mut self,
        blocks: &dyn BlockRead,
        target: &Target,
        key: Key,
        change: Change,
    ) -> Result<Was, Error> {
        let slot = self.slots.entry(target.uuid).or_insert_with(|| Slot {
            incarnation: target.incarnation,
            changes: BTreeMap::new(),
            bytes: 0,
        });
        let key_bytes = key.as_bytes().len();
        let (was, before, after) = match slot.changes.entry(key) {
            btree_map::Entry::Vacant(place) => {
                (Was::Unknown, 0, place.insert(change).weight() + key_bytes)
            }
            btree_map::Entry::Occupied(mut place) => {
                let older = std::mem::replace(place.get_mut(), Change::Delete);
                let (was, before) = (Was::after(&older), older.weight() + key_bytes);
                let mut change = older.then(change, &self.context).map_err(update_failed)?;
                if too_many(&change) {
                    let (runs, context) = (&self.runs, &self.context);
                    change = fold(blocks, runs, target, place.key(), change, context)?;
                }
                let after = change.weight() + key_bytes;
                place.insert(change);
                (was, before, after)
            }
        };
        slot.bytes = slot.bytes + after - before;
        self.bytes = self.bytes + after - before;
        if self.bytes > self.budget_bytes {
            self.spill()?;
        }
        Ok(was)
    }

    /// Forgets what waits in memory for a collection that is no more. What waits in runs is passed
    /// over by the sweep.
    pub fn forget(&mut self, uuid: Uuid) {
        if let Some(slot) = self.slots.remove(&uuid) {
            self.bytes -= slot.bytes;
        }
    }

    fn spill(&mut self) -> Result<(), Error> {
        let mut memory = self.take_memory();
        let run = Run::write(&self.scratch, &mut memory)?;
        self.runs.push(Arc::new(run));
        if self.runs.len() > MAX_RUNS { self.merge_runs() } else { Ok(()) }
    }

    fn take_memory(&mut self) -> Memory {
        self.bytes = 0;
        Memory { slots: std::mem::take(&mut self.slots).into_iter(), current: None }
    }

    /// Merges the neighbours that are cheapest to merge.
    fn merge_runs(&mut self) -> Result<(), Error> {
        let sums = self
            .runs
            .windows(MERGE_RUNS)
            .map(|window| window.iter().map(|run| run.bytes()).sum::<u64>());
        let first = sums.enumerate().min_by_key(|(_, bytes)| *bytes).map_or(0, |(at, _)| at);
        let range = first..(first + MERGE_RUNS).min(self.runs.len());
        let sources = self.runs[range.clone()].iter().map(run_source).collect();
        let mut merged = Merged::new(sources, self.context.clone())?;
        let run = Run::write(&self.scratch, &mut merged)?;
        self.runs.splice(range, [Arc::new(run)]);
        Ok(())
    }

    /// Takes all changes.
    pub fn drain(&mut self) -> Drained {
        self.bytes = 0;
        Drained {
            slots: std::mem::take(&mut self.slots),
            runs: std::mem::take(&mut self.runs),
            context: self.context.clone(),
        }
    }
}

/// Changes to be swept, by collection.
pub(super) struct Drained {
    slots: BTreeMap<Uuid, Slot>,
    runs: Vec<Arc<Run>>,
    context: Context,
}

impl Drained {
    /// Collections that have changes.
    pub fn collections(&self) -> BTreeSet<Uuid> {
        let of_runs = self.runs.iter().flat_map(|run| run.collections());
        self.slots.keys().chain(of_runs).copied().collect()
    }

    /// Bytes of the changes of a collection at most.
    pub fn bytes_at_most(&self, uuid: Uuid) -> u64 {
        let runs = self.runs.iter().filter(|run| run.collections().contains(&uuid));
        let memory = self.slots.get(&uuid).map_or(0, |slot| slot.bytes as u64);
        memory + runs.map(|run| run.bytes()).sum::<u64>()
    }

    /// Keys, or prefixes of keys, that lie evenly among those of a collection, ascending.
    pub fn among(&self, uuid: Uuid) -> Vec<Key> {
        let mut keys: Vec<Key> = self.runs.iter().flat_map(|run| run.starts(uuid)).collect();
        let mut bytes = 0;
        for (key, change) in self.slots.get(&uuid).into_iter().flat_map(|slot| &slot.changes) {
            bytes += change.weight();
            if bytes >= CHUNK_BYTES {
                keys.push(key.clone());
                bytes = 0;
            }
        }
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Takes the changes of a collection, in order of key, in ranges that begin at `bounds`, and a first.
    pub fn take(&mut self, uuid: Uuid, bounds: &[Key]) -> Result<Vec<Merged>, Error> {
        let (incarnation, mut rest) = match self.slots.remove(&uuid) {
            Some(slot) => (Some(slot.incarnation), slot.changes),
            None => (None, BTreeMap::new()),
        };
        let mut ranges = Vec::with_capacity(bounds.len() + 1);
        let mut from = Key::from_encoded(Vec::new());
        for to in bounds.iter().map(Some).chain([None]) {
            let above = to.map(|to| rest.split_off(to)).unwrap_or_default();
            let below = std::mem::replace(&mut rest, above);
            let of_runs = self.runs.iter().filter(|run| run.collections().contains(&uuid));
            let mut sources: Vec<Source> = of_runs
                .map(|run| Box::new(run.range(uuid, from.clone(), to.cloned())) as Source)
                .collect();
            if let Some(incarnation) = incarnation {
                let current = Some((uuid, incarnation, below.into_iter()));
                sources.push(Box::new(Memory { slots: BTreeMap::new().into_iter(), current }));
            }
            ranges.push(Merged::new(sources, self.context.clone())?);
            from = to.cloned().unwrap_or(from);
        }
        Ok(ranges)
    }
}

fn run_source(run: &Arc<Run>) -> Source {
    Box::new(run.records())
}

fn too_many(change: &Change) -> bool {
    matches!(change, Change::Updates(pending)
        if pending.len() > MAX_UPDATES || change.weight() > MAX_UPDATES_BYTES && pending.len() > 1)
}

/// Applies waiting updates to their document as it is in the tree and the runs.
fn fold(
    blocks: &dyn BlockRead,
    runs: &[Arc<Run>],
    target: &Target,
    key: &Key,
    change: Change,
    context: &Context,
) -> Result<Change, Error> {
    let mut waiting = None;
    for run in runs {
        if let Some(record) = run.get(target.uuid, key)?
            && record.incarnation == target.incarnation
        {
            waiting = Some(combine(waiting, record, context).map_err(update_failed)?);
        }
    }
    let older = match waiting {
        Some(Record { change: Change::Updates(updates), .. }) => Some(Change::Updates(updates)),
        Some(record) => return record.change.then(change, context).map_err(update_failed),
        None => None,
    };
    let mut document = tree::get(blocks, &target.root, key)?;
    for change in older.into_iter().chain([change]) {
        document = change.resolve(document.as_deref(), context).map_err(update_failed)?;
    }
    Ok(Change::from(document))
}

/// The changes that were in memory, in order.
struct Memory {
    slots: btree_map::IntoIter<Uuid, Slot>,
    current: Option<(Uuid, Incarnation, btree_map::IntoIter<Key, Change>)>,
}

impl Iterator for Memory {
    type Item = Result<Record, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((uuid, incarnation, changes)) = &mut self.current
                && let Some((key, change)) = changes.next()
            {
                let (uuid, incarnation) = (*uuid, *incarnation);
                return Some(Ok(Record { uuid, key, incarnation, change }));
            }
            let (uuid, slot) = self.slots.next()?;
            self.current = Some((uuid, slot.incarnation, slot.changes.into_iter()));
        }
    }
}
