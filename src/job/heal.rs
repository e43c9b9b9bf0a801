//! Starting a scan, the first or a new one.
//!
//! A new scan never takes anything away: snapshots stay, and so do the slices after them, so every
//! point that could be restored still can. The head goes, after a snapshot of it was taken; what of the
//! new trees it had already is not stored again.
//!
//! Where the job holds the oplog from the start of the scan on, or will without a break, the slices just
//! go on, and there is no gap. Else the tail starts anew with the scan, the slices after that start
//! are received again, and what lies between is a gap.
//!
//! Where only some collections are missing (other filters, a collection renamed into them), only those are
//! scanned: the head stays where it is, is brought to the moment the scan began, and takes them in.

use super::gaps::Gap;
use super::handle::now_ms;
use super::{Error, Job, ScanState, State, blocking, scan, snapshot};
use crate::head::{Manifest, Scope};
use crate::oplog::{OpTime, Position};
use crate::source::{Source, StartPoint};

/// Why a scan is started.
#[derive(Debug, Clone)]
pub(super) enum Why {
    /// There is nothing yet, or the operator asked for it.
    Asked,
    /// Entries cannot be applied from here on. The oplog goes on.
    Unapplied {
        /// The last entry that was applied.
        after: OpTime,
        /// What stopped it.
        reason: String,
    },
    /// The oplog cannot be followed any more from where it was left.
    Lost {
        /// What happened.
        reason: String,
    },
    /// The source has another history now, and the operator knows.
    NewTimeline,
    /// Other namespaces are to be backed up.
    Scope(Scope),
    /// These namespaces are to be backed up, and their documents are in no entry.
    Absent(Vec<String>),
}

/// Chooses where a scan starts, and commits it.
///
/// # Errors
/// [`Error::TimelineOverlap`], those of the source and of the store.
pub(super) async fn begin_scan(job: &Job, source: &Source, why: Why) -> Result<(), Error> {
    let identity = match why {
        Why::NewTimeline => Some(source.identity().await?),
        _ => None,
    };
    let start = source.start_point().await?;
    let owner = job.clone();
    blocking("opener", job.name(), move || {
        let state = owner.state();
        if state.is_consistent() && beside_head(&state, start, &why).is_none() {
            snapshot::take(&owner)?;
        }
        let session = owner.store().session();
        owner.update(&session, |state| {
            commit_scan(&owner, state, start, &why)?;
            if let Why::Scope(scope) = &why {
                state.scope = scope.clone();
            }
            // What came before keeps the identity of its time.
            state.identity = identity.unwrap_or_else(|| state.identity.clone());
            Ok(())
        })
    })
    .await
}

fn commit_scan(job: &Job, state: &mut State, start: StartPoint, why: &Why) -> Result<(), Error> {
    if let Some(scan) = beside_head(state, start, why) {
        let gap = gap(state, why, true);
        let manifests = snapshot::manifests(job.store(), state)?;
        gap.into_iter().for_each(|gap| state.gaps.add(gap, &manifests));
        state.scan = Some(scan);
        return Ok(());
    }
    let (store, begin) = (job.store(), start.begin_fetch);
    let goes_on = match why {
        Why::Asked | Why::Unapplied { .. } | Why::Scope(_) | Why::Absent(_) => {
            let from = state.slices.unbroken_from(store)?;
            state.received.is_some() && from.is_some_and(|from| from <= begin)
        }
        Why::Lost { .. } | Why::NewTimeline => false,
    };
    let manifests = snapshot::manifests(store, state)?;
    let gaps = [unapplied(state), gap(state, why, goes_on)];
    if !goes_on {
        let ends = end(job, state, &manifests)?;
        if matches!(why, Why::NewTimeline) && begin.ts <= ends.ts {
            return Err(Error::TimelineOverlap { begins: begin, ends });
        }
        state.received = None;
        state.slices.cut_off(store, store.salt(), begin)?;
    }
    gaps.into_iter().flatten().for_each(|gap| state.gaps.add(gap, &manifests));
    state.scan = Some(ScanState::new(start));
    state.head = None;
    state.stopped = None;
    Ok(())
}

