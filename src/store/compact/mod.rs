//! Compaction: giving back the space of blocks that nothing reaches.
//!
//! Order: all that was put is sealed; from then on whoever puts a block that is there marks it. When the sessions
//! that were there before have ended, what the commits since the beginning reach is marked; live records of segments worth it are
//! copied forward, each segment being closed before: what is not marked in it then counts as absent; a dictionary of which the
//! old segments have the last copy that can be read is put once more, if others read through it; a
//! commit names the segments without the old ones, and makes the copies durable before it; then the old files
//! are removed, unless a registered reader still reads a commit that lists them. A segment of which something that lives
//! cannot be read stays as it is. A crash before that commit
//! leaves copies that count for nothing; after it, files that no commit names, which the next open removes.
//! Nothing is changed in place.
//!
//! Why no block is lost that a later commit names: a commit that is walked reaches it, and it is marked; or
//! it was appended since the beginning, and is in none of the segments that were sealed then; or it was found since,
//! and is marked, or was appended anew because its segment was closed; or whoever names it took it over, without a
//! put, from a state that it read. That is of a commit since the beginning, all of which are walked up to the last
//! one at which a session lived that was there before, or of a later one, to which all this applies.

mod copy;
mod plan;

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use copy::{copy_live, keep_dictionaries};
pub use plan::{Action, Plan, SegmentPlan, Settings};
use plan::{make_plan, sizes};
use serde::Serialize;

use super::fs::FsError;
use super::keys;
use super::layout::SegmentId;
use super::marks::Marks;
use super::sync::Mutex;
use super::writer::{Waiting, Writer};
use super::{Error, Role, Shared, Store, readers};

/// What a compaction did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// What it did.
    pub plan: Plan,
    /// Bytes of segments that living readers still use; freed by a later compaction or opening.
    pub waiting_bytes: u64,
    /// Segments that were to be rewritten and stay: something that lives in them cannot be read.
    pub unreadable: Vec<SegmentId>,
}

/// How far a compaction is, in bytes of segments to rewrite.
pub type OnProgress<'a> = &'a mut dyn FnMut(u64, u64);

/// Says what [`execute`] would do. On a reader it counts by the reader's commit; blocks put by sessions
/// that live now count as dead.
///
/// # Errors
/// [`Error::Unreachable`] if the graph of blocks has a hole, and those of the disk.
pub fn plan(store: &Store, settings: Settings) -> Result<Plan, Error> {
    let shared = &*store.shared;
    // Another compaction would remove what this one reads.
    let _turn = shared.sessions.turn();
    let commit = shared.settled_commit()?;
    let sizes = sizes(shared, &commit);
    let roots = commit.roots.clone().into_iter().collect();
    make_plan(shared, (commit.seq, roots), sizes, settings, &Mutex::default())
}

/// Compacts the store. Waits for the end of the sessions that live; those that begin later go on beside it.
///
/// # Errors
/// [`Error::ReadOnly`] on a reader, [`Error::Stopped`], [`Error::Unreachable`] if the graph of blocks has a hole (nothing is
/// removed then), [`Error::Full`] if there is no room for the copies, and those of the disk.
pub fn execute(
    store: &Store,
    settings: Settings,
    on_progress: OnProgress<'_>,
) -> Result<Outcome, Error> {
    let shared = &*store.shared;
    let writer = shared.writer()?;
    let _turn = shared.sessions.turn();
    let keeping = Keeping { shared, marks: Arc::default() };
    // Outside of the lock, for most of it.
    writer.seal_active(&shared.segments, &shared.index)?;
    let sizes = {
        let mut slot = shared.sessions.change_keeping();
        writer.seal_active(&shared.segments, &shared.index)?;
        *slot = Some(Arc::clone(&keeping.marks));
        // Before anybody can mark, so that whoever began after this has marked all that it found. What it may
        // take over from a state that it read is noted.
        writer.watch();
        shared.sessions.begin_generation();
        writer.sealed()
    };
    shared.sessions.wait_for_older()?;
    let watched = writer.end_watch()?.expect("this one watches, and has the turn");
    writer.seal_active(&shared.segments, &shared.index)?;
    let (seq, roots) = (watched.newest.seq, watched.roots);
    let mut plan = make_plan(shared, (seq, roots), sizes, settings, &keeping.marks)?;
    let (waiting_bytes, unreadable) =
        remove_chosen(store, writer, &keeping, &mut plan, on_progress)?;
    plan.count();
    if let Err(error) = forget_older_keys(shared, writer) {
        tracing::warn!(%error, "older data keys are kept until the next compaction");
    }
    writer.reserve.try_fill();
    let kept = plan.segments.iter().filter(|one| one.action == Action::Keep);
    shared.sessions.note_dead(kept.map(SegmentPlan::dead_bytes).sum());
    Ok(Outcome { plan, waiting_bytes, unreadable })
}

