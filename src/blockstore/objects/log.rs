//! The log of entries that stand for documents and transactions (page 10, section 2).
//!
//! Order of writes: an entry is created under the next number, and counts once the entry below it was seen to be there still; only then is anything
//! told of it. Checkpoints are created from states that were read so; after them entries are deleted, one after the other from the
//! lowest up, below the older of the two newest checkpoints. A client that stops anywhere leaves nothing that others take for more than it is: an entry
//! that was created counts for all.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::{Mutex, MutexGuard};

use super::entry::{
    ENTRY_BYTES_MAX, Hash, decode, decode_checkpoint, encode, encode_checkpoint, hash_of,
};
use super::state::{Change, State};
use super::storage::Storage;
use crate::blockstore::Error;

/// How often an entry is created anew because others were quicker.
const ATTEMPTS_MAX: u32 = 64;
/// How often a create is sent whose outcome is unknown.
const CREATES_MAX: usize = 5;
/// How often the log is read from the beginning because it was truncated meanwhile.
const OPENINGS_MAX: u32 = 8;
/// The pause before another attempt, times its number.
const PAUSE: Duration = Duration::from_millis(20);
/// Entries asked for at a time.
const READS_MAX: usize = 16;
/// Entries read between two looks at the one that is known, more or less.
const TOGETHER_MAX: usize = 64;
/// Entries between two checkpoints, at least and at most: a client that begins reads as many.
const ENTRIES_MIN: i64 = 256;
const ENTRIES_MAX: i64 = 2048;
/// Between these, one for so many documents: a checkpoint has them all.
const DOCUMENTS_OF_ENTRY: i64 = 64;

/// See the head of this file. Cheap to clone; every clone is the same.
#[derive(Clone)]
pub(super) struct Log {
    storage: Storage,
    known: Arc<Mutex<Option<State>>>,
    /// The newest checkpoint that this client has heard of.
    checkpoint: Arc<AtomicI64>,
    entries_min: i64,
}

/// What a transaction makes of a state: changes, or another answer.
pub(super) enum Outcome<T> {
    Change(Vec<Change>, T),
    Nothing(T),
}

/// What became of a create.
enum Created {
    /// It is the entry of its number, with that hash.
    Made(Hash),
    /// Another is.
    Taken,
    /// It may be there, now or later.
    Unknown(Error),
}

fn number_name(number: i64) -> String {
    format!("{number:020}")
}

fn entry_name(number: i64) -> String {
    format!("log/{}", number_name(number))
}

/// A checkpoint that may be due.
struct Checkpoint {
    number: i64,
    /// It is not, if there is one above this entry.
    oldest: i64,
    bytes: std::io::Result<Bytes>,
}

/// A state that was read as of now, kept from changing.
pub(super) struct Now<'a>(MutexGuard<'a, Option<State>>);

impl std::ops::Deref for Now<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        self.0.as_ref().expect("it was read before")
    }
}

impl Log {
    pub fn new(storage: Storage) -> Self {
        Self::with_checkpoints(storage, ENTRIES_MIN)
    }

    /// One that makes checkpoints as often as that, where there are few documents.
    pub fn with_checkpoints(storage: Storage, entries_min: i64) -> Self {
        Self { storage, known: Arc::default(), checkpoint: Arc::default(), entries_min }
    }

    /// Creates entry 0, if there is none and no checkpoint.
    pub async fn begin(&self) -> Result<(), Error> {
        if self.storage.list("checkpoints").await?.is_empty() {
            let (bytes, _) = encode(0, &[0; 32], &[]);
            self.storage.create(&entry_name(0), bytes).await?;
        }
        Ok(())
    }

    /// Whether there is a log.
    pub async fn exists(&self) -> Result<bool, Error> {
        let mut known = self.known.lock().await;
        self.refresh(&mut known).await
    }

