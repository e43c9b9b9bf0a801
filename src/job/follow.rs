//! Following a source: the workers of a job, started, watched and stopped together.
//!
//! A supervisor runs the tail, the scan or applier, and a look at the source's oplog now and then. What
//! only a new scan can cure (the oplog ran past the job, an entry that carries no documents) is cured
//! by one: the applier is stopped, the gap is noted, everything starts again. Restores go on meanwhile.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::apply::{Applier, Halted};
use super::heal::{self, Why};
use super::{
    Activity, Error, Figures, Job, Push, PushOptions, RemoteInfo, SnapshotInfo, Stopped, blocking,
    scan, snapshot, tail,
};
use crate::head::Scope;
use crate::oplog::{OpTime, Position};
use crate::source::{OplogWindow, Source};

/// First pause after a failure of the source that may pass.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// Longest pause between attempts to reach the source.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Time between looks at how far the source's oplog reaches back.
const LOOK_AT_OPLOG_EVERY: Duration = Duration::from_secs(30);
/// New scans in a row that may end without a consistent head.
const HEALS_MAX: u32 = 3;

/// How to follow a source.
#[derive(Debug, Clone, Default)]
pub struct FollowOptions {
    /// How far back any second can be restored; as before if none.
    pub restore_window: Option<Duration>,
    /// Which namespaces to back up from now on; as before if none.
    pub scope: Option<Scope>,
    /// Scan anew although the job has a head. Snapshots stay.
    pub rescan: bool,
    /// The source has another history than the job holds: begin a new timeline. Snapshots stay.
    pub new_timeline: bool,
    /// Whether to scan anew without being asked where nothing else helps.
    pub heal: bool,
    /// Whether to wait for a source that does not answer, instead of failing.
    pub patient: bool,
    /// Where to push what is stored, if anywhere.
    pub push: Option<PushOptions>,
}

/// How far the workers are.
#[derive(Clone)]
enum Stage {
    /// There is no head yet.
    Scanning,
    /// The applier runs.
    Applying(Arc<Applier>),
    /// A worker failed; the applier, if there is one, runs on until it is stopped.
    Failed(Arc<Error>, Option<Arc<Applier>>),
}

impl Stage {
    fn applier(&self) -> Option<Arc<Applier>> {
        match self {
            Self::Scanning => None,
            Self::Applying(applier) => Some(applier.clone()),
            Self::Failed(_, applier) => applier.clone(),
        }
    }
}

/// The running workers of a job. Stop them with [`Follow::stop`]; dropping them loses nothing either,
/// but what was applied is applied again.
pub struct Follow {
    job: Job,
    source: Source,
    figures: Figures,
    heal: bool,
    stage: watch::Receiver<Stage>,
    wanted: Arc<watch::Sender<OpTime>>,
    supervisor: tokio::sync::Mutex<JoinSet<()>>,
    push: Option<Push>,
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
        if let Some(scope) = options.scope {
            heal::change_scope(&job, &source, scope).await?;
        }
        let state = job.state();
        if options.new_timeline {
            heal::begin_scan(&job, &source, Why::NewTimeline).await?;
        } else if options.rescan || (state.scan.is_none() && state.head.is_none()) {
            heal::begin_scan(&job, &source, Why::Asked).await?;
        }
        let push = options.push.map(|push| Push::start(job.clone(), push));
        let figures = Figures::default();
        let (stage, watched) = watch::channel(Stage::Scanning);
        let (stage, patient, heal) = (Arc::new(stage), options.patient, options.heal);
        let wanted = Arc::new(watch::Sender::new(OpTime::NULL));
        let crew = Crew { job, source, figures, patient, heal, stage, wanted };
        let mut supervisor = JoinSet::new();
        supervisor.spawn(crew.clone().supervise());
        let Crew { job, source, figures, wanted, .. } = crew;
        let supervisor = tokio::sync::Mutex::new(supervisor);
        Ok(Self { job, source, figures, heal, stage: watched, wanted, supervisor, push })
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

    /// How the job stands in the blockstore, if it is pushed to one.
    #[must_use]
    pub fn remote(&self) -> Option<RemoteInfo> {
        self.push.as_ref().map(Push::info)
    }

