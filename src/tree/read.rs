//! Reading the blocks of a tree, trusting none.

use bson::RawDocument;
use bytes::Bytes;

use crate::block::{Block, BlockId, BlockRead, Kind};

use super::node::{self, Entry, Node};
use super::{Error, MAX_DOCUMENT_BYTES, PART_BYTES};

/// Reads an inner node that must stand at `level`.
pub(super) fn node(blocks: &dyn BlockRead, id: &BlockId, level: u8) -> Result<Node, Error> {
    let block = blocks.get(id)?;
    if block.kind != Kind::Node {
        return Err(Error::malformed(id, "a child of another kind than a node"));
    }
    let node = node::decode(&block.bytes).map_err(|what| Error::malformed(id, what))?;
    if node.level != level {
        return Err(Error::malformed(id, "a node at another level than its parent says"));
    }
    Ok(node)
}

/// The child of an entry above level 1, or of a root.
pub(super) fn child_id(entry: &Entry) -> &BlockId {
    entry.child.as_ref().expect("only an entry with parts has no child, and those are at level 1")
}

/// Reads a leaf.
pub(super) fn leaf(blocks: &dyn BlockRead, id: &BlockId) -> Result<Bytes, Error> {
    leaf_block(blocks, id).map(|block| block.bytes)
}

fn leaf_block(blocks: &dyn BlockRead, id: &BlockId) -> Result<Block, Error> {
    let block = blocks.get(id)?;
    if !matches!(block.kind, Kind::Leaf | Kind::Links) {
        return Err(Error::malformed(id, "a child of another kind than a leaf"));
    }
    if block.bytes.is_empty() {
        return Err(Error::malformed(id, "an empty leaf"));
    }
    Ok(block)
}

/// Reads a large document from its parts.
pub(super) fn large(blocks: &dyn BlockRead, parts: &[BlockId]) -> Result<Bytes, Error> {
    let mut bytes = Vec::with_capacity(parts.len() * PART_BYTES);
    for (index, id) in parts.iter().enumerate() {
        let block = blocks.get(id)?;
        let (full, is_last) = (block.bytes.len() == PART_BYTES, index + 1 == parts.len());
        if block.kind != Kind::Part || block.bytes.is_empty() || (!full && !is_last) {
            return Err(Error::malformed(id, "a part of another kind or length"));
        }
        bytes.extend_from_slice(&block.bytes);
    }
    if bytes.len() <= PART_BYTES || bytes.len() > MAX_DOCUMENT_BYTES {
        return Err(Error::malformed(&parts[0], "parts of a document of impossible length"));
    }
    RawDocument::from_bytes(&bytes)
        .map_err(|_| Error::malformed(&parts[0], "parts that do not join to a document"))?;
    Ok(bytes.into())
}

/// The length of the first document of a leaf's bytes.
pub(super) fn document_len(id: &BlockId, bytes: &[u8]) -> Result<usize, Error> {
    let len = bytes.first_chunk::<4>().map(|len| u32::from_le_bytes(*len) as usize);
    match len {
        Some(len) if len >= 5 && len <= bytes.len() && bytes[len - 1] == 0 => Ok(len),
        _ => Err(Error::malformed(id, "a leaf that is no run of documents")),
    }
}

/// The documents of one chunk, read.
pub(super) struct Chunk {
    leaf: Option<(BlockId, Block)>,
    large: Option<(BlockId, Bytes)>,
}

/// Reads the documents of an entry at level 1.
pub(super) fn chunk(blocks: &dyn BlockRead, entry: &Entry) -> Result<Chunk, Error> {
    let leaf = match &entry.child {
        Some(id) => Some((*id, leaf_block(blocks, id)?)),
        None => None,
    };
    let large = match entry.parts.first() {
        Some(id) => Some((*id, large(blocks, &entry.parts)?)),
        None => None,
    };
    Ok(Chunk { leaf, large })
}

impl Chunk {
    /// The kind of its leaf, if it has one.
    pub fn leaf_kind(&self) -> Option<Kind> {
        self.leaf.as_ref().map(|(_, block)| block.kind)
    }

    /// The documents in order. Ends after the first error.
    pub fn documents(&self) -> impl Iterator<Item = Result<&RawDocument, Error>> {
        let mut rest = self.leaf.as_ref().map_or(&[][..], |(_, block)| &block.bytes);
        let in_leaf = std::iter::from_fn(move || {
            let (id, _) = self.leaf.as_ref().filter(|_| !rest.is_empty())?;
            let document = document_len(id, rest).and_then(|len| {
                let (document, tail) = rest.split_at(len);
                rest = tail;
                as_document(id, document)
            });
            if document.is_err() {
                rest = &[];
            }
            Some(document)
        });
        in_leaf.chain(self.large.as_ref().map(|(id, bytes)| as_document(id, bytes)))
    }
}

fn as_document<'a>(id: &BlockId, bytes: &'a [u8]) -> Result<&'a RawDocument, Error> {
    RawDocument::from_bytes(bytes).map_err(|_| Error::malformed(id, "invalid document framing"))
}
