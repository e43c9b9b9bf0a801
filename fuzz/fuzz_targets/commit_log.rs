//! The log and `HEAD` of a small store, changed, cut or filled up, their checksums made good again if the
//! script says so. Opening ends in a store or a typed error. Without forged checksums the store stands at a
//! state that was committed, all of which it gives. With them it may stand at any, and yet what it then
//! acknowledges is there after another opening, also behind the last of all numbers of commits, slots,
//! logs and segments. Who forges has no keys: an encrypted store stands at a state that was committed all the same.
#![no_main]

mod common;

use std::path::Path;

use common::{STORE, Scene, Script, check_reach, copy, forge, log_path, open, open_reader, read};
use headstock::block::{BlockRead as _, BlockWrite as _, Kind};
use headstock::lab::SimDisk;
use headstock::store::fsck::{self, Level};
use headstock::store::{Store, compact};
use libfuzzer_sys::fuzz_target;

const MAX_EDITS: u8 = 6;
/// What a log file has behind its records: most of its zeros are left out.
const ZEROS: usize = 4096;

fuzz_target!(|data: &[u8]| {
    let mut script = Script(data);
    let Some(flags) = script.byte() else { return };
    let scene = Scene::get(flags);
    let disk = scene.moment(flags);
    let is_forged = flags & 0x04 != 0;
    damage(scene, &disk, &mut script, is_forged);

    // A reader tries for a while to read a log that it cannot.
    let before = copy(&disk);
    let Ok(store) = open(&disk, scene.options(false)) else { return };
    if let Ok(reader) = open_reader(&before, scene.options(false)) {
        check(scene, &reader, is_forged);
    }
    check(scene, &store, is_forged);
    go_on(scene, &disk, store, (is_forged, flags & 0x08 != 0));
});

/// Changes log and slots.
fn damage(scene: &Scene, disk: &SimDisk, script: &mut Script<'_>, is_forged: bool) {
    let (log_path, head_path) = (log_path(disk), Path::new(STORE).join("HEAD"));
    let (mut log, mut head) = (read(disk, &log_path), read(disk, &head_path));
    let end = forge::commits(&log).last().expect("has commits").1;
    log.truncate(end + ZEROS);
    for _ in 0..=script.next() % MAX_EDITS {
        if script.next() % 4 == 0 {
            forge::edit_slots(&mut head, script);
        } else {
            forge::edit_log(&mut log, script);
        }
    }
    let mut path = log_path.clone();
    if is_forged {
        let (at, number) = forge::newest_slot(&head);
        let first = forge::seal_log(&mut log, &scene.uuid, number);
        forge::seal_slots(&mut head, at, &first);
        path = path.with_file_name(format!("{number:016x}.log"));
    }
    disk.put_file(&log_path, None);
    disk.put_file(&path, Some(log));
    disk.put_file(&head_path, Some(head));
}

/// Looks at all of a store that was opened.
fn check(scene: &Scene, store: &Store, is_forged: bool) {
    let roots = store.roots().1;
    if !is_forged || scene.keys.is_some() {
        assert!(scene.states.contains(&roots), "a state that nobody committed: {roots:?}");
        check_reach(store, &scene.blocks);
    }
    let _ = store.stats();
    let _ = fsck::run(store, Level::Graph, &mut |_| {});
    let _ = compact::plan(store, compact::Settings::thorough());
}

/// Commits, compacts if that is wanted, and opens again.
fn go_on(scene: &Scene, disk: &SimDisk, store: Store, (is_forged, compacts): (bool, bool)) {
    let put = store.put(Kind::Links, &common::links(&[]));
    let committed = put
        .as_ref()
        .is_ok_and(|id| store.commit(|roots| _ = roots.insert("fresh".to_owned(), *id)).is_ok());
    assert!(committed || is_forged, "a store that opened takes nothing: {put:?}");
    let Some(id) = put.ok().filter(|_| committed) else { return };
    if compacts {
        let _ = compact::execute(&store, compact::Settings::thorough(), &mut |_, _| {});
    }
    let (seq, roots) = store.roots();
    assert_eq!(roots.get("fresh"), Some(&id));
    drop(store);
    let store = open(disk, scene.options(false)).expect("what was acknowledged opens");
    assert_eq!(store.roots(), (seq, roots), "another commit than the one acknowledged");
    store.get(&id).expect("what was acknowledged can be read");
}