    /// Waits until a snapshot is in the blockstore, if the job is pushed to one, as long as something goes on.
    ///
    /// # Errors
    /// The last failure, if nothing was pushed for `patience`.
    pub async fn wait_until_pushed(&self, snapshot: &str, patience: Duration) -> Result<(), Error> {
        match &self.push {
            Some(push) => push.wait_for(snapshot, patience).await,
            None => Ok(()),
        }
    }

    /// Takes a snapshot that has everything which is majority-committed at the source now. Waits
    /// for a scan to end, also for one that turns out to be needed.
    ///
    /// # Errors
    /// [`Error::Stopped`], [`Error::Background`] if a worker failed, those of the source.
    pub async fn snapshot(&self) -> Result<SnapshotInfo, Error> {
        loop {
            let applier = self.applier().await?;
            let newest = self.source.newest_majority().await?;
            self.figures.newest(newest);
            self.wanted.send_if_modified(|wanted| {
                let is_newer = newest.optime > *wanted;
                *wanted = newest.optime.max(*wanted);
                is_newer
            });
            self.note_identity().await?;
            let taken = tokio::select! {
                taken = applier.snapshot(&self.job, newest.optime) => taken,
                error = self.failed() => Err(error),
            };
            // Either it was stopped because a new scan begins, or it stands where one will help.
            let healing = |halted: Halted| self.heal && halted.error.is_healed_by_rescan();
            let stopped = matches!(taken, Err(Error::Interrupted { .. }));
            let curable = match &taken {
                Ok(_) => self.heal && applier.is_lacking(),
                Err(_) => stopped || applier.is_halted().is_some_and(healing),
            };
            if !curable {
                return taken;
            }
            let replaced = |stage: &Stage| match stage {
                Stage::Applying(now) => !Arc::ptr_eq(now, &applier),
                _ => true,
            };
            if self.stage.clone().wait_for(replaced).await.is_err() {
                return taken;
            }
        }
    }

    /// Versions change while a source is followed; a snapshot is to carry those of its time.
    async fn note_identity(&self) -> Result<(), Error> {
        let identity = match self.source.identity().await {
            Err(crate::source::Error::FcvInTransition { .. }) => return Ok(()),
            identity => identity?,
        };
        if self.job.state().identity == identity {
            return Ok(());
        }
        let owner = self.job.clone();
        blocking("opener", self.job.name(), move || {
            owner.update(&owner.store().session(), |state| {
                state.identity = identity;
                Ok(())
            })
        })
        .await
    }

    /// Whether the initial sync is over, so that a snapshot would not have to wait for it.
    #[must_use]
    pub fn has_head(&self) -> bool {
        matches!(*self.stage.borrow(), Stage::Applying(_))
    }

    /// Returns when a worker has failed for good.
    pub async fn failed(&self) -> Error {
        let mut stage = self.stage.clone();
        let failed = stage.wait_for(|stage| matches!(stage, Stage::Failed(..))).await;
        match failed.as_deref() {
            Ok(Stage::Failed(error, _)) => Error::Background(error.clone()),
            _ => Error::Interrupted { job: self.job.name().to_owned() },
        }
    }

    /// Stops the workers: what is applied is flushed and committed, what is not is in slices.
    ///
    /// # Errors
    /// Those of the last flush; the failure of a worker was told before.
    pub async fn stop(&self) -> Result<(), Error> {
        self.figures.activity(Activity::Stopping);
        if let Some(push) = &self.push {
            push.stop().await;
        }
        self.supervisor.lock().await.shutdown().await;
        let applier = self.stage.borrow().applier();
        match applier {
            Some(applier) => applier.stop(&self.job).await,
            None => Ok(()),
        }
    }

    async fn applier(&self) -> Result<Arc<Applier>, Error> {
        let mut stage = self.stage.clone();
        let settled = stage.wait_for(|stage| !matches!(stage, Stage::Scanning)).await;
        match settled.as_deref() {
            Ok(Stage::Failed(error, _)) => Err(Error::Background(error.clone())),
            Ok(Stage::Applying(applier)) => Ok(applier.clone()),
            _ => Err(Error::Interrupted { job: self.job.name().to_owned() }),
        }
    }
}

