//! The documents after an entry of the log (page 10, section 2), in order of their names.

use std::collections::BTreeMap;

use bson::{RawBson, RawBsonRef, RawDocument, RawDocumentBuf};

use super::entry::Hash;

/// The `_id` of a document, as bytes that sort as it does: strings, timestamps, object ids and numbers, and documents of these.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(Vec<u8>);

impl Key {
    /// None if it is of a type that no document here has.
    pub fn of(id: RawBsonRef<'_>) -> Option<Self> {
        let mut bytes = Vec::new();
        push(&mut bytes, id)?;
        Some(Self(bytes))
    }
}

fn push(bytes: &mut Vec<u8>, value: RawBsonRef<'_>) -> Option<()> {
    // So that numbers sort as they do with a sign.
    let ordered = |number: i64| (number.cast_unsigned() ^ (1 << 63)).to_be_bytes();
    match value {
        RawBsonRef::Int32(number) => {
            bytes.push(1);
            bytes.extend(ordered(number.into()));
        }
        RawBsonRef::Int64(number) => {
            bytes.push(1);
            bytes.extend(ordered(number));
        }
        RawBsonRef::String(text) if !text.contains('\0') => {
            bytes.push(2);
            bytes.extend(text.bytes());
            bytes.push(0);
        }
        RawBsonRef::ObjectId(id) => {
            bytes.push(3);
            bytes.extend(id.bytes());
        }
        RawBsonRef::Timestamp(ts) => {
            bytes.push(4);
            bytes.extend(ts.time.to_be_bytes());
            bytes.extend(ts.increment.to_be_bytes());
        }
        RawBsonRef::Document(document) => {
            bytes.push(5);
            for field in document {
                push(bytes, field.ok()?.1)?;
            }
            bytes.push(0);
        }
        _ => return None,
    }
    Some(())
}

/// A document, and the entry that first had it.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub document: RawDocumentBuf,
    pub born: i64,
}

/// What an entry does to a document.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub of: String,
    pub id: RawBson,
    /// The whole of it afterwards; none if it is removed.
    pub document: Option<RawDocumentBuf>,
}

/// All documents after an entry.
#[derive(Debug, Clone)]
pub(super) struct State {
    /// The entry.
    pub number: i64,
    /// Its hash.
    pub hash: Hash,
    of: BTreeMap<String, BTreeMap<Key, Held>>,
    /// By collection, the last entry that changed it.
    changed: BTreeMap<String, i64>,
}

impl State {
    /// One without documents.
    pub fn new(number: i64, hash: Hash) -> Self {
        Self { number, hash, of: BTreeMap::new(), changed: BTreeMap::new() }
    }

    /// Every document with its collection.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Key, &Held)> {
        let all = self.of.iter();
        all.flat_map(|(of, held)| held.iter().map(move |(key, held)| (of.as_str(), key, held)))
    }

    /// How many documents there are.
    pub fn documents(&self) -> i64 {
        self.of.values().map(BTreeMap::len).sum::<usize>() as i64
    }

    /// The documents of a collection.
    pub fn all(&self, of: &str) -> impl Iterator<Item = (&Key, &Held)> {
        self.of.get(of).into_iter().flatten()
    }

    pub fn get(&self, of: &str, key: &Key) -> Option<&RawDocument> {
        self.of.get(of)?.get(key).map(|held| &*held.document)
    }

    /// The last entry that changed a collection.
    pub fn changed(&self, of: &str) -> i64 {
        self.changed.get(of).copied().unwrap_or(self.number)
    }

    pub fn put(&mut self, of: &str, key: Key, document: RawDocumentBuf, born: i64) {
        let collection = self.of.entry(of.to_owned()).or_default();
        collection.insert(key, Held { document, born });
    }

    /// Goes on by an entry. None if a change is not of its form.
    pub fn apply(&mut self, number: i64, hash: Hash, changes: &[Change]) -> Option<()> {
        for Change { of, id, document } in changes {
            let key = Key::of(id.as_raw_bson_ref())?;
            let collection = self.of.entry(of.clone()).or_default();
            match document {
                Some(document) => {
                    let born = collection.get(&key).map_or(number, |held| held.born);
                    collection.insert(key, Held { document: document.clone(), born });
                }
                None => _ = collection.remove(&key),
            }
            self.changed.insert(of.clone(), number);
        }
        (self.number, self.hash) = (number, hash);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{Timestamp, oid::ObjectId, rawdoc};

    #[test]
    fn names_sort_as_their_values() {
        let slice = |job: &str, time, increment| {
            RawBson::Document(rawdoc! { "job": job, "ts": Timestamp { time, increment } })
        };
        let id = |byte| RawBson::ObjectId(ObjectId::from_bytes([byte; 12]));
        for (low, high) in [
            (slice("a", 9, 9), slice("ab", 1, 1)),
            (slice("a", 1, 300), slice("a", 2, 1)),
            (slice("a", 2, 1), slice("a", 2, 256)),
            (RawBson::Int32(-1), RawBson::Int32(0)),
            (RawBson::Int64(255), RawBson::Int64(256)),
            (id(1), id(2)),
        ] {
            let [low, high] = [&low, &high].map(|id| Key::of(id.as_raw_bson_ref()).expect("a key"));
            assert!(low < high, "{low:?} {high:?}");
        }
        assert_eq!(Key::of(RawBsonRef::Double(1.0)), None);
        assert_eq!(Key::of(RawBsonRef::String("a\0b")), None);
    }
}