    /// The documents as of now.
    pub async fn now(&self) -> Result<Now<'_>, Error> {
        let mut known = self.known.lock().await;
        if !self.refresh(&mut known).await? {
            return Err(Error::NoRepository { blockstore: self.storage.name.to_string() });
        }
        Ok(Now(known))
    }

    /// The documents as they were read last.
    pub async fn last(&self) -> Result<Now<'_>, Error> {
        let known = self.known.lock().await;
        if known.is_some() {
            return Ok(Now(known));
        }
        drop(known);
        self.now().await
    }

    /// Reads what is there now (2.1). False if there is no log.
    async fn refresh(&self, known: &mut Option<State>) -> Result<bool, Error> {
        for _ in 0..OPENINGS_MAX {
            if known.is_none() {
                *known = self.open().await?;
            }
            let Some(state) = known else { return Ok(false) };
            match self.read_on(state).await {
                Ok(true) => return Ok(true),
                Ok(false) => *known = None,
                Err(error) => {
                    // What was read in part is no state.
                    known.take_if(|_| matches!(error, Error::DamagedObject { .. }));
                    return Err(error);
                }
            }
        }
        Err(Error::Contended)
    }

    /// Goes on to the last entry. False if that cannot be trusted, since the log was truncated meanwhile: nothing that was read since the
    /// last look at the known entry counts.
    async fn read_on(&self, state: &mut State) -> Result<bool, Error> {
        loop {
            let (mut read, mut is_end) = (Vec::new(), false);
            while read.len() < TOGETHER_MAX && !is_end {
                // One after the other while there is nothing new, and more at a time the more there is.
                let next = state.number + 1 + read.len() as i64;
                let more = next..=next + read.len() as i64;
                let gets = more.map(|number| self.entry(number));
                let mut gets = stream::iter(gets).buffered(READS_MAX);
                while let Some(bytes) = gets.try_next().await? {
                    match bytes {
                        Some(bytes) if !is_end => read.push(bytes),
                        _ => is_end = true,
                    }
                }
            }
            if !self.is_there(state.number, &state.hash).await? {
                return Ok(false);
            }
            for bytes in read {
                self.apply(state, &bytes)?;
            }
            if is_end {
                return Ok(true);
            }
        }
    }

    async fn entry(&self, number: i64) -> Result<Option<Bytes>, Error> {
        self.storage.get(&entry_name(number)).await
    }

    /// Whether the entry that was known is still there, and so all above it.
    async fn is_there(&self, number: i64, hash: &Hash) -> Result<bool, Error> {
        let found = self.entry(number).await?;
        Ok(found.and_then(|bytes| hash_of(&bytes)).as_ref() == Some(hash))
    }

    fn apply(&self, state: &mut State, bytes: &[u8]) -> Result<(), Error> {
        let number = state.number + 1;
        let damaged = || self.damaged(entry_name(number));
        let entry = decode(bytes).filter(|entry| entry.number == number);
        let entry = entry.filter(|entry| entry.prev == state.hash).ok_or_else(damaged)?;
        state.apply(number, entry.hash, &entry.changes).ok_or_else(damaged)
    }

    fn damaged(&self, object: String) -> Error {
        Error::DamagedObject { blockstore: self.storage.name.to_string(), object }
    }

    /// The state to begin with: that of the newest checkpoint, or of entry 0.
    async fn open(&self) -> Result<Option<State>, Error> {
        for _ in 0..OPENINGS_MAX {
            let mut checkpoints = self.storage.list("checkpoints").await?;
            let Some(newest) = checkpoints.pop() else {
                let first = self.entry(0).await?;
                // If there is one by now, the entry may be gone, or none of this log.
                if !self.storage.list("checkpoints").await?.is_empty() {
                    continue;
                }
                let Some(bytes) = first else { return Ok(None) };
                let entry = decode(&bytes).ok_or_else(|| self.damaged(entry_name(0)))?;
                return Ok(Some(State::new(0, entry.hash)));
            };
            let name = format!("checkpoints/{newest}");
            // It may have been deleted since: then there is a newer one.
            let Some(bytes) = self.storage.get(&name).await? else { continue };
            let state = match (decode_checkpoint(&bytes), checkpoints.pop()) {
                (Some(state), _) => state,
                // All entries above the one before it are there still.
                (None, Some(older)) => {
                    tracing::warn!(name, "a checkpoint is damaged: the one before it is read");
                    let name = format!("checkpoints/{older}");
                    let Some(bytes) = self.storage.get(&name).await? else { continue };
                    decode_checkpoint(&bytes).ok_or_else(|| self.damaged(name))?
                }
                (None, None) => return Err(self.damaged(name)),
            };
            self.checkpoint.fetch_max(state.number, Ordering::Relaxed);
            return Ok(Some(state));
        }
        Err(Error::Contended)
    }

    /// Executes something upon the state of now, again and again until what it changes is the next entry (2.2).
    pub async fn transact<T>(
        &self,
        mut execute: impl FnMut(&State) -> Result<Outcome<T>, Error>,
    ) -> Result<Result<T, Error>, Error> {
        let mut known = self.known.lock().await;
        for attempt in 0..ATTEMPTS_MAX {
            if !self.refresh(&mut known).await? {
                return Err(Error::NoRepository { blockstore: self.storage.name.to_string() });
            }
            let state = known.as_mut().expect("it was read");
            let (changes, answer) = match execute(state)? {
                Outcome::Nothing(answer) => return Ok(Ok(answer)),
                Outcome::Change(changes, answer) => (changes, answer),
            };
            match self.create(state, &changes).await? {
                Created::Made(hash) => {
                    let number = state.number + 1;
                    let name = || self.damaged(entry_name(number));
                    state.apply(number, hash, &changes).ok_or_else(name)?;
                    self.after(state, &changes);
                    return Ok(Ok(answer));
                }
                Created::Unknown(error) => {
                    known.take_if(|_| matches!(error, Error::LeftBehind { .. }));
                    return Ok(Err(error));
                }
                Created::Taken => {
                    let spread = rand::random_range(0..=attempt.min(16));
                    tokio::time::sleep(PAUSE * spread).await;
                }
            }
        }
        Err(Error::Contended)
    }

    async fn create(&self, state: &State, changes: &[Change]) -> Result<Created, Error> {
        let name = entry_name(state.number + 1);
        let mut sent = Vec::new();
        loop {
            // Another nonce each time: one that comes late must not pass for the entry that was made of another and truncated since.
            let (bytes, hash) = encode(state.number + 1, &state.hash, changes);
            if bytes.len() > ENTRY_BYTES_MAX {
                return Err(Error::TooMuchAtOnce { bytes: bytes.len() });
            }
            sent.push(hash);
            match self.create_once(state, &name, bytes, &sent).await {
                Ok(created) => return Ok(created),
                Err(error @ Error::LeftBehind { .. }) => return Ok(Created::Unknown(error)),
                Err(error) if error.is_of_connection() && sent.len() < CREATES_MAX => {
                    tracing::debug!(%error, name, "an entry is created again");
                    tokio::time::sleep(PAUSE * sent.len() as u32).await;
                }
                // Whatever went wrong, it may have been created before.
                Err(error) => return Ok(Created::Unknown(error)),
            }
        }
    }

    async fn create_once(
        &self,
        state: &State,
        name: &str,
        bytes: Bytes,
        sent: &[Hash],
    ) -> Result<Created, Error> {
        let own = if self.storage.create(name, bytes).await? {
            sent.last().copied()
        } else {
            // It may be one's own, from an attempt before.
            let found = self.storage.get(name).await?.and_then(|found| hash_of(&found));
            found.filter(|found| sent.contains(found))
        };
        // If not, it may have been the entry of its number, and truncated since; or be that of nothing.
        if !self.is_there(state.number, &state.hash).await? {
            return Err(Error::LeftBehind { blockstore: self.storage.name.to_string() });
        }
        Ok(own.map_or(Created::Taken, Created::Made))
    }

    /// What is to be done behind an entry, and is waited for by nobody: what does not come about is made up for by another.
    fn after(&self, state: &State, changes: &[Change]) {
        let mut quiet = Vec::new();
        for change in changes.iter().filter(|change| change.document.is_none()) {
            if let ("sessions" | "daemons", Some(id)) = (&*change.of, change.id.as_object_id()) {
                quiet.push(format!("beats/{}", id.to_hex()));
            }
        }
        let documents = state.documents();
        let entries = (documents / DOCUMENTS_OF_ENTRY).clamp(self.entries_min, ENTRIES_MAX);
        let oldest = state.number - entries;
        let is_due = self.checkpoint.load(Ordering::Relaxed) <= oldest;
        if quiet.is_empty() && !is_due {
            return;
        }
        let checkpoint = is_due.then(|| {
            // One attempt for so many entries, whatever becomes of it.
            self.checkpoint.store(state.number, Ordering::Relaxed);
            Checkpoint { number: state.number, oldest, bytes: encode_checkpoint(state) }
        });
        let log = self.clone();
        tokio::spawn(async move {
            if let Err(error) = log.tidy(quiet, checkpoint).await {
                tracing::debug!(%error, "the log was not tidied");
            }
        });
    }

    async fn tidy(&self, quiet: Vec<String>, checkpoint: Option<Checkpoint>) -> Result<(), Error> {
        for name in quiet {
            self.storage.delete(&name).await?;
        }
        let Some(Checkpoint { number, oldest, bytes }) = checkpoint else { return Ok(()) };
        let newest = self.storage.list("checkpoints").await?.pop();
        if newest.is_some_and(|newest| newest > number_name(oldest)) {
            return Ok(());
        }
        let bytes = bytes.map_err(|source| Error::Checkpoint { source })?;
        self.storage.create(&format!("checkpoints/{}", number_name(number)), bytes).await?;
        self.truncate().await
    }

    /// Deletes what nobody needs who begins with the older of the two newest checkpoints (2.3).
    async fn truncate(&self) -> Result<(), Error> {
        let checkpoints = self.storage.list("checkpoints").await?;
        let [.., older, _] = &checkpoints[..] else { return Ok(()) };
        for entry in self.storage.list("log").await? {
            if entry < *older {
                self.storage.delete_in_order("log", &entry).await?;
            }
        }
        for checkpoint in &checkpoints {
            if checkpoint < older {
                self.storage.delete(&format!("checkpoints/{checkpoint}")).await?;
            }
        }
        Ok(())
    }
}
