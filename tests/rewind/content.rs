//! What a source holds before and after everything that a rewind must undo has happened to it.

use bson::{Bson, DateTime, Document, doc};
use headstock::lab::ReplicaSet;

/// Documents of `shop.docs` at first.
pub const DOCS: i32 = 3_000;
/// What `change` deletes, replaces and inserts in `shop.docs`.
pub const DOCS_REMOVED: u64 = 25;
/// See [`DOCS_REMOVED`].
pub const DOCS_CHANGED: u64 = 40;
/// See [`DOCS_REMOVED`].
pub const DOCS_ADDED: u64 = 30;
/// Pairs of documents of `shop.unique` that swap their unique values.
pub const SWAPPED: u64 = 7;

/// Runs a command.
pub async fn command(set: &ReplicaSet, db: &str, command: Document) {
    let shown = format!("{command:?}");
    let done = set.client().database(db).run_command(command).await;
    done.unwrap_or_else(|why| panic!("{db}: {shown}: {why}"));
}

/// Inserts documents `{_id, n, pad}`.
pub async fn fill(set: &ReplicaSet, ns: &str, ids: std::ops::Range<i32>) {
    let (db, name) = ns.split_once('.').expect("a namespace");
    let document = |id: i32| doc! { "_id": id, "n": id * 3, "pad": format!("{id:060}") };
    let documents = set.client().database(db).collection::<Document>(name);
    documents.insert_many(ids.map(document)).await.expect("insert");
}

async fn index(set: &ReplicaSet, name: &str, spec: Document) {
    let create = doc! { "createIndexes": name, "indexes": [spec], "commitQuorum": 1 };
    command(set, "shop", create).await;
}

/// Makes what there is at first. `modern`: with what servers before 5.0 do not have.
pub async fn make(set: &ReplicaSet, modern: bool) {
    let rule = doc! { "n": { "$gte": 0 } };
    let ruled = doc! {
        "create": "ruled",
        "validator": rule,
        "validationLevel": "strict",
        "validationAction": "warn",
    };
    command(set, "shop", ruled).await;
    command(set, "shop", doc! { "create": "made", "collation": { "locale": "en" } }).await;
    for name in ["docs", "still", "gone", "old", "left", "right", "again", "ruled", "made", "aging"]
    {
        fill(set, &format!("shop.{name}"), 0..if name == "docs" { DOCS } else { 300 }).await;
    }
    fill(set, "lost.things", 0..50).await;
    index(set, "docs", doc! { "key": { "n": 1 }, "name": "n_1" }).await;
    index(set, "gone", doc! { "key": { "n": -1 }, "name": "n_-1", "unique": true }).await;
    let age = doc! { "key": { "at": 1 }, "name": "at_1", "expireAfterSeconds": 3600 };
    index(set, "aging", age).await;
    index(set, "old", doc! { "key": { "n": 1 }, "name": "n_1" }).await;
    // Alike, but not the same to a server.
    fill(set, "shop.alike", 0..100).await;
    index(set, "alike", doc! { "key": { "n": 1 }, "name": "up", "unique": true }).await;
    index(set, "alike", doc! { "key": { "n": -1 }, "name": "down", "unique": true }).await;
    let french = doc! { "locale": "fr" };
    let french = doc! { "key": { "n": 1 }, "name": "fr", "unique": true, "collation": french };
    index(set, "alike", french).await;
    let unique = doc! { "key": { "u": 1 }, "name": "u_1", "unique": true };
    index(set, "unique", unique).await;
    let many = (0..200).map(|id| doc! { "_id": id, "u": format!("u{id}"), "x": id });
    collection(set, "unique").insert_many(many).await.expect("insert");
    let capped = doc! { "create": "log", "capped": true, "size": 1 << 20, "max": 40 };
    command(set, "shop", capped).await;
    fill(set, "shop.log", 0..60).await;
    let folded = doc! { "create": "names", "collation": { "locale": "en", "strength": 2 } };
    command(set, "shop", folded).await;
    let names = ["anna", "Bert", "CARL"].map(|name| doc! { "_id": name, "n": 1 });
    collection(set, "names").insert_many(names).await.expect("insert");
    if modern {
        make_modern(set).await;
    }
    for (view, on) in [("seen", "docs"), ("changed_view", "docs"), ("on_view", "seen")] {
        let pipeline = [doc! { "$match": { "n": { "$gt": 3 } } }];
        command(set, "shop", doc! { "create": view, "viewOn": on, "pipeline": pipeline }).await;
    }
    odd(set, modern).await;
    let add =
        doc! { "_id": "add", "value": Bson::JavaScriptCode("function(a) { return a }".into()) };
    collection(set, "system.js").insert_one(add).await.expect("insert");
    role(set, "createRole", "keeper", "find").await;
    user(set, "stays", "before").await;
    user(set, "leaves", "before").await;
}

