//! The sweep of a groom: packs of which nothing lives go, and what lives in those of which much is dead moves (page 10, section 5).
//!
//! Order of writes: a new pack's object; one transaction that registers it, removes the documents of those whose blocks it has, each on its
//! condition, and raises what is kept in the place of copies that go; then their objects. A sweep that stops anywhere leaves an object that nothing
//! names, which the next finds.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use bson::{doc, rawdoc};

use super::catalog::{Inner, Known, counting, object_of};
use super::index::Pack;
use super::pack::{Builder, PACK_BYTES, RECORD_BYTES, Record};
use super::{Objects, PACKS};
use crate::block::{BlockId, Kind};
use crate::blockstore::Error;
use crate::blockstore::backend::{Backend as _, DAEMONS, Ended, Miss, SESSIONS, Step};
use crate::blockstore::groom::{GroomReport, Jobs, Sweep};
use crate::store::StoredBlock;

/// A pack is written anew if more than one in so many of its bytes is dead.
const DEAD_PART: u64 = 5;
/// A pack below this size is written anew with others of that kind.
const SMALL_BYTES: u64 = PACK_BYTES as u64 / 4;
/// Packs of which one new pack is made, or that are removed at once, at most.
const TOGETHER_MAX: usize = 256;
/// Blocks between two reports.
const TELL_EVERY: u64 = 1 << 12;

/// What was found of a pack.
#[derive(Debug, Clone, Default)]
struct Tally {
    live: u64,
    dead: u64,
    dead_blocks: u64,
    /// The packs that have the copies which count of blocks that live, of which this one has others.
    kept: BTreeSet<Pack>,
    /// The dictionaries that those are stored with.
    kept_dictionaries: BTreeSet<BlockId>,
}

/// What is known after all names were looked at.
struct Plan {
    packs: Vec<Known>,
    tallies: Vec<Tally>,
    /// Dictionaries that something is stored with.
    used: HashSet<BlockId>,
    /// Where dictionaries count.
    dictionaries: BTreeMap<BlockId, Pack>,
    /// Which were there, where that was asked.
    readable: HashMap<BlockId, bool>,
}

/// All copies of one block.
type Copies = Vec<(Pack, Record)>;

pub(super) async fn sweep(objects: &Objects, mut sweep: Sweep) -> Result<GroomReport, Error> {
    let plan = look(objects, &mut sweep).await?;
    if !sweep.report.dry_run {
        remove_dead(objects, &mut sweep, &plan).await?;
        move_living(objects, &mut sweep, &plan).await?;
        let (_, step) = sweep.reader.session();
        remove_orphans(objects, step).await?;
    }
    Ok(sweep.report)
}

impl Plan {
    fn is_old(&self, pack: Pack, below: i64) -> bool {
        self.packs[pack as usize].stamp < below
    }

    /// The packs for which something may be done, in the order in which they were born.
    fn old(&self, below: i64) -> Vec<(&Known, &Tally)> {
        let all = self.packs.iter().zip(&self.tallies);
        let mut old: Vec<_> =
            all.filter(|(pack, _)| pack.can_be_read && pack.lives && pack.stamp < below).collect();
        old.sort_by(|(one, _), (other, _)| (one.born, &one.name).cmp(&(other.born, &other.name)));
        old
    }

    /// The names of the packs that must stay, and be raised, if a pack goes.
    fn kept(&self, tally: &Tally) -> BTreeSet<String> {
        let of_dictionaries =
            tally.kept_dictionaries.iter().filter_map(|id| self.dictionaries.get(id));
        let kept = tally.kept.iter().chain(of_dictionaries);
        kept.map(|pack| self.packs[*pack as usize].name.clone()).collect()
    }
}

/// Goes through all names in order, and says of each copy whether it lives.
async fn look(objects: &Objects, sweep: &mut Sweep) -> Result<Plan, Error> {
    let disk = |source| Error::Index { source };
    // What is there is read after everything was marked.
    let catalog = objects.catalog.now().await?;
    let packs = catalog.packs.clone();
    let tallies = vec![Tally::default(); packs.len()];
    let (used, dictionaries) = (HashSet::new(), BTreeMap::new());
    let mut plan = Plan { packs, tallies, used, dictionaries, readable: HashMap::new() };
    let (mut copies, mut waiting) = (Copies::new(), Vec::new());
    let mut looked = 0_u64;
    for item in catalog.index.all().map_err(disk)? {
        let (pack, record) = item.map_err(disk)?;
        if !plan.packs[pack as usize].lives {
            continue;
        }
        looked += 1;
        if looked.is_multiple_of(TELL_EVERY) {
            sweep.looked(looked)?;
        }
        if copies.first().is_some_and(|(_, first)| first.id != record.id) {
            judge(&catalog, &mut plan, sweep, &std::mem::take(&mut copies), &mut waiting)?;
        }
        copies.push((pack, record));
    }
    judge(&catalog, &mut plan, sweep, &copies, &mut waiting)?;
    for copies in waiting {
        let is_used = plan.used.contains(&copies[0].1.id);
        count(&catalog, &mut plan, sweep, &copies, is_used.then(Jobs::default))?;
    }
    plan.readable = catalog.dictionaries();
    sweep.looked(looked)?;
    Ok(plan)
}

