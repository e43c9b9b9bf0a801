//! Assertion: making sure that blocks are there, and stay until a commit names them (page 09, section 3.3).
//!
//! Presence is asserted, never believed: what is there gets the stamp of the session, what is not is inserted with it, and nothing else is
//! proof. A block that is there may be stored with a dictionary that somebody else chose, which is asserted with it; one whose
//! dictionary is gone is stored anew.
//!
//! Everything here can be done again, late or twice without harm.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use tokio::sync::Mutex;

use super::Error;
use super::backend::{BlockWriter, Found, SessionOfWriter};
use super::connection::Connection;
use super::pace::Pace;
use super::patience::Patience;
use super::session::Session;
use crate::block::{self, BlockId, BlockRead as _};
use crate::store::{Store, StoredBlock};

/// Blocks asked about at once.
pub const NAMES_MAX: usize = 1000;
/// Bytes of blocks sent at once: several batches are under way.
const BATCH_BYTES: usize = 4 << 20;
/// How often a block is looked for that others insert and remove at the same time.
const ROUNDS_MAX: u32 = 16;

/// What was sent and found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// Blocks asserted.
    pub asserted: u64,
    /// Of these, blocks that were inserted.
    pub blocks: u64,
    /// Their stored bytes.
    pub bytes: u64,
}

/// Asserts blocks of a store with one stamp, for one session. Cheap to clone; every clone is the same.
#[derive(Clone)]
pub struct Asserter {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    writer: Arc<dyn BlockWriter>,
    /// Those that were asserted; few.
    dictionaries: Mutex<HashSet<BlockId>>,
    sent: std::sync::Mutex<Sent>,
    /// None of the blocks that were asked about last was there, nor any that were inserted since.
    expects_new: AtomicBool,
}

impl Asserter {
    /// Asserts with the generation that a session has now.
    pub fn new(connection: &Connection, store: &Store, session: &Session, pace: Pace) -> Self {
        let (id, step, stamp) = (session.id, session.step(), session.generation);
        let inner = Inner {
            store: store.clone(),
            writer: connection.writer(SessionOfWriter { id, step, stamp, pace }),
            dictionaries: Mutex::default(),
            sent: std::sync::Mutex::default(),
            expects_new: AtomicBool::new(false),
        };
        Self { inner: Arc::new(inner) }
    }

