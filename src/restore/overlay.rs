//! Blocks of a repository with a scratch store over them.
//!
//! Reads go to the repository first and to the scratch store for what it lacks; writes go to the
//! scratch store alone. So a restore can derive trees without writing into what it reads.

use std::sync::Arc;

use crate::block::{Block, BlockId, BlockRead, BlockWrite, Error, Kind};
use crate::store::Store;

/// See the module.
pub(crate) struct Overlay {
    repository: Arc<dyn BlockRead>,
    scratch: Store,
}

impl Overlay {
    /// A scratch store over the repository that it was made by.
    pub fn new(repository: Arc<dyn BlockRead>, scratch: Store) -> Self {
        Self { repository, scratch }
    }
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
        let id = self.scratch.name(kind, raw);
        if self.repository.kind_of(&id)?.is_none() {
            self.scratch.put_as(id, kind, raw)?;
        }
        Ok(id)
    }
}
