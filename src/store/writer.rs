//! The writing side of an open store: putting blocks and committing.
//!
//! Three locks, taken in this order and never the other way: `log` (one committer flushes for all
//! that wait), `pending` (the roots as edited, not yet durable), `append` (the segment being
//! filled). Compression, hashing and every fsync happen outside of `append`, so that many threads
//! put at once.
//!
//! Order of a commit: the segment's buffer is written, its fsync, the commit record, its fsync; full
//! segments were sealed and synced before. Whatever a record names is therefore durable before
//! it. A write or fsync that fails latches the store: what the system did with those bytes is unknown
//! until it is reopened, which writes again what it reads before it builds on it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::append::{self, Active, Target};
use super::fs::{File, Operation};
use super::index::Index;
use super::keys::PAYLOAD_BYTES;
use super::layout::{Entry, RECORD_HEADER_BYTES, RecordHeader, SegmentId, aligned};
use super::log::{LogFile, LogFiles, Slot};
use super::record::{Commit, MAX_ROOT_NAME_BYTES, MAX_ROOTS};
use super::reserve::{Purpose, Reserve};
use super::scan::open_payload;
use super::segment::{FindDictionary, Segments, check_record};
use super::stored::Stored;
use super::sync::{Condvar, Mutex, MutexGuard};
use super::{CommitSeq, Error, Roots, sync};
use crate::block::{Block, BlockId, Dictionary, Kind, StoredForm};

/// How often a committer that waits for a seal looks whether the store was latched meanwhile.
const LATCH_CHECK: Duration = Duration::from_millis(100);

/// A dictionary has at most one part in so many of a segment.
const DICTIONARY_SHARE: u64 = 16;

/// Roots that are noted while a compaction waits for those who were there before it.
const MAX_WATCHED: usize = 1 << 16;

/// What a writer has beyond a reader.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) target: Target,
    pub(super) directory: PathBuf,
    pub(super) log_files: LogFiles,
    pub(super) reserve: Reserve,
    /// Held for its lock on the directory.
    _lock: Arc<dyn File>,
    append: Mutex<Append>,
    sealed_one: Condvar,
    pending: Mutex<Pending>,
    log: Mutex<Log>,
    latch: OnceLock<String>,
    /// Segments that a commit dropped and whose files are still there.
    waiting: Mutex<Vec<Waiting>>,
}

/// A dropped segment that readers may still use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waiting {
    pub(super) segment: SegmentId,
    pub(super) bytes: u64,
    /// Readers of this commit or a later one do not need it.
    pub(super) dropped_by: CommitSeq,
}

/// The segments being written.
#[derive(Debug)]
pub(super) struct Append {
    active: Option<Active>,
    /// Full segments on their way to being sealed; still answering look-ups.
    sealing: Vec<Arc<Active>>,
    /// Every sealed segment that is not dropped, with its length in bytes.
    pub(super) sealed: BTreeMap<SegmentId, u64>,
    next: SegmentId,
    /// Bytes appended since the store was opened.
    added_bytes: u64,
}

/// Roots as edited by committers that wait.
#[derive(Debug)]
struct Pending {
    roots: Roots,
    /// Number of the newest edit.
    ticket: u64,
}

/// The log and what it holds.
#[derive(Debug)]
struct Log {
    /// Absent until the first commit after opening, which starts a new file.
    file: Option<LogFile>,
    slot: Option<Slot>,
    newest: Arc<Commit>,
    /// What commits have named since a compaction began, while it chooses.
    watched: Option<Watched>,
    /// Edits up to this one are decided: durable, or failed if in `failed`.
    decided: u64,
    /// The edits that failed, as ranges of tickets; ranges that touch are one.
    failed: Vec<(u64, u64)>,
}

/// Roots that commits have named, and the newest of these commits.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) newest: Arc<Commit>,
    pub(super) roots: BTreeSet<(String, BlockId)>,
}

impl Watched {
    fn add(&mut self, commit: &Arc<Commit>) {
        self.newest = Arc::clone(commit);
        // One more than the bound tells that there were too many.
        for (name, id) in &commit.roots {
            if self.roots.len() <= MAX_WATCHED {
                self.roots.insert((name.clone(), *id));
            }
        }
    }
}

/// What a writer starts from.
pub(super) struct Start {
    pub(super) lock: Arc<dyn File>,
    pub(super) reserve: Reserve,
    pub(super) slot: Option<Slot>,
    pub(super) commit: Commit,
    pub(super) sealed: BTreeMap<SegmentId, u64>,
    pub(super) next: SegmentId,
    pub(super) waiting: Vec<Waiting>,
}

