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
/// The server's codes for field names with a dollar where an update may not have them, but an insert may:
/// any, and those of references that are none.
const DOLLAR_FIELD: i32 = 52;
/// See [`DOLLAR_FIELD`].
const NO_REFERENCE: i32 = 55;

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
    /// Does operations. A document that can only be inserted, since one that is itself to be replaced still
    /// has its unique value, or since updates do not take its field names, is deleted; returns how many
    /// there were. `ns` is that of the collection that holds the documents.
    ///
    /// # Errors
    /// [`Error::Refused`] for any other reason of the server; the document is then as it was.
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
        let insertable: &[i32] = match operations.verb {
            Verb::Delete => &[],
            Verb::Put => &[DUPLICATE_KEY, DOLLAR_FIELD, NO_REFERENCE],
        };
        let refused = self.refusals(what, &ns, &reply, insertable)?;
        if refused.is_empty() {
            return Ok(0);
        }
        let mut away = Operations::new(Verb::Delete);
        for index in refused {
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
        Ok(self.refusals("insert", &ns, &reply, &[DUPLICATE_KEY])?.len() as u64)
    }

    /// Which operations the server refused with codes that are expected. Fails if it refused any with
    /// another.
    fn refusals(
        &self,
        command: &'static str,
        ns: &str,
        reply: &Document,
        expected: &[i32],
    ) -> Result<Vec<usize>, Error> {
        let errors = reply.get_array("writeErrors").map(Vec::as_slice).unwrap_or_default();
        if errors.is_empty() {
            self.check_reply(command, ns, reply)?;
        }
        let mut refused = Vec::new();
        for refusal in errors {
            let refusal =
                refusal.as_document().ok_or_else(|| self.lacks(command, "writeErrors"))?;
            if !refusal.get_i32("code").is_ok_and(|code| expected.contains(&code)) {
                return Err(self.refused(command, ns, refusal));
            }
            let index = refusal.get_i32("index").ok().and_then(|index| usize::try_from(index).ok());
            refused.push(index.ok_or_else(|| self.lacks(command, "index"))?);
        }
        Ok(refused)
    }
}
