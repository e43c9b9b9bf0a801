//! Assertion: making sure that blocks are there, and stay until a commit names them (page 09, section 3.3).
//!
//! Presence is asserted, never believed: what is there gets the stamp of the session, what is not is inserted with it, and nothing else is
//! proof. A block that is there may be stored with a dictionary that somebody else chose, which is asserted with it; one whose
//! dictionary is gone is stored anew.
//!
//! Everything here can be done again, late or twice without harm.

use std::collections::HashSet;
use std::future::IntoFuture as _;
use std::sync::{Arc, PoisonError};

use bson::raw::cstr;
use bson::spec::BinarySubtype;
use bson::{Binary, Document, RawBsonRef, RawDocument, RawDocumentBuf, doc, rawdoc};
use futures::future::BoxFuture;
use mongodb::error::ErrorKind;
use tokio::sync::Mutex;

use super::Error;
use super::connect::{BLOCKS, Connection, DUPLICATE_KEY, TRANSFER_LIMIT};
use super::pace::Pace;
use super::patience::Patience;
use super::transaction::{Ended, Miss, Step};
use crate::block::{self, BlockId, BlockRead as _, Codec, Kind};
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
    connection: Connection,
    store: Store,
    session: Step,
    stamp: i64,
    /// Those that were asserted; few.
    dictionaries: Mutex<HashSet<BlockId>>,
    sent: std::sync::Mutex<Sent>,
    pace: Pace,
}

/// A block that was found, and the dictionary that it is stored with.
struct Found {
    id: BlockId,
    dictionary: Option<BlockId>,
}

