//! Capped collections that hold more than their options allow.
//!
//! A bound lowered by collMod makes the server remove documents with the next insert only. A backup
//! from before that insert holds them all, and so must the restored collection: it is created with
//! bounds that let everything in, and they are lowered once it is loaded.

use bson::raw::{RawBsonRef, cstr};
use bson::{RawDocument, RawDocumentBuf, rawdoc};

use super::Live;
use crate::restore::Error;
use crate::restore::items::{Item, Shape, without};

const SIZE: &str = "size";
const MAX: &str = "max";

/// The bounds of a collection that outgrew them; none of any other.
fn outgrown(item: &Item) -> Option<(i64, Option<i64>)> {
    if item.shape != Shape::Capped {
        return None;
    }
    let size = bound(&item.options, SIZE)?;
    let max = bound(&item.options, MAX).filter(|max| *max > 0);
    let (documents, bytes) = held(item);
    (bytes > size || max.is_some_and(|max| documents > max)).then_some((size, max))
}

fn held(item: &Item) -> (i64, i64) {
    let whole = |count| i64::try_from(count).unwrap_or(i64::MAX);
    (whole(item.documents()), whole(item.bytes()))
}

fn bound(options: &RawDocument, name: &str) -> Option<i64> {
    match options.get(name).ok()?? {
        RawBsonRef::Int32(number) => Some(number.into()),
        RawBsonRef::Int64(number) => Some(number),
        RawBsonRef::Double(number) => Some(number as i64),
        _ => None,
    }
}

/// The options to create a collection with, so that all its documents find room.
pub(super) fn roomy(item: &Item, options: RawDocumentBuf) -> Result<RawDocumentBuf, Error> {
    let Some((size, max)) = outgrown(item) else { return Ok(options) };
    let (documents, bytes) = held(item);
    let mut roomy = without(&item.ns, &options, &[SIZE, MAX])?;
    roomy.append(cstr!("size"), size.max(bytes));
    if let Some(max) = max {
        roomy.append(cstr!("max"), max.max(documents));
    }
    Ok(roomy)
}

impl Live {
    /// Gives a loaded collection that outgrew its bounds the bounds it is to have.
    pub async fn lower_bounds(&self, item: &Item) -> Result<(), Error> {
        let Some((size, max)) = outgrown(item) else { return Ok(()) };
        let mut command = rawdoc! { "collMod": item.name(), "cappedSize": size };
        if let Some(max) = max {
            command.append(cstr!("cappedMax"), max);
        }
        self.run(item.db(), "collMod", command, &item.ns).await.map(drop)
    }
}
