//! Ranges of time that cannot be restored, and why.
//!
//! A gap begins after the last point that the snapshots before it and their slices lead to; it ends at
//! the first snapshot after it. Only the beginning is stored. Slices may run on through a gap: an entry
//! in them could not be applied, so what comes after it is not reached from before it.
//!
//! A gap may be of some namespaces only: collections that a rename brought into the job's filters are
//! missing until they are scanned.
//!
//! Of gaps of the whole source with no snapshot between them only the first tells anything, so there is never more than
//! one after each snapshot.

use bson::raw::{RawArrayBuf, cstr};
use bson::{DateTime, RawDocumentBuf};

use super::Error;
use crate::head::Manifest;
use crate::head::fields::{self, Fields};
use crate::oplog::{OpTime, Position};

/// Bytes of a reason that are kept: it is the text of an error, which may quote names.
const REASON_BYTES_MAX: usize = 512;

/// Gaps of single namespaces that are kept; of more, the oldest go.
const NAMESPACE_GAPS_MAX: usize = 64;
/// Namespaces that such a gap names.
const NAMESPACES_MAX: usize = 16;

/// A range of time that cannot be restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Which namespaces; all if none is named.
    pub namespaces: Vec<String>,
    /// The last entry before it.
    pub after: Position,
    /// Why, for the operator.
    pub reason: String,
    /// When it was noticed, in milliseconds since the Unix epoch.
    pub noticed_ms: i64,
}

/// The gaps of a job, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Gaps(Vec<Gap>);

impl Gaps {
    /// In the order of time.
    pub fn iter(&self) -> impl Iterator<Item = &Gap> {
        self.0.iter()
    }

    /// Those of the whole source.
    pub fn whole(&self) -> impl Iterator<Item = &Gap> {
        self.0.iter().filter(|gap| gap.namespaces.is_empty())
    }

    /// Adds a gap, unless nothing can be restored between it and an earlier one. Forgets those that no
    /// snapshot comes before.
    pub(super) fn add(&mut self, mut gap: Gap, snapshots: &[Manifest]) {
        let within = |from: OpTime, to: OpTime| {
            let mut optimes = snapshots.iter().map(|manifest| manifest.head.position.optime);
            optimes.any(|optime| from < optime && optime <= to)
        };
        let after = gap.after.optime;
        self.0.retain(|old| within(OpTime::NULL, old.after.optime));
        let known = gap.namespaces.is_empty()
            && self.whole().any(|old| {
                let earlier = old.after.optime;
                earlier <= after && !within(earlier, after)
            });
        if known || !within(OpTime::NULL, after) {
            return;
        }
        while gap.reason.len() > REASON_BYTES_MAX {
            gap.reason.pop();
        }
        gap.namespaces.truncate(NAMESPACES_MAX);
        self.0.push(gap);
        let of_some = |gap: &Gap| !gap.namespaces.is_empty();
        if self.0.iter().filter(|gap| of_some(gap)).count() > NAMESPACE_GAPS_MAX
            && let Some(oldest) = self.0.iter().position(of_some)
        {
            self.0.remove(oldest);
        }
        self.0.sort_by_key(|gap| gap.after.optime);
    }

    /// As a BSON value for the job state.
    #[must_use]
    pub fn to_bson(&self) -> RawArrayBuf {
        let mut out = RawArrayBuf::new();
        for gap in &self.0 {
            let mut document = RawDocumentBuf::new();
            document.append(cstr!("after"), fields::position(gap.after));
            let mut namespaces = RawArrayBuf::new();
            gap.namespaces.iter().for_each(|ns| namespaces.push(ns.as_str()));
            document.append(cstr!("namespaces"), namespaces);
            document.append(cstr!("reason"), gap.reason.as_str());
            document.append(cstr!("noticed"), DateTime::from_millis(gap.noticed_ms));
            out.push(document);
        }
        out
    }

    /// Reads [`Gaps::to_bson`] back.
    ///
    /// # Errors
    /// [`Error::Head`].
    pub(super) fn from_bson(read: Fields<'_>, field: &'static str) -> Result<Self, Error> {
        let gap = |read: Fields<'_>| {
            Ok::<_, Error>(Gap {
                namespaces: read.texts("namespaces")?,
                after: read.position("after")?,
                reason: read.text("reason")?,
                noticed_ms: read.millis("noticed")?,
            })
        };
        read.documents(field)?.into_iter().map(gap).collect::<Result<_, _>>().map(Self)
    }
}
