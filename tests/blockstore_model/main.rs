//! The protocol of `format-spec/09-blockstore.md`, checked at every interleaving of a few clients: what it promises holds,
//! and whichever of its guards is left out, something that it promises does not.
//!
//! `HEADSTOCK_LONG=1` checks larger domains.

mod model;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::time::Instant;

use model::{Guard, Phase, Push, Reader, SNAPSHOTS, Scenario, State, one};
use stateright::{Checker, HasDiscoveries, Model, Property};

const WHOLE: &str = "what a snapshot reaches can be read";
const FENCED: &str = "a writer whose job was taken over commits nothing";
const DECIDED: &str = "what a writer was told did not happen does not happen later";
const HELD: &str =
    "while a pin stands, its snapshot, the blocks of it and the slice after it are there";
const REMOVES: &str = "a groomer removes a block";
const COMMITS: &str = "every writer commits";
const MOVES: &str = "a writer commits that moved into a later generation";
const READS: &str = "a reader reads to the end";
const STORES_ANEW: &str = "a block whose dictionary is gone is stored anew";

/// What must always hold, and, so that this means something, what must be possible.
fn properties(scenario: &Scenario) -> Vec<Property<Scenario>> {
    let mut properties = vec![
        Property::always(WHOLE, |scenario: &Scenario, state: &State| {
            let there = |snapshot: &u8| state.snapshots[usize::from(*snapshot)].is_some();
            (0..SNAPSHOTS).filter(there).all(|snapshot| scenario.is_whole(state, snapshot))
        }),
        Property::always(FENCED, |_, state: &State| !state.seen.stale_commit),
        Property::always(DECIDED, |_, state: &State| !state.seen.denied_commit),
        Property::always(HELD, |scenario: &Scenario, state: &State| {
            let Some(snapshot) = scenario.reads.filter(|_| state.reads()) else { return true };
            let held = state.snapshots[usize::from(snapshot)].is_some() && state.slice;
            held && scenario.is_whole(state, snapshot)
        }),
        Property::sometimes(REMOVES, |_, state: &State| state.seen.removed),
        Property::sometimes(MOVES, |_, state: &State| state.seen.moved),
        Property::sometimes(COMMITS, |scenario: &Scenario, state: &State| {
            let writers = state.writers.iter().zip(&scenario.pushes);
            let mut pushing = writers.filter(|(_, push)| push.is_some());
            pushing.all(|(writer, _)| writer.phase == Phase::Committed)
        }),
    ];
    if scenario.reads.is_some() {
        let reads = |_: &Scenario, state: &State| state.reader == Reader::Ended;
        properties.push(Property::sometimes(READS, reads));
    }
    if scenario.dictionaries != 0 {
        let stores_anew = |_: &Scenario, state: &State| state.seen.stored_anew;
        properties.push(Property::sometimes(STORES_ANEW, stores_anew));
    }
    properties
}

// Blocks: the first, which alone may be stored with a dictionary; another; dictionaries where there are any.
const X: u8 = 0;
const Y: u8 = 1;
const D: u8 = 1;
const E: u8 = 2;

fn push(snapshot: u8) -> Option<Push> {
    Some(Push { snapshot, then: None, base: None, dictionary: None })
}

fn is_long() -> bool {
    std::env::var_os("HEADSTOCK_LONG").is_some()
}

/// More where there is time for it.
fn or_long(short: u8, long: u8) -> u8 {
    if is_long() { long } else { short }
}

/// Two jobs push snapshots that share a block, and two groomers run: at the start, that block is there and dead.
fn pushes() -> Scenario {
    Scenario {
        name: "pushes",
        without: None,
        contents: [one(X), one(X) | one(Y), 0],
        pushes: [push(0), push(1)],
        one_job: false,
        old: 0,
        dead: one(X),
        lacks: None,
        slices: 0,
        expiring: 0,
        dictionaries: 0,
        groomers: 2,
        raises: 2,
        runs: 1,
        late: or_long(0, 1),
        reads: None,
    }
}

/// A push of what differs from a snapshot that it pins, which may expire. In the order of names, the new one comes first.
fn base() -> Scenario {
    Scenario {
        name: "base",
        contents: [one(X) | one(Y), one(X), 0],
        pushes: [Some(Push { snapshot: 0, then: None, base: Some(1), dictionary: None }), None],
        old: one(1),
        dead: 0,
        expiring: one(0) | one(1),
        runs: 2,
        late: or_long(1, 2),
        ..pushes()
    }
}

