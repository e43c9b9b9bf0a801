//! A daemon pushes while its blockstore, a set of three members, is shot at: the primary is killed at random moments, steps
//! down, or hears and says nothing for a while; members are restarted one by one and all at once. The push goes on by itself
//! each time. In the end the blockstore holds all that the daemon has, stored once: what is restored from it equals the source, what is
//! rebuilt from it equals the store, and whoever left it in order has left nothing behind.
//!
//! Two kills in each of two tests; twenty with `HEADSTOCK_LONG=1`. `HEADSTOCK_SEED=n` runs that seed.

use std::time::Duration;

use bson::{Binary, Document, doc, spec::BinarySubtype};
use futures::TryStreamExt as _;
use headstock::lab::{Backup, Detail, Plan, ReplicaSet, Workload};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::{Instant, sleep};

use crate::forms::{is_long, seeds};
use crate::scene::Scene;
use crate::watch::{remote, wait_for_remote, wait_for_snapshot_of};

/// Name of the job: that of the source's set.
const JOB: &str = "source";
/// Documents that do not compress, so that pushing the first snapshot at 1 MB/s takes longer than an election.
const BULK: i32 = 20_000;
/// Bytes of each.
const BULK_BYTES: usize = 1_000;

/// How often the primary is killed in each of the two tests.
fn kills() -> usize {
    if is_long() { 20 } else { 2 }
}

/// What happens to the blockstore between two kills.
#[derive(Debug, Clone, Copy)]
enum Blow {
    /// The primary is asked to step down.
    StepDown,
    /// The primary answers nobody until long after another one was elected.
    Stall,
    /// Every member is restarted, one after another.
    EachInTurn,
    /// Every member is killed and started again.
    AllAtOnce,
}

const BLOWS: [Blow; 4] = [Blow::StepDown, Blow::AllAtOnce, Blow::Stall, Blow::EachInTurn];

impl Blow {
    async fn strike(self, set: &mut ReplicaSet) {
        match self {
            Self::StepDown => {
                set.step_down().await.expect("another primary");
            }
            Self::Stall => {
                let primary = set.primary().await.expect("a primary");
                set.freeze(primary, true).expect("freeze");
                assert_ne!(set.primary().await.expect("another primary"), primary);
                // So that commands are waited for in vain, and others sent to the new one.
                sleep(Duration::from_secs(3)).await;
                set.freeze(primary, false).expect("go on");
            }
            Self::EachInTurn => {
                for member in 0..set.members() {
                    set.stop(member).await.expect("stop");
                    set.restart(member).await.expect("restart");
                    set.wait_healthy().await.expect("healthy");
                }
            }
            Self::AllAtOnce => {
                (0..set.members()).for_each(|member| set.kill(member).expect("kill"));
                for member in 0..set.members() {
                    set.restart(member).await.expect("restart");
                }
            }
        }
        set.wait_healthy().await.expect("healthy");
    }
}

/// How long the daemon looks for a primary before a command fails.
#[derive(Debug, Clone, Copy)]
enum Patience {
    /// As it does by itself: longer than an election, which so becomes nothing but a slow command.
    Usual,
    /// Shorter than any election, so that each fails whatever is under way.
    Short,
}

impl Patience {
    /// The first of its blows: in the short form each has two.
    const fn first(self) -> usize {
        match self {
            Self::Short => 0,
            Self::Usual => 2,
        }
    }

    /// What the connection string says of it.
    const fn option(self) -> &'static str {
        match self {
            Self::Usual => "",
            Self::Short => "&serverSelectionTimeoutMS=500",
        }
    }
}

/// Puts documents into the source that take long to push.
async fn load_bulk(source: &ReplicaSet, rng: &mut StdRng) {
    let bulk = source.client().database("bulk").collection::<Document>("noise");
    for chunk in (0..BULK).collect::<Vec<_>>().chunks(2_000) {
        let documents = chunk.iter().map(|n| {
            let bytes = (0..BULK_BYTES).map(|_| rng.random()).collect();
            doc! { "_id": n, "noise": Binary { subtype: BinarySubtype::Generic, bytes } }
        });
        bulk.insert_many(documents.collect::<Vec<_>>()).await.expect("load");
    }
}

/// Kills the primary after a random time; it comes back some time after another was elected.
async fn kill_primary(set: &mut ReplicaSet, rng: &mut StdRng, within_ms: u64) {
    sleep(Duration::from_millis(rng.random_range(0..within_ms))).await;
    let primary = set.primary().await.expect("a primary");
    set.kill(primary).expect("kill");
    let began = Instant::now();
    set.primary().await.expect("another primary");
    println!("member {primary} killed; another elected after {:.1?}", began.elapsed());
    sleep(Duration::from_millis(rng.random_range(0..2_000))).await;
    set.restart(primary).await.expect("restart");
}

/// Bytes of all blocks in the blockstore.
async fn stored_bytes(scene: &Scene) -> u64 {
    let blocks = scene.database().collection::<Document>("blocks");
    let sum = doc! { "$group": { "_id": null, "bytes": { "$sum": { "$toLong": "$len" } } } };
    let mut found = blocks.aggregate([sum]).await.expect("sum");
    let found = found.try_next().await.expect("sum").expect("there are blocks");
    found.get_i64("bytes").expect("a sum").unsigned_abs()
}

