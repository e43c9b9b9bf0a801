//! What a crash leaves: whatever was acknowledged is there, whatever was torn is not.

mod store_common;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use headstock::block::{BlockId, BlockWrite, Kind};
use headstock::store::fsck::{self, Level};
use headstock::store::{CommitSeq, Error, Options, Store};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use store_common::{child, child_store, copy_dir, fast, put_graph, reach_all, small};

fn only_file(dir: &Path) -> PathBuf {
    let mut files = std::fs::read_dir(dir).unwrap();
    let file = files.next().unwrap().unwrap().path();
    assert!(files.next().is_none());
    file
}

/// The files of a store before and after its last batch: the segment and the log.
struct Batch {
    base: tempfile::TempDir,
    segment: PathBuf,
    log: PathBuf,
    before: (Vec<u8>, Vec<u8>),
    after: (Vec<u8>, Vec<u8>),
}

/// Makes a store with two commits and keeps the bytes before and after the second.
fn two_commits(random: &mut StdRng) -> Batch {
    let base = tempfile::tempdir().unwrap();
    let dir = base.path();
    let store = Store::create(dir, fast(true)).unwrap();
    let first = put_graph(&store, random, 20, 300);
    store.commit(|roots| _ = roots.insert("job".into(), first)).unwrap();
    let (segment, log) = (only_file(&dir.join("segments")), only_file(&dir.join("log")));
    // The zeros behind both are left out: this is about bytes, and there are many copies of them.
    let start = |path: &Path, len| std::fs::read(path).unwrap()[..len].to_vec();
    let read = || (start(&segment, 16 << 10), start(&log, 4 << 10));
    // Buffered records reach the file only with a commit.
    let before = read();
    let second = put_graph(&store, random, 6, 200);
    store.commit(|roots| _ = roots.insert("job".into(), second)).unwrap();
    let after = read();
    let kept = tempfile::tempdir().unwrap();
    copy_dir(dir, kept.path());
    let inside = |path: &Path| path.strip_prefix(dir).unwrap().to_owned();
    Batch { segment: inside(&segment), log: inside(&log), base: kept, before, after }
}

/// Bytes in which two files of one length differ: from the first to behind the last.
fn difference(before: &[u8], after: &[u8]) -> std::ops::Range<usize> {
    let first = before.iter().zip(after).position(|(a, b)| a != b).unwrap();
    let last = before.iter().zip(after).rposition(|(a, b)| a != b).unwrap();
    first..last + 1
}

/// The start of the new bytes up to `cut`, the old ones behind.
fn torn(before: &[u8], after: &[u8], cut: usize) -> Vec<u8> {
    let mut bytes = after[..cut].to_vec();
    bytes.extend_from_slice(&before[cut..]);
    bytes
}

fn reopened(batch: &Batch, segment: &[u8], log: &[u8], mmap: bool) -> CommitSeq {
    let dir = tempfile::tempdir().unwrap();
    copy_dir(batch.base.path(), dir.path());
    std::fs::write(dir.path().join(&batch.segment), segment).unwrap();
    std::fs::write(dir.path().join(&batch.log), log).unwrap();
    let reader = Store::open_reader(dir.path(), fast(mmap)).unwrap();
    let reached = reach_all(&reader);
    drop(reader);
    let store = Store::open(dir.path(), fast(mmap)).unwrap();
    assert_eq!(reach_all(&store), reached);
    // What was kept of the torn batch is whole, or a later put would rely on a torn record.
    let report = fsck::run(&store, Level::Data, &mut |_| {}).unwrap();
    assert!(report.is_sound(), "{:?}", report.findings);
    let (seq, roots) = store.roots();
    // The store goes on from there, and what it then acknowledges is there as well.
    let id = store.put(Kind::Links, &[5, 0, 0, 0, 0]).unwrap();
    store.commit(|roots| _ = roots.insert("after".into(), id)).unwrap();
    drop(store);
    let store = Store::open(dir.path(), fast(mmap)).unwrap();
    assert_eq!(store.roots().0, CommitSeq(seq.0 + 1));
    assert_eq!(store.roots().1.get("job"), roots.get("job"));
    assert_eq!(reach_all(&store).len(), reached.len() + 1);
    seq
}

