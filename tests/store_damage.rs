//! Every byte of a small store flipped, every file cut at every length, files missing, swapped, and old
//! copies put back: each is told with the file's name, or does no harm. Nothing panics, hangs, or gives a
//! block other content than it had.
//!
//! `HEADSTOCK_LONG=1` tries every byte and length instead of every seventh.

mod store_common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headstock::block::{Block, BlockId, BlockRead as _};
use headstock::lab::{SimDisk, Survives};
use headstock::store::fsck::{self, Level};
use headstock::store::{CommitSeq, Options, RepositorySalt, Roots, Store};
use rand::SeedableRng;
use rand::rngs::StdRng;
use store_common::{put_graph, reach_all, small};

const STORE: &str = "/disk/store";
/// Of bytes and lengths the short form tries one in so many, from another start in each file.
const SHORT_STEP: usize = 7;
/// Zeros behind what a file holds that are tried: more are as the others.
const ZEROS: usize = 64;

/// A store on a disk, and what it holds.
struct Sample {
    disk: SimDisk,
    roots: BTreeMap<CommitSeq, Roots>,
    blocks: BTreeMap<BlockId, Block>,
    newest: CommitSeq,
    /// Earlier contents of its files.
    earlier: Vec<(PathBuf, Vec<u8>)>,
}

impl Sample {
    /// Segments sealed and open, index runs, both slots of `HEAD`.
    fn new() -> Self {
        let disk = SimDisk::new(Path::new("/disk"));
        let on = || Arc::new(disk.clone());
        let store = Store::create_on(on(), Path::new(STORE), small(true), RepositorySalt([9; 32]));
        let mut store = store.unwrap();
        let mut random = StdRng::seed_from_u64(51);
        let (mut roots, mut earlier) = (BTreeMap::new(), Vec::new());
        for round in 0..4 {
            let id = put_graph(&store, &mut random, 6, 900);
            store.commit(|roots| _ = roots.insert(format!("job{}", round % 3), id)).unwrap();
            let (seq, now) = store.roots();
            roots.insert(seq, now);
            earlier.extend(disk.files());
            if round % 2 == 0 {
                drop(store);
                store = Store::open_on(on(), Path::new(STORE), small(true)).unwrap();
            }
        }
        // Something stands behind the last commit, as nearly always: its copy.
        store.commit(|roots| _ = roots.remove("none")).unwrap();
        put_graph(&store, &mut random, 1, 900);
        let newest = store.roots().0;
        roots.insert(newest, store.roots().1);
        let blocks = reach_all(&store).into_iter().map(|id| (id, store.get(&id).unwrap()));
        let blocks = blocks.collect();
        drop(store);
        let now = disk.files();
        earlier.retain(|(path, content)| now.get(path).is_some_and(|now| now != content));
        Self { disk, roots, blocks, newest, earlier }
    }

    /// A copy with some files replaced.
    fn damaged(&self, files: &[(&Path, Option<Vec<u8>>)]) -> SimDisk {
        let disk = self.disk.restarted(|_| Survives::Whole);
        files.iter().for_each(|(path, content)| disk.put_file(path, content.clone()));
        disk
    }

    /// Whether damage in files was told. Panics if it did unnoticed harm, or cannot be placed.
    fn examine(&self, files: &[(&Path, Option<Vec<u8>>)], what: &str) -> bool {
        let disk = self.damaged(files);
        let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
        let names: Vec<String> = files.iter().map(|(path, _)| name(path)).collect();
        let options = Options { mmap: what.len().is_multiple_of(2), ..small(true) };
        let store = match Store::open_on(Arc::new(disk), Path::new(STORE), options) {
            Ok(store) => store,
            Err(error) => {
                let told = error.to_string();
                let named = names.iter().any(|name| told.contains(&**name) || name == "STORE");
                assert!(named, "{what}: {told}");
                return true;
            }
        };
        let report = fsck::run(&store, Level::Data, &mut |_| {}).unwrap();
        let (seq, roots) = store.roots();
        let mut intact = seq == self.newest;
        assert_eq!(self.roots.get(&seq), Some(&roots), "{what}: roots of no commit");
        for (id, block) in &self.blocks {
            match store.get(id) {
                Ok(found) => {
                    let same = found.kind == block.kind && found.bytes == block.bytes;
                    assert!(same, "{what}: {id} has other content");
                }
                Err(_) => intact = false,
            }
        }
        let told = !report.findings.is_empty();
        // The last record alone cannot be told from a torn one.
        let torn = seq.0 + 1 == self.newest.0 && names.iter().all(|name| name.ends_with(".log"));
        assert!(intact || told || torn, "{what}: unnoticed, commit {seq:?}");
        told
    }

    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        self.disk.files()
    }
}

/// Bytes of a file up to its last that is not zero, and some zeros.
fn used(content: &[u8]) -> usize {
    let last = content.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    content.len().min(last + ZEROS)
}

/// Places in a file to try.
fn places(number: usize, len: usize) -> impl Iterator<Item = usize> {
    let is_long = std::env::var_os("HEADSTOCK_LONG").is_some();
    let step = if is_long { 1 } else { SHORT_STEP };
    (number % step..len).step_by(step)
}

/// Changes every file at every place, and checks that most of it is told.
fn at_every_place(done: &str, change: impl Fn(&mut Vec<u8>, usize)) {
    let sample = Sample::new();
    let (mut told, mut all) = (0, 0);
    for (number, (path, content)) in sample.files().iter().enumerate() {
        for at in places(number * 7, used(content)) {
            let mut changed = content.clone();
            change(&mut changed, at);
            let what = format!("{} {done} at {at}", path.display());
            told += u32::from(sample.examine(&[(path, Some(changed))], &what));
            all += 1;
        }
    }
    println!("{done}: {all}, {told} told");
    assert!(told > all / 2);
}

#[test]
fn every_flipped_byte_is_told_or_harmless() {
    at_every_place("flipped", |content, at| content[at] ^= 1 << (at % 8));
}

#[test]
fn every_cut_file_is_told_or_harmless() {
    at_every_place("cut", Vec::truncate);
}

#[test]
fn missing_swapped_and_old_files_are_told_or_harmless() {
    let sample = Sample::new();
    let files = sample.files();
    for (path, content) in &files {
        sample.examine(&[(path, None)], &format!("{} missing", path.display()));
        sample.examine(&[(path, Some(Vec::new()))], &format!("{} empty", path.display()));
        for (other, others) in files.iter().filter(|(other, _)| *other > path) {
            let what = format!("{} and {} swapped", path.display(), other.display());
            let swapped = [(&**path, Some(others.clone())), (&**other, Some(content.clone()))];
            sample.examine(&swapped, &what);
        }
    }
    assert!(sample.earlier.len() > 4);
    for (path, content) in &sample.earlier {
        let what = format!("{} of before, {} bytes", path.display(), content.len());
        sample.examine(&[(path, Some(content.clone()))], &what);
    }
}
