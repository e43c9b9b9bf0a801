//! The power goes while a job is scanned, tailed, flushed, snapshot, pruned, compacted and restored. After
//! any cut, whatever of the un-synced survived, every snapshot that was acknowledged and the newest point are
//! restored as they were.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bson::spec::BinarySubtype;
use bson::{Binary, RawDocument, Timestamp};
use tempfile::TempDir;

use super::*;
use crate::head::{Collection, Head, Scope};
use crate::job::snapshot;
use crate::lab::{SimDisk, Survives};
use crate::oplog::slice::SliceBuilder;
use crate::restore::{At, Cancel, Silent, View};
use crate::store::fsck::{self, Level};
use crate::store::{MIN_SEGMENT_BYTES, Options, Store, compact};
use crate::tree::Builder;

const UUID: Uuid = Uuid([6; 16]);
const NS: &str = "shop.docs";

/// Documents of the only collection: numbers by `_id`.
type Documents = BTreeMap<i32, i32>;

/// Nothing, or why not.
type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Something done to a job.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Entries of the oplog become a slice.
    Receive(u32),
    Flush,
    Snapshot,
    /// The oldest snapshot goes, and the slices that nothing needs then.
    Prune,
    Compact,
    /// The newest point is restored.
    Restore,
    Reopen,
}

use Step::{Compact, Flush, Prune, Receive, Reopen, Restore, Snapshot};

const STEPS: [Step; 18] = [
    Snapshot,
    Receive(20),
    Receive(30),
    Flush,
    Snapshot,
    Restore,
    Receive(10),
    Reopen,
    Flush,
    Prune,
    Compact,
    Restore,
    Snapshot,
    Receive(40),
    Flush,
    Prune,
    Compact,
    Receive(5),
];

/// What the source held, and what of it the job acknowledged.
pub(super) struct World {
    random: StdRng,
    /// Documents at each second.
    history: BTreeMap<u32, Documents>,
    /// The newest second that was acknowledged as received.
    received: Option<u32>,
    /// Seconds of the snapshots that must be there.
    snapshots: BTreeSet<u32>,
}

/// A disk with a store, whose scratch files are real.
pub(super) struct Machine {
    disk: SimDisk,
    dir: PathBuf,
    scratch: Arc<TempDir>,
}

impl Machine {
    pub(super) fn new() -> Self {
        let scratch = tempfile::tempdir().expect("temporary folder");
        let disk = SimDisk::new(scratch.path());
        Self { disk, dir: scratch.path().join("store"), scratch: Arc::new(scratch) }
    }

    fn restarted(&self, survives: impl FnMut(usize) -> Survives) -> Self {
        let disk = self.disk.restarted(survives);
        Self { disk, dir: self.dir.clone(), scratch: self.scratch.clone() }
    }

    fn open(&self) -> Result<Job, Error> {
        let store = Store::open_on(Arc::new(self.disk.clone()), &self.dir, options())?;
        Job::open(store, None)
    }

    fn config(&self, number: u32) -> head::Config {
        let scratch_dir = self.scratch.path().join(format!("changes-{number}"));
        std::fs::create_dir_all(&scratch_dir).expect("a directory");
        head::Config {
            salt: SALT,
            scope: Scope::all(),
            scratch_dir,
            seals_scratch: false,
            change_budget_bytes: 1 << 20,
            trims_capped_unlogged: false,
        }
    }
}

fn options() -> Options {
    Options { segment_bytes: MIN_SEGMENT_BYTES, ..Options::default() }
}

