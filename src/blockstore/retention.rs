//! What of a job goes: slices that no restore needs, and snapshots that somebody asked to be removed (page 09, section 3.8).
//!
//! Which slices are needed depends on the snapshots, which only this daemon changes, and on their pins, which others make. So they are
//! read after the number of pins ever made, and the commit asks that this is still the number: a pin that comes in between makes it
//! match nothing.

use bson::{Timestamp, doc};

use super::backend::{Query, SLICES, SNAPSHOTS};
use super::job::{Bound, Change};
use super::session::{Purpose, Session};
use super::{Blockstore, Daemon, Error};
use crate::head::Manifest;
use crate::oplog::{OpTime, Ts};

/// Slices that one commit removes.
const TOGETHER_MAX: i64 = 1000;
/// How often slices are chosen anew because somebody pinned a snapshot meanwhile.
const ATTEMPTS_MAX: u32 = 8;

/// A snapshot, and what is said of it beside its manifest.
struct Held {
    manifest: Manifest,
    pinned: bool,
    unwanted: bool,
}

impl Bound {
    async fn held(&self) -> Result<Vec<Held>, Error> {
        let connection = self.connection();
        let filter = doc! { "_id.job": &self.id };
        let found = connection.find(SNAPSHOTS, Query::all(filter, "_id.id")).await?;
        let mut held = Vec::new();
        for document in found {
            let malformed = |field| connection.malformed(SNAPSHOTS, field);
            let pins = document.get_array("pins").map_err(|_| malformed("pins"))?;
            held.push(Held {
                manifest: connection.manifest(&document)?,
                pinned: !pins.is_empty(),
                unwanted: document.get_bool("unwanted").unwrap_or(false),
            });
        }
        held.sort_by_key(|one| one.manifest.head.position.optime);
        Ok(held)
    }

    /// Removes slices that no restore to a moment after `begin_ms` needs. Returns how many went; there may be more.
    pub async fn expire_slices(&self, session: &mut Session, begin_ms: i64) -> Result<u64, Error> {
        for _ in 0..ATTEMPTS_MAX {
            let pins = self.look().await?;
            let Some(floor) = floor(&self.held().await?, begin_ms) else { return Ok(0) };
            let slices = self.slices_up_to(floor).await?;
            if slices.is_empty() {
                return Ok(0);
            }
            let change = Change::Expire { slices: &slices, pins };
            match self.commit(session, None, &change).await {
                // Or pinned meanwhile: another look tells.
                Err(Error::Overtaken { .. }) => {}
                done => return done.map(|()| slices.len() as u64),
            }
        }
        Ok(0)
    }

    async fn slices_up_to(&self, floor: OpTime) -> Result<Vec<Ts>, Error> {
        let filter = doc! { "_id.job": &self.id, "last.ts": { "$lte": Timestamp::from(floor.ts) } };
        let connection = self.connection();
        let query = Query { limit: TOGETHER_MAX, ..Query::all(filter, "_id.ts") };
        let found = connection.find(SLICES, query).await?;
        let first = |document: &bson::RawDocumentBuf| {
            let id = document.get_document("_id").ok();
            let ts = id.and_then(|id| id.get_timestamp("ts").ok());
            ts.map(Ts::from).ok_or_else(|| connection.malformed(SLICES, "_id"))
        };
        found.iter().map(first).collect()
    }

    /// Whether somebody asked for a snapshot to be removed.
    pub async fn has_unwanted(&self) -> Result<bool, Error> {
        let unwanted = doc! { "_id.job": &self.id, "unwanted": true };
        Ok(self.connection().find_one(SNAPSHOTS, unwanted).await?.is_some())
    }

