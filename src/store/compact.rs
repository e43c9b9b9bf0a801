//! Compaction: giving back the space of blocks that nothing reaches.
//!
//! Order: no session lives, all that was put is sealed; what the newest commit reaches is marked; live
//! records of segments worth it are copied forward; a commit names the segments without the old
//! ones, and makes the copies durable before it; then the old files are removed, unless a registered reader still reads
//! a commit that lists them. A crash before that commit leaves copies that count for nothing; after
//! it, files that no commit names, which the next open removes. Nothing is changed in place.

use std::collections::BTreeSet;

use serde::Serialize;

use super::fs::FsError;
use super::layout::SegmentId;
use super::record::Commit;
use super::scan::{Scanner, Step, open_payload};
use super::segment::Segment;
use super::walk::{Fault, Walk, Why};
use super::writer::{Waiting, Writer};
use super::{CommitSeq, Error, Role, Shared, Store, readers};
use crate::block;

/// Live bytes copied before they are committed and the segments they came from removed: bounds the
/// extra space that a compaction needs.
const BATCH_BYTES: u64 = 256 << 20;
/// A segment below this share of the usual size is small.
const SMALL_SHARE: u64 = 4;
/// Small segments (each opening of a store may leave one) that are left alone.
const MAX_SMALL_SEGMENTS: usize = 16;

/// What to compact.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Segments with a smaller share of live bytes than this are rewritten, in percent.
    pub rewrite_below_percent: u64,
}

