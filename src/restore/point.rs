//! Restore points: what a user may ask for, and which snapshot and slices give it.

use std::fmt;
use std::str::FromStr;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::oplog::Ts;

/// The point in time a restore is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum At {
    /// The newest point that is restorable.
    Latest,
    /// A snapshot, by its id.
    Snapshot(String),
    /// A whole second since the Unix epoch: everything stamped in it belongs to the point.
    Time(u32),
    /// An exact optime; the entry that carries it belongs to the point.
    Exact(Ts),
}

/// Why a text is not a point in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseAtError {
    /// Nothing was given.
    #[error("a restore point is empty: give latest, a snapshot id, an RFC 3339 time or SECS,INC")]
    Empty,
    /// A time of day without its zone means a different second for every reader.
    #[error("the time {text} names no zone: end it with Z or an offset such as +02:00")]
    NoZone {
        /// What was given.
        text: String,
    },
    /// Optimes have no fractions of a second, so a fraction would be rounded in silence.
    #[error("the time {text} has a fraction of a second: give a whole second, or SECS,INC")]
    Fraction {
        /// What was given.
        text: String,
    },
    /// Looks like a time but is none.
    #[error("the time {text} is not RFC 3339, as in 2026-05-04T12:00:00Z")]
    NotATime {
        /// What was given.
        text: String,
        /// What the parser found.
        #[source]
        source: time::error::Parse,
    },
    /// Outside the seconds an optime can carry.
    #[error("the time {text} is outside 1970..2106, the range of optimes")]
    OutOfRange {
        /// What was given.
        text: String,
    },
    /// Looks like an optime but is none.
    #[error("the optime {text} is not SECS,INC, two numbers below 2^32")]
    NotAnOptime {
        /// What was given.
        text: String,
    },
}

impl FromStr for At {
    type Err = ParseAtError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(ParseAtError::Empty);
        }
        if text == "latest" {
            return Ok(Self::Latest);
        }
        if let Some((secs, inc)) = text.split_once(',') {
            let number = |digits: &str| {
                let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
                digits.parse::<u32>().ok().filter(|_| plain)
            };
            let (Some(secs), Some(inc)) = (number(secs), number(inc)) else {
                return Err(ParseAtError::NotAnOptime { text: text.to_owned() });
            };
            return Ok(Self::Exact(Ts { secs, inc }));
        }
        if looks_like_a_time(text) {
            return parse_time(text);
        }
        Ok(Self::Snapshot(text.to_owned()))
    }
}

/// `2026-05-04` and a `T`, `t` or blank: the part every time has, zone or not.
fn looks_like_a_time(text: &str) -> bool {
    let date = b"dddd-dd-dd";
    let bytes = text.as_bytes();
    bytes.len() >= date.len()
        && bytes.iter().zip(date).all(|(byte, form)| match form {
            b'd' => byte.is_ascii_digit(),
            _ => byte == form,
        })
        && bytes.get(date.len()).is_none_or(|byte| matches!(byte, b'T' | b't' | b' '))
}

fn parse_time(text: &str) -> Result<At, ParseAtError> {
    let text = text.to_owned();
    let zoned = text.ends_with(['Z', 'z'])
        || text.get(10..).is_some_and(|clock| clock.contains(['+', '-']));
    if !zoned {
        return Err(ParseAtError::NoZone { text });
    }
    if text.contains('.') {
        return Err(ParseAtError::Fraction { text });
    }
    match OffsetDateTime::parse(&text, &Rfc3339) {
        Ok(moment) => match u32::try_from(moment.unix_timestamp()) {
            Ok(secs) => Ok(At::Time(secs)),
            Err(_) => Err(ParseAtError::OutOfRange { text }),
        },
        Err(source) => Err(ParseAtError::NotATime { text, source }),
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::Snapshot(id) => f.write_str(id),
            Self::Time(secs) => f.write_str(&rfc3339(*secs)),
            Self::Exact(ts) => write!(f, "{},{}", ts.secs, ts.inc),
        }
    }
}

/// A second since the Unix epoch as RFC 3339 in UTC.
#[must_use]
pub fn rfc3339(secs: u32) -> String {
    OffsetDateTime::from_unix_timestamp(i64::from(secs))
        .ok()
        .and_then(|moment| moment.format(&Rfc3339).ok())
        .unwrap_or_else(|| secs.to_string())
}
