//! Who removes objects that nothing names, and who reads.

use super::{Action, Guard, OLD, PACKS, Scenario, Session, Set, State, X, has, one};

/// The removal of orphans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Sweeper {
    Idle,
    /// These objects were listed (or, without [`Guard::StateAfterList`], these are named by nothing).
    Listed(Set),
    /// These are to be deleted.
    Judged(Set),
}

/// A reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Reader {
    Idle,
    /// Has found its block in a pack.
    Looked(u8),
    /// The object was not there.
    Missed,
    /// Has read it, after it was missed.
    Read,
}

impl Scenario {
    /// Objects that are there.
    fn listed(state: &State) -> Set {
        (0..PACKS).filter(|pack| state.packs[*pack].is_there).fold(0, |set, pack| set | one(pack))
    }

    /// Packs that no document names and nobody can register.
    fn unnamed(&self, state: &State) -> Set {
        let can_come = |pack: usize| match pack.checked_sub(OLD) {
            Some(session) => matches!(state.sessions[session], Session::Lives(_)),
            None => false,
        };
        let knows = self.keeps(Guard::OrphansHaveNoSession);
        (0..PACKS)
            .filter(|pack| state.packs[*pack].document.is_none() && !(knows && can_come(*pack)))
            .fold(0, |set, pack| set | one(pack))
    }

    /// A step of the removal of orphans; none if it cannot be made.
    pub(super) fn sweep(&self, state: &mut State, action: Action) -> Option<()> {
        let after = self.keeps(Guard::StateAfterList);
        state.sweeper = match (action, state.sweeper) {
            (Action::ListOrphans, Sweeper::Idle) => {
                state.sweeps_left = state.sweeps_left.checked_sub(1)?;
                Sweeper::Listed(if after { Self::listed(state) } else { self.unnamed(state) })
            }
            (Action::JudgeOrphans, Sweeper::Listed(set)) => {
                let other = if after { self.unnamed(state) } else { Self::listed(state) };
                if set & other == 0 { Sweeper::Idle } else { Sweeper::Judged(set & other) }
            }
            (Action::DeleteOrphans, Sweeper::Judged(set)) => {
                (0..PACKS).filter(|pack| has(set, *pack)).for_each(|pack| state.delete(pack));
                Sweeper::Idle
            }
            _ => return None,
        };
        Some(())
    }

    /// A step of the reader of X; none if it cannot be made.
    pub(super) fn read(&self, state: &mut State, action: Action) -> Option<()> {
        state.reader = match (action, state.reader) {
            (Action::ReaderLooks, Reader::Idle | Reader::Missed) => {
                let pack = state.readable(X).last().copied()?;
                Reader::Looked(u8::try_from(pack).expect("the domain is small"))
            }
            (Action::ReaderGets, Reader::Looked(pack)) => {
                match state.packs[usize::from(pack)].is_there {
                    true => Reader::Read,
                    false => Reader::Missed,
                }
            }
            _ => return None,
        };
        Some(())
    }
}
