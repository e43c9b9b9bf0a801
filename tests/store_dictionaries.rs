//! Dictionaries: what is stored with one comes back wherever it goes, and which one is used needs no note.

mod store_common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headstock::block::{self, BlockId, BlockRead, BlockWrite, Family, Kind};
use headstock::lab::{SimDisk, Survives};
use headstock::store::compact::{self, Settings};
use headstock::store::fs::RealDisk;
use headstock::store::fsck::{self, Code, Level};
use headstock::store::repair::Repair;
use headstock::store::{Options, RepositorySalt, Store};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use store_common::{copy_dir, files, put_graph, reach, reach_all, small};

const FAMILY: [u8; 16] = *b"one collection..";

/// Segments that have room for a dictionary of full size.
fn roomy() -> Options {
    Options { segment_bytes: 4 << 20, ..small(true) }
}

/// What documents of a collection look like: the same fields, other values.
fn leaf(random: &mut StdRng) -> Vec<u8> {
    // Each block has all of this once; what it repeats, it can do itself.
    let cities = ["Oslo", "Bergen", "Trondheim", "Stavanger", "Kristiansand", "Fredrikstad"];
    let mut leaf = Vec::new();
    while leaf.len() < 2 << 10 {
        let document = bson::doc! {
            "_id": bson::oid::ObjectId::new(),
            "customer": { "name": format!("customer {}", random.random::<u32>()), "since": random.random::<i32>() },
            "address": { "city": cities[random.random_range(0..cities.len())], "zip": random.random_range(0..9999) },
            "status": "delivered",
            "note": format!("to be handed over to {} at the back door of the shop", random.random::<u16>()),
            "total": random.random::<f64>(),
        };
        document.to_writer(&mut leaf).expect("BSON");
    }
    leaf
}

fn noise(random: &mut StdRng) -> Vec<u8> {
    (0..4 << 10).map(|_| random.random()).collect()
}

fn no_examples(_: u64) -> Result<Vec<BlockId>, block::Error> {
    Ok(Vec::new())
}

/// Stores leaves as one family; returns their names and the bytes added by the last half.
fn fill(
    store: &Store,
    examples: &dyn Fn(u64) -> Result<Vec<BlockId>, block::Error>,
    leaves: usize,
    make: impl Fn(&mut StdRng) -> Vec<u8>,
) -> (Vec<BlockId>, u64) {
    let mut random = StdRng::seed_from_u64(store.stats().blocks);
    let family = store.family(&Family { id: FAMILY, examples });
    let mut half = 0;
    let names = (0..leaves).map(|at| {
        if at == leaves / 2 {
            half = store.stats().added_bytes;
        }
        let raw = make(&mut random);
        let put = match &family {
            Some(family) => family.put(Kind::Leaf, &raw),
            None => store.put(Kind::Leaf, &raw),
        };
        put.expect("put")
    });
    let names = names.collect();
    (names, store.stats().added_bytes - half)
}

/// Has a commit name blocks.
fn keep(store: &Store, name: &str, leaves: &[BlockId]) {
    let mut links = bson::RawArrayBuf::new();
    leaves.iter().for_each(|id| links.push(block::link(id)));
    let mut document = bson::RawDocumentBuf::new();
    document.append(bson::raw::cstr!("leaves"), links);
    let root = store.put(Kind::Links, document.as_bytes()).expect("put");
    store.commit(|roots| _ = roots.insert(name.to_owned(), root)).expect("commit");
}

/// A record of a dictionary: its file, where it starts there, and the name.
type Place = (PathBuf, usize, [u8; 32]);

/// The records of dictionaries in all segments, sealed or not.
fn dictionaries(dir: &Path) -> Vec<Place> {
    let mut found = Vec::new();
    let mut paths = Vec::new();
    files(&dir.join("segments"), &mut paths);
    for path in paths {
        let bytes = std::fs::read(&path).expect("a segment");
        for at in (0..bytes.len().saturating_sub(64)).step_by(8) {
            if bytes[at..at + 4] == *b"HSR\x1a" && bytes[at + 4] == Kind::Dictionary.to_byte() {
                let name = bytes[at + 16..at + 48].try_into().expect("32 bytes");
                found.push((path.clone(), at, name));
            }
        }
    }
    found
}

