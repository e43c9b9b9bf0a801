//! What a reader does, and who lets snapshots and slices expire beside it.

use super::{Action, Guard, READER, Reader, Scenario, State, has, one, unpin};

impl Scenario {
    /// A step of the reader; none if it cannot be made. It may lose its session at any moment.
    pub(super) fn read(&self, state: &mut State, action: Action) -> Option<()> {
        let snapshot = usize::from(self.reads?);
        let in_snapshot = self.keeps(Guard::PinInSnapshot);
        match (action, state.reader) {
            (Action::StartReading, Reader::Idle) => {
                state.reader_session = true;
                state.reader = Reader::Started;
            }
            (Action::PinRead, Reader::Started) => {
                state.snapshots[snapshot]?;
                if self.keeps(Guard::PinWritesJob) && self.is_job_held(state, 0) {
                    return None;
                }
                state.reader = if in_snapshot { self.pin_read(state)? } else { Reader::Looked };
            }
            (Action::PinRead, Reader::Looked) => {
                state.reader_pin = state.reader_session;
                state.reader = Reader::Reading;
            }
            (Action::EndReading, Reader::Reading) => {
                if !state.reader_session {
                    return None;
                }
                remove_reader(state);
                state.reader = Reader::Ended;
            }
            (Action::RemoveReader, _) if state.reader_session => remove_reader(state),
            _ => return None,
        }
        Some(())
    }

    /// Pins, and sees that the slice is there.
    fn pin_read(&self, state: &mut State) -> Option<Reader> {
        let pins = state.snapshots[usize::from(self.reads?)].as_mut()?;
        if !state.reader_session || !state.slice {
            return None;
        }
        *pins |= one(READER);
        Some(Reader::Reading)
    }

    /// Expiries are commits of the job of writer 0 that end as they are made.
    pub(super) fn expire(&self, state: &mut State, action: Action) -> Option<()> {
        if self.is_job_held(state, 0) {
            return None;
        }
        match action {
            Action::Expire(snapshot) => {
                let expires = has(self.expiring, snapshot);
                let held = &mut state.snapshots[usize::from(snapshot)];
                if !expires || *held != Some(0) || state.reader_pin {
                    return None;
                }
                *held = None;
            }
            Action::ExpireSlice if state.slice_expiring => {
                state.slice = false;
                state.slice_expiring = false;
            }
            Action::ExpireSlice => {
                let pinned = state.snapshots[0].is_some_and(|pins| pins != 0);
                if self.reads.is_none() || !state.slice || pinned {
                    return None;
                }
                state.slice_expiring = !self.keeps(Guard::PinWritesJob);
                state.slice = state.slice_expiring;
            }
            _ => return None,
        }
        Some(())
    }
}

fn remove_reader(state: &mut State) {
    state.reader_session = false;
    state.reader_pin = false;
    unpin(state, READER);
}
