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
//! - The `size` of a capped collection is rounded up to a multiple of 256: servers before 6.2 do so
//!   after having logged what they were asked for (seen on 6.0.5, with collMod).
//! - Index specs are ordered by their canonical form. `ns` and `background` are dropped: servers differ in
//!   writing them. An absent `v` is 1, what it meant before servers wrote it. A flag that is a number is
//!   the boolean it stands for, and `expireAfterSeconds` has no fraction: so servers list them after
//!   having logged what they were given (seen on 6.0.5).

use std::collections::{BTreeMap, BTreeSet};

use bson::raw::{CStr, RawArrayBuf, RawBson, RawBsonRef};
use bson::{RawDocument, RawDocumentBuf};

use super::options::{index_name, is_true, whole};
use super::{Collection, Error};
use crate::block::BlockId;
use crate::tree::{Key, Order};

/// What the hash of one collection starts with.
const COLLECTION_TAG: &[u8] = b"headstock collection 1\0";
/// What the hash of all collections starts with.
const CONTENT_TAG: &[u8] = b"headstock content 1\0";
/// Fields of an index spec that servers write or not.
const INDEX_NOISE: &[&str] = &["ns", "background"];
/// Flags of an index spec, which may be numbers.
const INDEX_FLAGS: &[&str] = &["unique", "sparse", "hidden", "prepareUnique"];
/// Unit of the size of a capped collection.
const CAPPED_SIZE_UNIT: i64 = 256;
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
    Ok(*blake3::hash(&canonical(collection)?).as_bytes())
}

/// How two catalog entries of one collection differ, in what is hashed of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CatalogDifference {
    /// The names differ.
    pub name: bool,
    /// The options differ.
    pub options: bool,
    /// Names of the indexes that differ, and how.
    pub indexes: Vec<(String, IndexDifference)>,
}

/// How two catalog entries differ in one index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexDifference {
    /// Only the first has it.
    OnlyFirst,
    /// Only the second has it.
    OnlySecond,
    /// They have other specs.
    Spec,
}

/// Compares the catalog entries of a collection, documents aside.
///
/// # Errors
/// [`Error::Bson`] if options or an index spec are not valid BSON.
pub fn compare(first: &Collection, second: &Collection) -> Result<CatalogDifference, Error> {
    let options = |collection: &Collection| {
        let read = canonical_options(collection).map_err(invalid(collection, "options"));
        read.and_then(|options| encode(&options))
    };
    let (mine, other) = (indexes(first)?, indexes(second)?);
    let names: BTreeSet<&String> = mine.keys().chain(other.keys()).collect();
    let differing = names.into_iter().filter_map(|name| {
        let how = match (mine.get(name), other.get(name)) {
            (Some(_), None) => IndexDifference::OnlyFirst,
            (None, Some(_)) => IndexDifference::OnlySecond,
            (one, other) if one != other => IndexDifference::Spec,
            _ => return None,
        };
        Some((name.clone(), how))
    });
    Ok(CatalogDifference {
        name: first.ns != second.ns,
        options: first.order != second.order || options(first)? != options(second)?,
        indexes: differing.collect(),
    })
}

/// The canonical index specs of a collection by name.
fn indexes(collection: &Collection) -> Result<BTreeMap<String, Key>, Error> {
    let canonical = |spec: &RawDocumentBuf| {
        let read = canonical_index(spec).map_err(invalid(collection, "index spec"))?;
        Ok((index_name(spec).to_owned(), encode(&read)?))
    };
    collection.indexes.iter().map(canonical).collect()
}

/// The error that something of a collection is not valid BSON.
fn invalid(
    collection: &Collection,
    what: &'static str,
) -> impl Fn(bson::error::Error) -> Error + use<> {
    let ns = collection.ns.clone();
    move |source| Error::Bson { what, ns: ns.clone(), source }
}

/// The bytes that are hashed of one collection.
fn canonical(collection: &Collection) -> Result<Vec<u8>, Error> {
    let root = &collection.root;
    let mut out = COLLECTION_TAG.to_vec();
    out.extend_from_slice(&collection.uuid.0);
    string(&mut out, collection.ns.as_bytes());
    out.push(u8::from(collection.order == Order::Positional));
    out.extend_from_slice(&root.documents.to_le_bytes());
    out.extend_from_slice(&root.bytes.to_le_bytes());
    out.extend_from_slice(root.top.as_ref().map_or(&[0; BlockId::LEN][..], |top| top.as_bytes()));
    let options = canonical_options(collection).map_err(invalid(collection, "options"))?;
    string(&mut out, encode(&options)?.as_bytes());
    let mut specs = Vec::with_capacity(collection.indexes.len());
    for spec in &collection.indexes {
        let spec = canonical_index(spec).map_err(invalid(collection, "index spec"))?;
        specs.push(encode(&spec)?);
    }
    specs.sort_unstable();
    out.extend_from_slice(&(specs.len() as u64).to_le_bytes());
    specs.iter().for_each(|spec| string(&mut out, spec.as_bytes()));
    Ok(out)
}

/// A byte string stands after its length, so that no two sequences of strings look alike.
fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn encode(document: &RawDocument) -> Result<Key, Error> {
    Ok(Key::of_value(RawBsonRef::Document(document))?)
}