#[test]
fn a_torn_tail_is_cut() {
    let mut random = StdRng::seed_from_u64(11);
    let batch = two_commits(&mut random);
    let segment = difference(&batch.before.0, &batch.after.0);
    println!("{} bytes of segment", segment.len());
    // Every byte of the first record's header and of the last bytes, a sample of the rest.
    let every =
        |cut: &usize| *cut < segment.start + 64 || *cut + 16 > segment.end || cut.is_multiple_of(9);
    for cut in segment.clone().filter(every) {
        let bytes = torn(&batch.before.0, &batch.after.0, cut);
        let mmap = cut % 2 == 0;
        assert_eq!(reopened(&batch, &bytes, &batch.before.1, mmap), CommitSeq(1), "cut at {cut}");
    }
    let log = difference(&batch.before.1, &batch.after.1);
    println!("{} bytes of log", log.len());
    for cut in log.clone().filter(|cut| *cut + 8 > log.end || cut.is_multiple_of(5)) {
        let bytes = torn(&batch.before.1, &batch.after.1, cut);
        let seq = reopened(&batch, &batch.after.0, &bytes, true);
        assert_eq!(seq, CommitSeq(1), "cut at {cut}");
    }
    assert_eq!(reopened(&batch, &batch.after.0, &batch.after.1, true), CommitSeq(2));
}

/// What was acknowledged is not taken back because its record rots: the commit stands among the blocks
/// as well, once anything was written after it.
#[test]
fn a_damaged_last_record_loses_no_commit() {
    for durable in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { durable, ..small(true) };
        let store = Store::create(dir.path(), options.clone()).unwrap();
        let mut random = StdRng::seed_from_u64(12);
        let (mut ids, mut ends) = (Vec::new(), Vec::new());
        let log = || only_file(&dir.path().join("log"));
        for _ in 0..3 {
            let id = put_graph(&store, &mut random, 6, 200);
            store.commit(|roots| _ = roots.insert("job".into(), id)).unwrap();
            let bytes = std::fs::read(log()).unwrap();
            ends.push(bytes.iter().rposition(|byte| *byte != 0).unwrap());
            ids.push(id);
        }
        // Closing a durable store writes what stands behind its last commit; a crash does not.
        if durable {
            drop(store)
        } else {
            std::mem::forget(store)
        }
        let mut bytes = std::fs::read(log()).unwrap();
        bytes[ends[2] - 8] ^= 0xff;
        if !durable {
            // The copy of the third was never written, that of the second was, with the third.
            bytes[ends[1] - 8] ^= 0xff;
        }
        std::fs::write(log(), &bytes).unwrap();
        let newest = if durable { 3 } else { 2 };
        continue_elsewhere(dir.path(), CommitSeq(newest), ids[newest as usize - 1]);
    }
}

/// Opens a copy of a store (whose lock this process may still hold), and finds one commit's state.
fn continue_elsewhere(dir: &Path, seq: CommitSeq, job: BlockId) {
    let copy = tempfile::tempdir().unwrap();
    copy_dir(dir, copy.path());
    let store = Store::open(copy.path(), small(true)).unwrap();
    assert_eq!(store.roots().0, seq);
    assert_eq!(store.roots().1.get("job"), Some(&job));
    let all = reach_all(&store);
    assert!(all.len() > 6);
    // A reader, which knows only what the log names, finds all of it too.
    let reader = Store::open_reader(copy.path(), small(true)).unwrap();
    assert_eq!((reader.roots(), reach_all(&reader)), (store.roots(), all));
    drop(reader);
    store.commit(|roots| _ = roots.insert("after".into(), job)).unwrap();
    drop(store);
    let store = Store::open(copy.path(), small(true)).unwrap();
    assert_eq!(store.roots().0, CommitSeq(seq.0 + 1));
    assert_eq!(store.roots().1.len(), 2);
}

#[test]
fn damage_in_the_middle_of_the_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path(), fast(true)).unwrap();
    let mut ends = Vec::new();
    let log = || only_file(&dir.path().join("log"));
    for _ in 0..3 {
        let id = put_graph(&store, &mut StdRng::seed_from_u64(12), 3, 100);
        store.commit(|roots| _ = roots.insert("job".into(), id)).unwrap();
        let bytes = std::fs::read(log()).unwrap();
        ends.push(bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1);
    }
    drop(store);
    let whole = std::fs::read(log()).unwrap();
    // The last record alone may be torn; in any before it, one damaged byte refuses the store.
    for at in 0..ends[1] {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        std::fs::write(log(), &bytes).unwrap();
        for result in
            [Store::open(dir.path(), fast(true)), Store::open_reader(dir.path(), fast(true))]
        {
            match result {
                Err(Error::Damaged { .. }) => {}
                other => panic!("byte {at}: {:?}", other.map(|store| store.roots().0)),
            }
        }
    }
    std::fs::write(log(), &whole).unwrap();
    assert_eq!(Store::open(dir.path(), fast(true)).unwrap().roots().0, CommitSeq(3));
}

