//! Dictionaries: what is stored with one comes back wherever it goes, and which one is used needs no note.

mod store_common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headstock::block::{self, BlockId, BlockRead, BlockWrite, Family, Kind};
use headstock::lab::SimDisk;
use headstock::store::compact::{self, Settings};
use headstock::store::fs::RealDisk;
use headstock::store::fsck::{self, Code, Level};
use headstock::store::repair::Repair;
use headstock::store::{Options, RepositorySalt, Store};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use store_common::{copy_dir, files, put_graph, reach_all, small};

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
    copy_dir(dir.path(), other.path());
    let (path, at, _) = &dictionaries(dir.path())[0];
    flip(path, at + 70);
    let from = vec![other.path().to_owned()];
    let repair = Repair::on(Arc::new(RealDisk), dir.path(), options(), from, 1);
    let salvage = repair.execute(&mut |_| {}).expect("repaired").salvage;
    assert!(salvage.found.len() > 10_000 && salvage.lost.is_empty(), "{}", salvage.found.len());
    let store = Store::open(dir.path(), options()).expect("open");
    assert!(leaves.iter().all(|id| store.get(id).is_ok()));
}
