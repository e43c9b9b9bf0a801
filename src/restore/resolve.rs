//! From the point asked for to the snapshot and slices that give it.
//!
//! What is a point is told by `spans`; here the way to one is found, or it is refused with the nearest
//! that are. Whether transactions prepared at or before a point are decided shows only when slices are
//! applied (`materialise`), unless somebody asks for [`History::spans`].

use std::sync::Arc;

use super::point::{At, Nearest, NearestSnapshots};
use super::spans::{Span, Walk, before, follows, not_understood, usable};
use super::{Backup, Error};
use crate::block::BlockRead;
use crate::head::{Manifest, RULE_VERSION};
use crate::oplog::slice::Slice;
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
    /// Entries of those slices above this do not go on from the snapshot.
    pub reach: Ts,
    /// Whether the user named this point, or the newest possible was asked for.
    pub named: bool,
}

/// A job's snapshots and slices, in order.
pub(super) struct History {
    job: String,
    blocks: Arc<dyn BlockRead>,
    snapshots: Vec<Manifest>,
    slices: Vec<Slice>,
    /// Entries that nothing before them leads beyond.
    gaps: Vec<OpTime>,
}

/// Slices that go on from a snapshot.
struct Chain<'a> {
    slices: &'a [Slice],
    /// The newest timestamp it reaches.
    end: Ts,
    /// The entry that ends it because this version does not understand it.
    unknown: Option<Ts>,
}

impl History {
    pub fn new(backup: Backup) -> Self {
        let Backup { repository, job, mut snapshots, mut slices, mut gaps } = backup;
        snapshots.sort_by_key(order_of);
        slices.sort_by_key(|slice| slice.header.first.optime);
        gaps.sort_unstable();
        Self { job, blocks: repository.blocks(), snapshots, slices, gaps }
    }

    /// Finds the way to a point.
    pub fn route(&self, at: &At) -> Result<Route, Error> {
        match at {
            At::Snapshot(id) => {
                let base = self.snapshots.iter().find(|snapshot| snapshot.id == *id);
                let base = base.ok_or_else(|| Error::UnknownSnapshot {
                    job: self.job.clone(),
                    id: id.clone(),
                    nearest: NearestSnapshots::to(id, self.usable().map(|snapshot| &*snapshot.id)),
                })?;
                if !usable(base) {
                    return Err(self.not_usable(base));
                }
                self.way(base, base.head.position.optime.ts, true)
            }
            At::Latest => match self.usable().next_back() {
                Some(base) => self.way(base, self.chain(base)?.end, false),
                None => Err(self.no_snapshot()),
            },
            At::Time(secs) => self.at_ts(at, Ts { secs: *secs, inc: u32::MAX }),
            At::Exact(ts) => self.at_ts(at, *ts),
        }
    }

    /// The way to the newest point, for `latest` where the newest entries are none; none if there is
    /// no point at all.
    pub fn newest(&self) -> Result<Option<Route>, Error> {
        let Some(newest) = self.spans()?.pop() else { return Ok(None) };
        let ts = newest.to.optime.ts;
        let route = self.at_ts(&At::Exact(ts), ts)?;
        Ok(Some(Route { named: false, ..route }))
    }

    /// Every span of points.
    pub fn spans(&self) -> Result<Vec<Span>, Error> {
        let mut walk = Walk::new(&*self.blocks, &self.snapshots, self.gaps.clone());
        self.slices.iter().try_for_each(|slice| walk.slice(slice))?;
        walk.finish()
    }

    /// The snapshots of a span but for those at its first point, in order.
    pub fn snapshots_within(&self, span: &Span) -> Vec<Manifest> {
        let (from, to) = (span.from.optime, span.to.optime);
        let within = |snapshot: &&Manifest| {
            let at = snapshot.head.position.optime;
            from < at && at <= to
        };
        self.usable().filter(within).cloned().collect()
    }

    /// The restorable points nearest to one that is not.
    pub fn nearest(&self, ts: Ts) -> Result<Nearest, Error> {
        let mut nearest = Nearest::default();
        for span in self.spans()? {
            let (from, to) = (span.from.optime.ts, span.to.optime.ts);
            if from <= ts {
                nearest.below = Some(to.min(ts));
            } else if nearest.above.is_none() {
                nearest.above = Some(from);
            }
        }
        Ok(nearest)
    }

