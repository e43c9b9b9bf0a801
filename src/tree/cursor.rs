//! Reading documents in order, from a key or a rank on.

use bson::{RawDocument, RawDocumentBuf};
use bytes::Bytes;

use crate::block::{BlockId, BlockRead};

use super::node::{Entry, Node};
use super::shape::Order;
use super::{Error, Key, Root, read};

/// Reads one document of a keyed tree.
///
/// # Errors
/// [`Error::WrongOrder`] for a positional tree, and those of reading blocks.
pub fn get(
    blocks: &dyn BlockRead,
    root: &Root,
    key: &Key,
) -> Result<Option<RawDocumentBuf>, Error> {
    let mut cursor = Cursor::new(blocks, root);
    cursor.seek(key)?;
    match cursor.next()? {
        Some(document) if Key::of_document(&document)? == *key => Ok(Some(document)),
        _ => Ok(None),
    }
}

/// An inner node on the way to the cursor's chunk.
struct Step {
    id: BlockId,
    node: Node,
    /// The child that comes after the one entered.
    next: usize,
}

/// A position in a tree, moving forward. Holds one node per level and one chunk.
pub struct Cursor<'a> {
    blocks: &'a dyn BlockRead,
    root: Root,
    /// From the top down; empty before the first read and in a tree of one leaf.
    path: Vec<Step>,
    /// Whether the root was entered.
    entered: bool,
    /// The leaf last read, so that seeking within it reads nothing.
    leaf: Option<(BlockId, Bytes)>,
    /// What of that leaf is still to come.
    rest: Bytes,
    /// The large document that comes after the rest, if any.
    large: Vec<BlockId>,
}

impl<'a> Cursor<'a> {
    /// Before the first document.
    #[must_use]
    pub fn new(blocks: &'a dyn BlockRead, root: &Root) -> Self {
        Self {
            blocks,
            root: *root,
            path: Vec::new(),
            entered: false,
            leaf: None,
            rest: Bytes::new(),
            large: Vec::new(),
        }
    }

    /// Moves before the first document whose key is at or above `key`. Nodes and the leaf on the way
    /// that the cursor stood in are not read again.
    ///
    /// # Errors
    /// [`Error::WrongOrder`] for a positional tree, and those of reading blocks.
    pub fn seek(&mut self, key: &Key) -> Result<(), Error> {
        let blocks = self.blocks;
        self.enter_root(&mut |node| {
            if node.order != Order::Keyed {
                return Err(Error::WrongOrder { needed: "keyed" });
            }
            // The first child's separator is not above the key, or nothing in the node is.
            let (mut low, mut high) = (0, node.entries.len() - 1);
            while low < high {
                let middle = low + (high - low).div_ceil(2);
                if *node.entries[middle].separator.load(blocks)? <= *key.as_bytes() {
                    low = middle;
                } else {
                    high = middle - 1;
                }
            }
            Ok(low)
        })?;
        while let Some((id, len)) = self.peek_leaf()? {
            let document = RawDocument::from_bytes(&self.rest[..len])
                .map_err(|_| Error::malformed(&id, "invalid document framing"))?;
            if Key::of_document(document)? >= *key {
                return Ok(());
            }
            self.rest = self.rest.slice(len..);
        }
        if !self.large.is_empty() {
            let bytes = read::large(self.blocks, &self.large)?;
            let document = RawDocument::from_bytes(&bytes)
                .map_err(|_| Error::malformed(&self.large[0], "invalid document framing"))?;
            if Key::of_document(document)? < *key {
                self.large.clear();
            }
        }
        Ok(())
    }

    /// Moves before the document with `rank` documents before it, or to the end if there are fewer.
    ///
    /// # Errors
    /// Those of reading blocks.
    pub fn seek_rank(&mut self, rank: u64) -> Result<(), Error> {
        let mut left = rank;
        if rank >= self.root.documents {
            self.path.clear();
            self.entered = true;
            self.rest = Bytes::new();
            self.large.clear();
            return Ok(());
        }
        self.enter_root(&mut |node| {
            for (index, entry) in node.entries.iter().enumerate() {
                if left < entry.documents {
                    return Ok(index);
                }
                left -= entry.documents;
            }
            Err(Error::MalformedRoot { what: "a node with fewer documents than its parent says" })
        })?;
        while left > 0 {
            match self.peek_leaf()? {
                Some((_, len)) => self.rest = self.rest.slice(len..),
                None if left == 1 && !self.large.is_empty() => self.large.clear(),
                None => {
                    let what = "a chunk with fewer documents than its parent says";
                    return Err(Error::MalformedRoot { what });
                }
            }
            left -= 1;
        }
        Ok(())
    }

