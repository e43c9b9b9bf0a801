//! Keys: an order-preserving, injective encoding of the value of an `_id`.
//!
//! Two `_id`s have the same key exactly if the server's unique index holds them equal under simple
//! collation, and keys compare, byte by byte, as BSON comparison orders the values. The document
//! keeps its own bytes; a key is derived and stands only in separators and in memory.
//!
//! Keys are read from raw bytes and not through a BSON library, because a server stores strings
//! that are not UTF-8 and a backup must not stumble over one. The encoding is defined in
//! `format-spec/04-trees.md`.

mod number;

use bson::{RawBsonRef, RawDocument, RawDocumentBuf};

use super::{Error, MAX_NESTING};
use crate::elements::{self, Elements, Flaw, cstring, length_at};

/// Order-preserving encoding of the value of an `_id`: equal for `_id`s that the server's unique
/// index holds equal under simple collation, ordered as BSON comparison orders them.
///
/// At most three times the value's BSON length plus 16 bytes long.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Vec<u8>);

impl Key {
    /// The key of a document: that of its first `_id` field.
    ///
    /// # Errors
    /// [`Error::NoId`], [`Error::InvalidBson`], [`Error::NestedTooDeep`].
    pub fn of_document(document: &RawDocument) -> Result<Self, Error> {
        let mut bytes = Vec::with_capacity(TYPICAL_KEY_BYTES);
        encode_id(document, &mut bytes)?;
        Ok(Self(bytes))
    }

    /// The key of an `_id` value.
    ///
    /// # Errors
    /// [`Error::InvalidBson`], [`Error::NestedTooDeep`].
    pub fn of_value(value: RawBsonRef<'_>) -> Result<Self, Error> {
        let mut document = RawDocumentBuf::new();
        document.append(bson::raw::cstr!("_id"), value);
        Self::of_document(&document)
    }

