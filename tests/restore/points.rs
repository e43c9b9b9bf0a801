//! Points in time: what each form gives, and what is refused.

use std::collections::BTreeSet;
use std::time::Duration;

use bson::{Document, RawDocument, Timestamp, doc, rawdoc};
use headstock::block::stream;
use headstock::lab::{self, Detail, ReplicaSet, SourceState};
use headstock::oplog::slice::{Slice, SliceHeader};
use headstock::oplog::{OpTime, Ts, position, slice};
use headstock::restore::{At, Backup, Error, Limit, Request, Span};
use mongodb::ClientSession;

use crate::support::{Made, command, plan, request, restore, run, same, shard, source, target};

async fn write(set: &ReplicaSet, step: i32) -> SourceState {
    let db = set.client().database("timed");
    let numbers = db.collection::<Document>("numbers");
    numbers
        .insert_many((0..50).map(|n| doc! { "_id": step * 100 + n, "step": step }))
        .await
        .expect("insert");
    numbers
        .update_many(doc! { "_id": { "$mod": [3, 0] } }, doc! { "$set": { "last": step } })
        .await
        .expect("update");
    numbers.delete_many(doc! { "_id": { "$mod": [7, step] } }).await.expect("delete");
    db.collection::<Document>(&format!("made_{step}"))
        .insert_one(doc! { "_id": step })
        .await
        .expect("insert");
    SourceState::capture(set.client(), Detail::Documents).await.expect("a state")
}

#[test]
fn every_recorded_point_is_given_back() {
    run(async {
        let set = source(1).await;
        let first = write(&set, 0).await;
        let mut made = Made::of(&set).await;
        let mut states = vec![(made.at.ts, first)];
        for step in 1..5 {
            // A second of its own for each step, so that whole seconds can be asked for.
            tokio::time::sleep(Duration::from_millis(1100)).await;
            let state = write(&set, step).await;
            states.push((made.add_slice(&set).await.ts, state));
        }
        let server = target().await;
        let ask = |at: At| Request { at, ..request(&server.uri(), &["timed"]) };
        for (ts, state) in states.iter().rev() {
            let asked = headstock::restore::Request {
                existing: headstock::restore::Existing::Exact,
                ..ask(At::Exact(*ts))
            };
            let report = restore(&made.backup, asked).await.expect("a restore");
            assert_eq!((report.plan.point.t, report.plan.point.i), (ts.secs, ts.inc));
            same(&["timed"], state, server.client()).await;
        }
        let (middle, state) = &states[2];
        let at: At = headstock::restore::rfc3339(middle.secs).parse().expect("a time");
        let asked = Request { existing: headstock::restore::Existing::Exact, ..ask(at) };
        restore(&made.backup, asked).await.expect("a restore");
        same(&["timed"], state, server.client()).await;
        let latest = plan(&made.backup, ask(At::Latest)).await.expect("a plan");
        assert_eq!(latest.point.t, states[4].0.secs);
        let id = made.backup.snapshots[0].id.clone();
        let snapshot = plan(&made.backup, ask(At::Snapshot(id))).await.expect("a plan");
        assert_eq!((snapshot.point.t, snapshot.point.slices), (states[0].0.secs, 0));

        let newest = states[4].0;
        let refused =
            plan(&made.backup, ask(At::Exact(Ts { inc: newest.inc + 1, ..newest }))).await;
        assert!(
            matches!(&refused, Err(Error::TooLate { nearest, .. }) if nearest.below == Some(newest)),
            "{refused:?}"
        );
        // More could still be stamped in the newest second.
        let refused = plan(&made.backup, ask(At::Time(newest.secs))).await;
        assert!(matches!(refused, Err(Error::TooLate { .. })), "{refused:?}");
        let refused = plan(&made.backup, ask(At::Time(made.at.ts.secs - 1))).await;
        assert!(
            matches!(&refused, Err(Error::TooEarly { nearest, .. }) if nearest.above == Some(made.at.ts)),
            "{refused:?}"
        );
        let refused = plan(&made.backup, ask(At::Snapshot("no".to_owned()))).await;
        assert!(matches!(&refused, Err(Error::UnknownSnapshot { .. })), "{refused:?}");

        made.backup.slices.remove(1);
        let refused = plan(&made.backup, ask(At::Exact(states[3].0))).await;
        assert!(
            matches!(&refused, Err(Error::Gap { nearest, .. }) if nearest.below == Some(states[1].0)),
            "{refused:?}"
        );
        let latest = plan(&made.backup, ask(At::Latest)).await.expect("up to the gap");
        assert_eq!(latest.point.t, states[1].0.secs);
    });
}

