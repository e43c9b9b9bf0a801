//! collMod of every kind.

use bson::{Document, doc};
use headstock::lab::Release;

use super::{Case, Step, insert, insert_into};

pub fn cases(release: Release) -> Vec<Case> {
    let mut cases = vec![validation(), indexes()];
    if release == Release::V4_4_2 {
        cases.push(pre_images());
    } else {
        cases.extend([sizes(), images(), uniqueness(), time_series(), expiry()]);
    }
    cases
}

fn modify(changes: Document) -> Step {
    let mut command = doc! { "collMod": "c" };
    command.extend(changes);
    Step::Run(command)
}

fn create(options: Document) -> Step {
    let mut command = doc! { "create": "c" };
    command.extend(options);
    Step::Run(command)
}

fn index(changes: Document) -> Step {
    modify(doc! { "index": changes })
}

fn validation() -> Case {
    Case {
        databases: &["validation"],
        meets: vec![
            "c.collMod",
            "collMod.validator",
            "collMod.validationLevel",
            "collMod.validationAction",
        ],
        steps: vec![
            create(doc! {}),
            modify(doc! { "validator": { "a": { "$gte": 0 } } }),
            modify(doc! { "validationLevel": "moderate" }),
            modify(doc! { "validationAction": "warn", "validator": { "a": { "$type": "int" } } }),
            modify(doc! { "validator": {} }),
            modify(doc! { "validationLevel": "off" }),
            modify(doc! {}),
            Step::Run(doc! { "create": "d", "validator": { "a": 1 }, "validationAction": "warn" }),
            Step::Run(doc! { "collMod": "d", "validationLevel": "strict" }),
            Step::Run(doc! { "create": "e" }),
            Step::Run(doc! { "collMod": "e", "validationAction": "error" }),
        ],
    }
}

fn indexes() -> Case {
    Case {
        databases: &["modified_indexes"],
        meets: vec![
            "collMod.index.name",
            "collMod.index.expireAfterSeconds",
            "collMod.index.hidden",
        ],
        steps: vec![
            insert([doc! { "_id": 1, "a": 1 }]),
            Step::Run(doc! { "createIndexes": "c", "indexes": [
                { "key": { "t": 1 }, "name": "t_1", "expireAfterSeconds": 3600 },
                { "key": { "a": 1 }, "name": "a_1" },
            ] }),
            index(doc! { "name": "t_1", "expireAfterSeconds": 7200 }),
            index(doc! { "keyPattern": { "t": 1 }, "expireAfterSeconds": 1e9 }),
            index(doc! { "name": "a_1", "hidden": true }),
            index(doc! { "name": "a_1", "hidden": true }),
            index(doc! { "keyPattern": { "a": 1 }, "hidden": false }),
            index(doc! { "name": "t_1", "hidden": true, "expireAfterSeconds": 5 }),
            modify(doc! {
                "validator": { "a": 1 }, "index": { "name": "t_1", "hidden": false },
                "validationAction": "warn",
            }),
        ],
    }
}

/// 4.4.
fn pre_images() -> Case {
    Case {
        databases: &["pre_images"],
        meets: vec!["collMod.recordPreImages"],
        steps: vec![
            create(doc! {}),
            modify(doc! { "recordPreImages": true }),
            modify(doc! { "recordPreImages": false }),
        ],
    }
}

fn sizes() -> Case {
    Case {
        databases: &["sizes"],
        meets: vec!["collMod.cappedSize", "collMod.cappedMax"],
        steps: vec![
            create(doc! { "capped": true, "size": 4096, "max": 10 }),
            insert((0..10).map(|n| doc! { "_id": n, "fill": "x".repeat(100) })),
            modify(doc! { "cappedSize": 8193 }),
            modify(doc! { "cappedMax": 5 }),
            insert([doc! { "_id": 10 }]),
            modify(doc! { "cappedMax": 0 }),
            modify(doc! { "cappedMax": -1, "cappedSize": 4096.0 }),
        ],
    }
}

fn images() -> Case {
    let enabled = |on: bool| doc! { "changeStreamPreAndPostImages": { "enabled": on } };
    Case {
        databases: &["images"],
        meets: vec!["collMod.changeStreamPreAndPostImages"],
        steps: vec![
            create(doc! {}),
            modify(enabled(true)),
            insert([doc! { "_id": 1 }]),
            super::update(1, doc! { "$set": { "a": 1 } }),
            super::delete(1),
            modify(enabled(false)),
        ],
    }
}

fn uniqueness() -> Case {
    Case {
        databases: &["uniqueness"],
        meets: vec!["collMod.index.prepareUnique", "collMod.index.unique"],
        steps: vec![
            insert([doc! { "_id": 1, "a": 1 }, doc! { "_id": 2, "a": 2 }]),
            Step::Run(doc! { "createIndexes": "c", "indexes": [
                { "key": { "a": 1 }, "name": "a_1" },
                { "key": { "b": 1 }, "name": "b_1", "sparse": true },
            ] }),
            index(doc! { "name": "a_1", "prepareUnique": true }),
            index(doc! { "name": "b_1", "prepareUnique": true }),
            index(doc! { "name": "b_1", "prepareUnique": false }),
            index(doc! { "keyPattern": { "a": 1 }, "unique": true }),
            index(doc! { "name": "b_1", "expireAfterSeconds": 60 }),
            index(doc! { "name": "b_1", "hidden": true }),
        ],
    }
}

fn time_series() -> Case {
    let measurement = |n: i64| {
        doc! { "t": bson::DateTime::from_millis(1_767_225_600_000 + n * 60_000), "m": n % 2, "v": n }
    };
    Case {
        databases: &["modified_series"],
        meets: vec!["collMod.timeseries.granularity", "collMod.expireAfterSeconds"],
        steps: vec![
            create(doc! { "timeseries": { "timeField": "t", "metaField": "m" } }),
            insert((0..4).map(measurement)),
            modify(doc! { "timeseries": { "granularity": "minutes" } }),
            modify(doc! { "timeseries": { "granularity": "hours" } }),
            modify(doc! { "expireAfterSeconds": 1_000_000_000_i64 }),
            modify(doc! { "expireAfterSeconds": "off" }),
            insert((4..8).map(measurement)),
        ],
    }
}

/// Of a clustered collection.
fn expiry() -> Case {
    let clustered = doc! { "key": { "_id": 1 }, "unique": true };
    Case {
        databases: &["expiry"],
        meets: vec!["collMod.expireAfterSeconds"],
        steps: vec![
            create(doc! { "clusteredIndex": clustered }),
            insert_into("c", [doc! { "_id": "not a date" }]),
            modify(doc! { "expireAfterSeconds": 3600 }),
            modify(doc! { "expireAfterSeconds": "off" }),
        ],
    }
}
