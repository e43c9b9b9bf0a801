//! Pushing a job to a blockstore, beside its other workers and in the way of none.
//!
//! Two tasks run over one binding of the job: slices go as they come, snapshots as they are taken, each in a session of its own, so
//! that a first snapshot, which may take hours, holds no slice up. What is pushed is read from the store's committed state, so there is
//! nothing to remember here: what the blockstore has is what it says it has.
//!
//! Order of writes: the blocks of a slice, then the slice; the slices up to a snapshot and its blocks, then the snapshot. Whatever
//! goes wrong (an election, a lost session, another daemon) ends the attempt, and the next begins with asking what is there: what
//! was sent is not sent again.

mod figures;
mod slices;
mod snapshots;

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use figures::{RemoteInfo, RemoteSnapshot};

use super::{Error, Job, blocking, in_one_line};
use crate::blockstore::{self, Blockstore, Bound, Daemon, Pace, Place, RENEW_EVERY, renewals};
use crate::oplog::OpTime;
use crate::store::{Location, Store};
use figures::Figures;

/// First pause after a failure.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// Longest pause between attempts.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Time between looks for something to push.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long leaving the blockstore in order may take: what is not done then is done by leases.
const LEAVE_LIMIT: Duration = Duration::from_secs(5);

/// Where to push, and how.
#[derive(Debug, Clone)]
pub struct PushOptions {
    /// The blockstore.
    pub place: Place,
    /// The most that is sent per second, in bytes; without bound if none.
    pub bytes_per_second: Option<u64>,
}

/// Makes the store for a job that is to be pushed, where it does not exist yet: it takes its salt and keys from the blockstore, so that what others
/// have pushed there is not pushed again.
///
/// # Errors
/// Those of reaching the blockstore and of creating the store.
pub async fn prepare_store(location: &Location, push: &PushOptions) -> Result<(), Error> {
    if Store::exists(&location.dir) {
        return Ok(());
    }
    let (vault, place) = (Blockstore::vault_at(&push.place).await?, location.clone());
    let made = blocking("opener", "a new store", move || {
        Ok(match vault {
            Some(vault) => vault.create_store(&place.dir, place.options())?,
            None => Store::create(&place.dir, place.options())?,
        })
    });
    // The first makes the repository now: of two at the same moment one is told before it has copied anything.
    Blockstore::open_for(&push.place, &made.await?).await?;
    Ok(())
}

/// A job that is pushed until it is stopped.
pub struct Push {
    figures: Figures,
    stop: watch::Sender<bool>,
    task: tokio::sync::Mutex<JoinHandle<()>>,
}

impl Push {
    /// Starts to push.
    #[must_use]
    pub fn start(job: Job, options: PushOptions) -> Self {
        let figures = Figures::default();
        let (stop, stopped) = watch::channel(false);
        let pace = Pace::new(options.bytes_per_second);
        let daemon = Daemon::new(job.store().uuid());
        let place = options.place;
        let pusher = Pusher { job, place, daemon, pace, figures: figures.clone() };
        Self { figures, stop, task: tokio::sync::Mutex::new(tokio::spawn(pusher.run(stopped))) }
    }

    /// How it stands.
    #[must_use]
    pub fn info(&self) -> RemoteInfo {
        self.figures.info()
    }

    /// Waits until a snapshot is there with all that it needs, as long as something goes on.
    ///
    /// # Errors
    /// The last failure, if nothing was pushed for `patience`.
    pub async fn wait_for(&self, snapshot: &str, patience: Duration) -> Result<(), Error> {
        self.figures.wait_for(snapshot, patience).await
    }

    /// Ends, leaving the job to whoever takes it.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        if let Err(error) = (&mut *self.task.lock().await).await {
            tracing::warn!("the push ended badly: {error}");
        }
    }
}

impl Drop for Push {
    fn drop(&mut self) {
        self.task.get_mut().abort();
    }
}

/// What the tasks share.
#[derive(Clone)]
struct Pusher {
    job: Job,
    place: Place,
    /// As others know this process.
    daemon: Daemon,
    pace: Pace,
    figures: Figures,
}

/// A job that is bound to this daemon.
struct Binding {
    blockstore: Blockstore,
    daemon: Daemon,
    bound: Bound,
    /// The oplog of the job is there up to here.
    pushed: watch::Sender<OpTime>,
}

impl Pusher {
    /// Pushes until told to stop; leaves the blockstore in order if that can be done.
    async fn run(self, mut stopped: watch::Receiver<bool>) {
        let mut known: Option<Blockstore> = None;
        tokio::select! {
            () = self.push_on(&mut known) => {}
            _ = stopped.wait_for(|stopped| *stopped) => {}
        }
        let Some(blockstore) = known else { return };
        let leaving = self.daemon.leave(blockstore.connection(), self.job.name());
        match tokio::time::timeout(LEAVE_LIMIT, leaving).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the blockstore was left without a word"),
            Err(_) => tracing::debug!("the blockstore was left without a word"),
        }
    }

    /// Pushes, again and again where it fails. The job is not given away between two attempts: who waits for it is to get it when this
    /// daemon is dead, not when it stumbles.
    async fn push_on(&self, known: &mut Option<Blockstore>) {
        let mut pause = RETRY_FIRST;
        loop {
            let before = self.figures.steps();
            let Err(error) = self.push(known).await else { return };
            if self.figures.steps() != before {
                pause = RETRY_FIRST;
            }
            let (job, seconds) = (self.job.name(), pause.as_secs());
            let told = in_one_line(&error);
            tracing::warn!(job, seconds, "pushing goes on after a pause: {told}");
            self.figures.failed(&error);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// Pushes until something fails.
    async fn push(&self, known: &mut Option<Blockstore>) -> Result<(), Error> {
        let blockstore = Blockstore::open_for(&self.place, self.job.store()).await?;
        self.figures.connected(&blockstore.name());
        let blockstore = known.insert(blockstore);
        tokio::select! {
            ended = self.push_bound(blockstore) => ended,
            error = beat(blockstore, &self.daemon) => Err(error.into()),
        }
    }

    async fn push_bound(&self, blockstore: &Blockstore) -> Result<(), Error> {
        let (connection, daemon) = (blockstore.connection(), self.daemon.clone());
        daemon.start(connection).await?;
        let bound = Bound::take(connection, &daemon, self.job.name()).await?;
        daemon.end_earlier(connection).await?;
        let blockstore = blockstore.clone();
        let (pushed, _) = watch::channel(OpTime::NULL);
        let binding = Binding { blockstore, daemon, bound, pushed };
        tokio::try_join!(self.push_slices(&binding), self.push_snapshots(&binding)).map(drop)
    }

    /// Does something with the job off the asynchronous threads.
    async fn with_job<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Job) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let job = self.job.clone();
        blocking("push", self.job.name(), move || work(&job)).await
    }
}

/// Shows that the daemon is alive, until that fails.
async fn beat(blockstore: &Blockstore, daemon: &Daemon) -> blockstore::Error {
    let mut clock = renewals();
    loop {
        clock.tick().await;
        // One that is stuck at a member that has fallen silent must not keep the next from another.
        match tokio::time::timeout(RENEW_EVERY, daemon.beat(blockstore.connection())).await {
            // One that is late may still be in time.
            Ok(Err(error)) if error.is_transient() => tracing::debug!(%error, "no beat"),
            Ok(Err(error)) => return error,
            Err(_) => tracing::debug!("no beat in time"),
            Ok(Ok(())) => {}
        }
    }
}