fn names(dir: &Path) -> BTreeSet<[u8; 32]> {
    dictionaries(dir).into_iter().map(|(_, _, name)| name).collect()
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).expect("a segment");
    bytes[at] ^= 1;
    std::fs::write(path, bytes).expect("written");
}

#[test]
fn a_family_is_learned_from_what_is_put_and_known_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = Store::create(dir.path(), roomy()).expect("create");
    let (leaves, with) = fill(&store, &no_examples, 5000, leaf);
    keep(&store, "all", &leaves);
    let plain = tempfile::tempdir().expect("a folder");
    let plain = Store::create(plain.path(), roomy()).expect("create");
    let mut random = StdRng::seed_from_u64(7);
    for _ in 0..2500 {
        plain.put(Kind::Leaf, &leaf(&mut random)).expect("put");
    }
    let without = plain.stats().added_bytes;
    assert!(with * 5 < without * 4, "{with} and {without}");
    let check = |store: &Store| {
        for id in &leaves {
            assert_eq!(store.get(id).expect("there").kind, Kind::Leaf);
        }
    };
    check(&store);
    check(&Store::open_reader(dir.path(), roomy()).expect("a reader"));
    drop(store);
    // Another opening finds the dictionary by the form of what is there, and makes no other.
    let store = Store::open(dir.path(), roomy()).expect("open");
    check(&store);
    let before = names(dir.path());
    assert_eq!(before.len(), 1);
    let tail = leaves[4000..].to_vec();
    let (more, again) = fill(&store, &|_| Ok(tail.clone()), 2000, leaf);
    assert!(again * 5 < without * 4 * 2000 / 2500, "{again} and {without}");
    keep(&store, "more", &more);
    drop(store);
    drop(Store::open(dir.path(), roomy()).expect("open"));
    assert_eq!(names(dir.path()), before);
}

#[test]
fn what_has_nothing_in_common_has_no_dictionary() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = Store::create(dir.path(), roomy()).expect("create");
    let (leaves, _) = fill(&store, &no_examples, 1500, noise);
    keep(&store, "noise", &leaves);
    assert!(store.family(&Family { id: FAMILY, examples: &no_examples }).is_none());
    drop(store);
    assert_eq!(dictionaries(dir.path()), []);
}

/// A store of many small segments whose blocks use one dictionary.
fn many_segments(dir: &Path) -> (Store, BTreeSet<BlockId>) {
    let store = Store::create(dir, small(true)).expect("create");
    let mut random = StdRng::seed_from_u64(3);
    for name in 0..6 {
        let root = put_graph(&store, &mut random, 60, 3000);
        store.commit(|roots| _ = roots.insert(name.to_string(), root)).expect("commit");
    }
    let all = reach_all(&store);
    (store, all)
}

#[test]
fn any_copy_of_a_dictionary_does_and_its_loss_is_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let (store, all) = many_segments(dir.path());
    drop(store);
    drop(Store::open(dir.path(), small(true)).expect("the last segment is sealed"));
    let copies = dictionaries(dir.path());
    let segments = copies.iter().map(|(path, ..)| path).collect::<BTreeSet<_>>();
    assert!(copies.len() > 4 && segments.len() == copies.len(), "one for each segment");
    assert_eq!(names(dir.path()).len(), 1);
    let intact = tempfile::tempdir().expect("a folder");
    copy_dir(dir.path(), intact.path());
    for (path, at, _) in &copies[1..] {
        flip(path, at + 70);
    }
    let store = Store::open(dir.path(), small(true)).expect("open");
    assert_eq!(reach_all(&store), all);
    let told = fsck::run(&store, Level::Data, &mut |_| {}).expect("a check").findings;
    assert_eq!(told.len(), copies.len() - 1, "{told:?}");
    assert!(told.iter().all(|one| one.code == Code::RecordPayload), "{told:?}");
    drop(store);
    let (path, at, _) = &copies[0];
    flip(path, at + 70);
    let store = Store::open(dir.path(), small(true)).expect("open");
    let lost: BTreeSet<BlockId> = all.iter().copied().filter(|id| store.get(id).is_err()).collect();
    assert!(!lost.is_empty() && lost.len() < all.len() / 2, "{} of {}", lost.len(), all.len());
    let told = fsck::run(&store, Level::Data, &mut |_| {}).expect("a check").findings;
    let told: BTreeSet<BlockId> = told.iter().filter_map(|one| one.block).collect();
    assert!(told.is_superset(&lost));
    // Another store has them, however it stores them.
    let other = Store::open_reader(intact.path(), small(true)).expect("a reader");
    for id in &lost {
        let block = other.get(id).expect("there");
        assert_eq!(other.name(block.kind, &block.bytes), *id);
    }
}

