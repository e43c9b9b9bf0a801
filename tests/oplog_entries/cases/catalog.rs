//! Collections: made with every option, renamed, dropped, replaced; views and stored functions.

use bson::{Document, doc};
use headstock::lab::Release;

use super::{Case, Step, admin, delete, insert, insert_into, update};

pub fn cases(release: Release) -> Vec<Case> {
    vec![
        options(release),
        again(),
        renames(),
        across_databases(),
        out(),
        drop_database(),
        views(),
        stored_functions(),
    ]
}

fn create(name: &str, options: Document) -> Step {
    let mut command = doc! { "create": name };
    command.extend(options);
    Step::Run(command)
}

/// A command as an operation of applyOps, which allows more than users may.
fn apply(database: &str, o: Document) -> Step {
    Step::Run(doc! { "applyOps": [{ "op": "c", "ns": format!("{database}.$cmd"), "o": o }] })
}

fn rename(from: &str, to: &str, drop_target: bool) -> Step {
    admin(doc! { "renameCollection": from, "to": to, "dropTarget": drop_target })
}

fn options(release: Release) -> Case {
    let mut steps = vec![
        create("plain", doc! {}),
        create("capped", doc! { "capped": true, "size": 5000, "max": 7_i64 }),
        create(
            "validated",
            doc! {
                "validator": { "$jsonSchema": { "properties": { "a": { "minimum": 1.0 } } } },
                "validationLevel": "moderate", "validationAction": "warn",
            },
        ),
        create("validator only", doc! { "validator": { "a": { "$exists": true } } }),
        create("collated", doc! { "collation": { "locale": "de", "strength": 2 } }),
        create(
            "stored",
            doc! {
                "storageEngine": { "wiredTiger": { "configString": "block_compressor=zlib" } },
                "indexOptionDefaults": { "storageEngine": { "wiredTiger": { "configString": "" } } },
            },
        ),
        create("own id index", doc! { "idIndex": { "key": { "_id": 1 }, "name": "_id_", "v": 1 } }),
        apply("options", doc! { "create": "temporary", "temp": true }),
        insert_into("collated", [doc! { "_id": "a", "v": 1 }, doc! { "_id": "B", "v": 2 }]),
        Step::Run(doc! { "update": "collated", "updates": [
            { "q": { "_id": "A" }, "u": { "$set": { "v": 3 } } },
            { "q": { "_id": "b" }, "u": { "_id": "B", "whole": true } },
        ] }),
        Step::Run(doc! { "delete": "collated", "deletes": [{ "q": { "_id": "b" }, "limit": 1 }] }),
        insert_into("collated", [doc! { "_id": "b" }]),
    ];
    // Values that servers take for another, or for a default.
    steps.extend([
        create("tiny", doc! { "capped": true, "size": 1, "max": 0 }),
        create("fraction", doc! { "capped": true, "size": 5001.5, "max": 3.0 }),
        create("not capped", doc! { "capped": false }),
        create("simple", doc! { "collation": { "locale": "simple" } }),
        create("no rule", doc! { "validator": {}, "validationLevel": "off" }),
        create("no engine", doc! { "storageEngine": {}, "indexOptionDefaults": {} }),
        create("with id index", doc! { "autoIndexId": true }),
    ]);
    let mut meets = vec![
        "create.capped",
        "create.size",
        "create.max",
        "create.validator",
        "create.validationLevel",
        "create.validationAction",
        "create.collation",
        "create.storageEngine",
        "create.indexOptionDefaults",
        "create.idIndex",
        "create.temp",
    ];
    if release == Release::V4_4_2 {
        steps.push(create("pre-images", doc! { "recordPreImages": true }));
        meets.push("create.recordPreImages");
    } else {
        let clustered = doc! { "key": { "_id": 1 }, "unique": true, "name": "by id" };
        let encrypted = doc! { "fields": [
            { "path": "secret", "bsonType": "string", "keyId": bson::Uuid::from_bytes([3; 16]) },
        ] };
        steps.extend([
            create(
                "clustered",
                doc! { "clusteredIndex": clustered, "expireAfterSeconds": 1_000_000_000_i64 },
            ),
            create("images", doc! { "changeStreamPreAndPostImages": { "enabled": true } }),
            create("encrypted", doc! { "encryptedFields": encrypted }),
            create("no images", doc! { "changeStreamPreAndPostImages": { "enabled": false } }),
            create(
                "series",
                doc! {
                    "timeseries": { "timeField": "t", "granularity": "hours" },
                    "collation": { "locale": "en" },
                },
            ),
        ]);
        meets.extend([
            "create.clusteredIndex",
            "create.expireAfterSeconds",
            "create.changeStreamPreAndPostImages",
            "create.encryptedFields",
        ]);
    }
    Case { databases: &["options"], meets, steps }
}

/// One name, several collections.
fn again() -> Case {
    let fill = |n: i32| insert([doc! { "_id": 1, "n": n }, doc! { "_id": n }]);
    let drop = || Step::Run(doc! { "drop": "c" });
    Case {
        databases: &["again"],
        meets: vec!["c.create", "c.drop"],
        steps: vec![
            fill(2),
            update(1, doc! { "$set": { "k": 1 } }),
            drop(),
            fill(3),
            update(1, doc! { "$set": { "k": 2 } }),
            drop(),
            create("c", doc! { "capped": true, "size": 4096 }),
            fill(4),
            drop(),
            fill(5),
        ],
    }
}

