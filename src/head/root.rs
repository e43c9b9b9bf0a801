//! What a flush leaves: everything needed to go on from its optime without an older entry.

use bson::raw::cstr;
use bson::{DateTime, RawDocument, RawDocumentBuf};

use super::Error;
use super::fields::{self, Fields};
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
        out.append(cstr!("optime"), fields::optime(self.position.optime));
        out.append(cstr!("wall"), DateTime::from_millis(self.position.wall_ms));
        if let Some(from) = self.consistent_from {
            out.append(cstr!("consistent_from"), fields::optime(from));
        }
        out.append(cstr!("catalog"), self.catalog.to_bson());
        if let Some(pending) = &self.pending {
            out.append(cstr!("pending"), block::link(pending));
        }
        out.append(cstr!("content_root"), fields::bytes(&self.content_root));
        out.append(cstr!("documents"), fields::count(self.documents));
        out.append(cstr!("logical_bytes"), fields::count(self.logical_bytes));
        out
    }

    /// Reads [`HeadRoot::to_bson`] back.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn from_bson(document: &RawDocument) -> Result<Self, Error> {
        let read = Fields { what: "head", document };
        let pending = match read.optional("pending") {
            None => None,
            Some(value) => Some(block::linked(value).ok_or_else(|| read.malformed("pending"))?),
        };
        Ok(Self {
            position: Position { optime: read.optime("optime")?, wall_ms: read.millis("wall")? },
            consistent_from: read.optional_optime("consistent_from")?,
            catalog: read.tree("catalog")?,
            pending,
            content_root: read.binary("content_root")?,
            documents: read.count("documents")?,
            logical_bytes: read.count("logical_bytes")?,
        })
    }
}
