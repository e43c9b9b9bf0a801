//! Differences of two trees, in time proportional to them.

use std::cmp::Ordering;

use bson::{RawDocument, RawDocumentBuf};
use bytes::Bytes;

use crate::block::{BlockId, BlockRead};

use super::node::Entry;
use super::shape::Order;
use super::{Error, Key, Root, read};

/// One difference between two trees.
#[derive(Debug, Clone, PartialEq)]
pub enum Difference {
    /// Only in the second.
    Added(RawDocumentBuf),
    /// Only in the first.
    Removed(RawDocumentBuf),
    /// In both, with other bytes: first, second.
    Changed(RawDocumentBuf, RawDocumentBuf),
}

/// Lists the differences of two keyed trees of one shape, in key order, reading only where they
/// differ. Stops early if `found` returns false.
///
/// # Errors
/// [`Error::WrongOrder`] for positional trees, what `found` gives, and those of reading blocks.
pub fn diff(
    a_blocks: &dyn BlockRead,
    a: &Root,
    b_blocks: &dyn BlockRead,
    b: &Root,
    found: &mut dyn FnMut(Key, Difference) -> Result<bool, Error>,
) -> Result<(), Error> {
    let mut a = Walker::new(a_blocks, a)?;
    let mut b = Walker::new(b_blocks, b)?;
    loop {
        if a.at_same_subtree(&b) {
            a.pending.pop();
            b.pending.pop();
            continue;
        }
        // The higher of two unlike subtrees is opened first, both if they are alike in height: so
        // equal parts meet at the highest level at which they are aligned.
        let (a_height, b_height) = (a.height(), b.height());
        if a_height.max(b_height) > Some(0) {
            if a_height >= b_height {
                a.open()?;
            }
            if b_height >= a_height {
                b.open()?;
            }
            continue;
        }
        let order = match (a.key()?, b.key()?) {
            (None, None) => return Ok(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => a.cmp(b),
        };
        let old = if order.is_le() { a.take()? } else { None };
        let new = if order.is_ge() { b.take()? } else { None };
        let (key, difference) = match (old, new) {
            (Some((key, old)), None) => (key, Difference::Removed(old)),
            (None, Some((key, new))) => (key, Difference::Added(new)),
            (Some((_, old)), Some((_, new))) if old.as_bytes() == new.as_bytes() => continue,
            (Some((key, old)), Some((_, new))) => (key, Difference::Changed(old, new)),
            (None, None) => return Ok(()),
        };
        if !found(key, difference)? {
            return Ok(());
        }
    }
}

/// What a walker has still to visit, next last.
enum Pending {
    /// A subtree of that level; at 0 a chunk of documents.
    Subtree(Entry, u8),
    /// Documents, with a block that holds them for errors.
    Documents(BlockId, Bytes),
}

/// A walk over a tree that opens subtrees only when asked to.
struct Walker<'a> {
    blocks: &'a dyn BlockRead,
    /// At most the entries of one node per level, and one chunk.
    pending: Vec<Pending>,
    /// The key of the next document, once asked for.
    key: Option<Key>,
}

impl<'a> Walker<'a> {
    fn new(blocks: &'a dyn BlockRead, root: &Root) -> Result<Self, Error> {
        let top = root.entry()?.map(|entry| Pending::Subtree(entry, root.level));
        Ok(Self { blocks, pending: top.into_iter().collect(), key: None })
    }

    /// 0 at a document, above it at a subtree, none at the end.
    fn height(&self) -> Option<u8> {
        self.pending.last().map(|next| match next {
            Pending::Subtree(_, level) => level + 1,
            Pending::Documents(..) => 0,
        })
    }

    fn at_same_subtree(&self, other: &Self) -> bool {
        match (self.pending.last(), other.pending.last()) {
            (Some(Pending::Subtree(a, a_level)), Some(Pending::Subtree(b, b_level))) => {
                a_level == b_level && a.child == b.child && a.parts == b.parts
            }
            _ => false,
        }
    }

    /// Replaces the subtree that is next by what it holds.
    fn open(&mut self) -> Result<(), Error> {
        match self.pending.pop() {
            Some(Pending::Subtree(entry, 0)) => {
                if let Some(id) = entry.parts.first() {
                    let large = read::large(self.blocks, &entry.parts)?;
                    self.pending.push(Pending::Documents(*id, large));
                }
                if let Some(id) = &entry.child {
                    let leaf = read::leaf(self.blocks, id)?;
                    self.pending.push(Pending::Documents(*id, leaf));
                }
            }
            Some(Pending::Subtree(entry, level)) => {
                let node = read::node(self.blocks, read::child_id(&entry), level)?;
                if node.order != Order::Keyed {
                    return Err(Error::WrongOrder { needed: "keyed" });
                }
                let children = node.entries.into_iter().rev();
                self.pending.extend(children.map(|child| Pending::Subtree(child, level - 1)));
            }
            other => self.pending.extend(other),
        }
        Ok(())
    }

    /// The key of the document that is next; none at the end.
    fn key(&mut self) -> Result<Option<&Key>, Error> {
        if self.key.is_none()
            && let Some(Pending::Documents(id, bytes)) = self.pending.last()
        {
            self.key = Some(Key::of_document(first_document(id, bytes)?)?);
        }
        Ok(self.key.as_ref())
    }

    /// Moves past the document that is next and returns it.
    fn take(&mut self) -> Result<Option<(Key, RawDocumentBuf)>, Error> {
        let Some(key) = self.key.take() else { return Ok(None) };
        let Some(Pending::Documents(id, bytes)) = self.pending.last_mut() else { return Ok(None) };
        let document = first_document(id, bytes)?.to_owned();
        let rest = bytes.slice(document.as_bytes().len()..);
        if rest.is_empty() {
            self.pending.pop();
        } else {
            *bytes = rest;
        }
        Ok(Some((key, document)))
    }
}

fn first_document<'b>(id: &BlockId, bytes: &'b [u8]) -> Result<&'b RawDocument, Error> {
    let len = read::document_len(id, bytes)?;
    RawDocument::from_bytes(&bytes[..len])
        .map_err(|_| Error::malformed(id, "invalid document framing"))
}
