//! From the point asked for to the snapshot and slices that give it.
//!
//! A point is restorable if a snapshot at or before it exists, was consistent by then, and the
//! slices after the snapshot chain unbroken (each begins where the one before ends) until one holds
//! an entry at or above the point. Everything else is refused with the nearest points that are.

use super::point::{At, Nearest, NearestSnapshots};
use super::{Error, Slice};
use crate::head::{Manifest, RULE_VERSION};
use crate::oplog::{OpTime, Ts};

/// Where a restore starts and how far it goes.
#[derive(Debug, Clone)]
pub(super) struct Route {
    /// The snapshot to start from.
    pub base: Manifest,
    /// Everything stamped at or before this belongs to the point.
    pub upto: Ts,
    /// Slices after the snapshot, in order and unbroken, as far as they go: those beyond the point
    /// may decide transactions that were prepared before it.
    pub slices: Vec<Slice>,
    /// Whether the user named this point, or the newest possible was asked for.
    pub named: bool,
}

/// A job's snapshots and slices, in order.
pub(super) struct History {
    job: String,
    snapshots: Vec<Manifest>,
    slices: Vec<Slice>,
    /// Entries that nothing before them leads beyond.
    gaps: Vec<OpTime>,
}

impl History {
    pub fn new(
        job: String,
        mut snapshots: Vec<Manifest>,
        mut slices: Vec<Slice>,
        mut gaps: Vec<OpTime>,
    ) -> Self {
        snapshots.sort_by_key(order_of);
        slices.sort_by_key(|slice| slice.header.first.optime);
        gaps.sort_unstable();
        Self { job, snapshots, slices, gaps }
    }

    /// Finds the way to a point.
    pub fn route(&self, at: &At) -> Result<Route, Error> {
        let usable = || self.snapshots.iter().filter(|snapshot| consistent(snapshot));
        if usable().next().is_none() {
            return Err(Error::NoSnapshot { job: self.job.clone() });
        }
        match at {
            At::Snapshot(id) => {
                let base = usable().find(|snapshot| snapshot.id == *id);
                let base = base.ok_or_else(|| Error::UnknownSnapshot {
                    job: self.job.clone(),
                    id: id.clone(),
                    nearest: NearestSnapshots::to(id, usable().map(|snapshot| &*snapshot.id)),
                })?;
                self.checked(base, base.head.position.optime.ts, true)
            }
            At::Latest => {
                let base = usable().next_back().expect("one was found above");
                let end = self.end_of(base);
                self.checked(base, end.ts, false)
            }
            At::Time(secs) => self.at_ts(at, Ts { secs: *secs, inc: u32::MAX }),
            At::Exact(ts) => self.at_ts(at, *ts),
        }
    }

    /// The way to the newest point below `ts`, for `latest` while a transaction is undecided.
    pub fn route_below(&self, ts: Ts) -> Result<Route, Error> {
        let before = match ts {
            Ts { secs: 0, inc: 0 } => ts,
            Ts { secs, inc: 0 } => Ts { secs: secs - 1, inc: u32::MAX },
            Ts { secs, inc } => Ts { secs, inc: inc - 1 },
        };
        let mut route = self.at_ts(&At::Exact(before), before)?;
        route.named = false;
        Ok(route)
    }

    fn at_ts(&self, at: &At, upto: Ts) -> Result<Route, Error> {
        let starts =
            |snapshot: &&Manifest| consistent(snapshot) && snapshot.head.position.optime.ts <= upto;
        let nearest = self.nearest(upto);
        let (job, asked) = (self.job.clone(), at.to_string());
        let Some(base) = self.snapshots.iter().rev().find(starts) else {
            return Err(Error::TooEarly { job, asked, nearest });
        };
        // A named second needs an entry after it: without one more may yet be stamped in it.
        let end = self.end_of(base).ts;
        let reached = match at {
            At::Time(secs) => end.secs > *secs,
            _ => end >= upto,
        };
        if reached {
            return self.checked(base, upto, true);
        }
        let received = self.slices.last().map(|slice| slice.header.last.optime.ts);
        if received.is_some_and(|received| received > end && received >= upto) {
            return Err(Error::Gap { job, asked, nearest });
        }
        Err(Error::TooLate { job, asked, nearest })
    }

    fn checked(&self, base: &Manifest, upto: Ts, named: bool) -> Result<Route, Error> {
        if base.rule_version != RULE_VERSION {
            return Err(Error::RuleVersion {
                id: base.id.clone(),
                found: base.rule_version,
                known: RULE_VERSION,
            });
        }
        let slices = self.chain(base.head.position.optime).into_iter().cloned().collect();
        Ok(Route { base: base.clone(), upto, slices, named })
    }

    /// The gap that ends what `start` leads to, if there is one.
    fn gap_after(&self, start: OpTime) -> Option<OpTime> {
        self.gaps.iter().copied().find(|gap| *gap >= start)
    }

    /// Slices that go on from `start`, unbroken, up to the one in which a gap begins.
    fn chain(&self, start: OpTime) -> Vec<&Slice> {
        let gap = self.gap_after(start);
        let mut end = start;
        let mut chain = Vec::new();
        for slice in &self.slices {
            let header = &slice.header;
            if header.last.optime <= end {
                continue;
            }
            if gap.is_some_and(|gap| header.first.optime > gap) {
                break;
            }
            // The first may begin before the snapshot: it was taken in the middle of a slice.
            let joins = header.prev == end || (chain.is_empty() && header.first.optime <= end);
            if !joins {
                break;
            }
            end = header.last.optime;
            chain.push(slice);
        }
        chain
    }

    /// How far the slices after a snapshot reach; its own optime where there are none.
    fn end_of(&self, base: &Manifest) -> OpTime {
        let start = base.head.position.optime;
        let end = self.chain(start).last().map_or(start, |slice| slice.header.last.optime);
        self.gap_after(start).map_or(end, |gap| end.min(gap))
    }

    /// The nearest restorable points below and above `ts`.
    pub fn nearest(&self, ts: Ts) -> Nearest {
        let mut nearest = Nearest::default();
        for base in self.snapshots.iter().filter(|snapshot| consistent(snapshot)) {
            let start = base.head.position.optime.ts;
            let end = self.end_of(base).ts;
            for point in [start, end] {
                if point <= ts && nearest.below.is_none_or(|below| below < point) {
                    nearest.below = Some(point);
                }
                if point > ts && nearest.above.is_none_or(|above| above > point) {
                    nearest.above = Some(point);
                }
            }
        }
        nearest
    }

    pub fn job(&self) -> &str {
        &self.job
    }
}

fn order_of(snapshot: &Manifest) -> (Ts, i64) {
    (snapshot.head.position.optime.ts, snapshot.taken_ms)
}

/// Whether the snapshot's own state is one that the source had.
fn consistent(snapshot: &Manifest) -> bool {
    let head = &snapshot.head;
    head.consistent_from.is_some_and(|from| from <= head.position.optime)
}
