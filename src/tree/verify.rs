//! Checks a tree against every rule of the format, so that a tree that passes is the one that a
//! bulk build of its documents gives.
//!
//! Nodes over nodes are checked in order on one thread. A *unit* is a node at level 1 with the chunks under it: several
//! are checked at a time, on all cores, and then joined: the first key of each is compared with the last of the one before.

use crate::block::{self, BlockId, BlockRead, Kind};
use crate::store::sync::on_cores;

use super::checked::{Checked, Pair};
use super::graft::check_form;
use super::node::{Entry, Node, Separator, shortest_above};
use super::shape::{MIN_NODE_ENTRIES, Shape};
use super::{Error, Key, PART_BYTES, Root, read};

/// Units that are checked at a time: each names up to a megabyte or two of documents, of which a core holds one chunk.
const UNITS: usize = 64;

/// Checks a whole tree: node forms, key order, separators, counts, sizes, cut rule.
/// `visited` gets each block when it is checked, for progress.
///
/// # Errors
/// The first rule found broken: [`Error::Malformed`] naming the block, [`Error::MalformedRoot`],
/// [`Error::WrongOrder`], and those of reading blocks.
pub fn verify(
    blocks: &dyn BlockRead,
    shape: &Shape,
    root: &Root,
    visited: &mut dyn FnMut(&BlockId),
) -> Result<(), Error> {
    run(Check::new(Rules { blocks, shape, documents: true, known: None }, visited), root)
}

/// Checks a whole tree as [`verify`] does, but does not read again what was checked in another tree of the same store that shares it.
///
/// # Errors
/// As [`verify`].
pub fn verify_beside(
    blocks: &dyn BlockRead,
    shape: &Shape,
    root: &Root,
    known: &Checked,
    visited: &mut dyn FnMut(&BlockId),
) -> Result<(), Error> {
    run(Check::new(Rules { blocks, shape, documents: true, known: Some(known) }, visited), root)
}

/// Checks a tree without reading its documents: node forms, counts, the cut rule of nodes, and that
/// leaves and parts are there and of the right kind.
///
/// # Errors
/// As [`verify`].
pub fn verify_nodes(
    blocks: &dyn BlockRead,
    shape: &Shape,
    root: &Root,
    visited: &mut dyn FnMut(&BlockId),
) -> Result<(), Error> {
    run(Check::new(Rules { blocks, shape, documents: false, known: None }, visited), root)
}

fn run(mut check: Check<'_>, root: &Root) -> Result<(), Error> {
    let Some(entry) = root.entry()? else { return Ok(()) };
    if root.level == 0 {
        let mut part = Part::default();
        check.rules.chunk(&mut part, &entry, read::child_id(&entry), true)?;
        return check.join(part);
    }
    let children = if root.level == 1 {
        let (part, children) = check.rules.unit(&entry, true)?;
        check.join(part)?;
        children
    } else {
        let children = check.node(&entry, root.level, true)?;
        check.units()?;
        children
    };
    match &children[..] {
        [only] if only.parts.is_empty() => {
            Err(Error::MalformedRoot { what: "a top node with a single child" })
        }
        _ => Ok(()),
    }
}

/// What a tree is checked against.
#[derive(Clone, Copy)]
struct Rules<'a> {
    blocks: &'a dyn BlockRead,
    shape: &'a Shape,
    /// Whether documents are read.
    documents: bool,
    /// What was checked of other trees.
    known: Option<&'a Checked>,
}

/// A check under way, from the first key to the last.
struct Check<'a> {
    rules: Rules<'a>,
    visited: &'a mut dyn FnMut(&BlockId),
    /// Units that wait, and whether each may end without a cut.
    waiting: Vec<(Entry, bool)>,
    /// The last key seen.
    last: Option<Vec<u8>>,
}

/// What is known of a run of chunks.
#[derive(Default)]
struct Part {
    first: Option<First>,
    last: Option<Vec<u8>>,
    visited: Vec<BlockId>,
}

/// The first key of a run of chunks, which must be above the last before it.
struct First {
    id: BlockId,
    key: Vec<u8>,
    separator: Separator,
}

impl<'a> Check<'a> {
    fn new(rules: Rules<'a>, visited: &'a mut dyn FnMut(&BlockId)) -> Self {
        Self { rules, visited, waiting: Vec::new(), last: None }
    }

