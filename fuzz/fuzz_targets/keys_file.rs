//! `KEYS` of a small encrypted store, changed, cut or filled up, its checksums made good again if the script says
//! so, or its ring sealed again as the script wants it; and records with any bytes in them, sealed or not. Opening and
//! repairing end in a store or a typed error. A store stands at a state that was committed, and each block that it gives is
//! the one that was put: all of them, unless records or the ring were touched. Another key opens nothing. Keys of another
//! time do no harm: with its own the store has all again.
#![no_main]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::keys::{COPY_BYTES, Keys, seal_copies};
use common::{ENCRYPTED, STORE, Scene, Script, copy, forge, keys_path, open, open_reader, paths};
use common::{reach, read};
use headstock::block::BlockRead as _;
use headstock::crypt::Key;
use headstock::lab::SimDisk;
use headstock::store::repair::Repair;
use headstock::store::{Options, Secret, Store};
use libfuzzer_sys::fuzz_target;

const MAX_EDITS: u8 = 4;

fuzz_target!(|data: &[u8]| {
    let scene = Scene::get(ENCRYPTED);
    let mut script = Script(data);
    let Some(flags) = script.byte() else { return };
    let disk = scene.moment(flags);
    let (forges_ring, forges_records) = (flags & 0x04 != 0, flags & 0x08 != 0);
    let before = read(&disk, &keys_path());
    let are_its_own = !forges_ring || forge_ring(scene, &disk, &mut script);
    if forges_records {
        forge_records(scene, &disk, &mut script);
    }
    let seals = flags & 0x40 != 0;
    if flags & 0x10 != 0 {
        edit_keys(&disk, &mut script, flags & 0x20 != 0, seals);
    }
    let after = read(&disk, &keys_path());
    let is_whole = |at| before.get(at..at + COPY_BYTES) == after.get(at..at + COPY_BYTES);
    // The first copy that is whole counts.
    let must_open = !forges_records && (is_whole(0) || is_whole(COPY_BYTES) && !seals);

    let other = Options { secret: Some(Arc::new(other_secret())), ..scene.options(false) };
    assert!(open(&copy(&disk), other).is_err(), "another key opens it");
    let reader = open_reader(&copy(&disk), scene.options(false));
    assert!(reader.is_ok() || !must_open, "{:?}", reader.err());
    let all = !forges_ring && !forges_records;
    if let Ok(store) = reader {
        check(scene, &store, all);
    }
    let repaired = flags & 0x80 != 0 && {
        let (on, options) = (Arc::new(disk.clone()), scene.options(false));
        Repair::on(on, Path::new(STORE), options, Vec::new(), 1).execute(&mut |_| {}).is_ok()
    };
    match open(&disk, scene.options(false)) {
        Ok(store) => check(scene, &store, all),
        Err(error) => assert!(!repaired && !must_open, "{error}"),
    }
    if are_its_own && !forges_records {
        disk.put_file(&keys_path(), Some(before));
        let store = open(&disk, scene.options(false)).expect("opens with its own keys");
        check(scene, &store, true);
    }
});

fn other_secret() -> Secret {
    Secret::Key(Key::from_slice(&[8; 32]).expect("a key"))
}

/// Changes the ring as only who has the key can. Returns whether all keys are still the store's.
fn forge_ring(scene: &Scene, disk: &SimDisk, script: &mut Script<'_>) -> bool {
    let mut file = read(disk, &keys_path());
    let mut keys = Keys::open(&file);
    for _ in 0..=script.next() % MAX_EDITS {
        forge::edit_ring(&mut keys.ring, script);
    }
    keys.write(&mut file);
    disk.put_file(&keys_path(), Some(file));
    keys.is_part_of(scene.keys.as_ref().expect("it is encrypted"))
}

fn edit_keys(disk: &SimDisk, script: &mut Script<'_>, equal: bool, seals: bool) {
    let mut file = read(disk, &keys_path());
    for _ in 0..=script.next() % MAX_EDITS {
        forge::edit_keys(&mut file, script);
    }
    if equal && file.len() >= COPY_BYTES {
        file.truncate(COPY_BYTES);
        file.extend_from_within(..);
    }
    if seals {
        seal_copies(&mut file);
    }
    disk.put_file(&keys_path(), Some(file));
}

fn forge_records(scene: &Scene, disk: &SimDisk, script: &mut Script<'_>) {
    let segments = paths(disk, "segments");
    let which = script.below(segments.len());
    let mut bytes = read(disk, &segments[which]);
    let keys = scene.keys.as_ref().expect("it is encrypted");
    for _ in 0..=script.next() % MAX_EDITS {
        forge::edit_sealed(&mut bytes, script, keys);
    }
    forge::seal_records(&mut bytes, &scene.uuid, which as u32 + 1);
    disk.put_file(&segments[which], Some(bytes));
}

fn check(scene: &Scene, store: &Store, all: bool) {
    let roots = store.roots().1;
    assert!(scene.states.contains(&roots), "a state that nobody committed: {roots:?}");
    let reached = reach(&scene.blocks, &roots);
    for (id, (kind, raw)) in &scene.blocks {
        match store.get(id) {
            Ok(block) => assert!((block.kind, &block.bytes[..]) == (*kind, &raw[..])),
            Err(error) => assert!(!all || !reached.contains(id), "{error}"),
        }
    }
}
