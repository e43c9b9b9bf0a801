//! Which namespaces a job backs up: those that are kept at all, narrowed by the operator's filters.
//!
//! A namespace is decided by its name at each optime: a collection renamed into the filters is backed
//! up from then on, one renamed out of them is not. Two kinds go by their database alone, for others
//! depend on them: `system.views`, and temporary collections, which `$out` and others fill and then
//! rename. The buckets of a time series go by the name of the series.

use std::fmt;
use std::str::FromStr;

use bson::RawDocumentBuf;
use bson::raw::{RawArrayBuf, cstr};

use super::Error;
use super::fields::Fields;
use super::namespaces::{kept, split};

/// What the names of bucket collections begin with.
const BUCKETS: &str = "system.buckets.";
/// The collection of a database's views.
const VIEWS: &str = "system.views";
/// Filters of a job at most: they stand in every manifest.
pub const FILTERS_MAX: usize = 64;
/// Bytes of a filter: what a server allows a namespace.
pub const FILTER_BYTES_MAX: usize = 255;

/// A pattern of names: `*` stands for any characters, `?` for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
}

/// A text that is no pattern of namespaces.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a filter: give DB or DB.COLLECTION, in which * stands for any characters and ? \
     for one"
)]
pub struct ParsePatternError {
    text: String,
}

impl Pattern {
    /// The part for databases, and that for collections; none where all are meant.
    fn parts(&self) -> (&str, Option<&str>) {
        match self.text.split_once('.') {
            Some((db, collection)) => (db, Some(collection)),
            None => (&self.text, None),
        }
    }

    fn covers(&self, db: &str, collection: &str) -> bool {
        let (of_db, of_collection) = self.parts();
        glob(of_db, db) && of_collection.is_none_or(|pattern| glob(pattern, collection))
    }

    fn touches(&self, db: &str) -> bool {
        glob(self.parts().0, db)
    }

    fn covers_whole(&self, db: &str) -> bool {
        self.touches(db) && matches!(self.parts().1, None | Some("*"))
    }
}

impl FromStr for Pattern {
    type Err = ParsePatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let pattern = Self { text: text.to_owned() };
        let (db, collection) = pattern.parts();
        let whole = !db.is_empty() && collection.is_none_or(|name| !name.is_empty());
        if !whole || text.len() > FILTER_BYTES_MAX || text.contains(char::is_control) {
            return Err(ParsePatternError { text: pattern.text });
        }
        Ok(pattern)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Which namespaces a job backs up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scope {
    /// What is backed up; everything if empty.
    include: Vec<Pattern>,
    /// What of that is not.
    exclude: Vec<Pattern>,
}

impl Scope {
    /// Everything that is kept at all.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// What `include` covers (everything if it is empty) and `exclude` does not.
    ///
    /// # Errors
    /// [`TooManyFilters`].
    pub fn new(include: Vec<Pattern>, exclude: Vec<Pattern>) -> Result<Self, TooManyFilters> {
        let count = include.len() + exclude.len();
        if count > FILTERS_MAX {
            return Err(TooManyFilters { count });
        }
        let all = |pattern: &Pattern| matches!(pattern.text.as_str(), "*" | "*.*");
        let include = if include.iter().any(all) { Vec::new() } else { include };
        Ok(Self { include, exclude })
    }

    /// Whether nothing is filtered.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.include.is_empty() && self.exclude.is_empty()
    }

    /// The filters as texts: what is included, what is excluded.
    #[must_use]
    pub fn texts(&self) -> (Vec<String>, Vec<String>) {
        let texts =
            |patterns: &[Pattern]| patterns.iter().map(ToString::to_string).collect::<Vec<_>>();
        (texts(&self.include), texts(&self.exclude))
    }

    /// Whether a collection `db.name` is backed up.
    #[must_use]
    pub fn keeps(&self, ns: &str) -> bool {
        let (db, collection) = split(ns);
        if !kept(ns) {
            return false;
        }
        if collection == VIEWS {
            return self.keeps_of(db);
        }
        let collection = collection.strip_prefix(BUCKETS).unwrap_or(collection);
        let covered = |patterns: &[Pattern]| patterns.iter().any(|one| one.covers(db, collection));
        (self.include.is_empty() || covered(&self.include)) && !covered(&self.exclude)
    }

    /// Whether a temporary collection `db.name` is backed up: it may become another.
    #[must_use]
    pub fn keeps_temporary(&self, ns: &str) -> bool {
        kept(ns) && self.keeps_of(split(ns).0)
    }

