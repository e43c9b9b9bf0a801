//! The points that can be restored, exactly: what `points` and `status` print, what a refusal names as
//! nearest, and what `latest` falls back to.
//!
//! A point is restorable if a usable snapshot at or before it exists, the slices after the snapshot
//! chain unbroken up to it, this version understands their entries, and every transaction prepared at
//! or before it is decided in that chain. A [`Walk`] is told the slices in order and finds the spans in
//! which all of that holds, in memory of the slices since the newest snapshot. It reads entries only
//! where headers do not tell: of slices with an unknown kind, and after a prepare.

use std::collections::{BTreeSet, VecDeque};

use super::{Error, read_slice};
use crate::block::BlockRead;
use crate::head::{self, Manifest, RULE_VERSION};
use crate::oplog::known::{self, PREPARE_KIND};
use crate::oplog::slice::{self, Slice, SliceHeader};
use crate::oplog::{self, ApplyOpsRole, OpTime, Parsed, Position, Ts, operations};

/// Kinds of the entries that decide what was prepared.
const DECISION_KINDS: [&str; 2] = ["c.commitTransaction", "c.abortTransaction"];

/// A span of time: every point from `from` to `to`, both included, can be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The snapshot it begins with.
    pub from: Position,
    /// Its last point: the last entry before a gap, or the timestamp just below what limits it.
    pub to: Position,
    /// Why it ends where it does, if not because no more entries follow.
    pub limit: Option<Limit>,
}

impl Span {
    /// Whether a timestamp is in it.
    #[must_use]
    pub fn holds(&self, ts: Ts) -> bool {
        self.from.optime.ts <= ts && ts <= self.to.optime.ts
    }
}

/// What keeps a span from reaching as far as its entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Limit {
    /// The transaction prepared at this timestamp is undecided.
    Undecided(Ts),
    /// The entry at this timestamp is not understood by this version.
    Unknown(Ts),
    /// The slice that begins at this timestamp cannot be read.
    Unreadable(Ts),
    /// From this timestamp on nothing leads further, until a new scan.
    Gap(Ts),
}

impl Limit {
    /// The first timestamp that is no point because of it.
    #[must_use]
    pub fn at(self) -> Ts {
        match self {
            Self::Undecided(ts) | Self::Unknown(ts) | Self::Unreadable(ts) | Self::Gap(ts) => ts,
        }
    }

    /// One word for what it is: `undecided`, `unknown`, `unreadable` or `gap`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Undecided(_) => "undecided",
            Self::Unknown(_) => "unknown",
            Self::Unreadable(_) => "unreadable",
            Self::Gap(_) => "gap",
        }
    }
}

/// Whether a restore can start from a snapshot: its own state is one that the source had, made under
/// rules that this version has.
pub(super) fn usable(snapshot: &Manifest) -> bool {
    let head = &snapshot.head;
    head.consistent_from.is_some_and(|from| from <= head.position.optime)
        && snapshot.rule_version == RULE_VERSION
}

/// Whether a slice goes on after a snapshot. It may begin before it: then the snapshot was taken in
/// the middle of the slice.
pub(super) fn follows(snapshot: OpTime, header: &SliceHeader) -> bool {
    header.prev == snapshot || (header.first.optime <= snapshot && snapshot < header.last.optime)
}

/// The timestamp just below another.
pub(super) fn before(ts: Ts) -> Ts {
    match ts {
        Ts { secs: 0, inc: 0 } => ts,
        Ts { secs, inc: 0 } => Ts { secs: secs - 1, inc: u32::MAX },
        Ts { secs, inc } => Ts { secs, inc: inc - 1 },
    }
}

/// The timestamp just above another.
fn after(ts: Ts) -> Ts {
    match ts {
        Ts { secs, inc: u32::MAX } => Ts { secs: secs.saturating_add(1), inc: 0 },
        Ts { secs, inc } => Ts { secs, inc: inc + 1 },
    }
}

