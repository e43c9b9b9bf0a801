//! Which documents a tree has lost, where some of its blocks cannot be read.

use std::ops::Range;

use crate::block::{BlockId, BlockRead};

use super::node::Entry;
use super::{Error, Root, read};

/// A block of a tree that cannot be read, and the documents that it alone leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hurt {
    /// The block.
    pub block: BlockId,
    /// Its documents, by their place in the tree's order.
    pub documents: Range<u64>,
}

/// Finds the blocks of a tree that cannot be read, in the order of their documents. Reads only blocks
/// that `suspect` says yes to: those that may be unreadable, or have such a block under them.
///
/// # Errors
/// [`Error::MalformedRoot`]. A block that cannot be read is none.
pub fn hurt(
    blocks: &dyn BlockRead,
    root: &Root,
    suspect: &dyn Fn(&BlockId) -> bool,
) -> Result<Vec<Hurt>, Error> {
    let mut search = Search { blocks, suspect, found: Vec::new() };
    if let Some(entry) = root.entry()? {
        search.entry(&entry, root.level, 0);
    }
    Ok(search.found)
}

struct Search<'a> {
    blocks: &'a dyn BlockRead,
    suspect: &'a dyn Fn(&BlockId) -> bool,
    found: Vec<Hurt>,
}

impl Search<'_> {
    /// Looks under an entry that stands for a node of `level`, or at 0 for a chunk, whose first document
    /// has the place `start`.
    fn entry(&mut self, entry: &Entry, level: u8, start: u64) {
        let end = start.saturating_add(entry.documents);
        if level == 0 {
            return self.chunk(entry, start..end);
        }
        let id = *read::child_id(entry);
        if !(self.suspect)(&id) {
            return;
        }
        match read::node(self.blocks, &id, level) {
            Ok(node) => {
                let mut start = start;
                for child in &node.entries {
                    self.entry(child, level - 1, start);
                    start = start.saturating_add(child.documents);
                }
            }
            Err(_) => self.found.push(Hurt { block: id, documents: start..end }),
        }
    }

    fn chunk(&mut self, entry: &Entry, documents: Range<u64>) {
        let large = u64::from(!entry.parts.is_empty());
        let last = documents.end - large.min(entry.documents);
        let leaf = entry.child.iter().map(|id| (id, documents.start..last));
        let parts = entry.parts.iter().map(|id| (id, last..documents.end));
        for (id, documents) in leaf.chain(parts) {
            if (self.suspect)(id) && self.blocks.get(id).is_err() {
                self.found.push(Hurt { block: *id, documents });
            }
        }
    }
}
