//! Extended JSON: how an `_id` is given, and how documents are shown.

use std::str::FromStr;

use bson::{Bson, RawDocument, RawDocumentBuf, doc};

use crate::restore::extjson;
use crate::tree::Key;

/// The value of an `_id`, given as Extended JSON.
#[derive(Debug, Clone, PartialEq)]
pub struct Id {
    text: String,
    key: Key,
}

/// A text that is no `_id`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text} is no _id in Extended JSON ({problem}): give 17, '\"text\"' with its quotes, \
     '{{\"$oid\": \"...\"}}', '{{\"$uuid\": \"...\"}}' or the like"
)]
pub struct ParseIdError {
    text: String,
    problem: String,
}

impl Id {
    /// Where documents of that `_id` stand in a tree.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Id {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |problem: String| ParseIdError { text: text.to_owned(), problem };
        let value: Bson = serde_json::from_str(text).map_err(|why| wrong(why.to_string()))?;
        if matches!(value, Bson::Array(_)) {
            return Err(wrong("no server takes an array".to_owned()));
        }
        let document = match encoded(&value) {
            Some(document) => document.ok_or_else(|| wrong("no BSON document".to_owned()))?,
            None => RawDocumentBuf::try_from(&doc! { "_id": value })
                .map_err(|why| wrong(why.to_string()))?,
        };
        let key = Key::of_document(&document).map_err(|why| wrong(why.to_string()))?;
        Ok(Self { text: text.to_owned(), key })
    }
}

/// The document in `{"bsonBase64": ...}`, if a value is that: none in it if it is no document.
fn encoded(value: &Bson) -> Option<Option<RawDocumentBuf>> {
    let fields = value.as_document().filter(|fields| fields.len() == 1)?;
    let text = fields.get_str(extjson::ENCODED).ok()?;
    let binary = bson::Binary::from_base64(text, None).ok();
    Some(binary.and_then(|binary| RawDocumentBuf::from_bytes(binary.bytes).ok()))
}

/// A document as canonical Extended JSON, field order and repeated names kept. One that JSON cannot
/// hold, such as one with a string that is not UTF-8, is `{"bsonBase64": "..."}`.
#[must_use]
pub fn json_of_document(document: &RawDocument) -> String {
    let mut out = String::new();
    if extjson::document(&mut out, document).is_err() {
        out = extjson::encoded(document);
    }
    out
}

/// The `_id` of a document as canonical Extended JSON; `null` if it has none. One that JSON cannot hold
/// is the `bsonBase64` of `{_id: value}`, which [`Id`] reads.
#[must_use]
pub fn json_of_id(document: &RawDocument) -> String {
    extjson::id(document)
}

/// A string as JSON, with its quotes.
#[must_use]
pub fn json_of_text(text: &str) -> String {
    let mut out = String::new();
    extjson::string(&mut out, text);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_every_type_are_read() {
        let oid = bson::oid::ObjectId::new();
        let values = [
            Bson::Double(1.5),
            Bson::String("a \"quoted\" text".to_owned()),
            Bson::Document(bson::doc! { "z": 1, "a": { "b": [2, "c"] } }),
            Bson::Binary(bson::Binary {
                subtype: bson::spec::BinarySubtype::Generic,
                bytes: vec![0, 255, 7],
            }),
            Bson::ObjectId(oid),
            Bson::Boolean(true),
            Bson::DateTime(bson::DateTime::from_millis(-62_135_596_800_001)),
            Bson::Null,
            Bson::Undefined,
            Bson::RegularExpression(bson::Regex {
                pattern: bson::raw::cstr!("^a/b").into(),
                options: bson::raw::cstr!("im").into(),
            }),
            Bson::JavaScriptCode("f()".to_owned()),
            Bson::JavaScriptCodeWithScope(bson::JavaScriptCodeWithScope {
                code: "g()".to_owned(),
                scope: bson::doc! { "x": 1 },
            }),
            Bson::Symbol("s".to_owned()),
            Bson::Int32(-7),
            Bson::Int64(i64::MIN),
            Bson::Timestamp(bson::Timestamp { time: 5, increment: 6 }),
            Bson::Decimal128("1E+6000".parse().expect("a decimal")),
            Bson::MinKey,
            Bson::MaxKey,
            serde_json::from_str(
                r#"{"$dbPointer":{"$ref":"c","$id":{"$oid":"070707070707070707070707"}}}"#,
            )
            .expect("a pointer"),
        ];
        for value in values {
            let raw = bson::RawDocumentBuf::try_from(&bson::doc! { "_id": value.clone() });
            let raw = raw.expect("a document");
            let text = json_of_id(&raw);
            let id: Id = text.parse().unwrap_or_else(|why| panic!("{text}: {why}"));
            assert_eq!(*id.key(), Key::of_document(&raw).expect("a key"), "{text}");
        }
        let uuid = r#"{"$uuid": "00112233-4455-6677-8899-aabbccddeeff"}"#;
        let binary = r#"{"$binary": {"base64": "ABEiM0RVZneImaq7zN3u/w==", "subType": "04"}}"#;
        let key = |text: &str| text.parse::<Id>().expect(text).key;
        assert_eq!(key(uuid), key(binary));
        // Equal numbers are one _id, whatever their type; JSON's own forms are read, too.
        assert_eq!(key("5"), key(r#"{"$numberDouble": "5.0"}"#));
        assert_eq!(key("9007199254740993"), key(r#"{"$numberLong": "9007199254740993"}"#));
        assert_ne!(key("9007199254740993"), key("9007199254740992"));
        let date = r#"{"$date": "2026-05-04T12:00:00Z"}"#;
        assert_eq!(key(date), key(r#"{"$date": {"$numberLong": "1777896000000"}}"#));
    }

    #[test]
    fn what_is_no_id_is_told() {
        for text in ["", "abc", "[1]", "{\"$oid\": \"xyz\"}", "1 2", "{a: 1}"] {
            let refused = text.parse::<Id>().expect_err(text).to_string();
            assert!(refused.contains("Extended JSON"), "{text}: {refused}");
        }
    }

    #[test]
    fn what_json_cannot_hold_is_shown_as_bytes() {
        let mut bytes = bson::rawdoc! { "_id": 1, "s": "ab" }.into_bytes();
        let place = bytes.len() - 4;
        bytes[place] = 0xff;
        let document = bson::RawDocumentBuf::from_bytes(bytes).expect("framed");
        assert!(json_of_document(&document).starts_with("{\"bsonBase64\":\""));
        assert_eq!(json_of_id(&document), "{\"$numberInt\":\"1\"}");
        let mut bytes = bson::rawdoc! { "_id": "ab" }.into_bytes();
        let place = bytes.len() - 4;
        bytes[place] = 0xff;
        let document = RawDocumentBuf::from_bytes(bytes).expect("framed");
        let id: Id = json_of_id(&document).parse().expect("an _id");
        assert_eq!(*id.key(), Key::of_document(&document).expect("a key"));
        assert!("{\"bsonBase64\": \"AAAA\"}".parse::<Id>().is_err());
    }
}
