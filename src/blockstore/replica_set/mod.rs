//! A blockstore that is a database of a replica set: the connection, and how commands are sent.
//!
//! Page 09, section 2: every write waits for a majority and its journal, every read is of what a majority has, and all of it
//! goes through causally consistent sessions, so that no answer is from before what it follows: each begins at the operation time
//! of the last that ended. Nothing waits for ever: a command without an answer counts as one of unknown outcome.

mod blocks;
mod collections;
mod sweep;
mod transaction;

use std::future::{Future, IntoFuture as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bson::oid::ObjectId;
use bson::{Document, RawDocument, RawDocumentBuf, Timestamp, doc};
use mongodb::options::{
    Acknowledgment, ReadConcern, ReadPreference, SelectionCriteria, TransactionOptions,
    WriteConcern,
};
use mongodb::{Client, ClientSession, Collection, Database};

use super::Error;
use super::backend::{
    Answer, Backend, BlockWriter, Ended, Found, Of, Query, SessionOfWriter, Step,
};
use super::error::of_driver;
use super::groom::{GroomReport, Sweep};
use crate::block::BlockId;
use crate::source::client_options;
use crate::store::StoredBlock;

/// The longest time that an answer is waited for: an election is over by then, and the driver has tried once more.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// The same of blocks on their way: a batch of them takes that long at 7 KB/s. That the server is gone is noticed sooner, by the driver.
const TRANSFER_LIMIT: Duration = Duration::from_secs(600);
/// The longest time that a majority is waited for before the server answers that it did not hear of it.
const MAJORITY_LIMIT: Duration = Duration::from_secs(30);
/// Default limit of finding a primary.
const SELECTION_LIMIT: Duration = Duration::from_secs(30);
/// Default limit of a TCP and TLS connect.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// The database, unless the connection string names one.
const DATABASE: &str = "headstock";
/// The least wire version: that of MongoDB 4.4.
const MIN_WIRE_VERSION: i32 = 9;

/// That of the blocks.
const BLOCKS: Of = Of("blocks");

/// See the head of this file. Cheap to clone; every clone is the same.
#[derive(Clone)]
pub struct ReplicaSet {
    database: Database,
    name: Arc<str>,
    /// Operation time of the newest answer.
    seen: Arc<Mutex<Option<Timestamp>>>,
}

impl ReplicaSet {
    /// Reaches the replica set.
    pub async fn open(uri: &str) -> Result<Self, Error> {
        let mut options = client_options(uri).await.map_err(|problem| Error::Uri { problem })?;
        options.server_selection_timeout.get_or_insert(SELECTION_LIMIT);
        options.connect_timeout.get_or_insert(CONNECT_LIMIT);
        options.app_name.get_or_insert_with(|| "headstock".to_owned());
        options.retry_writes = Some(true);
        options.read_concern = Some(ReadConcern::majority());
        options.write_concern = Some(write_concern());
        options.selection_criteria =
            Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
        let database = options.default_database.clone().unwrap_or_else(|| DATABASE.to_owned());
        let mut hosts: Vec<String> = options.hosts.iter().map(ToString::to_string).collect();
        hosts.sort_unstable();
        let name = format!("blockstore {}/{database}", hosts.join(","));
        let unusable =
            |error: mongodb::error::Error| Error::Uri { problem: error.kind.to_string() };
        let client = Client::with_options(options).map_err(unusable)?;
        let database = client.database(&database);
        let opened = Self { database, name: name.into(), seen: Arc::default() };
        opened.check().await?;
        Ok(opened)
    }

    async fn check(&self) -> Result<(), Error> {
        let hello =
            self.ask("hello", self.database.run_command(doc! { "hello": 1 }).into_future()).await?;
        if hello.get_i32("maxWireVersion").unwrap_or(0) < MIN_WIRE_VERSION {
            let info = self.database.run_command(doc! { "buildInfo": 1 });
            let info = self.ask("buildInfo", info.into_future()).await?;
            let version = info.get_str("version").unwrap_or("of an unknown version").to_owned();
            return Err(Error::TooOld { blockstore: self.name(), version });
        }
        // A router says what it is.
        let is_router = hello.get_str("msg").is_ok_and(|said| said == "isdbgrid");
        if !is_router && hello.get_str("setName").is_err() {
            return Err(Error::NotAReplicaSet { blockstore: self.name() });
        }
        Ok(())
    }

    /// What to call it; holds no secret.
    pub fn name(&self) -> String {
        self.name.to_string()
    }

    /// One of its collections.
    pub fn of(&self, of: Of) -> Collection<RawDocumentBuf> {
        self.database.collection(of.0)
    }

    /// A session of the driver that sees all that was answered until now.
    pub async fn begin(&self) -> Result<ClientSession, Error> {
        let mut session =
            self.ask("startSession", self.database.client().start_session().into_future()).await?;
        let seen = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = seen {
            session.advance_operation_time(seen);
        }
        Ok(session)
    }

    /// Takes note of how far a session of the driver has seen.
    pub fn saw(&self, session: &ClientSession) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let later = session.operation_time().filter(|time| {
            let key = |time: &Timestamp| (time.time, time.increment);
            seen.as_ref().is_none_or(|seen| key(time) > key(seen))
        });
        *seen = later.or(*seen);
    }

    /// Waits for an answer, for a bounded time.
    pub async fn ask<T>(
        &self,
        command: &'static str,
        asked: impl Future<Output = mongodb::error::Result<T>>,
    ) -> Result<T, Error> {
        self.ask_within(COMMAND_LIMIT, command, asked).await
    }

    /// The same for what takes long on a slow line.
    pub async fn ask_within<T>(
        &self,
        limit: Duration,
        command: &'static str,
        asked: impl Future<Output = mongodb::error::Result<T>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(limit, asked).await {
            Ok(answer) => answer.map_err(|source| self.driver(command, source)),
            Err(_) => {
                let (blockstore, seconds) = (self.name(), limit.as_secs());
                Err(Error::TimedOut { blockstore, command, seconds })
            }
        }
    }

    /// Wraps what the driver says.
    pub fn driver(&self, command: &'static str, source: mongodb::error::Error) -> Error {
        of_driver(self.name(), command, source)
    }

    /// The form of a document of a collection is wrong.
    fn malformed(&self, of: Of, field: &'static str) -> Error {
        Error::Malformed { blockstore: self.name(), collection: of.0, field }
    }
}

