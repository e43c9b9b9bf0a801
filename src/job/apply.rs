//! The applier: slices read back from the store, applied to the head, flushed.
//!
//! It is one thread that owns the open head. Normal running, catching up and recovery after a crash
//! are the same: take the first slice after the head's position, apply, go on. A head that failed is
//! dropped; the committed one and the slices are all there is to it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::counted::Counted;
use super::slices;
use super::{Activity, Error, Figures, Job, SnapshotInfo, State, Stopped, scan, snapshot};
use crate::head::{self, Head};
use crate::oplog::slice::{Slice, entries};
use crate::oplog::{OpTime, Position, Ts, position};
use crate::tree;

/// Bytes of changes that the head holds in memory before it writes a run to scratch.
pub(super) const CHANGE_BUDGET_BYTES: usize = 64 << 20;
/// Bytes of oplog applied since the last flush that make another due: bounds what a restart has to
/// apply again, also where the same documents change all the time and little is pending.
const REPLAY_BYTES_MAX: u64 = 1 << 30;
/// How long the applier sleeps when nothing wakes it.
const IDLE: Duration = Duration::from_secs(1);

/// Pause after an error that may pass, such as a full disk.
const RETRY_PAUSE: Duration = Duration::from_secs(10);

/// A snapshot asked for.
struct Wanted {
    /// It must have everything up to here.
    at_least: OpTime,
    reply: oneshot::Sender<Result<SnapshotInfo, Error>>,
}

/// What the applier is asked to do.
#[derive(Default)]
struct Letters {
    snapshots: Vec<Wanted>,
    /// There are new slices.
    slices: bool,
    /// Flush and end.
    stop: bool,
    /// Nobody reads letters any more.
    closed: bool,
}

impl Letters {
    fn is_empty(&self) -> bool {
        self.snapshots.is_empty() && !self.slices && !self.stop
    }
}

#[derive(Default)]
struct Mailbox {
    letters: Mutex<Letters>,
    woken: Condvar,
}

/// Why an applier stands still for good.
#[derive(Debug, Clone)]
pub struct Halted {
    /// The last entry applied.
    pub after: OpTime,
    /// The error.
    pub error: Arc<Error>,
}

/// A running applier.
pub struct Applier {
    mailbox: Arc<Mailbox>,
    halted: watch::Receiver<Option<Halted>>,
    absent: watch::Receiver<Vec<String>>,
    thread: tokio::sync::Mutex<Option<JoinHandle<Result<(), Error>>>>,
}

impl Applier {
    /// Starts applying from the job's committed state: its head, or its finished scan.
    pub fn start(
        job: Job,
        figures: Figures,
        mut received: watch::Receiver<Option<Position>>,
    ) -> Self {
        let mailbox = Arc::new(Mailbox::default());
        let waker = mailbox.clone();
        tokio::spawn(async move {
            while received.changed().await.is_ok() {
                waker.leave(|letters| letters.slices = true);
            }
        });
        let (sender, halted) = watch::channel(None);
        let (missing, absent) = watch::channel(Vec::new());
        let worker = Worker::new(job, figures, mailbox.clone(), sender, missing);
        let thread = tokio::task::spawn_blocking(move || worker.run());
        Self { mailbox, halted, absent, thread: tokio::sync::Mutex::new(Some(thread)) }
    }

    /// Returns the names of collections that are to be backed up and whose documents are missing, once
    /// there are any.
    pub async fn absent(&self) -> Vec<String> {
        let mut absent = self.absent.clone();
        let found = absent.wait_for(|names| !names.is_empty()).await.map(|names| names.clone());
        match found {
            Ok(names) => names,
            Err(_) => std::future::pending().await,
        }
    }

    /// Whether documents of collections that are to be backed up are missing from what is applied.
    pub fn is_lacking(&self) -> bool {
        !self.absent.borrow().is_empty()
    }

    /// Returns once the applier stands still for good; never if it is stopped before.
    pub async fn halted(&self) -> Halted {
        let mut halted = self.halted.clone();
        let found = halted.wait_for(Option::is_some).await.ok().and_then(|found| found.clone());
        match found {
            Some(halted) => halted,
            None => std::future::pending().await,
        }
    }

    /// Why it stands still, if it does.
    pub fn is_halted(&self) -> Option<Halted> {
        self.halted.borrow().clone()
    }

    /// Takes a snapshot once everything up to `at_least` is applied.
    pub async fn snapshot(&self, job: &Job, at_least: OpTime) -> Result<SnapshotInfo, Error> {
        let (reply, answer) = oneshot::channel();
        let wanted = Wanted { at_least, reply };
        self.mailbox.leave(|letters| {
            if !letters.closed {
                letters.snapshots.push(wanted);
            }
        });
        let lost = |_| Error::Interrupted { job: job.name().to_owned() };
        answer.await.map_err(lost)?
    }