fn renames() -> Case {
    Case {
        databases: &["renames"],
        meets: vec!["c.renameCollection", "rename.dropTarget"],
        steps: vec![
            insert([doc! { "_id": 1, "n": 1 }]),
            rename("renames.c", "renames.d", false),
            insert([doc! { "_id": 1, "n": 2 }]),
            rename("renames.d", "renames.c", true),
            update(1, doc! { "$set": { "k": 1 } }),
            insert_into("a", [doc! { "_id": "a" }]),
            insert_into("b", [doc! { "_id": "b" }]),
            rename("renames.a", "renames.swap", false),
            rename("renames.b", "renames.a", false),
            rename("renames.swap", "renames.b", false),
            apply("renames", doc! { "create": "t", "temp": true }),
            rename("renames.t", "renames.kept", false),
        ],
    }
}

/// A rename into another database copies.
fn across_databases() -> Case {
    let index = doc! { "key": { "n": 1 }, "name": "n_1", "sparse": true };
    Case {
        databases: &["across", "across_other"],
        meets: vec!["c.renameCollection", "rename.dropTarget", "c.createIndexes", "c.drop"],
        steps: vec![
            insert((0..5).map(|n| doc! { "_id": n, "n": n })),
            Step::Run(doc! { "createIndexes": "c", "indexes": [index] }),
            Step::Run(doc! { "collMod": "c", "validator": { "n": { "$gte": 0 } } }),
            rename("across.c", "across_other.c", false),
            insert([doc! { "_id": 9, "n": 9 }]),
            rename("across.c", "across_other.c", true),
        ],
    }
}

/// `$out` and mapReduce fill a temporary collection and give it the name of another.
fn out() -> Case {
    let aggregate = |last: Document| {
        let pipeline = [doc! { "$set": { "twice": { "$add": ["$n", "$n"] } } }, last];
        Step::Run(doc! { "aggregate": "c", "cursor": {}, "pipeline": pipeline.to_vec() })
    };
    let reduce = doc! {
        "mapReduce": "c", "map": "function() { emit(this.n % 2, this.n); }",
        "reduce": "function(key, values) { return Array.sum(values); }", "out": "reduced",
    };
    Case {
        databases: &["outs", "outs_other"],
        meets: vec!["create.temp", "c.renameCollection", "rename.dropTarget"],
        steps: vec![
            insert((0..5).map(|n| doc! { "_id": n, "n": n })),
            aggregate(doc! { "$out": "made" }),
            Step::Run(doc! { "createIndexes": "made", "indexes": [
                { "key": { "twice": 1 }, "name": "twice_1" },
            ] }),
            delete(1),
            aggregate(doc! { "$out": "made" }),
            aggregate(doc! { "$out": { "db": "outs_other", "coll": "made" } }),
            aggregate(doc! { "$out": { "db": "outs_other", "coll": "made" } }),
            Step::Run(reduce.clone()),
            Step::Run(reduce),
        ],
    }
}

fn drop_database() -> Case {
    Case {
        databases: &["dropped"],
        meets: vec!["c.dropDatabase", "c.drop"],
        steps: vec![
            insert([doc! { "_id": 1 }]),
            insert_into("other", [doc! { "_id": 1 }]),
            create("v", doc! { "viewOn": "c", "pipeline": [] }),
            Step::Run(doc! { "dropDatabase": 1 }),
            insert([doc! { "_id": 1, "again": true }]),
            Step::Run(doc! { "dropDatabase": 1 }),
        ],
    }
}

/// Views are documents.
fn views() -> Case {
    let project = |n: i32| vec![doc! { "$project": { "n": n } }];
    Case {
        databases: &["views"],
        meets: vec!["c.create", "i", "d"],
        steps: vec![
            insert([doc! { "_id": 1, "n": 1 }]),
            create("v", doc! { "viewOn": "c", "pipeline": project(1) }),
            create("w", doc! { "viewOn": "c", "pipeline": [], "collation": { "locale": "fr" } }),
            Step::Run(doc! { "collMod": "v", "viewOn": "c", "pipeline": project(0) }),
            Step::Run(doc! { "drop": "w" }),
            apply("views", doc! { "create": "x", "viewOn": "c", "pipeline": [] }),
            Step::Run(doc! { "drop": "v" }),
        ],
    }
}

fn stored_functions() -> Case {
    let function =
        |body: &str| doc! { "_id": "f", "value": bson::Bson::JavaScriptCode(body.into()) };
    Case {
        databases: &["functions"],
        meets: vec!["c.create", "i", "u.replace"],
        steps: vec![
            insert_into("system.js", [function("function() { return 1; }")]),
            Step::Run(doc! { "update": "system.js", "updates": [
                { "q": { "_id": "f" }, "u": function("function() { return 2; }") },
            ] }),
        ],
    }
}
