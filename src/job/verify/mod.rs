//! Proof that a backup equals its source: both brought to one optime and compared by tree.
//!
//! Where the server can show a moment of its past (5.0 and later), the source is read so: its
//! collections are listed, its newest majority-committed entry is the optime, the collections are
//! listed again, and every collection that is the same in both listings is read as of the optime.
//! One whose catalog entry was changing, or that the server cannot show at that optime any more, is
//! compared in a later round at a newer one. What is left then, and everything on older servers, is
//! read as an initial sync does it: at no particular moment, and brought to an optime by the entries
//! that the source wrote meanwhile. There is no state in which that would not do.
//!
//! The backup's head is brought to the same optime (`backup`). Equal collections have equal roots;
//! of others the trees are walked where they differ.
//!
//! The store is only read, as a registered reader beside a daemon. What the source has and the store
//! has not goes into a scratch store. Memory is bounded as that of a sync is.

pub(super) mod backup;
mod collect;
mod compare;
mod gather;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::watch;

use self::backup::{Brought, Opened, bring};
use self::collect::{Collected, Collector, by_uuid};
pub(super) use self::compare::shown_id;
use self::compare::{Pair, alone};
pub use self::report::{Compared, Counts, Finding, Kind, Method, Report};
use super::apply::is_before_5;
use super::handle::describe;
use super::slices::{self, SliceChain};
use super::{Activity, Error, Figures, PointInfo, blocking};
use crate::head::namespaces::{kept, split};
use crate::head::{Collection, Head, Scanned};
use crate::oplog::slice::entries;
use crate::oplog::{Position, Ts, Uuid, position};
use crate::restore::{Cancel, Filter};
use crate::source::{Listed, Source, StartPoint};
use crate::store::Location;
use crate::tree::{Content, Order, Shape};

/// Rounds of reading as of an optime. Each needs the head to be brought to another optime; collections
/// that change otherwise than by documents in every one of them are rare.
const SNAPSHOT_ROUNDS_MAX: u32 = 4;
/// Rounds of reading at no particular moment. A second is needed only for collections that were
/// renamed into what is compared while it was being read.
const OPLOG_ROUNDS_MAX: u32 = 3;

/// What the names of bucket collections begin with.
const BUCKETS: &str = "system.buckets.";

/// What to compare.
#[derive(Debug, Clone)]
pub struct Request {
    /// The store.
    pub store: Location,
    /// The job; the store's only one unless given.
    pub job: Option<String>,
    /// Which namespaces; none means all.
    pub namespaces: Vec<Filter>,
    /// Whether to read at no particular moment even where the server can show one.
    pub by_oplog: bool,
}

/// Compares a backup with its source.
///
/// # Errors
/// [`Error::NoStore`], [`Error::NoSuchJob`], [`Error::WhichJob`], [`Error::AnotherSet`],
/// [`Error::NotConsistent`] while there is no head; [`Error::AnotherHistory`], [`Error::Undecided`];
/// [`Error::Cancelled`]; those of the source, the store and of applying entries.
pub async fn run(
    request: Request,
    source: &Source,
    figures: &Figures,
    cancel: &Cancel,
) -> Result<Report, Error> {
    let identity = source.identity().await?;
    let scope = match request.namespaces.is_empty() {
        true => Scope::All,
        false => Scope::Names(request.namespaces.clone()),
    };
    let mut check = Check {
        report: Report { set_name: identity.set_name.clone(), ..Report::default() },
        request,
        source,
        figures,
        cancel,
        scope,
        left: BTreeMap::new(),
        too_old: BTreeSet::new(),
        slow: BTreeSet::new(),
    };
    let opened = check.open().await?;
    let ours = &opened.state.identity;
    if (ours.replica_set_id, &ours.set_name) != (identity.replica_set_id, &identity.set_name) {
        let (expected, found) = (describe(ours), describe(&identity));
        return Err(Error::AnotherSet { job: opened.job.clone(), expected, found });
    }
    check.report.job = opened.job.clone();
    drop(opened);
    if !check.request.by_oplog && !is_before_5(&identity.server_version) {
        check.rounds(Method::Snapshot, SNAPSHOT_ROUNDS_MAX).await?;
        check.slow.clear();
        check.rescope();
    }
    check.rounds(Method::Oplog, OPLOG_ROUNDS_MAX).await?;
    check.finish()
}