fn document(id: i32, n: i32) -> RawDocumentBuf {
    rawdoc! { "_id": id, "n": n, "pad": "p".repeat(100) }
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let first = (0..60).map(|id| (id, 0)).collect();
        Self {
            random: StdRng::seed_from_u64(seed),
            history: BTreeMap::from([(1, first)]),
            received: None,
            snapshots: BTreeSet::new(),
        }
    }

    fn now(&self) -> u32 {
        *self.history.last_key_value().expect("a first moment").0
    }

    /// The next entry of the oplog.
    fn write(&mut self) -> RawDocumentBuf {
        let mut documents = self.history[&self.now()].clone();
        let id = self.random.random_range(0..90);
        let now = self.now() + 1;
        let n = i32::try_from(now).expect("few");
        let there = documents.contains_key(&id);
        let mut entry = match there {
            true if self.random.random_bool(0.3) => {
                documents.remove(&id);
                rawdoc! { "op": "d", "o": { "_id": id } }
            }
            _ => {
                documents.insert(id, n);
                match there {
                    false => rawdoc! { "op": "i", "o": document(id, n) },
                    true => rawdoc! {
                        "op": "u",
                        "o": { "$v": 2, "diff": { "u": { "n": n } } },
                        "o2": { "_id": id },
                    },
                }
            }
        };
        self.history.insert(now, documents);
        let at = at(now);
        entry.append(bson::raw::cstr!("ns"), NS);
        let uuid = Binary { subtype: BinarySubtype::Uuid, bytes: UUID.0.to_vec() };
        entry.append(bson::raw::cstr!("ui"), uuid);
        entry.append(bson::raw::cstr!("ts"), Timestamp::from(at.optime.ts));
        entry.append(bson::raw::cstr!("t"), at.optime.term);
        entry.append(bson::raw::cstr!("v"), 2_i64);
        entry.append(bson::raw::cstr!("wall"), bson::DateTime::from_millis(at.wall_ms));
        entry
    }

    /// Makes the store and scans.
    pub(super) fn begin(&mut self, machine: &Machine) -> Result<Job, Error> {
        let on = Arc::new(machine.disk.clone());
        let store = Store::create_on(on, &machine.dir, options(), SALT)?;
        let session = store.session();
        let shape = Shape::new(SALT, Order::Keyed, Content::Documents);
        let mut builder = Builder::new(&store, &shape);
        for (id, n) in &self.history[&1] {
            builder.push(&document(*id, *n))?;
        }
        let root = builder.finish()?;
        let collection = Collection {
            uuid: UUID,
            ns: NS.to_owned(),
            options: rawdoc! {},
            indexes: vec![rawdoc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" }],
            order: Order::Keyed,
            root,
        };
        let blocks = Arc::new(store.clone());
        let config = machine.config(0);
        let mut head = Head::from_scan(blocks, config, at(1), optime(1), vec![collection])?;
        let mut state = State::new("job".to_owned(), identity(), 0);
        state.restore_window_ms = 0;
        state.head = Some(head.flush(&store)?);
        state.received = Some(at(1));
        let id = state.write(&store)?;
        store.commit(|roots| _ = roots.insert("job".to_owned(), id))?;
        self.received = Some(1);
        drop(session);
        Job::open(store, None)
    }

    fn run(&mut self, machine: &Machine) -> Outcome {
        let mut job = self.begin(machine)?;
        for step in STEPS {
            match step {
                Receive(entries) => self.receive(&job, entries)?,
                Flush => flush(machine, &job)?,
                Snapshot => {
                    let at = snapshot::take(&job)?.optime.t;
                    self.snapshots.insert(at);
                }
                Prune => self.prune(&job)?,
                Compact => {
                    compact::execute(job.store(), compact::Settings::default(), &mut |_, _| {})?;
                }
                Restore => {
                    let received = self.received.expect("received");
                    self.check_point(&job, At::Latest, received)?;
                }
                Reopen => {
                    drop(job);
                    job = machine.open()?;
                }
            }
        }
        Ok(())
    }

    fn receive(&mut self, job: &Job, entries: u32) -> Result<(), Error> {
        let session = job.store().session();
        let received = job.state().received.expect("received");
        let mut builder = SliceBuilder::new(received.optime);
        for _ in 0..entries {
            builder.push(&self.write())?;
        }
        let (header, bytes) = builder.finish().expect("entries");
        let last = header.last;
        let pieces = block::stream::write(job.store(), &bytes)?;
        job.update(&session, |state| {
            state.received = Some(last);
            state.slices.push(job.store(), SALT, Slice { header, pieces })
        })?;
        self.received = Some(last.optime.ts.secs);
        Ok(())
    }

    fn prune(&mut self, job: &Job) -> Result<(), Error> {
        let oldest = snapshot::manifests(job.store(), &job.state())?.swap_remove(0);
        // It may go from here on.
        self.snapshots.remove(&oldest.head.position.optime.ts.secs);
        snapshot::delete(job, &oldest.id)?;
        snapshot::expire_slices(job)?;
        Ok(())
    }

    /// Checks what is left after a cut, and that the job goes on.
    fn check(&mut self, machine: &Machine) {
        let Some(received) = self.received else { return };
        let job = machine.open().expect("opens by itself");
        let report = fsck::run(job.store(), Level::Data, &mut |_| {}).expect("fsck");
        assert!(report.findings.is_empty(), "{:?}", report.findings);
        let found = job.state().received.expect("received").optime.ts.secs;
        assert!(found >= received, "received {found}, acknowledged {received}");
        let manifests = snapshot::manifests(job.store(), &job.state()).expect("snapshots");
        let there: BTreeSet<u32> =
            manifests.iter().map(|manifest| manifest.head.position.optime.ts.secs).collect();
        assert!(self.snapshots.is_subset(&there), "{there:?}, acknowledged {:?}", self.snapshots);
        for secs in &there {
            self.check_point(&job, At::Exact(optime(*secs).ts), *secs).expect("a point");
        }
        if !there.is_empty() {
            self.check_point(&job, At::Latest, found).expect("the newest point");
        }
        flush(machine, &job).expect("goes on");
        let taken = snapshot::take(&job).expect("goes on");
        self.check_point(&job, At::Latest, taken.optime.t).expect("the newest point");
    }

    fn check_point(&self, job: &Job, at: At, secs: u32) -> Outcome {
        let backup = crate::job::read::backup_of(job.store().clone(), None)?;
        let view = View::open(backup, &at, &Silent, &Cancel::new())?;
        let collection = view.collection(NS).expect("the collection");
        let mut cursor = Cursor::new(view.blocks(), &collection.root);
        let mut found = Documents::new();
        while let Some(document) = cursor.next()? {
            let field = |name| document.get_i32(name).expect("a number");
            found.insert(field("_id"), field("n"));
        }
        assert_eq!(found, self.history[&secs], "at {secs}");
        Ok(())
    }
}

