//! Follows the oplog: every majority-committed entry after a start, once, in order.
//!
//! A task keeps a tailable cursor with majority read concern on a member. Whatever ends the cursor, the
//! next one is opened at the last entry delivered, on the same member or another, and its first entry
//! must be that one, with the same term: this is the seam. If it is not, then
//!
//! - the oplog of that member begins later: another member may reach further back; if none does, the
//!   tail fell off ([`Error::FellOff`]);
//! - or the entry was replaced, or is missing on a primary that would have to have it, which never
//!   happens to majority-committed entries: the history of the source was changed from outside
//!   ([`Error::Diverged`]);
//! - or there is no such entry yet: the member lags, another one is tried ([`Error::Behind`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::{RawDocumentBuf, Timestamp, rawdoc};
use bytes::Bytes;
use mongodb::raw_batch_cursor::RawBatch;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::failure::of_driver;
use super::member::{Batches, Member, Paging};
use super::{Error, Inner};
use crate::oplog::{self, OpTime};

/// How long the server waits for a new entry before it sends an empty batch.
const QUIET: Duration = Duration::from_secs(1);

/// How long an answer may take. The server answers every [`QUIET`]; finding the start in a large oplog
/// takes it no longer.
const ANSWER_LIMIT: Duration = Duration::from_secs(45);

/// How long a member may take to reach the entry we stopped at before another is tried.
const SEAM_WAIT: Duration = Duration::from_secs(15);

/// Entries per batch; the server also stops at 16 MB.
const BATCH_ENTRIES: u32 = 20_000;

/// Batches read ahead of the consumer.
const BATCHES_AHEAD: usize = 2;

/// A running tail. Dropping it ends the reading.
pub struct Tail {
    batches: mpsc::Receiver<Result<Bytes, Error>>,
    reader: JoinHandle<()>,
}

impl Tail {
    pub(super) fn start(inner: Arc<Inner>, from: OpTime, inclusive: bool) -> Self {
        let (sender, batches) = mpsc::channel(BATCHES_AHEAD);
        let reader = Reader { inner, last: from, inclusive, attempt: 0, avoid: Vec::new() };
        Self { batches, reader: tokio::spawn(reader.run(sender)) }
    }

    /// The next batch of whole entries, in order (concatenated BSON); empty after a quiet wait of about
    /// a second. Reconnects to any member, matching (ts, term) at the seam. Safe to cancel.
    ///
    /// # Errors
    /// [`Error::FellOff`], [`Error::Diverged`], [`Error::Behind`], [`Error::AnotherSet`] and, once
    /// retries are used up, those of any command. After an error the tail is over.
    pub async fn next(&mut self) -> Result<Bytes, Error> {
        let lost = || Err(Error::ReaderLost { what: "local.oplog.rs".to_owned() });
        self.batches.recv().await.unwrap_or_else(lost)
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

struct Reader {
    inner: Arc<Inner>,
    /// The last entry delivered, or the start.
    last: OpTime,
    /// Whether the start itself is still to be delivered.
    inclusive: bool,
    /// Failures since the last batch.
    attempt: u32,
    /// Members whose oplog begins after `last`.
    avoid: Vec<String>,
}

/// The consumer is gone.
struct Unwanted;

impl Reader {
    async fn run(mut self, sender: mpsc::Sender<Result<Bytes, Error>>) {
        let mut fell_off = None;
        let error = loop {
            let member = match self.inner.topology.member(&self.avoid).await {
                Ok(member) => member,
                Err(error @ Error::NoMember { .. }) if fell_off.is_some() => {
                    // A member that is down or in an election may reach further back than the others.
                    let wait = matches!(error, Error::NoMember { unready: 1.., .. });
                    if wait && self.after_failure(error, None).await.is_ok() {
                        continue;
                    }
                    break fell_off.take().expect("checked");
                }
                Err(error) => match self.after_failure(error, None).await {
                    Ok(()) => continue,
                    Err(error) => break error,
                },
            };
            let error = match self.follow(&member, &sender).await {
                Ok(Unwanted) => return,
                Err(error @ Error::FellOff { .. }) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "trying another member"
                    );
                    self.avoid.push(member.address.clone());
                    fell_off = Some(error);
                    continue;
                }
                Err(error) => error,
            };
            if let Err(error) = self.after_failure(error, Some(&member)).await {
                break error;
            }
        };
        if sender.send(Err(error)).await.is_err() {
            tracing::trace!("tail dropped at its end");
        }
    }

    async fn after_failure(&mut self, error: Error, member: Option<&Member>) -> Result<(), Error> {
        self.attempt += 1;
        self.inner.topology.after_failure(error, member, self.attempt).await
    }