fn canonical_options(collection: &Collection) -> Result<RawDocumentBuf, bson::error::Error> {
    let options = sorted(&collection.options, &[], false, 0)?;
    if collection.order != Order::Positional {
        return Ok(options);
    }
    let mut rounded = RawDocumentBuf::new();
    for element in options.iter_elements() {
        let element = element?;
        let value = element.value()?;
        match (element.key().as_str(), whole(value)) {
            ("size", Some(size)) => {
                let over = size.rem_euclid(CAPPED_SIZE_UNIT);
                let up = if over == 0 { 0 } else { CAPPED_SIZE_UNIT - over };
                rounded.append(element.key(), size.saturating_add(up));
            }
            _ => rounded.append(element.key(), value),
        }
    }
    Ok(rounded)
}

fn canonical_index(spec: &RawDocument) -> Result<RawDocumentBuf, bson::error::Error> {
    let mut listed = RawDocumentBuf::new();
    for element in spec.iter_elements() {
        let element = element?;
        let (name, value) = (element.key(), element.value()?);
        match (name.as_str(), whole(value)) {
            (flag, Some(_)) if INDEX_FLAGS.contains(&flag) => listed.append(name, is_true(value)),
            ("expireAfterSeconds", Some(seconds)) => listed.append(name, seconds),
            _ => listed.append(name, value),
        }
    }
    if spec.get("v")?.is_none() {
        listed.append(bson::raw::cstr!("v"), 1_i32);
    }
    sorted(&listed, INDEX_NOISE, true, 0)
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
        let index = |spec| hash(rawdoc! {}, vec![spec]);
        assert_eq!(
            index(
                rawdoc! { "v": 2, "name": "x", "sparse": 1, "hidden": 0, "expireAfterSeconds": 9.9 }
            ),
            index(rawdoc! {
                "v": 2, "name": "x", "sparse": true, "hidden": false, "expireAfterSeconds": 9,
            })
        );
    }

    #[test]
    fn differences_are_named() {
        let index = |name: &str, key: i32| rawdoc! { "v": 2, "key": { "a": key }, "name": name };
        let one = sample(rawdoc! { "validationLevel": "off" }, vec![index("x", 1), index("y", 1)]);
        assert_eq!(compare(&one, &one).expect("valid"), CatalogDifference::default());
        let other = sample(rawdoc! {}, vec![index("z", 1), index("y", -1)]);
        let other = Collection { ns: "app.people".into(), ..other };
        let named = |name: &str, how| (name.to_owned(), how);
        let expected = CatalogDifference {
            name: true,
            options: true,
            indexes: vec![
                named("x", IndexDifference::OnlyFirst),
                named("y", IndexDifference::Spec),
                named("z", IndexDifference::OnlySecond),
            ],
        };
        assert_eq!(compare(&one, &other).expect("valid"), expected);
    }

    #[test]
    fn sizes_of_capped_collections_are_rounded_up() {
        let of = |size: RawBson| {
            let options = rawdoc! { "capped": true, "size": size };
            let sample = Collection { order: Order::Positional, ..sample(options, vec![]) };
            content_root(&[&sample]).expect("valid BSON")
        };
        assert_eq!(of(RawBson::Int64(60_256)), of(RawBson::Int32(60_416)));
        assert_ne!(of(RawBson::Int64(60_416)), of(RawBson::Int32(60_417)));
    }

    fn unhex(value: &serde_json::Value) -> Vec<u8> {
        let text = value.as_str().expect("text").as_bytes();
        let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16);
        text.chunks(2).map(|pair| byte(pair).expect("hexadecimal")).collect()
    }

    fn bson(value: &serde_json::Value) -> RawDocumentBuf {
        RawDocumentBuf::from_bytes(unhex(value)).expect("BSON")
    }

    /// The vector was not made by this program.
    #[test]
    fn vector() {
        let text = include_str!("../../format-spec/vectors/content-root.json");
        let vector: serde_json::Value = serde_json::from_str(text).expect("JSON");
        let mut collections = Vec::new();
        for given in vector["collections"].as_array().expect("an array") {
            let top = (!given["top"].is_null()).then(|| unhex(&given["top"]));
            let indexes = given["indexes"].as_array().expect("an array");
            let positional = given["positional"].as_bool().expect("a flag");
            let found = Collection {
                uuid: Uuid(unhex(&given["uuid"]).try_into().expect("16 bytes")),
                ns: given["ns"].as_str().expect("text").to_owned(),
                options: bson(&given["options"]),
                indexes: indexes.iter().map(bson).collect(),
                order: if positional { Order::Positional } else { Order::Keyed },
                root: Root {
                    top: top.map(|top| BlockId::from_slice(&top).expect("32 bytes")),
                    level: 0,
                    documents: given["documents"].as_u64().expect("a count"),
                    bytes: given["bytes"].as_u64().expect("a count"),
                },
            };
            assert_eq!(canonical(&found).expect("valid"), unhex(&given["hashed"]), "{}", found.ns);
            assert_eq!(collection(&found).expect("valid")[..], unhex(&given["hash"]));
            collections.push(found);
        }
        let collections: Vec<&Collection> = collections.iter().rev().collect();
        let found = content_root(&collections).expect("valid");
        assert_eq!(found[..], unhex(&vector["content_root"]));
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
