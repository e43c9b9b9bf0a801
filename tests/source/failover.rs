//! Elections and lost members under a scan and a tail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bson::{Document, RawDocument, doc};
use headstock::lab::ReplicaSet;
use headstock::oplog::position;
use headstock::source::{Range, ReadFrom, Source};

use crate::support::{collection, documents, drain, entries, ids, listed, numbered, run};

const MANY: i32 = 6_000;
const PAD_BYTES: usize = 4_000;

async fn filled(set: &ReplicaSet) {
    for from in (0..MANY).step_by(1_000) {
        let part = numbered(from, from + 1_000, PAD_BYTES);
        collection(set, "c").insert_many(part).await.expect("insert");
    }
    set.wait_replicated().await.expect("replicated");
}

#[tokio::test]
async fn a_scan_goes_on_elsewhere_when_its_member_is_killed() {
    let mut set = ReplicaSet::of(3).await.expect("a set");
    filled(&set).await;
    let source = crate::support::source(&set).await;
    source.start_point().await.expect("start");
    let one = listed(&source, "v.c").await;
    let mut scan = source.scan(&one, Range::default()).await.expect("scan");
    let mut found = ids(&documents(&scan.next().await.expect("read").expect("a batch")));
    let victim = source.member().await.expect("member");
    let at = (0..3).find(|member| set.host(*member) == victim).expect("a member");
    set.kill(at).expect("kill");
    found.extend(ids(&drain(&mut scan).await.expect("goes on")));
    assert_eq!(found, (0..MANY).collect::<Vec<_>>());
    assert_ne!(source.member().await.expect("member"), victim);
    source.end_point().await.expect("end");
}