/// In one session a snapshot and then a slice, both with the blocks of a snapshot that is pinned.
fn slices() -> Scenario {
    let push = Push { snapshot: 0, then: Some(2), base: Some(1), dictionary: None };
    Scenario {
        name: "slices",
        contents: [one(Y), one(X), one(X) | one(Y)],
        pushes: [Some(push), None],
        slices: one(2),
        runs: or_long(1, 2),
        late: or_long(0, 1),
        ..base()
    }
}

/// Two writers contend for one job; each may die.
fn take_over() -> Scenario {
    Scenario {
        name: "take-over",
        contents: [one(X), one(X), 0],
        one_job: true,
        expiring: one(0),
        groomers: 1,
        raises: or_long(1, 2),
        runs: 2,
        ..pushes()
    }
}

/// Two writers store one block, one of them with a dictionary.
fn dictionaries() -> Scenario {
    Scenario {
        name: "dictionaries",
        contents: [one(X), one(X), 0],
        pushes: [Some(Push { snapshot: 0, then: None, base: None, dictionary: Some(D) }), push(1)],
        dead: 0,
        dictionaries: one(D),
        groomers: 1,
        ..pushes()
    }
}

/// The same, each with another dictionary, where the block is there and lacks one of them.
fn another_dictionary() -> Scenario {
    Scenario {
        name: "another dictionary",
        pushes: [
            Some(Push { snapshot: 0, then: None, base: None, dictionary: Some(D) }),
            Some(Push { snapshot: 1, then: None, base: None, dictionary: Some(E) }),
        ],
        dead: one(X),
        lacks: Some(E),
        dictionaries: one(D) | one(E),
        late: or_long(0, 1),
        ..dictionaries()
    }
}

/// A reader pins a snapshot that may expire, and so may the slice after it.
fn restore() -> Scenario {
    Scenario {
        name: "restore",
        contents: [one(X), one(X) | one(Y), 0],
        pushes: [push(1), None],
        old: one(0),
        dead: 0,
        expiring: one(0) | one(1),
        reads: Some(0),
        ..pushes()
    }
}

#[test]
fn the_protocol_holds() {
    let mut sum = 0;
    for scenario in
        [pushes(), base(), slices(), take_over(), dictionaries(), another_dictionary(), restore()]
    {
        let (name, begin) = (scenario.name, Instant::now());
        let checker = scenario.checker().spawn_bfs().join();
        let states = checker.unique_state_count();
        told(&format!(
            "{name}: {states} states, depth {}, {:.1?}",
            checker.max_depth(),
            begin.elapsed()
        ));
        checker.assert_properties();
        sum += states;
    }
    told(&format!("together: {sum} states"));
}

#[test]
fn no_guard_can_be_left_out() {
    let cases = [
        (Guard::CommitWrites, pushes(), WHOLE),
        (Guard::CommitWrites, take_over(), FENCED),
        (Guard::StartCounts, pushes(), WHOLE),
        (Guard::DuplicateIsNoProof, pushes(), WHOLE),
        (Guard::StampsRise, pushes(), WHOLE),
        (Guard::CountIsChecked, pushes(), WHOLE),
        (Guard::PinInSnapshot, restore(), HELD),
        (Guard::DeleteHasCondition, pushes(), WHOLE),
        (Guard::SnapshotsAtOneTime, base(), WHOLE),
        (Guard::SlicesAfterSnapshots, slices(), WHOLE),
        (Guard::PinWritesJob, restore(), HELD),
        (Guard::DecisionWrites, pushes(), DECIDED),
        (Guard::DictionaryAsserted, dictionaries(), WHOLE),
        (Guard::StoringAnewIsFenced, another_dictionary(), WHOLE),
    ];
    for (guard, scenario, broken) in cases {
        let name = scenario.name;
        let scenario = Scenario { without: Some(guard), ..scenario };
        let until = HasDiscoveries::AnyOf(BTreeSet::from([broken]));
        let checker = scenario.checker().finish_when(until).spawn_bfs().join();
        let states = checker.unique_state_count();
        let path = checker.discovery(broken);
        let path = path
            .unwrap_or_else(|| panic!("{name} without {guard:?}: {states} states, and {broken}"));
        println!("{name} without {guard:?}: not {broken:?}, after {states} states, by");
        for action in path.into_actions() {
            println!("    {action:?}");
        }
    }
}

/// Prints a line that is not captured with the output of a test that passes: how many states were checked is what it is worth.
fn told(line: &str) {
    std::io::stderr().write_all(format!("{line}\n").as_bytes()).expect("standard error");
}