/// Which collections are still to be compared.
enum Scope {
    /// Every one.
    All,
    /// Those with these names.
    Names(Vec<Filter>),
    /// These.
    Only(BTreeSet<Uuid>),
}

impl Scope {
    /// The buckets of a time series have the name that the user gave it.
    fn covers(&self, uuid: Uuid, ns: &str) -> bool {
        let (db, name) = split(ns);
        let series = name.strip_prefix(BUCKETS).map(|name| format!("{db}.{name}"));
        let named = |filter: &Filter| {
            filter.covers(ns) || series.as_ref().is_some_and(|series| filter.covers(series))
        };
        match self {
            Self::All => true,
            Self::Names(filters) => filters.iter().any(named),
            Self::Only(uuids) => uuids.contains(&uuid),
        }
    }

    /// How many there are, where it is known.
    fn len(&self) -> Option<usize> {
        match self {
            Self::Only(uuids) => Some(uuids.len()),
            Self::All | Self::Names(_) => None,
        }
    }
}

/// Both sides at one optime.
struct Round {
    opened: Arc<Opened>,
    at: Position,
    method: Method,
    backup: Brought,
    source: BTreeMap<Uuid, Collection>,
    /// Collections that the source has and that were not read, as out of scope.
    unread: BTreeSet<Uuid>,
    /// Collections in scope that could not be read.
    lost: BTreeSet<Uuid>,
}

/// A comparison under way.
struct Check<'a> {
    request: Request,
    source: &'a Source,
    figures: &'a Figures,
    cancel: &'a Cancel,
    report: Report,
    scope: Scope,
    /// Names of the collections that `scope` is left with.
    left: BTreeMap<Uuid, String>,
    /// Collections whose history was too old in a round.
    too_old: BTreeSet<Uuid>,
    /// Collections that were too old in two rounds: they take longer to read than history is kept.
    slow: BTreeSet<Uuid>,
}

