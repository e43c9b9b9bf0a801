//! Loads the documents of one collection.
//!
//! One thread reads the tree and builds insert commands; several tasks send them. Batches wait in a
//! channel of [`WAITING_BATCHES`], so memory is bounded by the commands under way. A capped collection
//! has one sender, and its commands are ordered: the order is part of its content.

use std::sync::Arc;

use tokio::sync::{Mutex, mpsc};

use super::Live;
use crate::block::BlockRead;
use crate::restore::items::{Item, Shape};
use crate::restore::read::{self, Batch, Batches, Summary};
use crate::restore::{Amount, Error};

/// Commands under way for one collection: enough to keep a server of a few cores busy.
const SENDERS: usize = 3;
/// Commands built and not yet sent.
const WAITING_BATCHES: usize = 2;

impl Live {
    /// Loads an item's documents into the empty collection that holds them.
    pub async fn load(&self, blocks: Arc<dyn BlockRead>, item: &Item) -> Result<Summary, Error> {
        let (sender, receiver) = mpsc::channel(WAITING_BATCHES);
        let capped = item.shape == Shape::Capped;
        let reading = {
            let (item, cancel) = (item.clone(), self.cancel.clone());
            tokio::task::spawn_blocking(move || {
                let mut batches = Batches::new(item.data_name(), capped);
                // A closed channel means that a sender failed, and it tells why.
                let mut full =
                    |batch: Batch| sender.blocking_send(batch).map_err(|_| Error::Cancelled);
                let summary = read::documents(&*blocks, &item, &cancel, &mut |document| {
                    batches.push(document, &mut full)
                })?;
                batches.flush(&mut full)?;
                Ok::<_, Error>(summary)
            })
        };
        let receiver = Arc::new(Mutex::new(receiver));
        let senders = if capped { 1 } else { SENDERS };
        let sending = (0..senders).map(|_| self.send(item, receiver.clone()));
        let sent = futures::future::try_join_all(sending).await;
        // Dropping the receiver ends the reader if the senders have failed.
        drop(receiver);
        let read = reading.await.map_err(|_| Error::Worker)?;
        sent.and(read)
    }

    async fn send(
        &self,
        item: &Item,
        batches: Arc<Mutex<mpsc::Receiver<Batch>>>,
    ) -> Result<(), Error> {
        loop {
            let Some(batch) = batches.lock().await.recv().await else { return Ok(()) };
            let Batch { command, documents, bytes } = batch;
            let reply = self.run(item.db(), "insert", command, &item.ns).await?;
            self.check_reply("insert", &item.ns, &reply)?;
            self.progress.advance(Amount { documents, bytes });
        }
    }
}
