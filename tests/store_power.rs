//! The power goes after every operation of short histories, and of random ones after some; every kind of
//! operation fails once or for ever. Of what was not synced any part survives. Whatever happened, the
//! store opens by itself, holds everything that was acknowledged and nothing half-done, is clean to
//! `fsck`, and goes on.
//!
//! `HEADSTOCK_LONG=1` tries more seeds and more parts; `HEADSTOCK_SEED=n` runs that random history.

mod forms;
mod store_common;

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use forms::{is_long, seeds};
use headstock::lab::{Fault, SimDisk, Survives};
use headstock::store::fs::Operation;
use headstock::store::fsck::{self, Level};
use headstock::store::{CommitSeq, Error, Options, RepositorySalt, Roots, Store, compact};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng, SeedableRng};
use store_common::{reach_all, small, try_put_graph};

/// Where the store is.
const STORE: &str = "/disk/store";
/// Bytes of a sector.
const SECTOR_BYTES: usize = 512;

/// Something done to a store.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Blocks of a graph of so many leaves become what a root names.
    Commit(&'static str, usize),
    /// A root goes.
    Forget(&'static str),
    /// Blocks that nothing names.
    Put(usize),
    Compact,
    /// The store is closed and opened.
    Reopen,
}

use Step::{Commit, Compact, Forget, Put, Reopen};

/// Every way a store changes, in few operations.
const SHORT: [&[Step]; 3] = [
    &[Commit("a", 3), Commit("b", 3), Reopen, Commit("a", 2)],
    &[Commit("a", 40), Commit("b", 5), Forget("a"), Compact, Commit("c", 3), Reopen],
    &[Put(30), Reopen, Commit("a", 30), Commit("a", 30), Compact, Forget("a"), Compact],
];

/// What is known of a store when its power goes.
#[derive(Debug, Default)]
struct Known {
    /// The newest commit that was acknowledged, and what it names.
    acknowledged: Option<(CommitSeq, Roots)>,
    /// What a commit under way names, whether or not it gets through.
    under_way: Option<Roots>,
}

fn options() -> Options {
    small(true)
}

fn open(disk: &SimDisk) -> Result<Store, Error> {
    Store::open_on(Arc::new(disk.clone()), Path::new(STORE), options())
}

fn create(disk: &SimDisk) -> Result<Store, Error> {
    let disk = Arc::new(disk.clone());
    Store::create_on(disk, Path::new(STORE), options(), RepositorySalt([7; 32]))
}

/// Runs a history until it ends or the power goes.
fn run(disk: &SimDisk, steps: &[Step], seed: u64) -> Known {
    let mut known = Known::default();
    // Whatever fails fails for want of power.
    let _ = try_run(disk, steps, seed, &mut known);
    known
}

fn try_run(disk: &SimDisk, steps: &[Step], seed: u64, known: &mut Known) -> Result<(), Error> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut store = create(disk)?;
    known.acknowledged = Some(store.roots());
    for step in steps {
        match *step {
            Commit(root, leaves) => {
                let _session = store.session();
                let id = graph(&store, &mut random, leaves)?;
                let mut roots = store.roots().1;
                roots.insert(root.to_owned(), id);
                known.under_way = Some(roots.clone());
                store.commit(|all| *all = roots)?;
            }
            Forget(root) => {
                let mut roots = store.roots().1;
                roots.remove(root);
                known.under_way = Some(roots.clone());
                store.commit(|all| *all = roots)?;
            }
            Put(leaves) => drop(graph(&store, &mut random, leaves)?),
            Compact => {
                known.under_way = Some(store.roots().1);
                compact::execute(&store, compact::Settings::default(), &mut |_, _| {})?;
            }
            Reopen => {
                drop(store);
                store = open(disk)?;
            }
        }
        known.acknowledged = Some(store.roots());
        known.under_way = None;
    }
    Ok(())
}

fn graph(
    store: &Store,
    random: &mut StdRng,
    leaves: usize,
) -> Result<headstock::block::BlockId, Error> {
    Ok(try_put_graph(store, random, leaves, 1500)?)
}

