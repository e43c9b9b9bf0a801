//! Capped collections, with removals that the server logs (6.0) and that it does not (4.4).

use bson::doc;
use headstock::lab::Release;

use super::{Case, Step, by_release, insert, insert_into, update};

pub fn cases(release: Release) -> Vec<Case> {
    vec![rolling(release), converted(), cloned(), emptied()]
}

fn document(n: i32) -> bson::Document {
    doc! { "_id": n, "n": n, "fill": "x".repeat(200) }
}

/// By number, by bytes, one at a time and many at once.
fn rolling(release: Release) -> Case {
    let mut steps = vec![
        Step::Run(doc! { "create": "c", "capped": true, "size": 100_000, "max": 3 }),
        Step::Run(doc! { "create": "by bytes", "capped": true, "size": 4096 }),
    ];
    steps.extend((0..5).map(|n| insert([document(n)])));
    steps.push(insert((5..12).map(document)));
    steps.push(insert_into("by bytes", (0..10).map(document)));
    steps.extend((10..25).map(|n| insert_into("by bytes", [document(n)])));
    steps.push(insert_into("by bytes", (30..60).map(document)));
    steps.push(update(11, doc! { "$set": { "n": -1 } }));
    steps.push(insert([doc! { "_id": 0, "again": true }]));
    if release != Release::V4_4_2 {
        steps.push(super::delete(10));
        steps.push(update(11, doc! { "$set": { "longer": "x".repeat(300) } }));
        steps.push(insert((60..62).map(document)));
    }
    Case {
        databases: &["rolling"],
        meets: by_release(release, vec!["create.capped", "i"], vec!["create.capped", "i", "d"]),
        steps,
    }
}

fn converted() -> Case {
    Case {
        databases: &["converted"],
        meets: vec!["entry.fromMigrate", "rename.dropTarget", "create.capped"],
        steps: vec![
            insert((0..40).map(document)),
            Step::Run(
                doc! { "createIndexes": "c", "indexes": [{ "key": { "n": 1 }, "name": "n_1" }] },
            ),
            Step::Run(doc! { "convertToCapped": "c", "size": 4096 }),
            insert((50..60).map(document)),
        ],
    }
}

fn cloned() -> Case {
    Case {
        databases: &["cloned"],
        meets: vec!["create.capped", "i"],
        steps: vec![
            insert((0..40).map(document)),
            Step::Run(doc! { "cloneCollectionAsCapped": "c", "toCollection": "d", "size": 4096 }),
        ],
    }
}

fn emptied() -> Case {
    Case {
        databases: &["emptied"],
        meets: vec!["c.emptycapped"],
        steps: vec![
            Step::Run(doc! { "create": "c", "capped": true, "size": 4096 }),
            insert((0..5).map(document)),
            Step::Run(doc! { "emptycapped": "c" }),
            insert((2..4).map(document)),
        ],
    }
}
