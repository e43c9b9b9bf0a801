//! The program is killed (SIGKILL) at random moments of the initial sync, of following the oplog and of
//! taking a snapshot. It always goes on from where it was: no snapshot that was listed is lost, and in
//! the end the backup equals the source.
//!
//! Five kills; fifty with `HEADSTOCK_LONG=1`.

use std::path::Path;
use std::time::Duration;

use bson::{RawDocumentBuf, doc};
use futures::TryStreamExt as _;
use headstock::job::{self, ScanInfo};
use headstock::lab::{Backup, Detail, Plan, Program, Release, ReplicaSet, SourceState, Workload};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::sleep;

fn kills() -> usize {
    if std::env::var_os("HEADSTOCK_LONG").is_some() { 50 } else { 5 }
}

fn seed() -> u64 {
    let seed = std::env::var("HEADSTOCK_SEED").map_or_else(
        |_| rand::random_range(0..1_000_000),
        |seed| seed.parse().expect("HEADSTOCK_SEED is a number"),
    );
    println!("seed {seed}");
    seed
}

/// More documents than the server's own collections have.
const SOME_DOCUMENTS: u64 = 1_000;

/// Whether the store is in the middle of a scan of the user's documents, as its last commit tells.
fn in_mid_scan(backup: &Backup) -> bool {
    // Before the first commit there is no store to ask.
    let Ok(status) = job::status(backup.store()) else { return false };
    let mut scans = status.jobs.iter().filter_map(|job| job.scan.as_ref());
    let most = |scan: &ScanInfo| scan.documents_estimate / 10 * 9;
    scans.any(|scan| (SOME_DOCUMENTS..most(scan)).contains(&scan.documents))
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_moments() {
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let set = ReplicaSet::of(1).await.expect("start a set");
    let plan = Plan { preload: 10_000, ..Plan::small(seed) };
    let mut workload = Workload::start(set.client(), &plan).await.expect("start the workload");
    let folder = tempfile::tempdir().expect("temporary folder");
    let program = Program::new(env!("CARGO_BIN_EXE_headstock")).expect("program");
    let backup = Backup::new(program, folder.path().join("store"));
    let uri = set.uri();
    let arguments = ["--job", "killed", "--snapshot-every", "1s"];

    let mut listed: Vec<String> = Vec::new();
    let mut killed_in_scan = 0;
    for kill in 0..kills() {
        let mut daemon = backup.start_daemon(&uri, &arguments).expect("start the daemon");
        if kill >= kills().div_ceil(3) {
            backup.wait_for_snapshots(listed.len() + 1, &mut daemon).await.expect("a snapshot");
            if rng.random_bool(0.5) {
                let take = backup.program().spawn(&[
                    "snapshot".as_ref(),
                    "take".as_ref(),
                    "--store".as_ref(),
                    backup.store().as_os_str(),
                ]);
                sleep(Duration::from_millis(rng.random_range(0..300))).await;
                drop(take.expect("ask for a snapshot"));
            }
        }
        sleep(Duration::from_millis(rng.random_range(0..1_200))).await;
        assert!(daemon.kill().await.expect("kill"), "seed {seed}: the daemon ended by itself");
        killed_in_scan += usize::from(in_mid_scan(&backup));
        // Before the first commit there is no store to list.
        let now: Vec<String> = match backup.snapshots().await {
            Ok(now) => now.into_iter().map(|snapshot| snapshot.id).collect(),
            Err(error) if listed.is_empty() => {
                println!("nothing to list yet: {error}");
                Vec::new()
            }
            Err(error) => panic!("seed {seed}, kill {kill}: {error}"),
        };
        assert!(
            listed.iter().all(|id| now.contains(id)),
            "seed {seed}, kill {kill}: {listed:?} became {now:?}"
        );
        listed = now;
    }
    let (_, expected) = workload.pause(&set, Detail::Documents).await.expect("pause");
    let summary = workload.stop().await;
    println!("seed {seed}: {killed_in_scan} kills in the scan; {summary}");
    backup.sync(&uri, &["--job", "killed"]).await.expect("go on to the end");
    backup.sync(&uri, &["--job", "fresh"]).await.expect("a fresh sync");
    let killed = backup.newest("killed").await.expect("snapshot");
    let fresh = backup.newest("fresh").await.expect("snapshot");
    let (release, more) = (Release::default(), ["--job", "killed"]);
    let restored = backup.restored_to_set(release, "latest", &more, Detail::Documents);
    let (_set, found) = restored.await.expect("restore");
    let report = expected.differences(&found);
    assert!(report.is_empty(), "seed {seed}:\n{}", report.join("\n"));
    assert_eq!(killed.content_root, fresh.content_root, "seed {seed}");
    backup.run(&["fsck"], &[]).await.expect("nothing damaged");
}

/// The first `_id`s of a collection in a member's natural order.
async fn natural_order(set: &ReplicaSet, member: usize) -> Vec<String> {
    let client = set.member(member).await.expect("connect");
    let mixed = client.database("shop").collection::<RawDocumentBuf>("mixed");
    let natural = mixed.find(doc! {}).sort(doc! { "$natural": 1 }).limit(2_000);
    let documents: Vec<RawDocumentBuf> =
        natural.await.expect("find").try_collect().await.expect("read");
    documents.iter().map(|document| format!("{:?}", document.get("_id"))).collect()
}

/// Syncs from `host` into fresh stores and kills each sync as soon as it is in mid-scan, until one is
/// still there when it is dead.
async fn killed_in_mid_scan(set: &ReplicaSet, host: &str, folder: &Path) -> Backup {
    for attempt in 0..5 {
        let program = Program::new(env!("CARGO_BIN_EXE_headstock")).expect("program");
        let backup = Backup::new(program, folder.join(format!("store-{attempt}")));
        let mut sync = backup.start_sync(&set.uri(), &["--read-from", host]).expect("start");
        while !in_mid_scan(&backup) && sync.is_running().expect("ask") {
            sleep(Duration::from_millis(5)).await;
        }
        if sync.kill().await.expect("kill") && in_mid_scan(&backup) {
            return backup;
        }
    }
    panic!("no kill came in the middle of a scan");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_goes_on_at_another_member() {
    let seed = seed();
    let set = ReplicaSet::of(3).await.expect("start a set");
    let mixed = set.client().database("shop").collection("mixed");
    Workload::load(&mixed, seed, 200_000).await.expect("load");
    set.wait_replicated().await.expect("replicated");
    let expected = SourceState::capture(set.client(), Detail::Collections).await.expect("capture");
    let primary = set.primary().await.expect("primary");
    let (first, second) = ((primary + 1) % 3, (primary + 2) % 3);
    let orders = (natural_order(&set, first).await, natural_order(&set, second).await);
    assert_ne!(orders.0, orders.1, "both members have the same natural order");

    let folder = tempfile::tempdir().expect("temporary folder");
    let backup = killed_in_mid_scan(&set, &set.host(first), folder.path()).await;
    let host = set.host(second);
    backup.sync(&set.uri(), &["--read-from", &host]).await.expect("go on");
    let (_server, found) =
        backup.restored("latest", &[], Detail::Collections).await.expect("restore");
    let report = expected.differences(&found);
    assert!(report.is_empty(), "seed {seed}:\n{}", report.join("\n"));
}