    /// Whether something of a database may be backed up.
    fn keeps_of(&self, db: &str) -> bool {
        let included = self.include.is_empty() || self.include.iter().any(|one| one.touches(db));
        included && !self.exclude.iter().any(|one| one.covers_whole(db))
    }

    /// As a BSON value for our own documents.
    #[must_use]
    pub fn to_bson(&self) -> RawDocumentBuf {
        let array = |patterns: &[Pattern]| {
            let mut array = RawArrayBuf::new();
            patterns.iter().for_each(|pattern| array.push(pattern.text.as_str()));
            array
        };
        let mut out = RawDocumentBuf::new();
        out.append(cstr!("include"), array(&self.include));
        out.append(cstr!("exclude"), array(&self.exclude));
        out
    }

    /// Reads [`Scope::to_bson`] back.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub(crate) fn from_bson(read: Fields<'_>) -> Result<Self, Error> {
        let patterns = |field| {
            let texts = read.texts(field)?.into_iter();
            texts
                .map(|text| text.parse().map_err(|_| read.malformed(field)))
                .collect::<Result<Vec<Pattern>, Error>>()
        };
        Ok(Self { include: patterns("include")?, exclude: patterns("exclude")? })
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (include, exclude) = self.texts();
        let include = if include.is_empty() { "everything".to_owned() } else { include.join(", ") };
        if exclude.is_empty() {
            return f.write_str(&include);
        }
        write!(f, "{include} without {}", exclude.join(", "))
    }
}

/// More filters than a job may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{count} filters are more than the {FILTERS_MAX} that a job may have: use * in them")]
pub struct TooManyFilters {
    count: usize,
}

/// Whether a name is of a pattern. Goes back to the last star only, so the time is bounded by the
/// product of the lengths.
fn glob(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut star) = ((0, 0), None);
    loop {
        match (pattern.get(at.0), name.get(at.1)) {
            (None, None) => return true,
            (Some('*'), _) => {
                star = Some(at);
                at.0 += 1;
            }
            (Some('?'), Some(_)) => at = (at.0 + 1, at.1 + 1),
            (Some(wanted), Some(found)) if wanted == found => at = (at.0 + 1, at.1 + 1),
            _ => match star {
                // The star takes one more character.
                Some((of, taken)) if taken < name.len() => {
                    star = Some((of, taken + 1));
                    at = (of + 1, taken + 1);
                }
                _ => return false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(include: &[&str], exclude: &[&str]) -> Scope {
        let patterns = |texts: &[&str]| {
            texts.iter().map(|text| text.parse().expect("valid")).collect::<Vec<Pattern>>()
        };
        Scope::new(patterns(include), patterns(exclude)).expect("few")
    }

    #[test]
    fn globs() {
        for (pattern, name, expected) in [
            ("", "", true),
            ("a", "a", true),
            ("a", "b", false),
            ("*", "", true),
            ("*", "any.thing", true),
            ("a*c", "abbbc", true),
            ("a*c", "abbb", false),
            ("*ab*ab", "xababyab", true),
            ("a?c", "a\u{fc}c", true),
            ("a?", "a", false),
            ("**x", "yyx", true),
        ] {
            assert_eq!(glob(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn namespaces_go_by_name_and_what_others_depend_on_by_database() {
        let some = scope(&["shop.order*", "crm"], &["shop.orders_old", "*.tmp?"]);
        for ns in ["shop.orders", "shop.system.buckets.order_stats", "crm.x", "shop.system.views"] {
            assert!(some.keeps(ns), "{ns}");
        }
        for ns in ["shop.orders_old", "shop.items", "crm.tmp1", "other.system.views", "admin.x"] {
            assert!(!some.keeps(ns), "{ns}");
        }
        assert!(some.keeps_temporary("shop.tmp.agg_out.1") && !some.keeps("shop.tmp.agg_out.1"));
        assert!(!some.keeps_temporary("other.tmp.agg_out.1"));
        let most = scope(&[], &["logs", "shop.cache"]);
        assert!(most.keeps("shop.x") && most.keeps("admin.system.users") && !most.keeps("logs.x"));
        assert!(!most.keeps("local.oplog.rs") && !most.keeps_temporary("logs.tmp"));
        assert!(scope(&["*"], &[]).is_all() && scope(&["a", "*.*"], &[]).is_all());
        for wrong in ["", ".x", "db.", "a\nb"] {
            assert!(wrong.parse::<Pattern>().is_err(), "{wrong:?}");
        }
    }
}
