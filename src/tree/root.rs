//! The name of a tree.

use bson::raw::cstr;
use bson::{RawDocument, RawDocumentBuf};

use crate::block::{BlockId, link, linked};

use super::node::{Entry, Separator};
use super::{Error, MAX_LEVEL};

/// A tree: its top block and what is under it. The empty tree has no block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Root {
    /// The top block, none for an empty tree.
    pub top: Option<BlockId>,
    /// Levels of inner nodes above the leaves.
    pub level: u8,
    /// Documents.
    pub documents: u64,
    /// Sum of their BSON lengths.
    pub bytes: u64,
}

impl Root {
    /// As a BSON value for `Links` documents (the block as a [`crate::block::link`]):
    /// `{top?, level, documents, bytes}`.
    #[must_use]
    pub fn to_bson(&self) -> RawDocumentBuf {
        let mut document = RawDocumentBuf::new();
        if let Some(top) = &self.top {
            document.append(cstr!("top"), link(top));
        }
        document.append(cstr!("level"), i32::from(self.level));
        document.append(cstr!("documents"), self.documents.cast_signed());
        document.append(cstr!("bytes"), self.bytes.cast_signed());
        document
    }

    /// Reads [`Root::to_bson`] back.
    ///
    /// # Errors
    /// [`Error::MalformedRoot`].
    pub fn from_bson(document: &RawDocument) -> Result<Self, Error> {
        let malformed = |what| Error::MalformedRoot { what };
        let top = match document.get("top").map_err(|_| malformed("top"))? {
            None => None,
            Some(value) => Some(linked(value).ok_or_else(|| malformed("top is no link"))?),
        };
        let level = document.get_i32("level").map_err(|_| malformed("level"))?;
        let level = u8::try_from(level).map_err(|_| malformed("level"))?;
        let documents = document.get_i64("documents").map_err(|_| malformed("documents"))?;
        let bytes = document.get_i64("bytes").map_err(|_| malformed("bytes"))?;
        let root =
            Self { top, level, documents: documents.cast_unsigned(), bytes: bytes.cast_unsigned() };
        root.entry()?;
        Ok(root)
    }

    /// The top block as an entry without separator; none for the empty tree.
    pub(super) fn entry(&self) -> Result<Option<Entry>, Error> {
        let Some(top) = self.top else {
            return if *self == Self::default() {
                Ok(None)
            } else {
                Err(Error::MalformedRoot { what: "an empty tree with a level or counts" })
            };
        };
        if self.level > MAX_LEVEL || self.documents == 0 {
            return Err(Error::MalformedRoot { what: "level or document count out of range" });
        }
        Ok(Some(Entry {
            child: Some(top),
            parts: Vec::new(),
            documents: self.documents,
            bytes: self.bytes,
            separator: Separator::EMPTY,
        }))
    }
}
