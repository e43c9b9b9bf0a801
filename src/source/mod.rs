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
//!
//! Nothing here writes to the source, and nothing here is durable: the floors above keep what they
//! were given before they ask for more.

use std::sync::Arc;

use bson::{RawBson, RawDocumentBuf};

use crate::oplog::{OpTime, Position, Ts, Uuid};

mod error;

pub use error::{Error, Failures};

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

/// A half-open range of `_id`, lower bound inclusive, upper exclusive; none = unbounded.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Range {
    /// First `_id` of the range.
    pub lower: Option<RawBson>,
    /// First `_id` beyond it.
    pub upper: Option<RawBson>,
}

/// A connection to a source. Cheap to clone.
#[derive(Clone)]
pub struct Source {
    _inner: Arc<()>,
}

impl Source {
    /// Connects, checks that it is a replica set (not a mongos, not a stand-alone) and picks a member.
    ///
    /// # Errors
    /// [`Error::Uri`], [`Error::Unreachable`], [`Error::Mongos`], [`Error::NotAReplicaSet`],
    /// [`Error::NoMember`], [`Error::Authentication`].
    pub async fn connect(_uri: &str, _from: ReadFrom) -> Result<Self, Error> {
        unimplemented!()
    }
    /// Who it is.
    ///
    /// # Errors
    /// [`Error::FcvInTransition`], [`Error::Privilege`] and those of any command.
    pub async fn identity(&self) -> Result<Identity, Error> {
        unimplemented!()
    }
    /// `host:port` of the member that is read from now.
    pub fn member(&self) -> String {
        unimplemented!()
    }
    /// Chooses the start of a scan and waits until the scanned member has everything up to it,
    /// majority-committed. From then on every scan waits so on its member. Refused while the
    /// feature compatibility version changes.
    ///
    /// # Errors
    /// [`Error::FcvInTransition`] and those of any command.
    pub async fn start_point(&self) -> Result<StartPoint, Error> {
        unimplemented!()
    }
    /// Goes on with a scan that an earlier process started: every scan from now on waits for `base`
    /// of that start point, as if [`Source::start_point`] had returned it.
    pub fn resume_scan_at(&self, _base: Ts) {
        unimplemented!()
    }
    /// The newest majority-committed position of the set.
    ///
    /// # Errors
    /// Those of any command.
    pub async fn newest_majority(&self) -> Result<Position, Error> {
        unimplemented!()
    }
    /// The end of a scan: newest entry of the set, waited for until majority-committed. At or after
    /// everything that scans of this source delivered.
    ///
    /// # Errors
    /// Those of any command.
    pub async fn end_point(&self) -> Result<Position, Error> {
        unimplemented!()
    }
    /// Every collection of every database that is to be kept (head::namespaces), views left out
    /// (they are documents of system.views).
    ///
    /// # Errors
    /// [`Error::Unsettled`] and those of any command.
    pub async fn list(&self) -> Result<Vec<Listed>, Error> {
        unimplemented!()
    }
    /// Cuts a collection into at most `pieces` ranges of about equal document counts, which together
    /// are everything. One range where it is not worth it or cannot be done; [`Arrival::Natural`] is
    /// always one.
    ///
    /// # Errors
    /// Those of reaching a member; a cut that fails for another reason gives one range.
    pub async fn split(&self, _listed: &Listed, _pieces: usize) -> Result<Vec<Range>, Error> {
        unimplemented!()
    }
    /// Reads a range in `_id` order (or, for capped collections, everything in natural order) in raw
    /// batches, majority read concern, by UUID; survives renames and killed cursors by going on from
    /// the last `_id`. To resume after a crash, give the last `_id` kept as `lower` and drop the first
    /// document if its key is that one.
    ///
    /// # Errors
    /// Of reaching a member. All others come from [`Scan::next`].
    pub async fn scan(&self, _listed: &Listed, _range: Range) -> Result<Scan, Error> {
        unimplemented!()
    }
    /// Tails majority-committed entries. The first entry returned is checked to be `from` itself
    /// (same ts and term) and is not returned again. With `inclusive` it is returned.
    ///
    /// # Errors
    /// Of reaching a member. All others come from [`Tail::next`].
    pub async fn tail(&self, _from: OpTime, _inclusive: bool) -> Result<Tail, Error> {
        unimplemented!()
    }
}

/// A running scan of a range. Dropping it ends the reading.
pub struct Scan {}

impl Scan {
    /// The next batch of documents (concatenated BSON bytes, never split, never empty), none at the
    /// end. Safe to cancel.
    ///
    /// # Errors
    /// [`Error::Dropped`] when the collection is gone (its drop is in the oplog, what was delivered
    /// may be thrown away), [`Error::Restart`] for an interrupted natural order, and those of any
    /// command once retries are used up.
    pub async fn next(&mut self) -> Result<Option<bytes::Bytes>, Error> {
        unimplemented!()
    }
}

/// A running tail. Dropping it ends the reading.
pub struct Tail {}

impl Tail {
    /// The next batch of whole entries, in order (concatenated BSON); empty after a quiet wait of about
    /// a second. Reconnects to any member, matching (ts, term) at the seam. Safe to cancel.
    ///
    /// # Errors
    /// [`Error::FellOff`], [`Error::Diverged`], [`Error::Behind`], [`Error::AnotherSet`] and, once
    /// retries are used up, those of any command.
    pub async fn next(&mut self) -> Result<bytes::Bytes, Error> {
        unimplemented!()
    }
}