    /// Flushes, commits and ends. A second call finds nothing to do.
    pub async fn stop(&self, job: &Job) -> Result<(), Error> {
        self.mailbox.leave(|letters| letters.stop = true);
        let lost = |_| Error::WorkerLost { job: job.name().to_owned(), worker: "applier" };
        match self.thread.lock().await.take() {
            Some(thread) => thread.await.map_err(lost)?,
            None => Ok(()),
        }
    }
}

/// A forgotten applier ends too.
impl Drop for Applier {
    fn drop(&mut self) {
        self.mailbox.leave(|letters| letters.stop = true);
    }
}

impl Mailbox {
    fn leave(&self, change: impl FnOnce(&mut Letters)) {
        change(&mut self.letters.lock().unwrap_or_else(PoisonError::into_inner));
        self.woken.notify_all();
    }

    /// Drops what came and what is to come: who waits for an answer is told that there will be none.
    fn close(&self) {
        self.leave(|letters| *letters = Letters { closed: true, ..Letters::default() });
    }

    /// Takes what came, waiting a moment for it if asked to.
    fn collect(&self, wait: bool) -> Letters {
        let mut letters = self.letters.lock().unwrap_or_else(PoisonError::into_inner);
        if wait && letters.is_empty() {
            let woken = self.woken.wait_timeout(letters, IDLE);
            letters = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        std::mem::take(&mut *letters)
    }
}

/// Closes the mailbox of an applier when its thread ends, in whatever way.
struct Closing(Arc<Mailbox>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The applier's thread.
struct Worker {
    job: Job,
    figures: Figures,
    mailbox: Arc<Mailbox>,
    halted: watch::Sender<Option<Halted>>,
    absent: watch::Sender<Vec<String>>,
    /// Snapshots asked for and not reached yet.
    waiting: Vec<Wanted>,
    /// The last entry applied to the open head.
    reached: OpTime,
    stopping: bool,
}

/// The open head and how much is not flushed.
struct Open {
    head: Head,
    /// First timestamp that the next slice may begin with.
    next: Ts,
    /// From where on entries before the base of a scan are collected: a slice may begin before it.
    preload_from: Option<OpTime>,
    /// An entry that must be met before any above it: where the oplog of a scan begins, then its base.
    /// Without them entries are missing, or they are of another history than what was scanned.
    awaited: Option<OpTime>,
    /// What was scanned beside the head, until the head is where that scan began.
    joining: Option<Joining>,
    /// The end of the last slice; none before the first of a scan.
    last: Option<OpTime>,
    unflushed_bytes: u64,
}

/// A finished scan of what the head does not hold.
struct Joining {
    /// Entries above this are applied over what is scanned.
    base: OpTime,
    progress: tree::Root,
}

impl Worker {
    fn new(
        job: Job,
        figures: Figures,
        mailbox: Arc<Mailbox>,
        halted: watch::Sender<Option<Halted>>,
        absent: watch::Sender<Vec<String>>,
    ) -> Self {
        let (waiting, reached) = (Vec::new(), OpTime::NULL);
        Self { job, figures, mailbox, halted, absent, waiting, reached, stopping: false }
    }

    /// Applies until told to stop. An error that may pass is waited out. An entry that cannot be
    /// applied does not end it: what waits is told why, the reason becomes part of the job's state,
    /// and slices go on being stored.
    fn run(mut self) -> Result<(), Error> {
        let _closing = Closing(self.mailbox.clone());
        loop {
            match self.apply_or_panic() {
                Ok(()) => return Ok(()),
                Err(error) if error.is_transient() && !self.stopping => self.pause(error),
                Err(error) => return self.stand_still(error),
            }
        }
    }

    /// A panic must not leave everybody waiting for a thread that is gone. What it may have left half
    /// done is the open head, which goes with it.
    fn apply_or_panic(&mut self) -> Result<(), Error> {
        let work = AssertUnwindSafe(|| self.apply_until_stopped());
        catch_unwind(work).unwrap_or_else(|_| {
            Err(Error::WorkerLost { job: self.job.name().to_owned(), worker: "applier" })
        })
    }

    /// Tells who waits now, and lets some time pass.
    fn pause(&mut self, error: Error) {
        let seconds = RETRY_PAUSE.as_secs();
        tracing::warn!(job = self.job.name(), seconds, "applying goes on after a pause: {error}");
        self.refuse_waiting(&Arc::new(error));
        let since = Instant::now();
        while !self.stopping && since.elapsed() < RETRY_PAUSE {
            self.hear(true);
        }
    }

    fn refuse_waiting(&mut self, error: &Arc<Error>) {
        let after = self.reached;
        for wanted in self.waiting.drain(..) {
            // Who asked may be gone.
            let _ = wanted.reply.send(Err(Error::Stopped { after, source: error.clone() }));
        }
    }

    fn apply_until_stopped(&mut self) -> Result<(), Error> {
        let mut open = self.open()?;
        self.reached = open.head.position().optime;
        self.tell_absent(&open);
        if self.job.state().stopped.is_some() {
            self.set_stopped(None)?;
        }
        loop {
            let idle = !self.apply_next(&mut open)?;
            self.hear(idle);
            self.serve(&mut open)?;
            if self.stopping {
                self.figures.activity(Activity::Stopping);
                return self.flush(&mut open).map(drop);
            }
        }
    }

    /// Opens the committed head, or makes one of the finished scan.
    fn open(&self) -> Result<Open, Error> {
        let _session = self.job.store().session();
        let state = self.job.state();
        let missing = || Error::NotConsistent { job: self.job.name().to_owned() };
        match (&state.head, &state.scan) {
            (Some(root), scan) => {
                let mut head = Head::load(self.blocks(), self.config(&state), root)?;
                let mut joining = None;
                if let Some(scan) = scan {
                    let (base, end) = (scan.base.optime, scan.end.ok_or_else(missing)?);
                    head.expect(end.optime.max(base));
                    joining = Some(Joining { base, progress: scan.progress });
                }
                let last = root.position.optime;
                let (next, last) = (last.ts.next(), Some(last));
                let (preload_from, awaited, unflushed_bytes) = (None, None, 0);
                let mut open =
                    Open { head, next, preload_from, awaited, joining, last, unflushed_bytes };
                self.join(&mut open, |base| base <= root.position.optime)?;
                Ok(open)
            }
            (None, Some(scan)) => {
                let end = scan.end.ok_or_else(missing)?;
                let scanned = scan::scanned(self.job.store(), &scan.progress)?;
                let config = self.config(&state);
                let head = Head::from_scan(self.blocks(), config, scan.base, end.optime, scanned)?;
                let first = state.slices.first_reaching(self.job.store(), scan.begin_fetch.ts)?;
                // Where the tail has not come so far yet, the slice that will may begin before.
                let next = match (first, state.received) {
                    (Some(first), _) => first.header.first.optime.ts,
                    (None, Some(received)) => received.optime.ts.next(),
                    (None, None) => scan.begin_fetch.ts,
                };
                let begin = Some(scan.begin_fetch);
                let (preload_from, awaited) = (begin, begin);
                let (joining, last, unflushed_bytes) = (None, None, 0);
                Ok(Open { head, next, preload_from, awaited, joining, last, unflushed_bytes })
            }
            (None, None) => Err(missing()),
        }
    }

    fn blocks(&self) -> Arc<dyn crate::block::BlockRead> {
        Arc::new(self.job.store().clone())
    }

    fn config(&self, state: &State) -> head::Config {
        head::Config {
            salt: self.job.store().salt(),
            scope: state.scope.clone(),
            scratch_dir: self.job.store().scratch_dir(),
            seals_scratch: self.job.store().is_encrypted(),
            change_budget_bytes: CHANGE_BUDGET_BYTES,
            trims_capped_unlogged: is_before_5(&state.identity.server_version),
        }
    }

    /// Applies the next slice if there is one. The session keeps the slices of the state at hand from
    /// being compacted away while they are read.
    fn apply_next(&mut self, open: &mut Open) -> Result<bool, Error> {
        let store = self.job.store().clone();
        let _session = store.session();
        let Some(slice) = self.job.state().slices.first_from(&store, open.next)? else {
            self.figures.activity(Activity::Following);
            return Ok(false);
        };
        let gap = |after| Error::Gap { job: self.job.name().to_owned(), after };
        if let Some(last) = open.last
            && slice.header.follows(last).is_err()
        {
            return Err(gap(last));
        }
        self.figures.activity(Activity::Applying);
        self.apply(open, &slice)?;
        if open.head.flush_due() || open.unflushed_bytes >= REPLAY_BYTES_MAX {
            self.flush(open)?;
        }
        Ok(true)
    }

    fn apply(&mut self, open: &mut Open, slice: &Slice) -> Result<(), Error> {
        let bytes = slices::read(slice, self.job.store())?;
        let base = open.head.position().optime;
        for entry in entries(&bytes) {
            let entry = entry?;
            let at = position(entry)?.optime;
            if let Some(awaited) = open.awaited.filter(|awaited| *awaited <= at) {
                if awaited < at {
                    let job = self.job.name().to_owned();
                    return Err(Error::Gap { job, after: awaited });
                }
                open.awaited = Some(base).filter(|base| at < *base);
            }
            if at > base {
                self.join(open, |base| base < at)?;
                open.head.apply(entry)?;
                self.reached = at;
            } else if open.preload_from.is_some_and(|from| at >= from) {
                open.head.preload(entry)?;
            }
        }
        self.join(open, |base| base <= slice.header.last.optime)?;
        self.tell_absent(open);
        let last = slice.header.last;
        open.next = last.optime.ts.next();
        open.last = Some(last.optime);
        open.unflushed_bytes += bytes.len() as u64;
        self.figures.applied(slice.header.entries, last);
        Ok(())
    }

    /// While a scan is caught up with, a drop that is still to come may explain it.
    fn tell_absent(&self, open: &Open) {
        if open.head.consistent_from().is_none() {
            return;
        }
        let names: Vec<String> = open.head.absent().values().cloned().collect();
        self.absent.send_if_modified(|told| {
            let news = *told != names;
            *told = names;
            news
        });
    }

    /// Takes what was scanned beside the head once the head is where that scan began.
    fn join(&self, open: &mut Open, is_reached: impl FnOnce(OpTime) -> bool) -> Result<(), Error> {
        if let Some(joining) = open.joining.take_if(|joining| is_reached(joining.base)) {
            open.head.adopt(scan::scanned(self.job.store(), &joining.progress)?)?;
        }
        Ok(())
    }

    /// Flushes and commits the head, unless the committed one is as new. While entries at or before
    /// the base of a scan are still to come, the head is not complete and nothing is written.
    fn flush(&self, open: &mut Open) -> Result<(), Error> {
        let position = open.head.position();
        let complete = open.last.is_some_and(|last| last >= position.optime);
        let joined = open.joining.is_none();
        let state = self.job.state();
        let committed = state.head.is_some_and(|head| head.position == position)
            && (state.scan.is_none() || !joined);
        if !complete || (committed && !open.head.is_narrowed()) {
            return Ok(());
        }
        self.figures.activity(Activity::Flushing);
        let store = self.job.store();
        let session = store.session();
        let counted = Counted::new(store);
        let root = open.head.flush(&counted)?;
        open.unflushed_bytes = 0;
        self.job.update(&session, |state| {
            state.added_bytes += counted.added_bytes();
            state.scan = state.scan.take().filter(|_| !joined);
            state.head = Some(root);
            Ok(())
        })
    }

    fn hear(&mut self, wait: bool) {
        let letters = self.mailbox.collect(wait && !self.stopping);
        self.waiting.extend(letters.snapshots);
        self.stopping |= letters.stop;
    }

    /// Takes the snapshots whose optime is reached.
    fn serve(&mut self, open: &mut Open) -> Result<(), Error> {
        let Some(last) = open.last else { return Ok(()) };
        if !self.waiting.iter().any(|wanted| wanted.at_least <= last) {
            return Ok(());
        }
        self.flush(open)?;
        for wanted in self.waiting.extract_if(.., |wanted| wanted.at_least <= last) {
            // Who asked may be gone; the snapshot stands.
            let _ = wanted.reply.send(snapshot::take(&self.job));
        }
        Ok(())
    }

    /// Tells everybody who waits, now and later, why nothing is applied, until told to stop.
    fn stand_still(mut self, error: Error) -> Result<(), Error> {
        let after = self.reached;
        let error = Arc::new(error);
        tracing::error!(job = self.job.name(), %after, "applying stopped: {error}");
        let recorded = self.set_stopped(Some(Stopped {
            reason: error.to_string(),
            after: error.is_of_entry().then_some(after),
            unknown_kind: error.is_of_unknown_kind(),
        }));
        self.halted.send_replace(Some(Halted { after, error: error.clone() }));
        loop {
            self.refuse_waiting(&error);
            if self.stopping {
                return recorded.and(Err(Error::Stopped { after, source: error }));
            }
            self.hear(true);
        }
    }

    fn set_stopped(&self, stopped: Option<Stopped>) -> Result<(), Error> {
        self.job.update(&self.job.store().session(), |state| {
            state.stopped = stopped;
            Ok(())
        })
    }
}

/// Whether a server is older than 5.0; a version that cannot be read counts as new.
pub(super) fn is_before_5(version: &str) -> bool {
    version.split('.').next().and_then(|major| major.parse::<u32>().ok()).is_some_and(|m| m < 5)
}

/// Takes a snapshot of a job that nobody follows: everything its slices hold is applied first.
///
/// # Errors
/// [`Error::NotConsistent`], [`Error::Stopped`], and those of the store.
pub fn snapshot_of_what_is_stored(job: Job) -> Result<SnapshotInfo, Error> {
    let ((halted, _), (absent, _)) = (watch::channel(None), watch::channel(Vec::new()));
    let mut worker = Worker::new(job, Figures::default(), Arc::default(), halted, absent);
    let mut open = worker.open()?;
    while worker.apply_next(&mut open)? {}
    worker.flush(&mut open)?;
    snapshot::take(&worker.job)
}
