//! What is told about jobs, in the form that `--json` prints: field names never change.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Gap, RemoteInfo, Seen, State, hex};
use crate::head::Manifest;
use crate::oplog::Position;
use crate::restore::Span;
use crate::store::fsck::Coverage;

/// An optime: the server's names of its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OptimeInfo {
    /// Seconds since the Unix epoch.
    pub t: u32,
    /// Ordinal within the second.
    pub i: u32,
    /// Election term.
    pub term: i64,
}

/// An optime and its wall clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointInfo {
    /// Seconds since the Unix epoch.
    pub t: u32,
    /// Ordinal within the second.
    pub i: u32,
    /// Election term.
    pub term: i64,
    /// The entry's wall clock, RFC 3339 in UTC.
    pub wall_time: String,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotInfo {
    /// Its name.
    pub id: String,
    /// The job it belongs to.
    pub job: String,
    /// The last oplog entry in it.
    pub optime: OptimeInfo,
    /// That entry's wall clock, RFC 3339 in UTC.
    pub wall_time: String,
    /// When it was taken, RFC 3339 in UTC.
    pub taken_at: String,
    /// Documents in it.
    pub documents: u64,
    /// Sum of their BSON lengths.
    pub logical_bytes: u64,
    /// Bytes that it added to the store.
    pub added_bytes: u64,
    /// Hash of all its content, hexadecimal.
    pub content_root: String,
    /// Whether it is protected from deletion.
    pub keep: bool,
    /// Filters of what it holds; empty for everything.
    pub include: Vec<String>,
    /// Filters of what of that it does not hold.
    pub exclude: Vec<String>,
    /// Replica set name.
    pub set_name: String,
    /// `settings.replicaSetId`, hexadecimal.
    pub replica_set_id: String,
    /// Feature compatibility version.
    pub fcv: String,
    /// Version of the server read from.
    pub server_version: String,
}

/// How far an initial sync is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanInfo {
    /// Documents scanned.
    pub documents: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Documents expected.
    pub documents_estimate: u64,
    /// Bytes expected.
    pub bytes_estimate: u64,
    /// Collections to scan.
    pub collections: u64,
    /// Collections that are finished.
    pub collections_done: u64,
}

/// A span of time in which every point can be restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpanInfo {
    /// From here, inclusive.
    pub from: PointInfo,
    /// To here, inclusive.
    pub to: PointInfo,
    /// What ends it, if not that no more entries follow.
    pub limit: Option<LimitInfo>,
}

/// What keeps a span from reaching as far as its entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitInfo {
    /// `undecided`: a transaction prepared there; `unknown`: an entry that this version does not
    /// understand; `unreadable`: a slice that begins there; `gap`: see [`JobStatus::gaps`].
    pub reason: String,
    /// Seconds since the Unix epoch.
    pub t: u32,
    /// Ordinal within the second.
    pub i: u32,
}

/// The points to which a job can be restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobPoints {
    /// Its name.
    pub job: String,
    /// Spans in which every point can be restored, oldest first; between two of them none can.
    pub restorable: Vec<SpanInfo>,
    /// Why entries are stored but not applied, if so.
    pub stopped: Option<String>,
}

/// A range of time that cannot be restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapInfo {
    /// Which namespaces; empty for all.
    pub namespaces: Vec<String>,
    /// The last point before it.
    pub after: PointInfo,
    /// The first point after it, once there is one.
    pub until: Option<PointInfo>,
    /// Why it cannot be restored.
    pub reason: String,
    /// When it was noticed, RFC 3339 in UTC.
    pub noticed_at: String,
}

/// A job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStatus {
    /// Its name.
    pub name: String,
    /// Replica set name.
    pub set_name: String,
    /// `settings.replicaSetId`, hexadecimal.
    pub replica_set_id: String,
    /// Version of the server read from.
    pub server_version: String,
    /// Feature compatibility version.
    pub fcv: String,
    /// `new`, `scanning`, `catching-up` or `tailing`.
    pub phase: String,
    /// The initial sync, while it runs.
    pub scan: Option<ScanInfo>,
    /// The last entry that the head has durably.
    pub head: Option<PointInfo>,
    /// The last durable oplog entry.
    pub received: Option<PointInfo>,
    /// Seconds between now and the wall clock of the last durable entry.
    pub lag_seconds: Option<u64>,
    /// How far the source's oplog reaches back, in seconds, when it was last asked.
    pub oplog_window_seconds: Option<u64>,
    /// Seconds until the source's oplog will have run past the job, if the job stays where it is and
    /// the source goes on writing as it does.
    pub oplog_seconds_left: Option<u64>,
    /// Spans in which every point can be restored, oldest first.
    pub restorable: Vec<SpanInfo>,
    /// What lies between them because of trouble, oldest first.
    pub gaps: Vec<GapInfo>,
    /// How many snapshots there are.
    pub snapshots: u64,
    /// How many oplog slices there are.
    pub slices: u64,
    /// How far back oplog is kept.
    pub restore_window_seconds: u64,
    /// Filters of what is backed up; empty for everything.
    pub include: Vec<String>,
    /// Filters of what of that is not.
    pub exclude: Vec<String>,
    /// Why entries are stored but not applied, if so.
    pub stopped: Option<String>,
    /// How it stands in the blockstore, while a daemon pushes it to one.
    #[serde(default)]
    pub remote: Option<RemoteInfo>,
}