/// Why the workers do not go on as they are.
enum End {
    /// A worker failed.
    Failed(Error),
    /// The applier stands still before an entry that only a new scan gets past.
    Halted(Halted),
    /// Documents of these namespaces are missing; applying goes on.
    Absent(Vec<String>),
}

/// What every worker has.
#[derive(Clone)]
struct Crew {
    job: Job,
    source: Source,
    figures: Figures,
    patient: bool,
    heal: bool,
    stage: Arc<watch::Sender<Stage>>,
    /// The newest entry that somebody waits for.
    wanted: Arc<watch::Sender<OpTime>>,
}

impl Crew {
    /// Runs the workers, and cures what a new scan can, until something fails for good.
    async fn supervise(self) {
        let (mut heals, mut lacked) = (0, Vec::new());
        loop {
            let end = self.work(heals > 0).await;
            let lacks = match &end {
                End::Absent(namespaces) => namespaces.clone(),
                _ => Vec::new(),
            };
            if self.job.state().is_consistent() && (lacks.is_empty() || lacks != lacked) {
                heals = 0;
            }
            lacked = lacks;
            heals += 1;
            let healed = match self.cure(end) {
                Ok((_, error)) if heals > HEALS_MAX => {
                    let (job, source) = (self.job.name().to_owned(), Box::new(error));
                    Err(Error::OplogTooSmall { job, times: HEALS_MAX, source })
                }
                Ok((why, error)) => self.rescan(why, &error).await,
                Err(error) => Err(error),
            };
            if let Err(error) = healed {
                return self.fail(error).await;
            }
        }
    }

    /// Runs the workers until one ends. After a new scan a snapshot is taken at once: restore points
    /// begin with it.
    async fn work(&self, anew: bool) -> End {
        let (received, heard) = watch::channel(None);
        let mut workers = JoinSet::new();
        workers.spawn(self.clone().tail(received));
        workers.spawn(self.clone().lead(heard, anew));
        let looking = self.clone();
        workers.spawn(async move { match looking.look_at_oplog().await {} });
        let ended = workers.join_next().await;
        workers.shutdown().await;
        let lost = || Error::WorkerLost { job: self.job.name().to_owned(), worker: "supervisor" };
        ended.and_then(Result::ok).unwrap_or_else(|| End::Failed(lost()))
    }

    /// The new scan that cures an end, or its error.
    fn cure(&self, end: End) -> Result<(Why, Error), Error> {
        match end {
            End::Failed(error) if self.heal && error.is_healed_by_rescan() => {
                Ok((Why::Lost { reason: error.to_string() }, error))
            }
            End::Failed(error) => Err(error),
            // Nothing else than the scan is in the way of it.
            End::Halted(Halted { error, .. }) if error.is_of_scan() => {
                Ok((Why::Asked, Error::Background(error)))
            }
            End::Halted(Halted { after, error }) => {
                let reason = error.to_string();
                Ok((Why::Unapplied { after, reason }, Error::Background(error)))
            }
            End::Absent(namespaces) => {
                let error = Error::Absent { namespaces: namespaces.join(", ") };
                Ok((Why::Absent(namespaces), error))
            }
        }
    }

    async fn rescan(&self, why: Why, error: &Error) -> Result<(), Error> {
        let job = self.job.name();
        tracing::error!(job, "the source is scanned anew, older points stay restorable: {error}");
        // The applier ends first: nothing it still writes may come after what a scan begins.
        let applier = self.stage.send_replace(Stage::Scanning).applier();
        if let Some(applier) = applier
            && let Err(error) = applier.stop(&self.job).await
            && applier.is_halted().is_none()
        {
            tracing::warn!(job, "the last flush failed: {error}");
        }
        let mut pause = RETRY_FIRST;
        loop {
            match heal::begin_scan(&self.job, &self.source, why.clone()).await {
                Err(error) if self.retry("scan", &error, &mut pause).await => {}
                done => return done,
            }
        }
    }

