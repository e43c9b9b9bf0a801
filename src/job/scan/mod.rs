//! The initial sync: every collection of the source as a tree, while the oplog is tailed. Where the job
//! has a head, every collection that the head does not hold.
//!
//! A coordinator owns the progress of all collections. It keeps a bounded number of units of work in
//! flight: opening a collection (cutting it into ranges), scanning a range, joining the ranges of a
//! collection into one tree. What ranges report is committed at short intervals, so that a killed
//! scan goes on where it was, on whatever member of the source it is then.
//!
//! What is scanned is *fuzzy*: documents as of different moments. The entries above the scan's base
//! make it consistent at its end point, which is why it is only a head from there on.

pub mod merge;
pub mod progress;
pub mod range;

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bson::RawDocumentBuf;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::progress::{Progress, RangeProgress};
use self::range::{News, RangeScan, Report};
use super::{Activity, Error, Expected, Figures, Job, ScanInfo, State, blocking};
use crate::block::{BlockRead, BlockWrite};
use crate::head::{self, HeadRoot, Scanned, Scope};
use crate::oplog::{Position, Uuid};
use crate::source::{Arrival, Listed, Range, Source};
use crate::store::Session;
use crate::tree::{self, Content, Cursor, Edit, Order, Root, Shape};

/// Units of work in flight: enough to keep both the source and two or more cores busy, few enough
/// that their batches (16 MiB each, three per range) stay within the memory a backup may take.
pub const UNITS_IN_FLIGHT: usize = 4;
/// Bytes of a range when a large collection is cut.
const RANGE_BYTES: u64 = 64 << 20;
/// Ranges of one collection at most: bounds its progress document.
const RANGES_MAX: u64 = 32;
/// Time between commits of progress.
const CHECKPOINT_EVERY: Duration = Duration::from_millis(250);
/// Reports waiting for the coordinator. Few are ever sent per second.
pub const REPORTS_WAITING: usize = 64;
/// How often collections in natural order are begun anew before the scan fails.
pub const RESTARTS_MAX: u32 = 16;

/// A unit of work: collections and ranges by their index.
#[derive(Debug, Clone, Copy)]
enum Unit {
    Open(usize),
    Scan(usize, usize),
    Join(usize),
}

/// What a unit found.
enum Found {
    Ranges(usize, Vec<Range>),
    Scanned,
    Tree(usize, Root),
}

/// Scans every collection of the source to its end, going on where an earlier process stopped, and
/// returns when the job's state holds all trees and the end point. Cancel it by dropping it: what was
/// checkpointed stays.
///
/// # Errors
/// Those of the source, the trees and the store.
pub async fn run(job: &Job, source: &Source, figures: &Figures) -> Result<(), Error> {
    figures.activity(Activity::Scanning);
    let owner = job.clone();
    let session = blocking("scan", job.name(), move || Ok(owner.store().session())).await?;
    let mut scanner = Scanner {
        job: job.clone(),
        source: source.clone(),
        figures: figures.clone(),
        session: Arc::new(session),
        collections: list(job, source).await?,
        base: job.state().scan.map(|scan| scan.base),
        restarts: 0,
        dirty: BTreeSet::new(),
        queue: VecDeque::new(),
        added_before: job.store().stats().added_bytes,
    };
    scanner.show();
    scanner.scan().await?;
    let end = source.end_point().await?;
    scanner.checkpoint(Some(end)).await
}

/// What the finished scan of a job found.
///
/// # Errors
/// [`Error::Malformed`] if a collection is not finished, and those of reading trees.
pub fn scanned(blocks: &dyn BlockRead, progress: &Root) -> Result<Vec<Scanned>, Error> {
    read_all(blocks, progress)?
        .into_iter()
        .map(|collection| {
            let unfinished = Error::Malformed { what: "scan progress", field: "finished" };
            Ok(Scanned {
                uuid: collection.listed.uuid,
                ns: collection.listed.ns,
                options: collection.listed.options,
                indexes: collection.listed.indexes,
                order: order(collection.listed.arrival),
                root: collection.finished.ok_or(unfinished)?,
            })
        })
        .collect()
}

