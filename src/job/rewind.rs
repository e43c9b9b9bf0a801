//! Rewind of a live source to a point of its job, by writing what differs.
//!
//! That it is the source is proved as a comparison proves it (`verify`): name and id of the replica set
//! are those of the job, and the job's head is brought to the newest committed entry of the target, by
//! the slices that a daemon stores or by the target's own oplog, which must go on from the last entry
//! that the job holds with the same timestamp and term. The head is then what the target is, without a
//! document of it being read. Afterwards it is brought further, and compared with the point again.
//!
//! The store is only read. What a rewind writes reaches it as any other write, so that the points before
//! and between stay, and a rewind can be undone by another.

use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use super::handle::describe;
use super::verify::backup::{Opened, bring};
use super::{Error, Figures, blocking, open_backup};
use crate::restore::{
    self, Cancel, Destination, Moment, PlannedChange, PlannedNow, Progress, RewindPlan,
    RewindRequest, Written,
};
use crate::source::{self, ReadFrom, Source};
use crate::store::Location;

/// What to rewind.
#[derive(Debug, Clone)]
pub struct Request {
    /// The store.
    pub store: Location,
    /// The job; the store's only one unless given.
    pub job: Option<String>,
    /// The point, namespaces and target.
    pub rewind: RewindRequest,
}

/// What a rewind did. `--json` prints it: field names never change.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Its plan.
    pub plan: RewindPlan,
    /// What it wrote.
    pub written: Written,
    /// Wall time in milliseconds.
    pub elapsed_ms: u64,
    /// The moment at which the target was compared with the point again.
    pub compared: PlannedNow,
    /// Whether it was as at the point.
    pub equal: bool,
    /// What was not: written by others since, or expired.
    pub differs: Vec<PlannedChange>,
}

/// A rewind that is planned and has touched nothing yet.
pub struct Rewind {
    request: Request,
    source: Source,
    inner: restore::Rewind,
    cancel: Cancel,
}

impl Rewind {
    /// Proves that the target is the source, finds what differs from the point, and plans.
    ///
    /// # Errors
    /// [`Error::RewindElsewhere`], [`Error::RewindUnproved`]; [`Error::NotConsistent`] while there is no
    /// head; [`Error::Cancelled`]; those of the point, the source, and of reading the store.
    pub async fn prepare(
        request: Request,
        progress: Arc<dyn Progress>,
        cancel: Cancel,
    ) -> Result<Self, Error> {
        let source = Source::connect(&request.rewind.target, ReadFrom::default()).await?;
        prove_set(&request, &source).await?;
        let (dir, job) = (request.store.clone(), request.job.clone());
        let name = job.clone().unwrap_or_default();
        let open = move || open_backup(&dir, job.as_deref());
        let backup = blocking("rewinder", &name, open).await?;
        let rewind = request.rewind.clone();
        let destination =
            Destination::open(backup, rewind, progress.clone(), cancel.clone()).await?;
        let now = now(&request, &source, &*progress, &cancel).await?;
        let inner = destination.plan(now).await?;
        Ok(Self { request, source, inner, cancel })
    }

    /// What [`Rewind::execute`] will do.
    #[must_use]
    pub fn plan(&self) -> &RewindPlan {
        self.inner.plan()
    }

    /// Does it, and compares the target with the point.
    ///
    /// # Errors
    /// Any failure on the way. The target is then between both moments; planned and run again, it goes
    /// on.
    pub async fn execute(self, progress: &dyn Progress) -> Result<Report, Error> {
        let started = Instant::now();
        let written = self.inner.execute().await?;
        let now = match now(&self.request, &self.source, progress, &self.cancel).await {
            Err(Error::Cancelled) => return Err(restore::Error::Cancelled.into()),
            now => now?,
        };
        let (compared, differs) = self.inner.compare(now).await?;
        Ok(Report {
            plan: self.inner.plan().clone(),
            written,
            elapsed_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            compared,
            equal: differs.is_empty(),
            differs,
        })
    }
}

/// Whether the target is the job's replica set by name and id.
async fn prove_set(request: &Request, source: &Source) -> Result<(), Error> {
    let found = source.identity().await?;
    let opened = open(request).await?;
    let ours = &opened.state.identity;
    if (ours.replica_set_id, &ours.set_name) == (found.replica_set_id, &found.set_name) {
        return Ok(());
    }
    let (expected, found) = (describe(ours), describe(&found));
    Err(Error::RewindElsewhere { job: opened.job.clone(), expected, found })
}

async fn open(request: &Request) -> Result<Arc<Opened>, Error> {
    let (dir, job) = (request.store.clone(), request.job.clone());
    let name = job.clone().unwrap_or_default();
    let open = move || Opened::open(&dir, job.as_deref());
    blocking("rewinder", &name, open).await.map(Arc::new)
}

/// The target at its newest entry, as the job's head gives it.
async fn now(
    request: &Request,
    source: &Source,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Moment, Error> {
    progress.begin(restore::Phase::CatchUp, restore::Amount::default());
    let opened = open(request).await?;
    let at = source.end_point().await?;
    let figures = Figures::default();
    let brought = tokio::select! {
        brought = bring(&opened, &request.store, source, (at, true), &figures, cancel) => brought,
        () = cancel.cancelled() => Err(Error::Cancelled),
    };
    let brought = brought.map_err(|why| unproved(&opened.job, why))?;
    Ok(Moment {
        optime: at.optime,
        collections: brought.collections,
        absent: brought.absent,
        scope: opened.state.scope.clone(),
        blocks: opened.blocks.clone(),
        files: opened,
    })
}

/// The error of a target of which the job's head cannot tell what it is.
fn unproved(job: &str, why: Error) -> Error {
    use source::Error as S;
    match why {
        Error::AnotherHistory { .. }
        | Error::Gap { .. }
        | Error::Source(S::Diverged { .. } | S::FellOff { .. } | S::Behind { .. }) => {
            Error::RewindUnproved { job: job.to_owned(), source: Box::new(why) }
        }
        why => why,
    }
}
