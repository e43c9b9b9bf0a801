//! A blockstore of objects, in a directory or a bucket (page 10).
//!
//! Documents are kept in a log of entries that are created once ([`log`]), blocks in packs ([`pack`]), and where a block is in a
//! catalog that each client makes of the packs' own indexes ([`catalog`]). The commands of page 09 are executed here
//! ([`evaluate`]), upon the state after the last entry; what they change is the next.

mod blocks;
mod catalog;
mod entry;
mod evaluate;
mod index;
mod log;
mod pack;
mod place;
mod probe;
mod state;
mod storage;
mod sweep;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bson::oid::ObjectId;
use bson::{Document, RawDocument, RawDocumentBuf};
use bytes::Bytes;

use super::backend::{
    Answer, Backend, BlockWriter, Ended, Found, Miss, Of, Query, REPOSITORY, SessionOfWriter, Step,
};
use super::groom::{GroomReport, Sweep};
use super::{Error, patience::Patience};
use crate::block::BlockId;
use crate::store::StoredBlock;
use catalog::Catalog;
use evaluate::execute;
use log::{Log, Outcome};
pub use place::is_meant as is_of_objects;
pub use probe::{Probe, Refused, probe};
use state::{Key, State};
use storage::Storage;

/// How long slices are gathered: a commit of them is a pack and an entry.
const GATHER: Duration = Duration::from_secs(2);
/// The collection of packs.
const PACKS: Of = Of("packs");

/// See the head of this file. Cheap to clone; every clone is the same.
#[derive(Clone)]
pub struct Objects {
    storage: Storage,
    log: Log,
    catalog: Catalog,
}

impl Objects {
    /// Reaches a directory or a bucket.
    pub async fn open(uri: &str) -> Result<Self, Error> {
        let objects = Self::of(place::open(uri)?);
        // So that what cannot be reached is told now.
        objects.log.exists().await?;
        Ok(objects)
    }

    fn of(storage: Storage) -> Self {
        let log = Log::new(storage.clone());
        let catalog = Catalog::new(storage.clone(), log.clone());
        Self { storage, log, catalog }
    }

    fn refused(&self, refused: evaluate::Refused) -> Error {
        let blockstore = self.name();
        match refused {
            evaluate::Refused::IsThere(collection) => Error::IsThere { blockstore, collection },
            evaluate::Refused::Missed(_) => Error::NotMade,
            evaluate::Refused::Unknown(collection) => {
                Error::Malformed { blockstore, collection, field: "form" }
            }
        }
    }

    async fn execute(&self, steps: &[Step]) -> Result<Ended, Error> {
        let run = |state: &State| match execute(state, steps) {
            Ok(changes) if changes.is_empty() => Ok(Outcome::Nothing(Ended::Made)),
            Ok(changes) => Ok(Outcome::Change(changes, Ended::Made)),
            Err(evaluate::Refused::Missed(miss)) => Ok(Outcome::Nothing(Ended::Missed(miss))),
            Err(refused) => Err(self.refused(refused)),
        };
        Ok(self.log.transact(run).await?.unwrap_or_else(Ended::Unknown))
    }

    /// Executes one command: whether it matched.
    async fn execute_one(&self, step: Step) -> Result<bool, Error> {
        match self.execute(&[step]).await? {
            Ended::Made => Ok(true),
            Ended::Missed(_) => Ok(false),
            Ended::Unknown(error) => Err(error),
        }
    }

    async fn find_some(&self, of: Of, query: Query) -> Result<Vec<RawDocumentBuf>, Error> {
        let state = match self.log.now().await {
            // Before it is made there is no document that says so.
            Err(Error::NoRepository { .. }) if of == REPOSITORY => return Ok(Vec::new()),
            state => state?,
        };
        let limit = usize::try_from(query.limit).unwrap_or(0);
        evaluate::find(&state, of.0, &query.filter, limit).map_err(|one| self.refused(one))
    }

    /// Begins the log, in a storage that creates a name once only.
    async fn begin(&self) -> Result<(), Error> {
        let probe = format!("probes/{}", ObjectId::new().to_hex());
        let create = |bytes: &'static [u8]| self.storage.create(&probe, Bytes::from_static(bytes));
        let created = [create(b"first").await?, create(b"second").await?];
        self.storage.delete(&probe).await?;
        if created != [true, false] {
            return Err(Error::NoConditions { blockstore: self.name() });
        }
        self.log.begin().await
    }

