//! Which packs there are, and where blocks are in them (page 10, sections 3 and 4).
//!
//! What is registered is what the log says; the catalog follows it by reading the indexes of packs that are new. Of several copies of
//! a block that can be read, with the dictionary that each is stored with, that in the pack born last counts.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::{Mutex, MutexGuard};

use super::PACKS;
use super::index::{Index, Pack};
use super::log::Log;
use super::pack::{RECORD_BYTES, Record, TRAILER_BYTES, Trailer};
use super::state::State;
use super::storage::Storage;
use crate::block::BlockId;
use crate::blockstore::Error;

/// Indexes of packs that are read at a time.
const READS_MAX: usize = 16;
/// Bytes of an index beside those of its blocks, more or less: dictionaries and the trailer.
const SLACK_BYTES: u64 = 4 << 10;

/// A pack, as it is known here.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub name: String,
    pub born: i64,
    /// Whether it is registered.
    pub lives: bool,
    /// Whether its index could be read.
    pub can_be_read: bool,
    /// Highest generation for which it was asserted, when that was looked at.
    pub stamp: i64,
}

/// See the head of this file. Cheap to clone; every clone is the same.
#[derive(Clone)]
pub(super) struct Catalog {
    storage: Storage,
    log: Log,
    inner: Arc<Mutex<Option<Inner>>>,
}

/// A catalog as of a state.
pub(super) struct Inner {
    pub index: Index,
    pub packs: Vec<Known>,
    by_name: HashMap<String, Pack>,
    /// The indexes of packs that were written here.
    own: BTreeMap<String, Vec<Record>>,
    /// The entry that changed packs last, as far as it was followed.
    followed: Option<i64>,
    /// Whether a dictionary is in a pack that is registered.
    dictionaries: std::sync::Mutex<HashMap<BlockId, bool>>,
}

/// A catalog that does not change meanwhile.
pub(super) struct Looked<'a>(MutexGuard<'a, Option<Inner>>);

impl std::ops::Deref for Looked<'_> {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        self.0.as_ref().expect("it was made before")
    }
}

/// The name of a pack's object.
pub(super) fn object_of(pack: &str) -> String {
    format!("packs/{pack}")
}

/// What the log says of a pack.
struct Registered {
    name: String,
    born: i64,
    stamp: i64,
    bytes: u64,
    blocks: u64,
}

impl Catalog {
    pub fn new(storage: Storage, log: Log) -> Self {
        Self { storage, log, inner: Arc::default() }
    }

    /// As of the state that was read last; at first as of now.
    pub async fn last(&self) -> Result<Looked<'_>, Error> {
        self.look(false).await
    }

    /// As of now.
    pub async fn now(&self) -> Result<Looked<'_>, Error> {
        self.look(true).await
    }

    /// Remembers the index of a pack that was written here, before it is registered.
    pub async fn wrote(&self, pack: &str, records: Vec<Record>) -> Result<(), Error> {
        let mut inner = self.inner.lock().await;
        made(&mut inner)?.own.insert(pack.to_owned(), records);
        Ok(())
    }

    async fn look(&self, refresh: bool) -> Result<Looked<'_>, Error> {
        let mut inner = self.inner.lock().await;
        let catalog = made(&mut inner)?;
        let registered = {
            let state = if refresh { self.log.now().await? } else { self.log.last().await? };
            let changed = state.changed(PACKS.0);
            let is_known = catalog.followed.is_some_and(|followed| followed >= changed);
            let registered = if is_known { None } else { Some(registered(&state)?) };
            registered.map(|registered| (registered, changed))
        };
        if let Some((registered, changed)) = registered {
            if let Err(error) = self.follow(catalog, registered).await {
                // Of an index that could not be written something is missing.
                inner.take_if(|_| matches!(error, Error::Index { .. }));
                return Err(error);
            }
            catalog.followed = Some(changed);
        }
        Ok(Looked(inner))
    }

    async fn follow(&self, catalog: &mut Inner, registered: Vec<Registered>) -> Result<(), Error> {
        catalog.packs.iter_mut().for_each(|pack| pack.lives = false);
        catalog.dictionaries = std::sync::Mutex::default();
        let mut new = Vec::new();
        for one in registered {
            match catalog.by_name.get(&one.name) {
                Some(known) => {
                    let known = &mut catalog.packs[*known as usize];
                    (known.lives, known.stamp) = (true, one.stamp);
                }
                None => new.push(one),
            }
        }
        let own = catalog.own.clone();
        let mut reads = stream::iter(new.into_iter().map(|one| {
            let known = own.get(&one.name).cloned();
            async move {
                let records = match known {
                    Some(records) => Some(records),
                    None => self.read_index(&one.name, one.bytes, one.blocks).await?,
                };
                Ok::<_, Error>((one, records))
            }
        }))
        .buffered(READS_MAX);
        while let Some((one, records)) = reads.try_next().await? {
            // One that cannot be read has nothing, as far as this client is concerned: what it had is written anew.
            if records.is_none() {
                tracing::warn!(pack = one.name, "the index of a pack cannot be read");
            }
            catalog.own.remove(&one.name);
            catalog.add(one, records.as_deref())?;
        }
        Ok(())
    }

    /// The index of a pack; none if it is lost or damaged.
    pub async fn read_index(
        &self,
        pack: &str,
        bytes: u64,
        blocks: u64,
    ) -> Result<Option<Vec<Record>>, Error> {
        let object = object_of(pack);
        let most = blocks.saturating_mul(RECORD_BYTES as u64).saturating_add(SLACK_BYTES);
        let Some(end) = self.storage.get_end(&object, most.min(bytes)).await? else {
            return Ok(None);
        };
        let Some(trailer) = Trailer::read(&end) else { return Ok(None) };
        let range = trailer.index();
        let begin = bytes.saturating_sub(end.len() as u64);
        let index: Option<Bytes> = if range.end != bytes.saturating_sub(TRAILER_BYTES as u64) {
            None
        } else if range.start >= begin {
            Some(end.slice((range.start - begin) as usize..(range.end - begin) as usize))
        } else {
            self.storage.get_range(&object, range).await?
        };
        Ok(index.and_then(|index| trailer.records(&index)))
    }
}

