//! Commands upon documents, executed here: what filters match and what changes make of a document.
//!
//! It is that part of the server's language in which page 09 writes its protocol, and no more: an operator that is not known here is an
//! error, and never taken for something that matches nothing.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use bson::{Bson, Document, RawBson, RawBsonRef, RawDocument, RawDocumentBuf};

use super::entry::id_of;
use super::state::{Change, Key, State};
use crate::blockstore::backend::{Miss, Step};

/// Why a transaction was not executed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// A step matched nothing.
    Missed(Miss),
    /// There is a document of that `_id`.
    IsThere(&'static str),
    /// A filter or change is beyond what is known here, or a document not of its form.
    Unknown(&'static str),
}

type Done<T> = Result<T, Refused>;

/// A state, and what a transaction has changed so far.
struct View<'a> {
    state: &'a State,
    over: BTreeMap<(&'static str, Key), (RawBson, Option<RawDocumentBuf>)>,
}

/// Executes a transaction upon a state: what it changes.
pub(super) fn execute(state: &State, steps: &[Step]) -> Done<Vec<Change>> {
    let mut view = View { state, over: BTreeMap::new() };
    steps.iter().try_for_each(|step| view.step(step))?;
    let change =
        |((of, _), (id, document)): ((&str, Key), _)| Change { of: of.to_owned(), id, document };
    Ok(view.over.into_iter().map(change).collect())
}

/// Documents of a state that a filter matches, in order, at most so many; all if zero.
pub(super) fn find(
    state: &State,
    of: &'static str,
    filter: &Document,
    limit: usize,
) -> Done<Vec<RawDocumentBuf>> {
    let limit = if limit == 0 { usize::MAX } else { limit };
    let found = View { state, over: BTreeMap::new() }.matching(of, filter, limit)?;
    Ok(found.into_iter().map(|(_, document)| document).collect())
}

impl View<'_> {
    fn step(&mut self, step: &Step) -> Done<()> {
        match step {
            Step::Update { of, filter, change, miss } => {
                match self.update(of.0, filter, change, 1)? {
                    0 => Err(Refused::Missed(*miss)),
                    _ => Ok(()),
                }
            }
            Step::UpdateAll { of, filter, change } => {
                self.update(of.0, filter, change, usize::MAX).map(drop)
            }
            Step::Insert { of, documents } => {
                for document in documents {
                    let key = key_of(of.0, document)?;
                    if self.get(of.0, &key).is_some() {
                        return Err(Refused::IsThere(of.0));
                    }
                    self.set(of.0, key, document, Some(document.clone()))?;
                }
                Ok(())
            }
            Step::Delete { of, filter, miss } => match self.delete(of.0, filter, 1)? {
                0 => Err(Refused::Missed(*miss)),
                _ => Ok(()),
            },
            Step::DeleteAll { of, filter } => self.delete(of.0, filter, usize::MAX).map(drop),
        }
    }

    fn get(&self, of: &'static str, key: &Key) -> Option<&RawDocument> {
        match self.over.get(&(of, key.clone())) {
            Some((_, over)) => over.as_deref(),
            None => self.state.get(of, key),
        }
    }

    fn set(
        &mut self,
        of: &'static str,
        key: Key,
        before: &RawDocumentBuf,
        after: Option<RawDocumentBuf>,
    ) -> Done<()> {
        let id = id_of(before).ok_or(Refused::Unknown(of))?;
        self.over.insert((of, key), (id, after));
        Ok(())
    }

    fn matching(
        &self,
        of: &'static str,
        filter: &Document,
        limit: usize,
    ) -> Done<Vec<(Key, RawDocumentBuf)>> {
        let filter = Filter::new(filter).ok_or(Refused::Unknown(of))?;
        let mut found = Vec::new();
        // Most ask for documents by their names.
        if let Some(keys) = filter.keys() {
            for key in keys {
                if let Some(document) = self.get(of, key)
                    && filter.matches(document).ok_or(Refused::Unknown(of))?
                {
                    found.push((key.clone(), document.to_owned()));
                }
                if found.len() == limit {
                    break;
                }
            }
            return Ok(found);
        }
        let over = self.over.iter().filter(|((other, _), _)| *other == of);
        let over: BTreeMap<&Key, Option<&RawDocument>> =
            over.map(|((_, key), (_, document))| (key, document.as_deref())).collect();
        let base = self.state.all(of).filter(|(key, _)| !over.contains_key(key));
        let base = base.map(|(key, held)| (key, Some(&*held.document)));
        for (key, document) in base.chain(over.iter().map(|(key, document)| (*key, *document))) {
            let Some(document) = document else { continue };
            if filter.matches(document).ok_or(Refused::Unknown(of))? {
                found.push((key.clone(), document.to_owned()));
            }
            if found.len() == limit {
                break;
            }
        }
        Ok(found)
    }

    fn update(
        &mut self,
        of: &'static str,
        filter: &Document,
        change: &Document,
        limit: usize,
    ) -> Done<usize> {
        let found = self.matching(of, filter, limit)?;
        let count = found.len();
        for (key, before) in found {
            let after = changed(&before, change).ok_or(Refused::Unknown(of))?;
            if after != before {
                self.set(of, key, &before, Some(after))?;
            }
        }
        Ok(count)
    }

    fn delete(&mut self, of: &'static str, filter: &Document, limit: usize) -> Done<usize> {
        let found = self.matching(of, filter, limit)?;
        let count = found.len();
        for (key, before) in found {
            self.set(of, key, &before, None)?;
        }
        Ok(count)
    }
}

