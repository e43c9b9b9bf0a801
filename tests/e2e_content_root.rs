//! A head that was scanned while writers worked and then followed the oplog has the content root of a
//! fresh scan at the same optime, capped collections that wrapped included; and since equal content is
//! equal blocks, the fresh scan adds next to nothing to the store.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use bson::{Document, doc};
use headstock::head::content_root::content_root;
use headstock::head::{self, Collection};
use headstock::job;
use headstock::lab::{Backup, Detail, Plan, Program, ReplicaSet, Workload};
use headstock::oplog::Uuid;
use tokio::time::sleep;

/// The collections of the newest snapshot of a job.
fn catalog(store: &Path, job: &str) -> BTreeMap<Uuid, Collection> {
    let backup = job::open_backup(store, Some(job)).expect("open the store");
    let newest = backup.snapshots.iter().max_by_key(|manifest| manifest.head.position.optime.ts);
    let blocks = backup.repository.blocks();
    let found = head::catalog(&*blocks, &newest.expect("a snapshot").head).expect("catalog");
    found.into_iter().map(|collection| (collection.uuid, collection)).collect()
}

/// What differs between the followed job and a fresh one, in words.
fn differing(store: &Path, fresh: &str) -> Vec<String> {
    let (followed, fresh) = (catalog(store, "followed"), catalog(store, fresh));
    let all: BTreeSet<&Uuid> = followed.keys().chain(fresh.keys()).collect();
    let mut report = Vec::new();
    for uuid in all {
        match (followed.get(uuid), fresh.get(uuid)) {
            (Some(one), Some(other)) => {
                let hash = |collection| content_root(&[collection]).expect("valid BSON");
                if hash(one) != hash(other) {
                    report.push(format!("followed {one:?}\nfresh    {other:?}"));
                }
            }
            (Some(one), None) => report.push(format!("{} is in the followed head only", one.ns)),
            (None, Some(one)) => report.push(format!("{} is in the fresh head only", one.ns)),
            (None, None) => {}
        }
    }
    report
}

/// Waits until the capped collection begins with another document than it ever did, and some seconds at least.
async fn wait_until_wrapped(set: &ReplicaSet, oldest: &[Document]) {
    let capped = set.client().database("shop").collection::<Document>("capped");
    for _ in 0..40 {
        sleep(Duration::from_secs(4)).await;
        let first = capped.find_one(doc! {}).await.expect("find");
        if first.is_some_and(|first| !oldest.contains(&first)) {
            return;
        }
    }
    panic!("the capped collection does not wrap");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_followed_head_equals_a_fresh_one() {
    let seed = std::env::var("HEADSTOCK_SEED").map_or(7, |seed| seed.parse().expect("a number"));
    println!("seed {seed}");
    let set = ReplicaSet::of(1).await.expect("start a set");
    let plan = Plan { preload: 3_000, ..Plan::small(seed) };
    let mut workload = Workload::start(set.client(), &plan).await.expect("start the workload");
    let folder = tempfile::tempdir().expect("temporary folder");
    let program = Program::new(env!("CARGO_BIN_EXE_headstock")).expect("program");
    let backup = Backup::new(program, folder.path().join("store"));

    let mut oldest: Vec<Document> = Vec::new();
    for round in 0..3 {
        backup.sync(&set.uri(), &["--job", "followed"]).await.expect("sync");
        wait_until_wrapped(&set, &oldest).await;
        let paused = workload.pause(&set, Detail::Collections).await;
        let (at, state) = paused.expect("pause");
        let capped = set.client().database("shop").collection::<Document>("capped");
        let first = capped.find_one(doc! {}).await.expect("find").expect("not empty");
        println!("round {round}: {} namespaces at {at}, capped begins with {first}", state.len());
        oldest.push(first);

        let fresh = format!("fresh-{round}");
        backup.sync(&set.uri(), &["--job", "followed"]).await.expect("sync");
        backup.sync(&set.uri(), &["--job", &fresh]).await.expect("sync afresh");
        let followed = backup.newest("followed").await.expect("snapshot");
        let fresh = backup.newest(&fresh).await.expect("snapshot");
        let differing = differing(backup.store(), &fresh.job);
        assert!(differing.is_empty(), "seed {seed}, round {round}:\n{}", differing.join("\n"));
        assert_eq!(followed.content_root, fresh.content_root, "seed {seed}, round {round}");
        assert!(fresh.added_bytes * 10 < fresh.logical_bytes, "stored twice: {fresh:?}");
        workload.resume();
    }
    workload.stop().await;
}
