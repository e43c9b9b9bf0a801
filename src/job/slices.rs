//! The oplog slices of a job: a tree by first timestamp, and the newest few beside it.
//!
//! A slice is committed about once a second, and its tree would be rewritten each time from leaf to
//! root. So the newest stand in the job state itself and are folded into the tree when they are
//! many.

use bson::raw::{RawArrayBuf, RawBsonRef, cstr};
use bson::{RawDocument, RawDocumentBuf, Timestamp};

use super::Error;
use crate::block::{BlockRead, BlockWrite, stream};
use crate::head::fields::Fields;
use crate::oplog::slice::{self, Slice, SliceBuilder, SliceHeader};
use crate::oplog::{OpTime, Ts, position};
use crate::store::RepositorySalt;
use crate::tree::{self, Content, Cursor, Edit, Key, Order, Shape};

/// Slices that stand in the job state before they are folded into the tree. A commit writes half of
/// them on average, a fold writes one leaf and its path: about sixteen of each balance.
const RECENT_MAX: usize = 16;

/// Reads the entries of a slice, checked against its header.
///
/// # Errors
/// [`Error::Block`], [`Error::Oplog`].
pub fn read(slice: &Slice, blocks: &dyn BlockRead) -> Result<Vec<u8>, Error> {
    let bytes = stream::read(blocks, &slice.pieces)?;
    slice::check(&slice.header, &bytes)?;
    Ok(bytes)
}

fn from_document(document: &RawDocument) -> Result<Slice, Error> {
    let (header, pieces) = SliceHeader::from_document(document)?;
    Ok(Slice { header, pieces })
}

/// The entries of a slice after an optime and up to a timestamp, as a slice of its own, with its blocks stored. None if it has no
/// entry with just that optime (and does not begin after it either): then it is of another history; or if nothing is left.
///
/// # Errors
/// [`Error::Block`], [`Error::Oplog`].
pub(super) fn cut(
    blocks: &dyn BlockWrite,
    slice: &Slice,
    after: OpTime,
    upto: Ts,
) -> Result<Option<Slice>, Error> {
    let bytes = read(slice, blocks)?;
    let (mut builder, mut is_met) = (SliceBuilder::new(after), slice.header.prev == after);
    let mut is_empty = true;
    for entry in slice::entries(&bytes) {
        let entry = entry?;
        let at = position(entry)?.optime;
        if at.ts <= after.ts {
            is_met |= at == after;
        } else if !is_met {
            return Ok(None);
        } else if at.ts <= upto {
            builder.push(entry)?;
            is_empty = false;
        }
    }
    if is_empty {
        return Ok(None);
    }
    let (header, bytes) = builder.finish()?;
    Ok(Some(Slice { header, pieces: stream::write(blocks, &bytes)? }))
}

/// The slices of a job, oldest first.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SliceChain {
    tree: tree::Root,
    recent: Vec<Slice>,
}

