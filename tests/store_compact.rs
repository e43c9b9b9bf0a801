//! Compaction gives space back, and takes nothing that a commit or a living reader needs.

mod store_common;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use headstock::block::{BlockRead, BlockWrite, Kind};
use headstock::store::compact::{self, Action, Settings};
use headstock::store::fsck::{self, Level};
use headstock::store::{Error, Store};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng};
use store_common::{child, child_store, copy_dir, put_graph, reach, reach_all, small};

/// How long writers and compaction race.
const RACE: Duration = Duration::from_secs(4);

fn compacted(store: &Store) -> compact::Outcome {
    compact::execute(store, Settings::default(), &mut |_, _| {}).unwrap()
}

fn sound(store: &Store) {
    let report = fsck::run(store, Level::Data, &mut |_| {}).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
}

/// A store in which every other commit's graph is no longer named.
fn half_dead(dir: &std::path::Path, mmap: bool) -> Store {
    let store = Store::create(dir, small(mmap)).unwrap();
    let mut random = StdRng::seed_from_u64(21);
    for round in 0..12 {
        let id = put_graph(&store, &mut random, 60, 3000);
        let name = if round % 3 == 0 { format!("kept{round}") } else { "replaced".to_owned() };
        store.commit(|roots| _ = roots.insert(name, id)).unwrap();
    }
    store
}

/// Graphs of a few blocks, each under a root named by its number.
fn many_roots(store: &Store, random: &mut StdRng, count: u32) {
    for name in 0..count {
        let id = put_graph(store, random, 6, 3000);
        store.commit(|roots| _ = roots.insert(name.to_string(), id)).unwrap();
    }
}

#[test]
fn space_of_unreachable_blocks_comes_back() {
    for mmap in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let store = half_dead(dir.path(), mmap);
        let kept = reach_all(&store);
        let before = store.stats();
        let dry = compact::plan(&store, Settings::default()).unwrap();
        let outcome = compacted(&store);
        assert_eq!(dry, outcome.plan);
        assert!(outcome.plan.segments.iter().any(|one| one.action == Action::Drop));
        assert!(outcome.plan.segments.iter().any(|one| one.action == Action::Rewrite));
        assert_eq!(outcome.waiting_bytes, 0);
        let after = store.stats();
        assert!(after.stored_bytes * 10 < before.stored_bytes * 7, "{before:?} {after:?}");
        assert_eq!(reach_all(&store), kept);
        sound(&store);
        let files = std::fs::read_dir(dir.path().join("segments")).unwrap().count();
        assert_eq!(files as u64, after.segments);
        drop(store);
        let store = Store::open(dir.path(), small(mmap)).unwrap();
        assert_eq!(reach_all(&store), kept);
        let again = compacted(&store);
        assert!(again.plan.segments.iter().all(|one| one.action == Action::Keep), "{again:?}");
    }
}

/// Every segment is dead by a little less than would have it rewritten for itself.
#[test]
fn no_more_than_the_cap_stays_dead() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path(), small(true)).unwrap();
    let mut random = StdRng::seed_from_u64(29);
    many_roots(&store, &mut random, 160);
    // Those of four that follow each other share a segment with few others.
    store.commit(|roots| roots.retain(|name, _| name.parse::<u32>().unwrap() % 4 > 0)).unwrap();
    let kept = reach_all(&store);
    let dead = |plan: &compact::Plan, only_kept: bool| {
        let counted = plan.segments.iter().filter(|one| !only_kept || one.action == Action::Keep);
        let (dead, all) =
            counted.fold((0, 0), |(dead, all), one| (dead + one.dead_bytes(), all + one.bytes));
        dead * 100 / all
    };
    let uncapped = Settings { dead_percent_max: 100, ..Settings::default() };
    let plan = compact::plan(&store, uncapped).unwrap();
    assert!((12..35).contains(&dead(&plan, true)), "{} %", dead(&plan, true));
    let outcome = compacted(&store);
    assert!(dead(&outcome.plan, false) > 15);
    let after = compact::plan(&store, uncapped).unwrap();
    assert!(dead(&after, false) <= 10, "{} %", dead(&after, false));
    assert_eq!(reach_all(&store), kept);
    sound(&store);
    // The copies of its own commits are dead, too: in segments of this size, that may be too much for the last.
    let again = compacted(&store).plan.segments;
    assert!(again.iter().filter(|one| one.action != Action::Keep).count() <= 1, "{again:?}");
}

