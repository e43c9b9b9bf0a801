//! Every version of one document: what a log tells is what each point holds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bson::raw::RawBson;
use bson::{Document, RawDocumentBuf, Timestamp, doc};
use headstock::inspect::{self, Change, Id, Line, json_of_id};
use headstock::lab::{self, Plan, ReplicaSet, Workload};
use headstock::oplog::{Ts, Uuid};
use headstock::restore::{At, Backup, Cancel, Silent, Span, View};
use headstock::tree::{Cursor, Key};
use mongodb::Collection;

use crate::points::stamps;
use crate::support::{Made, command, run, shard, source};

/// A version, owned.
#[derive(Debug, Clone, PartialEq)]
struct Told {
    at: Ts,
    change: Change,
    ns: String,
    uuid: Option<Uuid>,
    document: Option<RawDocumentBuf>,
}

/// The versions that a log tells, and the points behind its gaps.
fn told(backup: &Backup, ns: &str, id: &Id) -> (Vec<Told>, Vec<Ts>) {
    let (mut versions, mut gaps) = (Vec::new(), Vec::new());
    let mut each = |line: Line<'_>| {
        match line {
            Line::Version(version) => versions.push(Told {
                at: version.at,
                change: version.change,
                ns: version.ns.to_owned(),
                uuid: version.uuid,
                document: version.document.map(ToOwned::to_owned),
            }),
            Line::Gap { until, .. } => gaps.push(until.optime.ts),
            Line::Note(text) => panic!("{text}"),
        }
        Ok(())
    };
    inspect::log(backup, ns, id, &Silent, &Cancel::new(), &mut each).expect("a log");
    (versions, gaps)
}

/// Name and document by collection.
type State = BTreeMap<Uuid, (String, RawDocumentBuf)>;

/// What the log says is there at a point.
fn replayed(versions: &[Told], gaps: &[Ts], at: Ts) -> State {
    let begin = gaps.iter().rfind(|gap| **gap <= at).copied().unwrap_or(Ts::ZERO);
    let mut state = State::new();
    for version in versions.iter().filter(|version| begin <= version.at && version.at <= at) {
        let Some(uuid) = version.uuid else { continue };
        match &version.document {
            Some(document) => {
                let now = (version.ns.clone(), document.clone());
                let before = state.insert(uuid, now.clone());
                assert_ne!(before, Some(now), "a version that is none: {version:?}");
            }
            None => assert!(state.remove(&uuid).is_some(), "it was not there: {version:?}"),
        }
    }
    state
}

/// What a view holds of the document, in the collections that the log is about.
fn held(view: &View, id: &Id, about: &BTreeSet<Uuid>) -> State {
    let mut state = State::new();
    for collection in view.collections().iter().filter(|one| about.contains(&one.uuid)) {
        let found = inspect::get(view, &collection.ns, id).expect("a look");
        state.extend(found.map(|found| (collection.uuid, (collection.ns.clone(), found))));
    }
    state
}

/// Views of a backup at some points.
fn views(backup: &Backup, points: &[Ts]) -> Vec<(Ts, View)> {
    let view = |at: &Ts| {
        let view = View::open(backup.clone(), &At::Exact(*at), &Silent, &Cancel::new());
        (*at, view.expect("a view"))
    };
    points.iter().map(view).collect()
}

/// At every one of some points the log's state is the view's.
fn a_log_is_exact(backup: &Backup, ns: &str, ids: &[Id], views: &[(Ts, &View)]) {
    let logs: Vec<_> = ids.iter().map(|id| told(backup, ns, id)).collect();
    let named = views.iter().filter_map(|(_, view)| view.collection(ns)).map(|one| one.uuid);
    let about: BTreeSet<Uuid> = named.collect();
    for (at, view) in views {
        for (id, (versions, gaps)) in ids.iter().zip(&logs) {
            let mut replayed = replayed(versions, gaps, *at);
            // Another may have the name only between two of the points.
            replayed.retain(|uuid, _| about.contains(uuid));
            assert_eq!(replayed, held(view, id, &about), "{id} at {at}: {versions:#?}");
        }
    }
}

/// A transaction that updates documents and is prepared.
async fn prepared(
    set: &ReplicaSet,
    docs: &Collection<Document>,
    to: i32,
) -> (mongodb::ClientSession, Timestamp) {
    let mongodb::Namespace { db, coll } = docs.namespace();
    let updates = [to - 1, to].map(|n| doc! { "q": { "_id": 1 }, "u": { "$set": { "n": n } } });
    let update = doc! { "update": coll, "updates": updates.to_vec() };
    let begun = lab::transaction(set.client(), &db, &[update]).await;
    let mut session = begun.expect("a transaction");
    let admin = set.client().database("admin");
    let prepared = admin.run_command(doc! { "prepareTransaction": 1 }).session(&mut session).await;
    let at = prepared.expect("prepare").get_timestamp("prepareTimestamp").expect("a timestamp");
    set.wait_replicated().await.expect("replicated");
    (session, at)
}

