//! Sorting and joining the pieces of a scan.

use bson::{RawDocument, RawDocumentBuf};

use super::range::FOLD_PIECES;
use crate::block::{self, BlockWrite};
use crate::job::Error;
use crate::tree::{Builder, Cursor, Key, Root, Shape};

/// The documents of a batch: consecutive BSON.
pub fn documents(batch: &[u8]) -> impl Iterator<Item = Result<&RawDocument, Error>> {
    let mut rest = batch;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let len = rest.first_chunk::<4>().map(|len| u32::from_le_bytes(*len) as usize);
        let document = len.and_then(|len| {
            let (document, tail) = rest.split_at_checked(len)?;
            rest = tail;
            RawDocument::from_bytes(document).ok()
        });
        if document.is_none() {
            rest = &[];
        }
        let malformed = block::Error::Malformed { what: "a batch of the source is not BSON" };
        Some(document.ok_or(Error::Block(malformed)))
    })
}

/// Sorts the documents of one piece in memory.
#[derive(Default)]
pub struct Sorter {
    documents: Vec<(Key, RawDocumentBuf)>,
}

impl Sorter {
    /// Adds a document.
    pub fn push(&mut self, document: &RawDocument) -> Result<(), Error> {
        self.documents.push((Key::of_document(document)?, document.to_owned()));
        Ok(())
    }

    /// Builds the tree of what was added, and begins anew. Of several documents of one key the last
    /// counts.
    pub fn finish(&mut self, store: &dyn BlockWrite, shape: &Shape) -> Result<Option<Root>, Error> {
        let mut documents = std::mem::take(&mut self.documents);
        if documents.is_empty() {
            return Ok(None);
        }
        documents.sort_by(|a, b| a.0.cmp(&b.0));
        let mut builder = Builder::new(store, shape);
        let mut documents = documents.into_iter().peekable();
        while let Some((key, document)) = documents.next() {
            if documents.peek().is_none_or(|(next, _)| *next != key) {
                builder.push(&document)?;
            }
        }
        Ok(Some(builder.finish()?))
    }
}

/// Joins trees whose keys ascend from each to the next.
pub fn join(store: &dyn BlockWrite, shape: &Shape, roots: &[Root]) -> Result<Root, Error> {
    let mut builder = Builder::new(store, shape);
    for root in roots {
        builder.push_tree(root)?;
    }
    Ok(builder.finish()?)
}

/// Merges any number of trees whose keys overlap, a bounded number at a time. Of several documents
/// of one key that of the last tree counts.
pub fn merge_all(
    store: &dyn BlockWrite,
    shape: &Shape,
    mut roots: Vec<Root>,
) -> Result<Root, Error> {
    while roots.len() > 1 {
        roots = roots
            .chunks(FOLD_PIECES)
            .map(|chunk| merge(store, shape, chunk))
            .collect::<Result<_, _>>()?;
    }
    Ok(roots.pop().unwrap_or_default())
}

/// Merges a few trees whose keys overlap. Of several documents of one key that of the last tree
/// counts.
pub fn merge(store: &dyn BlockWrite, shape: &Shape, roots: &[Root]) -> Result<Root, Error> {
    let mut inputs = roots
        .iter()
        .map(|root| Input::new(Cursor::new(store, root)))
        .collect::<Result<Vec<_>, _>>()?;
    let mut builder = Builder::new(store, shape);
    loop {
        let lowest = inputs.iter().filter_map(|input| input.next.as_ref().map(|(key, _)| key));
        let Some(lowest) = lowest.min().cloned() else { break };
        let mut newest = None;
        for input in &mut inputs {
            if input.next.as_ref().is_some_and(|(key, _)| *key == lowest) {
                newest = input.take()?;
            }
        }
        if let Some(document) = newest {
            builder.push(&document)?;
        }
    }
    Ok(builder.finish()?)
}

/// One tree of a merge and its next document.
struct Input<'a> {
    cursor: Cursor<'a>,
    next: Option<(Key, RawDocumentBuf)>,
}

impl<'a> Input<'a> {
    fn new(cursor: Cursor<'a>) -> Result<Self, Error> {
        let mut input = Self { cursor, next: None };
        input.take()?;
        Ok(input)
    }

    fn take(&mut self) -> Result<Option<RawDocumentBuf>, Error> {
        let keyed = |document: RawDocumentBuf| Ok((Key::of_document(&document)?, document));
        let next = self.cursor.next()?.map(keyed).transpose().map_err(Error::Tree)?;
        Ok(std::mem::replace(&mut self.next, next).map(|(_, document)| document))
    }
}