#[test]
fn a_dictionary_goes_where_its_blocks_go_and_no_further() {
    let dir = tempfile::tempdir().expect("a folder");
    let (store, _) = many_segments(dir.path());
    // Most of each segment dies, and what lives is moved.
    store.commit(|roots| roots.retain(|name, _| name == "2")).expect("commit");
    let kept = reach_all(&store);
    let thorough = Settings::thorough();
    compact::execute(&store, thorough, &mut |_, _| {}).expect("compacted");
    assert_eq!(reach_all(&store), kept);
    assert!(fsck::run(&store, Level::Data, &mut |_| {}).expect("a check").is_sound());
    drop(store);
    let store = Store::open(dir.path(), small(true)).expect("open");
    assert_eq!(reach_all(&store), kept);
    let copies = dictionaries(dir.path()).len();
    assert!((1..=3).contains(&copies), "{copies}");
    store.commit(|roots| roots.clear()).expect("commit");
    compact::execute(&store, thorough, &mut |_, _| {}).expect("compacted");
    drop(store);
    assert_eq!(dictionaries(dir.path()), []);
}

/// Segments of another size than when the dictionary was made: too small to hold one beside its blocks.
#[test]
fn blocks_are_moved_without_a_dictionary_that_has_no_room() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = Store::create(dir.path(), roomy()).expect("create");
    let (leaves, _) = fill(&store, &no_examples, 4000, leaf);
    keep(&store, "few", &leaves[3900..]);
    drop(store);
    assert!(!dictionaries(dir.path()).is_empty());
    let store = Store::open(dir.path(), small(true)).expect("open");
    compact::execute(&store, Settings::thorough(), &mut |_, _| {}).expect("compacted");
    let all = reach_all(&store);
    assert!(leaves[3900..].iter().all(|id| all.contains(id)));
    drop(store);
    assert_eq!(dictionaries(dir.path()), []);
    assert_eq!(reach_all(&Store::open(dir.path(), small(true)).expect("open")), all);
}

/// Segments with a dictionary of their own each, of which little lives: what is copied before the first are removed is bounded
/// with the dictionaries counted.
#[test]
fn dictionaries_count_in_the_space_that_a_compaction_takes() {
    let (disk, dir) = (SimDisk::new(Path::new("/disk")), Path::new("/disk/store"));
    let salt = RepositorySalt([5; 32]);
    let store = Store::create_on(Arc::new(disk.clone()), dir, small(false), salt).expect("create");
    let mut random = StdRng::seed_from_u64(4);
    let mut kept = Vec::new();
    for _ in 0..30 {
        let dictionary = noise(&mut random)[..4000].to_vec();
        let (alike, segments) = (store.with_dictionary(dictionary), store.stats().segments);
        let mut fresh = Vec::new();
        while store.stats().segments <= segments {
            let content: Vec<u8> = (0..3000).map(|_| random.random_range(b'a'..=b'p')).collect();
            fresh.push(alike.put(Kind::Leaf, &content).expect("put"));
        }
        // The last are behind the dictionary, and the very last stands in the next segment.
        kept.extend(fresh.iter().rev().skip(1).take(2));
    }
    keep(&store, "few", &kept);
    let (before, mut most) = (disk.used(), 0);
    let mut on_progress = |_, _| most = most.max(disk.used().saturating_sub(before));
    let outcome = compact::execute(&store, Settings::thorough(), &mut on_progress);
    let plan = outcome.expect("compacted").plan;
    let dictionaries: u64 = plan.segments.iter().map(|one| one.dictionary_bytes).sum();
    assert!(dictionaries > 25 * 4000, "{dictionaries}");
    assert!(most <= 2 * (64 << 10), "{most}");
    // Two leaves are not worth what they were compressed with.
    assert!(store.stats().stored_bytes < 150_000, "{:?}", store.stats());
    assert!(kept.iter().all(|id| store.get(id).is_ok()));
}

