//! Namespace filters: decided by name at each optime, remembered, and said wherever a backup is listed.

use std::time::{Duration, Instant};

use bson::{Document, doc};
use headstock::lab::{
    Backup, Detail, JobLine, Plan, Program, Release, ReplicaSet, SourceState, Workload,
};
use headstock::oplog::Ts;
use tempfile::TempDir;
use tokio::time::sleep;

/// Long enough for a scan of a small source on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

struct Scene {
    set: ReplicaSet,
    backup: Backup,
    _folder: TempDir,
}

impl Scene {
    async fn set_up() -> Self {
        let set = ReplicaSet::of(1).await.expect("start");
        let folder = tempfile::tempdir().expect("temporary folder");
        let program = Program::new(env!("CARGO_BIN_EXE_headstock")).expect("program");
        let backup = Backup::new(program, folder.path().join("store"));
        let scene = Self { set, backup, _folder: folder };
        for ns in [("shop", "orders"), ("shop", "cache_1"), ("shop", "other"), ("logs", "all")] {
            scene.insert(ns, 0..200).await;
        }
        scene
    }

    async fn insert(&self, (db, name): (&str, &str), ids: std::ops::Range<i32>) {
        let collection = self.set.client().database(db).collection::<Document>(name);
        let documents = ids.map(|id| doc! { "_id": id, "n": id % 7, "pad": "x".repeat(100) });
        collection.insert_many(documents).await.expect("insert");
    }

    async fn run(&self, db: &str, command: Document) {
        let shown = command.to_string();
        let reply = self.set.client().database(db).run_command(command).await;
        reply.unwrap_or_else(|error| panic!("{shown}: {error}"));
    }

    async fn rename(&self, from: &str, to: &str) {
        self.run("admin", doc! { "renameCollection": from, "to": to, "dropTarget": true }).await;
    }

    /// The source's state, of the namespaces that `keep` names.
    async fn state(&self, keep: &[&str]) -> (Ts, SourceState) {
        let at = self.set.wait_replicated().await.expect("replicated");
        let state = SourceState::capture(self.set.client(), Detail::Documents).await;
        let mut state = state.expect("state");
        state.retain(|ns| keep.iter().any(|wanted| ns.starts_with(wanted)));
        (at.ts, state)
    }

    async fn is_restored(&self, at: &str, expected: &SourceState) {
        let restored = self.backup.restored(at, &[], Detail::Documents).await;
        let (_server, mut found) = restored.expect("restore");
        found.retain(|ns| !ns.starts_with("admin.") && !ns.starts_with("config."));
        let report = expected.differences(&found);
        assert!(report.is_empty(), "restored to {at}:\n{}", report.join("\n"));
    }

    async fn sync(&self, more: &[&str]) {
        self.backup.sync(&self.set.uri(), more).await.expect("sync");
    }