async fn commit(set: &ReplicaSet, session: &mut mongodb::ClientSession, at: Timestamp) {
    let commit = doc! { "commitTransaction": 1, "commitTimestamp": at };
    set.client().database("admin").run_command(commit).session(session).await.expect("commit");
}

async fn rename(set: &ReplicaSet, from: &str, to: &str) {
    let rename = doc! { "renameCollection": from, "to": to, "dropTarget": true };
    command(set.client(), "admin", rename).await;
}

/// All that can become of a document and its collection before the gap.
async fn live_through(set: &ReplicaSet, made: &mut Made) {
    let db = set.client().database("life");
    let docs = db.collection::<Document>("docs");
    let one = || doc! { "_id": 1 };
    docs.update_one(one(), doc! { "$set": { "n": 1 } }).await.expect("update");
    docs.replace_one(one(), doc! { "n": 2, "x": [1, 2] }).await.expect("replace");
    docs.replace_one(one(), doc! { "n": 2, "x": [1, 2] }).await.expect("the same");
    docs.replace_one(one(), doc! { "_id": 1.0, "n": 2 }).await.expect("another type");
    docs.update_one(doc! { "_id": 2 }, doc! { "$set": { "n": 1 } }).await.expect("another");
    let mut session = set.client().start_session().await.expect("a session");
    session.start_transaction().await.expect("a transaction");
    for n in 3..5 {
        let update = doc! { "$set": { "n": n } };
        docs.update_one(one(), update).session(&mut session).await.expect("update");
    }
    docs.delete_one(doc! { "_id": 2 }).session(&mut session).await.expect("delete");
    session.commit_transaction().await.expect("commit");
    made.add_slice(set).await;
    docs.delete_one(one()).await.expect("delete");
    docs.insert_one(doc! { "_id": 1, "n": 5 }).await.expect("insert");
    rename(set, "life.docs", "life.other").await;
    let other = db.collection::<Document>("other");
    other.update_one(one(), doc! { "$inc": { "n": 1 } }).await.expect("update");
    docs.insert_one(doc! { "_id": 1, "second": true }).await.expect("insert");
    let (mut session, _) = prepared(set, &other, 8).await;
    made.add_slice(set).await;
    made.add_snapshot();
    docs.insert_one(doc! { "_id": 3 }).await.expect("insert");
    other.update_one(doc! { "_id": 4 }, doc! { "$set": { "n": 1 } }).await.expect("update");
    session.abort_transaction().await.expect("abort");
    let (mut session, at) = prepared(set, &other, 10).await;
    made.add_slice(set).await;
    made.add_snapshot();
    other.update_one(doc! { "_id": 4 }, doc! { "$set": { "n": 2 } }).await.expect("update");
    docs.delete_many(doc! {}).await.expect("delete");
    commit(set, &mut session, at).await;
    rename(set, "life.other", "life.docs").await;
    docs.update_one(one(), doc! { "$set": { "n": 11 } }).await.expect("update");
    made.add_slice(set).await;
}