/// Brings the head to what was received.
fn flush(machine: &Machine, job: &Job) -> Result<(), Error> {
    let store = job.store();
    let session = store.session();
    let state = job.state();
    let root = state.head.expect("a head");
    let config = machine.config(root.position.optime.ts.secs);
    let mut head = Head::load(Arc::new(store.clone()), config, &root)?;
    let mut apply = |slice: Slice| {
        let bytes = slices::read(&slice, store)?;
        for entry in crate::oplog::slice::entries(&bytes) {
            let entry: &RawDocument = entry?;
            if crate::oplog::position(entry)?.optime > head.position().optime {
                head.apply(entry)?;
            }
        }
        Ok(())
    };
    state.slices.for_each(store, &mut apply)?;
    let root = head.flush(store)?;
    job.update(&session, |state| {
        state.head = Some(root);
        Ok(())
    })
}

/// The world and its machine when the power went after so many operations.
fn cut(operations: u64) -> (World, Machine) {
    let (mut world, machine) = (World::new(5), Machine::new());
    machine.disk.cut_after(operations);
    // Whatever fails fails for want of power.
    let _ = world.run(&machine);
    (world, machine)
}

#[test]
fn a_job_loses_nothing_that_it_acknowledged() {
    let (mut world, machine) = (World::new(5), Machine::new());
    world.run(&machine).expect("a whole history");
    let total = machine.disk.operations();
    let mut random = StdRng::seed_from_u64(6);
    for operations in 0..=total {
        let (mut world, machine) = cut(operations);
        let lengths = machine.disk.unsynced();
        for way in 0..3 {
            let survives = |at: usize| match way {
                0 => Survives::Nothing,
                1 => Survives::Whole,
                _ if random.random_bool(0.5) => Survives::Whole,
                _ => Survives::First(lengths[at].unwrap_or_default() / 2),
            };
            // Shown where a check fails.
            println!("cut after {operations} of {total} operations, way {way}");
            world.check(&machine.restarted(survives));
        }
        // The process is killed, the next one goes on, and then the power goes.
        machine.disk.cut_after(u64::MAX);
        world.check(&machine);
        world.check(&machine.restarted(|_| Survives::Nothing));
    }
    println!("{total} operations");
}
