//! What can go wrong at a source: which member, which command, and what to do next.
//!
//! No error shows a password: the only driver errors that quote a connection string are those of
//! parsing it, and of these [`Error::Uri`] keeps the text only if it quotes nothing of the credentials.

use std::fmt;

use crate::oplog::{OpTime, Ts, Uuid};

/// Errors of the source floor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The connection string is not one.
    #[error(
        "the source's connection string cannot be used: {problem}; user name and password must be percent-encoded, as in mongodb://user:p%40ss@host:27017/?replicaSet=name"
    )]
    Uri {
        /// What the driver says of it, or a general word where that would quote the credentials.
        problem: String,
    },
    /// No member answered.
    #[error(
        "no member of the source answers (asked: {asked}); check the host names, the network and TLS"
    )]
    Unreachable {
        /// The members asked, each with its last error.
        asked: Failures,
    },
    /// Members answer, but none that may be read from.
    #[error(
        "no member of replica set {set:?} can be read from as asked ({wanted}); members: {members}"
    )]
    NoMember {
        /// Replica set name.
        set: String,
        /// What was asked for.
        wanted: String,
        /// Every member and why it does not do.
        members: Failures,
        /// How many of them may do a little later: they did not answer, or are in an election,
        /// recovering or rolling back.
        unready: usize,
    },
    /// The source is a mongos.
    #[error(
        "{member} is a mongos; back up each shard and the config servers by the connection strings of their replica sets"
    )]
    Mongos {
        /// The member asked.
        member: String,
    },
    /// The source is a stand-alone server, which has no oplog.
    #[error(
        "{member} is not a member of a replica set and so has no oplog to follow; start it with --replSet and run rs.initiate()"
    )]
    NotAReplicaSet {
        /// The member asked.
        member: String,
    },
    /// A member now belongs to another replica set than the one this source was opened on.
    #[error(
        "{member} belongs to replica set {found}, but this source is {expected}; check the connection string and the job's name"
    )]
    AnotherSet {
        /// The member asked.
        member: String,
        /// Name and id at first.
        expected: String,
        /// Name and id now.
        found: String,
    },
    /// The credentials were refused.
    #[error("{member} refuses the credentials; check user, password and authSource")]
    Authentication {
        /// The member asked.
        member: String,
        /// What the driver reported.
        #[source]
        source: Box<mongodb::error::Error>,
    },
    /// The user may not run a command that a backup needs.
    #[error(
        "{member} does not allow {command}; grant the user the role that `headstock check-access --print-role source` prints, or \"backup\" and \"clusterMonitor\" on the database admin"
    )]
    Privilege {
        /// The member asked.
        member: String,
        /// The command, with its namespace.
        command: String,
        /// What the driver reported.
        #[source]
        source: Box<mongodb::error::Error>,
    },
    /// The feature compatibility version is being changed.
    #[error(
        "the source's feature compatibility version is changing ({from} to {to}); wait until setFeatureCompatibilityVersion has finished"
    )]
    FcvInTransition {
        /// Version before.
        from: String,
        /// Version after.
        to: String,
    },
    /// The collection does not exist any more. Its drop is in the oplog.
    #[error("collection {0} was dropped")]
    Dropped(Uuid),
    /// A scan in natural order was interrupted: what was delivered must be thrown away and the scan
    /// started anew.
    #[error("the scan of {ns} in natural order was interrupted on {member} and must start anew")]
    Restart {
        /// Collection.
        uuid: Uuid,
        /// Its name when listed.
        ns: String,
        /// Where.
        member: String,
        /// What interrupted it, where there was an error.
        #[source]
        source: Option<Box<Error>>,
    },
    /// A member can no longer show a collection as it was at a moment.
    #[error("{member} can no longer read {ns} as of {at}")]
    SnapshotGone {
        /// The member.
        member: String,
        /// The collection.
        ns: String,
        /// The moment.
        at: Ts,
        /// Whether its history is no longer kept; else the collection's catalog entry has changed.
        too_old: bool,
        /// What the driver reported.
        #[source]
        source: Box<mongodb::error::Error>,
    },
    /// The collection has no index on `_id`, so it cannot be read in that order.
    #[error(
        "{ns} has no index on _id; create it ({{createIndexes, key {{_id: 1}}}}) and start again"
    )]
    NoIdIndex {
        /// The collection.
        ns: String,
    },
    /// The oplog no longer reaches back to where we stopped.
    #[error(
        "the oplog of {member} begins at {oldest}, after {from} where this backup stopped; a new initial sync is needed (and a larger oplog)"
    )]
    FellOff {
        /// The member with the oldest entry.
        member: String,
        /// Its oldest entry.
        oldest: OpTime,
        /// Where we stopped.
        from: OpTime,
    },
    /// The oplog does not hold the entry we stopped at: the source's history was changed.
    #[error(
        "the oplog of {member} holds {found} where this backup has {expected}: the source was restored or lost a majority. Nothing of it was mixed in and all restore points stay; to go on with its new history, run `headstock sync --new-timeline` once"
    )]
    Diverged {
        /// The member.
        member: String,
        /// The entry we have.
        expected: OpTime,
        /// What the source has in its place.
        found: OpTime,
    },
    /// No member has, majority-committed, the entry we stopped at, yet.
    #[error(
        "no member of the source has reached {from} yet (newest on {member}: {newest}); if it was restored from an older backup, run `headstock sync --new-timeline` once to go on with it"
    )]
    Behind {
        /// The member asked last.
        member: String,
        /// Its newest majority-committed entry.
        newest: Ts,
        /// Where we stopped.
        from: OpTime,
    },
    /// The oplog does not go forward.
    #[error(
        "the oplog of {member} gives {found} after {last}: its order is broken; run validate on local.oplog.rs of this member"
    )]
    OplogOrder {
        /// The member.
        member: String,
        /// Entry before.
        last: OpTime,
        /// Entry after.
        found: OpTime,
    },
    /// A document's `_id` is of a kind that no server stores.
    #[error(
        "{ns} on {member} holds a document whose _id has no place in the order of values; run validate on it"
    )]
    BadId {
        /// The member.
        member: String,
        /// The collection.
        ns: String,
        /// What is wrong with it.
        #[source]
        source: Box<crate::tree::Error>,
    },
    /// A cursor that goes up by `_id` went down.
    #[error(
        "{member} returned documents of {ns} out of the order of their _ids; run validate on it, or read another member"
    )]
    IdOrder {
        /// The member.
        member: String,
        /// The collection.
        ns: String,
    },
    /// An entry has a form this version does not know.
    #[error("the oplog of {member} holds, after {after}, an entry that cannot be read")]
    Entry {
        /// The member.
        member: String,
        /// The entry before.
        after: OpTime,
        /// What is wrong with it.
        #[source]
        source: Box<crate::oplog::Error>,
    },
    /// The server closed a cursor that has no end.
    #[error("{member} closed the cursor on {what} without an error")]
    Closed {
        /// The member.
        member: String,
        /// What was read.
        what: &'static str,
    },
    /// An answer of the server is not what the protocol says.
    #[error("{member} answers {command} without a usable {field:?}")]
    Reply {
        /// The member.
        member: String,
        /// The command.
        command: &'static str,
        /// The field that is missing or has another type.
        field: &'static str,
    },
    /// The member rolled entries back, so what was read from it just before does not count.
    #[error("{member} rolled back while {during}; try again when elections have ended")]
    RolledBack {
        /// The member.
        member: String,
        /// What was being read.
        during: &'static str,
    },
    /// A command took longer than it may.
    #[error(
        "{command} on {member} gave no answer within {seconds} s; check the member's load and the network"
    )]
    TimedOut {
        /// The member.
        member: String,
        /// The command.
        command: String,
        /// How long was waited.
        seconds: u64,
    },
    /// A command failed.
    #[error("{command} failed on {member}")]
    Driver {
        /// The member.
        member: String,
        /// The command, with its namespace.
        command: String,
        /// What the driver reported.
        #[source]
        source: Box<mongodb::error::Error>,
    },
    /// The task that reads ahead ended without a word (it panicked, or the runtime is going down).
    #[error("the reader of {what} ended without a result")]
    ReaderLost {
        /// What was read.
        what: String,
    },
}

/// Members and what each of them answered.
#[derive(Debug, Clone, Default)]
pub struct Failures(pub Vec<(String, String)>);

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (member, why)) in self.0.iter().enumerate() {
            let comma = if at > 0 { ", " } else { "" };
            write!(f, "{comma}{member} ({why})")?;
        }
        Ok(())
    }
}