/// The scan of what the head does not hold, if it and the oplog after it are sound and no more is missing.
/// It begins after all that is received, so that the head can be brought to its beginning.
fn beside_head(state: &State, start: StartPoint, why: &Why) -> Option<ScanState> {
    let sound = state.stopped.is_none()
        && state.head.as_ref().is_some_and(|head| head.consistent_from.is_some());
    let received = state.received.filter(|_| sound)?;
    match why {
        Why::Scope(_) | Why::Absent(_) => {
            let base = if received.optime > start.base.optime { received } else { start.base };
            Some(ScanState::new(StartPoint { base, ..start }))
        }
        Why::Asked | Why::Unapplied { .. } | Why::Lost { .. } | Why::NewTimeline => None,
    }
}

/// Makes a job back up other namespaces. A scan begins if the source has collections that the job did
/// not hold; else those that it holds and need not are let go.
///
/// # Errors
/// Those of the source and of the store.
pub(super) async fn change_scope(job: &Job, source: &Source, scope: Scope) -> Result<(), Error> {
    let state = job.state();
    if state.scope == scope {
        return Ok(());
    }
    let mut widens = state.scan.is_some();
    if !widens && state.head.is_some() {
        let (owner, new) = (job.clone(), scope.clone());
        let held = move || scan::held(owner.store(), state.head.as_ref(), &new);
        let held = blocking("opener", job.name(), held).await?;
        widens = source.list(&scope).await?.iter().any(|listed| !held.contains(&listed.uuid));
    }
    if widens {
        return begin_scan(job, source, Why::Scope(scope)).await;
    }
    // Narrower filters let what they leave out go.
    let owner = job.reclaiming();
    blocking("opener", job.name(), move || {
        owner.update(&owner.store().session(), |state| {
            state.scope = scope;
            Ok(())
        })
    })
    .await
}

/// The newest entry that a job has anything of.
fn end(job: &Job, state: &State, manifests: &[Manifest]) -> Result<OpTime, Error> {
    let received = state.received.map(|received| received.optime);
    let snapshot = manifests.last().map(|manifest| manifest.head.position.optime);
    let mut end = received.max(snapshot).unwrap_or(OpTime::NULL);
    state.slices.for_each(job.store(), &mut |slice| {
        end = end.max(slice.header.last.optime);
        Ok(())
    })?;
    Ok(end)
}

fn at(optime: OpTime) -> Position {
    Position { optime, wall_ms: i64::from(optime.ts.secs) * 1000 }
}

/// What cannot be restored because applying stands still, whatever the new scan is for.
fn unapplied(state: &State) -> Option<Gap> {
    let stopped = state.stopped.as_ref()?;
    let (after, reason) = (at(stopped.after?), stopped.reason.clone());
    Some(Gap { namespaces: Vec::new(), after, reason, noticed_ms: now_ms() })
}

/// What cannot be restored because of the new scan.
fn gap(state: &State, why: &Why, goes_on: bool) -> Option<Gap> {
    let received = state.received?;
    let mut namespaces = Vec::new();
    let (after, reason) = match why {
        Why::Asked | Why::Scope(_) if goes_on => return None,
        Why::Absent(absent) if goes_on => {
            namespaces.clone_from(absent);
            (received, "renamed from a name that is not backed up".to_owned())
        }
        Why::Asked | Why::Scope(_) | Why::Absent(_) => {
            (received, "a new scan was asked for, and it began after this".to_owned())
        }
        Why::Unapplied { after, reason } => (at(*after), reason.clone()),
        Why::Lost { reason } => (received, reason.clone()),
        Why::NewTimeline => (received, "a new timeline of the source begins".to_owned()),
    };
    Some(Gap { namespaces, after, reason, noticed_ms: now_ms() })
}
