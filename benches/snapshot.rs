//! A snapshot after a random 1 % of the documents changed: what it costs and what it adds. With n
//! documents in a leaf, 1 - 0.99^n of the leaves change; a snapshot should add at most 1.3 times
//! that share of a full one.

mod common;

use bson::spec::BinarySubtype;
use bson::{Binary, RawDocumentBuf, Timestamp, rawdoc};
use common::{build, documents, head, position, report, sized, store, timed};
use headstock::tree::Cursor;
use rand::rngs::StdRng;
use rand::seq::index;
use rand::{Rng as _, SeedableRng as _};

/// What may be added beyond the leaves that must change.
const ALLOWED: f64 = 1.3;

fn update(n: u32, id: i64, rng: &mut StdRng) -> RawDocumentBuf {
    let at = position(n);
    let ui = Binary { subtype: BinarySubtype::Uuid, bytes: common::UUID.0.to_vec() };
    rawdoc! {
        "op": "u",
        "ns": common::NAMESPACE,
        "ui": ui,
        "o": { "$v": 2, "diff": { "u": { "total": rng.random_range(0.0..10_000.0) } } },
        "o2": { "_id": id },
        "ts": Timestamp::from(at.optime.ts),
        "t": at.optime.term,
        "v": 2_i64,
        "wall": bson::DateTime::from_millis(at.wall_ms),
    }
}

fn main() {
    let documents = documents(sized(400_000, 20_000));
    let count = documents.len();
    let (_folder, store) = store();
    let mut head = head(&store, &documents);
    let full = head.flush(&store).expect("flush");
    store.commit(|_| {}).expect("commit");
    let stored = store.stats().added_bytes;

    let root = build(&store, &documents);
    let mut cursor = Cursor::new(&store, &root);
    let mut leaves = 0_u32;
    while cursor.next_run().expect("read").is_some() {
        leaves += 1;
    }
    let in_leaf = count as f64 / f64::from(leaves);

    let mut rng = StdRng::seed_from_u64(2);
    let changed = index::sample(&mut rng, count, count / 100);
    let entries: Vec<RawDocumentBuf> = changed
        .iter()
        .zip(1..)
        .map(|(id, n)| update(n, i64::try_from(id).expect("small"), &mut rng))
        .collect();
    let before = store.stats().added_bytes;
    let (after, took) = timed(|| {
        for entry in &entries {
            head.apply(entry).expect("apply");
        }
        let after = head.flush(&store).expect("flush");
        store.commit(|_| {}).expect("commit");
        after
    });
    let added = store.stats().added_bytes - before;
    assert_ne!(after.content_root, full.content_root);

    report("snapshot after 1 % changed", entries.len() as u64, after.logical_bytes, took, added);
    let expected = 1.0 - 0.99_f64.powf(in_leaf);
    let share = added as f64 / stored as f64;
    println!(
        "{in_leaf:.1} documents in a leaf: {:.1} % of the leaves must change; added {:.1} % of a full \
         snapshot's {:.1} MB, {:.2} times that (aim {ALLOWED})",
        expected * 100.0,
        share * 100.0,
        stored as f64 / 1e6,
        share / expected,
    );
}
