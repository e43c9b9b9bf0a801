//! A live replica set: topology, scan, tail. The only floor that reads a source. (Contract.)

use bson::{RawBson, RawDocumentBuf};

use crate::oplog::{OpTime, Position, Uuid};

/// Which member to read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ReadFrom {
    /// A secondary if there is one.
    #[default]
    SecondaryPreferred,
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
    /// Tail from here: the oldest open transaction, or `base`.
    pub begin_fetch: OpTime,
    /// Entries above this are applied over the scan.
    pub base: Position,
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
    /// Finished index specs verbatim.
    pub indexes: Vec<RawDocumentBuf>,
    /// Estimates of documents and bytes, for splitting and progress only.
    pub documents_estimate: u64,
    /// See `documents_estimate`.
    pub bytes_estimate: u64,
}

/// A half-open range of `_id`, lower bound inclusive, upper exclusive; none = unbounded.
#[derive(Debug, Clone, Default)]
pub struct Range {
    /// First `_id` of the range.
    pub lower: Option<RawBson>,
    /// First `_id` beyond it.
    pub upper: Option<RawBson>,
}

/// Errors of the source floor (typed: Connect, NotAReplicaSet, Mongos, Fell off the oplog, Diverged,
/// Gone(collection dropped), Driver{what, member}...). Never prints credentials.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The collection does not exist any more.
    #[error("collection {0:?} was dropped")]
    Dropped(Uuid),
}

/// A connection to a source. Cheap to clone.
#[derive(Clone)]
pub struct Source {}

impl Source {
    /// Connects, checks that it is a replica set (not a mongos, not a stand-alone) and picks a member.
    pub async fn connect(_uri: &str, _from: ReadFrom) -> Result<Self, Error> {
        unimplemented!()
    }
    /// Who it is.
    pub async fn identity(&self) -> Result<Identity, Error> {
        unimplemented!()
    }
    /// Chooses the start of a scan and waits until the scanned member has everything up to it,
    /// majority-committed.
    pub async fn start_point(&self) -> Result<StartPoint, Error> {
        unimplemented!()
    }
    /// The newest majority-committed position of the set.
    pub async fn newest_majority(&self) -> Result<Position, Error> {
        unimplemented!()
    }
    /// The end of a scan: newest entry of the set, waited for until majority-committed.
    pub async fn end_point(&self) -> Result<Position, Error> {
        unimplemented!()
    }
    /// Every collection of every database that is to be kept (head::namespaces), views left out
    /// (they are documents of system.views).
    pub async fn list(&self) -> Result<Vec<Listed>, Error> {
        unimplemented!()
    }
    /// Cuts a collection into about `pieces` ranges of equal document counts.
    pub async fn split(&self, _listed: &Listed, _pieces: usize) -> Result<Vec<Range>, Error> {
        unimplemented!()
    }
    /// Reads a range in `_id` order (or, for capped collections, everything in natural order) in raw
    /// batches, majority read concern, by UUID; survives renames and killed cursors by going on from
    /// the last `_id`.
    pub async fn scan(&self, _listed: &Listed, _range: Range) -> Result<Scan, Error> {
        unimplemented!()
    }
    /// Tails majority-committed entries. The first entry returned is checked to be `from` itself
    /// (same ts and term) and is not returned again. With `inclusive` it is returned.
    pub async fn tail(&self, _from: OpTime, _inclusive: bool) -> Result<Tail, Error> {
        unimplemented!()
    }
}

/// A running scan of a range.
pub struct Scan {}

impl Scan {
    /// The next batch of documents (concatenated BSON bytes, never split), none at the end.
    pub async fn next(&mut self) -> Result<Option<bytes::Bytes>, Error> {
        unimplemented!()
    }
}

/// A running tail.
pub struct Tail {}

impl Tail {
    /// The next batch of whole entries, in order (concatenated BSON); empty after a quiet wait of about
    /// a second. Reconnects to any member, matching (ts, term) at the seam.
    pub async fn next(&mut self) -> Result<bytes::Bytes, Error> {
        unimplemented!()
    }
}
