//! What the store's threads wait on: the locks of the standard library, or, with the feature `schedules`, those of
//! a test that decides in which order threads go on and tries many (`tests/store_schedules.rs`).

#[cfg(not(feature = "schedules"))]
pub(crate) use std::sync::{
    Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic,
};
#[cfg(not(feature = "schedules"))]
pub(super) use std::thread::sleep;

#[cfg(feature = "schedules")]
pub(crate) use shuttle::sync::{
    Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic,
};

/// Nobody waits for time to pass: others go on.
#[cfg(feature = "schedules")]
pub(super) fn sleep(_: std::time::Duration) {
    shuttle::thread::yield_now();
}
