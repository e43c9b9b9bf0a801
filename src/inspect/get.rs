//! One document at a point.

use bson::RawDocumentBuf;

use super::{Error, Id};
use crate::head::Collection;
use crate::restore::View;
use crate::tree::{self, Cursor, Key, Order};

/// Reads a document of the collection that has the name `ns` at the view's point; none if there is no
/// document of that `_id`. Blocking.
///
/// # Errors
/// [`Error::NoCollection`], and those of reading the backup.
pub fn get(view: &View, ns: &str, id: &Id) -> Result<Option<RawDocumentBuf>, Error> {
    let collection = view.collection(ns).ok_or_else(|| Error::NoCollection {
        ns: ns.to_owned(),
        point: view.optime().ts.to_string(),
    })?;
    Ok(document(view.blocks(), collection, id.key())?)
}

/// Reads a document by its key. A capped collection has no order of keys and is read from the front.
pub(super) fn document(
    blocks: &dyn crate::block::BlockRead,
    collection: &Collection,
    key: &Key,
) -> Result<Option<RawDocumentBuf>, tree::Error> {
    if collection.order == Order::Keyed {
        return tree::get(blocks, &collection.root, key);
    }
    let mut cursor = Cursor::new(blocks, &collection.root);
    while let Some(document) = cursor.next()? {
        if Key::of_document(&document)? == *key {
            return Ok(Some(document));
        }
    }
    Ok(None)
}
