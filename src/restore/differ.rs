//! What differs between two moments of one job, in time proportional to the difference.
//!
//! Collections are matched by UUID, and those that only one moment has by name: a collection that was
//! dropped and made again, as `$out` does every night, is compared by its documents, and what did not
//! change is shared by both trees. Trees are compared by the hashes of their subtrees.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bson::{RawDocument, RawDocumentBuf};
use tempfile::TempDir;

use super::materialise::scratch;
use super::{Cancel, Error};
use crate::block::BlockRead;
use crate::blockstore::Repository;
use crate::head::Collection;
use crate::head::content_root::content_root;
use crate::store::Store;
use crate::tree::{self, Content, Difference, Edit, Key, Order, Root, Shape, Side};

/// Bytes of documents of a capped collection that are sorted in memory at a time.
const SORT_BYTES: usize = 32 << 20;
/// Memory that a document takes besides its bytes while it is sorted: its key and map nodes.
const SORT_OVERHEAD_BYTES: usize = 128;
/// Documents between two looks at the request to stop.
const DOCUMENTS_PER_CHECK: u64 = 1 << 10;

/// One collection at two moments. At least one of them has it.
#[derive(Debug, Clone, Copy)]
pub struct Pair<'a> {
    /// As it is at the first.
    pub before: Option<&'a Collection>,
    /// As it is at the second.
    pub after: Option<&'a Collection>,
}

impl<'a> Pair<'a> {
    /// The collection as it is at the second moment, or was at the first.
    #[must_use]
    pub fn newest(&self) -> &'a Collection {
        self.after.or(self.before).expect("a pair has at least one of them")
    }

    /// Whether it has another name.
    #[must_use]
    pub fn renamed(&self) -> bool {
        matches!((self.before, self.after), (Some(before), Some(after)) if before.ns != after.ns)
    }

    /// Whether it was dropped and made again under its name.
    #[must_use]
    pub fn replaced(&self) -> bool {
        matches!((self.before, self.after), (Some(before), Some(after)) if before.uuid != after.uuid)
    }

    /// Whether its options differ, by what they mean.
    ///
    /// # Errors
    /// [`Error::Head`] for options that are not valid BSON.
    pub fn options_differ(&self) -> Result<bool, Error> {
        let (Some(before), Some(after)) = (self.before, self.after) else { return Ok(false) };
        let only = |of: &Collection| bare(of, of.options.clone(), Vec::new());
        same(&only(before), &only(after)).map(|same| !same)
    }

    /// Names of indexes that one of both lacks, or has of another spec, by what it means.
    ///
    /// # Errors
    /// [`Error::Head`] for specs that are not valid BSON.
    pub fn indexes_differ(&self) -> Result<Vec<String>, Error> {
        let (Some(before), Some(after)) = (self.before, self.after) else { return Ok(Vec::new()) };
        let mut specs: BTreeMap<String, [Option<&RawDocumentBuf>; 2]> = BTreeMap::new();
        for (side, collection) in [before, after].into_iter().enumerate() {
            for spec in &collection.indexes {
                let name = super::items::text(spec, "name").unwrap_or_default();
                specs.entry(name.to_owned()).or_default()[side] = Some(spec);
            }
        }
        let mut differing = Vec::new();
        for (name, sides) in specs {
            let only =
                |spec: &RawDocumentBuf| bare(before, RawDocumentBuf::new(), vec![spec.clone()]);
            let equal = match sides {
                [Some(one), Some(other)] => same(&only(one), &only(other))?,
                _ => false,
            };
            if !equal {
                differing.push(name);
            }
        }
        Ok(differing)
    }
}

/// A collection that has only some options and indexes, to be compared with another.
fn bare(of: &Collection, options: RawDocumentBuf, indexes: Vec<RawDocumentBuf>) -> Collection {
    let uuid = crate::oplog::Uuid([0; 16]);
    Collection { uuid, ns: String::new(), options, indexes, order: of.order, root: Root::default() }
}

fn same(a: &Collection, b: &Collection) -> Result<bool, Error> {
    Ok(content_root(&[a])? == content_root(&[b])?)
}

/// The collections of one job at a moment.
#[derive(Clone, Copy)]
pub struct Contents<'a> {
    /// All that are to be compared.
    pub collections: &'a [Collection],
    /// Where their documents are.
    pub blocks: &'a dyn BlockRead,
}

/// Compares two moments of one job.
pub struct Differ<'a> {
    before: Contents<'a>,
    after: Contents<'a>,
    repository: Arc<dyn Repository>,
    cancel: &'a Cancel,
    /// Made when the first capped collection is compared.
    scratch: Option<(TempDir, Store)>,
}

impl<'a> Differ<'a> {
    /// Compares nothing yet.
    #[must_use]
    pub fn new(
        before: Contents<'a>,
        after: Contents<'a>,
        repository: Arc<dyn Repository>,
        cancel: &'a Cancel,
    ) -> Self {
        Self { before, after, repository, cancel, scratch: None }
    }

