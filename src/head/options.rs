//! Edits to a collection's options and index specs, which keep every byte that is not changed.

use bson::raw::{BindRawBsonRef, CStr, RawBsonRef, cstr};
use bson::{RawDocument, RawDocumentBuf};

/// Errors of reading a user's BSON.
type Result<T> = std::result::Result<T, bson::error::Error>;

/// The document without some fields.
pub(super) fn without(document: &RawDocument, names: &[&str]) -> Result<RawDocumentBuf> {
    let mut out = RawDocumentBuf::new();
    for element in document.iter_elements() {
        let element = element?;
        if !names.contains(&element.key().as_str()) {
            out.append(element.key(), element.value()?);
        }
    }
    Ok(out)
}

/// The document with a field set, in its place if it is there, else at the end.
pub(super) fn with(
    document: &RawDocument,
    name: &CStr,
    value: impl BindRawBsonRef + Clone,
) -> Result<RawDocumentBuf> {
    let mut out = RawDocumentBuf::new();
    let mut found = false;
    for element in document.iter_elements() {
        let element = element?;
        if element.key() != name {
            out.append(element.key(), element.value()?);
        } else if !found {
            found = true;
            out.append(name, value.clone());
        }
    }
    if !found {
        out.append(name, value);
    }
    Ok(out)
}

/// Whether servers drop the collection when they start: it waits to be renamed.
pub(super) fn is_temporary(options: &RawDocument) -> bool {
    matches!(options.get("temp"), Ok(Some(value)) if is_true(value))
}

/// Whether a value counts as true, as servers read flags.
pub(super) fn is_true(value: RawBsonRef<'_>) -> bool {
    match value {
        RawBsonRef::Boolean(flag) => flag,
        RawBsonRef::Null | RawBsonRef::Undefined => false,
        value => whole(value) != Some(0),
    }
}

/// A number of any type as a whole one, cut towards zero; none if it is no number or not finite.
pub(super) fn whole(value: RawBsonRef<'_>) -> Option<i64> {
    match value {
        RawBsonRef::Int32(number) => Some(number.into()),
        RawBsonRef::Int64(number) => Some(number),
        // Saturates, which is far beyond any bound that is compared with.
        RawBsonRef::Double(number) if number.is_finite() => Some(number as i64),
        _ => None,
    }
}

/// Whether options are those of a capped collection.
pub(super) fn is_capped(options: &RawDocument) -> bool {
    matches!(options.get("capped"), Ok(Some(value)) if is_true(value))
}

/// Whether options are those of a clustered collection.
pub(super) fn is_clustered(options: &RawDocument) -> bool {
    match options.get("clusteredIndex") {
        Ok(Some(RawBsonRef::Document(_))) => true,
        Ok(Some(value)) => is_true(value),
        _ => false,
    }
}

/// The `_id` index of a collection whose `create` entry names none: that of the servers which did
/// not write it.
pub(super) fn default_id_index() -> RawDocumentBuf {
    let mut key = RawDocumentBuf::new();
    key.append(cstr!("_id"), 1_i32);
    let mut spec = RawDocumentBuf::new();
    spec.append(cstr!("v"), 1_i32);
    spec.append(cstr!("key"), key);
    spec.append(cstr!("name"), "_id_");
    spec
}

/// The name of an index.
pub(super) fn index_name(spec: &RawDocument) -> &str {
    spec.get_str("name").unwrap_or_default()
}

/// Whether an entry of listIndexes is a finished index, and no pseudo index or running build.
pub(super) fn is_finished_index(spec: &RawDocument) -> bool {
    let has = |name| matches!(spec.get(name), Ok(Some(_)));
    !has("clustered") && !has("buildUUID") && !has("spec")
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;

    #[test]
    fn edits_keep_places() {
        let options = rawdoc! { "a": 1, "b": { "c": 2_i64 }, "d": "x" };
        let set = with(&options, cstr!("b"), 5_i32).expect("valid");
        assert_eq!(set, rawdoc! { "a": 1, "b": 5, "d": "x" });
        let added = with(&options, cstr!("e"), true).expect("valid");
        assert_eq!(added, rawdoc! { "a": 1, "b": { "c": 2_i64 }, "d": "x", "e": true });
        assert_eq!(without(&options, &["a", "d"]).expect("valid"), rawdoc! { "b": { "c": 2_i64 } });
    }

    #[test]
    fn kinds_of_collections() {
        assert!(is_capped(&rawdoc! { "capped": true, "size": 4096 }));
        assert!(!is_capped(&rawdoc! { "capped": false }));
        assert!(is_clustered(&rawdoc! { "clusteredIndex": true }));
        assert!(is_clustered(&rawdoc! { "clusteredIndex": { "key": { "_id": 1 } } }));
        assert!(!is_clustered(&rawdoc! {}));
        assert!(!is_finished_index(&rawdoc! { "name": "_id_", "clustered": true }));
        assert!(!is_finished_index(&rawdoc! { "spec": {}, "buildUUID": 1 }));
    }
}
