//! The net effect of pending operations on one key.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bson::{RawDocument, RawDocumentBuf};

use super::state::Divergences;
use crate::elements;
use crate::oplog::{self, NameOrder, Rules, Ts, UpdateError};

/// Memory that a change takes besides its documents and key: map nodes, vectors, tags.
const OVERHEAD_BYTES: usize = 128;

/// Counts what a secondary would not have met. Shared with the edits of a sweep.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub update_on_missing: AtomicU64,
    pub delete_on_missing: AtomicU64,
    pub insert_on_existing: AtomicU64,
    pub catalog: AtomicU64,
}

impl Counters {
    pub fn starting_at(from: Divergences) -> Self {
        Self {
            update_on_missing: from.update_on_missing.into(),
            delete_on_missing: from.delete_on_missing.into(),
            insert_on_existing: from.insert_on_existing.into(),
            catalog: from.catalog.into(),
        }
    }

    pub fn read(&self) -> Divergences {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Divergences {
            update_on_missing: read(&self.update_on_missing),
            delete_on_missing: read(&self.delete_on_missing),
            insert_on_existing: read(&self.insert_on_existing),
            catalog: read(&self.catalog),
        }
    }
}

/// Adds one to a counter.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What resolving changes needs to know besides the documents.
#[derive(Debug, Clone)]
pub(super) struct Context {
    pub name_order: NameOrder,
    pub counters: Arc<Counters>,
}

/// The form of an update, see [`oplog::Update`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Replace,
    V1,
    V2,
}

/// What an update does where its document is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// Nothing: a scan is being caught up with.
    Skip,
    /// Creates it: the entry says so.
    Create,
    /// Creates it as a secondary does, which means divergence.
    Surprise,
}

/// An update of a document that was not read yet.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pending {
    pub form: Form,
    pub missing: Missing,
    /// The entry, for messages.
    pub ts: Ts,
    /// `{_id: o2._id}`.
    pub id: RawDocumentBuf,
    /// The document, `o` or the diff, by form.
    pub body: RawDocumentBuf,
}

/// An update that could not be applied.
#[derive(Debug, thiserror::Error)]
#[error("update at {ts}: {source}")]
pub(super) struct Failed {
    pub ts: Ts,
    pub source: oplog::Error,
}

impl Pending {
    /// An update of the document that has the `_id` of another.
    pub fn new(
        update: &oplog::Update<'_>,
        id: &RawDocument,
        missing: Missing,
        ts: Ts,
    ) -> Result<Self, oplog::Error> {
        let (form, body) = match update {
            oplog::Update::Replace(body) => (Form::Replace, body),
            oplog::Update::V1(body) => (Form::V1, body),
            oplog::Update::V2(body) => (Form::V2, body),
        };
        let id = elements::only_id(id).map_err(UpdateError::from)?;
        Ok(Self { form, missing, ts, id, body: (*body).to_owned() })
    }

    /// The document that this leaves.
    pub fn apply(
        &self,
        old: Option<&RawDocument>,
        context: &Context,
    ) -> Result<Option<RawDocumentBuf>, Failed> {
        if old.is_none() && self.missing == Missing::Surprise {
            count(&context.counters.update_on_missing);
        }
        let update = match self.form {
            Form::Replace => oplog::Update::Replace(&self.body),
            Form::V1 => oplog::Update::V1(&self.body),
            Form::V2 => oplog::Update::V2(&self.body),
        };
        let rules =
            Rules { upsert_missing: self.missing != Missing::Skip, name_order: context.name_order };
        let failed = |source: oplog::Error| Failed { ts: self.ts, source };
        oplog::apply(&update, old, &self.id, rules).map_err(failed)
    }

    fn weight(&self) -> usize {
        OVERHEAD_BYTES + self.id.as_bytes().len() + self.body.as_bytes().len()
    }
}

/// The net effect on one key.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Change {
    /// The document is this, whatever it was.
    Put(RawDocumentBuf),
    /// There is none.
    Delete,
    /// These are to be applied to it, in order. Never empty.
    Updates(Vec<Pending>),
}

impl Change {
    /// Bytes of memory it takes, about.
    pub fn weight(&self) -> usize {
        OVERHEAD_BYTES
            + match self {
                Self::Put(document) => document.as_bytes().len(),
                Self::Delete => 0,
                Self::Updates(pending) => pending.iter().map(Pending::weight).sum(),
            }
    }

    /// This change and then a later one, as one.
    pub fn then(self, later: Self, context: &Context) -> Result<Self, Failed> {
        let Self::Updates(updates) = later else { return Ok(later) };
        let mut document = match self {
            Self::Put(document) => Some(document),
            Self::Delete => None,
            Self::Updates(mut pending) => {
                for update in updates {
                    push(&mut pending, update, context)?;
                }
                return Ok(Self::Updates(pending));
            }
        };
        for update in updates {
            document = update.apply(document.as_deref(), context)?;
        }
        Ok(Self::from(document))
    }

