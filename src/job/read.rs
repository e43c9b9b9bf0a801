//! Reading jobs beside whoever writes the store.

use std::path::Path;
use std::sync::Arc;

use super::{
    Error, GapInfo, JobStatus, PointInfo, SnapshotInfo, SpanInfo, State, StoreInfo, StoreStatus,
    now_ms, pick, scan, snapshot,
};
use crate::oplog::{OpTime, Position};
use crate::restore;
use crate::store::{self, Store};

/// Opens a store for reading.
fn open(dir: &Path) -> Result<Store, Error> {
    if !Store::exists(dir) {
        return Err(Error::NoStore { dir: dir.to_owned() });
    }
    Ok(Store::open_reader(dir, store::Options::default())?)
}

/// Lists the snapshots of one job, or of all jobs, oldest first within a job.
///
/// # Errors
/// [`Error::NoStore`], [`Error::NoSuchJob`], and those of reading the store.
pub fn list_snapshots(dir: &Path, job: Option<&str>) -> Result<Vec<SnapshotInfo>, Error> {
    let store = open(dir)?;
    let names: Vec<String> = match job {
        Some(name) => vec![pick(&store, Some(name))?.0],
        None => store.roots().1.into_keys().collect(),
    };
    let mut found = Vec::new();
    for name in names {
        let (_, id) = pick(&store, Some(&name))?;
        let state = State::read(&store, &id)?;
        let manifests = snapshot::manifests(&store, &state)?;
        found.extend(manifests.iter().map(|manifest| SnapshotInfo::new(&name, manifest)));
    }
    Ok(found)
}

/// Opens a job to restore from.
///
/// # Errors
/// [`Error::NoStore`], [`Error::NoSuchJob`], [`Error::WhichJob`], and those of reading the store.
pub fn open_backup(dir: &Path, job: Option<&str>) -> Result<restore::Backup, Error> {
    let store = open(dir)?;
    let (name, id) = pick(&store, job)?;
    let state = State::read(&store, &id)?;
    let mut slices = Vec::new();
    state.slices.for_each(&store, &mut |slice| {
        slices.push(restore::Slice { header: slice.header, pieces: slice.pieces });
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
pub fn status(dir: &Path) -> Result<StoreStatus, Error> {
    status_of(&open(dir)?)
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

/// The entries that no restore from a snapshot before them gets past.
fn unreachable_after(state: &State) -> Vec<OpTime> {
    let gaps = state.gaps.whole().map(|gap| gap.after.optime);
    gaps.chain(state.stopped.as_ref().and_then(|stopped| stopped.after)).collect()
}

/// The figures of a store.
fn store_info(store: &Store) -> StoreInfo {
    let stats = store.stats();
    StoreInfo {
        dir: store.dir().display().to_string(),
        commit: store.roots().0.0,
        blocks: stats.blocks,
        stored_bytes: stats.stored_bytes,
        segments: stats.segments,
    }
}

/// The spans in which every point can be restored: from each snapshot along the slices that go on
/// from it, joined where they overlap.
fn restorable(store: &Store, state: &State) -> Result<Vec<SpanInfo>, Error> {
    let manifests = snapshot::manifests(store, state)?;
    let mut snapshots = manifests.iter().map(|manifest| manifest.head.position).peekable();
    let mut gaps = unreachable_after(state);
    gaps.sort_unstable();
    let mut spans: Vec<(Position, Position)> = Vec::new();
    state.slices.for_each(store, &mut |slice| {
        let (first, last) = (slice.header.first, slice.header.last);
        // The first slice of a scan goes on from nothing.
        let prev = if slice.header.prev.is_null() { first.optime } else { slice.header.prev };
        while let Some(at) = snapshots.next_if(|at| at.optime < last.optime) {
            extend(&mut spans, at, at);
        }
        if let Some((_, to)) = spans.last_mut()
            && to.optime >= prev
            && to.optime < last.optime
        {
            let limit = gaps.iter().find(|gap| **gap >= to.optime);
            *to = match limit.filter(|gap| **gap < last.optime) {
                Some(gap) => Position { optime: *gap, wall_ms: i64::from(gap.ts.secs) * 1000 },
                None => last,
            };
        }
        Ok(())
    })?;
    snapshots.for_each(|at| extend(&mut spans, at, at));
    let info = |(from, to): (Position, Position)| SpanInfo {
        from: PointInfo::from(from),
        to: PointInfo::from(to),
    };
    Ok(spans.into_iter().map(info).collect())
}

/// Adds a span unless the last one reaches it.
fn extend(spans: &mut Vec<(Position, Position)>, from: Position, to: Position) {
    if spans.last().is_none_or(|(_, end)| end.optime < from.optime) {
        spans.push((from, to));
    }
}
