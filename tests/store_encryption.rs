//! An encrypted store: nothing of its data without a key, nothing changed unnoticed, slots and data keys.
//!
//! `HEADSTOCK_ENCRYPTED=1` runs the other tests of the store on encrypted ones.

mod store_common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headstock::block::{BlockId, BlockRead, BlockWrite, Kind};
use headstock::store::compact::{self, Settings};
use headstock::store::fs::RealDisk;
use headstock::store::fsck::{self, Code, Level};
use headstock::store::keys::{self, Epoch, SlotKind};
use headstock::store::repair::Repair;
use headstock::store::{Error, Options, Secret, SegmentId, Store};
use rand::SeedableRng;
use rand::rngs::StdRng;
use store_common::{copy_dir, files, key, put_graph, reach_all, small};

/// What nobody may find in a file.
const MARKER: &[u8] = b"the customer of a very secret order";
const ROOT: &str = "a very secret replica set";

fn with(secret: Secret) -> Options {
    Options { secret: Some(Arc::new(secret)), ..small(false) }
}

fn passphrase(text: &str) -> Secret {
    Secret::Passphrase(text.as_bytes().to_vec().into())
}

/// A store with a root, and the marker in a block.
fn scene() -> (tempfile::TempDir, PathBuf, BlockId) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let dir = folder.path().join("store");
    let store = Store::create(&dir, with(key(7))).expect("create");
    let marked = store.put(Kind::Leaf, MARKER).expect("put");
    let graph = put_graph(&store, &mut StdRng::seed_from_u64(1), 200, 3000);
    store.commit(|roots| _ = roots.insert(ROOT.to_owned(), graph)).expect("commit");
    (folder, dir, marked)
}

fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = Vec::new();
    files(dir, &mut found);
    found.into_iter().map(|path| (path.clone(), std::fs::read(path).expect("read"))).collect()
}

fn holds(content: &[u8], part: &[u8]) -> bool {
    content.windows(part.len()).any(|some| some == part)
}

#[test]
fn no_file_tells_contents_names_of_roots_or_names_of_blocks() {
    let (_folder, dir, marked) = scene();
    let open = Store::open(&dir, with(key(7))).expect("open");
    assert_eq!(&open.get(&marked).expect("is there").bytes[..], MARKER);
    let salt = open.salt();
    // Somebody who guesses the content cannot find out whether the guess is right.
    let guessed = BlockId::of(Kind::Leaf, MARKER);
    assert_ne!(marked, guessed);
    drop(open);
    for (path, content) in contents(&dir) {
        let secrets = [MARKER, ROOT.as_bytes(), &guessed.as_bytes()[..], &salt.0, &[7; 32]];
        for (which, secret) in secrets.into_iter().enumerate() {
            assert!(!holds(&content, secret), "{} holds {which}", path.display());
        }
    }
    // The name stands where it must, so that the search above could have found something.
    let named = |(_, content): (PathBuf, Vec<u8>)| holds(&content, marked.as_bytes());
    assert!(contents(&dir).into_iter().any(named));
}

#[test]
fn equal_content_has_other_names_and_bytes_in_another_store() {
    let (_one, dir, marked) = scene();
    let (_other, other, elsewhere) = scene();
    assert_ne!(marked, elsewhere);
    let first = |dir: &Path| std::fs::read(dir.join("segments/00000001.seg")).expect("read");
    let (ours, theirs) = (first(&dir), first(&other));
    // The header of a record begins with 16 bytes that tell its kind and its lengths.
    let window = |content: &[u8], at: usize| content[at..at + 32].to_vec();
    // In front of the footers, which tell counts.
    let both = 4096..32 << 10;
    let mut same = both.filter(|at| window(&ours, *at) == window(&theirs, *at));
    assert_eq!(same.find(|at| window(&ours, *at) != [0; 32]), None);
}

