//! Transactions: several commands that are executed together or not at all.
//!
//! In MongoDB only writes conflict, so each transaction writes every document that its right rests on, and asks of each
//! that it matched (page 09, section 2). A transaction is a list of such steps: what must be said of it stands in one place each.
//!
//! One that was aborted is begun anew from its first step; a commit whose outcome is unknown is sent again, and if it stays unknown that
//! is the answer: whoever asked must decide it by a write.

use std::future::IntoFuture as _;
use std::time::{Duration, Instant};

use mongodb::ClientSession;
use mongodb::error::{TRANSIENT_TRANSACTION_ERROR, UNKNOWN_TRANSACTION_COMMIT_RESULT};
use mongodb::options::{ReadConcern, TransactionOptions};

use super::{ReplicaSet, write_concern};
use crate::blockstore::Error;
use crate::blockstore::backend::{Ended, Miss, Step};

/// How long a transaction is begun again that others abort. One whose client died in the middle holds its documents until the server
/// gives it up, after a minute (`transactionLifetimeLimitSeconds`).
const CONFLICTS_LIMIT: Duration = Duration::from_secs(90);
/// How often a commit is sent.
const COMMITS_MAX: u32 = 5;
/// The pause before another attempt, times its number.
const PAUSE: Duration = Duration::from_millis(20);
/// The longest pause, times at most three.
const PAUSE_MAX: Duration = Duration::from_millis(500);

impl ReplicaSet {
    /// Executes a transaction.
    pub(super) async fn execute(&self, steps: &[Step]) -> Result<Ended, Error> {
        let mut session = self.begin().await?;
        let (begun, mut attempt) = (Instant::now(), 1);
        loop {
            let (ended, is_aborted) = match self.attempt(&mut session, steps).await {
                Err(error) => {
                    let is_aborted = has_label(&error, TRANSIENT_TRANSACTION_ERROR);
                    (Err(error), is_aborted)
                }
                ended => (ended, false),
            };
            if !is_aborted || begun.elapsed() >= CONFLICTS_LIMIT {
                self.saw(&session);
                return ended;
            }
            // So that those who wait for each other do not meet again at once.
            let spread = rand::random_range(1..=3);
            tokio::time::sleep((PAUSE * attempt).min(PAUSE_MAX) * spread).await;
            attempt += 1;
        }
    }

    async fn attempt(&self, session: &mut ClientSession, steps: &[Step]) -> Result<Ended, Error> {
        let options = TransactionOptions::builder()
            .read_concern(ReadConcern::snapshot())
            .write_concern(write_concern())
            .build();
        let started = session.start_transaction().with_options(options);
        self.ask("startTransaction", started.into_future()).await?;
        for step in steps {
            match self.step(session, step).await {
                Ok(None) => {}
                missed => {
                    // Without it the server aborts by itself, later.
                    let aborted = self
                        .ask("abortTransaction", session.abort_transaction().into_future())
                        .await;
                    if let Err(error) = aborted {
                        tracing::debug!(%error, "a transaction was not aborted");
                    }
                    return missed.map(|missed| missed.map_or(Ended::Made, Ended::Missed));
                }
            }
        }
        self.commit(session).await
    }

    async fn commit(&self, session: &mut ClientSession) -> Result<Ended, Error> {
        let mut commits = 1;
        loop {
            let error = match self
                .ask("commitTransaction", session.commit_transaction().into_future())
                .await
            {
                Ok(()) => return Ok(Ended::Made),
                Err(error) => error,
            };
            if has_label(&error, TRANSIENT_TRANSACTION_ERROR) {
                return Err(error);
            }
            let is_unknown = has_label(&error, UNKNOWN_TRANSACTION_COMMIT_RESULT)
                || matches!(error, Error::TimedOut { .. });
            if !is_unknown || commits == COMMITS_MAX {
                return Ok(Ended::Unknown(error));
            }
            tokio::time::sleep(PAUSE * commits).await;
            commits += 1;
        }
    }

    /// Executes a step: what it missed, if it did.
    async fn step(&self, session: &mut ClientSession, step: &Step) -> Result<Option<Miss>, Error> {
        match step {
            Step::Update { of, filter, change, miss } => {
                let of = self.of(*of);
                let update = of.update_one(filter.clone(), change.clone()).session(session);
                let done = self.ask("update", update.into_future()).await?;
                Ok((done.matched_count != 1).then_some(*miss))
            }
            Step::UpdateAll { of, filter, change } => {
                let of = self.of(*of);
                let update = of.update_many(filter.clone(), change.clone()).session(session);
                self.ask("update", update.into_future()).await.map(|_| None)
            }
            Step::Insert { of, documents } => {
                let of = self.of(*of);
                self.ask("insert", of.insert_many(documents).session(session).into_future())
                    .await
                    .map(|_| None)
            }
            Step::Delete { of, filter, miss } => {
                let of = self.of(*of);
                let done = self
                    .ask("delete", of.delete_one(filter.clone()).session(session).into_future());
                Ok((done.await?.deleted_count != 1).then_some(*miss))
            }
            Step::DeleteAll { of, filter } => {
                let of = self.of(*of);
                let done = self
                    .ask("delete", of.delete_many(filter.clone()).session(session).into_future());
                done.await.map(|_| None)
            }
        }
    }
}

fn has_label(error: &Error, label: &str) -> bool {
    matches!(error, Error::Driver { source, .. } if source.contains_label(label))
}
