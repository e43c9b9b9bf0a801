//! The fields of an entry, or of an operation inside an applyOps, found by name.

use bson::RawDocument;
use bson::raw::{RawArray, RawBsonRef};

use super::raw::{Element, Elements};
use super::{Error, OpTime, OptionalNumber, Position, Ts, Uuid};

/// The oplog version all servers write.
const OPLOG_VERSION: i64 = 2;
/// Milliseconds in a second.
const MS_PER_SEC: i64 = 1000;

/// What the fields of an entry hold. Fields that have no part in applying it are passed over.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Fields<'a> {
    ts: Option<Ts>,
    term: Option<i64>,
    wall_ms: Option<i64>,
    version: Option<Option<i64>>,
    pub(super) op: Option<&'a str>,
    pub(super) ns: Option<&'a str>,
    pub(super) uuid: Option<Uuid>,
    pub(super) o: Option<&'a RawDocument>,
    pub(super) o2: Option<&'a RawDocument>,
    pub(super) upsert: bool,
    pub(super) prev: Option<&'a RawDocument>,
    pub(super) lsid: Option<&'a RawDocument>,
    pub(super) txn_number: Option<i64>,
    pub(super) multi_op_type: Option<i64>,
}

impl<'a> Fields<'a> {
    pub(super) fn of(entry: &'a RawDocument) -> Result<Self, Error> {
        let mut fields = Self::default();
        for element in Elements::new(entry.as_bytes()).map_err(|_| Error::Malformed)? {
            let Element { name, value } = element.map_err(|_| Error::Malformed)?;
            match name {
                b"ts" => fields.ts = value.as_timestamp(),
                b"t" => fields.term = value.as_integer(),
                b"wall" => fields.wall_ms = value.as_millis(),
                b"v" => fields.version = Some(value.as_integer()),
                b"op" => fields.op = value.as_str(),
                b"ns" => fields.ns = value.as_str(),
                b"ui" => fields.uuid = value.as_uuid(),
                b"o" => fields.o = value.as_document(),
                b"o2" => fields.o2 = value.as_document(),
                b"b" => fields.upsert = value.is_truthy(),
                b"prevOpTime" => fields.prev = value.as_document(),
                b"lsid" => fields.lsid = value.as_document(),
                b"txnNumber" => fields.txn_number = value.as_integer(),
                b"multiOpType" => fields.multi_op_type = value.as_integer(),
                _ => {}
            }
        }
        Ok(fields)
    }

    /// The position of an entry.
    pub(super) fn position(&self) -> Result<Position, Error> {
        let ts = self.ts.ok_or(Error::NoTimestamp)?;
        let optime = OpTime { ts, term: self.term.unwrap_or(OpTime::NULL.term) };
        self.check_version(optime)?;
        let wall_ms = self.wall_ms.unwrap_or(i64::from(ts.secs) * MS_PER_SEC);
        Ok(Position { optime, wall_ms })
    }

    fn check_version(&self, at: OpTime) -> Result<(), Error> {
        let found = self.version.flatten();
        if found == Some(OPLOG_VERSION) {
            return Ok(());
        }
        Err(Error::Version { at, found: OptionalNumber(found) })
    }

    /// Inside an applyOps `v` may be absent, but not another.
    pub(super) fn check_inner_version(&self, at: OpTime) -> Result<(), Error> {
        if self.version.is_none() { Ok(()) } else { self.check_version(at) }
    }

    /// `prevOpTime`, if present and not null.
    pub(super) fn prev(&self) -> Result<Option<OpTime>, bson::error::Error> {
        let Some(prev) = self.prev else { return Ok(None) };
        let ts = Ts::from(prev.get_timestamp("ts")?);
        let term = prev.get("t")?.and_then(integer).unwrap_or(OpTime::NULL.term);
        let prev = OpTime { ts, term };
        Ok(Some(prev).filter(|prev| !prev.is_null()))
    }

    /// Name of the command: the first field of `o`.
    pub(super) fn command(&self) -> Option<&'a str> {
        let first = self.o?.iter_elements().next()?.ok()?;
        Some(first.key().as_str())
    }
}

/// An int or long.
pub(super) fn integer(value: RawBsonRef<'_>) -> Option<i64> {
    match value {
        RawBsonRef::Int32(number) => Some(i64::from(number)),
        RawBsonRef::Int64(number) => Some(number),
        _ => None,
    }
}

/// A boolean, or a number other than zero: commands were once written with either.
pub(super) fn truthy(value: RawBsonRef<'_>) -> bool {
    match value {
        RawBsonRef::Boolean(value) => value,
        RawBsonRef::Double(number) => number != 0.0,
        value => integer(value).is_some_and(|number| number != 0),
    }
}

/// Typed look-ups in `o` that name entry and field where they fail.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    pub(super) at: OpTime,
    pub(super) op: &'a str,
    pub(super) ns: &'a str,
    pub(super) o: &'a RawDocument,
}

impl<'a> Reader<'a> {
    /// The error that `field` is missing or of the wrong type.
    pub(super) fn wrong(&self, field: &'static str) -> Error {
        let command = self.o.iter_elements().next().and_then(Result::ok);
        let op = match command {
            Some(command) if self.op == "c" => format!("c {}", command.key().as_str()).into(),
            _ => self.op.into(),
        };
        Error::Field { at: self.at, op, ns: self.ns.into(), field }
    }

    pub(super) fn value(&self, field: &'static str) -> Result<Option<RawBsonRef<'a>>, Error> {
        self.o.get(field).map_err(|_| self.wrong(field))
    }

    fn required<T>(
        &self,
        field: &'static str,
        read: impl FnOnce(RawBsonRef<'a>) -> Option<T>,
    ) -> Result<T, Error> {
        self.value(field)?.and_then(read).ok_or_else(|| self.wrong(field))
    }

    pub(super) fn string(&self, field: &'static str) -> Result<&'a str, Error> {
        self.required(field, RawBsonRef::as_str)
    }

    pub(super) fn array(&self, field: &'static str) -> Result<&'a RawArray, Error> {
        self.required(field, RawBsonRef::as_array)
    }

    pub(super) fn uuid(&self, field: &'static str) -> Result<Uuid, Error> {
        self.required(field, Uuid::from_value)
    }

    pub(super) fn timestamp(&self, field: &'static str) -> Result<Ts, Error> {
        self.required(field, RawBsonRef::as_timestamp).map(Ts::from)
    }

    pub(super) fn flag(&self, field: &'static str) -> Result<bool, Error> {
        Ok(self.value(field)?.is_some_and(truthy))
    }
}