    /// Keeps the figure of how far the source's oplog reaches back, and warns when it gets short.
    async fn look_at_oplog(&self) -> Infallible {
        loop {
            match self.source.oplog_window().await {
                Ok(window) => {
                    self.figures.oplog_window(window.seconds);
                    self.warn_of_overrun(&window);
                }
                Err(error) => tracing::debug!(job = self.job.name(), "oplog window: {error}"),
            }
            tokio::time::sleep(LOOK_AT_OPLOG_EVERY).await;
        }
    }

    fn warn_of_overrun(&self, window: &OplogWindow) {
        let Some(received) = self.job.state().received else { return };
        let behind = window.newest.ts.secs.saturating_sub(received.optime.ts.secs);
        let left = window.seconds.saturating_sub(behind.into());
        if super::info::is_short(left, window.seconds) {
            tracing::warn!(
                job = self.job.name(),
                seconds_left = left,
                window_seconds = window.seconds,
                "the source's oplog is about to run past this job: enlarge it, or relieve this host"
            );
        }
    }

    /// Tails until it fails for good.
    async fn tail(self, received: watch::Sender<Option<Position>>) -> End {
        let mut pause = RETRY_FIRST;
        loop {
            let before = self.job.state().received;
            let wanted = self.wanted.subscribe();
            let tailing = tail::run(&self.job, &self.source, &self.figures, &received, wanted);
            let Err(error) = tailing.await else { continue };
            if self.job.state().received != before {
                pause = RETRY_FIRST;
            }
            if matches!(error, Error::Superseded { .. }) {
                continue;
            }
            if !self.retry("tail", &error, &mut pause).await {
                return End::Failed(error);
            }
        }
    }

    /// Scans if there is no head, then starts the applier and waits for its trouble.
    async fn lead(self, received: watch::Receiver<Option<Position>>, anew: bool) -> End {
        let mut pause = RETRY_FIRST;
        while self.job.state().scan.is_some_and(|scan| scan.end.is_none()) {
            if let Err(error) = scan::run(&self.job, &self.source, &self.figures).await
                && !self.retry("scan", &error, &mut pause).await
            {
                return End::Failed(error);
            }
        }
        let applier = Applier::start(self.job.clone(), self.figures.clone(), received);
        let applier = Arc::new(applier);
        self.stage.send_replace(Stage::Applying(applier.clone()));
        let end = self.job.state().scan.and_then(|scan| scan.end);
        if let Some(end) = end.filter(|_| anew) {
            // Why there is none is what the applier stands still for.
            match applier.snapshot(&self.job, end.optime).await {
                Ok(taken) => tracing::info!(snapshot = taken.id, "snapshot of the new scan taken"),
                Err(error) => tracing::debug!("no snapshot of the new scan: {error}"),
            }
        }
        tokio::select! {
            halted = applier.halted() => if self.heal && halted.error.is_healed_by_rescan() {
                return End::Halted(halted);
            },
            absent = applier.absent() => {
                if self.heal {
                    return End::Absent(absent);
                }
                let error = Error::Absent { namespaces: absent.join(", ") };
                tracing::error!(job = self.job.name(), "{error}");
            }
        }
        // It tells everybody who asks; slices go on being stored.
        std::future::pending().await
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

    /// Tells who waits. What the operator must decide stands in the job's state, too.
    async fn fail(&self, error: Error) {
        if error.needs_rescan() {
            let (owner, reason) = (self.job.clone(), error.to_string());
            let noted = blocking("supervisor", self.job.name(), move || {
                owner.update(&owner.store().session(), |state| {
                    let before = state.stopped.take();
                    let unknown_kind = before.as_ref().is_some_and(|stopped| stopped.unknown_kind);
                    let after = before.and_then(|stopped| stopped.after);
                    state.stopped = Some(Stopped { reason, after, unknown_kind });
                    Ok(())
                })
            });
            if let Err(error) = noted.await {
                tracing::warn!(job = self.job.name(), "the reason was not noted: {error}");
            }
        }
        let applier = self.stage.borrow().applier();
        self.stage.send_replace(Stage::Failed(Arc::new(error), applier));
    }
}
