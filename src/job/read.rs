//! Reading jobs beside whoever writes the store.

use std::sync::Arc;

use super::{
    Error, GapInfo, JobPoints, JobStatus, SnapshotInfo, SpanInfo, State, StoreInfo, StoreStatus,
    now_ms, pick, scan, snapshot,
};
use crate::oplog::OpTime;
use crate::restore;
use crate::store::{Location, Store, fsck};

/// Opens a store for reading.
pub(super) fn open(location: &Location) -> Result<Store, Error> {
    if !Store::exists(&location.dir) {
        return Err(Error::NoStore { dir: location.dir.clone() });
    }
    Ok(Store::open_reader(&location.dir, location.options())?)
}

/// Lists the snapshots of one job, or of all jobs, oldest first within a job.
///
/// # Errors
/// [`Error::NoStore`], [`Error::NoSuchJob`], and those of reading the store.
pub fn list_snapshots(
    location: impl Into<Location>,
    job: Option<&str>,
) -> Result<Vec<SnapshotInfo>, Error> {
    let store = open(&location.into())?;
    let mut found = Vec::new();
    for (name, state) in states(&store, job)? {
        let manifests = snapshot::manifests(&store, &state)?;
        found.extend(manifests.iter().map(|manifest| SnapshotInfo::new(&name, manifest)));
    }
    Ok(found)
}

/// Tells to which points one job, or each of all jobs, can be restored.
///
/// # Errors
/// [`Error::NoStore`], [`Error::NoSuchJob`], and those of reading the store.
pub fn points(location: impl Into<Location>, job: Option<&str>) -> Result<Vec<JobPoints>, Error> {
    let store = open(&location.into())?;
    let points = |(name, state): (String, State)| {
        let restorable = restorable(&store, &state)?;
        let stopped = state.stopped.map(|stopped| stopped.reason);
        Ok(JobPoints { job: name, restorable, stopped })
    };
    states(&store, job)?.into_iter().map(points).collect()
}

/// The state of one job, or of all jobs, by name.
fn states(store: &Store, job: Option<&str>) -> Result<Vec<(String, State)>, Error> {
    let chosen = match job {
        Some(name) => vec![pick(store, Some(name))?],
        None => store.roots().1.into_iter().collect(),
    };
    chosen.into_iter().map(|(name, id)| Ok((name, State::read(store, &id)?))).collect()
}

/// Opens a job to restore from.
///
/// # Errors
/// [`Error::NoStore`], [`Error::NoSuchJob`], [`Error::WhichJob`], and those of reading the store.
pub fn open_backup(
    location: impl Into<Location>,
    job: Option<&str>,
) -> Result<restore::Backup, Error> {
    backup_of(open(&location.into())?, job)
}

/// A job of an open store as a restore sees it.
pub(super) fn backup_of(store: Store, job: Option<&str>) -> Result<restore::Backup, Error> {
    let (name, id) = pick(&store, job)?;
    let state = State::read(&store, &id)?;
    let mut slices = Vec::new();
    state.slices.for_each(&store, &mut |slice| {
        slices.push(slice);
        Ok(())
    })?;
    let snapshots = snapshot::manifests(&store, &state)?;
    let gaps = unreachable_after(&state);
    Ok(restore::Backup { repository: Arc::new(store), job: name, snapshots, slices, gaps })
}

/// Tells what a store holds, by reading it.
///
/// # Errors
/// [`Error::NoStore`] and those of reading the store.
pub fn status(location: impl Into<Location>) -> Result<StoreStatus, Error> {
    status_of(&open(&location.into())?)
}

/// Tells what an open store holds.
///
/// # Errors
/// Those of reading the store.
pub fn status_of(store: &Store) -> Result<StoreStatus, Error> {
    let _session = store.session();
    let (_, roots) = store.roots();
    let jobs = roots.values().map(|id| {
        let state = State::read(store, id)?;
        let scan = state.scan.as_ref().map(|scan| scan::amount(store, &scan.progress));
        let snapshots = snapshot::manifests(store, &state)?;
        let gaps = state.gaps.iter().map(|gap| GapInfo::new(gap, &snapshots)).collect();
        let mut status = JobStatus::new(&state, restorable(store, &state)?, gaps, now_ms());
        status.scan = scan.transpose()?;
        Ok(status)
    });
    let jobs = jobs.collect::<Result<_, Error>>()?;
    Ok(StoreStatus { store: store_info(store), daemon: false, jobs })
}

/// The entries that no restore from a snapshot before them gets past. An entry of an unknown kind is not
/// among them: whoever reads the slices finds it, or knows it by now.
pub(super) fn unreachable_after(state: &State) -> Vec<OpTime> {
    let gaps = state.gaps.whole().map(|gap| gap.after.optime);
    let stopped = state.stopped.as_ref().filter(|stopped| !stopped.unknown_kind);
    gaps.chain(stopped.and_then(|stopped| stopped.after)).collect()
}

/// The figures of a store.
fn store_info(store: &Store) -> StoreInfo {
    let stats = store.stats();
    StoreInfo {
        dir: store.dir().display().to_string(),
        commit: store.roots().0.0,
        blocks: stats.blocks,
        stored_bytes: stats.stored_bytes,
        dead_bytes: stats.dead_bytes,
        full: store.is_full(),
        segments: stats.segments,
        checks: fsck::coverage(store),
    }
}

/// The spans in which every point can be restored.
fn restorable(store: &Store, state: &State) -> Result<Vec<SpanInfo>, Error> {
    let manifests = snapshot::manifests(store, state)?;
    let mut walk = restore::Walk::new(store, &manifests, unreachable_after(state));
    state.slices.for_each(store, &mut |slice| Ok(walk.slice(&slice)?))?;
    Ok(walk.finish()?.into_iter().map(SpanInfo::from).collect())
}
