//! A damaged store is repaired: all that can be read stays, what another store has comes back, what is
//! lost is named, and nothing is thrown away.

mod store_common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headstock::block::{BlockId, BlockRead};
use headstock::lab::{SimDisk, Survives};
use headstock::store::fs::{Disk, RealDisk};
use headstock::store::fsck::{self, Code, Level};
use headstock::store::repair::{Outcome, Repair};
use headstock::store::{RepositorySalt, Roots, Store};
use rand::SeedableRng;
use rand::rngs::StdRng;
use store_common::{copy_dir, files, put_graph, reach_all, small};
use tempfile::TempDir;

/// A store that was closed cleanly, a copy of it, and what it holds.
struct Scene {
    _folder: TempDir,
    dir: PathBuf,
    copy: PathBuf,
    roots: Roots,
    blocks: BTreeSet<BlockId>,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("store");
        let store = Store::create(&dir, small(false)).unwrap();
        let mut random = StdRng::seed_from_u64(7);
        for round in 0..3 {
            let id = put_graph(&store, &mut random, 40, 4000);
            store.commit(|roots| _ = roots.insert(format!("job{round}"), id)).unwrap();
        }
        let (roots, blocks) = (store.roots().1, reach_all(&store));
        drop(store);
        let copy = folder.path().join("copy");
        copy_dir(&dir, &copy);
        Self { _folder: folder, dir, copy, roots, blocks }
    }

    fn repair(&self, from: &[&Path]) -> Outcome {
        let from: Vec<PathBuf> = from.iter().map(|dir| (*dir).to_owned()).collect();
        let repair = Repair::on(Arc::new(RealDisk), &self.dir, small(false), from.clone(), 1);
        let plan = repair.plan(&mut |_| {}).unwrap();
        let outcome = repair.execute(&mut |_| {}).unwrap();
        assert_eq!(plan.foundation, outcome.foundation);
        if plan.foundation.is_none() {
            assert_eq!(plan.salvage.segments, outcome.salvage.segments);
        }
        let again = Repair::on(Arc::new(RealDisk), &self.dir, small(false), from, 2);
        let plan = again.plan(&mut |_| {}).unwrap();
        assert!(plan.is_empty(), "more to repair: {plan:?}");
        outcome
    }

    /// Repaired from the copy, the store is as it was.
    fn is_whole_again(&self) -> Outcome {
        let outcome = self.repair(&[&self.copy]);
        assert_eq!(outcome.salvage.lost, []);
        let store = Store::open(&self.dir, small(false)).unwrap();
        assert_eq!(store.roots().1, self.roots);
        assert_eq!(reach_all(&store), self.blocks);
        let report = fsck::run(&store, Level::Data, &mut |_| {}).unwrap();
        assert!(report.findings.is_empty(), "{:?}", report.findings);
        outcome
    }

    /// Repaired without help, it lacks these blocks and what only they lead to, and nothing else is wrong.
    fn lacks(&self, lost: &[BlockId]) {
        let outcome = self.repair(&[]);
        assert_eq!(outcome.salvage.lost, lost);
        let store = Store::open(&self.dir, small(false)).unwrap();
        assert_eq!(store.roots().1, self.roots);
        let readable = self.blocks.iter().filter(|id| store.get(id).is_ok()).count();
        assert_eq!(readable, self.blocks.len() - lost.len());
        let report = fsck::run(&store, Level::Data, &mut |_| {}).unwrap();
        assert!(report.findings.iter().all(|one| one.code.as_str() == "HS-BLK-001"));
    }

    fn segments(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(self.dir.join("segments")).unwrap();
        let mut paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
        paths.sort();
        paths
    }
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

/// The block of the record at an offset.
fn block_at(path: &Path, at: usize) -> BlockId {
    BlockId::from_slice(&std::fs::read(path).unwrap()[at + 16..at + 48]).unwrap()
}

#[test]
fn a_damaged_record_costs_its_block_alone_or_nothing() {
    // In its header, and in what it stores.
    for at in [20, 64 + 3] {
        let scene = Scene::new();
        let path = &scene.segments()[0];
        let block = block_at(path, 4096);
        flip(path, 4096 + at);
        let damaged = std::fs::read(path).unwrap();
        scene.lacks(&[block]);
        assert!(!path.exists());
        let kept = scene.dir.join("quarantine/1").join(path.file_name().unwrap());
        assert_eq!(std::fs::read(kept).unwrap(), damaged, "what is set aside is as it was");
        let outcome = scene.is_whole_again();
        assert_eq!((outcome.salvage.found, outcome.saved_records), (vec![block], 0));
    }
}