fn key_of(of: &'static str, document: &RawDocument) -> Done<Key> {
    let id = document.get("_id").ok().flatten();
    id.and_then(Key::of).ok_or(Refused::Unknown(of))
}

/// A filter, taken apart once for all documents.
struct Filter<'a> {
    parts: Vec<(&'a str, Test)>,
}

/// What is asked of the value at a path.
enum Test {
    Is(RawBson),
    IsNot(RawBson),
    In(BTreeSet<Key>),
    NotIn(BTreeSet<Key>),
    Below(RawBson),
    AtMost(RawBson),
    AtLeast(RawBson),
}

impl<'a> Filter<'a> {
    /// None if it is beyond what is known here.
    fn new(filter: &'a Document) -> Option<Self> {
        let mut parts = Vec::new();
        for (path, wanted) in filter {
            match wanted.as_document() {
                Some(operators) if operators.keys().any(|name| name.starts_with('$')) => {
                    for (operator, operand) in operators {
                        parts.push((path.as_str(), Test::new(operator, operand)?));
                    }
                }
                _ if path == "_id" => {
                    let key = Key::of(raw(wanted)?.as_raw_bson_ref())?;
                    parts.push(("_id", Test::In(BTreeSet::from([key]))));
                }
                _ => parts.push((path.as_str(), Test::Is(raw(wanted)?))),
            }
        }
        Some(Self { parts })
    }

    /// The names that it asks for, if it does.
    fn keys(&self) -> Option<Vec<&Key>> {
        self.parts.iter().find_map(|(path, test)| match test {
            Test::In(keys) if *path == "_id" => Some(keys.iter().collect()),
            _ => None,
        })
    }

    fn matches(&self, document: &RawDocument) -> Option<bool> {
        for (path, test) in &self.parts {
            if !test.holds(at(document, path)?)? {
                return Some(false);
            }
        }
        Some(true)
    }
}

fn raw(value: &Bson) -> Option<RawBson> {
    RawBson::try_from(value.clone()).ok()
}

impl Test {
    fn new(operator: &str, operand: &Bson) -> Option<Self> {
        let keys = || {
            let all = operand.as_array()?.iter();
            all.map(|one| Key::of(raw(one)?.as_raw_bson_ref())).collect::<Option<BTreeSet<Key>>>()
        };
        Some(match operator {
            "$ne" => Self::IsNot(raw(operand)?),
            "$in" => Self::In(keys()?),
            "$nin" => Self::NotIn(keys()?),
            "$lt" => Self::Below(raw(operand)?),
            "$lte" => Self::AtMost(raw(operand)?),
            "$gte" => Self::AtLeast(raw(operand)?),
            _ => return None,
        })
    }

    /// Whether it holds; none if the value is of a kind that is not known here.
    fn holds(&self, value: Option<RawBsonRef<'_>>) -> Option<bool> {
        let order = |operand: &RawBson, is: fn(Ordering) -> bool| match value {
            Some(value) => compare(value, operand.as_raw_bson_ref()).map(is),
            None => Some(false),
        };
        let is_in = |keys: &BTreeSet<Key>| match value {
            Some(value) => Key::of(value).map(|key| keys.contains(&key)),
            None => Some(false),
        };
        match self {
            Self::Is(wanted) => equals(value, wanted.as_raw_bson_ref()),
            Self::IsNot(wanted) => equals(value, wanted.as_raw_bson_ref()).map(|is| !is),
            Self::In(keys) => is_in(keys),
            Self::NotIn(keys) => is_in(keys).map(|is| !is),
            Self::Below(operand) => order(operand, Ordering::is_lt),
            Self::AtMost(operand) => order(operand, Ordering::is_le),
            Self::AtLeast(operand) => order(operand, Ordering::is_ge),
        }
    }
}