/// Checks a disk on which the power was cut, or the process killed. Returns what is acknowledged then.
fn check(disk: &SimDisk, known: &Known) -> Known {
    let store = match &known.acknowledged {
        Some((seq, roots)) => {
            let store = open(disk).expect("opens by itself");
            let (found_seq, found) = store.roots();
            let is_under_way = found_seq > *seq && known.under_way.as_ref() == Some(&found);
            assert!(
                (found_seq, &found) == (*seq, roots) || is_under_way,
                "commit {found_seq:?} {found:?}, acknowledged {seq:?} {roots:?}"
            );
            store
        }
        // Its creation was under way: it is there or can be made.
        None => open(disk).or_else(|_| create(disk)).expect("neither there nor to be made"),
    };
    let reached = reach_all(&store);
    let report = fsck::run(&store, Level::Data, &mut |_| {}).expect("fsck");
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    // A graph that is there already as what nothing names, and a new block.
    for seed in 0..2 {
        let id = graph(&store, &mut StdRng::seed_from_u64(seed), 3).expect("goes on");
        store.commit(|roots| _ = roots.insert(format!("after {seed}"), id)).expect("goes on");
    }
    let acknowledged = Some(store.roots());
    let reached = reached.union(&reach_all(&store)).count();
    drop(store);
    let store = open(disk).expect("opens again");
    assert!(reach_all(&store).len() == reached || known.acknowledged.is_none());
    Known { acknowledged, under_way: None }
}

/// Cuts the power now, in one of many ways after another, and checks what is left.
fn check_cuts(disk: &SimDisk, known: &Known, random: &mut StdRng, what: &str) -> usize {
    let lengths = disk.unsynced();
    let mut ways: Vec<(String, Vec<Survives>)> = Vec::new();
    let all = |fate: Survives| vec![fate; lengths.len()];
    ways.push(("nothing".to_owned(), all(Survives::Nothing)));
    ways.push(("everything".to_owned(), all(Survives::Whole)));
    for (at, length) in lengths.iter().enumerate() {
        let (mut without, mut only, mut torn) =
            (all(Survives::Whole), all(Survives::Nothing), all(Survives::Whole));
        without[at] = Survives::Nothing;
        only[at] = Survives::Whole;
        torn[at..].fill(Survives::Nothing);
        let sectors = length.unwrap_or_default() / SECTOR_BYTES;
        torn[at] = Survives::First(random.random_range(0..=sectors) * SECTOR_BYTES);
        let mut each = vec![("all but", without), ("only", only), ("up to a part of", torn)];
        if !is_long() {
            each = vec![each.swap_remove(random.random_range(0..3))];
        }
        ways.extend(each.into_iter().map(|(way, fates)| (format!("{way} {at}"), fates)));
    }
    for number in 0..if is_long() { 12 } else { 2 } {
        let fate = |length: &Option<usize>| any_fate(*length, random);
        ways.push((format!("some, {number}"), lengths.iter().map(fate).collect()));
    }
    for (way, fates) in &ways {
        let context = Context(format!("{what}: of {} un-synced, {way} survives", lengths.len()));
        check(&disk.restarted(|at| fates[at]), known);
        drop(context);
    }
    ways.len()
}

/// What survives of one operation: torn within a sector as well.
fn any_fate(length: Option<usize>, random: &mut StdRng) -> Survives {
    let cut = random.random_range(0..=length.unwrap_or_default());
    let fates = [Survives::Nothing, Survives::Whole, Survives::First(cut), Survives::AllBut(cut)];
    *fates.choose(random).expect("some")
}

/// Printed when a check fails.
struct Context(String);

