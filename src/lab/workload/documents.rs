//! Random documents and `_id` values of every type.

use bson::oid::ObjectId;
use bson::spec::BinarySubtype;
use bson::{Binary, Bson, DateTime, Document, RawDocumentBuf, Timestamp, doc};
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;

use crate::elements::{self, Element};

/// 2^53: from here on, neighbouring 64-bit integers are one and the same as doubles.
const EXACT_IN_DOUBLE: i64 = 1 << 53;
/// 2026-01-01T00:00:00Z, ms.
const NEW_YEAR_MS: i64 = 1_767_225_600_000;
const WORDS: [&str; 12] = [
    "anvil",
    "bellows",
    "chuck",
    "dog",
    "faceplate",
    "gib",
    "headstock",
    "lathe",
    "mandrel",
    "spindle",
    "tailstock",
    "\u{e4}\u{4e16}",
];

/// The `n`-th `_id`. One `n` may come out as several types of the same number, or as a word in
/// upper case, which some collations take for the same.
pub(super) fn id(rng: &mut StdRng, n: u32) -> Bson {
    let bytes = n.to_be_bytes();
    match n % 14 {
        0 => Bson::Int32(n.cast_signed()),
        1 => Bson::Int64(EXACT_IN_DOUBLE + i64::from(n)),
        2 => Bson::Double(f64::from(n) + 0.5),
        3 | 4 => {
            let word = format!("{}-{n}", WORDS[n as usize % WORDS.len()]);
            Bson::String(if rng.random_bool(0.1) { word.to_uppercase() } else { word })
        }
        5 => {
            let mut oid = [7_u8; 12];
            oid[..4].copy_from_slice(&bytes);
            Bson::ObjectId(ObjectId::from_bytes(oid))
        }
        6 => Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes: bytes.to_vec() }),
        7 => Bson::Document(doc! { "a": n, "b": { "c": "x" } }),
        8 => Bson::DateTime(DateTime::from_millis(NEW_YEAR_MS + i64::from(n))),
        9 => special_id(n),
        10 => Bson::Timestamp(Timestamp { time: n, increment: 1 }),
        11 => {
            let mut uuid = vec![3_u8; 16];
            uuid[..4].copy_from_slice(&bytes);
            Bson::Binary(Binary { subtype: BinarySubtype::Uuid, bytes: uuid })
        }
        12 => match format!("{n}.25").parse() {
            Ok(decimal) => Bson::Decimal128(decimal),
            Err(_) => Bson::Null,
        },
        _ => match rng.random_range(0..3) {
            0 => Bson::Int32(n.cast_signed()),
            1 => Bson::Int64(i64::from(n)),
            _ => Bson::Double(f64::from(n)),
        },
    }
}

fn special_id(n: u32) -> Bson {
    match n / 14 % 9 {
        0 => Bson::Null,
        1 => Bson::Boolean(true),
        2 => Bson::Boolean(false),
        3 => Bson::MinKey,
        4 => Bson::MaxKey,
        5 => Bson::Double(f64::NAN),
        6 => Bson::Double(-0.0),
        7 => Bson::Double(f64::NEG_INFINITY),
        _ => Bson::String(String::new()),
    }
}

/// A few words.
pub(super) fn text(rng: &mut StdRng, words_max: usize) -> String {
    let count = rng.random_range(0..=words_max);
    let words: Vec<&str> = (0..count).map(|_| WORDS[rng.random_range(0..WORDS.len())]).collect();
    words.join(" ")
}

/// A document with the fields that the updates of this workload know, some missing, in any order.
pub(super) fn document(rng: &mut StdRng, id: Bson) -> Document {
    let numbers: Vec<i32> = (0..rng.random_range(0..8)).map(|_| rng.random_range(0..20)).collect();
    let items: Vec<Bson> = (0..rng.random_range(0..5))
        .map(|k| doc! { "k": k, "v": rng.random_range(0..50), "q": [1, 2, k] }.into())
        .collect();
    let tags: Vec<String> = (0..rng.random_range(0..4)).map(|_| text(rng, 1)).collect();
    let point = [rng.random_range(-179.0..179.0), rng.random_range(-89.0..89.0)];
    let mut fields: Vec<(&str, Bson)> = vec![
        ("n", rng.random_range(0..1000).into()),
        ("big", rng.random::<i64>().into()),
        ("d", rng.random_range(-1e6..1e6).into()),
        ("s", text(rng, 30).into()),
        ("t", DateTime::from_millis(NEW_YEAR_MS + rng.random_range(0..1_000_000_000)).into()),
        ("o", doc! { "x": rng.random_range(0..9), "y": { "z": text(rng, 3), "w": [1] } }.into()),
        ("l", numbers.into()),
        ("m", items.into()),
        ("tags", tags.into()),
        ("bits", rng.random_range(0..256).into()),
        ("geo", doc! { "type": "Point", "coordinates": point.to_vec() }.into()),
        ("e", Bson::Null),
        ("ts", Timestamp { time: rng.random_range(1..99), increment: 3 }.into()),
    ];
    fields.shuffle(rng);
    let mut document = doc! { "_id": id };
    document.extend(
        fields.into_iter().filter(|_| rng.random_bool(0.85)).map(|(k, v)| (k.to_owned(), v)),
    );
    document
}

/// A document no application should write: names used twice, empty names, dots, null timestamps.
pub(super) fn odd_document(rng: &mut StdRng, id: Bson) -> RawDocumentBuf {
    let mut document = RawDocumentBuf::new();
    let null = Timestamp { time: 0, increment: 0 };
    let nested = bson::rawdoc! { "": 1, "a.b": 2, "$c": 3, "t": null };
    let id = bson::RawBson::try_from(id).unwrap_or(bson::RawBson::Null);
    document.append(bson::cstr!("_id"), id);
    match rng.random_range(0..5) {
        0 => {
            document.append(bson::cstr!("twice"), rng.random_range(0..9));
            document.append(bson::cstr!("twice"), text(rng, 3).as_str());
        }
        1 => document.append(bson::cstr!("nested"), nested),
        2 => document.append(bson::cstr!(""), text(rng, 3).as_str()),
        3 => document.append(bson::cstr!("null_ts"), null),
        _ => document.append(bson::cstr!("a.b"), rng.random_range(0..9)),
    }
    document
}

/// `{_id}` of a text that is not UTF-8, as servers take it.
#[must_use]
pub fn unreadable_id(n: u8) -> RawDocumentBuf {
    const STRING: u8 = 0x02;
    let value = [3, 0, 0, 0, 0xff, n, 0];
    Element { kind: STRING, name: elements::ID, value: &value }.alone(elements::ID)
}

/// A document of about `bytes` that does not compress well.
pub(super) fn large_document(rng: &mut StdRng, id: Bson, bytes: usize) -> Document {
    let mut noise = vec![0_u8; bytes];
    rng.fill(&mut noise[..]);
    let noise = Binary { subtype: BinarySubtype::Generic, bytes: noise };
    doc! { "_id": id, "noise": noise, "n": rng.random_range(0..1000) }
}
