//! What a flush leaves: everything needed to go on from its optime without an older entry.

use bson::raw::{RawBsonRef, cstr};
use bson::spec::BinarySubtype;
use bson::{Binary, DateTime, RawDocument, RawDocumentBuf, Timestamp};

use super::Error;
use crate::block::{self, BlockId};
use crate::oplog::{OpTime, Position};
use crate::tree;

/// A flushed head. A commit that names it must name it whole ([`HeadRoot::to_bson`] inside a `Links`
/// document).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadRoot {
    /// Position of the last entry applied.
    pub position: Position,
    /// The state can be restored from this optime on; none while a scan is not caught up with.
    pub consistent_from: Option<OpTime>,
    /// Root of the catalog tree.
    pub catalog: tree::Root,
    /// Block of the pending state (open chains, prepared transactions, started index builds).
    pub pending: Option<BlockId>,
    /// Hash of the kept namespaces' contents, see [`super::content_root`].
    pub content_root: [u8; 32],
    /// Documents in kept namespaces.
    pub documents: u64,
    /// Sum of their BSON lengths.
    pub logical_bytes: u64,
}

impl HeadRoot {
    /// As a BSON value for `Links` documents.
    #[must_use]
    pub fn to_bson(&self) -> RawDocumentBuf {
        let mut out = RawDocumentBuf::new();
        out.append(cstr!("optime"), optime_to_bson(self.position.optime));
        out.append(cstr!("wall"), DateTime::from_millis(self.position.wall_ms));
        if let Some(from) = self.consistent_from {
            out.append(cstr!("consistent_from"), optime_to_bson(from));
        }
        out.append(cstr!("catalog"), self.catalog.to_bson());
        if let Some(pending) = &self.pending {
            out.append(cstr!("pending"), block::link(pending));
        }
        out.append(cstr!("content_root"), hash_to_bson(&self.content_root));
        out.append(cstr!("documents"), count_to_bson(self.documents));
        out.append(cstr!("logical_bytes"), count_to_bson(self.logical_bytes));
        out
    }

    /// Reads [`HeadRoot::to_bson`] back.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn from_bson(document: &RawDocument) -> Result<Self, Error> {
        let read = Reader { what: "head", document };
        let pending = match read.optional("pending") {
            None => None,
            Some(value) => Some(block::linked(value).ok_or_else(|| read.malformed("pending"))?),
        };
        let consistent_from = match read.optional("consistent_from") {
            None => None,
            Some(_) => Some(read.optime("consistent_from")?),
        };
        Ok(Self {
            position: Position { optime: read.optime("optime")?, wall_ms: read.millis("wall")? },
            consistent_from,
            catalog: read.tree("catalog")?,
            pending,
            content_root: read.hash("content_root")?,
            documents: read.count("documents")?,
            logical_bytes: read.count("logical_bytes")?,
        })
    }
}

pub(super) fn optime_to_bson(optime: OpTime) -> RawDocumentBuf {
    let mut out = RawDocumentBuf::new();
    out.append(cstr!("ts"), Timestamp::from(optime.ts));
    out.append(cstr!("t"), optime.term);
    out
}

pub(super) fn hash_to_bson(hash: &[u8; 32]) -> Binary {
    Binary { subtype: BinarySubtype::Generic, bytes: hash.to_vec() }
}

/// Counts stand as BSON longs; no count of documents or bytes comes near their limit.
pub(super) fn count_to_bson(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Reads the fields of one of our own documents.
pub(super) struct Reader<'a> {
    /// Which document, for messages.
    pub what: &'static str,
    /// The document.
    pub document: &'a RawDocument,
}

impl<'a> Reader<'a> {
    pub fn malformed(&self, field: &'static str) -> Error {
        Error::Malformed { what: self.what, field }
    }

    pub fn optional(&self, field: &'static str) -> Option<RawBsonRef<'a>> {
        self.document.get(field).ok().flatten()
    }

    fn get<T>(
        &self,
        field: &'static str,
        read: impl FnOnce(RawBsonRef<'a>) -> Option<T>,
    ) -> Result<T, Error> {
        self.optional(field).and_then(read).ok_or_else(|| self.malformed(field))
    }

    pub fn document(&self, field: &'static str) -> Result<&'a RawDocument, Error> {
        self.get(field, |value| value.as_document())
    }

    pub fn text(&self, field: &'static str) -> Result<&'a str, Error> {
        self.get(field, |value| value.as_str())
    }

    pub fn flag(&self, field: &'static str) -> Result<bool, Error> {
        self.get(field, |value| value.as_bool())
    }

    pub fn count(&self, field: &'static str) -> Result<u64, Error> {
        self.get(field, |value| value.as_i64().and_then(|number| u64::try_from(number).ok()))
    }

    pub fn millis(&self, field: &'static str) -> Result<i64, Error> {
        self.get(field, |value| value.as_datetime().map(DateTime::timestamp_millis))
    }

    pub fn bytes<const N: usize>(&self, field: &'static str) -> Result<[u8; N], Error> {
        self.get(field, |value| value.as_binary().and_then(|binary| binary.bytes.try_into().ok()))
    }

    pub fn hash(&self, field: &'static str) -> Result<[u8; 32], Error> {
        self.bytes(field)
    }

    pub fn optime(&self, field: &'static str) -> Result<OpTime, Error> {
        let inner = Reader { what: self.what, document: self.document(field)? };
        let ts = inner.get("ts", |value| value.as_timestamp())?;
        let term = inner.get("t", |value| value.as_i64())?;
        Ok(OpTime { ts: ts.into(), term })
    }

    pub fn tree(&self, field: &'static str) -> Result<tree::Root, Error> {
        Ok(tree::Root::from_bson(self.document(field)?)?)
    }
}
