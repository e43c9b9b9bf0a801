//! The metadata of a namespace as mongodump writes it beside the documents, and what the files of a
//! dump are called.
//!
//! mongodump asks the server, which shows a time series by its own fields; the catalog has the
//! indexes of its buckets. [`series_index`] turns one into the other.

use std::fmt::Write as _;

use bson::raw::{CString, RawBsonRef, cstr};
use bson::{RawDocument, RawDocumentBuf};
use sha1::{Digest as _, Sha1};

use super::items::{Item, Shape, text, without};
use super::{Error, extjson};

/// Longest name that is used as it is: with `.metadata.json.gz` it still fits a file name.
const MAX_NAME_BYTES: usize = 238;
/// How much of a longer name is kept before its hash.
const KEPT_NAME_BYTES: usize = 208;

/// The metadata as one JSON document.
pub(super) fn json(item: &Item) -> Result<String, Error> {
    let malformed = |_| Error::Unsupported {
        ns: item.ns.clone(),
        what: "its options or indexes have no Extended JSON",
    };
    let mut out = String::from("{\"options\":");
    extjson::document(&mut out, &item.options).map_err(malformed)?;
    out.push_str(",\"indexes\":[");
    for (index, spec) in item.indexes().enumerate() {
        if index > 0 {
            out.push(',');
        }
        let spec = match item.shape {
            Shape::TimeSeries => series_index(item, spec)?,
            _ => spec.to_owned(),
        };
        extjson::document(&mut out, &spec).map_err(malformed)?;
    }
    out.push(']');
    if let (Some(data), false) = (&item.data, item.shape == Shape::TimeSeries) {
        out.push_str(",\"uuid\":\"");
        for byte in data.uuid.0 {
            write!(out, "{byte:02x}").expect("writing to a String cannot fail");
        }
        out.push('"');
    }
    out.push_str(",\"collectionName\":");
    extjson::string(&mut out, item.name());
    out.push_str(",\"type\":");
    extjson::string(&mut out, kind(item));
    out.push('}');
    Ok(out)
}

/// The type as listCollections gives it.
pub(super) fn kind(item: &Item) -> &'static str {
    match item.shape {
        Shape::TimeSeries => "timeseries",
        Shape::View => "view",
        _ => "collection",
    }
}

/// The name of a collection's files without their ending: percent-encoded as in a query string, and
/// a hash in place of the rest of a name that is too long for a file.
pub(super) fn file_name(collection: &str) -> String {
    let mut name = String::new();
    for byte in collection.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                name.push(char::from(byte));
            }
            b' ' => name.push('+'),
            other => write!(name, "%{other:02X}").expect("writing to a String cannot fail"),
        }
    }
    if name.len() > MAX_NAME_BYTES {
        name.truncate(KEPT_NAME_BYTES);
        name.push_str("%24");
        name.push_str(&extjson::base64_url(&Sha1::digest(collection.as_bytes())));
    }
    name
}

/// An index of a bucket collection as the time series shows it.
fn series_index(item: &Item, spec: &RawDocument) -> Result<RawDocumentBuf, Error> {
    // Where the form of the index was lost in its translation, the server kept what it was made of.
    let original = spec.get("originalSpec").ok().flatten().and_then(RawBsonRef::as_document);
    if let Some(original) = original {
        return original_index(item, spec, original);
    }
    let unknown =
        || Error::Unsupported { ns: item.ns.clone(), what: "an index of an unknown form" };
    let series = item.options.get_document("timeseries").map_err(|_| unknown())?;
    let meta = text(series, "metaField").unwrap_or_default();
    let buckets = spec.get_document("key").map_err(|_| unknown())?;
    let mut key = RawDocumentBuf::new();
    // A field of measurements is a pair of control.min and control.max, both of its direction.
    let mut pair: Option<String> = None;
    for element in buckets.iter() {
        let (name, direction) = element.map_err(|_| unknown())?;
        let name = name.as_str();
        let shown = |name: String| CString::try_from(name).map_err(|_| unknown());
        let of_meta = |rest: &&str| rest.is_empty() || rest.starts_with('.');
        if let Some(rest) = name.strip_prefix("meta").filter(of_meta) {
            key.append(shown(format!("{meta}{rest}"))?, direction);
        } else if let Some(field) = name.strip_prefix("data.") {
            // 2dsphere_bucket is the only index on data itself.
            key.append(shown(field.to_owned())?, "2dsphere");
        } else {
            let field = name.strip_prefix("control.min.");
            let field = field.or_else(|| name.strip_prefix("control.max."));
            let field = field.ok_or_else(unknown)?;
            match pair.take() {
                Some(first) if first == field => key.append(shown(first)?, direction),
                Some(_) => return Err(unknown()),
                None => pair = Some(field.to_owned()),
            }
        }
    }
    if pair.is_some() {
        return Err(unknown());
    }
    let mut out = RawDocumentBuf::new();
    for element in without(&item.ns, spec, &[])?.iter() {
        let (name, value) = element.map_err(|_| unknown())?;
        if name.as_str() == "key" {
            out.append(cstr!("key"), &*key);
        } else {
            out.append(name, value);
        }
    }
    Ok(out)
}

/// What an index was made of, and what the server added: without the version of a geo index newer
/// readers would ask for the oldest.
fn original_index(
    item: &Item,
    spec: &RawDocument,
    original: &RawDocument,
) -> Result<RawDocumentBuf, Error> {
    let mut whole = original.to_owned();
    for element in without(&item.ns, spec, &["originalSpec"])?.iter() {
        let (name, value) = element.map_err(|_| Error::Unsupported {
            ns: item.ns.clone(),
            what: "an index of an unknown form",
        })?;
        if matches!(original.get(name.as_str()), Ok(None)) {
            whole.append(name, value);
        }
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_and_shortened_as_mongodump_does() {
        assert_eq!(file_name("plain-_.~9"), "plain-_.~9");
        assert_eq!(file_name("a b/%$\u{e9}"), "a+b%2F%25%24%C3%A9");
        let long = "aVery".to_owned()
            + &"Very".repeat(46)
            + "LongCollectionNameConsistingOfE$actlyTwoHundredAndFortyBytes12";
        assert!(long.len() > MAX_NAME_BYTES, "{}", long.len());
        let short = file_name(&long);
        assert_eq!(short.len(), MAX_NAME_BYTES);
        assert_eq!(&short[KEPT_NAME_BYTES..KEPT_NAME_BYTES + 3], "%24");
    }
}
