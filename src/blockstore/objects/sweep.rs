//! The sweep of a groom: packs of which nothing lives go, and what lives in those of which much is dead moves (page 10, section 5).
//!
//! Order of writes: a new pack's object; one transaction that registers it and removes the documents of those whose blocks it has, each on its
//! condition; then their objects. A sweep that stops anywhere leaves an object that nothing names, which the next finds.

use std::collections::{HashMap, HashSet};

use bson::{doc, rawdoc};

use super::catalog::{Inner, Known, object_of};
use super::index::Pack;
use super::pack::{Builder, PACK_BYTES, Record};
use super::{Objects, PACKS};
use crate::block::{BlockId, Kind};
use crate::blockstore::Error;
use crate::blockstore::backend::{Backend as _, Ended, Miss, Query, SESSIONS, Step};
use crate::blockstore::groom::{GroomReport, Jobs, Sweep};
use crate::store::StoredBlock;

/// A pack is written anew if more than one in so many of its bytes is dead.
const DEAD_PART: u64 = 5;
/// A pack below this size is written anew with others of that kind.
const SMALL_BYTES: u64 = PACK_BYTES as u64 / 4;
/// Blocks between two reports.
const TELL_EVERY: u64 = 1 << 12;

/// What was found of a pack.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    live: u64,
    dead: u64,
    dead_blocks: u64,
}

/// What is known after all names were looked at.
struct Plan {
    packs: Vec<Known>,
    tallies: Vec<Tally>,
    /// Dictionaries that something is stored with that lives.
    used: HashSet<BlockId>,
}

pub(super) async fn sweep(objects: &Objects, mut sweep: Sweep) -> Result<GroomReport, Error> {
    let plan = look(objects, &mut sweep).await?;
    if !sweep.report.dry_run {
        remove_dead(objects, &mut sweep, &plan).await?;
        move_living(objects, &mut sweep, &plan).await?;
        remove_orphans(objects).await?;
    }
    Ok(sweep.report)
}

impl Plan {
    fn is_old(&self, pack: Pack, below: i64) -> bool {
        self.packs[pack as usize].stamp < below
    }

    /// The packs for which something is to be done, in the order in which they were born.
    fn old(&self, below: i64) -> Vec<(&Known, Tally)> {
        let all = self.packs.iter().zip(&self.tallies);
        let mut old: Vec<_> = all
            .filter(|(pack, _)| pack.lives && pack.stamp < below)
            .map(|(pack, tally)| (pack, *tally))
            .collect();
        old.sort_by(|(one, _), (other, _)| (one.born, &one.name).cmp(&(other.born, &other.name)));
        old
    }
}

/// Goes through all names in order, and says of each copy whether it lives.
async fn look(objects: &Objects, sweep: &mut Sweep) -> Result<Plan, Error> {
    let disk = |source| Error::Index { source };
    // What is there is read after everything was marked.
    let catalog = objects.catalog.now().await?;
    let all = catalog.index.all().map_err(disk)?;
    let packs = catalog.packs.clone();
    drop(catalog);
    let tallies = vec![Tally::default(); packs.len()];
    let mut plan = Plan { packs, tallies, used: HashSet::new() };
    let (mut copies, mut dictionaries) = (Vec::<(Pack, Record)>::new(), Vec::new());
    let mut looked = 0_u64;
    for item in all {
        let (pack, record) = item.map_err(disk)?;
        if !plan.packs[pack as usize].lives {
            continue;
        }
        looked += 1;
        if looked.is_multiple_of(TELL_EVERY) {
            sweep.looked(looked)?;
        }
        if copies.first().is_some_and(|(_, first)| first.id != record.id) {
            judge(&mut plan, sweep, &std::mem::take(&mut copies), &mut dictionaries)?;
        }
        copies.push((pack, record));
    }
    judge(&mut plan, sweep, &copies, &mut dictionaries)?;
    for copies in dictionaries {
        let id = copies[0].1.id;
        let jobs = plan.used.contains(&id).then(Jobs::default);
        count(&mut plan, sweep, &copies, jobs);
    }
    sweep.looked(looked)?;
    Ok(plan)
}

