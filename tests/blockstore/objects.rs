//! Blockstores of objects: the same as a replica set does, in a directory and in a bucket.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use headstock::lab::{Detail, Plan, Workload};
use serde_json::Value;

use crate::check::{check, codes};
use crate::forms::is_long;
use crate::scene::{Kept, Scene};
use crate::watch::{wait_for_remote, wait_for_snapshot_of};

/// Documents of a collection that is large enough to have a dictionary.
const DOCUMENTS: i32 = 90_000;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_to_a_directory_comes_out_again() {
    crate::push::comes_out_again(&Scene::of_directory().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_to_a_bucket_comes_out_again() {
    crate::push::comes_out_again(&Scene::of_bucket().await).await;
}

/// Two jobs push, are groomed, restored and rebuilt beside each other, as in a replica set.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_reached_goes_from_a_directory() {
    let scene = Scene::of_directory().await;
    crate::groom::beside_everything(&scene).await;
    let log = scene.objects().await;
    assert!(log.packs().iter().all(|(_, bytes)| bytes.is_some()), "an object that nothing names");
    println!("{} entries, {} checkpoints are left", log.entries, log.checkpoints);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_reached_goes_from_a_bucket() {
    let scene = Scene::of_bucket().await;
    crate::groom::beside_everything(&scene).await;
    let log = scene.objects().await;
    assert!(log.packs().iter().all(|(_, bytes)| bytes.is_some()), "an object that nothing names");
}

/// The storage is killed again and again while a daemon pushes to it from a busy source: the daemon goes on, and in the end everything is there, once.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_survives_what_happens_to_its_bucket() {
    let mut scene = Scene::of_bucket().await;
    let plan = Plan { operations_per_second: 100, large_transactions: false, ..Plan::small(11) };
    let mut workload = Workload::start(scene.source.client(), &plan).await.expect("a workload");
    let (backup, uri) = (scene.store("store"), scene.uri());
    let more = ["--snapshot-every", "3s", "--blockstore", &uri];
    let mut daemon = backup.start_daemon(&scene.source.uri(), &more).expect("a daemon");
    wait_for_remote(&backup, &mut daemon, "pushed", |remote| remote.snapshots > 0).await;
    for kill in 0..if is_long() { 12 } else { 3 } {
        tokio::time::sleep(Duration::from_millis(700 + 900 * kill)).await;
        scene.server().kill().expect("kill");
        tokio::time::sleep(Duration::from_millis(400 * kill)).await;
        scene.server().restart().await.expect("restart");
    }
    let (end, truth) = workload.pause(&scene.source, Detail::Documents).await.expect("pause");
    workload.stop().await;
    wait_for_snapshot_of(&backup, &mut daemon, end.ts).await;
    wait_for_remote(&backup, &mut daemon, "all pushed", |remote| remote.has_all(end.ts)).await;
    let log = daemon.log();
    daemon.terminate().await.expect("a clean end");
    let Kept::Bucket(server) = &scene.kept else { unreachable!("it is one") };
    assert!(!log.contains(server.secret_key()) && !log.contains(server.access_key()));
    let check = scene.json("fsck", &[]).await;
    assert_eq!(check["clean"], true, "{check}");
    assert!(check["findings"].as_array().is_some_and(Vec::is_empty), "no gap: {check}");
    let root = backup.newest("source").await.expect("a snapshot").content_root;
    let (rebuilt, _) = scene.rebuild("rebuilt", &[]).await;
    assert_eq!(rebuilt.newest("source").await.expect("a snapshot").content_root, root);
    let differences = truth.differences(&scene.restored_to_set("source").await);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// Keys that are wrong are told, and what is complete, and no key is told.
#[tokio::test(flavor = "multi_thread")]
async fn check_access_tries_a_bucket() {
    let scene = Scene::of_bucket().await;
    let uri = scene.uri();
    let words = ["check-access", "--json", "--blockstore", &uri];
    let told = scene.program.json(&words).await.expect("complete");
    assert_eq!((&told["complete"], &told["storages"][0]["complete"]), (&true.into(), &true.into()));
    fs::write(
        scene.path("keys"),
        "aws_access_key_id = nobody\naws_secret_access_key = hush-hush\n",
    )
    .expect("write");
    let refused = scene.program.run(&["check-access", "--blockstore", &uri]).await;
    let refused = format!("{:?}", refused.expect_err("wrong keys"));
    assert!(!refused.contains("hush-hush"), "{refused}");
    let store = scene.path("store");
    let store = store.to_str().expect("a path");
    let words = ["sync", "--source", &scene.source.uri(), "--store", store, "--blockstore", &uri];
    let told = format!("{:?}", scene.program.run(&words).await.expect_err("wrong keys"));
    println!("{told}");
    assert!(told.contains("s3://") && !told.contains("hush-hush"), "{told}");
}

/// The frozen daemon's put-once entries come too late as its writes do in a replica set.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_daemon_loses_its_job_in_a_directory() {
    crate::takeover::taken_over(Scene::of_directory().await, 7).await;
}

/// Pushes that are killed wherever they are, and writers that are dead, leave objects that nothing names: what is there is sound, the push goes on, and
/// a groom removes what was left once the sessions are dead.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_is_killed_goes_on() {
    let scene = Scene::of_directory().await;
    crate::push::load(&scene, 0, DOCUMENTS, "lorem").await;
    let (backup, source, uri) = (scene.store("first"), scene.source.uri(), scene.uri());
    let store = backup.store().to_str().expect("a path").to_owned();
    let words =
        ["sync", "--source", &source, "--store", &store, "--blockstore", &uri, "--push-mbps", "1"];
    let mut killed = 0;
    for kill in 0..6 {
        let running = scene.program.spawn(&words).expect("start");
        tokio::time::sleep(Duration::from_millis(700 + 350 * kill)).await;
        killed += usize::from(running.kill().await.expect("killed"));
    }
    assert!(killed >= 3, "{killed}");
    backup.sync(&source, &["--blockstore", &uri]).await.expect("sync");
    assert_eq!(check(&scene, &[]).await.1, 0);
    // One that came too late to be named.
    let orphan = scene.path("objects").join("packs").join(format!("{}-00000007", "ab".repeat(12)));
    fs::write(&orphan, b"HSPACK01").expect("write");
    let unfinished = orphan.with_file_name(format!("{}-00000008#1", "ab".repeat(12)));
    fs::write(&unfinished, b"HSPA").expect("write");
    println!("{} packs, {killed} pushes killed", scene.objects().await.packs().len());
    scene.groom(&[]).await;
    assert!(!orphan.exists() && !unfinished.exists(), "nobody can name it any more");
    assert!(scene.objects().await.packs().iter().all(|(_, bytes)| bytes.is_some()));
    assert_eq!(scene.count("sessions").await, 0);
    assert_eq!(check(&scene, &[]).await.1, 0);
    assert!(scene.truth().await.differences(&scene.restored("source").await).is_empty());
}

