//! The catalog: names, options, indexes and roots of all collections, by UUID.

use bson::RawDocumentBuf;

use super::{Error, HeadRoot};
use crate::block::BlockRead;
use crate::oplog::Uuid;
use crate::tree;

/// A collection as the catalog holds it.
#[derive(Debug, Clone)]
pub struct Collection {
    /// Its UUID.
    pub uuid: Uuid,
    /// `db.name` at the head's optime.
    pub ns: String,
    /// Options verbatim, as listCollections would show them (no `uuid`).
    pub options: RawDocumentBuf,
    /// Finished index specs verbatim, the `_id` index included where there is one.
    pub indexes: Vec<RawDocumentBuf>,
    /// By key, or by position (capped).
    pub order: tree::Order,
    /// The documents.
    pub root: tree::Root,
}

/// Reads the catalog of a committed head, in UUID order.
///
/// # Errors
/// [`Error::Tree`], [`Error::Block`], [`Error::Malformed`].
pub fn catalog(_blocks: &dyn BlockRead, _root: &HeadRoot) -> Result<Vec<Collection>, Error> {
    unimplemented!()
}
