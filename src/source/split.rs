//! Cuts a collection into ranges of `_id`.
//!
//! Where to cut is a matter of speed only: any ascending bounds together cover everything, so they
//! may come from estimates, samples, or (a rename in between) another collection. The server orders
//! them, by the collection's own collation, and equal ones are merged by it.

use bson::{RawDocumentBuf, doc, rawdoc};

use super::list::uuid_value;
use super::member::Member;
use super::topology::On;
use super::{Arrival, Error, Listed, Range, Source};
use crate::elements;
use crate::head::namespaces;

/// Below this a collection is one range: opening a cursor costs more than is gained.
const DOCUMENTS_MIN: u64 = 2_000;

/// Up to this many documents the bounds are found by stepping along the index (a few million keys per
/// second); beyond, by a random sample.
const WALKED_MAX: u64 = 2_000_000;

/// Sampled `_id`s per range: at 50, sizes of ranges scatter by about 14 %.
const SAMPLES_PER_PIECE: usize = 50;

/// Most ranges of a collection.
const PIECES_MAX: usize = 256;

impl Source {
    pub(super) async fn cut(&self, listed: &Listed, pieces: usize) -> Result<Vec<Range>, Error> {
        let whole = vec![Range::default()];
        let pieces = pieces.min(PIECES_MAX);
        if listed.arrival == Arrival::Natural
            || pieces < 2
            || listed.documents_estimate < DOCUMENTS_MIN
        {
            return Ok(whole);
        }
        let member = self.inner.topology.attempt(On::Reader, |member| async { Ok(member) }).await?;
        let bounds = if listed.documents_estimate <= WALKED_MAX {
            walked(&member, listed, pieces).await
        } else {
            sampled(&member, listed, pieces).await
        };
        match bounds {
            Ok(bounds) => Ok(between(bounds)),
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::info!(ns = listed.ns, error, "not split: read as one range");
                Ok(whole)
            }
        }
    }
}

/// Every n-th `_id`, each found from the one before by a covered walk along the index.
async fn walked(
    member: &Member,
    listed: &Listed,
    pieces: usize,
) -> Result<Vec<RawDocumentBuf>, Error> {
    let (db, _) = namespaces::split(&listed.ns);
    let divisor = u64::try_from(pieces).expect("few pieces");
    let step = i64::try_from(listed.documents_estimate / divisor).expect("below WALKED_MAX");
    let mut bounds: Vec<RawDocumentBuf> = Vec::with_capacity(pieces - 1);
    while bounds.len() < pieces - 1 {
        let mut find = rawdoc! {
            "find": uuid_value(listed.uuid),
            "hint": { "_id": 1 },
            "skip": step,
            "limit": 1,
            "projection": { "_id": 1 },
        };
        if let Some(last) = bounds.last() {
            find.append(bson::cstr!("min"), last.clone());
        }
        // Fewer documents than estimated: fewer ranges.
        let Some(next) = ids(member.all(db, "find (bounds)", find).await?).pop() else { break };
        bounds.push(next);
    }
    Ok(bounds)
}

/// Quantiles of a random sample.
async fn sampled(
    member: &Member,
    listed: &Listed,
    pieces: usize,
) -> Result<Vec<RawDocumentBuf>, Error> {
    let (db, name) = namespaces::split(&listed.ns);
    let size = i64::try_from(pieces * SAMPLES_PER_PIECE).expect("few pieces");
    let aggregate = doc! {
        "aggregate": name,
        "pipeline": [
            { "$sample": { "size": size } },
            { "$group": { "_id": "$_id" } },
            { "$sort": { "_id": 1 } },
        ],
        "cursor": {},
    };
    let aggregate = RawDocumentBuf::try_from(&aggregate).expect("a document of plain values");
    let sample = ids(member.all(db, "aggregate (bounds)", aggregate).await?);
    let quantile = |piece: usize| sample.get(piece * sample.len() / pieces).cloned();
    let mut bounds: Vec<RawDocumentBuf> = (1..pieces).filter_map(quantile).collect();
    bounds.dedup();
    Ok(bounds)
}

/// The `{_id}`s of documents that have one.
fn ids(documents: Vec<RawDocumentBuf>) -> Vec<RawDocumentBuf> {
    let id = |document: RawDocumentBuf| elements::only_id(&document).ok();
    documents.into_iter().filter_map(id).filter(|id| !id.is_empty()).collect()
}

/// The ranges that bounds make.
fn between(bounds: Vec<RawDocumentBuf>) -> Vec<Range> {
    let mut ranges = Vec::with_capacity(bounds.len() + 1);
    let mut lower = None;
    for bound in bounds {
        ranges.push(Range { lower, upper: Some(bound.clone()) });
        lower = Some(bound);
    }
    ranges.push(Range { lower, upper: None });
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_join_without_gap() {
        assert_eq!(between(Vec::new()), [Range::default()]);
        let ranges = between(vec![rawdoc! { "_id": 5 }, rawdoc! { "_id": "x" }]);
        assert_eq!(ranges.len(), 3);
        assert_eq!((&ranges[0].lower, &ranges[2].upper), (&None, &None));
        for pair in ranges.windows(2) {
            assert!(pair[0].upper.is_some());
            assert_eq!(pair[0].upper, pair[1].lower);
        }
    }
}
