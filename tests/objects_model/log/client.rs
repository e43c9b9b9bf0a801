//! What a client of the log does: it opens, reads, creates.

use super::{
    Action, Client, Entry, Guard, Known, Late, MAKING, NUMBERS, Phase, Scenario, State, ZEROS,
    is_of, nonce_of,
};

/// Creates that a client sends for one transaction.
const SENT: u8 = 3;

impl Scenario {
    /// A step of a client; none if it cannot be made.
    pub(super) fn act(&self, state: &mut State, id: u8, action: Action) -> Option<()> {
        let mut client = state.clients[usize::from(id)];
        match action {
            Action::Read(_) => self.read(state, id, &mut client)?,
            Action::Create(_) => {
                let (base, number, entry) = self.next_entry(id, &mut client)?;
                let created = self.create(state, number, entry);
                client.phase = match base {
                    Some(base) if created => self.created(state, &mut client, base, entry.nonce),
                    Some(base) => Phase::Taken(base),
                    None if created => self.found_zero(entry.nonce),
                    None => Phase::Listed { newest: None },
                };
            }
            Action::CreateUnknown(_) => {
                state.unknown_left = state.unknown_left.checked_sub(1)?;
                let (base, number, entry) = self.next_entry(id, &mut client)?;
                if state.late.is_some() {
                    return None;
                }
                state.late = Some(Late { number, entry });
                if let Some(base) = base {
                    client.is_unsure = true;
                    client.phase = Phase::Repeating(base);
                    if !self.keeps(Guard::UnknownIsRepeated) {
                        // It takes an entry that is not there for one that will not be.
                        client.denied |= 1 << client.done;
                        client.pass();
                        client.phase = Phase::Knows(base);
                    }
                }
            }
            Action::Checkpoint(_) => {
                let Phase::Knows(known) = client.phase else { return None };
                self.create_checkpoint(state, known)?;
            }
            _ => return None,
        }
        state.clients[usize::from(id)] = client;
        Some(())
    }

    /// The next entry that a client creates: after which, with which number.
    fn next_entry(&self, id: u8, client: &mut Client) -> Option<(Option<Known>, u8, Entry)> {
        let (base, transaction) = match client.phase {
            Phase::Making => (None, MAKING),
            Phase::Knows(base) | Phase::Repeating(base) => (Some(base), client.done),
            _ => return None,
        };
        let number = base.map_or(0, |base| base.number + 1);
        let wants = base.is_none() || client.done < self.transactions[usize::from(id)];
        let makes_again = base.is_none() && client.done > 0;
        if !wants || makes_again || number > self.highest || client.sent == SENT {
            return None;
        }
        let repeats = matches!(client.phase, Phase::Repeating(_));
        if repeats && !self.keeps(Guard::NonceOfEachCreate) {
            client.sent -= 1;
        }
        let nonce = nonce_of(id, transaction, client.sent);
        client.sent += 1;
        Some((base, number, Entry { nonce, prev: base.map_or(ZEROS, |base| base.hash) }))
    }

    fn found_zero(&self, hash: u8) -> Phase {
        match self.keeps(Guard::ListedAgain) {
            true => Phase::Zero { hash },
            false => Phase::Knows(Known { number: 0, hash }),
        }
    }

    /// Whether an entry is there and has the hash that is known.
    fn is_there(&self, state: &State, known: Known) -> bool {
        let entry = state.log[usize::from(known.number)];
        entry.is_some_and(|entry| entry.nonce == known.hash || !self.keeps(Guard::HashIsCompared))
    }

    /// The next request of who reads, and what the client makes of the answer.
    fn read(&self, state: &mut State, id: u8, client: &mut Client) -> Option<()> {
        client.phase = match client.phase {
            Phase::Opening => {
                client.begun = state.end().unwrap_or(0);
                Phase::Listed { newest: state.newest_checkpoint() }
            }
            Phase::Listed { newest: Some(number) } => {
                match state.checkpoints[usize::from(number)] {
                    Some(hash) => reading(Known { number, hash }),
                    None => Phase::Opening,
                }
            }
            Phase::Listed { newest: None } => match state.log[0] {
                Some(entry) => self.found_zero(entry.nonce),
                None => Phase::Making,
            },
            Phase::Zero { hash } => match state.newest_checkpoint() {
                None => reading(Known { number: 0, hash }),
                Some(_) => Phase::Opening,
            },
            Phase::Knows(base) => {
                client.begun = state.end().unwrap_or(0);
                reading(base)
            }
            Phase::Reading { base, last } => match entry_after(state, last) {
                Some(entry) if entry.prev == last.hash => {
                    let last = Known { number: last.number + 1, hash: entry.nonce };
                    Phase::Reading { base, last }
                }
                Some(_) => self.lost(client),
                None if self.keeps(Guard::ReadsBaseAfterReading) => Phase::Verifying { base, last },
                None => took(state, client, base, last),
            },
            Phase::Verifying { base, last } => {
                let verified = if self.keeps(Guard::BaseIsNotTheLast) { base } else { last };
                match self.is_there(state, verified) {
                    true => took(state, client, base, last),
                    false => self.lost(client),
                }
            }
            Phase::Taken(base) => match entry_after(state, base) {
                Some(entry) if self.is_own(id, client, entry) => {
                    self.created(state, client, base, entry.nonce)
                }
                _ => reading(base),
            },
            Phase::Created { base, nonce } => {
                if self.is_there(state, base) {
                    made(state, client, base, nonce)
                } else {
                    client.is_unsure = true;
                    self.lost(client)
                }
            }
            Phase::Making | Phase::Repeating(_) => return None,
        };
        Some(())
    }

    fn is_own(&self, id: u8, client: &Client, entry: Entry) -> bool {
        self.keeps(Guard::OwnIsKnown) && is_of(entry.nonce, id, client.done)
    }

    /// Begins anew, for the base is gone. Whether a create of its own came before that nothing tells any more.
    fn lost(&self, client: &mut Client) -> Phase {
        if client.is_unsure && self.keeps(Guard::GoneSaysNothing) {
            client.pass();
        }
        client.begun = 0;
        Phase::Opening
    }

    fn created(&self, state: &mut State, client: &mut Client, base: Known, nonce: u8) -> Phase {
        match self.keeps(Guard::ReadsBaseAfterCreate) {
            true => Phase::Created { base, nonce },
            false => made(state, client, base, nonce),
        }
    }
}

impl Client {
    /// Goes on to the next transaction.
    fn pass(&mut self) {
        self.done += 1;
        self.sent = 0;
        self.is_unsure = false;
    }
}

fn reading(base: Known) -> Phase {
    Phase::Reading { base, last: base }
}

fn entry_after(state: &State, known: Known) -> Option<Entry> {
    let number = usize::from(known.number) + 1;
    if number < NUMBERS { state.log[number] } else { None }
}

/// The client takes a state as read.
fn took(state: &mut State, client: &mut Client, base: Known, last: Known) -> Phase {
    // What an unknown create would have had the number of is another's.
    client.is_unsure &= last == base;
    state.seen.falsely_read |= !state.is_true(last);
    state.seen.stale |= last.number < client.begun;
    client.begun = 0;
    Phase::Knows(last)
}

/// The client takes its transaction as made.
fn made(state: &mut State, client: &mut Client, base: Known, nonce: u8) -> Phase {
    let last = Known { number: base.number + 1, hash: nonce };
    state.seen.falsely_made |= !state.is_true(base) || !state.is_true(last);
    client.pass();
    Phase::Knows(last)
}