/// Timestamps of the entries of a slice that this version does not understand, in order.
pub(super) fn not_understood(blocks: &dyn BlockRead, slice: &Slice) -> Result<Vec<Ts>, Error> {
    let known = |kind: &String| known::lookup_kind(kind).is_some();
    if slice.header.kinds.iter().all(known) {
        return Ok(Vec::new());
    }
    let bytes = read_slice(slice, blocks)?;
    let mut found = Vec::new();
    for entry in slice::entries(&bytes) {
        let entry = entry?;
        let at = oplog::position(entry)?.optime;
        let understood = match oplog::parse(entry) {
            Ok(Parsed::ApplyOps(group)) => operations(at, group.operations).all(|one| one.is_ok()),
            parsed => parsed.is_ok(),
        };
        if !understood {
            found.push(at.ts);
        }
    }
    Ok(found)
}

/// An unbroken run of slices with the snapshots in it.
struct Run<'a> {
    /// The first snapshot.
    from: Position,
    /// The newest snapshot so far.
    base: &'a Manifest,
    /// The last entry so far.
    end: Position,
    /// The slices since the newest snapshot that prepare or decide transactions.
    transactions: Vec<Slice>,
}

/// Finds the spans of a job whose slices it is told in order.
pub struct Walk<'a> {
    blocks: &'a dyn BlockRead,
    /// Usable snapshots still ahead, oldest first.
    snapshots: VecDeque<&'a Manifest>,
    /// Entries that nothing before them leads beyond, in order.
    gaps: Vec<OpTime>,
    run: Option<Run<'a>>,
    spans: Vec<Span>,
}

impl<'a> Walk<'a> {
    /// Before the first slice. Snapshots may come in any order, and so may the entries after which
    /// gaps begin.
    #[must_use]
    pub fn new(
        blocks: &'a dyn BlockRead,
        snapshots: &'a [Manifest],
        mut gaps: Vec<OpTime>,
    ) -> Self {
        gaps.sort_unstable();
        let mut usable: Vec<_> = snapshots.iter().filter(|snapshot| usable(snapshot)).collect();
        usable.sort_by_key(|snapshot| snapshot.head.position.optime);
        Self { blocks, snapshots: usable.into(), gaps, run: None, spans: Vec::new() }
    }

    /// Takes the next slice.
    ///
    /// # Errors
    /// Those of reading blocks that tell what is undecided; a slice that cannot be read is no error
    /// but a [`Limit`].
    pub fn slice(&mut self, slice: &Slice) -> Result<(), Error> {
        let header = &slice.header;
        if self.run.as_ref().is_some_and(|run| header.prev != run.end.optime) {
            self.close(None)?;
        }
        let (unknown, unreadable) = match not_understood(self.blocks, slice) {
            Ok(found) => (found, None),
            Err(_) => (Vec::new(), Some(Limit::Unreadable(header.first.optime.ts))),
        };
        let mut stops = self.stops(header, unknown).into_iter().peekable();
        while let Some(snapshot) = self.snapshots.front().copied()
            && snapshot.head.position.optime < header.last.optime
        {
            self.snapshots.pop_front();
            let at = snapshot.head.position.optime;
            while let Some(stop) = stops.next_if(|stop| stop.at() <= at.ts) {
                self.stop_in(slice, stop)?;
            }
            match &mut self.run {
                Some(run) => run.rebase(snapshot),
                None => {
                    self.open(snapshot);
                    if !follows(at, header) {
                        self.close(None)?;
                    }
                }
            }
        }
        if unreadable.is_some() {
            self.close(unreadable)?;
        } else if let Some(stop) = stops.next() {
            self.stop_in(slice, stop)?;
        }
        if let Some(run) = &mut self.run {
            run.take(slice);
            run.end = header.last;
        }
        Ok(())
    }

    /// The spans, oldest first, none of which touches another.
    ///
    /// # Errors
    /// As [`Walk::slice`].
    pub fn finish(mut self) -> Result<Vec<Span>, Error> {
        while let Some(snapshot) = self.snapshots.pop_front() {
            match &mut self.run {
                Some(run) if snapshot.head.position.optime <= run.end.optime => {
                    run.rebase(snapshot);
                }
                _ => {
                    self.close(None)?;
                    self.open(snapshot);
                }
            }
        }
        self.close(None)?;
        Ok(self.spans)
    }

