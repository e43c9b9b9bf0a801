//! Progress of long work: a line that redraws itself on a terminal, a log line now and then
//! elsewhere. Both on standard error; standard output is for results.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::task::JoinHandle;

use super::output;
use crate::blockstore::GroomProgress;
use crate::job::{Activity, Figures, Seen, check, remote_check};
use crate::restore;
use crate::store::fsck;

/// Time between redraws on a terminal.
const REDRAW_EVERY: Duration = Duration::from_millis(250);
/// Time between log lines elsewhere, while there is work to be done.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Time between log lines elsewhere, while there is nothing but to follow.
const IDLE_LINE_EVERY: Duration = Duration::from_secs(10 * 60);

/// A line of progress.
struct Line {
    /// The terminal's, where there is one.
    bar: Option<ProgressBar>,
    /// When a log line was written last.
    written: Instant,
}

impl Line {
    fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
                bar.set_style(style);
            }
            bar
        });
        Self { bar, written: Instant::now() }
    }

    fn period() -> Duration {
        if std::io::stderr().is_terminal() { REDRAW_EVERY } else { Duration::from_secs(1) }
    }

    fn show(&mut self, text: impl FnOnce() -> String) {
        self.show_every(LINE_EVERY, text);
    }

    fn show_every(&mut self, every: Duration, text: impl FnOnce() -> String) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(text());
                bar.tick();
            }
            None if self.written.elapsed() >= every => {
                self.written = Instant::now();
                eprintln!("headstock: {}", text());
            }
            None => {}
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Work measured against what it is expected to amount to, for its rate and the time left.
struct Pace {
    since: Instant,
    at_first: u64,
}

impl Pace {
    fn new(done: u64) -> Self {
        Self { since: Instant::now(), at_first: done }
    }

    /// `3.10 GiB of 8.00 GiB, 210 MiB/s, 24 s left`.
    fn tell(&self, done: u64, expected: u64) -> String {
        let seconds = self.since.elapsed().as_secs_f64().max(0.001);
        let rate = done.saturating_sub(self.at_first) as f64 / seconds;
        let mut text = output::bytes(done);
        if expected > 0 {
            text.push_str(&format!(" of {}", output::bytes(expected.max(done))));
        }
        text.push_str(&format!(", {}/s", output::bytes(rate as u64)));
        if expected > done && rate > 0.0 {
            text.push_str(&format!(", {} left", time((expected - done) as f64 / rate)));
        }
        text
    }
}

