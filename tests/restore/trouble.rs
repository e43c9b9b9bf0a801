//! The source's content: one database for each trap.

use bson::raw::{CString, RawBson};
use bson::{Bson, DateTime, Document, RawDocumentBuf, Timestamp, doc, rawdoc};
use headstock::lab::unreadable_id;
use mongodb::Client;

use crate::support::command;

/// The server's limit of a document, in bytes.
const LARGEST_DOCUMENT_BYTES: usize = 16 << 20;

/// Fills the source.
pub async fn load(client: &Client) {
    validators(client).await;
    ttl(client).await;
    timestamps(client).await;
    capped(client).await;
    series(client).await;
    diverted(client).await;
    indexes(client).await;
    equal_indexes(client).await;
    views(client).await;
    forms(client).await;
    large(client).await;
    names(client).await;
    users(client).await;
}

/// A document from fields in any order, repeats included.
pub fn raw(fields: &[(&str, RawBson)]) -> RawDocumentBuf {
    let mut document = RawDocumentBuf::new();
    for (name, value) in fields {
        document.append(CString::try_from(*name).expect("no NUL"), value.clone());
    }
    document
}

async fn insert(client: &Client, db: &str, name: &str, documents: Vec<RawDocumentBuf>) {
    for part in documents.chunks(1000) {
        let mut insert = rawdoc! { "insert": name, "bypassDocumentValidation": true };
        insert.append(bson::raw::cstr!("documents"), bson::RawArrayBuf::from_iter(part.to_vec()));
        let reply = client.database(db).run_raw_command(insert).await.expect("insert");
        assert!(reply.get("writeErrors").is_none(), "{db}.{name}: {reply}");
    }
}

async fn validators(client: &Client) {
    let validator = doc! { "$jsonSchema": { "required": ["must"] } };
    let create = doc! { "create": "strict", "validator": validator, "validationAction": "error" };
    command(client, "trap_validator", create).await;
    let broken = (0..50).map(|n| rawdoc! { "_id": n, "other": n }).collect();
    insert(client, "trap_validator", "strict", broken).await;
}

async fn ttl(client: &Client) {
    let db = "trap_ttl";
    let old = DateTime::from_millis(1_000_000_000_000);
    let expired = |n: i32| rawdoc! { "_id": n, "at": old, "pad": "x".repeat(500) };
    insert(client, db, "indexed", (0..2000).map(expired).collect()).await;
    let index = doc! { "key": { "at": 1 }, "name": "ttl", "expireAfterSeconds": 1, "hidden": true };
    let other = doc! { "key": { "pad": 1 }, "name": "pad" };
    command(client, db, doc! { "createIndexes": "indexed", "indexes": [index, other] }).await;
    let key = doc! { "key": { "_id": 1 }, "unique": true, "name": "by age" };
    let create =
        doc! { "create": "clustered", "clusteredIndex": key, "expireAfterSeconds": 60_i64 };
    command(client, db, create).await;
    let day = |n: i64| rawdoc! { "_id": DateTime::from_millis(1_000_000_000_000 + n), "n": n };
    insert(client, db, "clustered", (0..2000).map(day).collect()).await;
    let series = doc! { "timeField": "t", "metaField": "m" };
    let create = doc! { "create": "series", "timeseries": series, "expireAfterSeconds": 60_i64 };
    command(client, db, create).await;
    let point = |n: i64| doc! { "t": DateTime::from_millis(1_000_000_000_000 + n), "m": n % 7 };
    let points = client.database(db).collection::<Document>("series");
    points.insert_many((0..500).map(point)).await.expect("measurements");
}

async fn timestamps(client: &Client) {
    let zero = || RawBson::Timestamp(Timestamp { time: 0, increment: 0 });
    let int = RawBson::Int32;
    let odd = [
        raw(&[("_id", int(1)), ("z", zero()), ("a", int(1)), ("z", int(2)), ("b", zero())]),
        raw(&[("_id", int(2)), ("", zero()), ("a.b", zero()), ("$c", zero())]),
        raw(&[("_id", zero()), ("t", zero())]),
        raw(&[("_id", RawBson::Document(rawdoc! { "b": 1, "a": 2 })), ("t", zero())]),
        raw(&[("_id", int(3)), ("in", RawBson::Document(raw(&[("t", zero())])))]),
    ];
    let db = "trap_timestamp";
    let capped = doc! { "create": "capped", "capped": true, "size": 1 << 20 };
    command(client, db, capped).await;
    for name in ["plain", "capped"] {
        for (n, document) in odd.iter().enumerate() {
            verbatim(client, db, name, document).await;
            let between = rawdoc! { "_id": 100 + i32::try_from(n).expect("few") };
            insert(client, db, name, vec![between]).await;
        }
    }
    // Clients do not take replies that tell such _ids.
    for n in 1..4 {
        let mut document = unreadable_id(n);
        document.append(bson::raw::cstr!("x"), i32::from(n));
        insert(client, db, "plain", vec![document.clone()]).await;
        document.append(bson::raw::cstr!("t"), zero());
        let update = rawdoc! { "q": { "x": i32::from(n) }, "u": [literal(&document)] };
        let update = rawdoc! { "update": "plain", "updates": [update] };
        let reply = client.database(db).run_raw_command(update).await.expect("update");
        assert_eq!(reply.get_i32("nModified").ok(), Some(1), "{reply}");
    }
}

