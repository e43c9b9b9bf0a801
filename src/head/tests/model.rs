//! What the head should be: every entry applied at once to plain maps.

use std::collections::BTreeMap;

use bson::RawDocumentBuf;

use super::SALT;
use super::entries;
use crate::block::{BlockWrite, MemoryBlocks};
use crate::head::{Collection, content_root};
use crate::oplog::{self, NameOrder, Rules, Update, Uuid};
use crate::tree::{Builder, Content, Key, Order, Root, Shape};

/// A write to a document.
#[derive(Debug, Clone)]
pub(super) enum Write {
    Insert(RawDocumentBuf),
    /// `o2` and `o`.
    Update(RawDocumentBuf, RawDocumentBuf),
    Delete(RawDocumentBuf),
}

#[derive(Debug, Clone)]
pub(super) struct Modelled {
    pub ns: String,
    pub options: RawDocumentBuf,
    pub indexes: Vec<RawDocumentBuf>,
    /// Most documents; none if not capped.
    pub max: Option<usize>,
    /// In the order of their inserts.
    pub documents: Vec<(Key, RawDocumentBuf)>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    pub collections: BTreeMap<Uuid, Modelled>,
}

impl Modelled {
    pub fn place(&self, key: &Key) -> Option<usize> {
        self.documents.iter().position(|(of, _)| of == key)
    }

    fn write(&mut self, write: &Write) {
        match write {
            Write::Insert(document) => {
                let key = Key::of_document(document).expect("an _id");
                assert!(self.place(&key).is_none(), "the workload inserts only what is missing");
                self.documents.push((key, document.clone()));
            }
            Write::Update(id, o) => {
                let key = Key::of_document(id).expect("an _id");
                let place = self.place(&key).expect("the workload updates only what is there");
                let update = match o.get_document("diff") {
                    Ok(diff) => Update::V2(diff),
                    Err(_) => Update::Replace(o),
                };
                let rules = Rules { upsert_missing: false, name_order: NameOrder::Numeric };
                let old = &self.documents[place].1;
                let new = oplog::apply(&update, Some(old), id, rules).expect("applies");
                self.documents[place].1 = new.expect("still there");
            }
            Write::Delete(id) => {
                let key = Key::of_document(id).expect("an _id");
                let place = self.place(&key).expect("the workload deletes only what is there");
                self.documents.remove(place);
            }
        }
    }

    /// The collection with its documents in a tree.
    pub fn build(&self, blocks: &dyn BlockWrite, uuid: Uuid) -> Collection {
        let order = if self.max.is_some() { Order::Positional } else { Order::Keyed };
        let mut documents: Vec<_> = self.documents.iter().collect();
        if order == Order::Keyed {
            documents.sort_by(|(a, _), (b, _)| a.cmp(b));
        }
        Collection {
            uuid,
            ns: self.ns.clone(),
            options: self.options.clone(),
            indexes: self.indexes.clone(),
            order,
            root: tree(blocks, order, documents.into_iter().map(|(_, document)| document)),
        }
    }
}

/// A tree built in bulk.
pub(super) fn tree<'a>(
    blocks: &dyn BlockWrite,
    order: Order,
    documents: impl Iterator<Item = &'a RawDocumentBuf>,
) -> Root {
    let mut builder = Builder::new(blocks, &Shape::new(SALT, order, Content::Documents));
    for document in documents {
        builder.push(document).expect("in order");
    }
    builder.finish().expect("a tree")
}

impl Model {
    pub fn write(&mut self, uuid: Uuid, write: &Write) {
        self.collections.get_mut(&uuid).expect("there").write(write);
    }

    pub fn holder(&self, ns: &str) -> Option<Uuid> {
        self.collections.iter().find(|(_, found)| found.ns == ns).map(|(uuid, _)| *uuid)
    }

    /// A write as an operation of the oplog.
    pub fn operation(&self, uuid: Uuid, write: &Write) -> RawDocumentBuf {
        let ns = &self.collections[&uuid].ns;
        match write {
            Write::Insert(document) => entries::insert(ns, uuid, document),
            Write::Update(id, o) => entries::update(ns, uuid, id, o),
            Write::Delete(id) => entries::delete(ns, uuid, id),
        }
    }

    /// Every collection built in bulk.
    pub fn build(&self) -> Vec<Collection> {
        let blocks = MemoryBlocks::new();
        self.collections.iter().map(|(uuid, found)| found.build(&blocks, *uuid)).collect()
    }

    /// Requires that the collections of a flushed head are those of the model.
    pub fn check(&self, found: &[&Collection], hash: [u8; 32], what: &str) {
        let wanted = self.build();
        let names = |all: &[&Collection]| -> Vec<(Uuid, String)> {
            all.iter().map(|entry| (entry.uuid, entry.ns.clone())).collect()
        };
        let wanted: Vec<&Collection> = wanted.iter().collect();
        assert_eq!(names(found), names(&wanted), "{what}: names");
        for (found, wanted) in found.iter().zip(&wanted) {
            let ns = &wanted.ns;
            assert_eq!(found.root, wanted.root, "{what}: documents of {ns}");
            assert_eq!(found.order, wanted.order, "{what}: order of {ns}");
            let hash = |entry: &Collection| content_root::collection(entry).expect("valid");
            assert_eq!(hash(found), hash(wanted), "{what}: {found:?} is not {wanted:?}");
        }
        assert_eq!(content_root::content_root(&wanted).expect("valid"), hash, "{what}: root");
    }
}
