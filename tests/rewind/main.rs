//! Rewind: a live source is brought back to a point by writing only what differs from it.

mod content;

use std::path::Path;
use std::time::{Duration, Instant};

use bson::{Document, doc};
use content::{DOCS_ADDED, DOCS_CHANGED, DOCS_REMOVED, SWAPPED, change, command, fill, make};
use headstock::lab::{
    Backup, Detail, Error, Mongod, Options, Program, Release, ReplicaSet, Running, SourceState,
};
use headstock::oplog::Ts;
use serde_json::Value;
use tempfile::TempDir;

fn backup() -> (Backup, TempDir) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let program = Program::new(env!("CARGO_BIN_EXE_headstock")).expect("program");
    (Backup::new(program, folder.path().join("store")), folder)
}

async fn source(release: Option<Release>) -> ReplicaSet {
    let arguments = ["--setParameter", "ttlMonitorEnabled=false"].map(str::to_owned).to_vec();
    let mongod = release.map(|release| Mongod::fetch(release).expect("a mongod"));
    let options = Options { mongod, arguments, ..Options::members(1) };
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

/// Entries of the oplog after a point, but for those that say nothing and those of servers themselves.
async fn entries(set: &ReplicaSet, after: Ts, filter: Document) -> u64 {
    let oplog = set.client().database("local").collection::<Document>("oplog.rs");
    let own = doc! { "ns": { "$regex": "^(config|admin)\\." } };
    let ts = doc! { "$gt": bson::Timestamp::from(after) };
    let mut all = doc! { "ts": ts, "op": { "$ne": "n" }, "$nor": [own] };
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
        ("shop.made", "recreate"),
        ("shop.aging", "change"),
        ("lost.things", "create"),
        ("shop.new", "drop"),
        ("new.things", "drop"),
        ("shop.again", "change"),
        ("shop.ruled", "change"),
        ("shop.log", "recreate"),
        ("shop.seen", "create"),
        ("shop.new_view", "drop"),
        ("shop.changed_view", "recreate"),
    ] {
        assert_eq!(planned(plan, ns)["action"], action, "{ns}");
    }
    assert_eq!(planned(plan, "shop.old")["renamed_from"], "shop.moved");
    assert_eq!(planned(plan, "shop.old")["removed"], 5);
    assert_eq!(planned(plan, "shop.left")["renamed_from"], "shop.right");
    assert_eq!(planned(plan, "shop.again")["added"], 1);
    let namespaces = plan["namespaces"].as_array().expect("namespaces");
    assert!(namespaces.iter().all(|one| one["ns"] != "shop.still"), "{plan:#}");
    assert_eq!(planned(plan, "shop.ruled")["sets_options"][1], "validationLevel");
    assert_eq!(planned(plan, "shop.ruled")["added"], 0);
    assert_eq!((&plan["users"], &plan["roles"]), (&3.into(), &2.into()), "{plan:#}");
}

