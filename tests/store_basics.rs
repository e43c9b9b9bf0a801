//! The store as its users see it: what was put and committed is there after reopening.

use std::path::Path;

use headstock::block::{BlockId, BlockRead, BlockWrite, Kind};
use headstock::store::{CommitSeq, Error, Options, RepositorySalt, Store};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const KINDS: [Kind; 4] = [Kind::Leaf, Kind::Part, Kind::Stream, Kind::Leaf];

fn small(mmap: bool) -> Options {
    Options { segment_bytes: 64 << 10, mmap, ..Options::default() }
}

/// A block that compresses somewhat, of a size that varies.
fn content(random: &mut StdRng) -> Vec<u8> {
    let len = random.random_range(0..6000);
    (0..len).map(|_| random.random_range(b'a'..=b'p')).collect()
}

fn fill(store: &Store, random: &mut StdRng, count: usize) -> Vec<(BlockId, Kind, Vec<u8>)> {
    (0..count)
        .map(|at| {
            let (kind, raw) = (KINDS[at % KINDS.len()], content(random));
            (store.put(kind, &raw).unwrap(), kind, raw)
        })
        .collect()
}

fn check(store: &Store, blocks: &[(BlockId, Kind, Vec<u8>)]) {
    for (id, kind, raw) in blocks {
        let block = store.get(id).unwrap();
        assert_eq!((block.kind, &block.bytes[..]), (*kind, &raw[..]));
        assert_eq!(store.kind_of(id).unwrap(), Some(*kind));
    }
}

#[test]
fn blocks_and_roots_survive_reopening() {
    for mmap in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let mut random = StdRng::seed_from_u64(1);
        let mut all = Vec::new();
        let store = Store::create(dir.path(), small(mmap)).unwrap();
        let salt = store.salt();
        drop(store);
        for round in 0..5_u64 {
            let store = Store::open(dir.path(), small(mmap)).unwrap();
            assert_eq!(store.salt().0, salt.0);
            check(&store, &all);
            all.extend(fill(&store, &mut random, 300));
            check(&store, &all);
            let root = all.last().unwrap().0;
            let seq = store.commit(|roots| _ = roots.insert(format!("job{round}"), root)).unwrap();
            assert_eq!(store.roots().0, seq);
            assert_eq!(store.roots().1.len() as u64, round + 1);
            let reader = Store::open_reader(dir.path(), small(mmap)).unwrap();
            assert_eq!(reader.roots(), store.roots());
            check(&reader, &all);
        }
        let stranger = BlockId::of(Kind::Leaf, b"never put");
        let store = Store::open(dir.path(), small(mmap)).unwrap();
        assert!(store.kind_of(&stranger).unwrap().is_none());
        assert!(matches!(store.get(&stranger), Err(headstock::block::Error::Missing { .. })));
        assert!(store.stats().segments > 20, "{:?}", store.stats());
        assert!(store.stats().index_runs <= 17);
    }
}

#[test]
fn the_same_block_is_stored_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path(), small(true)).unwrap();
    let mut random = StdRng::seed_from_u64(2);
    let blocks = fill(&store, &mut random, 400);
    let added = store.stats().added_bytes;
    for (id, kind, raw) in &blocks {
        assert_eq!(store.put(*kind, raw).unwrap(), *id);
    }
    assert_eq!(store.stats().added_bytes, added);
}

#[test]
fn the_index_is_a_cache() {
    for mmap in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path(), small(mmap)).unwrap();
        let blocks = fill(&store, &mut StdRng::seed_from_u64(3), 1500);
        store.commit(|_| {}).unwrap();
        drop(store);
        let live = Store::open(dir.path(), small(mmap)).unwrap().stats();
        std::fs::remove_dir_all(dir.path().join("index")).unwrap();
        let reader = Store::open_reader(dir.path(), small(mmap)).unwrap();
        check(&reader, &blocks);
        assert!(!dir.path().join("index").exists(), "a reader writes no index");
        let store = Store::open(dir.path(), small(mmap)).unwrap();
        check(&store, &blocks);
        let rebuilt = store.stats();
        assert_eq!((rebuilt.blocks, rebuilt.segments), (live.blocks, live.segments));
        assert!(rebuilt.index_runs <= 17);
    }
}