impl Asserter {
    /// `session`: the step that writes it.
    pub fn new(
        connection: &Connection,
        store: &Store,
        session: Step,
        stamp: i64,
        pace: Pace,
    ) -> Self {
        let (connection, store) = (connection.clone(), store.clone());
        let inner = Inner {
            connection,
            store,
            session,
            stamp,
            dictionaries: Mutex::default(),
            sent: std::sync::Mutex::default(),
            pace,
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
        self.store_in_form(id, doc! { "_id": name(&id) }).await
    }

    /// Asserts some blocks, at most [`NAMES_MAX`].
    pub async fn assert(&self, names: Vec<BlockId>) -> Result<(), Error> {
        let mut open = names;
        open.sort_unstable();
        open.dedup();
        let count = open.len() as u64;
        for _ in 0..ROUNDS_MAX {
            let mut patience = Patience::default();
            open = loop {
                match self.round(&open).await {
                    Err(error) => patience.after(error).await?,
                    again => break again?,
                }
            };
            if open.is_empty() {
                self.count(|sent| sent.asserted += count);
                return Ok(());
            }
        }
        Err(Error::Contended)
    }

    /// Returns those that have to be looked for again.
    async fn round(&self, open: &[BlockId]) -> Result<Vec<BlockId>, Error> {
        let found = self.touch(open).await?;
        let there: HashSet<BlockId> = found.iter().map(|found| found.id).collect();
        let mut again = Vec::new();
        for Found { id, dictionary } in found {
            if let Some(dictionary) = dictionary
                && !self.assert_dictionary(dictionary).await?
            {
                self.store_anew(id, dictionary).await?;
                again.push(id);
            }
        }
        let missing = open.iter().filter(|id| !there.contains(id)).copied().collect();
        again.extend(self.insert_missing(missing).await?);
        Ok(again)
    }

    /// Raises the stamps of those that are there, and tells which these are.
    async fn touch(&self, open: &[BlockId]) -> Result<Vec<Found>, Error> {
        let names: Vec<Binary> = open.iter().map(name).collect();
        let found = self.inner.connection.raise(names, self.inner.stamp).await?;
        found.iter().map(|document| self.found(document)).collect()
    }

    fn found(&self, document: &RawDocument) -> Result<Found, Error> {
        let malformed = |field| self.inner.connection.malformed(BLOCKS, field);
        let id = document.get("_id").ok().flatten().and_then(name_of);
        let dictionary = match document.get("dict").map_err(|_| malformed("dict"))? {
            None => None,
            Some(value) => Some(name_of(value).ok_or_else(|| malformed("dict"))?),
        };
        Ok(Found { id: id.ok_or_else(|| malformed("_id"))?, dictionary })
    }

    /// Asserts a dictionary: false if it is neither there nor here.
    async fn assert_dictionary(&self, id: BlockId) -> Result<bool, Error> {
        let mut asserted = self.inner.dictionaries.lock().await;
        if asserted.contains(&id) {
            return Ok(true);
        }
        for _ in 0..ROUNDS_MAX {
            // It uses none itself, so to have matched is enough.
            let raised = self.inner.connection.update_one(
                BLOCKS,
                doc! { "_id": name(&id) },
                doc! { "$max": { "stamp": self.inner.stamp } },
            );
            if raised.await? {
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
            if self.insert(&block).await?.is_empty() {
                asserted.insert(id);
                return Ok(true);
            }
        }
        Err(Error::Contended)
    }

    /// Stores a block in another form, whose dictionary is gone.
    async fn store_anew(&self, id: BlockId, missing: BlockId) -> Result<(), Error> {
        self.store_in_form(id, doc! { "_id": name(&id), "dict": name(&missing) }).await
    }

    /// Gives the block that a filter finds the form that it has here.
    async fn store_in_form(&self, id: BlockId, filter: Document) -> Result<(), Error> {
        let block = self.stored(vec![id]).await?.remove(0);
        if let Some(dictionary) = block.dictionary
            && !self.assert_dictionary(dictionary).await?
        {
            return Err(block::Error::Missing { id: dictionary }.into());
        }
        let mut change = doc! { "$max": { "stamp": self.inner.stamp } };
        let form = document(&block, self.inner.stamp)?;
        let mut set = bson::Document::try_from(&*form)
            .map_err(|_| self.inner.connection.malformed(BLOCKS, "form"))?;
        ["_id", "kind", "stamp"].iter().for_each(|field| _ = set.remove(field));
        if block.dictionary.is_none() {
            change.insert("$unset", doc! { "dict": "" });
        }
        change.insert("$set", set);
        let steps = [
            self.inner.session.clone(),
            Step::Update { of: BLOCKS, filter, change, miss: Miss::Snapshot },
        ];
        match self.inner.connection.transact(&steps).await? {
            Ended::Made | Ended::Missed(Miss::Snapshot) => Ok(()),
            Ended::Missed(_) => Err(Error::SessionLost),
            Ended::Unknown(error) => Err(error),
        }
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
            again.extend(self.insert(&batch).await?);
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
    async fn insert(&self, batch: &[StoredBlock]) -> Result<Vec<BlockId>, Error> {
        let inner = &*self.inner;
        let documents = batch.iter().map(|block| document(block, inner.stamp));
        let documents = documents.collect::<Result<Vec<RawDocumentBuf>, Error>>()?;
        let bytes: u64 = batch.iter().map(|block| block.bytes.len() as u64).sum();
        inner.pace.wait(bytes).await;
        let mut session = inner.connection.begin().await?;
        let blocks = inner.connection.of(BLOCKS);
        let insert = blocks.insert_many(&documents).ordered(false).session(&mut session);
        let inserted = inner.connection.ask_within(TRANSFER_LIMIT, "insert", insert.into_future());
        let inserted = inserted.await;
        inner.connection.saw(&session);
        let there = match inserted {
            Ok(_) => Vec::new(),
            Err(error) => duplicates(&error, batch).ok_or(error)?,
        };
        let is_there: HashSet<&BlockId> = there.iter().collect();
        self.count(|sent| {
            for block in batch.iter().filter(|block| !is_there.contains(&block.id)) {
                sent.blocks += 1;
                sent.bytes += block.bytes.len() as u64;
            }
        });
        Ok(there)
    }

    fn count(&self, add: impl FnOnce(&mut Sent)) {
        add(&mut self.inner.sent.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Connection {
    /// Raises the stamps of blocks, and reads which of them have it then, and their dictionaries.
    fn raise(
        &self,
        names: Vec<Binary>,
        stamp: i64,
    ) -> BoxFuture<'_, Result<Vec<RawDocumentBuf>, Error>> {
        Box::pin(async move {
            let mut session = self.begin().await?;
            let blocks = self.of(BLOCKS);
            let filter = doc! { "_id": { "$in": &names } };
            let touch = blocks.update_many(filter, doc! { "$max": { "stamp": stamp } });
            let touched = self.ask("update", touch.session(&mut session).into_future()).await?;
            let mut found = Vec::new();
            if touched.matched_count > 0 {
                let filter = doc! { "_id": { "$in": &names }, "stamp": { "$gte": stamp } };
                let find = blocks.find(filter).projection(doc! { "dict": 1 });
                let mut cursor = self.ask("find", find.session(&mut session).into_future()).await?;
                while self.ask("getMore", cursor.advance(&mut session)).await? {
                    found.push(cursor.current().to_owned());
                }
            }
            self.saw(&session);
            Ok(found)
        })
    }
}

/// The blocks that an insertion found to be there, if that and nothing else went wrong.
fn duplicates(error: &Error, batch: &[StoredBlock]) -> Option<Vec<BlockId>> {
    let Error::Driver { source, .. } = error else { return None };
    let ErrorKind::InsertMany(many) = source.kind.as_ref() else { return None };
    if many.write_concern_error.is_some() {
        return None;
    }
    let of = |error: &mongodb::error::IndexedWriteError| {
        let block = batch.get(error.index)?;
        (error.code == DUPLICATE_KEY).then_some(block.id)
    };
    many.write_errors.as_ref()?.iter().map(of).collect()
}

/// A block's name as a BSON value of this database.
pub(super) fn name(id: &BlockId) -> Binary {
    Binary { subtype: BinarySubtype::Generic, bytes: id.as_bytes().to_vec() }
}

/// The name that such a value is.
pub(super) fn name_of(value: RawBsonRef<'_>) -> Option<BlockId> {
    value.as_binary().and_then(|binary| BlockId::from_slice(binary.bytes))
}

/// The document of a block.
fn document(block: &StoredBlock, stamp: i64) -> Result<RawDocumentBuf, Error> {
    let too_large = |_| block::Error::TooLarge { len: block.bytes.len() };
    let mut out = rawdoc! {
        "_id": name(&block.id),
        "kind": i32::from(block.kind.to_byte()),
        "codec": i32::from(block.codec.to_byte()),
        "epoch": block.epoch(),
        "raw": block.raw_len.cast_signed(),
        "len": i32::try_from(block.bytes.len()).map_err(too_large)?,
        "stamp": stamp,
    };
    if let Some(dictionary) = &block.dictionary {
        out.append(cstr!("dict"), name(dictionary));
    }
    let data = Binary { subtype: BinarySubtype::Generic, bytes: block.bytes.clone() };
    out.append(cstr!("data"), data);
    Ok(out)
}

/// Reads the document of a block.
pub(super) fn block_of(
    connection: &Connection,
    document: &RawDocument,
) -> Result<StoredBlock, Error> {
    let malformed = |field: &'static str| connection.malformed(BLOCKS, field);
    let number = |field: &'static str| document.get_i32(field).map_err(|_| malformed(field));
    let byte = |field| u8::try_from(number(field)?).map_err(|_| malformed(field));
    let id = document.get("_id").ok().flatten().and_then(name_of);
    let dictionary = document.get("dict").map_err(|_| malformed("dict"))?;
    let dictionary = dictionary.map(|value| name_of(value).ok_or_else(|| malformed("dict")));
    let data = document.get_binary("data").map_err(|_| malformed("data"))?;
    Ok(StoredBlock {
        id: id.ok_or_else(|| malformed("_id"))?,
        kind: Kind::from_byte(byte("kind")?).ok_or_else(|| malformed("kind"))?,
        codec: Codec::from_byte(byte("codec")?).ok_or_else(|| malformed("codec"))?,
        sealed: number("epoch")? != 0,
        raw_len: u32::try_from(number("raw")?).map_err(|_| malformed("raw"))?,
        dictionary: dictionary.transpose()?,
        bytes: data.bytes.to_vec(),
    })
}
