//! Reading blocks out of packs, and writing them into such (page 10, sections 4 and 5).
//!
//! Order of writes: a pack's object, then its document, in a transaction that writes the session; only then are its blocks asserted. Nothing that
//! was written for a pack whose registration failed counts for anything.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU32, Ordering};

use bson::{doc, rawdoc};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::Mutex;

use super::catalog::object_of;
use super::pack::{Builder, Record, TRAILER_BYTES};
use super::state::Key;
use super::{Objects, PACKS};
use crate::block::BlockId;
use crate::blockstore::Error;
use crate::blockstore::backend::{
    ANSWER_BYTES, Answer, Backend as _, BlockWriter, Ended, Found, SessionOfWriter, Step,
};
use crate::blockstore::patience::Patience;
use crate::store::StoredBlock;

/// Bytes between two blocks of a pack that are read along rather than asked for apart.
const GAP_BYTES: u64 = 32 << 10;
/// Bytes of one read.
const READ_BYTES: u64 = 4 << 20;
/// Reads under way at a time.
const READS_MAX: usize = 8;
/// How often blocks are looked for that are moved meanwhile.
const LOOKS_MAX: u32 = 4;

impl Objects {
    /// Blocks as they are stored, as many as an answer holds. Those that are not found where they were are looked for as of now.
    pub(super) async fn read_blocks(&self, ids: &[BlockId]) -> Result<Vec<StoredBlock>, Error> {
        let (mut open, mut found, mut room) = (ids.to_vec(), Vec::new(), ANSWER_BYTES);
        for look in 0..LOOKS_MAX {
            let catalog = match look {
                0 => self.catalog.last().await?,
                _ => self.catalog.now().await?,
            };
            let by_pack = catalog.by_pack(&open)?;
            drop(catalog);
            let is_known = !by_pack.is_empty();
            let reads = by_pack.into_iter().flat_map(|(pack, records)| ranges(&pack, records));
            let read = self.read_up_to(reads, room).await?;
            room = room.saturating_sub(bytes_of(&read));
            found.extend(read);
            let there: HashSet<BlockId> = found.iter().map(|block| block.id).collect();
            open.retain(|id| !there.contains(id));
            // What no pack has as of now is not there.
            if open.is_empty() || room == 0 || (look > 0 && !is_known) {
                break;
            }
        }
        Ok(found)
    }

    /// Reads until so many bytes of blocks were there. What is begun is taken in: so only what has room is begun.
    async fn read_up_to(
        &self,
        mut reads: impl Iterator<Item = (String, Vec<Record>)>,
        limit: usize,
    ) -> Result<Vec<StoredBlock>, Error> {
        let (mut found, mut room) = (Vec::new(), limit);
        while room > 0 {
            let (mut begun, mut asked) = (Vec::new(), 0);
            while asked < room
                && let Some((pack, records)) = reads.next()
            {
                asked += records.iter().map(|record| record.len as usize).sum::<usize>();
                begun.push(self.read(pack, records));
            }
            if begun.is_empty() {
                break;
            }
            let read = stream::iter(begun).buffer_unordered(READS_MAX);
            let read: Vec<Vec<StoredBlock>> = read.try_collect().await?;
            let read: Vec<StoredBlock> = read.into_iter().flatten().collect();
            room = room.saturating_sub(bytes_of(&read));
            found.extend(read);
        }
        Ok(found)
    }

    /// Reads some blocks that lie near each other; none of them if the pack is not there.
    async fn read(&self, pack: String, records: Vec<Record>) -> Result<Vec<StoredBlock>, Error> {
        let (Some(first), Some(end)) = (records.first(), records.iter().map(end_of).max()) else {
            return Ok(Vec::new());
        };
        let begin = first.offset;
        let read = self.storage.get_range(&object_of(&pack), begin..end).await?;
        let Some(bytes) = read else { return Ok(Vec::new()) };
        let block = |record: &Record| {
            let at = (record.offset - begin) as usize;
            let bytes = bytes.get(at..at + record.len as usize)?;
            Some(record.block(bytes.to_vec()))
        };
        Ok(records.iter().filter_map(block).collect())
    }

    /// Which of these blocks are there.
    pub(super) async fn find_names(&self, ids: &[BlockId]) -> Result<Vec<Found>, Error> {
        let catalog = self.catalog.now().await?;
        let by_pack = catalog.by_pack(ids)?;
        let found = |record: &Record| Found { id: record.id, dictionary: record.dictionary };
        Ok(by_pack.values().flatten().map(found).collect())
    }

