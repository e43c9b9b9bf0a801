//! A set of blocks in memory, for tests, benchmarks and small intermediate trees.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use super::{Block, BlockId, BlockRead, BlockWrite, Error, Kind, MAX_BLOCK_BYTES};

/// Blocks held in memory.
#[derive(Debug, Default)]
pub struct MemoryBlocks {
    blocks: Mutex<HashMap<BlockId, Block>>,
}

impl MemoryBlocks {
    /// An empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many blocks the set has, and their raw bytes.
    #[must_use]
    pub fn size(&self) -> (usize, u64) {
        let blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        (blocks.len(), blocks.values().map(|block| block.bytes.len() as u64).sum())
    }
}

impl BlockRead for MemoryBlocks {
    fn get(&self, id: &BlockId) -> Result<Block, Error> {
        let blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        blocks.get(id).cloned().ok_or(Error::Missing { id: *id })
    }

    fn kind_of(&self, id: &BlockId) -> Result<Option<Kind>, Error> {
        let blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(blocks.get(id).map(|block| block.kind))
    }
}

impl BlockWrite for MemoryBlocks {
    fn put(&self, kind: Kind, raw: &[u8]) -> Result<BlockId, Error> {
        if raw.len() > MAX_BLOCK_BYTES {
            return Err(Error::TooLarge { len: raw.len() });
        }
        let id = BlockId::of(kind, raw);
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        blocks.entry(id).or_insert_with(|| Block { kind, bytes: Bytes::copy_from_slice(raw) });
        Ok(id)
    }
}
