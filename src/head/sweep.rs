//! Sweeps waiting changes into trees: each changed collection once, in key order.

use super::Error;
use super::catalog::{Catalog, Incarnation};
use super::change::{Change, Context};
use super::merge::{Merged, update_failed};
use crate::block::BlockWrite;
use crate::oplog::Uuid;
use crate::tree::{self, Edit, Key, Shape};

/// Applies all changes to the collections of the catalog. Changes of collections that are gone, or
/// were emptied since, are passed over.
pub(super) fn sweep(
    blocks: &dyn BlockWrite,
    shape: &Shape,
    catalog: &mut Catalog,
    mut changes: Merged,
    context: &Context,
) -> Result<(), Error> {
    while let Some(uuid) = changes.peek().map(|record| record.uuid) {
        let entry = catalog.get(uuid);
        let (incarnation, root) =
            entry.map(|entry| (Some(entry.incarnation), entry.collection.root)).unwrap_or_default();
        let mut edits = Edits { changes: &mut changes, uuid, incarnation, context };
        if incarnation.is_none() {
            edits.try_for_each(|edit| edit.map(drop)).map_err(unwrap)?;
            continue;
        }
        let swept = tree::edit(blocks, shape, &root, &mut edits).map_err(unwrap)?;
        if swept != root
            && let Some(collection) = catalog.change(uuid)
        {
            collection.root = swept;
        }
    }
    Ok(())
}

/// The edits of one collection.
struct Edits<'a> {
    changes: &'a mut Merged,
    uuid: Uuid,
    /// None if the collection is gone.
    incarnation: Option<Incarnation>,
    context: &'a Context,
}

impl Iterator for Edits<'_> {
    type Item = Result<(Key, Edit), tree::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.changes.peek()?.uuid != self.uuid {
                return None;
            }
            match self.changes.next()? {
                Err(error) => return Some(Err(wrap(error))),
                Ok(record) if Some(record.incarnation) == self.incarnation => {
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
