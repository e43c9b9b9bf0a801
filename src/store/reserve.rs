//! Space kept back so that space can be given back.
//!
//! Owns `RESERVE`: allocated bytes without content. A compaction copies before it removes, a deletion writes
//! what is left, and a commit may need a new log file; on a full disk there would be room for none of it, and
//! nothing could ever be freed. Whoever gives space back, or commits what was put, may use the reserve: where the
//! disk is full, the file is removed and what failed is done again. From then on nobody else appends until the reserve is whole again,
//! so that what was given up is there for them alone.
//!
//! How much: what a compaction copies before it commits and removes (as much as the largest segment), what two
//! openings allocate at least to begin a segment, and two log files.
//!
//! Crash: it has no content to lose. One that is missing or short is made whole by the next opening or append.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use super::append::ALLOCATE_STEP_BYTES;
use super::fs::{Access, Disk, File, FsError};
use super::log::LOG_BYTES;
use super::sync::atomic::{AtomicBool, Ordering};
use super::sync::{Mutex, MutexGuard};
use super::{Error, Options};

/// Openings that each may have begun a segment with the space, and log files, before a compaction needs it.
const BEGINNINGS: u64 = 2;

/// What a block is appended for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To be kept.
    Data,
    /// To give space back: the reserve may be used.
    Reclaim,
}

/// The reserve of a store.
#[derive(Debug)]
pub(super) struct Reserve {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    segment_bytes: u64,
    /// Whether anything is kept back at all: not for stores that are thrown away.
    is_kept: bool,
    state: Mutex<State>,
    /// Whether less is held than wanted.
    short: AtomicBool,
    /// Whether somebody who had no right to it found the disk full, and nobody found space since.
    refused: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    wanted: u64,
    held: u64,
    /// Who work with the space at this moment: nobody takes it back meanwhile.
    users: u64,
}

impl Reserve {
    /// That of the store in a directory, with nothing held yet.
    pub(super) fn new(disk: Arc<dyn Disk>, store_dir: &Path, options: &Options) -> Self {
        let path = store_dir.join("RESERVE");
        let (state, short, refused) = Default::default();
        let (segment_bytes, is_kept) = (options.segment_bytes, options.durable);
        Self { disk, path, segment_bytes, is_kept, state, short, refused }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wants enough for segments of that many bytes from now on.
    pub(super) fn want_for(&self, segment_bytes: u64) {
        if !self.is_kept {
            return;
        }
        let begin = ALLOCATE_STEP_BYTES.min(self.segment_bytes) + LOG_BYTES;
        let mut state = self.state();
        state.wanted = state.wanted.max(segment_bytes + BEGINNINGS * begin);
        self.short.store(state.held < state.wanted, Ordering::Relaxed);
    }

    /// Does something with space that is nobody's. Where there is none for it, or for the reserve, that is noted.
    pub(super) fn without<T>(&self, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        let done = self.fill().map_err(Error::from).and_then(|()| work());
        match &done {
            Ok(_) => self.refused.store(false, Ordering::Relaxed),
            Err(Error::Full(_)) => self.refused.store(true, Ordering::Relaxed),
            Err(_) => {}
        }
        done
    }

    /// Does something, again with the space of the reserve if the disk is full.
    pub(super) fn with<T>(&self, mut work: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
        match work() {
            Err(Error::Full(error)) if error.only_asked_for_space() => {
                // Again even if there is none: somebody may have given it up a moment ago.
                self.give_up()?;
                let done = work();
                self.state().users -= 1;
                done
            }
            done => done,
        }
    }

    /// Whether less is held than wanted.
    pub(super) fn is_short(&self) -> bool {
        self.short.load(Ordering::Relaxed)
    }

    /// Whether the disk was full when somebody last tried.
    pub(super) fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// Makes it whole if the disk has the space. Else that is said, and who appends tries again.
    pub(super) fn try_fill(&self) {
        if let Err(error) = self.fill() {
            self.refused.fetch_or(error.is_full(), Ordering::Relaxed);
            tracing::warn!(%error, "nothing is stored until there is space for the reserve");
        }
    }

    fn fill(&self) -> Result<(), FsError> {
        if !self.is_short() {
            return Ok(());
        }
        let mut state = self.state();
        if state.users > 0 {
            return Err(FsError::full(&self.path));
        }
        let (file, before) = match self.disk.open(&self.path, Access::Write) {
            Err(error) if error.is_not_found() => (self.disk.create(&self.path)?, 0),
            opened => opened.and_then(|file| file.size().map(|size| (file, size)))?,
        };
        if let Err(error) = file.allocate(state.wanted) {
            self.shrink(&*file, before);
            return Err(error);
        }
        state.held = state.wanted;
        self.short.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// An allocation that failed may have taken a part.
    fn shrink(&self, file: &dyn File, before: u64) {
        let shrunk = match before {
            0 => self.disk.remove(&self.path),
            before => file.set_size(before),
        };
        if let Err(error) = shrunk {
            tracing::warn!(%error, "a part of the reserve stays allocated");
        }
    }

    /// Gives it up for one that uses it until it says otherwise.
    fn give_up(&self) -> Result<(), FsError> {
        let mut state = self.state();
        match self.disk.remove(&self.path) {
            Err(error) if !error.is_not_found() => return Err(error),
            Err(_) => {}
            Ok(()) => tracing::warn!(
                "the disk is full: the reserve is used to give space back, nothing else is stored meanwhile"
            ),
        }
        state.held = 0;
        state.users += 1;
        self.short.store(state.wanted > 0, Ordering::Relaxed);
        Ok(())
    }
}
