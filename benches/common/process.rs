//! What a child process takes: time, processor time and memory, as `/proc` tells it.

use std::fs;
use std::ops::AddAssign;
use std::time::{Duration, Instant};

use headstock::lab::Running;

const SAMPLE_EVERY: Duration = Duration::from_millis(10);
/// Length of a tick in `/proc/PID/stat`, the same on all machines that we know.
const TICK: Duration = Duration::from_millis(10);

/// Peak memory of a process, bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Peak {
    /// RssAnon + RssShmem.
    pub own: u64,
    /// RssFile: mapped files, which the system takes back at need.
    pub file: u64,
    /// VmHWM: all of it at one moment.
    pub resident: u64,
}

/// What a process took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// From its start to its end.
    pub wall: Duration,
    /// Of all its threads, in itself and in the system.
    pub cpu: Duration,
    /// Its memory.
    pub peak: Peak,
}

impl Peak {
    fn sample(&mut self, pid: u32) {
        let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { return };
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name));
            let kb = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
            kb.unwrap_or(0) * 1024
        };
        self.own = self.own.max(field("RssAnon:") + field("RssShmem:"));
        self.file = self.file.max(field("RssFile:"));
        self.resident = self.resident.max(field("VmHWM:"));
    }
}

impl AddAssign for Usage {
    /// One process after another.
    fn add_assign(&mut self, next: Self) {
        self.wall += next.wall;
        self.cpu += next.cpu;
        self.peak.own = self.peak.own.max(next.peak.own);
        self.peak.file = self.peak.file.max(next.peak.file);
        self.peak.resident = self.peak.resident.max(next.peak.resident);
    }
}

/// Waits for the end of a process that was started at `begun`; returns what it took.
pub async fn measure(running: Running, begun: Instant) -> Usage {
    let mut peak = Peak::default();
    let pid = running.id().expect("just started");
    // Nobody waits for it yet: it stays as a zombie, which says how long it worked.
    let (wall, cpu) = loop {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a child");
        let (_, fields) = stat.rsplit_once(')').expect("a name in brackets");
        let fields: Vec<&str> = fields.split_whitespace().collect();
        if fields[0] == "Z" {
            let ticks = |field: usize| fields[field].parse::<u32>().expect("a number");
            break (begun.elapsed(), TICK * (ticks(11) + ticks(12)));
        }
        peak.sample(pid);
        tokio::time::sleep(SAMPLE_EVERY).await;
    };
    running.wait().await.expect("a clean end");
    Usage { wall, cpu, peak }
}
