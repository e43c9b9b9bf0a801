//! Checks a tree against every rule of the format, so that a tree that passes is the one that a
//! bulk build of its documents gives.

use crate::block::{self, BlockId, BlockRead, Kind};

use super::graft::check_form;
use super::node::{Entry, Node, Separator, shortest_above};
use super::shape::{MIN_NODE_ENTRIES, Shape};
use super::{Error, Key, PART_BYTES, Root, read};

/// Checks a whole tree: node forms, key order, separators, counts, sizes, cut rule.
/// `visited` gets each block as it is checked, for progress.
///
/// # Errors
/// The first rule found broken: [`Error::Malformed`] naming the block, [`Error::MalformedRoot`],
/// [`Error::WrongOrder`], and those of reading blocks.
pub fn verify(
    blocks: &dyn BlockRead,
    shape: &Shape,
    root: &Root,
    visited: &mut dyn FnMut(&BlockId),
) -> Result<(), Error> {
    run(Check { blocks, shape, visited, documents: true, last: None }, root)
}

/// Checks a tree without reading its documents: node forms, counts, the cut rule of nodes, and that
/// leaves and parts are there and of the right kind.
///
/// # Errors
/// As [`verify`].
pub fn verify_nodes(
    blocks: &dyn BlockRead,
    shape: &Shape,
    root: &Root,
    visited: &mut dyn FnMut(&BlockId),
) -> Result<(), Error> {
    run(Check { blocks, shape, visited, documents: false, last: None }, root)
}

fn run(mut check: Check<'_>, root: &Root) -> Result<(), Error> {
    let Some(entry) = root.entry()? else { return Ok(()) };
    if root.level == 0 {
        return check.chunk(&entry, read::child_id(&entry), true);
    }
    let top = check.node(&entry, root.level, true)?;
    match &top.entries[..] {
        [only] if only.parts.is_empty() => {
            Err(Error::MalformedRoot { what: "a top node with a single child" })
        }
        _ => Ok(()),
    }
}

struct Check<'a> {
    blocks: &'a dyn BlockRead,
    shape: &'a Shape,
    visited: &'a mut dyn FnMut(&BlockId),
    /// Whether documents are read.
    documents: bool,
    /// The last key seen.
    last: Option<Vec<u8>>,
}

