//! Canonical Extended JSON v2 of raw BSON, as mongodump writes metadata.
//!
//! Written from the bytes: field order and repeated names stay as they are, which a JSON map of
//! parsed values would lose.

use std::fmt::Write as _;

use bson::raw::RawBsonRef;
use bson::{Bson, RawArray, RawDocument};

use crate::elements;

/// Levels of documents; servers take 200.
const MAX_DEPTH: usize = 256;

/// The name under which bytes stand that JSON cannot hold.
pub(crate) const ENCODED: &str = "bsonBase64";

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const BASE64_URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Why a document has no Extended JSON.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoJson {
    #[error(transparent)]
    Bson(#[from] bson::error::Error),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error("more than {MAX_DEPTH} levels of documents")]
    Depth,
}

/// Appends a document.
pub(crate) fn document(out: &mut String, document: &RawDocument) -> Result<(), NoJson> {
    nested(out, document, 0)
}

fn nested(out: &mut String, document: &RawDocument, depth: usize) -> Result<(), NoJson> {
    if depth > MAX_DEPTH {
        return Err(NoJson::Depth);
    }
    out.push('{');
    for (index, element) in document.iter().enumerate() {
        let (name, field) = element?;
        if index > 0 {
            out.push(',');
        }
        string(out, name.as_str());
        out.push(':');
        value(out, field, depth + 1)?;
    }
    out.push('}');
    Ok(())
}

fn array(out: &mut String, array: &RawArray, depth: usize) -> Result<(), NoJson> {
    if depth > MAX_DEPTH {
        return Err(NoJson::Depth);
    }
    out.push('[');
    for (index, element) in array.into_iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        value(out, element?, depth + 1)?;
    }
    out.push(']');
    Ok(())
}

/// Appends a string with its quotes.
pub(crate) fn string(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            control if control < ' ' => put(out, format_args!("\\u{:04x}", control as u32)),
            other => out.push(other),
        }
    }
    out.push('"');
}

/// The `_id` of a document; one that JSON cannot hold, such as a string that is not UTF-8, as the
/// `bsonBase64` of a document that has nothing else; `null` if there is none.
pub(crate) fn id(document: &RawDocument) -> String {
    let mut out = String::new();
    let found = document.get("_id").map(|id| id.unwrap_or(RawBsonRef::Null));
    if found.is_ok_and(|id| value(&mut out, id, 0).is_ok()) {
        return out;
    }
    elements::only_id(document).map_or_else(|_| "null".to_owned(), |id| encoded(&id))
}

/// A document as the Base64 of its bytes.
pub(crate) fn encoded(document: &RawDocument) -> String {
    format!("{{\"{ENCODED}\":\"{}\"}}", base64(document.as_bytes()))
}

/// Appends a value that stands so many levels deep.
fn value(out: &mut String, value: RawBsonRef<'_>, depth: usize) -> Result<(), NoJson> {
    match value {
        RawBsonRef::Document(inner) => return nested(out, inner, depth),
        RawBsonRef::Array(inner) => return array(out, inner, depth),
        RawBsonRef::JavaScriptCodeWithScope(code) => {
            out.push_str("{\"$code\":");
            string(out, code.code);
            out.push_str(",\"$scope\":");
            nested(out, code.scope, depth)?;
            out.push('}');
        }
        RawBsonRef::String(text) => string(out, text),
        RawBsonRef::Boolean(truth) => put(out, format_args!("{truth}")),
        RawBsonRef::Null => out.push_str("null"),
        // Its fields are private to the library, which writes it alike.
        RawBsonRef::DbPointer(_) => out.push_str(&serde_json::to_string(&Bson::try_from(value)?)?),
        other => wrapped(out, other),
    }
    Ok(())
}

