//! Sessions: how a client is known to the others as long as it lives (page 09, sections 3.1, 3.2, 3.6 and 3.7).
//!
//! A session that writes has a generation: no groom removes a block that it asserted with that or a later one. It is kept alive by a
//! task of its own; what others see of that is a counter that rises, never a clock. If it was ended by somebody else (a groomer that
//! took it for dead) the client finds out by its next commit, which matches nothing, at the latest.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use bson::oid::ObjectId;
use bson::{doc, rawdoc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};

use super::Error;
use super::backend::{Ended, GENERATION, Miss, SESSIONS, SNAPSHOTS, Step};
use super::connection::Connection;

/// How long a client may be silent before others take it for dead.
pub const LEASE: Duration = Duration::from_secs(30);
/// How often a start is tried while others raise the generation.
const STARTS_MAX: u32 = 16;
/// Time between renewals, and the longest that one is waited for.
pub const RENEW_EVERY: Duration = Duration::from_secs(10);

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// It writes blocks and commits.
    Write,
    /// It reads.
    Read,
    /// It removes blocks.
    Groom,
}

impl Purpose {
    const fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::Groom => "groom",
        }
    }
}

/// A session that this client holds.
pub struct Session {
    connection: Connection,
    pub id: ObjectId,
    /// No block that it relies on has a lower stamp.
    pub generation: i64,
    /// Commits made.
    pub commits: i64,
    watched: Arc<Watched>,
    renewing: JoinHandle<()>,
}

/// What the renewing task found.
#[derive(Default)]
struct Watched {
    lost: AtomicBool,
    generation: AtomicI64,
}

impl Session {
    /// Starts a session.
    pub async fn start(
        connection: &Connection,
        purpose: Purpose,
        daemon: Option<ObjectId>,
    ) -> Result<Self, Error> {
        let id = ObjectId::new();
        let generation = match purpose {
            Purpose::Write => start_writing(connection, id, daemon).await?,
            Purpose::Read | Purpose::Groom => {
                connection.insert_one(SESSIONS, &document(id, purpose, daemon, None)).await?;
                0
            }
        };
        let watched = Arc::new(Watched::default());
        watched.generation.store(generation, Ordering::Relaxed);
        let writes = purpose == Purpose::Write;
        let renewing = tokio::spawn(renew(connection.clone(), id, writes, Arc::clone(&watched)));
        let connection = connection.clone();
        Ok(Self { connection, id, generation, commits: 0, watched, renewing })
    }

    /// Whether it was ended by somebody else.
    pub fn check(&self) -> Result<(), Error> {
        match self.watched.lost.load(Ordering::Relaxed) {
            true => Err(Error::SessionLost),
            false => Ok(()),
        }
    }

    /// Says whether it is alive after having asked.
    pub async fn check_now(&self) -> Result<(), Error> {
        let is_there = self.connection.beat(SESSIONS, self.id).await?;
        if is_there { Ok(()) } else { Err(Error::SessionLost) }
    }

    /// Goes into the generation of now, if that is a later one. Only between two units of work: what was asserted
    /// before counts no more.
    pub async fn move_on(&mut self) -> Result<(), Error> {
        self.check()?;
        let newest = self.watched.generation.load(Ordering::Relaxed);
        if newest <= self.generation {
            return Ok(());
        }
        let change = doc! { "$max": { "generation": newest } };
        if !self.connection.update_one(SESSIONS, doc! { "_id": self.id }, change).await? {
            return Err(Error::SessionLost);
        }
        self.generation = newest;
        Ok(())
    }

    /// The first step of everything that rests on this session.
    pub fn step(&self) -> Step {
        Step::Update {
            of: SESSIONS,
            filter: doc! { "_id": self.id },
            change: doc! { "$inc": { "beat": 1_i64 } },
            miss: Miss::Session,
        }
    }

    /// The same of a commit.
    pub fn commit_step(&self) -> Step {
        Step::Update {
            of: SESSIONS,
            filter: doc! { "_id": self.id, "commits": self.commits },
            change: doc! { "$inc": { "commits": 1_i64, "beat": 1_i64 } },
            miss: Miss::Session,
        }
    }

    /// Decides a commit whose outcome is unknown, by a write: whether it was made.
    pub async fn decide(&self) -> Result<bool, Error> {
        let filter = doc! { "_id": self.id, "commits": self.commits };
        let change = doc! { "$inc": { "beat": 1_i64 } };
        if self.connection.update_one(SESSIONS, filter, change).await? {
            return Ok(false);
        }
        let found = self.connection.find_one(SESSIONS, doc! { "_id": self.id }).await?;
        let Some(found) = found else { return Err(Error::SessionLost) };
        let commits = found.get_i64("commits");
        Ok(commits.map_err(|_| self.connection.malformed(SESSIONS, "commits"))? > self.commits)
    }

