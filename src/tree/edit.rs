//! Edits of keyed trees: one sweep over the old tree, in step with the edits, into a builder.
//!
//! A subtree that no edit falls into is grafted, which adopts it unread as soon as cuts align again.
//! So the sweep reads and writes the paths to the changed keys and little else.

use bson::{RawDocument, RawDocumentBuf};

use crate::block::BlockWrite;

use super::builder::Builder;
use super::node::Entry;
use super::shape::Shape;
use super::{Error, Key, Root, read};

/// A change to one key of a keyed tree.
pub enum Edit {
    /// Insert or replace. The document's own key must be the edit's key.
    Put(RawDocumentBuf),
    /// Remove, if there.
    Delete,
    /// Compute the new document (or none) from the present one (or none).
    Merge(Merge),
}

/// What [`Edit::Merge`] computes.
pub type Merge = Box<
    dyn FnOnce(
            Option<&RawDocument>,
        ) -> Result<Option<RawDocumentBuf>, Box<dyn std::error::Error + Send + Sync>>
        + Send,
>;

/// Applies edits, in strictly ascending key order, in one sweep: reads and writes only nodes on the
/// way to a changed key. The result is what a bulk build of the final content gives.
///
/// # Errors
/// [`Error::OutOfOrder`] if an edit's key is not above the one before, [`Error::KeyMismatch`] if a
/// document is not of its edit's key, [`Error::WrongOrder`] for a positional tree,
/// [`Error::Input`] if the input or a merge fails, and those of reading and writing blocks.
pub fn edit(
    blocks: &dyn BlockWrite,
    shape: &Shape,
    root: &Root,
    edits: &mut dyn Iterator<Item = Result<(Key, Edit), Error>>,
) -> Result<Root, Error> {
    if !shape.is_keyed() {
        return Err(Error::WrongOrder { needed: "keyed" });
    }
    let mut edits = Edits { input: edits, next: None };
    edits.advance()?;
    if edits.next.is_none() {
        return Ok(*root);
    }
    let mut sweep = Sweep { builder: Builder::new(blocks, shape), edits };
    match root.entry()? {
        Some(entry) => sweep.subtree(&entry, root.level, None)?,
        None => sweep.insert_below(None)?,
    }
    sweep.builder.finish()
}

/// Applies edits to a range of a tree, and makes a tree of it: `entries` are its subtrees, nodes of
/// `level` or chunks, and `bound` is where the next range begins.
pub(super) fn edit_entries(
    blocks: &dyn BlockWrite,
    shape: &Shape,
    (entries, level): (&[Entry], u8),
    bound: Option<&[u8]>,
    edits: &mut dyn Iterator<Item = Result<(Key, Edit), Error>>,
) -> Result<Root, Error> {
    let mut edits = Edits { input: edits, next: None };
    edits.advance()?;
    let mut sweep = Sweep { builder: Builder::new(blocks, shape), edits };
    sweep.entries(entries, level, bound)?;
    if entries.is_empty() {
        sweep.insert_below(bound)?;
    }
    if sweep.edits.next.is_some() {
        return Err(Error::OutOfOrder { what: "an edit's key is not of its range" });
    }
    sweep.builder.finish()
}

/// The edits, one ahead.
struct Edits<'e> {
    input: &'e mut dyn Iterator<Item = Result<(Key, Edit), Error>>,
    next: Option<(Key, Edit)>,
}

impl Edits<'_> {
    /// Reads one ahead and hands out the one before.
    fn advance(&mut self) -> Result<Option<(Key, Edit)>, Error> {
        let following = self.input.next().transpose()?;
        if let (Some((before, _)), Some((after, _))) = (&self.next, &following)
            && before >= after
        {
            return Err(Error::OutOfOrder { what: "an edit's key is not above the one before it" });
        }
        Ok(std::mem::replace(&mut self.next, following))
    }

    /// Whether an edit is left whose key is below a bound, or any if there is no bound.
    fn is_below(&self, bound: Option<&[u8]>) -> bool {
        match (&self.next, bound) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some((key, _)), Some(bound)) => key.as_bytes() < bound,
        }
    }
}

struct Sweep<'a, 'e> {
    builder: Builder<'a>,
    edits: Edits<'e>,
}

impl Sweep<'_, '_> {
    /// Goes over a subtree whose keys are below `bound` and to which every edit below it belongs.
    fn subtree(&mut self, entry: &Entry, level: u8, bound: Option<&[u8]>) -> Result<(), Error> {
        if !self.edits.is_below(bound) {
            // At the tree's end nothing will follow: no edit is left, or it is another range's, whose
            // tree is joined to this one's and opens its end again.
            return self.builder.graft(entry, level, false);
        }
        if level == 0 {
            return self.chunk(entry, bound);
        }
        let node = self.builder.read_node(entry, level)?;
        self.entries(&node.entries, level - 1, bound)
    }

    /// Goes over neighbouring subtrees.
    fn entries(&mut self, entries: &[Entry], level: u8, bound: Option<&[u8]>) -> Result<(), Error> {
        for (index, entry) in entries.iter().enumerate() {
            match entries.get(index + 1).filter(|_| self.edits.next.is_some()) {
                Some(next) => {
                    let next = next.separator.load(self.builder.blocks)?;
                    self.subtree(entry, level, Some(&next))?;
                }
                None => self.subtree(entry, level, bound)?,
            }
        }
        Ok(())
    }

    /// Merges the documents of a chunk with the edits that belong to it.
    fn chunk(&mut self, entry: &Entry, bound: Option<&[u8]>) -> Result<(), Error> {
        self.builder.begin_chunk(entry)?;
        let chunk = read::chunk(self.builder.blocks, entry)?;
        for document in chunk.documents() {
            let document = document?;
            let key = Key::of_document(document)?;
            self.insert_below(Some(key.as_bytes()))?;
            match &self.edits.next {
                Some((next, _)) if *next == key => self.apply_next(Some(document))?,
                _ => self.builder.push_keyed(key.into_bytes(), document)?,
            }
        }
        self.insert_below(bound)
    }

    /// Applies the edits below a bound to keys that have no document.
    fn insert_below(&mut self, bound: Option<&[u8]>) -> Result<(), Error> {
        while self.edits.is_below(bound) {
            self.apply_next(None)?;
        }
        Ok(())
    }

    fn apply_next(&mut self, present: Option<&RawDocument>) -> Result<(), Error> {
        let Some((key, edit)) = self.edits.advance()? else { return Ok(()) };
        let merged;
        let document = match edit {
            Edit::Delete => None,
            Edit::Put(document) => {
                merged = document;
                Some(&merged)
            }
            Edit::Merge(merge) => match merge(present).map_err(Error::Input)? {
                Some(document) => {
                    merged = document;
                    Some(&merged)
                }
                None => None,
            },
        };
        let Some(document) = document else { return Ok(()) };
        if Key::of_document(document)? != key {
            return Err(Error::KeyMismatch);
        }
        self.builder.push_keyed(key.into_bytes(), document)
    }
}
