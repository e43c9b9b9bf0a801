//! What an update leaves.

use bson::raw::RawBsonRef;
use bson::{RawDocument, RawDocumentBuf};

use super::{Error, Update};

/// Order of the names that a `$v:1` update appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameOrder {
    /// By bytes: servers before 5.0.
    Bytes,
    /// Canonical decimal numbers among themselves by value: 5.0 and later.
    Numeric,
}

/// What the source's version and the phase of the backup decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// A missing document is created: in steady state, and with `b` on the operation. While a scan
    /// is not caught up, a missing document is left missing.
    pub upsert_missing: bool,
    /// Order of appended names.
    pub name_order: NameOrder,
}

/// The document that an update leaves, byte for byte as a secondary stores it; none if the
/// document is missing and stays so. `id` is `o2._id`, `old` the document stored under it.
///
/// # Errors
/// [`Error::Update`].
pub fn apply(
    _update: &Update<'_>,
    _old: Option<&RawDocument>,
    _id: RawBsonRef<'_>,
    _rules: Rules,
) -> Result<Option<RawDocumentBuf>, Error> {
    unimplemented!()
}