impl Check<'_> {
    /// Checks a node and all under it. `rightmost`: it is the last of its level, which may end
    /// without a cut.
    fn node(&mut self, entry: &Entry, level: u8, rightmost: bool) -> Result<Node, Error> {
        let id = *read::child_id(entry);
        let node = read::node(self.blocks, &id, level)?;
        check_form(&node, &id, self.shape)?;
        self.node_cuts(&id, &node, rightmost)?;
        if node.entries[0].separator != entry.separator {
            return Err(Error::malformed(&id, "first separator is not the parent's"));
        }
        let documents = checked_sum(node.entries.iter().map(|entry| entry.documents));
        let bytes = checked_sum(node.entries.iter().map(|entry| entry.bytes));
        if (documents, bytes) != (Some(entry.documents), Some(entry.bytes)) {
            return Err(Error::malformed(&id, "counts are not the parent's"));
        }
        (self.visited)(&id);
        let last = node.entries.len() - 1;
        for (index, child) in node.entries.iter().enumerate() {
            let rightmost = rightmost && index == last;
            if level == 1 {
                self.chunk(child, &id, rightmost)?;
            } else {
                self.node(child, level - 1, rightmost)?;
            }
        }
        Ok(node)
    }

    fn node_cuts(&self, id: &BlockId, node: &Node, rightmost: bool) -> Result<(), Error> {
        let mut size = 0;
        let count = node.entries.len();
        for (before, entry) in node.entries.iter().enumerate() {
            let cut =
                entry.cuts(self.shape, node.level, &mut size) && before + 1 >= MIN_NODE_ENTRIES;
            check_cut(id, cut, before + 1 == count, rightmost)?;
        }
        Ok(())
    }

    /// Checks a chunk of documents. `parent` is named where no block of the chunk can be.
    fn chunk(&mut self, entry: &Entry, parent: &BlockId, rightmost: bool) -> Result<(), Error> {
        let id = entry.child.as_ref().or(entry.parts.first()).unwrap_or(parent);
        if !self.documents {
            return self.chunk_is_there(entry);
        }
        self.kinds(entry)?;
        let chunk = read::chunk(self.blocks, entry)?;
        let (mut documents, mut bytes) = (0, 0);
        let mut documents_left = chunk.documents().peekable();
        while let Some(document) = documents_left.next() {
            let document = document?;
            let is_last = documents_left.peek().is_none();
            let len = document.as_bytes().len();
            if (len > PART_BYTES) != (is_last && !entry.parts.is_empty()) {
                return Err(Error::malformed(
                    id,
                    "a document on the wrong side of the part length",
                ));
            }
            let key = match Key::of_document(document) {
                Err(Error::NoId) if !self.shape.is_keyed() => document.as_bytes().to_vec(),
                other => other?.into_bytes(),
            };
            let (before, after) = (bytes, bytes + len as u64);
            let cut = self.shape.leaf.cuts(before, after, || self.shape.hash(0, &key));
            check_cut(id, cut, is_last, rightmost)?;
            if self.shape.is_keyed() {
                self.key(id, key, (documents == 0).then_some(&entry.separator))?;
            }
            documents += 1;
            bytes = after;
        }
        if (documents, bytes) != (entry.documents, entry.bytes) {
            return Err(Error::malformed(id, "counts are not the parent's"));
        }
        Ok(())
    }

    fn chunk_is_there(&mut self, entry: &Entry) -> Result<(), Error> {
        let leaf = entry.child.iter().map(|id| (id, self.shape.content.leaf_kind()));
        for (id, kind) in leaf.chain(entry.parts.iter().map(|id| (id, Kind::Part))) {
            match self.blocks.kind_of(id)? {
                Some(found) if found == kind => (self.visited)(id),
                Some(_) => {
                    return Err(Error::malformed(id, "a block of another kind than its place"));
                }
                None => return Err(block::Error::Missing { id: *id }.into()),
            }
        }
        Ok(())
    }

    /// Checks the kinds of a chunk's blocks and the lengths of its parts.
    fn kinds(&mut self, entry: &Entry) -> Result<(), Error> {
        if let Some(id) = &entry.child {
            if self.blocks.get(id)?.kind != self.shape.content.leaf_kind() {
                return Err(Error::malformed(id, "a leaf of another kind than the tree's"));
            }
            (self.visited)(id);
        }
        for (index, id) in entry.parts.iter().enumerate() {
            let part = self.blocks.get(id)?;
            let full = part.bytes.len() == PART_BYTES;
            let is_last = index + 1 == entry.parts.len();
            if part.kind != Kind::Part || part.bytes.is_empty() || (!full && !is_last) {
                return Err(Error::malformed(id, "a part of another kind or length"));
            }
            (self.visited)(id);
        }
        Ok(())
    }

    /// Checks a key against the one before it, and the separator of the chunk that it starts.
    fn key(
        &mut self,
        id: &BlockId,
        key: Vec<u8>,
        separator: Option<&Separator>,
    ) -> Result<(), Error> {
        let needed = match &self.last {
            Some(last) if *last >= key => {
                return Err(Error::malformed(id, "keys out of order"));
            }
            Some(last) => shortest_above(last, &key),
            None => &[],
        };
        if let Some(separator) = separator {
            if *separator.load(self.blocks)? != *needed {
                return Err(Error::malformed(id, "separator is not the shortest that separates"));
            }
            separator.pieces().iter().for_each(|piece| (self.visited)(piece));
        }
        self.last = Some(key);
        Ok(())
    }
}

fn check_cut(id: &BlockId, cut: bool, is_last: bool, rightmost: bool) -> Result<(), Error> {
    match (cut, is_last) {
        (true, false) => Err(Error::malformed(id, "goes on where the cut rule ends it")),
        (false, true) if !rightmost => Err(Error::malformed(id, "ends where the cut rule goes on")),
        _ => Ok(()),
    }
}

fn checked_sum(mut numbers: impl Iterator<Item = u64>) -> Option<u64> {
    numbers.try_fold(0_u64, u64::checked_add)
}