#[test]
fn a_wrong_key_none_and_one_too_many_are_clear_errors() {
    let (folder, dir, _) = scene();
    for open in [Store::open, Store::open_reader] {
        let fails = |options| open(&dir, options).err().expect("is refused");
        assert!(matches!(fails(with(key(8))), Error::WrongKey { .. }));
        assert!(matches!(fails(with(passphrase("correct horse"))), Error::WrongKey { .. }));
        let without = Options { secret: None, ..small(false) };
        assert!(matches!(fails(without), Error::KeyNeeded { .. }));
    }
    let report = fsck::run_on(&dir, with(key(8)), Level::Data, &mut |_| {});
    assert!(matches!(report, Err(Error::WrongKey { .. })), "a wrong key is no damage");

    let plain = folder.path().join("plain");
    drop(Store::create(&plain, Options { secret: None, ..small(false) }).expect("create"));
    let refused = Store::open(&plain, with(key(7))).err().expect("is refused");
    assert!(matches!(refused, Error::NotEncrypted { .. }), "{refused}");

    std::fs::rename(dir.join("KEYS"), dir.join("KEYS.away")).expect("rename");
    let gone = Store::open(&dir, with(key(7))).err().expect("is refused");
    assert!(matches!(gone, Error::KeysGone { .. }), "{gone}");
    assert!(gone.to_string().contains("copy"), "{gone}");
}

#[test]
fn each_of_several_slots_opens_and_a_removed_one_does_not() {
    let (_folder, dir, marked) = scene();
    let (first, second) = (key(7), passphrase("correct horse battery"));
    let slot = keys::add(&dir, &first, &second, "safe").expect("added");
    let slots = keys::list(&dir).expect("listed");
    let told: Vec<_> = slots.iter().map(|one| (one.slot, one.kind, &*one.label)).collect();
    assert_eq!(told, [(0, SlotKind::KeyFile, ""), (slot, SlotKind::Passphrase, "safe")]);
    for secret in [key(7), passphrase("correct horse battery")] {
        let store = Store::open(&dir, with(secret)).expect("open");
        assert_eq!(&store.get(&marked).expect("is there").bytes[..], MARKER);
        let writer = keys::add(&dir, &first, &key(9), "").expect_err("is refused");
        assert!(matches!(writer, Error::Locked { .. }), "{writer}");
    }
    let own = keys::remove(&dir, &first, 0).expect_err("is refused");
    assert!(matches!(own, Error::Slots { .. }), "{own}");
    assert!(matches!(keys::remove(&dir, &first, 5), Err(Error::Slots { .. })));
    keys::remove(&dir, &second, 0).expect("removed");
    let refused = Store::open(&dir, with(key(7))).err().expect("is refused");
    assert!(matches!(refused, Error::WrongKey { .. }), "{refused}");
    Store::open(&dir, with(second)).expect("open");
}

#[test]
fn there_are_eight_slots() {
    let (_folder, dir, _) = scene();
    for byte in 1..8 {
        assert_eq!(
            keys::add(&dir, &key(7), &key(byte + 10), "").expect("added"),
            usize::from(byte)
        );
    }
    assert!(matches!(keys::add(&dir, &key(7), &key(30), ""), Err(Error::Slots { .. })));
    Store::open(&dir, with(key(17))).expect("opens by the last");
    keys::remove(&dir, &key(7), 3).expect("removed");
    assert_eq!(keys::add(&dir, &key(7), &key(30), "").expect("added"), 3);
    assert!(matches!(Store::open(&dir, with(key(13))), Err(Error::WrongKey { .. })));
    let long = "l".repeat(49);
    assert!(matches!(keys::add(&dir, &key(7), &key(31), &long), Err(Error::Slots { .. })));
}

/// The epoch that the header of a segment tells.
fn epochs(dir: &Path) -> BTreeMap<String, Epoch> {
    let segments = contents(&dir.join("segments")).into_iter();
    let epoch =
        |content: &[u8]| Epoch(u32::from_le_bytes(content[52..56].try_into().expect("4 bytes")));
    segments.map(|(path, content)| (path.display().to_string(), epoch(&content))).collect()
}

