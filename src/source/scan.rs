//! Reads a range of a collection, whole and once.
//!
//! A task reads ahead of the consumer: one batch is under way while [`BATCHES_AHEAD`] wait. Its cursor
//! names the collection by UUID and the range by `min`/`max` on the `_id` index, which order all BSON
//! types as the server's own comparison does and mean the same on every member (a `$gt` would see one
//! type only, a record id one member only).
//!
//! When a cursor is lost for whatever reason, the next one begins at the last `_id` delivered, that one
//! included, on the same member or another. What is delivered for a second time is dropped by key, so
//! keys are strictly ascending over the whole range. A document that is deleted and inserted again
//! meanwhile may thus come in its older form; both writes are in the oplog after the base of the scan.
//!
//! Documents inserted behind the cursor are missed, those ahead of it seen early: the oplog from the
//! base of the scan on settles both. What the base and all before it wrote must be seen: each cursor is
//! opened with `afterClusterTime` of the base.
//!
//! A scan of one moment reads with snapshot read concern instead, and sees neither.
//!
//! Insertion order has no name for a position that would hold on another cursor: there a loss ends the
//! scan with [`Error::Restart`], unless nothing was delivered yet.

use std::cmp::Ordering;
use std::sync::Arc;

use bson::{RawBson, RawDocument, RawDocumentBuf, Timestamp, cstr, rawdoc};
use bytes::Bytes;
use mongodb::raw_batch_cursor::RawBatch;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::failure::{Cure, lacks_index, of_collection, of_driver, of_snapshot};
use super::list::uuid_value;
use super::member::{Member, Paging};
use super::pace::Next;
use super::{Arrival, Error, Inner, Listed, Range};
use crate::elements::{self, Element};
use crate::head::namespaces;
use crate::oplog::{Ts, Uuid};
use crate::tree::Key;

/// Batches read ahead of the consumer: one hides the time of a round trip, a second the jitter.
const BATCHES_AHEAD: usize = 2;

/// Bytes aimed at per batch, by the collection's average document. With a range's batches ahead, under
/// way and in use that is 4 MiB per range. Four times as many were no faster beside the server, and took 70 MB more.
const BATCH_BYTES: u64 = 1 << 20;

/// Bounds of documents per batch, whatever the average says.
const BATCH_DOCUMENTS: std::ops::RangeInclusive<u64> = 50..=50_000;

/// A running scan of a range. Dropping it ends the reading.
pub struct Scan {
    batches: mpsc::Receiver<Result<Bytes, Error>>,
    reader: JoinHandle<()>,
    ns: String,
    ended: bool,
}

impl Scan {
    pub(super) fn start(inner: Arc<Inner>, listed: &Listed, range: Range, at: Option<Ts>) -> Self {
        let (sender, batches) = mpsc::channel(BATCHES_AHEAD);
        let ns = listed.ns.clone();
        let reader = Reader::new(inner, listed, range, at);
        let reader = tokio::spawn(reader.run(sender));
        Self { batches, reader, ns, ended: false }
    }

    /// The next batch of documents (concatenated BSON bytes, never split, never empty), none at the
    /// end. Safe to cancel.
    ///
    /// # Errors
    /// [`Error::Dropped`] when the collection is gone (its drop is in the oplog, what was delivered
    /// may be thrown away), [`Error::Restart`] for an interrupted natural order, and those of any
    /// command once retries are used up.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if self.ended {
            return Ok(None);
        }
        match self.batches.recv().await {
            Some(Ok(batch)) if batch.is_empty() => {
                self.ended = true;
                Ok(None)
            }
            Some(Ok(batch)) => Ok(Some(batch)),
            Some(Err(error)) => {
                self.ended = true;
                Err(error)
            }
            None => Err(Error::ReaderLost { what: self.ns.clone() }),
        }
    }
}