    /// Ends it, and lets go what it has pinned.
    pub async fn end(self) -> Result<(), Error> {
        self.renewing.abort();
        match end(&self.connection, self.id, None).await? {
            Ended::Unknown(error) => Err(error),
            // If it is gone, somebody else has ended it.
            Ended::Made | Ended::Missed(_) => Ok(()),
        }
    }
}

impl Drop for Session {
    /// One that was not ended is ended by who looks at it after its lease.
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

fn document(
    id: ObjectId,
    purpose: Purpose,
    daemon: Option<ObjectId>,
    generation: Option<i64>,
) -> bson::RawDocumentBuf {
    let mut document = rawdoc! {
        "_id": id,
        "kind": purpose.name(),
        "commits": 0_i64,
        "beat": 0_i64,
        "lease_ms": lease_ms(),
    };
    if let Some(daemon) = daemon {
        document.append(bson::raw::cstr!("daemon"), daemon);
    }
    if let Some(generation) = generation {
        document.append(bson::raw::cstr!("generation"), generation);
    }
    document
}

/// The lease in milliseconds.
pub(super) fn lease_ms() -> i64 {
    i64::try_from(LEASE.as_millis()).unwrap_or(i64::MAX)
}

/// Starts a session that writes: it counts in the generation document, so that a raise either finds it or is seen by it. The generation is
/// read first and asked for in the transaction: if it was raised meanwhile, another session is started.
async fn start_writing(
    connection: &Connection,
    id: ObjectId,
    daemon: Option<ObjectId>,
) -> Result<i64, Error> {
    for _ in 0..STARTS_MAX {
        let generation = generation(connection).await?;
        let steps = [
            Step::Update {
                of: GENERATION,
                filter: doc! { "_id": 0, "value": generation },
                change: doc! { "$inc": { "starts": 1_i64 } },
                miss: Miss::Session,
            },
            Step::Insert {
                of: SESSIONS,
                documents: vec![document(id, Purpose::Write, daemon, Some(generation))],
            },
        ];
        match connection.transact(&steps).await? {
            Ended::Made => return Ok(generation),
            Ended::Missed(_) => {}
            Ended::Unknown(error) => return Err(error),
        }
    }
    Err(Error::Contended)
}

/// The generation of now.
pub(super) async fn generation(connection: &Connection) -> Result<i64, Error> {
    let found = connection.find_one(GENERATION, doc! { "_id": 0 }).await?;
    let value = found.as_ref().and_then(|found| found.get_i64("value").ok());
    value.ok_or_else(|| connection.malformed(GENERATION, "value"))
}

/// Ends a session: one's own, or with the beat that it has had for too long, another's.
pub(super) async fn end(
    connection: &Connection,
    id: ObjectId,
    beat: Option<i64>,
) -> Result<Ended, Error> {
    let mut filter = doc! { "_id": id };
    if let Some(beat) = beat {
        filter.insert("beat", beat);
    }
    let steps = [
        Step::Delete { of: SESSIONS, filter, miss: Miss::Session },
        Step::UpdateAll {
            of: SNAPSHOTS,
            filter: doc! { "pins": id },
            change: doc! { "$pull": { "pins": id } },
        },
    ];
    connection.transact(&steps).await
}

/// Ends every session of a daemon.
pub(super) async fn end_all_of(connection: &Connection, daemon: ObjectId) -> Result<(), Error> {
    while let Some(found) = connection.find_one(SESSIONS, doc! { "daemon": daemon }).await? {
        let id = found.get_object_id("_id").map_err(|_| connection.malformed(SESSIONS, "_id"))?;
        if let Ended::Unknown(error) = end(connection, id, None).await? {
            return Err(error);
        }
    }
    Ok(())
}

/// Ticks when something is to be renewed: the first time a while from now, at once after a renewal that took too long.
pub fn renewals() -> Interval {
    let mut clock = interval_at(Instant::now() + RENEW_EVERY, RENEW_EVERY);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    clock
}

/// Renews a session until it is gone. A failure is no end of it: the next renewal may be in time. Only one that writes has a
/// generation to look after, and only its user need be allowed to read that.
async fn renew(connection: Connection, id: ObjectId, writes: bool, watched: Arc<Watched>) {
    let mut clock = renewals();
    loop {
        clock.tick().await;
        // One that is stuck at a member that has fallen silent must not keep the next from another.
        match timeout(RENEW_EVERY, renew_once(&connection, id, writes, &watched)).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => {
                watched.lost.store(true, Ordering::Relaxed);
                return;
            }
            Ok(Err(error)) => tracing::debug!(%error, "a session was not renewed"),
            Err(_) => tracing::debug!("a session was not renewed in time"),
        }
    }
}

/// Whether it is there.
async fn renew_once(
    connection: &Connection,
    id: ObjectId,
    writes: bool,
    watched: &Watched,
) -> Result<bool, Error> {
    if !connection.beat(SESSIONS, id).await? {
        return Ok(false);
    }
    if writes {
        watched.generation.fetch_max(generation(connection).await?, Ordering::Relaxed);
    }
    Ok(true)
}
