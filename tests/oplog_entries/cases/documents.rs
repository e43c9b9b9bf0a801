//! Inserts, replacements, deletes, and who else writes documents.

use bson::raw::RawJavaScriptCodeWithScope;
use bson::spec::BinarySubtype;
use bson::{
    Binary, Bson, DateTime, Decimal128, RawBson, RawDocumentBuf, Regex, Timestamp, doc, rawdoc,
};
use headstock::lab::Release;

use super::{Case, Step, Write, admin, by_release, delete, insert, update};

pub fn cases(release: Release) -> Vec<Case> {
    let mut cases =
        vec![ids(), types(), retryable(release), many(), ttl(), notes(), apply_ops(release)];
    if release != Release::V4_4_2 {
        cases.push(batched_deletes());
    }
    cases
}

/// `_id`s of every type, and numbers that are almost the same.
fn ids() -> Case {
    let beyond_double = 9_007_199_254_740_993_i64;
    let decimal: Decimal128 = "1.50".parse().expect("a decimal");
    let ids: Vec<Bson> = vec![
        Bson::MinKey,
        Bson::MaxKey,
        Bson::Null,
        Bson::Int32(1),
        Bson::Int64(beyond_double),
        Bson::Double(9_007_199_254_740_992.0),
        Bson::Double(f64::NAN),
        Bson::Double(-0.0),
        Bson::Decimal128(decimal),
        "text".into(),
        doc! { "a": 1, "b": "x" }.into(),
        doc! { "b": "x", "a": 1 }.into(),
        Binary { subtype: BinarySubtype::Generic, bytes: vec![1, 2] }.into(),
        Binary { subtype: BinarySubtype::UserDefined(0x80), bytes: vec![1, 2] }.into(),
        bson::oid::ObjectId::from_bytes([7; 12]).into(),
        true.into(),
        DateTime::from_millis(-1).into(),
        Timestamp { time: 3, increment: 4 }.into(),
    ];
    let last = rawdoc! {
        "insert": "c",
        "documents": [{ "a": 1, "_id": "not first" }, { "_id": "stamped", "t": Timestamp { time: 0, increment: 0 } }],
    };
    Case {
        databases: &["ids"],
        meets: vec!["c.create", "i", "d", "u.replace"],
        steps: vec![
            insert(ids.iter().map(|id| doc! { "_id": id, "v": 1 })),
            Step::Raw(last),
            update(1, doc! { "_id": 1.0, "v": "a double now" }),
            update(1, doc! { "_id": 1_i64, "v": "a long now" }),
            update(0, doc! { "v": "found as minus zero" }),
            update(beyond_double, doc! { "v": "beyond what a double holds" }),
            update("text", doc! { "z": 1, "a": { "b": [] } }),
            delete(Bson::Double(9_007_199_254_740_992.0)),
            delete(doc! { "b": "x", "a": 1 }),
            delete(Bson::Double(f64::NAN)),
            delete(1.5),
            delete("text"),
            insert([doc! { "_id": "text", "again": true }]),
        ],
    }
}

