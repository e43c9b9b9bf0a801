//! Edits of positional trees (capped collections): from the front, and at the end.

use bson::{RawDocument, RawDocumentBuf};

use crate::block::BlockWrite;

use super::builder::Builder;
use super::node::Entry;
use super::shape::Shape;
use super::{Error, Root, read};

/// What to do with one document of a positional tree.
pub enum Verdict {
    /// Leave it.
    Keep,
    /// Put another in its place.
    Replace(RawDocumentBuf),
    /// Remove it.
    Remove,
    /// Leave it and every one after it, unread.
    KeepRest,
}

/// Walks a positional tree from its first document, edits as `judge` says, then appends.
///
/// # Errors
/// [`Error::WrongOrder`] for a keyed tree, what `judge` and `append` give, and those of reading and
/// writing blocks.
pub fn edit_positional(
    blocks: &dyn BlockWrite,
    shape: &Shape,
    root: &Root,
    judge: &mut dyn FnMut(&RawDocument) -> Result<Verdict, Error>,
    append: &mut dyn Iterator<Item = Result<RawDocumentBuf, Error>>,
) -> Result<Root, Error> {
    check_order(shape)?;
    let mut append = append.peekable();
    let open = append.peek().is_some();
    let mut walk = Walk { builder: Builder::new(blocks, shape), judge, judging: true };
    if let Some(entry) = root.entry()? {
        walk.subtree(&entry, root.level, open)?;
    }
    for document in append {
        walk.builder.push(&document?)?;
    }
    walk.builder.finish()
}

/// Removes the first `count` documents of a positional tree, reading only the path to the cut.
///
/// # Errors
/// [`Error::WrongOrder`] for a keyed tree, and those of reading and writing blocks.
pub fn trim_front(
    blocks: &dyn BlockWrite,
    shape: &Shape,
    root: &Root,
    count: u64,
) -> Result<Root, Error> {
    check_order(shape)?;
    let mut builder = Builder::new(blocks, shape);
    if let Some(entry) = root.entry()?.filter(|entry| count < entry.documents) {
        graft_after(&mut builder, &entry, root.level, count)?;
    }
    builder.finish()
}

fn check_order(shape: &Shape) -> Result<(), Error> {
    if shape.is_keyed() { Err(Error::WrongOrder { needed: "positional" }) } else { Ok(()) }
}

/// Appends a subtree but for its first `skip` documents, of which it has more.
fn graft_after(
    builder: &mut Builder<'_>,
    entry: &Entry,
    level: u8,
    mut skip: u64,
) -> Result<(), Error> {
    if skip == 0 {
        return builder.graft(entry, level, false);
    }
    if level == 0 {
        let chunk = read::chunk(builder.blocks, entry)?;
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        return chunk.documents().skip(skip).try_for_each(|document| builder.push(document?));
    }
    let node = builder.read_node(entry, level)?;
    for child in &node.entries {
        if skip >= child.documents {
            skip -= child.documents;
        } else {
            graft_after(builder, child, level - 1, skip)?;
            skip = 0;
        }
    }
    Ok(())
}

struct Walk<'a, 'j> {
    builder: Builder<'a>,
    judge: &'j mut dyn FnMut(&RawDocument) -> Result<Verdict, Error>,
    judging: bool,
}

impl Walk<'_, '_> {
    /// `open` as in [`Builder::graft`].
    fn subtree(&mut self, entry: &Entry, level: u8, open: bool) -> Result<(), Error> {
        if !self.judging {
            return self.builder.graft(entry, level, open);
        }
        if level == 0 {
            let chunk = read::chunk(self.builder.blocks, entry)?;
            return chunk.documents().try_for_each(|document| self.document(document?));
        }
        let node = self.builder.read_node(entry, level)?;
        let last = node.entries.len() - 1;
        for (index, child) in node.entries.iter().enumerate() {
            self.subtree(child, level - 1, open && index == last)?;
        }
        Ok(())
    }

    fn document(&mut self, document: &RawDocument) -> Result<(), Error> {
        let verdict = if self.judging { (self.judge)(document)? } else { Verdict::Keep };
        match verdict {
            Verdict::Remove => Ok(()),
            Verdict::Replace(other) => self.builder.push(&other),
            Verdict::Keep => self.builder.push(document),
            Verdict::KeepRest => {
                self.judging = false;
                self.builder.push(document)
            }
        }
    }
}
