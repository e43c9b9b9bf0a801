//! BSON as bytes: the elements of updates, read and written without looking inside values.
//!
//! Updates must carry every byte they do not touch as it is: duplicate names, any binary subtype,
//! strings that are not UTF-8. So names are bytes here and values stay slices.

use bson::RawDocument;

use super::{Ts, UpdateError, Uuid};
use crate::elements::{self, Flaw};

/// Nesting that a document or update may have. Servers stop at 200 levels (`maxBSONDepth`'s
/// default plus what internal commands add); the rest is slack.
pub(super) const MAX_DEPTH: usize = 256;
/// The largest result. A server's own builder stops here, too: while a scan is not caught up, a
/// document may for a moment be larger than the 16 MiB that are left of it in the end.
pub(super) const MAX_RESULT_BYTES: usize = 64 << 20;

/// Type bytes that updates look at.
pub(super) mod kind {
    pub(crate) const DOUBLE: u8 = 0x01;
    pub(crate) const STRING: u8 = 0x02;
    pub(crate) const DOCUMENT: u8 = 0x03;
    pub(crate) const ARRAY: u8 = 0x04;
    pub(crate) const BINARY: u8 = 0x05;
    pub(crate) const BOOL: u8 = 0x08;
    pub(crate) const DATETIME: u8 = 0x09;
    pub(crate) const NULL: u8 = 0x0a;
    pub(crate) const INT32: u8 = 0x10;
    pub(crate) const TIMESTAMP: u8 = 0x11;
    pub(crate) const INT64: u8 = 0x12;
}

/// Binary subtype of a UUID.
const UUID_SUBTYPE: u8 = 4;

/// A type byte and the bytes of the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Value<'a> {
    pub(super) kind: u8,
    pub(super) bytes: &'a [u8],
}

impl<'a> Value<'a> {
    pub(super) const NULL: Self = Value { kind: kind::NULL, bytes: &[] };

    fn fixed<const N: usize>(self, kind: u8) -> Option<[u8; N]> {
        if self.kind == kind { self.bytes.try_into().ok() } else { None }
    }

    /// A string that is UTF-8.
    pub(super) fn as_str(self) -> Option<&'a str> {
        match (self.kind, self.bytes) {
            (kind::STRING, [_, _, _, _, string @ .., 0]) => std::str::from_utf8(string).ok(),
            _ => None,
        }
    }

    /// A document whose length is right.
    pub(super) fn as_document(self) -> Option<&'a RawDocument> {
        let document = if self.kind == kind::DOCUMENT { Some(self.bytes) } else { None };
        document.and_then(|bytes| RawDocument::from_bytes(bytes).ok())
    }

    /// A binary of subtype 4 and 16 bytes.
    pub(super) fn as_uuid(self) -> Option<Uuid> {
        match (self.kind, self.bytes) {
            (kind::BINARY, [16, 0, 0, 0, UUID_SUBTYPE, uuid @ ..]) => {
                uuid.try_into().ok().map(Uuid)
            }
            _ => None,
        }
    }

    /// A timestamp.
    pub(super) fn as_timestamp(self) -> Option<Ts> {
        self.fixed(kind::TIMESTAMP).map(|bytes| {
            let number = u64::from_le_bytes(bytes);
            Ts { secs: (number >> 32) as u32, inc: number as u32 }
        })
    }

    /// A datetime in milliseconds.
    pub(super) fn as_millis(self) -> Option<i64> {
        self.fixed(kind::DATETIME).map(i64::from_le_bytes)
    }

    /// A boolean, or a number other than zero: commands were once written with either.
    pub(super) fn is_truthy(self) -> bool {
        match self.kind {
            kind::BOOL => self.bytes == [1],
            kind::DOUBLE => {
                self.fixed(kind::DOUBLE).is_some_and(|bytes| f64::from_le_bytes(bytes) != 0.0)
            }
            _ => self.as_integer().is_some_and(|number| number != 0),
        }
    }

    /// The value as a whole number, if it is an int or a long.
    pub(super) fn as_integer(self) -> Option<i64> {
        match self.kind {
            kind::INT32 => self.bytes.try_into().ok().map(i32::from_le_bytes).map(i64::from),
            kind::INT64 => self.bytes.try_into().ok().map(i64::from_le_bytes),
            _ => None,
        }
    }
}

/// One element of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Element<'a> {
    pub(super) name: &'a [u8],
    pub(super) value: Value<'a>,
}

const BAD_LENGTH: UpdateError = UpdateError::Malformed { what: "a length is wrong" };

impl From<Flaw> for UpdateError {
    fn from(flaw: Flaw) -> Self {
        match flaw {
            Flaw::CutOff => Self::Malformed { what: "a value is cut off" },
            Flaw::Length => BAD_LENGTH,
            Flaw::Type => Self::Malformed { what: "a value has an unknown type" },
        }
    }
}

/// The elements of a document or array, in order; none after an error.
#[derive(Debug, Clone)]
pub(super) struct Elements<'a> {
    all: elements::Elements<'a>,
}

impl<'a> Elements<'a> {
    /// Reads `document`, which must be exactly one document.
    pub(super) fn new(document: &'a [u8]) -> Result<Self, UpdateError> {
        Ok(Self { all: elements::Elements::new(document)? })
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<Element<'a>, UpdateError>;

    fn next(&mut self) -> Option<Self::Item> {
        let elements::Element { kind, name, value } = match self.all.next()? {
            Ok(element) => element,
            Err(flaw) => return Some(Err(flaw.into())),
        };
        if value.len() < least_len(kind) {
            self.all = elements::Elements::default();
            return Some(Err(BAD_LENGTH));
        }
        Some(Ok(Element { name, value: Value { kind, bytes: value } }))
    }
}

/// Bytes that a value of type `kind` with lengths inside takes at least.
fn least_len(kind: u8) -> usize {
    match kind {
        0x02 | 0x03 | 0x04 | 0x0d | 0x0e => 5,
        0x0f => 14,
        0x0c => 17,
        _ => 0,
    }
}

/// Appends elements to a document under construction, nested ones in place.
#[derive(Debug, Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
}

