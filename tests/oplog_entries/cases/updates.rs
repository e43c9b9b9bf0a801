//! Updates by operators and pipelines: every section that a delta has.

use bson::{Bson, Document, doc};
use headstock::lab::Release;

use super::{Case, Step, by_release, insert, update};

pub fn cases(release: Release) -> Vec<Case> {
    vec![operators(release), arrays(release), pipelines(release), awkward_names(release)]
}

/// Long enough that a server finds a delta worth it.
fn filler() -> String {
    "filler ".repeat(60)
}

fn set(document: Document) -> Document {
    doc! { "$set": document }
}

fn operators(release: Release) -> Case {
    let start = doc! {
        "_id": 1, "a": 1, "b": 2.5, "c": { "d": 1, "e": 2, "f": { "g": 3 } }, "n": 7_i64,
        "s": "text", "f": [1, 2, 3], "k": true, "filler": filler(),
    };
    let combined = doc! {
        "$unset": { "a": 1, "c.e": 1 }, "$set": { "b": 20, "c.d": 10, "f.0": 100, "k2": 1 },
        "$inc": { "n": 1 },
    };
    let many = doc! { "zz": 1, "aa": 2, "10": 3, "9": 4, "09": 5, "1a": 6, "A": 7, "new.x.y": 8 };
    let changes = [
        set(doc! { "a": 9 }),
        set(doc! { "c.f.g": "deep", "c.new": 1 }),
        set(doc! { "x.y.z": 1, "x.0": 2 }),
        set(many),
        combined,
        doc! { "$rename": { "b": "renamed", "c.d": "d", "s": "k" } },
        doc! { "$inc": { "n": 1, "made": 0.5 }, "$mul": { "renamed": 2 } },
        doc! { "$min": { "n": -5 }, "$max": { "renamed": "any string" } },
        doc! { "$bit": { "n": { "xor": 5_i64 } } },
        doc! { "$currentDate": { "when": true, "c.ts": { "$type": "timestamp" } } },
        doc! { "$unset": { "x": 1, "absent": 1 } },
        set(doc! { "filler": 1, "c": 1 }),
        set(doc! { "filler": 1, "c": 1 }),
    ];
    Case {
        databases: &["operators"],
        meets: by_release(
            release,
            vec!["u.v1", "v1.$set", "v1.$unset"],
            vec!["u.v2", "v2.d", "v2.u", "v2.i", "v2.s", "v2.array.a", "v2.array.u"],
        ),
        steps: std::iter::once(insert([start]))
            .chain(changes.into_iter().map(|change| update(1, change)))
            .collect(),
    }
}

fn arrays(release: Release) -> Case {
    let start = doc! {
        "_id": 1, "l": [5, 1, 4], "m": [{ "k": 1, "v": [1, 2] }, { "k": 2 }, 7], "filler": filler(),
    };
    let push = |each: Vec<i32>, more: Document| {
        let mut modifiers = doc! { "$each": each };
        modifiers.extend(more);
        doc! { "$push": { "l": modifiers } }
    };
    let with = |change: Document, query: Document, filters: Vec<Document>| {
        let mut q = doc! { "_id": 1 };
        q.extend(query);
        let statement = doc! { "q": q, "u": change, "arrayFilters": filters };
        Step::Run(doc! { "update": "c", "updates": [statement] })
    };
    let mut steps = vec![insert([start])];
    steps.extend(
        [
            doc! { "$push": { "l": 8 } },
            set(doc! { "l.9": 12 }),
            doc! { "$unset": { "l.1": 1, "m.0.k": 1 } },
            set(doc! { "m.0.v.4.deep": 1, "m.1.new": 2, "m.4": { "x": 1 } }),
            push(vec![3, 9], doc! { "$position": 1 }),
            push(vec![6], doc! { "$slice": -4 }),
            push(vec![2, 0], doc! { "$sort": 1 }),
            doc! { "$pop": { "l": -1 } },
            doc! { "$pull": { "l": { "$gt": 5 } } },
            doc! { "$pullAll": { "l": [Bson::Null] } },
            doc! { "$inc": { "l.$[]": 1 } },
            doc! { "$addToSet": { "l": { "$each": [1, 2, "x"] } } },
        ]
        .map(|change| update(1, change)),
    );
    steps.extend([
        with(set(doc! { "m.$.found": 1 }), doc! { "m.k": 2 }, vec![]),
        with(set(doc! { "m.$[e].v": [] }), doc! {}, vec![doc! { "e.k": 2 }]),
        with(doc! { "$inc": { "l.$[n]": 1 } }, doc! {}, vec![doc! { "n": { "$lt": 3 } }]),
    ]);
    Case {
        databases: &["arrays"],
        meets: by_release(
            release,
            vec!["u.v1", "v1.$set", "v1.$unset"],
            vec!["u.v2", "v2.u", "v2.s", "v2.array.a", "v2.array.u", "v2.array.s"],
        ),
        steps,
    }
}

