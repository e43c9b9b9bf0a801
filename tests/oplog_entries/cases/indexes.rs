//! Indexes: of every type, on empty collections and on filled ones, given up, dropped.

use bson::{Document, doc};
use headstock::lab::Release;

use super::{Case, Step, admin, by_release, delete, insert, update};

pub fn cases(release: Release) -> Vec<Case> {
    vec![
        types(release, false),
        types(release, true),
        loose(),
        during(),
        failed(),
        drops(),
        dropped_during(),
    ]
}

fn create(indexes: Vec<Document>) -> Document {
    doc! { "createIndexes": "c", "indexes": indexes }
}

/// Lets builds wait before they commit, or go on.
fn hold(on: bool) -> Step {
    let mode = if on { "alwaysOn" } else { "off" };
    admin(doc! { "configureFailPoint": "hangAfterStartingIndexBuild", "mode": mode })
}

fn specs(release: Release) -> Vec<Document> {
    let mut specs = vec![
        doc! { "key": { "a": 1 }, "name": "a_1" },
        doc! { "key": { "a": 1, "b": -1.0 }, "name": "two" },
        doc! { "key": { "u": 1 }, "name": "unique", "unique": true, "sparse": true },
        doc! { "key": { "p": 1 }, "name": "partial",
        "partialFilterExpression": { "p": { "$gt": 5 } } },
        doc! { "key": { "t": 1 }, "name": "ttl", "expireAfterSeconds": 3600.0 },
        doc! { "key": { "$**": "text" }, "name": "text", "weights": { "title": 5 },
        "default_language": "german" },
        doc! { "key": { "geo": "2dsphere" }, "name": "sphere" },
        doc! { "key": { "flat": "2d" }, "name": "flat", "min": -10, "max": 10, "bits": 20 },
        doc! { "key": { "h": "hashed" }, "name": "hashed" },
        doc! { "key": { "$**": 1 }, "name": "wild", "wildcardProjection": { "w": 1 } },
        doc! { "key": { "w.$**": 1 }, "name": "wild below" },
        doc! { "key": { "s": 1 }, "name": "fr", "collation": { "locale": "fr", "strength": 1 } },
        doc! { "key": { "z": 1 }, "name": "hidden", "hidden": true },
        doc! { "key": { "bg": 1 }, "name": "background", "background": true },
        doc! { "key": { "old": 1 }, "name": "old", "v": 1 },
        doc! { "key": { "e": 1 }, "name": "engine",
        "storageEngine": { "wiredTiger": { "configString": "" } } },
    ];
    if release != Release::V4_4_2 {
        specs.push(doc! { "key": { "q": 1 }, "name": "to be unique", "prepareUnique": true });
    }
    specs
}

/// On an empty collection each is one entry; on a filled one they are built together.
fn types(release: Release, filled: bool) -> Case {
    let documents = (0..3).map(|n| doc! { "_id": n, "a": n, "title": "Titel" });
    let mut steps = vec![insert(documents)];
    if !filled {
        steps.push(Step::Run(doc! { "delete": "c", "deletes": [{ "q": {}, "limit": 0 }] }));
        steps.push(Step::Run(create(vec![doc! { "key": { "first": 1 }, "name": "first" }])));
    }
    steps.push(Step::Run(create(specs(release))));
    let fields = vec![
        "index.unique",
        "index.sparse",
        "index.partialFilterExpression",
        "index.expireAfterSeconds",
        "index.weights",
        "index.2dsphereIndexVersion",
        "index.bits",
        "index.wildcardProjection",
        "index.collation",
        "index.hidden",
        "index.storageEngine",
    ];
    let entries = if filled {
        vec!["c.startIndexBuild", "c.commitIndexBuild"]
    } else {
        vec!["c.createIndexes"]
    };
    let prepare = by_release(release, vec![], vec!["index.prepareUnique"]);
    Case {
        databases: if filled { &["types_filled"] } else { &["types_empty"] },
        meets: [fields, entries, prepare].concat(),
        steps,
    }
}

