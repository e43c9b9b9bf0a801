//! A live replica set: topology, scan, tail. The only floor that reads a source.
//!
//! What it promises to the floors above:
//!
//! - Only majority-committed data is ever delivered: every scan and every tail reads with majority
//!   read concern, so no rollback can take back what was read.
//! - A scan names its collection by UUID and goes on by `_id`, so that a rename, a killed cursor, an
//!   election or the loss of the member does not lose a document, and each key arrives at most once.
//! - Every cursor of a scan is opened with `afterClusterTime` of the start point's base, on whatever
//!   member, so that all that entries at or before the base wrote is in what is read.
//! - A tail delivers every entry after its start exactly once, in order, from whatever member; at each
//!   seam the last entry delivered must be found again with the same timestamp and term.
//! - Scans keep to a rate, and leave a member alone that falls behind the primary.
//!
//! Nothing here writes to the source, and nothing here is durable: the floors above keep what they
//! were given before they ask for more.

use std::sync::{Arc, Mutex, MutexGuard};

use bson::RawDocumentBuf;
use mongodb::raw_batch_cursor::RawBatch;

use crate::head::Scope;
use crate::oplog::{OpTime, Position, Ts, Uuid};

mod connect;
mod error;
mod failure;
mod list;
mod member;
mod pace;
mod scan;
mod split;
mod start;
mod tail;
mod topology;

pub(crate) use connect::client_options;
pub use error::{Error, Failures};
pub(crate) use failure::{is_of_change_of_primary, is_passing};
pub(crate) use pace::Bucket;
pub use scan::Scan;
pub use tail::Tail;

use connect::Template;
use pace::Pace;
use topology::Topology;

/// The server versions that tests run against from end to end. Others are known by their documentation,
/// 4.4.2 by part of the tests.
pub const TESTED_VERSIONS: [&str; 2] = ["6.0.5", "6.0.27"];

/// Which member to read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ReadFrom {
    /// A secondary if there is one, hidden and little lagging ones first.
    #[default]
    SecondaryPreferred,
    /// A secondary only.
    Secondary,
    /// The primary.
    Primary,
    /// A named member, `host:port`.
    Member(String),
}

/// Who the source is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Replica set name.
    pub set_name: String,
    /// `settings.replicaSetId` of its configuration.
    pub replica_set_id: [u8; 12],
    /// `major.minor.patch` of the member read from.
    pub server_version: String,
    /// Feature compatibility version.
    pub fcv: String,
}

/// How far an oplog reaches back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OplogWindow {
    /// Its oldest entry.
    pub oldest: OpTime,
    /// Its newest entry.
    pub newest: OpTime,
    /// Seconds between them, as they will be once it is as large as it may become: until then nothing
    /// is removed at its other end.
    pub seconds: u64,
}

/// Where a scan starts (oplog.md 2.1).
#[derive(Debug, Clone, Copy)]
pub struct StartPoint {
    /// Tail from here, inclusive: the oldest open transaction, or an entry at or before `base`.
    pub begin_fetch: OpTime,
    /// Entries above this are applied over the scan.
    pub base: Position,
}

/// In which order a scan delivers a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Strictly ascending by [`crate::tree::Key`].
    ByKey,
    /// In `_id` order of the collection's collation: to be sorted by who wants key order.
    ByCollation,
    /// In insertion order (capped). Never split, and an interruption ends the scan with
    /// [`Error::Restart`].
    Natural,
}

/// An index that was being built when the collection was listed.
#[derive(Debug, Clone)]
pub struct IndexBuild {
    /// The build's UUID, as `commitIndexBuild` will name it.
    pub build: Uuid,
    /// Spec verbatim.
    pub spec: RawDocumentBuf,
}

/// A collection as listed at the source.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Its UUID.
    pub uuid: Uuid,
    /// `db.name`.
    pub ns: String,
    /// Options verbatim.
    pub options: RawDocumentBuf,
    /// Finished index specs verbatim. A clustered collection shows its cluster key here with
    /// `clustered: true`, as the server lists it.
    pub indexes: Vec<RawDocumentBuf>,
    /// Builds not finished yet.
    pub building: Vec<IndexBuild>,
    /// How a scan of it will arrive.
    pub arrival: Arrival,
    /// Estimates of documents and bytes, for splitting and progress only.
    pub documents_estimate: u64,
    /// See `documents_estimate`.
    pub bytes_estimate: u64,
}

/// A half-open range of `_id`, lower bound inclusive, upper exclusive; none = unbounded. A bound is
/// `{_id: value}`: strings that are not UTF-8 have no other form here.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Range {
    /// First `_id` of the range.
    pub lower: Option<RawDocumentBuf>,
    /// First `_id` beyond it.
    pub upper: Option<RawDocumentBuf>,
}

/// A connection to a source. Cheap to clone.
#[derive(Clone)]
pub struct Source {
    inner: Arc<Inner>,
}

/// What all clones of a source share.
struct Inner {
    topology: Topology,
    marks: Mutex<Marks>,
    pace: Pace,
}

/// Cluster times that hold for all readers of a source.
#[derive(Default)]
struct Marks {
    /// Base of the scan: what every scan must have seen.
    floor: Option<Ts>,
    /// Highest operation time of a scan's batches.
    seen: Option<Ts>,
}

impl Inner {
    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().expect("no code panics with the marks locked")
    }

    fn floor(&self) -> Option<Ts> {
        self.marks().floor
    }

    fn seen(&self) -> Ts {
        let marks = self.marks();
        marks.seen.max(marks.floor).unwrap_or(Ts::ZERO)
    }

    fn raise_floor(&self, to: Ts) {
        let mut marks = self.marks();
        marks.floor = marks.floor.max(Some(to));
    }

    /// Keeps the operation time of a batch.
    fn note_seen(&self, batch: &RawBatch) {
        if let Ok(time) = batch.as_raw_document().get_timestamp("operationTime") {
            let mut marks = self.marks();
            marks.seen = marks.seen.max(Some(time.into()));
        }
    }
}