/// A compaction moves everything to the newest data key and forgets the older: a copy of a segment from before is then
/// unreadable even to who has the key and the file `KEYS` of today.
#[test]
fn a_rotation_ends_with_the_older_data_key_forgotten() {
    let (folder, dir, marked) = scene();
    let before = folder.path().join("before");
    copy_dir(&dir, &before);
    let all = {
        let store = Store::open(&before, with(key(7))).expect("open");
        reach_all(&store)
    };
    assert_eq!(epochs(&dir).into_values().collect::<BTreeSet<_>>(), BTreeSet::from([Epoch(1)]));
    assert_eq!(keys::rotate(&dir, &key(7)).expect("rotated"), Epoch(2));

    let store = Store::open(&dir, with(key(7))).expect("open");
    assert_eq!(reach_all(&store), all, "what is sealed with the older key is read");
    let fresh = put_graph(&store, &mut StdRng::seed_from_u64(2), 20, 3000);
    store.commit(|roots| _ = roots.insert("fresh".to_owned(), fresh)).expect("commit");
    let both = reach_all(&store);
    assert!(epochs(&dir).values().any(|epoch| *epoch == Epoch(1)));
    let planned = compact::plan(&store, Settings::default()).expect("planned");
    assert!(planned.copied_bytes > 0, "what lives is moved, however full its segment is");
    compact::execute(&store, Settings::default(), &mut |_, _| {}).expect("compacted");
    assert_eq!(epochs(&dir).into_values().collect::<BTreeSet<_>>(), BTreeSet::from([Epoch(2)]));
    assert_eq!(reach_all(&store), both);
    assert!(store.get(&marked).is_err(), "nothing needed it");
    drop(store);

    let store = Store::open(&dir, with(key(7))).expect("open");
    assert_eq!(reach_all(&store), both);
    assert!(fsck::run(&store, Level::Data, &mut |_| {}).expect("a check").is_sound());
    drop(store);
    // The old store with the keys of today: the ring has no key for what stands in it.
    std::fs::copy(dir.join("KEYS"), before.join("KEYS")).expect("copy");
    let refused = Store::open(&before, with(key(7))).err().expect("is refused");
    assert!(matches!(refused, Error::KeysOfAnotherTime { .. }), "{refused}");
}

/// The files of a store, and a repair that must not change them: the keys are of another time.
fn nothing_is_repaired(dir: &Path) {
    let before = contents(dir);
    let repair = Repair::on(Arc::new(RealDisk), dir, with(key(7)), Vec::new(), 1);
    let planned = repair.plan(&mut |_| {}).expect_err("is refused");
    assert!(matches!(planned, Error::KeysOfAnotherTime { .. }), "{planned}");
    let done = repair.execute(&mut |_| {}).expect_err("is refused");
    assert!(matches!(done, Error::KeysOfAnotherTime { .. }), "{done}");
    let mut after = contents(dir);
    // It says which process had it.
    after.insert(dir.join("LOCK"), before[&dir.join("LOCK")].clone());
    assert!(after == before);
}

/// An older copy of `KEYS` is put back after a rotation. That is no damage, and what is done about it is told; with the right
/// file everything is as it was.
#[test]
fn keys_of_an_earlier_time_are_told_and_nothing_is_repaired() {
    let (_folder, dir, _) = scene();
    let earlier = std::fs::read(dir.join("KEYS")).expect("read");
    keys::rotate(&dir, &key(7)).expect("rotated");
    let store = Store::open(&dir, with(key(7))).expect("open");
    let fresh = put_graph(&store, &mut StdRng::seed_from_u64(2), 100, 3000);
    store.commit(|roots| _ = roots.insert("fresh".to_owned(), fresh)).expect("commit");
    let all = reach_all(&store);
    drop(store);
    let right = std::fs::read(dir.join("KEYS")).expect("read");
    std::fs::write(dir.join("KEYS"), earlier).expect("write");
    for open in [Store::open, Store::open_reader] {
        let refused = open(&dir, with(key(7))).err().expect("is refused");
        assert!(matches!(refused, Error::KeysOfAnotherTime { epoch: Epoch(2), .. }), "{refused}");
        assert!(refused.to_string().contains("Do not repair"), "{refused}");
    }
    nothing_is_repaired(&dir);
    // The log damaged as well: a repair looks for whatever proves a commit.
    let head = std::fs::read(dir.join("HEAD")).expect("read");
    std::fs::write(dir.join("HEAD"), b"lost").expect("write");
    nothing_is_repaired(&dir);
    std::fs::write(dir.join("HEAD"), head).expect("write");
    std::fs::write(dir.join("KEYS"), right).expect("write");
    assert_eq!(reach_all(&Store::open(&dir, with(key(7))).expect("open")), all);
}

