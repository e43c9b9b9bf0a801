//! The initial sync while its collections are dropped, renamed, made anew, emptied, rolled over, indexed
//! and rewritten, its cursors and operations killed, the primary changed, and the oplog cut: in the end
//! a restored server equals the source.
//!
//! `HEADSTOCK_LONG=1` runs more seeds over more data; `HEADSTOCK_SEED=n` runs that one.

mod fire;
#[path = "../forms/mod.rs"]
mod forms;

use std::time::Duration;

use bson::{Document, doc};
use fire::Fire;
use forms::{is_long, seeds};
use headstock::job;
use headstock::lab::{
    Backup, Detail, Mongod, Options, Program, Release, ReplicaSet, Running, SourceState,
};
use headstock::oplog::Ts;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// Slow enough that every kind of shot falls into the scan.
const SLOWLY: [&str; 2] = ["--max-mbps", "2"];
/// Pause between two shots.
const RELOAD: Duration = Duration::from_millis(20);
/// How long an oplog may take to lose its beginning.
const OVERFLOW_LIMIT: Duration = Duration::from_secs(120);

/// Documents of each collection, about 1 kB each.
fn documents() -> i64 {
    if is_long() { 12_000 } else { 4_000 }
}

async fn set_of(release: Release, options: Options) -> ReplicaSet {
    let mongod = Some(Mongod::fetch(release).expect("a server"));
    ReplicaSet::start(Options { mongod, ..options }).await.expect("start a set")
}

/// A store that is not there yet.
fn backup() -> (Backup, TempDir) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let program = Program::new(env!("CARGO_BIN_EXE_headstock")).expect("program");
    (Backup::new(program, folder.path().join("store")), folder)
}

/// Whether documents of the user's are being copied, as the store's last commit tells.
fn in_scan(backup: &Backup) -> bool {
    // Before the first commit there is no store to ask.
    let Ok(status) = job::status(backup.store()) else { return false };
    status.jobs.iter().any(|job| job.scan.is_some_and(|scan| scan.documents > 500))
}

async fn wait_for_scan(backup: &Backup, sync: &mut Running) {
    while !in_scan(backup) {
        assert!(sync.is_running().expect("ask"), "the sync ended: {}", sync.log());
        sleep(Duration::from_millis(20)).await;
    }
}

/// A restored server equals the source, and so says `verify`.
async fn equals(what: &str, set: &ReplicaSet, backup: &Backup) {
    set.wait_replicated().await.expect("replicated");
    let expected = SourceState::capture(set.client(), Detail::Documents).await.expect("a state");
    let restored = backup.restored("latest", &[], Detail::Documents).await;
    let (_server, found) = restored.expect("restore");
    let report = expected.differences(&found);
    assert!(report.is_empty(), "{what}:\n{}", report.join("\n"));
    backup.run(&["verify", "--source", &set.uri()], &[]).await.expect("equal");
    backup.run(&["fsck"], &[]).await.expect("nothing damaged");
}

