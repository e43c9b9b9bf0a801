//! What the store's tests share: small graphs of blocks, and child processes of the test binary.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use bson::raw::cstr;
use bson::{RawArrayBuf, rawdoc};
use headstock::block::{self, BlockId, BlockRead, BlockWrite, Kind};
use headstock::crypt::Key;
use headstock::store::{Options, Secret, Store};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Small segments, so that a test has many. With `HEADSTOCK_ENCRYPTED=1` what they are used for is encrypted.
pub fn small(mmap: bool) -> Options {
    let encrypted = std::env::var_os("HEADSTOCK_ENCRYPTED").is_some();
    let secret = encrypted.then(|| Arc::new(key(1)));
    Options { segment_bytes: 64 << 10, mmap, secret, ..Options::default() }
}

/// A key of bytes that are all the same.
pub fn key(byte: u8) -> Secret {
    Secret::Key(Key::from_slice(&[byte; 32]).expect("a key"))
}

/// The same without fsync, for tests that open a store thousands of times.
pub fn fast(mmap: bool) -> Options {
    Options { durable: false, ..small(mmap) }
}

/// Bytes that compress somewhat.
pub fn content(random: &mut StdRng, max: usize) -> Vec<u8> {
    let len = random.random_range(1..max);
    content_of(random, len)
}

fn content_of(random: &mut StdRng, len: usize) -> Vec<u8> {
    (0..len).map(|_| random.random_range(b'a'..=b'p')).collect()
}

/// A dictionary that the smallest segments have room for, and that few blocks make worth its place.
pub fn dictionary() -> Vec<u8> {
    content_of(&mut StdRng::seed_from_u64(512), 512)
}

/// Stores a graph of fresh leaves, every other with a dictionary, under nodes under a `Links` block, and returns that.
pub fn put_graph(store: &Store, random: &mut StdRng, leaves: usize, max: usize) -> BlockId {
    try_put_graph(store, random, leaves, max).unwrap()
}

/// The same on a disk that may fail.
pub fn try_put_graph(
    store: &Store,
    random: &mut StdRng,
    leaves: usize,
    max: usize,
) -> Result<BlockId, block::Error> {
    let alike = store.with_dictionary(dictionary());
    let leaves: Vec<BlockId> = (0..leaves)
        .map(|leaf| {
            let (content, plain) = (content(random, max), leaf % 2 == 0);
            if plain { store.put(Kind::Leaf, &content) } else { alike.put(Kind::Leaf, &content) }
        })
        .collect::<Result<_, _>>()?;
    let mut nodes = RawArrayBuf::new();
    for some in leaves.chunks(16) {
        let mut node = (some.len() as u32).to_le_bytes().to_vec();
        some.iter().for_each(|id| node.extend_from_slice(id.as_bytes()));
        nodes.push(block::link(&store.put(Kind::Node, &node)?));
    }
    let mut document = rawdoc! { "kept": "links" };
    document.append(cstr!("nodes"), nodes);
    store.put(Kind::Links, document.as_bytes())
}

/// Every block that a block reaches, each read and checked.
pub fn reach(store: &Store, id: BlockId, found: &mut BTreeSet<BlockId>) {
    if found.insert(id) {
        let block = store.get(&id).unwrap_or_else(|error| panic!("{id}: {error}"));
        for child in block::references(block.kind, &block.bytes).unwrap() {
            reach(store, child, found);
        }
    }
}

/// Every block that the roots reach.
pub fn reach_all(store: &Store) -> BTreeSet<BlockId> {
    let mut found = BTreeSet::new();
    store.roots().1.values().for_each(|id| reach(store, *id, &mut found));
    found
}

/// Paths of all files under a directory.
pub fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// Copies a directory tree.
pub fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The variable that tells a child process of the test binary which directory is its store.
pub const CHILD_STORE: &str = "HEADSTOCK_TEST_CHILD_STORE";

/// Starts one test of this binary as a child process on a store; its output is piped.
pub fn child(test: &str, dir: &Path) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--ignored"])
        .env(CHILD_STORE, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The directory this child process was given.
pub fn child_store() -> std::path::PathBuf {
    std::env::var_os(CHILD_STORE).expect("run by another test as its child").into()
}
