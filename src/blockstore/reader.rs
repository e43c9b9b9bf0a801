//! Reading blocks straight from a blockstore, under pins (page 09, section 7).
//!
//! A reader asks for one block at a time, and a network answers many as fast as one. Trees are read in order, so where a block is asked for
//! that a node names which was read before, those that follow it there are asked for with it. What came along waits in memory of
//! a bounded size.
//!
//! Every block is hashed to its name before it is handed out. Nothing is written but the session and its pins.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bson::doc;
use bson::oid::ObjectId;
use tokio::runtime::Handle;

use super::Error;
use super::backend::{Ended, Found, JOBS, Miss, SNAPSHOTS, Step};
use super::connection::Connection;
use super::patience::Patience;
use super::session::{Purpose, Session};
use crate::block::{self, Block, BlockId, BlockRead, Dictionary, Kind, references};
use crate::head::Manifest;
use crate::store::StoredBlock;

/// Blocks asked for at once.
const TOGETHER: usize = 64;
/// Bytes of blocks that wait to be asked for.
const WAITING_BYTES: usize = 32 << 20;
/// Names of blocks that are gone which the order of the others may hold.
const ORDER_SLACK: usize = 1 << 10;
/// Nodes whose children are known.
const NODES_MAX: usize = 1 << 10;
/// How long ending the session may take.
const LEAVE_LIMIT: Duration = Duration::from_secs(3);
/// Dictionaries kept.
const DICTIONARIES_MAX: usize = 64;
/// How often a block is read anew whose dictionary is not there: it may be stored in another form by then.
const LOOKS_MAX: u32 = 8;

/// A blockstore as a set of blocks. Cheap to clone; every clone is the same.
#[derive(Clone)]
pub struct Reader {
    inner: Arc<Inner>,
}

struct Inner {
    connection: Connection,
    runtime: Handle,
    session: Session,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: Waiting,
    /// Of a block, the node that names it and its place there.
    places: HashMap<BlockId, (Arc<[BlockId]>, usize)>,
    /// The nodes of `places`, oldest first.
    nodes: std::collections::VecDeque<Arc<[BlockId]>>,
    dictionaries: BTreeMap<BlockId, Arc<Dictionary>>,
}

/// Blocks that came along, the first to have come first to go.
#[derive(Default)]
struct Waiting {
    blocks: HashMap<BlockId, Block>,
    order: std::collections::VecDeque<BlockId>,
    bytes: usize,
}

impl Waiting {
    fn add(&mut self, id: BlockId, block: Block) {
        let bytes = block.bytes.len();
        if self.blocks.insert(id, block).is_none() {
            self.order.push_back(id);
            self.bytes += bytes;
        }
        while self.bytes > WAITING_BYTES
            && let Some(oldest) = self.order.pop_front()
        {
            self.take(&oldest);
        }
    }

    fn take(&mut self, id: &BlockId) -> Option<Block> {
        let block = self.blocks.remove(id)?;
        self.bytes -= block.bytes.len();
        // Read in order, they go in the order in which they came.
        while self.order.front().is_some_and(|oldest| !self.blocks.contains_key(oldest)) {
            self.order.pop_front();
        }
        if self.order.len() > 2 * self.blocks.len() + ORDER_SLACK {
            self.order.retain(|id| self.blocks.contains_key(id));
        }
        Some(block)
    }
}

impl Reader {
    /// Starts to read, with every snapshot of a job pinned: they stay, and so do the slices after them, until this reader
    /// and its clones are gone.
    pub async fn start(connection: &Connection, job: &str) -> Result<Self, Error> {
        let session = Session::start(connection, Purpose::Read, None).await?;
        let steps = [
            session.step(),
            Step::Update {
                of: JOBS,
                filter: doc! { "_id": job },
                change: doc! { "$inc": { "pins": 1_i64 } },
                miss: Miss::Job,
            },
            Step::UpdateAll {
                of: SNAPSHOTS,
                filter: doc! { "_id.job": job },
                change: doc! { "$addToSet": { "pins": session.id } },
            },
        ];
        match connection.transact(&steps).await? {
            Ended::Made => {}
            Ended::Missed(_) => return Err(Error::SessionLost),
            Ended::Unknown(error) => return Err(error),
        }
        Ok(Self::of(connection, session))
    }

