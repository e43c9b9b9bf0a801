//! What one worker adds to a store that others add to at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::block::{Block, BlockId, BlockRead, BlockWrite, Error, Family, Kind};
use crate::store::Store;

/// A store that counts the bytes added through it.
pub struct Counted {
    store: Store,
    added_bytes: Arc<AtomicU64>,
}

impl Counted {
    pub fn new(store: &Store) -> Self {
        Self { store: store.clone(), added_bytes: Arc::default() }
    }

    /// Stored bytes added so far, headers included, duplicates not.
    pub fn added_bytes(&self) -> u64 {
        self.added_bytes.load(Ordering::Relaxed)
    }
}

impl BlockRead for Counted {
    fn get(&self, id: &BlockId) -> Result<Block, Error> {
        self.store.get(id)
    }

    fn kind_of(&self, id: &BlockId) -> Result<Option<Kind>, Error> {
        self.store.kind_of(id)
    }
}

impl BlockWrite for Counted {
    fn put(&self, kind: Kind, raw: &[u8]) -> Result<BlockId, Error> {
        let (id, added) = self.store.put_counted(kind, raw)?;
        self.added_bytes.fetch_add(added, Ordering::Relaxed);
        Ok(id)
    }

    fn for_family(&self, family: &Family<'_>) -> Option<Box<dyn BlockWrite + '_>> {
        let (store, added_bytes) = (self.store.family(family)?, Arc::clone(&self.added_bytes));
        Some(Box::new(Self { store, added_bytes }))
    }
}