    /// Checks a node above level 1 and all under it but the units that wait. `rightmost`: it is the last of its level, which
    /// may end without a cut.
    fn node(&mut self, entry: &Entry, level: u8, rightmost: bool) -> Result<Vec<Entry>, Error> {
        let (id, node) = self.rules.node(entry, level, rightmost)?;
        (self.visited)(&id);
        let last = node.entries.len() - 1;
        for (index, child) in node.entries.iter().enumerate() {
            let rightmost = rightmost && index == last;
            if level > 2 {
                self.node(child, level - 1, rightmost)?;
                continue;
            }
            self.waiting.push((child.clone(), rightmost));
            if self.waiting.len() >= UNITS {
                self.units()?;
            }
        }
        Ok(node.entries)
    }

    /// Checks the units that wait.
    fn units(&mut self) -> Result<(), Error> {
        let (rules, waiting) = (self.rules, std::mem::take(&mut self.waiting));
        let checked = on_cores(&waiting, |(entry, rightmost)| rules.unit(entry, *rightmost));
        checked.into_iter().try_for_each(|unit| self.join(unit?.0))
    }

    /// Goes on behind a run of chunks that is right by itself.
    fn join(&mut self, part: Part) -> Result<(), Error> {
        if let Some(First { id, key, separator }) = part.first {
            let needed = needed_above(self.last.as_deref(), &key, &id)?;
            if *separator.load(self.rules.blocks)? != *needed {
                return Err(Error::malformed(&id, NOT_SHORTEST));
            }
            separator.pieces().iter().for_each(|piece| (self.visited)(piece));
            self.last = part.last;
        }
        part.visited.iter().for_each(|id| (self.visited)(id));
        Ok(())
    }
}

const NOT_SHORTEST: &str = "separator is not the shortest that separates";

