//! What happens to a backup when its source does not simply go on: rolled-back writes, an oplog that ran
//! past, an entry that carries no documents, a source that was restored or made anew. Nothing is ever
//! mixed, no point that could be restored is lost, and what cannot be restored is said.

use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, Instant};

use bson::{Document, doc};
use headstock::lab::{Backup, Detail, GapLine, JobLine, Options, Program, ReplicaSet, SourceState};
use headstock::oplog::Ts;
use mongodb::options::{Acknowledgment, WriteConcern};
use tempfile::TempDir;
use tokio::time::sleep;

/// Long enough for elections on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

fn backup() -> (Backup, TempDir) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let program = Program::new(env!("CARGO_BIN_EXE_headstock")).expect("program");
    (Backup::new(program, folder.path().join("store")), folder)
}

async fn insert(set: &ReplicaSet, ids: std::ops::Range<i32>, bytes: usize) {
    let things = set.client().database("shop").collection::<Document>("things");
    let pad = |id: i32| format!("{id:08} ").repeat(bytes / 9);
    let documents = ids.map(|id| doc! { "_id": id, "pad": pad(id) });
    things.insert_many(documents).await.expect("insert");
}

async fn state(set: &ReplicaSet) -> (Ts, SourceState) {
    let at = set.wait_replicated().await.expect("replicated");
    let state = SourceState::capture(set.client(), Detail::Documents).await.expect("state");
    (at.ts, state)
}

async fn job(backup: &Backup) -> JobLine {
    let status = backup.status().await.expect("status");
    status.jobs.into_iter().next().expect("a job")
}

async fn is_restored(backup: &Backup, at: &str, expected: &SourceState) {
    let (_server, found) = backup.restored(at, &[], Detail::Documents).await.expect("restore");
    let report = expected.differences(&found);
    assert!(report.is_empty(), "restored to {at}:\n{}", report.join("\n"));
}

/// What a restore to a point says that is none.
async fn refusal(backup: &Backup, at: Ts) -> String {
    let at = at.to_string();
    let to = backup.store().with_extension("dump");
    let to = format!("dump:{}", to.display());
    let refused = backup.restore(&at, &to, &["--dry-run"]).await;
    refused.expect_err("no restore point").to_string()
}

fn between(gap: &GapLine) -> Ts {
    let after = Ts::from(gap.after);
    Ts { inc: after.inc + 1, ..after }
}

