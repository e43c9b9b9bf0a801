//! The content root: one hash over everything that a restore would bring back.
//!
//! Two heads that hold the same collections have the same content root, however they came to: by
//! scan and oplog, by a fresh scan, or rebuilt elsewhere with the same repository salt. So it is
//! computed over canonical forms, not over the catalog's verbatim bytes:
//!
//! - Fields of options and index specs are ordered by name, in nested documents too. Only the fields
//!   of an index's `key` keep their order, which has meaning.
//! - Values stand in the encoding of tree keys, in which numbers of all types that are equal are
//!   equal (`v: 2` and `v: 2.0`).
//! - Index specs are ordered by their canonical form. `ns` and `background` are dropped: servers differ in
//!   writing them. An absent `v` is 1, what it meant before servers wrote it.

use bson::raw::{CStr, RawArrayBuf, RawBson, RawBsonRef};
use bson::{RawDocument, RawDocumentBuf};

use super::{Collection, Error};
use crate::tree::{Key, Order};

/// What the hash of one collection starts with.
const COLLECTION_TAG: &[u8] = b"headstock collection 1\0";
/// What the hash of all collections starts with.
const CONTENT_TAG: &[u8] = b"headstock content 1\0";
/// Fields of an index spec that servers write or not.
const INDEX_NOISE: &[&str] = &["ns", "background"];
/// Nesting of options and specs followed; a server takes no deeper documents.
const MAX_DEPTH: usize = 250;

/// The content root of collections, in any order.
///
/// # Errors
/// [`Error::Bson`] if options or an index spec are not valid BSON.
pub fn content_root(collections: &[&Collection]) -> Result<[u8; 32], Error> {
    let mut sorted: Vec<_> = collections.iter().collect();
    sorted.sort_by_key(|entry| entry.uuid);
    let digests: Result<Vec<_>, _> = sorted.into_iter().map(|entry| collection(entry)).collect();
    Ok(combine(&digests?))
}