    /// The next document.
    ///
    /// # Errors
    /// Those of reading blocks.
    #[allow(clippy::should_implement_trait)] // it can fail, and lends nothing
    pub fn next(&mut self) -> Result<Option<RawDocumentBuf>, Error> {
        loop {
            if let Some((id, len)) = self.peek_leaf()? {
                let document = RawDocumentBuf::from_bytes(self.rest[..len].to_vec())
                    .map_err(|_| Error::malformed(&id, "invalid document framing"))?;
                self.rest = self.rest.slice(len..);
                return Ok(Some(document));
            }
            if let Some((id, bytes)) = self.take_large()? {
                return RawDocumentBuf::from_bytes(bytes.into())
                    .map(Some)
                    .map_err(|_| Error::malformed(&id, "invalid document framing"));
            }
            if !self.advance()? {
                return Ok(None);
            }
        }
    }

    /// The rest of the current leaf as one run of BSON documents (a large document alone, its parts
    /// joined), moving past it. For bulk restore. The run's framing is checked.
    ///
    /// # Errors
    /// Those of reading blocks.
    pub fn next_run(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if !self.rest.is_empty() {
                let run = self.rest.clone();
                while let Some((_, len)) = self.peek_leaf()? {
                    self.rest = self.rest.slice(len..);
                }
                return Ok(Some(run));
            }
            if let Some((_, bytes)) = self.take_large()? {
                return Ok(Some(bytes));
            }
            if !self.advance()? {
                return Ok(None);
            }
        }
    }

    /// The leaf and the length of the next document in it, if any is left there.
    fn peek_leaf(&self) -> Result<Option<(BlockId, usize)>, Error> {
        match &self.leaf {
            Some((id, _)) if !self.rest.is_empty() => {
                Ok(Some((*id, read::document_len(id, &self.rest)?)))
            }
            _ => Ok(None),
        }
    }

    fn take_large(&mut self) -> Result<Option<(BlockId, Bytes)>, Error> {
        let parts = std::mem::take(&mut self.large);
        match parts.first() {
            Some(id) => Ok(Some((*id, read::large(self.blocks, &parts)?))),
            None => Ok(None),
        }
    }

    /// Goes to the next chunk; false at the end.
    fn advance(&mut self) -> Result<bool, Error> {
        if !self.entered {
            self.enter_root(&mut |_| Ok(0))?;
            return Ok(self.root.top.is_some());
        }
        while let Some(step) = self.path.last_mut() {
            let level = step.node.level - 1;
            if let Some(entry) = step.node.entries.get(step.next) {
                step.next += 1;
                let entry = entry.clone();
                self.descend(entry, level, Vec::new(), &mut |_| Ok(0))?;
                return Ok(true);
            }
            self.path.pop();
        }
        Ok(false)
    }

    /// Goes from the root to a chunk, choosing a child of each node.
    fn enter_root(
        &mut self,
        choose: &mut dyn FnMut(&Node) -> Result<usize, Error>,
    ) -> Result<(), Error> {
        self.entered = true;
        self.rest = Bytes::new();
        self.large.clear();
        let known = std::mem::take(&mut self.path);
        match self.root.entry()? {
            Some(entry) => self.descend(entry, self.root.level, known, choose),
            None => Ok(()),
        }
    }

    /// `known` are nodes read before, from the top down, used while they are on the way.
    fn descend(
        &mut self,
        mut entry: Entry,
        level: u8,
        known: Vec<Step>,
        choose: &mut dyn FnMut(&Node) -> Result<usize, Error>,
    ) -> Result<(), Error> {
        let mut known = known.into_iter();
        for level in (1..=level).rev() {
            let id = *read::child_id(&entry);
            let node = match known.next().filter(|step| step.id == id) {
                Some(step) => step.node,
                None => read::node(self.blocks, &id, level)?,
            };
            let chosen = choose(&node)?;
            entry = node.entries[chosen].clone();
            self.path.push(Step { id, node, next: chosen + 1 });
        }
        self.rest = match (&entry.child, &self.leaf) {
            (Some(id), Some((held, bytes))) if id == held => bytes.clone(),
            (Some(id), _) => {
                let bytes = read::leaf(self.blocks, id)?;
                self.leaf = Some((*id, bytes.clone()));
                bytes
            }
            (None, _) => Bytes::new(),
        };
        self.large = entry.parts;
        Ok(())
    }
}