async fn make_modern(set: &ReplicaSet) {
    let series = doc! { "create": "series", "timeseries": { "timeField": "t", "metaField": "m" } };
    command(set, "shop", series).await;
    measure(set, 0..40).await;
    let clustered = doc! {
        "create": "clustered",
        "clusteredIndex": { "key": { "_id": 1 }, "unique": true },
        "expireAfterSeconds": 7_200,
    };
    command(set, "shop", clustered).await;
    fill(set, "shop.clustered", 0..100).await;
    fill(set, "shop.equal", 0..100).await;
    let unique = doc! { "key": { "n": 1 }, "name": "made unique", "unique": true };
    index(set, "equal", unique).await;
    index(set, "equal", doc! { "key": { "n": 1 }, "name": "became unique" }).await;
    for step in ["prepareUnique", "unique"] {
        let index = doc! { "name": "became unique", step: true };
        command(set, "shop", doc! { "collMod": "equal", "index": index }).await;
    }
}

async fn change_modern(set: &ReplicaSet) {
    measure(set, 30..45).await;
    let off = doc! { "collMod": "clustered", "expireAfterSeconds": "off" };
    command(set, "shop", off).await;
    let clustered = collection(set, "clustered");
    clustered.delete_many(doc! { "_id": { "$lt": 10 } }).await.expect("delete");
    fill(set, "shop.clustered", 100..105).await;
    command(set, "shop", doc! { "dropIndexes": "equal", "index": "became unique" }).await;
    index(set, "equal", doc! { "key": { "n": 1 }, "name": "never unique" }).await;
}

/// Documents that a server changes or refuses when they are simply written again.
async fn odd(set: &ReplicaSet, modern: bool) {
    let shop = set.client().database("shop");
    let documents = [
        doc! { "_id": 1, "number": 1, "order": { "a": 1, "b": 2 } },
        doc! { "_id": { "a": 1, "b": 2 }, "z": 1, "y": 2, "x": 3 },
        doc! { "_id": Bson::Null, "dotted.name": 1, "nested": { "$inner": 1 } },
        doc! { "_id": 7, "whole": "document" },
        doc! { "_id": 8, "dotted.name": 1 },
        doc! { "_id": 9, "points": { "$id": 1 } },
    ];
    collection(set, "odd").insert_many(documents).await.expect("insert");
    // In collections of their own: a document that is refused makes others be written again.
    let stamp = bson::Timestamp { time: 0, increment: 0 };
    let mut literals = vec![("stamped", doc! { "_id": 5, "at": stamp })];
    if modern {
        literals.push(("dollars", doc! { "_id": 5, "$top": { "$set": 1 } }));
    }
    for (name, literal) in literals {
        let update = doc! {
            "q": { "_id": 5 },
            "u": [{ "$replaceWith": { "$literal": literal } }],
            "upsert": true,
        };
        shop.run_command(doc! { "update": name, "updates": [update] }).await.expect("upsert");
    }
}

async fn change_odd(set: &ReplicaSet) {
    let odd = collection(set, "odd");
    let set_to = |id: Bson, to: Document| (doc! { "_id": id }, doc! { "$set": to });
    let composed = Bson::Document(doc! { "a": 1, "b": 2 });
    for (which, how) in [
        set_to(Bson::Int32(1), doc! { "number": 1.0, "order": { "b": 2, "a": 1 } }),
        set_to(composed, doc! { "y": 5 }),
        set_to(Bson::Null, doc! { "more": 1 }),
        set_to(Bson::Int32(8), doc! { "more": 1 }),
        set_to(Bson::Int32(9), doc! { "more": 1 }),
    ] {
        odd.update_one(which, how).await.expect("update");
    }
    for name in ["stamped", "dollars"] {
        let more = doc! { "$set": { "more": 1 } };
        collection(set, name).update_one(doc! { "_id": 5 }, more).await.expect("update");
    }
    // The same `_id` to a server, and other bytes.
    odd.delete_one(doc! { "_id": 7 }).await.expect("delete");
    odd.insert_one(doc! { "_id": 7.0, "whole": "document" }).await.expect("insert");
}

fn collection(set: &ReplicaSet, name: &str) -> mongodb::Collection<Document> {
    set.client().database("shop").collection(name)
}

async fn measure(set: &ReplicaSet, minutes: std::ops::Range<i64>) {
    let at = |minute: i64| DateTime::from_millis(1_700_000_000_000 + minute * 60_000);
    let measured = minutes.map(|minute| doc! { "t": at(minute), "m": minute % 3, "v": minute });
    collection(set, "series").insert_many(measured).await.expect("insert");
}