/// The largest pack.
async fn largest(scene: &Scene) -> PathBuf {
    let packs = scene.objects().await.packs();
    packs.into_iter().max_by_key(|(_, bytes)| *bytes).expect("a pack").0
}

/// Flips bits in the middle of each of some files, and every so many bytes.
fn damage(path: &Path, every: usize) {
    let mut bytes = fs::read(path).expect("read");
    let len = bytes.len();
    (len / 3..len / 2).step_by(every).for_each(|at| bytes[at] ^= 0x40);
    fs::remove_file(path).expect("remove");
    fs::write(path, bytes).expect("write");
}

/// Packs are damaged, cut and lost: each is told, mended from the store that pushed it, and sound then.
#[tokio::test(flavor = "multi_thread")]
async fn packs_that_are_damaged_are_told_and_mended() {
    let scene = Scene::of_directory().await;
    crate::push::load(&scene, 0, DOCUMENTS, "lorem").await;
    let (backup, source, uri) = (scene.store("store"), scene.source.uri(), scene.uri());
    backup.sync(&source, &["--blockstore", &uri]).await.expect("sync");
    let store = backup.store().to_str().expect("a path").to_owned();
    type Harm = fn(&Path);
    let harms: [(&str, Harm); 4] = [
        ("blocks", |path| damage(path, 997)),
        ("an index", |path| {
            let mut bytes = fs::read(path).expect("read");
            let at = bytes.len() - 200;
            bytes[at] ^= 1;
            fs::write(path, bytes).expect("write");
        }),
        ("half of a pack", |path| {
            let bytes = fs::read(path).expect("read");
            fs::write(path, &bytes[..bytes.len() / 2]).expect("write");
        }),
        ("a pack", |path| fs::remove_file(path).expect("remove")),
    ];
    for (what, harm) in harms {
        harm(&largest(&scene).await);
        let (report, exit) = check(&scene, &[]).await;
        assert_eq!(exit, 3, "{what}: {report}");
        let expected = if what == "blocks" { "HS-BS-003" } else { "HS-BS-002" };
        assert!(codes(&report).iter().any(|code| code == expected), "{what}: {report}");
        let (report, exit) = check(&scene, &["--repair", "--from", &store]).await;
        assert_eq!(exit, 0, "{what}: {report}");
        assert!(report["mended"].as_u64().is_some_and(|mended| mended > 0), "{what}: {report}");
        let (report, exit) = check(&scene, &["--depth", "data"]).await;
        assert_eq!((exit, &report["clean"]), (0, &Value::Bool(true)), "{what}: {report}");
        scene.groom(&[]).await;
        assert_eq!(check(&scene, &[]).await.1, 0, "{what}: groomed");
    }
    assert!(scene.truth().await.differences(&scene.restored("source").await).is_empty());
}

