//! What one worker adds to a store that others add to at the same time.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::block::{Block, BlockId, BlockRead, BlockWrite, Error, Family, Kind};
use crate::store::{OfFamily, Store};

/// A store that counts the bytes added through it.
pub struct Counted<'a> {
    store: &'a Store,
    added_bytes: AtomicU64,
}

impl<'a> Counted<'a> {
    pub fn new(store: &'a Store) -> Self {
        Self { store, added_bytes: AtomicU64::new(0) }
    }

    /// Stored bytes added so far, headers included, duplicates not.
    pub fn added_bytes(&self) -> u64 {
        self.added_bytes.load(Ordering::Relaxed)
    }
}

impl BlockRead for Counted<'_> {
    fn get(&self, id: &BlockId) -> Result<Block, Error> {
        self.store.get(id)
    }

    fn kind_of(&self, id: &BlockId) -> Result<Option<Kind>, Error> {
        self.store.kind_of(id)
    }
}

impl BlockWrite for Counted<'_> {
    fn put(&self, kind: Kind, raw: &[u8]) -> Result<BlockId, Error> {
        let (id, added) = self.store.put_counted(kind, raw)?;
        self.added_bytes.fetch_add(added, Ordering::Relaxed);
        Ok(id)
    }

    fn for_family(&self, family: &Family<'_>) -> Option<Box<dyn BlockWrite + '_>> {
        let of_family = CountedFamily { of: self, store: self.store.family(family)? };
        Some(Box::new(of_family))
    }
}

/// The same for one family.
struct CountedFamily<'a> {
    of: &'a Counted<'a>,
    store: OfFamily,
}

impl BlockRead for CountedFamily<'_> {
    fn get(&self, id: &BlockId) -> Result<Block, Error> {
        self.store.get(id)
    }

    fn kind_of(&self, id: &BlockId) -> Result<Option<Kind>, Error> {
        self.store.kind_of(id)
    }
}

impl BlockWrite for CountedFamily<'_> {
    fn put(&self, kind: Kind, raw: &[u8]) -> Result<BlockId, Error> {
        let (id, added) = self.store.put_counted(kind, raw)?;
        self.of.added_bytes.fetch_add(added, Ordering::Relaxed);
        Ok(id)
    }
}