fn literal(document: &RawDocumentBuf) -> RawDocumentBuf {
    rawdoc! { "$replaceWith": { "$literal": document.clone() } }
}

/// The result of a pipeline is stored as it is.
async fn verbatim(client: &Client, db: &str, name: &str, document: &RawDocumentBuf) {
    let id = document.get("_id").expect("valid").expect("an _id");
    let mut equal = RawDocumentBuf::new();
    equal.append(bson::raw::cstr!("$eq"), id);
    let update = rawdoc! {
        "update": name,
        "updates": [{
            "q": { "_id": equal },
            "u": [literal(document)],
            "upsert": true,
        }],
    };
    let reply = client.database(db).run_raw_command(update).await.expect("update");
    assert_eq!(reply.get_i32("n").ok(), Some(1), "{reply}");
}

async fn capped(client: &Client) {
    let db = "trap_capped";
    command(client, db, doc! { "create": "log", "capped": true, "size": 4 << 20, "max": 9000 })
        .await;
    // Wrapped more than once, and with _ids that do not ascend.
    let entry = |n: i64| rawdoc! { "_id": (n * 7919) % 20_011, "n": n, "pad": "p".repeat(100) };
    insert(client, db, "log", (0..20_000).map(entry).collect()).await;
    let large = |n: i64| rawdoc! { "_id": -n, "pad": "q".repeat(150_000) };
    command(client, db, doc! { "create": "wide", "capped": true, "size": 32 << 20 }).await;
    for part in 0..4 {
        let part = (part * 50..part * 50 + 50).map(large);
        insert(client, db, "wide", part.collect()).await;
    }
}

async fn series(client: &Client) {
    let db = "trap_series";
    let series = doc! { "timeField": "t", "metaField": "m", "granularity": "minutes" };
    command(client, db, doc! { "create": "weather", "timeseries": series }).await;
    let weather = client.database(db).collection::<Document>("weather");
    let measure = |n: i64| {
        let t = DateTime::from_millis(1_700_000_000_000 + n * 60_000);
        doc! { "t": t, "m": { "s": n % 5 }, "v": n as f64, "loc": [1.0, 2.0] }
    };
    weather.insert_many((0..3000).map(measure)).await.expect("measurements");
    let partial = doc! { "v": { "$gt": 5 } };
    let indexes = [
        doc! { "key": { "m.s": 1, "t": -1 }, "name": "by sensor" },
        doc! { "key": { "v": -1 }, "name": "high", "partialFilterExpression": partial },
        doc! { "key": { "loc": "2dsphere" }, "name": "where" },
        doc! { "key": { "t": 1 }, "name": "when", "hidden": true },
    ];
    command(client, db, doc! { "createIndexes": "weather", "indexes": indexes.to_vec() }).await;
    command(client, db, doc! { "create": "plain", "timeseries": { "timeField": "t" } }).await;
}

/// A collection beside buckets of its name, which have no view. Whatever is written under the name from
/// then on goes into the buckets.
async fn diverted(client: &Client) {
    let db = "trap_diverted";
    let t = |n: i32| DateTime::from_millis(1_700_000_000_000 + i64::from(n) * 60_000);
    let document = |n: i32| rawdoc! { "_id": n, "t": t(n), "m": n % 5 };
    insert(client, db, "weather", (0..6).map(document).collect()).await;
    let by = |field: &str| doc! { "key": { field: 1 }, "name": field };
    let mut old = by("t");
    old.insert("expireAfterSeconds", 300_000_000);
    let indexes = doc! { "createIndexes": "weather", "indexes": [by("m"), old] };
    command(client, db, indexes).await;
    let series = doc! { "timeField": "t", "metaField": "m" };
    let buckets = doc! {
        "create": "system.buckets.weather", "timeseries": series, "clusteredIndex": true,
        "expireAfterSeconds": 300_000_000,
    };
    command(client, db, buckets).await;
    insert(client, db, "weather", (0..300).map(document).collect()).await;
    command(client, db, doc! { "createIndexes": "weather", "indexes": [by("m")] }).await;
}