/// A point between the entries of a transaction has nothing of it.
#[test]
fn transactions_are_whole_at_every_point() {
    run(async {
        let set = source(1).await;
        command(set.client(), "timed", doc! { "create": "sums" }).await;
        let mut made = Made::of(&set).await;
        let sums = set.client().database("timed").collection::<Document>("sums");
        let inserts = (0..3).map(|n| doc! { "insert": "sums", "documents": [{ "_id": n }] });
        let inserts = inserts.collect::<Vec<_>>();
        let begun = lab::transaction(set.client(), "timed", &inserts).await;
        let mut session = begun.expect("a transaction");
        session.commit_transaction().await.expect("commit");
        sums.insert_one(doc! { "_id": "after" }).await.expect("insert");
        made.add_slice(&set).await;
        let slice = &made.backup.slices[0];
        let bytes = stream::read(&made.store, &slice.pieces).expect("a slice");
        let server = target().await;
        let mut counts = Vec::new();
        for entry in slice::entries(&bytes) {
            let at = position(entry.expect("an entry")).expect("a position").optime.ts;
            let asked = Request { at: At::Exact(at), ..request(&server.uri(), &["timed"]) };
            let report = plan(&made.backup, asked).await.expect("a plan");
            counts.push(report.documents);
        }
        counts.dedup();
        assert_eq!(counts, [0, 3, 4], "a transaction was cut");
    });
}

/// A transaction that inserts one document and is prepared.
async fn prepare(set: &ReplicaSet, id: &str) -> (ClientSession, Timestamp) {
    let insert = doc! { "insert": "sums", "documents": [{ "_id": id }] };
    let begun = lab::transaction(set.client(), "timed", &[insert]).await;
    let mut session = begun.expect("a transaction");
    let admin = set.client().database("admin");
    let prepared = admin.run_command(doc! { "prepareTransaction": 1 }).session(&mut session).await;
    let at = prepared.expect("prepare").get_timestamp("prepareTimestamp").expect("a timestamp");
    (session, at)
}

async fn insert(set: &ReplicaSet, id: &str) {
    let others = set.client().database("timed").collection::<Document>("others");
    others.insert_one(doc! { "_id": id }).await.expect("insert");
}

/// Timestamps of the entries of a slice.
pub fn stamps(made: &Made, slice: &Slice) -> Vec<Ts> {
    let bytes = stream::read(&made.store, &slice.pieces).expect("a slice");
    let at = |entry: Result<&RawDocument, _>| position(entry.expect("an entry"));
    slice::entries(&bytes).map(|entry| at(entry).expect("a position").optime.ts).collect()
}