/// A document of all types, deprecated ones included, names that are empty or repeated, and its
/// replacement.
fn types() -> Case {
    let scope = RawJavaScriptCodeWithScope { code: "f(x)".to_owned(), scope: rawdoc! { "x": 1 } };
    let mut all: RawDocumentBuf = rawdoc! {
        "_id": 1, "double": -0.0, "": "empty", "a": 1, "a": 2, "nested": { "": { "": [] } },
        "array": [1, [2, [3, {}]], { "x": null }], "null": null, "long": i64::MIN,
        "oid": bson::oid::ObjectId::from_bytes([9; 12]), "date": DateTime::from_millis(i64::MAX),
        "ts": { "in": Timestamp { time: 0, increment: 0 } },
    };
    let more: Vec<(&bson::raw::CStr, RawBson)> = vec![
        (bson::raw::cstr!("undefined"), RawBson::Undefined),
        (bson::raw::cstr!("min"), RawBson::MinKey),
        (bson::raw::cstr!("max"), RawBson::MaxKey),
        (bson::raw::cstr!("symbol"), RawBson::Symbol("s".to_owned())),
        (bson::raw::cstr!("code"), RawBson::JavaScriptCode("f()".to_owned())),
        (bson::raw::cstr!("scoped"), RawBson::JavaScriptCodeWithScope(scope)),
        (bson::raw::cstr!("decimal"), RawBson::Decimal128("-1E+3".parse().expect("a decimal"))),
        (
            bson::raw::cstr!("regex"),
            RawBson::RegularExpression(Regex {
                pattern: bson::raw::cstr!("^a").into(),
                options: bson::raw::cstr!("im").into(),
            }),
        ),
        (
            bson::raw::cstr!("old binary"),
            RawBson::Binary(Binary { subtype: BinarySubtype::BinaryOld, bytes: vec![1; 3] }),
        ),
        (
            bson::raw::cstr!("encrypted"),
            RawBson::Binary(Binary { subtype: BinarySubtype::Encrypted, bytes: vec![6; 40] }),
        ),
    ];
    for (name, value) in more {
        all.append(name, value);
    }
    let mut changed = all.clone();
    changed.append(bson::raw::cstr!("one more"), 1);
    Case {
        databases: &["types"],
        meets: vec!["i", "u.replace"],
        steps: vec![
            Step::Raw(rawdoc! { "insert": "c", "documents": [all] }),
            Step::Raw(rawdoc! { "update": "c", "updates": [{ "q": { "_id": 1 }, "u": changed }] }),
        ],
    }
}

fn retryable(release: Release) -> Case {
    let images = by_release(
        release,
        vec!["n", "entry.preImageOpTime", "entry.postImageOpTime"],
        vec!["entry.needsRetryImage"],
    );
    let write = |write| Step::Retryable(write);
    let set = |n: i32| doc! { "$set": { "a": n } };
    Case {
        databases: &["retryable"],
        meets: [vec!["entry.stmtId", "i", "d"], images].concat(),
        steps: vec![
            write(Write::Insert((0..4).map(|n| doc! { "_id": n, "a": 0 }).collect())),
            write(Write::Update(doc! { "_id": 1 }, set(1))),
            write(Write::FindAndUpdate(doc! { "_id": 1 }, set(2), false)),
            write(Write::FindAndUpdate(doc! { "_id": 1 }, set(3), true)),
            write(Write::FindAndDelete(doc! { "_id": 2 })),
            write(Write::Delete(doc! { "_id": 3 })),
        ],
    }
}

/// Writes of many documents by one command, upserts and `$merge` among them.
fn many() -> Case {
    let upsert = doc! {
        "q": { "_id": "new", "k": 1 }, "upsert": true,
        "u": { "$set": { "z": 1, "a.b": 2 }, "$setOnInsert": { "m": 3 } },
    };
    let merge = doc! { "$merge": { "into": "merged", "whenMatched": "merge" } };
    let merge = doc! {
        "aggregate": "c", "cursor": {},
        "pipeline": [{ "$match": { "n": { "$lt": 5 } } }, { "$set": { "m": 1 } }, merge],
    };
    Case {
        databases: &["many"],
        meets: vec!["i", "d"],
        steps: vec![
            Step::Run(doc! {
                "insert": "c", "ordered": false,
                "documents": (0..50).map(|n| doc! { "_id": n, "n": n % 10 }).collect::<Vec<_>>(),
            }),
            Step::Run(doc! { "update": "c", "updates": [
                { "q": { "n": { "$gt": 3 } }, "u": { "$inc": { "n": 1 } }, "multi": true },
                upsert,
                { "q": { "_id": "replaced" }, "u": { "whole": true }, "upsert": true },
            ] }),
            Step::Run(merge.clone()),
            Step::Run(merge),
            Step::Run(doc! { "delete": "c", "deletes": [{ "q": { "n": 7 }, "limit": 0 }] }),
            Step::Run(doc! { "delete": "c", "deletes": [{ "q": {}, "limit": 0 }] }),
        ],
    }
}

