//! Writes the documents of one collection that differ.
//!
//! In three passes over the difference, so that no unique index is ever violated by an order of writes:
//!
//! 1. What was not there then is deleted.
//! 2. What has another content is replaced. Where the new content has a unique value that a document has
//!    which is yet to be replaced, as where two swapped theirs, or field names that the server takes in
//!    an insert only, it is deleted. After this pass every document of the collection is one of then.
//! 3. What is missing is inserted, the deleted ones of pass 2 included. A subset of what was there then
//!    with another document of then violates no index of then.
//!
//! The difference is read again for each pass rather than kept.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::Both;
use super::find::Change;
use super::plan::Written;
use crate::head::Collection;
use crate::restore::live::{Live, Operations, Verb};
use crate::restore::read::{Batch, Batches};
use crate::restore::{Amount, Cancel, Differ, Error, Pair, Progress};
use crate::tree::Difference;

/// Commands built and not yet sent.
const WAITING_COMMANDS: usize = 2;

/// A command that is built.
enum Command {
    Operate(Operations),
    Insert(Batch),
}

/// A way through the difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    Delete,
    Replace,
    /// `all`: what has another content, too, for some of it was deleted.
    Insert {
        all: bool,
    },
}

/// Writes what differs of a collection.
pub(super) struct Writer<'a> {
    pub both: &'a Arc<Both>,
    pub live: &'a Live,
    pub progress: &'a Arc<dyn Progress>,
    pub cancel: &'a Cancel,
}

impl Writer<'_> {
    /// Makes the documents those of then.
    pub async fn write(&self, change: &Change, written: &mut Written) -> Result<(), Error> {
        let counts = &change.counts;
        if counts.removed > 0 {
            written.deleted += self.pass(change, Pass::Delete).await?.documents;
        }
        let mut cleared = 0;
        if counts.changed > 0 {
            let done = self.pass(change, Pass::Replace).await?;
            cleared = done.refused;
            written.replaced += done.documents - cleared;
            written.bytes += done.bytes;
        }
        if counts.added > 0 || cleared > 0 {
            let done = self.pass(change, Pass::Insert { all: cleared > 0 }).await?;
            written.inserted += done.documents - done.refused;
            written.bytes += done.bytes;
        }
        Ok(())
    }

    async fn pass(&self, change: &Change, pass: Pass) -> Result<Done, Error> {
        let item = change.then.as_ref().or(change.now.as_ref());
        let item = item.ok_or(Error::Worker)?;
        let place = (item.db(), item.data_name());
        let (sender, mut receiver) = mpsc::channel(WAITING_COMMANDS);
        let reading = {
            let (both, cancel) = (self.both.clone(), self.cancel.clone());
            let Pair { before, after } = change.pair();
            let (before, after) = (before.cloned(), after.cloned());
            let name = place.1.to_owned();
            tokio::task::spawn_blocking(move || {
                let sides = (before.as_ref(), after.as_ref());
                let mut send = |command| {
                    // A closed channel means that the sender failed, and it tells why.
                    sender.blocking_send(command).map_err(|_| Error::Cancelled)
                };
                read(&both, sides, (&name, pass), &cancel, &mut send)
            })
        };
        let mut done = Done::default();
        let sent = loop {
            let Some(command) = receiver.recv().await else { break Ok(()) };
            if let Err(why) = self.send(place, command, &mut done).await {
                break Err(why);
            }
        };
        // Dropping the receiver ends the reader if a command has failed.
        drop(receiver);
        let read = reading.await.map_err(|_| Error::Worker)?;
        sent.and(read)?;
        Ok(done)
    }

    async fn send(
        &self,
        place: (&str, &str),
        command: Command,
        done: &mut Done,
    ) -> Result<(), Error> {
        let (documents, bytes, refused) = match command {
            Command::Operate(operations) => {
                let refused = self.live.operate(place, &operations).await?;
                (operations.len(), operations.bytes(), refused)
            }
            Command::Insert(batch) => {
                let (documents, bytes) = (batch.documents, batch.bytes);
                (documents, bytes, self.live.insert_new(place, batch).await?)
            }
        };
        done.documents += documents;
        done.bytes += bytes;
        done.refused += refused;
        self.progress.advance(Amount { documents, bytes });
        Ok(())
    }
}

/// What a pass did.
#[derive(Debug, Default)]
struct Done {
    /// Documents that were sent.
    documents: u64,
    /// Their bytes.
    bytes: u64,
    /// Those of them that the server refused.
    refused: u64,
}

/// Reads the difference and builds the commands of a pass. Blocking.
fn read(
    both: &Both,
    (before, after): (Option<&Collection>, Option<&Collection>),
    (name, pass): (&str, Pass),
    cancel: &Cancel,
    send: &mut dyn FnMut(Command) -> Result<(), Error>,
) -> Result<(), Error> {
    let (now, then) = (both.now.contents(), both.then.contents());
    let mut differ = Differ::new(now, then, both.repository.clone(), cancel);
    let pair = Pair { before, after };
    let verb = if pass == Pass::Delete { Verb::Delete } else { Verb::Put };
    let (mut operations, mut batches) = (Operations::new(verb), Batches::new(name, false));
    differ.documents(&pair, &mut |_, difference| {
        match (pass, &difference) {
            (Pass::Delete, Difference::Removed(document))
            | (Pass::Replace, Difference::Changed(_, document)) => {
                operations.push(document)?;
                if operations.is_full() {
                    let full = std::mem::replace(&mut operations, Operations::new(verb));
                    send(Command::Operate(full))?;
                }
            }
            (Pass::Insert { .. }, Difference::Added(document))
            | (Pass::Insert { all: true }, Difference::Changed(_, document)) => {
                batches.push(document, &mut |batch| send(Command::Insert(batch)))?;
            }
            _ => {}
        }
        Ok(true)
    })?;
    if operations.len() > 0 {
        send(Command::Operate(operations))?;
    }
    batches.flush(&mut |batch| send(Command::Insert(batch)))
}