async fn role(set: &ReplicaSet, what: &str, name: &str, action: &str) {
    let resource = doc! { "db": "shop", "collection": "docs" };
    let privilege = doc! { "resource": resource, "actions": [action] };
    command(set, "shop", doc! { what: name, "privileges": [privilege], "roles": [] }).await;
}

async fn user(set: &ReplicaSet, name: &str, word: &str) {
    let create = doc! { "createUser": name, "pwd": word, "roles": ["read"] };
    command(set, "shop", create).await;
}

/// Everything that a rewind must undo.
pub async fn change(set: &ReplicaSet, modern: bool) {
    command(set, "shop", doc! { "dropIndexes": "alike", "index": "down" }).await;
    change_docs(set).await;
    change_unique(set).await;
    change_odd(set).await;
    for gone in ["gone", "seen"] {
        command(set, "shop", doc! { "drop": gone }).await;
    }
    set.client().database("lost").drop().await.expect("drop");
    fill(set, "new.things", 0..20).await;
    fill(set, "shop.new", 0..20).await;
    for (from, to) in [("old", "moved"), ("left", "aside"), ("right", "left"), ("aside", "right")] {
        let (from, to) = (format!("shop.{from}"), format!("shop.{to}"));
        command(set, "admin", doc! { "renameCollection": from, "to": to }).await;
    }
    fill(set, "shop.moved", 300..305).await;
    command(set, "shop", doc! { "drop": "again" }).await;
    fill(set, "shop.again", 0..299).await;
    let rule = doc! { "n": { "$exists": true } };
    let ruled = doc! { "collMod": "ruled", "validator": rule, "validationLevel": "moderate" };
    command(set, "shop", ruled).await;
    let age = doc! { "name": "at_1", "expireAfterSeconds": 60 };
    command(set, "shop", doc! { "collMod": "aging", "index": age }).await;
    command(set, "shop", doc! { "drop": "made" }).await;
    command(set, "shop", doc! { "create": "made", "collation": { "locale": "fr" } }).await;
    fill(set, "shop.made", 0..300).await;
    fill(set, "shop.log", 100..130).await;
    let names = collection(set, "names");
    names.delete_one(doc! { "_id": "ANNA" }).await.expect("delete");
    names.insert_one(doc! { "_id": "ANNA", "n": 1 }).await.expect("insert");
    names.update_one(doc! { "_id": "bert" }, doc! { "$set": { "n": 2 } }).await.expect("update");
    if modern {
        change_modern(set).await;
    }
    command(set, "shop", doc! { "collMod": "changed_view", "viewOn": "still", "pipeline": [] })
        .await;
    command(set, "shop", doc! { "create": "new_view", "viewOn": "docs", "pipeline": [] }).await;
    collection(set, "system.js").delete_one(doc! { "_id": "add" }).await.expect("delete");
    command(set, "shop", doc! { "dropUser": "leaves" }).await;
    command(set, "shop", doc! { "updateUser": "stays", "roles": ["readWrite"] }).await;
    user(set, "comes", "after").await;
    role(set, "updateRole", "keeper", "insert").await;
    role(set, "createRole", "late", "find").await;
}

async fn change_docs(set: &ReplicaSet) {
    let docs = collection(set, "docs");
    // Deleted, of all of it: what a rewind has to add.
    let (added, changed) = (DOCS_ADDED as i32, DOCS_CHANGED as i32);
    docs.delete_many(doc! { "_id": { "$lt": added } }).await.expect("delete");
    let some = doc! { "_id": { "$gte": 1_000, "$lt": 1_000 + changed } };
    docs.update_many(some, doc! { "$set": { "touched": true } }).await.expect("update");
    fill(set, "shop.docs", DOCS..DOCS + DOCS_REMOVED as i32).await;
    command(set, "shop", doc! { "dropIndexes": "docs", "index": "n_1" }).await;
    let pad = doc! { "key": { "pad": 1 }, "name": "pad_1", "unique": true };
    index(set, "docs", pad).await;
}

/// Swaps unique values.
async fn change_unique(set: &ReplicaSet) {
    let unique = collection(set, "unique");
    let put = async |id: i32, value: &str| {
        let to = doc! { "$set": { "u": value } };
        unique.update_one(doc! { "_id": id }, to).await.expect("update");
    };
    for pair in 0..SWAPPED as i32 {
        let (a, b) = (pair * 2, pair * 2 + 1);
        put(a, "aside").await;
        put(b, &format!("u{a}")).await;
        put(a, &format!("u{b}")).await;
    }
    // One that goes has the value of one that comes back, and a chain of values moves on by one.
    unique.delete_one(doc! { "_id": 190 }).await.expect("delete");
    unique.insert_one(doc! { "_id": 500, "u": "u190" }).await.expect("insert");
    for id in (100..120).rev() {
        put(id, &if id == 119 { "end".to_owned() } else { format!("u{}", id + 1) }).await;
    }
}
