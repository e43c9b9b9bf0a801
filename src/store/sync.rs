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