    /// The collections that differ in anything, by name.
    ///
    /// # Errors
    /// [`Error::Head`] for options or index specs that are not valid BSON.
    pub fn pairs(&self) -> Result<Vec<Pair<'a>>, Error> {
        let (before, after) = (self.before.collections, self.after.collections);
        let by_uuid: HashMap<_, _> = after.iter().map(|one| (one.uuid, one)).collect();
        let old: HashSet<_> = before.iter().map(|one| one.uuid).collect();
        let mut new: HashMap<&str, &Collection> = after
            .iter()
            .filter(|one| !old.contains(&one.uuid))
            .map(|one| (one.ns.as_str(), one))
            .collect();
        let mut pairs = Vec::new();
        for one in before {
            let ns = one.ns.as_str();
            let again = new.get(ns).is_some_and(|other| other.order == one.order);
            let after = match by_uuid.get(&one.uuid) {
                Some(same) => Some(*same),
                None if again => new.remove(ns),
                None => None,
            };
            let equal = after.map(|after| same(one, after)).transpose()?;
            if equal != Some(true) {
                pairs.push(Pair { before: Some(one), after });
            }
        }
        pairs.extend(new.into_values().map(|one| Pair { before: None, after: Some(one) }));
        pairs.sort_by_key(|pair| (pair.newest().ns.as_str(), pair.newest().uuid));
        Ok(pairs)
    }

    /// Hands every document of a pair that differs to `found`, in the order of keys, until it returns
    /// false. Blocking.
    ///
    /// # Errors
    /// What `found` gives, [`Error::Cancelled`], and those of reading the backup.
    pub fn documents(
        &mut self,
        pair: &Pair<'_>,
        found: &mut dyn FnMut(Key, Difference) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let root = |of: Option<&Collection>| of.map(|of| of.root).unwrap_or_default();
        let (before, after) = (root(pair.before), root(pair.after));
        let ns = &pair.newest().ns;
        if before == after {
            return Ok(());
        }
        let mut watch = Watch { cancel: self.cancel, documents: 0 };
        let mut each =
            |key, difference| watch.document().and_then(|()| found(key, difference)).map_err(wrap);
        let done = if pair.newest().order == Order::Keyed {
            let (a, b) = (self.before.blocks, self.after.blocks);
            tree::diff(a, &before, b, &after, &mut each)
        } else {
            let (a, b) = self.sorted(ns, &before, &after)?;
            let (_, store) = self.scratch()?;
            tree::diff(store, &a, store, &b, &mut each)
        };
        done.map_err(|why| unwrap(ns, why))
    }

    /// Keyed trees of the documents of two positional ones, but for stretches that both have.
    fn sorted(&mut self, ns: &str, before: &Root, after: &Root) -> Result<(Root, Root), Error> {
        let (a, b) = (self.before, self.after);
        let mut watch = Watch { cancel: self.cancel, documents: 0 };
        let shape = Shape::new(self.repository.salt(), Order::Keyed, Content::Documents);
        let (_, store) = self.scratch()?;
        let mut sides = [Sorter::new(store, &shape), Sorter::new(store, &shape)];
        let mut each = |side: Side, document: &RawDocument| {
            watch.document().map_err(wrap)?;
            sides[usize::from(side == Side::Second)].push(document)
        };
        let done = tree::unlike(a.blocks, before, b.blocks, after, &mut each);
        done.map_err(|why| unwrap(ns, why))?;
        let [before, after] = sides;
        Ok((before.finish()?, after.finish()?))
    }

    fn scratch(&mut self) -> Result<&(TempDir, Store), Error> {
        if self.scratch.is_none() {
            self.scratch = Some(scratch(&*self.repository)?);
        }
        Ok(self.scratch.as_ref().expect("made above"))
    }
}

/// Looks at the request to stop now and then.
struct Watch<'a> {
    cancel: &'a Cancel,
    documents: u64,
}

impl Watch<'_> {
    fn document(&mut self) -> Result<(), Error> {
        self.documents += 1;
        if self.documents.is_multiple_of(DOCUMENTS_PER_CHECK) && self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        Ok(())
    }
}

/// An error of ours on its way through a tree.
fn wrap(why: Error) -> tree::Error {
    tree::Error::Input(Box::new(why))
}

/// The error that [`wrap`] was given, or one of reading the namespace.
fn unwrap(ns: &str, why: tree::Error) -> Error {
    match why {
        tree::Error::Input(inner) => match inner.downcast::<Error>() {
            Ok(ours) => *ours,
            Err(other) => Error::unreadable(ns)(tree::Error::Input(other)),
        },
        why => Error::unreadable(ns)(why),
    }
}

/// Makes a keyed tree of documents in any order, in memory of [`SORT_BYTES`].
struct Sorter<'a> {
    store: &'a Store,
    shape: &'a Shape,
    root: Root,
    waiting: BTreeMap<Key, RawDocumentBuf>,
    bytes: usize,
}

impl<'a> Sorter<'a> {
    fn new(store: &'a Store, shape: &'a Shape) -> Self {
        Self { store, shape, root: Root::default(), waiting: BTreeMap::new(), bytes: 0 }
    }

    fn push(&mut self, document: &RawDocument) -> Result<(), tree::Error> {
        self.bytes += document.as_bytes().len() + SORT_OVERHEAD_BYTES;
        self.waiting.insert(Key::of_document(document)?, document.to_owned());
        if self.bytes < SORT_BYTES { Ok(()) } else { self.fold() }
    }

    fn fold(&mut self) -> Result<(), tree::Error> {
        self.bytes = 0;
        let waiting = std::mem::take(&mut self.waiting).into_iter();
        let mut edits = waiting.map(|(key, document)| Ok((key, Edit::Put(document))));
        self.root = tree::edit(self.store, self.shape, &self.root, &mut edits)?;
        Ok(())
    }

    fn finish(mut self) -> Result<Root, tree::Error> {
        self.fold()?;
        Ok(self.root)
    }
}