/// Values that servers take for another, or for a default.
fn loose() -> Case {
    let specs = [
        doc! { "key": { "a": 1_i64, "b": 2.5 }, "name": "n1", "unique": 0, "sparse": 1 },
        doc! { "key": { "a": 1.0 }, "name": "n2", "unique": 1.5, "sparse": false },
        doc! { "key": { "b": 1 }, "name": "n3", "unique": false, "hidden": false },
        doc! { "key": { "c": 1 }, "name": "n4", "expireAfterSeconds": 3600.9 },
        doc! { "key": { "d": "text" }, "name": "n5", "textIndexVersion": 3.0,
        "weights": { "b": 2.0, "a": 3 }, "language_override": "l" },
        doc! { "key": { "e": "2dsphere" }, "name": "n6", "2dsphereIndexVersion": 3.0 },
        doc! { "key": { "f": -5 }, "name": "n7", "partialFilterExpression": {} },
        doc! { "key": { "g": 1 }, "name": "n8", "collation": { "locale": "simple" } },
    ];
    Case {
        databases: &["loose"],
        meets: vec!["c.createIndexes", "index.expireAfterSeconds"],
        steps: specs.into_iter().map(|spec| Step::Run(create(vec![spec]))).collect(),
    }
}

/// Writes while an index is being built.
fn during() -> Case {
    Case {
        databases: &["during"],
        meets: vec!["c.startIndexBuild", "c.commitIndexBuild"],
        steps: vec![
            insert((0..3).map(|n| doc! { "_id": n, "a": n })),
            hold(true),
            Step::Start(create(vec![
                doc! { "key": { "a": 1 }, "name": "a_1" },
                doc! { "key": { "b": 1 }, "name": "b_1", "unique": true, "sparse": true },
            ])),
            Step::Until("c.startIndexBuild"),
            insert([doc! { "_id": 5, "a": 1 }]),
            update(1, doc! { "$set": { "b": 1 } }),
            delete(2),
            hold(false),
            Step::Join,
            Step::Until("c.commitIndexBuild"),
        ],
    }
}

/// A unique index on values that are not.
fn failed() -> Case {
    Case {
        databases: &["failed"],
        meets: vec!["c.startIndexBuild", "c.abortIndexBuild"],
        steps: vec![
            insert((0..3).map(|n| doc! { "_id": n, "a": 1 })),
            Step::Refused(create(vec![
                doc! { "key": { "b": 1 }, "name": "b_1" },
                doc! { "key": { "a": 1 }, "name": "a_1", "unique": true },
            ])),
            Step::Run(create(vec![doc! { "key": { "a": 1 }, "name": "a_1" }])),
        ],
    }
}

/// By name, by key, several, all.
fn drops() -> Case {
    let drop = |index: bson::Bson| Step::Run(doc! { "dropIndexes": "c", "index": index });
    let spec = |name: &str| doc! { "key": { name: 1 }, "name": format!("by {name}") };
    let names = ["a", "b", "c", "d", "e", "f"];
    Case {
        databases: &["drops"],
        meets: vec!["c.dropIndexes"],
        steps: vec![
            insert([doc! { "_id": 1 }]),
            Step::Run(create(names.map(spec).to_vec())),
            drop("by a".into()),
            drop(doc! { "b": 1 }.into()),
            drop(vec!["by c", "by d"].into()),
            drop("*".into()),
            Step::Run(create(vec![spec("a")])),
        ],
    }
}

/// The index, and then the collection, go while they are being built.
fn dropped_during() -> Case {
    let start = || Step::Start(create(vec![doc! { "key": { "a": 1 }, "name": "a_1" }]));
    Case {
        databases: &["dropped_during"],
        meets: vec!["c.startIndexBuild", "c.abortIndexBuild", "c.drop"],
        steps: vec![
            insert([doc! { "_id": 1, "a": 1 }]),
            hold(true),
            start(),
            Step::Until("c.startIndexBuild"),
            Step::Run(doc! { "dropIndexes": "c", "index": "a_1" }),
            Step::JoinRefused,
            start(),
            hold(false),
            Step::Join,
            hold(true),
            Step::Start(create(vec![doc! { "key": { "b": 1 }, "name": "b_1" }])),
            insert([doc! { "_id": 2 }]),
            Step::Run(doc! { "drop": "c" }),
            Step::JoinRefused,
            hold(false),
        ],
    }
}