/// The trees that an unfinished scan has, each with its shape, for verification.
///
/// # Errors
/// Those of reading trees.
pub fn trees(blocks: &dyn BlockRead, progress: &Root) -> Result<Vec<(Order, Root)>, Error> {
    let mut found = Vec::new();
    for collection in read_all(blocks, progress)? {
        let order = order(collection.listed.arrival);
        let pieces = collection.ranges.iter().flat_map(|range| &range.pieces);
        let roots = pieces.map(|piece| piece.root).chain(collection.finished);
        found.extend(roots.map(|root| (order, root)));
    }
    Ok(found)
}

/// How far an unfinished scan is, as committed.
///
/// # Errors
/// Those of reading trees.
pub fn amount(blocks: &dyn BlockRead, progress: &Root) -> Result<ScanInfo, Error> {
    let mut amount = ScanInfo::default();
    for collection in read_all(blocks, progress)? {
        let (documents, bytes) = collection.amount();
        amount.documents += documents;
        amount.bytes += bytes;
        amount.documents_estimate += collection.listed.documents_estimate;
        amount.bytes_estimate += collection.listed.bytes_estimate;
        amount.collections += 1;
        amount.collections_done += u64::from(collection.finished.is_some());
    }
    Ok(amount)
}

/// The collections to scan, with what earlier processes have of them. Listings and scans must wait
/// for the base of the scan even where an earlier process chose it and ended before it had listed.
async fn list(job: &Job, source: &Source) -> Result<Vec<Progress>, Error> {
    let scan = job.state().scan;
    if let Some(scan) = &scan {
        source.resume_scan_at(scan.base.optime.ts);
    }
    match scan.filter(|scan| scan.listed) {
        Some(scan) => {
            let owner = job.clone();
            blocking("scan", job.name(), move || read_all(owner.store(), &scan.progress)).await
        }
        None => {
            let State { scope, head, .. } = job.state();
            let store = job.store().clone();
            let new = scope.clone();
            let held = move || held(&store, head.as_ref(), &new);
            let held = blocking("scan", job.name(), held).await?;
            let mut listed = source.list(&scope).await?;
            listed.retain(|listed| !held.contains(&listed.uuid));
            Ok(listed.into_iter().map(Progress::new).collect())
        }
    }
}

/// The collections that a job's head has, as far as they are tracked by the names they have there: the
/// others are let go when it is opened.
pub fn held(
    blocks: &dyn BlockRead,
    head: Option<&HeadRoot>,
    scope: &Scope,
) -> Result<HashSet<Uuid>, Error> {
    let Some(root) = head else { return Ok(HashSet::new()) };
    let collections = head::catalog(blocks, root)?.into_iter();
    let tracked = collections.filter(|collection| head::tracks(scope, collection));
    Ok(tracked.map(|collection| collection.uuid).collect())
}

fn read_all(blocks: &dyn BlockRead, progress: &Root) -> Result<Vec<Progress>, Error> {
    let mut collections = Vec::new();
    let mut cursor = Cursor::new(blocks, progress);
    while let Some(document) = cursor.next()? {
        collections.push(Progress::from_bson(blocks, &document)?);
    }
    Ok(collections)
}

/// Into how many ranges a collection is cut.
pub fn ranges_of(listed: &Listed) -> usize {
    (listed.bytes_estimate / RANGE_BYTES + 1).min(RANGES_MAX) as usize
}

/// One tree of the pieces of a collection.
///
/// # Errors
/// Those of reading and writing trees.
pub fn join(
    store: &dyn BlockWrite,
    shape: &Shape,
    arrival: Arrival,
    pieces: Vec<Root>,
) -> Result<Root, Error> {
    match arrival {
        Arrival::ByCollation => merge::merge_all(store, shape, pieces),
        Arrival::ByKey | Arrival::Natural => merge::join(store, shape, &pieces),
    }
}

/// How the tree of a collection that arrives so is ordered.
pub fn order(arrival: Arrival) -> Order {
    match arrival {
        Arrival::ByKey | Arrival::ByCollation => Order::Keyed,
        Arrival::Natural => Order::Positional,
    }
}

