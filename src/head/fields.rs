//! Reading and writing the fields of the documents that the head and the floors above it store.

use bson::raw::{RawArrayBuf, RawBsonRef, cstr};
use bson::spec::BinarySubtype;
use bson::{Binary, DateTime, RawDocument, RawDocumentBuf, Timestamp};

use super::Error;
use crate::block::{self, BlockRead, BlockWrite, stream};
use crate::oplog::{OpTime, Position};
use crate::tree;

/// Foreign BSON up to this many bytes stands inside a document of ours, anything larger in blocks
/// of its own, so that the progress of many ranges still fits one document.
const INLINE_BYTES_MAX: usize = 512;

/// A count as a BSON long; no count of documents or bytes comes near its limit.
pub fn count(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// An optime as `{ts, t}`.
pub fn optime(optime: OpTime) -> RawDocumentBuf {
    let mut out = RawDocumentBuf::new();
    out.append(cstr!("ts"), Timestamp::from(optime.ts));
    out.append(cstr!("t"), optime.term);
    out
}

/// A position as `{ts, t, wall}`.
pub fn position(position: Position) -> RawDocumentBuf {
    let mut out = optime(position.optime);
    out.append(cstr!("wall"), DateTime::from_millis(position.wall_ms));
    out
}

/// Bytes that name no block.
pub fn bytes(bytes: &[u8]) -> Binary {
    Binary { subtype: BinarySubtype::Generic, bytes: bytes.to_vec() }
}

/// A user's BSON document: as its bytes, or as the blocks that hold them.
pub fn foreign(
    blocks: &dyn BlockWrite,
    document: &RawDocument,
) -> Result<bson::RawBson, block::Error> {
    let raw = document.as_bytes();
    if raw.len() <= INLINE_BYTES_MAX {
        return Ok(bytes(raw).into());
    }
    let mut pieces = RawArrayBuf::new();
    for id in stream::write(blocks, raw)? {
        pieces.push(block::link(&id));
    }
    Ok(pieces.into())
}

/// Reads the fields of one document.
#[derive(Clone, Copy)]
pub struct Fields<'a> {
    /// What the document is, for messages.
    pub what: &'static str,
    /// The document.
    pub document: &'a RawDocument,
}

impl<'a> Fields<'a> {
    /// The error that a field is missing or of another form.
    pub fn malformed(&self, field: &'static str) -> Error {
        Error::Malformed { what: self.what, field }
    }

    /// A field, if it is there.
    pub fn optional(&self, field: &'static str) -> Option<RawBsonRef<'a>> {
        self.document.get(field).ok().flatten()
    }

    /// A field as `read` sees it.
    pub fn get<T>(
        &self,
        field: &'static str,
        read: impl FnOnce(RawBsonRef<'a>) -> Option<T>,
    ) -> Result<T, Error> {
        self.optional(field).and_then(read).ok_or_else(|| self.malformed(field))
    }

    /// An embedded document.
    pub fn document(&self, field: &'static str) -> Result<Fields<'a>, Error> {
        let document = self.get(field, |value| value.as_document())?;
        Ok(Fields { what: self.what, document })
    }

    /// An embedded document, if it is there.
    pub fn optional_document(&self, field: &'static str) -> Result<Option<Fields<'a>>, Error> {
        self.optional(field).map(|_| self.document(field)).transpose()
    }

    /// The documents of an array.
    pub fn documents(&self, field: &'static str) -> Result<Vec<Fields<'a>>, Error> {
        let array = self.get(field, |value| value.as_array())?;
        array
            .into_iter()
            .map(|value| {
                let value = value.map_err(|_| self.malformed(field))?;
                let document = value.as_document().ok_or_else(|| self.malformed(field))?;
                Ok(Fields { what: self.what, document })
            })
            .collect()
    }

    /// A string.
    pub fn text(&self, field: &'static str) -> Result<String, Error> {
        self.get(field, |value| value.as_str().map(str::to_owned))
    }

    /// The strings of an array.
    pub fn texts(&self, field: &'static str) -> Result<Vec<String>, Error> {
        let array = self.get(field, |value| value.as_array())?;
        let text = |value: Result<RawBsonRef<'_>, _>| value.ok()?.as_str().map(str::to_owned);
        let texts: Option<Vec<String>> = array.into_iter().map(text).collect();
        texts.ok_or_else(|| self.malformed(field))
    }

    /// A boolean.
    pub fn flag(&self, field: &'static str) -> Result<bool, Error> {
        self.get(field, |value| value.as_bool())
    }

    /// A count.
    pub fn count(&self, field: &'static str) -> Result<u64, Error> {
        self.get(field, |value| value.as_i64().and_then(|number| u64::try_from(number).ok()))
    }

    /// Milliseconds since the Unix epoch.
    pub fn millis(&self, field: &'static str) -> Result<i64, Error> {
        self.get(field, |value| value.as_datetime().map(DateTime::timestamp_millis))
    }

    /// A binary of fixed length.
    pub fn binary<const N: usize>(&self, field: &'static str) -> Result<[u8; N], Error> {
        self.get(field, |value| value.as_binary().and_then(|binary| binary.bytes.try_into().ok()))
    }

    /// What [`optime`] wrote, in this document itself.
    fn as_optime(&self) -> Result<OpTime, Error> {
        let ts = self.get("ts", |value| value.as_timestamp())?;
        let term = self.get("t", |value| value.as_i64())?;
        Ok(OpTime { ts: ts.into(), term })
    }

    /// What [`optime`] wrote.
    pub fn optime(&self, field: &'static str) -> Result<OpTime, Error> {
        self.document(field)?.as_optime()
    }

    /// What [`optime`] wrote, if it is there.
    pub fn optional_optime(&self, field: &'static str) -> Result<Option<OpTime>, Error> {
        self.optional(field).map(|_| self.optime(field)).transpose()
    }

    /// What [`position`] wrote.
    pub fn position(&self, field: &'static str) -> Result<Position, Error> {
        let inner = self.document(field)?;
        Ok(Position { optime: inner.as_optime()?, wall_ms: inner.millis("wall")? })
    }

    /// What [`position`] wrote, if it is there.
    pub fn optional_position(&self, field: &'static str) -> Result<Option<Position>, Error> {
        self.optional(field).map(|_| self.position(field)).transpose()
    }

    /// The root of a tree.
    pub fn tree(&self, field: &'static str) -> Result<tree::Root, Error> {
        Ok(tree::Root::from_bson(self.document(field)?.document)?)
    }

    /// What [`foreign`] wrote.
    pub fn foreign(
        &self,
        blocks: &dyn BlockRead,
        field: &'static str,
    ) -> Result<RawDocumentBuf, Error> {
        let raw = match self.optional(field) {
            Some(RawBsonRef::Binary(binary)) => binary.bytes.to_vec(),
            Some(RawBsonRef::Array(pieces)) => {
                let ids: Option<Vec<_>> =
                    pieces.into_iter().map(|value| value.ok().and_then(block::linked)).collect();
                stream::read(blocks, &ids.ok_or_else(|| self.malformed(field))?)?
            }
            _ => return Err(self.malformed(field)),
        };
        RawDocumentBuf::from_bytes(raw).map_err(|_| self.malformed(field))
    }
}
