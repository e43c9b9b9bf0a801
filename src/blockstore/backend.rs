//! What a blockstore is kept in: documents that change together, and blocks.
//!
//! The protocol of page 09 is written once, in commands upon documents and in assertions of blocks; a [`Backend`] executes them. There are two: a
//! replica set, which has such commands, and objects, among which a log of entries stands for them (page 10). What page 09 rests
//! on (section 2: a transaction is executed as a whole or not at all, and nothing is read that is older than what was
//! answered) is what each of them owes.

use std::sync::Arc;
use std::time::Duration;

use bson::oid::ObjectId;
use bson::{Document, RawDocument, RawDocumentBuf, doc};
use futures::future::BoxFuture;

use super::groom::Sweep;
use super::pace::Pace;
use super::{Error, GroomReport};
use crate::block::BlockId;
use crate::store::StoredBlock;

/// The collections of page 09.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Of(pub &'static str);

pub(super) const REPOSITORY: Of = Of("repository");
pub(super) const GENERATION: Of = Of("generation");
pub(super) const SESSIONS: Of = Of("sessions");
pub(super) const DAEMONS: Of = Of("daemons");
pub(super) const JOBS: Of = Of("jobs");
pub(super) const SNAPSHOTS: Of = Of("snapshots");
pub(super) const SLICES: Of = Of("slices");

/// What it means that a step matched nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Miss {
    /// The session was ended, or has made another commit.
    Session,
    /// The job is another daemon's, or has had another commit.
    Job,
    /// The snapshot is gone, or pinned where it must not be.
    Snapshot,
    /// The block, or what it is kept in, is not as it was.
    Block,
}

/// A command of a transaction.
#[derive(Debug, Clone)]
pub enum Step {
    /// Changes one document, which must be there.
    Update { of: Of, filter: Document, change: Document, miss: Miss },
    /// Changes any number of documents.
    UpdateAll { of: Of, filter: Document, change: Document },
    /// Inserts documents.
    Insert { of: Of, documents: Vec<RawDocumentBuf> },
    /// Removes one document, which must be there.
    Delete { of: Of, filter: Document, miss: Miss },
    /// Removes any number of documents.
    DeleteAll { of: Of, filter: Document },
}

/// How a transaction ended.
#[derive(Debug)]
pub enum Ended {
    /// It is committed.
    Made,
    /// It was aborted: that step matched nothing.
    Missed(Miss),
    /// It may be committed, now or later.
    Unknown(Error),
}

/// Bytes of stored blocks in one answer, about.
pub const ANSWER_BYTES: usize = 16 << 20;

/// What to find.
#[derive(Debug, Clone, Default)]
pub struct Query {
    pub filter: Document,
    /// One field, ascending; by `_id` if empty.
    pub sort: Document,
    /// At most so many; all if zero.
    pub limit: i64,
}

impl Query {
    /// All that a filter finds, by that field.
    pub fn all(filter: Document, sort: &str) -> Self {
        Self { filter, sort: doc! { sort: 1 }, limit: 0 }
    }
}

/// A block that is there, and the dictionary that it is stored with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    pub id: BlockId,
    pub dictionary: Option<BlockId>,
}

/// The future of an answer.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, Error>>;

/// See the head of this file.
pub trait Backend: Send + Sync {
    /// What to call it; holds no secret.
    fn name(&self) -> String;

    /// How long the slices of a job are gathered for a commit: where one costs much, that many of them do not.
    fn gather(&self) -> Duration;

    /// Makes what stands before the first document, or finds that it is there.
    fn prepare(&self) -> Answer<'_, ()>;

    /// Documents, in order.
    fn find(&self, of: Of, query: Query) -> Answer<'_, Vec<RawDocumentBuf>>;

    /// Every document of a collection, as of one time.
    fn find_at_once(&self, of: Of) -> Answer<'_, Vec<RawDocumentBuf>>;

    /// Changes one document: whether there was one.
    fn update_one(&self, of: Of, filter: Document, change: Document) -> Answer<'_, bool>;

    /// Inserts one document: false if there is one with its `_id`.
    fn insert_one<'a>(&'a self, of: Of, document: &'a RawDocumentBuf) -> Answer<'a, bool>;

    /// Removes one document: whether there was one.
    fn delete_one(&self, of: Of, filter: Document) -> Answer<'_, bool>;

    /// Executes a transaction.
    fn transact<'a>(&'a self, steps: &'a [Step]) -> Answer<'a, Ended>;

    /// Shows that a session or daemon is alive: whether it is there.
    fn beat(&self, of: Of, id: ObjectId) -> Answer<'_, bool>;

    /// What a session or daemon, whose document this is, shows last.
    fn beat_of<'a>(&'a self, of: Of, document: &'a RawDocument) -> Answer<'a, i64>;

    /// Blocks as they are stored, in any order. Those that are not there are left out, and so are some once the others come to
    /// [`ANSWER_BYTES`]: none are there if none come.
    fn stored<'a>(&'a self, ids: &'a [BlockId]) -> Answer<'a, Vec<StoredBlock>>;

    /// Which of these blocks are there: at most a thousand names at once.
    fn present<'a>(&'a self, ids: &'a [BlockId]) -> Answer<'a, Vec<Found>>;

    /// Writes blocks for a session.
    fn writer(&self, session: SessionOfWriter) -> Arc<dyn BlockWriter>;

    /// Removes blocks that were not marked, or counts them.
    fn sweep(&self, sweep: Sweep) -> Answer<'_, GroomReport>;
}

/// For whom blocks are written.
#[derive(Debug, Clone)]
pub struct SessionOfWriter {
    pub id: ObjectId,
    /// What writes its document.
    pub step: Step,
    /// What it asserts with.
    pub stamp: i64,
    /// How fast blocks may be sent.
    pub pace: Pace,
}

/// Says of blocks that they are relied on, and writes those that are not there (page 09, section 3.3).
pub trait BlockWriter: Send + Sync {
    /// Raises the stamps of blocks, and tells which of them have it then.
    fn raise<'a>(&'a self, ids: &'a [BlockId]) -> Answer<'a, Vec<Found>>;

    /// Whether an insertion tells which blocks were there, so that it may come before the question.
    fn tells_duplicates(&self) -> bool;

    /// Writes blocks that are not there, behind their dictionaries. Returns those that are.
    fn insert(&self, blocks: Vec<StoredBlock>) -> Answer<'_, Vec<BlockId>>;

    /// Gives a block that is there another form. `lost`: the dictionary that it must still be stored with for that.
    fn replace(&self, block: StoredBlock, lost: Option<BlockId>) -> Answer<'_, ()>;

    /// Returns when all that was written is there.
    fn finish(&self) -> Answer<'_, ()>;
}
