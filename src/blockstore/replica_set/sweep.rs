//! The sweep: what was not marked and has a lower stamp goes.

use std::future::IntoFuture as _;
use std::time::Duration;

use bson::spec::BinarySubtype;
use bson::{Binary, Document, RawDocument, doc};

use super::blocks::{name, name_of};
use super::{BLOCKS, ReplicaSet};
use crate::block::{BlockId, Kind};
use crate::blockstore::Error;
use crate::blockstore::backend::{Backend as _, Query};
use crate::blockstore::groom::{GroomReport, Sweep};

/// Names of one removal.
const TOGETHER: usize = 1000;
/// Index entries read at once.
const PAGE: i64 = 10_000;
/// How often a page is read that cannot be, as in an election.
const ATTEMPTS_MAX: u32 = 12;
/// The pause before another attempt, times its number.
const PAUSE: Duration = Duration::from_millis(500);

/// An entry of the index by stamp.
#[derive(Debug, Clone)]
struct Entry {
    id: BlockId,
    stamp: i64,
    bytes: u64,
}

/// Blocks that were not marked, on their way out.
#[derive(Default)]
struct Dead {
    blocks: Vec<Entry>,
    dictionaries: Vec<BlockId>,
}

/// Goes through the index by stamp and name, and removes; or only counts.
pub(super) async fn sweep(set: &ReplicaSet, mut sweep: Sweep) -> Result<GroomReport, Error> {
    let (mut dead, mut looked, mut last) = (Dead::default(), 0_u64, None);
    loop {
        let page = set.page(last.as_ref()).await?;
        let Some(end) = page.last() else { break };
        last = Some(end.clone());
        looked += page.len() as u64;
        for Entry { id, stamp, bytes } in page {
            match sweep.find(&id)? {
                Some(jobs) => sweep.count(jobs, bytes),
                None if stamp < sweep.below() => dead.blocks.push(Entry { id, stamp, bytes }),
                None => {}
            }
            if dead.blocks.len() == TOGETHER {
                set.remove(&mut dead, &mut sweep).await?;
            }
        }
        sweep.looked(looked)?;
    }
    set.remove(&mut dead, &mut sweep).await?;
    set.remove_dictionaries(&dead.dictionaries, &mut sweep).await?;
    sweep.looked(looked)?;
    Ok(sweep.report)
}

impl ReplicaSet {
    /// The entries of the index after one, read again where that fails for a moment.
    async fn page(&self, after: Option<&Entry>) -> Result<Vec<Entry>, Error> {
        let mut attempt = 1;
        loop {
            match self.page_once(after).await {
                Err(error) if error.is_transient() && attempt < ATTEMPTS_MAX => {
                    tracing::info!(%error, "the index is read again");
                    tokio::time::sleep(PAUSE * attempt).await;
                    attempt += 1;
                }
                page => return page,
            }
        }
    }

    async fn page_once(&self, after: Option<&Entry>) -> Result<Vec<Entry>, Error> {
        let mut session = self.begin().await?;
        let blocks = self.of(BLOCKS);
        let mut find = blocks
            .find(doc! {})
            .sort(doc! { "stamp": 1, "_id": 1, "len": 1 })
            .projection(doc! { "stamp": 1, "len": 1 })
            .hint(mongodb::options::Hint::Keys(doc! { "stamp": 1, "_id": 1, "len": 1 }))
            .limit(PAGE);
        if let Some(Entry { id, stamp, .. }) = after {
            // Above every length that an entry of that name can have.
            find = find.min(doc! { "stamp": stamp, "_id": name(id), "len": i32::MAX });
        }
        let find = find.session(&mut session);
        let mut cursor = self.ask("find", find.into_future()).await?;
        let mut page = Vec::new();
        while self.ask("getMore", cursor.advance(&mut session)).await? {
            page.push(self.entry(cursor.current())?);
        }
        self.saw(&session);
        Ok(page)
    }

    fn entry(&self, document: &RawDocument) -> Result<Entry, Error> {
        let malformed = |field| self.malformed(BLOCKS, field);
        let id = document.get("_id").ok().flatten().and_then(name_of);
        let id = id.ok_or_else(|| malformed("_id"))?;
        let bytes = document.get_i32("len").map_err(|_| malformed("len"))?;
        let stamp = document.get_i64("stamp").map_err(|_| malformed("stamp"))?;
        Ok(Entry { id, stamp, bytes: bytes.unsigned_abs().into() })
    }

    /// Removes what was not marked, apart from dictionaries, which are looked at later.
    async fn remove(&self, dead: &mut Dead, sweep: &mut Sweep) -> Result<(), Error> {
        let mut found = std::mem::take(&mut dead.blocks);
        if found.is_empty() {
            return Ok(());
        }
        let names = names(found.iter().map(|entry| &entry.id));
        let kind = i32::from(Kind::Dictionary.to_byte());
        let are_dictionaries = doc! { "_id": { "$in": &names }, "kind": kind };
        let dictionaries = self.find(BLOCKS, Query::all(are_dictionaries, "_id")).await?;
        for document in &dictionaries {
            let id = document.get("_id").ok().flatten().and_then(name_of);
            let id = id.ok_or_else(|| self.malformed(BLOCKS, "_id"))?;
            found.retain(|entry| entry.id != id);
            dead.dictionaries.push(id);
        }
        sweep.report.dead_blocks += found.len() as u64;
        sweep.report.dead_bytes += found.iter().map(|entry| entry.bytes).sum::<u64>();
        if !sweep.report.dry_run {
            let filter = doc! {
                "_id": { "$in": names },
                "stamp": { "$lt": sweep.generation },
                "kind": { "$ne": kind },
            };
            sweep.report.removed_blocks += self.delete(filter).await?;
        }
        Ok(())
    }

    /// Removes the dictionaries that no block is stored with.
    async fn remove_dictionaries(
        &self,
        dictionaries: &[BlockId],
        sweep: &mut Sweep,
    ) -> Result<(), Error> {
        for id in dictionaries {
            let used = doc! { "dict": name(id) };
            let query = Query { filter: used, limit: 1, ..Query::default() };
            if !self.find(BLOCKS, query).await?.is_empty() || sweep.report.dry_run {
                continue;
            }
            sweep.report.dead_blocks += 1;
            let filter = doc! { "_id": name(id), "stamp": { "$lt": sweep.generation } };
            sweep.report.removed_blocks += self.delete(filter).await?;
        }
        Ok(())
    }

    async fn delete(&self, filter: Document) -> Result<u64, Error> {
        let mut session = self.begin().await?;
        let blocks = self.of(BLOCKS);
        let delete = blocks.delete_many(filter).session(&mut session);
        let done = self.ask("delete", delete.into_future()).await?;
        self.saw(&session);
        Ok(done.deleted_count)
    }
}

fn names<'a>(ids: impl Iterator<Item = &'a BlockId>) -> Vec<Binary> {
    ids.map(|id| Binary { subtype: BinarySubtype::Generic, bytes: id.as_bytes().to_vec() })
        .collect()
}