    /// Reads without pins, in a session that it ends.
    pub(super) fn of(connection: &Connection, session: Session) -> Self {
        let (connection, runtime) = (connection.clone(), Handle::current());
        let inner = Inner { connection, runtime, session, state: Mutex::default() };
        Self { inner: Arc::new(inner) }
    }

    /// Reads blocks as they are stored, in any order; those that are not there are left out.
    pub async fn stored(&self, ids: &[BlockId]) -> Result<Vec<StoredBlock>, Error> {
        self.inner.stored(ids).await
    }

    /// The same, but as many as one answer holds: none are there if none come.
    pub async fn some_stored(&self, ids: &[BlockId]) -> Result<Vec<StoredBlock>, Error> {
        self.inner.some_stored(ids).await
    }

    /// Which of these blocks are there, and the dictionaries that they are stored with.
    pub(crate) async fn present(&self, ids: &[BlockId]) -> Result<Vec<Found>, Error> {
        self.inner.connection.present(ids).await
    }

    /// Reads a stored block's content, checked against its name.
    pub(crate) async fn open(&self, stored: &StoredBlock) -> Result<(), Error> {
        let dictionary = match &stored.dictionary {
            None => None,
            Some(id) => self.dictionary(id).await?,
        };
        self.inner.connection.vault().open(stored, dictionary.as_deref())?;
        Ok(())
    }