#[test]
fn everything_dead_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let store = half_dead(dir.path(), true);
    store.commit(|roots| roots.clear()).unwrap();
    compacted(&store);
    let stats = store.stats();
    assert!(stats.segments <= 1 && stats.blocks <= 2, "{stats:?}");
    let id = put_graph(&store, &mut StdRng::seed_from_u64(22), 50, 2000);
    store.commit(|roots| _ = roots.insert("new".into(), id)).unwrap();
    sound(&store);
}

#[test]
fn what_a_reader_reads_stays_until_it_is_gone() {
    for mmap in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let store = half_dead(dir.path(), mmap);
        let reader = Store::open_reader(dir.path(), small(mmap)).unwrap();
        let seen = reach_all(&reader);
        store.commit(|roots| roots.clear()).unwrap();
        let outcome = compacted(&store);
        assert!(outcome.waiting_bytes > 0);
        let late = Store::open_reader(dir.path(), small(mmap)).unwrap();
        assert!(late.roots().1.is_empty());
        assert_eq!(reach_all(&reader), seen);
        drop(store);
        let store = Store::open(dir.path(), small(mmap)).unwrap();
        assert_eq!(reach_all(&reader), seen);
        drop((reader, late));
        assert_eq!(compacted(&store).waiting_bytes, 0);
        let files = std::fs::read_dir(dir.path().join("segments")).unwrap().count();
        assert!(files <= 2, "{files} segment files are left");
    }
}

/// What readers keep from going is not copied without end.
#[test]
fn a_reader_bounds_the_space_that_compaction_takes() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path(), small(true)).unwrap();
    let mut random = StdRng::seed_from_u64(31);
    many_roots(&store, &mut random, 120);
    store.commit(|roots| roots.retain(|name, _| name.ends_with(['1', '4', '7']))).unwrap();
    let kept = reach_all(&store);
    let reader = Store::open_reader(dir.path(), small(true)).unwrap();
    let bytes = || {
        let segments = std::fs::read_dir(dir.path().join("segments")).unwrap();
        segments.map(|one| one.unwrap().metadata().unwrap().len()).sum::<u64>()
    };
    let before = bytes();
    let outcome = compacted(&store);
    let rewritten = |outcome: &compact::Outcome| {
        outcome.plan.segments.iter().filter(|one| one.action == Action::Rewrite).count()
    };
    assert!(rewritten(&outcome) > 0 && outcome.waiting_bytes > 0, "{outcome:?}");
    assert!(bytes() < before + 4 * small(true).segment_bytes, "{before} became {}", bytes());
    assert_eq!(reach_all(&reader), kept);
    drop(reader);
    assert_eq!(compact::release(&store).unwrap(), 0);
    assert!(rewritten(&compacted(&store)) > rewritten(&outcome));
    assert!(bytes() * 2 < before);
    assert_eq!(reach_all(&store), kept);
    sound(&store);
}

#[test]
fn sessions_that_overlap_for_ever_keep_no_compaction_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let store = half_dead(dir.path(), true);
    let mut session = store.session();
    let other = store.clone();
    let compaction = std::thread::spawn(move || compacted(&other));
    let mut random = StdRng::seed_from_u64(33);
    let since = Instant::now();
    for round in 0.. {
        let next = store.session();
        let id = put_graph(&store, &mut random, 4, 2000);
        store.commit(|roots| _ = roots.insert(format!("round{}", round % 8), id)).unwrap();
        session = next;
        if compaction.is_finished() {
            break;
        }
        assert!(since.elapsed() < Duration::from_secs(30), "{round} sessions");
    }
    drop(session);
    compaction.join().unwrap();
    sound(&store);
}

