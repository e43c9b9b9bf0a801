//! Writers, a compaction and a reading process, in many of the orders in which they may take turns: at every lock and
//! every operation of the disk another may go on. In some of them the power goes at some moment.
//!
//! `cargo test --features schedules --test store_schedules`. A failure prints the schedule that led to it.

mod store_common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use bson::rawdoc;
use headstock::block::{self, BlockId, BlockRead as _, BlockWrite as _, Kind};
use headstock::lab::{SimDisk, Survives};
use headstock::store::compact::{self, Settings};
use headstock::store::fsck::{self, Level};
use headstock::store::{Error, RepositorySalt, Roots, Store};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::thread;
use store_common::{dictionary, reach_all, small};

/// Where the store is.
const STORE: &str = "/disk/store";
/// A thread stands still in this much; the usual 32 KiB are too little for a compressor.
const STACK_BYTES: usize = 1 << 20;
/// Preemptions that one schedule concentrates on.
const DEPTH: usize = 4;
/// Leaves that graphs are made of: few, so that most are put again and again.
const LEAVES: u64 = 12;
/// About how many operations of the disk a run has.
const OPERATIONS: u64 = 260;

/// Stores a graph of some of the leaves under one node and a `Links` block.
fn graph(store: &Store, leaves: &[u64]) -> Result<BlockId, Error> {
    let mut node = u32::try_from(leaves.len()).expect("few").to_le_bytes().to_vec();
    for seed in leaves {
        let mut random = StdRng::seed_from_u64(*seed);
        // Of the same size when they are stored.
        let id = if seed % 2 == 0 {
            let content: Vec<u8> = (0..12_000).map(|_| random.random()).collect();
            store.put(Kind::Leaf, &content)?
        } else {
            let content: Vec<u8> = (0..24_000).map(|_| random.random_range(b'a'..=b'p')).collect();
            store.with_dictionary(dictionary()).put(Kind::Leaf, &content)?
        };
        node.extend_from_slice(id.as_bytes());
    }
    let mut links = rawdoc! { "kept": "links" };
    let node = block::link(&store.put(Kind::Node, &node)?);
    links.append(bson::raw::cstr!("node"), node);
    Ok(store.put(Kind::Links, links.as_bytes())?)
}

/// Commits a graph under a name, and notes it when that is acknowledged.
fn add(store: &Store, name: &str, leaves: &[u64], known: &Known) -> Result<(), Error> {
    let _session = store.session();
    let id = graph(store, leaves)?;
    store.commit(|roots| _ = roots.insert(name.to_owned(), id))?;
    known.lock().expect("known").insert(name.to_owned(), id);
    Ok(())
}

/// Takes over what a commit names without putting it, under another name, unless its name is gone.
fn take_over(store: &Store, known: &Known) -> Result<(), Error> {
    let _session = store.session();
    let Some(id) = store.roots().1.get("taken").copied() else { return Ok(()) };
    store.commit(|roots| _ = roots.insert("over".to_owned(), id))?;
    known.lock().expect("known").insert("over".to_owned(), id);
    Ok(())
}

/// What was acknowledged.
type Known = std::sync::Mutex<Roots>;

fn open(disk: &SimDisk) -> Store {
    Store::open_on(Arc::new(disk.clone()), Path::new(STORE), small(false)).expect("it opens")
}

/// Segments of five leaves; of some the one half is dead, of others all.
fn half_dead(disk: &SimDisk, known: &Known) -> Store {
    let on = Arc::new(disk.clone());
    let salt = RepositorySalt([5; 32]);
    let store = Store::create_on(on, Path::new(STORE), small(true), salt).expect("create");
    let all: Vec<u64> = (0..LEAVES).collect();
    add(&store, "all", &all, known).expect("add");
    add(&store, "some", &[1, 4, 11], known).expect("add");
    add(&store, "taken", &[2, 6, 8], known).expect("add");
    store.commit(|roots| _ = roots.remove("all")).expect("remove");
    known.lock().expect("known").retain(|name, _| name == "some");
    store
}

