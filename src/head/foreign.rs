//! A user's bytes inside our own documents.
//!
//! They stand as a binary of subtype 0, so that nothing in them can be taken for the name of a block;
//! above [`INLINE_BYTES`] out of line, as an array naming the blocks of a stream.

use bson::raw::{RawArrayBuf, RawBson, RawBsonRef};
use bson::spec::BinarySubtype;
use bson::{Binary, RawDocument, RawDocumentBuf};

use crate::block::{self, BlockId, BlockRead, BlockWrite, stream};

/// The most bytes kept inline: a catalog entry then stays far below the largest block, and a leaf
/// of the catalog holds several.
pub(super) const INLINE_BYTES: usize = 64 << 10;

/// The value that holds `bytes`.
pub(super) fn encode(blocks: &dyn BlockWrite, bytes: &[u8]) -> Result<RawBson, block::Error> {
    if bytes.len() <= INLINE_BYTES {
        let bytes = bytes.to_vec();
        return Ok(RawBson::Binary(Binary { subtype: BinarySubtype::Generic, bytes }));
    }
    Ok(RawBson::Array(links(&stream::write(blocks, bytes)?)))
}

/// The bytes a value holds; none if it is not of the form of [`encode`].
pub(super) fn decode(
    blocks: &dyn BlockRead,
    value: RawBsonRef<'_>,
) -> Result<Option<Vec<u8>>, block::Error> {
    match value {
        RawBsonRef::Binary(binary) if binary.subtype == BinarySubtype::Generic => {
            Ok(Some(binary.bytes.to_vec()))
        }
        value => match linked(value) {
            Some(pieces) => stream::read(blocks, &pieces).map(Some),
            None => Ok(None),
        },
    }
}

/// An array that names blocks.
pub(super) fn links(pieces: &[BlockId]) -> RawArrayBuf {
    pieces.iter().map(|piece| RawBson::Binary(block::link(piece))).collect()
}

/// The blocks an array of [`links`] names.
pub(super) fn linked(value: RawBsonRef<'_>) -> Option<Vec<BlockId>> {
    let array = value.as_array()?;
    array.into_iter().map(|piece| piece.ok().and_then(block::linked)).collect()
}

/// Splits a run of BSON documents; none if it is not one.
pub(super) fn documents(mut run: &[u8]) -> Option<Vec<RawDocumentBuf>> {
    let mut documents = Vec::new();
    while !run.is_empty() {
        let (document, rest) = split(run)?;
        documents.push(document.to_owned());
        run = rest;
    }
    Some(documents)
}

/// The first document of a run and what follows.
pub(super) fn split(run: &[u8]) -> Option<(&RawDocument, &[u8])> {
    let len = usize::try_from(u32::from_le_bytes(*run.first_chunk::<4>()?)).ok()?;
    let (document, rest) = run.split_at_checked(len)?;
    Some((RawDocument::from_bytes(document).ok()?, rest))
}
