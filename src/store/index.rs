//! The index: which record of which sealed segment holds a block.
//!
//! Owns `index/`. Footers are the truth; runs are merges of them, kept so that a look-up probes a bounded
//! number of tables, and rebuilt from footers whenever they are missing. Entries of segments that
//! are no longer live are passed over, and left out at the next merge: segment numbers are never
//! given twice, so a stale entry can never name another block's record.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use super::fs::Disk;
use super::layout::{Entry, SegmentId, StoreUuid};
use super::run::{self, Run};
use super::segment::Segments;
use super::sync::atomic::{AtomicU64, Ordering};
use super::sync::{Mutex, RwLock};
use super::{Error, Options};
use crate::block::{BlockId, StoredForm};

/// A run is merged with the smaller ones unless it has more than this many times their entries.
/// So each run is over three times all smaller ones together, and 2^32 blocks take at most
/// `log4(2^32)` + 1 = 17 probes.
const RATIO: u64 = 3;
/// Tables merged at once, so that a rebuild of a large store stays within the limit of open files.
const MERGE_WIDTH: usize = 64;

/// Runs are numbered from 1, by one for each: a file of such a number is none.
const MAX_RUNS: u64 = 1 << 63;

/// The tables that look-ups probe, newest last, and the segments that count.
#[derive(Debug, Default, Clone)]
pub(super) struct Probes {
    pub(super) runs: Vec<Arc<Run>>,
    pub(super) live: BTreeSet<SegmentId>,
}

