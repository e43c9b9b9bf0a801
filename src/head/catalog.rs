//! The catalog: names, options, indexes and roots of all collections, by UUID.
//!
//! Held in memory while a head is open. Stored as a keyed tree of our own documents, one for each
//! collection; a flush edits only the entries that changed. The index of names is derived.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bson::raw::{RawBson, RawBsonRef, cstr};
use bson::{Binary, RawDocument, RawDocumentBuf};

use super::fields::Fields;
use super::{Error, HeadRoot, content_root, foreign};
use crate::block::{BlockRead, BlockWrite};
use crate::oplog::{Ts, Uuid};
use crate::tree::{self, Cursor, Edit, Key, Order, Shape};

/// A collection as the catalog holds it.
#[derive(Debug, Clone)]
pub struct Collection {
    /// Its UUID.
    pub uuid: Uuid,
    /// `db.name` at the head's optime.
    pub ns: String,
    /// Options verbatim, as listCollections would show them (no `uuid`).
    pub options: RawDocumentBuf,
    /// Finished index specs verbatim, the `_id` index included where there is one.
    pub indexes: Vec<RawDocumentBuf>,
    /// By key, or by position (capped).
    pub order: Order,
    /// The documents.
    pub root: tree::Root,
}

/// Reads the catalog of a committed head, in UUID order.
///
/// # Errors
/// [`Error::Tree`], [`Error::Block`], [`Error::Malformed`].
pub fn catalog(blocks: &dyn BlockRead, root: &HeadRoot) -> Result<Vec<Collection>, Error> {
    let mut collections = Vec::new();
    read(blocks, &root.catalog, &mut |collection, _aside| collections.push(collection))?;
    Ok(collections)
}

/// Tells apart what a UUID held before and after it was emptied, so that changes waiting in runs
/// need not be rewritten: those of an older incarnation are passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Incarnation(pub u64);

/// A collection of an open head.
#[derive(Debug)]
pub(super) struct Entry {
    pub collection: Collection,
    pub incarnation: Incarnation,
    /// Stands under a temporary name until an entry gives it one again.
    pub aside: bool,
    /// Whether the stored entry is out of date.
    changed: bool,
    /// [`content_root::collection`] of it, while that holds.
    digest: Option<[u8; 32]>,
}

/// The catalog of an open head.
#[derive(Debug)]
pub(super) struct Catalog {
    entries: BTreeMap<Uuid, Entry>,
    names: HashMap<String, Uuid>,
    /// Collections that the stored tree may still have.
    removed: BTreeSet<Uuid>,
    stored: tree::Root,
    next_incarnation: u64,
}

impl Catalog {
    pub fn new() -> Self {
        Self {
            entries: BTreeMap::new(),
            names: HashMap::new(),
            removed: BTreeSet::new(),
            stored: tree::Root::default(),
            next_incarnation: 0,
        }
    }

    pub fn load(blocks: &dyn BlockRead, root: &tree::Root) -> Result<Self, Error> {
        let mut catalog = Self::new();
        let mut found = Vec::new();
        read(blocks, root, &mut |collection, aside| found.push((collection, aside)))?;
        for (collection, aside) in found {
            let uuid = collection.uuid;
            catalog.insert(Ts::ZERO, collection)?;
            if let Some(entry) = catalog.entries.get_mut(&uuid) {
                entry.aside = aside;
                entry.changed = false;
            }
        }
        catalog.stored = *root;
        Ok(catalog)
    }

    pub fn get(&self, uuid: Uuid) -> Option<&Entry> {
        self.entries.get(&uuid)
    }

    /// The collection, to be changed (but not renamed).
    pub fn change(&mut self, uuid: Uuid) -> Option<&mut Collection> {
        let entry = self.entries.get_mut(&uuid)?;
        entry.changed = true;
        entry.digest = None;
        Some(&mut entry.collection)
    }

