//! Rebuilding a job from a blockstore: on an empty machine, without the source.
//!
//! Order of writes: the blocks of the newest usable snapshot and of the slices after it, then one commit that names them all as a
//! job. Before it the store has blocks that nothing names; each is looked for before it is fetched, so that a rebuild that was
//! interrupted goes on where it was, and one into a store that has most of the blocks already fetches the rest. What is fetched is
//! hashed to its name, and committed now and then so that a crash does not lose it. Then the slices are applied as a daemon
//! does after a start.

use std::collections::HashSet;
use std::sync::Arc;

use serde::Serialize;
use tokio::task::JoinSet;

use super::remote::RemoteJob;
use super::slices::{self, SliceChain};
use super::{Error, Job, SnapshotInfo, State, blocking, hex, snapshot, snapshot_of_what_is_stored};
use crate::block::{BlockId, BlockRead, references};
use crate::blockstore::{self, Blockstore, Place, Reader};
use crate::head::{self, Manifest, RULE_VERSION, content_root};
use crate::oplog::slice::Slice;
use crate::oplog::{OpTime, Ts};
use crate::restore::{Amount, At, Cancel, Phase, Progress};
use crate::store::{Location, Store, StoredBlock};

/// Blocks asked for at once; as many come as an answer holds.
const BATCH: usize = 1024;
/// Blocks that are here and looked through between two looks whether to stop.
const LOOKED_MAX: u64 = 1 << 14;
/// Slices whose blocks are asked for together.
const SLICES_TOGETHER: usize = 64;
/// Batches under way at a time.
const BATCHES_MAX: usize = 4;
/// Raw bytes of blocks between two commits that keep what was fetched.
const KEEP_EVERY_BYTES: u64 = 256 << 20;

/// What to rebuild.
pub struct Request {
    /// The blockstore.
    pub place: Place,
    /// The job; the only one if none is named.
    pub job: Option<String>,
    /// Where.
    pub location: Location,
    /// The newest moment to take in.
    pub at: At,
}

/// What was rebuilt. `--json` prints it: field names never change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The job.
    pub job: String,
    /// The snapshot that it was rebuilt from.
    pub base: String,
    /// Snapshots that were newer and could not be used, and why.
    pub passed_over: Vec<String>,
    /// Blocks that were fetched.
    pub blocks: u64,
    /// Their raw bytes.
    pub bytes: u64,
    /// Blocks that were in the store already.
    pub present: u64,
    /// Oplog slices that were applied.
    pub slices: u64,
    /// The snapshot of what came out.
    pub snapshot: Option<SnapshotInfo>,
}

/// Rebuilds a job.
///
/// # Errors
/// [`Error::Blockstore`], [`Error::NothingToRebuild`], [`Error::HasJob`], [`Error::RootDiffers`], and those of the store.
pub async fn rebuild(
    request: Request,
    progress: Arc<dyn Progress>,
    cancel: Cancel,
) -> Result<Report, Error> {
    let remote = RemoteJob::open(&request.place, request.job.as_deref()).await?;
    let name = remote.state.name.clone();
    let store = open_store(&remote.blockstore, &request.location, &name).await?;
    let mut bases = bases(&remote, &request.at)?;
    let mut report = Report { job: name.clone(), ..Report::default() };
    let fetch = Fetch { store: store.clone(), reader: remote.reader.clone(), progress, cancel };
    let base = loop {
        let Some(base) = bases.pop() else {
            return Err(Error::NothingToRebuild { job: name, why: report.passed_over.join("; ") });
        };
        match fetch.head(&base, &mut report).await {
            Ok(()) => break base,
            Err(error) if is_of_backup(&error) => {
                fetch.progress.note(&format!("snapshot {} cannot be used: {error}", base.id));
                report.passed_over.push(format!("{}: {error}", base.id));
            }
            Err(error) => return Err(error),
        }
    };
    report.base.clone_from(&base.id);
    let mut slices = after(&remote.slices, base.head.position.optime, upto(&request.at, &base));
    fetch.slices(&mut slices, &mut report).await?;
    report.slices = slices.len() as u64;
    // Until here nothing that was fetched may have gone.
    fetch.reader.check().await?;
    fetch.progress.begin(Phase::ApplySlices, Amount::default());
    let (state, upto) = (remote.state.clone(), upto(&request.at, &base));
    let made = blocking("rebuild", &name, move || {
        let name = state.name.clone();
        commit(&store, state, &base, slices, upto)?;
        snapshot_of_what_is_stored(Job::open(store, Some(&name))?)
    });
    report.snapshot = Some(made.await?);
    Ok(report)
}