    async fn beat_once(&self, of: Of, id: ObjectId) -> Result<bool, Error> {
        let key = Key::of(bson::RawBsonRef::ObjectId(id));
        let is_there =
            |state: &State| key.as_ref().is_some_and(|key| state.get(of.0, key).is_some());
        // Looked first: nothing is written where there is no repository any more.
        if !is_there(&*self.log.now().await?) {
            return Ok(false);
        }
        let beat: [u8; 16] = rand::random();
        self.storage.put(&beat_name(id), beat.to_vec().into()).await?;
        Ok(true)
    }

    async fn last_beat(&self, of: Of, document: &RawDocument) -> Result<i64, Error> {
        let malformed = |field| {
            let (blockstore, collection) = (self.name(), of.0);
            Error::Malformed { blockstore, collection, field }
        };
        let id = document.get_object_id("_id").map_err(|_| malformed("_id"))?;
        let mut patience = Patience::default();
        let beat = loop {
            match self.storage.get(&beat_name(id)).await {
                Err(error) => patience.after(error).await?,
                beat => break beat?,
            }
        };
        // Any number does that is another for another beat.
        let hash = blake3::hash(&beat.unwrap_or_default());
        Ok(hash.as_bytes().first_chunk().copied().map_or(0, i64::from_le_bytes))
    }
}

fn beat_name(id: ObjectId) -> String {
    format!("beats/{}", id.to_hex())
}

impl Backend for Objects {
    fn name(&self) -> String {
        self.storage.name.to_string()
    }

    fn gather(&self) -> Duration {
        GATHER
    }

    fn prepare(&self) -> Answer<'_, ()> {
        Box::pin(self.begin())
    }

    fn find(&self, of: Of, query: Query) -> Answer<'_, Vec<RawDocumentBuf>> {
        Box::pin(self.find_some(of, query))
    }

    fn find_at_once(&self, of: Of) -> Answer<'_, Vec<RawDocumentBuf>> {
        Box::pin(self.find_some(of, Query::default()))
    }

    fn update_one(&self, of: Of, filter: Document, change: Document) -> Answer<'_, bool> {
        Box::pin(self.execute_one(Step::Update { of, filter, change, miss: Miss::Block }))
    }

    fn insert_one<'a>(&'a self, of: Of, document: &'a RawDocumentBuf) -> Answer<'a, bool> {
        Box::pin(async move {
            let insert = Step::Insert { of, documents: vec![document.clone()] };
            match self.execute_one(insert).await {
                Err(Error::IsThere { .. }) => Ok(false),
                done => done,
            }
        })
    }

    fn delete_one(&self, of: Of, filter: Document) -> Answer<'_, bool> {
        Box::pin(self.execute_one(Step::Delete { of, filter, miss: Miss::Block }))
    }

    fn transact<'a>(&'a self, steps: &'a [Step]) -> Answer<'a, Ended> {
        Box::pin(self.execute(steps))
    }

    fn beat(&self, of: Of, id: ObjectId) -> Answer<'_, bool> {
        Box::pin(self.beat_once(of, id))
    }

    fn beat_of<'a>(&'a self, of: Of, document: &'a RawDocument) -> Answer<'a, i64> {
        Box::pin(self.last_beat(of, document))
    }

    fn stored<'a>(&'a self, ids: &'a [BlockId]) -> Answer<'a, Vec<StoredBlock>> {
        Box::pin(self.read_blocks(ids))
    }

    fn present<'a>(&'a self, ids: &'a [BlockId]) -> Answer<'a, Vec<Found>> {
        Box::pin(self.find_names(ids))
    }

    fn writer(&self, session: SessionOfWriter) -> Arc<dyn BlockWriter> {
        Arc::new(blocks::Writer::new(self.clone(), session))
    }

    fn sweep(&self, sweep: Sweep) -> Answer<'_, GroomReport> {
        Box::pin(sweep::sweep(self, sweep))
    }
}