/// Asks for every timestamp at and around every entry that ever was: what is given back and what is
/// refused is what the spans say, and a refusal names the nearest.
async fn spans_are_exact(made: &Made, slices: &[Slice], gaps: &[OpTime]) -> Vec<Span> {
    let (slices, gaps) = (slices.to_vec(), gaps.to_vec());
    let backup = Backup { slices, gaps, ..made.backup.clone() };
    let spans = backup.spans().expect("spans");
    let mut entries: Vec<Ts> =
        made.backup.snapshots.iter().map(|one| one.head.position.optime.ts).collect();
    entries.extend(made.backup.slices.iter().flat_map(|slice| stamps(made, slice)));
    entries.sort_unstable();
    let around = |ts: &Ts| [ts.inc - 1, ts.inc, ts.inc + 1].map(|inc| Ts { inc, ..*ts });
    let asked: BTreeSet<Ts> = entries.iter().flat_map(around).collect();
    let dir = tempfile::tempdir().expect("a directory");
    let target = format!("dump:{}", dir.path().join("dump").display());
    let ask = |at: At| Request { at, ..request(&target, &[]) };
    for ts in asked {
        let outcome = plan(&backup, ask(At::Exact(ts))).await;
        assert_eq!(outcome.is_ok(), spans.iter().any(|span| span.holds(ts)), "{ts}: {outcome:?}");
        match outcome {
            Ok(plan) => {
                let last = entries.iter().rfind(|entry| **entry <= ts).expect("an entry");
                assert_eq!((plan.point.t, plan.point.i), (last.secs, last.inc), "{ts}");
            }
            Err(
                Error::TooEarly { nearest, .. }
                | Error::TooLate { nearest, .. }
                | Error::Gap { nearest, .. }
                | Error::Undecided { nearest, .. }
                | Error::NotApplied { nearest, .. },
            ) => {
                let below = spans.iter().rfind(|span| span.to.optime.ts < ts);
                let above = spans.iter().find(|span| span.from.optime.ts > ts);
                assert_eq!(nearest.below, below.map(|span| span.to.optime.ts), "{ts}");
                assert_eq!(nearest.above, above.map(|span| span.from.optime.ts), "{ts}");
            }
            Err(other) => panic!("{ts}: {other}"),
        }
    }
    let latest = plan(&backup, ask(At::Latest)).await.expect("a plan").point;
    let newest = spans.last().expect("a span").to.optime.ts;
    let newest = entries.iter().rfind(|entry| **entry <= newest).expect("an entry");
    assert_eq!((latest.t, latest.i), (newest.secs, newest.inc), "latest");
    spans
}

/// Gaps, prepared transactions that are decided later or not at all, an entry of an unknown kind.
#[test]
fn what_is_told_to_be_restorable_is_and_nothing_else() {
    run(async {
        let set = shard().await;
        for name in ["sums", "others"] {
            command(set.client(), "timed", doc! { "create": name }).await;
        }
        let mut made = Made::of(&set).await;
        insert(&set, "1").await;
        let (mut session, first) = prepare(&set, "first").await;
        insert(&set, "2").await;
        made.add_slice(&set).await;
        // A snapshot with the transaction open.
        made.add_snapshot();
        insert(&set, "3").await;
        made.add_slice(&set).await;
        set.wait_replicated().await.expect("replicated");
        let commit = doc! { "commitTransaction": 1, "commitTimestamp": first };
        let admin = set.client().database("admin");
        admin.run_command(commit).session(&mut session).await.expect("commit");
        insert(&set, "4").await;
        made.add_slice(&set).await;
        insert(&set, "lost").await;
        let third = made.scan_again(&set).await.ts;
        insert(&set, "5").await;
        made.add_slice(&set).await;
        let (_open, last) = prepare(&set, "last").await;
        insert(&set, "6").await;
        made.add_slice(&set).await;

        let all = made.backup.slices.clone();
        let limits = |spans: &[Span]| spans.iter().map(|span| span.limit).collect::<Vec<_>>();
        let undecided = |at: Timestamp| Some(Limit::Undecided(at.into()));
        let spans = spans_are_exact(&made, &all, &[]).await;
        assert_eq!(limits(&spans), [None, undecided(last)]);
        assert_eq!((spans[0].from.optime, spans[1].from.optime.ts), (made.at, third));
        // The commit is lost: nothing from the prepare on, not even the snapshot taken after it.
        let spans = spans_are_exact(&made, &[&all[..2], &all[3..]].concat(), &[]).await;
        assert_eq!(limits(&spans), [undecided(first), undecided(last)]);
        let spans = spans_are_exact(&made, &all[3..], &[]).await;
        assert_eq!(spans.len(), 2, "{spans:?}");
        assert_eq!((spans[0].from, limits(&spans)[0]), (spans[0].to, None));
        // Only the oplog from the snapshot with the open transaction on.
        let spans = spans_are_exact(&made, &all[1..3], &[]).await;
        let second = made.backup.snapshots[1].head.position;
        assert_eq!((spans.len(), spans[1].from), (3, second), "{spans:?}");

        // Nothing goes on from what stands before a gap: one inside a slice, one between two, and one
        // behind which the transaction is decided.
        for (slice, place) in [(0, 0), (3, usize::MAX), (1, 0)] {
            let stamps = stamps(&made, &all[slice]);
            let ts = stamps[place.min(stamps.len() - 1)];
            let gap = OpTime { ts, term: made.at.term };
            let spans = spans_are_exact(&made, &all, &[gap]).await;
            let next = Some(Limit::Gap(Ts { inc: ts.inc + 1, ..ts }));
            let expected = if slice == 1 { undecided(first) } else { next };
            assert!(limits(&spans).contains(&expected), "{gap}: {spans:?}");
        }

        // One that begins at a snapshot leaves the snapshot.
        let at = made.backup.snapshots[2].head.position;
        let spans = spans_are_exact(&made, &all, &[at.optime]).await;
        let lone = spans.last().expect("a span");
        assert_eq!((lone.from.optime, lone.to.optime.ts), (at.optime, at.optime.ts), "{spans:?}");

        let entry = |inc: u32, op: &str| {
            let ts = Timestamp { time: last.time + 60, increment: inc };
            rawdoc! { "ts": ts, "t": 1_i64, "v": 2_i64, "op": op, "ns": "", "o": {} }
        };
        made.add_entries(&[entry(1, "n"), entry(3, "zz"), entry(5, "n")]);
        made.backup.slices.remove(4);
        let slice = made.backup.slices.remove(4);
        made.backup.slices.push(Slice {
            header: SliceHeader { prev: all[3].header.last.optime, ..slice.header },
            pieces: slice.pieces,
        });
        let slices = made.backup.slices.clone();
        let spans = spans_are_exact(&made, &slices, &[]).await;
        let unknown = Some(Limit::Unknown(Ts { secs: last.time + 60, inc: 3 }));
        assert_eq!(limits(&spans), [None, unknown]);
    });
}

