//! How fast scans may read.
//!
//! Two things hold a scan back, both between two batches and neither the tail: a limit of bytes per
//! second that the operator gave, for all scans of a source together, and a member that falls behind.
//! Reading a whole database is the heaviest thing a backup does to a member. One that cannot keep up
//! with the primary is left alone until it has caught up, unless another one can be read.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::member::{Hello, Member};
use super::topology::Topology;

/// What a limit lets through at once after a pause, as time at the limit's rate: smooths the rate
/// over the time of a few batches.
const BURST: Duration = Duration::from_millis(250);

/// A member this far behind the primary is not scanned. More than the 10 s between two entries of an
/// idle set, less than the lag at which another member is preferred whatever its kind.
const LAG_PAUSE_SECS: u32 = 15;

/// A member that is paused for is scanned again when it is no further behind than this.
const LAG_RESUME_SECS: u32 = 5;

/// Time between two looks at how far behind a member is.
const LAG_LOOK_EVERY: Duration = Duration::from_secs(3);

/// Time between two attempts to find a primary where none is known.
const PRIMARY_LOOK_EVERY: Duration = Duration::from_secs(30);

/// A member that seems to lag is asked again after this time: the first entry after a quiet time makes
/// every member lag for a moment by the whole of it.
const LAG_CONFIRM: Duration = Duration::from_millis(500);

/// Holds back the scans of one source.
#[derive(Default)]
pub(super) struct Pace {
    bucket: std::sync::Mutex<Option<Bucket>>,
    /// Held while a member is asked, so that of several readers one asks for all.
    looks: Mutex<Looks>,
}

/// What is known of members.
#[derive(Default)]
struct Looks {
    members: HashMap<String, Look>,
    /// When a primary was looked for last.
    primary: Option<Instant>,
}

/// How a member was found.
#[derive(Clone, Copy)]
struct Look {
    at: Instant,
    lags: bool,
}

/// What a reader is to do after it was held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Go on.
    Read,
    /// Go on at the member that was chosen meanwhile.
    Move,
}

impl Pace {
    /// Limits the bytes read per second.
    pub fn limit(&self, bytes_per_second: u64) {
        *self.bucket() = Some(Bucket::new(bytes_per_second, Instant::now()));
    }

    /// The bytes that a batch should not exceed, so that a limit is kept smoothly.
    pub fn batch_bytes(&self) -> Option<u64> {
        self.bucket().as_ref().map(|bucket| bucket.burst().max(1))
    }

    /// Counts what was read.
    pub fn read(&self, bytes: usize) {
        if let Some(bucket) = &mut *self.bucket() {
            bucket.take(bytes as u64, Instant::now());
        }
    }

    /// Waits until the next batch may be read from `member`. With `movable`, another member is looked
    /// for while this one lags.
    pub async fn wait(&self, topology: &Topology, member: &Member, movable: bool) -> Next {
        while let Some(wait) = self.owed() {
            tokio::time::sleep(wait).await;
        }
        let mut paused = false;
        while self.lags(topology, member).await {
            if movable && other(topology, member).await {
                return Next::Move;
            }
            paused = true;
            tokio::time::sleep(LAG_LOOK_EVERY).await;
        }
        if paused && movable && moved(topology, member).await { Next::Move } else { Next::Read }
    }

    /// How long to wait until nothing is owed to the limit.
    fn owed(&self) -> Option<Duration> {
        self.bucket().as_mut().and_then(|bucket| bucket.owed(Instant::now()))
    }

    /// Whether a member lags, looked at now and then.
    async fn lags(&self, topology: &Topology, member: &Member) -> bool {
        let mut looks = self.looks.lock().await;
        let last = looks.members.get(&member.address).copied();
        if let Some(last) = last.filter(|last| last.at.elapsed() < LAG_LOOK_EVERY) {
            return last.lags;
        }
        let lagged = last.is_some_and(|last| last.lags);
        let bound = if lagged { LAG_RESUME_SECS } else { LAG_PAUSE_SECS };
        let mut lag = looks.lag_secs(topology, member).await;
        if lag > bound && !lagged {
            tokio::time::sleep(LAG_CONFIRM).await;
            lag = looks.lag_secs(topology, member).await;
        }
        let lags = lag > bound;
        match (lagged, lags) {
            (false, true) => tracing::warn!(
                member = member.address,
                behind_secs = lag,
                "scans pause: the member they read is behind the primary"
            ),
            (true, false) => tracing::warn!(
                member = member.address,
                "scans go on: the member has caught up with the primary"
            ),
            _ => {}
        }
        looks.members.insert(member.address.clone(), Look { at: Instant::now(), lags });
        lags
    }

    fn bucket(&self) -> std::sync::MutexGuard<'_, Option<Bucket>> {
        self.bucket.lock().expect("no code panics with the bucket locked")
    }
}

/// Whether another member than this is read by now.
async fn moved(topology: &Topology, from: &Member) -> bool {
    topology.member(&[]).await.is_ok_and(|now| now.address != from.address)
}

/// Has all members asked, and tells whether another one is chosen.
async fn other(topology: &Topology, lagging: &Member) -> bool {
    if moved(topology, lagging).await {
        return true;
    }
    let chosen = topology.reconsider().await;
    let other = chosen.is_ok_and(|now| now.address != lagging.address);
    if other {
        tracing::warn!(member = lagging.address, "scans go on at another member");
    }
    other
}

