//! What a backup gives for single moments of a random workload on three members with elections.
//!
//! Servers from 5.0 on show what they held at an optime at which nobody paused (snapshot reads at a
//! cluster time): the backup opened at it must hold the same documents, byte for byte, in the same
//! order (of capped collections, or in that of the oplog, as secondaries do). An older server shows only
//! what it holds now: its writers are paused, and the backup opened at that optime must hold the same
//! collections with the same documents, options and indexes, users and roles included; only of capped
//! collections one may have more of the oldest documents than the other, as members of the set have
//! among themselves. In the end a server restored to the latest point equals the source.
//!
//! `HEADSTOCK_LONG=1` runs more seeds with more moments; `HEADSTOCK_SEED=n` runs that one.

mod forms;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use bson::{Binary, Document, RawBson, RawDocumentBuf, Timestamp, doc, rawdoc};
use forms::{is_long, seeds};
use futures::TryStreamExt as _;
use headstock::job;
use headstock::lab::{
    Backup, Detail, LogOrder, Mongod, Options, Plan, Program, Release, ReplicaSet, Running,
    SourceState, Workload,
};
use headstock::oplog::{Ts, Uuid};
use headstock::restore::{At, Cancel, Silent, View};
use headstock::tree::Cursor;
use md5::{Digest as _, Md5};
use mongodb::error::ErrorKind;
use mongodb::{Client, Database};
use tempfile::TempDir;
use tokio::time::sleep;

/// Databases that are the server's own.
const OWN: [&str; 3] = ["admin", "config", "local"];
/// Codes of a server that has no history of a collection at a moment: NamespaceNotFound,
/// SnapshotUnavailable (the catalog changed since), SnapshotTooOld, and a view.
const NO_HISTORY: [i32; 4] = [26, 246, 239, 166];

/// Whether inserts into a capped collection are refused for a duplicate key: those into the two that are
/// always there never are.
fn refuses_keys(ns: &str) -> bool {
    ns.contains(".churn_")
}

/// Moments of a seed, and the time between two, ms.
fn moments() -> (usize, u64) {
    if is_long() { (20, 1_500) } else { (8, 700) }
}