impl Drop for Scan {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Why a reader stops without an error to tell.
enum Stop {
    /// The range is read.
    Done,
    /// Another member is to be read.
    Moved,
    /// Nobody listens any more.
    Unwanted,
}

struct Reader {
    inner: Arc<Inner>,
    uuid: Uuid,
    db: String,
    ns: String,
    arrival: Arrival,
    range: Range,
    /// The moment to read, if all batches are to show the same one.
    at: Option<Ts>,
    batch_documents: u32,
    /// `{_id}` of the last document delivered.
    last: Option<RawDocumentBuf>,
    /// Its key, where documents arrive by key.
    last_key: Option<Key>,
    /// Failures since the last delivery.
    attempt: u32,
}

impl Reader {
    fn new(inner: Arc<Inner>, listed: &Listed, range: Range, at: Option<Ts>) -> Self {
        let average = listed.bytes_estimate / listed.documents_estimate.max(1);
        let batch_bytes = inner.pace.batch_bytes().unwrap_or(BATCH_BYTES).min(BATCH_BYTES);
        let fitting = batch_bytes / average.max(1);
        let documents = fitting.clamp(*BATCH_DOCUMENTS.start(), *BATCH_DOCUMENTS.end());
        Self {
            inner,
            uuid: listed.uuid,
            db: namespaces::split(&listed.ns).0.to_owned(),
            ns: listed.ns.clone(),
            arrival: listed.arrival,
            range,
            at,
            batch_documents: u32::try_from(documents).expect("clamped"),
            last: None,
            last_key: None,
            attempt: 0,
        }
    }

    async fn run(mut self, sender: mpsc::Sender<Result<Bytes, Error>>) {
        let end = loop {
            match self.pass(&sender).await {
                // An empty batch is never delivered otherwise: it stands for the end.
                Ok(Stop::Done) => break Ok(Bytes::new()),
                Ok(Stop::Moved) => {}
                Ok(Stop::Unwanted) => return,
                Err((error, member)) => {
                    if let Err(error) = self.after_failure(error, member).await {
                        break Err(error);
                    }
                }
            }
        };
        if sender.send(end).await.is_err() {
            tracing::trace!(ns = self.ns, "scan dropped at its end");
        }
    }

    async fn after_failure(
        &mut self,
        error: Error,
        member: Option<Arc<Member>>,
    ) -> Result<(), Error> {
        self.attempt += 1;
        if self.arrival == Arrival::Natural && self.last.is_some() && error.cure() != Cure::None {
            let member = member.map_or_else(String::new, |member| member.address.clone());
            let source = Some(Box::new(error));
            return Err(Error::Restart { uuid: self.uuid, ns: self.ns.clone(), member, source });
        }
        self.inner.topology.after_failure(error, member.as_deref(), self.attempt).await
    }

    /// Reads on with one cursor until the end of the range or a failure.
    async fn pass(
        &mut self,
        sender: &mpsc::Sender<Result<Bytes, Error>>,
    ) -> Result<Stop, (Error, Option<Arc<Member>>)> {
        let member = self.inner.topology.member(&[]).await.map_err(|error| (error, None))?;
        let lower = self.last.as_ref().or(self.range.lower.as_ref()).cloned();
        let mut cursors = Vec::with_capacity(2);
        // `min` and `max` are half-open, and a missing `max` stands for MaxKey: the document whose
        // `_id` is MaxKey itself has to be asked for. (Without `min` too, all are returned.)
        if lower.is_some() && self.range.upper.is_none() {
            cursors.push(self.find_max_key());
        }
        if lower != Some(rawdoc! { "_id": RawBson::MaxKey }) {
            cursors.push(self.find(lower));
        }
        while let Some(command) = cursors.pop() {
            let read = self.read(&member, command, sender).await;
            match read.map_err(|error| (error, Some(Arc::clone(&member))))? {
                Stop::Done => {}
                stop => return Ok(stop),
            }
        }
        Ok(Stop::Done)
    }

    /// Delivers everything one cursor gives.
    async fn read(
        &mut self,
        member: &Member,
        command: RawDocumentBuf,
        sender: &mpsc::Sender<Result<Bytes, Error>>,
    ) -> Result<Stop, Error> {
        let what = format!("find {}", self.ns);
        // Elsewhere insertion order is another one, or must be begun anew.
        let movable = self.arrival != Arrival::Natural || self.last.is_none();
        let inner = self.inner.clone();
        if inner.pace.wait(&inner.topology, member, movable).await == Next::Move {
            return Ok(Stop::Moved);
        }
        let paging = Paging { batch_documents: Some(self.batch_documents), ..Paging::default() };
        let opened = member.open(&self.db, &what, command, paging).await;
        let mut batches = opened.map_err(|error| self.of_scan(error))?;
        while let Some(batch) = batches.next().await.map_err(|error| self.of_scan(error))? {
            inner.note_seen(&batch);
            inner.pace.read(batch.as_raw_document().as_bytes().len());
            let bytes = self.take(member, &what, &batch)?;
            if !bytes.is_empty() {
                self.attempt = 0;
                if sender.send(Ok(bytes)).await.is_err() {
                    return Ok(Stop::Unwanted);
                }
            }
            let movable = self.arrival != Arrival::Natural;
            if inner.pace.wait(&inner.topology, member, movable).await == Next::Move {
                return Ok(Stop::Moved);
            }
        }
        Ok(Stop::Done)
    }

