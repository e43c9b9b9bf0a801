//! Repair: what can be had again of a damaged store, and nothing else.
//!
//! Two steps, each planned before it is done. The first makes the store open: a damaged copy of `STORE`
//! is written again from the other; where the log cannot be read, or names segments that are gone,
//! a new one is started from the newest commit that any record or copy proves (`foundation`). The second
//! works on the open store: every readable record of a damaged segment is appended anew, blocks that
//! are lost are taken from other stores by their names, which are hashes of what they hold, and the damaged
//! file is set aside (`salvage`). Nothing is invented, and nothing is deleted but the index, a cache:
//! what is replaced is kept under `quarantine/<time>/` until somebody removes it.
//!
//! Crash: every step leaves a store that opens or that repair takes up again; see the two modules.

mod foundation;
mod salvage;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::fs::{Disk, FsError, RealDisk};
use super::fsck::{self, Level};
use super::identity::{Found, Identity};
use super::layout::SegmentId;
use super::{CommitSeq, Error, Location, Options, Store, index, recover};
use crate::block::{BlockId, BlockRead};

/// What repair does so that a store opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Foundation {
    /// A copy of the store's name and salt is written again from the other.
    pub identity: bool,
    /// A copy of the keys of an encrypted store is written again from the other.
    pub keys: bool,
    /// A new log is started, since this keeps the one there is from being used.
    pub log: Option<String>,
    /// The commit that is built on.
    pub commit: CommitSeq,
    /// Where that commit was found.
    pub source: &'static str,
    /// Segments that are gone: the new log does not name them.
    pub gone: Vec<SegmentId>,
}

/// A damaged segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DamagedSegment {
    /// Which.
    pub segment: SegmentId,
    /// Bytes of its file.
    pub bytes: u64,
    /// What is wrong with it, by the codes of the check.
    pub codes: Vec<String>,
}

/// What repair does with what is damaged in a store that opens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Salvage {
    /// Segments whose readable records are appended anew, and whose files are set aside.
    pub segments: Vec<DamagedSegment>,
    /// Blocks that something needs, that cannot be read, and that another store has.
    pub found: Vec<BlockId>,
    /// Those that no store has. What they lead to is not known before they are had.
    pub lost: Vec<BlockId>,
}

/// What repair will do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// So that the store opens; the rest is planned when it does. None if it opens as it is.
    pub foundation: Option<Foundation>,
    /// With what is damaged in it.
    pub salvage: Salvage,
}

/// What repair did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// So that the store opens.
    pub foundation: Option<Foundation>,
    /// With what was damaged in it. `found` are the blocks that were brought in from other stores.
    pub salvage: Salvage,
    /// Records of damaged segments that were appended anew.
    pub saved_records: u64,
    /// Where what was replaced is kept; absent if nothing was.
    pub quarantine: Option<PathBuf>,
}

impl Plan {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Salvage { segments, found, .. } = &self.salvage;
        self.foundation.is_none() && segments.is_empty() && found.is_empty()
    }
}

/// A store to repair.
pub struct Repair {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: Options,
    from: Vec<PathBuf>,
    others: Vec<Arc<dyn BlockRead>>,
    quarantine: PathBuf,
}

impl Repair {
    /// A repair of the store in a directory, which may take lost blocks from the stores `from`.
    #[must_use]
    pub fn new(location: impl Into<Location>, from: Vec<PathBuf>, now_ms: u64) -> Self {
        let location = location.into();
        // A bad sector is an error of a read, and a signal of a map.
        let options = Options { mmap: false, ..location.options() };
        Self::on(Arc::new(RealDisk), &location.dir, options, from, now_ms)
    }

    /// The same on a given disk. The stores that blocks are taken from are on the machine's.
    #[must_use]
    pub fn on(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: Options,
        from: Vec<PathBuf>,
        now_ms: u64,
    ) -> Self {
        let quarantine = dir.join("quarantine").join(now_ms.to_string());
        Self { disk, dir: dir.to_owned(), options, from, others: Vec::new(), quarantine }
    }

