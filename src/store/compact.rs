//! Compaction: giving back the space of blocks that nothing reaches.
//!
//! Order: all that was put is sealed; from then on whoever puts a block that is there marks it. When the sessions
//! that were there before have ended, what the commits since the beginning reach is marked; live records of segments worth it are
//! copied forward, each segment being closed before: what is not marked in it then counts as absent; a
//! commit names the segments without the old ones, and makes the copies durable before it; then the old files
//! are removed, unless a registered reader still reads a commit that lists them. A crash before that commit
//! leaves copies that count for nothing; after it, files that no commit names, which the next open removes.
//! Nothing is changed in place.
//!
//! Why no block is lost that a later commit names: a commit that is walked reaches it, and it is marked; or
//! it was appended since the beginning, and is in none of the segments that were sealed then; or it was found since,
//! and is marked, or was appended anew because its segment was closed; or whoever names it took it over, without a
//! put, from a state that it read. That is of a commit since the beginning, all of which are walked up to the last
//! one at which a session lived that was there before, or of a later one, to which all this applies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};

use serde::Serialize;

use super::dictionaries::OfSegment;
use super::fs::FsError;
use super::keys;
use super::layout::{SEGMENT_HEADER_BYTES, SegmentId, Trailer};
use super::marks::Marks;
use super::record::Commit;
use super::reserve::Purpose;
use super::scan::{Scanner, Step, entry_of};
use super::segment::Segment;
use super::sync::Mutex;
use super::walk::{Fault, Walk, Why};
use super::writer::{Waiting, Writer};
use super::{CommitSeq, Error, Role, Shared, Store, readers};
use crate::block::{self, BlockId};

/// A segment below this share of the usual size is small.
const SMALL_SHARE: u64 = 4;
/// Small segments (each opening of a store may leave one) that are left alone.
const MAX_SMALL_SEGMENTS: usize = 16;

/// What to compact.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Segments with a smaller share of bytes that are needed than this are rewritten, in percent.
    pub rewrite_below_percent: u64,
    /// More are, the emptiest first, until no larger share of the store than this is dead, in percent.
    pub dead_percent_max: u64,
}

impl Default for Settings {
    /// 65 percent: rewriting then copies less than two bytes for each that it frees. What is left dead
    /// beyond a tenth of the store costs up to nine.
    fn default() -> Self {
        Self { rewrite_below_percent: 65, dead_percent_max: 10 }
    }
}

impl Settings {
    /// For who wants the space back whatever has to be copied for it.
    #[must_use]
    pub fn thorough() -> Self {
        Self { rewrite_below_percent: 95, ..Self::default() }
    }
}

/// What is done with a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It stays.
    Keep,
    /// Nothing in it is live: it is removed.
    Drop,
    /// Its live blocks are copied, then it is removed.
    Rewrite,
}

/// What is known of a segment, and what is done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SegmentPlan {
    /// Which.
    pub segment: SegmentId,
    /// Bytes of its file.
    pub bytes: u64,
    /// Bytes of records that the newest commit reaches.
    pub live_bytes: u64,
    /// Blocks that the newest commit reaches.
    pub live_blocks: u64,
    /// Bytes of the dictionaries that they may need.
    pub dictionary_bytes: u64,
    /// What is done with it.
    pub action: Action,
}

impl SegmentPlan {
    /// Bytes that a segment of its live blocks alone would have.
    fn needed_bytes(&self) -> u64 {
        let records = self.live_bytes + self.dictionary_bytes;
        SEGMENT_HEADER_BYTES + records + Trailer::footer_bytes(self.live_blocks)
    }

    /// Bytes of what nothing needs, and of its places in the footer; all of a segment without live blocks.
    #[must_use]
    pub fn dead_bytes(&self) -> u64 {
        let needed = if self.live_blocks == 0 { 0 } else { self.needed_bytes() };
        self.bytes.saturating_sub(needed)
    }
}

/// What a compaction does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The commit whose roots decide what is live.
    pub commit: CommitSeq,
    /// Every segment.
    pub segments: Vec<SegmentPlan>,
    /// Bytes that removing segments frees, less those of the copies.
    pub freed_bytes: u64,
    /// Bytes copied: what lives, and the dictionaries that it may need.
    pub copied_bytes: u64,
}

impl Plan {
    fn count(&mut self) {
        let sum = |pick: fn(&SegmentPlan) -> u64| self.segments.iter().map(pick).sum::<u64>();
        let gone = sum(|one| if one.action == Action::Keep { 0 } else { one.bytes });
        let copy = |one: &SegmentPlan| one.live_bytes + one.dictionary_bytes;
        let rewritten = self.segments.iter().filter(|one| one.action == Action::Rewrite);
        let copied = rewritten.map(copy).sum::<u64>();
        (self.freed_bytes, self.copied_bytes) = (gone.saturating_sub(copied), copied);
    }
}

