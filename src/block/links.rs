//! Which blocks a block names.
//!
//! Reachability, compaction, push and groom need to walk from a block to what it names without
//! knowing trees, catalogs or jobs. So the rule is one per kind, and lives here:
//! a [`Kind::Node`] names the ids of its child table, a [`Kind::Links`] or [`Kind::Commit`] every
//! 32-byte binary of subtype 0x80 in its documents, every other kind names nothing.
//! Foreign BSON (collection options, index specs) stands in `Links` blocks only inside binaries of
//! subtype 0, so that a user's bytes are never taken for a name.

use bson::spec::BinarySubtype;
use bson::{Binary, RawBsonRef, RawDocument};

use super::{BlockId, Error, Kind};

/// Nesting depth of our own documents in a `Links` block; deeper is malformed.
const MAX_LINKS_DEPTH: usize = 16;
/// The subtype that marks a binary as the name of a block.
const LINK_SUBTYPE: BinarySubtype = BinarySubtype::UserDefined(0x80);

/// A block's name as a BSON value that [`references`] finds.
#[must_use]
pub fn link(id: &BlockId) -> Binary {
    Binary { subtype: LINK_SUBTYPE, bytes: id.as_bytes().to_vec() }
}

/// The block a BSON value names, if it is a [`link`].
#[must_use]
pub fn linked(value: RawBsonRef<'_>) -> Option<BlockId> {
    match value {
        RawBsonRef::Binary(binary) if binary.subtype == LINK_SUBTYPE => {
            BlockId::from_slice(binary.bytes)
        }
        _ => None,
    }
}

/// Lists the blocks that a block names, in order, repeats included.
///
/// # Errors
/// [`Error::Malformed`] if the content is not of the kind's form.
pub fn references(kind: Kind, raw: &[u8]) -> Result<Vec<BlockId>, Error> {
    let mut found = Vec::new();
    match kind {
        Kind::Node => node_references(raw, &mut found)?,
        Kind::Links | Kind::Commit => {
            let mut rest = raw;
            while !rest.is_empty() {
                let (document, tail) = split_document(rest)?;
                document_references(document, 0, &mut found)?;
                rest = tail;
            }
        }
        Kind::Leaf | Kind::Part | Kind::Stream | Kind::Dictionary => {}
    }
    Ok(found)
}

/// A node starts with its child count (u32, little-endian) and that many ids; the rest is the
/// tree's.
fn node_references(raw: &[u8], found: &mut Vec<BlockId>) -> Result<(), Error> {
    let malformed = Error::Malformed { what: "node shorter than its child table" };
    let Some((count, rest)) = raw.split_first_chunk::<4>() else { return Err(malformed) };
    let count = u32::from_le_bytes(*count) as usize;
    let Some(table) = count.checked_mul(BlockId::LEN).and_then(|len| rest.get(..len)) else {
        return Err(malformed);
    };
    found.extend(table.chunks_exact(BlockId::LEN).filter_map(BlockId::from_slice));
    Ok(())
}

fn split_document(raw: &[u8]) -> Result<(&RawDocument, &[u8]), Error> {
    let malformed = || Error::Malformed { what: "not a run of BSON documents" };
    let len = raw.first_chunk::<4>().map(|len| u32::from_le_bytes(*len) as usize);
    let len = len.filter(|len| *len <= raw.len()).ok_or_else(malformed)?;
    let (document, tail) = raw.split_at(len);
    Ok((RawDocument::from_bytes(document).map_err(|_| malformed())?, tail))
}

fn document_references(
    document: &RawDocument,
    depth: usize,
    found: &mut Vec<BlockId>,
) -> Result<(), Error> {
    if depth > MAX_LINKS_DEPTH {
        return Err(Error::Malformed { what: "links nested too deep" });
    }
    for element in document.iter_elements() {
        let value = element
            .and_then(|element| element.value())
            .map_err(|_| Error::Malformed { what: "invalid BSON in a links block" })?;
        match value {
            RawBsonRef::Document(inner) => document_references(inner, depth + 1, found)?,
            RawBsonRef::Array(inner) => {
                let inner = RawDocument::from_bytes(inner.as_bytes())
                    .map_err(|_| Error::Malformed { what: "invalid BSON in a links block" })?;
                document_references(inner, depth + 1, found)?;
            }
            value => found.extend(linked(value)),
        }
    }
    Ok(())
}
