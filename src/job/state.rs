//! The state of a job: what a commit names for it, as one `Links` block.
//!
//! Everything a job knows hangs from this one document: the head and where it stands, the oplog
//! slices, the snapshots, and during an initial sync what is scanned. A commit replaces it whole, so
//! a reader of any commit sees one consistent job. The form is `format-spec/07-jobs.md`.

use bson::raw::cstr;
use bson::{DateTime, RawDocument, RawDocumentBuf};

use super::Error;
use super::gaps::Gaps;
use super::slices::SliceChain;
use crate::block::{self, BlockId, BlockRead, BlockWrite, Kind};
use crate::head::fields::{self, Fields};
use crate::head::{HeadRoot, Scope};
use crate::oplog::{OpTime, Position};
use crate::source::{Identity, StartPoint};
use crate::tree;

/// Version of the form.
const VERSION: i64 = 1;
/// How far back any second can be restored unless told otherwise.
const RESTORE_WINDOW_MS: u64 = 24 * 60 * 60 * 1000;

/// The state of a job.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// The job's name, also that of its root in a commit.
    pub name: String,
    /// Who the source is, as last seen.
    pub identity: Identity,
    /// The scan that is under way: of everything, or beside a head of what the head does not hold.
    pub scan: Option<ScanState>,
    /// The head as last flushed; none until the first scan has ended.
    pub head: Option<HeadRoot>,
    /// The last oplog entry that is durable in a slice.
    pub received: Option<Position>,
    /// The oplog slices.
    pub slices: SliceChain,
    /// The snapshots: a tree of manifests by their id.
    pub snapshots: tree::Root,
    /// How far back any second can be restored, in milliseconds.
    pub restore_window_ms: u64,
    /// Bytes added to the store for the head since the newest snapshot.
    pub added_bytes: u64,
    /// Which namespaces are backed up.
    pub scope: Scope,
    /// What cannot be restored although there are snapshots before it.
    pub gaps: Gaps,
    /// Applying stands still.
    pub stopped: Option<Stopped>,
    /// How far the source's oplog reached back when it was last asked, in seconds.
    pub oplog_window_secs: Option<u64>,
    /// When the job was made, in milliseconds since the Unix epoch.
    pub created_ms: i64,
}

/// Entries are stored and not applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    /// Why, as told to the operator.
    pub reason: String,
    /// The last entry that this version can apply, where an entry is the reason: no restore goes
    /// beyond it.
    pub after: Option<OpTime>,
    /// Whether that entry is of a kind that the version that stopped does not know. Whoever reads the
    /// slices finds it again, unless it is known by then.
    pub unknown_kind: bool,
}

/// A scan under way.
#[derive(Debug, Clone, PartialEq)]
pub struct ScanState {
    /// Where the tail starts, inclusive.
    pub begin_fetch: OpTime,
    /// Entries above this are applied over what is scanned.
    pub base: Position,
    /// Where the state becomes consistent; known when everything is scanned.
    pub end: Option<Position>,
    /// What is scanned: a tree of the progress by collection; the empty tree until the
    /// collections are listed.
    pub progress: tree::Root,
    /// Whether the collections are listed.
    pub listed: bool,
}

impl ScanState {
    /// A scan that has not listed anything yet.
    #[must_use]
    pub fn new(start: StartPoint) -> Self {
        Self {
            begin_fetch: start.begin_fetch,
            base: start.base,
            end: None,
            progress: tree::Root::default(),
            listed: false,
        }
    }
}

impl State {
    /// The state of a job that has nothing yet.
    #[must_use]
    pub fn new(name: String, identity: Identity, now_ms: i64) -> Self {
        Self {
            name,
            identity,
            scan: None,
            head: None,
            received: None,
            slices: SliceChain::default(),
            snapshots: tree::Root::default(),
            restore_window_ms: RESTORE_WINDOW_MS,
            added_bytes: 0,
            scope: Scope::all(),
            gaps: Gaps::default(),
            stopped: None,
            oplog_window_secs: None,
            created_ms: now_ms,
        }
    }

    /// Whether the head is the state of a moment, and has everything that is to be backed up.
    #[must_use]
    pub fn is_consistent(&self) -> bool {
        let head = self.head.as_ref();
        self.scan.is_none() && head.is_some_and(|head| head.consistent_from.is_some())
    }

    /// Stores the state as a block.
    ///
    /// # Errors
    /// [`Error::Block`].
    pub fn write(&self, blocks: &dyn BlockWrite) -> Result<BlockId, Error> {
        Ok(blocks.put(Kind::Links, self.to_bson()?.as_bytes())?)
    }

    /// Reads what [`State::write`] stored.
    ///
    /// # Errors
    /// [`Error::Block`], [`Error::Malformed`].
    pub fn read(blocks: &dyn BlockRead, id: &BlockId) -> Result<Self, Error> {
        let block = blocks.get(id)?;
        if block.kind != Kind::Links {
            let what = "the state of a job is a block of another kind";
            return Err(block::Error::Malformed { what }.into());
        }
        let document = RawDocument::from_bytes(&block.bytes)
            .map_err(|_| Error::Malformed { what: WHAT, field: "document" })?;
        Self::from_bson(document)
    }