async fn back_and_forth(release: Option<Release>) {
    let modern = release.is_none();
    let set = source(release).await;
    make(&set, modern).await;
    let (backup, _folder) = backup();
    backup.sync(&set.uri(), &[]).await.expect("sync");
    fill(&set, "shop.still", 300..310).await;
    let (early, before) = state(&set).await;
    backup.sync(&set.uri(), &[]).await.expect("sync");
    change(&set, modern).await;
    let (late, after) = state(&set).await;

    let plan = rewind(&backup, &set, early, &["--dry-run"]);
    is_planned(&plan);
    assert_eq!(entries(&set, late, doc! {}).await, 0, "a dry run writes nothing");

    let report = rewind(&backup, &set, early, &[]);
    is(&set, &before, "rewound").await;
    for count in ["added", "changed", "removed"] {
        assert_eq!(report["plan"][count], plan[count], "the same plan");
    }
    let written = entries(&set, late, doc! { "ns": "shop.docs" }).await;
    assert_eq!(written, DOCS_ADDED + DOCS_CHANGED + DOCS_REMOVED, "only what differs");
    assert_eq!(entries(&set, late, doc! { "ns": "shop.still" }).await, 0);
    let swapped = doc! { "ns": "shop.unique", "op": "d" };
    assert!(entries(&set, late, swapped).await > SWAPPED, "replaced where there is no order");
    let again = rewind(&backup, &set, early, &[]);
    assert_eq!(again["plan"]["namespaces"], Value::Array(Vec::new()), "nothing left");

    // The job goes on, and what was undone is a point like any other.
    backup.sync(&set.uri(), &[]).await.expect("sync");
    let status = backup.status().await.expect("status");
    assert!(status.jobs.iter().all(|job| job.gaps.is_empty() && job.stopped.is_none()));
    backup.run(&["verify", "--source", &set.uri()], &[]).await.expect("equal to its source");
    rewind(&backup, &set, late, &[]);
    is(&set, &after, "rewound to the later point").await;
    backup.run(&["verify", "--source", &set.uri()], &[]).await.expect("equal to its source");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_goes_back_and_forth_between_points() {
    back_and_forth(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_of_4_4_goes_back_and_forth_between_points() {
    back_and_forth(Some(Release::V4_4_2)).await;
}

/// A copy of a member's files.
fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    let copied = std::process::Command::new("cp").arg("-a").args([from, to]).status().expect("cp");
    assert!(copied.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_history_is_refused() {
    let mut set = source(None).await;
    let (backup, folder) = backup();
    fill(&set, "shop.docs", 0..500).await;
    let files = folder.path().join("files");
    set.stop(0).await.expect("stop");
    copy(&set.data(0), &files);
    set.restart(0).await.expect("start");
    set.wait_healthy().await.expect("primary");
    fill(&set, "shop.docs", 500..600).await;
    backup.sync(&set.uri(), &[]).await.expect("sync");
    let (early, _) = state(&set).await;
    backup.sync(&set.uri(), &[]).await.expect("sync");

    // A set of the same name.
    let other = source(None).await;
    let (at, before) = state(&other).await;
    let refused = try_rewind(&backup, &other.uri(), early, &[]);
    assert_eq!(refused.code, Some(4), "{}", refused.errors);
    assert!(refused.errors.contains("only that one can be rewound"), "{}", refused.errors);
    assert_eq!(entries(&other, at, doc! {}).await, 0);
    is(&other, &before, "refused").await;

    // The same set, restored from older files, that has gone another way since.
    set.stop(0).await.expect("stop");
    copy(&files, &set.data(0));
    set.restart(0).await.expect("start");
    set.wait_healthy().await.expect("primary");
    fill(&set, "shop.docs", 5_000..5_100).await;
    let (at, before) = state(&set).await;
    let refused = try_rewind(&backup, &set.uri(), early, &[]);
    assert_eq!(refused.code, Some(4), "{}", refused.errors);
    assert!(refused.errors.contains("not proved"), "{}", refused.errors);
    assert_eq!(entries(&set, at, doc! {}).await, 0);
    is(&set, &before, "refused").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_selected_goes_back_and_nothing_else() {
    let set = source(None).await;
    for name in ["docs", "left", "right", "free"] {
        fill(&set, &format!("shop.{name}"), 0..100).await;
    }
    let (backup, _folder) = backup();
    backup.sync(&set.uri(), &[]).await.expect("sync");
    let (early, mut before) = state(&set).await;
    backup.sync(&set.uri(), &[]).await.expect("sync");
    for name in ["docs", "left", "right", "free"] {
        fill(&set, &format!("shop.{name}"), 100..110).await;
    }
    for (from, to) in [("left", "aside"), ("right", "left"), ("aside", "right")] {
        let (from, to) = (format!("shop.{from}"), format!("shop.{to}"));
        command(&set, "admin", doc! { "renameCollection": from, "to": to }).await;
    }
    let rule = doc! { "n": { "$lt": 5_000 } };
    command(&set, "shop", doc! { "collMod": "free", "validator": rule }).await;

    let half = try_rewind(&backup, &set.uri(), early, &["--ns", "shop.left"]);
    assert_eq!(half.code, Some(4), "{}", half.errors);
    assert!(half.errors.contains("name both"), "{}", half.errors);
    let nothing = try_rewind(&backup, &set.uri(), early, &["--ns", "shop.none"]);
    assert_eq!(nothing.code, Some(4), "{}", nothing.errors);
    let file = try_rewind(&backup, "dump:/nowhere", early, &[]);
    assert_eq!(file.code, Some(2), "{}", file.errors);
    let mut pointless = std::process::Command::new(env!("CARGO_BIN_EXE_headstock"));
    pointless.args(["restore", "--rewind", "--to", &set.uri()]).arg("--store").arg(backup.store());
    assert_eq!(pointless.output().expect("the program").status.code(), Some(2), "no point named");
    let replaced = try_rewind(&backup, &set.uri(), early, &["--drop"]);
    assert_eq!(replaced.code, Some(2), "{}", replaced.errors);

    let (at, since) = state(&set).await;
    rewind(&backup, &set, early, &["--ns", "shop.docs"]);
    assert_eq!(entries(&set, at, doc! { "ns": { "$ne": "shop.docs" } }).await, 0);
    let (_, found) = state(&set).await;
    for (expected, of_docs) in [(&before, true), (&since, false)] {
        let (mut expected, mut found) = (expected.clone(), found.clone());
        expected.retain(|ns| (ns == "shop.docs") == of_docs);
        found.retain(|ns| (ns == "shop.docs") == of_docs);
        assert_eq!(expected.differences(&found), Vec::<String>::new());
    }

    // What is only now goes, and there is then nothing of it at either moment.
    fill(&set, "shop.late", 0..5).await;
    let report = rewind(&backup, &set, early, &["--ns", "shop.late"]);
    assert_eq!(planned(&report["plan"], "shop.late")["action"], "drop");
    assert_eq!((&report["equal"], &report["plan"]["removed"]), (&true.into(), &5.into()));
    let names = set.client().database("shop").list_collection_names().await.expect("list");
    assert!(!names.iter().any(|name| name == "late"), "{names:?}");

    // A rule that is taken away leaves its defaults, which is no reason to write the collection.
    let report = rewind(&backup, &set, early, &[]);
    assert_eq!(planned(&report["plan"], "shop.free")["action"], "change");
    assert_eq!(planned(&report["plan"], "shop.free")["removed"], 10);
    assert_eq!(planned(&report["plan"], "shop.free")["sets_options"][0], "validator");
    let list = doc! { "listCollections": 1, "filter": { "name": "free" } };
    let listed = set.client().database("shop").run_command(list).await.expect("list");
    assert!(!listed.to_string().contains("validator\""), "{listed}");
    before.retain(|ns| ns != "shop.free");
    let (_, mut found) = state(&set).await;
    found.retain(|ns| ns != "shop.free");
    assert_eq!(before.differences(&found), Vec::<String>::new());
}

/// A backup of `shop.docs` before and after every document of it was changed: the point before, and what
/// there was then.
async fn changed(set: &ReplicaSet, documents: i32) -> (Backup, TempDir, Ts, SourceState) {
    fill(set, "shop.docs", 0..documents).await;
    let (backup, folder) = backup();
    backup.sync(&set.uri(), &[]).await.expect("sync");
    let (early, before) = state(set).await;
    backup.sync(&set.uri(), &[]).await.expect("sync");
    change_docs(set).await;
    (backup, folder, early, before)
}

async fn change_docs(set: &ReplicaSet) {
    let docs = set.client().database("shop").collection::<Document>("docs");
    docs.update_many(doc! {}, doc! { "$set": { "n": 1 } }).await.expect("update");
}

/// Documents that the interrupted rewind has to replace.
const MANY: i32 = 40_000;

/// A rewind that goes on beside the caller, once it has written more than `entries`.
async fn under_way(
    backup: &Backup,
    set: &ReplicaSet,
    at: Ts,
    since: Ts,
    more_than: u64,
) -> Running {
    let (at, uri) = (at.to_string(), set.uri());
    let store = backup.store().to_str().expect("a plain path");
    let words = ["restore", "--rewind", "--store", store, "--at", &at, "--to", &uri];
    let running = backup.program().spawn(&words).expect("start");
    let begun = Instant::now();
    while entries(set, since, doc! {}).await <= more_than {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", running.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    running
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_interrupted_goes_on_beside_a_daemon() {
    let set = source(None).await;
    fill(&set, "shop.docs", 0..MANY).await;
    let (backup, _folder) = backup();
    let mut daemon =
        backup.start_daemon(&set.uri(), &["--snapshot-every", "1h"]).expect("start the daemon");
    backup.wait_for_snapshots(1, &mut daemon).await.expect("initial sync");
    fill(&set, "shop.still", 0..10).await;
    let (early, before) = state(&set).await;
    change_docs(&set).await;
    let (late, _) = state(&set).await;
    backup.wait_for_received(late, &mut daemon).await.expect("the oplog");

    let stopped = under_way(&backup, &set, early, late, 1_000).await.terminate().await;
    let Err(Error::Program { status, log, .. }) = stopped else { panic!("{stopped:?}") };
    assert_eq!(status.and_then(|status| status.code()), Some(1), "{log}");
    assert!(log.contains("run the same restore again"), "{log}");
    let once = entries(&set, late, doc! {}).await;
    let running = under_way(&backup, &set, early, late, once + 1_000).await;
    assert!(running.kill().await.expect("killed"), "it had not ended");
    let twice = entries(&set, late, doc! {}).await;
    let report = rewind(&backup, &set, early, &[]);
    is(&set, &before, "rewound at last").await;
    let left = MANY as u64 - twice;
    // A command that was under way when its sender was killed may have come in after it was counted.
    let changed = report["plan"]["changed"].as_u64().expect("a number");
    assert!(changed <= left && changed + 3_000 > left, "{changed} of {left}");
    assert_eq!(entries(&set, late, doc! {}).await, MANY as u64, "each document once");

    let (now, _) = state(&set).await;
    backup.wait_for_received(now, &mut daemon).await.expect("the oplog");
    daemon.terminate().await.expect("a clean end");
    let status = backup.status().await.expect("status");
    assert!(status.jobs.iter().all(|job| job.gaps.is_empty() && job.stopped.is_none()));
    backup.run(&["verify", "--source", &set.uri()], &[]).await.expect("equal to its source");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_write_meanwhile_is_told() {
    let set = source(None).await;
    let (backup, _folder, early, before) = changed(&set, 2_000).await;
    let docs = set.client().database("shop").collection::<Document>("docs");
    let writer = tokio::spawn(async move {
        for id in 10_000.. {
            docs.insert_one(doc! { "_id": id }).await.expect("insert");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let told = try_rewind(&backup, &set.uri(), early, &[]);
    writer.abort();
    assert_eq!(told.code, Some(3), "{}{}", told.output, told.errors);
    let report: Value = serde_json::from_str(&told.output).expect("JSON");
    assert_eq!((&report["equal"], &report["written"]["replaced"]), (&false.into(), &2_000.into()));
    let differs = &report["differs"][0];
    assert_eq!((&differs["ns"], &differs["changed"]), (&"shop.docs".into(), &0.into()));
    assert!(differs["removed"].as_u64() > Some(0), "{differs}");
    rewind(&backup, &set, early, &[]);
    is(&set, &before, "rewound once nobody writes").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_roles_are_enough_and_the_own_user_stays() {
    let arguments = ["--setParameter", "ttlMonitorEnabled=false"].map(str::to_owned).to_vec();
    let options = Options { auth: true, arguments, ..Options::members(1) };
    let set = ReplicaSet::start(options).await.expect("start");
    let views = doc! { "db": "", "collection": "system.views" };
    let find = doc! { "resource": views, "actions": ["find"] };
    command(&set, "admin", doc! { "createRole": "views", "privileges": [find], "roles": [] }).await;
    command(&set, "admin", doc! { "grantRolesToUser": "root", "roles": ["views"] }).await;
    let roles = ["backup", "restore", "readWriteAnyDatabase", "views"];
    let create = doc! { "createUser": "rewinder", "pwd": "pw", "roles": roles.to_vec() };
    command(&set, "admin", create).await;
    make(&set, true).await;
    let uri = set.uri().replace("root:lab-password@", "rewinder:pw@");
    let (backup, _folder) = backup();
    backup.sync(&uri, &[]).await.expect("sync");
    let (early, mut before) = state(&set).await;
    backup.sync(&uri, &[]).await.expect("sync");
    change(&set, true).await;
    let grant = doc! { "grantRolesToUser": "rewinder", "roles": ["clusterMonitor"] };
    command(&set, "admin", grant).await;

    let ended = try_rewind(&backup, &uri, early, &[]);
    assert_eq!(ended.code, Some(0), "{}{}", ended.output, ended.errors);
    let report: Value = serde_json::from_str(&ended.output).expect("JSON");
    let warnings = report["plan"]["warnings"].to_string();
    assert!(warnings.contains("logged in by them: admin.rewinder"), "{warnings}");
    let users = set.client().database("admin").collection::<Document>("system.users");
    let named = async |id: &str| users.find_one(doc! { "_id": id }).await.expect("find");
    let own = named("admin.rewinder").await.expect("the own user");
    assert_eq!(own.get_array("roles").expect("roles").len(), 5, "left as it is: {own}");
    assert_eq!(named("shop.comes").await, None);
    assert!(named("shop.leaves").await.is_some() && named("admin.root").await.is_some());
    let (_, mut found) = state(&set).await;
    for state in [&mut before, &mut found] {
        state.retain(|ns| !ns.starts_with("admin."));
    }
    assert_eq!(before.differences(&found), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_does_not_hold_everything_is_not_rewound() {
    let set = source(None).await;
    fill(&set, "shop.docs", 0..100).await;
    fill(&set, "shop.other", 0..100).await;
    fill(&set, "crm.people", 0..100).await;
    let (backup, _folder) = backup();
    let some = ["--include", "shop.d*"];
    backup.sync(&set.uri(), &some).await.expect("sync");
    fill(&set, "shop.docs", 100..110).await;
    let (filtered, _) = state(&set).await;
    fill(&set, "shop.docs", 110..111).await;
    backup.sync(&set.uri(), &some).await.expect("sync");
    // To a filtered job this is a collection that was not there at the point.
    let rename = doc! { "renameCollection": "shop.other", "to": "shop.drawn" };
    command(&set, "admin", rename).await;
    backup.sync(&set.uri(), &some).await.expect("sync");
    let refused = async |at: Ts, more: &[&str], words: &str| {
        let (begun, before) = state(&set).await;
        let refused = try_rewind(&backup, &set.uri(), at, more);
        assert_eq!(refused.code, Some(4), "{}{}", refused.output, refused.errors);
        assert!(refused.errors.contains(words), "{}", refused.errors);
        assert!(refused.errors.contains("with --ns NS --drop"), "{}", refused.errors);
        assert_eq!(entries(&set, begun, doc! {}).await, 0);
        is(&set, &before, "refused").await;
    };
    refused(filtered, &[], "holds at this point only shop.d*").await;
    refused(filtered, &["--dry-run", "--ns", "shop.docs"], "at this point only shop.d*").await;

    backup.sync(&set.uri(), &["--include", "*"]).await.expect("sync");
    fill(&set, "crm.people", 100..110).await;
    let (whole, before) = state(&set).await;
    fill(&set, "crm.people", 110..111).await;
    backup.sync(&set.uri(), &[]).await.expect("sync");
    refused(filtered, &[], "holds at this point only shop.d*").await;
    rewind(&backup, &set, whole, &[]);
    is(&set, &before, "rewound").await;

    fill(&set, "crm.people", 110..111).await;
    backup.sync(&set.uri(), &["--exclude", "crm"]).await.expect("sync");
    refused(whole, &[], "holds now only everything without crm").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_the_server_does_not_replace_stays() {
    let arguments = ["--setParameter", "enableTestCommands=1"].map(str::to_owned).to_vec();
    let set = ReplicaSet::start(Options { arguments, ..Options::members(1) }).await.expect("start");
    let (backup, _folder, early, before) = changed(&set, 10).await;
    let (late, after) = state(&set).await;

    let refuse = |mode: &str| doc! { "configureFailPoint": "failAllUpdates", "mode": mode };
    command(&set, "admin", refuse("alwaysOn")).await;
    let failed = try_rewind(&backup, &set.uri(), early, &[]);
    assert_eq!(failed.code, Some(1), "{}{}", failed.output, failed.errors);
    assert!(failed.errors.contains("refuses update for shop.docs"), "{}", failed.errors);
    assert_eq!(entries(&set, late, doc! {}).await, 0);
    is(&set, &after, "as it was").await;
    command(&set, "admin", refuse("off")).await;
    rewind(&backup, &set, early, &[]);
    is(&set, &before, "rewound").await;
}

/// A collection that gets a name which is backed up is not held until it was scanned.
#[tokio::test(flavor = "multi_thread")]
async fn a_point_at_which_a_collection_is_not_held_is_refused() {
    let set = source(None).await;
    fill(&set, "shop.docs", 0..100).await;
    fill(&set, "config.cache.things", 0..100).await;
    let (backup, _folder) = backup();
    backup.sync(&set.uri(), &[]).await.expect("sync");
    let rename = doc! { "renameCollection": "config.cache.things", "to": "config.things" };
    command(&set, "admin", rename).await;
    fill(&set, "shop.docs", 100..110).await;
    let (early, _) = state(&set).await;
    fill(&set, "shop.docs", 110..111).await;
    backup.sync(&set.uri(), &[]).await.expect("sync");
    fill(&set, "shop.docs", 111..112).await;
    let (whole, before) = state(&set).await;
    fill(&set, "config.things", 100..110).await;
    backup.sync(&set.uri(), &[]).await.expect("sync");

    let (begun, _) = state(&set).await;
    let refused = try_rewind(&backup, &set.uri(), early, &["--ns", "shop.docs"]);
    assert_eq!(refused.code, Some(4), "{}{}", refused.output, refused.errors);
    let words = "does not hold at this point the documents of config.things";
    assert!(refused.errors.contains(words), "{}", refused.errors);
    assert_eq!(entries(&set, begun, doc! {}).await, 0);
    rewind(&backup, &set, whole, &[]);
    is(&set, &before, "rewound").await;
}

/// Buckets without a view take what is written to a collection of their name.
#[tokio::test(flavor = "multi_thread")]
async fn a_collection_whose_writes_buckets_take_is_not_rewound() {
    let set = source(None).await;
    fill(&set, "shop.docs", 0..100).await;
    fill(&set, "shop.series", 0..100).await;
    let (backup, _folder) = backup();
    let (early, before) = state(&set).await;
    backup.sync(&set.uri(), &[]).await.expect("sync");
    fill(&set, "shop.series", 100..110).await;
    fill(&set, "shop.docs", 100..110).await;
    let series = doc! { "timeField": "t" };
    let buckets = doc! {
        "create": "system.buckets.series", "timeseries": series, "clusteredIndex": true,
    };
    command(&set, "shop", buckets).await;
    let (late, others) = state(&set).await;
    for filter in ["shop", "shop.series", "shop.system.buckets.series"] {
        let refused = try_rewind(&backup, &set.uri(), early, &["--ns", filter]);
        assert_eq!(refused.code, Some(4), "{}{}", refused.output, refused.errors);
        let words = "shop.series stands now beside shop.system.buckets.series";
        assert!(refused.errors.contains(words), "{}", refused.errors);
    }
    assert_eq!(entries(&set, late, doc! {}).await, 0);
    rewind(&backup, &set, early, &["--ns", "shop.docs"]);
    for (expected, docs) in [(before, true), (others, false)] {
        let (_, mut found) = state(&set).await;
        let mut expected = expected;
        for state in [&mut expected, &mut found] {
            state.retain(|ns| (ns == "shop.docs") == docs);
        }
        let report = expected.differences(&found);
        assert!(!expected.is_empty() && report.is_empty(), "{}", report.join("\n"));
    }
}

/// An election takes the primary away in the middle; the same rewind goes on with the next one.
#[tokio::test(flavor = "multi_thread")]
async fn an_election_in_the_middle_loses_nothing() {
    let set = ReplicaSet::of(3).await.expect("start");
    let (backup, _folder, early, before) = changed(&set, MANY).await;
    let (late, _) = state(&set).await;

    let mut running = under_way(&backup, &set, early, late, 1_000).await;
    set.step_down().await.expect("an election");
    let begun = Instant::now();
    while running.is_running().expect("ask") {
        assert!(begun.elapsed() < Duration::from_secs(120), "{}", running.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let log = running.log();
    assert!(log.contains("once the target takes writes again, run the same"), "{log}");
    set.wait_healthy().await.expect("a primary");
    rewind(&backup, &set, early, &[]);
    is(&set, &before, "rewound").await;
    assert_eq!(entries(&set, late, doc! {}).await, MANY as u64, "each document once");
}
