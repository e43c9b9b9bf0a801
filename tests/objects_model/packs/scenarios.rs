//! What packs promise, in which scenarios, and what each guard is for.

use stateright::Property;

use super::{D, Guard, Phase, Reader, Scenario, State, WITH_D, WRITERS, X, Y, has};
use crate::{breaks, holds, or_long};

const RETAINED: &str = "what a root reaches can be read";
const ASSERTED: &str = "so can what a living session has asserted";
const OBJECTS: &str = "the object of a registered pack is there";

/// What must always hold, and, so that this means something, what must be possible.
pub fn properties(scenario: &Scenario) -> Vec<Property<Scenario>> {
    let mut properties = vec![
        Property::always(RETAINED, |scenario: &Scenario, state: &State| {
            let mut roots = (0..WRITERS).filter(|root| has(state.roots, *root));
            roots.all(|root| state.has_all(scenario.roots[root]))
        }),
        Property::always(ASSERTED, |_, state: &State| {
            state.writers.iter().all(|writer| state.has_all(writer.asserted))
        }),
        Property::always(OBJECTS, |_, state: &State| state.has_objects()),
        Property::sometimes("everybody commits", |scenario: &Scenario, state: &State| {
            let mut pushing = (0..WRITERS).filter(|writer| scenario.is_pushing(*writer));
            pushing.all(|writer| state.writers[writer].phase == Phase::Committed)
        }),
    ];
    if scenario.groomers > 0 {
        properties.push(Property::sometimes(
            "a pack is removed",
            |scenario: &Scenario, state: &State| {
                let mut old = (0..super::OLD).filter(|pack| scenario.old[*pack] != 0);
                old.any(|pack| !state.packs[pack].is_there)
            },
        ));
    }
    if scenario.reads {
        let missed = |_: &Scenario, state: &State| state.reader == Reader::Missed;
        properties.push(Property::sometimes("a reader misses an object", missed));
    }
    properties
}

/// A block is in two packs and dead; somebody pushes what reaches it, and two groom.
fn copies() -> Scenario {
    Scenario {
        name: "copies",
        without: None,
        old: [X, X, 0],
        stamps: [1, 1, 0],
        roots: [X, 0],
        is_rooted: false,
        compresses: 0,
        expires: true,
        groomers: 2,
        movers: 0,
        late: 0,
        sweeps: 0,
        reads: false,
    }
}

/// The same with three of them, one more groomer, and a touch whose session is gone.
fn more_copies() -> Scenario {
    Scenario {
        name: "more copies",
        old: [X, X, X],
        stamps: [1; 3],
        groomers: 3,
        late: 1,
        ..copies()
    }
}

/// Two push, of which one or the other may write what is there already.
fn pushes() -> Scenario {
    Scenario { name: "pushes", old: [X, 0, 0], roots: [X, X | Y], ..copies() }
}

/// What lives is moved while somebody pushes it.
fn moves() -> Scenario {
    Scenario { name: "moves", old: [X | Y, X, 0], roots: [X, 0], movers: 0b11, ..copies() }
}

/// The same with one more groomer.
fn more_moves() -> Scenario {
    Scenario {
        name: "more moves",
        old: [X, X, 0],
        groomers: 3,
        movers: or_long(0b100, 0b111),
        expires: false,
        ..moves()
    }
}

/// Objects that nothing names are removed, and a reader looks for what moves.
fn orphans() -> Scenario {
    Scenario {
        name: "orphans",
        old: [X, 0, 0],
        roots: [X, Y],
        is_rooted: true,
        expires: false,
        groomers: 1,
        movers: 1,
        sweeps: or_long(1, 2),
        reads: true,
        ..copies()
    }
}

/// A block is stored with a dictionary, and once more as it is.
fn dictionaries() -> Scenario {
    Scenario { name: "dictionaries", old: [X, WITH_D, D], stamps: [1; 3], movers: 0b10, ..copies() }
}

/// The same, where the dictionary is not there.
fn no_dictionary() -> Scenario {
    Scenario {
        name: "no dictionary",
        old: [X, WITH_D, 0],
        roots: [X, X],
        compresses: 0b10,
        groomers: 1,
        ..copies()
    }
}

#[test]
fn packs_hold() {
    let copied = [copies(), more_copies(), pushes(), moves(), more_moves()];
    for scenario in copied.into_iter().chain([orphans(), dictionaries(), no_dictionary()]) {
        holds(scenario.name, scenario);
    }
}

#[test]
fn no_guard_of_packs_can_be_left_out() {
    let cases = [
        (Guard::RemovalHasCondition, copies(), ASSERTED),
        (Guard::TouchIsRechecked, copies(), ASSERTED),
        (Guard::DictionaryIsAsserted, dictionaries(), RETAINED),
        (Guard::RegisteringChecksSession, orphans(), OBJECTS),
        (Guard::StateAfterList, orphans(), OBJECTS),
        (Guard::OrphansHaveNoSession, orphans(), OBJECTS),
        (Guard::MovedKeepsStamp, moves(), RETAINED),
        (Guard::MovedKeepsStampOfNow, more_moves(), RETAINED),
        (Guard::MovedAtOnce, moves(), RETAINED),
        (Guard::OneCopyLives, copies(), RETAINED),
        (Guard::KeptIsRaised, copies(), RETAINED),
        (Guard::KeptDictionaryIsRaised, dictionaries(), RETAINED),
        (Guard::CountsIfReadable, no_dictionary(), RETAINED),
        (Guard::DocumentBeforeObject, copies(), OBJECTS),
        (Guard::WaitsForOlder, copies(), RETAINED),
        (Guard::UnknownIsKept, moves(), OBJECTS),
    ];
    for (guard, scenario, broken) in cases {
        let name = format!("{} without {guard:?}", scenario.name);
        breaks(&name, Scenario { without: Some(guard), ..scenario }, broken);
    }
}
