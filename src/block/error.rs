//! What can go wrong with a block.

use super::{BlockId, MAX_BLOCK_BYTES};

/// An error of the block floor and of any set of blocks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The set has no such block.
    #[error("block {id} is missing")]
    Missing {
        /// The block asked for.
        id: BlockId,
    },
    /// The stored bytes are not what the name says.
    #[error("block {id} is damaged: {what}")]
    Damaged {
        /// The block asked for.
        id: BlockId,
        /// Which check failed.
        what: &'static str,
    },
    /// A raw block above the limit.
    #[error("a block of {len} bytes is above the limit of {MAX_BLOCK_BYTES}")]
    TooLarge {
        /// Its raw length in bytes.
        len: usize,
    },
    /// Stored bytes that do not decompress to the length they claim.
    #[error("stored block does not decompress: {what}")]
    Codec {
        /// Which check failed.
        what: &'static str,
    },
    /// A block whose content is not of its kind's form.
    #[error("malformed block: {what}")]
    Malformed {
        /// Which rule it breaks.
        what: &'static str,
    },
    /// A failure of whatever holds the blocks.
    #[error("{0}")]
    Backend(#[source] Box<dyn std::error::Error + Send + Sync>),
}
