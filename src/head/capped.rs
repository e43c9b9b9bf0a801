//! Changes to capped collections, whose documents stand in the order they were inserted.
//!
//! What is known by position is the end: inserts wait as an ordered list. Deletes and updates of
//! documents that are in the tree wait by key and are found by walking from the front, where a
//! capped collection loses its documents, until all are resolved.
//!
//! While a scan is caught up with, the tree may already hold documents that an entry inserts. Every
//! document inserted in that time goes after all that were there before, so the tree's copy is
//! removed and the replayed one appended: the order is then that of the oplog, and the content what
//! the entries that follow make of it.

use std::collections::{BTreeMap, HashMap};

use bson::{RawDocument, RawDocumentBuf};

use super::Error;
use super::change::{Change, Context, Pending, count};
use super::merge::update_failed;
use super::sweep::{unwrap, wrap};
use crate::block::BlockWrite;
use crate::tree::{self, Cursor, Key, Shape, Verdict};

/// Updates of one document of the tree that may wait; more make a flush due.
const MAX_UPDATES: usize = 64;

/// How the documents of a capped collection are bounded, where its server does not log what it
/// removes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Sum of BSON lengths.
    pub bytes: u64,
    /// Documents.
    pub documents: Option<u64>,
}

/// Waiting changes of one capped collection.
#[derive(Debug, Default)]
pub(super) struct Capped {
    /// Changes to documents of the tree: deletes and updates.
    front: HashMap<Key, Change>,
    /// Documents that follow those of the tree, by the order of their inserts.
    appended: BTreeMap<u64, RawDocumentBuf>,
    places: HashMap<Key, u64>,
    next_place: u64,
    bytes: usize,
    overdue: bool,
}

impl Capped {
    /// Bytes of memory it takes, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether it should be swept soon although it is small.
    pub fn overdue(&self) -> bool {
        self.overdue
    }

    /// Appends a document. `replayed` while a scan is caught up with; `trims` where the server removes
    /// documents without an entry, so that an `_id` may come back.
    pub fn insert(
        &mut self,
        key: Key,
        document: RawDocumentBuf,
        replayed: bool,
        trims: bool,
        context: &Context,
    ) {
        if let Some(place) = self.places.get(&key).copied() {
            if !replayed && !trims {
                count(&context.counters.insert_on_existing);
                self.replace(place, document);
                return;
            }
            self.remove_appended(&key);
        }
        if replayed {
            self.set_front(key.clone(), Change::Delete);
        }
        self.bytes += weight(&key, &document);
        self.appended.insert(self.next_place, document);
        self.places.insert(key, self.next_place);
        self.next_place += 1;
    }

    /// Removes a document.
    pub fn delete(&mut self, key: Key) {
        if !self.remove_appended(&key) {
            self.set_front(key, Change::Delete);
        }
    }

    /// Updates a document.
    pub fn update(&mut self, key: Key, update: Pending, context: &Context) -> Result<(), Error> {
        if let Some(place) = self.places.get(&key).copied() {
            let old = self.appended.get(&place);
            let new = update.apply(old.map(|old| &**old), context).map_err(update_failed)?;
            if let Some(new) = new {
                self.replace(place, new);
            }
            return Ok(());
        }
        let update = Change::Updates(vec![update]);
        let change = match self.front.remove(&key) {
            None => update,
            Some(before) => {
                self.bytes -= before.weight() + key.as_bytes().len();
                before.then(update, context).map_err(update_failed)?
            }
        };
        if let Change::Updates(waiting) = &change {
            self.overdue |= waiting.len() > MAX_UPDATES;
        }
        self.set_front(key, change);
        Ok(())
    }

    fn set_front(&mut self, key: Key, change: Change) {
        let key_bytes = key.as_bytes().len();
        self.bytes += change.weight() + key_bytes;
        if let Some(before) = self.front.insert(key, change) {
            self.bytes -= before.weight() + key_bytes;
        }
    }

    fn remove_appended(&mut self, key: &Key) -> bool {
        let Some(place) = self.places.remove(key) else { return false };
        if let Some(document) = self.appended.remove(&place) {
            self.bytes -= weight(key, &document);
        }
        true
    }

    fn replace(&mut self, place: u64, document: RawDocumentBuf) {
        self.bytes += document.as_bytes().len();
        if let Some(before) = self.appended.insert(place, document) {
            self.bytes -= before.as_bytes().len();
        }
    }

    /// Sweeps the changes into the tree.
    pub fn sweep(
        self,
        blocks: &dyn BlockWrite,
        shape: &Shape,
        root: &tree::Root,
        context: &Context,
    ) -> Result<tree::Root, Error> {
        let mut front = self.front;
        let mut judge = |document: &RawDocument| judge(&mut front, document, context);
        let mut append = self.appended.into_values().map(Ok);
        let swept = tree::edit_positional(blocks, shape, root, &mut judge, &mut append);
        let swept = swept.map_err(unwrap)?;
        // What is left was to change documents that are missing; some of that creates them.
        let mut created = Vec::new();
        for (key, change) in front {
            if let Some(document) = change.resolve(None, context).map_err(update_failed)? {
                created.push((key, document));
            }
        }
        if created.is_empty() {
            return Ok(swept);
        }
        created.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let mut append = created.into_iter().map(|(_, document)| Ok(document));
        let mut keep = |_: &RawDocument| Ok(Verdict::KeepRest);
        tree::edit_positional(blocks, shape, &swept, &mut keep, &mut append).map_err(unwrap)
    }
}

/// Memory of an appended document: itself, its key twice and map nodes.
fn weight(key: &Key, document: &RawDocument) -> usize {
    document.as_bytes().len() + 2 * key.as_bytes().len() + 128
}

fn judge(
    front: &mut HashMap<Key, Change>,
    document: &RawDocument,
    context: &Context,
) -> Result<Verdict, tree::Error> {
    if front.is_empty() {
        return Ok(Verdict::KeepRest);
    }
    let Some(change) = front.remove(&Key::of_document(document)?) else {
        return Ok(Verdict::Keep);
    };
    match change.resolve(Some(document), context) {
        Ok(Some(document)) => Ok(Verdict::Replace(document)),
        Ok(None) => Ok(Verdict::Remove),
        Err(failed) => Err(wrap(update_failed(failed))),
    }
}

/// Removes the oldest documents until the rest is within the bounds, as servers before 5.0 do after
/// each insert. Doing it once at the end leaves the same documents: the rest only ever gets shorter.
pub(super) fn trim(
    blocks: &dyn BlockWrite,
    shape: &Shape,
    root: &tree::Root,
    bounds: Bounds,
) -> Result<tree::Root, Error> {
    let max = bounds.documents.unwrap_or(u64::MAX);
    let (mut documents, mut bytes, mut removed) = (root.documents, root.bytes, 0);
    let mut cursor = Cursor::new(blocks, root);
    while documents > max || bytes > bounds.bytes {
        let Some(document) = cursor.next()? else { break };
        documents -= 1;
        bytes -= document.as_bytes().len() as u64;
        removed += 1;
    }
    if removed == 0 { Ok(*root) } else { Ok(tree::trim_front(blocks, shape, root, removed)?) }
}
