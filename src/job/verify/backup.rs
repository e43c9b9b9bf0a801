//! The backup's side: its head, brought to an optime of the source.
//!
//! The head as last committed is opened over a scratch store, and the slices after it are applied up
//! to the optime. The store is read as of two commits: the first is from before the optime was chosen,
//! so that the head cannot be beyond it; the second has the slices that a daemon stored since. What
//! neither has, because nobody follows the source, comes from the source's oplog itself, which must go
//! on from the backup's last entry.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bson::RawDocument;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::head::{self, Collection, Head};
use crate::job::apply::{CHANGE_BUDGET_BYTES, is_before_5};
use crate::job::slices::{self, SliceChain};
use crate::job::{Error, Figures, State, blocking, pick, read};
use crate::oplog::slice::entries;
use crate::oplog::{OpTime, Position, Ts, Uuid, position};
use crate::restore::{Cancel, Overlay};
use crate::source::Source;
use crate::store::{Location, Store};

/// How long a daemon may take to store the entry that the source was read at: it commits a slice a
/// second.
const RECEIVED_WAIT: Duration = Duration::from_secs(5);
/// Time between looks whether it has.
const RECEIVED_POLL: Duration = Duration::from_millis(200);
/// How long is waited for transactions to be decided that were prepared at or before the optime. Their
/// coordinator decides in less unless it is lost.
const DECIDED_WAIT: Duration = Duration::from_secs(60);
/// Entries between two looks at the request to stop.
const ENTRIES_PER_CHECK: usize = 1 << 10;

/// A job of a store, read as of one commit, and a scratch store over it.
pub struct Opened {
    /// The job's name.
    pub job: String,
    /// Its state.
    pub state: State,
    /// Blocks of the store and of the scratch store. The scratch store alone is written.
    pub blocks: Arc<Overlay>,
    scratch: TempDir,
    store: Store,
}

impl Opened {
    /// Opens a job for reading. Blocks.
    ///
    /// # Errors
    /// Those of [`crate::job::open_backup`], [`Error::Scratch`].
    pub fn open(location: &Location, job: Option<&str>) -> Result<Self, Error> {
        let (store, job, state) = open(location, job)?;
        let parent = store.scratch_dir();
        let scratch = tempfile::Builder::new().prefix("verify-").tempdir_in(&parent);
        let scratch = scratch.map_err(|source| Error::Scratch { path: parent, source })?;
        let derived = store.scratch(&scratch.path().join("blocks"))?;
        let blocks = Arc::new(Overlay::new(Arc::new(store.clone()), derived));
        Ok(Self { job, state, blocks, scratch, store })
    }

    /// The repository salt.
    pub fn salt(&self) -> crate::store::RepositorySalt {
        self.store.salt()
    }

    /// What a head over the scratch store needs; `name` is that of its directory.
    pub fn config(&self, name: &str) -> Result<head::Config, Error> {
        let scratch_dir = self.scratch.path().join(name);
        std::fs::create_dir(&scratch_dir)
            .map_err(|source| Error::Scratch { path: scratch_dir.clone(), source })?;
        Ok(head::Config {
            salt: self.salt(),
            scope: self.state.scope.clone(),
            scratch_dir,
            seals_scratch: self.store.is_encrypted(),
            change_budget_bytes: CHANGE_BUDGET_BYTES,
            trims_capped_unlogged: is_before_5(&self.state.identity.server_version),
        })
    }

    fn head(&self) -> Result<Head, Error> {
        let root = self.state.head.as_ref().filter(|_| self.state.is_consistent());
        let root = root.ok_or_else(|| Error::NotConsistent { job: self.job.clone() })?;
        Ok(Head::load(self.blocks.clone(), self.config("backup")?, root)?)
    }
}

fn open(location: &Location, job: Option<&str>) -> Result<(Store, String, State), Error> {
    let store = read::open(location)?;
    let (job, id) = pick(&store, job)?;
    let state = State::read(&store, &id)?;
    Ok((store, job, state))
}

/// The backup at an optime.
pub struct Brought {
    /// Its collections.
    pub collections: Vec<Collection>,
    /// Names of collections whose documents it has not, by UUID.
    pub absent: BTreeMap<Uuid, String>,
    /// Entries that only the source's oplog had.
    pub entries_ahead: u64,
}

/// Brings the head of an opened backup to an entry of the source's oplog. With `decide`, what was
/// prepared at or before it and is visible there is in it, as a read of that moment shows it.
///
/// # Errors
/// [`Error::AnotherHistory`] if the backup has not that entry where the source has it,
/// [`Error::Undecided`], [`Error::Cancelled`], and those of reading the store and the source.
pub async fn bring(
    opened: &Arc<Opened>,
    location: &Location,
    source: &Source,
    (to, decide): (Position, bool),
    figures: &Figures,
    cancel: &Cancel,
) -> Result<Brought, Error> {
    let later = later(opened, location, to.optime.ts).await?;
    let (opened, figures, cancel) = (opened.clone(), figures.clone(), cancel.clone());
    let job = opened.job.clone();
    let mut advance = blocking("verifier", &job, move || {
        let head = opened.head()?;
        let mut advance = Advance::new(opened, head, (to.optime, decide), figures, cancel);
        advance.stored()?;
        if let Some((store, slices)) = later {
            // Where some have expired since, the source's oplog has what they had.
            advance.slices(&store, &slices)?;
        }
        Ok(advance)
    })
    .await?;
    advance.ahead = true;
    if !advance.finished {
        let mut tail = source.tail(advance.last, false).await?;
        let mut reached: Option<Instant> = None;
        while !advance.finished {
            let batch = tail.next().await?;
            advance = blocking("verifier", &job, move || advance.take(&batch)).await?;
            if advance.head.position().optime == to.optime {
                let since = *reached.get_or_insert_with(Instant::now);
                if !advance.finished && since.elapsed() > DECIDED_WAIT {
                    return Err(Error::Undecided { job, at: to.optime });
                }
            }
        }
    }
    blocking("verifier", &job, move || advance.finish()).await
}