/// Judges all copies of one block; dictionaries wait until it is known what is stored with them.
fn judge(
    plan: &mut Plan,
    sweep: &mut Sweep,
    copies: &[(Pack, Record)],
    dictionaries: &mut Vec<Vec<(Pack, Record)>>,
) -> Result<(), Error> {
    let Some((_, first)) = copies.first() else { return Ok(()) };
    let jobs = sweep.find(&first.id)?;
    let below = sweep.below();
    for (pack, record) in copies {
        if jobs.is_some() || !plan.is_old(*pack, below) {
            plan.used.extend(record.dictionary);
        }
    }
    if first.kind == Kind::Dictionary && jobs.is_none() {
        dictionaries.push(copies.to_vec());
        return Ok(());
    }
    if let Some(jobs) = jobs {
        let bytes = newest(plan, copies).map_or(0, |(_, record)| record.len.into());
        sweep.count(jobs, bytes);
    }
    count(plan, sweep, copies, jobs);
    Ok(())
}

fn newest<'a>(plan: &Plan, copies: &'a [(Pack, Record)]) -> Option<&'a (Pack, Record)> {
    let order = |pack: &Pack| {
        let pack = &plan.packs[*pack as usize];
        (pack.born, pack.name.clone())
    };
    copies.iter().max_by_key(|(pack, _)| order(pack))
}

/// Counts the copies of a block in their packs: that which counts lives if something reaches it.
fn count(plan: &mut Plan, sweep: &mut Sweep, copies: &[(Pack, Record)], jobs: Option<Jobs>) {
    let living = jobs.and_then(|_| newest(plan, copies)).map(|(pack, _)| *pack);
    let below = sweep.below();
    for (pack, record) in copies {
        let is_old = plan.is_old(*pack, below);
        let tally = &mut plan.tallies[*pack as usize];
        if living == Some(*pack) {
            tally.live += u64::from(record.len);
        } else if is_old {
            tally.dead += u64::from(record.len);
            tally.dead_blocks += 1;
            sweep.report.dead_blocks += 1;
            sweep.report.dead_bytes += u64::from(record.len);
        }
    }
}

/// Removes the packs in which nothing lives.
async fn remove_dead(objects: &Objects, sweep: &mut Sweep, plan: &Plan) -> Result<(), Error> {
    let below = sweep.below();
    let dead: HashMap<&str, Tally> = plan
        .old(below)
        .into_iter()
        .filter(|(_, tally)| tally.live == 0)
        .map(|(pack, tally)| (pack.name.as_str(), tally))
        .collect();
    if dead.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = dead.keys().copied().collect();
    let filter = doc! { "_id": { "$in": names }, "stamp": { "$lt": below } };
    let delete = Step::DeleteAll { of: PACKS, filter };
    if let Ended::Unknown(error) = objects.transact(&[delete]).await? {
        return Err(error);
    }
    let left = registered(objects).await?;
    for (name, tally) in dead.iter().filter(|(name, _)| !left.contains(**name)) {
        objects.storage.delete(&object_of(name)).await?;
        sweep.report.removed_blocks += tally.dead_blocks;
    }
    Ok(())
}

/// The names of the packs that are registered as of now.
async fn registered(objects: &Objects) -> Result<HashSet<String>, Error> {
    let catalog = objects.catalog.now().await?;
    let living = catalog.packs.iter().filter(|pack| pack.lives);
    Ok(living.map(|pack| pack.name.clone()).collect())
}

/// Packs whose living blocks are gathered for a new one.
struct Gathered {
    builder: Builder,
    stamp: i64,
    packs: Vec<String>,
    dead_blocks: u64,
}

impl Gathered {
    fn new() -> Self {
        Self { builder: Builder::new(), stamp: 0, packs: Vec::new(), dead_blocks: 0 }
    }
}

/// Moves what lives out of packs of which much is dead, or that are small.
async fn move_living(objects: &Objects, sweep: &mut Sweep, plan: &Plan) -> Result<(), Error> {
    let old = plan.old(sweep.below());
    let is_small = |tally: &Tally| tally.live + tally.dead < SMALL_BYTES;
    let small = old.iter().filter(|(_, tally)| tally.live > 0 && is_small(tally)).count();
    let mut gathered = Gathered::new();
    for (pack, tally) in old.into_iter().filter(|(_, tally)| tally.live > 0) {
        let is_wasteful = tally.dead * DEAD_PART > tally.live + tally.dead;
        if !is_wasteful && (small < 2 || !is_small(&tally)) {
            continue;
        }
        let Some(living) = living_of(objects, sweep, plan, pack).await? else {
            tracing::warn!(pack = pack.name, "a pack stays, since something in it cannot be read");
            continue;
        };
        living.iter().for_each(|block| gathered.builder.push(block));
        gathered.stamp = gathered.stamp.max(pack.stamp);
        gathered.packs.push(pack.name.clone());
        gathered.dead_blocks += tally.dead_blocks;
        if gathered.builder.is_full() {
            replace(objects, sweep, std::mem::replace(&mut gathered, Gathered::new())).await?;
        }
        sweep.looked(sweep.report.live_blocks)?;
    }
    if gathered.packs.is_empty() {
        return Ok(());
    }
    replace(objects, sweep, gathered).await
}

