//! Two daemons and one job: whose it is, is never in doubt. A daemon that comes while another is alive pushes nothing, says why, and
//! goes on locally. One that is frozen for longer than its lease loses the job to another, and when it wakes none of its writes count
//! any more: whatever it had under way, what the blockstore has since the take-over is what the other one wrote.
//!
//! In the long form (`HEADSTOCK_LONG=1`) the job goes back to the first in the end. `HEADSTOCK_SEED=n` runs that seed.

use std::time::Duration;

use bson::oid::ObjectId;
use bson::{Document, doc};
use headstock::blockstore::Blockstore;
use headstock::job;
use headstock::lab::{Backup, Detail, Plan, Running, Workload};
use headstock::oplog::slice::Slice;
use headstock::oplog::{OpTime, Ts};
use tokio::time::{Instant, sleep};

use crate::forms::{is_long, seeds};
use crate::scene::{Kept, Scene};
use crate::watch::{Remote, remote, wait_for_remote, wait_for_snapshot_of};

/// Name of the job: that of the source's set.
const JOB: &str = "source";
/// How a daemon says that the job is another's.
const REFUSED: &str = "that is alive";
/// Limit of noticing that a session is lost: the next commit does.
const STUMBLE_LIMIT: Duration = Duration::from_secs(120);

/// Whose the job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Owner {
    daemon: ObjectId,
    epoch: i64,
}

async fn job_document(scene: &Scene) -> Document {
    let jobs = scene.documents("jobs").await;
    jobs.into_iter().find(|job| job.get_str("_id").is_ok_and(|id| id == JOB)).expect("the job")
}

async fn owner(scene: &Scene) -> Owner {
    let job = job_document(scene).await;
    let daemon = job.get_object_id("daemon").expect("it is somebody's");
    Owner { daemon, epoch: job.get_i64("epoch").expect("an epoch") }
}

async fn commits(scene: &Scene) -> i64 {
    job_document(scene).await.get_i64("commits").expect("commits")
}

fn is_refused(remote: &Remote) -> bool {
    remote.trouble.as_ref().is_some_and(|trouble| trouble.contains(REFUSED))
}

fn start(scene: &Scene, backup: &Backup) -> Running {
    let uri = scene.uri();
    let more = ["--snapshot-every", "3s", "--blockstore", &uri];
    backup.start_daemon(&scene.source.uri(), &more).expect("a daemon")
}

/// Moment of the newest entry of the source.
async fn now(scene: &Scene) -> Ts {
    let admin = scene.source.client().database("admin");
    let hello = admin.run_command(doc! { "hello": 1 }).await.expect("hello");
    let write = hello.get_document("lastWrite").expect("a write");
    let optime = write.get_document("opTime").expect("its optime");
    optime.get_timestamp("ts").expect("ts").into()
}

/// A daemon on a store of its own is told that the job is another's, and follows the source all the same.
async fn refused_while_another_lives(scene: &Scene) {
    let before = owner(scene).await;
    let third = scene.store("third");
    let mut daemon = start(scene, &third);
    third.wait_until_following(&mut daemon).await.expect("it goes on locally");
    wait_for_remote(&third, &mut daemon, "refused", is_refused).await;
    third.wait_for_received(now(scene).await, &mut daemon).await.expect("it follows the source");
    third.wait_for_snapshots(1, &mut daemon).await.expect("a snapshot");
    daemon.terminate().await.expect("a clean end");
    assert_eq!(owner(scene).await, before);
}

/// Sessions that somebody has taken for dead and ended cost their daemon an attempt, and not the job.
async fn kept_by_one_that_stumbles(scene: &Scene, backup: &Backup, daemon: &mut Running) {
    let before = owner(scene).await;
    let sessions = scene.database().collection::<Document>("sessions");
    let ended = sessions.delete_many(doc! { "daemon": before.daemon }).await.expect("delete");
    assert!(ended.deleted_count > 0);
    let began = Instant::now();
    while owner(scene).await.epoch == before.epoch {
        assert!(began.elapsed() < STUMBLE_LIMIT, "not noticed; its log:\n{}", daemon.log());
        sleep(Duration::from_millis(100)).await;
    }
    let count = scene.count("snapshots").await;
    let goes_on = |remote: &Remote| remote.trouble.is_none() && remote.snapshots > count;
    wait_for_remote(backup, daemon, "gone on", goes_on).await;
    assert_eq!(owner(scene).await, Owner { epoch: before.epoch + 1, ..before });
}

async fn slices(scene: &Scene) -> Vec<Slice> {
    let blockstore = Blockstore::open(&scene.place()).await.expect("open");
    blockstore.slices(JOB).await.expect("slices")
}

/// Every slice follows on the one before it.
fn is_chain(slices: &[Slice]) {
    for pair in slices.windows(2) {
        let (end, prev) = (pair[0].header.last.optime, pair[1].header.prev);
        assert_eq!(end, prev, "the slices have a gap or overlap");
    }
}