/// The slices of a later commit of the store, one that has the optime if a daemon is at work.
async fn later(
    opened: &Arc<Opened>,
    location: &Location,
    ts: Ts,
) -> Result<Option<(Store, SliceChain)>, Error> {
    let received = |state: &State| state.received.is_some_and(|last| last.optime.ts >= ts);
    if received(&opened.state) {
        return Ok(None);
    }
    let deadline = Instant::now() + RECEIVED_WAIT;
    loop {
        let (location, job) = (location.clone(), opened.job.clone());
        let reopen = move || open(&location, Some(&job));
        let (store, _, state) = blocking("verifier", &opened.job, reopen).await?;
        if received(&state) || Instant::now() >= deadline {
            return Ok(Some((store, state.slices)));
        }
        tokio::time::sleep(RECEIVED_POLL).await;
    }
}

/// A head under way to an optime.
struct Advance {
    opened: Arc<Opened>,
    head: Head,
    to: OpTime,
    /// Whether transactions prepared at or before `to` are still to be decided.
    decide: bool,
    /// Whether entries now come from the source's oplog.
    ahead: bool,
    entries_ahead: u64,
    /// The last entry seen.
    last: OpTime,
    /// Whether nothing more is needed.
    finished: bool,
    figures: Figures,
    cancel: Cancel,
}

impl Advance {
    fn new(
        opened: Arc<Opened>,
        head: Head,
        (to, decide): (OpTime, bool),
        figures: Figures,
        cancel: Cancel,
    ) -> Self {
        let last = head.position().optime;
        let mut advance = Self {
            opened,
            head,
            to,
            decide,
            ahead: false,
            entries_ahead: 0,
            last,
            finished: false,
            figures,
            cancel,
        };
        advance.finished = last == to && advance.decided();
        advance
    }

    fn decided(&self) -> bool {
        !self.decide || self.head.undecided().is_empty()
    }

    /// Applies the slices that the head has not.
    fn stored(&mut self) -> Result<(), Error> {
        let opened = self.opened.clone();
        if self.slices(&opened.store, &opened.state.slices)? {
            return Ok(());
        }
        Err(Error::Gap { job: opened.job.clone(), after: self.last })
    }

    /// Applies slices that go on from where the head is; false if there are later ones that do not.
    fn slices(&mut self, store: &Store, slices: &SliceChain) -> Result<bool, Error> {
        while !self.finished {
            let next = Ts { inc: self.last.ts.inc.saturating_add(1), ..self.last.ts };
            let Some(slice) = slices.first_from(store, next)? else { return Ok(true) };
            if slice.header.follows(self.last).is_err() {
                return Ok(false);
            }
            self.entries(&slices::read(&slice, store)?)?;
        }
        Ok(true)
    }

    /// Applies a batch of entries.
    fn take(mut self, batch: &[u8]) -> Result<Self, Error> {
        self.entries(batch)?;
        Ok(self)
    }

    fn entries(&mut self, batch: &[u8]) -> Result<(), Error> {
        for (index, entry) in entries(batch).enumerate() {
            if index % ENTRIES_PER_CHECK == 0 && self.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            if self.finished {
                return Ok(());
            }
            self.entry(entry?)?;
        }
        Ok(())
    }

    fn entry(&mut self, entry: &RawDocument) -> Result<(), Error> {
        let at = position(entry)?;
        self.last = at.optime;
        if at.optime.ts <= self.to.ts {
            self.head.apply(entry)?;
            self.entries_ahead += u64::from(self.ahead);
            self.figures.applied(1, at);
            if self.head.flush_due() {
                self.head.flush(&*self.opened.blocks)?;
            }
            self.finished = at.optime == self.to && self.decided();
            return Ok(());
        }
        let reached = self.head.position().optime;
        if reached != self.to {
            let job = self.opened.job.clone();
            return Err(Error::AnotherHistory { job, expected: self.to, found: reached });
        }
        self.finished = self.decided() || self.head.decide(entry, self.to.ts)?;
        Ok(())
    }

    fn finish(mut self) -> Result<Brought, Error> {
        self.head.flush(&*self.opened.blocks)?;
        let collections = self.head.collections().into_iter().cloned().collect();
        let absent = self.head.absent().clone();
        Ok(Brought { collections, absent, entries_ahead: self.entries_ahead })
    }
}