/// Writes until the oldest entry of the oplog is newer than `ts`.
async fn outgrow(set: &ReplicaSet, ts: Ts) {
    let since = Instant::now();
    let oplog = set.client().database("local").collection::<Document>("oplog.rs");
    for round in 0.. {
        let from = 1_000_000 + round * 500;
        insert(set, from..from + 500, 10_000).await;
        let first = oplog.find_one(doc! {}).await.expect("find").expect("an entry");
        if Ts::from(first.get_timestamp("ts").expect("ts")) > ts {
            return;
        }
        assert!(since.elapsed() < LIMIT, "the oplog never wrapped");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oplog_that_ran_past_leaves_a_gap_and_a_new_head() {
    // Truncation of the oplog runs behind checkpoints.
    let arguments = vec!["--syncdelay".to_owned(), "1".to_owned()];
    let options = Options { oplog_mb: 1, arguments, ..Options::members(1) };
    let set = ReplicaSet::start(options).await.expect("start");
    let (backup, _folder) = backup();
    insert(&set, 0..2_000, 1_000).await;
    backup.sync(&set.uri(), &[]).await.expect("sync");
    insert(&set, 2_000..2_500, 100).await;
    let (early, before) = state(&set).await;
    backup.sync(&set.uri(), &[]).await.expect("sync");
    let left = job(&backup).await.received.expect("an entry");
    assert!(job(&backup).await.oplog_seconds_left.is_some());

    outgrow(&set, left.into()).await;
    let refused = backup.sync(&set.uri(), &["--no-rescan"]).await.expect_err("nothing to follow");
    assert!(refused.to_string().contains("--rescan"), "{refused}");
    assert!(job(&backup).await.gaps.is_empty(), "nothing was changed");
    is_restored(&backup, "latest", &before).await;

    let (late, after) = state(&set).await;
    backup.sync(&set.uri(), &[]).await.expect("a new scan");
    let gap = job(&backup).await.gaps.remove(0);
    assert_eq!(gap.after, left);
    assert!(gap.until.is_some_and(|until| Ts::from(until) >= late), "{gap:?}");
    assert!(gap.reason.contains("oplog"), "{gap:?}");
    let told = refusal(&backup, between(&gap)).await;
    let nearest = Ts::from(left).to_string();
    assert!(told.contains(&nearest), "{told} does not name {nearest}");
    is_restored(&backup, &early.to_string(), &before).await;
    is_restored(&backup, "latest", &after).await;

    // The first documents are in both heads and stored once.
    let snapshots = backup.snapshots().await.expect("snapshots");
    assert_eq!(snapshots.len(), 3, "the old ones stay");
    // And the new head goes on as any other.
    insert(&set, 5_000..5_010, 100).await;
    let (_, last) = state(&set).await;
    backup.sync(&set.uri(), &[]).await.expect("sync");
    assert_eq!(job(&backup).await.gaps.len(), 1);
    is_restored(&backup, "latest", &last).await;
    backup.run(&["fsck"], &[]).await.expect("nothing damaged");
}

/// Whether the job's scan is under way, as committed.
async fn in_mid_scan(backup: &Backup) -> bool {
    let scan = job(backup).await.scan;
    scan.is_some_and(|scan| (1..scan.documents_estimate).contains(&scan.documents))
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_that_change_during_a_scan_begin_another() {
    let set = ReplicaSet::of(1).await.expect("start");
    let (backup, _folder) = backup();
    for part in 0..4 {
        insert(&set, part * 5_000..(part + 1) * 5_000, 1_000).await;
    }
    backup.sync(&set.uri(), &[]).await.expect("sync");
    let slowly = ["--rescan", "--max-mbps", "5"];
    let rescan = backup.start_sync(&set.uri(), &slowly).expect("start");
    let since = Instant::now();
    while !in_mid_scan(&backup).await {
        assert!(since.elapsed() < LIMIT, "{}", rescan.log());
        sleep(Duration::from_millis(5)).await;
    }
    assert!(rescan.kill().await.expect("kill"), "the scan was over before");
    assert!(job(&backup).await.scan.is_some(), "{:?}", job(&backup).await);
    insert(&set, 30_000..30_100, 100).await;
    let (early, before) = state(&set).await;
    for version in ["5.0", "6.0"] {
        let change = doc! { "setFeatureCompatibilityVersion": version };
        set.client().database("admin").run_command(change).await.expect("changed");
    }
    insert(&set, 40_000..40_100, 100).await;
    let (_, after) = state(&set).await;
    let log = ["--log", "headstock=info"];
    let sync = backup.start_sync(&set.uri(), &log).expect("start");
    while !sync.log().contains("changed during the scan") {
        let scanning = job(&backup).await.scan.is_some();
        assert!(scanning, "the change was not noticed: {}", sync.log());
        sleep(Duration::from_millis(20)).await;
    }
    sync.wait().await.expect("another scan");
    is_restored(&backup, "latest", &after).await;
    // The old head and the slices never missed anything.
    assert!(job(&backup).await.gaps.is_empty());
    is_restored(&backup, &early.to_string(), &before).await;
    backup.run(&["fsck"], &[]).await.expect("nothing damaged");
}

/// Replaces a stopped member's files.
fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    let options: [&OsStr; 4] = ["-a".as_ref(), "--".as_ref(), from.as_ref(), to.as_ref()];
    let copied = std::process::Command::new("cp").args(options).status().expect("cp");
    assert!(copied.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_history_is_refused_until_the_operator_takes_it() {
    let mut set = ReplicaSet::of(1).await.expect("start");
    let (backup, folder) = backup();
    insert(&set, 0..1_000, 200).await;
    let files = folder.path().join("files");
    set.stop(0).await.expect("stop");
    copy(&set.data(0), &files);
    set.restart(0).await.expect("start");
    set.wait_healthy().await.expect("primary");
    insert(&set, 1_000..1_200, 200).await;
    let (old, before) = state(&set).await;
    backup.sync(&set.uri(), &[]).await.expect("sync");

    // Of 512 MiB next to nothing is used: it will be long until anything is removed.
    assert!(job(&backup).await.oplog_seconds_left.is_some_and(|left| left > 600));
    set.stop(0).await.expect("stop");
    copy(&files, &set.data(0));
    set.restart(0).await.expect("start");
    set.wait_healthy().await.expect("primary");
    insert(&set, 5_000..5_100, 200).await;
    for more in [&[][..], &["--rescan"][..]] {
        let refused = backup.sync(&set.uri(), more).await.expect_err("another history");
        assert!(refused.to_string().contains("--new-timeline"), "{refused}");
        assert!(!refused.to_string().contains("next: run it once with --rescan"), "{refused}");
    }
    let stopped = job(&backup).await.stopped.expect("a reason");
    assert!(stopped.contains("--new-timeline"), "{stopped}");
    is_restored(&backup, "latest", &before).await;

    let (_, after) = state(&set).await;
    backup.sync(&set.uri(), &["--new-timeline"]).await.expect("the new history");
    let gap = job(&backup).await.gaps.remove(0);
    assert!(gap.reason.contains("timeline") && gap.until.is_some(), "{gap:?}");
    assert_eq!(job(&backup).await.stopped, None);
    is_restored(&backup, &old.to_string(), &before).await;
    is_restored(&backup, "latest", &after).await;
    insert(&set, 6_000..6_100, 200).await;
    let (_, later) = state(&set).await;
    backup.sync(&set.uri(), &[]).await.expect("sync");
    is_restored(&backup, "latest", &later).await;

    // A set of the same name that was initiated anew.
    drop(set);
    let anew = ReplicaSet::of(1).await.expect("start");
    insert(&anew, 0..100, 200).await;
    let refused = backup.sync(&anew.uri(), &[]).await.expect_err("another set");
    assert!(refused.to_string().contains("--new-timeline"), "{refused}");
    let (_, last) = state(&anew).await;
    backup.sync(&anew.uri(), &["--new-timeline"]).await.expect("the new set");
    is_restored(&backup, "latest", &last).await;
    is_restored(&backup, &old.to_string(), &before).await;
    backup.run(&["fsck"], &[]).await.expect("nothing damaged");
}

/// Writes to a primary that no majority follows any more.
async fn write_alone(set: &ReplicaSet, primary: usize) -> mongodb::error::Result<()> {
    let alone = set.member(primary).await.expect("connect");
    let concern = WriteConcern::builder().w(Acknowledgment::Nodes(1)).journal(true).build();
    let things = alone.database("shop").collection::<Document>("things");
    for id in 9_000..9_050 {
        things
            .insert_one(doc! { "_id": id, "doomed": true })
            .write_concern(concern.clone())
            .await?;
    }
    let changed = doc! { "$set": { "doomed": true } };
    things.update_many(doc! { "_id": { "$lt": 100 } }, changed).write_concern(concern).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_rolled_back_is_in_no_restore_point() {
    let mut set = ReplicaSet::of(3).await.expect("start");
    let (backup, _folder) = backup();
    insert(&set, 0..1_000, 200).await;
    let primary = set.primary().await.expect("primary");
    let others: Vec<usize> = (0..3).filter(|member| *member != primary).collect();
    // From the member that is to roll back: what it has and the majority lacks must not be read.
    let from = set.host(primary);
    let options = ["--snapshot-every", "1h", "--read-from", &from];
    let mut daemon = backup.start_daemon(&set.uri(), &options).expect("start the daemon");
    backup.wait_for_snapshots(1, &mut daemon).await.expect("initial sync");
    let (common, before) = state(&set).await;
    backup.wait_for_received(common, &mut daemon).await.expect("the oplog");

    others.iter().for_each(|member| set.kill(*member).expect("kill"));
    write_alone(&set, primary).await.expect("written by the old primary");
    // Time for the tail to read what it must not.
    sleep(Duration::from_millis(1_500)).await;
    set.kill(primary).expect("kill");
    for member in others {
        set.restart(member).await.expect("start");
    }
    let new = set.primary().await.expect("a new primary");
    assert_ne!(new, primary);
    let things = set.member(new).await.expect("connect").database("shop");
    let things = things.collection::<Document>("things");
    things.insert_one(doc! { "_id": 9_000, "kept": true }).await.expect("insert");
    set.restart(primary).await.expect("start");
    set.wait_healthy().await.expect("all members");
    let doomed = doc! { "doomed": true };
    let (late, after) = state(&set).await;
    let old = set.member(primary).await.expect("connect").database("shop");
    let old = old.collection::<Document>("things");
    assert_eq!(old.count_documents(doomed).await.expect("count"), 0, "rolled back");

    backup.wait_for_received(late, &mut daemon).await.expect("the oplog");
    daemon.terminate().await.expect("a clean end");
    assert!(job(&backup).await.gaps.is_empty(), "the tail went on without a gap");
    is_restored(&backup, &common.to_string(), &before).await;
    is_restored(&backup, "latest", &after).await;
    backup.run(&["fsck"], &[]).await.expect("nothing damaged");
}