async fn indexes(client: &Client) {
    let db = "trap_indexes";
    let place = |n: i32| {
        let at = doc! { "type": "Point", "coordinates": [f64::from(n % 90), 1.0] };
        rawdoc! { "_id": n, "text": "a word", "w": { "x": n }, "n": n, "u": n,
        "at": RawDocumentBuf::try_from(&at).expect("valid"), "flat": [1.0, 2.0] }
    };
    insert(client, db, "all", (0..300).map(place).collect()).await;
    let french = doc! { "locale": "fr", "strength": 1 };
    let indexes = [
        doc! { "key": { "n": -1, "u": 1 }, "name": "down", "unique": true },
        doc! { "key": { "n": 1 }, "name": "hidden", "hidden": true },
        doc! { "key": { "u": 1 }, "name": "part", "partialFilterExpression": { "n": { "$gt": 9 } } },
        doc! { "key": { "text": "text" }, "name": "words", "weights": { "text": 3 },
        "default_language": "french" },
        doc! { "key": { "$**": 1 }, "name": "wild", "wildcardProjection": { "w": 1 } },
        doc! { "key": { "at": "2dsphere" }, "name": "sphere" },
        doc! { "key": { "flat": "2d" }, "name": "flat", "bits": 20 },
        doc! { "key": { "n": "hashed" }, "name": "hashed" },
        doc! { "key": { "text": 1 }, "name": "collated", "collation": french.clone() },
        doc! { "key": { "gone": 1 }, "name": "sparse", "sparse": true, "unique": true },
        doc! { "key": { "w.x": 1.0 }, "name": "a double" },
    ];
    command(client, db, doc! { "createIndexes": "all", "indexes": indexes.to_vec() }).await;
    command(client, db, doc! { "create": "collated", "collation": french }).await;
    let words = ["z", "\u{e9}", "e", "a"].map(|word| rawdoc! { "_id": word });
    for word in words {
        // Equal under the collation: the second is refused by its unique index on _id.
        let insert = rawdoc! { "insert": "collated", "documents": [word] };
        client.database(db).run_raw_command(insert).await.expect("insert");
    }
    command(
        client,
        db,
        doc! { "createIndexes": "collated", "indexes": [doc! { "key": { "a": 1 }, "name": "a" }] },
    )
    .await;
    let images = doc! { "create": "images", "changeStreamPreAndPostImages": { "enabled": true } };
    command(client, db, images).await;
}

/// Indexes that are the same but for their names. No server makes them so; `collMod` lets them become it.
async fn equal_indexes(client: &Client) {
    let db = "trap_equal_indexes";
    insert(client, db, "all", (0..300).map(|n| rawdoc! { "_id": n, "n": n, "at": n }).collect())
        .await;
    let plain = |name: &str, key: &str| doc! { "key": { key: 1 }, "name": name };
    let with = |name: &str, key: &str, field: &str| {
        let mut index = plain(name, key);
        index.insert(field, if field == "unique" { Bson::from(true) } else { Bson::from(900) });
        index
    };
    let make = async |index: Document| {
        command(client, db, doc! { "createIndexes": "all", "indexes": [index] }).await;
    };
    let change = async |index: Document| {
        command(client, db, doc! { "collMod": "all", "index": index }).await;
    };
    make(with("n unique", "n", "unique")).await;
    for name in ["n first", "n second"] {
        make(plain(name, "n")).await;
        change(doc! { "name": name, "prepareUnique": true }).await;
        change(doc! { "name": name, "unique": true }).await;
    }
    make(plain("n last", "n")).await;
    make(with("at unique", "at", "unique")).await;
    make(with("at expires", "at", "expireAfterSeconds")).await;
    change(doc! { "name": "at expires", "prepareUnique": true }).await;
    change(doc! { "name": "at expires", "unique": true }).await;
}

async fn views(client: &Client) {
    let db = "trap_views";
    insert(client, db, "base", (0..10).map(|n| rawdoc! { "_id": n }).collect()).await;
    // Made so that the names come before those of the views they are made of.
    let views = [
        ("a", "m", doc! { "$match": { "_id": 1 } }),
        ("m", "z", doc! { "$project": { "x": 1 } }),
        ("z", "base", doc! { "$sort": { "_id": -1 } }),
    ];
    for (name, on, stage) in views {
        command(client, db, doc! { "create": name, "viewOn": on, "pipeline": [stage] }).await;
    }
    let french = doc! { "locale": "fr" };
    let create =
        doc! { "create": "collated", "viewOn": "base", "pipeline": [], "collation": french };
    command(client, db, create).await;
    insert(
        client,
        db,
        "system.js",
        vec![rawdoc! { "_id": "f", "value": bson::JavaScriptCodeWithScope {
        code: "function() {}".to_owned(), scope: doc! { "x": 1 } }.code }],
    )
    .await;
}

