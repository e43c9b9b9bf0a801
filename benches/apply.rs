//! Applying the oplog: inserts, updates and deletes to a head of many documents, the sweep into trees
//! included.

mod common;

use bson::spec::BinarySubtype;
use bson::{Binary, RawDocumentBuf, Timestamp, rawdoc};
use common::{bytes_of, document, documents, head, position, report, sized, store, timed};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// An entry: half updates, two in five inserts, the rest deletes.
fn entry(n: u32, count: u32, rng: &mut StdRng) -> RawDocumentBuf {
    let at = position(n);
    let ui = Binary { subtype: BinarySubtype::Uuid, bytes: common::UUID.0.to_vec() };
    let id = i64::from(rng.random_range(0..count));
    let (op, o, o2) = match rng.random_range(0..10) {
        0..5 => {
            let set = rawdoc! { "status": "changed", "total": rng.random_range(0.0..1e4) };
            let zip = rawdoc! { "u": { "zip": rng.random_range(0..99_999) } };
            let diff = rawdoc! { "$v": 2, "diff": { "u": set, "saddress": zip } };
            ("u", diff, rawdoc! { "_id": id })
        }
        5..9 => {
            let new = count + n;
            ("i", document(rng, new), rawdoc! { "_id": i64::from(new) })
        }
        _ => ("d", rawdoc! { "_id": id }, rawdoc! {}),
    };
    rawdoc! {
        "op": op,
        "ns": common::NAMESPACE,
        "ui": ui,
        "o": o,
        "o2": o2,
        "ts": Timestamp::from(at.optime.ts),
        "t": at.optime.term,
        "v": 2_i64,
        "wall": bson::DateTime::from_millis(at.wall_ms),
    }
}

fn main() {
    let count = sized(400_000, 20_000);
    let (_folder, store) = store();
    let mut head = head(&store, &documents(count));
    head.flush(&store).expect("flush");
    store.commit(|_| {}).expect("commit");

    let mut rng = StdRng::seed_from_u64(3);
    let entries: Vec<RawDocumentBuf> =
        (1..=sized(300_000, 10_000)).map(|n| entry(n, count, &mut rng)).collect();
    let (number, bytes) = (entries.len() as u64, bytes_of(&entries));
    let before = store.stats().added_bytes;
    let ((), applied) = timed(|| {
        for entry in &entries {
            head.apply(entry).expect("apply");
        }
    });
    let ((), swept) = timed(|| {
        head.flush(&store).expect("flush");
        store.commit(|_| {}).expect("commit");
    });
    let added = store.stats().added_bytes - before;
    report("oplog apply, into memory", number, bytes, applied, 0);
    report("oplog apply, into trees", number, bytes, applied + swept, added);
}
