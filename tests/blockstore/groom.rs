//! Grooming beside everything else: nothing that is reached ever goes, and what is not does.

use std::time::{Duration, Instant};

use bson::{Document, doc};
use headstock::lab::{Backup, Plan, Workload};
use serde_json::Value;

use crate::scene::Scene;

/// Snapshots of a job that are left alone.
const KEPT: usize = 2;
/// How long everything runs beside everything else.
const SHORT: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(300);
/// Rounds that are run, however long they take, so that jobs are rebuilt and restored, and blocks go.
const ROUNDS_MIN: usize = 4;
/// How long what these rounds show is waited for.
const PATIENCE: Duration = Duration::from_secs(300);
/// Dead bytes that may be left, in percent.
const DEAD_PERCENT_MAX: u64 = 10;

impl Scene {
    /// Runs a command on the blockstore that prints JSON.
    pub async fn json(&self, command: &str, more: &[&str]) -> Value {
        let uri = self.uri();
        let mut words = vec![command, "--blockstore", &uri, "--json"];
        words.extend(more);
        self.program.json(&words).await.unwrap_or_else(|error| panic!("{command}: {error:?}"))
    }

    pub async fn groom(&self, more: &[&str]) -> Value {
        let marks = self.path("marks");
        let mut words = vec!["--marks", marks.to_str().expect("a path")];
        words.extend(more);
        self.json("groom", &words).await
    }

    /// Asks for all but the newest snapshots of a job to be removed. Returns how many.
    async fn delete_old(&self, job: &str) -> usize {
        let snapshots = self.json("snapshots", &["--job", job]).await;
        let ids = snapshots.as_array().expect("an array").iter();
        let ids: Vec<&str> = ids.map(|one| one["id"].as_str().expect("an id")).collect();
        let old = ids.len().saturating_sub(KEPT);
        for id in &ids[..old] {
            let uri = self.uri();
            let words = ["snapshot", "delete", "--blockstore", &uri, "--job", job, id];
            // It may be gone already: the daemon was asked before.
            if let Err(error) = self.program.run(&words).await {
                assert!(format!("{error:?}").contains("has no snapshot"), "{error:?}");
            }
        }
        old
    }
}

fn number(report: &Value, field: &str) -> u64 {
    report[field].as_u64().unwrap_or_else(|| panic!("{field} of {report}"))
}

/// Two jobs of one busy source push while their older snapshots are removed, the blockstore is groomed in a loop, and jobs are restored and
/// rebuilt from it: each of these ends well, the checks are clean, and in the end nearly nothing is dead.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_reached_goes() {
    beside_everything(&Scene::of(1).await).await;
}

pub async fn beside_everything(scene: &Scene) {
    let (source, uri) = (scene.source.uri(), scene.uri());
    let workload = Workload::start(scene.source.client(), &Plan::small(5)).await.expect("load");
    let backups: Vec<(&str, Backup)> =
        ["one", "two"].map(|job| (job, scene.store(job))).into_iter().collect();
    let mut daemons = Vec::new();
    for (job, backup) in &backups {
        let more = [
            "--blockstore",
            &uri,
            "--job",
            job,
            "--snapshot-every",
            "3s",
            "--restore-window",
            "10s",
        ];
        let mut daemon = backup.start_daemon(&source, &more).expect("a daemon");
        // The first makes the repository, the second takes its salt from there.
        backup.wait_for_snapshots(1, &mut daemon).await.expect("a snapshot");
        while scene.count("snapshots").await == daemons.len() as u64 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        daemons.push(daemon);
    }
    let lasts = if std::env::var_os("HEADSTOCK_LONG").is_some() { LONG } else { SHORT };
    let (begin, mut rounds, mut deleted, mut removed) = (Instant::now(), 0, 0, 0);
    let has_shown = |rounds, deleted, removed| rounds >= ROUNDS_MIN && deleted > 0 && removed > 0;
    while begin.elapsed() < lasts
        || (!has_shown(rounds, deleted, removed) && begin.elapsed() < PATIENCE)
    {
        let job = backups[rounds % 2].0;
        deleted += scene.delete_old(job).await;
        let groomed = scene.groom(&[]);
        let reads = async {
            if rounds.is_multiple_of(2) {
                let name = format!("rebuilt-{rounds}");
                let (rebuilt, _) = scene.rebuild(&name, &["--job", job]).await;
                rebuilt.run(&["fsck"], &[]).await.expect("what was rebuilt is sound");
                std::fs::remove_dir_all(scene.path(&name)).expect("remove");
            } else {
                scene.dumped(job).await;
            }
        };
        let (groomed, ()) = tokio::join!(groomed, reads);
        removed += number(&groomed, "removed_blocks");
        let check = scene.json("fsck", &["--depth", "graph"]).await;
        assert_eq!(check["clean"], true, "{check}");
        rounds += 1;
    }
    println!("{rounds} rounds, {deleted} snapshots removed, {removed} blocks groomed");
    assert!(has_shown(rounds, deleted, removed));
    workload.stop().await;
    for (daemon, (job, backup)) in daemons.into_iter().zip(&backups) {
        daemon.terminate().await.expect("a clean end");
        backup.sync(&source, &["--blockstore", &uri, "--job", job]).await.expect("sync");
        scene.delete_old(job).await;
    }
    let groomed = scene.groom(&[]).await;
    let plan = scene.groom(&["--dry-run"]).await;
    let (live, dead) = (number(&plan, "live_bytes"), number(&plan, "dead_bytes"));
    println!("{groomed}\n{plan}");
    assert!(dead * 100 <= (live + dead) * DEAD_PERCENT_MAX, "{dead} of {}", live + dead);
    let check = scene.json("fsck", &[]).await;
    assert_eq!(check["clean"], true, "{check}");
    for (job, backup) in &backups {
        let newest = backup.newest(job).await.expect("a snapshot");
        let (rebuilt, _) = scene.rebuild(&format!("last-{job}"), &["--job", job]).await;
        let found = rebuilt.newest(job).await.expect("a snapshot");
        assert_eq!(found.content_root, newest.content_root, "{job}");
    }
}

/// A daemon and a restore died without a word: a groom waits for the lease of the one, lets the pins of the other go, and ends both.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_dead_left_is_ended() {
    let scene = Scene::of(1).await;
    scene.source.client().database("shop").create_collection("orders").await.expect("create");
    let backup = scene.store("store");
    let (source, uri) = (scene.source.uri(), scene.uri());
    backup.sync(&source, &["--blockstore", &uri]).await.expect("sync");
    let database = scene.database();
    let sessions = database.collection::<Document>("sessions");
    let reader = bson::oid::ObjectId::new();
    let dead = |id, kind: &str| {
        doc! { "_id": id, "kind": kind, "commits": 0_i64, "beat": 7_i64, "lease_ms": 1_i64, "generation": 1_i64 }
    };
    sessions.insert_one(dead(reader, "read")).await.expect("insert");
    sessions.insert_one(dead(bson::oid::ObjectId::new(), "write")).await.expect("insert");
    let snapshots = database.collection::<Document>("snapshots");
    let pin = doc! { "$push": { "pins": reader } };
    snapshots.update_one(doc! {}, pin).await.expect("pin");
    let begin = Instant::now();
    scene.groom(&[]).await;
    // No lease counts as shorter than that of this program.
    assert!(begin.elapsed() >= Duration::from_secs(30), "{:?}", begin.elapsed());
    assert_eq!(scene.count("sessions").await, 0);
    let left = snapshots.find_one(doc! {}).await.expect("find").expect("a snapshot");
    assert_eq!(left.get_array("pins").expect("pins").len(), 0);
}