impl Backend for ReplicaSet {
    fn name(&self) -> String {
        self.name.to_string()
    }

    fn gather(&self) -> Duration {
        Duration::ZERO
    }

    fn prepare(&self) -> Answer<'_, ()> {
        Box::pin(self.make_collections())
    }

    fn find(&self, of: Of, query: Query) -> Answer<'_, Vec<RawDocumentBuf>> {
        Box::pin(async move {
            let mut session = self.begin().await?;
            let of = self.of(of);
            let find = of.find(query.filter).sort(query.sort).limit(query.limit);
            let find = find.session(&mut session);
            let mut cursor = self.ask("find", find.into_future()).await?;
            let mut found = Vec::new();
            while self.ask("getMore", cursor.advance(&mut session)).await? {
                found.push(cursor.current().to_owned());
            }
            self.saw(&session);
            Ok(found)
        })
    }

    fn find_at_once(&self, of: Of) -> Answer<'_, Vec<RawDocumentBuf>> {
        Box::pin(async move {
            let mut session = self.begin().await?;
            let options =
                TransactionOptions::builder().read_concern(ReadConcern::snapshot()).build();
            let started = session.start_transaction().with_options(options);
            self.ask("startTransaction", started.into_future()).await?;
            let collection = self.of(of);
            let find = collection.find(doc! {}).session(&mut session);
            let mut cursor = self.ask("find", find.into_future()).await?;
            let mut found = Vec::new();
            while self.ask("getMore", cursor.advance(&mut session)).await? {
                found.push(cursor.current().to_owned());
            }
            self.ask("commitTransaction", session.commit_transaction().into_future()).await?;
            self.saw(&session);
            Ok(found)
        })
    }

    fn update_one(&self, of: Of, filter: Document, change: Document) -> Answer<'_, bool> {
        Box::pin(async move {
            let mut session = self.begin().await?;
            let of = self.of(of);
            let update = of.update_one(filter, change).session(&mut session);
            let done = self.ask("update", update.into_future()).await?;
            self.saw(&session);
            Ok(done.matched_count == 1)
        })
    }

    fn insert_one<'a>(&'a self, of: Of, document: &'a RawDocumentBuf) -> Answer<'a, bool> {
        Box::pin(async move {
            let mut session = self.begin().await?;
            let of = self.of(of);
            let insert = of.insert_one(document).session(&mut session);
            let done = self.ask("insert", insert.into_future()).await;
            self.saw(&session);
            match done {
                Ok(_) => Ok(true),
                Err(error) if is_duplicate(&error) => Ok(false),
                Err(error) => Err(error),
            }
        })
    }

    fn delete_one(&self, of: Of, filter: Document) -> Answer<'_, bool> {
        Box::pin(async move {
            let mut session = self.begin().await?;
            let of = self.of(of);
            let delete = of.delete_one(filter).session(&mut session);
            let done = self.ask("delete", delete.into_future()).await?;
            self.saw(&session);
            Ok(done.deleted_count == 1)
        })
    }

    fn transact<'a>(&'a self, steps: &'a [Step]) -> Answer<'a, Ended> {
        Box::pin(self.execute(steps))
    }

    fn beat(&self, of: Of, id: ObjectId) -> Answer<'_, bool> {
        self.update_one(of, doc! { "_id": id }, doc! { "$inc": { "beat": 1_i64 } })
    }

    fn beat_of<'a>(&'a self, of: Of, document: &'a RawDocument) -> Answer<'a, i64> {
        let beat = document.get_i64("beat").map_err(|_| self.malformed(of, "beat"));
        Box::pin(std::future::ready(beat))
    }

    fn stored<'a>(&'a self, ids: &'a [BlockId]) -> Answer<'a, Vec<StoredBlock>> {
        Box::pin(self.find_blocks(ids))
    }

    fn present<'a>(&'a self, ids: &'a [BlockId]) -> Answer<'a, Vec<Found>> {
        Box::pin(self.find_names(ids))
    }

    fn writer(&self, session: SessionOfWriter) -> Arc<dyn BlockWriter> {
        Arc::new(blocks::Writer::new(self.clone(), session))
    }

    fn sweep(&self, sweep: Sweep) -> Answer<'_, GroomReport> {
        Box::pin(sweep::sweep(self, sweep))
    }
}

/// The server's code of a key that is there.
const DUPLICATE_KEY: i32 = 11000;

/// Whether a document with the same `_id` is there.
fn is_duplicate(error: &Error) -> bool {
    use mongodb::error::{ErrorKind, WriteFailure};
    let Error::Driver { source, .. } = error else { return false };
    match source.kind.as_ref() {
        ErrorKind::Write(WriteFailure::WriteError(error)) => error.code == DUPLICATE_KEY,
        ErrorKind::Command(error) => error.code == DUPLICATE_KEY,
        _ => false,
    }
}

/// That of every write.
fn write_concern() -> WriteConcern {
    let mut concern = WriteConcern::builder().build();
    concern.w = Some(Acknowledgment::Majority);
    concern.journal = Some(true);
    concern.w_timeout = Some(MAJORITY_LIMIT);
    concern
}
