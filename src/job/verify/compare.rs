//! Compares a collection of the backup with that of the source.

use std::collections::BTreeMap;

use bson::raw::RawBsonRef;
use bson::{RawDocument, rawdoc};

use super::report::{Finding, Kind, Report};
use crate::block::BlockWrite;
use crate::head::Collection;
use crate::head::content_root::{self, IndexDifference};
use crate::job::Error;
use crate::job::scan::merge::{self, Sorter};
use crate::restore::{Cancel, extjson};
use crate::tree::{Cursor, Difference, Order, Root, Shape, diff};

/// Bytes of the longest `_id` shown whole. A longer one is cut, and ends in three dots.
const ID_BYTES_MAX: usize = 4 << 10;
/// Bytes of options shown.
const OPTIONS_BYTES_MAX: usize = 4 << 10;
/// Fields of a document that are named, at most.
const FIELDS_NAMED_MAX: usize = 16;
/// Bytes of documents sorted in memory at a time, as a scan does it.
const SORTED_BYTES: u64 = 32 << 20;
/// What may be behind another order of the same documents.
const REORDERED: &str = "members of a set can differ so: a primary may store concurrent inserts in another \
                         order than it logs them";
/// Differences between two looks at the request to stop.
const DIFFERENCES_PER_CHECK: u64 = 1 << 10;

/// One collection as both sides have it.
pub struct Pair<'a> {
    /// As the backup has it.
    pub backup: &'a Collection,
    /// As the source has it.
    pub source: &'a Collection,
    /// Where the documents of both are, and where copies in another order go.
    pub blocks: &'a dyn BlockWrite,
    /// Shape of a tree of documents by key.
    pub keyed: &'a Shape,
    /// A request to stop.
    pub cancel: &'a Cancel,
}

impl Pair<'_> {
    /// Adds what differs to a report.
    ///
    /// # Errors
    /// Those of reading trees, and [`Error::Cancelled`].
    pub fn compare(&self, report: &mut Report) -> Result<(), Error> {
        self.catalog(report)?;
        let (a, b) = (self.backup, self.source);
        if a.order == b.order && a.root == b.root {
            return Ok(());
        }
        if (a.order, b.order) == (Order::Keyed, Order::Keyed) {
            return self.documents(report, &a.root, &b.root).map(drop);
        }
        // By position there is no telling which of two documents stands for which: by key there is.
        let differ = self.documents(report, &self.sorted(a)?, &self.sorted(b)?)?;
        if !differ && a.order == b.order {
            report.counts.reordered += 1;
            report.list(|| self.finding(Kind::Order, REORDERED.to_owned()));
        }
        Ok(())
    }

    fn finding(&self, kind: Kind, detail: String) -> Finding {
        Finding { kind, ns: self.backup.ns.clone(), id: None, detail }
    }

    fn catalog(&self, report: &mut Report) -> Result<(), Error> {
        let found = content_root::compare(self.backup, self.source)?;
        let mut add = |kind, detail: &dyn Fn() -> String| {
            report.counts.catalog += 1;
            report.list(|| self.finding(kind, detail()));
        };
        if found.name {
            add(Kind::Name, &|| self.source.ns.clone());
        }
        if found.options {
            let (backup, source) = (&self.backup.options, &self.source.options);
            add(Kind::Options, &|| format!("{}, at the source {}", shown(backup), shown(source)));
        }
        for (name, how) in &found.indexes {
            let kind = match how {
                IndexDifference::OnlyFirst => Kind::ExtraIndex,
                IndexDifference::OnlySecond => Kind::MissingIndex,
                IndexDifference::Spec => Kind::DifferentIndex,
            };
            add(kind, &|| name.clone());
        }
        Ok(())
    }

    /// Compares trees by key. Whether there was a difference.
    fn documents(&self, report: &mut Report, backup: &Root, source: &Root) -> Result<bool, Error> {
        let mut differences = 0;
        let found = &mut |_, difference| {
            differences += 1;
            self.document(report, &difference);
            Ok(differences % DIFFERENCES_PER_CHECK != 0 || !self.cancel.is_cancelled())
        };
        diff(self.blocks, backup, self.blocks, source, found)?;
        self.go_on()?;
        Ok(differences > 0)
    }

    fn document(&self, report: &mut Report, difference: &Difference) {
        let counts = &mut report.counts;
        let (kind, count, document) = match difference {
            Difference::Added(only) => (Kind::MissingDocument, &mut counts.missing_documents, only),
            Difference::Removed(only) => (Kind::ExtraDocument, &mut counts.extra_documents, only),
            Difference::Changed(backup, _) => {
                (Kind::DifferentDocument, &mut counts.different_documents, backup)
            }
        };
        *count += 1;
        report.list(|| {
            let detail = match difference {
                Difference::Changed(backup, source) => fields(backup, source),
                Difference::Added(_) | Difference::Removed(_) => String::new(),
            };
            Finding { id: Some(shown_id(document)), ..self.finding(kind, detail) }
        });
    }

    /// The documents of a collection by key.
    fn sorted(&self, collection: &Collection) -> Result<Root, Error> {
        if collection.order == Order::Keyed {
            return Ok(collection.root);
        }
        let (mut sorter, mut bytes, mut pieces) = (Sorter::default(), 0, Vec::new());
        let mut cursor = Cursor::new(self.blocks, &collection.root);
        while let Some(document) = cursor.next()? {
            bytes += document.as_bytes().len() as u64;
            sorter.push(&document)?;
            if bytes >= SORTED_BYTES {
                self.go_on()?;
                pieces.extend(sorter.finish(self.blocks, self.keyed)?);
                bytes = 0;
            }
        }
        pieces.extend(sorter.finish(self.blocks, self.keyed)?);
        merge::merge_all(self.blocks, self.keyed, pieces)
    }

    fn go_on(&self) -> Result<(), Error> {
        if self.cancel.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }
}

