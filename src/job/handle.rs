//! A job open for writing: its state in memory, and the one way to change it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Error, State};
use crate::block::BlockId;
use crate::source::{self, Identity, Source};
use crate::store::{Location, Session, Store};

/// Bytes of the longest job name. It becomes a key of every commit and part of messages.
pub const NAME_BYTES_MAX: usize = 128;

/// A job of a store open for writing. Cheap to clone; every clone is the same job.
#[derive(Clone)]
pub struct Job {
    store: Store,
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    /// The committed state. Held while a change is committed, so that changes follow one another.
    committed: Mutex<Committed>,
}

/// A state and the block it was read from or written as; none before the first commit.
struct Committed {
    id: Option<BlockId>,
    state: State,
}

impl Job {
    /// Opens the job of a source, making the store and the job where they do not exist yet. With
    /// `new_timeline` the job may have backed up another replica set before.
    ///
    /// # Errors
    /// [`Error::AnotherSet`] if the job backs up another replica set; [`Error::Store`], among them
    /// that another process writes the store; those of asking the source.
    pub async fn open_or_create(
        location: impl Into<Location>,
        name: Option<&str>,
        source: &Source,
        new_timeline: bool,
    ) -> Result<Self, Error> {
        let location = location.into();
        let identity = source.identity().await?;
        if !source::TESTED_VERSIONS.contains(&identity.server_version.as_str()) {
            tracing::warn!(
                "the source is MongoDB {}; Headstock is tested with {} and built from the \
                 documented behaviour of other versions",
                identity.server_version,
                source::TESTED_VERSIONS.join(", ")
            );
        }
        let name = name.unwrap_or(&identity.set_name).to_owned();
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(char::is_control) {
            return Err(Error::BadName { name, max: NAME_BYTES_MAX });
        }
        super::blocking("opener", &name.clone(), move || {
            let store = match Store::exists(&location.dir) {
                true => Store::open(&location.dir, location.options())?,
                false => Store::create(&location.dir, location.options())?,
            };
            Self::in_store(store, name, identity, new_timeline)
        })
        .await
    }

    fn in_store(
        store: Store,
        name: String,
        identity: Identity,
        new_timeline: bool,
    ) -> Result<Self, Error> {
        let id = store.roots().1.get(&name).copied();
        let state = match &id {
            Some(id) => State::read(&store, id)?,
            None => State::new(name.clone(), identity.clone(), now_ms()),
        };
        let same = state.identity.replica_set_id == identity.replica_set_id
            && state.identity.set_name == identity.set_name;
        if !new_timeline && !same {
            return Err(Error::AnotherSet {
                job: name,
                expected: describe(&state.identity),
                found: describe(&identity),
            });
        }
        // Another set counts from the scan on that begins the new timeline: what the job has is not its.
        let changed = (same && state.identity != identity) || id.is_none();
        let job = Self::of(store, name, Committed { id, state });
        if changed {
            // A daemon must start on a full disk, too: it is the one that gives space back.
            let job = job.reclaiming();
            job.update(&job.store().session(), |state| {
                state.identity = identity;
                Ok(())
            })?;
        }
        Ok(job)
    }

    /// Opens an existing job of a store that is open for writing.
    ///
    /// # Errors
    /// [`Error::NoSuchJob`], [`Error::WhichJob`], and those of reading the state.
    pub fn open(store: Store, name: Option<&str>) -> Result<Self, Error> {
        let (name, id) = super::pick(&store, name)?;
        let state = State::read(&store, &id)?;
        Ok(Self::of(store, name, Committed { id: Some(id), state }))
    }

    fn of(store: Store, name: String, committed: Committed) -> Self {
        Self { store, inner: Arc::new(Inner { name, committed: Mutex::new(committed) }) }
    }

    /// The same job for small changes that let others go, see [`Store::reclaiming`].
    pub(super) fn reclaiming(&self) -> Self {
        Self { store: self.store.reclaiming(), inner: Arc::clone(&self.inner) }
    }

    /// The job's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The store it lives in.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The committed state.
    #[must_use]
    pub fn state(&self) -> State {
        self.lock().state.clone()
    }

    /// Changes the state and commits it: what `change` does is durable when this returns, or has
    /// not happened. The session must be older than any block put for the change. Blocks; not for
    /// asynchronous code.
    ///
    /// # Errors
    /// [`Error::Overtaken`] if the job was changed through another [`Job::open`] since this one read
    /// it, and those of `change` and of the commit.
    pub fn update<T>(
        &self,
        _session: &Session,
        change: impl FnOnce(&mut State) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut committed = self.lock();
        let mut state = committed.state.clone();
        let result = change(&mut state)?;
        let id = state.write(&self.store)?;
        let mut overtaken = false;
        self.store.commit(|roots| {
            overtaken = roots.get(self.name()) != committed.id.as_ref();
            if !overtaken {
                roots.insert(self.name().to_owned(), id);
            }
        })?;
        if overtaken {
            return Err(Error::Overtaken { job: self.name().to_owned() });
        }
        *committed = Committed { id: Some(id), state };
        Ok(result)
    }

    /// The state is replaced only after its commit, so one left by a panic is still the committed.
    fn lock(&self) -> MutexGuard<'_, Committed> {
        self.inner.committed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn describe(identity: &Identity) -> String {
    format!("{} ({})", identity.set_name, super::hex(&identity.replica_set_id))
}

/// Milliseconds since the Unix epoch by this machine's clock. Only for what is shown to people and
/// for the age of snapshots; order never depends on it.
#[must_use]
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
