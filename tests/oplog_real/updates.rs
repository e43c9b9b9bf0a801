//! Random documents and random updates of every family that servers know.

use bson::oid::ObjectId;
use bson::{Bson, Document, doc};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

/// Names that try the letters of `$v:2` sections, numbers as names, and their order.
const NAMES: &[&str] =
    &["a", "b", "c", "d", "i", "l", "s", "u", "u0", "s1", "sa", "0", "1", "9", "10", "09", "name"];
/// Levels of nesting in generated values.
const DEPTH_MAX: u32 = 3;

/// One update command.
#[derive(Debug, Clone)]
pub struct Change {
    /// Which family it belongs to.
    pub family: &'static str,
    /// What finds the document, besides `_id`.
    pub query: Document,
    /// Modifiers, pipeline or replacement.
    pub update: Bson,
    /// `arrayFilters`.
    pub filters: Vec<Document>,
}

impl Change {
    fn new(family: &'static str, update: impl Into<Bson>) -> Self {
        Self { family, query: doc! {}, update: update.into(), filters: Vec::new() }
    }
}

fn name(rng: &mut StdRng) -> &'static str {
    NAMES.choose(rng).expect("names")
}

/// A value; documents in it may have fields of the empty name.
pub fn value(rng: &mut StdRng, depth: u32) -> Bson {
    let kinds = if depth >= DEPTH_MAX { 9 } else { 13 };
    match rng.random_range(0..kinds) {
        0 | 1 => Bson::Int32(rng.random_range(-3..20)),
        2 => Bson::Int64(rng.random_range(-3..20)),
        3 => Bson::Double(f64::from(rng.random_range(-30..30)) / 4.0),
        4 => Bson::String(format!("text {}", rng.random_range(0..5))),
        5 => Bson::Boolean(rng.random()),
        6 => Bson::Null,
        7 => Bson::ObjectId(ObjectId::from_bytes([rng.random_range(0..3); 12])),
        8 => Bson::DateTime(bson::DateTime::from_millis(rng.random_range(0..5))),
        9 => (0..rng.random_range(0..6)).map(|_| Bson::Int32(rng.random_range(0..9))).collect(),
        10 => (0..rng.random_range(0..4)).map(|_| value(rng, depth + 1)).collect(),
        _ => {
            let mut document = Document::new();
            for _ in 0..rng.random_range(0..5) {
                let name = if rng.random_ratio(1, 12) { "" } else { name(rng) };
                document.insert(name, value(rng, depth + 1));
            }
            document.into()
        }
    }
}

/// A document with something for every operator.
pub fn document(rng: &mut StdRng, id: Bson) -> Document {
    let mut document = doc! { "_id": id };
    for _ in 0..rng.random_range(0..6) {
        document.insert(name(rng), value(rng, 0));
    }
    let numbers: Vec<i32> = (0..rng.random_range(0..8)).map(|_| rng.random_range(0..6)).collect();
    document.insert("numbers", numbers);
    let items: Bson = (0..rng.random_range(0..5))
        .map(|n| doc! { "x": rng.random_range(0..4), "n": n, "in": { "y": [n] } })
        .collect();
    document.insert("items", items);
    document.insert("count", rng.random_range(0..50));
    document.insert("filler", "x".repeat(rng.random_range(0..400)));
    document
}

