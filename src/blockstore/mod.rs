//! Repositories: what a restore reads through, wherever the blocks are kept.
//!
//! A *repository* holds blocks and the salt that decided how their trees were cut. [`Repository`] is
//! its read half. The local store is one; a shared, remote one stands behind the same trait. What a
//! job's state says (which snapshots and slices there are) lies above this floor and is handed to
//! the reader beside the repository.

use std::path::PathBuf;
use std::sync::Arc;

use crate::block::BlockRead;
use crate::store::{RepositorySalt, Store};

/// The read half of a repository. Nothing reached through it changes the repository.
pub trait Repository: Send + Sync {
    /// The blocks. What a reader has been told of stays readable for as long as this handle or a
    /// clone of it lives: the repository counts it as a reader.
    fn blocks(&self) -> Arc<dyn BlockRead>;

    /// The salt of every tree in the repository. A scratch store that takes derived trees must use
    /// it, else their content roots could not be compared.
    fn salt(&self) -> RepositorySalt;

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

    fn scratch_dir(&self) -> PathBuf {
        Self::scratch_dir(self)
    }

    fn describe(&self) -> String {
        format!("store {}", self.dir().display())
    }
}