impl Drop for Context {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

/// A history with a cut after so many operations: the disk, and what was known.
fn cut(steps: &[Step], seed: u64, operations: u64) -> (SimDisk, Known) {
    let disk = SimDisk::new(Path::new("/disk"));
    disk.cut_after(operations);
    let known = run(&disk, steps, seed);
    (disk, known)
}

#[test]
fn short_histories_cut_after_every_operation() {
    let (mut points, mut ways) = (0, 0);
    for (number, steps) in SHORT.iter().enumerate() {
        let (disk, known) = cut(steps, 1, u64::MAX);
        assert!(known.under_way.is_none(), "history {number} does not end: {known:?}");
        for operations in 0..=disk.operations() {
            let (disk, known) = cut(steps, 1, operations);
            let mut random = StdRng::seed_from_u64(operations);
            let what = format!("history {number} cut after {operations} operations");
            ways += check_cuts(&disk, &known, &mut random, &what);
            points += 1;
        }
    }
    println!("{points} crash points, {ways} ways of what survives");
}

/// Kinds of operations, and how they fail.
const FAULTS: [(Operation, ErrorKind); 12] = [
    (Operation::Create, ErrorKind::StorageFull),
    (Operation::Open, ErrorKind::Other),
    (Operation::Read, ErrorKind::Other),
    (Operation::Write, ErrorKind::Other),
    (Operation::Write, ErrorKind::StorageFull),
    (Operation::Allocate, ErrorKind::StorageFull),
    (Operation::SetLength, ErrorKind::Other),
    (Operation::Sync, ErrorKind::Other),
    (Operation::Rename, ErrorKind::Other),
    (Operation::Remove, ErrorKind::Other),
    (Operation::List, ErrorKind::Other),
    (Operation::CreateDirectory, ErrorKind::StorageFull),
];

/// A history on a disk that fails from an operation on: the disk, well again, and what was known. None
/// where the history does not get so far.
fn faulty(steps: &[Step], fault: Fault) -> Option<(SimDisk, Known)> {
    let disk = SimDisk::new(Path::new("/disk"));
    disk.fail(&[fault]);
    let known = run(&disk, steps, 1);
    disk.fail(&[]);
    (disk.failures() > 0).then_some((disk, known))
}

#[test]
fn short_histories_with_every_operation_failing() {
    let mut failures = 0;
    for (number, steps) in SHORT.iter().enumerate() {
        for ((operation, kind), times) in
            FAULTS.into_iter().flat_map(|fault| [(fault, 1), (fault, u64::MAX)])
        {
            let fault = |after| Fault { operation, after, times, kind };
            let all = (0..).map_while(|after| faulty(steps, fault(after)));
            for (after, (disk, known)) in all.enumerate() {
                let what =
                    format!("history {number}: {kind:?} {times} times at {operation} {after}");
                let mut random = StdRng::seed_from_u64(after as u64);
                let lengths = disk.unsynced();
                for way in 0..if is_long() { 6 } else { 3 } {
                    let _context = Context(format!("{what}, way {way}"));
                    let fate = |at: usize| match way {
                        0 => Survives::Nothing,
                        1 => Survives::Whole,
                        _ => any_fate(lengths[at], &mut random),
                    };
                    check(&disk.restarted(fate), &known);
                }
                // The process ends, the machine goes on, and is cut off later.
                let _context = Context(format!("{what}, cut later"));
                let known = check(&disk, &known);
                check(&disk.restarted(|_| Survives::Nothing), &known);
                failures += 1;
            }
        }
    }
    println!("{failures} failures");
}

/// What a killed process wrote is read by the next one, which builds on it, and need not be durable.
#[test]
fn killed_after_every_operation_and_cut_later() {
    let (mut points, mut ways) = (0, 0);
    for (number, steps) in SHORT.iter().enumerate() {
        let (disk, _) = cut(steps, 1, u64::MAX);
        for operations in 0..=disk.operations() {
            let (disk, known) = cut(steps, 1, operations);
            disk.cut_after(u64::MAX);
            let what = format!("history {number} killed after {operations} operations");
            let context = Context(what.clone());
            let known = check(&disk, &known);
            drop(context);
            let mut random = StdRng::seed_from_u64(operations);
            ways += check_cuts(&disk, &known, &mut random, &what);
            points += 1;
        }
    }
    println!("{points} kills, {ways} ways of what survives");
}

#[test]
fn random_histories_cut_anywhere() {
    for seed in seeds(31, 31..131) {
        let mut random = StdRng::seed_from_u64(seed);
        let roots = ["a", "b", "c"];
        let step = |random: &mut StdRng| match random.random_range(0..10) {
            0..5 => Commit(roots.choose(random).expect("some"), random.random_range(1..60)),
            5 => Forget(roots.choose(random).expect("some")),
            6 => Put(random.random_range(1..60)),
            7..9 => Compact,
            _ => Reopen,
        };
        let steps: Vec<Step> = (0..25).map(|_| step(&mut random)).collect();
        let total = cut(&steps, seed, u64::MAX).0.operations();
        for _ in 0..10 {
            let operations = random.random_range(0..=total);
            let (disk, known) = cut(&steps, seed, operations);
            let what = format!("seed {seed} cut after {operations} operations of {steps:?}");
            check_cuts(&disk, &known, &mut random, &what);
        }
    }
}
