//! Stores of every format version stay readable: those under `format-spec/vectors/stores` were made by the first program that
//! wrote it, and each has beside it what the server that was backed up told of its collections (`dbHash`).

mod python_reader;
mod store_common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use headstock::lab::{Backup, Program};
use md5::{Digest as _, Md5};
use python_reader::Reader;
use store_common::copy_dir;

const STORES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/format-spec/vectors/stores");

/// By snapshot, the md5 of each collection's documents, in the order of their `_id`.
type Expected = BTreeMap<String, BTreeMap<String, String>>;

/// A copy of a fixture, with the folders that hold nothing.
fn copied(name: &str, folder: &Path) -> PathBuf {
    let store = folder.join(name);
    copy_dir(&Path::new(STORES).join(name), &store);
    for empty in ["readers", "scratch", "index"] {
        fs::create_dir(store.join(empty)).expect("create");
    }
    store
}

fn expected(name: &str) -> Expected {
    let text = fs::read_to_string(Path::new(STORES).join(format!("{name}.json"))).expect("read");
    serde_json::from_str(&text).expect("JSON")
}

/// The md5 of every file of documents, by the name that a function makes of its path below a folder.
fn found(folder: &Path, name: impl Fn(&Path) -> String) -> BTreeMap<String, String> {
    let mut paths = Vec::new();
    store_common::files(folder, &mut paths);
    paths.retain(|path| path.extension().is_some_and(|end| end == "bson"));
    let md5 = |path: &PathBuf| {
        let sum = Md5::digest(fs::read(path).expect("read"));
        sum.iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let named =
        paths.iter().map(|path| (name(path.strip_prefix(folder).expect("below")), md5(path)));
    named.collect()
}

/// The program checks the store and restores every snapshot, and so does the reader of the specification.
async fn reads(name: &str, key: Option<&str>) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = copied(name, folder.path());
    let key = key.map(|key| Path::new(STORES).join(key));
    let program = Program::new(env!("CARGO_BIN_EXE_headstock")).expect("program");
    let backup = Backup::new(program, &store);
    let backup = match &key {
        Some(key) => backup.with_key(key),
        None => backup,
    };
    let reader = Reader::set_up();
    let with_key: Vec<&str> =
        key.iter().flat_map(|key| ["--key-file", key.to_str().expect("text")]).collect();
    let read = |more: &[&str]| reader.succeeds(&store, &[&with_key[..], more].concat());
    read(&["check"]);
    backup.run(&["fsck"], &[]).await.expect("sound");
    let expected = expected(name);
    assert_eq!(expected.len(), 2);
    for (snapshot, hashes) in &expected {
        let dump = folder.path().join(format!("dump-{snapshot}"));
        backup.restore(snapshot, &format!("dump:{}", dump.display()), &[]).await.expect("restored");
        let ns = |path: &Path| path.with_extension("").to_str().expect("text").replace('/', ".");
        assert_eq!(found(&dump, ns), *hashes, "{snapshot}");
        let read_to = folder.path().join(format!("read-{snapshot}"));
        read(&["restore", "--snapshot", snapshot, "--to", read_to.to_str().expect("text")]);
        // Its files are named by the collections' UUIDs.
        let read = found(&read_to, |path| path.display().to_string());
        let read: BTreeSet<String> = read.into_values().collect();
        assert!(hashes.values().all(|hash| read.contains(hash)), "{snapshot}: {read:?}");
    }
    // And it can be written to.
    backup.run(&["compact"], &[]).await.expect("compacted");
    backup.run(&["fsck"], &[]).await.expect("sound");
}

#[tokio::test(flavor = "multi_thread")]
async fn version_1() {
    reads("format-1", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn version_1_encrypted() {
    reads("format-1-encrypted", Some("format-1-encrypted.key")).await;
}