    /// What was sent so far.
    pub fn sent(&self) -> Sent {
        *self.inner.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores a block anew that is there and cannot be read, from this store, which can read it.
    pub async fn mend(&self, id: BlockId) -> Result<(), Error> {
        let store = self.inner.store.clone();
        let read = move || store.get(&id).map(drop);
        tokio::task::spawn_blocking(read).await.map_err(|_| Error::WorkerLost)??;
        self.store_in_form(id, None).await
    }

    /// Asserts some blocks, at most [`NAMES_MAX`]. They are asserted once [`Asserter::finish`] has returned.
    pub async fn assert(&self, names: Vec<BlockId>) -> Result<(), Error> {
        let (mut open, mut seen) = (names, HashSet::new());
        // In the order in which they were given: what is read together later is written together.
        open.retain(|id| seen.insert(*id));
        let count = open.len() as u64;
        for round in 0..ROUNDS_MAX {
            let is_new = round == 0 && self.inner.expects_new.load(Ordering::Relaxed);
            if is_new && let Some(again) = self.insert_unasked(&open).await {
                open = again;
            } else {
                let mut patience = Patience::default();
                open = loop {
                    match self.round(&open).await {
                        Err(error) => patience.after(error).await?,
                        again => break again?,
                    }
                };
            }
            if open.is_empty() {
                self.count(|sent| sent.asserted += count);
                return Ok(());
            }
        }
        Err(Error::Contended)
    }

    /// Returns when all is there that was asserted.
    pub async fn finish(&self) -> Result<(), Error> {
        let mut patience = Patience::default();
        loop {
            match self.inner.writer.finish().await {
                Err(error) => patience.after(error).await?,
                done => return done,
            }
        }
    }

    /// Inserts blocks that are hardly there, given those before them. Returns those that are. None if it went wrong: some may be there
    /// now, and what cannot be read here may be, so that all are to be asked about, which tells what is still wrong.
    async fn insert_unasked(&self, open: &[BlockId]) -> Option<Vec<BlockId>> {
        let again = self.insert_missing(open.to_vec()).await;
        if !again.as_ref().is_ok_and(Vec::is_empty) {
            self.inner.expects_new.store(false, Ordering::Relaxed);
        }
        again.inspect_err(|error| tracing::debug!(%error, "blocks are asked about first")).ok()
    }

    /// Returns those that have to be looked for again.
    async fn round(&self, open: &[BlockId]) -> Result<Vec<BlockId>, Error> {
        let found = self.inner.writer.raise(open).await?;
        let is_new = found.is_empty() && self.inner.writer.tells_duplicates();
        self.inner.expects_new.store(is_new, Ordering::Relaxed);
        let there: HashSet<BlockId> = found.iter().map(|found| found.id).collect();
        let mut again = Vec::new();
        for Found { id, dictionary } in found {
            if let Some(dictionary) = dictionary
                && !self.assert_dictionary(dictionary).await?
            {
                self.store_in_form(id, Some(dictionary)).await?;
                again.push(id);
            }
        }
        let missing = open.iter().filter(|id| !there.contains(id)).copied().collect();
        again.extend(self.insert_missing(missing).await?);
        Ok(again)
    }

    /// Asserts a dictionary: false if it is neither there nor here.
    async fn assert_dictionary(&self, id: BlockId) -> Result<bool, Error> {
        let mut asserted = self.inner.dictionaries.lock().await;
        if asserted.contains(&id) {
            return Ok(true);
        }
        for _ in 0..ROUNDS_MAX {
            // It uses none itself, so to be there is enough.
            if !self.inner.writer.raise(&[id]).await?.is_empty() {
                asserted.insert(id);
                return Ok(true);
            }
            let block = match self.stored(vec![id]).await {
                Ok(blocks) => blocks,
                Err(Error::Store(crate::store::Error::Block(block::Error::Missing { .. }))) => {
                    return Ok(false);
                }
                Err(error) => return Err(error),
            };
            if self.insert(block).await?.is_empty() {
                asserted.insert(id);
                return Ok(true);
            }
        }
        Err(Error::Contended)
    }

    /// Gives a block the form that it has here. `lost`: if it is stored there with that dictionary, which is gone.
    async fn store_in_form(&self, id: BlockId, lost: Option<BlockId>) -> Result<(), Error> {
        let block = self.stored(vec![id]).await?.remove(0);
        if let Some(dictionary) = block.dictionary
            && !self.assert_dictionary(dictionary).await?
        {
            return Err(block::Error::Missing { id: dictionary }.into());
        }
        self.inner.writer.replace(block, lost).await
    }

    /// Inserts blocks behind their dictionaries. Returns those that were there after all.
    async fn insert_missing(&self, missing: Vec<BlockId>) -> Result<Vec<BlockId>, Error> {
        let (mut again, mut rest) = (Vec::new(), missing);
        while !rest.is_empty() {
            let (batch, left) = self.read_batch(rest).await?;
            rest = left;
            let used: HashSet<BlockId> = batch.iter().filter_map(|one| one.dictionary).collect();
            for dictionary in used {
                if !self.assert_dictionary(dictionary).await? {
                    return Err(block::Error::Missing { id: dictionary }.into());
                }
            }
            again.extend(self.insert(batch).await?);
        }
        Ok(again)
    }

    /// Reads some of these blocks, and returns the names of the rest.
    async fn read_batch(
        &self,
        names: Vec<BlockId>,
    ) -> Result<(Vec<StoredBlock>, Vec<BlockId>), Error> {
        let store = self.inner.store.clone();
        let read = move || {
            let (mut batch, mut bytes, mut read) = (Vec::new(), 0, 0);
            for id in &names {
                let block = store.stored(id)?;
                bytes += block.bytes.len();
                read += 1;
                batch.push(block);
                if bytes >= BATCH_BYTES {
                    break;
                }
            }
            Ok((batch, names[read..].to_vec()))
        };
        tokio::task::spawn_blocking(read).await.map_err(|_| Error::WorkerLost)?
    }

    async fn stored(&self, names: Vec<BlockId>) -> Result<Vec<StoredBlock>, Error> {
        self.read_batch(names).await.map(|(batch, _)| batch)
    }

    /// Inserts blocks. Returns those that were there.
    async fn insert(&self, batch: Vec<StoredBlock>) -> Result<Vec<BlockId>, Error> {
        let sizes: Vec<(BlockId, u64)> =
            batch.iter().map(|block| (block.id, block.bytes.len() as u64)).collect();
        let there = self.inner.writer.insert(batch).await?;
        let is_there: HashSet<&BlockId> = there.iter().collect();
        self.count(|sent| {
            for (_, bytes) in sizes.iter().filter(|(id, _)| !is_there.contains(id)) {
                sent.blocks += 1;
                sent.bytes += bytes;
            }
        });
        Ok(there)
    }

    fn count(&self, add: impl FnOnce(&mut Sent)) {
        add(&mut self.inner.sent.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