/// Opens the store, or makes it as the blockstore's repository asks for.
async fn open_store(
    blockstore: &Blockstore,
    location: &Location,
    job: &str,
) -> Result<Store, Error> {
    let (location, vault) = (location.clone(), blockstore.vault().clone());
    let (name, job) = (blockstore.name(), job.to_owned());
    blocking("rebuild", &job.clone(), move || {
        let store = match Store::exists(&location.dir) {
            true => Store::open(&location.dir, location.options())?,
            false => vault.create_store(&location.dir, location.options())?,
        };
        let dir = location.dir.display().to_string();
        if !vault.names_as(&store.vault()) {
            return Err(blockstore::Error::AnotherSalt { dir, blockstore: name }.into());
        }
        match store.roots().1.contains_key(&job) {
            true => Err(Error::HasJob { job, dir }),
            false => Ok(store),
        }
    })
    .await
}

/// The snapshots that can be a base, the best last.
fn bases(remote: &RemoteJob, at: &At) -> Result<Vec<Manifest>, Error> {
    let job = &remote.state.name;
    let is_base = |manifest: &&Manifest| {
        let ts = manifest.head.position.optime.ts;
        manifest.head.consistent_from.is_some()
            && manifest.rule_version == RULE_VERSION
            && match at {
                At::Latest => true,
                At::Snapshot(id) => manifest.id == *id,
                At::Time(secs) => ts.secs <= *secs,
                At::Exact(upto) => ts <= *upto,
            }
    };
    let bases: Vec<Manifest> = remote.snapshots.iter().filter(is_base).cloned().collect();
    if bases.is_empty() {
        let why =
            format!("it has {} snapshots, and none at or before {at}", remote.snapshots.len());
        return Err(Error::NothingToRebuild { job: job.clone(), why });
    }
    Ok(bases)
}

/// The newest entry to take in.
fn upto(at: &At, base: &Manifest) -> Ts {
    match at {
        At::Latest => Ts::MAX,
        At::Snapshot(_) => base.head.position.optime.ts,
        At::Time(secs) => Ts { secs: *secs, inc: u32::MAX },
        At::Exact(ts) => *ts,
    }
}

/// The slices that go on from a point without a break. The first may begin before it, and the last reach beyond what is asked for.
fn after(slices: &[Slice], from: OpTime, upto: Ts) -> Vec<Slice> {
    let (mut found, mut end): (Vec<Slice>, OpTime) = (Vec::new(), from);
    for slice in slices.iter().filter(|slice| slice.header.last.optime > from) {
        let header = &slice.header;
        let is_within = found.is_empty() && header.first.optime <= from;
        if !(is_within || header.prev == end) || header.first.optime.ts > upto {
            break;
        }
        end = header.last.optime;
        found.push(slice.clone());
    }
    found
}

/// Makes the job of what was fetched.
fn commit(
    store: &Store,
    state: State,
    base: &Manifest,
    slices: Vec<Slice>,
    upto: Ts,
) -> Result<(), Error> {
    let session = store.session();
    let collections = head::catalog(store, &base.head)?;
    let found = content_root::content_root(&collections.iter().collect::<Vec<_>>())?;
    if found != base.head.content_root {
        let (expected, found) = (hex(&base.head.content_root), hex(&found));
        return Err(Error::RootDiffers { snapshot: base.id.clone(), expected, found });
    }
    let mut chain = SliceChain::default();
    let mut received = base.head.position;
    for mut slice in slices {
        // A head goes on at the beginning of a slice.
        if slice.header.first.optime <= received.optime || slice.header.last.optime.ts > upto {
            let begin = received.optime.max(slice.header.prev);
            let Some(cut) = slices::cut(store, &slice, begin, upto)? else { break };
            slice = cut;
        }
        received = slice.header.last;
        chain.push(store, store.salt(), slice)?;
    }
    let mut state = State {
        head: Some(base.head.clone()),
        received: Some(received),
        slices: chain,
        stopped: None,
        ..state
    };
    snapshot::add(store, &mut state, base)?;
    let (name, id) = (state.name.clone(), state.write(store)?);
    store.commit(|roots| _ = roots.insert(name, id))?;
    drop(session);
    Ok(())
}

