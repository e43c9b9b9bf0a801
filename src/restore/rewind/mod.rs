//! Rewind: brings a live target back to a point by writing only what differs.
//!
//! Both moments are states of our own engine: the target as it is *now*, which the caller proves, and
//! the point, *then*. They are compared by tree (`find`), which costs what differs, and the differences
//! are written over the target (`run`, `documents`) as ordinary writes. Nothing is kept of a rewind under
//! way: run again, it finds what is left. Memory is bounded by the catalog and by batches.

mod accounts;
mod documents;
mod find;
mod plan;
mod run;
mod settings;

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::live::Live;
use super::prepare::fits;
use super::verify::verify;
use super::{At, Backup, Cancel, CheckedBlocks, Contents, Error, Filter, Progress, View, rfc3339};
use crate::block::BlockRead;
use crate::blockstore::Repository;
use crate::head::{Collection, Scope};
use crate::oplog::{OpTime, Ts, Uuid};
use find::{Found, some};
pub use plan::{Action, PlannedChange, PlannedNow, RewindPlan, Written};

/// A job at a moment of its source that is no restore point.
pub struct Moment {
    /// The last entry in it.
    pub optime: OpTime,
    /// Its collections.
    pub collections: Vec<Collection>,
    /// Names of collections whose documents it has not, by UUID.
    pub absent: BTreeMap<Uuid, String>,
    /// Which namespaces it has.
    pub scope: Scope,
    /// Where their documents are.
    pub blocks: Arc<dyn BlockRead>,
    /// What must live as long as the blocks are read.
    pub files: Arc<dyn Any + Send + Sync>,
}

impl Moment {
    fn contents(&self) -> Contents<'_> {
        Contents { collections: &self.collections, blocks: &*self.blocks }
    }

    fn planned(&self) -> PlannedNow {
        let Ts { secs, inc } = self.optime.ts;
        PlannedNow { t: secs, i: inc, time: rfc3339(secs) }
    }
}

/// A rewind as asked for.
#[derive(Debug, Clone)]
pub struct RewindRequest {
    /// The point.
    pub at: At,
    /// Which namespaces; none means all. Users and roles go back together, and only with all, or with a
    /// filter that names `admin` or one of their collections.
    pub namespaces: Vec<Filter>,
    /// Whether to believe that blocks that are present are also whole.
    pub trust: bool,
    /// The target's connection string.
    pub target: String,
}

/// Both moments, and which namespaces count.
struct Both {
    job: String,
    now: Moment,
    then: Arc<View>,
    repository: Arc<dyn Repository>,
    filters: Vec<Filter>,
}

impl Both {
    /// Fails unless the job holds at both moments all that is kept at all. Else something that it does
    /// not hold at one of them might have been there or not, under this or another name, and what it was
    /// would be taken for what was made or dropped in between.
    fn hold_everything(&self) -> Result<(), Error> {
        let Self { job, now, then, .. } = self;
        let moments =
            [("at this point", &then.base.scope, &then.absent), ("now", &now.scope, &now.absent)];
        for (when, scope, absent) in moments {
            if !scope.is_all() {
                let (job, scope) = (job.clone(), scope.to_string());
                return Err(Error::RewindFiltered { job, when, scope });
            }
            if !absent.is_empty() {
                let names: BTreeSet<&String> = absent.values().collect();
                let (job, names) = (job.clone(), some(names.into_iter()));
                return Err(Error::RewindAbsent { job, when, names });
            }
        }
        Ok(())
    }

    fn check_selection(&self, found: &Found) -> Result<(), Error> {
        if found.selects {
            return Ok(());
        }
        let filters: Vec<String> = self.filters.iter().map(ToString::to_string).collect();
        Err(Error::NothingSelected { filters: filters.join(", ") })
    }
}

/// The point of a rewind and its target, before it is known what the target is like now.
pub struct Destination {
    request: RewindRequest,
    job: String,
    live: Live,
    then: Arc<View>,
    repository: Arc<dyn Repository>,
    progress: Arc<dyn Progress>,
    cancel: Cancel,
}

