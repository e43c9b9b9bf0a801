//! From an entry's bytes to what it does.
//!
//! Each operation is looked up in the table of [`super::known`] first. Fields are found by name,
//! their order varies between versions; only the name of a command is its first field.

use bson::RawDocument;
use bson::raw::{RawArray, RawBsonRef};

use super::command::catalog_command;
use super::fields::{Fields, Reader, integer};
use super::known::{self, Known, Treatment};
use super::raw::Elements;
use super::{
    Abort, ApplyOps, ApplyOpsRole, Commit, Error, OpTime, Operation, Operations, Parsed, Position,
    Session, UnknownPart, Update,
};
use crate::elements;

/// `multiOpType` of a vectored retryable insert, applied on its own.
const MULTI_OP_STANDALONE: i64 = 1;

/// Reads an entry's position, checking `v`.
///
/// # Errors
/// [`Error::NoTimestamp`], [`Error::Version`], [`Error::Bson`].
pub fn position(entry: &RawDocument) -> Result<Position, Error> {
    Fields::of(entry)?.position()
}

/// Tells what an entry does.
///
/// # Errors
/// [`Error::Unknown`] for what this version does not know, [`Error::Field`] for a known kind that
/// lacks a field, and those of [`position`].
pub fn parse(entry: &RawDocument) -> Result<Parsed<'_>, Error> {
    read(entry).map(|(_, parsed)| parsed)
}

/// Both [`position`] and [`parse`], in one go over the entry.
///
/// # Errors
/// Those of both.
pub fn read(entry: &RawDocument) -> Result<(Position, Parsed<'_>), Error> {
    let fields = Fields::of(entry)?;
    let position = fields.position()?;
    Ok((position, parsed(position.optime, &fields)?))
}

fn parsed<'a>(at: OpTime, fields: &Fields<'a>) -> Result<Parsed<'a>, Error> {
    let row = row(at, fields)?;
    if row.treatment != Treatment::Transaction {
        return single(at, fields, row).map(Parsed::Single);
    }
    let reader = reader(at, fields)?;
    let session = Session { lsid: fields.lsid, txn_number: fields.txn_number };
    let prev = fields.prev().map_err(|_| reader.wrong("prevOpTime"))?;
    Ok(match row.command {
        Some("commitTransaction") => {
            let commit_ts = reader.timestamp("commitTimestamp")?;
            Parsed::Commit(Commit { prev, commit_ts, session })
        }
        Some("abortTransaction") => Parsed::Abort(Abort { prev, session }),
        _ => Parsed::ApplyOps(ApplyOps {
            role: role(fields, &reader)?,
            count: count(&reader)?,
            prev,
            session,
            operations: reader.array("applyOps")?,
        }),
    })
}

/// The operations of an applyOps array that stood in the entry `at`.
#[must_use]
pub fn operations(at: OpTime, array: &RawArray) -> Operations<'_> {
    Operations { at, elements: array.into_iter() }
}

impl<'a> Iterator for Operations<'a> {
    type Item = Result<Operation<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.elements.next()? {
                Err(error) => return Some(Err(error.into())),
                Ok(element) => match inner(self.at, element) {
                    Ok(Operation::Noop(row)) if row.op == "n" => {}
                    done => return Some(done),
                },
            }
        }
    }
}

/// One operation of an applyOps. A transaction inside a transaction does not exist.
fn inner(at: OpTime, element: RawBsonRef<'_>) -> Result<Operation<'_>, Error> {
    let Some(document) = element.as_document() else {
        return Err(Error::Field { at, op: "c applyOps".into(), ns: "".into(), field: "applyOps" });
    };
    let fields = Fields::of(document)?;
    fields.check_inner_version(at)?;
    let row = row(at, &fields)?;
    if row.treatment == Treatment::Transaction {
        return Err(unknown(at, &fields, UnknownPart::NestedTransaction));
    }
    single(at, &fields, row)
}

/// The table's row of an operation.
fn row(at: OpTime, fields: &Fields<'_>) -> Result<&'static Known, Error> {
    let command = if fields.op == Some("c") { fields.command() } else { None };
    let part = if command.is_some() { UnknownPart::Command } else { UnknownPart::Op };
    fields.op.and_then(|op| known::lookup(op, command)).ok_or_else(|| unknown(at, fields, part))
}

fn unknown(at: OpTime, fields: &Fields<'_>, what: UnknownPart) -> Error {
    let op = fields.op.unwrap_or_default();
    let command = if op == "c" { fields.command().map(Box::from) } else { None };
    let ns = fields.ns.unwrap_or_default().into();
    Error::Unknown { at, what, op: op.into(), command, ns }
}

fn reader<'a>(at: OpTime, fields: &Fields<'a>) -> Result<Reader<'a>, Error> {
    let (op, ns) = (fields.op.unwrap_or_default(), fields.ns.unwrap_or_default());
    let missing = |field| Error::Field { at, op: op.into(), ns: ns.into(), field };
    let o = fields.o.ok_or_else(|| missing("o"))?;
    if fields.ns.is_none() {
        return Err(missing("ns"));
    }
    Ok(Reader { at, op, ns, o })
}