#[test]
fn damaged_headers_and_footers_cost_nothing() {
    let scene = Scene::new();
    for path in scene.segments() {
        flip(&path, 33);
        flip(&path, std::fs::metadata(&path).unwrap().len() as usize - 100);
    }
    scene.lacks(&[]);
}

#[test]
fn lost_and_cut_segments_come_back_from_another_store() {
    let count = Scene::new().segments().len();
    assert!(count > 2);
    for lost in 0..count {
        let scene = Scene::new();
        std::fs::remove_file(&scene.segments()[lost]).unwrap();
        assert!(Store::open(&scene.dir, small(false)).is_err());
        let outcome = scene.is_whole_again();
        assert_eq!(outcome.foundation.unwrap().gone.len(), 1);
        let scene = Scene::new();
        let path = &scene.segments()[lost];
        let size = std::fs::metadata(path).unwrap().len();
        std::fs::File::options().write(true).open(path).unwrap().set_len(size / 2).unwrap();
        scene.is_whole_again();
    }
    let scene = Scene::new();
    std::fs::remove_dir_all(scene.dir.join("segments")).unwrap();
    std::fs::create_dir(scene.dir.join("segments")).unwrap();
    scene.is_whole_again();
}

#[test]
fn log_and_index_are_made_again_from_segments_alone() {
    let scene = Scene::new();
    let reset = |path: &str| std::fs::remove_dir_all(scene.dir.join(path)).unwrap();
    reset("log");
    std::fs::create_dir(scene.dir.join("log")).unwrap();
    std::fs::remove_file(scene.dir.join("HEAD")).unwrap();
    reset("index");
    flip(&scene.dir.join("STORE"), 50);
    let outcome = scene.repair(&[]);
    let foundation = outcome.foundation.unwrap();
    assert!(foundation.identity && foundation.log.is_some(), "{foundation:?}");
    scene.is_whole_again();
}

#[test]
fn a_log_that_is_damaged_in_its_middle_gives_its_newest_commit() {
    let scene = Scene::new();
    let log = std::fs::read_dir(scene.dir.join("log")).unwrap().next().unwrap().unwrap().path();
    let bytes = std::fs::read(&log).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    for at in [30, used / 2, used - 3] {
        let scene = Scene::new();
        flip(&scene.dir.join("log").join(log.file_name().unwrap()), at);
        scene.is_whole_again();
    }
    // Whole records behind the damage count, even where no copy of their commit is left.
    let scene = Scene::new();
    flip(&scene.dir.join("log").join(log.file_name().unwrap()), 30);
    for path in scene.segments().iter().skip(1) {
        let size = std::fs::metadata(path).unwrap().len();
        std::fs::File::options().write(true).open(path).unwrap().set_len(size / 2).unwrap();
    }
    scene.is_whole_again();
}

#[test]
fn both_slots_of_head_can_go() {
    for damage in [vec![0; 8192], vec![0xa5; 8192], vec![1; 5000], Vec::new()] {
        let scene = Scene::new();
        std::fs::write(scene.dir.join("HEAD"), damage).unwrap();
        scene.is_whole_again();
    }
}

#[test]
fn head_can_be_cut_anywhere() {
    for bytes in [100, 128, 1000, 4095, 4096, 5000, 8191] {
        let scene = Scene::new();
        let head = std::fs::File::options().write(true).open(scene.dir.join("HEAD")).unwrap();
        head.set_len(bytes).unwrap();
        scene.is_whole_again();
    }
}

#[test]
fn a_store_in_use_is_not_repaired() {
    let scene = Scene::new();
    let _store = Store::open(&scene.dir, small(false)).unwrap();
    let error = Repair::new(&scene.dir, Vec::new(), 1).execute(&mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("in use by another process"), "{error}");
}

