//! Doing what is asked: in a daemon with its jobs running, or alone with the store opened for it.

use super::Error;
use super::protocol::{Answer, CompactReport, Refusal, Request};
use crate::job::{self, Job, snapshot};
use crate::store::{Location, Store, compact};

/// Opens a store for writing and does what is asked, without a source.
pub fn alone(location: &Location, request: Request) -> Result<Answer, Error> {
    let dir = &location.dir;
    if !Store::exists(dir) {
        return Err(job::Error::NoStore { dir: dir.clone() }.into());
    }
    if let Request::Compact { dry_run: true } = request {
        let store = Store::open_reader(dir, location.options())?;
        return compact(&store, true, compact::Settings::thorough()).map(Answer::Compacted);
    }
    let store = Store::open(dir, location.options())?;
    match request {
        Request::SnapshotTake { job } => {
            let taken = job::snapshot_of_what_is_stored(Job::open(store, job.as_deref())?)?;
            Ok(Answer::Snapshot(Box::new(taken)))
        }
        Request::SnapshotDelete { job, id } => delete(&Job::open(store, job.as_deref())?, &id),
        Request::SnapshotKeep { job, id, keep } => {
            change_keep(&Job::open(store, job.as_deref())?, &id, keep)
        }
        Request::Status => {
            drop(store);
            Ok(Answer::Status(Box::new(job::status(location)?)))
        }
        Request::Compact { dry_run } => {
            compact(&store, dry_run, compact::Settings::thorough()).map(Answer::Compacted)
        }
    }
}

/// Deletes a snapshot, and the slices that only it needed.
pub fn delete(job: &Job, id: &str) -> Result<Answer, Error> {
    let deleted = snapshot::delete(job, id)?;
    snapshot::expire_slices(job)?;
    Ok(Answer::Snapshot(Box::new(deleted)))
}

/// Protects or releases a snapshot.
pub fn change_keep(job: &Job, id: &str, keep: bool) -> Result<Answer, Error> {
    Ok(Answer::Snapshot(Box::new(snapshot::keep(job, id, keep)?)))
}

/// Plans a compaction of a store, and does it unless only the plan is wanted.
pub fn compact(
    store: &Store,
    dry_run: bool,
    settings: compact::Settings,
) -> Result<CompactReport, Error> {
    let before = store.stats();
    let (plan, after, waiting_bytes, damaged) = if dry_run {
        let plan = compact::plan(store, settings)?;
        let after = before.stored_bytes.saturating_sub(plan.freed_bytes);
        (plan, after, 0, 0)
    } else {
        let outcome = compact::execute(store, settings, &mut |_, _| {})?;
        let (after, damaged) = (store.stats().stored_bytes, outcome.unreadable.len());
        (outcome.plan, after, outcome.waiting_bytes, damaged)
    };
    let sum = |pick: fn(&compact::SegmentPlan) -> u64| plan.segments.iter().map(pick).sum::<u64>();
    let count = |action| plan.segments.iter().filter(|one| one.action == action).count() as u64;
    let live_blocks = sum(|one| one.live_blocks);
    Ok(CompactReport {
        dry_run,
        live_blocks,
        live_bytes: sum(|one| one.live_bytes),
        dead_blocks: before.blocks.saturating_sub(live_blocks),
        dead_bytes: sum(compact::SegmentPlan::dead_bytes),
        segments_removed: count(compact::Action::Drop),
        segments_rewritten: count(compact::Action::Rewrite),
        stored_bytes_before: before.stored_bytes,
        stored_bytes_after: after,
        waiting_bytes,
        segments_damaged: damaged as u64,
    })
}

/// What an error is told as over the socket.
pub fn refusal(error: &Error) -> Answer {
    Answer::Refused(Refusal { text: error.in_one_line(), refused: error.is_refusal() })
}