    /// A key from bytes that [`Key::as_bytes`] gave, for callers that keep keys in files.
    #[must_use]
    pub const fn from_encoded(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The encoded bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The encoded bytes, owned.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Capacity to start a key with: holds that of an ObjectId, a number or a UUID.
const TYPICAL_KEY_BYTES: usize = 32;

/// Ends an object, an array and a string; below every type byte.
const END: u8 = 0x00;
/// Follows a zero byte inside a string. Above every byte that may follow [`END`].
const ESCAPE: u8 = 0xff;

/// The type byte of a BSON type: its place in the canonical order.
fn type_byte(kind: u8) -> Option<u8> {
    Some(match kind {
        0xff => 1,                      // MinKey
        0x06 => 2,                      // Undefined
        0x0a => 3,                      // Null
        0x01 | 0x10 | 0x12 | 0x13 => 4, // numbers
        0x02 | 0x0e => 5,               // String, Symbol
        0x03 => 6,                      // Object
        0x04 => 7,                      // Array
        0x05 => 8,                      // BinData
        0x07 => 9,                      // ObjectId
        0x08 => 10,                     // Bool
        0x09 => 11,                     // Date
        0x11 => 12,                     // Timestamp
        0x0b => 13,                     // Regex
        0x0c => 14,                     // DBPointer
        0x0d => 15,                     // Code
        0x0f => 16,                     // CodeWScope
        0x7f => 17,                     // MaxKey
        _ => return None,
    })
}

/// Appends the key of the first `_id` of a document.
pub(super) fn encode_id(document: &RawDocument, out: &mut Vec<u8>) -> Result<(), Error> {
    let id = elements::id(document)?.ok_or(Error::NoId)?;
    out.push(type_byte(id.kind).ok_or(UNKNOWN_TYPE)?);
    encode_value(id.kind, id.value, 0, out)
}

const UNKNOWN_TYPE: Error = Error::InvalidBson { what: "unknown element type" };
const TOO_SHORT: Error = Error::InvalidBson { what: "value shorter than its type" };

impl From<Flaw> for Error {
    fn from(flaw: Flaw) -> Self {
        match flaw {
            Flaw::CutOff => Self::InvalidBson { what: "document ends inside an element" },
            Flaw::Length => Self::InvalidBson { what: "a length is wrong" },
            Flaw::Type => UNKNOWN_TYPE,
        }
    }
}

/// Appends a value without its type byte. `value` has the length that its type says.
fn encode_value(kind: u8, value: &[u8], depth: usize, out: &mut Vec<u8>) -> Result<(), Error> {
    match kind {
        0xff | 0x06 | 0x0a | 0x7f => {}
        0x01 => number::encode_double(f64::from_le_bytes(fixed(value)?), out),
        0x10 => number::encode_integer(i64::from(i32::from_le_bytes(fixed(value)?)), out),
        0x12 => number::encode_integer(i64::from_le_bytes(fixed(value)?), out),
        0x13 => number::encode_decimal(u128::from_le_bytes(fixed(value)?), out),
        0x02 | 0x0d | 0x0e => encode_string(string_bytes(value)?, out),
        0x03 | 0x04 => encode_container(value, kind == 0x03, depth, out)?,
        0x05 => encode_binary(value, out)?,
        0x07 => out.extend_from_slice(value),
        0x08 => out.push(u8::from(value != [0])),
        0x09 => {
            let millis = i64::from_le_bytes(fixed(value)?);
            out.extend_from_slice(&(millis.cast_unsigned() ^ (1 << 63)).to_be_bytes());
        }
        0x11 => out.extend_from_slice(&u64::from_le_bytes(fixed(value)?).to_be_bytes()),
        0x0b => encode_regex(value, out)?,
        0x0c => {
            let len = u32::try_from(value.len()).map_err(|_| TOO_SHORT)?;
            out.extend_from_slice(&len.to_be_bytes());
            out.extend_from_slice(value);
        }
        0x0f => {
            let code_len = 4 + length_at(value, 4)?;
            let code = value.get(4..4 + code_len).ok_or(TOO_SHORT)?;
            encode_string(string_bytes(code)?, out);
            encode_container(value.get(4 + code_len..).ok_or(TOO_SHORT)?, true, depth, out)?;
        }
        _ => return Err(UNKNOWN_TYPE),
    }
    Ok(())
}

fn fixed<const N: usize>(value: &[u8]) -> Result<[u8; N], Error> {
    value.try_into().map_err(|_| TOO_SHORT)
}

/// The content of a string value, which may hold zero bytes.
fn string_bytes(value: &[u8]) -> Result<&[u8], Error> {
    match value {
        [_, _, _, _, content @ .., 0] => Ok(content),
        _ => Err(Error::InvalidBson { what: "string without its end" }),
    }
}

fn encode_string(string: &[u8], out: &mut Vec<u8>) {
    let mut pieces = string.split(|byte| *byte == 0);
    out.extend_from_slice(pieces.next().unwrap_or_default());
    for piece in pieces {
        out.extend_from_slice(&[0, ESCAPE]);
        out.extend_from_slice(piece);
    }
    out.push(END);
}

/// Length, then subtype, then bytes. The length of the old subtype 2 counts its inner length, as
/// the server's comparison does.
fn encode_binary(value: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let (len, rest) = value.split_first_chunk::<4>().ok_or(TOO_SHORT)?;
    out.extend_from_slice(&u32::from_le_bytes(*len).to_be_bytes());
    out.extend_from_slice(rest);
    Ok(())
}

fn encode_regex(value: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let (pattern, rest) = cstring(value)?;
    let (options, _) = cstring(rest)?;
    for string in [pattern, options] {
        out.extend_from_slice(string);
        out.push(END);
    }
    Ok(())
}

/// Each element: type, then (in an object) name, then value, as the server compares them.
fn encode_container(
    document: &[u8],
    named: bool,
    depth: usize,
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    if depth >= MAX_NESTING {
        return Err(Error::NestedTooDeep);
    }
    for element in Elements::new(document)? {
        let element = element?;
        out.push(type_byte(element.kind).ok_or(UNKNOWN_TYPE)?);
        if named {
            out.extend_from_slice(element.name);
            out.push(END);
        }
        encode_value(element.kind, element.value, depth + 1, out)?;
    }
    out.push(END);
    Ok(())
}

#[cfg(test)]
mod tests;
