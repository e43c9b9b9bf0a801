//! Live figures of a running job, for progress displays and `status`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::oplog::Position;

/// Figures that workers write and displays read. Cheap to clone; every clone is the same.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    scanned_documents: AtomicU64,
    scanned_bytes: AtomicU64,
    received_entries: AtomicU64,
    received_bytes: AtomicU64,
    applied_entries: AtomicU64,
    rest: Mutex<Rest>,
}

/// What changes rarely or belongs together.
#[derive(Debug, Clone, Default)]
struct Rest {
    activity: Activity,
    expected: Expected,
    received: Option<Position>,
    applied: Option<Position>,
    newest: Option<Position>,
    oplog_window_secs: Option<u64>,
}

/// What a job is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activity {
    /// Reaching the source.
    #[default]
    Connecting,
    /// Copying collections.
    Scanning,
    /// Applying oplog.
    Applying,
    /// Writing changed trees.
    Flushing,
    /// Comparing trees.
    Comparing,
    /// Waiting for the source to change.
    Following,
    /// Ending.
    Stopping,
}

/// What a scan is expected to amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Expected {
    /// Documents, as estimated when the collections were listed.
    pub documents: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Collections.
    pub collections: u64,
    /// Collections that are finished.
    pub collections_done: u64,
}

/// All figures at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen {
    /// What the job is doing.
    pub activity: Activity,
    /// Documents scanned, and those scanned by earlier processes.
    pub scanned_documents: u64,
    /// Their bytes.
    pub scanned_bytes: u64,
    /// What the scan is expected to amount to.
    pub expected: Expected,
    /// Oplog entries received by this process.
    pub received_entries: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Oplog entries applied by this process.
    pub applied_entries: u64,
    /// The last durable entry.
    pub received: Option<Position>,
    /// The last entry applied.
    pub applied: Option<Position>,
    /// The newest majority-committed entry of the source, when it was last asked.
    pub newest: Option<Position>,
    /// How far the source's oplog reached back when it was last asked, in seconds.
    pub oplog_window_secs: Option<u64>,
}

impl Figures {
    /// All figures now.
    #[must_use]
    pub fn seen(&self) -> Seen {
        let rest = self.rest(|rest| rest.clone());
        let read = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        Seen {
            activity: rest.activity,
            scanned_documents: read(&self.inner.scanned_documents),
            scanned_bytes: read(&self.inner.scanned_bytes),
            expected: rest.expected,
            received_entries: read(&self.inner.received_entries),
            received_bytes: read(&self.inner.received_bytes),
            applied_entries: read(&self.inner.applied_entries),
            received: rest.received,
            applied: rest.applied,
            newest: rest.newest,
            oplog_window_secs: rest.oplog_window_secs,
        }
    }

    pub(super) fn activity(&self, activity: Activity) {
        self.rest(|rest| rest.activity = activity);
    }

    pub(super) fn expected(&self, expected: Expected) {
        self.rest(|rest| rest.expected = expected);
    }

    pub(super) fn scanned(&self, documents: u64, bytes: u64) {
        self.inner.scanned_documents.fetch_add(documents, Ordering::Relaxed);
        self.inner.scanned_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What a scan begins with, or falls back to when a part of it starts anew.
    pub(super) fn scanned_anew(&self, documents: u64, bytes: u64) {
        self.inner.scanned_documents.store(documents, Ordering::Relaxed);
        self.inner.scanned_bytes.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn received(&self, entries: u64, bytes: u64, last: Position) {
        self.inner.received_entries.fetch_add(entries, Ordering::Relaxed);
        self.inner.received_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.rest(|rest| rest.received = Some(last));
    }

    pub(super) fn applied(&self, entries: u64, last: Position) {
        self.inner.applied_entries.fetch_add(entries, Ordering::Relaxed);
        self.rest(|rest| rest.applied = Some(last));
    }

    pub(super) fn newest(&self, newest: Position) {
        self.rest(|rest| rest.newest = Some(newest));
    }

    pub(super) fn oplog_window(&self, seconds: u64) {
        self.rest(|rest| rest.oplog_window_secs = Some(seconds));
    }

    fn rest<T>(&self, change: impl FnOnce(&mut Rest) -> T) -> T {
        change(&mut self.inner.rest.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
