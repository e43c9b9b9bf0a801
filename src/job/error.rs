//! What can go wrong with a job.

use std::path::PathBuf;
use std::sync::Arc;

use crate::block::BlockId;
use crate::oplog::OpTime;
use crate::{block, blockstore, head, oplog, restore, source, store, tree};

/// An error of the job floor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A block could not be read or written.
    #[error(transparent)]
    Block(#[from] block::Error),
    /// A tree could not be read or written.
    #[error(transparent)]
    Tree(#[from] tree::Error),
    /// The oplog could not be understood.
    #[error(transparent)]
    Oplog(#[from] oplog::Error),
    /// The head could not be opened, advanced or flushed.
    #[error(transparent)]
    Head(#[from] head::Error),
    /// The source could not be read.
    #[error(transparent)]
    Source(#[from] source::Error),
    /// The blockstore could not be read or written.
    #[error(transparent)]
    Blockstore(#[from] blockstore::Error),
    /// What can be restored could not be told.
    #[error(transparent)]
    Points(#[from] restore::Error),
    /// There is no store where one was expected.
    #[error("{} holds no store; check --store, or make one with `headstock sync`", dir.display())]
    NoStore {
        /// The directory.
        dir: PathBuf,
    },
    /// The store has no job of that name.
    #[error("the store has no job {job:?}; it has: {}", list(have))]
    NoSuchJob {
        /// The name asked for.
        job: String,
        /// The names there are.
        have: Vec<String>,
    },
    /// No job was named and there is not exactly one.
    #[error("name a job with --job; the store has: {}", list(have))]
    WhichJob {
        /// The names there are.
        have: Vec<String>,
    },
    /// A name that cannot be a job's.
    #[error("{name:?} cannot name a job: give 1 to {max} printable characters")]
    BadName {
        /// The name asked for.
        name: String,
        /// The longest name, in bytes.
        max: usize,
    },
    /// The job backs up another replica set than the one given.
    #[error(
        "job {job} backs up replica set {expected}, but the source is {found}; check --source, name \
         another job with --job, or, if the set was made anew and the job is to go on with it, run \
         `headstock sync --new-timeline` once"
    )]
    AnotherSet {
        /// The job.
        job: String,
        /// Name and id of its replica set.
        expected: String,
        /// Name and id of the source.
        found: String,
    },
    /// A stored document of a job is not of its form.
    #[error("a stored {what} has no valid `{field}`; run `headstock fsck`")]
    Malformed {
        /// Which document.
        what: &'static str,
        /// Which field.
        field: &'static str,
    },
    /// The job has no snapshot of that name.
    #[error("job {job} has no snapshot {id:?}; `headstock snapshots` lists them")]
    NoSuchSnapshot {
        /// The job.
        job: String,
        /// The name asked for.
        id: String,
    },
    /// The snapshot is protected.
    #[error("snapshot {id} is kept; `headstock snapshot keep --release` takes the protection away")]
    Kept {
        /// The snapshot.
        id: String,
    },
    /// The job was changed between being read and being written, by another command.
    #[error("job {job} was changed by another command at the same time; run this one again")]
    Overtaken {
        /// The job.
        job: String,
    },
    /// There is no consistent state to take a snapshot of.
    #[error("job {job} has no consistent state yet: its initial sync has not finished; let it run")]
    NotConsistent {
        /// The job.
        job: String,
    },
    /// Collections got names that are backed up, from names that are not.
    #[error(
        "{namespaces}: renamed from a name that is not backed up, so the documents are missing until \
         the source is scanned anew"
    )]
    Absent {
        /// Their names.
        namespaces: String,
    },
    /// Entries were stored by another reader of the oplog meanwhile: read on after them.
    #[error("the oplog of job {job} was stored further by another reader; read on after it")]
    Superseded {
        /// The job.
        job: String,
    },
    /// The new timeline begins before the old one ends, so that times would be ambiguous.
    #[error(
        "the source's newest entry {begins} is not after {ends}, the newest this job has of its old \
         timeline: check the clocks of its members and wait, or name another job with --job"
    )]
    TimelineOverlap {
        /// Where the new timeline would begin.
        begins: OpTime,
        /// The newest entry of the old one.
        ends: OpTime,
    },
    /// The source's oplog ran past the job again and again.
    #[error(
        "the source's oplog ran past job {job} {times} times before a copy of the source was \
         complete: enlarge its oplog (replSetResizeOplog), or run where the source is read faster"
    )]
    OplogTooSmall {
        /// The job.
        job: String,
        /// How often.
        times: u32,
        /// The last time.
        source: Box<Error>,
    },
    /// The blockstore has nothing that a job could be rebuilt from.
    #[error("job {job} cannot be rebuilt from the blockstore: {why}")]
    NothingToRebuild {
        /// The job.
        job: String,
        /// Why not.
        why: String,
    },
    /// The store has that job already.
    #[error(
        "the store {dir} has a job {job} already: start its daemon, or rebuild into another directory"
    )]
    HasJob {
        /// The job.
        job: String,
        /// The store.
        dir: String,
    },
    /// What was rebuilt is not what was backed up.
    #[error("what was fetched of snapshot {snapshot} has content root {found}, not {expected}")]
    RootDiffers {
        /// The snapshot.
        snapshot: String,
        /// What its manifest says.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The oplog slices do not chain.
    #[error("job {job} lacks the oplog after {after}; run `headstock fsck`, then sync --rescan")]
    Gap {
        /// The job.
        job: String,
        /// Where the chain ends.
        after: OpTime,
    },
    /// The source's oplog has an entry where the backup has none.
    #[error(
        "job {job} has {found} where the source has {expected}: entries are missing, or the source was \
         restored; see `headstock status`, then sync --rescan"
    )]
    AnotherHistory {
        /// The job.
        job: String,
        /// The entry that the source has.
        expected: OpTime,
        /// The last entry at or before it that the backup has.
        found: OpTime,
    },
    /// The target of a rewind is another replica set than the job backs up.
    #[error(
        "the target is replica set {found}, but job {job} backs up {expected}: only that one can be \
         rewound; without --rewind the point is restored into any server"
    )]
    RewindElsewhere {
        /// The job.
        job: String,
        /// Name and id of its replica set.
        expected: String,
        /// Name and id of the target.
        found: String,
    },
    /// The target of a rewind has not the oplog that the job holds.
    #[error(
        "the target's history is not proved to be that of job {job}, so what differs is not known; \
         without --rewind the point can be restored into it, with --drop over what it has"
    )]
    RewindUnproved {
        /// The job.
        job: String,
        /// What was found instead.
        source: Box<Error>,
    },
    /// A transaction is prepared and nobody decides it.
    #[error(
        "a transaction prepared at or before {at} is neither committed nor aborted, so job {job} \
         cannot be compared there; try again when it is"
    )]
    Undecided {
        /// The job.
        job: String,
        /// The optime.
        at: OpTime,
    },
    /// Nothing is named so, neither in the backup nor at the source.
    #[error("neither the backup nor the source has anything in {filters}; check --ns")]
    NothingSelected {
        /// What was asked for.
        filters: String,
    },
    /// Scratch files cannot be made.
    #[error("cannot make scratch files in {}", path.display())]
    Scratch {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What was asked for is to stop.
    #[error("stopped as asked; nothing was changed")]
    Cancelled,
    /// Applying stopped at an entry; slices are still stored.
    #[error("applying stopped after {after}; oplog is still being stored, so nothing is lost")]
    Stopped {
        /// The last entry applied.
        after: OpTime,
        /// Why.
        source: Arc<Error>,
    },
    /// A part of the job that runs in the background failed.
    #[error(transparent)]
    Background(Arc<Error>),
    /// A worker ended without a result: it panicked, or the program is going down.
    #[error("the {worker} of job {job} ended without a result; start again")]
    WorkerLost {
        /// The job.
        job: String,
        /// Which worker.
        worker: &'static str,
    },
    /// The job was told to stop before what was asked had been done.
    #[error("job {job} was stopped first; run the command again to go on")]
    Interrupted {
        /// The job.
        job: String,
    },
}