    pub fn job(&self) -> &str {
        &self.job
    }

    fn usable(&self) -> impl DoubleEndedIterator<Item = &Manifest> {
        self.snapshots.iter().filter(|snapshot| usable(snapshot))
    }

    fn at_ts(&self, at: &At, upto: Ts) -> Result<Route, Error> {
        let (job, asked) = (self.job.clone(), at.to_string());
        let reaches = |snapshot: &&Manifest| snapshot.head.position.optime.ts <= upto;
        let Some(base) = self.usable().rev().find(reaches) else {
            if self.usable().next().is_none() {
                return Err(self.no_snapshot());
            }
            return Err(Error::TooEarly { job, asked, nearest: self.nearest(upto)? });
        };
        let chain = self.chain(base)?;
        // A named second needs an entry after it: without one more may yet be stamped in it.
        let reached = match at {
            At::Time(secs) => chain.end.secs > *secs,
            _ => chain.end >= upto,
        };
        if reached {
            return self.way(base, upto, true);
        }
        let nearest = self.nearest(upto)?;
        if let Some(entry) = chain.unknown.filter(|entry| *entry <= upto) {
            return Err(Error::NotApplied { job, asked, entry, nearest, source: None });
        }
        let last = self.slices.last().map(|slice| slice.header.last.optime.ts);
        if nearest.above.is_some() || last.is_some_and(|last| last > chain.end && last >= upto) {
            return Err(Error::Gap { job, asked, nearest });
        }
        Err(Error::TooLate { job, asked, nearest })
    }

    fn way(&self, base: &Manifest, upto: Ts, named: bool) -> Result<Route, Error> {
        let chain = self.chain(base)?;
        let (slices, reach) = (chain.slices.to_vec(), chain.end);
        Ok(Route { base: base.clone(), upto, slices, reach, named })
    }

    /// Slices that go on from a snapshot, unbroken and understood, up to the one in which a gap begins.
    fn chain(&self, base: &Manifest) -> Result<Chain<'_>, Error> {
        let start = base.head.position.optime;
        let gap = self.gaps.iter().find(|gap| **gap >= start);
        let first = self.slices.partition_point(|slice| slice.header.last.optime <= start);
        let mut chain = Chain { slices: &[], end: start.ts, unknown: None };
        let mut end: Option<OpTime> = None;
        for (index, slice) in self.slices.iter().enumerate().skip(first) {
            let header = &slice.header;
            let joins = match end {
                Some(end) => header.prev == end,
                None => follows(start, header),
            };
            if !joins || gap.is_some_and(|gap| *gap < header.first.optime) {
                break;
            }
            chain.slices = &self.slices[first..=index];
            let unknown = not_understood(&*self.blocks, slice)?;
            chain.unknown = unknown.into_iter().find(|entry| *entry > start.ts);
            if let Some(entry) = chain.unknown {
                chain.end = before(entry);
                break;
            }
            chain.end = header.last.optime.ts;
            end = Some(header.last.optime);
        }
        if let Some(gap) = gap.filter(|gap| gap.ts < chain.end) {
            chain.end = gap.ts;
            chain.unknown = None;
        }
        Ok(chain)
    }

    fn no_snapshot(&self) -> Error {
        match self.snapshots.last() {
            Some(snapshot) if snapshot.rule_version != RULE_VERSION => self.not_usable(snapshot),
            _ => Error::NoSnapshot { job: self.job.clone() },
        }
    }

    fn not_usable(&self, snapshot: &Manifest) -> Error {
        if snapshot.rule_version == RULE_VERSION {
            return Error::NoSnapshot { job: self.job.clone() };
        }
        Error::RuleVersion {
            id: snapshot.id.clone(),
            found: snapshot.rule_version,
            known: RULE_VERSION,
        }
    }
}

fn order_of(snapshot: &Manifest) -> (Ts, i64) {
    (snapshot.head.position.optime.ts, snapshot.taken_ms)
}
