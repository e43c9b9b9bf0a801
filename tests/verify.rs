//! `headstock verify` on real servers: equal while writers and a daemon work, and each difference named
//! that is made behind the oplog's back.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bson::{Document, doc};
use headstock::lab::{
    self, Backup, Mongod, Options, Plan, Program, Release, ReplicaSet, Standalone, Workload,
};
use mongodb::Client;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// A set, and a store that is not there yet.
struct Scene {
    set: ReplicaSet,
    backup: Backup,
    options: Options,
    _folder: TempDir,
}

impl Scene {
    async fn of(release: Release, arguments: &[&str]) -> Self {
        let mongod = Mongod::fetch(release).expect("a server");
        let arguments = arguments.iter().map(|one| (*one).to_owned()).collect();
        let options = Options { mongod: Some(mongod), arguments, ..Options::members(1) };
        let set = ReplicaSet::start(options.clone()).await.expect("start a set");
        let folder = tempfile::tempdir().expect("temporary folder");
        let program = Program::new(env!("CARGO_BIN_EXE_headstock")).expect("program");
        let backup = Backup::new(program, folder.path().join("store"));
        Self { set, backup, options, _folder: folder }
    }

    fn client(&self) -> &Client {
        self.set.client()
    }

    fn shop(&self) -> mongodb::Database {
        self.client().database("shop")
    }

    async fn sync(&self) {
        self.backup.sync(&self.set.uri(), &[]).await.expect("sync");
    }

    /// `headstock verify`, its exit code and report.
    fn verify(&self, more: &[&str]) -> (i32, Value) {
        let output = self.run(more);
        let printed = text(&output);
        let report = serde_json::from_slice(&output.stdout);
        let report = report.unwrap_or_else(|error| panic!("{error}: {printed}"));
        (output.status.code().expect("an exit code"), report)
    }

    fn run(&self, more: &[&str]) -> Output {
        let uri = self.set.uri();
        let mut words: Vec<&OsStr> = vec!["verify".as_ref(), "--store".as_ref()];
        words.push(self.backup.store().as_os_str());
        words.extend(["--source", &uri, "--json"].map(OsStr::new));
        words.extend(more.iter().map(OsStr::new));
        let mut command = Command::new(env!("CARGO_BIN_EXE_headstock"));
        command.env_remove("HEADSTOCK_SOURCE").env_remove("HEADSTOCK_STORE").args(words);
        command.output().expect("the program starts")
    }