impl Log {
    /// Decides every edit up to `ticket` as failed.
    fn fail_through(&mut self, ticket: u64) {
        match self.failed.last_mut() {
            Some((_, to)) if *to == self.decided => *to = ticket,
            _ => self.failed.push((self.decided + 1, ticket)),
        }
        self.decided = ticket;
    }
}

impl Drop for Writer {
    /// Seals what is open, so that the next open need not read it; a failure only costs that.
    fn drop(&mut self) {
        if !self.target.durable || self.latch.get().is_some() {
            return;
        }
        let append = self.append.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Some(mut active) = append.active.take() else { return };
        if let Err(error) = active.flush().and_then(|()| active.seal()) {
            tracing::warn!(%error, "the last segment is left unsealed; the next open seals it");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Writer {
    pub(super) fn new(
        target: Target,
        directory: PathBuf,
        log_files: LogFiles,
        start: Start,
    ) -> Self {
        let Start { lock, reserve, slot, commit, sealed, next, waiting } = start;
        let pending = Pending { roots: commit.roots.clone(), ticket: 0 };
        let newest = Arc::new(commit);
        let log = Log { file: None, slot, newest, watched: None, decided: 0, failed: Vec::new() };
        let append = Append { active: None, sealing: Vec::new(), sealed, next, added_bytes: 0 };
        Self {
            target,
            directory,
            log_files,
            reserve,
            _lock: lock,
            append: Mutex::new(append),
            sealed_one: Condvar::new(),
            pending: Mutex::new(pending),
            log: Mutex::new(log),
            latch: OnceLock::new(),
            waiting: Mutex::new(waiting),
        }
    }

    /// Fails if the store is latched.
    pub(super) fn check_latch(&self) -> Result<(), Error> {
        match self.latch.get() {
            Some(cause) => Err(Error::Latched { cause: cause.clone() }),
            None => Ok(()),
        }
    }

    /// Latches the store if a write or sync failed; passes the error on.
    fn latching<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(Error::Io(error) | Error::Full(error)) = &result
            && matches!(error.operation, Operation::Write | Operation::Sync | Operation::SetLength)
        {
            self.latch(error);
        }
        result
    }

    fn latch(&self, error: &dyn std::error::Error) {
        if self.latch.set(error.to_string()).is_ok() {
            tracing::error!(error = %error, "the store is latched read-only until it is reopened");
        }
        self.sealed_one.notify_all();
    }

    /// The newest durable commit.
    pub(super) fn newest(&self) -> Arc<Commit> {
        Arc::clone(&lock(&self.log).newest)
    }

    /// Notes from now on what commits name, the newest included.
    pub(super) fn watch(&self) {
        let mut log = lock(&self.log);
        let newest = Arc::clone(&log.newest);
        let mut watched = Watched { newest: Arc::clone(&newest), roots: BTreeSet::new() };
        watched.add(&newest);
        log.watched = Some(watched);
    }

    /// What was noted, if somebody watches; nothing more is. Fails if it was too much.
    pub(super) fn end_watch(&self) -> Result<Option<Watched>, Error> {
        let watched = lock(&self.log).watched.take();
        match watched {
            Some(watched) if watched.roots.len() > MAX_WATCHED => {
                Err(Error::TooBusy { roots: MAX_WATCHED })
            }
            watched => Ok(watched),
        }
    }

    /// Where a block is among the segments being written, and its content if asked for.
    pub(super) fn find(&self, id: &BlockId) -> Option<Entry> {
        let append = lock(&self.append);
        let active = append.active.iter();
        let sealing = append.sealing.iter().map(AsRef::as_ref);
        active.chain(sealing).find_map(|segment| segment.entry(id))
    }

    /// A dictionary that stands in a segment being written.
    pub(super) fn find_dictionary(&self, form: StoredForm) -> Option<BlockId> {
        let append = lock(&self.append);
        let sealing = append.sealing.iter().map(AsRef::as_ref);
        append.active.iter().chain(sealing).find_map(|segment| segment.dictionary(form))
    }

    /// Reads a block from the segments being written.
    pub(super) fn get(
        &self,
        id: &BlockId,
        dictionary: FindDictionary<'_>,
    ) -> Option<Result<Block, Error>> {
        let read = self.record(id)?;
        let identity = &self.target.identity;
        Some(read.and_then(|(entry, record)| check_record(identity, &entry, &record, dictionary)))
    }

    /// Where a block stands in the segments being written, and its record.
    pub(super) fn record(&self, id: &BlockId) -> Option<Result<(Entry, Vec<u8>), Error>> {
        let append = lock(&self.append);
        let active = append.active.iter();
        let mut all = active.chain(append.sealing.iter().map(AsRef::as_ref));
        let (entry, segment) = all.find_map(|one| Some((one.entry(id)?, one)))?;
        if let Some(record) = segment.buffered(&entry) {
            return Some(Ok((entry, record.to_vec())));
        }
        let file = segment.file();
        drop(append);
        let mut record = vec![0; RECORD_HEADER_BYTES + entry.stored_len as usize];
        let read = file.read_at(entry.offset, &mut record).map_err(Error::from);
        Some(read.map(|()| (entry, record)))
    }

    /// Compresses and appends a block that the caller found nowhere. Returns the bytes added.
    pub(super) fn put(
        &self,
        shared: (&Segments, &Index),
        (id, kind, raw): (BlockId, Kind, &[u8]),
        dictionary: Option<&Dictionary>,
        purpose: Purpose,
    ) -> Result<u64, Error> {
        let used = dictionary.filter(|one| self.may_use(one, raw.len(), 0));
        self.append(shared, &Stored::of(&self.target.identity, (id, kind, raw), used)?, purpose)
    }

    /// Appends the block of a record of another segment, checked against its name: as it is stored there, or compressed
    /// anew where its dictionary is not worth a place. With that, raw bytes of blocks to come that use it, this one included.
    pub(super) fn move_record(
        &self,
        shared: (&Segments, &Index),
        (header, payload): (&RecordHeader, &[u8]),
        dictionary: Option<(&Dictionary, usize)>,
        purpose: Purpose,
    ) -> Result<u64, Error> {
        let identity = &self.target.identity;
        let raw = open_payload(identity, header, payload, dictionary.map(|(one, _)| one))?;
        let used = dictionary.filter(|(one, ahead)| self.may_use(one, raw.len(), *ahead));
        let stored = if used.is_none() && dictionary.is_some() {
            Stored::of(identity, (header.id, header.kind, &raw), None)?
        } else {
            Stored::moved(identity, header, payload, used.map(|(one, _)| one))?
        };
        self.append(shared, &stored, purpose)
    }

    /// Appends a dictionary for blocks of other segments, whose own copies of it cannot be read.
    pub(super) fn put_dictionary(
        &self,
        shared: (&Segments, &Index),
        dictionary: &Dictionary,
    ) -> Result<u64, Error> {
        let block = (dictionary.id(), Kind::Dictionary, &dictionary.raw()[..]);
        self.append(shared, &Stored::of(&self.target.identity, block, None)?, Purpose::Reclaim)
    }

    /// Whether a block of so many bytes is to be compressed with a dictionary, where so many are known to come.
    fn may_use(&self, dictionary: &Dictionary, raw_bytes: usize, ahead_bytes: usize) -> bool {
        self.fits(dictionary)
            && match &mut lock(&self.append).active {
                Some(active) => active.may_use(dictionary, raw_bytes, ahead_bytes),
                None => append::is_worth(dictionary, ahead_bytes),
            }
    }

    /// Whether a dictionary is small enough for segments of this store.
    pub(super) fn fits(&self, dictionary: &Dictionary) -> bool {
        dictionary.raw().len() as u64 <= self.target.segment_bytes / DICTIONARY_SHARE
    }

    /// Appends a stored block, whether or not it stands in a sealed segment already, behind the dictionary that it
    /// was compressed with. Returns the bytes added.
    pub(super) fn append(
        &self,
        (segments, index): (&Segments, &Index),
        stored: &Stored<'_>,
        purpose: Purpose,
    ) -> Result<u64, Error> {
        self.check_latch()?;
        let mut append = lock(&self.append);
        let allocated = append.active.as_ref().map_or(0, Active::allocated);
        let room = self.with_space(purpose, || self.make_room(&mut append, stored));
        let full = self.latching(room)?;
        let active = append.active.as_mut().expect("make_room leaves an active segment");
        let is_new = active.entry(&stored.id()).is_none();
        let first = stored.dictionary.filter(|one| is_new && active.entry(&one.id()).is_none());
        let first = first.map_or(Ok(0), |one| {
            let block = (one.id(), Kind::Dictionary, &one.raw()[..]);
            let first = Stored::of(&self.target.identity, block, None)?;
            self.with_space(purpose, || active.append(&first.header, &first.bytes))
        });
        let appended = first.and_then(|first| {
            let added = self.with_space(purpose, || active.append(&stored.header, &stored.bytes));
            added.map(|added| first + added)
        });
        if active.allocated() != allocated {
            self.reserve.want_for(active.allocated());
        }
        append.added_bytes += *appended.as_ref().unwrap_or(&0);
        drop(append);
        let sealed = full.map_or(Ok(()), |full| self.seal(segments, index, &full));
        let added = self.latching(appended)?;
        sealed.map(|()| added)
    }

    /// Finds the space for something that is appended.
    fn with_space<T>(
        &self,
        purpose: Purpose,
        work: impl FnMut() -> Result<T, Error>,
    ) -> Result<T, Error> {
        match purpose {
            Purpose::Data => self.reserve.without(work),
            Purpose::Reclaim => self.reserve.with(work),
        }
    }

    /// Makes sure that the active segment has room for a record, and for its dictionary if it has not got it. Returns
    /// the segment that was full.
    fn make_room(
        &self,
        append: &mut Append,
        stored: &Stored<'_>,
    ) -> Result<Option<Arc<Active>>, Error> {
        let alone = record_span(stored.bytes.len());
        let dictionary_bytes = |one: &Dictionary| record_span(one.raw().len() + PAYLOAD_BYTES);
        let both = alone + stored.dictionary.map_or(0, dictionary_bytes);
        let fits = |active: &Active| {
            let dictionary = stored.dictionary.map(Dictionary::id);
            let is_here = dictionary.is_none_or(|id| active.entry(&id).is_some());
            active.fits(if is_here { alone } else { both })
        };
        if append.active.as_ref().is_some_and(fits) {
            return Ok(None);
        }
        if let Some(active) = &mut append.active {
            active.flush()?;
        }
        let following = append.next.next()?;
        let fresh = Active::create(&self.target, &self.directory, append.next, both);
        // A number is used up even by a segment that could not be started.
        append.next = following;
        let full = append.active.replace(fresh?).map(Arc::new);
        append.sealing.extend(full.clone());
        Ok(full)
    }

    /// Seals a full segment and hands it to the index.
    fn seal(&self, segments: &Segments, index: &Index, full: &Arc<Active>) -> Result<(), Error> {
        let sealed = full.seal().and_then(|size| index.add(segments, full.id).map(|()| size));
        // Whatever failed, the segment stays unsealed and commits would wait for it in vain.
        let size = sealed.inspect_err(|error| self.latch(error))?;
        let mut append = lock(&self.append);
        append.sealed.insert(full.id, size);
        append.sealing.retain(|one| one.id != full.id);
        self.sealed_one.notify_all();
        drop(append);
        // A merge writes before it removes, and what is kept back is not for it.
        if !self.reserve.is_short()
            && let Err(error) = index.merge()
        {
            tracing::warn!(%error, "index runs stay unmerged; look-ups are slower until they are");
        }
        Ok(())
    }

    /// Seals the active segment, so that all that was put stands in sealed ones, those included that others are
    /// sealing.
    pub(super) fn seal_active(&self, segments: &Segments, index: &Index) -> Result<(), Error> {
        self.check_latch()?;
        let mut append = lock(&self.append);
        if let Some(active) = &mut append.active {
            self.latching(active.flush())?;
        }
        let full = append.active.take().map(Arc::new);
        append.sealing.extend(full.clone());
        drop(append);
        full.map_or(Ok(()), |full| self.seal(segments, index, &full))?;
        self.wait_for_seals().map(drop)
    }

    /// Waits until no full segment is being sealed.
    fn wait_for_seals(&self) -> Result<MutexGuard<'_, Append>, Error> {
        let mut append = lock(&self.append);
        while !append.sealing.is_empty() {
            self.check_latch()?;
            append = sync::wait(&self.sealed_one, &self.append, append, LATCH_CHECK);
        }
        Ok(append)
    }

    /// Commits an edit of the roots, leaving out segments that hold nothing reachable any more.
    pub(super) fn commit(
        &self,
        edit: impl FnOnce(&mut Roots),
        drop_segments: &[SegmentId],
    ) -> Result<Arc<Commit>, Error> {
        self.check_latch()?;
        let ticket = {
            let mut pending = lock(&self.pending);
            let mut roots = pending.roots.clone();
            edit(&mut roots);
            check_roots(&roots)?;
            pending.roots = roots;
            pending.ticket += 1;
            pending.ticket
        };
        let mut log = lock(&self.log);
        if log.decided >= ticket && drop_segments.is_empty() {
            let failed = log.failed.iter().any(|(from, to)| (*from..=*to).contains(&ticket));
            return if failed { Err(self.group_failed()) } else { Ok(Arc::clone(&log.newest)) };
        }
        let (roots, last) = {
            let pending = lock(&self.pending);
            (pending.roots.clone(), pending.ticket)
        };
        let written = self.flush(&mut log, roots, drop_segments);
        if written.is_err() {
            let mut pending = lock(&self.pending);
            pending.roots.clone_from(&log.newest.roots);
            log.fail_through(pending.ticket);
        } else {
            log.decided = last;
        }
        written
    }

    fn group_failed(&self) -> Error {
        self.check_latch().err().unwrap_or(Error::GroupFailed)
    }

    /// Makes everything put so far durable, then the commit.
    fn flush(
        &self,
        log: &mut Log,
        roots: Roots,
        drop_segments: &[SegmentId],
    ) -> Result<Arc<Commit>, Error> {
        let (mut sealed, active, next_segment) = self.latching(self.make_durable())?;
        drop_segments.iter().for_each(|id| {
            sealed.remove(id);
        });
        let newest = Arc::clone(&log.newest);
        let mut commit = Commit {
            seq: newest.seq.next()?,
            time_ms: now_ms(),
            roots,
            segments: sealed,
            active,
            next_segment,
            hash: [0; 32],
        };
        let appended = match &mut log.file {
            Some(file) => self.latching(file.append(&newest, &mut commit))?,
            None => false,
        };
        if !appended {
            // An old log file goes for it, so anybody may have the space.
            let started =
                self.reserve.with(|| self.log_files.start(log.slot.as_ref(), &newest, &mut commit));
            let file = self.latching(started)?;
            log.slot = Some(file.slot);
            log.file = Some(file);
        }
        let commit = Arc::new(commit);
        if let Some(watched) = &mut log.watched {
            watched.add(&commit);
        }
        log.newest = Arc::clone(&commit);
        if !appended
            && let Some(slot) = &log.slot
            && let Err(error) = self.log_files.remove_others(slot.log)
        {
            tracing::warn!(%error, "an old log file is left behind");
        }
        let mut append = lock(&self.append);
        drop_segments.iter().for_each(|id| {
            append.sealed.remove(id);
        });
        Ok(commit)
    }

    /// Writes and syncs the active segment, once no full one waits for its seal.
    #[allow(clippy::type_complexity)]
    fn make_durable(
        &self,
    ) -> Result<(BTreeMap<SegmentId, u64>, Option<(SegmentId, u64)>, SegmentId), Error> {
        let mut append = self.wait_for_seals()?;
        let mut active = None;
        if let Some(segment) = &mut append.active {
            self.latching(segment.flush())?;
            active = Some((segment.id, segment.end(), segment.file()));
        }
        let (sealed, next) = (append.sealed.clone(), append.next);
        drop(append);
        if let Some((_, _, file)) = &active
            && self.target.durable
        {
            file.sync()?;
        }
        Ok((sealed, active.map(|(id, end, _)| (id, end)), next))
    }

    /// Every sealed segment that is not dropped, with its length in bytes.
    pub(super) fn sealed(&self) -> BTreeMap<SegmentId, u64> {
        lock(&self.append).sealed.clone()
    }

    /// Dropped segments that wait for their readers. Who removes some lists the readers while it has these: a
    /// reader that comes later finds a commit without them.
    pub(super) fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        lock(&self.waiting)
    }