/// Judges all copies of one block; dictionaries wait until it is known what is stored with them.
fn judge(
    catalog: &Inner,
    plan: &mut Plan,
    sweep: &mut Sweep,
    copies: &Copies,
    waiting: &mut Vec<Copies>,
) -> Result<(), Error> {
    let Some((_, first)) = copies.first() else { return Ok(()) };
    let jobs = sweep.find(&first.id)?;
    // A dictionary stays as long as any copy that is there is stored with it: that may be the one that somebody finds.
    plan.used.extend(copies.iter().filter_map(|(_, record)| record.dictionary));
    if first.kind == Kind::Dictionary {
        plan.dictionaries.extend(catalog.counting(copies)?.map(|(pack, record)| (record.id, pack)));
        if jobs.is_none() {
            waiting.push(copies.clone());
            return Ok(());
        }
    }
    if let (Some(jobs), Some((_, record))) = (jobs, catalog.counting(copies)?) {
        sweep.count(jobs, record.len.into());
    }
    count(catalog, plan, sweep, copies, jobs)
}

/// Counts the copies of a block in their packs: that which counts lives if something reaches it.
fn count(
    catalog: &Inner,
    plan: &mut Plan,
    sweep: &mut Sweep,
    copies: &Copies,
    jobs: Option<Jobs>,
) -> Result<(), Error> {
    let living = match jobs {
        Some(_) => catalog.counting(copies)?,
        None => None,
    };
    let below = sweep.below();
    for (pack, record) in copies {
        let is_old = plan.is_old(*pack, below);
        let tally = &mut plan.tallies[*pack as usize];
        if living.is_some_and(|(living, _)| living == *pack) {
            tally.live += u64::from(record.len);
        } else if is_old {
            tally.dead += u64::from(record.len);
            tally.dead_blocks += 1;
            sweep.report.dead_blocks += 1;
            sweep.report.dead_bytes += u64::from(record.len);
            if let Some((kept, counting)) = living {
                tally.kept.insert(kept);
                tally.kept_dictionaries.extend(counting.dictionary);
            }
        }
    }
    Ok(())
}

/// Steps that keep packs from older grooms, and ask that they are there: what was relied on in a copy that goes is relied on there.
fn keep(kept: &BTreeSet<String>, generation: i64) -> Vec<Step> {
    let raise = |pack: &String| Step::Update {
        of: PACKS,
        filter: doc! { "_id": pack },
        change: doc! { "$max": { "stamp": generation - 1 } },
        miss: Miss::Block,
    };
    kept.iter().map(raise).collect()
}

/// A step that removes a pack which nobody has relied on since.
fn remove(pack: &str, below: i64) -> Step {
    let filter = doc! { "_id": pack, "stamp": { "$lt": below } };
    Step::Delete { of: PACKS, filter, miss: Miss::Block }
}

/// Removes the packs in which nothing lives.
async fn remove_dead(objects: &Objects, sweep: &mut Sweep, plan: &Plan) -> Result<(), Error> {
    let below = sweep.below();
    let dead = plan.old(below).into_iter().filter(|(_, tally)| tally.live == 0);
    let (together, alone): (Vec<_>, Vec<_>) =
        dead.partition(|(_, tally)| plan.kept(tally).is_empty());
    for dead in together.chunks(TOGETHER_MAX) {
        let names: Vec<&str> = dead.iter().map(|(pack, _)| pack.name.as_str()).collect();
        let filter = doc! { "_id": { "$in": names }, "stamp": { "$lt": below } };
        let delete = Step::DeleteAll { of: PACKS, filter };
        if let Ended::Unknown(error) = objects.transact(&[delete]).await? {
            return Err(error);
        }
        let left = registered(objects).await?;
        for (pack, tally) in dead.iter().filter(|(pack, _)| !left.contains(&pack.name)) {
            objects.storage.delete(&object_of(&pack.name)).await?;
            sweep.report.removed_blocks += tally.dead_blocks;
        }
        sweep.looked(sweep.report.live_blocks)?;
    }
    for (pack, tally) in alone {
        let mut steps = keep(&plan.kept(tally), sweep.generation);
        steps.push(remove(&pack.name, below));
        match objects.transact(&steps).await? {
            Ended::Made => {
                objects.storage.delete(&object_of(&pack.name)).await?;
                sweep.report.removed_blocks += tally.dead_blocks;
            }
            // Somebody relies on something in it, or what is kept has gone elsewhere: the next groom sees.
            Ended::Missed(_) => {}
            Ended::Unknown(error) => return Err(error),
        }
        sweep.looked(sweep.report.live_blocks)?;
    }
    Ok(())
}

/// The names of the packs that are registered as of now.
async fn registered(objects: &Objects) -> Result<HashSet<String>, Error> {
    let state = objects.log.now().await?;
    let names = state.all(PACKS.0).filter_map(|(_, held)| held.document.get_str("_id").ok());
    Ok(names.map(str::to_owned).collect())
}

