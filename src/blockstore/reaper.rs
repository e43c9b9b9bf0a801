//! Ending what dead clients left: sessions whose beat stands still, with their pins, and daemons that are gone.
//!
//! Whoever looks long enough may do it (page 09, section 3.7): the beat that was seen is part of the removal, so that one that lives
//! after all loses nothing by a beat in between. Without it a pin of a restore that was killed would hold its snapshots for ever.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bson::doc;
use bson::oid::ObjectId;

use super::Error;
use super::backend::{DAEMONS, Of, Query, SESSIONS};
use super::connection::Connection;
use super::session::{LEASE, end};

/// Looks that must have seen the same beat.
const LOOKS_MIN: u32 = 3;

/// A session that lives, as far as is known.
#[derive(Debug, Clone, Copy)]
pub struct Living {
    /// Whether it writes.
    writes: bool,
    generation: i64,
}

impl Living {
    /// Whether it may rely on blocks with a lower stamp.
    pub fn is_before(&self, generation: i64) -> bool {
        self.writes && self.generation < generation
    }
}

/// Remembers beats from look to look.
#[derive(Default)]
pub struct Reaper {
    sessions: BTreeMap<ObjectId, Seen>,
    daemons: BTreeMap<ObjectId, Seen>,
}

/// A beat, since when it has been seen, and how often.
#[derive(Clone, Copy)]
struct Seen {
    beat: i64,
    /// What the document says of it.
    noted: i64,
    since: Instant,
    looks: u32,
}

impl Seen {
    /// Whether it has stood still for that long. In two looks it may have been the blockstore that did.
    fn is_dead(&self, lease: Duration) -> bool {
        self.looks >= LOOKS_MIN && self.since.elapsed() >= lease
    }
}

impl Reaper {
    /// Looks at all sessions and daemons, and ends those that have not moved for their lease as far as this has looked. Returns
    /// the sessions that are left.
    pub async fn look(&mut self, connection: &Connection) -> Result<Vec<Living>, Error> {
        let mut living = Vec::new();
        let mut seen = BTreeMap::new();
        for session in connection.find(SESSIONS, Query::default()).await? {
            let (id, now, lease) = beat_of(connection, SESSIONS, &session, &self.sessions).await?;
            if now.is_dead(lease) {
                tracing::warn!(session = %id, "a session that seems dead is ended");
                end(connection, id, Some(now.noted)).await?;
                continue;
            }
            seen.insert(id, now);
            let writes = session.get_str("kind").is_ok_and(|kind| kind == "write");
            living.push(Living { writes, generation: session.get_i64("generation").unwrap_or(0) });
        }
        self.sessions = seen;
        let mut seen = BTreeMap::new();
        for daemon in connection.find(DAEMONS, Query::default()).await? {
            let (id, now, lease) = beat_of(connection, DAEMONS, &daemon, &self.daemons).await?;
            if !now.is_dead(lease) {
                seen.insert(id, now);
                continue;
            }
            let unmoved = doc! { "_id": id, "beat": now.noted };
            connection.delete_one(DAEMONS, unmoved).await?;
        }
        self.daemons = seen;
        Ok(living)
    }
}

/// What a document says of its client, and since when it has said so.
async fn beat_of(
    connection: &Connection,
    of: Of,
    document: &bson::RawDocument,
    before: &BTreeMap<ObjectId, Seen>,
) -> Result<(ObjectId, Seen, Duration), Error> {
    let malformed = |field| connection.malformed(of, field);
    let id = document.get_object_id("_id").map_err(|_| malformed("_id"))?;
    let beat = connection.beat_of(of, document).await?;
    let lease = document.get_i64("lease_ms").map_err(|_| malformed("lease_ms"))?;
    let lease = Duration::from_millis(lease.unsigned_abs()).max(LEASE);
    let noted = document.get_i64("beat").map_err(|_| malformed("beat"))?;
    let first = Seen { beat, noted, since: Instant::now(), looks: 0 };
    let seen = before
        .get(&id)
        .filter(|seen| (seen.beat, seen.noted) == (beat, noted))
        .copied()
        .unwrap_or(first);
    Ok((id, Seen { looks: seen.looks + 1, ..seen }, lease))
}