/// Whether the backup is the trouble, so that an older snapshot may do.
fn is_of_backup(error: &Error) -> bool {
    use crate::block::Error as Block;
    let of_block = |error: &Block| {
        matches!(error, Block::Missing { .. } | Block::Damaged { .. } | Block::Malformed { .. })
    };
    match error {
        Error::Blockstore(blockstore::Error::Block(error)) | Error::Block(error) => of_block(error),
        Error::Store(crate::store::Error::Block(error)) => of_block(error),
        _ => false,
    }
}

/// Brings blocks into a store.
struct Fetch {
    store: Store,
    reader: Reader,
    progress: Arc<dyn Progress>,
    cancel: Cancel,
}

/// A batch that has come.
#[derive(Default)]
struct Batch {
    /// Blocks of it that have not come yet, and those that what came names.
    open: Vec<BlockId>,
    blocks: u64,
    /// Raw ones.
    bytes: u64,
}

type Come = Result<Batch, Error>;

impl Fetch {
    /// All that a snapshot reaches.
    async fn head(&self, base: &Manifest, report: &mut Report) -> Result<(), Error> {
        let whole = Amount { documents: 0, bytes: base.head.logical_bytes };
        self.progress.begin(Phase::Fetch, whole);
        let tops = base.head.catalog.top.into_iter().chain(base.head.pending);
        self.all(tops.collect(), report).await
    }

