//! Who puts blocks that no commit names yet, and who removes blocks.
//!
//! A compaction begins at a moment without sessions: what lives is what the commit of that moment reaches.
//! Sessions that begin later go on beside it: what they append is in no segment that it removes, and what
//! they find instead of appending it they mark as living, or, where that is too late, append all the same.

use std::sync::{Arc, PoisonError};

use super::marks::Marks;
use super::sync::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// What a compaction that runs keeps.
type Keeping = Option<Arc<Mutex<Marks>>>;

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
    /// Held by the one that compacts.
    turn: Mutex<()>,
    keeping: RwLock<Keeping>,
}

/// Keeps what it puts from compaction while it lives, see [`super::Store::session`].
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
    /// Starts a session, after the beginning of any compaction that waits for one.
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

impl Sessions {
    /// Waits until nobody else compacts.
    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a compaction keeps. Held from a look-up to the mark that keeps what was found.
    pub(super) fn keeping(&self) -> RwLockReadGuard<'_, Keeping> {
        self.keeping.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same for the compaction: while it is held, nobody is between a look-up and its mark.
    pub(super) fn change_keeping(&self) -> RwLockWriteGuard<'_, Keeping> {
        self.keeping.write().unwrap_or_else(PoisonError::into_inner)
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
