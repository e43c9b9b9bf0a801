//! Builds a tree bottom-up from documents in order.
//!
//! One unfinished chunk is held per level: the documents of the leaf being filled, and the entries
//! of one node for each level above. A chunk that the cut rule ends is written and becomes an entry
//! of the level above. So memory is one chunk per level, and whatever way documents came, the
//! chunks depend on their sequence alone.

use std::mem;

use bson::RawDocument;

use crate::block::{BlockId, BlockWrite, Kind};

use super::key::encode_id;
use super::node::{self, Entry, Separator, shortest_above};
use super::shape::{Content, MIN_NODE_ENTRIES, Shape};
use super::{Error, MAX_DOCUMENT_BYTES, MAX_LEVEL, PART_BYTES, Root, read};

/// What is known of the last key appended to a keyed tree.
#[derive(Debug)]
pub(super) enum Last {
    /// Nothing was appended.
    Start,
    /// The key, or what any first key above it compares alike with.
    Key(Vec<u8>),
    /// The last entry was adopted unread: what follows must be what followed it before, whose
    /// separator therefore holds.
    Unread,
}

/// The leaf being filled.
#[derive(Debug)]
struct Leaf {
    bytes: Vec<u8>,
    documents: u64,
    separator: Separator,
}

/// The node being filled at one level.
#[derive(Debug, Default)]
struct Level {
    entries: Vec<Entry>,
    /// By the cut rule.
    size: u64,
    /// Whether a node of this level was written or adopted.
    emitted: bool,
}

/// Builds a tree from documents in order. Keyed: strictly ascending keys.
pub struct Builder<'a> {
    pub(super) blocks: &'a dyn BlockWrite,
    pub(super) shape: Shape,
    pub(super) last: Last,
    leaf: Leaf,
    /// `levels[i]` fills nodes of level `i + 1`.
    levels: Vec<Level>,
    documents: u64,
    bytes: u64,
    /// Whether a node was adopted: only then can the top have a single child.
    adopted_node: bool,
    /// Scratch for the key of the document being appended.
    key: Vec<u8>,
}

impl<'a> Builder<'a> {
    /// Starts an empty tree.
    #[must_use]
    pub fn new(blocks: &'a dyn BlockWrite, shape: &Shape) -> Self {
        Self {
            blocks,
            shape: shape.clone(),
            last: Last::Start,
            leaf: Leaf { bytes: Vec::new(), documents: 0, separator: Separator::EMPTY },
            levels: Vec::new(),
            documents: 0,
            bytes: 0,
            adopted_node: false,
            key: Vec::new(),
        }
    }

    /// Appends a document.
    ///
    /// # Errors
    /// [`Error::OutOfOrder`] if its key is not above the last one, [`Error::NoId`] in a keyed tree,
    /// [`Error::DocumentTooLarge`], [`Error::InvalidBson`], and those of writing blocks.
    pub fn push(&mut self, document: &RawDocument) -> Result<(), Error> {
        let mut key = mem::take(&mut self.key);
        key.clear();
        match encode_id(document, &mut key) {
            Err(Error::NoId) if !self.shape.is_keyed() => {
                key.clear();
                key.extend_from_slice(document.as_bytes());
            }
            other => other?,
        }
        self.push_keyed(key, document)
    }

    /// Appends a document whose key (in a positional tree: what its hash is of) is known.
    pub(super) fn push_keyed(&mut self, key: Vec<u8>, document: &RawDocument) -> Result<(), Error> {
        let bytes = document.as_bytes();
        if bytes.len() > MAX_DOCUMENT_BYTES {
            return Err(Error::too_large(bytes.len()));
        }
        let large = bytes.len() > PART_BYTES;
        if large && self.shape.content == Content::Links {
            return Err(Error::DocumentTooLarge { len: bytes.len(), limit: PART_BYTES });
        }
        if self.shape.is_keyed() {
            self.begin_document(&key)?;
        }
        let before = self.leaf.bytes.len() as u64;
        let after = before + bytes.len() as u64;
        let cut = self.shape.leaf.cuts(before, after, || self.shape.hash(0, &key));
        self.key = if self.shape.is_keyed() {
            match mem::replace(&mut self.last, Last::Key(key)) {
                Last::Key(spare) => spare,
                Last::Start | Last::Unread => Vec::new(),
            }
        } else {
            key
        };
        self.documents += 1;
        self.bytes += bytes.len() as u64;
        self.leaf.documents += 1;
        if large {
            return self.end_leaf(bytes);
        }
        self.leaf.bytes.extend_from_slice(bytes);
        if cut { self.end_leaf(&[]) } else { Ok(()) }
    }

    /// Checks the order, and makes the separator of the leaf that the document starts.
    fn begin_document(&mut self, key: &[u8]) -> Result<(), Error> {
        let starts_leaf = self.leaf.documents == 0;
        match &self.last {
            Last::Key(last) if last.as_slice() >= key => {
                return Err(Error::OutOfOrder { what: "a key is not above the one before it" });
            }
            Last::Key(last) if starts_leaf => {
                self.leaf.separator = Separator::new(self.blocks, shortest_above(last, key))?;
            }
            Last::Start => self.leaf.separator = Separator::EMPTY,
            Last::Key(_) => {}
            Last::Unread => {
                return Err(Error::OutOfOrder { what: "a document after an unread subtree" });
            }
        }
        Ok(())
    }