    /// The entries of slices, as far as they can be had.
    async fn slices(&self, slices: &mut Vec<Slice>, report: &mut Report) -> Result<(), Error> {
        let mut had = 0;
        while had < slices.len() {
            let together = &slices[had..slices.len().min(had + SLICES_TOGETHER)];
            let pieces = together.iter().flat_map(|slice| slice.pieces.clone()).collect();
            match self.all(pieces, report).await {
                Ok(()) => had += together.len(),
                Err(error) if is_of_backup(&error) => {
                    let (whole, why) = self.whole(together, report).await?;
                    had += whole;
                    if let Some(why) = why {
                        self.progress.note(&why);
                        report.passed_over.push(why);
                        break;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        slices.truncate(had);
        Ok(())
    }

    /// How many of these slices can be had, one after the other, and what is wrong with the next.
    async fn whole(
        &self,
        slices: &[Slice],
        report: &mut Report,
    ) -> Result<(usize, Option<String>), Error> {
        for (whole, slice) in slices.iter().enumerate() {
            match self.all(slice.pieces.clone(), report).await {
                Ok(()) => {}
                Err(error) if is_of_backup(&error) => {
                    let why = format!("the oplog from {} on: {error}", slice.header.first.optime);
                    return Ok((whole, Some(why)));
                }
                Err(error) => return Err(error),
            }
        }
        Ok((slices.len(), None))
    }

    /// Blocks and all that they reach, parents first; what is here already is looked through here.
    async fn all(&self, roots: Vec<BlockId>, report: &mut Report) -> Result<(), Error> {
        let (mut open, mut under_way) = (roots, JoinSet::<Come>::new());
        let (mut unkept, mut keeping) = (0, JoinSet::new());
        loop {
            while under_way.len() < BATCHES_MAX && !open.is_empty() {
                if self.cancel.is_cancelled() {
                    return Err(Error::Cancelled);
                }
                let batch = self.missing(&mut open, report).await?;
                if !batch.is_empty() {
                    under_way.spawn(batch_of(self.store.clone(), self.reader.clone(), batch));
                }
            }
            let Some(come) = under_way.join_next().await else { break };
            let Batch { open: more, blocks, bytes } =
                come.map_err(|_| blockstore::Error::WorkerLost)??;
            open.extend(more);
            report.blocks += blocks;
            report.bytes += bytes;
            self.progress.advance(Amount { documents: blocks, bytes });
            unkept += bytes;
            if unkept >= KEEP_EVERY_BYTES {
                unkept = 0;
                // The one before, which the disk has had the time for.
                kept(&mut keeping).await?;
                keeping.spawn(keep(self.store.clone()));
            }
        }
        kept(&mut keeping).await?;
        if unkept > 0 { keep(self.store.clone()).await } else { Ok(()) }
    }

    /// The next blocks that are not here. Those that are give way to what they name.
    async fn missing(
        &self,
        open: &mut Vec<BlockId>,
        report: &mut Report,
    ) -> Result<Vec<BlockId>, Error> {
        let (store, mut taken) = (self.store.clone(), std::mem::take(open));
        let looked = blocking("rebuild", "the job", move || {
            let (mut missing, mut present) = (Vec::new(), 0);
            let mut seen = HashSet::new();
            while missing.len() < BATCH
                && present < LOOKED_MAX
                && let Some(id) = taken.pop()
            {
                match store.kind_of(&id)? {
                    None if seen.insert(id) => missing.push(id),
                    None => {}
                    Some(kind) => {
                        present += 1;
                        if kind.has_references() {
                            let block = store.get(&id)?;
                            taken.extend(references(block.kind, &block.bytes)?);
                        }
                    }
                }
            }
            Ok((taken, missing, present))
        });
        let (rest, missing, present) = looked.await?;
        *open = rest;
        report.present += present;
        Ok(missing)
    }
}

/// Makes durable what was fetched.
async fn keep(store: Store) -> Result<(), Error> {
    blocking("rebuild", "the job", move || Ok(store.commit(|_| {}).map(drop)?)).await
}

/// Waits for what is being kept.
async fn kept(keeping: &mut JoinSet<Result<(), Error>>) -> Result<(), Error> {
    match keeping.join_next().await {
        None => Ok(()),
        Some(kept) => kept.map_err(|_| blockstore::Error::WorkerLost)?,
    }
}

/// Fetches some of these blocks, as many as come at once, and takes them into the store.
async fn batch_of(store: Store, reader: Reader, mut ids: Vec<BlockId>) -> Come {
    let come = reader.some_stored(&ids).await?;
    if let (true, Some(missing)) = (come.is_empty(), ids.first()) {
        reader.check().await?;
        return Err(crate::block::Error::Missing { id: *missing }.into());
    }
    let there: HashSet<BlockId> = come.iter().map(|block| block.id).collect();
    ids.retain(|id| !there.contains(id));
    let mut with_dictionaries = Vec::with_capacity(come.len());
    for block in come {
        let dictionary = match &block.dictionary {
            Some(id) => reader.dictionary(id).await?,
            None => None,
        };
        with_dictionaries.push((block, dictionary));
    }
    blocking("rebuild", "the job", move || {
        let mut come = Batch { open: ids, ..Batch::default() };
        for (block, dictionary) in with_dictionaries {
            store.put_stored(&block, dictionary.as_deref())?;
            let StoredBlock { id, kind, raw_len, .. } = block;
            if kind.has_references() {
                come.open.extend(references(kind, &store.get(&id)?.bytes)?);
            }
            come.blocks += 1;
            come.bytes += u64::from(raw_len);
        }
        Ok(come)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oplog::Position;
    use crate::oplog::slice::SliceHeader;

    fn at(secs: u32) -> Position {
        let optime = OpTime { ts: Ts { secs, inc: 1 }, term: 1 };
        Position { optime, wall_ms: i64::from(secs) * 1000 }
    }

    fn slice(prev: u32, last: u32) -> Slice {
        let header = SliceHeader {
            prev: at(prev).optime,
            first: at(prev + 1),
            last: at(last),
            entries: 1,
            raw_bytes: 1,
            kinds: std::collections::BTreeSet::new(),
        };
        Slice { header, pieces: Vec::new() }
    }

    /// From a snapshot at the end of a slice, or within one; to a gap, or to what is asked for.
    #[test]
    fn slices_go_on_from_a_snapshot_without_a_break() {
        let slices = [slice(0, 10), slice(10, 20), slice(20, 30), slice(40, 50)];
        let found = |from, upto| {
            let found = after(&slices, at(from).optime, Ts { secs: upto, inc: 0 });
            found.iter().map(|one| one.header.last.optime.ts.secs).collect::<Vec<_>>()
        };
        assert_eq!(found(10, 100), [20, 30]);
        assert_eq!(found(15, 100), [20, 30]);
        assert_eq!(found(10, 25), [20, 30], "what is beyond is cut off later");
        assert_eq!(found(10, 20), [20]);
        assert_eq!(found(30, 100), [0; 0]);
        assert_eq!(found(40, 100), [50]);
    }
}