impl Check<'_> {
    async fn open(&self) -> Result<Arc<Opened>, Error> {
        let (dir, job) = (self.request.store.clone(), self.request.job.clone());
        let name = job.clone().unwrap_or_default();
        let open = move || Opened::open(&dir, job.as_deref());
        blocking("verifier", &name, open).await.map(Arc::new)
    }

    /// Compares until nothing is left, or a round settles nothing.
    async fn rounds(&mut self, method: Method, rounds_max: u32) -> Result<(), Error> {
        for _ in 0..rounds_max {
            let before = self.scope.len();
            if before == Some(0) {
                return Ok(());
            }
            let opened = self.open().await?;
            let round = match method {
                Method::Snapshot => self.as_of_a_moment(opened).await?,
                Method::Oplog => self.by_oplog(opened).await?,
            };
            self.compare(round).await?;
            if before.is_some() && self.scope.len() == before {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Goes on with what is left, but for what takes too long to be read as of a moment.
    fn rescope(&mut self) {
        let left = self.left.keys().copied();
        self.scope = Scope::Only(left.filter(|uuid| !self.slow.contains(uuid)).collect());
    }

    /// Reads the source as of its newest committed entry.
    async fn as_of_a_moment(&mut self, opened: Arc<Opened>) -> Result<Round, Error> {
        let before = by_uuid(self.source.list(&opened.state.scope).await?, |one| one.uuid);
        let at = self.source.newest_majority().await?;
        // Whatever member lists and reads from now on has everything up to there.
        self.source.resume_scan_at(at.optime.ts);
        let after = by_uuid(self.source.list(&opened.state.scope).await?, |one| one.uuid);
        let (mut wanted, mut unread, mut lost) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        let uuids: BTreeSet<Uuid> = before.keys().chain(after.keys()).copied().collect();
        for uuid in uuids {
            let (before, after) = (before.get(&uuid), after.get(&uuid));
            let steady = before.zip(after).is_some_and(|(before, after)| alike(before, after));
            let mut names = before.iter().chain(&after).map(|one| one.ns.as_str());
            match after.filter(|_| steady) {
                _ if !names.any(|ns| self.scope.covers(uuid, ns)) => drop(unread.insert(uuid)),
                Some(listed) => wanted.push(listed.clone()),
                None => drop(lost.insert(uuid)),
            }
        }
        let collected = self.collect(&opened, wanted, Some(at.optime.ts)).await?;
        self.slow.extend(&collected.too_old & &self.too_old);
        self.too_old.extend(&collected.too_old);
        lost.extend(&collected.changed | &collected.too_old);
        let source = self.as_catalog(&opened, at, collected.scanned).await?;
        let backup = self.bring(&opened, (at, true)).await?;
        Ok(Round { opened, at, method: Method::Snapshot, backup, source, unread, lost })
    }

    /// Reads the source at no particular moment, and brings it to one by its oplog.
    async fn by_oplog(&mut self, opened: Arc<Opened>) -> Result<Round, Error> {
        let start = self.source.start_point().await?;
        let listed = self.source.list(&opened.state.scope).await?;
        let (wanted, others): (Vec<_>, Vec<_>) =
            listed.into_iter().partition(|one| self.scope.covers(one.uuid, &one.ns));
        let unread: BTreeSet<Uuid> = others.iter().map(|one| one.uuid).collect();
        let (told, end) = watch::channel(None);
        let reading = async {
            let collected = self.collect(&opened, wanted, None).await?;
            let end = self.source.end_point().await?;
            told.send_replace(Some(end.optime.ts));
            Ok::<_, Error>((collected, end))
        };
        let gathering = gather::gather(&opened, self.source, start.begin_fetch, end);
        let ((collected, at), chain) = tokio::try_join!(reading, gathering)?;
        self.figures.activity(Activity::Applying);
        let (owner, cancel) = (opened.clone(), self.cancel.clone());
        let caught_up = move || catch_up(&owner, start, at, collected.scanned, &chain, &cancel);
        let source = blocking("verifier", &opened.job, caught_up).await?;
        let backup = self.bring(&opened, (at, false)).await?;
        let (method, lost) = (Method::Oplog, BTreeSet::new());
        Ok(Round { opened, at, method, backup, source, unread, lost })
    }

    async fn collect(
        &self,
        opened: &Arc<Opened>,
        wanted: Vec<Listed>,
        at: Option<Ts>,
    ) -> Result<Collected, Error> {
        let who = (self.source, opened.job.as_str());
        let collector = Collector::new(who, opened.blocks.clone(), opened.salt(), at, self.figures);
        tokio::select! {
            collected = collector.collect(wanted) => collected,
            () = self.cancel.cancelled() => Err(Error::Cancelled),
        }
    }

    /// Collections in the form in which a head has them.
    async fn as_catalog(
        &self,
        opened: &Arc<Opened>,
        at: Position,
        scanned: Vec<Scanned>,
    ) -> Result<BTreeMap<Uuid, Collection>, Error> {
        let owner = opened.clone();
        blocking("verifier", &opened.job, move || {
            let config = owner.config("source")?;
            let head = Head::from_scan(owner.blocks.clone(), config, at, at.optime, scanned)?;
            Ok(collections(&head))
        })
        .await
    }

    async fn bring(&self, opened: &Arc<Opened>, to: (Position, bool)) -> Result<Brought, Error> {
        self.figures.activity(Activity::Applying);
        bring(opened, &self.request.store, self.source, to, self.figures, self.cancel).await
    }

    /// Adds what differs to the report; what could not be compared stays for the next round.
    async fn compare(&mut self, round: Round) -> Result<(), Error> {
        self.figures.activity(Activity::Comparing);
        let mut report = std::mem::take(&mut self.report);
        let scope = std::mem::replace(&mut self.scope, Scope::All);
        let (job, cancel) = (round.opened.job.clone(), self.cancel.clone());
        let compared = move || {
            let left = round.compare(&scope, &mut report, &cancel)?;
            Ok((report, left))
        };
        let (report, mut left) = blocking("verifier", &job, compared).await?;
        self.report = report;
        // Those that are slow were not in scope, and are still to be compared.
        let before = std::mem::take(&mut self.left).into_iter();
        left.extend(before.filter(|(uuid, _)| self.slow.contains(uuid)));
        self.left = left;
        self.rescope();
        Ok(())
    }

    fn finish(mut self) -> Result<Report, Error> {
        let collections: u64 = self.report.compared.iter().map(|round| round.collections).sum();
        if collections == 0 && self.left.is_empty() && !self.request.namespaces.is_empty() {
            let filters = self.request.namespaces.iter().map(ToString::to_string);
            let filters = filters.collect::<Vec<_>>().join(", ");
            return Err(Error::NothingSelected { filters });
        }
        self.report.unchecked = self.left.into_values().collect();
        self.report.equal = self.report.counts.total() == 0 && self.report.unchecked.is_empty();
        Ok(self.report)
    }
}

/// The collections of a head.
fn collections(head: &Head) -> BTreeMap<Uuid, Collection> {
    by_uuid(head.collections().into_iter().cloned().collect(), |one| one.uuid)
}

/// Whether two listings of a collection are the same, sizes aside.
fn alike(a: &Listed, b: &Listed) -> bool {
    a.ns == b.ns && a.options == b.options && a.indexes == b.indexes
}

/// The collections that were read, with what the source's oplog says of the time since.
fn catch_up(
    opened: &Arc<Opened>,
    start: StartPoint,
    end: Position,
    scanned: Vec<Scanned>,
    chain: &SliceChain,
    cancel: &Cancel,
) -> Result<BTreeMap<Uuid, Collection>, Error> {
    let (blocks, config) = (opened.blocks.clone(), opened.config("source")?);
    let mut head = Head::from_scan(blocks, config, start.base, end.optime, scanned)?;
    chain.for_each(&*opened.blocks, &mut |slice| {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        for entry in entries(&slices::read(&slice, &*opened.blocks)?) {
            let entry = entry?;
            let at = position(entry)?.optime;
            if at <= start.base.optime {
                head.preload(entry)?;
            } else if at.ts <= end.optime.ts {
                head.apply(entry)?;
            }
            if head.flush_due() {
                head.flush(&*opened.blocks)?;
            }
        }
        Ok(())
    })?;
    head.flush(&*opened.blocks)?;
    Ok(collections(&head))
}

impl Round {
    /// Compares every collection in scope; returns those that could not be, with their names.
    fn compare(
        self,
        scope: &Scope,
        report: &mut Report,
        cancel: &Cancel,
    ) -> Result<BTreeMap<Uuid, String>, Error> {
        let keyed = Shape::new(self.opened.salt(), Order::Keyed, Content::Documents);
        let backup = by_uuid(self.backup.collections, |one| one.uuid);
        let mut compared = Compared {
            at: PointInfo::from(self.at),
            method: self.method,
            entries_ahead: self.backup.entries_ahead,
            collections: 0,
            documents: 0,
            bytes: 0,
        };
        let mut left = BTreeMap::new();
        let uuids = backup.keys().chain(self.source.keys()).chain(&self.lost);
        for uuid in uuids.copied().collect::<BTreeSet<Uuid>>() {
            let (ours, theirs) = (backup.get(&uuid), self.source.get(&uuid));
            let ns = ours.or(theirs).map_or_else(|| uuid.to_string(), |one| one.ns.clone());
            if self.lost.contains(&uuid) {
                left.insert(uuid, ns);
                continue;
            }
            let mut sides = ours.iter().chain(&theirs);
            if !sides.any(|one| kept(&one.ns) && scope.covers(uuid, &one.ns)) {
                continue;
            }
            match (ours, theirs) {
                (Some(backup), Some(source)) => {
                    let blocks = &*self.opened.blocks;
                    let pair = Pair { backup, source, blocks, keyed: &keyed, cancel };
                    pair.compare(report)?;
                }
                (Some(_), None) if self.unread.contains(&uuid) => {
                    left.insert(uuid, ns);
                    continue;
                }
                (Some(extra), None) => alone(report, Kind::ExtraCollection, extra),
                (None, Some(missing)) => alone(report, Kind::MissingCollection, missing),
                (None, None) => continue,
            }
            let root = theirs.map(|theirs| theirs.root).unwrap_or_default();
            compared.collections += 1;
            compared.documents += root.documents;
            compared.bytes += root.bytes;
        }
        if compared.collections > 0 {
            report.compared.push(compared);
        }
        Ok(left)
    }
}
