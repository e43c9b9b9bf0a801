//! What an update leaves.

use bson::{RawDocument, RawDocumentBuf};

use super::raw::{Elements, Writer};
use super::{Error, Update, UpdateError, diff_v1, diff_v2};
use crate::elements::{self, ID};

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
/// document is missing and stays so. `old` is the document stored under the `_id` of `id`, which is
/// `o2`.
///
/// # Errors
/// [`Error::Update`].
pub fn apply(
    update: &Update<'_>,
    old: Option<&RawDocument>,
    id: &RawDocument,
    rules: Rules,
) -> Result<Option<RawDocumentBuf>, Error> {
    let start;
    let old = match old {
        Some(old) => old,
        None if rules.upsert_missing => {
            start = elements::only_id(id).map_err(UpdateError::from)?;
            &start
        }
        None => return Ok(None),
    };
    let bytes = match update {
        Update::Replace(document) => document.as_bytes().to_vec(),
        Update::V1(o) => diff_v1::apply(old.as_bytes(), o.as_bytes(), rules.name_order)?,
        Update::V2(diff) => diff_v2::apply(old.as_bytes(), diff.as_bytes())?,
    };
    Ok(Some(RawDocumentBuf::from_bytes(id_first(bytes)?)?))
}

/// Moves `_id` to the front, as servers do with whatever an update leaves: the entry of a pipeline
/// that puts a field before `_id` has them in the pipeline's order.
fn id_first(bytes: Vec<u8>) -> Result<Vec<u8>, UpdateError> {
    let mut id = None;
    for (position, element) in Elements::new(&bytes)?.enumerate() {
        let element = element?;
        if element.name == ID {
            id = Some((position, element.value));
            break;
        }
    }
    let Some((position, id)) = id.filter(|(position, _)| *position > 0) else {
        return Ok(bytes);
    };
    let mut out = Writer::with_capacity(bytes.len());
    let open = out.open();
    out.append(ID, id)?;
    for (_, element) in Elements::new(&bytes)?.enumerate().filter(|(other, _)| *other != position) {
        let element = element?;
        out.append(element.name, element.value)?;
    }
    out.close(open)?;
    Ok(out.into_bytes())
}

#[cfg(test)]
mod tests;
