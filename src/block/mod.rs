//! Blocks: immutable byte strings named by the hash of their kind and content.
//!
//! A block is the unit of storage, deduplication, transfer and verification. This floor knows how a
//! block is named, how it is compressed and which other blocks it names. It knows no files.
//! The format is `format-spec/03-blocks.md`.

mod codec;
mod dictionary;
mod error;
mod id;
mod kind;
mod links;
mod memory;
pub mod stream;

pub use codec::{Codec, compress, decompress, decompress_behind};
pub use dictionary::{Dictionary, MAX_DICTIONARY_BYTES, StoredForm};
pub use error::Error;
pub use id::BlockId;
pub use kind::Kind;
pub use links::{link, linked, references};
pub use memory::MemoryBlocks;

use bytes::Bytes;

/// The largest raw (uncompressed) block, in bytes. A 16 MiB document is cut into parts so that every
/// block, and every document of a blockstore that holds one, stays far below the server's limit.
pub const MAX_BLOCK_BYTES: usize = 1 << 20;

/// A block as read back: its kind and its raw, verified content.
#[derive(Debug, Clone)]
pub struct Block {
    /// What the bytes are.
    pub kind: Kind,
    /// The uncompressed content.
    pub bytes: Bytes,
}

/// A set of blocks that can be read by id.
pub trait BlockRead: Send + Sync {
    /// Returns the block named `id`, its content checked against its name.
    ///
    /// # Errors
    /// [`Error::Missing`] if the set has no such block, [`Error::Damaged`] if its content does not
    /// match its name, [`Error::Backend`] for anything below.
    fn get(&self, id: &BlockId) -> Result<Block, Error>;

    /// Tells whether the set has the block, and of which kind, without reading it.
    fn kind_of(&self, id: &BlockId) -> Result<Option<Kind>, Error>;
}

/// A set of blocks that can be added to.
pub trait BlockWrite: BlockRead {
    /// Stores a block and returns its name. Storing what is already there stores nothing.
    ///
    /// # Errors
    /// [`Error::TooLarge`] above [`MAX_BLOCK_BYTES`], [`Error::Backend`] for anything below.
    fn put(&self, kind: Kind, raw: &[u8]) -> Result<BlockId, Error>;

    /// What stores the blocks of one family (a collection): it may compress them with what they have in common. None where there is
    /// nothing to be gained by it.
    fn for_family(&self, _family: &Family<'_>) -> Option<Box<dyn BlockWrite + '_>> {
        None
    }
}

/// Blocks that resemble each other.
pub struct Family<'a> {
    /// The same for all of them, and for no other.
    pub id: [u8; 16],
    /// Names some that are there already, from all over the family: about so many bytes of them.
    pub examples: &'a dyn Fn(u64) -> Result<Vec<BlockId>, Error>,
}