/// Types that JSON lacks: an object with one field whose name tells the type.
fn wrapped(out: &mut String, value: RawBsonRef<'_>) {
    match value {
        RawBsonRef::Double(number) => tagged(out, "numberDouble", &double(number)),
        RawBsonRef::Int32(number) => tagged(out, "numberInt", &number.to_string()),
        RawBsonRef::Int64(number) => tagged(out, "numberLong", &number.to_string()),
        RawBsonRef::Decimal128(number) => tagged(out, "numberDecimal", &number.to_string()),
        RawBsonRef::ObjectId(id) => tagged(out, "oid", &id.to_hex()),
        RawBsonRef::Symbol(text) => tagged(out, "symbol", text),
        RawBsonRef::JavaScriptCode(code) => tagged(out, "code", code),
        RawBsonRef::DateTime(date) => {
            let millis = date.timestamp_millis();
            put(out, format_args!("{{\"$date\":{{\"$numberLong\":\"{millis}\"}}}}"));
        }
        RawBsonRef::Timestamp(ts) => {
            let (t, i) = (ts.time, ts.increment);
            put(out, format_args!("{{\"$timestamp\":{{\"t\":{t},\"i\":{i}}}}}"));
        }
        RawBsonRef::Binary(binary) => {
            let (bytes, subtype) = (base64(binary.bytes), u8::from(binary.subtype));
            put(
                out,
                format_args!(
                    "{{\"$binary\":{{\"base64\":\"{bytes}\",\"subType\":\"{subtype:02x}\"}}}}"
                ),
            );
        }
        RawBsonRef::RegularExpression(regex) => {
            out.push_str("{\"$regularExpression\":{\"pattern\":");
            string(out, regex.pattern.as_str());
            out.push_str(",\"options\":");
            string(out, regex.options.as_str());
            out.push_str("}}");
        }
        RawBsonRef::MinKey => out.push_str("{\"$minKey\":1}"),
        RawBsonRef::MaxKey => out.push_str("{\"$maxKey\":1}"),
        // What is left is undefined; every other type has its own arm above or in `value`.
        _ => out.push_str("{\"$undefined\":true}"),
    }
}

fn tagged(out: &mut String, name: &str, text: &str) {
    put(out, format_args!("{{\"${name}\":"));
    string(out, text);
    out.push('}');
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a String cannot fail");
}

fn double(number: f64) -> String {
    match number {
        _ if number.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "Infinity".to_owned(),
        f64::NEG_INFINITY => "-Infinity".to_owned(),
        // With a point or an exponent, so that no reader takes it for an integer.
        _ => format!("{number:?}"),
    }
}

/// Base64 with padding.
pub(crate) fn base64(bytes: &[u8]) -> String {
    let mut text = encode(bytes, BASE64);
    while !text.len().is_multiple_of(4) {
        text.push('=');
    }
    text
}

/// Base64 of the alphabet for URLs, without padding.
pub(crate) fn base64_url(bytes: &[u8]) -> String {
    encode(bytes, BASE64_URL)
}

fn encode(bytes: &[u8], alphabet: &[u8; 64]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0_u32, |group, byte| group << 8 | u32::from(*byte));
        let group = group << (8 * (3 - chunk.len()));
        for digit in 0..=chunk.len() {
            let six = (group >> (18 - 6 * digit)) & 63;
            text.push(char::from(alphabet[six as usize]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_reads_back() {
        let document = bson::doc! {
            "double": 1.0, "big": 1e300, "text": "a\"\\\n\u{1}\u{e9}", "nested": { "a": [1, 2_i64] },
            "bin": bson::Binary { subtype: bson::spec::BinarySubtype::Uuid, bytes: vec![1, 2, 3, 250] },
            "oid": bson::oid::ObjectId::new(), "yes": true, "null": bson::Bson::Null,
            "date": bson::DateTime::from_millis(-1), "ts": bson::Timestamp { time: 1, increment: 2 },
            "regex": bson::Bson::RegularExpression(bson::Regex {
                pattern: bson::raw::cstr!("^a\"").into(), options: bson::raw::cstr!("i").into(),
            }),
            "code": bson::Bson::JavaScriptCode("f()".into()), "symbol": bson::Bson::Symbol("s".into()),
            "scope": bson::Bson::JavaScriptCodeWithScope(bson::JavaScriptCodeWithScope {
                code: "g".into(), scope: bson::doc! { "x": 1 },
            }),
            "min": bson::Bson::MinKey, "max": bson::Bson::MaxKey, "undefined": bson::Bson::Undefined,
        };
        let raw = bson::RawDocumentBuf::try_from(&document).expect("valid");
        let mut text = String::new();
        super::document(&mut text, &raw).expect("has JSON");
        let back: bson::Document = serde_json::from_str(&text).expect("is Extended JSON");
        for (name, value) in &document {
            assert_eq!(back.get(name), Some(value), "{name} in {text}");
        }
    }

    #[test]
    fn order_and_repeated_names_stay() {
        let mut document = bson::RawDocumentBuf::new();
        for (name, number) in [("b", 1), ("a", 2), ("b", 3)] {
            document.append(bson::raw::CString::try_from(name).expect("no NUL"), number);
        }
        let mut text = String::new();
        super::document(&mut text, &document).expect("has JSON");
        assert_eq!(
            text,
            r#"{"b":{"$numberInt":"1"},"a":{"$numberInt":"2"},"b":{"$numberInt":"3"}}"#
        );
    }

    #[test]
    fn base64_of_every_remainder() {
        assert_eq!(base64(b"ma"), "bWE=");
        assert_eq!(base64(b"man"), "bWFu");
        assert_eq!(base64(b"m"), "bQ==");
        assert_eq!(base64_url(&[0xfb, 0xff]), "-_8");
    }
}