    /// Changes the data while no server writes an oplog.
    async fn behind_the_oplog(&mut self, change: impl AsyncFnOnce(&Client)) {
        self.set.stop(0).await.expect("stop");
        let server = Standalone::open(&self.options, &self.set.data(0)).await.expect("stand-alone");
        change(server.client()).await;
        server.stop().await.expect("stop");
        self.set.restart(0).await.expect("restart");
        self.set.wait_healthy().await.expect("healthy");
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn equal((code, report): (i32, Value)) -> Value {
    assert_eq!((code, &report["equal"]), (0, &Value::Bool(true)), "{report:#}");
    report
}

/// Methods of the rounds of a report.
fn methods(report: &Value) -> Vec<&str> {
    let rounds = report["compared"].as_array().expect("an array");
    rounds.iter().map(|round| round["method"].as_str().expect("text")).collect()
}

async fn run(client: &Client, db: &str, command: Document) {
    let shown = format!("{command:?}");
    client
        .database(db)
        .run_command(command)
        .await
        .unwrap_or_else(|error| panic!("{shown}: {error}"));
}

/// All files under a directory with their sizes, but those of readers.
fn files(dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        let readers = ["readers", "scratch"].iter().any(|name| path.ends_with(name));
        match path.is_dir() {
            _ if readers => {}
            true => found.extend(files(&path)),
            false => {
                let len = path.metadata().expect("facts").len();
                found.push((path, len));
            }
        }
    }
    found.sort();
    found
}

/// Writes to collections of several kinds until stopped: documents, renames, indexes, options.
struct Writer {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Writer {
    async fn start(client: &Client, seed: u64) -> Self {
        println!("seed {seed}");
        let shapes = [
            doc! { "create": "plain" },
            doc! { "create": "log", "capped": true, "size": 40_000, "max": 300 },
            doc! { "create": "words", "collation": { "locale": "en", "strength": 2 } },
            doc! { "create": "moves-0" },
        ];
        for shape in shapes {
            run(client, "shop", shape).await;
        }
        let many = (0..20_000).map(|n| doc! { "_id": n, "n": n, "s": format!("{n:060}") });
        let plain = client.database("shop").collection::<Document>("plain");
        plain.insert_many(many).await.expect("insert");
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let task = tokio::spawn(write(client.clone(), seed, stop.clone(), done.clone()));
        Self { stop, done, task }
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("the writer ends well");
        assert!(self.done.load(Ordering::Relaxed) > 200, "the writer did next to nothing");
    }
}

async fn write(client: Client, seed: u64, stop: Arc<AtomicBool>, done: Arc<AtomicU64>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let shop = client.database("shop");
    let collection = |name: &str| shop.collection::<Document>(name);
    let mut renames = 0;
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let id = rng.random_range(0..25_000);
        let outcome = match rng.random_range(0..12) {
            0..3 => {
                let change = doc! { "$set": { "n": n }, "$unset": { "s": "" } };
                collection("plain").update_one(doc! { "_id": id }, change).await.map(drop)
            }
            3 | 4 => collection("plain").delete_one(doc! { "_id": id }).await.map(drop),
            5 => collection("plain").insert_one(doc! { "_id": id, "again": n }).await.map(drop),
            6 | 7 => collection("log").insert_one(doc! { "_id": n, "n": n }).await.map(drop),
            8 => {
                let word = format!("{}{}", if n % 2 == 0 { "W" } else { "w" }, id % 500);
                collection("words").insert_one(doc! { "_id": word }).await.map(drop)
            }
            9 => {
                let name = format!("moves-{renames}");
                collection(&name).insert_one(doc! { "_id": n }).await.map(drop)
            }
            10 if n % 5 == 0 => {
                let (from, to) = (format!("shop.moves-{renames}"), renames + 1);
                renames = to;
                let rename = doc! { "renameCollection": from, "to": format!("shop.moves-{to}") };
                client.database("admin").run_command(rename).await.map(drop)
            }
            _ if n % 7 == 0 => {
                let name = format!("i{}", id % 3);
                let index = doc! { "key": { &name: 1 }, "name": &name };
                let command = match rng.random_bool(0.5) {
                    true => doc! { "createIndexes": "words", "indexes": [index] },
                    false => doc! { "dropIndexes": "words", "index": name },
                };
                shop.run_command(command).await.map(drop)
            }
            _ => {
                collection("plain").replace_one(doc! { "_id": id }, doc! { "r": n }).await.map(drop)
            }
        };
        // Duplicate keys and missing indexes are part of it.
        done.fetch_add(u64::from(outcome.is_ok()), Ordering::Relaxed);
    }
}

/// Verifies again and again beside a daemon and a writer.
async fn beside_a_daemon(release: Release, expected: &str) {
    let scene = Scene::of(release, &[]).await;
    let writer = Writer::start(scene.client(), rand::random_range(0..1_000_000)).await;
    let arguments = ["--snapshot-every", "2s"];
    let mut daemon = scene.backup.start_daemon(&scene.set.uri(), &arguments).expect("daemon");
    scene.backup.wait_until_following(&mut daemon).await.expect("initial sync");
    for round in 0..3 {
        let report = equal(scene.verify(&[]));
        let methods = methods(&report);
        println!("round {round}: {}", report["compared"]);
        assert_eq!(methods[0], expected, "{report:#}");
        let documents = report["compared"][0]["documents"].as_u64().expect("a count");
        assert!(documents > 10_000, "{report:#}");
        sleep(Duration::from_secs(1)).await;
    }
    let report = equal(scene.verify(&["--by-oplog"]));
    assert_eq!(methods(&report)[0], "oplog", "{report:#}");
    daemon.terminate().await.expect("a clean end");
    writer.end().await;
    // Nobody follows the source now: its own oplog brings the backup to the present.
    let before = files(scene.backup.store());
    scene.shop().collection::<Document>("plain").delete_many(doc! {}).await.expect("delete");
    let report = equal(scene.verify(&[]));
    assert!(report["compared"][0]["entries_ahead"].as_u64() > Some(1_000), "{report:#}");
    assert_eq!(files(scene.backup.store()), before, "the store was written");
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_beside_a_daemon_and_a_writer() {
    beside_a_daemon(Release::V6_0_5, "snapshot").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_beside_a_daemon_and_a_writer_on_4_4() {
    beside_a_daemon(Release::V4_4_2, "oplog").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_under_the_whole_workload() {
    let scene = Scene::of(Release::V6_0_5, &[]).await;
    let seed = rand::random_range(0..1_000_000);
    println!("seed {seed}");
    let plan = Plan { preload: 2_000, ..Plan::small(seed) };
    let workload = Workload::start(scene.client(), &plan).await.expect("start the workload");
    let mut daemon = scene.backup.start_daemon(&scene.set.uri(), &[]).expect("daemon");
    scene.backup.wait_until_following(&mut daemon).await.expect("initial sync");
    for _ in 0..4 {
        let report = equal(scene.verify(&[]));
        println!("{}", report["compared"]);
        sleep(Duration::from_secs(1)).await;
    }
    equal(scene.verify(&["--by-oplog"]));
    workload.stop().await;
    daemon.terminate().await.expect("a clean end");
}

/// A source that keeps no history worth the name: everything large has to be caught up with by the
/// oplog.
#[tokio::test(flavor = "multi_thread")]
async fn history_that_is_too_short_is_no_obstacle() {
    let none = ["--setParameter", "minSnapshotHistoryWindowInSeconds=0"];
    let scene = Scene::of(Release::V6_0_5, &none).await;
    let padded = |n: i32| doc! { "_id": n, "pad": format!("{n:04000}") };
    for from in (0..12_000).step_by(1_000) {
        let many = (from..from + 1_000).map(padded);
        let large = scene.shop().collection("large");
        large.insert_many(many).await.expect("insert");
    }
    let writer = Writer::start(scene.client(), 1).await;
    let mut daemon = scene.backup.start_daemon(&scene.set.uri(), &[]).expect("daemon");
    scene.backup.wait_until_following(&mut daemon).await.expect("initial sync");
    let report = equal(scene.verify(&[]));
    println!("{}", report["compared"]);
    let methods = methods(&report);
    assert!(methods.contains(&"oplog"), "{report:#}");
    daemon.terminate().await.expect("a clean end");
    writer.end().await;
}

/// Kinds, namespaces and ids of the findings of a report.
fn findings(report: &Value) -> Vec<(String, String, String)> {
    let field = |finding: &Value, name: &str| finding[name].as_str().unwrap_or_default().to_owned();
    let all = report["findings"].as_array().expect("an array").iter();
    let mut all: Vec<_> = all
        .map(|one| {
            let shown = if one["id"].is_null() { field(one, "detail") } else { field(one, "id") };
            (field(one, "kind"), field(one, "ns"), shown)
        })
        .collect();
    all.sort();
    all
}

async fn every_difference_is_named(release: Release) {
    let test_commands = ["--setParameter", "enableTestCommands=1"];
    let mut scene = Scene::of(release, &test_commands).await;
    let shop = scene.shop();
    for create in [
        doc! { "create": "log", "capped": true, "size": 100_000 },
        doc! { "create": "swapped", "capped": true, "size": 100_000 },
        doc! { "create": "checked", "validator": { "n": 1 }, "validationLevel": "off" },
    ] {
        shop.run_command(create).await.expect("create");
    }
    for name in ["orders", "log", "gone", "swapped", "checked", "renamed"] {
        let many = (0..3_000).map(|n| doc! { "_id": n, "n": n, "deep": { "x": n } });
        let few = if name == "orders" { 3_000 } else { 20 };
        shop.collection(name).insert_many(many.take(few)).await.expect("insert");
    }
    for (name, field) in [("orders", "n"), ("orders", "deep"), ("log", "n")] {
        let index = doc! { "key": { field: 1 }, "name": field };
        run(scene.client(), "shop", doc! { "createIndexes": name, "indexes": [index] }).await;
    }
    scene.sync().await;
    equal(scene.verify(&[]));
    scene.behind_the_oplog(damage).await;
    let (code, report) = scene.verify(&[]);
    assert_eq!(code, 3, "{report:#}");
    let int = |n: i32| format!(r#"{{"$numberInt":"{n}"}}"#);
    let mut expected: Vec<(&str, &str, String)> = vec![
        ("different-document", "shop.orders", int(7)),
        ("different-document", "shop.orders", int(1_234)),
        ("extra-document", "shop.orders", int(2_999)),
        ("missing-document", "shop.orders", int(3_000)),
        ("missing-document", "shop.orders", r#""new""#.to_owned()),
        ("different-document", "shop.log", int(3)),
        ("extra-collection", "shop.gone", "20 documents".to_owned()),
        ("missing-collection", "shop.unheard-of", "2 documents".to_owned()),
        ("missing-index", "shop.orders", "added".to_owned()),
        ("extra-index", "shop.orders", "n".to_owned()),
        ("different-index", "shop.orders", "deep".to_owned()),
        ("order", "shop.swapped", "members of a set can differ so: a primary may store concurrent inserts in another order than \
             it logs them"
                .to_owned()),
        ("name", "shop.renamed", "shop.other".to_owned()),
    ];
    let mut found = findings(&report);
    // Options are shown as they are, and a server may add to them.
    let options = found.extract_if(.., |finding| finding.0 == "options").collect::<Vec<_>>();
    assert!(matches!(&options[..], [one] if one.1 == "shop.checked"), "{options:?}");
    let mut all: Vec<_> = expected
        .drain(..)
        .map(|(kind, ns, shown)| (kind.to_owned(), ns.to_owned(), shown))
        .collect();
    all.sort();
    assert_eq!(found, all, "{report:#}");
    let counts = doc! {
        "missing_documents": 4_i64, "extra_documents": 21_i64, "different_documents": 3_i64,
        "missing_collections": 1_i64, "extra_collections": 1_i64, "catalog": 5_i64,
        "reordered": 1_i64,
    };
    assert_eq!(report["counts"], serde_json::to_value(&counts).expect("JSON"), "{report:#}");
    let details: Vec<&Value> = report["findings"].as_array().expect("an array").iter().collect();
    let detail = |id: i32| {
        let id = int(id);
        let one = details.iter().find(|one| one["id"] == id.as_str() && one["ns"] == "shop.orders");
        one.expect("a finding")["detail"].as_str().expect("text")
    };
    assert_eq!((detail(7), detail(1_234)), ("in n", "in deep"));
    // Only what is asked for is looked at.
    let (code, report) = scene.verify(&["--ns", "shop.log", "--ns", "shop.swapped"]);
    assert_eq!((code, report["findings"].as_array().map(Vec::len)), (3, Some(2)), "{report:#}");
    let (code, report) = scene.verify(&["--by-oplog", "--ns", "shop.orders"]);
    assert_eq!((code, report["findings"].as_array().map(Vec::len)), (3, Some(8)), "{report:#}");
    equal(scene.verify(&["--ns", "admin"]));
    let nothing = scene.run(&["--ns", "shop.nowhere"]);
    assert_eq!(nothing.status.code(), Some(1), "{}", text(&nothing));
    assert!(text(&nothing).contains("shop.nowhere"), "{}", text(&nothing));
}

/// One difference of each kind.
async fn damage(client: &Client) {
    let shop = client.database("shop");
    let orders = shop.collection::<Document>("orders");
    let set =
        |id: i32, change: Document| orders.update_one(doc! { "_id": id }, doc! { "$set": change });
    set(7, doc! { "n": -7 }).await.expect("update");
    // Equal by value, not by bytes.
    set(1_234, doc! { "deep.x": 1_234_i64 }).await.expect("update");
    orders.delete_one(doc! { "_id": 2_999 }).await.expect("delete");
    orders.insert_one(doc! { "_id": 3_000 }).await.expect("insert");
    orders.insert_one(doc! { "_id": "new" }).await.expect("insert");
    let log = shop.collection::<Document>("log");
    log.update_one(doc! { "_id": 3 }, doc! { "$set": { "n": 99 } }).await.expect("update");
    shop.collection::<Document>("gone").drop().await.expect("drop");
    let unheard_of = shop.collection::<Document>("unheard-of");
    unheard_of.insert_many([doc! { "_id": 1 }, doc! { "_id": 2 }]).await.expect("insert");
    let index = |key: Document, name: &str| {
        doc! { "createIndexes": "orders", "indexes": [{ "key": key, "name": name }] }
    };
    for command in [
        doc! { "dropIndexes": "orders", "index": ["n", "deep"] },
        index(doc! { "n": -1, "deep": 1 }, "added"),
        index(doc! { "deep": -1 }, "deep"),
        doc! { "collMod": "checked", "validationLevel": "strict" },
    ] {
        run(client, "shop", command).await;
    }
    let rename = doc! { "renameCollection": "shop.renamed", "to": "shop.other" };
    run(client, "admin", rename).await;
    // A capped collection loses what is oldest and gets it again at its end.
    let swapped = shop.collection::<Document>("swapped");
    let all = (0..20).map(|n| doc! { "_id": n, "n": n, "deep": { "x": n } });
    run(client, "shop", doc! { "emptycapped": "swapped" }).await;
    swapped.insert_many(all.rev()).await.expect("insert");
}

#[tokio::test(flavor = "multi_thread")]
async fn differences_behind_the_oplog_are_named() {
    every_difference_is_named(Release::V6_0_5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn differences_behind_the_oplog_are_named_on_4_4() {
    every_difference_is_named(Release::V4_4_2).await;
}

/// Verifies while a transaction is prepared, and commits it meanwhile: as of the time it was prepared
/// at, which belongs to what is compared, or of a later one.
#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_transaction_is_waited_for() {
    // Only a shard may prepare a transaction.
    let scene = Scene::of(Release::V6_0_5, &["--shardsvr"]).await;
    let identity = doc! {
        "_id": "shardIdentity",
        "shardName": "s",
        "clusterId": bson::oid::ObjectId::new(),
        "configsvrConnectionString": "nobody/127.0.0.1:1",
    };
    let admin = scene.client().database("admin");
    admin.collection("system.version").insert_one(identity).await.expect("a shard");
    let numbers = scene.shop().collection::<Document>("numbers");
    numbers.insert_one(doc! { "_id": 0 }).await.expect("insert");
    scene.sync().await;
    for (n, at_once) in [(1, true), (2, false)] {
        let update = doc! { "q": { "_id": 0 }, "u": { "$set": { "n": n } } };
        let update = doc! { "update": "numbers", "updates": [update] };
        let begun = lab::transaction(scene.client(), "shop", &[update]).await;
        let mut session = begun.expect("transaction");
        let prepare = doc! { "prepareTransaction": 1 };
        let reply = admin.run_command(prepare).session(&mut session).await.expect("prepare");
        let prepared = reply.get_timestamp("prepareTimestamp").expect("a timestamp");
        numbers.insert_one(doc! { "_id": n }).await.expect("insert");
        std::thread::scope(|threads| {
            let verifying = threads.spawn(|| equal(scene.verify(&[])));
            std::thread::sleep(Duration::from_secs(3));
            tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(async {
                    let ping = doc! { "insert": "pings", "documents": [{ "n": n }] };
                    let reply = scene.shop().run_command(ping).await.expect("insert");
                    let now = reply.get_timestamp("operationTime").expect("a timestamp");
                    let at = if at_once { prepared } else { now };
                    let commit = doc! { "commitTransaction": 1, "commitTimestamp": at };
                    admin.run_command(commit).session(&mut session).await.expect("commit");
                });
            });
            let report = verifying.join().expect("verified");
            assert_eq!(methods(&report), ["snapshot"], "{report:#}");
        });
        let done = numbers.find_one(doc! { "_id": 0 }).await.expect("find").expect("there");
        assert_eq!(done.get_i32("n").ok(), Some(n));
        equal(scene.verify(&["--by-oplog"]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_set_is_refused() {
    let scene = Scene::of(Release::V6_0_5, &[]).await;
    scene.sync().await;
    let other = Scene::of(Release::V6_0_5, &[]).await;
    let store = scene.backup.store().to_str().expect("text");
    let output = other.run(&["--job", "lab"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let mut command = Command::new(env!("CARGO_BIN_EXE_headstock"));
    command.args(["verify", "--store", store, "--source", &other.set.uri()]);
    let output = command.output().expect("the program starts");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("backs up replica set"), "{}", text(&output));
}