/// A damaged store on a disk whose power can be cut.
fn damaged_disk(scene: &Scene) -> SimDisk {
    let disk = SimDisk::new(&scene.dir);
    for name in ["segments", "log", "index", "readers", "scratch"] {
        disk.create_dir(&scene.dir.join(name)).unwrap();
    }
    disk.sync_dir(&scene.dir).unwrap();
    let mut paths = Vec::new();
    files(&scene.dir, &mut paths);
    for path in paths {
        let mut content = std::fs::read(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        match name {
            "HEAD" => content.fill(0x5a),
            "00000001.seg" => content[4096 + 64 + 3] ^= 1,
            "00000002.seg" => continue,
            _ => {}
        }
        disk.put_file(&path, Some(content));
    }
    disk
}

/// Wherever the power goes, another repair makes the store whole, whatever of the un-synced survived.
#[test]
fn a_repair_that_is_cut_off_is_taken_up_again() {
    let scene = Scene::new();
    let repair = |disk: &SimDisk, time| {
        let (disk, from) = (Arc::new(disk.clone()), vec![scene.copy.clone()]);
        Repair::on(disk, &scene.dir, small(false), from, time).execute(&mut |_| {})
    };
    let whole = damaged_disk(&scene);
    repair(&whole, 1).unwrap();
    let made = damaged_disk(&scene).operations();
    let operations = whole.operations() - made;
    println!("{operations} operations");
    assert!(operations > 50);
    for at in 0..operations {
        for survives in [Survives::Nothing, Survives::Whole] {
            let disk = damaged_disk(&scene);
            disk.cut_after(made + at);
            _ = repair(&disk, 1);
            let disk = disk.restarted(|_| survives);
            let outcome = repair(&disk, 2).unwrap_or_else(|error| panic!("cut at {at}: {error}"));
            assert_eq!(outcome.salvage.lost, [], "cut at {at}");
            let store = Store::open_on(Arc::new(disk.clone()), &scene.dir, small(false)).unwrap();
            assert_eq!(store.roots().1, scene.roots, "cut at {at}");
            assert_eq!(reach_all(&store), scene.blocks, "cut at {at}");
            let report = fsck::run(&store, Level::Data, &mut |_| {}).unwrap();
            assert!(report.findings.is_empty(), "cut at {at}: {:?}", report.findings);
        }
    }
}

/// A sector that cannot be read any more costs the blocks that stand in it: what is around it, the rest of its
/// segment included, is told apart and saved.
#[test]
fn a_bad_sector_costs_the_blocks_in_it() {
    let (disk, store) = (SimDisk::new(Path::new("/disk")), Path::new("/disk/store"));
    let on = |disk: &SimDisk| -> Arc<dyn Disk> { Arc::new(disk.clone()) };
    let salt = RepositorySalt([3; 32]);
    let whole = Store::create_on(on(&disk), store, small(false), salt).expect("create");
    let mut random = StdRng::seed_from_u64(9);
    for name in 0..4 {
        let id = put_graph(&whole, &mut random, 40, 4000);
        whole.commit(|roots| _ = roots.insert(name.to_string(), id)).expect("commit");
    }
    let all = reach_all(&whole);
    drop(whole);
    drop(Store::open_on(on(&disk), store, small(false)).expect("the last segment is sealed"));
    let segments = |(path, _): &(PathBuf, Vec<u8>)| path.extension().is_some_and(|e| e == "seg");
    let segments: Vec<_> = disk.files().into_iter().filter(segments).collect();
    let (mut spoilt, mut lost_in_all) = (0, 0);
    for (path, content) in &segments {
        for at in (4096..content.len() as u64).step_by(7 * 512) {
            let disk = disk.restarted(|_| Survives::Whole);
            disk.spoil(path, at);
            let opened = Store::open_on(on(&disk), store, small(false)).expect("open");
            let report = fsck::run(&opened, Level::Data, &mut |_| {}).expect("a check");
            let told = |one: &fsck::Finding| one.code == Code::Unreadable && one.segment.is_some();
            assert!(report.findings.iter().any(told), "{path:?} {at}: {:?}", report.findings);
            drop(opened);
            let repair = Repair::on(on(&disk), store, small(false), Vec::new(), 1);
            let outcome = repair
                .execute(&mut |_| {})
                .unwrap_or_else(|error| panic!("{path:?} {at} of {}: {error}", content.len()));
            let lost: BTreeSet<BlockId> = outcome.salvage.lost.into_iter().collect();
            let opened = Store::open_on(on(&disk), store, small(false)).expect("open");
            let gone = all.iter().filter(|id| opened.get(id).is_err()).count();
            // Of records of at least 64 bytes, a sector has a part of nine.
            assert!(gone <= 9 && lost.iter().all(|id| all.contains(id)), "{path:?} {at}: {gone}");
            (spoilt, lost_in_all) = (spoilt + 1, lost_in_all + gone);
        }
    }
    assert!(spoilt > 50 && lost_in_all > spoilt / 2, "{lost_in_all} blocks in {spoilt} sectors");
}