/// Packs whose living blocks are gathered for a new one.
struct Gathered {
    builder: Builder,
    packs: Vec<String>,
    kept: BTreeSet<String>,
    dead_blocks: u64,
}

impl Gathered {
    fn new() -> Self {
        let (builder, packs) = (Builder::new(), Vec::new());
        Self { builder, packs, kept: BTreeSet::new(), dead_blocks: 0 }
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
        if !is_wasteful && (small < 2 || !is_small(tally)) {
            continue;
        }
        let Some(living) = living_of(objects, sweep, plan, pack).await? else {
            tracing::warn!(pack = pack.name, "a pack stays, since something in it cannot be read");
            continue;
        };
        living.iter().for_each(|block| gathered.builder.push(block));
        gathered.packs.push(pack.name.clone());
        gathered.kept.extend(plan.kept(tally));
        gathered.dead_blocks += tally.dead_blocks;
        if gathered.builder.is_full() || gathered.packs.len() == TOGETHER_MAX {
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
    let (len, most) = (bytes.len() as u64, (bytes.len() / RECORD_BYTES) as u64);
    let index = objects.catalog.read_index(&pack.name, len, most).await?;
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

/// Whether the copy in a pack counted when all were looked at: what has become of the others since, the transaction asks.
fn is_counting(catalog: &Inner, plan: &Plan, record: &Record, pack: &Known) -> Result<bool, Error> {
    let mut copies = catalog.index.find(&record.id).map_err(|source| Error::Index { source })?;
    copies.retain(|(pack, _)| plan.packs.get(*pack as usize).is_some_and(|pack| pack.lives));
    let mut was_there = |id: &BlockId| Ok(plan.readable.get(id).copied().unwrap_or(true));
    let counting = counting(&plan.packs, &copies, &mut was_there)?;
    Ok(counting.is_some_and(|(counting, _)| plan.packs[counting as usize].name == pack.name))
}

/// Puts a new pack in the place of others, if they are all as they were.
async fn replace(objects: &Objects, sweep: &mut Sweep, gathered: Gathered) -> Result<(), Error> {
    let (session, step) = sweep.reader.session();
    let name = super::blocks::new_name(session);
    let Gathered { builder, packs, mut kept, dead_blocks } = gathered;
    let (bytes, records) = builder.finish();
    let document = rawdoc! {
        "_id": name.as_str(),
        "stamp": sweep.generation - 1,
        "blocks": records.len() as i64,
        "bytes": bytes.len() as i64,
    };
    objects.create_pack(&name, bytes).await?;
    objects.catalog.wrote(&name, records).await?;
    // What counts in one of them is in the new one.
    packs.iter().for_each(|pack| _ = kept.remove(pack));
    let mut steps = vec![step, Step::Insert { of: PACKS, documents: vec![document] }];
    steps.extend(keep(&kept, sweep.generation));
    steps.extend(packs.iter().map(|pack| remove(pack, sweep.below())));
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

/// Deletes objects that no document names and that nobody can register any more, and beats of nobody. `step` writes something: what is
/// decided by has the answer to that behind it, and is no older than the list, whatever a mount may remember.
pub(super) async fn remove_orphans(objects: &Objects, step: Step) -> Result<(), Error> {
    let packs = objects.storage.list("packs").await?;
    let beats = objects.storage.list("beats").await?;
    let unfinished = objects.storage.unfinished("packs").await?;
    match objects.transact(&[step]).await? {
        Ended::Made => {}
        Ended::Missed(_) => return Err(Error::SessionLost),
        Ended::Unknown(error) => return Err(error),
    }
    let (registered, living) = {
        // Of one state: a session that ends has registered what it had before.
        let state = objects.log.now().await?;
        let packs = state.all(PACKS.0).filter_map(|(_, held)| held.document.get_str("_id").ok());
        let registered: HashSet<String> = packs.map(str::to_owned).collect();
        let both = state.all(SESSIONS.0).chain(state.all(DAEMONS.0));
        let ids = both.filter_map(|(_, held)| held.document.get_object_id("_id").ok());
        (registered, ids.map(|id| id.to_hex()).collect::<HashSet<String>>())
    };
    for pack in packs.iter().filter(|pack| !registered.contains(*pack)) {
        let session = pack.split_once('-').map(|(session, _)| session);
        if session.is_some_and(|session| !living.contains(session)) {
            tracing::info!(pack, "an object that nothing names is deleted");
            objects.storage.delete(&object_of(pack)).await?;
        }
    }
    for (pack, file) in unfinished {
        let session = pack.split_once('-').map(|(session, _)| session);
        if session.is_some_and(|session| !living.contains(session))
            && let Err(error) = tokio::fs::remove_file(&file).await
        {
            tracing::warn!(file = %file.display(), %error, "what a dead writer left stays");
        }
    }
    for beat in beats.iter().filter(|beat| !living.contains(*beat)) {
        objects.storage.delete(&format!("beats/{beat}")).await?;
    }
    Ok(())
}
