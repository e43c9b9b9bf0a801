//! The connection to the replica set of a blockstore, and how commands are sent.
//!
//! Page 09, section 2: every write waits for a majority and its journal, every read is of what a majority has, and all of it
//! goes through causally consistent sessions, so that no answer is from before what it follows: each begins at the operation time
//! of the last that ended. Nothing waits for ever: a command without an answer counts as one of unknown outcome.

use std::future::{Future, IntoFuture as _};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bson::{Document, RawDocumentBuf, Timestamp, doc};
use mongodb::options::{
    Acknowledgment, ReadConcern, ReadPreference, SelectionCriteria, WriteConcern,
};
use mongodb::{Client, ClientSession, Collection, Database};

use super::Error;
use super::error::of_driver;
use crate::source::client_options;
use crate::store::Vault;

/// The longest time that an answer is waited for: an election is over by then, and the driver has tried once more.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// The same of blocks on their way: a batch of them takes that long at 7 KB/s. That the server is gone is noticed sooner, by the driver.
pub(super) const TRANSFER_LIMIT: Duration = Duration::from_secs(600);
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

/// The collections of page 09.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Of(pub &'static str);

pub(super) const REPOSITORY: Of = Of("repository");
pub(super) const GENERATION: Of = Of("generation");
pub(super) const BLOCKS: Of = Of("blocks");
pub(super) const SESSIONS: Of = Of("sessions");
pub(super) const DAEMONS: Of = Of("daemons");
pub(super) const JOBS: Of = Of("jobs");
pub(super) const SNAPSHOTS: Of = Of("snapshots");
pub(super) const SLICES: Of = Of("slices");

/// See the head of this file. Cheap to clone; every clone is the same.
#[derive(Clone)]
pub struct Connection {
    database: Database,
    name: Arc<str>,
    /// Operation time of the newest answer.
    seen: Arc<Mutex<Option<Timestamp>>>,
    /// What seals the documents that are private, once the repository is known.
    pub(super) vault: Arc<OnceLock<([u8; 16], Vault)>>,
}

impl Connection {
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
        let opened =
            Self { database, name: name.into(), seen: Arc::default(), vault: Arc::default() };
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

    pub fn database(&self) -> &Database {
        &self.database
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
    pub fn malformed(&self, of: Of, field: &'static str) -> Error {
        Error::Malformed { blockstore: self.name(), collection: of.0, field }
    }

    /// One document, or none.
    pub async fn find_one(
        &self,
        of: Of,
        filter: Document,
    ) -> Result<Option<RawDocumentBuf>, Error> {
        let mut session = self.begin().await?;
        let of = self.of(of);
        let find = of.find_one(filter).session(&mut session);
        let found = self.ask("find", find.into_future()).await?;
        self.saw(&session);
        Ok(found)
    }

    /// Changes one document: whether there was one.
    pub async fn update_one(
        &self,
        of: Of,
        filter: Document,
        change: Document,
    ) -> Result<bool, Error> {
        let mut session = self.begin().await?;
        let of = self.of(of);
        let done = self
            .ask("update", of.update_one(filter, change).session(&mut session).into_future())
            .await?;
        self.saw(&session);
        Ok(done.matched_count == 1)
    }

    /// Inserts one document: false if there is one with its `_id`.
    pub async fn insert_one(&self, of: Of, document: &RawDocumentBuf) -> Result<bool, Error> {
        let mut session = self.begin().await?;
        let done = self
            .ask("insert", self.of(of).insert_one(document).session(&mut session).into_future())
            .await;
        self.saw(&session);
        match done {
            Ok(_) => Ok(true),
            Err(error) if is_duplicate(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The server's code of a key that is there.
pub(super) const DUPLICATE_KEY: i32 = 11000;

/// Whether a document with the same `_id` is there.
pub(super) fn is_duplicate(error: &Error) -> bool {
    use mongodb::error::{ErrorKind, WriteFailure};
    let Error::Driver { source, .. } = error else { return false };
    match source.kind.as_ref() {
        ErrorKind::Write(WriteFailure::WriteError(error)) => error.code == DUPLICATE_KEY,
        ErrorKind::Command(error) => error.code == DUPLICATE_KEY,
        _ => false,
    }
}

/// That of every write.
pub(super) fn write_concern() -> WriteConcern {
    let mut concern = WriteConcern::builder().build();
    concern.w = Some(Acknowledgment::Majority);
    concern.journal = Some(true);
    concern.w_timeout = Some(MAJORITY_LIMIT);
    concern
}
