//! A small store with files that are changed, cut, filled up or gone, checksums of records made good again if
//! the script says so. Repair ends in an outcome or a typed error. What it then left is a store of blocks
//! that the old one had, at a state that was committed (or at none), with nothing more to repair; what a
//! check of it finds is exactly what repair said to be lost.
#![no_main]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{STORE, Scene, Script, dictionary, forge, open, paths, read};
use headstock::block::{BlockId, BlockRead as _, Kind};
use headstock::lab::SimDisk;
use headstock::store::Store;
use headstock::store::fsck::{self, Code, Level};
use headstock::store::repair::Repair;
use libfuzzer_sys::fuzz_target;

const MAX_FILES: u8 = 4;
const MAX_EDITS: u8 = 4;

fuzz_target!(|data: &[u8]| {
    let mut script = Script(data);
    let Some(flags) = script.byte() else { return };
    let scene = Scene::get(flags);
    let disk = scene.moment(flags);
    let seals_records = flags & 0x04 != 0;
    let (before, log_before) = (segments(&disk), log(&disk));
    for _ in 0..=script.next() % MAX_FILES {
        damage(scene, &disk, &mut script, seals_records);
    }
    let untouched = untouched(&before, &segments(&disk));
    // Behind what the log names, a segment is cut at the first record that is not whole.
    let names_all = flags % 3 < 2 && log(&disk) == log_before;
    let repair = |now_ms| {
        let (store, options) = (Path::new(STORE), scene.options(false));
        Repair::on(Arc::new(disk.clone()), store, options, Vec::new(), now_ms)
    };
    let plan = repair(1).plan(&mut |_| {});
    let Ok(outcome) = repair(1).execute(&mut |_| {}) else { return };
    if let Ok(plan) = plan {
        assert_eq!(plan.foundation, outcome.foundation, "another foundation than planned");
    }
    let again = repair(2).plan(&mut |_| {}).expect("what was repaired can be looked at");
    assert!(again.is_empty(), "more to repair: {again:?}");
    let store = open(&disk, scene.options(false)).expect("what was repaired opens");
    let roots = store.roots().1;
    assert!(scene.states.contains(&roots), "a state that nobody committed: {roots:?}");
    check_names(scene, &disk, &store);
    let report = fsck::run(&store, Level::Data, &mut |_| {}).expect("is checked");
    let lost: BTreeSet<BlockId> = outcome.salvage.lost.iter().copied().collect();
    let missing: Option<BTreeSet<BlockId>> = report
        .findings
        .iter()
        .map(|finding| finding.block.filter(|_| finding.code == Code::BlockMissing))
        .collect();
    let may_lack = seals_records || !names_all;
    assert!(may_lack || lost.is_disjoint(&untouched), "lost, and yet it was whole");
    assert_eq!(missing, Some(lost), "{:?}", report.findings);
});

/// The slots and the log.
fn log(disk: &SimDisk) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = disk.files();
    files.retain(|path, _| {
        path.ends_with("HEAD") || path.parent().is_some_and(|dir| dir.ends_with("log"))
    });
    files
}

fn segments(disk: &SimDisk) -> BTreeMap<PathBuf, Vec<u8>> {
    paths(disk, "segments").into_iter().map(|path| (path.clone(), read(disk, &path))).collect()
}

/// The blocks whose record is as it was.
fn untouched(
    before: &BTreeMap<PathBuf, Vec<u8>>,
    after: &BTreeMap<PathBuf, Vec<u8>>,
) -> BTreeSet<BlockId> {
    let both = before.iter().filter_map(|(path, before)| Some((before, after.get(path)?)));
    let whole = both.flat_map(|(before, after)| {
        let records = forge::records(before).into_iter();
        let same = records.filter(|(from, to)| after.get(*from..*to) == before.get(*from..*to));
        same.filter_map(|(from, _)| BlockId::from_slice(&before[from + 16..from + 48]))
    });
    whole.collect()
}

/// Damages one file of the store.
fn damage(scene: &Scene, disk: &SimDisk, script: &mut Script<'_>, seals_records: bool) {
    let segments = paths(disk, "segments");
    let top = ["STORE", "HEAD", "KEYS"].map(|name| Path::new(STORE).join(name));
    let small = [paths(disk, "log"), paths(disk, "index"), top.to_vec()].concat();
    let is_segment = script.next() % 4 != 0;
    let all: &[PathBuf] = if is_segment { &segments } else { &small };
    let present: Vec<_> = disk.files().into_keys().collect();
    let Some(path) = all.get(script.below(all.len())).filter(|path| present.contains(path)) else {
        return;
    };
    let mut bytes = read(disk, path);
    if script.next() % 16 == 0 {
        return disk.put_file(path, None);
    }
    for _ in 0..=script.next() % MAX_EDITS {
        if is_segment {
            forge::edit_segment(&mut bytes, script);
        } else {
            let near = script.below(8192);
            forge::edit_anywhere(&mut bytes, script, near);
        }
    }
    if is_segment && seals_records {
        let number = path.file_stem().and_then(|stem| u32::from_str_radix(stem.to_str()?, 16).ok());
        forge::seal_records(&mut bytes, &scene.uuid, number.expect("is a number"));
    }
    disk.put_file(path, Some(bytes));
}

/// Whatever the files of the store name and it gives was there before, or tells of a commit.
fn check_names(scene: &Scene, disk: &SimDisk, store: &Store) {
    for path in paths(disk, "segments") {
        let bytes = read(disk, &path);
        for (start, _) in forge::records(&bytes) {
            let id = BlockId::from_slice(&bytes[start + 16..start + 48]).expect("a name");
            let Ok(block) = store.get(&id) else { continue };
            let known = [scene.name(Kind::Dictionary, &dictionary())];
            let is_known = scene.blocks.contains_key(&id) || known.contains(&id);
            let is_known = is_known || block.kind == Kind::Commit;
            assert!(is_known, "{id} is invented");
        }
    }
}
