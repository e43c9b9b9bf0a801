//! Rebuilding where something goes wrong, and a store that is mended from the blockstore.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::Duration;

use bson::{Document, doc};
use serde_json::Value;

use crate::scene::Scene;

/// Rebuilds that are killed before one is let to its end.
const KILLS: u64 = 6;

/// A rebuild that is killed again and again goes on where it was, and comes out the same; one into a store that has most of the blocks
/// fetches the rest; one to an earlier point takes the snapshot of then; one of a job that is there is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_goes_on_where_it_was() {
    let scene = Scene::of(1).await;
    crate::push::load(&scene, 0, 120_000, "lorem").await;
    let backup = scene.store("first");
    let (source, uri) = (scene.source.uri(), scene.uri());
    backup.sync(&source, &["--blockstore", &uri]).await.expect("sync");
    let first = backup.newest("source").await.expect("a snapshot");
    let orders = scene.source.client().database("shop").collection::<Document>("orders");
    let few = doc! { "_id": { "$lt": 300 } };
    orders.update_many(few, doc! { "$set": { "status": "back" } }).await.expect("update");
    backup.sync(&source, &["--blockstore", &uri]).await.expect("sync");
    let newest = backup.newest("source").await.expect("a snapshot");
    assert_ne!(first.content_root, newest.content_root);

    let store = scene.path("killed");
    let store = store.to_str().expect("a path");
    let words = ["rebuild", "--blockstore", &uri, "--store", store];
    let mut killed = 0;
    for kill in 0..KILLS {
        let running = scene.program.spawn(&words).expect("start");
        tokio::time::sleep(Duration::from_millis(60 + 70 * kill)).await;
        killed += usize::from(running.kill().await.expect("killed"));
        if scene.store("killed").newest("source").await.is_ok() {
            break;
        }
    }
    println!("{killed} rebuilds killed");
    if scene.store("killed").newest("source").await.is_err() {
        let (_, report) = scene.rebuild("killed", &[]).await;
        println!("{report}");
    }
    let rebuilt = scene.store("killed");
    assert_eq!(rebuilt.newest("source").await.expect("it").content_root, newest.content_root);
    rebuilt.run(&["fsck"], &[]).await.expect("sound");

    let (early, report) = scene.rebuild("early", &["--at", &first.id]).await;
    assert_eq!(early.newest("source").await.expect("it").content_root, first.content_root);
    assert_eq!(report["base"], first.id.as_str());
    let again = scene.program.run(&[&words[..], &["--job", "source"]].concat()).await;
    let again = format!("{:?}", again.expect_err("the job is there"));
    assert!(again.contains("has a job source already"), "{again}");
    // It was rebuilt to an earlier point: the daemon goes on from there.
    early.sync(&source, &["--blockstore", &uri]).await.expect("sync");
    let root = early.newest("source").await.expect("it").content_root;
    assert_eq!(root, newest.content_root);
}

/// Segments of a store are damaged in places: a repair brings what they cost back from the blockstore.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_store_is_mended_from_there() {
    let scene = Scene::of(1).await;
    crate::push::load(&scene, 0, 60_000, "lorem").await;
    let backup = scene.store("store");
    let (source, uri) = (scene.source.uri(), scene.uri());
    backup.sync(&source, &["--blockstore", &uri]).await.expect("sync");
    let segments = std::fs::read_dir(backup.store().join("segments")).expect("list");
    let segments: Vec<PathBuf> = segments.map(|entry| entry.expect("entry").path()).collect();
    for path in segments {
        let file = OpenOptions::new().read(true).write(true).open(path).expect("open");
        let len = file.metadata().expect("facts").len();
        for at in
            (len / 10..len - len / 10).step_by(usize::try_from(len / 7).expect("small").max(1))
        {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).expect("read");
            file.write_all_at(&[!byte[0]], at).expect("damage");
        }
    }
    backup.run(&["fsck"], &[]).await.expect_err("it is damaged");
    let file = scene.path("blockstore.uri");
    std::fs::write(&file, &uri).expect("write");
    let more = ["--repair", "--json", "--from-blockstore-file", file.to_str().expect("a path")];
    let told = backup.run(&["fsck"], &more).await.expect("repaired");
    let told: Value = serde_json::from_str(&told).expect("JSON");
    assert!(told["repair"]["salvage"]["found"].as_array().is_some_and(|found| !found.is_empty()));
    assert_eq!(told["check"]["clean"], true, "{told}");
    backup.run(&["fsck"], &[]).await.expect("sound");
    backup.sync(&source, &["--blockstore", &uri]).await.expect("sync");
}

/// A store that was rebuilt to an earlier point cuts the oplog otherwise than what is in the blockstore: it is pushed on from there without a
/// gap, though a restore that died has left its pins, and nothing that was there goes.
#[tokio::test(flavor = "multi_thread")]
async fn slices_that_are_cut_otherwise_go_on_without_a_gap() {
    let scene = Scene::of(1).await;
    crate::push::load(&scene, 0, 1000, "lorem").await;
    let backup = scene.store("first");
    let (source, uri) = (scene.source.uri(), scene.uri());
    backup.sync(&source, &["--blockstore", &uri]).await.expect("sync");
    let first = backup.newest("source").await.expect("a snapshot");
    for round in 1..5 {
        crate::push::load(&scene, round * 1000, round * 1000 + 1000, "ipsum").await;
        backup.sync(&source, &["--blockstore", &uri]).await.expect("sync");
    }
    let slices = scene.count("slices").await;
    let (early, _) = scene.rebuild("early", &["--at", &first.id]).await;
    let reader = bson::oid::ObjectId::new();
    let pin = doc! { "$push": { "pins": reader } };
    let snapshots = scene.database().collection::<Document>("snapshots");
    snapshots.update_many(doc! {}, pin).await.expect("pin");
    crate::push::load(&scene, 5000, 6000, "dolor").await;
    early.sync(&source, &["--blockstore", &uri]).await.expect("sync");
    assert!(scene.count("slices").await > slices, "what was there stays");
    let check = scene.json("fsck", &[]).await;
    assert_eq!(check["clean"], true, "{check}");
    assert!(check["findings"].as_array().is_some_and(Vec::is_empty), "no gap: {check}");
    assert!(scene.truth().await.differences(&scene.restored("source").await).is_empty());
    let (last, _) = scene.rebuild("last", &[]).await;
    let root = early.newest("source").await.expect("it").content_root;
    assert_eq!(last.newest("source").await.expect("it").content_root, root);
}
