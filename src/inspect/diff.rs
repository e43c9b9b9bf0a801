//! What differs between two points.

use std::io;
use std::sync::Arc;

use super::Error;
use crate::blockstore::Repository;
use crate::head::Collection;
use crate::oplog::Uuid;
use crate::restore::{self, Cancel, Differ, Filter, Pair, View};
use crate::tree::Difference;

/// What became of a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only the second point has it.
    Created,
    /// Only the first point has it.
    Dropped,
    /// It was dropped and made again under its name: another UUID.
    Replaced,
    /// Both have it.
    Changed,
}

impl Kind {
    /// As `--json` writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Dropped => "dropped",
            Self::Replaced => "replaced",
            Self::Changed => "changed",
        }
    }
}

/// What differs of a collection besides its documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectionChange {
    /// Its name at the second point; of a dropped one that at the first.
    pub ns: String,
    /// Its UUID at the same point.
    pub uuid: Uuid,
    /// What became of it.
    pub kind: Kind,
    /// Its name at the first point, if that was another.
    pub renamed_from: Option<String>,
    /// Whether its options differ.
    pub options: bool,
    /// Names of indexes that differ, or that one point lacks.
    pub indexes: Vec<String>,
}

/// Documents that differ.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Only at the second point.
    pub added: u64,
    /// Only at the first point.
    pub removed: u64,
    /// At both, with other bytes.
    pub changed: u64,
}

impl Counts {
    fn add(&mut self, difference: &Difference) {
        match difference {
            Difference::Added(_) => self.added += 1,
            Difference::Removed(_) => self.removed += 1,
            Difference::Changed(..) => self.changed += 1,
        }
    }

    /// All of them.
    #[must_use]
    pub fn all(self) -> u64 {
        self.added + self.removed + self.changed
    }
}

/// A part of the result.
#[derive(Debug)]
pub enum Event<'a> {
    /// A collection that differs; its documents follow.
    Collection(&'a CollectionChange),
    /// A document of it that differs, in the order of `_id`.
    Document(&'a CollectionChange, &'a Difference),
    /// All its documents were told. `reordered`: they are the same in another order, which only a
    /// capped collection has.
    End {
        /// The collection.
        of: &'a CollectionChange,
        /// How many differ.
        counts: Counts,
        /// Whether only their order differs.
        reordered: bool,
    },
}

/// Tells `each` what differs between two views of one job, collection by collection in the order of their
/// names; `filters` select by the name at either point, none means all. Returns how many documents
/// differ. Blocking.
///
/// # Errors
/// [`Error::Output`] with what `each` gives, and those of reading the backup.
pub fn diff(
    before: &View,
    after: &View,
    repository: Arc<dyn Repository>,
    filters: &[Filter],
    cancel: &Cancel,
    each: &mut dyn FnMut(Event<'_>) -> io::Result<()>,
) -> Result<Counts, Error> {
    let mut differ = Differ::new(before.contents(), after.contents(), repository, cancel);
    let mut total = Counts::default();
    for pair in differ.pairs()?.iter().filter(|pair| selected(pair, filters)) {
        let change = change(pair)?;
        each(Event::Collection(&change)).map_err(Error::Output)?;
        let mut counts = Counts::default();
        let mut failed = None;
        differ.documents(pair, &mut |_, difference| {
            counts.add(&difference);
            failed = each(Event::Document(&change, &difference)).err();
            Ok(failed.is_none())
        })?;
        if let Some(why) = failed {
            return Err(Error::Output(why));
        }
        let moved = matches!((pair.before, pair.after), (Some(a), Some(b)) if a.root != b.root);
        let reordered = moved && counts.all() == 0;
        each(Event::End { of: &change, counts, reordered }).map_err(Error::Output)?;
        total.added += counts.added;
        total.removed += counts.removed;
        total.changed += counts.changed;
    }
    Ok(total)
}

/// A filter that names a time series means the buckets that hold its measurements.
fn selected(pair: &Pair<'_>, filters: &[Filter]) -> bool {
    let covered = |of: &Collection| {
        let series = of.ns.replacen(".system.buckets.", ".", 1);
        filters.iter().any(|filter| filter.covers(&of.ns) || filter.covers(&series))
    };
    filters.is_empty() || [pair.before, pair.after].into_iter().flatten().any(covered)
}

fn change(pair: &Pair<'_>) -> Result<CollectionChange, restore::Error> {
    let kind = match (pair.before, pair.after) {
        (None, _) => Kind::Created,
        (_, None) => Kind::Dropped,
        _ if pair.replaced() => Kind::Replaced,
        _ => Kind::Changed,
    };
    let newest = pair.newest();
    Ok(CollectionChange {
        ns: newest.ns.clone(),
        uuid: newest.uuid,
        kind,
        renamed_from: pair.before.filter(|_| pair.renamed()).map(|before| before.ns.clone()),
        options: pair.options_differ()?,
        indexes: pair.indexes_differ()?,
    })
}