    /// Raises the stamps of the packs that have blocks, and tells which are there with it.
    async fn raise(&self, ids: &[BlockId], stamp: i64) -> Result<Vec<Found>, Error> {
        let (mut open, mut found) = (ids.to_vec(), Vec::new());
        for _ in 0..LOOKS_MAX {
            let mut by_pack = self.catalog.now().await?.by_pack(&open)?;
            let low = self.below(by_pack.keys(), stamp).await?;
            if !low.is_empty() {
                let raise = Step::UpdateAll {
                    of: PACKS,
                    filter: doc! { "_id": { "$in": &low }, "stamp": { "$lt": stamp } },
                    change: doc! { "$max": { "stamp": stamp } },
                };
                if let Ended::Unknown(error) = self.transact(&[raise]).await? {
                    return Err(error);
                }
            }
            // Only what is there with the stamp after that counts.
            let gone = self.below(by_pack.keys(), stamp).await?;
            let is_all = gone.is_empty();
            for pack in gone {
                by_pack.remove(&pack);
            }
            for record in by_pack.values().flatten() {
                found.push(Found { id: record.id, dictionary: record.dictionary });
            }
            if is_all {
                break;
            }
            // Those of a pack that is gone may have been moved.
            let there: HashSet<BlockId> = found.iter().map(|one| one.id).collect();
            open.retain(|id| !there.contains(id));
        }
        Ok(found)
    }

    /// Creates the object of a pack. Nobody else has that name: if it is there, it is from an attempt before; but to be told so is no
    /// proof of it, where two attempts met.
    pub(super) async fn create_pack(&self, pack: &str, bytes: Bytes) -> Result<(), Error> {
        let object = object_of(pack);
        let mut patience = Patience::default();
        let trailer = bytes.slice(bytes.len() - TRAILER_BYTES..);
        loop {
            let failure = match self.storage.create(&object, bytes.clone()).await {
                Ok(true) => return Ok(()),
                Ok(false) => match self.storage.get_end(&object, TRAILER_BYTES as u64).await {
                    Ok(Some(end)) if end == trailer => return Ok(()),
                    Ok(_) => Error::LeftBehind { blockstore: self.name() },
                    Err(error) => error,
                },
                Err(error) => error,
            };
            patience.after(failure).await?;
        }
    }

    /// The packs that have a lower stamp as of now, or are not there.
    async fn below(
        &self,
        packs: impl Iterator<Item = &String>,
        stamp: i64,
    ) -> Result<Vec<String>, Error> {
        let state = self.log.now().await?;
        let mut below = Vec::new();
        for pack in packs {
            let key = Key::of(bson::RawBsonRef::String(pack));
            let document = key.and_then(|key| state.get(PACKS.0, &key));
            let has = document.and_then(|document| document.get_i64("stamp").ok());
            if has.is_none_or(|has| has < stamp) {
                below.push(pack.clone());
            }
        }
        Ok(below)
    }
}

fn bytes_of(blocks: &[StoredBlock]) -> usize {
    blocks.iter().map(|block| block.bytes.len()).sum()
}

fn end_of(record: &Record) -> u64 {
    record.offset + u64::from(record.len)
}

/// Blocks of a pack, in groups that are read at once.
fn ranges(pack: &str, mut records: Vec<Record>) -> Vec<(String, Vec<Record>)> {
    records.sort_unstable_by_key(|record| record.offset);
    let mut ranges: Vec<(String, Vec<Record>)> = Vec::new();
    for record in records {
        if let Some((_, last)) = ranges.last_mut()
            && last.last().is_some_and(|one| record.offset <= end_of(one) + GAP_BYTES)
            && last.first().is_some_and(|one| end_of(&record) <= one.offset + READ_BYTES)
        {
            last.push(record);
        } else {
            ranges.push((pack.to_owned(), vec![record]));
        }
    }
    ranges
}

/// The number of the next pack that this process writes.
static NEXT_PACK: AtomicU32 = AtomicU32::new(0);

/// The name of a pack of a session, which no other has.
pub(super) fn new_name(session: bson::oid::ObjectId) -> String {
    format!("{}-{:08x}", session.to_hex(), NEXT_PACK.fetch_add(1, Ordering::Relaxed))
}

/// Writes blocks for a session.
pub(super) struct Writer {
    objects: Objects,
    session: SessionOfWriter,
    open: Mutex<Open>,
}

struct Open {
    builder: Builder,
    /// Blocks in `builder`, and in packs that are not registered yet.
    held: HashSet<BlockId>,
    /// Packs on their way. One whose writer stopped in the middle stays here.
    under_way: BTreeMap<String, Vec<BlockId>>,
    /// One of them could not be written: what is held may be nowhere.
    has_failed: bool,
}

impl Open {
    fn check(&self) -> Result<(), Error> {
        if self.has_failed { Err(Error::NotMade) } else { Ok(()) }
    }
}

impl Writer {
    pub fn new(objects: Objects, session: SessionOfWriter) -> Self {
        let builder = Builder::new();
        let (held, under_way) = (HashSet::new(), BTreeMap::new());
        let open = Open { builder, held, under_way, has_failed: false };
        Self { objects, session, open: Mutex::new(open) }
    }

