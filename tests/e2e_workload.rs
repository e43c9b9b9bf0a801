//! A random workload runs before, during and after the initial sync; the writers are paused now and
//! then and the source's state is recorded. Restores to each of these optimes, and of the latest, must
//! give servers with the same documents (`dbHash`), index specs and collection options.
//!
//! `HEADSTOCK_LONG=1` runs more seeds, for longer; `HEADSTOCK_SEED=n` runs that one.

mod forms;

use std::time::Duration;

use bson::doc;
use forms::{is_long, seeds};
use headstock::lab::{
    Backup, Detail, Mongod, Options, Plan, Program, Release, ReplicaSet, SourceState, Workload,
};
use tokio::time::sleep;

/// States recorded before the last.
const PAUSES: usize = 4;
/// The same in the short form of a version close to another.
const FEW_PAUSES: usize = 1;

fn equal(seed: u64, at: &str, expected: &SourceState, found: &SourceState) {
    let report = expected.differences(found);
    assert!(report.is_empty(), "seed {seed}, restored to {at}:\n{}", report.join("\n"));
}

async fn follow_and_restore(seed: u64, release: Release, members: usize, pauses: usize) {
    println!("seed {seed}, {}, {members} members", release.version());
    let mongod = Some(Mongod::fetch(release).expect("a server"));
    let long = is_long();
    let between = Duration::from_secs(if long { 15 } else { 3 });
    // The workload moves dates into the past, so the TTL monitor has work.
    let often = ["--setParameter", "ttlMonitorSleepSecs=2"].map(str::to_owned).to_vec();
    let options = Options { mongod, arguments: often, ..Options::members(members) };
    let set = ReplicaSet::start(options).await.expect("start a set");
    let plan = Plan { preload: if long { 20_000 } else { 4_000 }, ..Plan::small(seed) };
    let mut workload = Workload::start(set.client(), &plan).await.expect("start the workload");
    let folder = tempfile::tempdir().expect("temporary folder");
    let program = Program::new(env!("CARGO_BIN_EXE_headstock")).expect("program");
    let backup = Backup::new(program, folder.path().join("store"));

    let mut daemon =
        backup.start_daemon(&set.uri(), &["--snapshot-every", "5s"]).expect("start the daemon");
    backup.wait_for_snapshots(1, &mut daemon).await.expect("initial sync");
    let mut recorded = Vec::new();
    for pause in 0..pauses {
        sleep(between).await;
        recorded.push(workload.pause(&set, Detail::Documents).await.expect("pause"));
        workload.resume();
        if members > 1 && pause == 1 {
            set.step_down().await.expect("another primary");
        }
    }
    sleep(between).await;
    // Until the last sync nothing may change any more.
    let admin = set.client().database("admin");
    let off = doc! { "setParameter": 1, "ttlMonitorEnabled": false };
    admin.run_command(off).await.expect("stop the TTL monitor");
    let (last, state) = workload.pause(&set, Detail::Documents).await.expect("pause");
    let summary = workload.stop().await;
    println!("seed {seed}: {summary}");
    assert!(summary.done() > 500, "the workload did next to nothing: {summary}");
    backup.wait_for_received(last.ts, &mut daemon).await.expect("the whole oplog");
    daemon.terminate().await.expect("a clean end");
    recorded.push((last, state));

    for (at, expected) in &recorded {
        let at = at.ts.to_string();
        let restored = backup.restored_to_set(release, &at, &[], Detail::Documents);
        let (_set, found) = restored.await.expect("restore");
        equal(seed, &at, expected, &found);
    }
    backup.sync(&set.uri(), &[]).await.expect("sync");
    let restored = backup.restored_to_set(release, "latest", &[], Detail::Documents);
    let (_set, found) = restored.await.expect("restore");
    equal(seed, "latest", &recorded[pauses].1, &found);
    backup.run(&["fsck"], &[]).await.expect("nothing damaged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_member() {
    for seed in seeds(1, 1..7) {
        follow_and_restore(seed, Release::V6_0_5, 1, PAUSES).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_member_of_6_0_27() {
    for seed in seeds(51, 51..53) {
        let pauses = if is_long() { PAUSES } else { FEW_PAUSES };
        follow_and_restore(seed, Release::V6_0_27, 1, pauses).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_members_and_an_election() {
    for seed in seeds(101, 101..107) {
        follow_and_restore(seed, Release::V6_0_5, 3, PAUSES).await;
    }
}
