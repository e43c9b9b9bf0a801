//! Scans: every document once, in order, whatever happens to the collection meanwhile.

use std::time::Duration;

use bson::{Bson, Document, RawDocumentBuf, doc, oid::ObjectId};
use headstock::lab::{ReplicaSet, unreadable_id};
use headstock::source::{Error, Range, Scan, Source};
use headstock::tree::Key;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::support::{
    collection, documents, drain, ids, listed, numbered, read, run, set_and_source,
};

/// Enough for several batches of 4 MiB.
const MANY: i32 = 6_000;
const PAD_BYTES: usize = 4_000;

/// `_id`s of every type a server takes, some numerically close.
fn odd_ids(rng: &mut StdRng) -> Vec<Bson> {
    let mut ids = vec![
        Bson::MinKey,
        Bson::MaxKey,
        Bson::Null,
        Bson::Boolean(false),
        Bson::Boolean(true),
        Bson::Double(f64::NAN),
        Bson::Double(f64::NEG_INFINITY),
        Bson::Double(f64::INFINITY),
        Bson::Double(2f64.powi(53)),
        Bson::Int64((1 << 53) + 1),
        Bson::Int64(i64::MAX),
        Bson::Int64(i64::MIN),
        Bson::Decimal128("0.1".parse().expect("a number")),
        Bson::Double(0.1),
        Bson::DateTime(bson::DateTime::from_millis(-1)),
        Bson::Timestamp(bson::Timestamp { time: 1, increment: 2 }),
        Bson::ObjectId(ObjectId::new()),
        Bson::String(String::new()),
        Bson::String("\u{0}nul".to_owned()),
        Bson::Document(doc! {}),
        Bson::Document(doc! { "b": 1, "a": [1, { "c": null }] }),
        Bson::Binary(bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: vec![0] }),
        Bson::JavaScriptCode("f()".to_owned()),
        Bson::Symbol("sym".to_owned()),
    ];
    for n in 0..3_000 {
        ids.push(match rng.random_range(0..5) {
            0 => Bson::Int32(n),
            1 => Bson::Double(f64::from(n) + 0.5),
            // Never the 1 of an Int32.
            2 => Bson::Int64(i64::from(n + 1) << 40 | 1),
            3 => Bson::String(format!("{:x}", rng.random::<u32>())),
            _ => Bson::Document(doc! { "n": n, "m": rng.random::<i32>() }),
        });
    }
    ids
}

fn keys(documents: &[RawDocumentBuf]) -> Vec<Key> {
    documents.iter().map(|document| Key::of_document(document).expect("a key")).collect()
}

async fn insert(set: &ReplicaSet, name: &str, documents: Vec<Document>) {
    collection(set, name).insert_many(documents).await.expect("insert");
}

#[tokio::test]
async fn ranges_of_mixed_ids_give_each_document_once_in_order() {
    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let (set, source) = set_and_source(1).await;
    let odd = odd_ids(&mut rng)
        .into_iter()
        .map(|id| RawDocumentBuf::try_from(&doc! { "_id": id }).expect("valid"));
    let odd: Vec<RawDocumentBuf> = odd.chain((1..100).map(unreadable_id)).collect();
    let clustered =
        doc! { "create": "clustered", "clusteredIndex": { "key": { "_id": 1 }, "unique": true } };
    run(&set, "v", clustered).await;
    for name in ["plain", "clustered"] {
        for part in odd.chunks(1_000) {
            let documents = bson::RawArrayBuf::from_iter(part.to_vec());
            let insert = bson::rawdoc! { "insert": name, "documents": documents };
            let reply = set.client().database("v").run_raw_command(insert).await.expect("insert");
            assert_eq!(reply.get_i32("n").ok(), i32::try_from(part.len()).ok(), "{reply}");
        }
        let one = listed(&source, &format!("v.{name}")).await;
        let mut expected = keys(&odd);
        expected.sort();
        assert_eq!(keys(&read(&source, &one, Range::default()).await), expected, "{name}: whole");
        for pieces in [2, 7, 40] {
            let ranges = source.split(&one, pieces).await.expect("split");
            assert_eq!(ranges.len(), pieces, "{name}");
            let mut found = Vec::new();
            for range in ranges {
                let part = keys(&read(&source, &one, range).await);
                assert!(part.len() <= expected.len().div_ceil(pieces) + pieces, "{}", part.len());
                found.extend(part);
            }
            assert_eq!(found, expected, "{name} in {pieces}");
        }
        let unreadable_at = expected.binary_search(&keys(&[unreadable_id(50)])[0]).expect("there");
        // Every document as a bound: resumed there, it comes first and all after it follow.
        for at in
            [0, 1, 2, expected.len() / 2, unreadable_at, expected.len() - 2, expected.len() - 1]
        {
            let all = read(&source, &one, Range::default()).await;
            let lower = Some(all[at].clone());
            let rest = read(&source, &one, Range { lower, upper: None }).await;
            assert_eq!(keys(&rest), expected[at..], "{name} from {at}");
        }
    }
}

#[tokio::test]
async fn a_collation_splits_and_arrives_whole() {
    let (set, source) = set_and_source(1).await;
    run(&set, "v", doc! { "create": "c", "collation": { "locale": "en", "strength": 2 } }).await;
    let word =
        |n: u32| if n.is_multiple_of(2) { format!("Word{n:05}") } else { format!("word{n:05}") };
    let words: Vec<String> = (0..4_000).map(word).collect();
    insert(&set, "c", words.iter().map(|word| doc! { "_id": word }).collect()).await;
    let one = listed(&source, "v.c").await;
    let mut found = Vec::new();
    let ranges = source.split(&one, 4).await.expect("split");
    assert_eq!(ranges.len(), 4);
    for range in ranges {
        let part = read(&source, &one, range).await;
        found.extend(part.iter().map(|one| one.get_str("_id").expect("text").to_owned()));
    }
    assert_eq!(found, words);
}

