//! Points in time: what each form gives, and what is refused.

use std::time::Duration;

use bson::{Document, doc};
use headstock::block::stream;
use headstock::lab::{Detail, ReplicaSet, SourceState};
use headstock::oplog::{Ts, position, slice};
use headstock::restore::{At, Error, Request};

use crate::support::{Made, command, plan, request, restore, run, same, source, target};

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
        let mut session = set.client().start_session().await.expect("a session");
        session.start_transaction().await.expect("a transaction");
        for n in 0..3 {
            sums.insert_one(doc! { "_id": n }).session(&mut session).await.expect("insert");
        }
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
