//! Writes of single documents by their `_id`: what differs between a target and a point.

use bson::raw::cstr;
use bson::{Document, RawArrayBuf, RawDocument, RawDocumentBuf, rawdoc};

use super::Live;
use crate::restore::Error;
use crate::restore::read::{Batch, by_id, has_empty_timestamp, literal};

/// Bytes of documents in one command, beyond its last document.
const MAX_BATCH_BYTES: usize = 4 << 20;
/// Operations in one command. Each may be an entry of the target's oplog.
const MAX_BATCH_OPERATIONS: usize = 1_000;
/// The server's code for a value that a unique index has already.
const DUPLICATE_KEY: i32 = 11000;

/// What operations do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::restore) enum Verb {
    /// Delete a document.
    Delete,
    /// Replace a document by another of the same `_id`, or insert it.
    Put,
}

/// Operations of one kind on one collection: one command.
pub(in crate::restore) struct Operations {
    verb: Verb,
    operations: RawArrayBuf,
    /// What each operation selects.
    ids: Vec<RawDocumentBuf>,
    bytes: u64,
}

impl Operations {
    pub fn new(verb: Verb) -> Self {
        Self { verb, operations: RawArrayBuf::new(), ids: Vec::new(), bytes: 0 }
    }

    /// Adds the operation for a document.
    pub fn push(&mut self, document: &RawDocument) -> Result<(), Error> {
        let selected = by_id(document)?;
        if self.verb == Verb::Delete {
            self.delete(selected);
            return Ok(());
        }
        let mut update = RawDocumentBuf::new();
        update.append(cstr!("q"), &*selected);
        if has_empty_timestamp(document) {
            update.append(cstr!("u"), literal(document));
        } else {
            update.append(cstr!("u"), document);
        }
        update.append(cstr!("upsert"), true);
        self.operations.push(update);
        self.ids.push(selected);
        self.bytes += document.as_bytes().len() as u64;
        Ok(())
    }

    fn delete(&mut self, selected: RawDocumentBuf) {
        let mut delete = RawDocumentBuf::new();
        delete.append(cstr!("q"), &*selected);
        delete.append(cstr!("limit"), 1);
        self.operations.push(delete);
        self.ids.push(selected);
    }

    pub fn len(&self) -> u64 {
        self.ids.len() as u64
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether no more should be added.
    pub fn is_full(&self) -> bool {
        let bytes = self.operations.as_bytes().len();
        self.ids.len() >= MAX_BATCH_OPERATIONS || bytes >= MAX_BATCH_BYTES
    }

    fn command(&self, collection: &str) -> RawDocumentBuf {
        let mut command = match self.verb {
            Verb::Delete => rawdoc! { "delete": collection },
            Verb::Put => rawdoc! { "update": collection, "bypassDocumentValidation": true },
        };
        match self.verb {
            Verb::Delete => command.append(cstr!("deletes"), &*self.operations),
            Verb::Put => command.append(cstr!("updates"), &*self.operations),
        }
        command.append(cstr!("ordered"), false);
        command.append(cstr!("writeConcern"), rawdoc! { "w": 1 });
        command
    }
}

impl Live {
    /// Does operations. A document that cannot be put where it is to stand, mostly since one that is
    /// itself to be replaced still has its unique value, is deleted; returns how many there were. `ns` is
    /// that of the collection that holds the documents.
    pub async fn operate(
        &self,
        (db, name): (&str, &str),
        operations: &Operations,
    ) -> Result<u64, Error> {
        let (what, ns) = match operations.verb {
            Verb::Delete => ("delete", format!("{db}.{name}")),
            Verb::Put => ("update", format!("{db}.{name}")),
        };
        let reply = self.run(db, what, operations.command(name), &ns).await?;
        let refused = refusals(&reply);
        if operations.verb == Verb::Delete || refused.is_empty() {
            self.check_reply(what, &ns, &reply)?;
            return Ok(0);
        }
        let mut away = Operations::new(Verb::Delete);
        for (index, _) in refused {
            let selected = operations.ids.get(index);
            away.delete(selected.ok_or_else(|| self.lacks(what, "index"))?.clone());
        }
        let reply = self.run(db, "delete", away.command(name), &ns).await?;
        self.check_reply("delete", &ns, &reply)?;
        Ok(away.len())
    }

    /// Inserts documents; those whose unique values are there already are passed over, and counted.
    pub async fn insert_new(&self, (db, name): (&str, &str), batch: Batch) -> Result<u64, Error> {
        let ns = format!("{db}.{name}");
        let reply = self.run(db, "insert", batch.command, &ns).await?;
        let refused = refusals(&reply);
        if refused.iter().any(|(_, code)| *code != DUPLICATE_KEY) || refused.is_empty() {
            self.check_reply("insert", &ns, &reply)?;
        }
        Ok(refused.len() as u64)
    }
}

/// Index and code of each operation that the server refused.
fn refusals(reply: &Document) -> Vec<(usize, i32)> {
    let errors = reply.get_array("writeErrors").map(Vec::as_slice).unwrap_or_default();
    let refusal = |error: &Document| {
        let index = usize::try_from(error.get_i32("index").ok()?).ok()?;
        Some((index, error.get_i32("code").unwrap_or_default()))
    };
    errors.iter().filter_map(|error| refusal(error.as_document()?)).collect()
}