impl Error {
    /// Whether the same may work a little later without anybody's help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Source(error) => error.is_transient(),
            Self::Blockstore(error) => error.is_transient(),
            Self::Background(error) => error.is_transient(),
            Self::Store(store::Error::GroupFailed) => true,
            _ => self.is_full(),
        }
    }

    /// Whether a disk was full, however deep below.
    fn is_full(&self) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        let first: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(self);
        std::iter::successors(first, |error| error.source())
            .filter_map(|error| error.downcast_ref::<std::io::Error>())
            .any(|error| matches!(error.kind(), StorageFull | QuotaExceeded))
    }

    /// Whether an entry came in the way of a scan, which no other head minds.
    #[must_use]
    pub fn is_of_scan(&self) -> bool {
        use head::{Error::NeedsRescan, Rescan::FcvChanged};
        matches!(self, Self::Head(NeedsRescan { why: FcvChanged, .. }))
    }

    /// Whether an entry of the oplog is the reason, so that nothing after it can be restored.
    #[must_use]
    pub fn is_of_entry(&self) -> bool {
        use head::Error as H;
        match self {
            error if error.is_of_scan() => false,
            Self::Oplog(_) => true,
            Self::Head(error) => matches!(
                error,
                H::Oplog(_)
                    | H::Update { .. }
                    | H::UnknownCollection { .. }
                    | H::NameTaken { .. }
                    | H::NeedsRescan { .. }
                    | H::UnknownField { .. }
                    | H::MovedAside { .. }
            ),
            _ => false,
        }
    }

    /// Whether an entry of the oplog is of a kind that this version does not know.
    #[must_use]
    pub fn is_of_unknown_kind(&self) -> bool {
        use head::Error::Oplog;
        let unknown = |error: &oplog::Error| matches!(error, oplog::Error::Unknown { .. });
        match self {
            Self::Oplog(error) | Self::Head(Oplog(error)) => unknown(error),
            _ => false,
        }
    }

    /// Whether a new scan of the source helps, and is no mixture of two histories.
    #[must_use]
    pub fn is_healed_by_rescan(&self) -> bool {
        match self {
            Self::Source(source::Error::Diverged { .. }) => false,
            Self::Background(error) | Self::Stopped { source: error, .. } => {
                error.is_healed_by_rescan()
            }
            error => error.needs_rescan(),
        }
    }

    /// Whether only a new scan of the source helps.
    #[must_use]
    pub fn needs_rescan(&self) -> bool {
        use {head::Error as H, source::Error as S};
        match self {
            Self::Source(error) => matches!(error, S::FellOff { .. } | S::Diverged { .. }),
            Self::Head(error) => matches!(
                error,
                H::NeedsRescan { .. }
                    | H::UnknownCollection { .. }
                    | H::NameTaken { .. }
                    | H::MovedAside { .. }
            ),
            Self::Gap { .. } => true,
            Self::Background(error) | Self::Stopped { source: error, .. } => error.needs_rescan(),
            _ => false,
        }
    }

    /// The block that is missing or damaged, if that is the trouble.
    #[must_use]
    pub fn damaged_block(&self) -> Option<BlockId> {
        use blockstore::Error as Remote;
        let tree = match self {
            Self::Tree(error)
            | Self::Head(head::Error::Tree(error))
            | Self::Blockstore(Remote::Tree(error) | Remote::Head(head::Error::Tree(error))) => {
                Some(error)
            }
            _ => None,
        };
        let block = match (self, tree) {
            (_, Some(tree::Error::Malformed { id, .. })) => return Some(*id),
            (_, Some(tree::Error::Block(block))) => block,
            (Self::Block(block) | Self::Head(head::Error::Block(block)), _) => block,
            (Self::Store(store::Error::Block(block)), _) => block,
            (
                Self::Blockstore(
                    Remote::Block(block)
                    | Remote::Store(store::Error::Block(block))
                    | Remote::Head(head::Error::Block(block)),
                ),
                _,
            ) => block,
            _ => return None,
        };
        match block {
            block::Error::Missing { id } | block::Error::Damaged { id, .. } => Some(*id),
            _ => None,
        }
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
