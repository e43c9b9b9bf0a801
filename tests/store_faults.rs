//! A disk that fails: full at an allocation, or unable to make durable. What was acknowledged stays.

mod store_common;

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use headstock::block::{BlockRead, BlockWrite, Kind};
use headstock::lab::{Fault, SimDisk};
use headstock::store::fs::Operation;
use headstock::store::fsck::{self, Level};
use headstock::store::{Error, RepositorySalt, Store};
use rand::SeedableRng;
use rand::rngs::StdRng;
use store_common::{content, put_graph, reach_all, small};

/// Where the store is.
const STORE: &str = "/disk/store";

/// A store with one commit on a disk that fails from the `after`-th operation from now on.
fn failing_store(operation: Operation, kind: ErrorKind, after: u64) -> (Store, SimDisk) {
    let disk = SimDisk::new(Path::new("/disk"));
    let salt = RepositorySalt([3; 32]);
    let on = Arc::new(disk.clone());
    let store = Store::create_on(on, Path::new(STORE), small(true), salt).unwrap();
    let id = put_graph(&store, &mut StdRng::seed_from_u64(41), 20, 2000);
    store.commit(|roots| _ = roots.insert("first".into(), id)).unwrap();
    disk.fail(&[Fault { operation, after, times: u64::MAX, kind }]);
    (store, disk)
}

fn reopened(disk: &SimDisk, mmap: bool) -> Store {
    Store::open_on(Arc::new(disk.clone()), Path::new(STORE), small(mmap)).unwrap()
}

/// Puts and commits until something fails.
fn until_it_fails(store: &Store, random: &mut StdRng) -> Error {
    loop {
        for _ in 0..20 {
            if let Err(headstock::block::Error::Backend(error)) =
                store.put(Kind::Leaf, &content(random, 5000))
            {
                return *error.downcast().unwrap();
            }
        }
        let id = store.put(Kind::Links, &[5, 0, 0, 0, 0]);
        let committed = id
            .map_err(Error::from)
            .and_then(|id| store.commit(|roots| _ = roots.insert("more".into(), id)));
        if let Err(error) = committed {
            return match error {
                Error::Block(headstock::block::Error::Backend(error)) => *error.downcast().unwrap(),
                error => error,
            };
        }
    }
}

#[test]
fn a_full_disk_is_told_and_costs_nothing() {
    for after in 0..6 {
        let (store, disk) = failing_store(Operation::Allocate, ErrorKind::StorageFull, after);
        let mut random = StdRng::seed_from_u64(42);
        let error = until_it_fails(&store, &mut random);
        assert!(matches!(error, Error::Full(_)), "{error}");
        let before = reach_all(&store);
        assert!(before.len() > 20);
        // With space, the same store goes on.
        disk.fail(&[]);
        let id = put_graph(&store, &mut random, 100, 3000);
        store.commit(|roots| _ = roots.insert("after".into(), id)).unwrap();
        let all = reach_all(&store);
        drop(store);
        let store = reopened(&disk, false);
        assert_eq!(reach_all(&store), all);
        assert!(fsck::run(&store, Level::Data, &mut |_| {}).unwrap().findings.is_empty());
    }
}

#[test]
fn a_failed_write_or_sync_latches_the_store() {
    for fails in [Operation::Sync, Operation::Write] {
        for after in 0..8 {
            let (store, disk) = failing_store(fails, ErrorKind::Other, after);
            let mut random = StdRng::seed_from_u64(43);
            let error = until_it_fails(&store, &mut random);
            assert!(matches!(error, Error::Io(_) | Error::Latched { .. }), "{error}");
            let (seq, roots) = store.roots();
            // The disk is well again, the store stays latched: nobody knows what was written.
            disk.fail(&[]);
            assert!(matches!(store.commit(|_| {}), Err(Error::Latched { .. })));
            assert!(store.put(Kind::Leaf, b"more").is_err());
            let first = roots["first"];
            assert!(store.get(&first).is_ok(), "reading goes on");
            drop(store);
            let store = reopened(&disk, true);
            assert!(store.roots().0 >= seq && store.roots().1["first"] == first);
            assert!(fsck::run(&store, Level::Data, &mut |_| {}).unwrap().is_sound());
            store.put(Kind::Leaf, b"more").unwrap();
            store.commit(|_| {}).unwrap();
        }
    }
}

/// A log that ends in something torn is written anew by an opening; if the disk fails meanwhile, the opening
/// fails or goes on with the log as it is, and nothing is lost.
#[test]
fn a_disk_that_fails_while_a_torn_log_is_replaced_loses_nothing() {
    let mut opened = 0;
    for operation in [Operation::Create, Operation::Allocate, Operation::Write, Operation::Sync] {
        for after in 0..8 {
            let (store, disk) = failing_store(operation, ErrorKind::StorageFull, u64::MAX);
            let id = store.roots().1["first"];
            let (roots, all) = (store.roots().1, reach_all(&store));
            drop(store);
            tear_log(&disk);
            let (kind, times) = (ErrorKind::StorageFull, u64::MAX);
            disk.fail(&[Fault { operation, after, times, kind }]);
            if let Ok(store) =
                Store::open_on(Arc::new(disk.clone()), Path::new(STORE), small(false))
            {
                opened += 1;
                assert_eq!(store.roots().1, roots);
                // As long as the disk is full, commits fail and may be tried again.
                for _ in 0..3 {
                    _ = store.commit(|roots| _ = roots.insert("more".into(), id));
                }
            }
            disk.fail(&[]);
            let store = reopened(&disk, false);
            assert_eq!(store.roots().1.get("first"), Some(&id), "{operation} after {after}");
            assert_eq!(reach_all(&store), all);
            assert!(fsck::run(&store, Level::Data, &mut |_| {}).unwrap().findings.is_empty());
        }
    }
    assert!(opened > 8, "{opened} openings on a failing disk");
}

/// Puts something behind the last record of the log that is none.
fn tear_log(disk: &SimDisk) {
    for (path, mut content) in disk.files() {
        if path.extension().is_some_and(|name| name == "log") {
            let end = content.iter().rposition(|byte| *byte != 0).unwrap() + 1;
            content[end.next_multiple_of(8) + 8] = 0x77;
            disk.put_file(&path, Some(content));
        }
    }
}
