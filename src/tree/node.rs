//! Inner nodes: entries and their encoding.
//!
//! A node block is a table of ids (so that the block floor can walk it without knowing trees), then
//! the form of the tree, the node's level and one record per entry. An entry stands for one child
//! node, or at level 1 for one chunk of documents: a leaf, or a leaf followed by one large
//! document in parts, or such a document alone.

use std::borrow::Cow;

use crate::block::stream::{self, STREAM_BLOCK_BYTES};
use crate::block::{BlockId, BlockRead, BlockWrite};

use super::shape::{Content, NODE, Order, Shape};
use super::{
    Error, MAX_DOCUMENT_BYTES, MAX_INLINE_SEPARATOR_BYTES, MAX_KEY_BYTES, MAX_LEVEL, PART_BYTES,
};

/// Part blocks of the longest document.
const MAX_PARTS: usize = MAX_DOCUMENT_BYTES.div_ceil(PART_BYTES);
/// What counts, length and form of an entry are taken to cost, in bytes, whatever they cost: a cut
/// must not depend on the digits of a count.
const ENTRY_FIXED_BYTES: u64 = 16;
/// The longest LEB128 form of 64 bits.
const MAX_VARINT_BYTES: usize = 10;

const FORM_KEYED: u8 = 1;
const FORM_LINKS: u8 = 2;

/// The shortest prefix of an entry's first key that is above every key before it; empty for the
/// first of a tree and in positional trees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Separator {
    Inline(Vec<u8>),
    /// Above [`MAX_INLINE_SEPARATOR_BYTES`]: its length and the stream blocks that hold it.
    Stored {
        len: u64,
        pieces: Vec<BlockId>,
    },
}

impl Separator {
    pub const EMPTY: Self = Self::Inline(Vec::new());

    pub fn new(blocks: &dyn BlockWrite, bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() <= MAX_INLINE_SEPARATOR_BYTES {
            return Ok(Self::Inline(bytes.to_vec()));
        }
        Ok(Self::Stored { len: bytes.len() as u64, pieces: stream::write(blocks, bytes)? })
    }

    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Inline(bytes) if bytes.is_empty())
    }

    /// The bytes. `holder` is the node that names the pieces, for errors.
    pub fn load(&self, blocks: &dyn BlockRead) -> Result<Cow<'_, [u8]>, Error> {
        match self {
            Self::Inline(bytes) => Ok(Cow::Borrowed(bytes)),
            Self::Stored { len, pieces } => {
                let bytes = stream::read(blocks, pieces)?;
                if bytes.len() as u64 != *len {
                    let what = "separator pieces of another length";
                    return Err(Error::malformed(&pieces[0], what));
                }
                Ok(Cow::Owned(bytes))
            }
        }
    }

    pub fn pieces(&self) -> &[BlockId] {
        match self {
            Self::Inline(_) => &[],
            Self::Stored { pieces, .. } => pieces,
        }
    }
}

/// The shortest prefix of `first` that is above `last`, which must be below `first`.
pub(super) fn shortest_above<'k>(last: &[u8], first: &'k [u8]) -> &'k [u8] {
    let common = last.iter().zip(first).take_while(|(a, b)| a == b).count();
    &first[..first.len().min(common + 1)]
}

/// One child of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// A node, or at level 1 a leaf; none for a large document alone.
    pub child: Option<BlockId>,
    /// At level 1: the large document that ends the chunk.
    pub parts: Vec<BlockId>,
    pub documents: u64,
    pub bytes: u64,
    pub separator: Separator,
}

impl Entry {
    pub(super) fn ids(&self) -> impl Iterator<Item = &BlockId> {
        self.child.iter().chain(&self.parts).chain(self.separator.pieces())
    }

    /// What the entry adds to its node, by the cut rule.
    fn rule_bytes(&self) -> u64 {
        let ids = self.ids().count() * BlockId::LEN;
        let separator = match &self.separator {
            Separator::Inline(bytes) => bytes.len(),
            Separator::Stored { .. } => 0,
        };
        ENTRY_FIXED_BYTES + (ids + separator) as u64
    }

    /// What the cut rule hashes: the separator as it stands here, or in a positional tree, which
    /// has none, the blocks.
    fn identity(&self, shape: &Shape) -> Cow<'_, [u8]> {
        let concatenated = |ids: &mut dyn Iterator<Item = &BlockId>| {
            ids.flat_map(|id| *id.as_bytes()).collect::<Vec<u8>>()
        };
        match (&self.separator, shape.order) {
            (Separator::Inline(bytes), Order::Keyed) => Cow::Borrowed(bytes),
            (Separator::Stored { pieces, .. }, Order::Keyed) => {
                Cow::Owned(concatenated(&mut pieces.iter()))
            }
            (_, Order::Positional) => Cow::Owned(concatenated(&mut self.ids())),
        }
    }

    /// Whether a node at `level`, of `size` bytes by the rule so far, ends after this entry, apart
    /// from the fewest entries it must have. Adds the entry to `size`.
    pub fn cuts(&self, shape: &Shape, level: u8, size: &mut u64) -> bool {
        let before = *size;
        *size += self.rule_bytes();
        NODE.cuts(before, *size, || shape.hash(level, &self.identity(shape)))
    }
}

/// A decoded inner node.
#[derive(Debug)]
pub(super) struct Node {
    pub order: Order,
    pub content: Content,
    pub level: u8,
    pub entries: Vec<Entry>,
}

