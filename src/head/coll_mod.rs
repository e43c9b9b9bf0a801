//! What a collMod entry does to a collection's options and indexes.

use bson::raw::{CStr, RawBsonRef, cstr};
use bson::{RawDocument, RawDocumentBuf};

use super::options::{index_name, is_true, whole, with, without};
use super::{Collection, Error};
use crate::oplog::Ts;

/// What `cappedMax: 0` stands for in the options: no bound.
const UNBOUNDED_DOCUMENTS: i64 = i32::MAX as i64;

/// Fields of a collMod that change neither options nor indexes.
const WITHOUT_EFFECT: &[&str] = &[
    "collMod",
    "writeConcern",
    "comment",
    "noPadding",
    "usePowerOf2Sizes",
    "timeseriesBucketsMayHaveMixedSchemaData",
    "_removeLegacyTimeseriesBucketingParametersHaveChanged",
];

/// Span and rounding of time series buckets by granularity, in seconds.
const GRANULARITIES: &[(&str, i32)] =
    &[("seconds", 3600), ("minutes", 86_400), ("hours", 2_592_000)];

/// Applies a collMod. False if it names an index that the collection lacks; the rest is applied.
pub(super) fn apply(
    collection: &mut Collection,
    changes: &RawDocument,
    ts: Ts,
) -> Result<bool, Error> {
    let ns = collection.ns.clone();
    let bson = |source| Error::Bson { what: "collMod", ns: ns.clone(), source };
    let mut found = true;
    for element in changes.iter_elements() {
        let element = element.map_err(bson)?;
        let (name, value) = (element.key(), element.value().map_err(bson)?);
        if WITHOUT_EFFECT.contains(&name.as_str()) {
            continue;
        }
        let known = if name.as_str() == "index" {
            let index = value.as_document().ok_or_else(|| unknown(ts, &ns, "index"))?;
            found = change_index(&mut collection.indexes, index, ts, &ns)?;
            true
        } else {
            change_option(&mut collection.options, name, value).map_err(bson)?
        };
        if !known {
            return Err(unknown(ts, &ns, name.as_str()));
        }
    }
    Ok(found)
}

fn unknown(ts: Ts, ns: &str, field: &str) -> Error {
    let (ns, field) = (ns.to_owned(), field.to_owned());
    Error::UnknownField { ts, command: "collMod", ns, field }
}

/// Applies one field; false if it is not known.
fn change_option(
    options: &mut RawDocumentBuf,
    name: &CStr,
    value: RawBsonRef<'_>,
) -> Result<bool, bson::error::Error> {
    *options = match name.as_str() {
        "validator" => {
            let removed = value.as_document().is_none_or(RawDocument::is_empty);
            let changed = if removed {
                without(options, &["validator"])?
            } else {
                with(options, name, value)?
            };
            explicit_validation(&changed)?
        }
        "validationLevel" | "validationAction" => {
            explicit_validation(&with(options, name, value)?)?
        }
        "cappedSize" => with(options, cstr!("size"), value)?,
        "cappedMax" => match whole(value) {
            Some(max) if max <= 0 => with(options, cstr!("max"), UNBOUNDED_DOCUMENTS)?,
            _ => with(options, cstr!("max"), value)?,
        },
        "expireAfterSeconds" => match value {
            RawBsonRef::String(_) => without(options, &["expireAfterSeconds"])?,
            value => with(options, name, value)?,
        },
        "changeStreamPreAndPostImages" => {
            let enabled = value.as_document().and_then(|o| o.get("enabled").ok().flatten());
            set_or_remove(options, name, value, enabled.is_some_and(is_true))?
        }
        "recordPreImages" => set_or_remove(options, name, value, is_true(value))?,
        "timeseries" => match value.as_document() {
            Some(changes) => change_timeseries(options, changes)?,
            None => return Ok(false),
        },
        _ => return Ok(false),
    };
    Ok(true)
}

fn set_or_remove(
    options: &RawDocument,
    name: &CStr,
    value: RawBsonRef<'_>,
    set: bool,
) -> Result<RawDocumentBuf, bson::error::Error> {
    if set { with(options, name, value) } else { without(options, &[name.as_str()]) }
}

/// Touching one of the three makes the server write the other two.
fn explicit_validation(options: &RawDocument) -> Result<RawDocumentBuf, bson::error::Error> {
    let mut out = options.to_owned();
    for (name, default) in
        [(cstr!("validationLevel"), "strict"), (cstr!("validationAction"), "error")]
    {
        if out.get(name.as_str())?.is_none() {
            out.append(name, default);
        }
    }
    Ok(out)
}

fn change_timeseries(
    options: &RawDocument,
    changes: &RawDocument,
) -> Result<RawDocumentBuf, bson::error::Error> {
    let current = match options.get("timeseries")? {
        Some(RawBsonRef::Document(current)) => current.to_owned(),
        _ => RawDocumentBuf::new(),
    };
    let mut timeseries = current;
    for element in changes.iter_elements() {
        let element = element?;
        timeseries = with(&timeseries, element.key(), element.value()?)?;
    }
    let granularity = changes.get("granularity")?.and_then(|value| value.as_str());
    if let Some((_, span)) = GRANULARITIES.iter().find(|(name, _)| Some(*name) == granularity) {
        timeseries = with(&timeseries, cstr!("bucketMaxSpanSeconds"), *span)?;
        timeseries = without(&timeseries, &["bucketRoundingSeconds"])?;
    } else if changes.get("bucketMaxSpanSeconds")?.is_some() {
        timeseries = without(&timeseries, &["granularity"])?;
    }
    with(options, cstr!("timeseries"), &timeseries)
}

