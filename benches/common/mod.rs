//! What the benches share: sizes, documents, stop watches and lines of figures.

#![allow(dead_code, reason = "each bench is a program of its own and uses a part of this")]

pub mod drain;
pub mod process;

use std::time::{Duration, Instant};

use bson::oid::ObjectId;
use bson::{DateTime, RawDocumentBuf, doc, rawdoc};
use headstock::head::{Collection, Config, Head};
use headstock::oplog::{OpTime, Position, Ts, Uuid};
use headstock::store::{Options, Store};
use headstock::tree::{Builder, Content, Order, Root, Shape};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tempfile::TempDir;

/// Bytes of pending changes before a run is written: what the program uses.
const CHANGE_BUDGET_BYTES: usize = 64 << 20;
/// First second of the made-up oplog.
pub const EPOCH: u32 = 1_767_225_600;
const SEED: u64 = 1;

/// Whether the short form was asked for with `--smoke`.
pub fn smoke() -> bool {
    std::env::args().any(|argument| argument == "--smoke")
}

/// `full`, or `short` with `--smoke`.
pub fn sized(full: u32, short: u32) -> u32 {
    if smoke() { short } else { full }
}

/// A document of about 1 KB: names and words that compress, and as many random digits.
pub fn document(rng: &mut StdRng, n: u32) -> RawDocumentBuf {
    const WORDS: [&str; 8] =
        ["anvil", "bellows", "chuck", "faceplate", "lathe", "mandrel", "spindle", "tailstock"];
    let words: Vec<&str> = (0..50).map(|_| WORDS[rng.random_range(0..WORDS.len())]).collect();
    let digits: String = (0..25).map(|_| format!("{:016x}", rng.random::<u64>())).collect();
    rawdoc! {
        "_id": i64::from(n),
        "customer": rng.random_range(0..100_000),
        "status": WORDS[rng.random_range(0..WORDS.len())],
        "total": rng.random_range(0.0..10_000.0),
        "address": { "street": words[0], "city": words[1], "zip": rng.random_range(0..99_999) },
        "text": words.join(" "),
        "digits": digits,
    }
}

/// An order of a shop: fields that repeat, words that many documents have, numbers that none other has.
pub fn order(rng: &mut StdRng, n: u32, lines: usize) -> RawDocumentBuf {
    const WORDS: [&str; 12] = [
        "anvil",
        "bellows",
        "chuck",
        "faceplate",
        "lathe",
        "mandrel",
        "spindle",
        "tailstock",
        "toolrest",
        "gouge",
        "caliper",
        "arbor",
    ];
    const STATES: [&str; 4] = ["placed", "paid", "packed", "sent"];
    let word = |rng: &mut StdRng| WORDS[rng.random_range(0..WORDS.len())];
    let items = (0..lines).map(|_| {
        let name = format!("{} {} {}", word(rng), word(rng), rng.random_range(1..40));
        doc! {
            "sku": format!("SKU-{:05}", rng.random_range(0..20_000)),
            "name": name,
            "quantity": rng.random_range(1..9),
            "price": f64::from(rng.random_range(100..90_000)) / 100.0,
        }
    });
    let items: Vec<_> = items.collect();
    let mut order = doc! {
        "_id": i64::from(n),
        "session": ObjectId::from_bytes(rng.random()),
        "placed": DateTime::from_millis(1_767_225_600_000 + rng.random_range(0..30_000_000_000)),
        "customer": { "number": rng.random_range(0..2_000_000), "name": format!("{} {}", word(rng), word(rng)) },
        "status": STATES[rng.random_range(0..STATES.len())],
        "total": f64::from(rng.random_range(100..900_000)) / 100.0,
    };
    if lines > 0 {
        order.insert("items", items);
    }
    RawDocumentBuf::try_from(&order).expect("BSON")
}

/// `count` documents with ascending `_id`.
pub fn documents(count: u32) -> Vec<RawDocumentBuf> {
    let mut rng = StdRng::seed_from_u64(SEED);
    (0..count).map(|n| document(&mut rng, n)).collect()
}

/// Sum of the lengths.
pub fn bytes_of(documents: &[RawDocumentBuf]) -> u64 {
    documents.iter().map(|document| document.as_bytes().len() as u64).sum()
}

/// A new store in a temporary folder.
pub fn store() -> (TempDir, Store) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let store = Store::create(&folder.path().join("store"), Options::default()).expect("store");
    (folder, store)
}

/// Builds the tree of a collection in bulk.
pub fn build(store: &Store, documents: &[RawDocumentBuf]) -> Root {
    let shape = Shape::new(store.salt(), Order::Keyed, Content::Documents);
    let mut builder = Builder::new(store, &shape);
    for document in documents {
        builder.push(document).expect("push");
    }
    builder.finish().expect("finish")
}

/// The made-up position of the `n`-th entry.
pub fn position(n: u32) -> Position {
    let ts = Ts { secs: EPOCH + n / 1_000, inc: n % 1_000 + 1 };
    Position { optime: OpTime { ts, term: 1 }, wall_ms: i64::from(ts.secs) * 1_000 }
}

/// The collection that all benches use.
pub const UUID: Uuid = Uuid([7; 16]);
/// Its name.
pub const NAMESPACE: &str = "bench.orders";

/// A head that holds one collection of these documents.
pub fn head(store: &Store, documents: &[RawDocumentBuf]) -> Head {
    let collection = Collection {
        uuid: UUID,
        ns: NAMESPACE.to_owned(),
        options: rawdoc! {},
        indexes: vec![rawdoc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" }],
        order: Order::Keyed,
        root: build(store, documents),
    };
    let config = Config {
        salt: store.salt(),
        scope: headstock::head::Scope::all(),
        scratch_dir: store.scratch_dir(),
        seals_scratch: false,
        change_budget_bytes: CHANGE_BUDGET_BYTES,
        trims_capped_unlogged: false,
    };
    let at = position(0);
    let blocks = std::sync::Arc::new(store.clone());
    Head::from_scan(blocks, config, at, at.optime, vec![collection]).expect("head")
}

/// Runs `work` and says how long it took.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let begun = Instant::now();
    let done = work();
    (done, begun.elapsed())
}

/// MB (10^6 bytes) a second.
pub fn megabytes_per_second(bytes: u64, took: Duration) -> f64 {
    bytes as f64 / 1e6 / took.as_secs_f64()
}

/// Prints one line of figures: what was done, how fast, and what it left in the store.
pub fn report(what: &str, entries: u64, bytes: u64, took: Duration, stored: u64) {
    println!(
        "{what:<34} {entries:>9} entries {:>9.1} MB {:>7.2} s {:>8.1} MB/s {:>9.0} entries/s  stored {:>8.1} MB",
        bytes as f64 / 1e6,
        took.as_secs_f64(),
        megabytes_per_second(bytes, took),
        entries as f64 / took.as_secs_f64(),
        stored as f64 / 1e6,
    );
}