impl Probes {
    /// Where a block is.
    pub(super) fn find(&self, id: &BlockId) -> Result<Option<Entry>, Error> {
        for run in self.runs.iter().rev() {
            let found = run.table.find(id, |entry| self.live.contains(&entry.segment))?;
            if let Some((_, entry)) = found {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// A dictionary of that form, the first that `accept` takes.
    pub(super) fn find_dictionary(
        &self,
        form: StoredForm,
        accept: &mut dyn FnMut(&Entry) -> bool,
    ) -> Result<(), Error> {
        let mut accept = |entry: &Entry| self.live.contains(&entry.segment) && accept(entry);
        for run in self.runs.iter().rev() {
            if run.table.find_dictionary(form, &mut accept)?.is_some() {
                break;
            }
        }
        Ok(())
    }

    /// Which runs to merge: the largest that is not far larger than all smaller ones together, and those. Empty if
    /// there is none.
    fn to_merge(&self) -> Vec<Arc<Run>> {
        let mut runs = self.runs.clone();
        runs.sort_by_key(|run| run.table.count());
        let (mut smaller, mut taken) = (0, 0);
        for (at, run) in runs.iter().enumerate() {
            if at > 0 && run.table.count() <= RATIO * smaller {
                taken = at + 1;
            }
            smaller += run.table.count();
        }
        runs.truncate(taken.min(MERGE_WIDTH));
        runs
    }
}

/// The index of a store.
#[derive(Debug)]
pub(super) struct Index {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    store: StoreUuid,
    mmap: bool,
    durable: bool,
    probes: RwLock<Arc<Probes>>,
    /// How often segments were taken out: whoever missed a block may have looked on both sides of a move.
    drops: AtomicU64,
    /// Held while runs are merged; the number of the next run.
    merging: Mutex<u64>,
}

/// Where the index of a store is.
pub(super) fn directory(store_dir: &Path) -> PathBuf {
    store_dir.join("index")
}

impl Index {
    /// Opens what runs there are, and the footers of the `live` segments that no run covers. If
    /// `merging`, those are merged as they come, so that few files are open at once; else nothing is
    /// written.
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        store_dir: &Path,
        store: StoreUuid,
        options: &Options,
        segments: &Segments,
        live: BTreeSet<SegmentId>,
        merging: bool,
    ) -> Result<Self, Error> {
        let Options { mmap, durable, .. } = *options;
        let dir = directory(store_dir);
        let (runs, next) = open_runs(&*disk, &dir, &store, mmap, &live)?;
        let covered: BTreeSet<SegmentId> =
            runs.iter().flat_map(|run| run.segments.iter().copied()).collect();
        let uncovered: Vec<SegmentId> = live.difference(&covered).copied().collect();
        let probes = RwLock::new(Arc::new(Probes { runs, live }));
        let index = Self {
            disk,
            dir,
            store,
            mmap,
            durable,
            probes,
            drops: AtomicU64::default(),
            merging: Mutex::new(next),
        };
        if merging {
            index.remove_leftovers()?;
        }
        for some in uncovered.chunks(MERGE_WIDTH) {
            for id in some {
                match index.add(segments, *id) {
                    Err(error @ (Error::SegmentGone { .. } | Error::Damaged { .. })) => {
                        tracing::error!(%error, "the blocks of a segment cannot be had");
                    }
                    other => other?,
                }
            }
            if merging {
                index.merge_where_there_is_room()?;
            }
        }
        if merging {
            index.merge_where_there_is_room()?;
        }
        Ok(index)
    }

    /// The tables as they are now; later changes do not reach them.
    pub(super) fn probes(&self) -> Arc<Probes> {
        Arc::clone(&self.probes.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change(&self, edit: impl FnOnce(&mut Probes)) {
        let mut slot = self.probes.write().unwrap_or_else(PoisonError::into_inner);
        edit(Arc::make_mut(&mut slot));
    }

    /// Adds a sealed segment by its footer.
    pub(super) fn add(&self, segments: &Segments, id: SegmentId) -> Result<(), Error> {
        let (_, table) = segments.sealed(id)?.entries()?;
        let run = Arc::new(Run::of_footer(id, table));
        self.change(|probes| {
            probes.live.insert(id);
            probes.runs.push(run);
        });
        Ok(())
    }

    /// Grows before and after segments are taken out.
    pub(super) fn drops(&self) -> u64 {
        self.drops.load(Ordering::SeqCst)
    }

    /// Takes segments out, and with them the runs that list no other. Files are removed.
    pub(super) fn drop_segments(&self, gone: &[SegmentId]) -> Result<(), Error> {
        let _merging = self.merging.lock().unwrap_or_else(PoisonError::into_inner);
        let mut removed = Vec::new();
        self.drops.fetch_add(1, Ordering::SeqCst);
        self.change(|probes| {
            gone.iter().for_each(|id| {
                probes.live.remove(id);
            });
            let Probes { runs, live } = probes;
            runs.retain(|run| {
                let keep = run.segments.iter().any(|id| live.contains(id));
                if !keep {
                    removed.extend(run.path.clone());
                }
                keep
            });
        });
        self.drops.fetch_add(1, Ordering::SeqCst);
        removed.iter().try_for_each(|path| Ok(self.disk.remove(path)?))
    }

    /// Merges runs until look-ups need no more probes than they may.
    pub(super) fn merge(&self) -> Result<(), Error> {
        let mut next = self.merging.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let probes = self.probes();
            let sources = probes.to_merge();
            if sources.is_empty() {
                return Ok(());
            }
            let path = self.dir.join(format!("{:016x}.run", *next));
            *next += 1;
            let (disk, live) = (&*self.disk, &probes.live);
            run::merge(disk, &path, &self.store, self.durable, &sources, live)?;
            let opened = Run::open(disk, &path, &self.store, self.mmap)?;
            let merged = Arc::new(opened.map_err(|what| Error::Damaged {
                path: path.clone(),
                offset: 0,
                what,
            })?);
            self.change(|probes| {
                probes.runs.retain(|run| !sources.iter().any(|source| Arc::ptr_eq(run, source)));
                probes.runs.insert(0, merged);
            });
            for path in sources.iter().filter_map(|source| source.path.as_ref()) {
                disk.remove(path)?;
            }
        }
    }

    /// Merges, or leaves that for later where the disk is full: look-ups only take longer.
    fn merge_where_there_is_room(&self) -> Result<(), Error> {
        match self.merge() {
            Err(Error::Full(error)) => {
                tracing::warn!(%error, "index runs stay unmerged");
                Ok(())
            }
            merged => merged,
        }
    }

    /// Removes files that are no run in use: leftovers of a crash.
    fn remove_leftovers(&self) -> Result<(), Error> {
        let probes = self.probes();
        for name in self.disk.list(&self.dir)? {
            let path = self.dir.join(name);
            if !probes.runs.iter().any(|run| run.path.as_ref() == Some(&path)) {
                self.disk.remove(&path)?;
            }
        }
        Ok(())
    }
}

/// Opens the runs that are whole and of use, largest first, and says which number is free.
fn open_runs(
    disk: &dyn Disk,
    dir: &Path,
    store: &StoreUuid,
    mmap: bool,
    live: &BTreeSet<SegmentId>,
) -> Result<(Vec<Arc<Run>>, u64), Error> {
    let names = match disk.list(dir) {
        Err(error) if error.is_not_found() => Vec::new(),
        other => other?,
    };
    let mut opened = Vec::new();
    let mut next = 1;
    for name in names {
        let number = name.strip_suffix(".run").and_then(|hex| u64::from_str_radix(hex, 16).ok());
        let Some(number) = number.filter(|number| *number < MAX_RUNS) else { continue };
        next = next.max(number + 1);
        match Run::open(disk, &dir.join(&name), store, mmap) {
            Ok(Ok(run)) => opened.push(run),
            Ok(Err(what)) => tracing::warn!(file = name, what, "an index run is not used"),
            // Between listing and opening, the writer merged it into another.
            Err(Error::Io(error)) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    opened.sort_by_key(|run| std::cmp::Reverse(run.segments.len()));
    let mut covered = BTreeSet::new();
    let mut runs = Vec::new();
    for run in opened {
        let adds =
            run.segments.iter().filter(|id| live.contains(id)).any(|id| !covered.contains(id));
        if adds {
            covered.extend(run.segments.iter().copied());
            runs.push(Arc::new(run));
        }
    }
    Ok((runs, next))
}

#[cfg(test)]
mod tests;
