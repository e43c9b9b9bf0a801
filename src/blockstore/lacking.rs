//! Which blocks of a head a blockstore may lack that has an older one.

use std::collections::{BTreeMap, BTreeSet};

use super::Error;
use crate::block::{BlockId, BlockRead, Kind, references};
use crate::head::{self, HeadRoot};
use crate::tree::{self, Root};

/// Names that are remembered so as not to be looked at twice.
const SEEN_MAX: usize = 1 << 18;

/// Hands every block of a head to `found` that an older head has not got; all of them if there is none. Some more, where much differs,
/// and some twice.
///
/// # Errors
/// What `found` gives, and those of reading blocks.
pub fn lacking(
    blocks: &dyn BlockRead,
    new: &HeadRoot,
    old: Option<&HeadRoot>,
    found: &mut dyn FnMut(BlockId) -> Result<(), Error>,
) -> Result<(), Error> {
    let empty = Root::default();
    let old_catalog = old.map_or(&empty, |old| &old.catalog);
    let mut entries = Vec::new();
    tree::fresh::<Error>(blocks, &new.catalog, old_catalog, &mut |id| {
        entries.push(id);
        found(id)
    })?;
    // What catalog entries name beside the trees of documents.
    for id in entries {
        let block = blocks.get(&id)?;
        if block.kind == Kind::Links {
            references(block.kind, &block.bytes)?.into_iter().try_for_each(&mut *found)?;
        }
    }
    let before: BTreeMap<_, Root> = match old {
        Some(old) => {
            let collections = head::catalog(blocks, old)?;
            collections.into_iter().map(|one| (one.uuid, one.root)).collect()
        }
        None => BTreeMap::new(),
    };
    for collection in head::catalog(blocks, new)? {
        let old = before.get(&collection.uuid).unwrap_or(&empty);
        if *old != collection.root {
            tree::fresh(blocks, &collection.root, old, found)?;
        }
    }
    if new.pending != old.and_then(|old| old.pending) {
        new.pending.iter().try_for_each(|pending| under(blocks, pending, found))?;
    }
    Ok(())
}

/// A block and all that it reaches.
fn under(
    blocks: &dyn BlockRead,
    root: &BlockId,
    found: &mut dyn FnMut(BlockId) -> Result<(), Error>,
) -> Result<(), Error> {
    let (mut open, mut seen) = (vec![*root], BTreeSet::new());
    while let Some(id) = open.pop() {
        if seen.len() >= SEEN_MAX {
            seen.clear();
        }
        if !seen.insert(id) {
            continue;
        }
        found(id)?;
        if blocks.kind_of(&id)?.is_some_and(|kind| kind.has_references()) {
            let block = blocks.get(&id)?;
            open.extend(references(block.kind, &block.bytes)?);
        }
    }
    Ok(())
}
