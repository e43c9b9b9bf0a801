//! Section 2 of `format-spec/10-objects.md` as states and steps.
//!
//! A step is one request as the storage executes it, so that every client may be overtaken, frozen or dead between any two of its
//! requests. A create of unknown outcome is on its way, and is executed at any later time or never. Others, who are never slow,
//! append too, so that the log goes on whatever the clients do.

mod client;
mod scenarios;

use stateright::{Model, Property};

/// Entries that the domain has numbers for.
pub const NUMBERS: usize = 6;
const CLIENTS: usize = 3;
const TRUNCATORS: usize = 2;
/// The transaction of an entry 0: it makes the repository.
const MAKING: u8 = 3;

/// A random number, none of which is drawn twice. It says who drew it: in 16 of a client, 4 are of each of its transactions.
type Nonce = u8;
/// The first of those who are never slow.
const OTHERS: Nonce = 128;
/// What entry 0 has in the place of a hash.
const ZEROS: Nonce = 255;

fn nonce_of(client: u8, transaction: u8, attempt: u8) -> Nonce {
    client * 16 + transaction * 4 + attempt
}

/// Whether an entry is of that transaction of that client.
fn is_of(nonce: Nonce, client: u8, transaction: u8) -> bool {
    nonce / 4 == client * 4 + transaction
}

/// What the protocol rests on, each to be left out in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// After an entry was created, the one before it is read.
    ReadsBaseAfterCreate,
    /// After entries were read, the one that the client began with is read.
    ReadsBaseAfterReading,
    /// It is the one that the client began with, not the last that it has read.
    BaseIsNotTheLast,
    /// The hash of what is read then is compared.
    HashIsCompared,
    /// Entries are deleted from the lowest up.
    DeletedUpward,
    /// The entry of the newest checkpoint stays.
    NewestStays,
    /// An entry is never overwritten.
    CreateDoesNotOverwrite,
    /// An entry that was there is known for one's own by its nonce.
    OwnIsKnown,
    /// Each create that is sent has another nonce.
    NonceOfEachCreate,
    /// Whether a transaction was made is unknown if the entry before it is gone.
    GoneSaysNothing,
    /// A create of unknown outcome is repeated until its number is taken.
    UnknownIsRepeated,
    /// Who begins with entry 0 lists the checkpoints after he read or created it.
    ListedAgain,
}

/// Who does what.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What it is called in the output.
    pub name: &'static str,
    /// The guard left out.
    pub without: Option<Guard>,
    /// The transactions that each client wants to be made.
    pub transactions: [u8; CLIENTS],
    /// Whether the repository is there at the start. Else the clients make it.
    pub is_made: bool,
    /// How many there are.
    pub clients: u8,
    /// Those of them that know state 0 at the start. The others open.
    pub know: u8,
    /// The highest number of the log.
    pub highest: u8,
    /// Creates of the first client whose outcome is unknown.
    pub unknown: u8,
    /// Truncators, at most two.
    pub truncators: u8,
    /// Numbers of which a checkpoint may be created, a bit for each.
    pub checkpoints: u8,
    /// Whether clients create them too, of states that may be old.
    pub old_checkpoints: bool,
}

/// An object of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    nonce: Nonce,
    /// The nonce of the entry before: what its hash stands for here.
    prev: Nonce,
}

/// A create on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Late {
    number: u8,
    entry: Entry,
}

/// An entry of which the client knows number and hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Known {
    number: u8,
    hash: Nonce,
}

/// Where a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Knows nothing, and will begin with the checkpoint of the highest number.
    Opening,
    /// Has listed the checkpoints.
    Listed { newest: Option<u8> },
    /// There is no checkpoint and no entry 0: it will create that.
    Making,
    /// Has read or created entry 0, and will list the checkpoints again.
    Zero { hash: Nonce },
    /// Knows a state. The transaction that comes next is executed upon it.
    Knows(Known),
    /// Reads what comes after it.
    Reading { base: Known, last: Known },
    /// There is no entry after the last: the base is to be read.
    Verifying { base: Known, last: Known },
    /// There was an entry where it wanted to create one.
    Taken(Known),
    /// A create after this one had an unknown outcome.
    Repeating(Known),
    /// Has created an entry, or found its own, after this one.
    Created { base: Known, nonce: Nonce },
}

