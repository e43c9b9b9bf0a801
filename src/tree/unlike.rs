//! Documents of two trees that are not in a subtree which both have.
//!
//! [`super::diff()`] goes along both trees by key. A positional tree has no order of keys, and what it
//! lost at the front moves all that follows; but its cuts depend on the documents alone, so that equal
//! stretches are equal subtrees wherever they stand. Here the subtrees of one level are compared as two
//! sets, from the top down, and only those that the other tree lacks are opened.

use std::collections::HashSet;

use bson::RawDocument;

use crate::block::{BlockId, BlockRead};

use super::node::Entry;
use super::{Error, Root, read};

/// Subtrees of one level that are compared, in each tree. Where more are unlike, all that is under
/// them is handed out: the memory for their names would grow with the difference.
const MAX_OPEN: usize = 1 << 16;

/// Which of two trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The first.
    First,
    /// The second.
    Second,
}

/// Hands every document to `found` that stands in a subtree which the other tree lacks, those of the
/// first tree first, each side in the tree's order. Where no tree has an `_id` twice, every difference
/// is among them; a document that both trees have may be, too.
///
/// # Errors
/// What `found` gives, and those of reading blocks.
pub fn unlike(
    a_blocks: &dyn BlockRead,
    a: &Root,
    b_blocks: &dyn BlockRead,
    b: &Root,
    found: &mut dyn FnMut(Side, &RawDocument) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut level = a.level.max(b.level);
    let mut a = Open { blocks: a_blocks, root: Some(*a), entries: Vec::new() };
    let mut b = Open { blocks: b_blocks, root: Some(*b), entries: Vec::new() };
    loop {
        a.enter(level)?;
        b.enter(level)?;
        let (in_a, in_b) = (a.names(), b.names());
        a.entries.retain(|entry| !in_b.contains(&name(entry)));
        b.entries.retain(|entry| !in_a.contains(&name(entry)));
        let below = match level {
            0 => None,
            _ => a.children(level)?.zip(b.children(level)?),
        };
        let Some(below) = below else {
            a.hand_out(level, Side::First, found)?;
            return b.hand_out(level, Side::Second, found);
        };
        (a.entries, b.entries) = below;
        level -= 1;
    }
}

/// What a subtree is named by: its block, and the parts of a large document.
type Name = (Option<BlockId>, Vec<BlockId>);

fn name(entry: &Entry) -> Name {
    (entry.child, entry.parts.clone())
}

/// The subtrees of one tree at one level that the other lacks.
struct Open<'a> {
    blocks: &'a dyn BlockRead,
    /// Until its level is reached.
    root: Option<Root>,
    entries: Vec<Entry>,
}

impl Open<'_> {
    /// Takes the root in when its level is reached.
    fn enter(&mut self, level: u8) -> Result<(), Error> {
        if let Some(root) = self.root.take_if(|root| root.level == level) {
            self.entries.extend(root.entry()?);
        }
        Ok(())
    }

    fn names(&self) -> HashSet<Name> {
        self.entries.iter().map(name).collect()
    }

    /// What is one level below; none if it is more than [`MAX_OPEN`].
    fn children(&self, level: u8) -> Result<Option<Vec<Entry>>, Error> {
        let mut children = Vec::new();
        for entry in &self.entries {
            children.extend(read::node(self.blocks, read::child_id(entry), level)?.entries);
            if children.len() > MAX_OPEN {
                return Ok(None);
            }
        }
        Ok(Some(children))
    }

    fn hand_out(
        &self,
        level: u8,
        side: Side,
        found: &mut dyn FnMut(Side, &RawDocument) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if let Some(root) = &self.root {
            return match root.entry()? {
                Some(entry) => subtree(self.blocks, &entry, root.level, side, found),
                None => Ok(()),
            };
        }
        let mut entries = self.entries.iter();
        entries.try_for_each(|entry| subtree(self.blocks, entry, level, side, found))
    }
}

/// Every document of a subtree. The depth is that of the tree, at most [`super::MAX_LEVEL`].
fn subtree(
    blocks: &dyn BlockRead,
    entry: &Entry,
    level: u8,
    side: Side,
    found: &mut dyn FnMut(Side, &RawDocument) -> Result<(), Error>,
) -> Result<(), Error> {
    if level == 0 {
        let chunk = read::chunk(blocks, entry)?;
        return chunk.documents().try_for_each(|document| found(side, document?));
    }
    let node = read::node(blocks, read::child_id(entry), level)?;
    node.entries.iter().try_for_each(|child| subtree(blocks, child, level - 1, side, found))
}