#[test]
fn many_threads_put_and_commit_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path(), small(true)).unwrap();
    let all: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8_u64)
            .map(|number| {
                let store = store.clone();
                scope.spawn(move || {
                    let mut random = StdRng::seed_from_u64(number);
                    let mut blocks = Vec::new();
                    for _ in 0..10 {
                        blocks.extend(fill(&store, &mut random, 30));
                        let root = blocks.last().unwrap().0;
                        let name = format!("job{number}");
                        store.commit(|roots| _ = roots.insert(name, root)).unwrap();
                        assert_eq!(store.roots().1[&format!("job{number}")], root);
                    }
                    blocks
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    check(&store, &all);
    let roots = store.roots();
    assert!(roots.0 <= CommitSeq(80), "committers that wait share a commit");
    drop(store);
    let store = Store::open(dir.path(), small(true)).unwrap();
    assert_eq!(store.roots(), roots);
    check(&store, &all);
}

#[test]
fn a_full_log_file_gives_way_to_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let fast = Options { durable: false, ..small(true) };
    let store = Store::create(dir.path(), fast.clone()).unwrap();
    let root = store.put(Kind::Links, &[5, 0, 0, 0, 0]).unwrap();
    for number in 0..8000 {
        let name = format!("{:0200}", number % 100);
        store
            .commit(|roots| match roots.remove(&name) {
                Some(_) => {}
                None => _ = roots.insert(name, root),
            })
            .unwrap();
    }
    let roots = store.roots();
    drop(store);
    assert_eq!(std::fs::read_dir(dir.path().join("log")).unwrap().count(), 1);
    let store = Store::open(dir.path(), fast).unwrap();
    assert_eq!(store.roots(), roots);
    assert_eq!(roots.0, CommitSeq(8000));
}

#[test]
fn misuse_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    assert!(!Store::exists(&path));
    assert!(matches!(Store::open(&path, small(true)), Err(Error::NotAStore { .. })));
    let salt = RepositorySalt([9; 32]);
    let store = Store::create_with_salt(&path, small(true), salt).unwrap();
    assert!(store.salt().0 == salt.0 && Store::exists(&path));
    assert!(matches!(Store::create(&path, small(true)), Err(Error::NotEmpty { .. })));
    match Store::open(&path, small(true)) {
        Err(Error::Locked { holder, .. }) => {
            assert_eq!(holder, format!("process {}", std::process::id()));
        }
        other => panic!("a second writer got {:?}", other.map(|store| store.stats())),
    }
    let reader = Store::open_reader(&path, small(true)).unwrap();
    assert!(matches!(reader.commit(|_| {}), Err(Error::ReadOnly)));
    assert!(reader.put(Kind::Leaf, b"no").is_err());
    let tiny = Options { segment_bytes: 1000, ..Options::default() };
    let result = Store::create(&dir.path().join("tiny"), tiny);
    assert!(matches!(result, Err(Error::SegmentSize { bytes: 1000 })));
    assert!(store.put(Kind::Leaf, &vec![0; (1 << 20) + 1]).is_err());
}

#[test]
fn the_largest_block_fits_the_smallest_segment() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path(), small(true)).unwrap();
    let raw: Vec<u8> = (0..1 << 20)
        .map({
            let mut random = StdRng::seed_from_u64(4);
            move |_: u32| random.random()
        })
        .collect();
    let id = store.put(Kind::Part, &raw).unwrap();
    store.commit(|_| {}).unwrap();
    drop(store);
    let store = Store::open(dir.path(), small(true)).unwrap();
    check(&store, &[(id, Kind::Part, raw)]);
}

#[test]
fn scratch_of_the_living_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path(), small(true)).unwrap();
    let reader = Store::open_reader(dir.path(), small(true)).unwrap();
    let write = |store: &Store| {
        let path = store.scratch_dir().join("inner");
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("file"), b"scratch").unwrap();
        path
    };
    let (mine, others) = (write(&store), write(&reader));
    drop(store);
    let store = Store::open(dir.path(), small(true)).unwrap();
    assert!(!mine.exists() && others.exists());
    assert!(store.scratch_dir().exists());
    drop((reader, store));
    Store::open(dir.path(), small(true)).unwrap();
    assert!(!others.exists());
    assert!(Path::new(dir.path()).join("readers").read_dir().unwrap().next().is_none());
}

#[test]
fn a_reader_leaves_no_scratch_behind() {
    let dir = tempfile::tempdir().unwrap();
    let _writer = Store::create(dir.path(), small(false)).unwrap();
    let reader = Store::open_reader(dir.path(), small(false)).unwrap();
    let scratch = reader.scratch_dir();
    std::fs::write(scratch.join("left"), "over").unwrap();
    drop(reader);
    assert!(!scratch.exists());
}
