//! How much a check reads, and how fast.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::memory::Memory;
use crate::store::layout::SegmentId;
use crate::store::writer::now_ms;

/// The longest sleep between two looks at the request to stop.
const NAP_MAX: Duration = Duration::from_millis(100);

/// How deep a check goes. Each depth includes those before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The small files and the commit log; of every segment the header, the length and the footer.
    Quick,
    /// Also the index against the footers, and everything that the commit reaches: blocks that name others
    /// are read, of those that name none only their entry is looked up.
    Graph,
    /// Also every record, and the content of every block against its name.
    Data,
}

/// How much a check reads, and how fast.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How deep it goes.
    pub level: Level,
    /// A part of the store to read records of, instead of all.
    pub part: Option<Part>,
    /// Bytes of segments read a second, at most.
    pub bytes_per_second: Option<u64>,
    /// Ends the check early once it is true: what was not read counts as not checked.
    pub stop: Arc<AtomicBool>,
}

/// A part of a store: of its segments those that were checked the longest ago. Everything that
/// [`Level::Quick`] looks at is checked of all, and the segment that is being filled is always read; nothing is checked of what
/// the graph reaches, unless damage is found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Part {
    /// Stops at this share of the bytes, in percent.
    pub percent: Option<u8>,
    /// Starts no segment after this long.
    pub max_duration: Option<Duration>,
    /// Leaves out what was found sound within this time.
    pub unchecked_for: Option<Duration>,
}

impl From<Level> for Settings {
    fn from(level: Level) -> Self {
        Self { level, part: None, bytes_per_second: None, stop: Arc::default() }
    }
}

impl Part {
    /// The segments it is made of, the longest unchecked first.
    pub(super) fn choose(
        &self,
        memory: &Memory,
        sealed: &BTreeMap<SegmentId, u64>,
    ) -> Vec<SegmentId> {
        let mut all: Vec<(SegmentId, u64)> = sealed.iter().map(|(id, len)| (*id, *len)).collect();
        all.sort_by_key(|(id, len)| (memory.last(*id, *len), *id));
        if let Some(age) = self.unchecked_for {
            let since = now_ms().saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
            all.retain(|(id, len)| memory.last(*id, *len) <= since);
        }
        let total: u64 = sealed.values().sum();
        let wanted = self.percent.map_or(total, |percent| total / 100 * u64::from(percent));
        let mut before = 0;
        all.retain(|(_, len)| {
            let chosen = before == 0 || before < wanted;
            before += len;
            chosen
        });
        all.into_iter().map(|(id, _)| id).collect()
    }
}

/// Keeps a check to its rate.
#[derive(Debug)]
pub(in crate::store) struct Throttle {
    since: Instant,
    done: u64,
    bytes_per_second: Option<u64>,
    stop: Arc<AtomicBool>,
}

impl Throttle {
    pub(in crate::store) fn new(settings: &Settings) -> Self {
        let (bytes_per_second, stop) = (settings.bytes_per_second, Arc::clone(&settings.stop));
        Self { since: Instant::now(), done: 0, bytes_per_second, stop }
    }

    /// Time since the check began.
    pub(super) fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    /// Whether the check is to end.
    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Waits until `bytes` more may have been read.
    pub(in crate::store) fn spend(&mut self, bytes: u64) {
        self.done += bytes;
        let Some(rate) = self.bytes_per_second else { return };
        let due = Duration::from_secs_f64(self.done as f64 / rate.max(1) as f64);
        while let Some(left) = due.checked_sub(self.since.elapsed())
            && !left.is_zero()
            && !self.is_stopped()
        {
            std::thread::sleep(left.min(NAP_MAX));
        }
    }
}
