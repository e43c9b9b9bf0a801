//! Blocks as documents of a collection, one for each (page 09, sections 1 and 3.3).

use std::future::IntoFuture as _;

use bson::raw::cstr;
use bson::spec::BinarySubtype;
use bson::{Binary, Document, RawBsonRef, RawDocument, RawDocumentBuf, doc, rawdoc};
use mongodb::error::ErrorKind;

use super::{BLOCKS, DUPLICATE_KEY, ReplicaSet, TRANSFER_LIMIT};
use crate::block::{self, BlockId, Codec, Kind};
use crate::blockstore::Error;
use crate::blockstore::backend::{
    Answer, Backend as _, BlockWriter, Ended, Found, Miss, SessionOfWriter, Step,
};
use crate::store::StoredBlock;

/// Writes blocks for a session.
pub(super) struct Writer {
    set: ReplicaSet,
    session: SessionOfWriter,
}

impl Writer {
    pub fn new(set: ReplicaSet, session: SessionOfWriter) -> Self {
        Self { set, session }
    }

    async fn insert_all(&self, batch: Vec<StoredBlock>) -> Result<Vec<BlockId>, Error> {
        let (set, stamp) = (&self.set, self.session.stamp);
        let documents = batch.iter().map(|block| document(block, stamp));
        let documents = documents.collect::<Result<Vec<RawDocumentBuf>, Error>>()?;
        let bytes: u64 = batch.iter().map(|block| block.bytes.len() as u64).sum();
        self.session.pace.wait(bytes).await;
        let mut session = set.begin().await?;
        let blocks = set.of(BLOCKS);
        let insert = blocks.insert_many(&documents).ordered(false).session(&mut session);
        let inserted = set.ask_within(TRANSFER_LIMIT, "insert", insert.into_future()).await;
        set.saw(&session);
        match inserted {
            Ok(_) => Ok(Vec::new()),
            Err(error) => duplicates(&error, &batch).ok_or(error),
        }
    }

    async fn replace_one(&self, block: StoredBlock, lost: Option<BlockId>) -> Result<(), Error> {
        let mut filter = doc! { "_id": name(&block.id) };
        if let Some(lost) = lost {
            filter.insert("dict", name(&lost));
        }
        let stamp = self.session.stamp;
        let mut change = doc! { "$max": { "stamp": stamp } };
        let form = document(&block, stamp)?;
        let mut set =
            bson::Document::try_from(&*form).map_err(|_| self.set.malformed(BLOCKS, "form"))?;
        ["_id", "kind", "stamp"].iter().for_each(|field| _ = set.remove(field));
        if block.dictionary.is_none() {
            change.insert("$unset", doc! { "dict": "" });
        }
        change.insert("$set", set);
        let steps = [
            self.session.step.clone(),
            Step::Update { of: BLOCKS, filter, change, miss: Miss::Block },
        ];
        match self.set.transact(&steps).await? {
            Ended::Made | Ended::Missed(Miss::Block) => Ok(()),
            Ended::Missed(_) => Err(Error::SessionLost),
            Ended::Unknown(error) => Err(error),
        }
    }
}

impl BlockWriter for Writer {
    fn raise<'a>(&'a self, ids: &'a [BlockId]) -> Answer<'a, Vec<Found>> {
        Box::pin(self.set.raise(ids, self.session.stamp))
    }

    fn tells_duplicates(&self) -> bool {
        true
    }

    fn insert(&self, blocks: Vec<StoredBlock>) -> Answer<'_, Vec<BlockId>> {
        Box::pin(self.insert_all(blocks))
    }

    fn replace(&self, block: StoredBlock, lost: Option<BlockId>) -> Answer<'_, ()> {
        Box::pin(self.replace_one(block, lost))
    }

    fn finish(&self) -> Answer<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }
}

