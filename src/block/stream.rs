//! Byte streams kept in blocks: oplog entries, pending operations, oversized options.

use super::{BlockId, BlockRead, BlockWrite, Error, Kind};

/// Raw bytes in one block of a stream: large enough to compress well, small enough to push.
pub const STREAM_BLOCK_BYTES: usize = 256 << 10;

/// Stores a byte string as consecutive [`Kind::Stream`] blocks and returns their names in order.
///
/// # Errors
/// Those of [`BlockWrite::put`].
pub fn write(blocks: &dyn BlockWrite, bytes: &[u8]) -> Result<Vec<BlockId>, Error> {
    bytes.chunks(STREAM_BLOCK_BYTES).map(|piece| blocks.put(Kind::Stream, piece)).collect()
}

/// Reads back what [`write()`] stored.
///
/// # Errors
/// Those of [`BlockRead::get`], and [`Error::Malformed`] if a name is of another kind.
pub fn read(blocks: &dyn BlockRead, pieces: &[BlockId]) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    for id in pieces {
        let block = blocks.get(id)?;
        if block.kind != Kind::Stream {
            return Err(Error::Malformed { what: "a stream names a block of another kind" });
        }
        bytes.extend_from_slice(&block.bytes);
    }
    Ok(bytes)
}