/// What a compaction did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// What it did.
    pub plan: Plan,
    /// Bytes of segments that living readers still use; freed by a later compaction or opening.
    pub waiting_bytes: u64,
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
    let waiting_bytes = remove_chosen(store, writer, &keeping, &mut plan, on_progress)?;
    plan.count();
    if let Err(error) = forget_older_keys(shared, writer) {
        tracing::warn!(%error, "older data keys are kept until the next compaction");
    }
    writer.reserve.try_fill();
    let kept = plan.segments.iter().filter(|one| one.action == Action::Keep);
    shared.sessions.note_dead(kept.map(SegmentPlan::dead_bytes).sum());
    Ok(Outcome { plan, waiting_bytes })
}

/// Copies what lives in the segments of a plan and removes them. Returns the bytes of those that readers use. What
/// they keep from being done is taken out of the plan.
fn remove_chosen(
    store: &Store,
    writer: &Writer,
    keeping: &Keeping<'_>,
    plan: &mut Plan,
    on_progress: OnProgress<'_>,
) -> Result<u64, Error> {
    let shared = keeping.shared;
    let batch_bytes = plan.segments.iter().map(|one| one.bytes).max().unwrap_or(0);
    let mut chosen: Vec<_> =
        plan.segments.iter_mut().filter(|one| one.action != Action::Keep).collect();
    // What gives space back for nothing comes first.
    chosen.sort_by_key(|one| one.live_bytes);
    let rewritten = chosen.iter().filter(|one| one.action == Action::Rewrite);
    let total = rewritten.map(|one| one.bytes).sum();
    let (mut done, mut copied, mut gone) = (0, 0, Vec::new());
    let mut waiting_bytes = remove_unused(shared, writer)?;
    for one in chosen {
        shared.sessions.check_stopped()?;
        let copy_bytes = keeping.close(one.segment);
        // What is copied before it is committed and its old place removed bounds the extra space needed.
        if copy_bytes > 0 && (copied == 0 || copied + copy_bytes > batch_bytes) {
            drop_segments(store, writer, &std::mem::take(&mut gone))?;
            waiting_bytes = remove_unused(shared, writer)?;
            copied = 0;
        }
        // Readers hold what was dropped: the more is copied, the more space is needed.
        if copy_bytes > 0 && waiting_bytes > batch_bytes {
            one.action = Action::Keep;
            continue;
        }
        copy_live(shared, writer, &keeping.marks, one.segment)?;
        copied += copy_bytes;
        if one.action == Action::Rewrite {
            done += one.bytes;
            on_progress(done, total);
        }
        gone.push((one.segment, one.bytes));
    }
    drop_segments(store, writer, &gone)?;
    remove_unused(shared, writer)
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

/// The segments whose records are not sealed with the newest data key, or may not be.
fn sealed_with_older_keys(
    shared: &Shared,
    ids: impl Iterator<Item = SegmentId>,
) -> Result<BTreeSet<SegmentId>, Error> {
    let keys = shared.identity.keys.as_ref().filter(|keys| keys.has_older());
    let Some(keys) = keys else { return Ok(BTreeSet::new()) };
    let mut older = BTreeSet::new();
    for id in ids {
        if shared.segments.unsealed(id)?.epoch()? != Some(keys.current()) {
            older.insert(id);
        }
    }
    Ok(older)
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

/// The segments there are now, with their lengths in bytes.
fn sizes(shared: &Shared, commit: &Commit) -> BTreeMap<SegmentId, u64> {
    match &shared.role {
        Role::Writer(writer) => writer.sealed(),
        Role::Reader(_) => {
            commit.segments.iter().map(|(id, len)| (*id, *len)).chain(commit.active).collect()
        }
    }
}

fn make_plan(
    shared: &Shared,
    (commit, roots): (CommitSeq, BTreeSet<(String, BlockId)>),
    sizes: BTreeMap<SegmentId, u64>,
    settings: Settings,
    marks: &Mutex<Marks>,
) -> Result<Plan, Error> {
    static NO_DAMAGE: BTreeSet<(SegmentId, u64)> = BTreeSet::new();
    let mut walk = Walk::new(shared, &NO_DAMAGE, marks);
    let mut on_block = |_| shared.sessions.check_stopped();
    for (name, id) in &roots {
        walk.root(name, *id, &mut |fault| refuse(fault), &mut on_block)?;
    }
    let older = sealed_with_older_keys(shared, sizes.keys().copied())?;
    let marks = marks.lock().unwrap_or_else(PoisonError::into_inner);
    let mut segments: Vec<SegmentPlan> = sizes
        .into_iter()
        .map(|(segment, bytes)| {
            let marks = marks.of(segment);
            let (live_bytes, live_blocks) =
                marks.map_or((0, 0), |marks| (marks.live_bytes, marks.live_blocks));
            let dictionary_bytes = marks.map_or(0, |marks| marks.dictionary_bytes);
            let action = if live_blocks == 0 { Action::Drop } else { Action::Keep };
            let mut one =
                SegmentPlan { segment, bytes, live_bytes, live_blocks, dictionary_bytes, action };
            let is_thin = one.needed_bytes() * 100 < bytes * settings.rewrite_below_percent;
            if one.action == Action::Keep && (is_thin || older.contains(&segment)) {
                one.action = Action::Rewrite;
            }
            one
        })
        .collect();
    rewrite_down_to(&mut segments, settings.dead_percent_max);
    join_small(&mut segments, shared.options.segment_bytes);
    shared.sessions.note_dead(segments.iter().map(SegmentPlan::dead_bytes).sum());
    let mut plan = Plan { commit, segments, freed_bytes: 0, copied_bytes: 0 };
    plan.count();
    Ok(plan)
}

/// Has segments rewritten, the emptiest first, until of those that stay no larger share is dead.
fn rewrite_down_to(segments: &mut [SegmentPlan], dead_percent_max: u64) {
    let mut kept: Vec<&mut SegmentPlan> =
        segments.iter_mut().filter(|one| one.action == Action::Keep).collect();
    let share = |one: &SegmentPlan| one.dead_bytes() as f64 / one.bytes as f64;
    kept.sort_by(|a, b| share(b).total_cmp(&share(a)));
    let mut bytes: u64 = kept.iter().map(|one| one.bytes).sum();
    let mut dead: u64 = kept.iter().map(|one| one.dead_bytes()).sum();
    for one in kept {
        if u128::from(dead) * 100 <= u128::from(bytes) * u128::from(dead_percent_max) {
            break;
        }
        one.action = Action::Rewrite;
        dead -= one.dead_bytes();
        bytes -= one.dead_bytes();
    }
}

/// Has small segments rewritten into few, if there are too many.
fn join_small(segments: &mut [SegmentPlan], segment_bytes: u64) {
    let is_small =
        |one: &SegmentPlan| one.action == Action::Keep && one.bytes < segment_bytes / SMALL_SHARE;
    if segments.iter().filter(|one| is_small(one)).count() > MAX_SMALL_SEGMENTS {
        segments.iter_mut().filter(|one| is_small(one)).for_each(|one| {
            one.action = Action::Rewrite;
        });
    }
}

fn refuse(fault: Fault) -> Result<(), Error> {
    let source = match fault.why {
        Why::Missing => block::Error::Missing { id: fault.id },
        Why::Unreadable(error) | Why::Malformed(error) => error,
        Why::WrongKind(_) => {
            block::Error::Malformed { what: "a block of this kind may not be named here" }
        }
    };
    let parent =
        fault.parent.map_or_else(|root| format!("root {root}"), |id| format!("block {id}"));
    Err(Error::Unreachable { id: fault.id, parent, source })
}

/// Copies the marked records of a closed segment to the active one, each checked against its name.
fn copy_live(
    shared: &Shared,
    writer: &Writer,
    marks: &Mutex<Marks>,
    id: SegmentId,
) -> Result<(), Error> {
    let lock = || marks.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(live_blocks) = lock().of(id).map(|marks| marks.live_blocks) else { return Ok(()) };
    let segment = shared.segments.sealed(id)?;
    let (trailer, table) = segment.footer_in_memory()?;
    let file = Arc::clone(&segment.file);
    let mut dictionaries = OfSegment::new(Arc::clone(&file), &shared.identity);
    let mut scanner = Scanner::new(file, shared.identity.uuid, id, trailer.data_end);
    let mut copied = 0;
    loop {
        match scanner.step() {
            Step::Record { offset, header, payload } => {
                dictionaries.saw(&entry_of(id, offset, &header));
                let found = table.find(&header.id, |entry| entry.offset == offset)?;
                let is_live = |ordinal| lock().of(id).is_some_and(|marks| marks.has(ordinal));
                if !found.is_some_and(|(ordinal, _)| is_live(ordinal)) {
                    continue;
                }
                let dictionary = shared.dictionary_in(&dictionaries, header.form);
                writer.move_record(
                    (&shared.segments, &shared.index),
                    (&header, payload),
                    dictionary.as_deref(),
                    Purpose::Reclaim,
                )?;
                copied += 1;
            }
            Step::End => break,
            // Nothing that lives, or it is missed at the end.
            Step::Invalid { .. } | Step::Unreadable { .. } => {
                if !scanner.resync() {
                    break;
                }
            }
        }
    }
    if copied == live_blocks {
        Ok(())
    } else {
        Err(damaged(&segment, 0, "the segment has fewer live records than its footer"))
    }
}

fn damaged(segment: &Segment, offset: u64, what: &'static str) -> Error {
    Error::Damaged { path: segment.file.path().to_owned(), offset, what }
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
