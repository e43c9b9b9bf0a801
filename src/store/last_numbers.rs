//! The last of all numbers, and lengths that no file has: typed errors, and what is there stays readable.

use std::path::Path;
use std::sync::Arc;

use super::fs::{Disk, RealDisk};
use super::identity::Found;
use super::layout::SegmentId;
use super::log::{LogFiles, Slot};
use super::record::Commit;
use super::repair::Repair;
use super::{CommitSeq, Error, MIN_SEGMENT_BYTES, Options, Store};
use crate::block::{self, BlockRead as _, BlockWrite as _, Kind};

fn options() -> Options {
    Options { segment_bytes: MIN_SEGMENT_BYTES, ..Options::default() }
}

fn log_files(dir: &Path) -> LogFiles {
    let found = Found::read(&RealDisk, dir).expect("has a name");
    let identity = found.unlock(&RealDisk, dir, None).expect("is not encrypted");
    LogFiles::new(Arc::new(RealDisk) as Arc<dyn Disk>, dir, identity, true)
}

/// A store with one block, whose newest commit is changed and stands in a log of its own behind a slot.
fn store_with(
    edit: impl FnOnce(&mut Commit),
    slot: impl FnOnce(Slot) -> Slot,
) -> (tempfile::TempDir, block::BlockId) {
    let dir = tempfile::tempdir().expect("temporary folder");
    let store = Store::create(dir.path(), options()).expect("create");
    let id = store.put(Kind::Links, &bson::rawdoc! {}.into_bytes()).expect("put");
    store.commit(|roots| _ = roots.insert("job".to_owned(), id)).expect("commit");
    drop(store);
    let files = log_files(dir.path());
    let read = files.read().expect("read");
    let mut commit = read.newest.clone();
    edit(&mut commit);
    files.start(Some(&slot(read.slot)), &read.newest, &mut commit).expect("start");
    (dir, id)
}

fn open(dir: &tempfile::TempDir) -> Result<Store, Error> {
    Store::open(dir.path(), options())
}

fn check_exhausted(error: Error, wanted: &str) {
    match error {
        Error::Exhausted { what } => assert_eq!(what, wanted),
        other => panic!("{other}"),
    }
}

#[test]
fn behind_the_last_commit_none_is_made() {
    let (dir, id) = store_with(|commit| commit.seq = CommitSeq(u64::MAX), |slot| slot);
    let store = open(&dir).expect("opens");
    check_exhausted(store.commit(|_| {}).expect_err("is refused"), "commit");
    store.get(&id).expect("is read");
}

#[test]
fn behind_the_last_slot_or_log_no_commit_is_made() {
    for (what, is_log) in [("slot of HEAD", false), ("log file", true)] {
        let (dir, id) = store_with(
            |_| {},
            |slot| match is_log {
                true => Slot { log: u64::MAX - 1, ..slot },
                false => Slot { generation: u64::MAX - 1, ..slot },
            },
        );
        let store = open(&dir).expect("opens");
        check_exhausted(store.commit(|_| {}).expect_err("is refused"), what);
        store.get(&id).expect("is read");
    }
}

#[test]
fn behind_the_last_segment_nothing_is_put() {
    let (dir, id) = store_with(|commit| commit.next_segment = SegmentId(u32::MAX), |slot| slot);
    let store = open(&dir).expect("opens");
    let error = store.put(Kind::Leaf, b"one more").expect_err("is refused");
    let block::Error::Backend(source) = error else { panic!("{error}") };
    check_exhausted(*source.downcast().expect("the store's"), "segment");
    store.get(&id).expect("is read");
}

#[test]
fn a_file_of_the_last_segment_number_is_no_segment() {
    let (dir, _) = store_with(|_| {}, |slot| slot);
    std::fs::write(dir.path().join("segments/ffffffff.seg"), b"").expect("write");
    let store = open(&dir).expect("opens");
    store.put(Kind::Leaf, b"one more").expect("put");
    store.commit(|_| {}).expect("commit");
}

#[test]
fn commits_that_no_store_makes_are_damage() {
    let edits: [fn(&mut Commit); 5] = [
        |commit| {
            commit.segments.insert(SegmentId(1), u64::MAX);
            commit.active = None;
        },
        |commit| commit.active = Some((SegmentId(1), u64::MAX)),
        // It is active as well.
        |commit| _ = commit.segments.insert(SegmentId(1), 4096),
        |commit| _ = commit.segments.insert(commit.next_segment, 4096),
        |commit| {
            commit.active = None;
            commit.next_segment = SegmentId(0);
        },
    ];
    for edit in edits {
        let (dir, _) = store_with(edit, |slot| slot);
        assert!(matches!(open(&dir), Err(Error::Damaged { .. })));
    }
}

#[test]
fn a_repair_makes_no_commit_behind_the_last() {
    let (dir, _) = store_with(|commit| commit.seq = CommitSeq(u64::MAX), |slot| slot);
    std::fs::remove_file(dir.path().join("HEAD")).expect("remove");
    let repair = Repair::on(Arc::new(RealDisk), dir.path(), options(), Vec::new(), 1);
    check_exhausted(repair.execute(&mut |_| {}).expect_err("is refused"), "commit");
}

#[test]
fn index_runs_of_impossible_numbers_are_none() {
    let (dir, id) = store_with(|_| {}, |slot| slot);
    let uuid = Found::read(&RealDisk, dir.path()).expect("has a name").uuid;
    for (name, listed) in [("ffffffffffffffff", 0), ("1", u64::MAX), ("2", u64::MAX / 4 - 30)] {
        let mut run = [0; 128];
        run[..12].copy_from_slice(b"HEADRUN\x1a\n\xa9\r\n");
        run[16..32].copy_from_slice(&uuid);
        run[40..48].copy_from_slice(&u64::to_le_bytes(listed));
        let crc = crc32fast::hash(&run[..124]);
        run[124..].copy_from_slice(&crc.to_le_bytes());
        let path = dir.path().join(format!("index/{name:0>16}.run"));
        std::fs::write(&path, run).expect("write");
        let store = open(&dir).expect("opens");
        store.get(&id).expect("is read");
        assert!(!path.exists(), "{name} stays");
    }
}
