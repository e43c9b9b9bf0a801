//! Operations of open transactions.
//!
//! Entries are kept as they came until their transaction is decided. In memory from one flush to the
//! next; a flush stores them as streams of blocks, which the head root names, and forgets the bytes.
//! What is in memory has a budget: above it a flush is due.

use std::collections::BTreeMap;

use bson::{RawDocument, RawDocumentBuf};

use super::Error;
use crate::block::{BlockId, BlockRead, BlockWrite, stream};

/// Bytes of held entries in memory above which a flush is due: a few of the largest entries.
const HELD_BUDGET_BYTES: usize = 64 << 20;

/// Names a held entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HeldId(pub u64);

#[derive(Debug)]
enum Place {
    Memory(RawDocumentBuf),
    Blocks(Vec<BlockId>),
}

/// All held entries.
#[derive(Debug, Default)]
pub(super) struct Held {
    entries: BTreeMap<HeldId, Place>,
    bytes: usize,
    next: u64,
}

impl Held {
    /// A name for an entry that may come to be held.
    pub fn reserve(&mut self) -> HeldId {
        self.next += 1;
        HeldId(self.next)
    }

    /// Keeps an entry.
    pub fn keep(&mut self, id: HeldId, entry: &RawDocument) {
        self.bytes += entry.as_bytes().len();
        self.entries.insert(id, Place::Memory(entry.to_owned()));
    }

    /// Keeps an entry that a flush stored.
    pub fn adopt(&mut self, pieces: Vec<BlockId>) -> HeldId {
        let id = self.reserve();
        self.entries.insert(id, Place::Blocks(pieces));
        id
    }

    /// Gives an entry back. None if it is not held, which no caller lets happen.
    pub fn take(
        &mut self,
        blocks: &dyn BlockRead,
        id: HeldId,
    ) -> Result<Option<RawDocumentBuf>, Error> {
        match self.entries.remove(&id) {
            None => Ok(None),
            Some(Place::Memory(entry)) => {
                self.bytes -= entry.as_bytes().len();
                Ok(Some(entry))
            }
            Some(Place::Blocks(pieces)) => {
                let entry = RawDocumentBuf::from_bytes(stream::read(blocks, &pieces)?);
                let malformed = Error::Malformed { what: "held oplog entry", field: "entry" };
                Ok(Some(entry.map_err(|_| malformed)?))
            }
        }
    }

    /// Forgets an entry.
    pub fn forget(&mut self, id: HeldId) {
        if let Some(Place::Memory(entry)) = self.entries.remove(&id) {
            self.bytes -= entry.as_bytes().len();
        }
    }

    /// Stores an entry, if it is not yet, and tells where.
    pub fn store(&mut self, blocks: &dyn BlockWrite, id: HeldId) -> Result<Vec<BlockId>, Error> {
        let malformed = Error::Malformed { what: "held oplog entry", field: "entry" };
        let place = self.entries.get_mut(&id).ok_or(malformed)?;
        let pieces = match place {
            Place::Blocks(pieces) => return Ok(pieces.clone()),
            Place::Memory(entry) => {
                self.bytes -= entry.as_bytes().len();
                stream::write(blocks, entry.as_bytes())?
            }
        };
        *place = Place::Blocks(pieces.clone());
        Ok(pieces)
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is more in memory than should stay there.
    pub fn over_budget(&self) -> bool {
        self.bytes > HELD_BUDGET_BYTES
    }
}
