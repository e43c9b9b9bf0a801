//! Waiting for the writing sessions of before, and ending those that are dead.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bson::doc;
use bson::oid::ObjectId;

use super::Groom;
use crate::blockstore::Error;
use crate::blockstore::connect::SESSIONS;
use crate::blockstore::session::{LEASE, end};

/// Time between looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

impl Groom {
    /// Returns when no writing session is left that may rely on blocks with a lower stamp than the generation.
    pub(super) async fn wait(&self) -> Result<(), Error> {
        let mut beats: BTreeMap<ObjectId, (i64, Instant)> = BTreeMap::new();
        loop {
            self.check()?;
            let older = doc! { "kind": "write", "generation": { "$lt": self.generation } };
            let found = self.connection.find(SESSIONS, older, doc! { "_id": 1 }).await?;
            if found.is_empty() {
                return Ok(());
            }
            self.progress.waiting(found.len() as u64);
            for session in found {
                let malformed = |field| self.connection.malformed(SESSIONS, field);
                let id = session.get_object_id("_id").map_err(|_| malformed("_id"))?;
                let beat = session.get_i64("beat").map_err(|_| malformed("beat"))?;
                let lease = session.get_i64("lease_ms").map_err(|_| malformed("lease_ms"))?;
                let (seen, since) = *beats.entry(id).or_insert((beat, Instant::now()));
                if seen != beat {
                    beats.insert(id, (beat, Instant::now()));
                    continue;
                }
                let lease = Duration::from_millis(lease.unsigned_abs()).max(LEASE);
                if since.elapsed() >= lease {
                    tracing::warn!(session = %id, "a session that seems dead is ended");
                    end(&self.connection, id, Some(beat)).await?;
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
