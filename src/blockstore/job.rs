//! A job in a blockstore: whose it is, and the one way to change it (page 09, sections 3.4, 3.5, 3.8 and 3.9).
//!
//! A job belongs to one daemon at a time. Each decision about that raises its epoch, and each commit writes the document that says
//! so: of a commit and a take-over one aborts, and a daemon that lost its job commits nothing more, however late its commands arrive.
//! Clocks decide only when a take-over is tried.

use std::time::Duration;

use bson::oid::ObjectId;
use bson::spec::BinarySubtype;
use bson::{Binary, Document, RawBson, RawDocument, RawDocumentBuf, Timestamp, doc, rawdoc};
use tokio::sync::Mutex;

use super::Error;
use super::backend::{DAEMONS, Ended, JOBS, Miss, SLICES, SNAPSHOTS, Step};
use super::connection::Connection;
use super::session::{self, LEASE, Session, lease_ms};
use crate::head::Manifest;
use crate::head::fields::{self, Fields};
use crate::oplog::slice::Slice;
use crate::oplog::{OpTime, Ts};

/// How often a commit that was not made is tried.
const ATTEMPTS_MAX: u32 = 8;
/// How often a take-over that others are quicker at is tried.
const BINDINGS_MAX: u32 = 4;
/// Looks at another daemon's beat in a lease.
const LOOKS: u32 = 10;

/// A daemon as others see it.
#[derive(Debug, Clone)]
pub struct Daemon {
    pub id: ObjectId,
    /// The store that it holds the lock of: no two live ones have the same.
    store: [u8; 16],
}

impl Daemon {
    /// A daemon that nobody knows yet.
    pub fn new(store: [u8; 16]) -> Self {
        Self { id: ObjectId::new(), store }
    }

    /// Makes it known, or finds that it is, and ends the sessions that it has from an attempt before.
    pub async fn start(&self, connection: &Connection) -> Result<(), Error> {
        let document = rawdoc! {
            "_id": self.id,
            "beat": 0_i64,
            "lease_ms": lease_ms(),
            "host": host(),
            "version": env!("CARGO_PKG_VERSION"),
            "store": self.store(),
        };
        connection.insert_one(DAEMONS, &document).await?;
        session::end_all_of(connection, self.id).await
    }

    /// Ends the daemons before it that could not leave in order: the lock of their store is ours. Once the job is taken: else it
    /// would be nobody's meanwhile.
    pub async fn end_earlier(&self, connection: &Connection) -> Result<(), Error> {
        let earlier = doc! { "store": self.store(), "_id": { "$ne": self.id } };
        while let Some(found) = connection.find_one(DAEMONS, earlier.clone()).await? {
            let id =
                found.get_object_id("_id").map_err(|_| connection.malformed(DAEMONS, "_id"))?;
            Self { id, store: self.store }.end(connection).await?;
        }
        Ok(())
    }

    fn store(&self) -> Binary {
        Binary { subtype: BinarySubtype::Uuid, bytes: self.store.to_vec() }
    }

    /// Shows that it is alive.
    pub async fn beat(&self, connection: &Connection) -> Result<(), Error> {
        connection.beat(DAEMONS, self.id).await.map(drop)
    }

    /// Gives its job away and ends its sessions, so that nobody has to wait for its death; then it is not known any more.
    pub async fn leave(&self, connection: &Connection, job: &str) -> Result<(), Error> {
        let filter = doc! { "_id": connection.vault().hidden(job), "daemon": self.id };
        let away = doc! { "$unset": { "daemon": "" } };
        connection.update_one(JOBS, filter, away).await?;
        self.end(connection).await
    }

    async fn end(&self, connection: &Connection) -> Result<(), Error> {
        session::end_all_of(connection, self.id).await?;
        connection.delete_one(DAEMONS, doc! { "_id": self.id }).await.map(drop)
    }
}

fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// A job that belongs to this daemon.
pub struct Bound {
    connection: Connection,
    pub id: String,
    daemon: ObjectId,
    epoch: i64,
    /// Held from a commit's first command to the knowledge of its outcome: commits follow one another.
    at: Mutex<At>,
}

/// Where a job stands, as of the last commit.
#[derive(Debug, Clone, Copy)]
struct At {
    commits: i64,
    received: Option<OpTime>,
}

