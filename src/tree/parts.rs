//! Edits of keyed trees by several threads.
//!
//! The keys are cut into ranges that get about as many edits: at separators of the old tree, and
//! anywhere beyond its end, where rising `_id`s are inserted. Each range is swept on its own into a tree
//! of its own, and the trees are joined, which reads and writes only their seams. A tree's shape follows
//! from its content alone, so the result is that of one sweep.
//! What ends a range's tree is written and not part of the result: a few nodes for each range, so
//! this is for sweeps that write many more.

use std::panic::resume_unwind;
use std::thread;

use crate::block::{BlockRead, BlockWrite};

use super::builder::Builder;
use super::edit::{Edit, edit, edit_entries};
use super::graft::check_form;
use super::node::Entry;
use super::{Error, Key, Root, Shape, read};

/// Subtrees looked at for each range: enough to cut at that no range is much larger than others.
const SUBTREES_PER_RANGE: usize = 8;

/// The edits of one range, in strictly ascending key order.
pub type RangeEdits<'e> = Box<dyn Iterator<Item = Result<(Key, Edit), Error>> + Send + 'e>;

/// A keyed tree cut into ranges.
pub struct Ranges {
    root: Root,
    /// Of the entries.
    level: u8,
    /// The subtrees of each range.
    entries: Vec<Vec<Entry>>,
    bounds: Vec<Key>,
}

impl Ranges {
    /// Cuts a tree into `count` ranges, or fewer if it is small. `edits` are keys that lie among those of
    /// the edits, ascending and evenly; a prefix of a key will do. Reads only upper nodes and the end.
    ///
    /// # Errors
    /// [`Error::WrongOrder`] for a positional tree, and those of reading blocks.
    pub fn of(
        blocks: &dyn BlockRead,
        shape: &Shape,
        root: &Root,
        count: usize,
        edits: &[Key],
    ) -> Result<Self, Error> {
        if !shape.is_keyed() {
            return Err(Error::WrongOrder { needed: "keyed" });
        }
        if count < 2 || edits.is_empty() {
            let entries = vec![Vec::from_iter(root.entry()?)];
            return Ok(Self { root: *root, level: root.level, entries, bounds: Vec::new() });
        }
        let (entries, level) = subtrees(blocks, shape, root, count * SUBTREES_PER_RANGE)?;
        let mut ranges = Self { root: *root, level, entries: vec![Vec::new()], bounds: Vec::new() };
        // What comes after the last edit is no range of its own.
        let is_due = |ranges: &Self, before: usize| {
            let begun = ranges.entries.len();
            begun < count && before < edits.len() && before * count >= begun * edits.len()
        };
        for entry in entries {
            if ranges.entries.len() < count && !entry.separator.is_empty() {
                let bound = Key::from_encoded(entry.separator.load(blocks)?.into_owned());
                if is_due(&ranges, edits.partition_point(|edit| *edit < bound)) {
                    ranges.begin(bound);
                }
            }
            if let Some(range) = ranges.entries.last_mut() {
                range.push(entry);
            }
        }
        if ranges.entries.len() < count {
            let end = last_key(blocks, root)?;
            let end = end.map_or(0, |last| edits.partition_point(|edit| *edit <= last));
            for (before, edit) in edits.iter().enumerate().skip(end) {
                if is_due(&ranges, before) {
                    ranges.begin(edit.clone());
                }
            }
        }
        Ok(ranges)
    }

    fn begin(&mut self, bound: Key) {
        self.bounds.push(bound);
        self.entries.push(Vec::new());
    }

    /// Where each range but the first begins, inclusive, ascending.
    #[must_use]
    pub fn bounds(&self) -> &[Key] {
        &self.bounds
    }

    /// Applies edits as [`edit()`] does, those of each range on a thread of its own. There must be as
    /// many as ranges, each with keys of its range only.
    ///
    /// # Errors
    /// As [`edit()`].
    pub fn edit(
        self,
        blocks: &dyn BlockWrite,
        shape: &Shape,
        mut edits: Vec<RangeEdits<'_>>,
    ) -> Result<Root, Error> {
        if let [all] = &mut edits[..] {
            return edit(blocks, shape, &self.root, all);
        }
        let (level, bounds) = (self.level, self.bounds.iter().map(Some).chain([None]));
        let pieces = thread::scope(|scope| {
            let ranges = self.entries.iter().zip(bounds).zip(edits);
            let threads: Vec<_> = ranges
                .map(|((entries, bound), mut edits)| {
                    let bound = bound.map(Key::as_bytes);
                    scope.spawn(move || {
                        edit_entries(blocks, shape, (entries, level), bound, &mut edits)
                    })
                })
                .collect();
            let joined = threads.into_iter().map(|thread| thread.join());
            joined
                .map(|piece| piece.unwrap_or_else(|panic| resume_unwind(panic)))
                .collect::<Result<Vec<Root>, Error>>()
        })?;
        let mut builder = Builder::new(blocks, shape);
        pieces.iter().try_for_each(|piece| builder.push_tree(piece))?;
        builder.finish()
    }
}

/// So many subtrees of a tree or more, if it has them, and their level.
fn subtrees(
    blocks: &dyn BlockRead,
    shape: &Shape,
    root: &Root,
    wanted: usize,
) -> Result<(Vec<Entry>, u8), Error> {
    let (mut entries, mut level) = (Vec::from_iter(root.entry()?), root.level);
    while level > 0 && entries.len() < wanted {
        let mut below = Vec::new();
        for entry in &entries {
            let id = read::child_id(entry);
            let node = read::node(blocks, id, level)?;
            check_form(&node, id, shape)?;
            below.extend(node.entries);
        }
        entries = below;
        level -= 1;
    }
    Ok((entries, level))
}

/// The key of the last document of a tree.
fn last_key(blocks: &dyn BlockRead, root: &Root) -> Result<Option<Key>, Error> {
    let Some(mut last) = root.entry()? else { return Ok(None) };
    for level in (1..=root.level).rev() {
        let mut node = read::node(blocks, read::child_id(&last), level)?;
        last = node.entries.pop().unwrap_or(last);
    }
    let chunk = read::chunk(blocks, &last)?;
    let document = chunk.documents().last().transpose()?;
    document.map(Key::of_document).transpose()
}