    /// Bytes appended since opening, blocks and bytes in the segments being written, and the bytes of
    /// sealed ones.
    pub(super) fn figures(&self) -> Figures {
        let append = lock(&self.append);
        let mut figures = Figures {
            added_bytes: append.added_bytes,
            segments: append.sealed.len() as u64,
            stored_bytes: append.sealed.values().sum(),
            open_blocks: 0,
        };
        let sealing = append.sealing.iter().map(AsRef::as_ref);
        for segment in append.active.iter().chain(sealing) {
            figures.segments += 1;
            figures.stored_bytes += segment.end();
            figures.open_blocks += segment.count();
        }
        figures
    }
}

/// Figures of the writing side, in bytes and counts.
pub(super) struct Figures {
    pub(super) added_bytes: u64,
    pub(super) segments: u64,
    pub(super) stored_bytes: u64,
    pub(super) open_blocks: u64,
}

/// Bytes of a record that stores so many.
const fn record_span(stored_len: usize) -> u64 {
    aligned((RECORD_HEADER_BYTES + stored_len) as u64)
}

fn check_roots(roots: &Roots) -> Result<(), Error> {
    if roots.len() > MAX_ROOTS {
        return Err(Error::TooManyRoots { count: roots.len(), max: MAX_ROOTS });
    }
    match roots.keys().find(|name| name.len() > MAX_ROOT_NAME_BYTES) {
        Some(name) => Err(Error::RootName { len: name.len(), max: MAX_ROOT_NAME_BYTES }),
        None => Ok(()),
    }
}

/// Milliseconds since 1970, by this machine's clock.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