#[test]
fn a_compaction_that_is_to_stop_ends() {
    let dir = tempfile::tempdir().unwrap();
    let store = half_dead(dir.path(), true);
    let _session = store.session();
    let other = store.clone();
    let compaction =
        std::thread::spawn(move || compact::execute(&other, Settings::default(), &mut |_, _| {}));
    std::thread::sleep(Duration::from_millis(20));
    store.stop_compactions();
    let ended = compaction.join().unwrap();
    assert!(matches!(ended, Err(Error::Stopped)), "{ended:?}");
    sound(&store);
}

/// Nobody needs it, and all that lives in its segment can be had.
#[test]
fn damage_to_a_dead_record_keeps_nothing_from_being_compacted() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path(), small(true)).unwrap();
    let mut random = StdRng::seed_from_u64(35);
    let dead = store.put(Kind::Leaf, &random.random::<[u8; 32]>().repeat(900)).unwrap();
    let id = put_graph(&store, &mut random, 9, 2000);
    store.commit(|roots| _ = roots.insert("kept".into(), id)).unwrap();
    drop(store);
    let path = dir.path().join("segments/00000001.seg");
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(32).position(|some| some == dead.as_bytes()).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let store = Store::open(dir.path(), small(true)).unwrap();
    compact::execute(
        &store,
        Settings { rewrite_below_percent: 101, ..Settings::default() },
        &mut |_, _| {},
    )
    .unwrap();
    assert!(!path.exists());
    assert!(reach_all(&store).contains(&id));
    sound(&store);
}

#[test]
fn a_session_keeps_compaction_out() {
    let dir = tempfile::tempdir().unwrap();
    let store = half_dead(dir.path(), true);
    let session = store.session();
    let id = put_graph(&store, &mut StdRng::seed_from_u64(23), 40, 2000);
    let other = store.clone();
    let compaction = std::thread::spawn(move || compacted(&other));
    std::thread::sleep(Duration::from_millis(50));
    assert!(!compaction.is_finished());
    store.commit(|roots| _ = roots.insert("late".into(), id)).unwrap();
    drop(session);
    compaction.join().unwrap();
    assert!(reach_all(&store).contains(&id));
}

#[test]
fn a_hole_in_the_graph_stops_compaction() {
    let dir = tempfile::tempdir().unwrap();
    let store = half_dead(dir.path(), true);
    let missing = headstock::block::BlockId::of(Kind::Leaf, b"never stored");
    let mut node = 1_u32.to_le_bytes().to_vec();
    node.extend_from_slice(missing.as_bytes());
    let node = store.put(Kind::Node, &node).unwrap();
    let mut document = bson::RawDocumentBuf::new();
    document.append(bson::raw::cstr!("node"), headstock::block::link(&node));
    let root = store.put(Kind::Links, document.as_bytes()).unwrap();
    store.commit(|roots| _ = roots.insert("holed".into(), root)).unwrap();
    let before = store.stats().segments;
    match compact::execute(&store, Settings::default(), &mut |_, _| {}) {
        Err(Error::Unreachable { id, .. }) => assert_eq!(id, missing),
        other => panic!("{other:?}"),
    }
    assert!(store.stats().segments >= before);
    let report = fsck::run(&store, Level::Graph, &mut |_| {}).unwrap();
    assert_eq!(report.findings.len(), 1);
    assert_eq!(report.findings[0].block, Some(missing));
    let affected = BTreeSet::from([missing, node, root]);
    assert_eq!(report.tainted, affected);
}

#[test]
fn many_small_segments_become_few() {
    let dir = tempfile::tempdir().unwrap();
    drop(Store::create(dir.path(), small(true)).unwrap());
    for round in 0..20 {
        let store = Store::open(dir.path(), small(true)).unwrap();
        let id = put_graph(&store, &mut StdRng::seed_from_u64(round), 5, 300);
        store.commit(|roots| _ = roots.insert(format!("job{round}"), id)).unwrap();
    }
    let store = Store::open(dir.path(), small(true)).unwrap();
    assert_eq!(store.stats().segments, 20);
    let kept = reach_all(&store);
    compacted(&store);
    assert!(store.stats().segments <= 3, "{:?}", store.stats());
    assert_eq!(reach_all(&store), kept);
}