impl SliceChain {
    /// How many slices there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.tree.documents + self.recent.len() as u64
    }

    /// The tree of all but the newest slices, for verification.
    #[must_use]
    pub fn tree(&self) -> &tree::Root {
        &self.tree
    }

    /// Appends a slice.
    ///
    /// # Errors
    /// [`Error::Tree`] when the newest are folded into the tree.
    pub fn push(
        &mut self,
        blocks: &dyn BlockWrite,
        salt: RepositorySalt,
        slice: Slice,
    ) -> Result<(), Error> {
        self.recent.push(slice);
        if self.recent.len() < RECENT_MAX {
            return Ok(());
        }
        let mut edits = self.recent.iter().map(|slice| {
            let document = slice.header.to_document(&slice.pieces);
            Ok((key(slice.header.first.optime.ts)?, Edit::Put(document)))
        });
        self.tree = tree::edit(blocks, &shape(salt), &self.tree, &mut edits)?;
        self.recent.clear();
        Ok(())
    }

    /// Removes, from the oldest on, the slices whose last entry is at or before `floor`. Returns how
    /// many went.
    ///
    /// # Errors
    /// [`Error::Tree`], [`Error::Oplog`].
    pub fn expire(
        &mut self,
        blocks: &dyn BlockWrite,
        salt: RepositorySalt,
        floor: OpTime,
    ) -> Result<u64, Error> {
        let mut expired = Vec::new();
        let mut cursor = Cursor::new(blocks, &self.tree);
        while let Some(document) = cursor.next()? {
            let slice = from_document(&document)?;
            if slice.header.last.optime > floor {
                break;
            }
            expired.push(slice.header.first.optime.ts);
        }
        let mut edits = expired.iter().map(|first| Ok((key(*first)?, Edit::Delete)));
        self.tree = tree::edit(blocks, &shape(salt), &self.tree, &mut edits)?;
        let before = self.recent.len();
        self.recent.retain(|slice| slice.header.last.optime > floor);
        Ok((expired.len() + before - self.recent.len()) as u64)
    }

    /// Removes every slice that has an entry at or after `from`.
    ///
    /// # Errors
    /// [`Error::Tree`], [`Error::Oplog`].
    pub fn cut_off(
        &mut self,
        blocks: &dyn BlockWrite,
        salt: RepositorySalt,
        from: OpTime,
    ) -> Result<(), Error> {
        let mut gone = Vec::new();
        self.for_each(blocks, &mut |slice| {
            if slice.header.last.optime >= from {
                gone.push(slice.header.first.optime.ts);
            }
            Ok(())
        })?;
        let mut edits = gone.iter().map(|first| Ok((key(*first)?, Edit::Delete)));
        self.tree = tree::edit(blocks, &shape(salt), &self.tree, &mut edits)?;
        self.recent.retain(|slice| slice.header.last.optime < from);
        Ok(())
    }

    /// The oldest slice whose first entry is at or after `from`.
    ///
    /// # Errors
    /// [`Error::Tree`], [`Error::Oplog`].
    pub fn first_from(&self, blocks: &dyn BlockRead, from: Ts) -> Result<Option<Slice>, Error> {
        let mut cursor = Cursor::new(blocks, &self.tree);
        cursor.seek(&key(from)?)?;
        match cursor.next()? {
            Some(document) => from_document(&document).map(Some),
            None => {
                let mut recent = self.recent.iter();
                Ok(recent.find(|slice| slice.header.first.optime.ts >= from).cloned())
            }
        }
    }

    /// The oldest slice whose last entry is at or after `from`. Looks through all of them.
    ///
    /// # Errors
    /// [`Error::Tree`], [`Error::Oplog`].
    pub fn first_reaching(&self, blocks: &dyn BlockRead, from: Ts) -> Result<Option<Slice>, Error> {
        let mut found = None;
        self.for_each(blocks, &mut |slice| {
            if found.is_none() && slice.header.last.optime.ts >= from {
                found = Some(slice);
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// The first entry from which the slices go on to the newest without a break; none if there are no
    /// slices. Looks through all of them.
    ///
    /// # Errors
    /// [`Error::Tree`], [`Error::Oplog`].
    pub fn unbroken_from(&self, blocks: &dyn BlockRead) -> Result<Option<OpTime>, Error> {
        let (mut from, mut end) = (None, OpTime::NULL);
        self.for_each(blocks, &mut |slice| {
            if from.is_none() || slice.header.prev != end {
                from = Some(slice.header.first.optime);
            }
            end = slice.header.last.optime;
            Ok(())
        })?;
        Ok(from)
    }

    /// Every slice, oldest first.
    ///
    /// # Errors
    /// [`Error::Tree`], [`Error::Oplog`], and those of `each`.
    pub fn for_each(
        &self,
        blocks: &dyn BlockRead,
        each: &mut dyn FnMut(Slice) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut cursor = Cursor::new(blocks, &self.tree);
        while let Some(document) = cursor.next()? {
            each(from_document(&document)?)?;
        }
        self.recent.iter().cloned().try_for_each(each)
    }

    /// As a BSON value for the job state.
    #[must_use]
    pub fn to_bson(&self) -> RawDocumentBuf {
        let mut recent = RawArrayBuf::new();
        for slice in &self.recent {
            recent.push(slice.header.to_document(&slice.pieces));
        }
        let mut out = RawDocumentBuf::new();
        out.append(cstr!("tree"), self.tree.to_bson());
        out.append(cstr!("recent"), recent);
        out
    }

    /// Reads [`SliceChain::to_bson`] back.
    ///
    /// # Errors
    /// [`Error::Malformed`], [`Error::Oplog`].
    pub(super) fn from_bson(read: Fields<'_>) -> Result<Self, Error> {
        let recent = read.documents("recent")?.into_iter();
        Ok(Self {
            tree: read.tree("tree")?,
            recent: recent.map(|slice| from_document(slice.document)).collect::<Result<_, _>>()?,
        })
    }
}

/// The shape of the tree of slices.
#[must_use]
pub fn shape(salt: RepositorySalt) -> Shape {
    Shape::new(salt, Order::Keyed, Content::Links)
}

fn key(first: Ts) -> Result<Key, tree::Error> {
    Key::of_value(RawBsonRef::Timestamp(Timestamp::from(first)))
}
