//! The command line as scripts use it: exit codes, JSON, what a daemon answers, what is refused, and
//! that no password is ever printed. On real servers, with the real program.

use std::ffi::OsStr;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use bson::{Document, doc};
use headstock::lab::{Backup, Detail, Program, ReplicaSet, SourceState};
use serde_json::Value;
use tempfile::TempDir;

const DOCUMENTS: i32 = 20_000;

/// Runs the program to its end.
fn run<S: AsRef<OsStr>>(arguments: &[S]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headstock"));
    command.env_remove("HEADSTOCK_SOURCE").env_remove("HEADSTOCK_STORE").args(arguments);
    command.output().expect("the program starts")
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

/// All that a command printed.
fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn json(output: &Output) -> Value {
    let printed = text(output);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {printed}"))
}

/// A replica set with some data, and a store directory that is not there yet.
struct Scene {
    set: ReplicaSet,
    backup: Backup,
    folder: TempDir,
}

impl Scene {
    async fn set_up() -> Self {
        let set = ReplicaSet::of(1).await.expect("start a set");
        let folder = tempfile::tempdir().expect("temporary folder");
        let program = Program::new(env!("CARGO_BIN_EXE_headstock")).expect("program");
        let backup = Backup::new(program, folder.path().join("store"));
        let scene = Self { set, backup, folder };
        scene.insert(0).await;
        scene.things().create_index(index("part")).await.expect("index");
        scene
    }

    fn things(&self) -> mongodb::Collection<Document> {
        self.set.client().database("shop").collection("things")
    }

    /// Inserts documents with incompressible text, so that bytes mean something.
    async fn insert(&self, from: i32) {
        let document = |id| {
            let noise: String = (0..8).map(|_| format!("{:016x}", rand::random::<u64>())).collect();
            doc! { "_id": id, "part": id % 7, "noise": noise }
        };
        let documents = (from..from + DOCUMENTS).map(document);
        self.things().insert_many(documents).await.expect("insert");
    }

    async fn state(&self) -> SourceState {
        SourceState::capture(self.set.client(), Detail::Documents).await.expect("capture")
    }

    fn store(&self) -> &Path {
        self.backup.store()
    }

    /// `headstock COMMAND --store DIR MORE`.
    fn on_store(&self, command: &[&str], more: &[&str]) -> Output {
        let mut words: Vec<&OsStr> = command.iter().map(OsStr::new).collect();
        words.extend([OsStr::new("--store"), self.store().as_os_str()]);
        words.extend(more.iter().map(OsStr::new));
        run(&words)
    }

    fn ids(&self) -> Vec<String> {
        let listed = json(&self.on_store(&["snapshots"], &["--json"]));
        let listed = listed.as_array().expect("an array");
        listed.iter().map(|one| one["id"].as_str().expect("id").to_owned()).collect()
    }

    async fn restores_to(&self, at: &str, expected: &SourceState) {
        let restored = self.backup.restored(at, &[], Detail::Documents).await;
        let (_server, found) = restored.expect("restore");
        let report = expected.differences(&found);
        assert!(report.is_empty(), "restored to {at}:\n{}", report.join("\n"));
    }
}

fn index(field: &str) -> mongodb::IndexModel {
    mongodb::IndexModel::builder().keys(doc! { field: 1 }).build()
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let wrong: [&[&str]; 13] = [
        &["diff", "--store", "s", "latest"],
        &["get", "--store", "s", "--ns", "a.b", "--id", "text"],
        &[],
        &["backup"],
        &["sync", "--store", "s"],
        &["sync", "--source", "mongodb://a"],
        &["daemon", "--source", "mongodb://a", "--store", "s", "--snapshot-every", "6 hours"],
        &["snapshot", "delete", "--store", "s"],
        &["restore", "--store", "s", "--to", "nowhere"],
        &["restore", "--store", "s", "--to", "dump:d", "--at", "2026-01-01T00:00:00"],
        &["restore", "--store", "s", "--to", "dump:d", "--drop", "--exact"],
        &["verify", "--store", "s"],
        &["sync", "--source", "mongodb://a", "--store", "s", "--max-mbps", "0"],
    ];
    for arguments in wrong {
        let output = run(arguments);
        assert_eq!(code(&output), Some(2), "{arguments:?}: {}", text(&output));
    }
}

#[test]
fn every_command_has_examples_and_help_is_no_failure() {
    let commands = [
        "sync",
        "daemon",
        "snapshots",
        "points",
        "snapshot",
        "restore",
        "status",
        "fsck",
        "compact",
        "diff",
        "get",
        "verify",
        "log",
    ];
    for command in commands {
        let output = run(&[command, "--help"]);
        assert_eq!(code(&output), Some(0), "{command}");
        assert!(text(&output).contains("EXAMPLES"), "{command}: {}", text(&output));
    }
    assert!(text(&run(&["--help"])).contains("EXIT CODES"));
}

#[test]
fn a_directory_without_a_store_is_told_and_not_touched() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let dir = folder.path().to_str().expect("text");
    let commands: [&[&str]; 10] = [
        &["snapshots"],
        &["points"],
        &["diff", "latest", "latest"],
        &["get", "--ns", "a.b", "--id", "1"],
        &["log", "--ns", "a.b", "--id", "1"],
        &["status"],
        &["fsck"],
        &["compact"],
        &["snapshot", "take"],
        &["restore", "--to", "dump:d"],
    ];
    for command in commands {
        let output = run(&[command, &["--store", dir]].concat());
        assert_eq!(code(&output), Some(1), "{command:?}: {}", text(&output));
        assert!(text(&output).contains("holds no store"), "{command:?}: {}", text(&output));
    }
    assert_eq!(folder.path().read_dir().expect("list").count(), 0);
    let file = folder.path().join("file");
    std::fs::write(&file, "no store").expect("write");
    let file = file.to_str().expect("text");
    for command in commands {
        let output = run(&[command, &["--store", file]].concat());
        assert!(text(&output).contains("holds no store"), "{command:?}: {}", text(&output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_password_is_printed() {
    let scene = Scene::set_up().await;
    let uri = scene.set.uri().replace("mongodb://", "mongodb://joe:hunter2@");
    let file = scene.folder.path().join("uri");
    std::fs::write(&file, format!("{uri}\n")).expect("write");
    let file = file.to_str().expect("text").to_owned();
    let broken = "mongodb://joe:hunter2@[::1/?replicaSet=rs&tls=maybe";
    let store = scene.store().to_str().expect("text").to_owned();
    let unescaped = "mongodb://joe:hun/ter?hunter2@localhost/";
    let attempts: [&[&str]; 7] = [
        &["sync", "--log", "trace", "--store", &store, "--source", &uri],
        &["sync", "--log", "trace", "--store", &store, "--source-file", &file],
        &["sync", "--log", "trace", "--store", &store, "--source", broken],
        &["sync", "--store", &store, &uri],
        &["sync", "--store", &store, unescaped],
        &["restore", "--store", &store, "--to", &uri, "--at", &uri],
        &["daemon", "--log", "trace", "--store", &store, "--source", broken],
    ];
    for arguments in attempts {
        let output = run(arguments);
        assert!(matches!(code(&output), Some(1 | 2 | 4)), "{arguments:?}: {}", text(&output));
        assert!(!text(&output).contains("hunter2"), "{arguments:?}: {}", text(&output));
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_headstock"));
    command.env("HEADSTOCK_SOURCE", &uri).args(["sync", "--help"]);
    assert!(!text(&command.output().expect("the program starts")).contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_are_listed_kept_deleted_and_compacted() {
    let scene = Scene::set_up().await;
    let uri = scene.set.uri();
    let sync = || scene.on_store(&["sync", "--source", &uri], &[]);
    let first_state = scene.state().await;
    let output = sync();
    assert_eq!(code(&output), Some(0), "{}", text(&output));
    scene.things().delete_many(doc! { "part": { "$lt": 5 } }).await.expect("delete");
    scene.insert(DOCUMENTS).await;
    let last_state = scene.state().await;
    assert_eq!(code(&sync()), Some(0));
    has_the_documented_fields(&json(&scene.on_store(&["snapshots"], &["--json"])));
    let ids = scene.ids();
    assert_eq!(ids.len(), 2, "{ids:?}");
    scene.restores_to(&ids[0], &first_state).await;

    let keep = |more: &[&str]| code(&scene.on_store(&["snapshot", "keep"], more));
    let delete = |id: &str| code(&scene.on_store(&["snapshot", "delete"], &[id]));
    assert_eq!(keep(&[&ids[0]]), Some(0));
    assert_eq!(delete(&ids[0]), Some(4), "a kept snapshot is not deleted");
    assert_eq!(keep(&[&ids[0], "--release"]), Some(0));
    assert_eq!(delete(&ids[0]), Some(0));
    assert_eq!(delete(&ids[0]), Some(1), "it is gone");
    assert_eq!(scene.ids(), ids[1..]);

    let planned = json(&scene.on_store(&["compact"], &["--dry-run", "--json"]));
    let done = json(&scene.on_store(&["compact"], &["--json"]));
    let figure = |report: &Value, name: &str| report[name].as_u64().expect("a number");
    assert!(figure(&planned, "dead_bytes") > 1_000_000, "{planned}");
    let (before, after) =
        (figure(&done, "stored_bytes_before"), figure(&done, "stored_bytes_after"));
    assert!(after + 1_000_000 < before, "{done}");
    assert_eq!(code(&scene.on_store(&["fsck"], &[])), Some(0));
    scene.restores_to("latest", &last_state).await;

    let report = json(&scene.on_store(&["fsck"], &["--json"]));
    assert_eq!(report["clean"], Value::Bool(true), "{report}");
    let copy = scene.folder.path().join("copy");
    copy_folder(scene.store(), &copy);
    damage(scene.store());
    let output = scene.on_store(&["fsck"], &["--json"]);
    assert_eq!(code(&output), Some(3), "{}", text(&output));
    let report = json(&output);
    let named = |finding: &Value| finding["snapshots"] == serde_json::json!([ids[1]]);
    let findings = report["findings"].as_array().expect("an array");
    assert!(findings.iter().any(named), "no finding names {}: {report}", ids[1]);
    the_lost_documents_are_those(&scene, findings).await;
    let dump = scene.folder.path().join("dump");
    let to = format!("dump:{}", dump.display());
    let output = scene.on_store(&["restore", "--to", &to, "--dry-run"], &[]);
    assert_eq!(code(&output), Some(4), "damage is found by the plan: {}", text(&output));
    let output = scene.on_store(&["restore", "--to", &to], &[]);
    assert_eq!(code(&output), Some(1), "damage is found while it is written: {}", text(&output));
    assert!(!dump.exists(), "what is not whole has the name of what is");

    let quick = scene.on_store(&["fsck"], &["--depth", "quick"]);
    assert_eq!(code(&quick), Some(0), "the content of a block is not read: {}", text(&quick));
    let part = scene.on_store(&["fsck"], &["--sample", "100%"]);
    assert_eq!(code(&part), Some(3), "{}", text(&part));
    let planned = scene.on_store(&["fsck"], &["--repair", "--dry-run"]);
    assert_eq!(code(&planned), Some(3), "{}", text(&planned));
    assert!(text(&planned).contains("1 nobody has"), "{}", text(&planned));
    let from = copy.to_str().expect("text");
    let repaired = scene.on_store(&["fsck"], &["--repair", "--from", from]);
    assert_eq!(code(&repaired), Some(0), "{}", text(&repaired));
    assert!(text(&repaired).contains("1 blocks taken from other stores, 0 lost"));
    scene.restores_to("latest", &last_state).await;
}

/// Whether the ranges of lost documents that the check names are those that the source has there.
async fn the_lost_documents_are_those(scene: &Scene, findings: &[Value]) {
    let ranges = findings.iter().flat_map(|finding| finding["ranges"].as_array().expect("array"));
    let ranges: Vec<&Value> = ranges.collect();
    let [range] = ranges[..] else { panic!("not one range: {findings:?}") };
    assert_eq!(range["collection"], "shop.things", "{range}");
    let id = |side: &str| -> Option<i64> {
        let id: Value = serde_json::from_str(range[side].as_str()?).expect("Extended JSON");
        id["$numberInt"].as_str().expect("a number").parse().ok()
    };
    let after = id("after").unwrap_or(i64::MIN);
    let before = id("before").unwrap_or(i64::MAX);
    let between = doc! { "_id": { "$gt": after, "$lt": before } };
    let count = scene.things().count_documents(between).await.expect("count");
    assert_eq!(range["documents"].as_u64(), Some(count), "{range}");
    assert!(count > 0 && count < 1000, "{range}");
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("make a folder");
    for entry in from.read_dir().expect("list") {
        let entry = entry.expect("entry");
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            std::fs::copy(&path, &target).expect("copy");
        }
    }
}

fn has_the_documented_fields(listed: &Value) {
    let ids: Vec<&str> =
        listed.as_array().expect("an array").iter().filter_map(|one| one["id"].as_str()).collect();
    assert!(ids.is_sorted(), "oldest first: {ids:?}");
    for snapshot in listed.as_array().expect("an array") {
        for name in ["t", "i", "term"] {
            assert!(snapshot["optime"][name].is_i64(), "{name}: {snapshot}");
        }
        for name in ["documents", "logical_bytes", "added_bytes"] {
            assert!(snapshot[name].as_u64().is_some_and(|count| count > 0), "{name}: {snapshot}");
        }
        let texts = ["id", "job", "wall_time", "taken_at", "set_name", "replica_set_id", "fcv"];
        for name in texts {
            assert!(snapshot[name].is_string(), "{name}: {snapshot}");
        }
        let root = snapshot["content_root"].as_str().expect("text");
        assert!(root.len() == 64 && root.bytes().all(|byte| byte.is_ascii_hexdigit()), "{root}");
        assert!(snapshot["keep"].is_boolean());
    }
}

/// Flips a byte in the middle of the largest segment.
fn damage(store: &Path) {
    let segments = store.join("segments").read_dir().expect("list");
    let paths = segments.map(|entry| entry.expect("entry").path());
    let len = |path: &PathBuf| path.metadata().expect("length").len();
    let largest = paths.max_by_key(len).expect("a segment");
    let file = std::fs::File::options().read(true).write(true).open(&largest).expect("open");
    let mut at = content_length(&file, len(&largest)) / 2;
    let mut byte = [0];
    // What stands between records is zero, and needed by nobody.
    while byte[0] == 0 {
        at += 1;
        file.read_exact_at(&mut byte, at).expect("read");
    }
    file.write_all_at(&[byte[0] ^ 1], at).expect("write");
}

/// How far a segment is written: the rest is allocated ahead and zero.
fn content_length(file: &std::fs::File, len: u64) -> u64 {
    let mut bytes = vec![0; usize::try_from(len).expect("fits")];
    file.read_exact_at(&mut bytes, 0).expect("read");
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_checks_its_store_in_the_background() {
    let scene = Scene::set_up().await;
    let uri = scene.set.uri();
    assert_eq!(code(&scene.on_store(&["sync", "--source", &uri], &[])), Some(0));
    let checks = || {
        let status = json(&scene.on_store(&["status"], &["--json"]));
        let checks = &status["store"]["checks"];
        let figure = |name: &str| checks[name].as_u64();
        (figure("oldest_check_ms"), figure("never_checked"), figure("damaged_segments"))
    };
    assert!(matches!(checks(), (None, _, Some(0))), "{:?}", checks());
    let arguments = ["--scrub-within", "2s", "--snapshot-every", "1h"];
    let daemon = scene.backup.start_daemon(&uri, &arguments).expect("start the daemon");
    let until = async |wanted: &dyn Fn() -> bool| {
        for _ in 0..60 {
            if wanted() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        panic!("not in half a minute: {:?}", checks());
    };
    until(&|| matches!(checks(), (Some(_), Some(0), Some(0)))).await;
    damage(scene.store());
    until(&|| matches!(checks(), (_, _, Some(1)))).await;
    let shown = text(&scene.on_store(&["status"], &[]));
    assert!(shown.contains("1 DAMAGED"), "{shown}");
    daemon.terminate().await.expect("a clean end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_answers_refuses_a_second_writer_and_ends_cleanly() {
    let scene = Scene::set_up().await;
    let uri = scene.set.uri();
    let arguments = ["--snapshot-every", "1h", "--restore-window", "1d"];
    let mut daemon = scene.backup.start_daemon(&uri, &arguments).expect("start the daemon");
    scene.backup.wait_for_snapshots(1, &mut daemon).await.expect("initial sync");

    let second = scene.on_store(&["sync", "--source", &uri], &[]);
    assert_eq!(code(&second), Some(1));
    assert!(text(&second).contains("in use by another process"), "{}", text(&second));

    scene.insert(DOCUMENTS).await;
    let state = scene.state().await;
    let taken = scene.on_store(&["snapshot", "take"], &["--json"]);
    assert_eq!(code(&taken), Some(0), "{}", text(&taken));
    let documents = json(&taken)["documents"].as_u64().expect("a number");
    assert!(documents >= 2 * u64::try_from(DOCUMENTS).expect("positive"), "{}", text(&taken));
    let ids = scene.ids();
    assert_eq!(ids.len(), 2, "{ids:?}");
    assert_eq!(code(&scene.on_store(&["fsck"], &[])), Some(0), "beside the daemon");
    scene.restores_to("latest", &state).await;

    let status = json(&scene.on_store(&["status"], &["--json"]));
    assert_eq!(status["daemon"], Value::Bool(true), "{status}");
    assert_eq!(status["jobs"][0]["phase"], "tailing", "{status}");
    assert_eq!(status["jobs"][0]["restore_window_seconds"], 86_400, "{status}");
    assert_eq!(code(&scene.on_store(&["snapshot", "delete"], &[&ids[0]])), Some(0));
    assert_eq!(code(&scene.on_store(&["compact"], &[])), Some(0), "by the daemon");

    daemon.terminate().await.expect("exit code 0 after SIGTERM");
    assert!(!scene.store().join("control.sock").exists());
    let status = json(&scene.on_store(&["status"], &["--json"]));
    assert_eq!(status["daemon"], Value::Bool(false), "{status}");
    let positions = (&status["jobs"][0]["head"]["t"], &status["jobs"][0]["received"]["t"]);
    assert_eq!(positions.0, positions.1, "what was received was flushed: {status}");
    assert_eq!(scene.ids(), ids[1..]);
    scene.restores_to("latest", &state).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slices_leave_the_window_but_every_second_in_it_stays_restorable() {
    const ROUNDS: u32 = 18;
    let scene = Scene::set_up().await;
    let uri = scene.set.uri();
    let arguments = ["--snapshot-every", "2s", "--restore-window", "8s"];
    let mut daemon = scene.backup.start_daemon(&uri, &arguments).expect("start the daemon");
    scene.backup.wait_for_snapshots(1, &mut daemon).await.expect("initial sync");
    let job = || json(&scene.on_store(&["status"], &["--json"]))["jobs"][0].clone();
    for round in 1..=ROUNDS {
        scene.things().insert_one(doc! { "_id": format!("round {round}") }).await.expect("insert");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let status = job();
    let slices = status["slices"].as_u64().expect("a number");
    assert!(slices < u64::from(ROUNDS), "nothing has left the window: {status}");
    let seconds = |span: &Value, end: &str| span[end]["t"].as_u64().expect("a number");
    let last = status["restorable"].as_array().and_then(|spans| spans.last()).expect("a span");
    // Two seconds less than the window: one for what is on its way, one for rounding.
    assert!(seconds(last, "from") + 6 <= seconds(last, "to"), "too little is restorable: {status}");

    let state = scene.state().await;
    daemon.terminate().await.expect("a clean end");
    scene.backup.sync(&uri, &[]).await.expect("sync");
    scene.restores_to("latest", &state).await;
    // The window has moved on meanwhile.
    let status = job();
    let spans = status["restorable"].as_array().expect("an array");
    let last = spans.last().expect("a span");
    let dump = |name: &str| format!("dump:{}", scene.folder.path().join(name).display());
    let restore = |at: u64, to: &str| {
        let at = format!("{at},0");
        scene.on_store(&["restore", "--at", &at, "--to", &dump(to)], &[])
    };
    let output = restore(seconds(last, "from") + 2, "inside");
    assert_eq!(code(&output), Some(0), "in the window: {}", text(&output));
    let lone = spans.iter().find(|span| seconds(span, "from") == seconds(span, "to"));
    let lone = lone.unwrap_or_else(|| panic!("no snapshot has lost its slices: {status}"));
    let output = restore(seconds(lone, "to") + 1, "between");
    assert_eq!(code(&output), Some(4), "out of the window: {}", text(&output));
}

/// Beside a running daemon: what differs between two points, and a document as it was.
#[tokio::test(flavor = "multi_thread")]
async fn differences_and_documents_are_printed_beside_a_daemon() {
    let scene = Scene::set_up().await;
    let uri = scene.set.uri();
    let arguments = ["--snapshot-every", "1h"];
    let mut daemon = scene.backup.start_daemon(&uri, &arguments).expect("start the daemon");
    scene.backup.wait_for_snapshots(1, &mut daemon).await.expect("initial sync");
    let before = scene.things().find_one(doc! { "_id": 5 }).await.expect("find").expect("it");
    scene.things().update_one(doc! { "_id": 5 }, doc! { "$set": { "part": 99 } }).await.expect("5");
    scene.things().delete_one(doc! { "_id": 6 }).await.expect("delete");
    scene.things().insert_one(doc! { "_id": "new" }).await.expect("insert");
    let newest = scene.set.wait_replicated().await.expect("replicated");
    scene.backup.wait_for_received(newest.ts, &mut daemon).await.expect("received");

    let first = &scene.ids()[0];
    let output = scene.on_store(&["diff", first, "latest"], &["--ns", "shop"]);
    assert_eq!(code(&output), Some(0), "{}", text(&output));
    let expected = "changed   shop.things\n  ~ {\"$numberInt\":\"5\"}\n  - {\"$numberInt\":\"6\"}\n  \
                    + \"new\"\n  documents: 1 added, 1 removed, 1 changed\n";
    assert!(text(&output).starts_with(expected), "{}", text(&output));
    let output = scene.on_store(&["diff", first, "latest"], &["--ns", "shop", "--json"]);
    let printed = String::from_utf8(output.stdout).expect("text");
    let lines: Vec<Value> =
        printed.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let events: Vec<_> = lines.iter().map(|line| line["event"].as_str().expect("text")).collect();
    let document = "document";
    assert_eq!(events, ["points", "collection", document, document, document, "end", "total"]);
    assert_eq!(lines[0]["to"], serde_json::json!({ "t": newest.ts.secs, "i": newest.ts.inc }));
    assert_eq!(lines[2]["after"]["part"], serde_json::json!({ "$numberInt": "99" }));
    assert_eq!(lines[2]["before"]["noise"], before.get_str("noise").expect("text"));
    assert!(lines[3].get("after").is_none() && lines[4].get("before").is_none(), "{printed}");
    assert_eq!(lines[6]["removed"], 1);

    let get =
        |id: &str, more: &[&str]| scene.on_store(&["get", "--ns", "shop.things", "--id", id], more);
    let part = |output: &Output| json(output)["part"]["$numberInt"].clone();
    assert_eq!(part(&get("5", &[])), "99");
    assert_eq!(part(&get("5.0", &["--at", first])), "5");
    assert_eq!(json(&get("\"new\"", &["--json"]))["document"]["_id"], "new");
    assert_eq!(code(&get("6", &[])), Some(1));
    assert_eq!(code(&get("6", &["--at", first])), Some(0));
    assert_eq!(code(&get("six", &[])), Some(2));
    assert_eq!(code(&get("6", &["--at", "1,1"])), Some(1));
    let log = |more: &[&str]| {
        let output = scene.on_store(&["log", "--ns", "shop.things", "--id", "5"], more);
        assert_eq!(code(&output), Some(0), "{}", text(&output));
        String::from_utf8(output.stdout).expect("text")
    };
    let printed = log(&["--json"]);
    let lines: Vec<Value> =
        printed.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let changes: Vec<_> = lines.iter().map(|line| &line["change"]).collect();
    assert_eq!(changes, ["found", "updated"], "{printed}");
    assert_eq!(lines[1]["document"]["part"], serde_json::json!({ "$numberInt": "99" }));
    let at = format!("{},{}", lines[1]["at"]["t"], lines[1]["at"]["i"]);
    assert_eq!(part(&get("5", &["--at", &at])), "99");
    let printed = log(&[]);
    assert!(printed.lines().count() == 2 && printed.contains(&at), "{printed}");
    daemon.terminate().await.expect("a clean end");
}

/// A new timeline leaves a gap: what is told of it, and what may be asked for.
#[tokio::test(flavor = "multi_thread")]
async fn points_are_told_and_a_gap_between_them_is_refused_by_name() {
    let scene = Scene::set_up().await;
    let uri = scene.set.uri();
    let sync = |more: &[&str]| {
        let output = scene.on_store(&["sync", "--source", &uri], more);
        assert_eq!(code(&output), Some(0), "{}", text(&output));
    };
    let write = async |id: &str| {
        scene.things().insert_one(doc! { "_id": id }).await.expect("insert");
        tokio::time::sleep(Duration::from_millis(1100)).await;
        scene.state().await
    };
    sync(&[]);
    let first = write("first").await;
    sync(&[]);
    write("lost").await;
    sync(&["--new-timeline"]);
    let last = write("last").await;
    sync(&[]);

    let told = json(&scene.on_store(&["points"], &["--json"]));
    let spans = told[0]["restorable"].as_array().expect("an array");
    assert_eq!(spans.len(), 2, "{told}");
    let status = json(&scene.on_store(&["status"], &["--json"]));
    assert_eq!(status["jobs"][0]["restorable"], told[0]["restorable"]);
    let shown = text(&scene.on_store(&["points"], &["--job", "lab"]));
    let at = |span: usize, end: &str| {
        let point = &spans[span][end];
        assert_eq!(spans[span]["limit"], Value::Null, "{told}");
        (point["t"].as_u64().expect("a number"), point["i"].as_u64().expect("a number"))
    };
    let dump = |at: (u64, u64)| {
        let to = format!("dump:{}", scene.folder.path().join("dump").display());
        let at = format!("{},{}", at.0, at.1);
        scene.on_store(&["restore", "--dry-run", "--at", &at, "--to", &to], &[])
    };
    for (span, end) in [(0, "from"), (0, "to"), (1, "from"), (1, "to")] {
        let (t, i) = at(span, end);
        assert!(shown.contains(&format!("{t},{i}")), "{shown}");
        assert_eq!(code(&dump((t, i))), Some(0), "{t},{i}");
    }
    let next = |(t, i): (u64, u64)| (t, i + 1);
    // Not a second before: all of the first span may lie in that one.
    let before = |(t, i): (u64, u64)| (t, i - 1);
    let name = |(t, i): (u64, u64)| format!("{t},{i} (");
    for (asked, named) in [
        ((at(0, "from").0 - 1, 0), vec![at(0, "from")]),
        (next(at(0, "to")), vec![at(0, "to"), at(1, "from")]),
        (before(at(1, "from")), vec![at(0, "to"), at(1, "from")]),
        (next(at(1, "to")), vec![at(1, "to")]),
    ] {
        let output = dump(asked);
        assert_eq!(code(&output), Some(4), "{asked:?}: {}", text(&output));
        for named in named {
            assert!(text(&output).contains(&name(named)), "{asked:?}: {}", text(&output));
        }
    }
    let exact = |(t, i): (u64, u64)| format!("{t},{i}");
    scene.restores_to(&exact(at(0, "to")), &first).await;
    scene.restores_to(&exact(at(1, "to")), &last).await;
    let other = scene.on_store(&["points"], &["--job", "other"]);
    assert_eq!(code(&other), Some(1), "{}", text(&other));
}
