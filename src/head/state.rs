//! An open head.

use std::path::PathBuf;
use std::sync::Arc;

use bson::RawDocument;

use super::{Collection, Error, HeadRoot, Scanned};
use crate::block::{BlockRead, BlockWrite};
use crate::oplog::{OpTime, Position, Ts};
use crate::store::RepositorySalt;

/// What a head needs from its surroundings.
#[derive(Clone)]
pub struct Config {
    /// Decides where trees are cut.
    pub salt: RepositorySalt,
    /// Where sorted runs of changes go: an existing directory that only this head uses.
    pub scratch_dir: PathBuf,
    /// Bytes of pending changes held in memory before a run is written.
    pub change_budget_bytes: usize,
    /// Whether the source's servers are older than 5.0: they trim capped collections without
    /// logging it, and append the new fields of an update in byte order.
    pub trims_capped_unlogged: bool,
}

/// Operations that did not fit the state they met. On consistent data all are zero; anything else
/// means that the head and the source differ and asks for a dbHash check. The head did what a
/// secondary does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Divergences {
    /// Updates whose document was missing; it was created.
    pub update_on_missing: u64,
    /// Deletes of documents or collections that were missing; nothing was done.
    pub delete_on_missing: u64,
    /// Inserts of documents that were there, as far as it was seen; they were replaced.
    pub insert_on_existing: u64,
    /// Catalog commands on indexes or collections that were not as the command presumes.
    pub catalog: u64,
}

/// An open head: catalog in memory, changes pending, documents in blocks.
pub struct Head {}

impl Head {
    /// A head from a finished scan. Collections that are left out ([`super::namespaces`]) are passed
    /// over. Entries up to `fuzzy_until` are applied by the rules of an initial sync; from there on
    /// the head is consistent. `blocks` must also read what later flushes write.
    ///
    /// # Errors
    /// [`Error::NameTaken`] if two collections have one name.
    pub fn from_scan(
        _blocks: Arc<dyn BlockRead>,
        _config: Config,
        _start: Position,
        _fuzzy_until: OpTime,
        _collections: Vec<Scanned>,
    ) -> Result<Self, Error> {
        unimplemented!()
    }

    /// Feeds an entry at or before the scan's start, in order and before any [`Head::apply`]: only
    /// open chains and prepared transactions are collected from it.
    ///
    /// # Errors
    /// [`Error::Oplog`].
    pub fn preload(&mut self, _entry: &RawDocument) -> Result<(), Error> {
        unimplemented!()
    }

    /// Opens a committed head.
    ///
    /// # Errors
    /// [`Error::Tree`], [`Error::Block`], [`Error::Malformed`].
    pub fn load(
        _blocks: Arc<dyn BlockRead>,
        _config: Config,
        _root: &HeadRoot,
    ) -> Result<Self, Error> {
        unimplemented!()
    }

    /// Applies the next entry. Must be above [`Head::position`].
    ///
    /// # Errors
    /// Any; the head is spent then.
    pub fn apply(&mut self, _entry: &RawDocument) -> Result<(), Error> {
        unimplemented!()
    }

    /// For a restore to `at`, after every entry up to `at` was applied: takes the entries above `at`
    /// in order and applies only the commits of transactions prepared at or before `at` whose
    /// commitTimestamp is at or before it. True when none of those prepared at or before `at` is
    /// undecided any more; ask [`Head::undecided`] first, there may be none to begin with.
    ///
    /// # Errors
    /// Any; the head is spent then.
    pub fn decide(&mut self, _entry: &RawDocument, _at: Ts) -> Result<bool, Error> {
        unimplemented!()
    }

    /// Prepare timestamps of undecided prepared transactions, lowest first.
    #[must_use]
    pub fn undecided(&self) -> Vec<Ts> {
        unimplemented!()
    }

    /// Position of the last entry applied.
    #[must_use]
    pub fn position(&self) -> Position {
        unimplemented!()
    }

    /// From when on the state can be restored; none while a scan is not caught up with.
    #[must_use]
    pub fn consistent_from(&self) -> Option<OpTime> {
        unimplemented!()
    }

    /// Bytes of changes not yet swept, in memory and in runs.
    #[must_use]
    pub fn pending_bytes(&self) -> u64 {
        unimplemented!()
    }

    /// Whether the next [`Head::flush`] should not be put off: what cannot be spilled (capped
    /// collections, operations of open transactions) has outgrown its budget, or the runs a share
    /// of the head. Ask after each [`Head::apply`].
    #[must_use]
    pub fn flush_due(&self) -> bool {
        unimplemented!()
    }

    /// Surprises since the head was first made.
    #[must_use]
    pub fn divergences(&self) -> Divergences {
        unimplemented!()
    }

    /// Sweeps pending changes into trees and the catalog, and returns what a commit must name. Later
    /// work of this head relies on the blocks written, so what is returned must be committed before
    /// anything may remove unnamed blocks.
    ///
    /// # Errors
    /// Any; the head is spent then.
    pub fn flush(&mut self, _blocks: &dyn BlockWrite) -> Result<HeadRoot, Error> {
        unimplemented!()
    }

    /// The catalog, by UUID. Roots are those of the last flush.
    #[must_use]
    pub fn collections(&self) -> Vec<&Collection> {
        unimplemented!()
    }
}