/// Seconds as people say them.
fn time(seconds: f64) -> String {
    let seconds = seconds as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// Shows the figures of a job until stopped.
pub struct Watch {
    task: JoinHandle<()>,
    line: std::sync::Arc<Mutex<Line>>,
}

impl Watch {
    /// Starts showing.
    pub fn start(figures: Figures) -> Self {
        let line = std::sync::Arc::new(Mutex::new(Line::new()));
        let shown = line.clone();
        let task = tokio::spawn(async move {
            let mut pace: Option<Pace> = None;
            loop {
                tokio::time::sleep(Line::period()).await;
                let seen = figures.seen();
                if seen.activity == Activity::Scanning {
                    pace.get_or_insert_with(|| Pace::new(seen.scanned_bytes));
                }
                let mut line = shown.lock().unwrap_or_else(PoisonError::into_inner);
                let idle = seen.activity == Activity::Following;
                let every = if idle { IDLE_LINE_EVERY } else { LINE_EVERY };
                line.show_every(every, || describe(&seen, pace.as_ref()));
            }
        });
        Self { task, line }
    }

    /// Stops and leaves the terminal clean.
    pub fn stop(self) {
        self.task.abort();
        self.line.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn describe(seen: &Seen, pace: Option<&Pace>) -> String {
    let applied = match (seen.applied, seen.received) {
        (Some(at), _) => format!("at {}", at.optime.ts),
        (None, Some(last)) => format!("received up to {}", last.optime.ts),
        (None, None) => "nothing received yet".to_owned(),
    };
    match (seen.activity, pace) {
        (Activity::Connecting, _) => "connecting".to_owned(),
        (Activity::Scanning, Some(pace)) => format!(
            "scanning: {} documents, {}; {} of {} collections; {} oplog entries kept",
            seen.scanned_documents,
            pace.tell(seen.scanned_bytes, seen.expected.bytes),
            seen.expected.collections_done,
            seen.expected.collections,
            seen.received_entries,
        ),
        (Activity::Scanning, None) => "scanning".to_owned(),
        (Activity::Applying, _) => format!(
            "applying: {} of {} oplog entries, {applied}",
            seen.applied_entries, seen.received_entries
        ),
        (Activity::Flushing, _) => format!("writing changed trees, {applied}"),
        (Activity::Comparing, _) => format!("comparing, {applied}"),
        (Activity::Following, _) => {
            format!("following: {} oplog entries, {applied}", seen.applied_entries)
        }
        (Activity::Stopping, _) => format!("stopping, {applied}"),
    }
}

/// Shows how a check goes on.
pub struct Meter {
    line: Mutex<Line>,
}

impl Meter {
    /// Starts showing.
    pub fn new() -> Self {
        Self { line: Mutex::new(Line::new()) }
    }

    /// Shows what is checked so far.
    pub fn show(&self, checked: &check::Checked) {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        line.show(|| {
            format!(
                "checking: {} blocks, {}; {} trees, {} slices",
                checked.blocks,
                output::bytes(checked.bytes),
                checked.trees,
                checked.slices
            )
        });
    }

    /// Shows what of a blockstore is checked so far.
    pub fn show_remote(&self, report: &remote_check::Report) {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        line.show(|| {
            format!(
                "checking: {} jobs, {} blocks, {} read",
                report.jobs,
                report.blocks,
                output::bytes(report.bytes)
            )
        });
    }

    /// Shows what of the files of a store is checked so far.
    pub fn show_store(&self, at: fsck::Progress) {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        line.show(|| match at {
            fsck::Progress::Segments { done, total } => {
                format!("checking: {} of {}", output::bytes(done), output::bytes(total))
            }
            fsck::Progress::Index => "checking the index".to_owned(),
            fsck::Progress::Graph { blocks } => format!("checking: {blocks} blocks reached"),
        });
    }

    /// Leaves the terminal clean.
    pub fn stop(&self) {
        self.line.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Shows how a restore goes on.
pub struct RestoreWatch {
    state: Mutex<RestoreState>,
}

struct RestoreState {
    line: Line,
    phase: Option<restore::Phase>,
    total: restore::Amount,
    done: restore::Amount,
    pace: Pace,
}

impl RestoreWatch {
    /// Starts showing.
    pub fn new() -> Self {
        Self {
            state: Mutex::new(RestoreState {
                line: Line::new(),
                phase: None,
                total: restore::Amount::default(),
                done: restore::Amount::default(),
                pace: Pace::new(0),
            }),
        }
    }

    /// Leaves the terminal clean.
    pub fn stop(&self) {
        self.change(|state| state.line.clear());
    }

    /// Prints something without the line in between.
    pub fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        self.change(|state| match &state.line.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        })
    }

    fn change<T>(&self, change: impl FnOnce(&mut RestoreState) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl RestoreState {
    fn show(&mut self) {
        let Some(phase) = self.phase else { return };
        let (done, total, pace) = (self.done, self.total, &self.pace);
        self.line.show(|| {
            format!("{phase}: {} items, {}", done.documents, pace.tell(done.bytes, total.bytes))
        });
    }
}

impl restore::Progress for RestoreWatch {
    fn begin(&self, phase: restore::Phase, total: restore::Amount) {
        self.change(|state| {
            state.phase = Some(phase);
            state.total = total;
            state.done = restore::Amount::default();
            state.pace = Pace::new(0);
            state.show();
        });
    }

    fn advance(&self, done: restore::Amount) {
        self.change(|state| {
            state.done.documents += done.documents;
            state.done.bytes += done.bytes;
            state.show();
        });
    }

    fn note(&self, text: &str) {
        self.suspend(|| eprintln!("headstock: {text}"));
    }
}

/// Shows how a groom goes on.
pub struct Groom {
    line: Mutex<Line>,
    stopped: Arc<AtomicBool>,
}

impl Groom {
    /// Starts showing. The groom ends when `stopped` is set.
    pub fn new(stopped: Arc<AtomicBool>) -> Self {
        Self { line: Mutex::new(Line::new()), stopped }
    }

    /// Leaves the terminal clean.
    pub fn stop(&self) {
        self.line.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn show(&self, text: impl FnOnce() -> String) {
        self.line.lock().unwrap_or_else(PoisonError::into_inner).show(text);
    }
}

impl GroomProgress for Groom {
    fn waiting(&self, sessions: u64) {
        self.show(|| format!("waiting for {sessions} pushes that began before"));
    }

    fn marked(&self, blocks: u64) {
        self.show(|| format!("marking: {blocks} blocks are reached"));
    }

    fn swept(&self, looked: u64, removed: u64) {
        self.show(|| format!("sweeping: {looked} blocks looked at, {removed} removed"));
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}
