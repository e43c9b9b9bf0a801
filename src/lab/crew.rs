//! Writers that work at a bounded rate and can be held all at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bson::{Document, doc};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};

use super::{Detail, Error, ReplicaSet, Result, SourceState};
use crate::oplog::OpTime;

/// Tries to find a moment in which the oplog does not move, an idle set's noop every 10 s included.
const REST_TRIES: u32 = 40;
/// Between two tries.
const REST_PAUSE: Duration = Duration::from_millis(100);

/// The writers of a workload. They are aborted when it is dropped.
pub(super) struct Crew {
    gate: Arc<RwLock<()>>,
    held: Option<OwnedRwLockWriteGuard<()>>,
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<()>>,
}

/// What tells one writer when it may do its next operation.
pub(super) struct Pace {
    gate: Arc<RwLock<()>>,
    stop: Arc<AtomicBool>,
    ticks: Interval,
}

impl Pace {
    /// Waits for the next turn, which lasts until the guard is dropped; none when the work is over.
    pub(super) async fn turn(&mut self) -> Option<OwnedRwLockReadGuard<()>> {
        self.ticks.tick().await;
        let turn = Arc::clone(&self.gate).read_owned().await;
        (!self.stop.load(Ordering::Relaxed)).then_some(turn)
    }
}

impl Crew {
    pub(super) fn new() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        Self { gate: Arc::default(), held: None, stop, writers: Vec::new() }
    }

    /// Adds a writer that has a turn at most every `every`.
    pub(super) fn add<F>(&mut self, every: Duration, work: impl FnOnce(Pace) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let pace = Pace { gate: Arc::clone(&self.gate), stop: Arc::clone(&self.stop), ticks };
        self.writers.push(tokio::spawn(work(pace)));
    }

    /// Waits until nobody has a turn and gives none from then on.
    pub(super) async fn hold(&mut self) {
        if self.held.is_none() {
            self.held = Some(Arc::clone(&self.gate).write_owned().await);
        }
    }

    /// Gives turns again.
    pub(super) fn release(&mut self) {
        self.held = None;
    }

    /// Holds the writers; returns the optime of the set's newest entry, which all its members have, and
    /// the state at it.
    pub(super) async fn rest(
        &mut self,
        set: &ReplicaSet,
        detail: Detail,
    ) -> Result<(OpTime, SourceState)> {
        self.hold().await;
        for _ in 0..REST_TRIES {
            let config = set.client().database("config");
            let builds = config.collection::<Document>("system.indexBuilds");
            let building = builds.count_documents(doc! {}).await;
            if building.map_err(Error::driver("count index builds"))? == 0 {
                let before = set.wait_replicated().await?;
                let mut state = SourceState::capture(set.client(), detail).await?;
                state.add_log_order(set.client()).await?;
                if set.wait_replicated().await? == before {
                    return Ok((before, state));
                }
            }
            sleep(REST_PAUSE).await;
        }
        let seconds = (REST_PAUSE * REST_TRIES).as_secs();
        Err(Error::Timeout { what: "come to rest", seconds })
    }

    /// Ends the writers, after the turn each has.
    pub(super) async fn finish(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.release();
        for writer in self.writers.drain(..) {
            writer.await.expect("a writer handles its errors and does not panic");
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for writer in &self.writers {
            writer.abort();
        }
    }
}