/// Reads all that a store held when asked.
fn read(store: &Store) -> Result<(), Error> {
    let mut found = BTreeSet::new();
    let mut rest: Vec<BlockId> = store.roots().1.into_values().collect();
    while let Some(id) = rest.pop() {
        if found.insert(id) {
            let block = store.get(&id)?;
            rest.extend(block::references(block.kind, &block.bytes)?);
        }
    }
    Ok(())
}

fn check(store: &Store, known: &Roots) {
    let (_, roots) = store.roots();
    for (name, id) in known {
        assert_eq!(roots.get(name), Some(id), "{name} was acknowledged");
    }
    reach_all(store);
    let report = fsck::run(store, Level::Data, &mut |_| {}).expect("fsck");
    assert!(report.is_sound(), "{:?}", report.findings);
}

/// One run: two writers that put what is dead, dying or living, one that takes over what
/// another lets go, a compaction, and readers here and in another process.
fn run(cut: Option<u64>) {
    let disk = SimDisk::new(Path::new("/disk"));
    let known = Arc::new(Known::new(BTreeMap::new()));
    let store = half_dead(&disk, &known);
    if let Some(cut) = cut {
        disk.cut_after(disk.operations() + cut);
    }
    let writer = |name: &'static str, leaves: &'static [u64]| {
        let (store, known) = (store.clone(), Arc::clone(&known));
        thread::spawn(move || {
            add(&store, name, leaves, &known)?;
            add(&store, &format!("{name} more"), &leaves[1..], &known)
        })
    };
    let mut threads = vec![writer("one", &[0, 2, 3, 11]), writer("two", &[3, 5, 9, 20])];
    let compacting = store.clone();
    threads.push(thread::spawn(move || {
        compact::execute(&compacting, Settings::thorough(), &mut |_, _| {}).map(drop)
    }));
    let (taking, taken) = (store.clone(), Arc::clone(&known));
    threads.push(thread::spawn(move || take_over(&taking, &taken)));
    let removing = store.clone();
    threads
        .push(thread::spawn(move || removing.commit(|roots| _ = roots.remove("taken")).map(drop)));
    let reading = store.clone();
    threads.push(thread::spawn(move || {
        let _session = reading.session();
        read(&reading)
    }));
    // As a restore does from a process of its own.
    let on = Arc::new(disk.clone());
    threads.push(thread::spawn(move || {
        read(&Store::open_reader_on(on, Path::new(STORE), small(false))?)
    }));
    for thread in threads {
        let done = thread.join().expect("nobody panics");
        assert!(cut.is_some() || done.is_ok(), "{done:?}");
    }
    let known = known.lock().expect("known").clone();
    if cut.is_none() {
        check(&store, &known);
        drop(store);
        check(&open(&disk), &known);
        return;
    }
    drop(store);
    for survives in [Survives::Nothing, Survives::Whole] {
        check(&open(&disk.restarted(|_| survives)), &known);
    }
}

fn explore(scheduler: impl Scheduler + 'static, scenario: impl Fn() + Send + Sync + 'static) {
    let mut config = shuttle::Config::new();
    config.stack_size = STACK_BYTES;
    let runs = shuttle::Runner::new(scheduler, config).run(scenario);
    println!("{runs} schedules");
}

/// A short form for every day, and a long one.
fn runs(short: usize, long: usize) -> usize {
    if std::env::var_os("HEADSTOCK_LONG").is_some() { long } else { short }
}

#[test]
fn threads_in_any_order_lose_nothing() {
    explore(RandomScheduler::new(runs(200, 3000)), || run(None));
}

#[test]
fn few_changes_of_turn_in_the_worst_places_lose_nothing() {
    explore(PctScheduler::new(DEPTH, runs(200, 3000)), || run(None));
}

#[test]
fn a_cut_at_any_moment_loses_nothing_that_was_acknowledged() {
    explore(RandomScheduler::new(runs(200, 3000)), || {
        use shuttle::rand::Rng as _;
        run(Some(shuttle::rand::thread_rng().gen_range(0..OPERATIONS)));
    });
}