/// Paths of a document to values that `wanted` accepts.
fn paths(document: &Document, wanted: &dyn Fn(&Bson) -> bool) -> Vec<String> {
    fn walk(prefix: &str, value: &Bson, wanted: &dyn Fn(&Bson) -> bool, found: &mut Vec<String>) {
        if wanted(value) {
            found.push(prefix.to_owned());
        }
        match value {
            Bson::Document(inner) => {
                for (name, value) in inner.iter().filter(|(name, _)| !name.is_empty()) {
                    walk(&format!("{prefix}.{name}"), value, wanted, found);
                }
            }
            Bson::Array(inner) => {
                for (index, value) in inner.iter().enumerate() {
                    walk(&format!("{prefix}.{index}"), value, wanted, found);
                }
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    for (name, value) in document.iter().filter(|(name, _)| *name != "_id" && !name.is_empty()) {
        walk(name, value, wanted, &mut found);
    }
    found
}

/// A path: one that exists and fits, or now and then any.
fn path(rng: &mut StdRng, document: &Document, wanted: &dyn Fn(&Bson) -> bool) -> String {
    let found = paths(document, wanted);
    if let Some(found) = found.choose(rng)
        && rng.random_ratio(9, 10)
    {
        return found.clone();
    }
    (0..rng.random_range(1..4)).map(|_| name(rng)).collect::<Vec<_>>().join(".")
}

fn is_array(value: &Bson) -> bool {
    matches!(value, Bson::Array(_))
}

fn is_number(value: &Bson) -> bool {
    matches!(value, Bson::Int32(_) | Bson::Int64(_) | Bson::Double(_))
}

fn is_integer(value: &Bson) -> bool {
    matches!(value, Bson::Int32(_) | Bson::Int64(_))
}

/// The families, by number.
const FAMILIES: u32 = 27;

/// A random change for the document as it is now.
pub fn change(rng: &mut StdRng, now: &Document) -> Change {
    match rng.random_range(0..FAMILIES) {
        family @ 0..=9 => field_change(rng, now, family),
        family @ 10..=17 => array_change(rng, now, family),
        18..=20 => positional_change(rng),
        21..=24 => pipeline_change(rng, now),
        25 => replacement(rng, now),
        _ => combined(rng, now),
    }
}

fn field_change(rng: &mut StdRng, now: &Document, family: u32) -> Change {
    let any = path(rng, now, &|_| true);
    match family {
        0 | 1 => Change::new("$set", doc! { "$set": { any: value(rng, 1) } }),
        2 => {
            let deeper = format!("{any}.{}.{}", name(rng), name(rng));
            Change::new("$set below", doc! { "$set": { deeper: value(rng, 2) } })
        }
        3 => Change::new("$unset", doc! { "$unset": { any: 1 } }),
        4 => {
            let number = path(rng, now, &is_number);
            Change::new("$inc", doc! { "$inc": { number: rng.random_range(-4..5) } })
        }
        5 => {
            let number = path(rng, now, &is_number);
            Change::new("$mul", doc! { "$mul": { number: 1.5 } })
        }
        6 => {
            let (least, most) = (path(rng, now, &is_number), path(rng, now, &|_| true));
            let update = doc! { "$min": { least: -50 }, "$max": { most: value(rng, 3) } };
            Change::new("$min $max", update)
        }
        7 => {
            let number = path(rng, now, &is_integer);
            Change::new("$bit", doc! { "$bit": { number: { "xor": 5_i32 } } })
        }
        8 => {
            let kind = if rng.random() { "date" } else { "timestamp" };
            Change::new("$currentDate", doc! { "$currentDate": { any: { "$type": kind } } })
        }
        _ => {
            let to = path(rng, now, &|_| false);
            Change::new("$rename", doc! { "$rename": { any: to } })
        }
    }
}

fn array_change(rng: &mut StdRng, now: &Document, family: u32) -> Change {
    let array = path(rng, now, &is_array);
    match family {
        10 => Change::new("$push", doc! { "$push": { array: value(rng, 2) } }),
        11 => {
            let each: Vec<Bson> = (0..3).map(|_| value(rng, 2)).collect();
            let mut push = doc! { "$each": each };
            if rng.random() {
                push.insert("$position", rng.random_range(-2..3));
            }
            if rng.random() {
                push.insert("$slice", rng.random_range(-6..6));
            }
            if rng.random() {
                push.insert("$sort", if rng.random() { 1 } else { -1 });
            }
            Change::new("$push $each", doc! { "$push": { array: push } })
        }
        12 => Change::new("$pop", doc! { "$pop": { array: if rng.random() { 1 } else { -1 } } }),
        13 => Change::new("$pull", doc! { "$pull": { array: { "$gte": rng.random_range(0..9) } } }),
        14 => {
            let items = doc! { "x": rng.random_range(0..4) };
            Change::new("$pull by field", doc! { "$pull": { "items": items } })
        }
        15 => Change::new("$pullAll", doc! { "$pullAll": { array: [1, 3, 5] } }),
        16 => {
            let each = doc! { "$each": [value(rng, 2), rng.random_range(0..9)] };
            Change::new("$addToSet", doc! { "$addToSet": { array: each } })
        }
        _ => {
            let beyond = format!("{array}.{}", rng.random_range(0..14));
            Change::new("$set by index", doc! { "$set": { beyond: value(rng, 2) } })
        }
    }
}

fn positional_change(rng: &mut StdRng) -> Change {
    let x = rng.random_range(0..4);
    match rng.random_range(0..4) {
        0 => {
            let update = doc! { "$set": { "items.$.x": x + 1, "items.$.new": value(rng, 2) } };
            Change { query: doc! { "items.x": { "$gte": x } }, ..Change::new("$", update) }
        }
        1 => Change::new("$[]", doc! { "$inc": { "items.$[].n": 1, "numbers.$[]": 2 } }),
        2 => {
            let update = doc! { "$set": { "items.$[low].in.y.$[]": value(rng, 2) } };
            let filters = vec![doc! { "low.x": { "$lt": x } }];
            Change { filters, ..Change::new("$[filter]", update) }
        }
        _ => {
            let update =
                doc! { "$set": { "numbers.$[big]": x }, "$unset": { "items.$[one].n": 1 } };
            let filters = vec![doc! { "big": { "$gt": 2 } }, doc! { "one.x": x }];
            Change { filters, ..Change::new("$[filter] twice", update) }
        }
    }
}

fn pipeline_change(rng: &mut StdRng, now: &Document) -> Change {
    let top: Vec<&String> = now.keys().filter(|name| *name != "_id").collect();
    let some = top.choose(rng).map_or("a", |name| name.as_str());
    let literal = doc! { "$literal": value(rng, 1) };
    let stages = match rng.random_range(0..8) {
        0 => vec![doc! { "$set": { name(rng): literal, "count": { "$add": ["$count", 1] } } }],
        1 => vec![doc! { "$unset": [some, "numbers.x"] }],
        2 => vec![doc! { "$set": { "numbers": { "$slice": ["$numbers", 2] } } }],
        3 => vec![doc! { "$replaceWith": { "$mergeObjects": [{ name(rng): 1 }, "$$ROOT"] } }],
        4 => vec![doc! { "$set": { "numbers": { "$concatArrays": ["$numbers", [7, literal]] } } }],
        5 => vec![doc! { "$project": { some: 0 } }, doc! { "$addFields": { "z.y.x": literal } }],
        6 => vec![
            doc! { "$set": { "items": { "$map": {
                "input": "$items",
                "in": { "$mergeObjects": ["$$this", { "x": { "$add": ["$$this.x", 1] } }] },
            } } } },
            doc! { "$set": { name(rng): "$$REMOVE" } },
        ],
        _ => vec![
            doc! { "$set": { "moved": format!("${some}") } },
            doc! { "$unset": some },
            doc! { "$set": { some: "$moved" } },
        ],
    };
    let stages: Bson = stages.into_iter().collect();
    Change::new("pipeline", stages)
}

fn replacement(rng: &mut StdRng, now: &Document) -> Change {
    let mut new = document(rng, Bson::Null);
    new.remove("_id");
    if let Some(Bson::Int32(id)) = now.get("_id").filter(|_| rng.random()) {
        // Equal in value, another type: allowed, and the stored bytes change.
        new.insert("_id", f64::from(*id));
        return Change::new("replacement with another type of _id", new);
    }
    Change::new("replacement", new)
}

fn combined(rng: &mut StdRng, now: &Document) -> Change {
    let mut update = doc! {
        "$set": { path(rng, now, &|_| true): value(rng, 1), "new.deep.field": value(rng, 2) },
        "$unset": { path(rng, now, &|_| true): 1 },
        "$inc": { "count": 1 },
        "$push": { "numbers": 4 },
    };
    for n in 0..rng.random_range(0..12) {
        let set = update.get_document_mut("$set").expect("put above");
        set.insert(format!("wide.{}", n * 7), n);
    }
    Change::new("combined", update)
}
