//! What a writer of packs does: it looks blocks up, asserts, writes a pack of what is not there, commits.

use super::{Action, BLOCKS, D, Guard, OLD, Scenario, Session, Set, State, WITH_D, X, has, one};

/// Where a writer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Phase {
    /// It asserts nothing yet.
    Begins,
    /// It has raised the stamps of what it found.
    Touched,
    /// It has created its pack.
    Created,
    /// All is asserted.
    Ready,
    Committed,
    /// Its session is gone.
    Lost,
}

/// A writer: what it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Writer {
    pub phase: Phase,
    /// The pack in which it found each block, in the state that it looked at, however old that is.
    found: Option<[Option<u8>; BLOCKS.len()]>,
    /// The lowest stamp of these.
    lowest: u8,
    /// Whether it found X with a dictionary.
    with_dictionary: bool,
    pub asserted: Set,
    generation: u8,
}

impl Writer {
    pub fn new() -> Self {
        Self {
            phase: Phase::Begins,
            found: None,
            lowest: 0,
            with_dictionary: false,
            asserted: 0,
            generation: 0,
        }
    }

    /// The session is gone: what is still to be sent is a touch at most, or a pack on its way.
    pub fn end(&mut self) {
        self.asserted = 0;
        if matches!(self.phase, Phase::Touched | Phase::Ready) {
            self.phase = Phase::Lost;
        }
    }
}

impl Scenario {
    /// A step of a writer; none if it cannot be made.
    pub(super) fn write(&self, state: &mut State, id: usize, action: Action) -> Option<()> {
        let mut writer = state.writers[id];
        match action {
            Action::LookUp { newest, .. } => {
                if writer.found.is_some() || writer.phase != Phase::Begins {
                    return None;
                }
                self.look_up(state, id, &mut writer, newest);
            }
            Action::Start(_) => {
                if state.sessions[id] != Session::None {
                    return None;
                }
                state.sessions[id] = Session::Lives(state.generation);
                writer.generation = state.generation;
            }
            Action::Touch(_) => {
                if writer.phase != Phase::Begins || state.sessions[id] == Session::None {
                    return None;
                }
                let asserted = self.touch_found(state, &writer)?;
                writer.phase = Phase::Lost;
                if state.lives(id) {
                    writer.asserted = asserted;
                    let is_all = self.roots[id] & !asserted == 0;
                    writer.phase = if is_all { Phase::Ready } else { Phase::Touched };
                }
                writer.found = None;
                writer.lowest = 0;
                writer.with_dictionary = false;
            }
            Action::LateTouch { pack, .. } => {
                if state.sessions[id] != Session::Gone {
                    return None;
                }
                state.late_left -= 1;
                state.touch(pack, writer.generation);
            }
            Action::CreatePack(_) => {
                let missing = self.roots[id] & !writer.asserted;
                if writer.phase != Phase::Touched {
                    return None;
                }
                let compresses = missing & X != 0 && has(self.compresses, id);
                let contents = if compresses { missing & !X | WITH_D | D } else { missing };
                state.packs[OLD + id].contents = contents;
                state.packs[OLD + id].is_there = true;
                writer.phase = Phase::Created;
            }
            Action::Register(_) => {
                if writer.phase != Phase::Created {
                    return None;
                }
                let lives = state.lives(id);
                if lives || !self.keeps(Guard::RegisteringChecksSession) {
                    state.register(OLD + id, writer.generation);
                }
                writer.phase = if lives { Phase::Ready } else { Phase::Lost };
                if lives {
                    writer.asserted = self.roots[id];
                }
            }
            Action::Commit(_) => {
                if writer.phase != Phase::Ready || !state.lives(id) {
                    return None;
                }
                state.roots |= one(id);
                writer.phase = Phase::Committed;
            }
            _ => return None,
        }
        state.writers[id] = writer;
        Some(())
    }

    fn look_up(&self, state: &State, id: usize, writer: &mut Writer, newest: bool) {
        let find = |block: Set| {
            let packs = state.readable(block);
            if newest { packs.last().copied() } else { packs.first().copied() }
        };
        let mut found = BLOCKS.map(|block| find(block).filter(|_| self.roots[id] & block != 0));
        // A copy as it is serves before one with a dictionary, if a pack has both.
        let with_dictionary = found[0].is_some_and(|pack| state.packs[pack].contents & X == 0);
        found[2] = find(D).filter(|_| with_dictionary);
        writer.with_dictionary = with_dictionary;
        let stamps = found.iter().flatten().filter_map(|pack| state.stamp(*pack));
        writer.lowest = stamps.min().unwrap_or(0);
        let as_number = |pack| u8::try_from(pack).expect("the domain is small");
        writer.found = Some(found.map(|found| found.map(as_number)));
    }

    /// Raises the stamps of what was found, unless they suffice, and says what that asserts.
    fn touch_found(&self, state: &mut State, writer: &Writer) -> Option<Set> {
        let found = writer.found?;
        let stamp = writer.generation;
        let asserts_dictionary = self.keeps(Guard::DictionaryIsAsserted);
        let suffices = writer.lowest >= stamp;
        let mut asserted = 0;
        for (block, pack) in BLOCKS.into_iter().zip(found) {
            let Some(pack) = pack.map(usize::from) else { continue };
            if block == D && !asserts_dictionary {
                continue;
            }
            let is_there = suffices || state.touch(pack, stamp);
            if is_there || !self.keeps(Guard::TouchIsRechecked) {
                asserted |= block;
            }
        }
        if writer.with_dictionary && asserts_dictionary && asserted & D == 0 {
            asserted &= !X;
        }
        Some(asserted)
    }
}