#[test]
fn a_log_tells_every_version_and_nothing_else() {
    run(async {
        let set = shard().await;
        let db = set.client().database("life");
        let docs = db.collection::<Document>("docs");
        docs.insert_many((1..5).map(|n| doc! { "_id": n, "n": 0 })).await.expect("insert");
        db.collection("never").insert_one(doc! { "_id": 1, "never": true }).await.expect("insert");
        let mut made = Made::of(&set).await;
        live_through(&set, &mut made).await;
        docs.update_one(doc! { "_id": 1 }, doc! { "$set": { "n": 12 } }).await.expect("lost");
        made.scan_again(&set).await;
        docs.update_one(doc! { "_id": 1 }, doc! { "$set": { "n": 13 } }).await.expect("update");
        command(set.client(), "life", doc! { "drop": "docs" }).await;
        let create = doc! { "create": "docs", "capped": true, "size": 4096 };
        command(set.client(), "life", create).await;
        docs.insert_one(doc! { "_id": 1, "capped": true }).await.expect("insert");
        made.add_slice(&set).await;

        let one: Id = "1".parse().expect("an _id");
        let (versions, gaps) = told(&made.backup, "life.docs", &one);
        use Change::{Absent, Deleted, Dropped, Found, Inserted, Renamed, Replaced, Updated};
        let changes: Vec<_> = versions.iter().map(|version| version.change).collect();
        let before = [Found, Updated, Replaced, Replaced, Updated, Deleted, Inserted, Renamed];
        let between = [Updated, Inserted, Deleted, Updated, Renamed, Updated];
        let after = [Found, Updated, Dropped, Inserted];
        assert_eq!(changes, [&before[..], &between[..], &after[..]].concat(), "{versions:#?}");
        assert_eq!(gaps.len(), 1);
        let numbers =
            versions.iter().filter_map(|version| version.document.as_ref()?.get_i32("n").ok());
        let numbers: Vec<_> = numbers.collect();
        assert_eq!(numbers, [0, 1, 2, 2, 4, 5, 5, 6, 10, 10, 11, 12, 13]);
        let id = versions[3].document.as_ref().expect("a document").get("_id").expect("valid");
        assert_eq!(id.map(RawBson::from), Some(RawBson::Double(1.0)));

        let spans = made.backup.spans().expect("spans");
        let mut points: Vec<Ts> =
            made.backup.slices.iter().flat_map(|one| stamps(&made, one)).collect();
        points.extend(spans.iter().map(|span| span.from.optime.ts));
        let next = |ts: &Ts| Ts { inc: ts.inc + 1, ..*ts };
        points.extend(points.iter().map(next).collect::<Vec<_>>());
        points.retain(|ts| spans.iter().any(|span| span.holds(*ts)));
        let ids: Vec<Id> =
            ["1", "2", "3", "4", "\"no\""].map(|id| id.parse().expect("an _id")).into();
        let views = views(&made.backup, &points);
        let within = |spans: &[Span]| -> Vec<(Ts, &View)> {
            let held = |ts: Ts| spans.iter().any(|span| span.holds(ts));
            views.iter().filter(|(ts, _)| held(*ts)).map(|(ts, view)| (*ts, view)).collect()
        };
        a_log_is_exact(&made.backup, "life.docs", &ids, &within(&spans));
        // From each snapshot alone: two have a transaction open, of which one is visible at once.
        for first in 1..=made.backup.slices.len() {
            let slices = made.backup.slices[first..].to_vec();
            let backup = Backup { slices, ..made.backup.clone() };
            let spans = backup.spans().expect("spans");
            a_log_is_exact(&backup, "life.docs", &ids, &within(&spans));
        }
        let (absent, _) = told(&made.backup, "life.docs", &ids[4]);
        assert!(absent.iter().all(|version| version.change == Absent) && absent.len() == 2);
        let refused =
            inspect::log(&made.backup, "life.nothing", &one, &Silent, &Cancel::new(), &mut |_| {
                Ok(())
            });
        assert!(matches!(refused, Err(inspect::Error::NoCollection { .. })), "{refused:?}");
    });
}

/// Whatever a seeded workload does to documents of every collection.
#[test]
fn a_log_follows_a_workload() {
    run(async {
        let seed =
            std::env::var("HEADSTOCK_SEED").map_or(5, |seed| seed.parse().expect("a number"));
        println!("seed {seed}");
        let set = source(1).await;
        let plan = Plan { preload: 300, ids: 20, ..Plan::small(seed) };
        let mut workload = Workload::start(set.client(), &plan).await.expect("a workload");
        workload.pause(&set, headstock::lab::Detail::Collections).await.expect("pause");
        let mut made = Made::of(&set).await;
        workload.resume();
        tokio::time::sleep(Duration::from_secs(5)).await;
        workload.stop().await;
        made.add_slice(&set).await;
        let stamps = stamps(&made, &made.backup.slices[0]);
        let points: Vec<Ts> = (0..6).map(|n| stamps[n * (stamps.len() - 1) / 5]).collect();
        let views = views(&made.backup, &points);
        let views: Vec<_> = views.iter().map(|(ts, view)| (*ts, view)).collect();
        let newest = views[5].1;
        let mut followed = 0;
        for collection in newest.collections() {
            let mut cursor = Cursor::new(newest.blocks(), &collection.root);
            let mut ids = Vec::new();
            while let Some(document) = cursor.next().expect("a document").filter(|_| ids.len() < 4)
            {
                let id: Id = json_of_id(&document).parse().expect("an _id");
                assert_eq!(*id.key(), Key::of_document(&document).expect("a key"));
                ids.push(id);
            }
            if !collection.ns.starts_with("config.") && !ids.is_empty() {
                a_log_is_exact(&made.backup, &collection.ns, &ids, &views);
                followed += ids.len();
            }
        }
        assert!(followed > 20, "{followed}");
    });
}