    /// The same, which may take lost blocks from others too that are open already.
    #[must_use]
    pub fn and_from(self, others: Vec<Arc<dyn BlockRead>>) -> Self {
        Self { others, ..self }
    }

    /// Says what [`Repair::execute`] would do; writes nothing but the lock, since what a process is writing
    /// looks damaged.
    ///
    /// # Errors
    /// [`Error::NotAStore`], [`Error::Locked`], [`Error::Damaged`] if neither copy of the store's name and salt can be read,
    /// those of opening the stores to take blocks from, and those of the disk.
    pub fn plan(&self, on_progress: &mut dyn FnMut(fsck::Progress)) -> Result<Plan, Error> {
        let others = self.others()?;
        let _lock = recover::take_lock(&*self.disk, &self.dir)?;
        let foundation = foundation::plan(self)?;
        if foundation.as_ref().is_some_and(|found| found.log.is_some()) {
            return Ok(Plan { foundation, ..Plan::default() });
        }
        let store = Store::open_reader_on(Arc::clone(&self.disk), &self.dir, self.options.clone())?;
        let report = fsck::run(&store, Level::Data, on_progress)?;
        let salvage = salvage::plan(&store, &report, &others);
        Ok(Plan { foundation, salvage })
    }

    /// Repairs. May be called again after any failure.
    ///
    /// # Errors
    /// [`Error::Full`] if there is no space for
    /// the records that are appended anew, and as [`Repair::plan`].
    pub fn execute(&self, on_progress: &mut dyn FnMut(fsck::Progress)) -> Result<Outcome, Error> {
        let others = self.others()?;
        let lock = recover::take_lock(&*self.disk, &self.dir)?;
        let foundation = foundation::plan(self)?;
        if let Some(planned) = &foundation {
            foundation::execute(self, planned)?;
        }
        self.remove_index()?;
        drop(lock);
        let store = Store::open_on(Arc::clone(&self.disk), &self.dir, self.options.clone())?;
        let report = fsck::run(&store, Level::Data, on_progress)?;
        let planned = salvage::plan(&store, &report, &others);
        let (salvage, saved_records) = salvage::execute(self, &store, planned, &others)?;
        let set_aside = self.disk.list(&self.quarantine).is_ok_and(|names| !names.is_empty());
        let quarantine = set_aside.then(|| self.quarantine.clone());
        Ok(Outcome { foundation, salvage, saved_records, quarantine })
    }

    fn identity(&self) -> Result<Identity, Error> {
        let secret = self.options.secret.as_deref();
        Found::read(&*self.disk, &self.dir)?.unlock(&*self.disk, &self.dir, secret)
    }

    fn others(&self) -> Result<Vec<Arc<dyn BlockRead>>, Error> {
        let mut others = self.others.clone();
        for dir in &self.from {
            others.push(Arc::new(Store::open_reader(dir, self.options.clone())?));
        }
        Ok(others)
    }

    /// Removes the index runs. The next opening makes them anew from the footers.
    fn remove_index(&self) -> Result<(), Error> {
        let dir = index::directory(&self.dir);
        let names = match self.disk.list(&dir) {
            Err(error) if error.is_not_found() => return Ok(()),
            other => other?,
        };
        names.iter().try_for_each(|name| Ok(self.disk.remove(&dir.join(name))?))
    }

    /// Moves a file of the store into the quarantine, durably.
    fn set_aside(&self, path: &Path) -> Result<(), FsError> {
        let Some(name) = path.file_name() else { return Ok(()) };
        self.make_quarantine()?;
        self.disk.rename(path, &self.quarantine.join(name))?;
        self.disk.sync_dir(&self.quarantine)?;
        path.parent().map_or(Ok(()), |parent| self.disk.sync_dir(parent))
    }

    fn make_quarantine(&self) -> Result<(), FsError> {
        self.disk.create_dir(&self.quarantine)?;
        self.disk.sync_dir(&self.dir.join("quarantine"))?;
        self.disk.sync_dir(&self.dir)
    }
}