/// The slices are a chain; and those after `taken` are slices of that store, to the block, as the snapshots after it are
/// the store's.
async fn only_of(scene: &Scene, store: &Backup, taken: OpTime) {
    let slices = slices(scene).await;
    is_chain(&slices);
    let blockstore = Blockstore::open(&scene.place()).await.expect("open");
    let snapshots = blockstore.snapshots(JOB).await.expect("snapshots");
    let local = job::open_backup(store.store(), Some(JOB)).expect("open");
    let after: Vec<_> = slices.iter().filter(|slice| slice.header.last.optime > taken).collect();
    assert!(!after.is_empty(), "nothing was pushed after the take-over");
    for slice in after {
        let same = local.slices.iter().any(|own| {
            own.header.last.optime == slice.header.last.optime && own.pieces == slice.pieces
        });
        assert!(same, "a slice up to {} is somebody else's", slice.header.last.optime);
    }
    let after: Vec<_> = snapshots.iter().filter(|one| one.head.position.optime > taken).collect();
    assert!(!after.is_empty(), "no snapshot was pushed after the take-over");
    for snapshot in after {
        let same = local.snapshots.iter().any(|own| own.id == snapshot.id);
        assert!(same, "snapshot {} is somebody else's", snapshot.id);
    }
}

pub async fn taken_over(scene: Scene, seed: u64) {
    println!("seed {seed}");
    let plan = Plan { operations_per_second: 100, large_transactions: false, ..Plan::small(seed) };
    let mut workload = Workload::start(scene.source.client(), &plan).await.expect("a workload");
    let first = scene.store("first");
    let mut one = start(&scene, &first);
    wait_for_remote(&first, &mut one, "pushed", |remote| remote.snapshots > 0).await;
    if let Kept::Set(_) = &scene.kept {
        kept_by_one_that_stumbles(&scene, &first, &mut one).await;
    }
    refused_while_another_lives(&scene).await;

    one.freeze(true).expect("freeze");
    let was = owner(&scene).await;
    let (second, report) = scene.rebuild("second", &[]).await;
    println!("{report}");
    let mut two = start(&scene, &second);
    wait_for_remote(&second, &mut two, "taken", |remote| remote.received.is_some()).await;
    let is = owner(&scene).await;
    assert_ne!(is.daemon, was.daemon);
    assert_eq!(is.epoch, was.epoch + 1);
    let taken = received(&scene).await;
    let before = remote(&second).await.expect("it pushes").snapshots;
    wait_for_remote(&second, &mut two, "snapshots", |remote| remote.snapshots > before).await;

    let (counted, woken) = (commits(&scene).await, now(&scene).await);
    one.freeze(false).expect("go on");
    wait_for_remote(&first, &mut one, "awake and refused", is_refused).await;
    first.wait_for_received(woken, &mut one).await.expect("it follows the source");
    let count = first.snapshots().await.expect("snapshots").len();
    first.wait_for_snapshots(count + 1, &mut one).await.expect("it takes snapshots");
    assert_eq!(owner(&scene).await, is, "the job went back to who lost it");

    let (end, truth) = workload.pause(&scene.source, Detail::Documents).await.expect("pause");
    workload.stop().await;
    first.wait_for_received(end.ts, &mut one).await.expect("the whole oplog");
    wait_for_snapshot_of(&second, &mut two, end.ts).await;
    wait_for_remote(&second, &mut two, "all pushed", |remote| remote.has_all(end.ts)).await;
    assert!(commits(&scene).await > counted);
    only_of(&scene, &second, taken).await;
    if is_long() {
        two.terminate().await.expect("a clean end");
        // Its own slices take the place of those that the other has cut otherwise.
        wait_for_remote(&first, &mut one, "given back", |remote| remote.has_all(end.ts)).await;
        assert_eq!(owner(&scene).await.epoch, is.epoch + 1);
        is_chain(&slices(&scene).await);
        one.terminate().await.expect("a clean end");
    } else {
        // The one that has lost it first: else it would take what the other gives away.
        one.terminate().await.expect("a clean end");
        assert_eq!(owner(&scene).await, is);
        two.terminate().await.expect("a clean end");
    }
    assert_eq!(scene.count("daemons").await, 0, "a daemon that left is still known");

    first.run(&["fsck"], &[]).await.expect("sound");
    second.run(&["fsck"], &[]).await.expect("sound");
    let root = second.newest(JOB).await.expect("a snapshot").content_root;
    let (rebuilt, _) = scene.rebuild("rebuilt", &[]).await;
    assert_eq!(rebuilt.newest(JOB).await.expect("a snapshot").content_root, root, "seed {seed}");
    let differences = truth.differences(&scene.restored_to_set(JOB).await);
    assert!(differences.is_empty(), "seed {seed}:\n{}", differences.join("\n"));
}

/// The last entry that the blockstore has.
async fn received(scene: &Scene) -> OpTime {
    let job = job_document(scene).await;
    let received = job.get_document("received").expect("slices");
    let ts = received.get_timestamp("ts").expect("ts");
    OpTime { ts: ts.into(), term: received.get_i64("t").expect("a term") }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_daemon_loses_its_job_and_writes_nothing_more() {
    for seed in seeds(rand::random_range(0..1_000_000), 1..3) {
        taken_over(Scene::of(1).await, seed).await;
    }
}