    /// The documents of a batch that were not delivered before.
    fn take(&mut self, member: &Member, what: &str, batch: &RawBatch) -> Result<Bytes, Error> {
        let documents =
            batch.doc_slices().map_err(|error| of_driver(&member.address, what, error))?;
        let mut bytes = Vec::with_capacity(batch.as_raw_document().as_bytes().len());
        let mut last = None;
        for element in documents {
            let document = element.ok().and_then(|element| element.as_document());
            let document = document.ok_or_else(|| member.reply("find", "batch"))?;
            let id = elements::id(document).ok().flatten();
            let id = id.ok_or_else(|| member.reply("find", "_id"))?;
            if self.is_new(member, document, id)? {
                bytes.extend_from_slice(document.as_bytes());
                last = Some(id);
            }
        }
        if let Some(id) = last {
            self.last = Some(id.alone(elements::ID));
        }
        Ok(Bytes::from(bytes))
    }

    /// Whether a document, whose `_id` is `id`, is beyond what was delivered.
    fn is_new(
        &mut self,
        member: &Member,
        document: &RawDocument,
        id: Element<'_>,
    ) -> Result<bool, Error> {
        Ok(match self.arrival {
            Arrival::Natural => true,
            // Only the server orders by a collation; a cursor opened anew begins with the last one.
            Arrival::ByCollation => {
                let last = self.last.as_ref().and_then(|last| elements::id(last).ok().flatten());
                last != Some(id)
            }
            Arrival::ByKey => {
                let key = Key::of_document(document).map_err(|source| Error::BadId {
                    member: member.address.clone(),
                    ns: self.ns.clone(),
                    source: Box::new(source),
                })?;
                // Cursors begin at the last `_id` and go up: what is dropped must be that one alone.
                let order = self.last_key.as_ref().map_or(Ordering::Greater, |last| key.cmp(last));
                if order == Ordering::Less {
                    let (member, ns) = (member.address.clone(), self.ns.clone());
                    return Err(Error::IdOrder { member, ns });
                }
                let beyond = order == Ordering::Greater;
                if beyond {
                    self.last_key = Some(key);
                }
                beyond
            }
        })
    }

    fn of_scan(&self, error: Error) -> Error {
        if self.arrival != Arrival::Natural && lacks_index(&error) {
            return Error::NoIdIndex { ns: self.ns.clone() };
        }
        let error = of_collection(self.uuid, error);
        match self.at {
            Some(at) => of_snapshot(&self.ns, at, error),
            None => error,
        }
    }

    fn find(&self, lower: Option<RawDocumentBuf>) -> RawDocumentBuf {
        let mut find = self.find_any();
        let by = if self.arrival == Arrival::Natural { cstr!("$natural") } else { cstr!("_id") };
        let mut hint = RawDocumentBuf::new();
        hint.append(by, 1);
        find.append(cstr!("hint"), hint);
        if self.arrival != Arrival::Natural {
            for (name, bound) in [(cstr!("min"), lower), (cstr!("max"), self.range.upper.clone())] {
                if let Some(bound) = bound {
                    find.append(name, bound);
                }
            }
        }
        find
    }

    fn find_max_key(&self) -> RawDocumentBuf {
        let mut find = self.find_any();
        find.append(cstr!("filter"), rawdoc! { "_id": { "$eq": RawBson::MaxKey } });
        find
    }

    fn find_any(&self) -> RawDocumentBuf {
        let concern = match (self.at, self.inner.floor()) {
            (Some(at), _) => {
                rawdoc! { "level": "snapshot", "atClusterTime": Timestamp::from(at) }
            }
            (None, Some(floor)) => {
                rawdoc! { "level": "majority", "afterClusterTime": Timestamp::from(floor) }
            }
            (None, None) => rawdoc! { "level": "majority" },
        };
        rawdoc! {
            "find": uuid_value(self.uuid),
            "batchSize": i64::from(self.batch_documents),
            "noCursorTimeout": true,
            "readConcern": concern,
        }
    }
}
