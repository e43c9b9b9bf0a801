//! BSON as bytes: the elements of documents, without looking inside values.
//!
//! A server stores strings that are not UTF-8, any binary subtype and a field name twice, and a backup
//! must carry all of it as it is. So names are bytes here and values slices, each as long as its type
//! says. The keys of trees and the updates of the oplog are read this way; each has errors of its own.

use bson::{RawDocument, RawDocumentBuf};

/// The name of the field that names a document.
pub(crate) const ID: &[u8] = b"_id";
/// Bytes of the length that a document begins with.
const LENGTH_BYTES: usize = 4;

/// One element of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Element<'a> {
    /// Its BSON type.
    pub kind: u8,
    /// Its name, without the zero byte.
    pub name: &'a [u8],
    /// Its value.
    pub value: &'a [u8],
}

impl Element<'_> {
    /// A document with the value of this element under `name`, and nothing else.
    pub fn alone(&self, name: &[u8]) -> RawDocumentBuf {
        let length = LENGTH_BYTES + 1 + name.len() + 1 + self.value.len() + 1;
        let length_field = i32::try_from(length).expect("no longer than a document").to_le_bytes();
        let bytes = [&length_field[..], &[self.kind], name, &[0], self.value, &[0]].concat();
        RawDocumentBuf::from_bytes(bytes).expect("its length is that of its bytes")
    }
}

/// What is wrong with a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// It ends inside an element.
    CutOff,
    /// A length is negative, or not that of the document.
    Length,
    /// A value has a type that BSON does not have.
    Type,
}

/// The elements of a document or array, in order; none after a flaw.
#[derive(Debug, Clone, Default)]
pub(crate) struct Elements<'a> {
    rest: &'a [u8],
}

impl<'a> Elements<'a> {
    /// Reads `document`, which must be exactly one document.
    pub fn new(document: &'a [u8]) -> Result<Self, Flaw> {
        match document {
            [_, _, _, _, rest @ .., 0] if length_at(document, 0) == Ok(document.len()) => {
                Ok(Self { rest })
            }
            _ => Err(Flaw::Length),
        }
    }

    fn element(&mut self) -> Result<Element<'a>, Flaw> {
        let (&kind, rest) = self.rest.split_first().ok_or(Flaw::CutOff)?;
        let (name, rest) = cstring(rest)?;
        let (value, rest) = rest.split_at_checked(value_len(kind, rest)?).ok_or(Flaw::CutOff)?;
        self.rest = rest;
        Ok(Element { kind, name, value })
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<Element<'a>, Flaw>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let element = self.element();
        if element.is_err() {
            self.rest = &[];
        }
        Some(element)
    }
}

/// The first `_id` of a document; none if it has none.
pub(crate) fn id(document: &RawDocument) -> Result<Option<Element<'_>>, Flaw> {
    for element in Elements::new(document.as_bytes())? {
        let element = element?;
        if element.name == ID {
            return Ok(Some(element));
        }
    }
    Ok(None)
}

/// A document of nothing but the `_id` of another, empty if that has none.
pub(crate) fn only_id(document: &RawDocument) -> Result<RawDocumentBuf, Flaw> {
    Ok(match id(document)? {
        Some(id) => id.alone(ID),
        None => RawDocumentBuf::new(),
    })
}

/// A string up to its zero byte, and what follows.
pub(crate) fn cstring(bytes: &[u8]) -> Result<(&[u8], &[u8]), Flaw> {
    let end = bytes.iter().position(|byte| *byte == 0).ok_or(Flaw::CutOff)?;
    Ok((&bytes[..end], &bytes[end + 1..]))
}

/// The little-endian 32-bit length at an offset.
pub(crate) fn length_at(bytes: &[u8], offset: usize) -> Result<usize, Flaw> {
    let field = bytes.get(offset..).and_then(|rest| rest.first_chunk::<4>());
    let length = i32::from_le_bytes(*field.ok_or(Flaw::CutOff)?);
    usize::try_from(length).map_err(|_| Flaw::Length)
}

/// Bytes that a value of type `kind` takes at the start of `rest`, as far as its lengths say.
fn value_len(kind: u8, rest: &[u8]) -> Result<usize, Flaw> {
    Ok(match kind {
        0x06 | 0x0a | 0x7f | 0xff => 0,
        0x08 => 1,
        0x10 => 4,
        0x01 | 0x09 | 0x11 | 0x12 => 8,
        0x07 => 12,
        0x13 => 16,
        0x02 | 0x0d | 0x0e => 4 + length_at(rest, 0)?,
        0x03 | 0x04 | 0x0f => length_at(rest, 0)?,
        0x05 => 5 + length_at(rest, 0)?,
        0x0c => 16 + length_at(rest, 0)?,
        0x0b => {
            let (_, options) = cstring(rest)?;
            let (_, tail) = cstring(options)?;
            rest.len() - tail.len()
        }
        _ => return Err(Flaw::Type),
    })
}