    /// The document that this leaves.
    pub fn resolve(
        self,
        old: Option<&RawDocument>,
        context: &Context,
    ) -> Result<Option<RawDocumentBuf>, Failed> {
        let updates = match self {
            Self::Put(document) => return Ok(Some(document)),
            Self::Delete => return Ok(None),
            Self::Updates(updates) => updates,
        };
        let mut updates = updates.into_iter();
        let Some(first) = updates.next() else { return Ok(old.map(ToOwned::to_owned)) };
        let mut document = first.apply(old, context)?;
        for update in updates {
            document = update.apply(document.as_deref(), context)?;
        }
        Ok(document)
    }
}

impl From<Option<RawDocumentBuf>> for Change {
    fn from(document: Option<RawDocumentBuf>) -> Self {
        document.map_or(Self::Delete, Self::Put)
    }
}

/// Appends an update to those waiting. A replacement makes those before it void, and what comes after
/// one is applied to it at once, so that a document replaced over and over waits as one.
fn push(pending: &mut Vec<Pending>, mut update: Pending, context: &Context) -> Result<(), Failed> {
    if update.form == Form::Replace {
        // If one before it creates a missing document, this one finds it.
        if let Some(creates) = pending.iter().find(|before| before.missing != Missing::Skip) {
            update.missing = creates.missing;
        }
        pending.clear();
        pending.push(update);
        return Ok(());
    }
    match pending.last_mut() {
        Some(last)
            if last.form == Form::Replace
                && (last.missing != Missing::Skip || update.missing == Missing::Skip) =>
        {
            if let Some(document) = update.apply(Some(&last.body), context)? {
                last.body = document;
            }
        }
        _ => pending.push(update),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;

    fn context() -> Context {
        Context { name_order: NameOrder::Numeric, counters: Arc::default() }
    }

    fn pending(form: Form, missing: Missing, body: RawDocumentBuf) -> Pending {
        Pending { form, missing, ts: Ts { secs: 1, inc: 1 }, id: rawdoc! { "_id": 1 }, body }
    }

    fn set(missing: Missing, name: &str, value: i32) -> Change {
        let mut fields = RawDocumentBuf::new();
        fields.append(<&bson::raw::CStr>::try_from(name).expect("no zero byte"), value);
        Change::Updates(vec![pending(Form::V2, missing, rawdoc! { "u": fields })])
    }

    #[test]
    fn later_wins() {
        let put = |a: i32| Change::Put(rawdoc! { "_id": 1, "a": a });
        let context = context();
        assert_eq!(put(1).then(put(2), &context).expect("applies"), put(2));
        assert_eq!(put(1).then(Change::Delete, &context).expect("applies"), Change::Delete);
        let updated = put(1).then(set(Missing::Surprise, "a", 5), &context).expect("applies");
        assert_eq!(updated, put(5));
        assert_eq!(context.counters.read(), Divergences::default());
    }

    #[test]
    fn missing_documents() {
        let context = context();
        let gone = Change::Delete.then(set(Missing::Skip, "a", 5), &context).expect("applies");
        assert_eq!(gone, Change::Delete);
        assert_eq!(context.counters.read().update_on_missing, 0);
        let back = Change::Delete.then(set(Missing::Surprise, "a", 5), &context).expect("applies");
        assert_eq!(back, Change::Put(rawdoc! { "_id": 1, "a": 5 }));
        assert_eq!(context.counters.read().update_on_missing, 1);
        let waiting = set(Missing::Skip, "a", 5).resolve(None, &context).expect("applies");
        assert_eq!(waiting, None);
    }

    #[test]
    fn replacements_do_not_pile_up() {
        let context = context();
        let replace = |a: i32, missing| {
            let body = rawdoc! { "_id": 1, "a": a };
            Change::Updates(vec![pending(Form::Replace, missing, body)])
        };
        let mut change = set(Missing::Surprise, "z", 1);
        for a in 0..100 {
            change = change.then(replace(a, Missing::Surprise), &context).expect("applies");
            let update = set(Missing::Surprise, "b", a);
            change = change.then(update, &context).expect("applies");
        }
        assert!(matches!(&change, Change::Updates(waiting) if waiting.len() == 1));
        let old = rawdoc! { "_id": 1, "z": 0 };
        let new = change.resolve(Some(&old), &context).expect("applies");
        assert_eq!(new, Some(rawdoc! { "_id": 1, "a": 99, "b": 99 }));
        let skipped = replace(1, Missing::Skip).then(set(Missing::Skip, "b", 1), &context);
        assert_eq!(skipped.expect("applies").resolve(None, &context).expect("applies"), None);
    }
}