/// The store itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreInfo {
    /// Its directory.
    pub dir: String,
    /// Number of its newest commit.
    pub commit: u64,
    /// Blocks in it.
    pub blocks: u64,
    /// Bytes of segment files in use.
    pub stored_bytes: u64,
    /// Of these, bytes that nothing needed when the daemon last counted them, if it did.
    pub dead_bytes: Option<u64>,
    /// Whether the disk was full when something was last stored.
    pub full: bool,
    /// Segment files.
    pub segments: u64,
    /// What checks know of them.
    pub checks: Coverage,
}

/// A store and its jobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// The store.
    pub store: StoreInfo,
    /// Whether a daemon runs on it.
    pub daemon: bool,
    /// Its jobs, by name.
    pub jobs: Vec<JobStatus>,
}

impl From<Position> for PointInfo {
    fn from(position: Position) -> Self {
        let ts = position.optime.ts;
        Self {
            t: ts.secs,
            i: ts.inc,
            term: position.optime.term,
            wall_time: wall_time(position.wall_ms),
        }
    }
}

impl From<Span> for SpanInfo {
    fn from(span: Span) -> Self {
        let limit = span.limit.map(|limit| LimitInfo {
            reason: limit.name().to_owned(),
            t: limit.at().secs,
            i: limit.at().inc,
        });
        Self { from: span.from.into(), to: span.to.into(), limit }
    }
}

impl SnapshotInfo {
    /// What is told about a snapshot of a job.
    #[must_use]
    pub fn new(job: &str, manifest: &Manifest) -> Self {
        let optime = manifest.head.position.optime;
        let (include, exclude) = manifest.scope.texts();
        Self {
            include,
            exclude,
            id: manifest.id.clone(),
            job: job.to_owned(),
            optime: OptimeInfo { t: optime.ts.secs, i: optime.ts.inc, term: optime.term },
            wall_time: wall_time(manifest.head.position.wall_ms),
            taken_at: wall_time(manifest.taken_ms),
            documents: manifest.head.documents,
            logical_bytes: manifest.head.logical_bytes,
            added_bytes: manifest.added_bytes,
            content_root: hex(&manifest.head.content_root),
            keep: manifest.keep,
            set_name: manifest.set_name.clone(),
            replica_set_id: hex(&manifest.replica_set_id),
            fcv: manifest.fcv.clone(),
            server_version: manifest.server_version.clone(),
        }
    }
}

impl JobStatus {
    /// What the state of a job tells; `restorable` and `gaps` are computed from its slices and
    /// snapshots.
    #[must_use]
    pub fn new(state: &State, restorable: Vec<SpanInfo>, gaps: Vec<GapInfo>, now_ms: i64) -> Self {
        let identity = &state.identity;
        let lag = state.received.map(|last| {
            u64::try_from(now_ms.saturating_sub(last.wall_ms)).unwrap_or_default() / 1000
        });
        let window = state.oplog_window_secs;
        let (include, exclude) = state.scope.texts();
        Self {
            include,
            exclude,
            name: state.name.clone(),
            set_name: identity.set_name.clone(),
            replica_set_id: hex(&identity.replica_set_id),
            server_version: identity.server_version.clone(),
            fcv: identity.fcv.clone(),
            phase: phase(state).to_owned(),
            scan: None,
            head: state.head.as_ref().map(|head| head.position.into()),
            received: state.received.map(PointInfo::from),
            lag_seconds: lag,
            oplog_window_seconds: window,
            oplog_seconds_left: window.zip(lag).map(|(window, lag)| window.saturating_sub(lag)),
            gaps,
            restorable,
            snapshots: state.snapshots.documents,
            slices: state.slices.count(),
            restore_window_seconds: state.restore_window_ms / 1000,
            stopped: state.stopped.as_ref().map(|stopped| stopped.reason.clone()),
            remote: None,
        }
    }

    /// Adds what a running job knows beyond its committed state.
    pub fn add_live(&mut self, seen: &Seen) {
        if self.phase == SCANNING {
            self.scan = Some(ScanInfo {
                documents: seen.scanned_documents,
                bytes: seen.scanned_bytes,
                documents_estimate: seen.expected.documents,
                bytes_estimate: seen.expected.bytes,
                collections: seen.expected.collections,
                collections_done: seen.expected.collections_done,
            });
        }
    }
}

/// Whether so little is left of the source's oplog that somebody should look: less than a quarter.
#[must_use]
pub fn is_short(left_secs: u64, window_secs: u64) -> bool {
    left_secs < window_secs / 4
}

impl GapInfo {
    /// What is told about a gap. It ends with the first snapshot of a later scan; `snapshots` are all
    /// of the job's, oldest first.
    #[must_use]
    pub fn new(gap: &Gap, snapshots: &[Manifest]) -> Self {
        // A scan that was begun for single namespaces may be consistent from the last entry received on.
        let after = gap.after.optime;
        let beyond = |manifest: &&Manifest| {
            let from = manifest.head.consistent_from;
            from > Some(after) || (!gap.namespaces.is_empty() && from == Some(after))
        };
        Self {
            namespaces: gap.namespaces.clone(),
            after: gap.after.into(),
            until: snapshots.iter().find(beyond).map(|manifest| manifest.head.position.into()),
            reason: gap.reason.clone(),
            noticed_at: wall_time(gap.noticed_ms),
        }
    }
}

const SCANNING: &str = "scanning";

fn phase(state: &State) -> &'static str {
    match (&state.scan, &state.head) {
        (Some(_), _) => SCANNING,
        (None, None) => "new",
        (None, Some(head)) if head.consistent_from.is_none() => "catching-up",
        (None, Some(_)) => "tailing",
    }
}

/// A wall clock as RFC 3339 in UTC, or the number itself where no calendar has it.
#[must_use]
pub fn wall_time(millis: i64) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{millis} ms since 1970"))
}