/// Who makes a header tell the newest epoch does not make a compaction forget the key that the segment needs.
#[test]
fn a_forged_epoch_of_a_segment_is_not_believed() {
    let (_folder, dir, _) = scene();
    keys::rotate(&dir, &key(7)).expect("rotated");
    for (path, mut content) in contents(&dir.join("segments")) {
        content[52..56].copy_from_slice(&2_u32.to_le_bytes());
        let crc = crc32fast::hash(&content[..4092]);
        content[4092..4096].copy_from_slice(&crc.to_le_bytes());
        std::fs::write(path, content).expect("write");
    }
    let store = Store::open(&dir, with(key(7))).expect("open");
    let all = reach_all(&store);
    let told = fsck::run(&store, Level::Quick, &mut |_| {}).expect("a check").findings;
    assert!(told.iter().any(|one| one.code == Code::SegmentHeader), "{told:?}");
    compact::execute(&store, Settings::default(), &mut |_, _| {}).expect("compacted");
    drop(store);
    let store = Store::open(&dir, with(key(7))).expect("open");
    assert_eq!(reach_all(&store), all);
    assert!(fsck::run(&store, Level::Data, &mut |_| {}).expect("a check").is_sound());
}

/// While a reader uses segments of an older key, their files stay, and so does the key.
#[test]
fn a_key_stays_while_a_file_needs_it() {
    let (_folder, dir, _) = scene();
    let reader = Store::open_reader(&dir, with(key(7))).expect("open");
    let all = reach_all(&reader);
    keys::rotate(&dir, &key(7)).expect("rotated");
    let store = Store::open(&dir, with(key(7))).expect("open");
    for _ in 0..4 {
        compact::execute(&store, Settings::default(), &mut |_, _| {}).expect("compacted");
    }
    assert_eq!(reach_all(&reader), all);
    assert!(epochs(&dir).values().any(|epoch| *epoch == Epoch(1)));
    drop(store);
    // Killed here, the next opening and a repair find the file and its key.
    let repair = Repair::on(Arc::new(RealDisk), &dir, with(key(7)), Vec::new(), 1);
    repair.plan(&mut |_| {}).expect("planned");
    drop(reader);
    let store = Store::open(&dir, with(key(7))).expect("open");
    compact::execute(&store, Settings::default(), &mut |_, _| {}).expect("compacted");
    assert!(epochs(&dir).values().all(|epoch| *epoch == Epoch(2)));
    drop(store);
    let keys_then = std::fs::read(dir.join("KEYS")).expect("read");
    let store = Store::open(&dir, with(key(7))).expect("open");
    compact::execute(&store, Settings::default(), &mut |_, _| {}).expect("compacted");
    assert!(
        std::fs::read(dir.join("KEYS")).expect("read") == keys_then,
        "nothing is left to forget"
    );
    assert_eq!(reach_all(&store), all);
}

/// A slot that nobody can open keeps nobody from the others.
#[test]
fn a_slot_of_impossible_cost_is_passed_over() {
    let (_folder, dir, _) = scene();
    keys::add(&dir, &key(7), &passphrase("a first passphrase"), "").expect("added");
    keys::add(&dir, &key(7), &passphrase("a second passphrase"), "").expect("added");
    let mut forged = std::fs::read(dir.join("KEYS")).expect("read");
    for copy in [0, 8192] {
        forged[copy + 64 + 192 + 8..copy + 64 + 192 + 12].copy_from_slice(&[0; 4]);
        let crc = crc32fast::hash(&forged[copy..copy + 8188]);
        forged[copy + 8188..copy + 8192].copy_from_slice(&crc.to_le_bytes());
    }
    std::fs::write(dir.join("KEYS"), forged).expect("write");
    Store::open_reader(&dir, with(passphrase("a second passphrase"))).expect("opens");
    let first = Store::open_reader(&dir, with(passphrase("a first passphrase"))).err();
    assert!(matches!(first, Some(Error::WrongKey { .. })), "{first:?}");
}