fn single<'a>(
    at: OpTime,
    fields: &Fields<'a>,
    row: &'static Known,
) -> Result<Operation<'a>, Error> {
    if row.treatment == Treatment::Ignored {
        return Ok(Operation::Noop(row));
    }
    let reader = reader(at, fields)?;
    let Reader { ns, o, .. } = reader;
    let uuid = fields.uuid;
    Ok(match row.op {
        "i" => Operation::Insert { ns, uuid, document: o },
        "d" => {
            let id = Some(o).filter(|o| has_id(o)).ok_or_else(|| reader.wrong("o._id"))?;
            Operation::Delete { ns, uuid, id }
        }
        "u" => {
            let id = fields.o2.filter(|o2| has_id(o2));
            let id = id.ok_or_else(|| reader.wrong("o2._id"))?;
            let update =
                update_form(o).ok_or_else(|| unknown(at, fields, UnknownPart::UpdateForm))?;
            Operation::Update { ns, uuid, id, update, upsert: fields.upsert }
        }
        _ => {
            let db = ns.split_once('.').map_or(ns, |(db, _)| db);
            let command = catalog_command(row, &reader)?;
            let command = command.ok_or_else(|| unknown(at, fields, UnknownPart::Command))?;
            Operation::Command { db, uuid, command }
        }
    })
}

/// Whether there is an `_id`, whose value is of no matter here: a string need not be UTF-8.
fn has_id(document: &RawDocument) -> bool {
    matches!(elements::id(document), Ok(Some(_)))
}

/// The form of an update: a replacement has an `_id`, the others never do. None if it is unknown.
pub(super) fn update_form(o: &RawDocument) -> Option<Update<'_>> {
    let mut version = None;
    let (mut modifiers, mut others) = (false, false);
    for element in Elements::new(o.as_bytes()).ok()? {
        let element = element.ok()?;
        match element.name {
            b"_id" => return Some(Update::Replace(o)),
            b"$v" => version = Some(element.value.as_integer()?),
            b"$set" | b"$unset" => modifiers = true,
            _ => others = true,
        }
    }
    match version {
        Some(2) => o.get_document("diff").ok().map(Update::V2),
        Some(1) if !others => Some(Update::V1(o)),
        None if modifiers && !others => Some(Update::V1(o)),
        _ => None,
    }
}

fn role(fields: &Fields<'_>, reader: &Reader<'_>) -> Result<ApplyOpsRole, Error> {
    if reader.flag("partialTxn")? {
        return Ok(ApplyOpsRole::Partial);
    }
    if reader.flag("prepare")? {
        return Ok(ApplyOpsRole::Prepare);
    }
    match fields.multi_op_type {
        None | Some(0) => Ok(ApplyOpsRole::Terminal),
        Some(MULTI_OP_STANDALONE) => Ok(ApplyOpsRole::Standalone),
        Some(_) => Err(unknown(reader.at, fields, UnknownPart::MultiOpType)),
    }
}

fn count(reader: &Reader<'_>) -> Result<Option<u64>, Error> {
    let Some(value) = reader.value("count")? else { return Ok(None) };
    let count = integer(value).and_then(|count| u64::try_from(count).ok());
    count.map(Some).ok_or_else(|| reader.wrong("o.count"))
}

#[cfg(test)]
mod tests;
