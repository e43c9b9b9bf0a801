//! What a writer does: it starts, asserts, commits, moves into later generations, ends, dies.

use super::{
    Action, Guard, Late, LateWrite, Open, Phase, Push, RUNS, Scenario, State, Stored, Writer, has,
    lowest, one,
};

/// How often a job is taken, its first owner counted.
const EPOCHS: u8 = 3;

impl Scenario {
    /// The snapshot that a writer pushes.
    fn pushed(&self, id: u8, writer: &Writer) -> u8 {
        let push = self.push(id);
        push.then.filter(|_| writer.second).unwrap_or(push.snapshot)
    }

    /// What a writer asserts next: a dictionary before what it is used for.
    fn next_block(&self, id: u8, writer: &Writer) -> Option<u8> {
        let push = self.push(id);
        let base = push.base.filter(|_| writer.based).map_or(0, |base| self.contents(base));
        let needed = self.contents(self.pushed(id, writer)) & !base;
        let dictionary = push.dictionary.filter(|_| has(needed, 0)).map_or(0, one);
        lowest(dictionary & !writer.asserted).or(lowest(needed & !writer.asserted))
    }

    /// The dictionary that a writer stores a block with.
    fn stored_with(&self, writer: u8, block: u8) -> Option<u8> {
        self.push(writer).dictionary.filter(|_| block == 0)
    }

    /// The block write that a writer is about to send.
    fn next_write(&self, id: u8, writer: &Writer) -> Option<Late> {
        let (block, write) = match writer.phase {
            Phase::Pushing => (self.next_block(id, writer)?, LateWrite::Touch),
            Phase::Found(block) => (block, LateWrite::Touch),
            Phase::Missing(block) => {
                (block, LateWrite::Insert { dictionary: self.stored_with(id, block) })
            }
            _ => return None,
        };
        Some(Late { block, stamp: writer.stamp, write })
    }

    /// Leaves the next block write on its way.
    fn send_late(&self, state: &mut State, id: u8, writer: &Writer) -> Option<()> {
        state.late_left = state.late_left.checked_sub(1)?;
        if state.late.is_some() {
            return None;
        }
        state.late = Some(self.next_write(id, writer)?);
        Some(())
    }

