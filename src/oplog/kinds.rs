//! Names of the kinds of operation in an entry, for slice headers.
//!
//! A slice is stored before its entries are applied, so nothing unknown may stop this: what has no
//! row in [`super::known`] gets a name that [`super::known::lookup_kind`] does not find, and a plan
//! to apply the slice sees it.

use std::collections::BTreeSet;

use bson::RawDocument;
use bson::raw::RawBsonRef;

use super::fields::{Fields, truthy};
use super::known::PREPARE_KIND;
use super::parse::update_form;
use super::{SliceError, Update};

/// The most kinds in a slice: several times what the table has.
pub(super) const MAX_KINDS: usize = 256;
/// The longest name kept of an unknown operation, in characters.
const MAX_NAME_CHARS: usize = 64;
/// Name for what is not even an operation.
const MALFORMED: &str = "?";

/// Adds the kinds of `entry`, those inside an applyOps included.
pub(super) fn collect(entry: &RawDocument, kinds: &mut BTreeSet<String>) -> Result<(), SliceError> {
    let Ok(fields) = Fields::of(entry) else { return add(kinds, MALFORMED) };
    add_kind(&fields, kinds)?;
    if fields.op != Some("c") || fields.command() != Some("applyOps") {
        return Ok(());
    }
    let Some(operations) = fields.o.and_then(|o| o.get_array("applyOps").ok()) else {
        return add(kinds, MALFORMED);
    };
    for operation in operations {
        match operation {
            Ok(RawBsonRef::Document(operation)) => match Fields::of(operation) {
                Ok(fields) => add_kind(&fields, kinds)?,
                Err(_) => add(kinds, MALFORMED)?,
            },
            _ => add(kinds, MALFORMED)?,
        }
    }
    Ok(())
}

fn add_kind(fields: &Fields<'_>, kinds: &mut BTreeSet<String>) -> Result<(), SliceError> {
    match fields.op {
        None => add(kinds, MALFORMED),
        Some("u") => add(kinds, update_kind(fields)),
        Some("c") => {
            let mut name = format!("c.{}", fields.command().unwrap_or(MALFORMED));
            if let Some(multi) = fields.multi_op_type.filter(|multi| !matches!(multi, 0 | 1)) {
                name = format!("{name}#{multi}");
            } else if name == "c.applyOps" && prepares(fields) {
                PREPARE_KIND.clone_into(&mut name);
            }
            add(kinds, &name)
        }
        Some(op) => add(kinds, op),
    }
}

/// Whether an applyOps entry leaves a transaction waiting for its decision.
fn prepares(fields: &Fields<'_>) -> bool {
    let flag = |name| fields.o.and_then(|o| o.get(name).ok().flatten()).is_some_and(truthy);
    flag("prepare") && !flag("partialTxn")
}

fn update_kind(fields: &Fields<'_>) -> &'static str {
    match fields.o.and_then(update_form) {
        Some(Update::Replace(_)) => "u.replace",
        Some(Update::V1(_)) => "u.v1",
        Some(Update::V2(_)) => "u.v2",
        None => "u.?",
    }
}

fn add(kinds: &mut BTreeSet<String>, name: &str) -> Result<(), SliceError> {
    if kinds.contains(name) {
        return Ok(());
    }
    kinds.insert(name.chars().take(MAX_NAME_CHARS).collect());
    if kinds.len() > MAX_KINDS {
        return Err(SliceError::TooManyKinds { limit: MAX_KINDS });
    }
    Ok(())
}