async fn under_fire(seed: u64, release: Release, members: usize) {
    let set = set_of(release, Options::members(members)).await;
    let mut fire = Fire::load(&set, seed, documents()).await;
    let (backup, _folder) = backup();
    // By turns the member that is read becomes the primary, or is it and ceases to be.
    let from = if seed.is_multiple_of(2) { "primary" } else { "secondary" };
    let arguments = [SLOWLY[0], SLOWLY[1], "--read-from", from];
    let mut sync = backup.start_sync(&set.uri(), &arguments).expect("start");
    wait_for_scan(&backup, &mut sync).await;
    let (mut in_scan_done, mut elections) = (0, 0);
    let started = Instant::now();
    while in_scan(&backup) {
        fire.shoot().await;
        in_scan_done = fire.done.values().sum();
        if members > 1 && elections == 0 && started.elapsed() > Duration::from_secs(3) {
            set.step_down().await.expect("another primary");
            elections += 1;
        }
        sleep(RELOAD).await;
    }
    println!("seed {seed}: {in_scan_done} shots in {:?} of scanning", started.elapsed());
    assert!(elections > 0 || members == 1, "the scan was over before the election");
    // It is not over with the scan: what was written in its time is applied under fire too.
    while sync.is_running().expect("ask") {
        fire.shoot().await;
        sleep(RELOAD).await;
    }
    println!("seed {seed}: {:?}", fire.done);
    sync.wait().await.expect("a sync under fire ends well");
    assert!(fire.never().is_empty(), "seed {seed}: never done: {:?}", fire.never());
    // Not every server waits for the majority by itself, and a snapshot has only what is committed.
    set.wait_replicated().await.expect("replicated");
    backup.sync(&set.uri(), &[]).await.expect("sync");
    equals(&format!("seed {seed}"), &set, &backup).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_member() {
    for seed in seeds(1, 1..11) {
        under_fire(seed, Release::V6_0_5, 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_member_on_4_4() {
    for seed in seeds(101, 101..111) {
        under_fire(seed, Release::V4_4_2, 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_members_and_an_election() {
    for seed in seeds(201, 201..211) {
        under_fire(seed, Release::V6_0_5, 3).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_members_and_an_election_on_4_4() {
    for seed in seeds(302, 301..311) {
        under_fire(seed, Release::V4_4_2, 3).await;
    }
}

/// Timestamp of the oldest entry that the source still has.
async fn oldest(set: &ReplicaSet) -> Ts {
    let oplog = set.client().database("local").collection::<Document>("oplog.rs");
    let oldest = oplog.find_one(doc! {}).sort(doc! { "$natural": 1 }).await.expect("find");
    oldest.expect("an entry").get_timestamp("ts").expect("ts").into()
}

/// Writes until the oplog no longer reaches back to what the backup has received.
async fn overflow(set: &ReplicaSet, backup: &Backup) {
    let status = job::status(backup.store()).expect("a store");
    let received = status.jobs[0].received.clone().expect("entries were received");
    let received = Ts { secs: received.t, inc: received.i };
    // Entries without documents that would have to be copied.
    let pads = set.client().database("fire").collection::<Document>("pads");
    pads.insert_many((0..100).map(|n| doc! { "_id": n })).await.expect("insert");
    let started = Instant::now();
    for n in 0.. {
        let pad = format!("{n:015000}");
        let update = pads.update_many(doc! {}, doc! { "$set": { "pad": pad } });
        update.await.expect("update");
        if oldest(set).await > received {
            println!("{n} times 1.5 MB of oplog, {:?}", started.elapsed());
            return;
        }
        assert!(started.elapsed() < OVERFLOW_LIMIT, "the oplog keeps all it gets");
    }
}

/// A sync in whose middle the oplog runs past what was received, while the program is stopped or gone.
async fn past_the_oplog(release: Release, gone: bool) {
    // An oplog is cut at what a checkpoint has: one a second instead of a minute.
    let arguments = ["--syncdelay", "1"].map(str::to_owned).to_vec();
    let options = Options { oplog_mb: 16, arguments, ..Options::members(1) };
    let set = set_of(release, options).await;
    Fire::load(&set, 7, documents()).await;
    let (backup, _folder) = backup();
    let mut sync = backup.start_sync(&set.uri(), &SLOWLY).expect("start");
    wait_for_scan(&backup, &mut sync).await;
    // So that there is something received.
    set.client().database("fire").collection("pads").insert_one(doc! {}).await.expect("insert");
    sleep(Duration::from_secs(3)).await;
    assert!(in_scan(&backup), "the scan was over too soon");
    let ended = if gone {
        assert!(sync.kill().await.expect("kill"));
        overflow(&set, &backup).await;
        backup.sync(&set.uri(), &[]).await
    } else {
        let id = sync.id().and_then(|id| Pid::from_raw(id.cast_signed())).expect("it runs");
        kill_process(id, Signal::STOP).expect("stop");
        overflow(&set, &backup).await;
        kill_process(id, Signal::CONT).expect("go on");
        sync.wait().await
    };
    ended.expect("begun anew by itself");
    equals("past the oplog", &set, &backup).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oplog_that_runs_past_a_stopped_sync() {
    past_the_oplog(Release::V6_0_5, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oplog_that_runs_past_a_killed_sync() {
    past_the_oplog(Release::V6_0_5, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oplog_that_runs_past_a_stopped_sync_on_4_4() {
    past_the_oplog(Release::V4_4_2, false).await;
}
