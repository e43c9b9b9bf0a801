//! A full disk: what is there stays, and there is always room to give space back.

mod store_common;

use std::path::Path;
use std::sync::Arc;

use headstock::block::BlockWrite as _;
use headstock::lab::{SimDisk, Survives};
use headstock::store::compact::{self, Settings};
use headstock::store::fsck::{self, Level};
use headstock::store::{Error, RepositorySalt, Store};
use rand::SeedableRng;
use rand::rngs::StdRng;
use store_common::{reach_all, small, try_put_graph};

/// Where the store is.
const STORE: &str = "/disk/store";
/// Bytes kept back by a store of small segments, about.
const RESERVE_BYTES: u64 = 2_400_000;

/// A short form for every day, and a long one.
fn rounds(short: u64, long: u64) -> std::ops::Range<u64> {
    0..if std::env::var_os("HEADSTOCK_LONG").is_some() { long } else { short }
}

fn created(disk: &SimDisk) -> Store {
    let salt = RepositorySalt([4; 32]);
    Store::create_on(Arc::new(disk.clone()), Path::new(STORE), small(true), salt).expect("create")
}

fn opened(disk: &SimDisk) -> Store {
    let opened = Store::open_on(Arc::new(disk.clone()), Path::new(STORE), small(false));
    opened.expect("a full disk can be opened")
}

/// Puts a graph and commits it under a name.
fn add(store: &Store, random: &mut StdRng, name: &str) -> Result<(), Error> {
    let id = try_put_graph(store, random, 12, 3000)?;
    store.commit(|roots| _ = roots.insert(name.to_owned(), id)).map(drop)
}

/// A store of so many graphs, named by numbers.
fn filled(disk: &SimDisk, graphs: u64) -> Store {
    let store = created(disk);
    let mut random = StdRng::seed_from_u64(100 + graphs);
    for name in 0..graphs {
        add(&store, &mut random, &name.to_string()).expect("there is space");
    }
    store
}

/// Deletes every other root, as deletions of a job do: a block is put, then the roots change.
fn delete_half(store: &Store) -> Result<usize, Error> {
    let store = store.reclaiming();
    let names: Vec<String> = store.roots().1.into_keys().step_by(2).collect();
    store.put(headstock::block::Kind::Leaf, b"what is left")?;
    store.commit(|roots| roots.retain(|name, _| !names.contains(name)))?;
    Ok(names.len())
}

fn compact(store: &Store) -> Result<(), Error> {
    compact::execute(store, Settings::thorough(), &mut |_, _| {}).map(drop)
}

/// Adds until the disk is full.
fn fill(store: &Store, random: &mut StdRng, prefix: &str) -> Error {
    (0..)
        .find_map(|number| add(store, random, &format!("{prefix} {number}")).err())
        .expect("an end of the disk")
}

fn sound(store: &Store) {
    let report = fsck::run(store, Level::Data, &mut |_| {}).expect("fsck");
    assert!(report.is_sound(), "{:?}", report.findings);
}

#[test]
fn a_store_that_filled_its_disk_gives_space_back_and_goes_on() {
    for round in rounds(8, 40) {
        let disk = SimDisk::new(Path::new("/disk"));
        let mut store = created(&disk);
        disk.set_capacity(Some(3_000_000 + RESERVE_BYTES + 7_001 * round));
        let mut random = StdRng::seed_from_u64(round);
        for cycle in 0..3 {
            let error = fill(&store, &mut random, &cycle.to_string());
            assert!(error.to_string().contains("full"), "{error}");
            assert!(store.is_full());
            let reserve = disk.files()[Path::new("/disk/store/RESERVE")].len() as u64;
            assert!(reserve > RESERVE_BYTES * 9 / 10, "{reserve} bytes: data took of it");
            let all = reach_all(&store);
            if (round + cycle) % 2 == 0 {
                drop(store);
                store = opened(&disk);
            }
            assert_eq!(reach_all(&store), all);
            let before = store.stats().stored_bytes;
            assert!(delete_half(&store).expect("there is room to delete") > 1);
            let kept = reach_all(&store);
            compact(&store).expect("there is room to compact");
            let after = store.stats().stored_bytes;
            assert!(after * 4 < before * 3, "{before} bytes became {after}");
            add(&store, &mut random, &format!("after {cycle}")).expect("there is space again");
            assert!(!store.is_full(), "{round}, {cycle}");
            assert!(reach_all(&store).is_superset(&kept));
            sound(&store);
        }
    }
}