    /// Follows with one cursor until it is lost.
    async fn follow(
        &mut self,
        member: &Member,
        sender: &mpsc::Sender<Result<Bytes, Error>>,
    ) -> Result<Unwanted, Error> {
        let what = "find local.oplog.rs";
        let paging = Paging {
            batch_documents: Some(BATCH_ENTRIES),
            await_for: Some(QUIET),
            limit: ANSWER_LIMIT,
        };
        let mut batches = member.open("local", what, self.find(), paging).await?;
        let mut batch = self.seam(member, &mut batches).await?;
        let mut at_seam = true;
        loop {
            let bytes = self.take(member, what, &batch, at_seam).await?;
            at_seam = false;
            self.attempt = 0;
            self.avoid.clear();
            if sender.send(Ok(bytes)).await.is_err() {
                return Ok(Unwanted);
            }
            // A server closes a cursor without an error when it rolls back or shuts down.
            batch = batches.next().await?.ok_or_else(|| closed(member))?;
        }
    }

    /// The first batch that is not empty.
    async fn seam(&self, member: &Member, batches: &mut Batches) -> Result<RawBatch, Error> {
        let since = Instant::now();
        loop {
            let batch = batches.next().await?.ok_or_else(|| closed(member))?;
            let entries = batch.doc_slices();
            let entries = entries
                .map_err(|error| of_driver(&member.address, "find local.oplog.rs", error))?;
            if !entries.is_empty() {
                return Ok(batch);
            }
            if since.elapsed() > SEAM_WAIT {
                if let Some(primary) = self.inner.topology.writable_primary().await
                    && let Some(found) = self.lacking(&primary).await?
                {
                    let (member, expected) = (primary.address.clone(), self.last);
                    return Err(Error::Diverged { member, expected, found });
                }
                let newest = member.newest(true).await?.optime.ts;
                return Err(Error::Behind {
                    member: member.address.clone(),
                    newest,
                    from: self.last,
                });
            }
        }
    }

    /// The newest entry of a primary whose oplog ends before the last entry delivered, although it was
    /// elected in that entry's term or later. A majority-committed entry stands in the oplog of every
    /// such primary, so the source has another history now.
    async fn lacking(&self, primary: &Member) -> Result<Option<OpTime>, Error> {
        let newest = primary.newest(false).await?.optime;
        let hello = primary.hello().await?;
        let entitled = hello.primary && hello.election_term >= Some(self.last.term);
        Ok((entitled && newest.ts < self.last.ts).then_some(newest))
    }

    /// The entries of a batch beyond the last one delivered.
    async fn take(
        &mut self,
        member: &Member,
        what: &str,
        batch: &RawBatch,
        at_seam: bool,
    ) -> Result<Bytes, Error> {
        let entries =
            batch.doc_slices().map_err(|error| of_driver(&member.address, what, error))?;
        let mut bytes = Vec::with_capacity(batch.as_raw_document().as_bytes().len());
        let mut seam = at_seam;
        for element in entries {
            let entry = element.ok().and_then(|element| element.as_document());
            let entry = entry.ok_or_else(|| member.reply("find local.oplog.rs", "batch"))?;
            let position = oplog::position(entry).map_err(|source| Error::Entry {
                member: member.address.clone(),
                after: self.last,
                source: Box::new(source),
            })?;
            if seam {
                self.check_seam(member, position.optime).await?;
                seam = false;
                if !std::mem::take(&mut self.inclusive) {
                    continue;
                }
            } else {
                self.check_order(member, position.optime)?;
            }
            self.last = position.optime;
            bytes.extend_from_slice(entry.as_bytes());
        }
        Ok(Bytes::from(bytes))
    }

    async fn check_seam(&self, member: &Member, found: OpTime) -> Result<(), Error> {
        if found == self.last {
            return Ok(());
        }
        let oldest = member.oldest().await?.optime;
        let (member, expected) = (member.address.clone(), self.last);
        if oldest.ts > expected.ts {
            return Err(Error::FellOff { member, oldest, from: expected });
        }
        Err(Error::Diverged { member, expected, found })
    }

    fn check_order(&self, member: &Member, found: OpTime) -> Result<(), Error> {
        if found.ts > self.last.ts && found.term >= self.last.term {
            return Ok(());
        }
        let (member, last) = (member.address.clone(), self.last);
        Err(Error::OplogOrder { member, last, found })
    }

    fn find(&self) -> RawDocumentBuf {
        rawdoc! {
            "find": "oplog.rs",
            "filter": { "ts": { "$gte": Timestamp::from(self.last.ts) } },
            "tailable": true,
            "awaitData": true,
            "noCursorTimeout": true,
            "batchSize": i64::from(BATCH_ENTRIES),
            "readConcern": { "level": "majority" },
        }
    }
}

fn closed(member: &Member) -> Error {
    Error::Closed { member: member.address.clone(), what: "local.oplog.rs" }
}