#[test]
fn a_compaction_cut_at_any_file_operation_loses_nothing() {
    // What a kill leaves between two steps: copies without the commit, and the commit without the removals.
    let dir = tempfile::tempdir().unwrap();
    let store = half_dead(dir.path(), true);
    let kept = reach_all(&store);
    drop(store);
    let before = tempfile::tempdir().unwrap();
    copy_dir(dir.path(), before.path());
    let store = Store::open(dir.path(), small(true)).unwrap();
    compacted(&store);
    drop(store);
    let copies_only = tempfile::tempdir().unwrap();
    copy_dir(before.path(), copies_only.path());
    let add_missing = |from: &std::path::Path, to: &std::path::Path| {
        for entry in std::fs::read_dir(from.join("segments")).unwrap() {
            let entry = entry.unwrap();
            let target = to.join("segments").join(entry.file_name());
            if !target.exists() {
                std::fs::copy(entry.path(), target).unwrap();
            }
        }
    };
    add_missing(dir.path(), copies_only.path());
    let nothing_removed = tempfile::tempdir().unwrap();
    copy_dir(dir.path(), nothing_removed.path());
    add_missing(before.path(), nothing_removed.path());
    for state in [copies_only.path(), nothing_removed.path()] {
        let store = Store::open(state, small(true)).unwrap();
        assert_eq!(reach_all(&store), kept);
        sound(&store);
        compacted(&store);
        assert_eq!(reach_all(&store), kept);
        sound(&store);
    }
}

/// Reads everything that the newest commit reaches, again and again.
#[test]
#[ignore = "a child process of another test"]
fn child_that_reads() {
    let until = Instant::now() + Duration::from_secs(4);
    let mut rounds = 0;
    while Instant::now() < until {
        let reader = Store::open_reader(&child_store(), small(rounds % 2 == 0)).unwrap();
        for _ in 0..3 {
            assert!(!reach_all(&reader).is_empty());
        }
        rounds += 1;
    }
    println!("read {rounds} commits");
}

#[test]
fn readers_beside_a_writer_beside_compaction() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path(), small(true)).unwrap();
    let mut random = StdRng::seed_from_u64(24);
    let id = put_graph(&store, &mut random, 40, 3000);
    store.commit(|roots| _ = roots.insert("job".into(), id)).unwrap();
    let mut readers: Vec<_> = (0..2).map(|_| child("child_that_reads", dir.path())).collect();
    let mut rounds = 0;
    while readers.iter_mut().any(|reader| reader.try_wait().unwrap().is_none()) {
        let session = store.session();
        let id = put_graph(&store, &mut random, 40, 3000);
        store.commit(|roots| _ = roots.insert("job".into(), id)).unwrap();
        drop(session);
        compacted(&store);
        rounds += 1;
    }
    for reader in readers {
        let output = reader.wait_with_output().unwrap();
        let lines: Vec<String> =
            BufReader::new(&output.stdout[..]).lines().map_while(Result::ok).collect();
        assert!(output.status.success(), "{lines:?}");
        assert!(lines.iter().any(|line| line.contains("read ")), "{lines:?}");
        println!("{lines:?}");
    }
    println!("{rounds} commits and compactions");
    assert_eq!(compacted(&store).waiting_bytes, 0);
    sound(&store);
    assert!(store.kind_of(&store.roots().1["job"]).unwrap().is_some());
}