    /// Removes the snapshots that somebody asked to be removed, where nothing speaks against it. Returns their names.
    pub async fn delete_unwanted(&self, session: &mut Session) -> Result<Vec<String>, Error> {
        let held = self.held().await?;
        let newest = held.last().map(|one| one.manifest.id.clone());
        let mut deleted = Vec::new();
        for Held { manifest, .. } in held.into_iter().filter(|one| one.unwanted && !one.pinned) {
            if Some(&manifest.id) == newest.as_ref() {
                continue;
            }
            match self.commit(session, None, &Change::Delete { id: &manifest.id }).await {
                Ok(()) => deleted.push(manifest.id),
                // It is protected, or was pinned meanwhile.
                Err(Error::SnapshotGone) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(deleted)
    }
}

/// Where the slices that are still needed begin: those that end at or before it may go. None while all are needed.
fn floor(held: &[Held], begin_ms: i64) -> Option<OpTime> {
    let positions = || held.iter().map(|one| one.manifest.head.position);
    let base = positions().rfind(|at| at.wall_ms <= begin_ms).or_else(|| positions().next())?;
    let pinned = held.iter().filter(|one| one.pinned).map(|one| one.manifest.head.position.optime);
    pinned.chain([base.optime]).min()
}

/// What became of a request to delete a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deletion {
    /// It is gone.
    Done,
    /// The job's daemon, on that host, will do it.
    Asked {
        /// Where that daemon runs.
        host: String,
    },
    /// Something speaks against it now: it goes when that is over.
    Waits,
}

impl Blockstore {
    /// Asks for a snapshot to be removed. The job's daemon does it; if it has none, it is done here.
    ///
    /// # Errors
    /// [`Error::NoSuchSnapshot`], [`Error::Kept`], [`Error::Newest`], and those of the blockstore.
    pub async fn delete_snapshot(&self, job: Option<&str>, id: &str) -> Result<Deletion, Error> {
        let job = self.job(job).await?;
        let snapshots = self.snapshots(&job.name).await?;
        let name = || id.to_owned();
        let found = snapshots.iter().find(|one| one.id == id);
        let found =
            found.ok_or_else(|| Error::NoSuchSnapshot { job: job.name.clone(), id: name() })?;
        if found.keep {
            return Err(Error::Kept { id: name() });
        }
        if snapshots.last().is_some_and(|newest| newest.id == id) {
            return Err(Error::Newest { id: name() });
        }
        let connection = self.connection();
        let filter = doc! { "_id": { "job": self.job_id(&job.name), "id": id } };
        let unwanted = doc! { "$set": { "unwanted": true } };
        if !connection.update_one(SNAPSHOTS, filter, unwanted).await? {
            return Ok(Deletion::Done);
        }
        if let Some(host) = job.host {
            return Ok(Deletion::Asked { host });
        }
        let daemon = Daemon::new(rand::random());
        daemon.start(connection).await?;
        let deleted = self.delete_as(&daemon, &job.name).await;
        daemon.leave(connection, &job.name).await?;
        let done = deleted?.iter().any(|deleted| deleted == id);
        Ok(if done { Deletion::Done } else { Deletion::Waits })
    }

    async fn delete_as(&self, daemon: &Daemon, job: &str) -> Result<Vec<String>, Error> {
        let bound = Bound::take(self.connection(), daemon, job).await?;
        let mut session =
            Session::start(self.connection(), Purpose::Write, Some(daemon.id)).await?;
        bound.delete_unwanted(&mut session).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::{HeadRoot, RULE_VERSION, Scope};
    use crate::oplog::Position;

    fn held(secs: u32, pinned: bool) -> Held {
        let ts = Ts { secs, inc: 0 };
        let position = Position { optime: OpTime { ts, term: 1 }, wall_ms: i64::from(secs) * 1000 };
        let head = HeadRoot {
            position,
            consistent_from: Some(position.optime),
            catalog: crate::tree::Root::default(),
            pending: None,
            content_root: [0; 32],
            documents: 0,
            logical_bytes: 0,
        };
        let manifest = Manifest {
            id: secs.to_string(),
            head,
            taken_ms: 0,
            set_name: String::new(),
            replica_set_id: [0; 12],
            fcv: String::new(),
            server_version: String::new(),
            rule_version: RULE_VERSION,
            added_bytes: 0,
            keep: false,
            scope: Scope::all(),
        };
        Held { manifest, pinned, unwanted: false }
    }

    #[test]
    fn slices_stay_after_the_base_of_the_window_and_after_what_is_pinned() {
        let secs = |held: &[Held], begin| floor(held, begin).map(|floor| floor.ts.secs);
        assert_eq!(secs(&[], 5000), None);
        let plain = [held(10, false), held(20, false), held(30, false)];
        assert_eq!(secs(&plain, 25_000), Some(20));
        assert_eq!(secs(&plain, 30_000), Some(30));
        assert_eq!(secs(&plain, 5000), Some(10), "the oldest, where none is as old");
        assert_eq!(secs(&plain, i64::MAX), Some(30), "never those after the newest");
        let pinned = [held(10, true), held(20, false), held(30, false)];
        assert_eq!(secs(&pinned, 30_000), Some(10));
    }
}
