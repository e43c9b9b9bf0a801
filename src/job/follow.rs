//! Following a source: the workers of a job, started, watched and stopped together.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::apply::Applier;
use super::{
    Activity, Error, Figures, Job, ScanState, SnapshotInfo, blocking, scan, snapshot, tail,
};
use crate::oplog::Position;
use crate::source::Source;

/// First pause after a failure of the source that may pass.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// Longest pause between attempts to reach the source.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// How to follow a source.
#[derive(Debug, Clone, Default)]
pub struct FollowOptions {
    /// How far back any second can be restored; as before if none.
    pub restore_window: Option<Duration>,
    /// Scan anew although the job has a head. Snapshots stay.
    pub rescan: bool,
    /// Whether to wait for a source that does not answer, instead of failing.
    pub patient: bool,
}

/// How far the workers are.
#[derive(Clone)]
enum Stage {
    /// There is no head yet.
    Scanning,
    /// The applier runs.
    Applying,
    /// A worker failed.
    Failed(Arc<Error>),
}

/// The running workers of a job. Stop them with [`Follow::stop`]; dropping them loses nothing either,
/// but what was applied is applied again.
pub struct Follow {
    job: Job,
    source: Source,
    figures: Figures,
    stage: watch::Receiver<Stage>,
    applier: Arc<OnceLock<Applier>>,
    workers: tokio::sync::Mutex<JoinSet<()>>,
}

impl Follow {
    /// Starts the workers where the job's state stands.
    ///
    /// # Errors
    /// Those of choosing where a first scan starts, and of the store.
    pub async fn start(job: Job, source: Source, options: FollowOptions) -> Result<Self, Error> {
        if let Some(window) = options.restore_window {
            let owner = job.clone();
            blocking("opener", job.name(), move || snapshot::set_window(&owner, window)).await?;
        }
        let state = job.state();
        if options.rescan || (state.scan.is_none() && state.head.is_none()) {
            begin_scan(&job, &source).await?;
        }
        let figures = Figures::default();
        let (received, heard) = watch::channel(None);
        let (stage, watched) = watch::channel(Stage::Scanning);
        let stage = Arc::new(stage);
        let mut workers = JoinSet::new();
        let applier = Arc::new(OnceLock::new());
        let crew = Crew { job, source, figures, patient: options.patient, stage, applier };
        workers.spawn(crew.clone().tail(received));
        workers.spawn(crew.clone().lead(heard));
        let Crew { job, source, figures, applier, .. } = crew;
        let workers = tokio::sync::Mutex::new(workers);
        Ok(Self { job, source, figures, stage: watched, applier, workers })
    }

    /// The job.
    #[must_use]
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// The live figures.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.figures.clone()
    }

    /// Takes a snapshot that has everything which is majority-committed at the source now. Waits
    /// for an initial sync to end.
    ///
    /// # Errors
    /// [`Error::Stopped`], [`Error::Background`] if a worker failed, those of the source.
    pub async fn snapshot(&self) -> Result<SnapshotInfo, Error> {
        let applier = self.applier().await?;
        let newest = self.source.newest_majority().await?;
        self.figures.newest(newest);
        tokio::select! {
            taken = applier.snapshot(&self.job, newest.optime) => taken,
            error = self.failed() => Err(error),
        }
    }

    /// Whether the initial sync is over, so that a snapshot would not have to wait for it.
    #[must_use]
    pub fn has_head(&self) -> bool {
        matches!(*self.stage.borrow(), Stage::Applying)
    }

    /// Returns when a worker has failed for good.
    pub async fn failed(&self) -> Error {
        let mut stage = self.stage.clone();
        let failed = stage.wait_for(|stage| matches!(stage, Stage::Failed(_))).await;
        match failed.as_deref() {
            Ok(Stage::Failed(error)) => Error::Background(error.clone()),
            _ => Error::Interrupted { job: self.job.name().to_owned() },
        }
    }

    /// Stops the workers: what is applied is flushed and committed, what is not is in slices.
    ///
    /// # Errors
    /// Those of the last flush; the failure of a worker was told before.
    pub async fn stop(&self) -> Result<(), Error> {
        self.figures.activity(Activity::Stopping);
        self.workers.lock().await.shutdown().await;
        match self.applier.get() {
            Some(applier) => applier.stop(&self.job).await,
            None => Ok(()),
        }
    }

    async fn applier(&self) -> Result<&Applier, Error> {
        let mut stage = self.stage.clone();
        let settled = stage.wait_for(|stage| !matches!(stage, Stage::Scanning)).await;
        if let Ok(Stage::Failed(error)) = settled.as_deref() {
            return Err(Error::Background(error.clone()));
        }
        let interrupted = || Error::Interrupted { job: self.job.name().to_owned() };
        self.applier.get().ok_or_else(interrupted)
    }
}

/// Chooses where a scan starts, and commits it.
async fn begin_scan(job: &Job, source: &Source) -> Result<(), Error> {
    let start = source.start_point().await?;
    let owner = job.clone();
    blocking("opener", job.name(), move || {
        let store = owner.store();
        owner.update(&store.session(), |state| {
            state.scan = Some(ScanState::new(start));
            state.head = None;
            state.received = None;
            // The new slices begin here; old ones between them would break their chain.
            state.slices.cut_off(store, store.salt(), start.begin_fetch)
        })
    })
    .await
}

/// What every worker has.
#[derive(Clone)]
struct Crew {
    job: Job,
    source: Source,
    figures: Figures,
    patient: bool,
    stage: Arc<watch::Sender<Stage>>,
    /// Set once, when there is a head.
    applier: Arc<OnceLock<Applier>>,
}

impl Crew {
    /// Tails until it fails for good.
    async fn tail(self, received: watch::Sender<Option<Position>>) {
        let mut pause = RETRY_FIRST;
        loop {
            let before = self.job.state().received;
            let Err(error) = tail::run(&self.job, &self.source, &self.figures, &received).await
            else {
                return;
            };
            if self.job.state().received != before {
                pause = RETRY_FIRST;
            }
            if !self.retry("tail", &error, &mut pause).await {
                return self.fail(error);
            }
        }
    }

    /// Scans if there is no head, then starts the applier.
    async fn lead(self, received: watch::Receiver<Option<Position>>) {
        let mut pause = RETRY_FIRST;
        while self.job.state().scan.is_some_and(|scan| scan.end.is_none()) {
            if let Err(error) = scan::run(&self.job, &self.source, &self.figures).await
                && !self.retry("scan", &error, &mut pause).await
            {
                return self.fail(error);
            }
        }
        self.applier
            .get_or_init(|| Applier::start(self.job.clone(), self.figures.clone(), received));
        self.stage.send_if_modified(|stage| {
            let scanning = matches!(stage, Stage::Scanning);
            if scanning {
                *stage = Stage::Applying;
            }
            scanning
        });
    }

    /// Waits before another attempt, if one makes sense.
    async fn retry(&self, worker: &str, error: &Error, pause: &mut Duration) -> bool {
        if !self.patient || !error.is_transient() {
            return false;
        }
        let seconds = pause.as_secs();
        tracing::warn!(job = self.job.name(), seconds, "{worker} goes on after a pause: {error}");
        tokio::time::sleep(*pause).await;
        *pause = (*pause * 2).min(RETRY_MAX);
        true
    }

    fn fail(&self, error: Error) {
        self.stage.send_replace(Stage::Failed(Arc::new(error)));
    }
}
