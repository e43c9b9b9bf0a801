//! Collections that are more than documents to the server: time series, clustered, encrypted,
//! users; and what it does to itself.

use bson::spec::BinarySubtype;
use bson::{Binary, DateTime, doc};
use headstock::lab::Release;

use super::{Case, Step, admin, insert, insert_into, update};

/// Of measurements: not so long ago that they expire.
const START_MS: i64 = 1_767_225_600_000;

pub fn cases(release: Release) -> Vec<Case> {
    let mut cases = vec![users(release), checks()];
    if release != Release::V4_4_2 {
        cases.extend([time_series(), clustered(), encrypted()]);
    }
    cases
}

fn time_series() -> Case {
    let at = |minutes: i64| DateTime::from_millis(START_MS + minutes * 60_000);
    let measurement = |n: i64| {
        doc! { "_id": n, "t": at(n), "m": { "s": n % 2 }, "v": n, "w": [n], "x": { "y": n % 3 } }
    };
    // More than a bucket holds: the server closes it, and compresses it.
    let many =
        (0..1_100).map(|n| doc! { "t": DateTime::from_millis(START_MS + n), "m": 7, "v": 1 });
    Case {
        databases: &["series"],
        meets: vec!["create.timeseries", "create.clusteredIndex", "u.v2", "u.replace"],
        steps: vec![
            Step::Run(doc! {
                "create": "c", "timeseries": { "timeField": "t", "metaField": "m" },
                "expireAfterSeconds": 1_000_000_000_i64,
            }),
            insert((0..4).map(measurement)),
            insert((4..6).map(measurement)),
            insert([doc! { "t": at(7), "m": { "s": 1 }, "v": "other type", "new": 1 }]),
            insert([doc! { "t": at(9_000), "m": { "s": 1 }, "v": 1 }]),
            insert(many),
            Step::Run(doc! { "createIndexes": "c", "indexes": [
                { "key": { "m.s": 1, "t": -1 }, "name": "by meta" },
            ] }),
            Step::Run(doc! { "delete": "c", "deletes": [{ "q": { "m.s": 0 }, "limit": 0 }] }),
            Step::Run(doc! { "update": "c", "updates": [
                { "q": { "m": 7 }, "u": { "$set": { "m": 8 } }, "multi": true },
            ] }),
            Step::Run(doc! { "drop": "c" }),
        ],
    }
}

fn clustered() -> Case {
    let options = doc! { "key": { "_id": 1 }, "unique": true, "name": "by id" };
    Case {
        databases: &["clustered"],
        meets: vec!["create.clusteredIndex", "i", "u.v2", "d"],
        steps: vec![
            Step::Run(doc! { "create": "c", "clusteredIndex": options }),
            insert([doc! { "_id": "b", "fill": "x".repeat(200) }, doc! { "_id": 2 }]),
            insert([doc! { "_id": "a" }, doc! { "_id": 1 }]),
            update("b", doc! { "$set": { "n": 1 } }),
            super::delete(2),
        ],
    }
}

/// A collection of encrypted fields and its three companions, as drivers make them.
fn encrypted() -> Case {
    let field = doc! {
        "path": "secret", "bsonType": "string", "keyId": bson::Uuid::from_bytes([3; 16]),
        "queries": { "queryType": "equality" },
    };
    let companion = |name: &str| {
        let clustered = doc! { "key": { "_id": 1 }, "unique": true };
        Step::Run(doc! { "create": format!("enxcol_.c.{name}"), "clusteredIndex": clustered })
    };
    let secret =
        Binary { subtype: BinarySubtype::Encrypted, bytes: [vec![9], vec![1; 60]].concat() };
    let tag = Binary { subtype: BinarySubtype::Generic, bytes: vec![2; 32] };
    Case {
        databases: &["encrypted"],
        meets: vec!["create.encryptedFields", "create.clusteredIndex", "i"],
        steps: vec![
            companion("esc"),
            companion("ecc"),
            companion("ecoc"),
            Step::Run(doc! { "create": "c", "encryptedFields": { "fields": [field] } }),
            insert_into("enxcol_.c.esc", [doc! { "_id": tag.clone(), "value": secret.clone() }]),
            Step::Run(doc! { "createIndexes": "c", "indexes": [
                { "key": { "__safeContent__": 1 }, "name": "__safeContent___1" },
            ] }),
        ],
    }
}

fn users(release: Release) -> Case {
    let role = doc! { "role": "read", "db": "users" };
    let mut steps = vec![
        Step::Run(doc! { "createUser": "ann", "pwd": "secret", "roles": [role.clone()] }),
        Step::Run(doc! {
            "createRole": "clerk", "roles": [role.clone()],
            "privileges": [{
                "resource": { "db": "users", "collection": "c" }, "actions": ["find", "insert"],
            }],
        }),
        Step::Run(doc! { "grantRolesToUser": "ann", "roles": ["clerk"] }),
        Step::Run(doc! { "updateUser": "ann", "customData": { "n": 1 } }),
        Step::Run(doc! { "updateRole": "clerk", "roles": [] }),
        Step::Run(doc! { "dropRole": "clerk" }),
        Step::Run(doc! { "createUser": "bob", "pwd": "secret", "roles": [] }),
        Step::Run(doc! { "dropUser": "bob" }),
        Step::Run(doc! { "dropAllUsersFromDatabase": 1 }),
    ];
    let mut meets = vec!["i", "d"];
    if release != Release::V4_4_2 {
        meets.push("c.applyOps");
    } else {
        steps.push(Step::Run(doc! { "dropAllRolesFromDatabase": 1 }));
    }
    Case { databases: &["users"], meets, steps }
}

/// The server checks itself.
fn checks() -> Case {
    Case {
        databases: &["checks"],
        meets: vec!["c.dbCheck"],
        steps: vec![
            insert((0..5).map(|n| doc! { "_id": n })),
            Step::Start(doc! { "dbCheck": "c" }),
            Step::Until("c.dbCheck"),
            // Not by the server: drivers do not know the form of its reply.
            Step::JoinRefused,
        ],
    }
}

/// What the server keeps about itself: defaults, its feature compatibility version.
pub fn settings(release: Release) -> Case {
    let version = |version: &str| admin(doc! { "setFeatureCompatibilityVersion": version });
    let lower = if release == Release::V4_4_2 { "4.2" } else { "5.0" };
    let now = if release == Release::V4_4_2 { "4.4" } else { "6.0" };
    let mut steps = vec![
        admin(doc! {
            "setDefaultRWConcern": 1, "defaultWriteConcern": { "w": 1 },
        }),
        version(lower),
        version(now),
    ];
    if release != Release::V4_4_2 {
        let expire = doc! { "preAndPostImages": { "expireAfterSeconds": 100 } };
        steps.push(admin(doc! { "setClusterParameter": { "changeStreamOptions": expire } }));
    }
    Case { databases: &["settings"], meets: vec!["u.replace"], steps }
}