    /// The next command that asserts a block, and what the writer makes of the answer.
    fn assert_next(&self, state: &mut State, id: u8, writer: &mut Writer) -> Option<()> {
        let stamp = writer.stamp;
        match writer.phase {
            Phase::Pushing => {
                let block = self.next_block(id, writer)?;
                if !self.keeps(Guard::DuplicateIsNoProof) {
                    let stored = &mut state.blocks[usize::from(block)];
                    let dictionary = self.stored_with(id, block);
                    stored.get_or_insert(Stored { stamp, dictionary });
                    writer.asserted |= one(block);
                } else if !self.keeps(Guard::CountIsChecked) {
                    let is_there = state.blocks[usize::from(block)].is_some();
                    writer.phase =
                        if is_there { Phase::Found(block) } else { Phase::Missing(block) };
                } else if self.touch(state, block, stamp) {
                    self.matched(writer, block);
                } else {
                    writer.phase = Phase::Missing(block);
                }
            }
            Phase::Found(block) => {
                self.touch(state, block, stamp);
                writer.assert(block);
            }
            Phase::Missing(block) => {
                if Self::insert(state, block, stamp, self.stored_with(id, block)) {
                    writer.assert(block);
                } else {
                    // A duplicate key is no proof: its stamp may be low.
                    writer.phase = Phase::Pushing;
                }
            }
            Phase::Matched(block) => {
                let found = state.blocks[usize::from(block)].filter(|found| found.stamp >= stamp);
                match found.map(|found| found.dictionary) {
                    None => writer.phase = Phase::Missing(block),
                    Some(Some(used)) if !has(writer.asserted, used) => {
                        writer.phase = Phase::Uses(block, used);
                    }
                    Some(_) => writer.assert(block),
                }
            }
            Phase::Uses(block, used) => {
                if self.touch(state, used, stamp) {
                    writer.asserted |= one(used);
                    writer.assert(block);
                } else {
                    writer.phase = Phase::Unreadable(block, used);
                }
            }
            Phase::Unreadable(block, used) => {
                let session = session(id, writer.run);
                let fenced = self.keeps(Guard::StoringAnewIsFenced);
                if fenced && state.sessions[usize::from(session)].is_none() {
                    return None;
                }
                let stored = state.blocks[usize::from(block)].as_mut();
                if let Some(stored) = stored.filter(|stored| stored.dictionary == Some(used)) {
                    stored.dictionary = self.stored_with(id, block);
                    stored.stamp = stored.stamp.max(stamp);
                    state.seen.stored_anew = true;
                    writer.assert(block);
                } else {
                    writer.phase = Phase::Pushing;
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// The block has the stamp now; if it may be stored with a dictionary, that is to be found out.
    fn matched(&self, writer: &mut Writer, block: u8) {
        let plain = self.dictionaries == 0 || has(self.dictionaries, block);
        if plain || !self.keeps(Guard::DictionaryAsserted) {
            writer.assert(block);
        } else {
            writer.phase = Phase::Matched(block);
        }
    }

    /// A step of a writer; none if it cannot be made.
    pub(super) fn write(&self, state: &mut State, id: u8, action: Action) -> Option<()> {
        let mut writer = state.writers[usize::from(id)];
        let push = self.push(id);
        let session = session(id, writer.run);
        let at = usize::from(session);
        let lives = state.sessions[at].is_some();
        match action {
            Action::TakeOver(_) => {
                let may = self.one_job && writer.phase == Phase::Idle;
                if !may || writer.epoch == state.epoch || state.epoch == EPOCHS {
                    return None;
                }
                if self.is_job_held(state, id) {
                    return None;
                }
                state.epoch += 1;
                writer.epoch = state.epoch;
            }
            Action::Start(_) => match writer.phase {
                Phase::Idle if writer.epoch > 0 => {
                    writer.stamp = state.generation;
                    writer.phase = Phase::Starting;
                    if self.keeps(Guard::StartCounts) {
                        self.started(state, &mut writer, push, at);
                    }
                }
                Phase::Starting => self.started(state, &mut writer, push, at),
                _ => return None,
            },
            Action::PinBase(_) => {
                if writer.phase != Phase::Pinning || !lives || self.is_job_held(state, id) {
                    return None;
                }
                let base = push.base?;
                if let Some(pins) = &mut state.snapshots[usize::from(base)] {
                    *pins |= one(session);
                    writer.based = true;
                }
                writer.phase = Phase::Pushing;
            }
            Action::Assert { again, .. } => {
                if again {
                    self.send_late(state, id, &writer)?;
                }
                self.assert_next(state, id, &mut writer)?;
            }
            Action::Guess(_) => {
                if writer.phase != Phase::Pushing {
                    return None;
                }
                writer.phase = Phase::Missing(self.next_block(id, &writer)?);
            }
            Action::Reassert(_) => {
                if writer.phase != Phase::Pushing || writer.stamp == state.generation {
                    return None;
                }
                writer.stamp = state.generation;
                writer.asserted = 0;
            }
            Action::Move(_) => {
                let generation = state.sessions[at].as_mut()?;
                if writer.phase != Phase::Pushing || *generation == writer.stamp {
                    return None;
                }
                *generation = writer.stamp;
                writer.moved = true;
            }
            Action::Prepare(_) => {
                let ready =
                    writer.phase == Phase::Pushing && self.next_block(id, &writer).is_none();
                let may = lives && writer.epoch == state.epoch && !self.is_job_held(state, id);
                if !ready || !may || state.open[usize::from(id)].is_some() {
                    return None;
                }
                state.open[usize::from(id)] =
                    Some(Open { session, snapshot: self.pushed(id, &writer), epoch: writer.epoch });
                writer.phase = Phase::Committing;
            }
            Action::EndTransaction { commits, .. } => {
                let open = state.open[usize::from(id)].take()?;
                let snapshot = &mut state.snapshots[usize::from(open.snapshot)];
                if commits {
                    if snapshot.is_some() {
                        return None;
                    }
                    *snapshot = Some(0);
                    state.seen.stale_commit |= open.epoch != state.epoch;
                    let denied = writer.phase == Phase::Failed && open.session == session;
                    state.seen.denied_commit |= denied;
                    state.seen.moved |= writer.moved && open.session == session;
                }
            }
            Action::Decide(_) => {
                let open = state.open[usize::from(id)].is_some_and(|open| open.session == session);
                if writer.phase != Phase::Committing || open && self.keeps(Guard::DecisionWrites) {
                    return None;
                }
                let made = state.snapshots[usize::from(self.pushed(id, &writer))].is_some();
                writer.phase = match made {
                    true if push.then.is_some() && !writer.second => {
                        writer.second = true;
                        Phase::Pushing
                    }
                    true => Phase::Committed,
                    false => Phase::Failed,
                };
            }
            Action::End(_) => {
                let done = matches!(writer.phase, Phase::Committed | Phase::Failed);
                if !done || !self.remove_session(state, session) {
                    return None;
                }
                writer.phase = Phase::Ended;
            }
            Action::Die { sends, .. } => {
                let resting = matches!(writer.phase, Phase::Idle | Phase::Ended);
                if resting || writer.run + 1 >= self.runs {
                    return None;
                }
                if sends {
                    self.send_late(state, id, &writer)?;
                }
                writer = Writer { run: writer.run + 1, ..new_writer(writer.epoch) };
            }
            _ => return None,
        }
        state.writers[usize::from(id)] = writer;
        Some(())
    }

    /// The session is there, with the generation that the writer read.
    fn started(&self, state: &mut State, writer: &mut Writer, push: Push, session: usize) {
        state.sessions[session] = Some(writer.stamp);
        writer.phase = if push.base.is_some() { Phase::Pinning } else { Phase::Pushing };
    }
}

impl Writer {
    fn assert(&mut self, block: u8) {
        self.asserted |= one(block);
        self.phase = Phase::Pushing;
    }
}

/// The session of a writer after so many deaths.
fn session(writer: u8, run: u8) -> u8 {
    writer * RUNS + run
}

pub(super) fn new_writer(epoch: u8) -> Writer {
    Writer {
        phase: Phase::Idle,
        run: 0,
        epoch,
        based: false,
        second: false,
        stamp: 0,
        asserted: 0,
        moved: false,
    }
}