impl Rules<'_> {
    /// Checks a node by itself.
    fn node(&self, entry: &Entry, level: u8, rightmost: bool) -> Result<(BlockId, Node), Error> {
        let id = *read::child_id(entry);
        let node = read::node(self.blocks, &id, level)?;
        check_form(&node, &id, self.shape)?;
        self.node_cuts(&id, &node, rightmost)?;
        if node.entries[0].separator != entry.separator {
            return Err(Error::malformed(&id, "first separator is not the parent's"));
        }
        let documents = checked_sum(node.entries.iter().map(|entry| entry.documents));
        let bytes = checked_sum(node.entries.iter().map(|entry| entry.bytes));
        if (documents, bytes) != (Some(entry.documents), Some(entry.bytes)) {
            return Err(Error::malformed(&id, "counts are not the parent's"));
        }
        Ok((id, node))
    }

    fn node_cuts(&self, id: &BlockId, node: &Node, rightmost: bool) -> Result<(), Error> {
        let mut size = 0;
        let count = node.entries.len();
        for (before, entry) in node.entries.iter().enumerate() {
            let cut =
                entry.cuts(self.shape, node.level, &mut size) && before + 1 >= MIN_NODE_ENTRIES;
            check_cut(id, cut, before + 1 == count, rightmost)?;
        }
        Ok(())
    }

    /// Checks a node at level 1 and the chunks under it, but for the first key.
    fn unit(&self, entry: &Entry, rightmost: bool) -> Result<(Part, Vec<Entry>), Error> {
        let (id, node) = self.node(entry, 1, rightmost)?;
        let mut part = Part { visited: vec![id], ..Part::default() };
        let last = node.entries.len() - 1;
        let mut before: Option<&Entry> = None;
        let mut skipped = None;
        for (index, child) in node.entries.iter().enumerate() {
            let rightmost = rightmost && index == last;
            let pair = self.known.zip(before);
            let pair = pair.map(|(_, before)| Pair::of(self.shape, before, child, rightmost));
            before = Some(child);
            if self.known.zip(pair).is_some_and(|(known, pair)| known.has(&pair)) {
                part.visited.extend(child.ids());
                skipped = before;
                continue;
            }
            self.catch_up(&mut part, skipped.take())?;
            self.chunk(&mut part, child, &id, rightmost)?;
            if let Some((known, pair)) = self.known.zip(pair) {
                known.note(pair);
            }
        }
        self.catch_up(&mut part, skipped)?;
        Ok((part, node.entries))
    }

    /// Finds the last key of a chunk that was not read, for what comes behind it.
    fn catch_up(&self, part: &mut Part, skipped: Option<&Entry>) -> Result<(), Error> {
        if let Some(entry) = skipped.filter(|_| self.shape.is_keyed()) {
            let chunk = read::chunk(self.blocks, entry)?;
            if let Some(last) = chunk.documents().last() {
                part.last = Some(Key::of_document(last?)?.into_bytes());
            }
        }
        Ok(())
    }

    /// Checks a chunk of documents. `parent` is named where no block of the chunk can be.
    fn chunk(
        &self,
        part: &mut Part,
        entry: &Entry,
        parent: &BlockId,
        rightmost: bool,
    ) -> Result<(), Error> {
        let id = entry.child.as_ref().or(entry.parts.first()).unwrap_or(parent);
        if !self.documents {
            return self.chunk_is_there(part, entry);
        }
        let chunk = read::chunk(self.blocks, entry)?;
        if chunk.leaf_kind().is_some_and(|kind| kind != self.shape.content.leaf_kind()) {
            return Err(Error::malformed(id, "a leaf of another kind than the tree's"));
        }
        part.visited.extend(entry.child.iter().chain(&entry.parts));
        let (mut documents, mut bytes) = (0, 0);
        let mut documents_left = chunk.documents().peekable();
        while let Some(document) = documents_left.next() {
            let document = document?;
            let is_last = documents_left.peek().is_none();
            let len = document.as_bytes().len();
            if (len > PART_BYTES) != (is_last && !entry.parts.is_empty()) {
                return Err(Error::malformed(
                    id,
                    "a document on the wrong side of the part length",
                ));
            }
            let key = match Key::of_document(document) {
                Err(Error::NoId) if !self.shape.is_keyed() => document.as_bytes().to_vec(),
                other => other?.into_bytes(),
            };
            let (before, after) = (bytes, bytes + len as u64);
            let cut = self.shape.leaf.cuts(before, after, || self.shape.hash(0, &key));
            check_cut(id, cut, is_last, rightmost)?;
            if self.shape.is_keyed() {
                self.key(part, id, key, (documents == 0).then_some(&entry.separator))?;
            }
            documents += 1;
            bytes = after;
        }
        if (documents, bytes) != (entry.documents, entry.bytes) {
            return Err(Error::malformed(id, "counts are not the parent's"));
        }
        Ok(())
    }

    fn chunk_is_there(&self, part: &mut Part, entry: &Entry) -> Result<(), Error> {
        let leaf = entry.child.iter().map(|id| (id, self.shape.content.leaf_kind()));
        for (id, kind) in leaf.chain(entry.parts.iter().map(|id| (id, Kind::Part))) {
            match self.blocks.kind_of(id)? {
                Some(found) if found == kind => part.visited.push(*id),
                Some(_) => {
                    return Err(Error::malformed(id, "a block of another kind than its place"));
                }
                None => return Err(block::Error::Missing { id: *id }.into()),
            }
        }
        Ok(())
    }

    /// Checks a key against the one before it, and the separator of the chunk that it starts. The first of a part waits for
    /// the part before.
    fn key(
        &self,
        part: &mut Part,
        id: &BlockId,
        key: Vec<u8>,
        separator: Option<&Separator>,
    ) -> Result<(), Error> {
        match (&part.last, separator) {
            (None, Some(separator)) => {
                let (key, separator) = (key.clone(), separator.clone());
                part.first = Some(First { id: *id, key, separator });
            }
            (last, separator) => {
                let needed = needed_above(last.as_deref(), &key, id)?;
                if let Some(separator) = separator {
                    if *separator.load(self.blocks)? != *needed {
                        return Err(Error::malformed(id, NOT_SHORTEST));
                    }
                    part.visited.extend(separator.pieces());
                }
            }
        }
        part.last = Some(key);
        Ok(())
    }
}

/// The shortest separator between a key and the one before it.
fn needed_above<'k>(last: Option<&[u8]>, key: &'k [u8], id: &BlockId) -> Result<&'k [u8], Error> {
    match last {
        Some(last) if last >= key => Err(Error::malformed(id, "keys out of order")),
        Some(last) => Ok(shortest_above(last, key)),
        None => Ok(&[]),
    }
}

fn check_cut(id: &BlockId, cut: bool, is_last: bool, rightmost: bool) -> Result<(), Error> {
    match (cut, is_last) {
        (true, false) => Err(Error::malformed(id, "goes on where the cut rule ends it")),
        (false, true) if !rightmost => Err(Error::malformed(id, "ends where the cut rule goes on")),
        _ => Ok(()),
    }
}

fn checked_sum(mut numbers: impl Iterator<Item = u64>) -> Option<u64> {
    numbers.try_fold(0_u64, u64::checked_add)
}