    /// Documents and bytes pushed so far.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.documents, self.bytes)
    }

    /// Writes what is left and names the tree.
    ///
    /// # Errors
    /// Those of writing blocks.
    pub fn finish(mut self) -> Result<Root, Error> {
        if self.leaf.documents > 0 {
            self.end_leaf(&[])?;
        }
        let mut index = 0;
        while index < self.levels.len() {
            let level = &mut self.levels[index];
            let alone = !level.emitted && level.entries.len() == 1;
            // A large document's entry cannot be a root: a root is one block.
            if alone && level.entries[0].parts.is_empty() {
                let top = *read::child_id(&level.entries[0]);
                return self.root(top, index as u8);
            }
            if !level.entries.is_empty() {
                self.end_node(index as u8 + 1)?;
            }
            index += 1;
        }
        Ok(Root::default())
    }

    /// The root with that top, or with the first node under it that has not a single child.
    fn root(&self, mut top: BlockId, mut level: u8) -> Result<Root, Error> {
        while self.adopted_node && level > 0 {
            let node = read::node(self.blocks, &top, level)?;
            match &node.entries[..] {
                [only] if only.parts.is_empty() => top = *read::child_id(only),
                _ => break,
            }
            level -= 1;
        }
        Ok(Root { top: Some(top), level, documents: self.documents, bytes: self.bytes })
    }

    /// Whether every level up to that of `level`'s nodes is at a cut.
    pub(super) fn at_cut(&self, level: u8) -> bool {
        self.leaf.documents == 0
            && self.levels.iter().take(usize::from(level)).all(|level| level.entries.is_empty())
    }

    /// Appends an entry of another tree that names a node of `level` (0: a chunk of documents),
    /// unread. The builder must be at a cut and the entry's separator right for what came before.
    pub(super) fn adopt(&mut self, entry: Entry, level: u8) -> Result<(), Error> {
        self.documents += entry.documents;
        self.bytes += entry.bytes;
        self.last = Last::Unread;
        self.adopted_node |= level > 0;
        for below in 1..=level {
            self.level(below)?.emitted = true;
        }
        self.push_entry(entry, level + 1)
    }

    /// Ends the chunk of documents, with a large one at its end or none.
    fn end_leaf(&mut self, large: &[u8]) -> Result<(), Error> {
        let bytes = self.leaf.bytes.len() + large.len();
        let child = if self.leaf.bytes.is_empty() {
            None
        } else {
            Some(self.blocks.put(self.shape.content.leaf_kind(), &self.leaf.bytes)?)
        };
        let parts = large
            .chunks(PART_BYTES)
            .map(|part| self.blocks.put(Kind::Part, part))
            .collect::<Result<Vec<_>, _>>()?;
        let entry = Entry {
            child,
            parts,
            documents: mem::take(&mut self.leaf.documents),
            bytes: bytes as u64,
            separator: mem::replace(&mut self.leaf.separator, Separator::EMPTY),
        };
        self.leaf.bytes.clear();
        self.push_entry(entry, 1)
    }

    /// Appends an entry to the node being filled at `level`, and ends the node if the rule says so.
    fn push_entry(&mut self, entry: Entry, level: u8) -> Result<(), Error> {
        let shape = self.shape.clone();
        let filling = self.level(level)?;
        let cut = entry.cuts(&shape, level, &mut filling.size);
        filling.entries.push(entry);
        if cut && filling.entries.len() >= MIN_NODE_ENTRIES {
            self.end_node(level)?;
        }
        Ok(())
    }

    fn end_node(&mut self, level: u8) -> Result<(), Error> {
        let (order, content) = (self.shape.order, self.shape.content);
        let filling = self.level(level)?;
        filling.emitted = true;
        filling.size = 0;
        let mut entries = mem::take(&mut filling.entries);
        let raw = node::encode(order, content, level, &entries);
        let parent = Entry {
            child: Some(self.blocks.put(Kind::Node, &raw)?),
            parts: Vec::new(),
            documents: entries.iter().map(|entry| entry.documents).sum(),
            bytes: entries.iter().map(|entry| entry.bytes).sum(),
            separator: mem::replace(&mut entries[0].separator, Separator::EMPTY),
        };
        self.push_entry(parent, level + 1)
    }

    /// What fills the nodes of `level`, which is 1 or more.
    fn level(&mut self, level: u8) -> Result<&mut Level, Error> {
        if level > MAX_LEVEL {
            return Err(Error::TooManyLevels);
        }
        let needed = usize::from(level);
        if self.levels.len() < needed {
            self.levels.resize_with(needed, Level::default);
        }
        Ok(&mut self.levels[needed - 1])
    }
}
