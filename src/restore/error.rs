//! What can go wrong with a restore.

use std::path::PathBuf;

use mongodb::error::ErrorKind;

use super::point::{Nearest, NearestSnapshots};
use crate::oplog::Ts;
use crate::source::is_of_change_of_primary;
use crate::{block, head, oplog, store, tree};

/// Code of a server that does not allow its user a command.
const UNAUTHORIZED: i32 = 13;

/// What to do when a primary is lost.
const AGAIN: &str = "; once the target takes writes again, run the same restore again";

/// Whether the driver finds no server, or lost the one it had.
fn is_out_of_reach(why: &mongodb::error::Error) -> bool {
    matches!(
        *why.kind,
        ErrorKind::Io(_)
            | ErrorKind::ConnectionPoolCleared { .. }
            | ErrorKind::ServerSelection { .. }
    )
}

fn advice(code: i32) -> &'static str {
    match code {
        UNAUTHORIZED => {
            "; grant the user the role that `headstock check-access --print-role target` (or rewind) prints"
        }
        code if is_of_change_of_primary(code) => AGAIN,
        _ => "",
    }
}

/// An error of the restore floor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The restore was told to stop.
    #[error("the restore was stopped; its target is not complete: run the same restore again")]
    Cancelled,

    /// The job has no snapshot to start from.
    #[error("job {job} has no snapshot yet; a restore starts from one: wait for it or take one")]
    NoSnapshot {
        /// The job.
        job: String,
    },
    /// No snapshot has the name asked for.
    #[error("job {job} has no snapshot {id}{nearest}")]
    UnknownSnapshot {
        /// The job.
        job: String,
        /// What was asked for.
        id: String,
        /// Names that there are.
        nearest: NearestSnapshots,
    },
    /// The point is before everything that is kept.
    #[error("{asked} is before the oldest point of job {job}; {nearest}")]
    TooEarly {
        /// The job.
        job: String,
        /// What was asked for.
        asked: String,
        /// Points that there are.
        nearest: Nearest,
    },
    /// The point is after everything that was received.
    #[error("{asked} is after the newest entry received of job {job}; {nearest}")]
    TooLate {
        /// The job.
        job: String,
        /// What was asked for.
        asked: String,
        /// Points that there are.
        nearest: Nearest,
    },
    /// Slices between the snapshot and the point are gone or were never received.
    #[error("the oplog slices of job {job} do not reach from a snapshot to {asked}; {nearest}")]
    Gap {
        /// The job.
        job: String,
        /// What was asked for.
        asked: String,
        /// Points that there are.
        nearest: Nearest,
    },
    /// A transaction prepared at or before the point is not yet decided.
    #[error(
        "{asked} is not yet a restore point of job {job}: the transaction prepared at {prepared} \
         is undecided; {nearest}"
    )]
    Undecided {
        /// The job.
        job: String,
        /// What was asked for.
        asked: String,
        /// Its prepare timestamp.
        prepared: Ts,
        /// Points that there are.
        nearest: Nearest,
    },
    /// An entry at or before the point cannot be applied.
    #[error(
        "{asked} is no restore point of job {job}: the oplog entry at {entry} cannot be applied by \
         this version, and nothing after it; {nearest}"
    )]
    NotApplied {
        /// The job.
        job: String,
        /// What was asked for.
        asked: String,
        /// The entry.
        entry: Ts,
        /// Points that there are.
        nearest: Nearest,
        /// Why not; none where the kind of the entry is unknown.
        #[source]
        source: Option<Box<head::Error>>,
    },
    /// A snapshot made under rules that this version does not have.
    #[error(
        "snapshot {id} was made by rules of version {found}, this program has version {known}: \
         restore with the program that made it"
    )]
    RuleVersion {
        /// The snapshot.
        id: String,
        /// Its rules.
        found: u32,
        /// Ours.
        known: u32,
    },

    /// Blocks of a namespace cannot be read. Nothing was written to the target.
    #[error("{ns} cannot be read from the backup; run fsck, then try an older point")]
    Unreadable {
        /// The namespace, or the oplog slice.
        ns: String,
        /// Why.
        #[source]
        source: Box<Error>,
    },
    /// A form of a collection that this version cannot restore.
    #[error("{ns} cannot be restored by this version: {what}")]
    Unsupported {
        /// The namespace.
        ns: String,
        /// Its form.
        what: &'static str,
    },
    /// A document of a form of ours that does not read back.
    #[error("{ns}: {what} is not valid BSON")]
    Malformed {
        /// Of which namespace.
        ns: String,
        /// Which part.
        what: &'static str,
        /// What the parser found.
        #[source]
        source: Option<Box<bson::error::Error>>,
    },
    /// A collection that is named has a gap at the point.
    #[error(
        "{ns} is not held at this point: it had just been renamed from a name that is not backed up; \
         `headstock status` shows until when"
    )]
    Absent {
        /// The namespace.
        ns: String,
    },
    /// The filters select nothing.
    #[error(
        "nothing at this point matches {filters}; `--dry-run` without --ns lists what there is"
    )]
    NothingSelected {
        /// The filters, separated by commas.
        filters: String,
    },

    /// A rewind selects a collection by one of its two names only.
    #[error("{now} was {then} at this point: name both with --ns, or neither")]
    HalfSelected {
        /// Its name now.
        now: String,
        /// Its name at the point.
        then: String,
    },

    /// A rewind of a job that is or was filtered.
    #[error(
        "job {job} holds {when} only {scope}, and what lies outside cannot be told from what was made \
         since the point, so that a rewind might drop it; instead, restore the namespaces that are \
         wanted without --rewind: with --ns NS --drop into the source, or into another server"
    )]
    RewindFiltered {
        /// The job.
        job: String,
        /// Of which moment.
        when: &'static str,
        /// Its filters.
        scope: String,
    },
    /// A rewind of a job that does not hold documents of some collections.
    #[error(
        "job {job} does not hold {when} the documents of {names}, which cannot be told from what was \
         made since the point, so that a rewind might drop them; instead, restore the namespaces that \
         are wanted without --rewind: with --ns NS --drop into the source, or into another server"
    )]
    RewindAbsent {
        /// The job.
        job: String,
        /// At which moment.
        when: &'static str,
        /// Names of the collections.
        names: String,
    },

    /// A rewind of a collection beside buckets of its name without a view.
    #[error(
        "{ns} stands {when} beside {buckets}, which has no view, and neither can be rewound: a server \
         takes for one what is meant for the other; instead, restore both into another server, and \
         copy from there what is wanted"
    )]
    RewindDiverted {
        /// At which moment.
        when: &'static str,
        /// The collection.
        ns: String,
        /// The buckets.
        buckets: String,
    },
    /// Buckets that the target would not drop alone.
    #[error(
        "the target would drop {ns} with {buckets}, and only {buckets} is to be replaced: restore both, \
         or drop one of them first"
    )]
    DropsOther {
        /// What is not to be replaced.
        ns: String,
        /// What is.
        buckets: String,
    },

    /// The target has namespaces that the restore would have to replace.
    #[error(
        "the target already has {first} and {more} more of the namespaces; --drop replaces them"
    )]
    Exists {
        /// The first by name.
        first: String,
        /// How many others.
        more: usize,
    },
    /// Another restore into the target did not finish.
    #[error(
        "the target holds an unfinished restore {id} of job {job} to {point}: run that one again, \
         or, if its data may go, drop database {database} first"
    )]
    OtherRestore {
        /// Its id.
        id: String,
        /// Its job.
        job: String,
        /// Its point.
        point: String,
        /// Where its marker is.
        database: &'static str,
    },
    /// The marker was taken away while the restore ran.
    #[error("the marker of restore {id} is gone from the target: another restore took over")]
    MarkerLost {
        /// Our id.
        id: String,
    },
    /// The target is a router.
    #[error(
        "{target} is a mongos; restore into each shard and the config servers by the connection \
         strings of their replica sets"
    )]
    Mongos {
        /// The target.
        target: String,
    },
    /// The target does not take writes.
    #[error("{target} has no member that takes writes; name the whole replica set, or its primary")]
    NotWritable {
        /// The target.
        target: String,
    },
    /// The target's feature compatibility version is below the backup's.
    #[error(
        "{target} has feature compatibility version {target_fcv}, the backup is of {backup_fcv}: \
         restore into a server of that version or newer"
    )]
    TargetTooOld {
        /// The target.
        target: String,
        /// Its version.
        target_fcv: String,
        /// The backup's.
        backup_fcv: String,
    },
    /// A server that is not of a replica set takes no collection with encrypted fields.
    #[error(
        "{target} is {kind}, and such a server refuses {ns}, which has encrypted fields: restore into a \
         replica set or to a dump, or leave it out with --ns"
    )]
    Encrypted {
        /// The target.
        target: String,
        /// What it is.
        kind: String,
        /// The first such collection.
        ns: String,
    },
    /// Not enough room.
    #[error("{target} has {free_bytes} bytes free, the restore needs about {needed_bytes}")]
    NoRoom {
        /// The target.
        target: String,
        /// What there is.
        free_bytes: u64,
        /// What is needed.
        needed_bytes: u64,
    },
    /// The path to be made is taken.
    #[error("{} exists and is not empty; nothing in it was touched: name another path", path.display())]
    NotEmpty {
        /// The path.
        path: PathBuf,
    },
    /// The connection string is not one. What the driver says of it may quote a password.
    #[error(
        "the target's connection string cannot be used; user name and password must be \
         percent-encoded, as in mongodb://user:p%40ss@host:27017/?replicaSet=name"
    )]
    Uri,
    /// The options of the target's connection string cannot be followed.
    #[error(
        "the connection string of {target} cannot be used; check its options and the files that they name"
    )]
    Options {
        /// The target.
        target: String,
        /// What the driver reported.
        source: Box<mongodb::error::Error>,
    },
    /// The driver failed.
    #[error("cannot {action} at {target}{}", if is_out_of_reach(source) { AGAIN } else { "" })]
    Driver {
        /// The target.
        target: String,
        /// What was tried.
        action: &'static str,
        /// The driver's error.
        #[source]
        source: Box<mongodb::error::Error>,
    },
    /// The server refused a command on a namespace.
    #[error("{target} refuses {command} for {ns}: {message} (code {code}){}", advice(*code))]
    Refused {
        /// The target.
        target: String,
        /// The command.
        command: &'static str,
        /// The namespace.
        ns: String,
        /// The server's code.
        code: i32,
        /// The server's words.
        message: String,
    },
    /// A reply of the server lacks what it must hold.
    #[error("{target} answered {command} without {field}")]
    Reply {
        /// The target.
        target: String,
        /// The command.
        command: &'static str,
        /// The missing field.
        field: &'static str,
    },
    /// What was written is not what the backup holds.
    #[error(
        "after the restore {ns} differs from the backup in its {what}: {found}, expected \
         {expected}; the target keeps its marker"
    )]
    Different {
        /// The namespace.
        ns: String,
        /// Which property.
        what: &'static str,
        /// The target's.
        found: String,
        /// The backup's.
        expected: String,
    },

    /// A file of a target could not be handled.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// There is no mongod to build a data directory with.
    #[error(
        "there is no mongod to build a data directory with: name one with --mongod or in MONGOD, \
         or put it on PATH"
    )]
    NoMongod,
    /// The mongod that builds a data directory failed.
    #[error("{} {what}; the end of its log: {log}", binary.display())]
    Mongod {
        /// The binary.
        binary: PathBuf,
        /// What it did.
        what: &'static str,
        /// The last lines of its log.
        log: String,
    },
    /// A thread of the restore ended without a result.
    #[error("a worker of the restore ended without a result")]
    Worker,

    /// A block could not be read.
    #[error(transparent)]
    Block(#[from] block::Error),
    /// A tree could not be read.
    #[error(transparent)]
    Tree(#[from] tree::Error),
    /// The scratch store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The head could not be opened or advanced.
    #[error(transparent)]
    Head(Box<head::Error>),
    /// An oplog entry could not be read.
    #[error(transparent)]
    Oplog(#[from] oplog::Error),
}

impl From<head::Error> for Error {
    fn from(why: head::Error) -> Self {
        Self::Head(Box::new(why))
    }
}

impl Error {
    /// For `map_err` of a file call.
    pub(super) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { action, path: path.into(), source }
    }

    /// For `map_err` where a namespace's blocks are read.
    pub(super) fn unreadable<E: Into<Self>>(ns: &str) -> impl FnOnce(E) -> Self {
        move |source| match source.into() {
            Self::Cancelled => Self::Cancelled,
            source => Self::Unreadable { ns: ns.to_owned(), source: Box::new(source) },
        }
    }
}
