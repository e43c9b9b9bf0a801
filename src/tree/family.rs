//! The leaves of one collection as a family of blocks, which storage may compress with what they have in common.

use crate::block::{self, BlockId, BlockRead, BlockWrite, Family};

use super::{Error, Root, read};

/// Documents of a collection, in bytes, below which nothing is made of their being alike: a dictionary costs time and
/// space of its own.
pub const MIN_FAMILY_BYTES: u64 = 16 << 20;
/// What a leaf is taken to have, in bytes, when some are chosen.
const LEAF_BYTES: u64 = 4 << 10;

/// What stores the leaves of a collection of about `bytes`, some of which stand in `trees`. None where that is just `blocks`.
pub fn family<'a>(
    blocks: &'a dyn BlockWrite,
    id: [u8; 16],
    bytes: u64,
    trees: &[Root],
) -> Option<Box<dyn BlockWrite + 'a>> {
    if bytes < MIN_FAMILY_BYTES {
        return None;
    }
    let examples = |wanted: u64| {
        let share = wanted / trees.len().max(1) as u64;
        let some = trees.iter().map(|tree| some_leaves(blocks, tree, share / LEAF_BYTES + 1));
        let some = some.collect::<Result<Vec<_>, _>>();
        some.map(|some| some.concat()).map_err(|error| match error {
            Error::Block(error) => error,
            error => block::Error::Backend(Box::new(error)),
        })
    };
    blocks.for_family(&Family { id, examples: &examples })
}

/// The blocks of that many documents from all over a tree; fewer where these stand together.
fn some_leaves(blocks: &dyn BlockRead, root: &Root, count: u64) -> Result<Vec<BlockId>, Error> {
    let mut leaves = Vec::new();
    for n in 0..count.min(root.documents) {
        let ordinal = u128::from(root.documents) * u128::from(2 * n + 1) / u128::from(2 * count);
        let leaf = leaf_of(blocks, root, ordinal as u64)?;
        if leaf.is_some() && leaves.last() != leaf.as_ref() {
            leaves.extend(leaf);
        }
    }
    Ok(leaves)
}

/// A block of the document with that number.
fn leaf_of(
    blocks: &dyn BlockRead,
    root: &Root,
    mut ordinal: u64,
) -> Result<Option<BlockId>, Error> {
    let Some(mut id) = root.top else { return Ok(None) };
    for level in (1..=root.level).rev() {
        let node = read::node(blocks, &id, level)?;
        let mut below = node.entries.iter();
        let entry = below.find(|entry| {
            let is_there = ordinal < entry.documents;
            if !is_there {
                ordinal -= entry.documents;
            }
            is_there
        });
        let Some(entry) = entry else { return Ok(None) };
        match entry.child.or_else(|| entry.parts.first().copied()) {
            Some(child) => id = child,
            None => return Ok(None),
        }
    }
    Ok(Some(id))
}
