//! What the store's threads wait on: the locks of the standard library, or, with the feature `schedules`, those of
//! a test that decides in which order threads go on and tries many (`tests/store_schedules.rs`).

use std::sync::PoisonError;
use std::time::Duration;

#[cfg(not(feature = "schedules"))]
pub(crate) use std::sync::{
    Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic,
};
#[cfg(not(feature = "schedules"))]
pub(super) use std::thread::sleep;

/// Threads that work on pieces of one thing.
#[cfg(not(feature = "schedules"))]
const CORES_MAX: usize = 8;

/// Does the same to each of several things, on the machine's cores. Results are in the order of the things.
///
/// # Panics
/// If `work` does.
#[cfg(not(feature = "schedules"))]
pub(crate) fn on_cores<T: Sync, R: Send>(things: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(CORES_MAX);
    if threads == 1 || things.len() < 2 {
        return things.iter().map(work).collect();
    }
    let next = atomic::AtomicUsize::new(0);
    let some = || {
        let mut done = Vec::new();
        while let at = next.fetch_add(1, atomic::Ordering::Relaxed)
            && let Some(thing) = things.get(at)
        {
            done.push((at, work(thing)));
        }
        done
    };
    let mut all: Vec<(usize, R)> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(some)).collect();
        let mut all = some();
        all.extend(others.into_iter().flat_map(|one| one.join().expect("work does not panic")));
        all
    });
    all.sort_unstable_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, result)| result).collect()
}

/// Waits for a notification, or so long.
#[cfg(not(feature = "schedules"))]
pub(super) fn wait<'a, T>(
    condvar: &Condvar,
    _: &'a Mutex<T>,
    guard: MutexGuard<'a, T>,
    timeout: Duration,
) -> MutexGuard<'a, T> {
    condvar.wait_timeout(guard, timeout).unwrap_or_else(PoisonError::into_inner).0
}

#[cfg(feature = "schedules")]
pub(crate) use shuttle::sync::{
    Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic,
};

/// On one thread: the test decides about others.
#[cfg(feature = "schedules")]
pub(crate) fn on_cores<T: Sync, R: Send>(things: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    things.iter().map(work).collect()
}

/// Nobody waits for time to pass: others go on.
#[cfg(feature = "schedules")]
pub(super) fn sleep(_: Duration) {
    shuttle::thread::yield_now();
}

/// Always as if the time were over: a notification that nobody waited for is made up for by that alone.
#[cfg(feature = "schedules")]
pub(super) fn wait<'a, T>(
    _: &Condvar,
    mutex: &'a Mutex<T>,
    guard: MutexGuard<'a, T>,
    timeout: Duration,
) -> MutexGuard<'a, T> {
    drop(guard);
    sleep(timeout);
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