/// More leaves are lost with a dictionary than a check lists findings: one repair has them all again from another store.
#[test]
fn one_repair_brings_back_all_that_a_dictionary_costs() {
    let (dir, other) =
        (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let options = || Options { segment_bytes: 128 << 20, ..small(false) };
    let store = Store::create(dir.path(), options()).expect("create");
    let mut random = StdRng::seed_from_u64(4);
    let shared: Vec<u8> = (0..16 << 10).map(|_| random.random()).collect();
    let alike = store.with_dictionary(shared.clone());
    let mut leaf = || {
        let from = random.random_range(0..15 << 10);
        let own: [u8; 20] = random.random();
        alike.put(Kind::Leaf, &[&shared[from..from + 1024], &own].concat()).expect("put")
    };
    let leaves: Vec<BlockId> = (0..15_000).map(|_| leaf()).collect();
    for (n, some) in leaves.chunks(10_000).enumerate() {
        keep(&store, &n.to_string(), some);
    }
    drop((store, alike));
    // In a segment of its own, behind more findings than are listed.
    let store = Store::open(dir.path(), options()).expect("open");
    let last = store.put(Kind::Leaf, b"the last of all leaves").expect("put");
    keep(&store, "last", &[last]);
    drop(store);
    copy_dir(dir.path(), other.path());
    let (path, at, _) = &dictionaries(dir.path())[0];
    flip(path, at + 70);
    flip(&path.with_file_name("00000002.seg"), 4096 + 70);
    let from = vec![other.path().to_owned()];
    let repair = Repair::on(Arc::new(RealDisk), dir.path(), options(), from, 1);
    let salvage = repair.execute(&mut |_| {}).expect("repaired").salvage;
    assert!(salvage.found.len() > 10_000 && salvage.lost.is_empty(), "{}", salvage.found.len());
    let store = Store::open(dir.path(), options()).expect("open");
    assert!(leaves.iter().chain([&last]).all(|id| store.get(id).is_ok()));
    let told = fsck::run(&store, Level::Data, &mut |_| {}).expect("a check").findings;
    assert!(told.is_empty(), "{told:?}");
}

/// A store whose segments, sealed, have a copy of one dictionary each, all but the first of them damaged.
fn one_good_copy(dir: &Path) -> Vec<Place> {
    drop(many_segments(dir));
    drop(Store::open(dir, small(true)).expect("the last segment is sealed"));
    let mut copies = dictionaries(dir);
    copies.sort();
    copies[1..].iter().for_each(|(path, at, _)| flip(path, at + 70));
    copies
}

/// The segment with the last copy of a dictionary that can be read dies; others are read through it.
#[test]
fn the_last_good_copy_of_a_dictionary_does_not_go() {
    let dir = tempfile::tempdir().expect("a folder");
    one_good_copy(dir.path());
    let store = Store::open(dir.path(), small(true)).expect("open");
    store.commit(|roots| roots.retain(|name, _| name.as_str() > "1")).expect("commit");
    let kept = reach_all(&store);
    drop(store);
    for _ in 0..2 {
        // Nothing is in memory from before.
        let store = Store::open(dir.path(), small(true)).expect("open");
        let outcome = compact::execute(&store, Settings::default(), &mut |_, _| {});
        assert_eq!(outcome.expect("compacted").unreadable, []);
        drop(store);
        let store = Store::open(dir.path(), small(true)).expect("open");
        assert_eq!(reach_all(&store), kept);
    }
}

/// What needs a dictionary that is lost stays where it is; the rest is compacted, once.
#[test]
fn a_lost_dictionary_keeps_nothing_else_from_being_compacted() {
    let dir = tempfile::tempdir().expect("a folder");
    let copies = one_good_copy(dir.path());
    flip(&copies[0].0, copies[0].1 + 70);
    let store = Store::open(dir.path(), small(true)).expect("open");
    store.commit(|roots| roots.retain(|name, _| name == "2")).expect("commit");
    let all: BTreeSet<BlockId> = {
        let (mut all, mut to_do) =
            (BTreeSet::new(), store.roots().1.into_values().collect::<Vec<_>>());
        while let Some(id) = to_do.pop() {
            if all.insert(id)
                && let Ok(block) = store.get(&id)
            {
                to_do.extend(block::references(block.kind, &block.bytes).expect("references"));
            }
        }
        all
    };
    let readable = |store: &Store| all.iter().filter(|id| store.get(id).is_ok()).count();
    let before = readable(&store);
    assert!(before < all.len() && before * 3 > all.len(), "{before} of {}", all.len());
    let stored = store.stats().stored_bytes;
    let outcome =
        compact::execute(&store, Settings::thorough(), &mut |_, _| {}).expect("compacted");
    assert!(!outcome.unreadable.is_empty());
    assert_eq!(readable(&store), before);
    let after = store.stats().stored_bytes;
    assert!(after * 2 < stored, "{after} of {stored}");
    for _ in 0..3 {
        let again = compact::execute(&store, Settings::thorough(), &mut |_, _| {});
        assert_eq!(again.expect("compacted").unreadable, outcome.unreadable);
    }
    assert!(store.stats().stored_bytes < after + 4096, "{after} {:?}", store.stats());
    assert_eq!(readable(&store), before);
}

/// Its name is in the footer and its bytes are whole, but it stands behind what needs it, or nowhere.
#[test]
fn a_segment_without_the_dictionary_that_it_needs_is_told_of_and_made_anew() {
    let dir = tempfile::tempdir().expect("a folder");
    let (store, all) = many_segments(dir.path());
    drop(store);
    drop(Store::open(dir.path(), small(true)).expect("the last segment is sealed"));
    let copies = dictionaries(dir.path());
    let (path, at, _) = &copies[1];
    // No header, so no record that a walk would see.
    flip(path, at + 20);
    let store = Store::open(dir.path(), small(true)).expect("open");
    let codes: Vec<Code> = fsck::run(&store, Level::Data, &mut |_| {})
        .expect("a check")
        .findings
        .iter()
        .map(|one| one.code)
        .collect();
    assert_eq!(
        codes.iter().filter(|code| **code == Code::SegmentDictionary).count(),
        1,
        "{codes:?}"
    );
    drop(store);
    let repair = Repair::on(Arc::new(RealDisk), dir.path(), small(true), Vec::new(), 1);
    assert!(repair.execute(&mut |_| {}).expect("repaired").salvage.lost.is_empty());
    let store = Store::open(dir.path(), small(true)).expect("open");
    assert!(fsck::run(&store, Level::Data, &mut |_| {}).expect("a check").is_sound());
    assert_eq!(reach_all(&store), all);
}

/// A check asks the disk, not what this process happens to hold ready.
#[test]
fn a_check_tells_of_a_lost_dictionary_that_is_still_in_memory() {
    let dir = tempfile::tempdir().expect("a folder");
    let copies = one_good_copy(dir.path());
    let store = Store::open(dir.path(), small(true)).expect("open");
    let all = reach_all(&store);
    flip(&copies[0].0, copies[0].1 + 70);
    let told = fsck::run(&store, Level::Data, &mut |_| {}).expect("a check");
    assert!(told.findings.iter().any(|one| one.code == Code::RecordContent), "{told:?}");
    // And what is in memory still is of use.
    assert_eq!(reach_all(&store), all);
}

/// A store on a simulated disk with small segments; every second leaf uses a dictionary.
fn simulated() -> (SimDisk, &'static Path, Store) {
    let (disk, dir) = (SimDisk::new(Path::new("/disk")), Path::new("/disk/store"));
    let salt = RepositorySalt([5; 32]);
    let store = Store::create_on(Arc::new(disk.clone()), dir, small(false), salt).expect("create");
    (disk, dir, store)
}

fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "seg")
}