/// A client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Client {
    pub phase: Phase,
    /// Transactions that it is done with.
    pub done: u8,
    /// Creates that it sent for the one it is at.
    sent: u8,
    /// A create that it sent for that may have been executed.
    is_unsure: bool,
    /// Those that it was told were not made, a bit for each.
    pub denied: u8,
    /// The end of the true log when the reading began.
    begun: u8,
}

/// A truncator: the next entry that it deletes, if there is one, down or up to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Truncator {
    Idle,
    Deleting { next: u8, below: u8 },
}

/// The storage, its clients, and what happened that must not or should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    log: [Option<Entry>; NUMBERS],
    /// The nonces of the entries that were first created with their number.
    first: [Option<Nonce>; NUMBERS],
    /// Checkpoints, with the hash of their entry.
    checkpoints: [Option<Nonce>; NUMBERS],
    late: Option<Late>,
    unknown_left: u8,
    pub clients: [Client; CLIENTS],
    truncators: [Truncator; TRUNCATORS],
    pub seen: Seen,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Seen {
    /// An entry was first of its number, but not made upon the first of the number before.
    pub forked: bool,
    /// A transaction was taken as made that is not in the true sequence.
    pub falsely_made: bool,
    /// A state was taken as read that is none of the true sequence.
    pub falsely_read: bool,
    /// A state was taken as read that was there no more when the reading began.
    pub stale: bool,
}

/// A request, or what somebody decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A client reads on, whatever that needs.
    Read(u8),
    /// It creates an entry.
    Create(u8),
    /// It sends a create, and is not answered.
    CreateUnknown(u8),
    /// It creates a checkpoint of the state that it knows.
    Checkpoint(u8),
    ExecuteLate,
    /// Somebody appends an entry, with all that needs.
    Append,
    /// Somebody creates a checkpoint of the newest state.
    CheckpointNewest,
    /// A truncator lists.
    List(u8),
    Delete(u8),
}

impl Scenario {
    fn keeps(&self, guard: Guard) -> bool {
        self.without != Some(guard)
    }

    /// Creates an object of the log, and says whether it did.
    fn create(&self, state: &mut State, number: u8, entry: Entry) -> bool {
        let at = usize::from(number);
        if state.log[at].is_some() && self.keeps(Guard::CreateDoesNotOverwrite) {
            return false;
        }
        state.log[at] = Some(entry);
        if state.first[at].is_some() {
            return true;
        }
        let before = if at == 0 { Some(ZEROS) } else { state.first[at - 1] };
        state.seen.forked |= before != Some(entry.prev);
        state.first[at] = Some(entry.nonce);
        true
    }

    fn create_checkpoint(&self, state: &mut State, known: Known) -> Option<()> {
        let place = &mut state.checkpoints[usize::from(known.number)];
        if place.is_some() || self.checkpoints >> known.number & 1 == 0 {
            return None;
        }
        *place = Some(known.hash);
        Some(())
    }

    /// A step of a truncator; none if it cannot be made.
    fn truncate(&self, state: &mut State, id: u8, action: Action) -> Option<()> {
        let upward = self.keeps(Guard::DeletedUpward);
        let truncator = state.truncators[usize::from(id)];
        state.truncators[usize::from(id)] = match (action, truncator) {
            (Action::List(_), Truncator::Idle) => {
                let mut newest = (0..NUMBERS).rev().filter(|at| state.checkpoints[*at].is_some());
                let (newest, older) = (newest.next()?, newest.next()?);
                let below = if self.keeps(Guard::NewestStays) { older } else { newest + 1 };
                let mut there = (0..below).filter(|at| state.log[*at].is_some());
                let next = if upward { there.next() } else { there.next_back() }?;
                Truncator::Deleting { next: as_number(next), below: as_number(below) }
            }
            (Action::Delete(_), Truncator::Deleting { next, below }) => {
                state.log[usize::from(next)] = None;
                let end = if upward { next + 1 == below } else { next == 0 };
                if end {
                    state.checkpoints[..usize::from(below.min(as_number(NUMBERS - 1)))].fill(None);
                    Truncator::Idle
                } else {
                    let next = if upward { next + 1 } else { next - 1 };
                    Truncator::Deleting { next, below }
                }
            }
            _ => return None,
        };
        Some(())
    }
}