fn pipelines(release: Release) -> Case {
    let start = doc! {
        "_id": 1, "a": [1, 2, 3, 4, 5, 6], "b": 1, "c": { "x": [{ "y": [1, 2, 3] }, 2], "z": 1 },
        "filler": filler(),
    };
    let stages = [
        vec![set(doc! { "a": { "$slice": ["$a", 2] } })],
        vec![set(doc! { "c.x": [{ "y": [1] }] })],
        vec![doc! { "$unset": ["b", "c.z"] }, set(doc! { "b": "moved" })],
        vec![doc! { "$replaceWith": { "$mergeObjects": ["$$ROOT", { "n": { "m": 1 } }] } }],
        vec![doc! { "$replaceWith": { "$mergeObjects": [{ "first": 1 }, "$$ROOT"] } }],
        vec![set(doc! { "a": { "$concatArrays": ["$a", ["$b"]] }, "n": "$$REMOVE" })],
        vec![doc! { "$replaceWith": { "_id": "$_id", "short": true } }],
    ];
    let steps = stages.into_iter().map(|stages| update(1, stages));
    Case {
        databases: &["pipelines"],
        meets: by_release(
            release,
            vec!["u.replace"],
            vec!["u.v2", "u.replace", "v2.array.l", "v2.d", "v2.i"],
        ),
        steps: std::iter::once(insert([start])).chain(steps).collect(),
    }
}

/// Fields that are named as the sections of a delta are.
fn awkward_names(release: Release) -> Case {
    let inner = || doc! { "a": 1, "b": 1, "d": 1, "i": 1, "l": 1, "s": 1, "u": 1, "sa": 1 };
    let mut start = doc! {
        "_id": 1, "": { "": 1, "a": 1 }, "sa": inner(), "u0": [inner(), inner()], "s1": 1,
        "$dollar": 1, "filler": filler(),
    };
    start.extend(doc! { "a": 1, "d": 1, "i": 1, "s": inner(), "u": [1, [2, 3]] });
    start.remove("$dollar");
    let changes = [
        set(doc! { "a": 2, "d": 2, "i": 2, "s1": 2, "b": 2, "l": 2 }),
        set(doc! { "s.a": 2, "s.s": 2, "sa.sa": 2, "sa.l": 3, "u0.1.a": 3, "u0.1.l": 2 }),
        set(doc! { "u.1.0": "two", "u.1.2": "new" }),
        doc! { "$unset": { "s.d": 1, "s.i": 1, "u0.0.u": 1, "a": 1 } },
        set(doc! { "s.0": 1, "s.00": 2, "s.10": 3, "s.9": 4 }),
    ];
    let empty_name = vec![doc! { "$replaceWith": { "$mergeObjects": [
        "$$ROOT", { "$arrayToObject": [[{ "k": "", "v": { "a": 2 } }]] },
    ] } }];
    Case {
        databases: &["awkward_names"],
        meets: by_release(release, vec!["u.v1"], vec!["u.v2", "v2.array.s", "v2.s"]),
        steps: std::iter::once(insert([start]))
            .chain(changes.into_iter().map(|change| update(1, change)))
            .chain([update(1, empty_name)])
            .collect(),
    }
}
