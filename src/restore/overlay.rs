//! Blocks of a repository with a scratch store over them.
//!
//! Reads go to the repository first and to the scratch store for what it lacks; writes go to the
//! scratch store alone. So a restore can derive trees without writing into what it reads.

use std::path::Path;
use std::sync::Arc;

use crate::block::{Block, BlockId, BlockRead, BlockWrite, Error, Kind};
use crate::store::{self, RepositorySalt, Store};

/// Segment size of the scratch store: it is allocated at once, and most restores change little.
const SCRATCH_SEGMENT_BYTES: u64 = 32 << 20;

/// See the module.
pub(crate) struct Overlay {
    repository: Arc<dyn BlockRead>,
    scratch: Store,
}

impl Overlay {
    /// Makes the scratch store in `dir`, which must not exist. The salt is that of the repository's
    /// trees.
    pub fn new(
        repository: Arc<dyn BlockRead>,
        salt: RepositorySalt,
        dir: &Path,
    ) -> Result<Self, store::Error> {
        Ok(Self { repository, scratch: scratch_store(dir, salt)? })
    }
}

/// Makes a store that need not survive, in `dir`, which must not exist.
pub(super) fn scratch_store(dir: &Path, salt: RepositorySalt) -> Result<Store, store::Error> {
    let options =
        store::Options { segment_bytes: SCRATCH_SEGMENT_BYTES, durable: false, mmap: false };
    Store::create_with_salt(dir, options, salt)
}

impl BlockRead for Overlay {
    fn get(&self, id: &BlockId) -> Result<Block, Error> {
        match self.repository.get(id) {
            Err(Error::Missing { .. }) => self.scratch.get(id),
            found => found,
        }
    }

    fn kind_of(&self, id: &BlockId) -> Result<Option<Kind>, Error> {
        match self.repository.kind_of(id)? {
            None => self.scratch.kind_of(id),
            found => Ok(found),
        }
    }
}

impl BlockWrite for Overlay {
    fn put(&self, kind: Kind, raw: &[u8]) -> Result<BlockId, Error> {
        let id = BlockId::of(kind, raw);
        if self.repository.kind_of(&id)?.is_none() {
            self.scratch.put_as(id, kind, raw)?;
        }
        Ok(id)
    }
}