fn made(inner: &mut Option<Inner>) -> Result<&mut Inner, Error> {
    if inner.is_none() {
        let index = Index::new().map_err(|source| Error::Index { source })?;
        *inner = Some(Inner {
            index,
            packs: Vec::new(),
            by_name: HashMap::new(),
            own: BTreeMap::new(),
            followed: None,
            dictionaries: std::sync::Mutex::default(),
        });
    }
    Ok(inner.as_mut().expect("it was made"))
}

fn registered(state: &State) -> Result<Vec<Registered>, Error> {
    let read = |held: &super::state::Held| {
        Some(Registered {
            name: held.document.get_str("_id").ok()?.to_owned(),
            born: held.born,
            stamp: held.document.get_i64("stamp").ok()?,
            bytes: held.document.get_i64("bytes").ok()?.try_into().ok()?,
            blocks: held.document.get_i64("blocks").ok()?.try_into().ok()?,
        })
    };
    let registered: Option<Vec<Registered>> =
        state.all(PACKS.0).map(|(_, held)| read(held)).collect();
    registered.ok_or_else(|| Error::DamagedObject {
        blockstore: "the blockstore".to_owned(),
        object: format!("the documents of packs after entry {}", state.number),
    })
}

/// Which of some copies of a block counts: of those whose dictionary is there, if there are such, the one that was born last.
pub(super) fn counting(
    packs: &[Known],
    copies: &[(Pack, Record)],
    has_dictionary: &mut dyn FnMut(&BlockId) -> Result<bool, Error>,
) -> Result<Option<(Pack, Record)>, Error> {
    let order = |pack: Pack| {
        let pack = &packs[pack as usize];
        (pack.born, pack.name.as_str())
    };
    let mut best: Option<(bool, (Pack, Record))> = None;
    for (pack, record) in copies {
        let can_be_read = match &record.dictionary {
            // Where there is no choice nobody has to know.
            Some(dictionary) if copies.len() > 1 => has_dictionary(dictionary)?,
            _ => true,
        };
        let key = (can_be_read, order(*pack));
        if best.is_none_or(|(can, (pack, _))| (can, order(pack)) < key) {
            best = Some((can_be_read, (*pack, *record)));
        }
    }
    Ok(best.map(|(_, copy)| copy))
}

impl Inner {
    /// Which dictionaries are there, of those that were asked for.
    pub fn dictionaries(&self) -> HashMap<BlockId, bool> {
        self.dictionaries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn add(&mut self, one: Registered, records: Option<&[Record]>) -> Result<(), Error> {
        let number = self.packs.len() as Pack;
        self.by_name.insert(one.name.clone(), number);
        let Registered { name, born, stamp, .. } = one;
        self.packs.push(Known { name, born, lives: true, can_be_read: records.is_some(), stamp });
        let packs = &self.packs;
        let lives = |pack: Pack| packs.get(pack as usize).is_some_and(|pack| pack.lives);
        let records = records.unwrap_or_default();
        self.index.add(number, records, &lives).map_err(|source| Error::Index { source })
    }

    /// Where a block is, in every pack that is registered.
    pub fn copies(&self, id: &BlockId) -> Result<Vec<(Pack, Record)>, Error> {
        let found = self.index.find(id).map_err(|source: io::Error| Error::Index { source })?;
        Ok(found.into_iter().filter(|(pack, _)| self.packs[*pack as usize].lives).collect())
    }

    /// Which of some copies of a block counts.
    pub fn counting(&self, copies: &[(Pack, Record)]) -> Result<Option<(Pack, Record)>, Error> {
        counting(&self.packs, copies, &mut |id| self.has_dictionary(id))
    }

    fn has_dictionary(&self, id: &BlockId) -> Result<bool, Error> {
        let known = |map: &HashMap<BlockId, bool>| map.get(id).copied();
        let mut dictionaries = self.dictionaries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known(&dictionaries) {
            return Ok(known);
        }
        let is_there = !self.copies(id)?.is_empty();
        dictionaries.insert(*id, is_there);
        Ok(is_there)
    }

    /// Where a block is: in the pack that counts.
    pub fn find(&self, id: &BlockId) -> Result<Option<(Pack, Record)>, Error> {
        self.counting(&self.copies(id)?)
    }

    /// The packs that have some blocks, with these.
    pub fn by_pack(&self, ids: &[BlockId]) -> Result<BTreeMap<String, Vec<Record>>, Error> {
        let mut found: BTreeMap<String, Vec<Record>> = BTreeMap::new();
        for id in ids {
            if let Some((pack, record)) = self.find(id)? {
                let name = &self.packs[pack as usize].name;
                found.entry(name.clone()).or_default().push(record);
            }
        }
        Ok(found)
    }
}
