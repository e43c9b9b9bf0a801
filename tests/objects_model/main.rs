//! What `format-spec/10-objects.md` adds to the protocol of page 09, checked at every interleaving of a few clients: its log of
//! objects is one sequence of transactions, and upon such a sequence its packs hold what page 09 promises. Whichever guard is left
//! out, something that is promised does not hold.
//!
//! `HEADSTOCK_LONG=1` checks larger domains.

mod log;
mod packs;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::hash::Hash;
use std::io::Write as _;
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

fn is_long() -> bool {
    std::env::var_os("HEADSTOCK_LONG").is_some()
}

/// More where there is time for it.
fn or_long(short: u8, long: u8) -> u8 {
    if is_long() { long } else { short }
}

/// Checks that all properties of a scenario hold, and says of how many states.
fn holds<M>(name: &str, scenario: M)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq + Send + Sync,
{
    let begin = Instant::now();
    let checker = scenario.checker().spawn_bfs().join();
    let states = checker.unique_state_count();
    told(&format!(
        "{name}: {states} states, depth {}, {:.1?}",
        checker.max_depth(),
        begin.elapsed()
    ));
    checker.assert_properties();
}

/// Checks that a property of a scenario without some guard does not hold, and says by which steps.
fn breaks<M>(name: &str, scenario: M, broken: &'static str)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq + Send + Sync,
{
    let until = HasDiscoveries::AnyOf(BTreeSet::from([broken]));
    let begin = Instant::now();
    let checker = scenario.checker().finish_when(until).spawn_bfs().join();
    let states = checker.unique_state_count();
    let path = checker.discovery(broken);
    let path = path.unwrap_or_else(|| panic!("{name}: {states} states, and {broken}"));
    println!("{name}: not {broken:?}, after {states} states, {:.1?}, by", begin.elapsed());
    for action in path.into_actions() {
        println!("    {action:?}");
    }
}

/// Prints a line that is not captured with the output of a test that passes: how many states were checked is what it is worth.
fn told(line: &str) {
    std::io::stderr().write_all(format!("{line}\n").as_bytes()).expect("standard error");
}