    /// What ends a run between the entry before a slice and its last, in order.
    fn stops(&self, header: &SliceHeader, unknown: Vec<Ts>) -> Vec<Limit> {
        let within = |gap: &&OpTime| header.prev <= **gap && **gap < header.last.optime;
        let gaps = self.gaps.iter().filter(within).map(|gap| Limit::Gap(after(gap.ts)));
        let mut stops: Vec<Limit> = unknown.into_iter().map(Limit::Unknown).chain(gaps).collect();
        stops.sort_by_key(|stop| stop.at());
        stops
    }

    fn open(&mut self, snapshot: &'a Manifest) {
        let from = snapshot.head.position;
        self.run = Some(Run { from, base: snapshot, end: from, transactions: Vec::new() });
    }

    /// Ends the run inside a slice.
    fn stop_in(&mut self, slice: &Slice, limit: Limit) -> Result<(), Error> {
        if let Some(run) = &mut self.run {
            run.take(slice);
        }
        self.close(Some(limit))
    }

    /// Ends the run, before `limit` or where its slices end.
    fn close(&mut self, limit: Option<Limit>) -> Result<(), Error> {
        let Some(run) = self.run.take() else { return Ok(()) };
        let limit = run.undecided(self.blocks, limit)?.or(limit);
        let to = match limit {
            None => run.end,
            Some(limit) => {
                let ts = before(limit.at());
                let term = run.end.optime.term;
                Position { optime: OpTime { ts, term }, wall_ms: i64::from(ts.secs) * 1000 }
            }
        };
        let ahead = self.spans.last().is_none_or(|last| last.to.optime.ts < run.from.optime.ts);
        if run.from.optime.ts <= to.optime.ts && ahead {
            self.spans.push(Span { from: run.from, to, limit });
        }
        Ok(())
    }
}

impl<'a> Run<'a> {
    /// A newer snapshot is in it: whatever its own state tells need not be read from slices.
    fn rebase(&mut self, snapshot: &'a Manifest) {
        self.base = snapshot;
        self.transactions.clear();
    }

    fn take(&mut self, slice: &Slice) {
        let kinds = &slice.header.kinds;
        if kinds.contains(PREPARE_KIND) || DECISION_KINDS.iter().any(|kind| kinds.contains(*kind)) {
            self.transactions.push(slice.clone());
        }
    }

    /// What is undecided where the run ends, or cannot be told beyond; none if everything is decided.
    fn undecided(
        &self,
        blocks: &dyn BlockRead,
        limit: Option<Limit>,
    ) -> Result<Option<Limit>, Error> {
        let mut open: BTreeSet<Ts> =
            head::undecided(blocks, &self.base.head)?.into_iter().collect();
        let prepares = |slice: &Slice| slice.header.kinds.contains(PREPARE_KIND);
        if open.is_empty() && !self.transactions.iter().any(prepares) {
            return Ok(None);
        }
        let after = self.base.head.position.optime;
        let mut unreadable = None;
        for slice in &self.transactions {
            let Ok(bytes) = read_slice(slice, blocks) else {
                unreadable = Some(Limit::Unreadable(slice.header.first.optime.ts));
                break;
            };
            for entry in slice::entries(&bytes) {
                let entry = entry?;
                let at = oplog::position(entry)?.optime;
                if at <= after {
                    continue;
                }
                if limit.is_some_and(|limit| limit.at() <= at.ts) {
                    break;
                }
                decide(&mut open, at, oplog::parse(entry)?);
            }
        }
        Ok(open.first().map(|ts| Limit::Undecided(*ts)).or(unreadable))
    }
}

/// What an entry does to the set of undecided prepare timestamps.
fn decide(open: &mut BTreeSet<Ts>, at: OpTime, parsed: Parsed<'_>) {
    let decided = match parsed {
        Parsed::ApplyOps(group) if group.role == ApplyOpsRole::Prepare => {
            open.insert(at.ts);
            None
        }
        Parsed::Commit(commit) => commit.prev,
        Parsed::Abort(abort) => abort.prev,
        _ => None,
    };
    if let Some(decided) = decided {
        open.remove(&decided.ts);
    }
}
