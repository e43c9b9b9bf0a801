//! The background check of a daemon: every segment of its store is read whole within a time, at a rate that
//! leaves the disk to others.
//!
//! It is the check of `headstock fsck`, on a reader of its own, a few minutes at a time: while one runs, files
//! that compaction drops stay. What it finds is logged, and stays in the status until the segment is repaired.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::Error;
use crate::store::fsck::{self, Level, Part, Settings, Severity};
use crate::store::{self, Location};

/// Longest time between looks for segments that are due.
const LOOK_EVERY: Duration = Duration::from_secs(10 * 60);
/// A period shorter than this many looks shortens the time between them.
const LOOKS_PER_PERIOD: u32 = 4;
/// Shortest time between looks.
const LOOK_AT_LEAST: Duration = Duration::from_secs(1);
/// A look begins no segment after this long.
const LOOK_MAX: Duration = Duration::from_secs(5 * 60);
/// Findings of a look that are logged.
const LOGGED_MAX: usize = 20;

/// How a store is checked in the background.
#[derive(Debug, Clone, Copy)]
pub struct Scrub {
    /// Within this time every segment is read whole; zero never.
    pub within: Duration,
    /// Bytes read a second, at most.
    pub bytes_per_second: u64,
}

/// Ends a check that is under way when it is dropped.
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Scrub {
    /// Checks what is due, for ever. Cancel it by dropping it.
    pub async fn run(self, store: Location) {
        if self.within.is_zero() {
            return std::future::pending().await;
        }
        let every = (self.within / LOOKS_PER_PERIOD).clamp(LOOK_AT_LEAST, LOOK_EVERY);
        let mut clock = interval_at(Instant::now() + every, every);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stop = Stop(Arc::default());
        loop {
            clock.tick().await;
            let (store, settings) = (store.clone(), self.settings(&stop));
            let looked = tokio::task::spawn_blocking(move || look(&store, settings)).await;
            match looked {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!("the background check failed: {error}"),
                Err(error) => tracing::error!("the background check failed: {error}"),
            }
        }
    }

    fn settings(self, stop: &Stop) -> Settings {
        // What is as old as the period at the next look is late by then.
        let unchecked_for = Some(self.within - self.within / LOOKS_PER_PERIOD);
        Settings {
            level: Level::Data,
            part: Some(Part { percent: None, max_duration: Some(LOOK_MAX), unchecked_for }),
            bytes_per_second: Some(self.bytes_per_second),
            stop: Arc::clone(&stop.0),
        }
    }
}

fn look(store: &Location, settings: Settings) -> Result<(), Error> {
    // A bad sector is an error of a read, and a signal of a map.
    let options = store::Options { mmap: false, ..store.options() };
    let report = fsck::run_on(&store.dir, options, settings, &mut |_| {}).map_err(Error::Store)?;
    let damage = || report.findings.iter().filter(|one| one.severity == Severity::Error);
    for finding in damage().take(LOGGED_MAX) {
        tracing::error!(
            code = finding.code.as_str(),
            segment = finding.segment.map(|segment| segment.to_string()),
            offset = finding.offset,
            "the store is damaged, run `headstock fsck`: {}",
            finding.what
        );
    }
    if report.whole_segments > 0 {
        let (segments, damaged) = (report.whole_segments, damage().count());
        tracing::info!(
            segments,
            bytes = report.bytes,
            damaged,
            "segments checked in the background"
        );
    }
    Ok(())
}