/// Compacts again and again while others put what was there before, replace and remove it.
#[test]
fn compaction_beside_writers_takes_nothing_that_they_commit() {
    let seed: u32 = rand::random();
    println!("seed {seed}");
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path(), small(true)).unwrap();
    let stop = AtomicBool::new(false);
    let commits = AtomicU64::new(0);
    let compactions = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                let (store, stop, commits) = (&store, &stop, &commits);
                scope.spawn(move || {
                    let mut random = StdRng::seed_from_u64(u64::from(seed) + writer);
                    while !stop.load(Ordering::Relaxed) {
                        let name = format!("{writer}-{}", random.random_range(0..3));
                        if random.random_bool(0.3) {
                            store.commit(|roots| _ = roots.remove(&name)).unwrap();
                            continue;
                        }
                        // One of a few graphs: most of what is put was there, and is dead or about to be.
                        let which = random.random_range(0..6);
                        let session = store.session();
                        let graph = &mut StdRng::seed_from_u64(which);
                        let id = put_graph(store, graph, 20, 3000);
                        store.commit(|roots| _ = roots.insert(name, id)).unwrap();
                        drop(session);
                        commits.fetch_add(1, Ordering::Relaxed);
                        if random.random_bool(0.1) {
                            reach(store, id, &mut BTreeSet::new());
                        }
                    }
                })
            })
            .collect();
        // And somebody reads what the newest commit names, as whoever applies slices does.
        let reader = {
            let (store, stop) = (&store, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let session = store.session();
                    for id in store.roots().1.values() {
                        reach(store, *id, &mut BTreeSet::new());
                    }
                    drop(session);
                    // A compaction needs a moment without sessions to begin.
                    std::thread::sleep(Duration::from_millis(5));
                }
            })
        };
        let (started, mut compactions, mut gone) = (Instant::now(), 0_u64, 0);
        let settings = Settings::thorough();
        while started.elapsed() < RACE
            && !writers.iter().any(|writer| writer.is_finished())
            && !reader.is_finished()
        {
            let outcome = compact::execute(&store, settings, &mut |_, _| {});
            // The writers would go on for ever beside a panic.
            stop.store(outcome.is_err(), Ordering::Relaxed);
            let plan = outcome.unwrap().plan;
            gone += plan.segments.iter().filter(|one| one.action != Action::Keep).count();
            compactions += 1;
        }
        stop.store(true, Ordering::Relaxed);
        reader.join().unwrap();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        println!("{compactions} compactions, {gone} segments gone, {commits:?} commits");
        assert!(gone > 20, "only {gone} segments went");
        compactions
    });
    let all = reach_all(&store);
    sound(&store);
    drop(store);
    let store = Store::open(dir.path(), small(true)).unwrap();
    assert_eq!(reach_all(&store), all);
    assert!(compactions > 5 && commits.into_inner() > 50);
}

/// Nothing of a segment that stays for damage is copied: that would free nothing, each time.
#[test]
fn a_segment_with_damage_that_lives_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    drop(half_dead(dir.path(), true));
    let mut store = Store::open(dir.path(), small(true)).unwrap();
    let all = reach_all(&store);
    let mut damaged = 0;
    for entry in std::fs::read_dir(dir.path().join("segments")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let is_living = |at: &usize| {
            let record = &bytes[*at..];
            record.starts_with(b"HSR\x1a")
                && record[4] == Kind::Leaf.to_byte()
                && all.iter().any(|id| id.as_bytes()[..] == record[16..48])
        };
        if let Some(at) = (0..bytes.len() - 64).step_by(8).find(is_living) {
            bytes[at + 70] ^= 1;
            damaged += 1;
            std::fs::write(&path, bytes).unwrap();
        }
    }
    let readable = |store: &Store| all.iter().filter(|id| store.get(id).is_ok()).count();
    let (before, mut stored) = (readable(&store), store.stats().stored_bytes);
    assert!(damaged > 4 && before == all.len() - damaged, "{damaged}, {before} of {}", all.len());
    for round in 0..4 {
        let outcome = compact::execute(&store, Settings::thorough(), &mut |_, _| {}).unwrap();
        assert!(outcome.unreadable.len() > 4, "{outcome:?}");
        // What is dead goes at once; later, segments with the copy of a commit.
        assert_eq!(outcome.plan.freed_bytes > 64 << 10, round == 0, "{outcome:?}");
        // The commit has a copy, which is a block.
        assert!(store.stats().stored_bytes < stored + 8192, "{round}: {:?}", store.stats());
        assert!(store.stats().added_bytes < 8192, "{round}: {:?}", store.stats());
        assert_eq!(readable(&store), before);
        drop(store);
        store = Store::open(dir.path(), small(true)).unwrap();
        stored = store.stats().stored_bytes;
    }
}