    /// Gathers blocks, side by side: who reads them reads them together.
    async fn push(&self, blocks: &[StoredBlock]) -> Result<(), Error> {
        self.session.pace.wait(bytes_of(blocks) as u64).await;
        let mut full = Vec::new();
        {
            let mut open = self.open.lock().await;
            open.check()?;
            for block in blocks {
                if open.held.insert(block.id) {
                    open.builder.push(block);
                }
                if open.builder.is_full() {
                    full.push(self.take(&mut open));
                }
            }
        }
        for pack in full {
            self.write(pack).await?;
        }
        Ok(())
    }

    /// Takes what was gathered out, to be written.
    fn take(&self, open: &mut Open) -> (String, Builder) {
        let builder = std::mem::replace(&mut open.builder, Builder::new());
        let name = new_name(self.session.id);
        let names = builder.records.iter().map(|record| record.id).collect();
        open.under_way.insert(name.clone(), names);
        (name, builder)
    }

    async fn write(&self, full: (String, Builder)) -> Result<(), Error> {
        let written = self.write_once(full).await;
        if written.is_err() {
            self.open.lock().await.has_failed = true;
        }
        written
    }

    async fn write_once(&self, (name, builder): (String, Builder)) -> Result<(), Error> {
        let (bytes, records) = builder.finish();
        let document = rawdoc! {
            "_id": name.as_str(),
            "stamp": self.session.stamp,
            "blocks": records.len() as i64,
            "bytes": bytes.len() as i64,
        };
        let mut patience = Patience::default();
        self.objects.create_pack(&name, bytes).await?;
        self.objects.catalog.wrote(&name, records).await?;
        let steps =
            [self.session.step.clone(), Step::Insert { of: PACKS, documents: vec![document] }];
        loop {
            match self.objects.transact(&steps).await {
                Ok(Ended::Made) | Err(Error::IsThere { .. }) => break,
                Ok(Ended::Missed(_)) => return Err(Error::SessionLost),
                Ok(Ended::Unknown(error)) | Err(error) => patience.after(error).await?,
            }
        }
        let mut open = self.open.lock().await;
        for id in open.under_way.remove(&name).unwrap_or_default() {
            open.held.remove(&id);
        }
        Ok(())
    }

    async fn finish_all(&self) -> Result<(), Error> {
        let last = {
            let mut open = self.open.lock().await;
            if !open.under_way.is_empty() {
                // It failed, and what was in it was taken for written.
                return Err(Error::NotMade);
            }
            if open.builder.is_empty() {
                return Ok(());
            }
            self.take(&mut open)
        };
        self.write(last).await
    }
}

impl BlockWriter for Writer {
    fn raise<'a>(&'a self, ids: &'a [BlockId]) -> Answer<'a, Vec<Found>> {
        Box::pin(async move {
            let mut found = self.objects.raise(ids, self.session.stamp).await?;
            // What is on its way is there once that is finished, behind its dictionary, and counts then.
            let open = self.open.lock().await;
            open.check()?;
            found.retain(|one| !open.held.contains(&one.id));
            let held = ids.iter().filter(|id| open.held.contains(id));
            found.extend(held.map(|id| Found { id: *id, dictionary: None }));
            Ok(found)
        })
    }

    /// What is there would have another copy.
    fn tells_duplicates(&self) -> bool {
        false
    }

    fn insert(&self, blocks: Vec<StoredBlock>) -> Answer<'_, Vec<BlockId>> {
        Box::pin(async move {
            self.push(&blocks).await?;
            Ok(Vec::new())
        })
    }

    fn replace(&self, block: StoredBlock, _lost: Option<BlockId>) -> Answer<'_, ()> {
        // A copy in a pack that is born later counts.
        Box::pin(async move { self.push(&[block]).await })
    }

    fn finish(&self) -> Answer<'_, ()> {
        Box::pin(self.finish_all())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{Codec, Kind};

    #[test]
    fn what_lies_near_is_read_at_once() {
        let record = |offset, len| Record {
            id: BlockId::from_bytes([0; 32]),
            offset,
            len,
            raw_len: len,
            dictionary: None,
            kind: Kind::Leaf,
            codec: Codec::Zstd,
            sealed: false,
        };
        let near = GAP_BYTES - 1;
        let records = vec![
            record(0, 100),
            record(100 + near, 50),
            record(1 << 20, 1),
            record(200 << 20, 1 << 20),
            record(201 << 20, 1 << 20),
            record(202 << 20, 1 << 20),
            record(203 << 20, 1 << 20),
            record(204 << 20, 1 << 20),
        ];
        let groups = ranges("p", records.into_iter().rev().collect());
        let sizes: Vec<usize> = groups.iter().map(|(_, group)| group.len()).collect();
        assert_eq!(sizes, [2, 1, 4, 1]);
    }
}
