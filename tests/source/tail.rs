//! Tails: every majority-committed entry once, and what is told when that cannot be.

use std::time::{Duration, Instant};

use bson::{RawDocument, RawDocumentBuf, doc};
use headstock::lab::{Options, ReplicaSet};
use headstock::oplog::{OpTime, Ts, position};
use headstock::source::{Error, ReadFrom, Source};

use crate::support::{collection, entries, numbered, run, set_and_source, source};

/// The `_id` of an insert into `v.c`.
fn inserted(entry: &RawDocument) -> Option<i32> {
    let insert = entry.get_str("op").ok()? == "i" && entry.get_str("ns").ok()? == "v.c";
    if insert { entry.get_document("o").ok()?.get_i32("_id").ok() } else { None }
}

fn optimes(entries: &[RawDocumentBuf]) -> Vec<OpTime> {
    entries.iter().map(|entry| position(entry).expect("a position").optime).collect()
}

#[tokio::test]
async fn entries_come_once_from_the_start_given() {
    let (set, source) = set_and_source(1).await;
    let start = source.newest_majority().await.expect("newest").optime;
    collection(&set, "c").insert_many(numbered(0, 100, 10)).await.expect("insert");
    let mut tail = source.tail(start, true).await.expect("tail");
    let all = entries(&mut tail, |entry| inserted(entry) == Some(99)).await;
    assert_eq!(optimes(&all)[0], start);
    let seen: Vec<i32> = all.iter().filter_map(|entry| inserted(entry)).collect();
    assert_eq!(seen, (0..100).collect::<Vec<_>>());

    let mut after = source.tail(start, false).await.expect("tail");
    let rest = entries(&mut after, |entry| inserted(entry) == Some(99)).await;
    // A batch may bring what the server itself wrote since.
    let end = |all: &[RawDocumentBuf]| all.iter().position(|entry| inserted(entry) == Some(99));
    let (rest_end, all_end) = (end(&rest).expect("there"), end(&all).expect("there"));
    assert_eq!(optimes(&rest)[..=rest_end], optimes(&all)[1..=all_end]);

    // Quiet: an empty batch about every second.
    let since = Instant::now();
    let mut quiet = 0;
    while since.elapsed() < Duration::from_secs(5) {
        quiet += i32::from(tail.next().await.expect("tail").is_empty());
    }
    assert!((3..=8).contains(&quiet), "{quiet}");
    collection(&set, "c").insert_one(doc! { "_id": 1000 }).await.expect("insert");
    entries(&mut tail, |entry| inserted(entry) == Some(1000)).await;
}

#[tokio::test]
async fn a_cancelled_wait_loses_nothing() {
    let (set, source) = set_and_source(1).await;
    let start = source.newest_majority().await.expect("newest").optime;
    let mut tail = source.tail(start, false).await.expect("tail");
    let numbers = collection(&set, "c");
    let writer = tokio::spawn(async move {
        for n in 0..200 {
            numbers.insert_one(doc! { "_id": n }).await.expect("insert");
        }
    });
    let (mut seen, since) = (Vec::new(), Instant::now());
    while seen.last() != Some(&199) && since.elapsed() < Duration::from_secs(60) {
        if let Ok(batch) = tokio::time::timeout(Duration::from_millis(3), tail.next()).await {
            let found = crate::support::documents(&batch.expect("tail"));
            seen.extend(found.iter().filter_map(|entry| inserted(entry)));
        }
    }
    writer.await.expect("written");
    assert_eq!(seen, (0..200).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_start_before_the_oplog_is_told_as_fallen_off() {
    let (_set, source) = set_and_source(1).await;
    let newest = source.newest_majority().await.expect("newest").optime;
    let long_ago = OpTime { ts: Ts { secs: newest.ts.secs - 1_000_000, inc: 1 }, term: 1 };
    let error =
        source.tail(long_ago, false).await.expect("tail").next().await.expect_err("no such");
    match error {
        Error::FellOff { oldest, from, .. } => assert!(from == long_ago && oldest > from),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn an_oplog_that_wrapped_is_told_as_fallen_off() {
    let options = Options {
        oplog_mb: 1,
        arguments: vec!["--syncdelay".to_owned(), "1".to_owned()],
        ..Options::members(1)
    };
    let set = ReplicaSet::start(options).await.expect("start");
    let source = source(&set).await;
    let start = source.newest_majority().await.expect("newest").optime;
    let since = Instant::now();
    let mut from = 0;
    loop {
        // Truncation runs in the background, in steps, behind the last checkpoint.
        collection(&set, "c")
            .insert_many(numbered(from, from + 500, 10_000))
            .await
            .expect("insert");
        from += 500;
        let oldest = doc! { "find": "oplog.rs", "limit": 1, "projection": { "ts": 1 } };
        let reply = run(&set, "local", oldest).await;
        let batch = reply.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
        let first = batch.expect("a batch")[0].as_document().expect("an entry");
        if Ts::from(first.get_timestamp("ts").expect("ts")) > start.ts {
            break;
        }
        assert!(since.elapsed() < Duration::from_secs(60), "the oplog never wrapped");
    }
    let error = source.tail(start, false).await.expect("tail").next().await.expect_err("gone");
    assert!(matches!(error, Error::FellOff { .. }), "{error}");
}

#[tokio::test]
async fn another_history_is_told_as_diverged() {
    let (set, source) = set_and_source(1).await;
    let first = source.newest_majority().await.expect("newest").optime;
    collection(&set, "c").insert_many(numbered(0, 10, 10)).await.expect("insert");
    let newest = source.newest_majority().await.expect("newest").optime;
    let other_term = OpTime { term: newest.term + 1, ..newest };
    let between = OpTime { ts: Ts { inc: newest.ts.inc + 1_000, ..first.ts }, ..first };
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    collection(&set, "c").insert_one(doc! { "_id": 100 }).await.expect("insert");
    for (from, what) in [(other_term, "another term"), (between, "no such entry")] {
        let error = source.tail(from, false).await.expect("tail").next().await.expect_err(what);
        match error {
            Error::Diverged { expected, found, .. } => assert!(expected == from && found != from),
            other => panic!("{what}: {other}"),
        }
    }
}

#[tokio::test]
async fn another_set_of_the_same_name_is_noticed() {
    let (mine, other) = (ReplicaSet::of(1).await.expect("a"), ReplicaSet::of(1).await.expect("b"));
    let source = source(&mine).await;
    // Sets begun in the same second have optimes in common: this one gets some that the other lacks.
    let many = (0..40).map(|n| doc! { "_id": n });
    collection(&mine, "c").insert_many(many).await.expect("insert");
    let start = source.newest_majority().await.expect("newest").optime;
    let elsewhere = Source::connect(&other.uri(), ReadFrom::default()).await.expect("connect");
    collection(&other, "c").insert_one(doc! { "_id": 1 }).await.expect("insert");
    let error = elsewhere.tail(start, false).await.expect("tail").next().await.expect_err("other");
    assert!(matches!(error, Error::Diverged { .. } | Error::FellOff { .. }), "{error}");
    // Both seeds: whichever is read first fixes the identity; a source never mixes them.
    let both = format!("mongodb://{},{}/", mine.host(0), other.host(0));
    let mixed = Source::connect(&both, ReadFrom::default()).await.expect("connect");
    let identity = mixed.identity().await.expect("identity");
    let ids = [source.identity().await.expect("id"), elsewhere.identity().await.expect("id")];
    assert!(ids.contains(&identity));
}