impl Source {
    /// Connects, checks that it is a replica set (not a mongos, not a stand-alone) and picks a member.
    /// The connection string may be any the driver takes: TLS, credentials, SRV. With
    /// `directConnection=true` only the named member is ever used.
    ///
    /// # Errors
    /// [`Error::Uri`], [`Error::Unreachable`], [`Error::Mongos`], [`Error::NotAReplicaSet`],
    /// [`Error::NoMember`], [`Error::AnotherSet`], [`Error::Authentication`].
    pub async fn connect(uri: &str, from: ReadFrom) -> Result<Self, Error> {
        let topology = Topology::new(Template::parse(uri).await?, from);
        topology.member(&[]).await?;
        let (marks, pace) = (Mutex::default(), Pace::default());
        Ok(Self { inner: Arc::new(Inner { topology, marks, pace }) })
    }

    /// Limits what all scans of this source together read per second, in bytes of documents. A tail is
    /// not limited: it must not fall behind. Scans that were started before keep their batch size.
    pub fn limit_scans(&self, bytes_per_second: u64) {
        self.inner.pace.limit(bytes_per_second);
    }

    /// Who it is.
    ///
    /// # Errors
    /// [`Error::FcvInTransition`], [`Error::Privilege`] and those of any command.
    pub async fn identity(&self) -> Result<Identity, Error> {
        self.read_identity().await
    }

    /// `host:port` of the member that is read now. Asks all members if there is none.
    ///
    /// # Errors
    /// Those of choosing a member.
    pub async fn member(&self) -> Result<String, Error> {
        Ok(self.inner.topology.member(&[]).await?.address.clone())
    }

    /// Chooses the start of a scan and waits until the scanned member has everything up to it,
    /// majority-committed. From then on every scan waits so on its member. Refused while the
    /// feature compatibility version changes.
    ///
    /// # Errors
    /// [`Error::FcvInTransition`] and those of any command.
    pub async fn start_point(&self) -> Result<StartPoint, Error> {
        self.choose_start().await
    }

    /// Goes on with a scan that an earlier process started: every scan from now on waits for `base`
    /// of that start point, as if [`Source::start_point`] had returned it.
    pub fn resume_scan_at(&self, base: Ts) {
        self.inner.raise_floor(base);
    }

    /// The newest majority-committed position of the set.
    ///
    /// # Errors
    /// Those of any command.
    pub async fn newest_majority(&self) -> Result<Position, Error> {
        self.read_newest_majority().await
    }

    /// How far the oplog of the member read from reaches back.
    ///
    /// # Errors
    /// Those of any command.
    pub async fn oplog_window(&self) -> Result<OplogWindow, Error> {
        self.read_oplog_window().await
    }

    /// The end of a scan: newest entry of the set, waited for until majority-committed. At or after
    /// everything that scans of this source delivered.
    ///
    /// # Errors
    /// Those of any command.
    pub async fn end_point(&self) -> Result<Position, Error> {
        self.choose_end().await
    }

    /// Every collection of every database that `scope` keeps, temporary ones that may become such
    /// included, views left out (they are documents of system.views), by name.
    ///
    /// # Errors
    /// [`Error::RolledBack`] and those of any command.
    pub async fn list(&self, scope: &Scope) -> Result<Vec<Listed>, Error> {
        self.list_kept(scope).await
    }

    /// Cuts a collection into at most `pieces` ranges of about equal document counts, ascending, which
    /// together are everything. One range where it is not worth it or cannot be done;
    /// [`Arrival::Natural`] is always one.
    ///
    /// # Errors
    /// Those of reaching a member; a cut that fails for another reason gives one range.
    pub async fn split(&self, listed: &Listed, pieces: usize) -> Result<Vec<Range>, Error> {
        self.cut(listed, pieces).await
    }

    /// Reads a range in `_id` order (or, for capped collections, everything in natural order) in raw
    /// batches, majority read concern, by UUID; survives renames and killed cursors by going on from
    /// the last `_id`. To resume after a crash, give the last `_id` kept as `lower` and drop the first
    /// document if its key is that one. Reading begins at once; must be called on a tokio runtime.
    ///
    /// # Errors
    /// None yet: all come from [`Scan::next`].
    pub async fn scan(&self, listed: &Listed, range: Range) -> Result<Scan, Error> {
        Ok(Scan::start(Arc::clone(&self.inner), listed, range, None))
    }

    /// As [`Source::scan`], but of the state at `at`, a majority-committed time: every batch shows that
    /// one moment. Servers from 5.0 on can, for as long as they keep its history (five minutes unless
    /// configured otherwise) and until the collection's catalog entry changes; from then on
    /// [`Scan::next`] gives [`Error::SnapshotGone`].
    ///
    /// # Errors
    /// None yet: all come from [`Scan::next`].
    pub async fn scan_at(&self, listed: &Listed, range: Range, at: Ts) -> Result<Scan, Error> {
        Ok(Scan::start(Arc::clone(&self.inner), listed, range, Some(at)))
    }

    /// Tails majority-committed entries. The first entry found is checked to be `from` itself (same ts
    /// and term); it is returned only if `inclusive`. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// None yet: all come from [`Tail::next`].
    pub async fn tail(&self, from: OpTime, inclusive: bool) -> Result<Tail, Error> {
        Ok(Tail::start(Arc::clone(&self.inner), from, inclusive))
    }
}