    fn to_bson(&self) -> Result<RawDocumentBuf, Error> {
        let mut out = self.to_bson_without_data();
        if let Some(scan) = &self.scan {
            out.append(cstr!("scan"), scan_to_bson(scan));
        }
        if let Some(head) = &self.head {
            out.append(cstr!("head"), head.to_bson());
        }
        if let Some(received) = self.received {
            out.append(cstr!("received"), fields::position(received));
        }
        out.append(cstr!("slices"), self.slices.to_bson());
        out.append(cstr!("snapshots"), self.snapshots.to_bson());
        out.append(cstr!("added_bytes"), fields::count(self.added_bytes));
        Ok(out)
    }

    /// What a blockstore keeps of it: all that names no block, and not how far it is.
    pub(super) fn to_bson_without_data(&self) -> RawDocumentBuf {
        let mut out = RawDocumentBuf::new();
        out.append(cstr!("v"), VERSION);
        out.append(cstr!("job"), self.name.as_str());
        out.append(cstr!("source"), identity_to_bson(&self.identity));
        out.append(cstr!("created"), DateTime::from_millis(self.created_ms));
        out.append(cstr!("restore_window_ms"), fields::count(self.restore_window_ms));
        out.append(cstr!("scope"), self.scope.to_bson());
        out.append(cstr!("gaps"), self.gaps.to_bson());
        if let Some(stopped) = &self.stopped {
            out.append(cstr!("stopped"), stopped.reason.as_str());
            if let Some(after) = stopped.after {
                out.append(cstr!("stopped_after"), fields::optime(after));
                out.append(cstr!("stopped_unknown_kind"), stopped.unknown_kind);
            }
        }
        if let Some(seconds) = self.oplog_window_secs {
            out.append(cstr!("oplog_window_secs"), fields::count(seconds));
        }
        out
    }

    fn from_bson(document: &RawDocument) -> Result<Self, Error> {
        let read = Fields { what: WHAT, document };
        let head = read.optional_document("head")?;
        Ok(Self {
            scan: read.optional_document("scan")?.map(scan_from_bson).transpose()?,
            head: head.map(|head| HeadRoot::from_bson(head.document)).transpose()?,
            received: read.optional_position("received")?,
            slices: SliceChain::from_bson(read.document("slices")?)?,
            snapshots: read.tree("snapshots")?,
            added_bytes: read.count("added_bytes")?,
            ..Self::from_bson_without_data(document)?
        })
    }

    /// Reads [`State::to_bson_without_data`] back.
    pub(super) fn from_bson_without_data(document: &RawDocument) -> Result<Self, Error> {
        let read = Fields { what: WHAT, document };
        if read.count("v")? != VERSION.unsigned_abs() {
            return Err(read.malformed("v").into());
        }
        let window = read.optional("oplog_window_secs").map(|_| read.count("oplog_window_secs"));
        Ok(Self {
            restore_window_ms: read.count("restore_window_ms")?,
            scope: Scope::from_bson(read.document("scope")?)?,
            gaps: Gaps::from_bson(read, "gaps")?,
            stopped: stopped_from_bson(read)?,
            oplog_window_secs: window.transpose()?,
            ..Self::new(
                read.text("job")?,
                identity_from_bson(read.document("source")?)?,
                read.millis("created")?,
            )
        })
    }
}

fn stopped_from_bson(read: Fields<'_>) -> Result<Option<Stopped>, Error> {
    if read.optional("stopped").is_none() {
        return Ok(None);
    }
    Ok(Some(Stopped {
        reason: read.text("stopped")?,
        after: read.optional_optime("stopped_after")?,
        unknown_kind: read
            .optional("stopped_unknown_kind")
            .and_then(|flag| flag.as_bool())
            .unwrap_or(false),
    }))
}

/// What the document is called in messages.
const WHAT: &str = "job state";

fn identity_to_bson(identity: &Identity) -> RawDocumentBuf {
    let mut out = RawDocumentBuf::new();
    out.append(cstr!("set_name"), identity.set_name.as_str());
    out.append(cstr!("replica_set_id"), fields::bytes(&identity.replica_set_id));
    out.append(cstr!("server_version"), identity.server_version.as_str());
    out.append(cstr!("fcv"), identity.fcv.as_str());
    out
}

fn identity_from_bson(read: Fields<'_>) -> Result<Identity, Error> {
    Ok(Identity {
        set_name: read.text("set_name")?,
        replica_set_id: read.binary("replica_set_id")?,
        server_version: read.text("server_version")?,
        fcv: read.text("fcv")?,
    })
}

fn scan_to_bson(scan: &ScanState) -> RawDocumentBuf {
    let mut out = RawDocumentBuf::new();
    out.append(cstr!("begin_fetch"), fields::optime(scan.begin_fetch));
    out.append(cstr!("base"), fields::position(scan.base));
    if let Some(end) = scan.end {
        out.append(cstr!("end"), fields::position(end));
    }
    out.append(cstr!("listed"), scan.listed);
    out.append(cstr!("progress"), scan.progress.to_bson());
    out
}

fn scan_from_bson(read: Fields<'_>) -> Result<ScanState, Error> {
    Ok(ScanState {
        begin_fetch: read.optime("begin_fetch")?,
        base: read.position("base")?,
        end: read.optional_position("end")?,
        listed: read.flag("listed")?,
        progress: read.tree("progress")?,
    })
}