    /// What a log tells of the document with `_id` 5 or another.
    async fn changes(&self, ns: &str, id: &str) -> Vec<String> {
        let log = self.backup.run(&["log"], &["--ns", ns, "--id", id, "--json"]).await;
        let log = log.expect("a log");
        let changes = log.lines().map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
            line["change"].as_str().expect("text").to_owned()
        });
        changes.collect()
    }

    /// What the databases record of operations.
    async fn profile(&self, level: i32) {
        for db in ["shop", "logs"] {
            self.run(db, doc! { "profile": level }).await;
        }
    }

    /// How often the documents of a collection were read while that was recorded. Takes the record away.
    async fn reads(&self, db: &str, name: &str) -> u64 {
        let profile = self.set.client().database(db).collection::<Document>("system.profile");
        let read = doc! { "ns": format!("{db}.{name}"), "op": "query" };
        let count = profile.count_documents(read).await.expect("a count");
        profile.drop().await.expect("drop");
        count
    }

    async fn job(&self) -> JobLine {
        self.backup.status().await.expect("status").jobs.remove(0)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_decide_and_widening_and_narrowing_keep_what_was() {
    let scene = Scene::set_up().await;
    scene.sync(&["--include", "shop", "--exclude", "shop.cache*"]).await;
    let (_, first) = scene.state(&["shop.orders", "shop.other"]).await;
    scene.is_restored("latest", &first).await;

    // A temporary collection is filled and renamed; one name leaves the filters, one never enters.
    let stages = vec![doc! { "$match": { "n": 3 } }, doc! { "$out": "report" }];
    scene.run("shop", doc! { "aggregate": "orders", "pipeline": stages, "cursor": {} }).await;
    let stages = vec![doc! { "$match": { "n": 4 } }, doc! { "$out": "cache_2" }];
    scene.run("shop", doc! { "aggregate": "orders", "pipeline": stages, "cursor": {} }).await;
    scene.rename("shop.other", "shop.cache_1").await;
    scene.insert(("logs", "all"), 200..210).await;
    // Without filters the job's own stay.
    scene.sync(&[]).await;
    let (second_at, second) = scene.state(&["shop.orders", "shop.report"]).await;
    scene.is_restored("latest", &second).await;
    let snapshots = scene.backup.run(&["snapshots"], &[]).await.expect("list");
    assert!(snapshots.contains("shop without shop.cache*"), "{snapshots}");
    let status = scene.backup.run(&["status"], &[]).await.expect("status");
    assert!(status.contains("FILTERED"), "{status}");
    let plan = scene.backup.run(&["restore", "--dry-run", "--to", "dump:d"], &[]).await;
    assert!(plan.expect("a plan").contains("filtered"), "the plan says so");

    scene.insert(("logs", "all"), 210..220).await;
    scene.profile(2).await;
    scene.sync(&["--include", "*"]).await;
    scene.profile(0).await;
    assert_eq!((scene.reads("shop", "orders").await, scene.reads("logs", "all").await), (0, 1));
    let (_, third) = scene.state(&["shop.", "logs."]).await;
    scene.is_restored("latest", &third).await;
    scene.is_restored(&second_at.to_string(), &second).await;
    assert!(scene.job().await.gaps.is_empty(), "the oplog went on");

    scene.sync(&["--exclude", "shop"]).await;
    let (_, fourth) = scene.state(&["logs."]).await;
    scene.is_restored("latest", &fourth).await;
    // What a log tells comes and goes with the filters, too.
    assert_eq!(scene.changes("shop.orders", "5").await, ["found", "left-out"]);
    assert_eq!(scene.changes("shop.other", "5").await, ["found", "left-out", "found", "left-out"]);
    assert_eq!(scene.changes("logs.all", "215").await, ["absent", "found"]);
    scene.backup.run(&["fsck"], &[]).await.expect("nothing damaged");
}

/// Syncs that end as soon as they can, one after another: each must have what its filters name then.
#[tokio::test(flavor = "multi_thread")]
async fn each_sync_has_what_its_filters_name() {
    let scene = Scene::set_up().await;
    scene.sync(&["--include", "shop.orders"]).await;
    // Within one database.
    scene.sync(&["--include", "shop.orders", "--include", "shop.other"]).await;
    let (_, state) = scene.state(&["shop.orders", "shop.other"]).await;
    scene.is_restored("latest", &state).await;
    // What was held has another name by now.
    scene.rename("shop.orders", "shop.cache_1").await;
    scene.sync(&["--include", "shop.cache_1", "--include", "logs"]).await;
    let (_, state) = scene.state(&["shop.cache_1", "logs"]).await;
    scene.is_restored("latest", &state).await;
    // What was not gets a name that is backed up.
    scene.rename("shop.other", "logs.other").await;
    scene.sync(&[]).await;
    let (_, state) = scene.state(&["shop.cache_1", "logs"]).await;
    scene.is_restored("latest", &state).await;
    scene.backup.run(&["verify", "--source", &scene.set.uri()], &[]).await.expect("equal");
    scene.backup.run(&["fsck"], &[]).await.expect("nothing damaged");
}

/// Collections are dropped, renamed and written, in the filters and out of them, while what new filters
/// bring is scanned beside the head.
#[tokio::test(flavor = "multi_thread")]
async fn other_filters_under_load() {
    let set = ReplicaSet::of(1).await.expect("start");
    let folder = tempfile::tempdir().expect("temporary folder");
    let program = Program::new(env!("CARGO_BIN_EXE_headstock")).expect("program");
    let backup = Backup::new(program, folder.path().join("store"));
    let plan = Plan { preload: 2_000, ..Plan::small(7) };
    let mut workload = Workload::start(set.client(), &plan).await.expect("start the workload");
    for filter in ["shop", "*", "od-d*", "*"] {
        let options = ["--include", filter, "--snapshot-every", "1h", "--max-mbps", "2"];
        let daemon = backup.start_daemon(&set.uri(), &options).expect("start");
        let phases: &[&str] = if filter == "*" { &["scanning", "tailing"] } else { &["tailing"] };
        for phase in phases {
            let since = Instant::now();
            while !backup.status().await.is_ok_and(|status| {
                // There is a store before there is a job in it.
                status.jobs.first().is_some_and(|job| job.phase == *phase)
            }) {
                assert!(since.elapsed() < LIMIT, "{filter}, {phase}: {}", daemon.log());
                sleep(Duration::from_millis(20)).await;
            }
        }
        sleep(Duration::from_secs(1)).await;
        daemon.terminate().await.expect("a clean end");
    }
    let (_, expected) = workload.pause(&set, Detail::Documents).await.expect("pause");
    println!("{}", workload.stop().await);
    backup.sync(&set.uri(), &[]).await.expect("sync");
    // A set takes collections with encrypted fields.
    let restored = backup.restored_to_set(Release::default(), "latest", &[], Detail::Documents);
    let report = expected.differences(&restored.await.expect("restore").1);
    assert!(report.is_empty(), "{}", report.join("\n"));
    let job = backup.status().await.expect("status").jobs.remove(0);
    assert!(job.gaps.is_empty(), "{:?}", job.gaps);
    backup.run(&["fsck"], &[]).await.expect("nothing damaged");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_renamed_into_the_filters_is_scanned_at_once() {
    let scene = Scene::set_up().await;
    let options = ["--include", "shop.orders*", "--snapshot-every", "1h"];
    let mut daemon = scene.backup.start_daemon(&scene.set.uri(), &options).expect("start");
    scene.backup.wait_for_snapshots(1, &mut daemon).await.expect("initial sync");
    scene.insert(("shop", "orders"), 200..220).await;
    let (_, before) = scene.state(&["shop.orders"]).await;

    scene.rename("shop.other", "shop.orders_old").await;
    let renamed = scene.set.wait_replicated().await.expect("replicated").ts;
    scene.insert(("shop", "orders_old"), 200..220).await;
    let since = Instant::now();
    while scene.job().await.gaps.first().is_none_or(|gap| gap.until.is_none()) {
        assert!(since.elapsed() < LIMIT, "{}", daemon.log());
        assert!(daemon.is_running().expect("ask"), "{}", daemon.log());
        sleep(Duration::from_millis(100)).await;
    }
    let gap = scene.job().await.gaps.remove(0);
    assert_eq!(gap.namespaces, ["shop.orders_old"]);
    let (late, after) = scene.state(&["shop.orders"]).await;
    scene.backup.wait_for_received(late, &mut daemon).await.expect("the oplog");
    daemon.terminate().await.expect("a clean end");
    scene.is_restored("latest", &after).await;

    assert_eq!(scene.changes("shop.orders_old", "205").await, ["absent", "found"]);
    assert_eq!(scene.changes("shop.orders", "205").await, ["absent", "inserted"]);

    // At the rename itself everything else is there, and what is not is said, or refused if named.
    let at = renamed.to_string();
    scene.is_restored(&at, &before).await;
    let restore = ["restore", "--at", &at, "--to", "dump:d", "--dry-run"];
    let plan = scene.backup.run(&restore, &[]).await.expect("a plan");
    assert!(plan.contains("not held") && plan.contains("shop.orders_old"), "{plan}");
    let refused = scene.backup.run(&restore, &["--ns", "shop.orders_old"]).await;
    let refused = refused.expect_err("not held").to_string();
    assert!(refused.contains("shop.orders_old is not held"), "{refused}");
    scene.backup.run(&["fsck"], &[]).await.expect("nothing damaged");
}
