//! Changes to collections ordered by key that wait for the next sweep.
//!
//! In memory up to a budget, then in sorted runs on scratch. The number of runs is bounded by merging
//! neighbours. A key's updates wait as they are; when there are too many, the document is read and
//! they are folded into it.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::path::PathBuf;
use std::sync::Arc;

use super::Error;
use super::catalog::Incarnation;
use super::change::{Change, Context};
use super::merge::{Merged, Source, combine, update_failed};
use super::runs::{Record, Run};
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

/// All waiting changes.
#[derive(Debug)]
pub(super) struct Changes {
    slots: BTreeMap<Uuid, Slot>,
    bytes: usize,
    runs: Vec<Arc<Run>>,
    budget_bytes: usize,
    directory: PathBuf,
    context: Context,
}

impl Changes {
    pub fn new(budget_bytes: usize, directory: PathBuf, context: Context) -> Self {
        Self {
            slots: BTreeMap::new(),
            bytes: 0,
            runs: Vec::new(),
            budget_bytes,
            directory,
            context,
        }
    }

    /// Bytes in memory and in runs.
    pub fn pending_bytes(&self) -> u64 {
        self.bytes as u64 + self.run_bytes()
    }

    /// Bytes in runs.
    pub fn run_bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.bytes()).sum()
    }

    /// What waits in memory for a key.
    pub fn get(&self, target: &Target, key: &Key) -> Option<&Change> {
        let slot = self.slots.get(&target.uuid)?;
        slot.changes.get(key)
    }

    /// Adds a change after those waiting.
    pub fn record(
        &mut self,
        blocks: &dyn BlockRead,
        target: &Target,
        key: Key,
        change: Change,
    ) -> Result<(), Error> {
        let slot = self.slots.entry(target.uuid).or_insert_with(|| Slot {
            incarnation: target.incarnation,
            changes: BTreeMap::new(),
            bytes: 0,
        });
        let key_bytes = key.as_bytes().len();
        let (before, change) = match slot.changes.remove(&key) {
            None => (0, change),
            Some(older) => {
                let before = older.weight() + key_bytes;
                (before, older.then(change, &self.context).map_err(update_failed)?)
            }
        };
        let change = if too_many(&change) {
            fold(blocks, &self.runs, target, &key, change, &self.context)?
        } else {
            change
        };
        let after = change.weight() + key_bytes;
        slot.bytes = slot.bytes + after - before;
        self.bytes = self.bytes + after - before;
        slot.changes.insert(key, change);
        if self.bytes > self.budget_bytes { self.spill() } else { Ok(()) }
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
        let run = Run::write(&self.directory, &mut memory)?;
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
        let run = Run::write(&self.directory, &mut merged)?;
        self.runs.splice(range, [Arc::new(run)]);
        Ok(())
    }

    /// Takes all changes, in order of collection and key.
    pub fn drain(&mut self) -> Result<Merged, Error> {
        let mut sources: Vec<Source> = self.runs.drain(..).map(|run| run_source(&run)).collect();
        sources.push(Box::new(self.take_memory()));
        Merged::new(sources, self.context.clone())
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
