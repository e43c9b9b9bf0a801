//! What a compaction does: which segments stay, which go, and of which what lives is copied.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

use serde::Serialize;

use crate::block::{self, BlockId};
use crate::store::layout::{SEGMENT_HEADER_BYTES, SegmentId, Trailer};
use crate::store::marks::Marks;
use crate::store::record::Commit;
use crate::store::sync::Mutex;
use crate::store::walk::{Fault, Walk, Why};
use crate::store::{CommitSeq, Error, Role, Shared};

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
    /// Bytes of the dictionaries in it, of which they may need some.
    pub dictionary_bytes: u64,
    /// What is done with it.
    pub action: Action,
}

impl SegmentPlan {
    /// Bytes that a segment of its live blocks alone would have. Of its dictionaries as large a share counts as lives of the rest:
    /// exactly, only its records tell.
    fn needed_bytes(&self) -> u64 {
        let others = self.bytes.saturating_sub(SEGMENT_HEADER_BYTES + self.dictionary_bytes);
        let dictionaries = u128::from(self.dictionary_bytes) * u128::from(self.live_bytes)
            / u128::from(others.max(self.live_bytes).max(1));
        // Not more than all of them.
        let records = self.live_bytes + dictionaries as u64;
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
    pub(super) fn count(&mut self) {
        let sum = |pick: fn(&SegmentPlan) -> u64| self.segments.iter().map(pick).sum::<u64>();
        let gone = sum(|one| if one.action == Action::Keep { 0 } else { one.bytes });
        let copy = |one: &SegmentPlan| one.live_bytes + one.dictionary_bytes;
        let rewritten = self.segments.iter().filter(|one| one.action == Action::Rewrite);
        let copied = rewritten.map(copy).sum::<u64>();
        (self.freed_bytes, self.copied_bytes) = (gone.saturating_sub(copied), copied);
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

/// The segments there are now, with their lengths in bytes.
pub(super) fn sizes(shared: &Shared, commit: &Commit) -> BTreeMap<SegmentId, u64> {
    match &shared.role {
        Role::Writer(writer) => writer.sealed(),
        Role::Reader(_) => {
            commit.segments.iter().map(|(id, len)| (*id, *len)).chain(commit.active).collect()
        }
    }
}

pub(super) fn make_plan(
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
    // Rewritten, they have again what they need.
    let with_gaps = marks.with_gaps();
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
            if one.action == Action::Keep
                && (is_thin || older.contains(&segment) || with_gaps.contains(&segment))
            {
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