fn hex(md5: Md5) -> String {
    md5.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The hash of all documents.
fn digest(documents: &[RawDocumentBuf]) -> String {
    hex(documents.iter().fold(Md5::new(), |md5, document| md5.chain_update(document.as_bytes())))
}

/// The documents of a collection at a moment; none if the server does not know any more.
async fn documents(db: &Database, uuid: Uuid, capped: bool, at: Ts) -> Option<Vec<RawDocumentBuf>> {
    let name = uuid.to_string();
    let mut find = rawdoc! {
        "find": Binary::from(uuid),
        "readConcern": { "level": "snapshot", "atClusterTime": Timestamp::from(at) },
    };
    if capped {
        find.append(bson::raw::cstr!("hint"), rawdoc! { "$natural": 1 });
    } else {
        find.append(bson::raw::cstr!("sort"), rawdoc! { "_id": 1 });
        find.append(bson::raw::cstr!("collation"), rawdoc! { "locale": "simple" });
    }
    let lost = |error: &mongodb::error::Error| match &*error.kind {
        ErrorKind::Command(command) => NO_HISTORY.contains(&command.code),
        // The member stepped down in between.
        _ => error.contains_label("RetryableError") || matches!(*error.kind, ErrorKind::Io(_)),
    };
    let mut cursor = match db.run_raw_cursor_command(find).await {
        Err(error) => {
            assert!(lost(&error) || is_of_election(&error), "{name} at {at}: {error}");
            return None;
        }
        Ok(cursor) => cursor.with_type::<RawDocumentBuf>(),
    };
    let mut documents = Vec::new();
    loop {
        match cursor.try_next().await {
            Ok(Some(document)) => documents.push(document),
            Ok(None) => return Some(documents),
            Err(error) => {
                let ended = lost(&error) || is_of_election(&error);
                assert!(ended, "{name} at {at}: {error}");
                return None;
            }
        }
    }
}

/// A collection at a moment.
struct Held {
    /// Its name and what else is told of it where it differs.
    what: String,
    /// Hash of its documents.
    digest: String,
    /// The same in the order in which they were logged, of a capped collection.
    as_logged: Option<String>,
}

/// Whether an operation was ended by an election (NotWritablePrimary, InterruptedDueToReplStateChange,
/// and their like) or its cursor by a drop or rename (QueryPlanKilled).
fn is_of_election(error: &mongodb::error::Error) -> bool {
    const CODES: [i32; 6] = [10_107, 11_600, 11_602, 13_435, 189, 175];
    matches!(&*error.kind, ErrorKind::Command(command) if CODES.contains(&command.code))
        || matches!(*error.kind, ErrorKind::ConnectionPoolCleared { .. })
}

/// What a server has at a moment. By UUID: where a name is nobody's any more, a server shows nothing at
/// it, at any moment, instead of refusing (seen on 6.0.5).
async fn source_at(client: &Client, at: Ts) -> BTreeMap<Uuid, Held> {
    let mut found = BTreeMap::new();
    let Ok(databases) = client.list_database_names().await else { return found };
    for name in databases.iter().filter(|name| !OWN.contains(&name.as_str())) {
        let db = client.database(name);
        let Ok(cursor) = db.list_collections().await else { continue };
        let Ok(listed) = cursor.try_collect::<Vec<_>>().await else { continue };
        for one in listed {
            let capped = one.options.capped.unwrap_or(false);
            let uuid = one.info.uuid.map(RawBson::Binary);
            let uuid = uuid.and_then(|uuid| Uuid::from_value(uuid.as_raw_bson_ref()));
            let Some(uuid) = uuid.filter(|_| one.name != "system.profile") else { continue };
            let Some(mut held) = documents(&db, uuid, capped, at).await else { continue };
            let what = format!("{name}.{} ({uuid}) {:?}", one.name, one.options);
            let (digest_held, mut as_logged) = (digest(&held), None);
            if capped {
                let Ok(order) = LogOrder::read(client, &[uuid], Some(at)).await else { continue };
                order.sort(uuid, &mut held);
                as_logged = Some(digest(&held));
            }
            found.insert(uuid, Held { what, digest: digest_held, as_logged });
        }
    }
    found
}

/// A backup opened at a moment.
fn view_at(store: &Path, at: Ts) -> View {
    let backup = job::open_backup(store, None).expect("a store");
    View::open(backup, &At::Exact(at), &Silent, &Cancel::new()).expect("a point")
}

/// The same of a backup.
fn backup_at(store: &Path, at: Ts) -> BTreeMap<Uuid, Held> {
    let view = view_at(store, at);
    let digest = |collection: &headstock::head::Collection| {
        let mut md5 = Md5::new();
        let mut cursor = Cursor::new(view.blocks(), &collection.root);
        while let Some(run) = cursor.next_run().expect("readable") {
            md5.update(&run);
        }
        let what = format!("{} {:?}", collection.ns, collection.options);
        (collection.uuid, Held { what, digest: hex(md5), as_logged: None })
    };
    view.collections().iter().map(digest).collect()
}

async fn newest(client: &Client) -> Option<Ts> {
    let hello = client.database("admin").run_command(doc! { "hello": 1 }).await.ok()?;
    let write: &Document = hello.get_document("lastWrite").ok()?;
    let optime = write.get_document("majorityOpTime").ok()?;
    optime.get_timestamp("ts").ok().map(Ts::from)
}

/// A set, a workload on it and a daemon that follows it.
struct Scene {
    seed: u64,
    release: Release,
    set: ReplicaSet,
    workload: Workload,
    backup: Backup,
    daemon: Running,
    folder: TempDir,
}

impl Scene {
    async fn start(seed: u64, release: Release) -> Self {
        println!("seed {seed} on {}", release.version());
        let mongod = Some(Mongod::fetch(release).expect("a server"));
        let options = Options { mongod, ..Options::members(3) };
        let set = ReplicaSet::start(options).await.expect("start a set");
        let plan = Plan { preload: 1_000, ..Plan::small(seed) };
        let workload = Workload::start(set.client(), &plan).await.expect("start the workload");
        let folder = tempfile::tempdir().expect("temporary folder");
        let program = Program::new(env!("CARGO_BIN_EXE_headstock")).expect("program");
        let backup = Backup::new(program, folder.path().join("store"));
        let mut daemon =
            backup.start_daemon(&set.uri(), &["--snapshot-every", "4s"]).expect("start the daemon");
        backup.wait_for_snapshots(1, &mut daemon).await.expect("initial sync");
        Self { seed, release, set, workload, backup, daemon, folder }
    }

    /// Lets the writers write, now and then across an election.
    async fn go_on(&self, number: usize) {
        sleep(Duration::from_millis(moments().1)).await;
        if number % 7 == 3 {
            self.set.step_down().await.expect("another primary");
        }
    }

    /// Pauses the writers: the optime, and what the source holds at it.
    async fn pause(&mut self) -> (Ts, SourceState) {
        let paused = self.workload.pause(&self.set, Detail::Documents).await;
        let (at, mut state) = paused.expect("pause");
        state.add_users(self.set.client()).await.expect("users");
        (at.ts, state)
    }

    /// Ends writers and daemon; a server restored to the latest point equals the source.
    async fn finish(mut self) -> (Backup, TempDir) {
        let (last, mut expected) = self.pause().await;
        let summary = self.workload.stop().await;
        println!("seed {}: {summary}", self.seed);
        assert!(summary.done() > 200, "the workload did next to nothing: {summary}");
        assert!(summary.never_done().len() < 4, "never done: {:?}", summary.never_done());
        self.backup.wait_for_received(last, &mut self.daemon).await.expect("the whole oplog");
        self.daemon.terminate().await.expect("a clean end");
        self.backup.sync(&self.set.uri(), &[]).await.expect("sync");
        let restored = self.backup.restored_to_set(self.release, "latest", &[], Detail::Documents);
        let (server, mut found) = restored.await.expect("restore");
        found.add_users(server.client()).await.expect("users");
        if self.release == Release::V4_4_2 {
            let trimmed = expected.allow_for_trims(&found, refuses_keys);
            println!("seed {}: {trimmed} capped collections trimmed otherwise", self.seed);
        }
        let report = expected.differences(&found);
        assert!(report.is_empty(), "seed {}, latest:\n{}", self.seed, report.join("\n"));
        (self.backup, self.folder)
    }
}

async fn without_a_pause(seed: u64, release: Release) {
    let scene = Scene::start(seed, release).await;
    let (wanted, _) = moments();
    let mut recorded = Vec::new();
    for number in 0..wanted {
        scene.go_on(number).await;
        let client = scene.set.client();
        let Some(at) = newest(client).await else { continue };
        recorded.push((at, source_at(client, at).await));
    }
    let (backup, _folder) = scene.finish().await;
    let (mut compared, mut report) = (0, Vec::new());
    for (at, expected) in &recorded {
        let found = backup_at(backup.store(), *at);
        compared += expected.len();
        for (uuid, Held { what, digest, as_logged }) in expected {
            match found.get(uuid) {
                Some(same) if same.digest == *digest => {}
                Some(same) if as_logged.as_ref() == Some(&same.digest) => {}
                Some(other) => report.push(format!("at {at}: {what}\n  is {}", other.what)),
                None => report.push(format!("at {at}: {what} is missing")),
            }
        }
    }
    println!("seed {seed}: {} moments, {compared} collections", recorded.len());
    assert!(report.is_empty(), "seed {seed}:\n{}", report.join("\n"));
    assert!(recorded.len() + 2 >= wanted && compared > 8 * wanted, "seed {seed}: {compared}");
}

async fn at_rest(seed: u64, release: Release) {
    let mut scene = Scene::start(seed, release).await;
    let mut recorded = Vec::new();
    for number in 0..moments().0 {
        scene.go_on(number).await;
        recorded.push(scene.pause().await);
        scene.workload.resume();
    }
    let (backup, _folder) = scene.finish().await;
    let (mut compared, mut trimmed) = (0, 0);
    for (at, expected) in &mut recorded {
        expected.retain_collections();
        compared += expected.len();
        let found = SourceState::of_view(&view_at(backup.store(), *at)).expect("readable");
        trimmed += expected.allow_for_trims(&found, refuses_keys);
        let report = expected.differences(&found);
        assert!(report.is_empty(), "seed {seed} at {at}:\n{}", report.join("\n"));
    }
    let moments = recorded.len();
    println!("seed {seed}: {moments} moments, {compared} collections, {trimmed} trimmed otherwise");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_moment_is_as_the_source_had_it() {
    for seed in seeds(401, 401..421) {
        without_a_pause(seed, Release::V6_0_5).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_moment_at_rest_is_as_the_source_had_it_on_4_4() {
    for seed in seeds(501, 501..521) {
        at_rest(seed, Release::V4_4_2).await;
    }
}
