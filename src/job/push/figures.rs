//! How a push stands, for `status` and for who waits for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::snapshots::{is_waiting, newest};
use crate::blockstore::{self, Asserter, Sent};
use crate::head::Manifest;
use crate::job::{Error, PointInfo, in_one_line};
use crate::oplog::Position;

/// How a job stands in a blockstore.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteInfo {
    /// Which; as the connection string names it, without secrets.
    pub blockstore: String,
    /// The last failure, while nothing has gone well since.
    pub trouble: Option<String>,
    /// Snapshots that are not pushed since something in them cannot be read here, and why: `headstock fsck` tells more.
    pub passed_over: Vec<String>,
    /// The last oplog entry that is durable there, of those pushed since the daemon started.
    pub received: Option<PointInfo>,
    /// Snapshots there.
    pub snapshots: u64,
    /// The newest of them.
    pub newest_snapshot: Option<String>,
    /// Snapshots that are here and not yet there.
    pub snapshots_waiting: u64,
    /// The snapshot that is being pushed.
    pub pushing: Option<RemoteSnapshot>,
    /// Bytes of blocks sent since the daemon started.
    pub sent_bytes: u64,
}

/// A snapshot on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteSnapshot {
    /// Its name.
    pub id: String,
    /// Blocks that are known to be there.
    pub blocks: u64,
    /// Of these, blocks that were sent.
    pub blocks_sent: u64,
    /// Their stored bytes.
    pub bytes_sent: u64,
}

/// Snapshots told of that are passed over.
const PASSED_OVER_MAX: usize = 16;

/// Figures that the tasks of a push write. Cheap to clone; every clone is the same.
#[derive(Clone)]
pub(super) struct Figures {
    inner: Arc<Mutex<Inner>>,
    /// Counts what has gone well.
    steps: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    info: RemoteInfo,
    /// Whether the last failure was one that waiting does not cure.
    is_refused: bool,
    /// Snapshots that need not be waited for.
    settled: Vec<String>,
    pushing: Option<(String, Asserter)>,
    /// Of snapshots that are there.
    sent_bytes: u64,
}

impl Default for Figures {
    fn default() -> Self {
        Self { inner: Arc::default(), steps: watch::Sender::new(0) }
    }
}

impl Figures {
    /// What is told of it now.
    pub fn info(&self) -> RemoteInfo {
        self.change(|inner| {
            let mut info = inner.info.clone();
            info.sent_bytes = inner.sent_bytes;
            info.pushing = inner.pushing.as_ref().map(|(id, asserter)| {
                let Sent { asserted, blocks, bytes } = asserter.sent();
                info.sent_bytes += bytes;
                RemoteSnapshot {
                    id: id.clone(),
                    blocks: asserted,
                    blocks_sent: blocks,
                    bytes_sent: bytes,
                }
            });
            info
        })
    }

    /// How often something went well.
    pub fn steps(&self) -> u64 {
        let sent = self.change(|inner| inner.pushing.as_ref().map(|(_, one)| one.sent()));
        let sent = sent.map_or(0, |Sent { asserted, blocks, bytes }| asserted + blocks + bytes);
        *self.steps.borrow() + sent
    }

    pub fn connected(&self, blockstore: &str) {
        self.change(|inner| blockstore.clone_into(&mut inner.info.blockstore));
    }

    pub fn failed(&self, error: &Error) {
        self.change(|inner| {
            inner.info.trouble = Some(in_one_line(error));
            inner.is_refused = matches!(error, Error::Blockstore(error) if error.is_refusal());
            Self::settle(inner);
        });
        // Whoever waits looks again.
        self.steps.send_modify(|_| {});
    }

    pub fn slices(&self, count: usize, reached: Option<Position>, sent: Sent) {
        self.change(|inner| {
            inner.info.received = reached.map(PointInfo::from).or(inner.info.received.take());
            // A snapshot that waits may be what the trouble is about.
            if inner.info.snapshots_waiting == 0 {
                inner.info.trouble = None;
            }
            inner.is_refused = false;
            inner.sent_bytes += sent.bytes;
        });
        self.steps.send_modify(|steps| *steps += count as u64);
    }

    pub fn pushing(&self, snapshot: Option<(String, Asserter)>) {
        self.change(|inner| {
            Self::settle(inner);
            inner.pushing = snapshot;
        });
    }

    /// A snapshot is there.
    pub fn committed(&self) {
        self.change(|inner| inner.info.trouble = None);
        self.steps.send_modify(|steps| *steps += 1);
    }

    /// A snapshot cannot be pushed, whatever is tried.
    pub fn passed_over(&self, snapshot: &str, error: &Error) {
        let why = format!("{snapshot}: {}", in_one_line(error));
        tracing::error!("a snapshot is not pushed: {why}");
        self.change(|inner| {
            if inner.info.passed_over.len() < PASSED_OVER_MAX {
                inner.info.passed_over.push(why);
            }
            inner.is_refused = true;
        });
        // Whoever waits looks again.
        self.steps.send_modify(|_| {});
    }

    pub fn snapshots(&self, there: &BTreeMap<String, Manifest>, here: &[Manifest]) {
        let newest = newest(there);
        let news = self.change(|inner| {
            let (waiting, settled): (Vec<_>, Vec<_>) =
                here.iter().partition(|one| is_waiting(newest, one));
            inner.info.snapshots = there.len() as u64;
            inner.info.snapshots_waiting = waiting.len() as u64;
            inner.info.newest_snapshot = there.keys().next_back().cloned();
            let settled: Vec<String> = settled.into_iter().map(|one| one.id.clone()).collect();
            let news = inner.settled != settled;
            if news {
                inner.settled = settled;
                inner.info.trouble = None;
                inner.is_refused = false;
            }
            news
        });
        if news {
            self.steps.send_modify(|steps| *steps += 1);
        }
    }

    /// Waits until a snapshot is there; gives up when nothing has gone well for that long, or cannot until somebody
    /// has changed something.
    pub async fn wait_for(&self, snapshot: &str, patience: Duration) -> Result<(), Error> {
        let mut steps = self.steps.subscribe();
        loop {
            if self.change(|inner| inner.settled.iter().any(|one| one == snapshot)) {
                return Ok(());
            }
            let before = self.steps();
            if self.change(|inner| inner.is_refused) {
                return Err(self.not_pushed(snapshot));
            }
            let waited = tokio::time::timeout(patience, steps.changed()).await;
            if waited.is_err() && self.steps() == before {
                return Err(self.not_pushed(snapshot));
            }
        }
    }

    fn not_pushed(&self, snapshot: &str) -> Error {
        let trouble = self.change(|inner| {
            let passed_over = inner.info.passed_over.iter().find(|one| one.starts_with(snapshot));
            passed_over.cloned().or_else(|| inner.info.trouble.clone())
        });
        let trouble = trouble.unwrap_or_else(|| "it does not answer".to_owned());
        blockstore::Error::NotPushed { what: snapshot.to_owned(), trouble }.into()
    }

    /// Counts what an attempt has sent that is over.
    fn settle(inner: &mut Inner) {
        if let Some((_, asserter)) = inner.pushing.take() {
            inner.sent_bytes += asserter.sent().bytes;
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        change(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
