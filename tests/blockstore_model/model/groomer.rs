//! What a groomer does: it raises, waits, marks, sweeps.

use super::{Action, BLOCKS, Groomer, Guard, SNAPSHOTS, Scenario, Set, State, has, lowest, one};

impl Scenario {
    /// The roots in the parts in which they are read, each as of one time.
    fn parts(&self) -> Vec<Set> {
        let snapshots = (one(SNAPSHOTS) - 1) & !self.slices;
        if !self.keeps(Guard::SnapshotsAtOneTime) {
            (0..SNAPSHOTS).map(one).collect()
        } else if !self.keeps(Guard::SlicesAfterSnapshots) {
            vec![self.slices, snapshots]
        } else if self.slices != 0 {
            vec![snapshots, self.slices]
        } else {
            vec![snapshots]
        }
    }

    /// A step of a groomer; none if it cannot be made. It may end the session of anybody, whether dead or only slow.
    pub(super) fn groom(&self, state: &mut State, id: u8, action: Action) -> Option<()> {
        let groomer = state.groomers[usize::from(id)];
        state.groomers[usize::from(id)] = match (action, groomer) {
            (Action::Raise(_), Groomer::Idle) if state.generation <= self.raises => {
                state.generation += 1;
                Groomer::Waiting { to: state.generation }
            }
            (Action::RemoveSession { session, .. }, Groomer::Waiting { to }) => {
                let generation = state.sessions[usize::from(session)]?;
                if generation >= to || !self.remove_session(state, session) {
                    return None;
                }
                groomer
            }
            (Action::Waited(_), Groomer::Waiting { to }) => {
                if state.sessions.iter().flatten().any(|generation| *generation < to) {
                    return None;
                }
                Groomer::Marking { to, parts: 0, marked: 0 }
            }
            (Action::Mark(_), Groomer::Marking { to, parts, marked }) => {
                let all = self.parts();
                let part = all[usize::from(parts)];
                let there = |snapshot: &u8| state.snapshots[usize::from(*snapshot)].is_some();
                let read = (0..SNAPSHOTS).filter(|snapshot| has(part, *snapshot)).filter(there);
                let marked = read.fold(marked, |marked, snapshot| marked | self.contents(snapshot));
                if usize::from(parts) + 1 < all.len() {
                    Groomer::Marking { to, parts: parts + 1, marked }
                } else {
                    let left = self.older(state, to) & !marked & !self.dictionaries;
                    Groomer::Sweeping { to, left }
                }
            }
            (Action::Sweep(_), Groomer::Sweeping { to, left }) => match lowest(left) {
                Some(block) => {
                    self.delete(state, block, to);
                    Groomer::Sweeping { to, left: left & !one(block) }
                }
                None => {
                    let left = self.older(state, to) & self.dictionaries;
                    Groomer::Dictionaries { to, left, unused: None }
                }
            },
            (Action::Sweep(_), Groomer::Dictionaries { to, left, unused: Some(block) }) => {
                self.delete(state, block, to);
                Groomer::Dictionaries { to, left, unused: None }
            }
            (Action::Sweep(_), Groomer::Dictionaries { to, left, unused: None }) => {
                match lowest(left) {
                    Some(block) => {
                        let mut stored = state.blocks.iter().flatten();
                        let used = stored.any(|stored| stored.dictionary == Some(block));
                        let unused = (!used).then_some(block);
                        Groomer::Dictionaries { to, left: left & !one(block), unused }
                    }
                    None => Groomer::Idle,
                }
            }
            _ => return None,
        };
        Some(())
    }

    /// Blocks with a stamp below a generation.
    fn older(&self, state: &State, generation: u8) -> Set {
        let older = |block: &u8| {
            state.blocks[usize::from(*block)].is_some_and(|stored| stored.stamp < generation)
        };
        (0..BLOCKS).filter(older).fold(0, |set, block| set | one(block))
    }

    fn delete(&self, state: &mut State, block: u8, generation: u8) {
        let stored = &mut state.blocks[usize::from(block)];
        let conditional = self.keeps(Guard::DeleteHasCondition);
        if stored.is_some_and(|stored| stored.stamp < generation || !conditional) {
            *stored = None;
            state.seen.removed = true;
        }
    }
}
