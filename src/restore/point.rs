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
        if text.contains(',') {
            let exact = text.parse().map(Self::Exact);
            return exact.map_err(|_| ParseAtError::NotAnOptime { text: text.to_owned() });
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
            Self::Exact(ts) => write!(f, "{ts}"),
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

/// Most snapshot names that a message lists.
const NAMED_SNAPSHOTS: usize = 3;

/// The restorable points nearest to one that is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Nearest {
    /// The newest at or before it.
    pub below: Option<Ts>,
    /// The oldest after it.
    pub above: Option<Ts>,
}

impl fmt::Display for Nearest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let point = |ts: Ts| format!("{ts} ({})", rfc3339(ts.secs));
        match (self.below, self.above) {
            (None, None) => f.write_str("there is no restore point"),
            (Some(below), None) => write!(f, "the newest point is {}", point(below)),
            (None, Some(above)) => write!(f, "the oldest point is {}", point(above)),
            (Some(below), Some(above)) => {
                write!(f, "the nearest points are {} and {}", point(below), point(above))
            }
        }
    }
}

/// Snapshot names like one that there is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NearestSnapshots(Vec<String>);

impl NearestSnapshots {
    /// Those next to where `id` would stand: names sort by time.
    pub(super) fn to<'a>(id: &str, all: impl Iterator<Item = &'a str>) -> Self {
        let mut names: Vec<&str> = all.collect();
        names.sort_unstable();
        let place = names.partition_point(|name| *name < id);
        let from = place.saturating_sub(NAMED_SNAPSHOTS / 2 + 1);
        Self(names.into_iter().skip(from).take(NAMED_SNAPSHOTS).map(str::to_owned).collect())
    }
}

impl fmt::Display for NearestSnapshots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, "; nearest are {}", self.0.join(", ")) }
    }
}
