//! What can go wrong with a blockstore.

use std::path::PathBuf;

use mongodb::error::{
    Error as DriverError, ErrorKind, RETRYABLE_WRITE_ERROR, TRANSIENT_TRANSACTION_ERROR,
    UNKNOWN_TRANSACTION_COMMIT_RESULT, WriteFailure,
};

use crate::source::is_passing;
use crate::{block, head, oplog, store, tree};

/// An error of the blockstore floor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The connection string cannot be used.
    #[error("the blockstore's connection string cannot be used: {problem}")]
    Uri {
        /// What is wrong, without secrets.
        problem: String,
    },
    /// The server cannot do transactions.
    #[error(
        "{blockstore} is not a replica set: a blockstore needs transactions and majority writes; initiate one, of one member at least"
    )]
    NotAReplicaSet {
        /// Where.
        blockstore: String,
    },
    /// The server is too old.
    #[error("{blockstore} runs MongoDB {version}; a blockstore needs 4.4 or later")]
    TooOld {
        /// Where.
        blockstore: String,
        /// What it runs.
        version: String,
    },
    /// A command failed.
    #[error("{blockstore} does not answer as it should: {command} failed")]
    Driver {
        /// Where.
        blockstore: String,
        /// What was asked.
        command: &'static str,
        /// What the driver says.
        source: Box<DriverError>,
    },
    /// The user may not run a command that is needed.
    #[error(
        "{blockstore} does not allow {command}; `headstock check-access --blockstore` names what the user's roles lack"
    )]
    Privilege {
        /// Where.
        blockstore: String,
        /// What was asked.
        command: &'static str,
        /// What the driver says.
        source: Box<DriverError>,
    },
    /// The credentials were refused.
    #[error(
        "{blockstore} refuses the credentials; check user, password (or certificate) and authSource"
    )]
    Authentication {
        /// Where.
        blockstore: String,
        /// What the driver says.
        source: Box<DriverError>,
    },
    /// A request to the storage of objects failed.
    #[error("{blockstore} does not answer as it should: an object could not be had ({what})")]
    Objects {
        /// Where.
        blockstore: String,
        /// What was asked.
        what: &'static str,
        /// What the storage says.
        source: Box<object_store::Error>,
    },
    /// The directory is not there any more.
    #[error(
        "{blockstore} is not the directory that was opened: the share may have been taken away; mount it again"
    )]
    DirectoryGone {
        /// Where.
        blockstore: String,
    },
    /// The storage lets one name be created twice.
    #[error(
        "{blockstore} creates an object of a name that is there: without conditional writes (`If-None-Match: *`) two daemons could overwrite each other, so it cannot be a blockstore; use a newer version of the storage, or a directory"
    )]
    NoConditions {
        /// Where.
        blockstore: String,
    },
    /// An object is not what it was when it was written.
    #[error("{blockstore} has a damaged {object}; bring that object back from a copy")]
    DamagedObject {
        /// Where.
        blockstore: String,
        /// Which.
        object: String,
    },
    /// Others wrote so much that it is not known what became of an entry.
    #[error(
        "{blockstore} was written to so much while an answer was waited for that it is not known whether a change was made"
    )]
    LeftBehind {
        /// Where.
        blockstore: String,
    },
    /// A document is there already.
    #[error("{blockstore} has such a document in {collection} already")]
    IsThere {
        /// Where.
        blockstore: String,
        /// Which collection.
        collection: &'static str,
    },
    /// A transaction is above what an entry holds.
    #[error("a transaction of {bytes} bytes is more than an entry of the log may hold")]
    TooMuchAtOnce {
        /// Its size.
        bytes: usize,
    },
    /// A checkpoint of the log could not be made.
    #[error("a checkpoint of the log cannot be compressed")]
    Checkpoint {
        /// Why.
        source: std::io::Error,
    },
    /// The files of an index of names.
    #[error(
        "the index of a blockstore's packs cannot be kept in the directory for temporary files"
    )]
    Index {
        /// Why.
        source: std::io::Error,
    },
    /// A command had no answer in time.
    #[error("{blockstore} did not answer within {seconds} s: {command}")]
    TimedOut {
        /// Where.
        blockstore: String,
        /// What was asked.
        command: &'static str,
        /// How long it was waited for.
        seconds: u64,
    },
    /// There is no repository.
    #[error(
        "{blockstore} holds no repository yet; the first `headstock sync --blockstore` or `headstock daemon --blockstore` makes one"
    )]
    NoRepository {
        /// Where.
        blockstore: String,
    },
    /// The repository was made by a newer version.
    #[error("{blockstore} has format {format}, which needs a newer version of Headstock")]
    NewerFormat {
        /// Where.
        blockstore: String,
        /// Its format.
        format: i64,
    },
    /// Store and repository cut trees by other salts.
    #[error(
        "the store {dir} was made apart from {blockstore} (its salt is another), so that nothing in it could be compared with what is there: make a store with `headstock rebuild`, or with `sync --blockstore` from the beginning; or give this store a blockstore of its own (another database in the connection string)"
    )]
    AnotherSalt {
        /// The store.
        dir: String,
        /// Where.
        blockstore: String,
    },
    /// One is encrypted, the other is not.
    #[error("{what}: store and blockstore must both be encrypted with the same keys, or none")]
    Encryption {
        /// Which.
        what: String,
    },
    /// Store and repository have other data keys of one epoch.
    #[error(
        "the data keys of the store {dir} and of {blockstore} cannot be brought together: another store that is pushed there has changed its own (`headstock key rotate`) as this one has; only one of the stores that share a repository may do so. Make this store anew with `headstock rebuild`"
    )]
    KeysDiffer {
        /// The store.
        dir: String,
        /// Where.
        blockstore: String,
    },
    /// The job is another daemon's.
    #[error(
        "job {job} in {blockstore} belongs to a daemon on {host} that is alive; stop that one first, or name another job with --job"
    )]
    Bound {
        /// Where.
        blockstore: String,
        /// The job.
        job: String,
        /// Where that daemon runs.
        host: String,
    },
    /// Another daemon has taken the job.
    #[error("job {job} was taken over by another daemon: nothing more of it is written from here")]
    Overtaken {
        /// The job.
        job: String,
    },
    /// A session was ended by somebody else.
    #[error("this session in the blockstore was ended, since it seemed dead; it begins anew")]
    SessionLost,
    /// A snapshot that was to be pinned or changed is gone.
    #[error("a snapshot expired in the blockstore meanwhile; begin anew")]
    SnapshotGone,
    /// A commit was not made after all.
    #[error("a commit to the blockstore was not made, and is tried again")]
    NotMade,
    /// Others wrote the same blocks all the time.
    #[error("blocks were written and removed by others again and again; tried again later")]
    Contended,
    /// A snapshot did not reach the blockstore.
    #[error(
        "snapshot {what} is in the local store, and not yet in the blockstore: {trouble}; what was sent is not sent again, the next sync or the daemon goes on"
    )]
    NotPushed {
        /// Which.
        what: String,
        /// Why not.
        trouble: String,
    },
    /// The job has no snapshot of that name there.
    #[error(
        "job {job} has no snapshot {id:?} in the blockstore; `headstock snapshots --blockstore` lists them"
    )]
    NoSuchSnapshot {
        /// The job.
        job: String,
        /// The name asked for.
        id: String,
    },
    /// The snapshot is protected.
    #[error(
        "snapshot {id} is kept; `headstock snapshot keep --release` on its store takes the protection away"
    )]
    Kept {
        /// The snapshot.
        id: String,
    },
    /// The newest snapshot stays.
    #[error(
        "snapshot {id} is the newest of its job in the blockstore, and stays: the job could not be rebuilt without it"
    )]
    Newest {
        /// The snapshot.
        id: String,
    },
    /// There is no such job.
    #[error("{blockstore} has no job {job:?}; it has: {}", list(have))]
    NoSuchJob {
        /// Where.
        blockstore: String,
        /// The name asked for.
        job: String,
        /// The names there are.
        have: Vec<String>,
    },
    /// No job was named and there is not exactly one.
    #[error("name a job with --job; {blockstore} has: {}", list(have))]
    WhichJob {
        /// Where.
        blockstore: String,
        /// The names there are.
        have: Vec<String>,
    },
    /// A document is not of its form.
    #[error("a document of collection {collection} in {blockstore} has no valid `{field}`")]
    Malformed {
        /// Where.
        blockstore: String,
        /// Which collection.
        collection: &'static str,
        /// Which field.
        field: &'static str,
    },
    /// A manifest or state there is not of its form.
    #[error(transparent)]
    Head(#[from] head::Error),
    /// A slice there is not of its form.
    #[error(transparent)]
    Oplog(#[from] oplog::Error),
    /// A tree.
    #[error(transparent)]
    Tree(#[from] tree::Error),
    /// The files of a groom's marks.
    #[error("the marks of a groom cannot be kept in {}", path.display())]
    Marks {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It was told to stop.
    #[error("stopped as asked; what is done is done, and the next time goes on")]
    Stopped,
    /// The local store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A block.
    #[error(transparent)]
    Block(#[from] block::Error),
    /// A worker ended without a result.
    #[error("a worker of the push ended without a result")]
    WorkerLost,
}

impl Error {
    /// Whether the same may work a little later without anybody's help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.is_of_connection()
            || matches!(
                self,
                Self::SessionLost | Self::NotMade | Self::Contended | Self::LeftBehind { .. }
            )
    }

    /// Whether there was no answer, or one of a server that is not the primary any more: an election, say.
    pub(super) fn is_of_connection(&self) -> bool {
        match self {
            Self::Driver { source, .. } => is_transient(source),
            Self::Objects { source, .. } => is_passing_in_storage(source),
            Self::TimedOut { .. } | Self::DirectoryGone { .. } | Self::LeftBehind { .. } => true,
            _ => false,
        }
    }

    /// Whether trying again is of no use until somebody has changed something.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        if let Self::Objects { source, .. } = self {
            return !is_passing_in_storage(source);
        }
        matches!(
            self,
            Self::Privilege { .. }
                | Self::NoConditions { .. }
                | Self::DamagedObject { .. }
                | Self::Authentication { .. }
                | Self::AnotherSalt { .. }
                | Self::KeysDiffer { .. }
                | Self::Encryption { .. }
                | Self::NewerFormat { .. }
                | Self::Bound { .. }
                | Self::Uri { .. }
                | Self::NotAReplicaSet { .. }
                | Self::TooOld { .. }
        )
    }
}

/// The server's code of a command that the user may not run.
const UNAUTHORIZED: i32 = 13;
/// The server's code of credentials that it does not take.
const AUTHENTICATION_FAILED: i32 = 18;

/// Wraps what the driver says of a command.
pub(super) fn of_driver(blockstore: String, command: &'static str, source: DriverError) -> Error {
    let source = Box::new(source);
    match source.kind.as_ref() {
        ErrorKind::Command(refusal) if refusal.code == UNAUTHORIZED => {
            Error::Privilege { blockstore, command, source }
        }
        ErrorKind::Command(refusal) if refusal.code == AUTHENTICATION_FAILED => {
            Error::Authentication { blockstore, source }
        }
        ErrorKind::Authentication { .. } => Error::Authentication { blockstore, source },
        _ => Error::Driver { blockstore, command, source },
    }
}

/// Whether an error of a storage of objects may pass: of those that have a name of their own none does.
const fn is_passing_in_storage(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::Generic { .. } | object_store::Error::JoinError { .. })
}

/// Whether the driver's error may pass.
fn is_transient(error: &DriverError) -> bool {
    let labels =
        [RETRYABLE_WRITE_ERROR, TRANSIENT_TRANSACTION_ERROR, UNKNOWN_TRANSACTION_COMMIT_RESULT];
    let by_kind = match error.kind.as_ref() {
        ErrorKind::Write(WriteFailure::WriteConcernError(_)) => true,
        ErrorKind::InsertMany(many) => many.write_concern_error.is_some(),
        _ => is_passing(error),
    };
    by_kind || labels.iter().any(|label| error.contains_label(label))
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