#[test]
fn a_disk_that_others_fill_to_the_last_byte_has_room_to_give_space_back() {
    for round in rounds(20, 60) {
        let disk = SimDisk::new(Path::new("/disk"));
        let mut store = filled(&disk, round + 1);
        disk.set_capacity(Some(disk.used()));
        if round % 2 == 0 {
            drop(store);
            store = opened(&disk);
        }
        let deleted = delete_half(&store).expect("there is room to delete");
        assert_eq!(deleted as u64, round / 2 + 1);
        let (kept, before) = (reach_all(&store), store.stats().stored_bytes);
        compact(&store).expect("there is room to compact");
        assert_eq!(reach_all(&store), kept);
        let after = store.stats().stored_bytes;
        assert!(round < 10 || after * 4 < before * 3, "{round}: {before} bytes became {after}");
        drop(store);
        let store = opened(&disk);
        assert_eq!(reach_all(&store), kept);
        sound(&store);
    }
}

/// What nobody needs is removed before anything is copied.
#[test]
fn dead_segments_go_without_a_reserve() {
    let disk = SimDisk::new(Path::new("/disk"));
    let store = filled(&disk, 40);
    let before = store.stats().stored_bytes;
    let is_kept = |name: &str| name.parse::<u32>().is_ok_and(|name| name % 2 == 0 && name > 20);
    store.commit(|roots| roots.retain(|name, _| is_kept(name))).expect("the log has room");
    let kept = reach_all(&store);
    disk.put_file(Path::new("/disk/store/RESERVE"), None);
    disk.set_capacity(Some(disk.used()));
    compact(&store).expect("there is room to compact");
    let after = store.stats().stored_bytes;
    assert!(after * 2 < before, "{before} bytes became {after}");
    assert_eq!(reach_all(&store), kept);
    sound(&store);
}

/// Runs of the index are a cache: where there is no space to make them again, a store opens without.
#[test]
fn an_opening_needs_no_space_for_the_index() {
    let disk = SimDisk::new(Path::new("/disk"));
    let store = filled(&disk, 40);
    let all = reach_all(&store);
    drop(store);
    let is = |path: &Path, what: &str| path.extension().is_some_and(|name| name == what);
    let runs: Vec<_> = disk.files().into_keys().filter(|path| is(path, "run")).collect();
    assert!(!runs.is_empty());
    runs.iter().for_each(|path| disk.put_file(path, None));
    disk.put_file(Path::new("/disk/store/RESERVE"), None);
    disk.set_capacity(Some(disk.used()));
    let store = opened(&disk);
    assert_eq!(reach_all(&store), all);
    assert!(store.stats().index_runs > 3, "they are not merged");
    assert!(!disk.files().keys().any(|path| is(path, "new")));
    disk.set_capacity(None);
    drop(store);
    assert_eq!(opened(&disk).stats().index_runs, 1, "they are merged");
}

/// The power goes while space is given back, after every operation.
#[test]
fn a_cut_while_space_is_given_back_loses_nothing_and_it_is_given_back_later() {
    let full = SimDisk::new(Path::new("/disk"));
    let store = created(&full);
    let capacity = 1_600_000 + RESERVE_BYTES;
    full.set_capacity(Some(capacity));
    fill(&store, &mut StdRng::seed_from_u64(7), "full");
    let (before, all) = (store.roots().1, reach_all(&store));
    drop(store);
    let mut half = before.clone();
    half.retain(|name, _| !before.keys().step_by(2).any(|gone| gone == name));
    for cut in 0.. {
        let disk = full.restarted(|_| Survives::Whole);
        disk.set_capacity(Some(capacity));
        disk.cut_after(cut);
        let on = Arc::new(disk.clone());
        let outcome = Store::open_on(on, Path::new(STORE), small(true))
            .and_then(|store| delete_half(&store).and_then(|_| compact(&store)));
        for survives in [Survives::Nothing, Survives::Whole] {
            let disk = disk.restarted(|_| survives);
            // What comes back with its name may be more than there was space for.
            disk.set_capacity(Some(capacity.max(disk.used())));
            let store = opened(&disk);
            let roots = store.roots().1;
            assert!(roots == before || roots == half, "cut {cut}: {roots:?}");
            assert!(outcome.is_err() || roots == half, "cut {cut}: {outcome:?}");
            let kept = reach_all(&store);
            assert!(kept.is_subset(&all));
            sound(&store);
            if roots == before {
                delete_half(&store).expect("there is room to delete");
            }
            compact(&store).expect("there is room to compact");
            assert_eq!(store.roots().1, half);
            assert!(reach_all(&store).is_subset(&kept));
            store.put(headstock::block::Kind::Leaf, b"more").expect("there is space again");
            assert!(!store.is_full(), "cut {cut}, {survives:?}");
        }
        if outcome.is_ok() {
            assert!(cut > 30, "{cut} operations");
            break;
        }
    }
}