/// The hash over the hashes of all collections, which are in UUID order.
pub(super) fn combine(digests: &[[u8; 32]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(CONTENT_TAG);
    hasher.update(&(digests.len() as u64).to_le_bytes());
    for digest in digests {
        hasher.update(digest);
    }
    *hasher.finalize().as_bytes()
}

/// The hash of one collection.
pub(super) fn collection(collection: &Collection) -> Result<[u8; 32], Error> {
    let bson = |what| {
        let ns = collection.ns.clone();
        move |source| Error::Bson { what, ns, source }
    };
    let mut hasher = blake3::Hasher::new();
    hasher.update(COLLECTION_TAG);
    hasher.update(&collection.uuid.0);
    string(&mut hasher, collection.ns.as_bytes());
    hasher.update(&[u8::from(collection.order == Order::Positional)]);
    hasher.update(&collection.root.documents.to_le_bytes());
    hasher.update(&collection.root.bytes.to_le_bytes());
    hasher.update(collection.root.top.as_ref().map_or(&[0; 32], |top| top.as_bytes()));
    let options = sorted(&collection.options, &[], false, 0).map_err(bson("options"))?;
    string(&mut hasher, encode(&options)?.as_bytes());
    let mut specs = Vec::with_capacity(collection.indexes.len());
    for spec in &collection.indexes {
        specs.push(encode(&canonical_index(spec).map_err(bson("index spec"))?)?);
    }
    specs.sort_unstable();
    hasher.update(&(specs.len() as u64).to_le_bytes());
    specs.iter().for_each(|spec| string(&mut hasher, spec.as_bytes()));
    Ok(*hasher.finalize().as_bytes())
}

/// A byte string is hashed after its length, so that no two sequences of strings hash alike.
fn string(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}

fn encode(document: &RawDocument) -> Result<Key, Error> {
    Ok(Key::of_value(RawBsonRef::Document(document))?)
}

fn canonical_index(spec: &RawDocument) -> Result<RawDocumentBuf, bson::error::Error> {
    if spec.get("v")?.is_some() {
        return sorted(spec, INDEX_NOISE, true, 0);
    }
    let mut versioned = spec.to_owned();
    versioned.append(bson::raw::cstr!("v"), 1_i32);
    sorted(&versioned, INDEX_NOISE, true, 0)
}

/// A document with its fields ordered by name (the first stays first among equal names).
fn sorted(
    document: &RawDocument,
    dropped: &[&str],
    keep_key: bool,
    depth: usize,
) -> Result<RawDocumentBuf, bson::error::Error> {
    if depth > MAX_DEPTH {
        return Ok(document.to_owned());
    }
    let mut fields: Vec<(&CStr, RawBsonRef<'_>)> = Vec::new();
    for element in document.iter_elements() {
        let element = element?;
        if !dropped.contains(&element.key().as_str()) {
            fields.push((element.key(), element.value()?));
        }
    }
    fields.sort_by(|(a, _), (b, _)| a.as_str().cmp(b.as_str()));
    let mut out = RawDocumentBuf::new();
    for (name, value) in fields {
        if keep_key && name.as_str() == "key" {
            out.append(name, value);
        } else {
            out.append(name, nested(value, depth)?);
        }
    }
    Ok(out)
}

fn nested(value: RawBsonRef<'_>, depth: usize) -> Result<RawBson, bson::error::Error> {
    match value {
        RawBsonRef::Document(document) => {
            Ok(RawBson::Document(sorted(document, &[], false, depth + 1)?))
        }
        RawBsonRef::Array(array) if depth < MAX_DEPTH => {
            let elements: Result<RawArrayBuf, _> =
                array.into_iter().map(|element| nested(element?, depth + 1)).collect();
            Ok(RawBson::Array(elements?))
        }
        value => Ok(value.into()),
    }
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;
    use crate::oplog::Uuid;
    use crate::tree::Root;

    fn sample(options: RawDocumentBuf, indexes: Vec<RawDocumentBuf>) -> Collection {
        let root = Root::default();
        let ns = "app.users".to_owned();
        Collection { uuid: Uuid([7; 16]), ns, options, indexes, order: Order::Keyed, root }
    }

    fn hash(options: RawDocumentBuf, indexes: Vec<RawDocumentBuf>) -> [u8; 32] {
        content_root(&[&sample(options, indexes)]).expect("valid BSON")
    }

    #[test]
    fn what_does_not_matter() {
        let a = hash(
            rawdoc! { "collation": { "locale": "de", "strength": 2 }, "expireAfterSeconds": 5_i64 },
            vec![
                rawdoc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" },
                rawdoc! { "v": 2, "key": { "a": 1, "b": -1 }, "name": "x", "ns": "app.users" },
            ],
        );
        let b = hash(
            rawdoc! { "expireAfterSeconds": 5.0, "collation": { "strength": 2.0, "locale": "de" } },
            vec![
                rawdoc! { "name": "x", "background": true, "key": { "a": 1.0, "b": -1.0 }, "v": 2 },
                rawdoc! { "v": 2.0, "key": { "_id": 1 }, "name": "_id_" },
            ],
        );
        assert_eq!(a, b);
    }

    #[test]
    fn what_matters() {
        let index = |spec| hash(rawdoc! {}, vec![spec]);
        let base = index(rawdoc! { "v": 2, "key": { "a": 1, "b": 1 }, "name": "x" });
        for other in [
            rawdoc! { "v": 2, "key": { "b": 1, "a": 1 }, "name": "x" },
            rawdoc! { "v": 1, "key": { "a": 1, "b": 1 }, "name": "x" },
            rawdoc! { "v": 2, "key": { "a": 1, "b": 1 }, "name": "y" },
            rawdoc! { "v": 2, "key": { "a": 1, "b": 1 }, "name": "x", "hidden": true },
        ] {
            assert_ne!(base, index(other));
        }
        assert_ne!(base, hash(rawdoc! {}, vec![]));
        let renamed = Collection { ns: "app.user".into(), ..sample(rawdoc! {}, vec![]) };
        let renamed = content_root(&[&renamed]).expect("valid BSON");
        assert_ne!(renamed, hash(rawdoc! {}, vec![]));
        assert_eq!(
            index(rawdoc! { "key": { "a": 1 }, "name": "x" }),
            index(rawdoc! { "key": { "a": 1 }, "name": "x", "v": 1 })
        );
    }
}
