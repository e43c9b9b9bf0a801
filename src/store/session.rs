//! Who puts blocks that no commit names yet, and who removes blocks.
//!
//! A compaction begins a generation of sessions and waits until those of older ones have ended; nobody waits for
//! it. What lives is what the commit of that moment reaches, and what sessions of the new generation put: what
//! they append is in no segment that the compaction removes, and what they find instead of appending it they mark as
//! living, or, where that is too late, append all the same.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use super::Error;
use super::marks::Marks;
use super::sync::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// What a compaction that runs keeps.
type Keeping = Option<Arc<Mutex<Marks>>>;

#[derive(Debug, Default)]
struct State {
    generation: u64,
    /// How many live, by the generation they began in.
    living: BTreeMap<u64, u64>,
    /// Whether compactions are to end.
    stopped: bool,
}

#[derive(Debug, Default)]
struct Gate {
    state: Mutex<State>,
    ended: Condvar,
}

/// The sessions of a store.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    gate: Arc<Gate>,
    /// Held by the one that compacts.
    turn: Mutex<()>,
    keeping: RwLock<Keeping>,
    /// Bytes that nothing needed when they were last counted.
    dead_bytes: Mutex<Option<u64>>,
}

/// Keeps what it puts from compaction while it lives, see [`super::Store::session`].
#[derive(Debug)]
pub struct Session {
    gate: Arc<Gate>,
    generation: u64,
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sessions {
    /// Starts a session.
    pub(super) fn enter(&self) -> Session {
        let mut state = self.gate.state();
        let generation = state.generation;
        *state.living.entry(generation).or_default() += 1;
        Session { gate: Arc::clone(&self.gate), generation }
    }

    /// Begins a generation.
    pub(super) fn begin_generation(&self) {
        self.gate.state().generation += 1;
    }

    /// Waits for the end of every session of an older generation.
    pub(super) fn wait_for_older(&self) -> Result<(), Error> {
        let older = |state: &mut State| {
            let oldest = state.living.first_key_value();
            !state.stopped && oldest.is_some_and(|(oldest, _)| *oldest < state.generation)
        };
        drop(self.gate.ended.wait_while(self.gate.state(), older));
        self.check_stopped()
    }

    /// Has compactions end early from now on, those that wait included.
    pub(super) fn stop(&self) {
        self.gate.state().stopped = true;
        self.gate.ended.notify_all();
    }

    /// Fails if compactions are to end.
    pub(super) fn check_stopped(&self) -> Result<(), Error> {
        if self.gate.state().stopped { Err(Error::Stopped) } else { Ok(()) }
    }
}

impl Sessions {
    /// Bytes that nothing needed when they were last counted, if they were.
    pub(super) fn dead_bytes(&self) -> Option<u64> {
        *self.dead_bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note_dead(&self, bytes: u64) {
        *self.dead_bytes.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes);
    }

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
        let mut state = self.gate.state();
        if let Some(living) = state.living.get_mut(&self.generation) {
            *living -= 1;
            if *living == 0 {
                state.living.remove(&self.generation);
            }
        }
        self.gate.ended.notify_all();
    }
}