    pub fn holder(&self, ns: &str) -> Option<Uuid> {
        self.names.get(ns).copied()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// Adds a collection that was not there.
    pub fn insert(&mut self, ts: Ts, collection: Collection) -> Result<(), Error> {
        let (uuid, ns) = (collection.uuid, collection.ns.clone());
        self.claim(ts, &ns, uuid)?;
        let incarnation = self.incarnation();
        let entry = Entry { collection, incarnation, aside: false, changed: true, digest: None };
        self.entries.insert(uuid, entry);
        self.removed.remove(&uuid);
        Ok(())
    }

    pub fn remove(&mut self, uuid: Uuid) -> Option<Collection> {
        let entry = self.entries.remove(&uuid)?;
        self.names.remove(&entry.collection.ns);
        self.removed.insert(uuid);
        Some(entry.collection)
    }

    /// Gives a collection a name that no other has.
    pub fn rename(&mut self, ts: Ts, uuid: Uuid, ns: &str) -> Result<(), Error> {
        self.claim(ts, ns, uuid)?;
        let Some(entry) = self.entries.get_mut(&uuid) else { return Ok(()) };
        let old = std::mem::replace(&mut entry.collection.ns, ns.to_owned());
        entry.aside = false;
        entry.changed = true;
        entry.digest = None;
        if old != ns {
            self.names.remove(&old);
        }
        Ok(())
    }

    /// Takes its name from a collection, which keeps its data under a name that no server gives.
    pub fn move_aside(&mut self, ts: Ts, uuid: Uuid) -> Result<(), Error> {
        let Some(entry) = self.entries.get(&uuid) else { return Ok(()) };
        let (db, _) = super::namespaces::split(&entry.collection.ns);
        self.rename(ts, uuid, &format!("{db}.system.headstock.aside.{uuid}"))?;
        if let Some(entry) = self.entries.get_mut(&uuid) {
            entry.aside = true;
        }
        Ok(())
    }

    /// Forgets the documents of a collection, those of pending changes included.
    pub fn empty(&mut self, uuid: Uuid) {
        let incarnation = self.incarnation();
        if let Some(entry) = self.entries.get_mut(&uuid) {
            entry.incarnation = incarnation;
            entry.collection.root = tree::Root::default();
            entry.changed = true;
            entry.digest = None;
        }
    }

    fn claim(&mut self, ts: Ts, ns: &str, uuid: Uuid) -> Result<(), Error> {
        match self.names.get(ns) {
            Some(holder) if *holder != uuid => {
                Err(Error::NameTaken { ts, ns: ns.to_owned(), uuid, holder: *holder })
            }
            Some(_) => Ok(()),
            None => {
                self.names.insert(ns.to_owned(), uuid);
                Ok(())
            }
        }
    }

    fn incarnation(&mut self) -> Incarnation {
        self.next_incarnation += 1;
        Incarnation(self.next_incarnation)
    }

    /// Writes what changed into the stored tree.
    pub fn flush(&mut self, blocks: &dyn BlockWrite, shape: &Shape) -> Result<tree::Root, Error> {
        let mut edits = Vec::new();
        for uuid in std::mem::take(&mut self.removed) {
            edits.push((key(uuid)?, Edit::Delete));
        }
        for entry in self.entries.values_mut().filter(|entry| entry.changed) {
            edits.push((key(entry.collection.uuid)?, Edit::Put(encode(blocks, entry)?)));
            entry.changed = false;
        }
        edits.sort_by(|(a, _), (b, _)| a.cmp(b));
        if !edits.is_empty() {
            let mut edits = edits.into_iter().map(Ok);
            self.stored = tree::edit(blocks, shape, &self.stored, &mut edits)?;
        }
        Ok(self.stored)
    }

    /// The content root of all collections.
    pub fn content_root(&mut self) -> Result<[u8; 32], Error> {
        let mut digests = Vec::with_capacity(self.entries.len());
        for entry in self.entries.values_mut() {
            let digest = match entry.digest {
                Some(digest) => digest,
                None => content_root::collection(&entry.collection)?,
            };
            entry.digest = Some(digest);
            digests.push(digest);
        }
        Ok(content_root::combine(&digests))
    }
}

fn key(uuid: Uuid) -> Result<Key, Error> {
    Ok(Key::of_value(RawBson::Binary(Binary::from(uuid)).as_raw_bson_ref())?)
}

fn encode(blocks: &dyn BlockWrite, entry: &Entry) -> Result<RawDocumentBuf, Error> {
    let collection = &entry.collection;
    let indexes: Vec<u8> =
        collection.indexes.iter().flat_map(|spec| spec.as_bytes()).copied().collect();
    let mut out = RawDocumentBuf::new();
    out.append(cstr!("_id"), Binary::from(collection.uuid));
    out.append(cstr!("ns"), collection.ns.as_str());
    out.append(cstr!("options"), foreign::encode(blocks, collection.options.as_bytes())?);
    out.append(cstr!("indexes"), foreign::encode(blocks, &indexes)?);
    out.append(cstr!("positional"), collection.order == Order::Positional);
    if entry.aside {
        out.append(cstr!("aside"), true);
    }
    out.append(cstr!("root"), collection.root.to_bson());
    Ok(out)
}

fn read(
    blocks: &dyn BlockRead,
    root: &tree::Root,
    found: &mut dyn FnMut(Collection, bool),
) -> Result<(), Error> {
    let mut cursor = Cursor::new(blocks, root);
    while let Some(document) = cursor.next()? {
        let (collection, aside) = decode(blocks, &document)?;
        found(collection, aside);
    }
    Ok(())
}

fn decode(blocks: &dyn BlockRead, document: &RawDocument) -> Result<(Collection, bool), Error> {
    let read = Fields { what: "catalog entry", document };
    let uuid = read.optional("_id").and_then(Uuid::from_value);
    let options = read.optional("options").ok_or_else(|| read.malformed("options"))?;
    let options =
        foreign::decode(blocks, options)?.and_then(|b| RawDocumentBuf::from_bytes(b).ok());
    let indexes = read.optional("indexes").ok_or_else(|| read.malformed("indexes"))?;
    let indexes = foreign::decode(blocks, indexes)?.and_then(|run| foreign::documents(&run));
    let order = if read.flag("positional")? { Order::Positional } else { Order::Keyed };
    let aside = matches!(read.optional("aside"), Some(RawBsonRef::Boolean(true)));
    let collection = Collection {
        uuid: uuid.ok_or_else(|| read.malformed("_id"))?,
        ns: read.text("ns")?,
        options: options.ok_or_else(|| read.malformed("options"))?,
        indexes: indexes.ok_or_else(|| read.malformed("indexes"))?,
        order,
        root: read.tree("root")?,
    };
    Ok((collection, aside))
}
