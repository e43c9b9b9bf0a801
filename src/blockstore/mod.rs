//! Repositories: what a restore reads through, wherever the blocks are kept.
//!
//! A *repository* holds blocks and the salt that decided how their trees were cut. [`Repository`] is
//! its read half. The local store is one; a *blockstore*, which is shared and remote, stands behind the same trait. What a
//! job's state says (which snapshots and slices there are) lies above this floor and is handed to
//! the reader beside the repository.
//!
//! A [`Blockstore`] is a database of a MongoDB replica set, or a directory or bucket of objects. `format-spec/09-blockstore.md` is its
//! protocol, and page 10 how objects carry it: every file here says which section it carries out, and the argument for each race stands there.

mod assertion;
mod backend;
mod connection;
mod contents;
mod error;
mod groom;
mod job;
mod lacking;
mod objects;
mod pace;
mod patience;
mod private;
mod reader;
mod reaper;
mod replica_set;
mod repository;
mod retention;
mod session;
mod sorted;
mod told;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use assertion::Sent;
pub(crate) use assertion::{Asserter, NAMES_MAX};
pub(crate) use backend::Found;
pub use contents::JobDocument;
pub use error::Error;
pub use groom::{GroomProgress, GroomReport, GroomRequest, GroomedJob};
pub(crate) use job::{Bound, Change, Daemon};
pub(crate) use lacking::lacking;
pub use objects::{Probe, Refused, is_of_objects, probe};
pub use pace::Pace;
pub use reader::Reader;
pub(crate) use reaper::Reaper;
pub use retention::Deletion;
pub(crate) use session::{Purpose, RENEW_EVERY, Session, renewals};
pub(crate) use told::{cause_text, in_one_line};

use crate::block::BlockRead;
use crate::head::Manifest;
use crate::oplog::slice::Slice;
use crate::store::{self, RepositorySalt, Secret, Store, Vault};
use connection::Connection;
use repository::Facts;

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

/// Where a blockstore is, and what opens it if it is encrypted.
#[derive(Clone)]
pub struct Place {
    /// Connection string of its replica set.
    pub uri: String,
    /// Its key.
    pub secret: Option<Arc<Secret>>,
}

impl fmt::Debug for Place {
    // Without the connection string, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("secret", &self.secret).finish_non_exhaustive()
    }
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
    /// [`Error::NoRepository`], [`Error::NewerFormat`], [`Error::Encryption`] without a key that is needed, and those of reaching it.
    pub async fn open(place: &Place) -> Result<Self, Error> {
        let connection = Connection::open(&place.uri).await?;
        let facts = Facts::find(&connection).await?;
        let facts = facts.ok_or_else(|| Error::NoRepository { blockstore: connection.name() })?;
        let vault = facts.unlock(&connection, place.secret.as_ref())?;
        connection.unlocked(facts.uuid, vault);
        Ok(Self { facts, connection })
    }

    /// Opens a blockstore for a store that is pushed there; makes the repository if there is none.
    ///
    /// # Errors
    /// [`Error::AnotherSalt`], [`Error::Encryption`], and those of [`Blockstore::open`].
    pub async fn open_for(place: &Place, store: &Store) -> Result<Self, Error> {
        let connection = Connection::open(&place.uri).await?;
        let facts = match Facts::find(&connection).await? {
            Some(facts) => facts,
            None => Facts::make(&connection, store).await?,
        };
        let own = store.vault();
        let mut vault = facts.unlock(&connection, place.secret.as_ref())?;
        let (dir, blockstore) = (store.dir().display().to_string(), connection.name());
        if own.is_encrypted() != vault.is_encrypted() {
            let is = |encrypted| if encrypted { "is encrypted" } else { "is not" };
            let (here, there) = (is(own.is_encrypted()), is(vault.is_encrypted()));
            let what = format!("the store {dir} {here} and {blockstore} {there}");
            return Err(Error::Encryption { what });
        }
        if !own.names_as(&vault) {
            return Err(Error::AnotherSalt { dir, blockstore });
        }
        if !own.is_among(&vault) {
            // The store's data key was changed since.
            let both = own.with(&vault).ok_or(Error::KeysDiffer { dir, blockstore })?;
            vault = facts.take_keys(&connection, &both).await?;
        }
        connection.unlocked(facts.uuid, vault);
        Ok(Self { connection, facts })
    }

    /// What names and seals the blocks of its repository, if there is one there.
    ///
    /// # Errors
    /// [`Error::Encryption`], and those of reaching it.
    pub async fn vault_at(place: &Place) -> Result<Option<Vault>, Error> {
        let connection = Connection::open(&place.uri).await?;
        let facts = Facts::find(&connection).await?;
        facts.map(|facts| facts.unlock(&connection, place.secret.as_ref())).transpose()
    }

    /// What names and seals its blocks.
    #[must_use]
    pub fn vault(&self) -> &Vault {
        self.connection.vault()
    }

    /// What to call it; holds no secret.
    #[must_use]
    pub fn name(&self) -> String {
        self.connection.name()
    }

    /// The salt of every tree in it.
    #[must_use]
    pub fn salt(&self) -> RepositorySalt {
        self.vault().salt()
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
        self.connection.snapshots(&self.job_id(job)).await
    }

    /// The slices of a job, oldest first.
    ///
    /// # Errors
    /// Those of reading it.
    pub async fn slices(&self, job: &str) -> Result<Vec<Slice>, Error> {
        self.connection.slices(&self.job_id(job)).await
    }

    /// Starts to read, with every snapshot of a job pinned.
    ///
    /// # Errors
    /// Those of reaching it.
    pub async fn reader(&self, job: &str) -> Result<Reader, Error> {
        Reader::start(&self.connection, &self.job_id(job)).await
    }

    /// What a job's documents are named by.
    pub(crate) fn job_id(&self, job: &str) -> String {
        self.vault().hidden(job)
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
        self.blockstore.vault().scratch(dir)
    }

    fn is_encrypted(&self) -> bool {
        self.blockstore.vault().is_encrypted()
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
