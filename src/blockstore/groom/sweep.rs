//! The sweep: what was not marked and has a lower stamp goes.

use std::future::IntoFuture as _;
use std::time::Duration;

use bson::spec::BinarySubtype;
use bson::{Binary, Document, RawDocument, doc};

use super::{Groom, GroomReport, Jobs, Marks};
use crate::block::{BlockId, Kind};
use crate::blockstore::Error;
use crate::blockstore::assertion::{name, name_of};
use crate::blockstore::connect::BLOCKS;

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

impl Groom {
    /// Goes through the index by stamp and name, and removes; or only counts.
    pub(super) async fn sweep(
        &self,
        mut marks: Marks,
        report: &mut GroomReport,
    ) -> Result<(), Error> {
        // A plan counts what a groom of now would find: all that has no higher stamp than the next generation.
        let below = if report.dry_run { self.generation + 1 } else { self.generation };
        let (mut dead, mut looked, mut last) = (Dead::default(), 0_u64, None);
        loop {
            let page = self.page(last.as_ref()).await?;
            let Some(end) = page.last() else { break };
            last = Some(end.clone());
            looked += page.len() as u64;
            for Entry { id, stamp, bytes } in page {
                match marks.find(&id).map_err(self.disk())? {
                    Some(jobs) => count(report, jobs, bytes),
                    None if stamp < below => dead.blocks.push(Entry { id, stamp, bytes }),
                    None => {}
                }
                if dead.blocks.len() == TOGETHER {
                    self.remove(&mut dead, report).await?;
                }
            }
            self.progress.swept(looked, report.removed_blocks);
            self.check()?;
        }
        self.remove(&mut dead, report).await?;
        self.remove_dictionaries(&dead.dictionaries, report).await?;
        self.progress.swept(looked, report.removed_blocks);
        Ok(())
    }

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
        let connection = &self.connection;
        let mut session = connection.begin().await?;
        let blocks = connection.of(BLOCKS);
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
        let mut cursor = connection.ask("find", find.into_future()).await?;
        let mut page = Vec::new();
        while connection.ask("getMore", cursor.advance(&mut session)).await? {
            page.push(self.entry(cursor.current())?);
        }
        connection.saw(&session);
        Ok(page)
    }

    fn entry(&self, document: &RawDocument) -> Result<Entry, Error> {
        let malformed = |field| self.connection.malformed(BLOCKS, field);
        let id = document.get("_id").ok().flatten().and_then(name_of);
        let id = id.ok_or_else(|| malformed("_id"))?;
        let bytes = document.get_i32("len").map_err(|_| malformed("len"))?;
        let stamp = document.get_i64("stamp").map_err(|_| malformed("stamp"))?;
        Ok(Entry { id, stamp, bytes: bytes.unsigned_abs().into() })
    }

    /// Removes what was not marked, apart from dictionaries, which are looked at later.
    async fn remove(&self, dead: &mut Dead, report: &mut GroomReport) -> Result<(), Error> {
        let mut found = std::mem::take(&mut dead.blocks);
        if found.is_empty() {
            return Ok(());
        }
        let names = names(found.iter().map(|entry| &entry.id));
        let kind = i32::from(Kind::Dictionary.to_byte());
        let are_dictionaries = doc! { "_id": { "$in": &names }, "kind": kind };
        let dictionaries =
            self.connection.find(BLOCKS, are_dictionaries, doc! { "_id": 1 }).await?;
        for document in &dictionaries {
            let id = document.get("_id").ok().flatten().and_then(name_of);
            let id = id.ok_or_else(|| self.connection.malformed(BLOCKS, "_id"))?;
            found.retain(|entry| entry.id != id);
            dead.dictionaries.push(id);
        }
        report.dead_blocks += found.len() as u64;
        report.dead_bytes += found.iter().map(|entry| entry.bytes).sum::<u64>();
        if !report.dry_run {
            let filter = doc! {
                "_id": { "$in": names },
                "stamp": { "$lt": self.generation },
                "kind": { "$ne": kind },
            };
            report.removed_blocks += self.delete(filter).await?;
        }
        Ok(())
    }

    /// Removes the dictionaries that no block is stored with.
    async fn remove_dictionaries(
        &self,
        dictionaries: &[BlockId],
        report: &mut GroomReport,
    ) -> Result<(), Error> {
        for id in dictionaries {
            let used = doc! { "dict": name(id) };
            if self.connection.find_one(BLOCKS, used).await?.is_some() || report.dry_run {
                continue;
            }
            report.dead_blocks += 1;
            let filter = doc! { "_id": name(id), "stamp": { "$lt": self.generation } };
            report.removed_blocks += self.delete(filter).await?;
        }
        Ok(())
    }

    async fn delete(&self, filter: Document) -> Result<u64, Error> {
        let mut session = self.connection.begin().await?;
        let blocks = self.connection.of(BLOCKS);
        let delete = blocks.delete_many(filter).session(&mut session);
        let done = self.connection.ask("delete", delete.into_future()).await?;
        self.connection.saw(&session);
        Ok(done.deleted_count)
    }
}

fn names<'a>(ids: impl Iterator<Item = &'a BlockId>) -> Vec<Binary> {
    ids.map(|id| Binary { subtype: BinarySubtype::Generic, bytes: id.as_bytes().to_vec() })
        .collect()
}

fn count(report: &mut GroomReport, jobs: Jobs, bytes: u64) {
    report.live_blocks += 1;
    report.live_bytes += bytes;
    let is_own = jobs.0.count_ones() == 1;
    for number in jobs.numbers() {
        // Of a job that was removed, or is new, the list says nothing.
        let Some(job) = report.jobs.get_mut(number) else { continue };
        job.live_bytes += bytes;
        job.own_bytes += if is_own { bytes } else { 0 };
    }
}
