//! Names of positions and collections: [`Ts`], [`OpTime`], [`Position`], [`Uuid`].

use std::fmt;
use std::str::FromStr;

use bson::spec::BinarySubtype;
use bson::{Binary, RawBsonRef, Timestamp};

/// A cluster time. Wraps the server's timestamp with its order; prints as `secs,inc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ts {
    /// Seconds since the Unix epoch.
    pub secs: u32,
    /// Ordinal within the second.
    pub inc: u32,
}

impl Ts {
    /// The timestamp before all others; the server writes it for "none".
    pub const ZERO: Self = Self { secs: 0, inc: 0 };
    /// The timestamp after all others.
    pub const MAX: Self = Self { secs: u32::MAX, inc: u32::MAX };

    /// The lowest timestamp that an entry after one of this timestamp can have.
    #[must_use]
    pub fn next(self) -> Self {
        Self { inc: self.inc.saturating_add(1), ..self }
    }
}

impl From<Timestamp> for Ts {
    fn from(t: Timestamp) -> Self {
        Self { secs: t.time, inc: t.increment }
    }
}

impl From<Ts> for Timestamp {
    fn from(t: Ts) -> Self {
        Self { time: t.secs, increment: t.inc }
    }
}

impl fmt::Display for Ts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.secs, self.inc)
    }
}

/// A string that is not `secs,inc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a cluster time is SECS,INC: two decimal numbers of at most 32 bits")]
pub struct ParseTsError;

impl FromStr for Ts {
    type Err = ParseTsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (secs, inc) = text.split_once(',').ok_or(ParseTsError)?;
        Ok(Self { secs: decimal(secs)?, inc: decimal(inc)? })
    }
}

/// Digits only: `u32::from_str` alone would also take a sign.
fn decimal(text: &str) -> Result<u32, ParseTsError> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ParseTsError);
    }
    text.parse().map_err(|_| ParseTsError)
}

/// A position in the oplog. Prints as `secs,inc@term`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpTime {
    /// Cluster time: seconds and increment. The unique, strictly increasing key of an entry.
    pub ts: Ts,
    /// Election term; -1 where the server wrote none.
    pub term: i64,
}

impl OpTime {
    /// What the server writes for "no optime".
    pub const NULL: Self = Self { ts: Ts::ZERO, term: -1 };

    /// Whether this stands for "no optime".
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.ts == Ts::ZERO
    }
}

impl fmt::Display for OpTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.ts, self.term)
    }
}

/// Header of an entry, all that tailing needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Its optime.
    pub optime: OpTime,
    /// Its wall clock, milliseconds since the Unix epoch. An entry without one gets the seconds of
    /// its timestamp.
    pub wall_ms: i64,
}

/// A collection's UUID. Prints as hyphenated hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// The UUID a BSON value holds, if it is a binary of subtype 4 and 16 bytes.
    #[must_use]
    pub fn from_value(value: RawBsonRef<'_>) -> Option<Self> {
        match value {
            RawBsonRef::Binary(binary) if binary.subtype == BinarySubtype::Uuid => {
                binary.bytes.try_into().ok().map(Self)
            }
            _ => None,
        }
    }
}

impl From<Uuid> for Binary {
    fn from(uuid: Uuid) -> Self {
        Self { subtype: BinarySubtype::Uuid, bytes: uuid.0.to_vec() }
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// A string that is not a hyphenated UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a UUID is 32 hexadecimal digits as 8-4-4-4-12")]
pub struct ParseUuidError;

impl FromStr for Uuid {
    type Err = ParseUuidError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let groups: Vec<&str> = text.split('-').collect();
        if !groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12]) {
            return Err(ParseUuidError);
        }
        let digits = groups.concat();
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(ParseUuidError);
        }
        u128::from_str_radix(&digits, 16)
            .map(|number| Self(number.to_be_bytes()))
            .map_err(|_| ParseUuidError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ts_text() {
        let ts = Ts { secs: 1_795_328_497, inc: 20 };
        assert_eq!(ts.to_string(), "1795328497,20");
        assert_eq!("1795328497,20".parse(), Ok(ts));
        for bad in ["", "1", "1,", ",1", "1,2,3", "+1,2", "-1,2", "1, 2", "4294967296,0"] {
            assert_eq!(bad.parse::<Ts>(), Err(ParseTsError), "{bad}");
        }
    }

    #[test]
    fn uuid_text_and_bson() {
        let text = "00112233-4455-6677-8899-aabbccddeeff";
        let uuid: Uuid = text.parse().expect("well formed");
        assert_eq!(uuid.0[..4], [0, 0x11, 0x22, 0x33]);
        assert_eq!(uuid.to_string(), text);
        let document = bson::rawdoc! { "u": Binary::from(uuid), "x": 1 };
        let value = |name| document.get(name).expect("valid").expect("present");
        assert_eq!(Uuid::from_value(value("u")), Some(uuid));
        assert_eq!(Uuid::from_value(value("x")), None);
        for bad in ["", "00112233445566778899aabbccddeeff", "0011223-34455-6677-8899-aabbccddeeff"]
        {
            assert_eq!(bad.parse::<Uuid>(), Err(ParseUuidError), "{bad}");
        }
        assert!("0011223g-4455-6677-8899-aabbccddeeff".parse::<Uuid>().is_err());
        assert!("+0112233-4455-6677-8899-aabbccddeeff".parse::<Uuid>().is_err());
    }

    #[test]
    fn order_is_by_ts_then_term() {
        let at = |secs, inc, term| OpTime { ts: Ts { secs, inc }, term };
        assert!(at(1, 9, 5) < at(2, 0, 1));
        assert!(at(1, 1, 1) < at(1, 1, 2));
        assert!(OpTime::NULL.is_null() && OpTime::NULL < at(0, 1, -1));
    }
}
