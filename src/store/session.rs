//! Who puts blocks that no commit names yet, and who removes blocks: never both at once.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

#[derive(Debug, Default)]
struct State {
    sessions: u64,
    compacting: bool,
}

#[derive(Debug, Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

/// The sessions of a store.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    gate: Arc<Gate>,
}

/// Keeps compaction out while it lives, see [`super::Store::session`].
#[derive(Debug)]
pub struct Session {
    gate: Arc<Gate>,
}

/// Keeps sessions out while it lives.
#[derive(Debug)]
pub(super) struct Exclusive {
    gate: Arc<Gate>,
}

impl Sessions {
    /// Starts a session, after any compaction that runs.
    pub(super) fn enter(&self) -> Session {
        let state = self.gate.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.gate.changed.wait_while(state, |state| state.compacting);
        waited.unwrap_or_else(PoisonError::into_inner).sessions += 1;
        Session { gate: Arc::clone(&self.gate) }
    }

    /// Keeps new sessions out and waits for those there are.
    pub(super) fn exclude(&self) -> Exclusive {
        let state = self.gate.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited =
            self.gate.changed.wait_while(state, |state| state.compacting || state.sessions > 0);
        waited.unwrap_or_else(PoisonError::into_inner).compacting = true;
        Exclusive { gate: Arc::clone(&self.gate) }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.gate.state.lock().unwrap_or_else(PoisonError::into_inner).sessions -= 1;
        self.gate.changed.notify_all();
    }
}

impl Drop for Exclusive {
    fn drop(&mut self) {
        self.gate.state.lock().unwrap_or_else(PoisonError::into_inner).compacting = false;
        self.gate.changed.notify_all();
    }
}
