//! What damaged blocks cost: of which collections, of which snapshots, which documents.
//!
//! Blocks that lead to a damaged one are known from the walk of the whole store, so that only they are
//! read, each collection's tree once however many snapshots share it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::rc::Rc;

use serde::Serialize;

use super::Owner;
use crate::block::BlockId;
use crate::head;
use crate::job::verify::shown_id;
use crate::store::Store;
use crate::tree::{self, Cursor, Root};

/// Ranges listed of a finding, at most.
pub(super) const RANGES_LISTED_MAX: usize = 100;

/// Documents of a collection that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LostRange {
    /// The collection.
    pub collection: String,
    /// How many they are.
    pub documents: u64,
    /// The `_id` of the last document before them that can be read, as Extended JSON; absent if there is
    /// none. In a capped collection before is before in its order.
    pub after: Option<String>,
    /// The `_id` of the first document behind them that can be read; absent if there is none.
    pub before: Option<String>,
    /// The snapshots that hold them so.
    pub snapshots: Vec<String>,
    /// The jobs whose head holds them so.
    pub jobs: Vec<String>,
}

/// What one damaged block costs a tree: how many documents, and what stands on both sides of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Lost {
    documents: u64,
    after: Option<String>,
    before: Option<String>,
}

/// Those of a tree, by block.
type TreeLosses = Rc<Vec<(BlockId, Lost)>>;

/// By block, collection and loss: the owners.
type ByLoss = BTreeMap<(BlockId, String, Lost), BTreeSet<usize>>;

/// What damage costs every owner, by damaged block. `suspect`: the block, or one under it, is damaged.
pub(super) fn ranges(
    store: &Store,
    owners: &[Owner],
    suspect: &dyn Fn(&BlockId) -> bool,
) -> BTreeMap<BlockId, Vec<LostRange>> {
    let mut trees: HashMap<BlockId, TreeLosses> = HashMap::new();
    let mut found = ByLoss::new();
    for (index, owner) in owners.iter().enumerate() {
        let Some(head) =
            owner.head.as_ref().filter(|head| head.catalog.top.is_some_and(|top| suspect(&top)))
        else {
            continue;
        };
        // A damaged catalog is a finding of its own.
        for collection in head::catalog(store, head).unwrap_or_default() {
            let Some(top) = collection.root.top.filter(|top| suspect(top)) else { continue };
            let losses =
                trees.entry(top).or_insert_with(|| losses(store, &collection.root, suspect));
            for (block, lost) in losses.iter() {
                let key = (*block, collection.ns.clone(), lost.clone());
                found.entry(key).or_default().insert(index);
            }
        }
    }
    let mut by_block: BTreeMap<BlockId, Vec<LostRange>> = BTreeMap::new();
    for ((block, collection, lost), of) in found {
        let ranges = by_block.entry(block).or_default();
        if ranges.len() < RANGES_LISTED_MAX {
            ranges.push(range(collection, lost, of.iter().map(|index| &owners[*index])));
        }
    }
    by_block
}

fn range<'a>(
    collection: String,
    lost: Lost,
    owners: impl Iterator<Item = &'a Owner> + Clone,
) -> LostRange {
    let Lost { documents, after, before } = lost;
    let jobs = owners.clone().filter(|owner| owner.snapshot.is_none());
    let jobs = jobs.map(|owner| owner.job.clone()).collect();
    let snapshots = owners.filter_map(|owner| owner.snapshot.clone()).collect();
    LostRange { collection, documents, after, before, snapshots, jobs }
}

/// What a tree has lost.
fn losses(store: &Store, root: &Root, suspect: &dyn Fn(&BlockId) -> bool) -> TreeLosses {
    let hurt = tree::hurt(store, root, suspect).unwrap_or_default();
    let mut gaps: Vec<Range<u64>> = Vec::new();
    for one in &hurt {
        match gaps.last_mut().filter(|gap| gap.end >= one.documents.start) {
            Some(gap) => gap.end = gap.end.max(one.documents.end),
            None => gaps.push(one.documents.clone()),
        }
    }
    let id_at = |rank: Option<u64>| {
        let mut cursor = Cursor::new(store, root);
        cursor.seek_rank(rank?).ok()?;
        cursor.next().ok()?.map(|document| shown_id(&document))
    };
    let mut sides: BTreeMap<u64, (Option<String>, Option<String>)> = BTreeMap::new();
    for gap in gaps {
        sides.insert(gap.end, (id_at(gap.start.checked_sub(1)), id_at(Some(gap.end))));
    }
    let lost = |one: tree::Hurt| {
        let (after, before) = sides.range(one.documents.end..).next()?.1.clone();
        let documents = one.documents.end - one.documents.start;
        Some((one.block, Lost { documents, after, before }))
    };
    Rc::new(hurt.into_iter().filter_map(lost).collect())
}
