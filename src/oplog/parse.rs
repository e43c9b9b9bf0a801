//! From an entry's bytes to what it does.

use bson::RawDocument;
use bson::raw::RawArray;

use super::{Error, OpTime, Operations, Parsed, Position};

/// Reads an entry's position, checking `v`.
///
/// # Errors
/// [`Error::NoTimestamp`], [`Error::Version`], [`Error::Bson`].
pub fn position(_entry: &RawDocument) -> Result<Position, Error> {
    unimplemented!()
}

/// Tells what an entry does.
///
/// # Errors
/// [`Error::Unknown`] for what this version does not know, [`Error::Field`] for a known kind that
/// lacks a field, and those of [`position`].
pub fn parse(_entry: &RawDocument) -> Result<Parsed<'_>, Error> {
    unimplemented!()
}

/// The operations of an applyOps array that stood in the entry `at`.
#[must_use]
pub fn operations(at: OpTime, array: &RawArray) -> Operations<'_> {
    Operations { at, elements: array.into_iter() }
}
