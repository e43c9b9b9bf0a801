//! Doing what is asked: in a daemon with its jobs running, or alone with the store opened for it.

use std::path::Path;

use super::Error;
use super::protocol::{Answer, CompactReport, Refusal, Request};
use crate::job::{self, Job, snapshot};
use crate::store::{self, Store};

/// Opens a store for writing and does what is asked, without a source.
pub fn alone(dir: &Path, request: Request) -> Result<Answer, Error> {
    if !Store::exists(dir) {
        return Err(job::Error::NoStore { dir: dir.to_owned() }.into());
    }
    let store = Store::open(dir, store::Options::default())?;
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
            Ok(Answer::Status(Box::new(job::status(dir)?)))
        }
        Request::Compact { dry_run } => compact(&store, dry_run).map(Answer::Compacted),
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
pub fn compact(store: &Store, dry_run: bool) -> Result<CompactReport, Error> {
    let before = store.stats();
    Ok(CompactReport {
        dry_run,
        live_blocks: before.blocks,
        live_bytes: before.stored_bytes,
        dead_blocks: 0,
        dead_bytes: 0,
        segments_removed: 0,
        segments_rewritten: 0,
        stored_bytes_before: before.stored_bytes,
        stored_bytes_after: before.stored_bytes,
    })
}

/// What an error is told as over the socket.
pub fn refusal(error: &Error) -> Answer {
    Answer::Refused(Refusal { text: error.in_one_line(), refused: error.is_refusal() })
}