impl Looks {
    /// How far a member is behind the primary: with what it has, or with what it knows to be
    /// committed. While a set has no primary to compare with, nobody lags.
    async fn lag_secs(&mut self, topology: &Topology, member: &Member) -> u32 {
        let Some(primary) = self.primary(topology).await else { return 0 };
        if primary.address == member.address {
            return 0;
        }
        // In this order: what the member applies in between does not count against it.
        let (theirs, own) = (primary.hello().await, member.hello().await);
        match (theirs, own) {
            (Ok(theirs), Ok(own)) if theirs.primary => behind(&theirs, &own),
            // Reading from it tells what is the matter.
            (Ok(theirs), Err(_)) if theirs.primary => 0,
            _ => {
                topology.not_primary(&primary).await;
                0
            }
        }
    }

    async fn primary(&mut self, topology: &Topology) -> Option<Arc<Member>> {
        let known = topology.known_primary().await;
        if known.is_some() || self.primary.is_some_and(|at| at.elapsed() < PRIMARY_LOOK_EVERY) {
            return known;
        }
        self.primary = Some(Instant::now());
        match topology.reconsider().await {
            Ok(_) => topology.known_primary().await,
            Err(_) => None,
        }
    }
}

fn behind(primary: &Hello, member: &Hello) -> u32 {
    let written = primary.last_write_secs.saturating_sub(member.last_write_secs);
    let committed = primary.majority_secs.saturating_sub(member.majority_secs);
    written.max(committed)
}

/// A token bucket that may be overdrawn by one batch of each reader: a batch is counted when its size
/// is known, and the next has to wait.
#[derive(Debug)]
pub(crate) struct Bucket {
    bytes_per_second: u64,
    /// Bytes that may be read now; below zero what is owed.
    level: i128,
    /// Up to when `level` was filled.
    filled: Instant,
}

impl Bucket {
    pub(crate) fn new(bytes_per_second: u64, now: Instant) -> Self {
        let mut bucket = Self { bytes_per_second: bytes_per_second.max(1), level: 0, filled: now };
        bucket.level = i128::from(bucket.burst());
        bucket
    }

    /// The most that may be read at once.
    fn burst(&self) -> u64 {
        in_time(self.bytes_per_second, BURST)
    }

    fn fill(&mut self, now: Instant) {
        let gained = in_time(self.bytes_per_second, now.saturating_duration_since(self.filled));
        // Time that brings no whole byte yet goes on counting.
        if gained > 0 {
            self.level = (self.level + i128::from(gained)).min(i128::from(self.burst()));
            self.filled = now;
        }
    }

    pub(crate) fn take(&mut self, bytes: u64, now: Instant) {
        self.fill(now);
        self.level -= i128::from(bytes);
    }

    pub(crate) fn owed(&mut self, now: Instant) -> Option<Duration> {
        self.fill(now);
        let owed = u64::try_from(-self.level).ok().filter(|owed| *owed > 0)?;
        let nanos = u128::from(owed) * 1_000_000_000 / u128::from(self.bytes_per_second);
        // One more, so that the byte that ends it has come.
        Some(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX).saturating_add(1)))
    }
}

/// Bytes that a rate gives in a time.
fn in_time(bytes_per_second: u64, time: Duration) -> u64 {
    let bytes = u128::from(bytes_per_second) * time.as_nanos() / 1_000_000_000;
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_rate_whatever_the_batches() {
        let start = Instant::now();
        for batch in [1, 1_000, 300_000, 16 << 20] {
            let mut bucket = Bucket::new(1_000_000, start);
            let (mut now, mut read) = (start, 0);
            while read < 100 << 20 && read < batch * 5_000 {
                while let Some(wait) = bucket.owed(now) {
                    now += wait;
                }
                bucket.take(batch, now);
                read += batch;
            }
            let seconds = (now - start).as_secs_f64() + BURST.as_secs_f64();
            // The last batch is owed, not waited for.
            let rate = (read - batch) as f64 / seconds;
            assert!((900_000.0..=1_000_100.0).contains(&rate) || read < 250_000, "{batch}: {rate}");
        }
    }

    #[test]
    fn what_is_not_used_is_not_kept() {
        let start = Instant::now();
        let mut bucket = Bucket::new(1_000, start);
        let later = start + Duration::from_secs(3_600);
        bucket.take(bucket.burst(), later);
        assert_eq!(bucket.owed(later), None);
        bucket.take(1_000, later);
        let owed = bucket.owed(later).expect("a second is owed");
        assert!((Duration::from_secs(1)..Duration::from_millis(1_001)).contains(&owed), "{owed:?}");
    }

    #[test]
    fn lag_is_that_of_writes_or_of_commits() {
        let at = |last_write_secs, majority_secs| Hello {
            last_write_secs,
            majority_secs,
            ..Hello::default()
        };
        assert_eq!(behind(&at(100, 90), &at(100, 90)), 0);
        assert_eq!(behind(&at(100, 90), &at(70, 65)), 30);
        assert_eq!(behind(&at(100, 90), &at(95, 50)), 40);
        // A commit point that stands still for the whole set is no fault of the member.
        assert_eq!(behind(&at(100, 50), &at(100, 50)), 0);
    }
}
