//! A head that was scanned while writers worked and then followed the oplog has the content root of a
//! fresh scan at the same optime, capped collections that wrapped included; and since equal content is
//! equal blocks, the fresh scan adds next to nothing to the store.

use std::time::Duration;

use bson::{Document, doc};
use headstock::lab::{Backup, Detail, Plan, Program, ReplicaSet, Workload};
use tokio::time::sleep;

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

    for round in 0..3 {
        backup.sync(&set.uri(), &["--job", "followed"]).await.expect("sync");
        sleep(Duration::from_secs(4)).await;
        let paused = workload.pause(&set, Detail::Collections).await;
        let (at, state) = paused.expect("pause");
        let capped = set.client().database("shop").collection::<Document>("capped");
        let first = capped.find_one(doc! {}).await.expect("find").expect("not empty");
        println!("round {round}: {} namespaces at {at}, capped begins with {first}", state.len());

        let fresh = format!("fresh-{round}");
        backup.sync(&set.uri(), &["--job", "followed"]).await.expect("sync");
        backup.sync(&set.uri(), &["--job", &fresh]).await.expect("sync afresh");
        let followed = backup.newest("followed").await.expect("snapshot");
        let fresh = backup.newest(&fresh).await.expect("snapshot");
        assert_eq!(
            (followed.documents, followed.logical_bytes),
            (fresh.documents, fresh.logical_bytes),
            "seed {seed}, round {round}"
        );
        assert_eq!(followed.content_root, fresh.content_root, "seed {seed}, round {round}");
        assert!(fresh.added_bytes * 10 < fresh.logical_bytes, "stored twice: {fresh:?}");
        workload.resume();
    }
    workload.stop().await;
}
