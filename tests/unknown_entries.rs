//! What is unknown stops the job, loudly: nothing after it is applied, nothing is lost, every point
//! before it can be restored, and a version that knows it goes on without a new scan.
//!
//! Two ways lead there. A version that knows less is this program with one command of its table under
//! another name; what stops it is written by the server itself. And a server's oplog is given entries of
//! no known kind: between others and below its stable timestamp, where its recovery does not look.

use std::path::Path;
use std::time::{Duration, Instant};

use bson::{Bson, Document, Timestamp, doc};
use headstock::job;
use headstock::lab::{
    Backup, Detail, Error, JobLine, Options, Program, ReplicaSet, Running, SourceState, Standalone,
};
use headstock::oplog::Ts;
use headstock::restore::{self, At, Cancel, Silent, View};
use tempfile::TempDir;
use tokio::time::sleep;

/// Long enough for a daemon on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
/// What an ordinal of a second is raised by to stand above everything written in it.
const ABOVE: u32 = 1_000;

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_headstock"))
}

/// The program with each occurrence of a name replaced by another one of the same length.
fn program_with(dir: &Path, name: &str, other: &str) -> Program {
    assert_eq!(name.len(), other.len());
    let mut bytes = std::fs::read(program()).expect("the program");
    let (mut at, mut replaced) = (0, 0);
    while let Some(next) = bytes[at..].iter().position(|byte| *byte == name.as_bytes()[0]) {
        at += next;
        if bytes[at..].starts_with(name.as_bytes()) {
            bytes[at..at + name.len()].copy_from_slice(other.as_bytes());
            replaced += 1;
        }
        at += 1;
    }
    assert!(replaced > 0, "the program has no {name}");
    let binary = dir.join(format!("headstock-{other}"));
    std::fs::write(&binary, bytes).expect("a copy");
    let permissions = std::fs::metadata(program()).expect("the program").permissions();
    std::fs::set_permissions(&binary, permissions).expect("executable");
    Program::new(binary).expect("program")
}

async fn source() -> ReplicaSet {
    // Only the test writes.
    let arguments = ["--setParameter", "writePeriodicNoops=false"].map(str::to_owned).to_vec();
    ReplicaSet::start(Options { arguments, ..Options::default() }).await.expect("a set")
}

async fn insert(set: &ReplicaSet, ids: std::ops::Range<i32>) {
    let things = set.client().database("shop").collection::<Document>("things");
    things.insert_many(ids.map(|id| doc! { "_id": id, "n": id })).await.expect("insert");
}

async fn state(set: &ReplicaSet) -> (Ts, SourceState) {
    let at = set.wait_replicated().await.expect("replicated");
    let state = SourceState::capture(set.client(), Detail::Documents).await.expect("state");
    (at.ts, state)
}

async fn line(backup: &Backup, job: &str) -> JobLine {
    let status = backup.status().await.expect("status");
    status.jobs.into_iter().find(|one| one.name == job).expect("the job")
}

/// Why a daemon does not apply entries any more, once it does not.
async fn stopped(backup: &Backup, job: &str, daemon: &mut Running) -> String {
    let since = Instant::now();
    loop {
        if let Some(reason) = line(backup, job).await.stopped {
            return reason;
        }
        assert!(daemon.is_running().expect("the daemon"), "{}", daemon.log());
        assert!(since.elapsed() < LIMIT, "{job} goes on");
        sleep(Duration::from_millis(100)).await;
    }
}

async fn is_restored(backup: &Backup, at: &str, job: &str, expected: &SourceState) {
    let restored = backup.restored(at, &["--job", job], Detail::Documents).await;
    let (_server, found) = restored.expect("a restore");
    let report = expected.differences(&found);
    assert!(report.is_empty(), "{job} at {at}:\n{}", report.join("\n"));
}

/// The optime from which on a job's head is consistent: that of the end of its only scan.
fn scanned_at(backup: &Backup, job: &str) -> Vec<Option<Ts>> {
    let backup = job::open_backup(backup.store(), Some(job)).expect("a store");
    let of = |one: &headstock::head::Manifest| one.head.consistent_from.map(|optime| optime.ts);
    backup.snapshots.iter().map(of).collect()
}