/// Where in a simulated disk's files records of dictionaries start.
fn simulated_dictionaries(disk: &SimDisk) -> Vec<(PathBuf, usize)> {
    let is_one =
        |bytes: &[u8]| bytes.starts_with(b"HSR\x1a") && bytes[4] == Kind::Dictionary.to_byte();
    let segments = disk.files().into_iter().filter(|(path, _)| is_segment(path));
    segments.filter_map(|(path, bytes)| Some((path, bytes.windows(64).position(is_one)?))).collect()
}

/// Neither the dictionary nor what is around the sector is read again for each of the records that need it.
#[test]
fn a_bad_sector_in_a_dictionary_does_not_have_a_check_read_without_end() {
    let (disk, dir, store) = simulated();
    let root = put_graph(&store, &mut StdRng::seed_from_u64(3), 2000, 200);
    store.commit(|roots| _ = roots.insert("all".to_owned(), root)).expect("commit");
    drop(store);
    let check = || {
        let store = Store::open_on(Arc::new(disk.clone()), dir, small(false)).expect("open");
        let before = disk.bytes_read();
        let told = fsck::run(&store, Level::Data, &mut |_| {}).expect("a check");
        (told.findings, disk.bytes_read() - before)
    };
    let (_, intact) = check();
    let copies = simulated_dictionaries(&disk);
    assert!(copies.len() > 4, "{copies:?}");
    copies.iter().for_each(|(path, at)| disk.spoil(path, *at as u64 + 70));
    let (told, read) = check();
    assert!(told.iter().any(|one| one.code == Code::Unreadable), "{told:?}");
    assert!(told.iter().any(|one| one.code == Code::RecordContent), "{told:?}");
    // What a failed read was to read counts, too.
    let segments = disk.files().into_iter().filter(|(path, _)| is_segment(path));
    let stored: usize = segments.map(|(_, bytes)| bytes.len()).sum();
    assert!(read < intact + 4 * stored as u64, "{read} instead of {intact}, of {stored}");
}