impl Destination {
    /// Connects to the target and opens the point.
    ///
    /// # Errors
    /// Those of a target that takes no writes, of a point that is none, and of reading the backup.
    pub async fn open(
        backup: Backup,
        request: RewindRequest,
        progress: Arc<dyn Progress>,
        cancel: Cancel,
    ) -> Result<Self, Error> {
        let live = Live::connect(&request.target, progress.clone(), cancel.clone()).await?;
        let (job, repository) = (backup.job.clone(), backup.repository.clone());
        let (at, heard, asked) = (request.at.clone(), progress.clone(), cancel.clone());
        let then = blocking(move || View::open(backup, &at, &*heard, &asked)).await?;
        Ok(Self { request, job, live, then: Arc::new(then), repository, progress, cancel })
    }

    /// Plans the way from `now`, which must be what the target is. Nothing is touched.
    ///
    /// # Errors
    /// Everything that would make the rewind fail and can be known now.
    pub async fn plan(self, now: Moment) -> Result<Rewind, Error> {
        let Self { request, job, live, then, repository, progress, cancel } = self;
        let filters = request.namespaces.clone();
        let both = Arc::new(Both { job, now, then, repository, filters });
        let spared = live.own_identity().await?;
        let (found, blocks) = {
            let (both, progress, cancel) = (both.clone(), progress.clone(), cancel.clone());
            let trust = request.trust;
            blocking(move || {
                let mut found = Found::find(&both, &*progress, &cancel)?;
                both.check_selection(&found)?;
                found.users.spare(&spared);
                let whole: Vec<&Collection> = found.whole().collect();
                let then = &*both.then.blocks;
                let blocks = verify(then, &whole, trust, &*progress, &cancel)?;
                Ok((found, blocks))
            })
            .await?
        };
        let plan = make_plan(&request, &both, &found, &live, blocks).await?;
        Ok(Rewind { plan, both, found, live, progress, cancel })
    }
}

async fn make_plan(
    request: &RewindRequest,
    both: &Both,
    found: &Found,
    live: &Live,
    blocks: CheckedBlocks,
) -> Result<RewindPlan, Error> {
    let target = live.facts().await?;
    let namespaces: Vec<PlannedChange> = found.changes.iter().map(PlannedChange::from).collect();
    let sum = |of: fn(&PlannedChange) -> u64| namespaces.iter().map(of).sum();
    let bytes = sum(|change| change.bytes);
    fits(&both.then.base, &target, bytes)?;
    Ok(RewindPlan {
        job: both.job.clone(),
        repository: both.repository.describe(),
        point: both.then.planned(&request.at),
        now: both.now.planned(),
        target,
        added: sum(|change| change.added),
        changed: sum(|change| change.changed),
        removed: sum(|change| change.removed),
        bytes,
        users: found.users.users.len(),
        roles: found.users.roles.len(),
        blocks,
        warnings: found.warnings(),
        namespaces,
    })
}

/// A rewind that is planned and has touched nothing yet but scratch files, which go with it.
pub struct Rewind {
    plan: RewindPlan,
    both: Arc<Both>,
    found: Found,
    live: Live,
    progress: Arc<dyn Progress>,
    cancel: Cancel,
}

impl Rewind {
    /// What [`Rewind::execute`] will do.
    #[must_use]
    pub fn plan(&self) -> &RewindPlan {
        &self.plan
    }

    /// What the target is like at a later moment, where that is not as at the point. Empty means that
    /// it is there.
    ///
    /// # Errors
    /// Those of reading the backup.
    pub async fn compare(&self, now: Moment) -> Result<(PlannedNow, Vec<PlannedChange>), Error> {
        let both = Both {
            job: self.both.job.clone(),
            now,
            then: self.both.then.clone(),
            repository: self.both.repository.clone(),
            filters: self.both.filters.clone(),
        };
        let spared = self.found.users.spared.clone();
        let (progress, cancel) = (self.progress.clone(), self.cancel.clone());
        blocking(move || {
            let mut found = Found::find(&both, &*progress, &cancel)?;
            found.users.spare(&spared);
            let mut left: Vec<PlannedChange> =
                found.changes.iter().map(PlannedChange::from).collect();
            left.extend(found.users.planned());
            Ok((both.now.planned(), left))
        })
        .await
    }
}

/// Runs blocking work off the asynchronous threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Worker)?
}