async fn forms(client: &Client) {
    let int = RawBson::Int32;
    let document = |n: i32| {
        raw(&[
            ("_id", int(n)),
            ("z", int(1)),
            ("a", int(2)),
            ("z", int(3)),
            ("", int(4)),
            ("z", RawBson::String("last".to_owned())),
            ("9", int(5)),
            ("10", int(6)),
            ("a.b", int(7)),
            ("n", RawBson::Double(1.0)),
            ("n64", RawBson::Int64(1)),
        ])
    };
    insert(client, "trap_forms", "fields", (0..100).map(document).collect()).await;
    let ids = [
        Bson::MinKey,
        Bson::Null,
        Bson::Int32(1),
        Bson::Int64(9_007_199_254_740_993),
        Bson::Double(9_007_199_254_740_992.0),
        Bson::Double(f64::NAN),
        Bson::Double(f64::NEG_INFINITY),
        Bson::String("\u{1f600} text".to_owned()),
        Bson::Symbol("symbol".to_owned()),
        Bson::Document(doc! { "b": 1, "a": [1, 2] }),
        Bson::Document(doc! { "a": [1, 2], "b": 1 }),
        Bson::Binary(bson::Binary {
            subtype: bson::spec::BinarySubtype::Generic,
            bytes: vec![0; 9],
        }),
        Bson::Boolean(true),
        Bson::DateTime(DateTime::from_millis(-1)),
        Bson::Timestamp(Timestamp { time: 1, increment: 0 }),
        Bson::JavaScriptCode("f()".to_owned()),
        Bson::Decimal128("1.50".parse().expect("a decimal")),
        Bson::MaxKey,
    ];
    for id in ids {
        let document = RawDocumentBuf::try_from(&doc! { "_id": id, "x": 1 }).expect("valid");
        insert(client, "trap_forms", "ids", vec![document]).await;
    }
}

async fn large(client: &Client) {
    let empty = rawdoc! { "_id": "largest", "pad": "" };
    let pad = "x".repeat(LARGEST_DOCUMENT_BYTES - empty.as_bytes().len());
    let largest = rawdoc! { "_id": "largest", "pad": &*pad };
    assert_eq!(largest.as_bytes().len(), LARGEST_DOCUMENT_BYTES);
    insert(client, "trap_large", "wide", vec![largest]).await;
    let few = |n: i32| rawdoc! { "_id": n, "pad": "y".repeat(3_000_000) };
    for n in 0..4 {
        insert(client, "trap_large", "wide", vec![few(n)]).await;
    }
    let zero = Timestamp { time: 0, increment: 0 };
    let empty = rawdoc! { "_id": "stamped", "t": zero, "pad": "" };
    let pad = "z".repeat(LARGEST_DOCUMENT_BYTES - empty.as_bytes().len());
    let stamped = rawdoc! { "_id": "stamped", "t": zero, "pad": &*pad };
    verbatim(client, "trap_large", "wide", &stamped).await;
}

async fn names(client: &Client) {
    let names = [
        " leading blank",
        "per%cent",
        "slash/es",
        "back\\slash",
        "new\nline",
        "\u{1f600}",
        "a.b..c",
        "quote\"s",
        "star*?",
        "plus+and-minus",
        "CaseA",
        "casea",
    ];
    for name in names {
        insert(client, "trap_names", name, vec![rawdoc! { "_id": name }]).await;
    }
    let long = "n".repeat(240);
    insert(client, "trap_names", &long, vec![rawdoc! { "_id": 1 }]).await;
    command(client, "trap_names", doc! { "create": "empty" }).await;
    insert(client, "trap_names-2_", "c", vec![rawdoc! { "_id": 1 }]).await;
    insert(client, "Before_admin", "c", vec![rawdoc! { "_id": 1 }]).await;
}

async fn users(client: &Client) {
    let read = doc! { "role": "read", "db": "trap_names" };
    let role = doc! { "createRole": "reader", "privileges": [], "roles": [read] };
    command(client, "trap_names", role).await;
    let user = doc! { "createUser": "reader", "pwd": "a-password", "roles": ["reader"] };
    command(client, "trap_names", user).await;
    let root = doc! { "createUser": "root", "pwd": "another-password", "roles": ["read"] };
    command(client, "admin", root).await;
}
