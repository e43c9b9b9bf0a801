//! Merges sorted sources of changes, oldest first, into one change for each key.

use super::Error;
use super::change::{Context, Failed};
use super::runs::Record;

/// A source of records in order of (uuid, key).
pub(super) type Source = Box<dyn Iterator<Item = Result<Record, Error>> + Send>;

/// The merged records. Sources are few (runs are bounded), so the least head is found by looking at
/// all of them.
pub(super) struct Merged {
    /// From oldest to newest, each with its next record.
    sources: Vec<(Source, Option<Record>)>,
    context: Context,
}

impl Merged {
    pub fn new(sources: Vec<Source>, context: Context) -> Result<Self, Error> {
        let mut primed = Vec::with_capacity(sources.len());
        for mut source in sources {
            let next = source.next().transpose()?;
            primed.push((source, next));
        }
        Ok(Self { sources: primed, context })
    }

    /// The next record, without taking it. Its change may be only the oldest part of what
    /// [`Merged::next`] gives.
    fn peek(&self) -> Option<&Record> {
        let heads = self.sources.iter().filter_map(|(_, head)| head.as_ref());
        heads.min_by(|a, b| (a.uuid, &a.key).cmp(&(b.uuid, &b.key)))
    }

    fn read(&mut self) -> Result<Option<Record>, Error> {
        let Some(least) = self.peek() else { return Ok(None) };
        let (uuid, key) = (least.uuid, least.key.clone());
        let mut merged: Option<Record> = None;
        for (source, head) in &mut self.sources {
            if !head.as_ref().is_some_and(|head| head.uuid == uuid && head.key == key) {
                continue;
            }
            let next = source.next().transpose()?;
            if let Some(record) = std::mem::replace(head, next) {
                merged = Some(combine(merged, record, &self.context).map_err(update_failed)?);
            }
        }
        Ok(merged)
    }
}

impl Iterator for Merged {
    type Item = Result<Record, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// Changes of an older incarnation are void.
pub(super) fn combine(
    older: Option<Record>,
    newer: Record,
    context: &Context,
) -> Result<Record, Failed> {
    match older {
        Some(older) if older.incarnation == newer.incarnation => {
            Ok(Record { change: older.change.then(newer.change, context)?, ..newer })
        }
        _ => Ok(newer),
    }
}

/// An update that failed where the collection's name is not known.
pub(super) fn update_failed(Failed { ts, source }: Failed) -> Error {
    Error::Update { ts, source }
}