/// The newest commit cannot be read, so what it made durable is proven by nothing, and a dictionary that the one before has is
/// damaged: that is no torn end, and cuts nothing off.
#[test]
fn a_damaged_dictionary_cuts_no_segment() {
    let (disk, dir, store) = simulated();
    let mut random = StdRng::seed_from_u64(3);
    let first = put_graph(&store, &mut random, 100, 200);
    store.commit(|roots| _ = roots.insert("first".to_owned(), first)).expect("commit");
    let second = put_graph(&store, &mut random, 100, 200);
    let plain = store.put(Kind::Leaf, b"plain, and behind the others").expect("put");
    store.commit(|roots| _ = roots.insert("second".to_owned(), second)).expect("commit");
    let disk = disk.restarted(|_| Survives::Nothing);
    let (path, at) = simulated_dictionaries(&disk).remove(0);
    let log =
        disk.files().into_keys().rfind(|path| path.extension().is_some_and(|end| end == "log"));
    let log = log.expect("a log");
    for (path, at) in [(path, Some(at + 70)), (log, None)] {
        let mut bytes = disk.files()[&path].clone();
        let at = at.unwrap_or_else(|| bytes.iter().rposition(|byte| *byte != 0).expect("a record"));
        bytes[at] ^= 1;
        disk.put_file(&path, Some(bytes));
    }
    let store = Store::open_on(Arc::new(disk), dir, small(false)).expect("open");
    assert_eq!(store.roots().1.keys().collect::<Vec<_>>(), ["first"]);
    assert!(store.get(&plain).is_ok());
    assert!(store.get(&second).is_ok());
}

/// More collections than dictionaries are held ready, of each too little is stored for a place in a segment.
#[test]
fn a_dictionary_that_waits_for_a_segment_is_made_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = Store::create(dir.path(), roomy()).expect("create");
    let mut random = StdRng::seed_from_u64(3);
    let mut leaves = || {
        (0..600)
            .map(|_| store.put(Kind::Leaf, &leaf(&mut random)).expect("put"))
            .collect::<Vec<_>>()
    };
    let families: Vec<_> = (0..20_u8).map(|n| ([n; 16], leaves())).collect();
    keep(
        &store,
        "all",
        &families.iter().flat_map(|(_, leaves)| leaves.clone()).collect::<Vec<_>>(),
    );
    let looked = std::cell::Cell::new(0);
    let mut rounds = (0..3).map(|_| {
        for (id, leaves) in &families {
            let examples = |bytes| {
                looked.set(looked.get() + u32::from(bytes > 64 << 10));
                Ok(leaves.clone())
            };
            assert!(store.family(&Family { id: *id, examples: &examples }).is_some());
        }
        looked.take()
    });
    assert_eq!(rounds.next(), Some(20));
    assert_eq!(rounds.next(), Some(0));
    assert_eq!(rounds.next(), Some(0));
}

