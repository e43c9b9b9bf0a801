//! The local store: segments, index and commit log in one directory.
//!
//! Knows blocks and roots; knows no MongoDB. (Contract; the essay comes with the code.)

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::block::{self, Block, BlockId, BlockRead, BlockWrite, Kind};

/// How to open or create a store.
#[derive(Debug, Clone)]
pub struct Options {
    /// Bytes of a full segment.
    pub segment_bytes: u64,
    /// Whether commits are made durable. False only for scratch stores that are thrown away.
    pub durable: bool,
    /// Whether sealed segments are read through memory maps.
    pub mmap: bool,
}

/// What a commit names: by root name (one per job), the `Links` block that holds its state.
pub type Roots = BTreeMap<String, BlockId>;

/// The number of a commit; grows by one with each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitSeq(pub u64);

/// The secret that decides where trees are cut; made once per repository.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RepositorySalt(pub [u8; 32]);

/// Errors of the store. (Typed variants: Io with path and operation, Locked, NotAStore, Damaged with
/// segment and offset, Full, Latched, Block, ...)
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A failure of a block.
    #[error(transparent)]
    Block(#[from] block::Error),
}

/// An open store. Cheap to clone; every clone is the same store. A writer holds the directory's
/// lock until the last clone is dropped; a reader is registered until then.
#[derive(Clone)]
pub struct Store {}

impl Store {
    /// Creates a store in an empty or absent directory, with a fresh random salt.
    pub fn create(_dir: &Path, _options: Options) -> Result<Self, Error> {
        unimplemented!()
    }
    /// Creates a store with a given salt (a scratch store beside its base, or a rebuild).
    pub fn create_with_salt(
        _dir: &Path,
        _o: Options,
        _salt: RepositorySalt,
    ) -> Result<Self, Error> {
        unimplemented!()
    }
    /// Opens for writing: takes the lock, recovers the tail.
    pub fn open(_dir: &Path, _options: Options) -> Result<Self, Error> {
        unimplemented!()
    }
    /// Opens for reading the newest commit beside a writer: registers under `readers/`, never writes
    /// anything else.
    pub fn open_reader(_dir: &Path, _options: Options) -> Result<Self, Error> {
        unimplemented!()
    }
    /// Whether a directory holds a store.
    pub fn exists(_dir: &Path) -> bool {
        unimplemented!()
    }
    /// The directory.
    pub fn dir(&self) -> &Path {
        unimplemented!()
    }
    /// The repository salt.
    pub fn salt(&self) -> RepositorySalt {
        unimplemented!()
    }
    /// The newest commit and what it names.
    pub fn roots(&self) -> (CommitSeq, Roots) {
        unimplemented!()
    }
    /// Makes every block put so far durable, then the commit: `edit` gets the current roots and
    /// changes them. Returns when the commit is durable.
    pub fn commit(&self, _edit: impl FnOnce(&mut Roots)) -> Result<CommitSeq, Error> {
        unimplemented!()
    }
    /// Keeps compaction out while blocks are put that no commit names yet. Hold one from the first
    /// `put` to the commit that names it.
    pub fn session(&self) -> Session {
        unimplemented!()
    }
    /// Bytes and blocks held, added since opening, segments, index runs.
    pub fn stats(&self) -> Stats {
        unimplemented!()
    }
    /// Where scratch files of this store may live (same file system, removed at open).
    pub fn scratch_dir(&self) -> PathBuf {
        unimplemented!()
    }
}

/// Keeps compaction out while it lives, see [`Store::session`].
pub struct Session {}

/// Figures of a store.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Stats {
    /// Blocks in the store.
    pub blocks: u64,
    /// Bytes of segment files in use.
    pub stored_bytes: u64,
    /// Stored bytes appended since the store was opened (headers included, duplicates not).
    pub added_bytes: u64,
    /// Segments.
    pub segments: u64,
}

impl BlockRead for Store {
    fn get(&self, _id: &BlockId) -> Result<Block, block::Error> {
        unimplemented!()
    }
    fn kind_of(&self, _id: &BlockId) -> Result<Option<Kind>, block::Error> {
        unimplemented!()
    }
}

impl BlockWrite for Store {
    fn put(&self, _kind: Kind, _raw: &[u8]) -> Result<BlockId, block::Error> {
        unimplemented!()
    }
}

// Also owed by this floor: `store::fsck` (quick/graph/data findings with codes), `store::compact`
// (plan, execute), `store::fs` (the file seam: create, write_at, read_at, map, sync, rename, remove,
// list), which every other floor's scratch files use too.