/// Something to be committed.
pub enum Change<'a> {
    /// Slices that follow on each other, after all that are there. `anew`: they do not follow on these.
    Slices { slices: &'a [Slice], anew: bool },
    /// A snapshot.
    Snapshot(&'a Manifest),
    /// Whether a snapshot is protected.
    Keep { id: &'a str, keep: bool },
    /// Slices that nothing needs any more, by a look at the job's snapshots when it had had so many pins.
    Expire { slices: &'a [Ts], pins: i64 },
    /// A snapshot that is not wanted any more; not the newest.
    Delete { id: &'a str },
}

impl Bound {
    /// Takes a job: a new one, one that is nobody's, or one whose daemon is dead. One that it had before is taken anew, so that no
    /// commit from before is still to come.
    pub async fn take(connection: &Connection, daemon: &Daemon, job: &str) -> Result<Self, Error> {
        let id = &connection.vault().hidden(job);
        let mut taken = None;
        for _ in 0..BINDINGS_MAX {
            let found = connection.find_one(JOBS, doc! { "_id": id }).await?;
            let Some(found) = found else {
                let made = rawdoc! {
                    "_id": id.as_str(),
                    "daemon": daemon.id,
                    "epoch": 1_i64,
                    "commits": 0_i64,
                    "pins": 0_i64,
                };
                connection.insert_one(JOBS, &made).await?;
                taken = Some(1);
                continue;
            };
            let (owner, epoch) = (found.get_object_id("daemon").ok(), epoch(connection, &found)?);
            if owner == Some(daemon.id) && taken == Some(epoch) {
                return Self::of(connection, daemon, &found);
            }
            if let Some(owner) = owner.filter(|owner| *owner != daemon.id) {
                wait_for_death(connection, daemon, job, owner).await?;
            }
            let take = doc! {
                "$set": { "daemon": daemon.id },
                "$inc": { "epoch": 1_i64 },
                "$unset": { "removed": "" },
            };
            connection.update_one(JOBS, doc! { "_id": id, "epoch": epoch }, take).await?;
            taken = Some(epoch + 1);
        }
        Err(Error::Overtaken { job: job.to_owned() })
    }

    fn of(connection: &Connection, daemon: &Daemon, found: &RawDocument) -> Result<Self, Error> {
        let malformed = |field| connection.malformed(JOBS, field);
        let at = At {
            commits: found.get_i64("commits").map_err(|_| malformed("commits"))?,
            received: Fields { what: "job", document: found }.optional_optime("received")?,
        };
        let id = found.get_str("_id").map_err(|_| malformed("_id"))?.to_owned();
        let epoch = epoch(connection, found)?;
        let connection = connection.clone();
        Ok(Self { connection, id, daemon: daemon.id, epoch, at: Mutex::new(at) })
    }

    /// Pins a snapshot of this job for a session, so that what it reaches need not be asserted. False if it is gone.
    pub async fn pin(&self, session: &Session, snapshot: &str) -> Result<bool, Error> {
        let steps = [
            session.step(),
            Step::Update {
                of: JOBS,
                filter: doc! { "_id": &self.id },
                change: doc! { "$inc": { "pins": 1_i64 } },
                miss: Miss::Job,
            },
            Step::Update {
                of: SNAPSHOTS,
                filter: doc! { "_id": { "job": &self.id, "id": snapshot } },
                change: doc! { "$addToSet": { "pins": session.id } },
                miss: Miss::Snapshot,
            },
        ];
        match self.connection.transact(&steps).await? {
            Ended::Made => Ok(true),
            Ended::Missed(Miss::Snapshot) => Ok(false),
            Ended::Missed(_) => Err(Error::SessionLost),
            Ended::Unknown(error) => Err(error),
        }
    }

    /// Whether it still belongs to this daemon, and how many pins were made on its snapshots.
    pub(super) async fn look(&self) -> Result<i64, Error> {
        let ours = doc! { "_id": &self.id, "daemon": self.daemon, "epoch": self.epoch };
        let found = self.connection.find_one(JOBS, ours).await?;
        let found = found.ok_or_else(|| Error::Overtaken { job: self.id.clone() })?;
        found.get_i64("pins").map_err(|_| self.connection.malformed(JOBS, "pins"))
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The last entry that the blockstore has in a slice.
    pub async fn received(&self) -> Option<OpTime> {
        self.at.lock().await.received
    }

    /// Commits a change together with the job's state.
    pub async fn commit(
        &self,
        session: &mut Session,
        state: Option<&RawDocument>,
        change: &Change<'_>,
    ) -> Result<(), Error> {
        let mut at = self.at.lock().await;
        for _ in 0..ATTEMPTS_MAX {
            session.check()?;
            let received = change.received();
            let steps = self.steps(session, *at, state, change)?;
            let is_made = match self.connection.transact(&steps).await? {
                Ended::Made => true,
                Ended::Missed(Miss::Session) => return Err(Error::SessionLost),
                Ended::Missed(Miss::Job) => {
                    return Err(Error::Overtaken { job: self.id.clone() });
                }
                Ended::Missed(Miss::Snapshot | Miss::Block) => return Err(Error::SnapshotGone),
                Ended::Unknown(error) => {
                    tracing::info!(%error, "whether a commit was made is to be found out");
                    session.decide().await?
                }
            };
            if is_made {
                session.commits += 1;
                at.commits += 1;
                at.received = received.or(at.received);
                return Ok(());
            }
        }
        Err(Error::NotMade)
    }

    fn steps(
        &self,
        session: &Session,
        at: At,
        state: Option<&RawDocument>,
        change: &Change<'_>,
    ) -> Result<Vec<Step>, Error> {
        let mut filter = doc! {
            "_id": &self.id,
            "daemon": self.daemon,
            "epoch": self.epoch,
            "commits": at.commits,
        };
        let mut set = Document::new();
        if let Some(state) = state {
            let id = RawBson::String(self.id.clone());
            let sealed = self.connection.seal(JOBS, id, state.to_owned());
            let sealed = bson::Bson::try_from(sealed);
            set.insert("state", sealed.map_err(|_| self.connection.malformed(JOBS, "state"))?);
        }
        if let Change::Slices { slices: [first, ..], anew: false } = change {
            filter.insert("received.ts", Timestamp::from(first.header.prev.ts));
            filter.insert("received.t", first.header.prev.term);
        }
        if let Some(received) = change.received() {
            set.insert("received", optime(received));
        }
        if let Change::Expire { pins, .. } = change {
            filter.insert("pins", *pins);
        }
        let mut write = doc! { "$inc": { "commits": 1_i64 } };
        if !set.is_empty() {
            write.insert("$set", set);
        }
        let job = Step::Update { of: JOBS, filter, change: write, miss: Miss::Job };
        let mut steps = vec![session.commit_step(), job];
        self.add_steps(change, &mut steps);
        Ok(steps)
    }

    fn add_steps(&self, change: &Change<'_>, steps: &mut Vec<Step>) {
        match change {
            Change::Slices { slices, .. } => {
                let documents = slices.iter().map(|slice| self.slice(slice)).collect();
                steps.push(Step::Insert { of: SLICES, documents });
            }
            Change::Snapshot(manifest) => {
                let id = rawdoc! { "job": self.id.as_str(), "id": manifest.id.as_str() };
                let sealed = self.connection.seal(SNAPSHOTS, id.clone().into(), manifest.to_bson());
                let documents = vec![rawdoc! {
                    "_id": id,
                    "pins": [],
                    "keep": manifest.keep,
                    "manifest": sealed,
                }];
                steps.push(Step::Insert { of: SNAPSHOTS, documents });
            }
            Change::Keep { id, keep } => steps.push(Step::Update {
                of: SNAPSHOTS,
                filter: doc! { "_id": { "job": &self.id, "id": id } },
                change: doc! { "$set": { "keep": keep } },
                miss: Miss::Snapshot,
            }),
            Change::Delete { id } => steps.push(Step::Delete {
                of: SNAPSHOTS,
                filter: doc! { "_id": { "job": &self.id, "id": id }, "pins": [], "keep": false },
                miss: Miss::Snapshot,
            }),
            Change::Expire { slices, .. } => {
                let slices: Vec<Timestamp> = slices.iter().copied().map(Timestamp::from).collect();
                let filter = doc! { "_id.job": &self.id, "_id.ts": { "$in": slices } };
                steps.push(Step::DeleteAll { of: SLICES, filter });
            }
        }
    }

    fn slice(&self, Slice { header, pieces }: &Slice) -> RawDocumentBuf {
        let first = Timestamp::from(header.first.optime.ts);
        let id = rawdoc! { "job": self.id.as_str(), "ts": first };
        let sealed = self.connection.seal(SLICES, id.clone().into(), header.to_document(pieces));
        rawdoc! {
            "_id": id,
            "prev": fields::optime(header.prev),
            "last": fields::optime(header.last.optime),
            "slice": sealed,
        }
    }
}

impl Change<'_> {
    /// The last entry received, once it is made.
    fn received(&self) -> Option<OpTime> {
        match self {
            Self::Slices { slices, .. } => slices.last().map(|slice| slice.header.last.optime),
            _ => None,
        }
    }
}

fn epoch(connection: &Connection, found: &RawDocument) -> Result<i64, Error> {
    found.get_i64("epoch").map_err(|_| connection.malformed(JOBS, "epoch"))
}

/// Returns when another daemon is dead: its document is gone, its store is ours, or it has not moved for its lease.
async fn wait_for_death(
    connection: &Connection,
    daemon: &Daemon,
    job: &str,
    owner: ObjectId,
) -> Result<(), Error> {
    let mut seen = None;
    let mut looks = 0;
    loop {
        let found = connection.find_one(DAEMONS, doc! { "_id": owner }).await?;
        let Some(found) = found else { return Ok(()) };
        let store = found.get_binary("store").map(|binary| binary.bytes.to_vec());
        if store.is_ok_and(|store| store == daemon.store) {
            return Ok(());
        }
        let malformed = |field| connection.malformed(DAEMONS, field);
        let beat = connection.beat_of(DAEMONS, &found).await?;
        let lease = found.get_i64("lease_ms").map_err(|_| malformed("lease_ms"))?;
        if seen.is_some_and(|seen| seen != beat) {
            let host = found.get_str("host").unwrap_or("another host").to_owned();
            let (blockstore, job) = (connection.name(), job.to_owned());
            return Err(Error::Bound { blockstore, job, host });
        }
        if looks == LOOKS {
            return Ok(());
        }
        if seen.is_none() {
            tracing::info!(job, "the job belongs to a daemon that may be dead: that is waited for");
        }
        seen = Some(beat);
        looks += 1;
        let lease = Duration::from_millis(lease.unsigned_abs()).max(LEASE);
        tokio::time::sleep(lease / LOOKS).await;
    }
}

fn optime(optime: OpTime) -> Document {
    doc! { "ts": Timestamp::from(optime.ts), "t": optime.term }
}