/// The header of a dictionary rots in the segment that is being written when the machine dies: the footer that recovery makes does
/// not list it, and the segment is read through the copy of another, which dies.
#[test]
fn a_recovered_segment_keeps_the_dictionary_that_it_lost() {
    let (disk, dir, store) = simulated();
    let mut random = StdRng::seed_from_u64(3);
    let old = put_graph(&store, &mut random, 600, 200);
    store.commit(|roots| _ = roots.insert("old".to_owned(), old)).expect("commit");
    drop(store);
    let store = Store::open_on(Arc::new(disk.clone()), dir, small(false)).expect("open");
    let new = put_graph(&store, &mut random, 180, 200);
    store.commit(|roots| _ = roots.insert("new".to_owned(), new)).expect("commit");
    let disk = disk.restarted(|_| Survives::Nothing);
    let (path, at) = simulated_dictionaries(&disk).pop().expect("a dictionary");
    let mut bytes = disk.files()[&path].clone();
    bytes[at + 20] ^= 1;
    disk.put_file(&path, Some(bytes));
    let open = || Store::open_on(Arc::new(disk.clone()), dir, small(false)).expect("open");
    let mut all = BTreeSet::new();
    reach(&open(), new, &mut all);
    let store = open();
    let told = fsck::run(&store, Level::Data, &mut |_| {}).expect("a check").findings;
    assert!(told.iter().any(|one| one.code == Code::SegmentDictionary), "{told:?}");
    store.commit(|roots| _ = roots.remove("old")).expect("commit");
    let outcome = compact::execute(&store, Settings::default(), &mut |_, _| {});
    assert_eq!(outcome.expect("compacted").unreadable, []);
    drop(store);
    assert!(all.iter().all(|id| open().get(id).is_ok()));
    // It was made anew with all it needs.
    let told = fsck::run(&open(), Level::Data, &mut |_| {}).expect("a check").findings;
    assert!(told.is_empty(), "{told:?}");
}

/// Collections whose dictionaries wait for a segment do not keep others from theirs, and are not asked about again and again.
#[test]
fn many_small_families_leave_room_for_a_large_one() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = Store::create(dir.path(), roomy()).expect("create");
    let mut random = StdRng::seed_from_u64(3);
    let mut leaves = |count| {
        (0..count).map(|_| store.put(Kind::Leaf, &leaf(&mut random)).expect("put")).collect()
    };
    let families: Vec<([u8; 16], Vec<BlockId>)> = (0..70).map(|n| ([n; 16], leaves(200))).collect();
    let looked = std::cell::Cell::new(0);
    for round in 0..3 {
        for (id, leaves) in &families {
            let examples = |_| {
                looked.set(looked.get() + 1);
                Ok(leaves.clone())
            };
            let family = store.family(&Family { id: *id, examples: &examples });
            assert!(family.is_some() || round > 0, "{}", id[0]);
        }
        assert_eq!(looked.take() > 0, round == 0);
    }
}

/// It stands where it must: that it cannot be read is all there is to tell.
#[test]
fn an_unreadable_dictionary_is_not_told_to_be_missing() {
    let (disk, dir, store) = simulated();
    let root = put_graph(&store, &mut StdRng::seed_from_u64(3), 400, 200);
    store.commit(|roots| _ = roots.insert("all".to_owned(), root)).expect("commit");
    drop(store);
    let (path, at) = simulated_dictionaries(&disk).remove(0);
    disk.spoil(&path, at as u64 + 64 + 300);
    let store = Store::open_on(Arc::new(disk.clone()), dir, small(false)).expect("open");
    let told = fsck::run(&store, Level::Data, &mut |_| {}).expect("a check").findings;
    assert!(told.iter().any(|one| one.code == Code::Unreadable), "{told:?}");
    assert!(told.iter().all(|one| one.code != Code::SegmentDictionary), "{told:?}");
}