/// The raw block of a node.
pub(super) fn encode(order: Order, content: Content, level: u8, entries: &[Entry]) -> Vec<u8> {
    let ids = || entries.iter().flat_map(Entry::ids);
    let mut raw = Vec::with_capacity(16 + entries.len() * 64);
    let count = u32::try_from(ids().count()).expect("a node's size is bounded by the cut rule");
    raw.extend_from_slice(&count.to_le_bytes());
    ids().for_each(|id| raw.extend_from_slice(id.as_bytes()));
    raw.push(form(order, content));
    raw.push(level);
    put_varint(entries.len() as u64, &mut raw);
    for entry in entries {
        put_varint(entry.documents, &mut raw);
        put_varint(entry.bytes, &mut raw);
        if level == 1 {
            put_varint(entry.parts.len() as u64, &mut raw);
        }
        match &entry.separator {
            _ if order == Order::Positional => {}
            Separator::Inline(bytes) => {
                put_varint(bytes.len() as u64, &mut raw);
                raw.extend_from_slice(bytes);
            }
            Separator::Stored { len, .. } => put_varint(*len, &mut raw),
        }
    }
    raw
}

fn form(order: Order, content: Content) -> u8 {
    let keyed = if order == Order::Keyed { FORM_KEYED } else { 0 };
    keyed | if content == Content::Links { FORM_LINKS } else { 0 }
}

/// Reads a node block. The error says which rule it breaks.
pub(super) fn decode(raw: &[u8]) -> Result<Node, &'static str> {
    let short = "node shorter than its child table";
    let (count, rest) = raw.split_first_chunk::<4>().ok_or(short)?;
    let table = (u32::from_le_bytes(*count) as usize).checked_mul(BlockId::LEN).ok_or(short)?;
    let (table, rest) = rest.split_at_checked(table).ok_or(short)?;
    let [form, level, rest @ ..] = rest else { return Err(short) };
    if *form > (FORM_KEYED | FORM_LINKS) {
        return Err("unknown form of tree");
    }
    let order = if form & FORM_KEYED != 0 { Order::Keyed } else { Order::Positional };
    let content = if form & FORM_LINKS != 0 { Content::Links } else { Content::Documents };
    if !(1..=MAX_LEVEL).contains(level) {
        return Err("level out of range");
    }
    let mut reader = Reader { table, rest };
    let count = reader.varint()?;
    // Every entry has at least one id, so a count above the table's is caught before it costs.
    if count == 0 || count > (reader.table.len() / BlockId::LEN) as u64 {
        return Err("entry count");
    }
    let entries = (0..count).map(|_| reader.entry(order, *level)).collect::<Result<Vec<_>, _>>()?;
    if !reader.rest.is_empty() || !reader.table.is_empty() {
        return Err("more in the node than its entries");
    }
    Ok(Node { order, content, level: *level, entries })
}

struct Reader<'a> {
    table: &'a [u8],
    rest: &'a [u8],
}

impl Reader<'_> {
    fn entry(&mut self, order: Order, level: u8) -> Result<Entry, &'static str> {
        let documents = self.varint()?;
        let bytes = self.varint()?;
        let parts = if level == 1 { self.varint()? as usize } else { 0 };
        if documents == 0 || parts > MAX_PARTS {
            return Err("document or part count");
        }
        let child = if parts == 0 || documents > 1 { Some(self.id()?) } else { None };
        let parts = self.ids(parts)?;
        let separator = if order == Order::Keyed { self.separator()? } else { Separator::EMPTY };
        Ok(Entry { child, parts, documents, bytes, separator })
    }

    fn separator(&mut self) -> Result<Separator, &'static str> {
        let len = self.varint()? as usize;
        if len > MAX_KEY_BYTES {
            return Err("separator too long");
        }
        if len > MAX_INLINE_SEPARATOR_BYTES {
            let pieces = self.ids(len.div_ceil(STREAM_BLOCK_BYTES))?;
            return Ok(Separator::Stored { len: len as u64, pieces });
        }
        let (bytes, rest) =
            self.rest.split_at_checked(len).ok_or("node ends inside a separator")?;
        self.rest = rest;
        Ok(Separator::Inline(bytes.to_vec()))
    }

    fn ids(&mut self, count: usize) -> Result<Vec<BlockId>, &'static str> {
        (0..count).map(|_| self.id()).collect()
    }

    fn id(&mut self) -> Result<BlockId, &'static str> {
        let (id, table) =
            self.table.split_first_chunk().ok_or("more children than the table names")?;
        self.table = table;
        Ok(BlockId::from_bytes(*id))
    }

    fn varint(&mut self) -> Result<u64, &'static str> {
        let mut value = 0_u64;
        for place in 0..MAX_VARINT_BYTES {
            let (byte, rest) = self.rest.split_first().ok_or("node ends inside a number")?;
            self.rest = rest;
            let bits = u64::from(byte & 0x7f);
            let shift = 7 * place as u32;
            if bits << shift >> shift != bits || (*byte == 0 && place > 0) {
                return Err("number not in its shortest form");
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("number too long")
    }
}

fn put_varint(mut value: u64, raw: &mut Vec<u8>) {
    while value >= 0x80 {
        raw.push(value as u8 | 0x80);
        value >>= 7;
    }
    raw.push(value as u8);
}