/// Deletes of many documents in one entry, as newer servers write them by default.
fn batched_deletes() -> Case {
    let batch =
        |mode: &str| admin(doc! { "configureFailPoint": "batchDeletesByDefault", "mode": mode });
    Case {
        databases: &["batched_deletes"],
        meets: vec!["applyOps.plain", "d"],
        steps: vec![
            insert((0..30).map(|n| doc! { "_id": n, "n": n % 3 })),
            batch("alwaysOn"),
            Step::Run(doc! { "delete": "c", "deletes": [{ "q": { "n": 1 }, "limit": 0 }] }),
            batch("off"),
        ],
    }
}

/// What the server deletes by itself.
fn ttl() -> Case {
    let at = |seconds: i64| DateTime::from_millis(seconds * 1_000);
    Case {
        databases: &["ttl"],
        meets: vec!["index.expireAfterSeconds", "d"],
        steps: vec![
            insert([
                doc! { "_id": 1, "t": at(0) },
                doc! { "_id": 2, "t": at(100_000_000_000) },
                doc! { "_id": 3, "t": [at(5), at(100_000_000_000)] },
                doc! { "_id": 4, "t": "no date" },
            ]),
            Step::Run(doc! { "createIndexes": "c", "indexes": [
                { "key": { "t": 1 }, "name": "t_1", "expireAfterSeconds": 3600 },
            ] }),
            Step::Until("d"),
        ],
    }
}

/// Entries that change nothing.
fn notes() -> Case {
    let note = |data: bson::Document| admin(doc! { "appendOplogNote": 1, "data": data });
    Case {
        databases: &["notes"],
        meets: vec!["n"],
        steps: vec![note(doc! { "msg": "a note" }), note(doc! { "op": "i", "o": { "_id": 1 } })],
    }
}

/// applyOps as users send it: upserts, both forms of modifiers, catalog commands.
fn apply_ops(release: Release) -> Case {
    let ns = "apply_ops.c";
    let op = |op: &str, o: bson::Document| doc! { "op": op, "ns": ns, "o": o };
    let change = |id: &str, o: bson::Document, b: bool| {
        let mut change = op("u", o);
        change.extend(doc! { "o2": { "_id": id }, "b": b });
        change
    };
    let apply = |operations: Vec<bson::Document>| Step::Run(doc! { "applyOps": operations });
    let command = |o: bson::Document| doc! { "op": "c", "ns": "apply_ops.$cmd", "o": o };
    let delta = doc! { "$v": 2, "diff": { "u": { "a": 5 }, "i": { "n": 1 } } };
    let mut steps = vec![
        insert([doc! { "_id": "x", "a": 1, "l": [1] }]),
        apply(vec![
            op("i", doc! { "_id": "y", "a": 1 }),
            op("i", doc! { "_id": "x", "a": 2, "replaced": true }),
            change("y", doc! { "_id": "y", "whole": 1 }, false),
            op("d", doc! { "_id": "x" }),
        ]),
        apply(vec![
            change("y", doc! { "$v": 1, "$set": { "l.3": 1, "10": 1, "9": 2, "b.c": 3 } }, false),
            change("y", doc! { "$v": 1, "$unset": { "whole": true }, "$set": { "z.1": 1 } }, false),
            change("made", doc! { "$v": 1, "$set": { "k.1": 1, "b": 2, "a": 3 } }, true),
        ]),
        apply(vec![
            command(doc! { "create": "d", "capped": true, "size": 5000 }),
            command(doc! { "collMod": "c", "validationLevel": "moderate" }),
            command(doc! { "renameCollection": "apply_ops.c", "to": "apply_ops.e" }),
            command(doc! { "drop": "d" }),
        ]),
    ];
    let mut meets = vec!["applyOps.plain", "c.applyOps", "entry.upsert", "u.v1", "i", "d"];
    if release != Release::V4_4_2 {
        let upsert = vec![op("i", doc! { "_id": "y" }), change("by delta", delta, true)];
        steps.insert(3, apply(upsert));
        meets.push("u.v2");
    }
    Case { databases: &["apply_ops"], meets, steps }
}