impl State {
    /// The highest number that ever had an entry.
    fn end(&self) -> Option<u8> {
        self.first.iter().rposition(Option::is_some).map(as_number)
    }

    fn newest_checkpoint(&self) -> Option<u8> {
        self.checkpoints.iter().rposition(Option::is_some).map(as_number)
    }

    /// Whether who opens now, and is not disturbed, reads the true end.
    pub fn is_whole(&self) -> bool {
        let Some(end) = self.end() else { return true };
        let from = usize::from(self.newest_checkpoint().unwrap_or(0));
        let checkpoint = self.checkpoints[from].is_none_or(|hash| Some(hash) == self.first[from]);
        let nonces = self.log.map(|entry| entry.map(|entry| entry.nonce));
        checkpoint && nonces[from..=usize::from(end)] == self.first[from..=usize::from(end)]
    }

    /// Whether an entry is there that is not the first of its number.
    pub fn has_again(&self) -> bool {
        let mut entries = self.log.iter().zip(self.first);
        entries.any(|(entry, first)| entry.is_some_and(|entry| Some(entry.nonce) != first))
    }

    /// How often a transaction is in the true sequence.
    pub fn times(&self, client: u8, transaction: u8) -> usize {
        self.first.iter().flatten().filter(|nonce| is_of(**nonce, client, transaction)).count()
    }

    /// Whether an entry is of the true sequence.
    fn is_true(&self, known: Known) -> bool {
        self.first[usize::from(known.number)] == Some(known.hash)
    }
}

fn as_number(at: usize) -> u8 {
    u8::try_from(at).expect("the domain is small")
}

impl Model for Scenario {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let first = OTHERS;
        let phase = |id: usize| match id < usize::from(self.know) {
            true => Phase::Knows(Known { number: 0, hash: first }),
            false => Phase::Opening,
        };
        let mut state = State {
            log: [None; NUMBERS],
            first: [None; NUMBERS],
            checkpoints: [None; NUMBERS],
            late: None,
            unknown_left: self.unknown,
            clients: std::array::from_fn(|id| Client {
                phase: phase(id),
                done: 0,
                sent: 0,
                is_unsure: false,
                denied: 0,
                begun: 0,
            }),
            truncators: [Truncator::Idle; TRUNCATORS],
            seen: Seen::default(),
        };
        if self.is_made {
            self.create(&mut state, 0, Entry { nonce: first, prev: ZEROS });
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for client in 0..self.clients {
            actions.extend([Action::Read(client), Action::Create(client)]);
            if client == 0 {
                actions.push(Action::CreateUnknown(client));
            }
            if self.old_checkpoints {
                actions.push(Action::Checkpoint(client));
            }
        }
        if state.late.is_some() {
            actions.push(Action::ExecuteLate);
        }
        actions.extend([Action::Append, Action::CheckpointNewest]);
        for truncator in 0..self.truncators {
            actions.extend([Action::List(truncator), Action::Delete(truncator)]);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut next = *last;
        match action {
            Action::Read(id)
            | Action::Create(id)
            | Action::CreateUnknown(id)
            | Action::Checkpoint(id) => self.act(&mut next, id, action)?,
            Action::ExecuteLate => {
                let Late { number, entry } = next.late.take()?;
                self.create(&mut next, number, entry);
            }
            Action::Append => {
                let end = next.end()?;
                let number = end + 1;
                if number > self.highest || !next.is_whole() {
                    return None;
                }
                let entry = Entry { nonce: OTHERS + number, prev: next.first[usize::from(end)]? };
                self.create(&mut next, number, entry);
            }
            Action::CheckpointNewest => {
                let number = next.end()?;
                let hash = next.first[usize::from(number)]?;
                self.create_checkpoint(&mut next, Known { number, hash })?;
            }
            Action::List(id) | Action::Delete(id) => self.truncate(&mut next, id, action)?,
        }
        (next != *last).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        scenarios::properties(self)
    }
}