/// Where a document under construction starts.
#[must_use]
pub(super) struct Open(usize);

impl Writer {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes) }
    }

    /// Starts the outermost document.
    pub(super) fn open(&mut self) -> Open {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        Open(start)
    }

    /// Starts a document (or array, by `kind`) as the value of `name`.
    pub(super) fn open_field(&mut self, kind: u8, name: &[u8]) -> Open {
        self.name(kind, name);
        self.open()
    }

    /// Ends what was opened last.
    pub(super) fn close(&mut self, open: Open) -> Result<(), UpdateError> {
        self.bytes.push(0);
        self.check()?;
        let len = i32::try_from(self.bytes.len() - open.0).expect("bounded by MAX_RESULT_BYTES");
        self.bytes[open.0..open.0 + 4].copy_from_slice(&len.to_le_bytes());
        Ok(())
    }

    /// Appends a field.
    pub(super) fn append(&mut self, name: &[u8], value: Value<'_>) -> Result<(), UpdateError> {
        self.name(value.kind, name);
        self.bytes.extend_from_slice(value.bytes);
        self.check()
    }

    fn name(&mut self, kind: u8, name: &[u8]) {
        self.bytes.push(kind);
        self.bytes.extend_from_slice(name);
        self.bytes.push(0);
    }

    fn check(&self) -> Result<(), UpdateError> {
        if self.bytes.len() > MAX_RESULT_BYTES {
            return Err(UpdateError::TooLarge { limit_bytes: MAX_RESULT_BYTES });
        }
        Ok(())
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Name of an array element.
pub(super) struct IndexName {
    digits: [u8; Self::LEN],
    start: usize,
}

impl IndexName {
    /// Digits of the largest `usize`.
    const LEN: usize = 20;

    pub(super) fn new(mut index: usize) -> Self {
        let mut digits = [b'0'; Self::LEN];
        let mut start = Self::LEN;
        loop {
            start -= 1;
            digits[start] += (index % 10) as u8;
            index /= 10;
            if index == 0 {
                return Self { digits, start };
            }
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.digits[self.start..]
    }
}

/// The next level of nesting.
pub(super) fn deeper(depth: usize) -> Result<usize, UpdateError> {
    if depth >= MAX_DEPTH {
        return Err(UpdateError::TooDeep { limit: MAX_DEPTH });
    }
    Ok(depth + 1)
}

#[cfg(test)]
mod tests {
    use bson::oid::ObjectId;
    use bson::raw::cstr;
    use bson::spec::BinarySubtype;
    use bson::{Bson, DbPointer, Decimal128, JavaScriptCodeWithScope, Regex, Timestamp, rawdoc};

    use super::*;

    #[test]
    fn every_type_is_measured() {
        let mut document = bson::doc! {
            "double": 1.5, "string": "x\0y", "document": {"a": [1, 2]}, "array": ["a", {}],
            "binary": Bson::Binary(bson::Binary { subtype: BinarySubtype::Column, bytes: vec![1] }),
            "old": Bson::Binary(bson::Binary { subtype: BinarySubtype::BinaryOld, bytes: vec![1] }),
            "undefined": Bson::Undefined, "oid": ObjectId::from_bytes([7; 12]), "bool": true,
            "date": bson::DateTime::from_millis(5), "null": Bson::Null,
            "regex": Regex { pattern: cstr!("a.b").into(), options: cstr!("ix").into() },
            "code": Bson::JavaScriptCode("f()".into()), "symbol": Bson::Symbol("s".into()),
            "scope": JavaScriptCodeWithScope { code: "g()".into(), scope: bson::doc! {"x": 1} },
            "int": 1, "ts": Timestamp { time: 1, increment: 2 }, "long": 1_i64,
            "decimal": Decimal128::from_bytes([1; 16]), "min": Bson::MinKey, "max": Bson::MaxKey,
        };
        let pointer: DbPointer = serde_json::from_str(
            r#"{"$dbPointer":{"$ref":"c","$id":{"$oid":"070707070707070707070707"}}}"#,
        )
        .expect("extended JSON");
        document.insert("pointer", Bson::DbPointer(pointer));
        let document = bson::RawDocumentBuf::try_from(&document).expect("encodes");
        let mut writer = Writer::default();
        let open = writer.open();
        let mut names = 0;
        for element in Elements::new(document.as_bytes()).expect("whole") {
            let element = element.expect("valid");
            writer.append(element.name, element.value).expect("small");
            names += 1;
        }
        writer.close(open).expect("small");
        assert_eq!(names, 22);
        assert_eq!(writer.into_bytes(), document.as_bytes());
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        let document = rawdoc! { "s": "text", "d": {"a": [1, 2_i64]}, "b": true, "x": 1.5 };
        let bytes = document.as_bytes();
        for len in 0..bytes.len() {
            assert!(Elements::new(&bytes[..len]).is_err());
        }
        for at in 0..bytes.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut damaged = bytes.to_vec();
                damaged[at] ^= flip;
                if let Ok(elements) = Elements::new(&damaged) {
                    assert!(elements.count() <= bytes.len());
                }
            }
        }
    }

    #[test]
    fn index_names() {
        for index in [0, 1, 9, 10, 99, 100, 1_500_000, usize::MAX] {
            assert_eq!(IndexName::new(index).as_bytes(), index.to_string().as_bytes());
        }
    }
}
