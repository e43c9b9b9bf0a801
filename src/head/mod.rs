//! The head: a source's replicated state at one optime. (Contract; the essay comes with the code.)

use std::path::PathBuf;
use std::sync::Arc;

use bson::{RawDocument, RawDocumentBuf};

use crate::block::{BlockId, BlockRead, BlockWrite};
use crate::oplog::{OpTime, Position, Uuid};
use crate::store::RepositorySalt;
use crate::tree;

/// What a head needs from its surroundings.
#[derive(Clone)]
pub struct Config {
    /// Decides where trees are cut.
    pub salt: RepositorySalt,
    /// Where sorted runs of changes go.
    pub scratch_dir: PathBuf,
    /// Bytes of pending changes held in memory before a run is written.
    pub change_budget_bytes: usize,
    /// Whether the source's servers trim capped collections without logging it (before 5.0).
    pub trims_capped_unlogged: bool,
}

/// A collection as the catalog holds it.
#[derive(Debug, Clone)]
pub struct Collection {
    /// Its UUID.
    pub uuid: Uuid,
    /// `db.name` at the head's optime.
    pub ns: String,
    /// Options verbatim, as listCollections would show them (no `uuid`).
    pub options: RawDocumentBuf,
    /// Finished index specs verbatim, the `_id` index included where there is one.
    pub indexes: Vec<RawDocumentBuf>,
    /// By key, or by position (capped).
    pub order: tree::Order,
    /// The documents.
    pub root: tree::Root,
}

/// A committed head: everything needed to go on from its optime without an older entry.
#[derive(Debug, Clone)]
pub struct HeadRoot {
    /// Position of the last entry applied.
    pub position: Position,
    /// The state can be restored from this optime on; none while a scan is not caught up.
    pub consistent_from: Option<OpTime>,
    /// Root of the catalog tree.
    pub catalog: tree::Root,
    /// Block of the pending state (open chains, prepared transactions, started index builds).
    pub pending: Option<BlockId>,
    /// Hash of the kept namespaces' contents.
    pub content_root: [u8; 32],
    /// Documents in kept namespaces.
    pub documents: u64,
    /// Sum of their BSON lengths.
    pub logical_bytes: u64,
}

/// A named, retained head. Stored as one `Links` block.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// Name, unique in the job: the optime and a short random part.
    pub id: String,
    /// The state.
    pub head: HeadRoot,
    /// Milliseconds since the Unix epoch when it was taken.
    pub taken_ms: i64,
    /// Replica set name.
    pub set_name: String,
    /// `replSetConfig.settings.replicaSetId`, 12 bytes.
    pub replica_set_id: [u8; 12],
    /// Feature compatibility version.
    pub fcv: String,
    /// Version of the server read from.
    pub server_version: String,
    /// Version of the apply rules.
    pub rule_version: u32,
    /// Stored bytes that this snapshot added.
    pub added_bytes: u64,
    /// Never expired by a policy.
    pub keep: bool,
}

/// What a scan found of one collection, to start a head from.
pub type Scanned = Collection;

/// Errors of the head floor. (typed variants to come)
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tree could not be read or written.
    #[error(transparent)]
    Tree(#[from] tree::Error),
}

/// An open head: catalog in memory, changes pending, documents in blocks.
pub struct Head {}

impl Head {
    /// A head from a finished scan. Entries up to `fuzzy_until` are applied by the rules of an
    /// initial sync (oplog.md 2.2); from there on the head is consistent. `held` are raw entries at
    /// or before `start` that open chains and prepared transactions need.
    pub fn from_scan(
        _blocks: Arc<dyn BlockRead>,
        _config: Config,
        _start: Position,
        _fuzzy_until: OpTime,
        _collections: Vec<Scanned>,
    ) -> Result<Self, Error> {
        unimplemented!()
    }
    /// Feeds an entry at or before the scan's start: only open chains and prepared transactions are
    /// collected from it.
    pub fn preload(&mut self, _entry: &RawDocument) -> Result<(), Error> {
        unimplemented!()
    }
    /// Opens a committed head.
    pub fn load(
        _blocks: Arc<dyn BlockRead>,
        _config: Config,
        _root: &HeadRoot,
    ) -> Result<Self, Error> {
        unimplemented!()
    }
    /// Applies the next entry. Must be above [`Head::position`].
    pub fn apply(&mut self, _entry: &RawDocument) -> Result<(), Error> {
        unimplemented!()
    }
    /// For a restore to `at`: applies from entries above `at` only the commits of transactions
    /// prepared at or before it whose commitTimestamp is at or before it. True when none of those
    /// is undecided any more.
    pub fn decide(&mut self, _entry: &RawDocument, _at: crate::oplog::Ts) -> Result<bool, Error> {
        unimplemented!()
    }
    /// Prepare timestamps of undecided prepared transactions, lowest first.
    pub fn undecided(&self) -> Vec<crate::oplog::Ts> {
        unimplemented!()
    }
    /// Position of the last entry applied.
    pub fn position(&self) -> Position {
        unimplemented!()
    }
    /// Bytes of changes not yet swept, in memory and in runs.
    pub fn pending_bytes(&self) -> u64 {
        unimplemented!()
    }
    /// Sweeps pending changes into trees and the catalog, and returns what a commit must name.
    pub fn flush(&mut self, _blocks: &dyn BlockWrite) -> Result<HeadRoot, Error> {
        unimplemented!()
    }
    /// The catalog, by UUID. Roots are those of the last flush.
    pub fn collections(&self) -> Vec<&Collection> {
        unimplemented!()
    }
}

/// Reads the catalog of a committed head.
pub fn catalog(_blocks: &dyn BlockRead, _root: &HeadRoot) -> Result<Vec<Collection>, Error> {
    unimplemented!()
}

// Also owed: Manifest encode/decode (one Links block), HeadRoot to/from bson, namespace table
// (`namespaces::rule(ns) -> Keep | Leave(reason)`, oplog.md 1.9), divergence counters.
