//! An encrypted store of a real replica set, from its first sync through restores, a rotation and a compaction: no file in its
//! directory ever holds what was written to the source, and what is restored is what was there.

mod python_reader;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bson::doc;
use headstock::lab::{
    Backup, Detail, Mongod, Options, Plan, Program, Release, ReplicaSet, SourceState, Workload,
};
use headstock::store::Secret;
use python_reader::{Reader, text};

/// Stands in names, in documents and in their keys.
const MARKER: &str = "SECRETWORD";

/// Looks through every file of a directory again and again.
struct Watch {
    ends: Arc<AtomicBool>,
    files: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<Option<PathBuf>>,
}

impl Watch {
    fn start(dir: &Path) -> Self {
        let (ends, files) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (dir, end, count) = (dir.to_owned(), Arc::clone(&ends), Arc::clone(&files));
        let thread = std::thread::spawn(move || {
            let mut found = None;
            while found.is_none() && !end.load(Ordering::Relaxed) {
                found = search(&dir, &count);
                std::thread::sleep(Duration::from_millis(20));
            }
            found
        });
        Self { ends, files, thread }
    }

    /// Ends it. Nothing may have been found, in a number of files.
    fn end(self) {
        self.ends.store(true, Ordering::Relaxed);
        assert_eq!(self.thread.join().expect("a thread"), None);
        let files = self.files.load(Ordering::Relaxed);
        println!("{files} files were looked through");
        assert!(files > 100, "{files} files");
    }
}

/// A file that holds the marker.
fn search(dir: &Path, count: &AtomicU64) -> Option<PathBuf> {
    // What goes while it is looked at is passed over.
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            if let Some(found) = search(&path, count) {
                return Some(found);
            }
        } else if let Ok(content) = std::fs::read(&path) {
            count.fetch_add(1, Ordering::Relaxed);
            if memchr::memmem::find(&content, MARKER.as_bytes()).is_some() {
                return Some(path);
            }
        }
    }
    None
}

fn equal(at: &str, expected: &SourceState, found: &SourceState) {
    let report = expected.differences(found);
    assert!(report.is_empty(), "restored to {at}:\n{}", report.join("\n"));
}

async fn write(set: &ReplicaSet, round: i32) {
    let marked = set.client().database("shop").collection(&format!("{MARKER}{round}"));
    let documents = (0..3_000).map(|n| {
        doc! { "_id": format!("{MARKER} {round} {n}"), MARKER: [format!("{n} {MARKER}")], "n": n * round }
    });
    marked.insert_many(documents).await.expect("insert");
}

/// The reader in Python opens it too, and lists and checks what the program does.
async fn check_by_reader(backup: &Backup, key: &Path) {
    let (reader, key) = (Reader::set_up(), key.to_str().expect("text"));
    let read =
        |more: &[&str]| reader.succeeds(backup.store(), &[&["--key-file", key], more].concat());
    read(&["check"]);
    let listed: serde_json::Value =
        serde_json::from_slice(&read(&["snapshots", "--json"])).expect("JSON");
    let told = backup.run(&["snapshots", "--json"], &[]).await.expect("snapshots");
    assert_eq!(listed, serde_json::from_str::<serde_json::Value>(&told).expect("JSON"));
    let refused = reader.on_store(backup.store(), &["check"]);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_the_source_stands_in_the_files_of_an_encrypted_store() {
    let mongod = Some(Mongod::fetch(Release::V6_0_5).expect("a server"));
    let name = format!("{MARKER}set");
    let options = Options { mongod, name, ..Options::members(1) };
    let set = ReplicaSet::start(options).await.expect("start a set");
    let plan = Plan { preload: 2_000, ..Plan::small(5) };
    let mut workload = Workload::start(set.client(), &plan).await.expect("start the workload");
    write(&set, 0).await;
    let folder = tempfile::tempdir().expect("temporary folder");
    let (key, dir) = (folder.path().join("key"), folder.path().join("store"));
    Secret::write_new_key(&key).expect("a key file");
    let program = Program::new(env!("CARGO_BIN_EXE_headstock")).expect("program");
    let backup = Backup::new(program, &dir).with_key(&key);
    let watch = Watch::start(&dir);

    let often = ["--snapshot-every", "3s", "--encrypt"];
    let mut daemon = backup.start_daemon(&set.uri(), &often).expect("start the daemon");
    backup.wait_for_snapshots(1, &mut daemon).await.expect("initial sync");
    let mut recorded = Vec::new();
    for round in 1..3 {
        write(&set, round).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        recorded.push(workload.pause(&set, Detail::Documents).await.expect("pause"));
        workload.resume();
    }
    workload.stop().await;
    write(&set, 3).await;
    backup.sync(&set.uri(), &[]).await.expect_err("the daemon has the store");
    let verified = backup.run(&["verify", "--source", &set.uri()], &[]).await.expect("verify");
    assert!(verified.contains("EQUAL"), "{verified}");
    daemon.terminate().await.expect("a clean end");

    backup.run(&["key", "rotate"], &[]).await.expect("rotate");
    backup.sync(&set.uri(), &[]).await.expect("sync");
    backup.run(&["compact"], &[]).await.expect("compact");
    backup.run(&["fsck"], &[]).await.expect("nothing damaged");
    for (at, expected) in &recorded {
        let at = at.ts.to_string();
        let restored = backup.restored_to_set(Release::V6_0_5, &at, &[], Detail::Documents);
        let (_set, found) = restored.await.expect("restore");
        equal(&at, expected, &found);
    }
    watch.end();
    check_by_reader(&backup, &key).await;
    let epoch = |entry: std::io::Result<std::fs::DirEntry>| {
        let content = std::fs::read(entry.expect("an entry").path()).expect("a segment");
        u32::from_le_bytes(content[52..56].try_into().expect("4 bytes"))
    };
    let segments = std::fs::read_dir(dir.join("segments")).expect("listed").map(epoch);
    assert!(segments.collect::<Vec<_>>().iter().all(|epoch| *epoch == 2));
}
