//! The elements of raw BSON, without looking at what strings hold.

use crate::tree::Error;

/// One element of a document.
pub(super) struct Element<'a> {
    /// Its BSON type.
    pub kind: u8,
    /// Its name, without the zero byte.
    pub name: &'a [u8],
    /// Its value, as long as its type says.
    pub value: &'a [u8],
}

/// The elements of a document, in order.
pub(super) struct Elements<'a> {
    rest: &'a [u8],
}

const SHORT: Error = Error::InvalidBson { what: "document ends inside an element" };

impl<'a> Elements<'a> {
    /// Over what [`body`] gave.
    pub fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    fn read(&mut self) -> Result<Element<'a>, Error> {
        let (kind, rest) = self.rest.split_first().ok_or(SHORT)?;
        let (name, rest) = cstring(rest)?;
        let len = value_len(*kind, rest)?;
        let (value, rest) = rest.split_at_checked(len).ok_or(SHORT)?;
        self.rest = rest;
        Ok(Element { kind: *kind, name, value })
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<Element<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let element = self.read();
        if element.is_err() {
            self.rest = &[];
        }
        Some(element)
    }
}

/// What stands between a document's length and its final zero.
pub(super) fn body(document: &[u8]) -> Result<&[u8], Error> {
    let len = i32_at(document, 0)?;
    if len != document.len() || len < 5 || document[len - 1] != 0 {
        return Err(Error::InvalidBson { what: "document length or end" });
    }
    Ok(&document[4..len - 1])
}

/// A string up to its zero byte, and what follows.
pub(super) fn cstring(bytes: &[u8]) -> Result<(&[u8], &[u8]), Error> {
    let end = bytes.iter().position(|byte| *byte == 0).ok_or(SHORT)?;
    Ok((&bytes[..end], &bytes[end + 1..]))
}

/// The content of a string value, which may hold zero bytes.
pub(super) fn string_bytes(value: &[u8]) -> Result<&[u8], Error> {
    match value {
        [_, _, _, _, content @ .., 0] => Ok(content),
        _ => Err(Error::InvalidBson { what: "string without its end" }),
    }
}

/// The little-endian, non-negative 32-bit length at an offset.
pub(super) fn i32_at(bytes: &[u8], offset: usize) -> Result<usize, Error> {
    let field = bytes.get(offset..).and_then(|rest| rest.first_chunk::<4>()).ok_or(SHORT)?;
    usize::try_from(i32::from_le_bytes(*field))
        .map_err(|_| Error::InvalidBson { what: "negative length" })
}

fn value_len(kind: u8, rest: &[u8]) -> Result<usize, Error> {
    Ok(match kind {
        0x06 | 0x0a | 0x7f | 0xff => 0,
        0x08 => 1,
        0x10 => 4,
        0x01 | 0x09 | 0x11 | 0x12 => 8,
        0x07 => 12,
        0x13 => 16,
        0x02 | 0x0d | 0x0e => 4 + i32_at(rest, 0)?,
        0x03 | 0x04 | 0x0f => i32_at(rest, 0)?,
        0x05 => 5 + i32_at(rest, 0)?,
        0x0c => 16 + i32_at(rest, 0)?,
        0x0b => {
            let (_, options) = cstring(rest)?;
            let (_, tail) = cstring(options)?;
            rest.len() - tail.len()
        }
        _ => return Err(Error::InvalidBson { what: "unknown element type" }),
    })
}