/// What a rotation has not moved yet stays readable through any number of rotations and openings.
#[test]
fn several_data_keys_live_together() {
    let (_folder, dir, _) = scene();
    let mut all = BTreeSet::new();
    for round in 2..6 {
        assert_eq!(keys::rotate(&dir, &key(7)).expect("rotated"), Epoch(round));
        let store = Store::open(&dir, with(key(7))).expect("open");
        let mut random = StdRng::seed_from_u64(u64::from(round));
        let fresh = put_graph(&store, &mut random, 30, 3000);
        store.commit(|roots| _ = roots.insert(round.to_string(), fresh)).expect("commit");
        let now = reach_all(&store);
        assert!(all.is_subset(&now));
        all = now;
    }
    assert_eq!(epochs(&dir).into_values().collect::<BTreeSet<_>>().len(), 5);
    let reader = Store::open_reader(&dir, with(key(7))).expect("open");
    assert_eq!(reach_all(&reader), all);
}

#[test]
fn there_is_an_end_to_rotations_without_a_compaction() {
    let (_folder, dir, _) = scene();
    for epoch in 2..=32 {
        assert_eq!(keys::rotate(&dir, &key(7)).expect("rotated"), Epoch(epoch));
    }
    let refused = keys::rotate(&dir, &key(7)).expect_err("is refused");
    assert!(refused.to_string().contains("compact"), "{refused}");
    let store = Store::open(&dir, with(key(7))).expect("open");
    compact::execute(&store, Settings::default(), &mut |_, _| {}).expect("compacted");
    drop(store);
    assert_eq!(keys::rotate(&dir, &key(7)).expect("rotated"), Epoch(33));
}

/// Who had a secret, and a copy of `KEYS` from when it opened the store, does not open later ones after a rotation by the only secret
/// left. With another slot there, which holds the ring's key too, a rotation changes the data key alone.
#[test]
fn a_rotation_with_one_slot_shuts_out_who_had_another() {
    let (_folder, dir, marked) = scene();
    keys::add(&dir, &key(7), &key(8), "left the company").expect("added");
    let slots = |content: &[u8]| content[64..1600].to_vec();
    let read = || std::fs::read(dir.join("KEYS")).expect("read");
    let before = read();
    keys::rotate(&dir, &key(7)).expect("rotated");
    assert_eq!(slots(&read()), slots(&before));
    keys::remove(&dir, &key(7), 1).expect("removed");
    keys::rotate(&dir, &key(7)).expect("rotated");
    assert_ne!(slots(&read())[..192], slots(&before)[..192]);
    let store = Store::open(&dir, with(key(7))).expect("open");
    assert_eq!(&store.get(&marked).expect("is there").bytes[..], MARKER);
    drop(store);
    // The old slots before the new ring, as who knows the format would try.
    let mut forged = read();
    for copy in [0, 8192] {
        forged[copy + 64..copy + 1600].copy_from_slice(&slots(&before));
        let crc = crc32fast::hash(&forged[copy..copy + 8188]);
        forged[copy + 8188..copy + 8192].copy_from_slice(&crc.to_le_bytes());
    }
    std::fs::write(dir.join("KEYS"), forged).expect("write");
    let refused = Store::open(&dir, with(key(8))).err().expect("is refused");
    assert!(refused.to_string().contains("seal is broken"), "{refused}");
}

/// The same content is stored once, also after a rotation: names stay.
#[test]
fn the_same_content_is_stored_once() {
    let (_folder, dir, marked) = scene();
    keys::rotate(&dir, &key(7)).expect("rotated");
    let store = Store::open(&dir, with(key(7))).expect("open");
    assert_eq!(store.put_counted(Kind::Leaf, MARKER).expect("put"), (marked, 0));
}