#[test]
fn a_missing_segment_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path(), fast(true)).unwrap();
    let id = put_graph(&store, &mut StdRng::seed_from_u64(13), 200, 3000);
    store.commit(|roots| _ = roots.insert("job".into(), id)).unwrap();
    drop(store);
    let first = dir.path().join("segments/00000001.seg");
    std::fs::remove_file(&first).unwrap();
    match Store::open(dir.path(), fast(true)) {
        Err(Error::SegmentGone { path, .. }) => assert_eq!(path, first),
        other => panic!("{:?}", other.map(|store| store.stats())),
    }
    let report = fsck::run_on(dir.path(), fast(true), Level::Graph, &mut |_| {}).unwrap();
    assert!(report.findings.iter().any(|finding| finding.code == fsck::Code::SegmentGone));
    assert!(!report.is_sound() && report.is_affected(&id));
}

/// Puts and commits until it is killed, telling of every commit acknowledged.
#[test]
#[ignore = "a child process of another test"]
fn child_that_commits() {
    let store = Store::open(&child_store(), small(true)).unwrap();
    let mut random = StdRng::seed_from_u64(rand::random());
    loop {
        let leaves = random.random_range(1..60);
        let id = put_graph(&store, &mut random, leaves, 3000);
        let name = format!("job{}", random.random_range(0..4));
        let seq = store.commit(|roots| _ = roots.insert(name.clone(), id)).unwrap();
        println!("acknowledged {} {name} {id}", seq.0);
    }
}

#[test]
fn nothing_acknowledged_is_lost_by_a_kill() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    drop(Store::create(dir.path(), small(true)).unwrap());
    let mut last = 0;
    for round in 0..12 {
        let mut process = child("child_that_commits", dir.path());
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let until = Instant::now() + Duration::from_millis(random.random_range(30..400));
        let mut acknowledged: Vec<String> = Vec::new();
        while Instant::now() < until || acknowledged.is_empty() {
            let line = lines.next().expect("the child lives").unwrap();
            acknowledged.extend(line.starts_with("acknowledged").then_some(line));
        }
        process.kill().unwrap();
        acknowledged.extend(lines.map_while(Result::ok).filter(|line| {
            line.starts_with("acknowledged") && line.split(' ').next_back().unwrap().len() == 64
        }));
        process.wait().unwrap();

        let store = Store::open(dir.path(), small(round % 2 == 0)).unwrap();
        let (seq, roots) = store.roots();
        let words: Vec<&str> = acknowledged.last().unwrap().split(' ').collect();
        let newest: u64 = words[1].parse().unwrap();
        assert!(newest > last && seq.0 >= newest, "{newest} was acknowledged, {seq:?} is there");
        if seq.0 == newest {
            assert_eq!(roots[words[2]].to_string(), words[3]);
        }
        last = seq.0;
        let report = fsck::run(&store, Level::Data, &mut |_| {}).unwrap();
        assert!(report.findings.is_empty(), "{:?}", report.findings);
    }
}

/// Killed before the `STORE` file stands, a creation starts over; what somebody else put there, or what
/// a store without its `STORE` file holds, is left alone.
#[test]
fn an_interrupted_creation_starts_over() {
    let made = tempfile::tempdir().unwrap();
    drop(Store::create(made.path(), small(true)).unwrap());
    std::fs::rename(made.path().join("STORE"), made.path().join("STORE.new")).unwrap();
    let store = Store::create(made.path(), small(true)).unwrap();
    store.put(Kind::Leaf, b"leaf").unwrap();
    store.commit(|_| {}).unwrap();
    drop(store);
    let again = |what: &str| {
        let refused = Store::create(made.path(), small(true)).err();
        assert!(matches!(refused, Some(Error::NotEmpty { .. })), "{what}: {refused:?}");
    };
    again("a store");
    std::fs::remove_file(made.path().join("STORE")).unwrap();
    again("segments");
    std::fs::remove_dir_all(made.path().join("segments")).unwrap();
    std::fs::write(made.path().join("notes.txt"), "mine").unwrap();
    again("another file");
}
