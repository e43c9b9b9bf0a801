//! Repositories: what a restore reads through, wherever the blocks are kept.
//!
//! A *repository* holds blocks and the salt that decided how their trees were cut. [`Repository`] is
//! its read half. The local store is one; a shared, remote one stands behind the same trait. What a
//! job's state says (which snapshots and slices there are) lies above this floor and is handed to
//! the reader beside the repository.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::block::BlockRead;
use crate::store::{self, RepositorySalt, Store};

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
