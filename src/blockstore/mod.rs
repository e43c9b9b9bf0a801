//! Repositories: what a restore reads through, wherever the blocks are kept.
//!
//! A *repository* holds blocks and the salt that decided how their trees were cut. [`Repository`] is
//! its read half. The local store is one; a *blockstore*, which is shared and remote, stands behind the same trait. What a
//! job's state says (which snapshots and slices there are) lies above this floor and is handed to
//! the reader beside the repository.
//!
//! A [`Blockstore`] is a database of a MongoDB replica set. `format-spec/09-blockstore.md` is its protocol: every file here says which
//! section it carries out, and the argument for each race stands there.

mod assertion;
mod connect;
mod contents;
mod error;
mod job;
mod pace;
mod patience;
mod reader;
mod repository;
mod session;
mod transaction;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use assertion::Sent;
pub(crate) use assertion::{Asserter, NAMES_MAX};
pub use contents::JobDocument;
pub use error::Error;
pub use job::Slice;
pub(crate) use job::{Bound, Change, Daemon};
pub use pace::Pace;
pub use reader::Reader;
pub(crate) use session::{Purpose, RENEW_EVERY, Session, renewals};

use crate::block::BlockRead;
use crate::head::Manifest;
use crate::store::{self, Options, RepositorySalt, Store};
use connect::Connection;
use repository::Facts;

/// Segment size of a scratch store: it is allocated at once, and most change little.
const SCRATCH_SEGMENT_BYTES: u64 = 32 << 20;

/// The read half of a repository. Nothing reached through it changes the repository.
pub trait Repository: Send + Sync {
    /// The blocks. What a reader has been told of stays readable for as long as this handle or a
    /// clone of it lives: the repository counts it as a reader.
    fn blocks(&self) -> Arc<dyn BlockRead>;

    /// The salt of every tree in the repository.
    fn salt(&self) -> RepositorySalt;

    /// Makes a store for derived trees in a directory that does not exist: cut, named and encrypted as those of the
    /// repository are, else their content roots could not be compared, and nothing be told to strangers.
    ///
    /// # Errors
    /// Those of the disk.
    fn scratch_store(&self, dir: &Path) -> Result<Store, store::Error>;

    /// Whether scratch files must be encrypted.
    fn is_encrypted(&self) -> bool;

    /// A directory on this machine for scratch files as large as the changes of a restore.
    fn scratch_dir(&self) -> PathBuf;

    /// What to call the repository in plans and messages. Never holds a secret.
    fn describe(&self) -> String;
}

/// A blockstore that is open. Cheap to clone; every clone is the same.
#[derive(Clone)]
pub struct Blockstore {
    connection: Connection,
    facts: Facts,
}

impl Blockstore {
    /// Opens a blockstore that holds a repository.
    ///
    /// # Errors
    /// [`Error::NoRepository`], [`Error::NewerFormat`], and those of reaching it.
    pub async fn open(uri: &str) -> Result<Self, Error> {
        let connection = Connection::open(uri).await?;
        let facts = Facts::find(&connection).await?;
        let none = || Error::NoRepository { blockstore: connection.name() };
        Ok(Self { facts: facts.ok_or_else(none)?, connection })
    }

    /// Opens a blockstore for a store that is pushed there; makes the repository if there is none.
    ///
    /// # Errors
    /// [`Error::AnotherSalt`], [`Error::Encryption`], and those of [`Blockstore::open`].
    pub async fn open_for(uri: &str, store: &Store) -> Result<Self, Error> {
        if store.is_encrypted() {
            let what = format!("the store {} is encrypted", store.dir().display());
            return Err(Error::Encryption { what });
        }
        let connection = Connection::open(uri).await?;
        let facts = match Facts::find(&connection).await? {
            Some(facts) => facts,
            None => Facts::make(&connection, store).await?,
        };
        if facts.salt != store.salt() {
            let (dir, blockstore) = (store.dir().display().to_string(), connection.name());
            return Err(Error::AnotherSalt { dir, blockstore });
        }
        Ok(Self { connection, facts })
    }

    /// The salt of its repository, if there is one there.
    ///
    /// # Errors
    /// Those of reaching it.
    pub async fn salt_at(uri: &str) -> Result<Option<RepositorySalt>, Error> {
        let connection = Connection::open(uri).await?;
        Ok(Facts::find(&connection).await?.map(|facts| facts.salt))
    }

    /// What to call it; holds no secret.
    #[must_use]
    pub fn name(&self) -> String {
        self.connection.name()
    }

    /// The salt of every tree in it.
    #[must_use]
    pub fn salt(&self) -> RepositorySalt {
        self.facts.salt
    }

    /// The names of its jobs.
    ///
    /// # Errors
    /// Those of reading it.
    pub async fn job_names(&self) -> Result<Vec<String>, Error> {
        self.connection.job_names().await
    }

    /// A job of that name, or the only one.
    ///
    /// # Errors
    /// [`Error::NoSuchJob`], [`Error::WhichJob`], and those of reading it.
    pub async fn job(&self, name: Option<&str>) -> Result<JobDocument, Error> {
        self.connection.job(name).await
    }

    /// The snapshots of a job, oldest first.
    ///
    /// # Errors
    /// Those of reading it.
    pub async fn snapshots(&self, job: &str) -> Result<Vec<Manifest>, Error> {
        self.connection.snapshots(job).await
    }

    /// The slices of a job, oldest first.
    ///
    /// # Errors
    /// Those of reading it.
    pub async fn slices(&self, job: &str) -> Result<Vec<Slice>, Error> {
        self.connection.slices(job).await
    }

    /// Starts to read, with every snapshot of a job pinned.
    ///
    /// # Errors
    /// Those of reaching it.
    pub async fn reader(&self, job: &str) -> Result<Reader, Error> {
        Reader::start(&self.connection, job).await
    }

    /// For the floors that push.
    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }
}

/// A blockstore being read, and where scratch files go meanwhile.
pub struct RemoteRepository {
    /// The blockstore.
    pub blockstore: Blockstore,
    /// Its blocks.
    pub reader: Reader,
    /// A directory on this machine.
    pub scratch: PathBuf,
}

impl Repository for RemoteRepository {
    fn blocks(&self) -> Arc<dyn BlockRead> {
        Arc::new(self.reader.clone())
    }

    fn salt(&self) -> RepositorySalt {
        self.blockstore.salt()
    }

    fn scratch_store(&self, dir: &Path) -> Result<Store, store::Error> {
        let segment_bytes = SCRATCH_SEGMENT_BYTES;
        let options = Options { segment_bytes, durable: false, mmap: false, secret: None };
        Store::create_with_salt(dir, options, self.salt())
    }

    fn is_encrypted(&self) -> bool {
        false
    }

    fn scratch_dir(&self) -> PathBuf {
        self.scratch.clone()
    }

    fn describe(&self) -> String {
        self.blockstore.name()
    }
}

impl Repository for Store {
    fn blocks(&self) -> Arc<dyn BlockRead> {
        Arc::new(self.clone())
    }

    fn salt(&self) -> RepositorySalt {
        Self::salt(self)
    }

    fn scratch_store(&self, dir: &Path) -> Result<Store, store::Error> {
        self.scratch(dir)
    }

    fn is_encrypted(&self) -> bool {
        Self::is_encrypted(self)
    }

    fn scratch_dir(&self) -> PathBuf {
        Self::scratch_dir(self)
    }

    fn describe(&self) -> String {
        format!("store {}", self.dir().display())
    }
}