#[tokio::test]
async fn a_scan_of_the_primary_survives_its_step_down() {
    let set = ReplicaSet::of(3).await.expect("a set");
    filled(&set).await;
    let source = Source::connect(&set.uri(), ReadFrom::Primary).await.expect("connect");
    source.start_point().await.expect("start");
    let one = listed(&source, "v.c").await;
    let mut scan = source.scan(&one, Range::default()).await.expect("scan");
    let mut found = ids(&documents(&scan.next().await.expect("read").expect("a batch")));
    set.step_down().await.expect("step down");
    found.extend(ids(&drain(&mut scan).await.expect("goes on")));
    assert_eq!(found, (0..MANY).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_scan_begun_by_another_process_goes_on_from_another_member() {
    let set = ReplicaSet::of(3).await.expect("a set");
    filled(&set).await;
    let first = Source::connect(&set.uri(), ReadFrom::Secondary).await.expect("connect");
    let start = first.start_point().await.expect("start");
    let one = listed(&first, "v.c").await;
    let mut scan = first.scan(&one, Range::default()).await.expect("scan");
    let batch = documents(&scan.next().await.expect("read").expect("a batch"));
    drop(scan);
    let last = batch.last().expect("not empty").get("_id").expect("valid").expect("an id");
    let lower = Some(bson::rawdoc! { "_id": last });

    let second = Source::connect(&set.uri(), ReadFrom::Primary).await.expect("connect");
    assert_ne!(second.member().await.expect("member"), first.member().await.expect("member"));
    second.resume_scan_at(start.base.optime.ts);
    let rest = crate::support::read(&second, &one, Range { lower, upper: None }).await;
    let mut found = ids(&batch);
    found.extend(&ids(&rest)[1..]);
    assert_eq!(found, (0..MANY).collect::<Vec<_>>());
}

/// The `_id` of an insert into `v.t`.
fn inserted(entry: &RawDocument) -> Option<i32> {
    let insert = entry.get_str("op").ok()? == "i" && entry.get_str("ns").ok()? == "v.t";
    if insert { entry.get_document("o").ok()?.get_i32("_id").ok() } else { None }
}

#[tokio::test]
async fn a_tail_has_no_gap_and_no_repeat_over_elections_and_kills() {
    let mut set = ReplicaSet::of(3).await.expect("a set");
    let source = crate::support::source(&set).await;
    // From an entry that every member has: the oplogs of later members begin later.
    let concern = doc! { "w": 3 };
    let insert = doc! { "insert": "c", "documents": [{ "_id": 1 }], "writeConcern": concern };
    run(&set, "v", insert).await;
    let start = source.end_point().await.expect("end").optime;
    let mut tail = source.tail(start, false).await.expect("tail");
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(write(set.client().clone(), Arc::clone(&stop)));
    let reader =
        tokio::spawn(async move { entries(&mut tail, |entry| inserted(entry) == Some(-1)).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    set.step_down().await.expect("step down");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let member = source.member().await.expect("member");
    let at = (0..3).find(|one| set.host(*one) == member).expect("a member");
    set.kill(at).expect("kill");
    tokio::time::sleep(Duration::from_secs(2)).await;
    set.restart(at).await.expect("restart");
    set.wait_healthy().await.expect("healthy");
    set.step_down().await.expect("step down");
    tokio::time::sleep(Duration::from_millis(500)).await;
    stop.store(true, Ordering::Relaxed);
    let written = writer.await.expect("written");
    let found = reader.await.expect("read");

    let optimes: Vec<_> =
        found.iter().map(|entry| position(entry).expect("a position").optime).collect();
    assert!(optimes.windows(2).all(|pair| pair[0].ts < pair[1].ts), "a repeat");
    let seen: Vec<i32> = found.iter().filter_map(|entry| inserted(entry)).collect();
    let mut once = seen.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), seen.len(), "an entry came twice");
    assert!(written.len() > 10, "{}", written.len());
    for id in written {
        assert!(once.binary_search(&id).is_ok(), "acknowledged insert {id} is missing");
    }
    // What the tail has is what the oplog has between its ends.
    let oplog = set.client().database("local").collection::<Document>("oplog.rs");
    let (first, last) = (optimes[0].ts, optimes[optimes.len() - 1].ts);
    let between = doc! { "ts": { "$gte": bson::Timestamp::from(first), "$lte": bson::Timestamp::from(last) } };
    let count = oplog.count_documents(between).await.expect("count");
    assert_eq!(count, optimes.len() as u64, "entries of the oplog and of the tail");
}

#[tokio::test]
async fn an_entry_that_one_member_alone_still_has_is_read_from_it_in_an_election_too() {
    let set = ReplicaSet::of(3).await.expect("a set");
    // A member's oplog begins where its initial sync began: the set's first entry is the first
    // primary's alone.
    let primary = set.member(set.primary().await.expect("primary")).await.expect("client");
    let oplog = primary.database("local").collection::<bson::RawDocumentBuf>("oplog.rs");
    let oldest = oplog.find_one(doc! {}).await.expect("read").expect("an entry");
    let oldest = position(&oldest).expect("a position").optime;
    let source = crate::support::source(&set).await;
    let mut tail = source.tail(oldest, true).await.expect("tail");
    set.step_down().await.expect("step down");
    collection(&set, "t").insert_one(doc! { "_id": -1 }).await.expect("insert");
    let found = entries(&mut tail, |entry| inserted(entry) == Some(-1)).await;
    assert_eq!(position(&found[0]).expect("a position").optime, oldest);
}

/// Inserts one after another until told to stop, then -1; returns the acknowledged ones.
async fn write(client: mongodb::Client, stop: Arc<AtomicBool>) -> Vec<i32> {
    let concern = mongodb::options::WriteConcern::majority();
    let options = mongodb::options::CollectionOptions::builder().write_concern(concern).build();
    let numbers = client.database("v").collection_with_options::<Document>("t", options);
    let mut written = Vec::new();
    for n in 0.. {
        let last = stop.load(Ordering::Relaxed);
        let id = if last { -1 } else { n };
        match numbers.insert_one(doc! { "_id": id }).await {
            Ok(_) => written.push(id),
            // An election may leave it open whether the insert happened.
            Err(error) => {
                println!("insert {id}: {error}");
                if last && !error.to_string().contains("E11000") {
                    continue;
                }
            }
        }
        if last {
            break;
        }
    }
    written
}