/// Copies what lives in the segments of a plan and removes them. Returns the bytes of those that readers use, and the segments that
/// stay because of damage. What is not done is taken out of the plan.
fn remove_chosen(
    store: &Store,
    writer: &Writer,
    keeping: &Keeping<'_>,
    plan: &mut Plan,
    on_progress: OnProgress<'_>,
) -> Result<(u64, Vec<SegmentId>), Error> {
    let shared = keeping.shared;
    let batch_bytes = plan.segments.iter().map(|one| one.bytes).max().unwrap_or(0);
    let mut chosen: Vec<_> =
        plan.segments.iter_mut().filter(|one| one.action != Action::Keep).collect();
    // What gives space back for nothing comes first.
    chosen.sort_by_key(|one| one.live_bytes);
    let rewritten = chosen.iter().filter(|one| one.action == Action::Rewrite);
    let total = rewritten.map(|one| one.bytes).sum();
    let (mut done, mut copied, mut gone, mut unreadable) = (0, 0, Vec::new(), Vec::new());
    let mut waiting_bytes = remove_unused(shared, writer)?;
    for one in chosen {
        shared.sessions.check_stopped()?;
        let copy_bytes = keeping.close(one.segment);
        // What is copied before it is committed and its old place removed bounds the extra space needed.
        if copy_bytes > 0 && (copied == 0 || copied + copy_bytes > batch_bytes) {
            keeping.drop_segments(store, writer, &std::mem::take(&mut gone))?;
            waiting_bytes = remove_unused(shared, writer)?;
            copied = 0;
        }
        // Readers hold what was dropped: the more is copied, the more space is needed.
        if copy_bytes > 0 && waiting_bytes > batch_bytes {
            one.action = Action::Keep;
            continue;
        }
        let was = copy_live(shared, writer, &keeping.marks, one.segment)?;
        if one.action == Action::Rewrite {
            done += one.bytes;
            on_progress(done, total);
        }
        if let Some(bytes) = was {
            copied += bytes;
            gone.push((one.segment, one.bytes));
        } else {
            // A repair may have it from elsewhere, or read it another time.
            tracing::error!(segment = %one.segment, "damage; it stays; run `headstock fsck`");
            one.action = Action::Keep;
            unreadable.push(one.segment);
        }
    }
    keeping.drop_segments(store, writer, &gone)?;
    Ok((remove_unused(shared, writer)?, unreadable))
}

/// Removes segments that an earlier compaction dropped, as far as their readers are gone. Returns the bytes of
/// those left.
///
/// # Errors
/// [`Error::ReadOnly`] on a reader, and those of the disk.
pub fn release(store: &Store) -> Result<u64, Error> {
    remove_unused(&store.shared, store.shared.writer()?)
}

/// Marks blocks that are put while it lives.
struct Keeping<'a> {
    shared: &'a Shared,
    marks: Arc<Mutex<Marks>>,
}

