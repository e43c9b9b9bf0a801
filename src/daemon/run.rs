//! The life of a daemon: start, schedule, end.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};

use super::{Answers, Error, Scrub, Signals, control};
use crate::head::Scope;
use crate::job::{self, Figures, Follow, FollowOptions, Job, PushOptions, snapshot};
use crate::source::{ReadFrom, Source};
use crate::store::Location;
use crate::store::compact::{self, Settings};

/// Share of dead bytes, in percent, at which a daemon compacts its store unless told otherwise.
pub const COMPACT_AT_PERCENT: u8 = 10;
/// Time between looks for what can go: slices out of the window, dead blocks.
const TIDY_EVERY: Duration = Duration::from_secs(10 * 60);
/// A restore window shorter than this many looks shortens the time between them.
const TIDY_PER_WINDOW: u32 = 4;
/// Shortest time between looks.
const TIDY_AT_LEAST: Duration = Duration::from_secs(1);
/// A look for dead blocks reads every inner node, so one is worth it only when the store has grown
/// by this share, in percent, since the last,
const LOOK_GROWTH_PERCENT: u64 = 10;
/// and by this much.
const LOOK_GROWTH_BYTES: u64 = 64 << 20;

/// How a daemon works.
#[derive(Debug, Clone)]
pub struct Options {
    /// The store.
    pub store: Location,
    /// The job's name; the replica set's unless given.
    pub job: Option<String>,
    /// Time between snapshots.
    pub snapshot_every: Duration,
    /// How far back any second can be restored.
    pub restore_window: Duration,
    /// Share of dead bytes above which the store is compacted, in percent; zero never.
    pub compact_at_percent: u8,
    /// How the store is checked in the background.
    pub scrub: Scrub,
    /// Which namespaces to back up from now on; as before if none.
    pub scope: Option<Scope>,
    /// Scan anew although the job has a head.
    pub rescan: bool,
    /// Scan anew without being asked where nothing else helps.
    pub heal: bool,
    /// The most that scans may read per second, in bytes of documents; without bound if none.
    pub scan_bytes_per_second: Option<u64>,
    /// Where to push what is stored, if anywhere.
    pub push: Option<PushOptions>,
}

/// A daemon whose jobs run.
pub struct Daemon {
    follow: Arc<Follow>,
    answers: Answers,
    options: Options,
}

impl Daemon {
    /// Connects, opens the store, starts to follow and to answer.
    ///
    /// # Errors
    /// Those of the source and the store, among them that another process writes the store.
    pub async fn start(uri: &str, from: ReadFrom, options: Options) -> Result<Self, Error> {
        let source = Source::connect(uri, from).await?;
        if let Some(limit) = options.scan_bytes_per_second {
            source.limit_scans(limit);
        }
        if let Some(push) = &options.push {
            job::prepare_store(&options.store, push).await?;
        }
        let job =
            Job::open_or_create(&options.store, options.job.as_deref(), &source, false).await?;
        let follow_options = FollowOptions {
            restore_window: Some(options.restore_window),
            scope: options.scope.clone(),
            rescan: options.rescan,
            new_timeline: false,
            heal: options.heal,
            patient: true,
            push: options.push.clone(),
        };
        tracing::info!(job = job.name(), store = %options.store.dir.display(), "daemon started");
        let follow = Arc::new(Follow::start(job, source, follow_options).await?);
        let answers = Answers::start(&options.store.dir, follow.clone(), true)?;
        Ok(Self { follow, answers, options })
    }

    /// The live figures.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.follow.figures()
    }

    /// Follows until a signal comes or a worker fails for good, then flushes and ends.
    ///
    /// # Errors
    /// The failure of a worker, or of the last flush.
    pub async fn run(self, mut signals: Signals) -> Result<(), Error> {
        let outcome = tokio::select! {
            () = signals.stop() => Ok(()),
            error = self.follow.failed() => Err(Error::Job(error)),
            () = self.take_snapshots() => Ok(()),
            () = self.tidy() => Ok(()),
            () = self.options.scrub.run(self.options.store.clone()) => Ok(()),
        };
        tracing::info!(job = self.follow.job().name(), "stopping");
        self.follow.job().store().stop_compactions();
        self.answers.stop().await;
        let stopped = self.follow.stop().await.map_err(Error::Job);
        outcome.and(stopped)
    }

    /// Takes a snapshot as soon as there is a head, then at the interval.
    async fn take_snapshots(&self) {
        let mut clock = interval(self.options.snapshot_every);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            clock.tick().await;
            match self.follow.snapshot().await {
                Ok(taken) => tracing::info!(
                    snapshot = taken.id,
                    documents = taken.documents,
                    added_bytes = taken.added_bytes,
                    "snapshot taken"
                ),
                Err(error) => {
                    let error = Error::Job(error).in_one_line();
                    tracing::error!("no snapshot was taken, the next is due as usual: {error}");
                }
            }
        }
    }

    /// Drops slices out of the restore window, and compacts where it is worth it.
    async fn tidy(&self) {
        let often = self.options.restore_window / TIDY_PER_WINDOW;
        let every = often.clamp(TIDY_AT_LEAST, TIDY_EVERY);
        let mut clock = interval_at(Instant::now() + every, every);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looked_at = self.follow.job().store().stats().stored_bytes;
        loop {
            clock.tick().await;
            let (job, share) = (self.follow.job().clone(), self.options.compact_at_percent);
            // A compaction would wait for the scan to end, unless the disk is full.
            let busy = !self.follow.has_head() && !job.store().is_full();
            let share = if busy { 0 } else { share };
            let tidied =
                tokio::task::spawn_blocking(move || tidy_once(&job, share, looked_at)).await;
            match tidied {
                Ok(Ok(stored_bytes)) => looked_at = stored_bytes,
                Ok(Err(error)) => tracing::error!("tidying failed: {}", error.in_one_line()),
                Err(error) => tracing::error!("tidying failed: {error}"),
            }
        }
    }
}

/// Returns the size of the store when it was last looked through for dead blocks.
fn tidy_once(job: &Job, compact_at_percent: u8, looked_at: u64) -> Result<u64, Error> {
    let expired = snapshot::expire_slices(job)?;
    if expired > 0 {
        tracing::info!(job = job.name(), expired, "oplog slices left the restore window");
    }
    compact::release(job.store()).map_err(Error::Store)?;
    let growth = (looked_at / 100 * LOOK_GROWTH_PERCENT).max(LOOK_GROWTH_BYTES);
    let full = job.store().is_full();
    let grown = job.store().stats().stored_bytes >= looked_at + growth;
    if compact_at_percent == 0 || !(full || grown) {
        return Ok(looked_at);
    }
    let settings = if full {
        tracing::warn!("the disk is full: what nothing needs is removed");
        Settings::thorough()
    } else {
        let dead_percent_max = u64::from(compact_at_percent);
        let settings = Settings { dead_percent_max, ..Settings::default() };
        let plan = control::compact(job.store(), true, settings)?;
        let share = u128::from(plan.dead_bytes) * 100;
        if share <= u128::from(plan.stored_bytes_before) * u128::from(compact_at_percent) {
            return Ok(plan.stored_bytes_before);
        }
        settings
    };
    let done = control::compact(job.store(), false, settings)?;
    tracing::info!(
        before = done.stored_bytes_before,
        after = done.stored_bytes_after,
        "store compacted"
    );
    Ok(done.stored_bytes_after)
}