/// Nothing in any object tells of the data or of names; without the key nothing is had.
#[tokio::test(flavor = "multi_thread")]
async fn objects_of_an_encrypted_store_tell_nothing() {
    let scene = Scene::of_directory().await;
    crate::push::load(&scene, 0, 20_000, "confidential").await;
    let (source, uri) = (scene.source.uri(), scene.uri());
    let key = scene.path("key");
    let key = key.to_str().expect("a path");
    scene.program.run(&["key", "new", key]).await.expect("a key");
    let backup = scene.store("first").with_key(key);
    backup.sync(&source, &["--encrypt", "--blockstore", &uri]).await.expect("sync");
    let mut looked = 0;
    for folder in ["log", "packs", "checkpoints"] {
        let Ok(entries) = fs::read_dir(scene.path("objects").join(folder)) else { continue };
        for entry in entries {
            let bytes = fs::read(entry.expect("an entry").path()).expect("read");
            let has = |word| memchr::memmem::find(&bytes, word).is_some();
            assert!(!has(b"shop") && !has(b"confidential") && !has(b"source"), "{folder}");
            looked += 1;
        }
    }
    assert!(looked > 5, "{looked}");
    let dump = format!("dump:{}", scene.path("dump").display());
    let words = ["restore", "--blockstore", &uri, "--to", &dump];
    let refused = scene.program.run(&words).await.expect_err("it is encrypted");
    assert!(format!("{refused:?}").contains("is encrypted"), "{refused:?}");
    backup.run(&["key", "rotate"], &[]).await.expect("rotate");
    crate::push::load(&scene, 20_000, 22_000, "confidential").await;
    backup.sync(&source, &["--blockstore", &uri]).await.expect("sync");
    let restored = scene.restored_with("source", &["--key-file", key]).await;
    assert!(scene.truth().await.differences(&restored).is_empty());
    let marks = scene.path("marks");
    let marks = marks.to_str().expect("a path");
    let words = ["groom", "--blockstore", &uri, "--key-file", key, "--marks", marks];
    scene.program.run(&words).await.expect("groom");
    scene.program.run(&["fsck", "--blockstore", &uri, "--key-file", key]).await.expect("sound");
}
