//! Appending whole subtrees of another tree to a builder, reading as little as can be.
//!
//! A subtree is adopted unread if the builder is at a cut on all its levels and the subtree's nodes
//! ended by the cut rule: then chunking its documents again would give the same nodes. In a keyed
//! tree the separator must also be what this predecessor makes of it. Otherwise the node is read
//! and its children are appended one by one, down to documents where it must be.

use bson::RawDocument;

use crate::block::BlockId;

use super::builder::{Builder, Last};
use super::node::{Entry, Node, Separator, shortest_above};
use super::{Error, Key, Root, Shape, read};

impl Builder<'_> {
    /// Appends every document of an existing tree of the same shape, whose keys are all above what
    /// was pushed, adopting its nodes unread where the cuts fall alike.
    ///
    /// # Errors
    /// [`Error::OutOfOrder`] if its keys are not above, [`Error::WrongOrder`] or
    /// [`Error::Malformed`] if it is of another shape, and those of reading and writing blocks.
    pub fn push_tree(&mut self, root: &Root) -> Result<(), Error> {
        match root.entry()? {
            Some(entry) => self.graft(&entry, root.level, true),
            None => Ok(()),
        }
    }

    /// Appends what `entry` names: a node of `level`, or at 0 a chunk of documents. `open` means
    /// that the subtree ends where its tree ended, not by the cut rule, and that more may follow.
    pub(super) fn graft(&mut self, entry: &Entry, level: u8, open: bool) -> Result<(), Error> {
        if !open
            && self.at_cut(level)
            && let Some(separator) = self.separator_here(entry, level)?
        {
            return self.adopt(Entry { separator, ..entry.clone() }, level);
        }
        if level == 0 {
            self.begin_chunk(entry)?;
            let chunk = read::chunk(self.blocks, entry)?;
            return chunk.documents().try_for_each(|document| self.push(document?));
        }
        let node = self.read_node(entry, level)?;
        let last = node.entries.len() - 1;
        for (index, child) in node.entries.iter().enumerate() {
            self.graft(child, level - 1, open && index == last)?;
        }
        Ok(())
    }

    /// Reads a node of a tree that must be of the builder's shape.
    pub(super) fn read_node(&self, entry: &Entry, level: u8) -> Result<Node, Error> {
        let id = read::child_id(entry);
        let node = read::node(self.blocks, id, level)?;
        check_form(&node, id, &self.shape)?;
        Ok(node)
    }

    /// To be called before the documents of a chunk are pushed: what the chunk's separator tells of
    /// an unread predecessor stands in for its last key. The predecessor's last key starts with all of
    /// the separator but its last byte, and is below the separator; so every key from the separator
    /// on has the same shortest prefix above the one as above the other.
    pub(super) fn begin_chunk(&mut self, entry: &Entry) -> Result<(), Error> {
        if !self.shape.is_keyed() || !matches!(self.last, Last::Unread) {
            return Ok(());
        }
        let mut stand_in = entry.separator.load(self.blocks)?.into_owned();
        if stand_in.pop().is_none() {
            return Err(Error::OutOfOrder { what: "an empty separator inside a tree" });
        }
        self.last = Last::Key(stand_in);
        Ok(())
    }

    /// The separator that the entry needs after what was pushed, or none if it differs from the one
    /// that the entry's node holds inside, so that the entry cannot be adopted as it is.
    fn separator_here(&self, entry: &Entry, level: u8) -> Result<Option<Separator>, Error> {
        if !self.shape.is_keyed() {
            return Ok(Some(Separator::EMPTY));
        }
        let last = match &self.last {
            Last::Unread => return Ok(Some(entry.separator.clone())),
            Last::Start => {
                let right = level == 0 || entry.separator.is_empty();
                return Ok(right.then_some(Separator::EMPTY));
            }
            Last::Key(last) => last,
        };
        let old = entry.separator.load(self.blocks)?;
        let above = if !old.is_empty() {
            old
        } else if level == 0 {
            first_key(self, entry)?.into_bytes().into()
        } else {
            return Ok(None);
        };
        if *above <= last[..] {
            return Err(Error::OutOfOrder { what: "a tree is not above what was pushed before" });
        }
        let needed = shortest_above(last, &above);
        if needed.len() == above.len() && !entry.separator.is_empty() {
            return Ok(Some(entry.separator.clone()));
        }
        if level > 0 {
            return Ok(None);
        }
        Separator::new(self.blocks, needed).map(Some)
    }
}

fn first_key(builder: &Builder<'_>, entry: &Entry) -> Result<Key, Error> {
    let chunk = read::chunk(builder.blocks, entry)?;
    let first: Option<&RawDocument> = chunk.documents().next().transpose()?;
    Key::of_document(first.ok_or(Error::OutOfOrder { what: "a chunk without documents" })?)
}

/// Checks that a node belongs to a tree of the shape.
pub(super) fn check_form(node: &Node, id: &BlockId, shape: &Shape) -> Result<(), Error> {
    if node.order != shape.order {
        let needed = if shape.is_keyed() { "keyed" } else { "positional" };
        return Err(Error::WrongOrder { needed });
    }
    if node.content != shape.content {
        return Err(Error::malformed(id, "a node of a tree with other content"));
    }
    Ok(())
}