/// The value at a path; none outside if the document is not of its form.
fn at<'a>(document: &'a RawDocument, path: &str) -> Option<Option<RawBsonRef<'a>>> {
    match path.split_once('.') {
        None => document.get(path).ok(),
        Some((first, rest)) => match document.get(first).ok()? {
            Some(RawBsonRef::Document(inner)) => at(inner, rest),
            _ => Some(None),
        },
    }
}

/// Whether a value is a wanted one, or an array that has it. What is missing is like null.
fn equals(value: Option<RawBsonRef<'_>>, wanted: RawBsonRef<'_>) -> Option<bool> {
    let Some(value) = value else { return Some(matches!(wanted, RawBsonRef::Null)) };
    if let (RawBsonRef::Array(array), false) = (value, matches!(wanted, RawBsonRef::Array(_))) {
        for one in array {
            if is_same(one.ok()?, wanted) {
                return Some(true);
            }
        }
        return Some(false);
    }
    Some(is_same(value, wanted))
}

fn is_same(value: RawBsonRef<'_>, wanted: RawBsonRef<'_>) -> bool {
    match (number(value), number(wanted)) {
        (Some(value), Some(wanted)) => value == wanted,
        _ => value == wanted,
    }
}

fn compare(value: RawBsonRef<'_>, operand: RawBsonRef<'_>) -> Option<Ordering> {
    match (value, operand) {
        (RawBsonRef::Timestamp(value), RawBsonRef::Timestamp(operand)) => {
            Some((value.time, value.increment).cmp(&(operand.time, operand.increment)))
        }
        _ => Some(number(value)?.cmp(&number(operand)?)),
    }
}

fn number(value: RawBsonRef<'_>) -> Option<i64> {
    value.as_i64().or_else(|| value.as_i32().map(i64::from))
}

fn number_of(value: &Bson) -> Option<i64> {
    value.as_i64().or_else(|| value.as_i32().map(i64::from))
}