impl ReplicaSet {
    /// Raises the stamps of blocks, and reads which of them have it then, and their dictionaries.
    async fn raise(&self, ids: &[BlockId], stamp: i64) -> Result<Vec<Found>, Error> {
        let names: Vec<Binary> = ids.iter().map(name).collect();
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
                found.push(self.found(cursor.current())?);
            }
        }
        self.saw(&session);
        Ok(found)
    }

    pub(super) async fn find_names(&self, ids: &[BlockId]) -> Result<Vec<Found>, Error> {
        self.read(ids, Some(doc! { "dict": 1 }), |document| self.found(document)).await
    }

    /// Blocks, as many as one answer may hold.
    pub(super) async fn find_blocks(&self, ids: &[BlockId]) -> Result<Vec<StoredBlock>, Error> {
        self.read(ids, None, |document| self.block_of(document)).await
    }

    /// Reads the documents of blocks, or some of their fields: as many as one reply of the server holds, which is 16 MiB.
    async fn read<T>(
        &self,
        ids: &[BlockId],
        fields: Option<Document>,
        read: impl Fn(&RawDocument) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        let names: Vec<Binary> = ids.iter().map(name).collect();
        let mut session = self.begin().await?;
        let blocks = self.of(BLOCKS);
        // A limit below zero asks for one reply, which has 101 documents unless it is asked for more.
        let (limit, at_once) = (-(ids.len() as i64), u32::try_from(ids.len()).unwrap_or(u32::MAX));
        let mut find =
            blocks.find(doc! { "_id": { "$in": names } }).limit(limit).batch_size(at_once);
        if let Some(fields) = fields {
            find = find.projection(fields);
        }
        let find = find.session(&mut session).into_future();
        let mut cursor = self.ask_within(TRANSFER_LIMIT, "find", find).await?;
        let mut found = Vec::new();
        while self.ask("find", cursor.advance(&mut session)).await? {
            found.push(read(cursor.current())?);
        }
        self.saw(&session);
        Ok(found)
    }

    fn found(&self, document: &RawDocument) -> Result<Found, Error> {
        let malformed = |field| self.malformed(BLOCKS, field);
        let id = document.get("_id").ok().flatten().and_then(name_of);
        let dictionary = match document.get("dict").map_err(|_| malformed("dict"))? {
            None => None,
            Some(value) => Some(name_of(value).ok_or_else(|| malformed("dict"))?),
        };
        Ok(Found { id: id.ok_or_else(|| malformed("_id"))?, dictionary })
    }

    /// Reads the document of a block, in one pass: a look-up by name begins at its front.
    fn block_of(&self, document: &RawDocument) -> Result<StoredBlock, Error> {
        let mut fields = Fields::default();
        for field in document {
            let (name, value) = field.map_err(|_| self.malformed(BLOCKS, "document"))?;
            fields.take(name.as_str(), value).map_err(|field| self.malformed(BLOCKS, field))?;
        }
        fields.block().map_err(|field| self.malformed(BLOCKS, field))
    }
}

/// The fields of a block's document.
#[derive(Default)]
struct Fields<'a> {
    id: Option<BlockId>,
    kind: Option<Kind>,
    codec: Option<Codec>,
    sealed: Option<bool>,
    raw_len: Option<u32>,
    dictionary: Option<BlockId>,
    bytes: Option<&'a [u8]>,
}

impl<'a> Fields<'a> {
    /// Takes a field, or names it if it is malformed.
    fn take(&mut self, name: &str, value: RawBsonRef<'a>) -> Result<(), &'static str> {
        let byte = || value.as_i32().and_then(|number| u8::try_from(number).ok());
        match name {
            "_id" => self.id = Some(name_of(value).ok_or("_id")?),
            "kind" => self.kind = Some(byte().and_then(Kind::from_byte).ok_or("kind")?),
            "codec" => self.codec = Some(byte().and_then(Codec::from_byte).ok_or("codec")?),
            "epoch" => self.sealed = Some(value.as_i32().ok_or("epoch")? != 0),
            "raw" => {
                let len = value.as_i32().and_then(|number| u32::try_from(number).ok());
                self.raw_len = Some(len.ok_or("raw")?);
            }
            "dict" => self.dictionary = Some(name_of(value).ok_or("dict")?),
            "data" => self.bytes = Some(value.as_binary().ok_or("data")?.bytes),
            _ => {}
        }
        Ok(())
    }

    /// The block, or the name of a field that is not there.
    fn block(self) -> Result<StoredBlock, &'static str> {
        Ok(StoredBlock {
            id: self.id.ok_or("_id")?,
            kind: self.kind.ok_or("kind")?,
            codec: self.codec.ok_or("codec")?,
            sealed: self.sealed.ok_or("epoch")?,
            raw_len: self.raw_len.ok_or("raw")?,
            dictionary: self.dictionary,
            bytes: self.bytes.ok_or("data")?.to_vec(),
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