    /// Whether a stored block can be read, and is what its name says.
    pub(super) async fn can_open(&self, stored: &StoredBlock) -> Result<bool, Error> {
        match self.open(stored).await {
            Ok(()) => Ok(true),
            Err(Error::Block(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Its session, and the step that writes that.
    pub(super) fn session(&self) -> (ObjectId, Step) {
        (self.inner.session.id, self.inner.session.step())
    }

    /// A dictionary, if it is there.
    pub async fn dictionary(&self, id: &BlockId) -> Result<Option<Arc<Dictionary>>, Error> {
        self.inner.dictionary(id).await
    }

    /// The snapshots of a job that it has pinned, oldest first: others may have come since, and may go.
    pub async fn pinned(&self, job: &str) -> Result<Vec<Manifest>, Error> {
        let id = self.inner.connection.vault().hidden(job);
        self.inner.connection.pinned(&id, self.inner.session.id).await
    }

    /// Whether the pins still hold.
    pub async fn check(&self) -> Result<(), Error> {
        self.inner.session.check_now().await
    }
}

impl Inner {
    async fn stored(&self, ids: &[BlockId]) -> Result<Vec<StoredBlock>, Error> {
        let mut found = self.some_stored(ids).await?;
        while found.len() < ids.len() {
            let there: HashSet<BlockId> = found.iter().map(|block| block.id).collect();
            let open: Vec<BlockId> = ids.iter().filter(|id| !there.contains(id)).copied().collect();
            let more = self.some_stored(&open).await?;
            if more.is_empty() {
                break;
            }
            found.extend(more);
        }
        Ok(found)
    }

    async fn some_stored(&self, ids: &[BlockId]) -> Result<Vec<StoredBlock>, Error> {
        let mut patience = Patience::default();
        loop {
            match self.connection.stored(ids).await {
                Err(error) => patience.after(error).await?,
                found => return found,
            }
        }
    }

    async fn dictionary(&self, id: &BlockId) -> Result<Option<Arc<Dictionary>>, Error> {
        if let Some(known) = self.lock().dictionaries.get(id) {
            return Ok(Some(known.clone()));
        }
        let Some(block) = self.stored(&[*id]).await?.pop() else { return Ok(None) };
        let raw = self.connection.vault().open(&block, None)?;
        let dictionary = Arc::new(Dictionary::new(*id, raw));
        let mut state = self.lock();
        if state.dictionaries.len() >= DICTIONARIES_MAX {
            state.dictionaries.pop_first();
        }
        state.dictionaries.insert(*id, dictionary.clone());
        Ok(Some(dictionary))
    }

    /// Fetches a block, and those that will be asked for next.
    async fn fetch(&self, id: &BlockId, along: &[BlockId]) -> Result<Block, Error> {
        self.session.check()?;
        let mut ids = vec![*id];
        ids.extend(along);
        for _ in 0..LOOKS_MAX {
            let mut wanted = None;
            let mut lacks = false;
            for stored in self.stored(&ids).await? {
                let dictionary = match &stored.dictionary {
                    None => None,
                    Some(used) => self.dictionary(used).await?,
                };
                if stored.dictionary.is_some() && dictionary.is_none() {
                    lacks |= stored.id == *id;
                    continue;
                }
                let opened = self.connection.vault().open(&stored, dictionary.as_deref());
                if stored.id == *id {
                    wanted = Some(Block { kind: stored.kind, bytes: opened? });
                } else if let Ok(bytes) = opened {
                    self.lock().waiting.add(stored.id, Block { kind: stored.kind, bytes });
                }
            }
            match wanted {
                Some(block) => return Ok(block),
                None if lacks => {}
                None => break,
            }
        }
        // That it is missing counts only while the pins hold.
        self.session.check_now().await?;
        Err(block::Error::Missing { id: *id }.into())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Remembers what a node names, since that will be asked for in order.
    fn note(&mut self, block: &Block) {
        let Ok(named) = references(block.kind, &block.bytes) else { return };
        let named: Arc<[BlockId]> = named.into();
        for (place, id) in named.iter().enumerate() {
            self.places.insert(*id, (named.clone(), place));
        }
        self.nodes.push_back(named);
        if self.nodes.len() > NODES_MAX
            && let Some(oldest) = self.nodes.pop_front()
        {
            for id in oldest.iter() {
                if self.places.get(id).is_some_and(|(of, _)| Arc::ptr_eq(of, &oldest)) {
                    self.places.remove(id);
                }
            }
        }
    }

    /// What follows a block in its node.
    fn following(&self, id: &BlockId) -> Vec<BlockId> {
        let Some((named, place)) = self.places.get(id) else { return Vec::new() };
        let rest = named[place + 1..].iter().filter(|one| !self.waiting.blocks.contains_key(one));
        rest.take(TOGETHER - 1).copied().collect()
    }
}

impl BlockRead for Reader {
    fn get(&self, id: &BlockId) -> Result<Block, block::Error> {
        let (waiting, along) = {
            let mut state = self.inner.lock();
            (state.waiting.take(id), state.following(id))
        };
        let block = match waiting {
            Some(block) => block,
            None => self.block_on(self.inner.fetch(id, &along))?,
        };
        if block.kind == Kind::Node {
            self.inner.lock().note(&block);
        }
        Ok(block)
    }

    fn kind_of(&self, id: &BlockId) -> Result<Option<Kind>, block::Error> {
        match self.get(id) {
            Ok(block) => {
                let kind = block.kind;
                self.inner.lock().waiting.add(*id, block);
                Ok(Some(kind))
            }
            Err(block::Error::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Reader {
    fn block_on<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, block::Error> {
        let done = tokio::task::block_in_place(|| self.inner.runtime.block_on(work));
        done.map_err(|error| match error {
            Error::Block(error) => error,
            error => block::Error::Backend(Box::new(error)),
        })
    }
}

impl Drop for Inner {
    /// Lets the pins go now instead of after the lease, if that does not take long. The runtime may be going down, with nobody left
    /// to tell the time: so it is asked to do that, and the limit is not its own.
    fn drop(&mut self) {
        let (connection, id) = (self.connection.clone(), self.session.id);
        let (told, ended) = std::sync::mpsc::channel();
        self.runtime.spawn(async move {
            // Nobody listens any more once it took too long.
            drop(told.send(super::session::end(&connection, id, None).await));
        });
        match tokio::task::block_in_place(|| ended.recv_timeout(LEAVE_LIMIT)) {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a session is left to its lease"),
            Err(_) => tracing::debug!("a session is left to its lease"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read in order, as a restore does it, leaves nothing behind; nor does what is read in any other.
    #[test]
    fn nothing_is_remembered_of_what_was_taken() {
        let id = |number: u32| BlockId::from_bytes(*blake3::hash(&number.to_le_bytes()).as_bytes());
        let block = || Block { kind: Kind::Leaf, bytes: vec![0; 64].into() };
        let mut waiting = Waiting::default();
        waiting.add(id(u32::MAX), block());
        for number in 0..100_000 {
            waiting.add(id(number), block());
            waiting.take(&id(number)).expect("it waits");
        }
        assert!(waiting.order.len() <= ORDER_SLACK + 3, "{} names", waiting.order.len());
        waiting.take(&id(u32::MAX)).expect("it waits");
        assert!(waiting.order.is_empty() && waiting.bytes == 0);
    }
}