/// Owns the progress of a scan.
struct Scanner {
    job: Job,
    source: Source,
    figures: Figures,
    /// Pieces stand in the store before a checkpoint names them.
    session: Arc<Session>,
    collections: Vec<Progress>,
    /// Which scan this is: a checkpoint of one that was given up must not count for the next.
    base: Option<Position>,
    restarts: u32,
    /// Collections that changed since the last checkpoint.
    dirty: BTreeSet<usize>,
    queue: VecDeque<Unit>,
    /// The store's count of added bytes at the last checkpoint.
    added_before: u64,
}

impl Scanner {
    async fn scan(&mut self) -> Result<(), Error> {
        if self.job.state().scan.is_none_or(|scan| !scan.listed) {
            self.dirty.extend(0..self.collections.len());
            self.checkpoint(None).await?;
        }
        for index in 0..self.collections.len() {
            self.enqueue(index);
        }
        let (sender, mut reports) = mpsc::channel(REPORTS_WAITING);
        let mut units: JoinSet<Result<Found, Error>> = JoinSet::new();
        let mut clock = interval(CHECKPOINT_EVERY);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            while units.len() < UNITS_IN_FLIGHT
                && let Some(unit) = self.queue.pop_front()
            {
                self.start(unit, &mut units, &sender);
            }
            tokio::select! {
                Some(report) = reports.recv() => self.heard(report)?,
                unit = units.join_next() => match unit {
                    None if reports.is_empty() => return Ok(()),
                    None => {}
                    Some(found) => self.found(found.map_err(|_| self.lost())??),
                },
                _ = clock.tick() => self.checkpoint(None).await?,
            }
        }
    }

    fn lost(&self) -> Error {
        Error::WorkerLost { job: self.job.name().to_owned(), worker: "scan" }
    }

    /// Queues what is left to do of a collection.
    fn enqueue(&mut self, index: usize) {
        let collection = &self.collections[index];
        if collection.finished.is_some() {
            return;
        }
        if collection.ranges.is_empty() {
            self.queue.push_back(Unit::Open(index));
        } else if collection.ranges.iter().all(|range| range.done) {
            self.queue.push_back(Unit::Join(index));
        } else {
            let open = collection.ranges.iter().enumerate().filter(|(_, range)| !range.done);
            self.queue.extend(open.map(|(range, _)| Unit::Scan(index, range)));
        }
    }

    fn start(
        &self,
        unit: Unit,
        units: &mut JoinSet<Result<Found, Error>>,
        reports: &mpsc::Sender<Report>,
    ) {
        match unit {
            Unit::Open(index) => {
                let (source, listed) =
                    (self.source.clone(), self.collections[index].listed.clone());
                let pieces = ranges_of(&listed);
                units.spawn(async move {
                    Ok(Found::Ranges(index, source.split(&listed, pieces).await?))
                });
            }
            Unit::Scan(index, range) => {
                let scan = RangeScan {
                    source: self.source.clone(),
                    store: Arc::new(self.job.store().clone()),
                    shape: self.shape(index),
                    figures: self.figures.clone(),
                    listed: self.collections[index].listed.clone(),
                    at: None,
                    progress: self.collections[index].ranges[range].clone(),
                    place: (index, range),
                    reports: reports.clone(),
                };
                units.spawn(async move { scan.run().await.map(|()| Found::Scanned) });
            }
            Unit::Join(index) => {
                let (store, shape) = (self.job.store().clone(), self.shape(index));
                let collection = &self.collections[index];
                let arrival = collection.listed.arrival;
                let pieces = collection.ranges.iter().flat_map(|range| &range.pieces);
                let roots: Vec<Root> = pieces.map(|piece| piece.root).collect();
                units.spawn_blocking(move || {
                    Ok(Found::Tree(index, join(&store, &shape, arrival, roots)?))
                });
            }
        }
    }

    fn shape(&self, index: usize) -> Shape {
        let order = order(self.collections[index].listed.arrival);
        Shape::new(self.job.store().salt(), order, Content::Documents)
    }

    fn heard(&mut self, report: Report) -> Result<(), Error> {
        let (index, range) = report.place;
        let collection = &mut self.collections[index];
        self.dirty.insert(index);
        match report.news {
            News::Pieces(pieces, last_id) => {
                collection.ranges[range].pieces = pieces;
                collection.ranges[range].last_id = last_id;
            }
            News::Done => {
                collection.ranges[range].done = true;
                if collection.ranges.iter().all(|range| range.done) {
                    self.queue.push_front(Unit::Join(index));
                }
            }
            News::Restart(error) => {
                self.restarts += 1;
                if self.restarts > RESTARTS_MAX {
                    return Err(error.into());
                }
                let whole = collection.ranges[range].range.clone();
                collection.ranges[range] = RangeProgress::new(whole);
                self.queue.push_back(Unit::Scan(index, range));
                self.show();
            }
        }
        Ok(())
    }

    fn found(&mut self, found: Found) {
        match found {
            Found::Scanned => {}
            Found::Ranges(index, ranges) => {
                // In front, so that one collection ends before the next begins.
                let units = (0..ranges.len()).rev().map(|range| Unit::Scan(index, range));
                units.for_each(|unit| self.queue.push_front(unit));
                let ranges = ranges.into_iter().map(RangeProgress::new);
                self.collections[index].ranges = ranges.collect();
                self.dirty.insert(index);
            }
            Found::Tree(index, root) => {
                let collection = &mut self.collections[index];
                collection.finished = Some(root);
                collection.ranges.clear();
                self.dirty.insert(index);
                self.expect();
            }
        }
    }

    /// Sets the live figures to what the trees hold.
    fn show(&self) {
        let amounts = self.collections.iter().map(Progress::amount);
        let (documents, bytes) = amounts.fold((0, 0), |sum, add| (sum.0 + add.0, sum.1 + add.1));
        self.figures.scanned_anew(documents, bytes);
        self.expect();
    }

    fn expect(&self) {
        let listed = || self.collections.iter().map(|collection| &collection.listed);
        let done = self.collections.iter().filter(|collection| collection.finished.is_some());
        self.figures.expected(Expected {
            documents: listed().map(|listed| listed.documents_estimate).sum(),
            bytes: listed().map(|listed| listed.bytes_estimate).sum(),
            collections: self.collections.len() as u64,
            collections_done: done.count() as u64,
        });
    }

    /// Commits what changed. With `end` the scan is finished.
    async fn checkpoint(&mut self, end: Option<Position>) -> Result<(), Error> {
        let started = Instant::now();
        let changed = std::mem::take(&mut self.dirty).into_iter();
        let changed: Vec<Progress> = changed.map(|index| self.collections[index].clone()).collect();
        if changed.is_empty() && end.is_none() && self.job.state().scan.is_some_and(|s| s.listed) {
            return Ok(());
        }
        let added = self.job.store().stats().added_bytes;
        let growth = added.saturating_sub(std::mem::replace(&mut self.added_before, added));
        let (job, session, base) = (self.job.clone(), self.session.clone(), self.base);
        let collections = changed.len();
        blocking("scan", self.job.name(), move || {
            job.update(&session, |state| {
                state.added_bytes += growth;
                let Some(scan) = state.scan.as_mut().filter(|scan| Some(scan.base) == base) else {
                    return Ok(());
                };
                scan.progress = write(job.store(), &scan.progress, &changed)?;
                scan.listed = true;
                scan.end = end;
                Ok(())
            })
        })
        .await?;
        let millis = started.elapsed().as_millis();
        tracing::debug!(collections, millis, "scan progress committed");
        Ok(())
    }
}

/// Writes the progress of some collections into the tree of all.
fn write(
    store: &crate::store::Store,
    progress: &Root,
    changed: &[Progress],
) -> Result<Root, Error> {
    let mut documents: Vec<(tree::Key, RawDocumentBuf)> = Vec::with_capacity(changed.len());
    for collection in changed {
        documents.push((Progress::key(collection.listed.uuid)?, collection.to_bson(store)?));
    }
    documents.sort_by(|a, b| a.0.cmp(&b.0));
    let mut edits = documents.into_iter().map(|(key, document)| Ok((key, Edit::Put(document))));
    let shape = Shape::new(store.salt(), Order::Keyed, Content::Links);
    Ok(tree::edit(store, &shape, progress, &mut edits)?)
}
