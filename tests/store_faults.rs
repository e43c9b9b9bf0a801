//! A disk that fails: full at an allocation, or unable to make durable. What was acknowledged stays.

mod store_common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use headstock::block::{BlockRead, BlockWrite, Kind};
use headstock::store::fs::{Access, Disk, File, FsError, Operation, RealDisk};
use headstock::store::fsck::{self, Level};
use headstock::store::{Error, Map, RepositorySalt, Store};
use rand::SeedableRng;
use rand::rngs::StdRng;
use store_common::{content, put_graph, reach_all, small};

/// The real disk, one kind of operation of which fails once a countdown is over.
#[derive(Debug)]
struct Faults {
    fails: Operation,
    /// Operations of that kind until they fail; negative: they fail.
    left: AtomicI64,
}

impl Faults {
    fn check(&self, operation: Operation, path: &Path) -> Result<(), FsError> {
        if operation != self.fails || self.left.fetch_sub(1, Ordering::SeqCst) > 0 {
            return Ok(());
        }
        let kind = match operation {
            Operation::Allocate => std::io::ErrorKind::StorageFull,
            _ => std::io::ErrorKind::Other,
        };
        Err(FsError { operation, path: path.to_owned(), source: kind.into() })
    }
}

#[derive(Debug, Clone)]
struct FaultyDisk(Arc<Faults>);

#[derive(Debug)]
struct FaultyFile(Arc<dyn File>, Arc<Faults>);

impl FaultyDisk {
    fn wrap(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(FaultyFile(file, Arc::clone(&self.0)))
    }
}

impl Disk for FaultyDisk {
    fn create(&self, path: &Path) -> Result<Arc<dyn File>, FsError> {
        Ok(self.wrap(RealDisk.create(path)?))
    }
    fn open(&self, path: &Path, access: Access) -> Result<Arc<dyn File>, FsError> {
        Ok(self.wrap(RealDisk.open(path, access)?))
    }
    fn rename(&self, from: &Path, to: &Path) -> Result<(), FsError> {
        RealDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> Result<(), FsError> {
        RealDisk.remove(path)
    }
    fn remove_tree(&self, path: &Path) -> Result<(), FsError> {
        RealDisk.remove_tree(path)
    }
    fn list(&self, directory: &Path) -> Result<Vec<String>, FsError> {
        RealDisk.list(directory)
    }
    fn create_dir(&self, directory: &Path) -> Result<(), FsError> {
        RealDisk.create_dir(directory)
    }
    fn sync_dir(&self, directory: &Path) -> Result<(), FsError> {
        RealDisk.sync_dir(directory)
    }
}

impl File for FaultyFile {
    fn path(&self) -> &Path {
        self.0.path()
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), FsError> {
        self.0.read_at(offset, buffer)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), FsError> {
        self.1.check(Operation::Write, self.path())?;
        self.0.write_at(offset, bytes)
    }
    fn size(&self) -> Result<u64, FsError> {
        self.0.size()
    }
    fn set_size(&self, bytes: u64) -> Result<(), FsError> {
        self.0.set_size(bytes)
    }
    fn allocate(&self, bytes: u64) -> Result<(), FsError> {
        self.1.check(Operation::Allocate, self.path())?;
        self.0.allocate(bytes)
    }
    fn sync(&self) -> Result<(), FsError> {
        self.1.check(Operation::Sync, self.path())?;
        self.0.sync()
    }
    fn try_lock(&self) -> Result<bool, FsError> {
        self.0.try_lock()
    }
    fn map(&self, bytes: u64) -> Result<Map, FsError> {
        self.0.map(bytes)
    }
}

/// A store with one commit on a disk that fails at the `after`-th operation from now.
fn failing_store(dir: &Path, fails: Operation, after: i64) -> (Store, Arc<Faults>) {
    let faults = Arc::new(Faults { fails, left: AtomicI64::new(i64::MAX) });
    let disk = Arc::new(FaultyDisk(Arc::clone(&faults)));
    let store = Store::create_on(disk, dir, small(true), RepositorySalt([3; 32])).unwrap();
    let id = put_graph(&store, &mut StdRng::seed_from_u64(41), 20, 2000);
    store.commit(|roots| _ = roots.insert("first".into(), id)).unwrap();
    faults.left.store(after, Ordering::SeqCst);
    (store, faults)
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
        let dir = tempfile::tempdir().unwrap();
        let (store, faults) = failing_store(dir.path(), Operation::Allocate, after);
        let mut random = StdRng::seed_from_u64(42);
        let error = until_it_fails(&store, &mut random);
        assert!(matches!(error, Error::Full(_)), "{error}");
        let before = reach_all(&store);
        assert!(before.len() > 20);
        // With space, the same store goes on.
        faults.left.store(i64::MAX, Ordering::SeqCst);
        let id = put_graph(&store, &mut random, 100, 3000);
        store.commit(|roots| _ = roots.insert("after".into(), id)).unwrap();
        let all = reach_all(&store);
        drop(store);
        let store = Store::open(dir.path(), small(false)).unwrap();
        assert_eq!(reach_all(&store), all);
        assert!(fsck::run(&store, Level::Data, &mut |_| {}).unwrap().findings.is_empty());
    }
}

#[test]
fn a_failed_write_or_sync_latches_the_store() {
    for fails in [Operation::Sync, Operation::Write] {
        for after in 0..8 {
            let dir = tempfile::tempdir().unwrap();
            let (store, faults) = failing_store(dir.path(), fails, after);
            let mut random = StdRng::seed_from_u64(43);
            let error = until_it_fails(&store, &mut random);
            assert!(matches!(error, Error::Io(_) | Error::Latched { .. }), "{error}");
            let (seq, roots) = store.roots();
            // The disk is well again, the store stays latched: nobody knows what was written.
            faults.left.store(i64::MAX, Ordering::SeqCst);
            assert!(matches!(store.commit(|_| {}), Err(Error::Latched { .. })));
            assert!(store.put(Kind::Leaf, b"more").is_err());
            let first = roots["first"];
            assert!(store.get(&first).is_ok(), "reading goes on");
            drop(store);
            let store = Store::open(dir.path(), small(true)).unwrap();
            assert!(store.roots().0 >= seq && store.roots().1["first"] == first);
            assert!(fsck::run(&store, Level::Data, &mut |_| {}).unwrap().is_sound());
            store.put(Kind::Leaf, b"more").unwrap();
            store.commit(|_| {}).unwrap();
        }
    }
}
