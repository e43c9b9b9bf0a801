//! The blocks of a tree that another tree has not got.
//!
//! What a copy of a repository lacks of a new tree, where it has an older one. Shape follows from content, so that what both have
//! are the same subtrees, and the work is in proportion to what is not: the subtrees of one level are compared as two sets, from
//! the top down, as [`super::unlike()`] does, and only those that the other lacks are opened.

use std::collections::HashSet;

use crate::block::{BlockId, BlockRead};

use super::node::Entry;
use super::{Error, Root, read};

/// Subtrees of one level that are compared, in each tree: about 16 MB of names. Where more are unlike, all that is under them counts
/// as new: the memory for their names would grow with the difference.
const OPEN_MAX: usize = 1 << 17;

/// Hands every block of `new` to `found` that `old` lacks: parents before children, some that `old` has where much differs, none twice
/// in a row.
///
/// # Errors
/// What `found` gives, and those of reading blocks.
pub fn fresh<E: From<Error>>(
    blocks: &dyn BlockRead,
    new: &Root,
    old: &Root,
    found: &mut dyn FnMut(BlockId) -> Result<(), E>,
) -> Result<(), E> {
    let mut level = new.level.max(old.level);
    let mut sides = [Side::of(new)?, Side::of(old)?];
    loop {
        sides.iter_mut().for_each(|side| side.enter(level));
        let [new, old] = &mut sides;
        let known: HashSet<BlockId> = old.entries.iter().flat_map(Entry::ids).copied().collect();
        for id in new.entries.iter().flat_map(Entry::ids).filter(|id| !known.contains(id)) {
            found(*id)?;
        }
        // Of those that only the old one has, what is below may still be in the new one.
        let own: HashSet<BlockId> = new.entries.iter().flat_map(Entry::ids).copied().collect();
        new.entries.retain(|entry| entry.child.is_some_and(|child| !known.contains(&child)));
        old.entries.retain(|entry| entry.child.is_some_and(|child| !own.contains(&child)));
        if level == 0 || new.is_done() {
            return Ok(());
        }
        let below = new.children(blocks, level)?.zip(old.children(blocks, level)?);
        let Some((new_below, old_below)) = below else {
            for entry in &new.entries {
                under(blocks, entry, level, found)?;
            }
            // The new tree may be the lower one, and not have been come to.
            if let Some((level, root)) = &new.root {
                root.ids().try_for_each(|id| found(*id))?;
                under(blocks, root, *level, found)?;
            }
            return Ok(());
        };
        (new.entries, old.entries) = (new_below, old_below);
        level -= 1;
    }
}

/// The subtrees of one tree at one level that the other lacks.
struct Side {
    /// Until its level is reached.
    root: Option<(u8, Entry)>,
    entries: Vec<Entry>,
}

impl Side {
    fn of(root: &Root) -> Result<Self, Error> {
        let entry = root.entry()?.map(|entry| (root.level, entry));
        Ok(Self { root: entry, entries: Vec::new() })
    }

    /// Takes the root in when its level is reached.
    fn enter(&mut self, level: u8) {
        if let Some((_, entry)) = self.root.take_if(|(at, _)| *at == level) {
            self.entries.push(entry);
        }
    }

    fn is_done(&self) -> bool {
        self.root.is_none() && self.entries.is_empty()
    }

    /// What is one level below; none if it is more than [`OPEN_MAX`].
    fn children(&self, blocks: &dyn BlockRead, level: u8) -> Result<Option<Vec<Entry>>, Error> {
        let mut children = Vec::new();
        for entry in &self.entries {
            children.extend(read::node(blocks, read::child_id(entry), level)?.entries);
            if children.len() > OPEN_MAX {
                return Ok(None);
            }
        }
        Ok(Some(children))
    }
}

/// Every block below a subtree's root. The depth is that of the tree, at most [`super::MAX_LEVEL`].
fn under<E: From<Error>>(
    blocks: &dyn BlockRead,
    entry: &Entry,
    level: u8,
    found: &mut dyn FnMut(BlockId) -> Result<(), E>,
) -> Result<(), E> {
    if level == 0 {
        return Ok(());
    }
    for child in &read::node(blocks, read::child_id(entry), level)?.entries {
        child.ids().try_for_each(|id| found(*id))?;
        under(blocks, child, level - 1, found)?;
    }
    Ok(())
}