/// Requires that a job can be restored to just before an entry and not to it, and says so.
fn stands_before(backup: &Backup, job: &str, entry: Ts) {
    let opened = || job::open_backup(backup.store(), Some(job)).expect("a store");
    let open = |at: Ts| View::open(opened(), &At::Exact(at), &Silent, &Cancel::new()).map(drop);
    let below = Ts { inc: entry.inc - 1, ..entry };
    open(below).expect("the last point");
    let refused = open(entry);
    let Err(restore::Error::NotApplied { entry: named, nearest, .. }) = &refused else {
        panic!("{job} at {entry}: {refused:?}");
    };
    assert_eq!((*named, nearest.below, nearest.above), (entry, Some(below), None));
    let points = job::points(backup.store(), Some(job)).expect("points");
    let last = points[0].restorable.last().expect("a span");
    let limit = last.limit.as_ref().expect("a limit");
    assert_eq!((limit.reason.as_str(), limit.t, limit.i), ("unknown", entry.secs, entry.inc));
    assert_eq!((last.to.t, last.to.i), (below.secs, below.inc));
}

/// The exit code of a command that failed, and what it said.
fn failure(outcome: Result<(), Error>) -> (Option<i32>, String) {
    match outcome {
        Err(Error::Program { status, log, .. }) => (status.and_then(|one| one.code()), log),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_version_does_not_know_stops_it_and_a_newer_one_goes_on() {
    let set = source().await;
    let folder: TempDir = tempfile::tempdir().expect("a folder");
    let store = folder.path().join("store");
    let older = Backup::new(program_with(folder.path(), "collMod", "collMox"), &store);
    let newer = Backup::new(Program::new(program()).expect("program"), &store);
    insert(&set, 0..100).await;
    older.sync(&set.uri(), &[]).await.expect("a first sync");
    let scanned = scanned_at(&older, "lab");
    insert(&set, 100..200).await;
    let (before_ts, before) = state(&set).await;

    let mut daemon = older.start_daemon(&set.uri(), &["--snapshot-every", "1h"]).expect("daemon");
    older.wait_for_received(before_ts, &mut daemon).await.expect("received");
    let change = doc! { "collMod": "things", "validator": { "n": { "$gte": 0 } } };
    set.client().database("shop").run_command(change).await.expect("collMod");
    let (entry, _) = state(&set).await;
    insert(&set, 200..300).await;
    let (after_ts, after) = state(&set).await;
    older.wait_for_received(after_ts, &mut daemon).await.expect("slices go on");
    let stopped = stopped(&older, "lab", &mut daemon).await;
    let named = |said: &str| said.contains("collMod") && said.contains(&entry.to_string());
    assert!(named(&stopped) && stopped.contains("upgrade"), "{stopped}");
    insert(&set, 300..400).await;
    let (last_ts, last) = state(&set).await;
    older.wait_for_received(last_ts, &mut daemon).await.expect("slices still go on");
    let (code, said) = failure(daemon.terminate().await);
    assert!(code == Some(1) && named(&said), "{code:?}: {said}");
    let (code, said) = failure(older.sync(&set.uri(), &[]).await);
    assert!(
        code == Some(1) && named(&said) && said.contains("nothing is lost"),
        "{code:?}: {said}"
    );
    let points = older.run(&["points"], &[]).await.expect("points");
    assert!(points.contains(&entry.to_string()), "{points}");
    for at in [entry, after_ts] {
        let to = format!("dump:{}", folder.path().join("dump").display());
        let (code, said) = failure(older.restore(&at.to_string(), &to, &["--dry-run"]).await);
        let named = said.contains(&format!("the oplog entry at {entry} cannot be applied"));
        assert!(code == Some(4) && named, "{code:?}: {said}");
    }
    let snapshots = older.snapshots().await.expect("snapshots");
    is_restored(&older, &before_ts.to_string(), "lab", &before).await;

    // A restore by a version that knows the entry need not wait for the job to go on.
    is_restored(&newer, &after_ts.to_string(), "lab", &after).await;
    newer.sync(&set.uri(), &[]).await.expect("goes on");
    let job = line(&newer, "lab").await;
    assert!(job.stopped.is_none() && job.gaps.is_empty() && job.scan.is_none(), "{job:?}");
    let all = newer.snapshots().await.expect("snapshots");
    assert_eq!(all.len(), snapshots.len() + 1);
    assert!(snapshots.iter().zip(&all).all(|(old, now)| old.id == now.id));
    let now = scanned_at(&newer, "lab");
    assert!(now.iter().all(|one| *one == scanned[0]), "scanned again: {now:?}");
    is_restored(&newer, &before_ts.to_string(), "lab", &before).await;
    is_restored(&newer, "latest", "lab", &last).await;
}

/// Puts entries into the oplog of a set of one.
async fn inject(set: &mut ReplicaSet, entries: &[(Ts, Document)]) {
    set.stop(0).await.expect("stop");
    let server = Standalone::open(&Options::default(), &set.data(0)).await.expect("alone");
    let oplog = server.client().database("local").collection::<Document>("oplog.rs");
    for (ts, entry) in entries {
        let mut whole = doc! { "ts": Timestamp::from(*ts), "t": 1_i64, "v": 2_i64 };
        whole.insert("wall", Bson::DateTime(bson::DateTime::now()));
        whole.extend(entry.clone());
        oplog.insert_one(whole).await.expect("an entry");
    }
    server.stop().await.expect("stop");
    set.restart(0).await.expect("restart");
    set.wait_healthy().await.expect("a primary");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_of_no_known_kind_stops_the_job_before_it() {
    let mut set = source().await;
    let folder: TempDir = tempfile::tempdir().expect("a folder");
    let backup =
        Backup::new(Program::new(program()).expect("program"), folder.path().join("store"));
    let kinds = [
        ("op", doc! { "op": "zz", "ns": "shop.things", "o": { "_id": 1 } }, "zz"),
        (
            "form",
            doc! { "op": "u", "ns": "shop.things", "o": { "$v": 3, "patch": [1] }, "o2": { "_id": 1 } },
            "the form of the update",
        ),
        (
            "command",
            doc! { "op": "c", "ns": "shop.$cmd", "o": { "frobnicateAllMetadata": 1 } },
            "frobnicate",
        ),
    ];
    let (mut entries, mut states) = (Vec::new(), Vec::new());
    for ((job, entry, _), number) in kinds.iter().zip(0..) {
        insert(&set, number * 100..number * 100 + 50).await;
        backup.sync(&set.uri(), &["--job", job]).await.expect("a sync");
        insert(&set, number * 100 + 50..number * 100 + 100).await;
        let (ts, state) = state(&set).await;
        entries.push((Ts { inc: ts.inc + ABOVE, ..ts }, entry.clone()));
        states.push(state);
        // Whatever comes next has another second.
        sleep(Duration::from_millis(1_100)).await;
    }
    insert(&set, 1_000..1_001).await;
    inject(&mut set, &entries).await;
    insert(&set, 2_000..2_001).await;
    let (last, _) = state(&set).await;

    for ((job, _, what), (entry, _)) in kinds.iter().zip(&entries) {
        let mut daemon = backup.start_daemon(&set.uri(), &["--job", job]).expect("a daemon");
        let said = stopped(&backup, job, &mut daemon).await;
        assert!(said.contains(what) && said.contains(&entry.to_string()), "{said}");
        while line(&backup, job).await.received.is_none_or(|at| Ts::from(at) < last) {
            assert!(daemon.is_running().expect("the daemon"), "{}", daemon.log());
            sleep(Duration::from_millis(100)).await;
        }
        let (code, said) = failure(daemon.terminate().await);
        assert_eq!(code, Some(1), "{said}");
        stands_before(&backup, job, *entry);
    }
    let (entry, _) = entries[0];
    let below = Ts { inc: entry.inc - 1, ..entry };
    is_restored(&backup, &below.to_string(), "op", &states[0]).await;
}