/// A rebuild in whose time the primary is killed.
async fn rebuilt_under_fire(scene: &mut Scene, rng: &mut StdRng) -> Backup {
    let (backup, path, uri) = (scene.store("rebuilt"), scene.path("rebuilt"), scene.uri());
    let path = path.to_str().expect("a path");
    let words = ["rebuild", "--blockstore", &uri, "--json", "--store", path];
    let rebuild = scene.program.spawn(&words).expect("rebuild");
    kill_primary(scene.blockstore(), rng, 3_000).await;
    rebuild.wait().await.expect("rebuilt");
    backup
}

async fn pushed_under_fire(seed: u64, patience: Patience) {
    println!("seed {seed}, {patience:?}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut scene = Scene::of(3).await;
    load_bulk(&scene.source, &mut rng).await;
    let plan = Plan { operations_per_second: 150, large_transactions: false, ..Plan::small(seed) };
    let mut workload = Workload::start(scene.source.client(), &plan).await.expect("a workload");
    let (backup, uri) = (scene.store("store"), format!("{}{}", scene.uri(), patience.option()));
    let more = ["--snapshot-every", "5s", "--push-mbps", "1", "--blockstore", &uri];
    let mut daemon = backup.start_daemon(&scene.source.uri(), &more).expect("a daemon");
    wait_for_remote(&backup, &mut daemon, "pushing", |remote| remote.pushing.is_some()).await;

    for kill in 0..kills() {
        kill_primary(scene.blockstore(), &mut rng, 4_000).await;
        let blow = BLOWS[(patience.first() + kill) % BLOWS.len()];
        blow.strike(scene.blockstore()).await;
        println!("kill {kill}, {blow:?}: {:?}", remote(&backup).await);
        assert!(daemon.is_running().expect("ask"), "the daemon ended: {}", daemon.log());
    }
    let (end, truth) = workload.pause(&scene.source, Detail::Documents).await.expect("pause");
    println!("{}", workload.stop().await);
    wait_for_snapshot_of(&backup, &mut daemon, end.ts).await;
    let has_all =
        wait_for_remote(&backup, &mut daemon, "all pushed", |remote| remote.has_all(end.ts)).await;
    let log = daemon.log();
    daemon.terminate().await.expect("a clean end");

    let (blocks, stored) = (scene.count("blocks").await, stored_bytes(&scene).await);
    let attempts = log.matches("pushing goes on after a pause").count();
    println!("{attempts} attempts failed; {blocks} blocks, {stored} bytes; {has_all:?}");
    assert!(has_all.snapshots >= 2, "{has_all:?}");
    assert!(has_all.sent_bytes <= stored, "sent more than is there: {has_all:?}");
    assert_eq!(scene.count("daemons").await, 0, "a daemon that left is still known");
    assert_eq!(scene.count("sessions").await, 0, "a session outlived its daemon");

    let root = backup.newest(JOB).await.expect("a snapshot").content_root;
    let rebuilt = rebuilt_under_fire(&mut scene, &mut rng).await;
    assert_eq!(rebuilt.newest(JOB).await.expect("a snapshot").content_root, root, "seed {seed}");
    let differences = truth.differences(&scene.restored_to_set(JOB).await);
    assert!(differences.is_empty(), "seed {seed}:\n{}", differences.join("\n"));
    backup.run(&["fsck"], &[]).await.expect("sound");
    rebuilt.run(&["fsck"], &[]).await.expect("sound");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_survives_what_happens_to_its_blockstore() {
    for seed in seeds(rand::random_range(0..1_000_000), 1..2) {
        pushed_under_fire(seed, Patience::Short).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn elections_are_waited_for() {
    for seed in seeds(rand::random_range(0..1_000_000), 2..3) {
        pushed_under_fire(seed, Patience::Usual).await;
    }
}

/// A daemon ends in time although its blockstore is away, and the next one of its store clears up what it could not.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_daemon_left_behind_goes_with_the_next() {
    let mut scene = Scene::of(1).await;
    let (backup, source, uri) = (scene.store("store"), scene.source.uri(), scene.uri());
    let numbers = scene.source.client().database("shop").collection::<Document>("numbers");
    numbers.insert_one(doc! { "_id": 1 }).await.expect("insert");
    let more = ["--snapshot-every", "3s", "--blockstore", &uri];
    let mut daemon = backup.start_daemon(&source, &more).expect("a daemon");
    wait_for_remote(&backup, &mut daemon, "pushed", |remote| remote.snapshots > 0).await;
    scene.blockstore().kill(0).expect("kill");
    numbers.insert_one(doc! { "_id": 2 }).await.expect("insert");
    daemon.terminate().await.expect("a clean end");
    scene.blockstore().restart(0).await.expect("restart");
    scene.blockstore().wait_healthy().await.expect("healthy");
    assert_eq!(scene.count("daemons").await, 1, "who told the blockstore?");

    let end = scene.source.wait_replicated().await.expect("replicated").ts;
    let mut daemon = backup.start_daemon(&source, &more).expect("a daemon");
    wait_for_snapshot_of(&backup, &mut daemon, end).await;
    wait_for_remote(&backup, &mut daemon, "all pushed", |remote| remote.has_all(end)).await;
    daemon.terminate().await.expect("a clean end");
    assert_eq!(scene.count("daemons").await, 0);
    assert_eq!(scene.count("sessions").await, 0);
    assert!(scene.truth().await.differences(&scene.restored(JOB).await).is_empty());
}