#[tokio::test]
async fn capped_collections_come_in_insertion_order() {
    let (set, source) = set_and_source(1).await;
    run(&set, "v", doc! { "create": "c", "capped": true, "size": 1 << 20, "max": 50 }).await;
    insert(&set, "c", (0..80).rev().map(|n| doc! { "_id": n }).collect()).await;
    let one = listed(&source, "v.c").await;
    assert_eq!(source.split(&one, 8).await.expect("split"), [Range::default()]);
    let found = ids(&read(&source, &one, Range::default()).await);
    assert_eq!(found, (0..50).rev().collect::<Vec<_>>());
}

/// A collection of many batches, its scan begun: the first batch read, the rest waiting.
async fn begun(set: &ReplicaSet, source: &Source) -> (Scan, Vec<i32>) {
    for from in (0..MANY).step_by(1_000) {
        insert(set, "c", numbered(from, from + 1_000, PAD_BYTES)).await;
    }
    set.wait_replicated().await.expect("replicated");
    source.start_point().await.expect("start");
    let one = listed(source, "v.c").await;
    let mut scan = source.scan(&one, Range::default()).await.expect("scan");
    let first = scan.next().await.expect("read").expect("a batch");
    let found = ids(&documents(&first));
    assert!(found.len() < usize::try_from(MANY).expect("positive") / 4, "{}", found.len());
    // The reader has filled its channel and waits.
    tokio::time::sleep(Duration::from_millis(300)).await;
    (scan, found)
}

async fn finish(mut scan: Scan, mut found: Vec<i32>) {
    found.extend(ids(&drain(&mut scan).await.expect("goes on")));
    assert_eq!(found, (0..MANY).collect::<Vec<_>>());
    assert!(scan.next().await.expect("still ended").is_none());
}

#[tokio::test]
async fn a_rename_in_mid_scan_loses_nothing() {
    let (set, source) = set_and_source(1).await;
    let (scan, found) = begun(&set, &source).await;
    run(&set, "admin", doc! { "renameCollection": "v.c", "to": "v.elsewhere" }).await;
    insert(&set, "c", vec![doc! { "_id": 1_000_000 }]).await;
    finish(scan, found).await;
}

#[tokio::test]
async fn killed_cursors_and_operations_lose_nothing() {
    let (set, source) = set_and_source(1).await;
    let (mut scan, mut found) = begun(&set, &source).await;
    let mut killed = 0;
    for round in 0..4 {
        let idle = doc! { "aggregate": 1, "cursor": {}, "pipeline": [
            { "$currentOp": { "idleCursors": true } },
            { "$match": { "ns": "v.c", "cursor.cursorId": { "$exists": true } } },
        ] };
        let reply = run(&set, "admin", idle).await;
        let batch = reply.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
        for op in batch.expect("a batch").iter().filter_map(Bson::as_document) {
            let cursor = op.get_document("cursor").and_then(|cursor| cursor.get_i64("cursorId"));
            let cursors = vec![cursor.expect("an id")];
            run(&set, "v", doc! { "killCursors": "c", "cursors": cursors }).await;
            killed += 1;
        }
        match scan.next().await.expect("goes on") {
            Some(batch) => found.extend(ids(&documents(&batch))),
            None => panic!("ended in round {round}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(killed >= 2, "{killed}");
    finish(scan, found).await;
}

#[tokio::test]
async fn a_drop_in_mid_scan_is_told() {
    let (set, source) = set_and_source(1).await;
    let (mut scan, _) = begun(&set, &source).await;
    let one = listed(&source, "v.c").await;
    run(&set, "v", doc! { "drop": "c" }).await;
    let end = drain(&mut scan).await;
    assert!(matches!(end, Err(Error::Dropped(uuid)) if uuid == one.uuid), "{:?}", end.err());
}

#[tokio::test]
async fn out_over_a_listed_collection_gives_the_listed_one_or_its_drop() {
    let (set, source) = set_and_source(1).await;
    insert(&set, "from", numbered(0, 10, 1)).await;
    insert(&set, "to", numbered(100, 110, 1)).await;
    let (from, to) = (listed(&source, "v.from").await, listed(&source, "v.to").await);
    let out = doc! { "aggregate": "from", "cursor": {}, "pipeline": [{ "$out": "to" }] };
    run(&set, "v", out).await;
    assert_eq!(ids(&read(&source, &from, Range::default()).await), (0..10).collect::<Vec<_>>());
    let old = drain(&mut source.scan(&to, Range::default()).await.expect("scan")).await;
    assert!(matches!(old, Err(Error::Dropped(uuid)) if uuid == to.uuid));
    let new = listed(&source, "v.to").await;
    assert_ne!(new.uuid, to.uuid);
    assert_eq!(ids(&read(&source, &new, Range::default()).await), (0..10).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_interrupted_capped_scan_must_start_anew() {
    let (set, source) = set_and_source(1).await;
    run(&set, "v", doc! { "create": "c", "capped": true, "size": 64 << 20 }).await;
    let (mut scan, _) = begun(&set, &source).await;
    run(&set, "admin", doc! { "renameCollection": "v.c", "to": "v.elsewhere" }).await;
    let end = drain(&mut scan).await;
    assert!(matches!(end, Err(Error::Restart { .. })), "{:?}", end.err());
    let one = listed(&source, "v.elsewhere").await;
    let again = ids(&read(&source, &one, Range::default()).await);
    assert_eq!(again, (0..MANY).collect::<Vec<_>>());
}
