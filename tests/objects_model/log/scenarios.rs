//! What the log promises, in which scenarios, and what each guard is for.

use stateright::Property;

use super::{CLIENTS, Guard, MAKING, Scenario, State, as_number};
use crate::{breaks, holds, is_long, or_long};

const ONE: &str =
    "each entry that is first of its number was made upon the first of the number before";
const MADE: &str =
    "what a client takes as made is in the one sequence, upon the state it was made on";
const READ: &str = "what a client takes as read is a state of the one sequence";
const FRESH: &str = "it is not older than the moment at which the reading began";
const ONCE: &str = "no transaction is made twice";
const DENIED: &str = "what a client was told was not made is not made later";
const WHOLE: &str = "from the newest checkpoint on, each entry is there";

/// All transactions of all clients.
fn transactions() -> impl Iterator<Item = (u8, u8)> {
    (0..as_number(CLIENTS)).flat_map(|id| (0..MAKING).map(move |transaction| (id, transaction)))
}

/// What must always hold, and, so that this means something, what must be possible.
pub fn properties(scenario: &Scenario) -> Vec<Property<Scenario>> {
    let mut properties = vec![
        Property::always(ONE, |_, state: &State| !state.seen.forked),
        Property::always(MADE, |_, state: &State| !state.seen.falsely_made),
        Property::always(READ, |_, state: &State| !state.seen.falsely_read),
        Property::always(FRESH, |_, state: &State| !state.seen.stale),
        Property::always(ONCE, |_, state: &State| {
            transactions().all(|(id, transaction)| state.times(id, transaction) <= 1)
        }),
        Property::always(DENIED, |_, state: &State| {
            transactions().all(|(id, transaction)| {
                let denied = state.clients[usize::from(id)].denied >> transaction & 1 == 1;
                !denied || state.times(id, transaction) == 0
            })
        }),
        Property::always(WHOLE, |_, state: &State| state.is_whole()),
        Property::sometimes("everything is done", |scenario: &Scenario, state: &State| {
            let mut clients = state.clients.iter().zip(scenario.transactions);
            clients.all(|(client, transactions)| client.done == transactions)
        }),
        Property::sometimes("an old number is created again", |_, state: &State| state.has_again()),
    ];
    if scenario.transactions != [0; CLIENTS] {
        properties.push(Property::sometimes("an outcome stays unknown", |_, state: &State| {
            transactions().any(|(id, transaction)| {
                let client = state.clients[usize::from(id)];
                transaction < client.done && state.times(id, transaction) == 0
            })
        }));
    }
    properties
}

/// Two clients write, each frozen at any step, and the log is truncated.
fn writers() -> Scenario {
    Scenario {
        name: "writers",
        without: None,
        transactions: [or_long(1, 2), 1, 0],
        is_made: true,
        clients: 2,
        know: 2,
        highest: or_long(3, 4),
        unknown: 0,
        truncators: 1,
        checkpoints: or_long(0b1100, 0b11111),
        old_checkpoints: is_long(),
    }
}

/// The log goes on for longer while a client is frozen.
fn frozen() -> Scenario {
    Scenario { name: "frozen", highest: 4, checkpoints: 0b11000, ..writers() }
}

/// A create has an unknown outcome.
fn unknown() -> Scenario {
    Scenario { name: "unknown outcome", unknown: 1, ..writers() }
}

/// So it has, and is executed when the client has gone on for long.
fn late() -> Scenario {
    Scenario {
        name: "late",
        transactions: [2, or_long(0, 1), 0],
        clients: or_long(1, 2),
        unknown: 1,
        checkpoints: 0b11100,
        ..frozen()
    }
}

/// One client writes and one opens.
fn openers() -> Scenario {
    Scenario { name: "openers", transactions: [1, or_long(0, 1), 0], know: 1, ..writers() }
}

/// Two truncators, of which one may be frozen, and checkpoints of old states.
fn truncators() -> Scenario {
    Scenario {
        name: "truncators",
        transactions: [1, 0, 0],
        clients: or_long(1, 2),
        highest: 4,
        truncators: 2,
        checkpoints: or_long(0b11100, 0b11111),
        old_checkpoints: true,
        ..writers()
    }
}

/// Clients make the repository, or find that it was made.
fn making() -> Scenario {
    Scenario {
        name: "making",
        transactions: [or_long(0, 1), 0, 0],
        is_made: false,
        know: 0,
        unknown: 1,
        ..writers()
    }
}

#[test]
fn the_log_holds() {
    let long = is_long().then(frozen);
    let short = [writers(), unknown(), late(), openers(), truncators(), making()];
    for scenario in short.into_iter().chain(long) {
        holds(scenario.name, scenario);
    }
}

#[test]
fn no_guard_of_the_log_can_be_left_out() {
    let cases = [
        (Guard::ReadsBaseAfterCreate, writers(), MADE),
        (Guard::ReadsBaseAfterReading, writers(), FRESH),
        (Guard::BaseIsNotTheLast, frozen(), READ),
        (Guard::HashIsCompared, frozen(), FRESH),
        (Guard::DeletedUpward, writers(), FRESH),
        (Guard::NewestStays, writers(), WHOLE),
        (Guard::CreateDoesNotOverwrite, writers(), WHOLE),
        (Guard::OwnIsKnown, unknown(), ONCE),
        (Guard::NonceOfEachCreate, late(), MADE),
        (Guard::GoneSaysNothing, late(), ONCE),
        (Guard::UnknownIsRepeated, unknown(), DENIED),
        (Guard::ListedAgain, making(), READ),
    ];
    for (guard, scenario, broken) in cases {
        let name = format!("{} without {guard:?}", scenario.name);
        breaks(&name, Scenario { without: Some(guard), ..scenario }, broken);
    }
}