/// Adds a collection that one side alone has.
pub fn alone(report: &mut Report, kind: Kind, collection: &Collection) {
    let documents = collection.root.documents;
    let counts = &mut report.counts;
    let (collections, of_them) = match kind {
        Kind::MissingCollection => (&mut counts.missing_collections, &mut counts.missing_documents),
        _ => (&mut counts.extra_collections, &mut counts.extra_documents),
    };
    *collections += 1;
    *of_them += documents;
    let detail = format!("{documents} documents");
    report.list(|| Finding { kind, ns: collection.ns.clone(), id: None, detail });
}

/// The `_id` of a document as Extended JSON.
pub(in crate::job) fn shown_id(document: &RawDocument) -> String {
    cut(extjson::id(document), ID_BYTES_MAX)
}

/// Options as Extended JSON.
fn shown(options: &RawDocument) -> String {
    let mut text = String::new();
    if extjson::document(&mut text, options).is_err() {
        text.push_str("...");
    }
    cut(text, OPTIONS_BYTES_MAX)
}

/// A text of at most `bytes_max` bytes and three dots.
fn cut(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        let end = (0..=bytes_max).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
        text.push_str("...");
    }
    text
}

/// Which fields of two versions of a document differ, in words. Those nested deeper are named by
/// the one they stand in.
fn fields(backup: &RawDocument, source: &RawDocument) -> String {
    let (mine, other) = (by_name(backup), by_name(source));
    let names = mine.keys().chain(other.keys().filter(|name| !mine.contains_key(*name)));
    let differing = names.filter(|name| {
        let value = |side: &BTreeMap<&str, _>| side.get(*name).map(|value| bytes_of(*value));
        value(&mine) != value(&other)
    });
    let differing: Vec<&str> = differing.copied().collect();
    let named = differing[..differing.len().min(FIELDS_NAMED_MAX)].join(", ");
    match differing.len().saturating_sub(FIELDS_NAMED_MAX) {
        0 if named.is_empty() => "in the order or repetition of its fields".to_owned(),
        0 => format!("in {named}"),
        more => format!("in {named} and {more} more fields"),
    }
}

/// The fields of a document by name; of several with one name the last.
fn by_name(document: &RawDocument) -> BTreeMap<&str, RawBsonRef<'_>> {
    let readable = document.iter().flatten();
    readable.map(|(name, value)| (name.as_str(), value)).collect()
}

/// A value's bytes, by which even values that do not equal themselves compare.
fn bytes_of(value: RawBsonRef<'_>) -> Vec<u8> {
    rawdoc! { "": value }.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_differ_are_named() {
        let a = rawdoc! { "_id": 1, "a": f64::NAN, "b": 1, "c": { "d": [1] } };
        for (b, expected) in [
            (
                rawdoc! { "_id": 1, "a": f64::NAN, "b": 1_i64, "c": { "d": [2] }, "e": 1 },
                "in b, c, e",
            ),
            (
                rawdoc! { "_id": 1, "b": 1, "a": f64::NAN, "c": { "d": [1] } },
                "in the order or repetition of its fields",
            ),
        ] {
            assert_eq!(fields(&a, &b), expected);
        }
    }

    #[test]
    fn what_is_shown_has_a_bound() {
        let id = "\u{e9}".repeat(ID_BYTES_MAX);
        let text = shown_id(&rawdoc! { "_id": id });
        assert!(text.len() <= ID_BYTES_MAX + 3 && text.ends_with("..."), "{}", text.len());
        assert_eq!(shown_id(&rawdoc! { "_id": 5 }), r#"{"$numberInt":"5"}"#);
    }
}