/// Applies the `index` part; false if there is no such index.
fn change_index(
    indexes: &mut [RawDocumentBuf],
    changes: &RawDocument,
    ts: Ts,
    ns: &str,
) -> Result<bool, Error> {
    let bson = |source| Error::Bson { what: "collMod", ns: ns.to_owned(), source };
    let name = changes.get_str("name").map_err(|_| unknown(ts, ns, "index"))?;
    let Some(spec) = indexes.iter_mut().find(|spec| index_name(spec) == name) else {
        return Ok(false);
    };
    for element in changes.iter_elements() {
        let element = element.map_err(bson)?;
        let (field, value) = (element.key(), element.value().map_err(bson)?);
        let changed = match field.as_str() {
            "name" | "keyPattern" => continue,
            "expireAfterSeconds" => with(spec, field, value),
            "hidden" | "prepareUnique" => set_or_remove(spec, field, value, is_true(value)),
            "unique" if is_true(value) => {
                without(spec, &["prepareUnique"]).and_then(|spec| with(&spec, field, true))
            }
            "forceNonUnique" if is_true(value) => without(spec, &["unique"]),
            other => return Err(unknown(ts, ns, &format!("index.{other}"))),
        };
        *spec = changed.map_err(bson)?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;
    use crate::oplog::Uuid;
    use crate::tree::{Order, Root};

    fn collection(options: RawDocumentBuf) -> Collection {
        Collection {
            uuid: Uuid([1; 16]),
            ns: "a.b".into(),
            options,
            indexes: vec![rawdoc! { "v": 2, "key": { "x": 1 }, "name": "x_1" }],
            order: Order::Keyed,
            root: Root::default(),
        }
    }

    fn options_after(options: RawDocumentBuf, changes: RawDocumentBuf) -> RawDocumentBuf {
        let mut collection = collection(options);
        apply(&mut collection, &changes, Ts::ZERO).expect("known");
        collection.options
    }

    fn index_after(steps: &[RawDocumentBuf]) -> RawDocumentBuf {
        let mut collection = collection(rawdoc! {});
        for step in steps {
            let found = apply(&mut collection, step, Ts::ZERO).expect("known");
            assert!(found);
        }
        collection.indexes.remove(0)
    }

    #[test]
    fn options() {
        let levels = rawdoc! { "validationLevel": "strict", "validationAction": "error" };
        let removed = options_after(
            rawdoc! { "validator": { "a": 1 } },
            rawdoc! { "collMod": "b", "validator": {} },
        );
        assert_eq!(removed, levels);
        assert_eq!(
            options_after(rawdoc! {}, rawdoc! { "collMod": "b", "validationAction": "warn" }),
            rawdoc! { "validationAction": "warn", "validationLevel": "strict" }
        );
        assert_eq!(
            options_after(
                rawdoc! { "capped": true, "size": 4096, "max": 5 },
                rawdoc! { "collMod": "b", "cappedSize": 8192_i64, "cappedMax": 0 },
            ),
            rawdoc! { "capped": true, "size": 8192_i64, "max": 2_147_483_647_i64 }
        );
        let images = rawdoc! { "changeStreamPreAndPostImages": { "enabled": true } };
        assert_eq!(options_after(rawdoc! {}, images.clone()), images);
        assert_eq!(
            options_after(images, rawdoc! { "changeStreamPreAndPostImages": { "enabled": false } }),
            rawdoc! {}
        );
        assert_eq!(
            options_after(
                rawdoc! { "expireAfterSeconds": 7_i64 },
                rawdoc! { "expireAfterSeconds": "off" },
            ),
            rawdoc! {}
        );
        assert_eq!(
            options_after(
                rawdoc! { "timeseries": {
                    "timeField": "t", "granularity": "seconds", "bucketMaxSpanSeconds": 3600,
                } },
                rawdoc! { "timeseries": { "granularity": "hours" } },
            ),
            rawdoc! { "timeseries": {
                "timeField": "t", "granularity": "hours", "bucketMaxSpanSeconds": 2_592_000,
            } }
        );
    }

    #[test]
    fn indexes() {
        let hidden = rawdoc! { "index": { "name": "x_1", "hidden": true } };
        let shown = rawdoc! { "index": { "name": "x_1", "hidden": false } };
        let plain = rawdoc! { "v": 2, "key": { "x": 1 }, "name": "x_1" };
        assert_eq!(index_after(&[hidden, shown]), plain);
        let ttl = rawdoc! { "index": { "name": "x_1", "expireAfterSeconds": 9_i64 } };
        let prepare = rawdoc! { "index": { "name": "x_1", "prepareUnique": true } };
        let unique = rawdoc! { "index": { "name": "x_1", "unique": true } };
        assert_eq!(
            index_after(&[ttl, prepare, unique]),
            rawdoc! {
                "v": 2, "key": { "x": 1 }, "name": "x_1", "expireAfterSeconds": 9_i64, "unique": true,
            }
        );
    }

    #[test]
    fn what_is_not_known_is_named() {
        let mut target = collection(rawdoc! {});
        for (changes, field) in [
            (rawdoc! { "newThing": 1 }, "newThing"),
            (rawdoc! { "index": { "name": "x_1", "newThing": 1 } }, "index.newThing"),
        ] {
            match apply(&mut target, &changes, Ts::ZERO) {
                Err(Error::UnknownField { field: named, .. }) => assert_eq!(named, field),
                other => panic!("{other:?}"),
            }
        }
        let missing = rawdoc! { "index": { "name": "y_1", "hidden": true } };
        assert!(!apply(&mut target, &missing, Ts::ZERO).expect("known"));
    }
}