impl Default for Settings {
    /// 65 percent: rewriting then copies less than two bytes for each that it frees.
    fn default() -> Self {
        Self { rewrite_below_percent: 65 }
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
    /// What is done with it.
    pub action: Action,
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
    /// Live bytes copied.
    pub copied_bytes: u64,
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
    let commit = shared.settled_commit()?;
    make_plan(shared, &commit, settings).map(|(plan, _)| plan)
}

/// Compacts the store. Waits until no session lives, and keeps new ones out until it is done.
///
/// # Errors
/// [`Error::ReadOnly`] on a reader, [`Error::Unreachable`] if the graph of blocks has a hole (nothing is
/// removed then), [`Error::Full`] if there is no room for the copies, and those of the disk.
pub fn execute(
    store: &Store,
    settings: Settings,
    on_progress: OnProgress<'_>,
) -> Result<Outcome, Error> {
    let shared = &*store.shared;
    let writer = shared.writer()?;
    let _exclusive = shared.sessions.exclude();
    let commit = shared.settled_commit()?;
    let (plan, walk) = make_plan(shared, &commit, settings)?;
    let total = plan.segments.iter().filter(|one| one.action == Action::Rewrite);
    let total: u64 = total.map(|one| one.bytes).sum();
    let (mut done, mut copied, mut gone) = (0, 0, Vec::new());
    let chosen = plan.segments.iter().filter(|one| one.action != Action::Keep);
    for one in chosen {
        if one.action == Action::Rewrite {
            copy_live(shared, writer, &walk, one.segment)?;
            copied += one.live_bytes;
            done += one.bytes;
            on_progress(done, total);
        }
        gone.push((one.segment, one.bytes));
        if copied >= BATCH_BYTES {
            drop_segments(store, writer, &std::mem::take(&mut gone))?;
            copied = 0;
        }
    }
    drop_segments(store, writer, &gone)?;
    let waiting_bytes = remove_unused(shared, writer)?;
    Ok(Outcome { plan, waiting_bytes })
}

fn make_plan<'a>(
    shared: &'a Shared,
    commit: &Commit,
    settings: Settings,
) -> Result<(Plan, Walk<'a>), Error> {
    static NO_DAMAGE: BTreeSet<(SegmentId, u64)> = BTreeSet::new();
    let mut walk = Walk::new(shared, &NO_DAMAGE);
    for (name, id) in &commit.roots {
        walk.root(name, *id, &mut |fault| refuse(fault), &mut |_| {})?;
    }
    let mut sizes = match &shared.role {
        Role::Writer(writer) => writer.sealed(),
        Role::Reader(_) => commit.segments.clone(),
    };
    if let Role::Reader(_) = &shared.role {
        sizes.extend(commit.active);
    }
    let mut segments: Vec<SegmentPlan> = sizes
        .into_iter()
        .map(|(segment, bytes)| {
            let marks = walk.marks.get(&segment);
            let (live_bytes, live_blocks) =
                marks.map_or((0, 0), |marks| (marks.live_bytes, marks.live_blocks));
            let action = if live_blocks == 0 {
                Action::Drop
            } else if live_bytes * 100 < bytes * settings.rewrite_below_percent {
                Action::Rewrite
            } else {
                Action::Keep
            };
            SegmentPlan { segment, bytes, live_bytes, live_blocks, action }
        })
        .collect();
    join_small(&mut segments, shared.options.segment_bytes);
    let sum = |pick: fn(&SegmentPlan) -> u64| segments.iter().map(pick).sum::<u64>();
    let gone = sum(|one| if one.action == Action::Keep { 0 } else { one.bytes });
    let copied_bytes = sum(|one| if one.action == Action::Rewrite { one.live_bytes } else { 0 });
    let freed_bytes = gone.saturating_sub(copied_bytes);
    Ok((Plan { commit: commit.seq, segments, freed_bytes, copied_bytes }, walk))
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

/// Copies the marked records of a segment to the active one, each checked against its name.
fn copy_live(
    shared: &Shared,
    writer: &Writer,
    walk: &Walk<'_>,
    id: SegmentId,
) -> Result<(), Error> {
    let Some(marks) = walk.marks.get(&id) else { return Ok(()) };
    let segment = shared.segments.sealed(id)?;
    let (trailer, table) = segment.footer()?;
    let file = std::sync::Arc::clone(&segment.file);
    let mut scanner = Scanner::new(file, shared.identity.uuid, id, trailer.data_end);
    let mut copied = 0;
    loop {
        match scanner.step()? {
            Step::Record { offset, header, payload } => {
                let found = table.find(&header.id, |entry| entry.offset == offset)?;
                if !found.is_some_and(|(ordinal, _)| marks.has(ordinal)) {
                    continue;
                }
                open_payload(&header, payload)?;
                let form = (header.id, header.kind, header.codec);
                let parts = (&shared.segments, &shared.index);
                writer.append_record(parts, form, header.raw_len as usize, payload)?;
                copied += 1;
            }
            Step::End => break,
            Step::Invalid { offset, what } => return Err(damaged(&segment, offset, what)),
        }
    }
    if copied == marks.live_blocks {
        Ok(())
    } else {
        Err(damaged(&segment, 0, "the segment has fewer live records than its footer"))
    }
}

fn damaged(segment: &Segment, offset: u64, what: &'static str) -> Error {
    Error::Damaged { path: segment.file.path().to_owned(), offset, what }
}

/// Commits the store without some segments and takes them out of the index.
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
    shared.index.drop_segments(&ids)?;
    let dropped_by = commit.seq;
    writer.wait_for_readers(gone.iter().map(|&(segment, bytes)| Waiting {
        segment,
        bytes,
        dropped_by,
    }));
    remove_unused(shared, writer)?;
    store.keep_copy(&commit);
    Ok(())
}

/// Removes dropped segments that no living reader uses. Returns the bytes of those left.
pub(super) fn remove_unused(shared: &Shared, writer: &Writer) -> Result<u64, Error> {
    let living = readers::living(&*shared.disk, &shared.dir)?;
    let oldest = living.iter().map(|reader| reader.commit).min();
    writer.remove_waiting(|one| {
        if oldest.is_some_and(|oldest| oldest < one.dropped_by) {
            return Ok(false);
        }
        shared.segments.forget(one.segment);
        match shared.disk.remove(&shared.segments.path(one.segment)) {
            Err(error) if !FsError::is_not_found(&error) => Err(error.into()),
            _ => Ok(true),
        }
    })
}
