//! Sweeps waiting changes into trees: each changed collection once, in key order.

use super::Error;
use super::catalog::{Catalog, Incarnation};
use super::change::{Change, Context};
use super::changes::Drained;
use super::merge::{Merged, update_failed};
use crate::block::BlockWrite;
use crate::tree::{self, Edit, Key, RangeEdits, Ranges, Shape};

/// Threads of one sweep at most: other jobs want to run, too.
const THREADS_MAX: usize = 4;
/// Changes of a collection that are worth more than one thread: far more than the few nodes which its
/// ranges leave behind.
const BYTES_FOR_THREADS: u64 = 8 << 20;

/// Applies all changes to the collections of the catalog. Changes of collections that are gone, or
/// were emptied since, are passed over.
pub(super) fn sweep(
    blocks: &dyn BlockWrite,
    shape: &Shape,
    catalog: &mut Catalog,
    mut changes: Drained,
    context: &Context,
) -> Result<(), Error> {
    for uuid in changes.collections() {
        let Some(entry) = catalog.get(uuid) else { continue };
        let (incarnation, root) = (entry.incarnation, entry.collection.root);
        let threads = threads(changes.bytes_at_most(uuid));
        let among = if threads > 1 { changes.among(uuid) } else { Vec::new() };
        let family = tree::family(blocks, uuid.0, root.bytes, &[root]);
        let blocks = family.as_deref().unwrap_or(blocks);
        let ranges = Ranges::of(blocks, shape, &root, threads, &among)?;
        let changes = changes.take(uuid, ranges.bounds())?.into_iter();
        let edits = changes
            .map(|changes| Box::new(Edits { changes, incarnation, context }) as RangeEdits<'_>)
            .collect();
        let swept = ranges.edit(blocks, shape, edits).map_err(unwrap)?;
        if swept != root
            && let Some(collection) = catalog.change(uuid)
        {
            collection.root = swept;
        }
    }
    Ok(())
}

/// On how many threads changes of so many bytes are swept.
fn threads(bytes: u64) -> usize {
    if bytes < BYTES_FOR_THREADS {
        return 1;
    }
    std::thread::available_parallelism().map_or(1, |threads| threads.get().min(THREADS_MAX))
}

/// The edits of a range of one collection.
struct Edits<'a> {
    changes: Merged,
    incarnation: Incarnation,
    context: &'a Context,
}

impl Iterator for Edits<'_> {
    type Item = Result<(Key, Edit), tree::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.changes.next()? {
                Err(error) => return Some(Err(wrap(error))),
                Ok(record) if record.incarnation == self.incarnation => {
                    return Some(Ok((record.key, edit(record.change, self.context))));
                }
                Ok(_) => {}
            }
        }
    }
}

fn edit(change: Change, context: &Context) -> Edit {
    match change {
        Change::Put(document) => Edit::Put(document),
        Change::Delete => Edit::Delete,
        updates @ Change::Updates(_) => {
            let context = context.clone();
            Edit::Merge(Box::new(move |old| {
                updates.resolve(old, &context).map_err(|failed| update_failed(failed).into())
            }))
        }
    }
}

/// Sends an error of ours through the tree floor.
pub(super) fn wrap(error: Error) -> tree::Error {
    match error {
        Error::Tree(error) => error,
        error => tree::Error::Input(Box::new(error)),
    }
}

/// Takes an error of ours out of one of the tree floor.
pub(super) fn unwrap(error: tree::Error) -> Error {
    match error {
        tree::Error::Input(inner) => match inner.downcast::<Error>() {
            Ok(error) => *error,
            Err(inner) => Error::Tree(tree::Error::Input(inner)),
        },
        error => Error::Tree(error),
    }
}
