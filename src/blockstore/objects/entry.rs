//! Entries of the log and checkpoints, as bytes (page 10, section 2).

use bson::raw::cstr;
use bson::spec::BinarySubtype;
use bson::{Binary, RawArrayBuf, RawBson, RawDocument, RawDocumentBuf, rawdoc};
use bytes::Bytes;

use super::state::{Change, Key, State};

/// Bytes of a hash.
const HASH_BYTES: usize = 32;
/// Bytes of an entry at most.
pub(super) const ENTRY_BYTES_MAX: usize = 16 << 20;
/// zstd level of checkpoints.
const LEVEL: i32 = 3;

/// The hash of an entry.
pub(super) type Hash = [u8; HASH_BYTES];

/// An entry that was read.
pub(super) struct Entry {
    pub number: i64,
    pub prev: Hash,
    pub changes: Vec<Change>,
    pub hash: Hash,
}

/// The bytes of an entry that no other is equal to, and its hash.
pub(super) fn encode(number: i64, prev: &Hash, changes: &[Change]) -> (Bytes, Hash) {
    let nonce: [u8; 16] = rand::random();
    let mut list = RawArrayBuf::new();
    for Change { of, id, document } in changes {
        let mut one = rawdoc! { "of": of.as_str(), "id": id.clone() };
        if let Some(document) = document {
            one.append(cstr!("document"), document.clone());
        }
        list.push(one);
    }
    let document = rawdoc! {
        "number": number,
        "nonce": generic(&nonce),
        "prev": generic(prev),
        "changes": list,
    };
    let hash = *blake3::hash(document.as_bytes()).as_bytes();
    let mut bytes = document.into_bytes();
    bytes.extend(hash);
    (bytes.into(), hash)
}

/// Reads an entry; none if it is not one.
pub(super) fn decode(bytes: &[u8]) -> Option<Entry> {
    let (document, hash) = bytes.split_last_chunk::<HASH_BYTES>()?;
    if blake3::hash(document).as_bytes() != hash {
        return None;
    }
    let document = RawDocument::from_bytes(document).ok()?;
    let mut changes = Vec::new();
    for one in document.get_array("changes").ok()? {
        let one = one.ok()?.as_document()?;
        let id = RawBson::from(one.get("id").ok()??);
        let document = match one.get("document").ok()? {
            None => None,
            Some(document) => Some(document.as_document()?.to_owned()),
        };
        changes.push(Change { of: one.get_str("of").ok()?.to_owned(), id, document });
    }
    Some(Entry {
        number: document.get_i64("number").ok()?,
        prev: document.get_binary("prev").ok()?.bytes.try_into().ok()?,
        changes,
        hash: *hash,
    })
}

/// The hash that an entry ends with.
pub(super) fn hash_of(bytes: &[u8]) -> Option<Hash> {
    bytes.last_chunk().copied()
}

/// The bytes of a checkpoint.
pub(super) fn encode_checkpoint(state: &State) -> std::io::Result<Bytes> {
    let (entry, documents) = (generic(&state.hash), state.documents());
    let head = rawdoc! { "number": state.number, "entry": entry, "documents": documents };
    let mut raw = head.into_bytes();
    for (of, _, held) in state.iter() {
        let one = rawdoc! { "of": of, "born": held.born, "document": held.document.clone() };
        raw.extend(one.into_bytes());
    }
    let mut bytes = zstd::bulk::compress(&raw, LEVEL)?;
    bytes.extend(blake3::hash(&bytes).as_bytes());
    Ok(bytes.into())
}

/// Reads a checkpoint; none if it is not one.
pub(super) fn decode_checkpoint(bytes: &[u8]) -> Option<State> {
    let (packed, hash) = bytes.split_last_chunk::<HASH_BYTES>()?;
    if blake3::hash(packed).as_bytes() != hash {
        return None;
    }
    let raw = zstd::stream::decode_all(packed).ok()?;
    let mut rest = &raw[..];
    let head = next(&mut rest)?;
    let hash = head.get_binary("entry").ok()?.bytes.try_into().ok()?;
    let mut state = State::new(head.get_i64("number").ok()?, hash);
    for _ in 0..head.get_i64("documents").ok()? {
        let one = next(&mut rest)?;
        let document = one.get_document("document").ok()?.to_owned();
        let key = Key::of(document.get("_id").ok()??)?;
        state.put(one.get_str("of").ok()?, key, document, one.get_i64("born").ok()?);
    }
    rest.is_empty().then_some(state)
}

fn next<'a>(rest: &mut &'a [u8]) -> Option<&'a RawDocument> {
    let length = u32::from_le_bytes(*rest.first_chunk()?) as usize;
    let (document, after) = rest.split_at_checked(length)?;
    *rest = after;
    RawDocument::from_bytes(document).ok()
}

fn generic(bytes: &[u8]) -> Binary {
    Binary { subtype: BinarySubtype::Generic, bytes: bytes.to_vec() }
}

/// A document with an `_id`, for who makes changes.
pub(super) fn id_of(document: &RawDocumentBuf) -> Option<RawBson> {
    document.get("_id").ok().flatten().map(RawBson::from)
}