impl Keeping<'_> {
    /// From here on what has no mark in a segment counts as absent there. Returns the bytes that a copy of what lives
    /// takes, its dictionaries included.
    fn close(&self, id: SegmentId) -> u64 {
        let _nobody_between_look_up_and_mark = self.shared.sessions.change_keeping();
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        marks.close(id);
        let living = marks.of(id).filter(|marks| marks.live_blocks > 0);
        living.map_or(0, |marks| marks.live_bytes + marks.dictionary_bytes)
    }

    /// Drops segments of which all that lives was copied.
    fn drop_segments(
        &self,
        store: &Store,
        writer: &Writer,
        gone: &[(SegmentId, u64)],
    ) -> Result<(), Error> {
        let ids: Vec<SegmentId> = gone.iter().map(|(id, _)| *id).collect();
        let mut with_gaps = self.marks.lock().unwrap_or_else(PoisonError::into_inner).with_gaps();
        let still_there = writer.sealed();
        with_gaps.retain(|id| still_there.contains_key(id) && !ids.contains(id));
        keep_dictionaries(self.shared, writer, &ids, !with_gaps.is_empty())?;
        drop_segments(store, writer, gone)
    }
}

impl Drop for Keeping<'_> {
    fn drop(&mut self) {
        *self.shared.sessions.change_keeping() = None;
        // Where the compaction ended before it chose.
        if let Role::Writer(writer) = &self.shared.role {
            _ = writer.end_watch();
        }
    }
}

/// Takes the data keys out of the ring that no segment and no commit needs any more.
fn forget_older_keys(shared: &Shared, writer: &Writer) -> Result<(), Error> {
    let keys = shared.identity.keys.as_ref().filter(|keys| keys.has_older());
    let Some(keys) = keys else { return Ok(()) };
    let mut used = BTreeSet::new();
    let waiting: Vec<SegmentId> = writer.waiting().iter().map(|one| one.segment).collect();
    // No key goes while a file stands there that needs it, or a repair could not tell it from one that was lost.
    for id in writer.sealed().into_keys().chain(waiting) {
        match shared.segments.unsealed(id)?.epoch()? {
            Some(epoch) => used.insert(epoch),
            // It may be any.
            None => return Ok(()),
        };
    }
    // The log of this opening has no record of an older key, and replaces one that has.
    writer.commit(|_| {}, &[])?;
    let store = &shared.identity.uuid;
    let forgotten = keys::retire(&*shared.disk, &shared.dir, (store, keys), &used)?;
    if forgotten > 0 {
        tracing::info!(forgotten, "data keys that nothing needs any more are forgotten");
    }
    Ok(())
}

/// Commits the store without some segments and takes them out of the index. Their files can be removed then.
pub(super) fn drop_segments(
    store: &Store,
    writer: &Writer,
    gone: &[(SegmentId, u64)],
) -> Result<(), Error> {
    if gone.is_empty() {
        return Ok(());
    }
    let ids: Vec<SegmentId> = gone.iter().map(|(id, _)| *id).collect();
    let commit = writer.commit(|_| {}, &ids)?;
    let shared = &*store.shared;
    let dropped_by = commit.seq;
    writer.waiting().extend(gone.iter().map(|&(segment, bytes)| Waiting {
        segment,
        bytes,
        dropped_by,
    }));
    shared.index.drop_segments(&ids)?;
    store.keep_copy(&commit);
    Ok(())
}

/// Removes dropped segments that no living reader uses. Returns the bytes of those left.
pub(super) fn remove_unused(shared: &Shared, writer: &Writer) -> Result<u64, Error> {
    let mut waiting = writer.waiting();
    if waiting.is_empty() {
        return Ok(0);
    }
    let living = readers::living(&*shared.disk, &shared.dir)?;
    let oldest = living.iter().map(|reader| reader.commit).min();
    while let Some(at) =
        waiting.iter().position(|one| oldest.is_none_or(|oldest| oldest >= one.dropped_by))
    {
        let segment = waiting[at].segment;
        shared.segments.forget(segment);
        match shared.disk.remove(&shared.segments.path(segment)) {
            Err(error) if !FsError::is_not_found(&error) => return Err(error.into()),
            _ => _ = waiting.swap_remove(at),
        }
    }
    Ok(waiting.iter().map(|one| one.bytes).sum())
}