/// A document after a change; none if that is beyond what is known here.
fn changed(before: &RawDocument, change: &Document) -> Option<RawDocumentBuf> {
    let mut after = Document::try_from(before).ok()?;
    for (operator, fields) in change {
        for (field, operand) in fields.as_document()? {
            if field.contains('.') {
                return None;
            }
            match operator.as_str() {
                "$set" => _ = after.insert(field, operand.clone()),
                "$unset" => _ = after.remove(field),
                "$inc" => {
                    let sum = after.get(field).map_or(Some(0), number_of)?;
                    after.insert(field, sum.checked_add(number_of(operand)?)?);
                }
                "$max" => {
                    let now = after.get(field).map_or(Some(i64::MIN), number_of)?;
                    after.insert(field, now.max(number_of(operand)?));
                }
                "$addToSet" => {
                    let array = after.get_array_mut(field).ok()?;
                    if !array.contains(operand) {
                        array.push(operand.clone());
                    }
                }
                "$pull" => after.get_array_mut(field).ok()?.retain(|one| one != operand),
                _ => return None,
            }
        }
    }
    RawDocumentBuf::try_from(&after).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blockstore::backend::{JOBS, SESSIONS, SNAPSHOTS};
    use bson::{Timestamp, doc, rawdoc};

    fn state(documents: &[(&'static str, RawDocumentBuf)]) -> State {
        let mut state = State::new(0, [0; 32]);
        for (of, document) in documents {
            state.put(of, key_of(of, document).expect("a key"), document.clone(), 0);
        }
        state
    }

    #[test]
    fn filters_match_as_those_of_the_server() {
        let ts = |time| Timestamp { time, increment: 1 };
        let document = rawdoc! {
            "_id": { "job": "a", "id": "s" }, "pins": ["x", "y"], "none": [], "n": 5_i64,
            "received": { "ts": ts(7), "t": 3_i64 }, "keep": false,
        };
        for (filter, expected) in [
            (doc! { "_id": { "job": "a", "id": "s" } }, true),
            (doc! { "_id": { "id": "s", "job": "a" } }, false),
            (doc! { "_id.job": "a", "_id.id": "s" }, true),
            (doc! { "_id.job": { "$nin": ["b", "c"] } }, true),
            (doc! { "_id.job": { "$in": ["b", "c"] } }, false),
            (doc! { "pins": "y" }, true),
            (doc! { "pins": "z" }, false),
            (doc! { "pins": [] }, false),
            (doc! { "none": [] }, true),
            (doc! { "n": 5 }, true),
            (doc! { "n": { "$lt": 6_i64, "$gte": 5 } }, true),
            (doc! { "n": { "$lt": 5_i64 } }, false),
            (doc! { "missing": { "$lt": 5_i64 } }, false),
            (doc! { "received.ts": ts(7), "received.t": 3_i64 }, true),
            (doc! { "received.ts": { "$lte": ts(6) } }, false),
            (doc! { "received.ts": { "$lte": ts(8) } }, true),
            (doc! { "missing": Bson::Null }, true),
            (doc! { "keep": { "$ne": true } }, true),
            (doc! { "missing": { "$ne": true } }, true),
            (doc! { "unwanted": true }, false),
        ] {
            let found = Filter::new(&filter).expect("known").matches(&document);
            assert_eq!(found, Some(expected), "{filter}");
        }
        for beyond in [doc! { "n": { "$gt": 1 } }, doc! { "n": { "$exists": true } }] {
            assert!(Filter::new(&beyond).is_none(), "{beyond}");
        }
    }

    #[test]
    fn changes_are_those_of_the_server() {
        let before = rawdoc! { "_id": 1, "n": 5_i64, "pins": ["x"], "gone": 1 };
        let change = doc! {
            "$inc": { "n": 1_i64, "new": 2_i64 }, "$set": { "s": "t" }, "$unset": { "gone": "" },
            "$addToSet": { "pins": "y" }, "$max": { "stamp": 3_i64 },
        };
        let after = changed(&before, &change).expect("known");
        let expected = doc! { "_id": 1, "n": 6_i64, "pins": ["x", "y"], "new": 2_i64, "s": "t", "stamp": 3_i64 };
        assert_eq!(Document::try_from(&*after).expect("a document"), expected);
        let again = changed(&after, &doc! { "$pull": { "pins": "x" }, "$max": { "stamp": 2_i64 } });
        let again = again.expect("known");
        assert_eq!(again.get_i64("stamp").expect("a stamp"), 3);
        assert!(again.get_array("pins").expect("pins").into_iter().count() == 1);
        assert_eq!(changed(&before, &doc! { "$rename": { "n": "m" } }), None);
        assert_eq!(changed(&before, &doc! { "$set": { "a.b": 1 } }), None);
    }

    #[test]
    fn a_transaction_is_executed_as_a_whole_or_not_at_all() {
        let state = state(&[
            ("sessions", rawdoc! { "_id": "s", "commits": 2_i64 }),
            ("jobs", rawdoc! { "_id": "j", "commits": 7_i64 }),
            ("snapshots", rawdoc! { "_id": { "job": "j", "id": "1" }, "pins": ["s"] }),
        ]);
        let write = |of, filter: Document, miss| Step::Update {
            of,
            filter,
            change: doc! { "$inc": { "commits": 1_i64 } },
            miss,
        };
        let session = write(SESSIONS, doc! { "_id": "s", "commits": 2_i64 }, Miss::Session);
        let lost = write(JOBS, doc! { "_id": "j", "commits": 6_i64 }, Miss::Job);
        let job = write(JOBS, doc! { "_id": "j", "commits": 7_i64 }, Miss::Job);
        assert_eq!(
            execute(&state, &[session.clone(), lost]).err(),
            Some(Refused::Missed(Miss::Job))
        );
        let insert = Step::Insert {
            of: SNAPSHOTS,
            documents: vec![rawdoc! { "_id": { "job": "j", "id": "2" }, "pins": ["s"] }],
        };
        let unpin = Step::UpdateAll {
            of: SNAPSHOTS,
            filter: doc! { "pins": "s" },
            change: doc! { "$pull": { "pins": "s" } },
        };
        let end = Step::Delete { of: SESSIONS, filter: doc! { "_id": "s" }, miss: Miss::Session };
        let steps = [session, job, insert.clone(), unpin, end];
        let mut changes = execute(&state, &steps).expect("executed");
        changes.sort_by(|a, b| a.of.cmp(&b.of));
        let of: Vec<_> = changes.iter().map(|one| (&*one.of, one.document.is_some())).collect();
        assert_eq!(
            of,
            [("jobs", true), ("sessions", false), ("snapshots", true), ("snapshots", true)]
        );
        let mut after = state.clone();
        after.apply(1, [1; 32], &changes).expect("applied");
        let pinned = find(&after, "snapshots", &doc! { "pins": "s" }, 0).expect("found");
        assert!(pinned.is_empty(), "what the transaction inserted was unpinned too");
        assert_eq!(execute(&after, &[insert]).err(), Some(Refused::IsThere("snapshots")));
    }
}