/// From its commitTimestamp on a prepared transaction is there, before its commit entry.
#[test]
fn a_prepared_transaction_is_there_from_its_commit_timestamp_on() {
    run(async {
        let set = shard().await;
        command(set.client(), "timed", doc! { "create": "sums" }).await;
        command(set.client(), "timed", doc! { "create": "others" }).await;
        let mut made = Made::of(&set).await;
        let (mut session, prepared) = prepare(&set, "one").await;
        insert(&set, "between").await;
        set.wait_replicated().await.expect("replicated");
        let commit_ts = Timestamp { increment: prepared.increment + 1, ..prepared };
        let commit = doc! { "commitTransaction": 1, "commitTimestamp": commit_ts };
        let admin = set.client().database("admin");
        admin.run_command(commit).session(&mut session).await.expect("commit");
        made.add_slice(&set).await;
        let dir = tempfile::tempdir().expect("a directory");
        let target = format!("dump:{}", dir.path().join("dump").display());
        for (ts, expected) in [(prepared, 0), (commit_ts, 1)] {
            let at = At::Exact(ts.into());
            let asked = Request { at, ..request(&target, &["timed.sums"]) };
            assert_eq!(plan(&made.backup, asked).await.expect("a plan").documents, expected);
        }
    });
}

#[test]
fn forms_of_a_point() {
    assert_eq!("latest".parse(), Ok(At::Latest));
    assert_eq!("17,3".parse(), Ok(At::Exact(Ts { secs: 17, inc: 3 })));
    assert_eq!("2026-05-04T12:00:00Z".parse(), Ok(At::Time(1_777_896_000)));
    assert_eq!("2026-05-04T12:00:00+02:00".parse(), Ok(At::Time(1_777_888_800)));
    assert_eq!(
        "0001777896.0000000001-abcd".parse(),
        Ok(At::Snapshot("0001777896.0000000001-abcd".to_owned()))
    );
    for (text, part) in [
        ("", "empty"),
        ("2026-05-04T12:00:00", "zone"),
        ("2026-05-04", "zone"),
        ("2026-05-04T12:00:00.5Z", "fraction"),
        ("2026-05-04T12:00:00.000Z", "fraction"),
        ("2026-13-04T12:00:00Z", "RFC 3339"),
        ("1969-05-04T12:00:00Z", "range"),
        ("17,", "SECS,INC"),
        ("17,-1", "SECS,INC"),
        ("17,4294967296", "SECS,INC"),
    ] {
        let refused = text.parse::<At>().expect_err(text).to_string();
        assert!(refused.contains(part), "{text}: {refused}");
    }
}