/// A record of the plain form, checksums and place right, is not believed; nor is one whose stored bytes are another's.
#[test]
fn forged_records_are_found() {
    let (_folder, dir, marked) = scene();
    let path = dir.join("segments/00000001.seg");
    let whole = std::fs::read(&path).expect("read");
    let store: [u8; 16] =
        std::fs::read(dir.join("STORE")).expect("read")[32..48].try_into().unwrap();
    let at = whole.windows(32).position(|some| some == marked.as_bytes()).expect("its record") - 16;
    let sealed = |record: &mut [u8]| {
        let stored = u32::from_le_bytes(record[8..12].try_into().unwrap()) as usize;
        let crc = crc32fast::hash(&record[64..64 + stored]);
        record[48..52].copy_from_slice(&crc.to_le_bytes());
        let mut place = [&store[..], &1_u32.to_le_bytes(), &(at as u64).to_le_bytes()].concat();
        place.extend_from_slice(&record[..60]);
        let crc = crc32fast::hash(&place);
        record[60..64].copy_from_slice(&crc.to_le_bytes());
    };
    let mut unchanged = whole.clone();
    sealed(&mut unchanged[at..]);
    assert!(unchanged == whole, "the forger knows the format");

    let mut plain = whole.clone();
    plain[at + 6] = 0;
    plain[at + 64..at + 64 + MARKER.len()].copy_from_slice(MARKER);
    plain[at + 8..at + 12].copy_from_slice(&(MARKER.len() as u32).to_le_bytes());
    let mut bit = whole.clone();
    bit[at + 64 + 30] ^= 1;
    let mut kind = whole.clone();
    kind[at + 4] = Kind::Part.to_byte();
    let mut epoch = whole.clone();
    epoch[at + 64] ^= 3;
    for (what, mut forged) in [("plain", plain), ("bit", bit), ("kind", kind), ("epoch", epoch)] {
        sealed(&mut forged[at..]);
        std::fs::write(&path, forged).expect("write");
        let store = Store::open_reader(&dir, with(key(7))).expect("open");
        assert!(store.get(&marked).is_err(), "{what}");
        let report = fsck::run(&store, Level::Data, &mut |_| {}).expect("a check");
        assert!(report.findings.iter().any(|one| one.segment == Some(SegmentId(1))), "{what}");
    }
}

/// A copy of `KEYS` with a byte changed anywhere opens all the same: there are two copies in it. With both changed it is refused.
#[test]
fn damage_to_the_keys_is_told() {
    let (_folder, dir, _) = scene();
    let path = dir.join("KEYS");
    let whole = std::fs::read(&path).expect("read");
    assert_eq!(whole.len(), 16_384);
    for at in (0..8192).step_by(61).chain([8188, 8191]) {
        let mut one = whole.clone();
        one[at] ^= 1;
        std::fs::write(&path, &one).expect("write");
        Store::open_reader(&dir, with(key(7))).expect("the other copy serves");
        one[at + 8192] ^= 1;
        std::fs::write(&path, &one).expect("write");
        let refused = Store::open_reader(&dir, with(key(7))).err().expect("is refused");
        assert!(matches!(refused, Error::KeysDamaged { .. }), "byte {at}: {refused}");
    }
    let mut half = whole.clone();
    half[100] ^= 1;
    std::fs::write(&path, &half).expect("write");
    let check = || fsck::run_on(&dir, with(key(7)), Level::Quick, &mut |_| {}).expect("a check");
    let told: Vec<_> = check().findings.iter().map(|one| (one.code, one.offset)).collect();
    assert_eq!(told, [(Code::Keys, Some(0))]);
    let repair = Repair::on(Arc::new(RealDisk), &dir, with(key(7)), Vec::new(), 1);
    let outcome = repair.execute(&mut |_| {}).expect("repaired");
    assert!(outcome.foundation.is_some_and(|done| done.keys && !done.identity));
    assert_eq!(std::fs::read(&path).expect("read"), whole);
    assert_eq!(check().findings.len(), 0);
    for len in [0, 1, 8191, 8192, 16_383] {
        std::fs::write(&path, &whole[..len]).expect("write");
        let opened = Store::open_reader(&dir, with(key(7)));
        assert_eq!(opened.is_ok(), len >= 8192, "{len} bytes");
    }
}

/// Stores that are thrown away have the names and the keys of their store, and no file `KEYS`.
#[test]
fn a_scratch_store_is_encrypted_with_the_keys_of_its_store() {
    let (_folder, dir, marked) = scene();
    let store = Store::open(&dir, with(key(7))).expect("open");
    let path = store.scratch_dir().join("derived");
    let scratch = store.scratch(&path).expect("made");
    assert_eq!(scratch.put(Kind::Leaf, MARKER).expect("put"), marked);
    let many = put_graph(&scratch, &mut StdRng::seed_from_u64(3), 300, 3000);
    scratch.commit(|roots| _ = roots.insert(ROOT.to_owned(), many)).expect("commit");
    assert_eq!(reach_all(&scratch).len(), 300 + 19 + 1);
    for (path, content) in contents(&path) {
        assert!(
            !holds(&content, MARKER) && !holds(&content, ROOT.as_bytes()),
            "{}",
            path.display()
        );
    }
    assert!(!path.join("KEYS").exists());
}