/// The blocks of a pack that live, each hashed to its name; none if one of them cannot be read.
async fn living_of(
    objects: &Objects,
    sweep: &mut Sweep,
    plan: &Plan,
    pack: &Known,
) -> Result<Option<Vec<StoredBlock>>, Error> {
    let Some(bytes) = objects.storage.get(&object_of(&pack.name)).await? else { return Ok(None) };
    let index = objects.catalog.read_index(&pack.name, bytes.len() as u64).await?;
    let Some(records) = index else { return Ok(None) };
    let mut living = Vec::new();
    let catalog = objects.catalog.last().await?;
    for record in records {
        let is_reached = plan.used.contains(&record.id) || sweep.find(&record.id)?.is_some();
        if is_reached && is_counting(&catalog, plan, &record, pack)? {
            living.push(record);
        }
    }
    drop(catalog);
    let mut blocks = Vec::new();
    for record in living {
        let at = record.offset as usize;
        let Some(bytes) = bytes.get(at..at + record.len as usize) else { return Ok(None) };
        let block = record.block(bytes.to_vec());
        if !sweep.reader.can_open(&block).await? {
            return Ok(None);
        }
        blocks.push(block);
    }
    Ok(Some(blocks))
}

/// Whether the copy in a pack counted, of those that the plan knows.
fn is_counting(catalog: &Inner, plan: &Plan, record: &Record, pack: &Known) -> Result<bool, Error> {
    let mut copies = catalog.index.find(&record.id).map_err(|source| Error::Index { source })?;
    copies.retain(|(pack, _)| plan.packs.get(*pack as usize).is_some_and(|pack| pack.lives));
    let counting = newest(plan, &copies).map(|(pack, _)| &plan.packs[*pack as usize].name);
    Ok(counting == Some(&pack.name))
}

/// Puts a new pack in the place of others, if they are all as they were.
async fn replace(objects: &Objects, sweep: &mut Sweep, gathered: Gathered) -> Result<(), Error> {
    let (session, step) = sweep.reader.session();
    let name = super::blocks::new_name(session);
    let Gathered { builder, stamp, packs, dead_blocks } = gathered;
    let (bytes, records) = builder.finish();
    let document = rawdoc! {
        "_id": name.as_str(),
        "stamp": stamp,
        "blocks": records.len() as i64,
        "bytes": bytes.len() as i64,
    };
    objects.storage.create(&object_of(&name), bytes).await?;
    objects.catalog.wrote(&name, records).await?;
    let mut steps = vec![step, Step::Insert { of: PACKS, documents: vec![document] }];
    for pack in &packs {
        let filter = doc! { "_id": pack, "stamp": { "$lt": sweep.below() } };
        steps.push(Step::Delete { of: PACKS, filter, miss: Miss::Block });
    }
    match objects.transact(&steps).await? {
        Ended::Made => {
            for pack in &packs {
                objects.storage.delete(&object_of(pack)).await?;
            }
            sweep.report.removed_blocks += dead_blocks;
            Ok(())
        }
        // Somebody relies on something in one of them.
        Ended::Missed(Miss::Block) => objects.storage.delete(&object_of(&name)).await,
        Ended::Missed(_) => Err(Error::SessionLost),
        Ended::Unknown(error) => Err(error),
    }
}

/// Deletes objects that no document names and that nobody can register any more.
pub(super) async fn remove_orphans(objects: &Objects) -> Result<(), Error> {
    let listed = objects.storage.list("packs").await?;
    // Read after the list: what was registered since is seen.
    let registered = registered(objects).await?;
    let sessions = objects.find(SESSIONS, Query::default()).await?;
    let living: HashSet<String> =
        sessions.iter().filter_map(|one| Some(one.get_object_id("_id").ok()?.to_hex())).collect();
    for object in listed.iter().filter(|object| !registered.contains(&object.name)) {
        let session = object.name.split_once('-').map(|(session, _)| session);
        if session.is_some_and(|session| !living.contains(session)) {
            tracing::info!(pack = object.name, "an object that nothing names is deleted");
            objects.storage.delete(&object_of(&object.name)).await?;
        }
    }
    Ok(())
}
