//! Rewind: a live source is brought back to a point by writing only what differs from it.

mod content;

use bson::{Document, doc};
use content::{DOCS_ADDED, DOCS_CHANGED, DOCS_REMOVED, change, fill, make};
use headstock::lab::{Backup, Detail, Options, Program, ReplicaSet, SourceState};
use headstock::oplog::Ts;
use serde_json::Value;
use tempfile::TempDir;

fn backup() -> (Backup, TempDir) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let program = Program::new(env!("CARGO_BIN_EXE_headstock")).expect("program");
    (Backup::new(program, folder.path().join("store")), folder)
}

async fn source() -> ReplicaSet {
    let quiet = ["--setParameter", "ttlMonitorEnabled=false"].map(str::to_owned).to_vec();
    let options = Options { arguments: quiet, ..Options::members(1) };
    ReplicaSet::start(options).await.expect("start")
}

async fn state(set: &ReplicaSet) -> (Ts, SourceState) {
    let at = set.wait_replicated().await.expect("replicated");
    let mut state = SourceState::capture(set.client(), Detail::Documents).await.expect("state");
    state.add_users(set.client()).await.expect("users");
    (at.ts, state)
}

async fn is(set: &ReplicaSet, expected: &SourceState, when: &str) {
    let (_, found) = state(set).await;
    let report = expected.differences(&found);
    assert!(report.is_empty(), "{when}:\n{}", report.join("\n"));
}

/// How a command ended.
struct Ended {
    code: Option<i32>,
    output: String,
    errors: String,
}

/// `restore --rewind --json` and what follows, whatever comes of it.
fn try_rewind(backup: &Backup, to: &str, at: Ts, more: &[&str]) -> Ended {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_headstock"));
    command.args(["restore", "--rewind", "--json", "--to", to, "--at", &at.to_string()]);
    command.arg("--store").arg(backup.store()).args(more);
    let ended = tokio::task::block_in_place(|| command.output()).expect("the program");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Ended { code: ended.status.code(), output: text(ended.stdout), errors: text(ended.stderr) }
}

/// `restore --rewind --json` and what follows, which must succeed.
fn rewind(backup: &Backup, set: &ReplicaSet, at: Ts, more: &[&str]) -> Value {
    let ended = try_rewind(backup, &set.uri(), at, more);
    assert_eq!(ended.code, Some(0), "{}{}", ended.output, ended.errors);
    serde_json::from_str(&ended.output).expect("JSON")
}

/// Entries of the oplog after a point, but for those that say nothing.
async fn entries(set: &ReplicaSet, after: Ts, filter: Document) -> u64 {
    let oplog = set.client().database("local").collection::<Document>("oplog.rs");
    let mut all = doc! { "ts": { "$gt": bson::Timestamp::from(after) }, "op": { "$ne": "n" } };
    all.extend(filter);
    oplog.count_documents(all).await.expect("count")
}

fn planned<'a>(plan: &'a Value, ns: &str) -> &'a Value {
    let namespaces = plan["namespaces"].as_array().expect("namespaces");
    namespaces.iter().find(|one| one["ns"] == ns).unwrap_or_else(|| panic!("{ns} in {plan:#}"))
}

/// Whether the plan says of each namespace what is to be done to it.
fn is_planned(plan: &Value) {
    let docs = planned(plan, "shop.docs");
    assert_eq!(docs["added"], DOCS_ADDED, "{docs}");
    assert_eq!(docs["changed"], DOCS_CHANGED, "{docs}");
    assert_eq!(docs["removed"], DOCS_REMOVED, "{docs}");
    assert_eq!(docs["drops_indexes"][0], "pad_1", "{docs}");
    assert_eq!(docs["builds_indexes"][0], "n_1", "{docs}");
    for (ns, action) in [
        ("shop.gone", "create"),
        ("lost.things", "create"),
        ("shop.new", "drop"),
        ("new.things", "drop"),
        ("shop.again", "change"),
        ("shop.ruled", "recreate"),
        ("shop.log", "recreate"),
        ("shop.seen", "create"),
        ("shop.new_view", "drop"),
        ("shop.changed_view", "recreate"),
        ("shop.series", "change"),
    ] {
        assert_eq!(planned(plan, ns)["action"], action, "{ns}");
    }
    assert_eq!(planned(plan, "shop.old")["renamed_from"], "shop.moved");
    assert_eq!(planned(plan, "shop.old")["removed"], 5);
    assert_eq!(planned(plan, "shop.left")["renamed_from"], "shop.right");
    assert_eq!(planned(plan, "shop.again")["added"], 1);
    let namespaces = plan["namespaces"].as_array().expect("namespaces");
    assert!(namespaces.iter().all(|one| one["ns"] != "shop.still"), "{plan:#}");
    assert_eq!(plan["users"], 3, "{plan:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_goes_back_and_forth_between_points() {
    let set = source().await;
    make(&set).await;
    let (backup, _folder) = backup();
    backup.sync(&set.uri(), &[]).await.expect("sync");
    fill(&set, "shop.still", 300..310).await;
    let (early, before) = state(&set).await;
    backup.sync(&set.uri(), &[]).await.expect("sync");
    change(&set).await;
    let (late, after) = state(&set).await;

    let plan = rewind(&backup, &set, early, &["--dry-run"]);
    is_planned(&plan);
    assert_eq!(entries(&set, late, doc! {}).await, 0, "a dry run writes nothing");

    let report = rewind(&backup, &set, early, &[]);
    assert_eq!(report["equal"], true, "{:#}", report["differs"]);
    is(&set, &before, "rewound").await;
    let written = entries(&set, late, doc! { "ns": "shop.docs" }).await;
    assert_eq!(written, DOCS_ADDED + DOCS_CHANGED + DOCS_REMOVED, "only what differs");
    assert_eq!(entries(&set, late, doc! { "ns": "shop.still" }).await, 0);
    for count in ["added", "changed", "removed"] {
        assert_eq!(report["plan"][count], plan[count], "the same plan");
    }
    let again = rewind(&backup, &set, early, &[]);
    assert_eq!(again["plan"]["namespaces"], Value::Array(Vec::new()), "nothing left");

    // The job goes on, and what was undone is a point like any other.
    backup.sync(&set.uri(), &[]).await.expect("sync");
    let status = backup.status().await.expect("status");
    assert!(status.jobs.iter().all(|job| job.gaps.is_empty() && job.stopped.is_none()));
    backup.run(&["verify", "--source", &set.uri()], &[]).await.expect("equal to its source");
    let report = rewind(&backup, &set, late, &[]);
    assert_eq!(report["equal"], true, "{:#}", report["differs"]);
    is(&set, &after, "rewound to the later point").await;
    backup.run(&["verify", "--source", &set.uri()], &[]).await.expect("equal to its source");
}
