//! A store, driven through the program's command line.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::{
    Detail, Error, Mongod, Options, Program, Release, ReplicaSet, Result, Running, SourceState,
    Standalone,
};
use crate::oplog::Ts;

/// Limit of the wait for a daemon's progress.
const PROGRESS_LIMIT: Duration = Duration::from_secs(300);
/// How often progress is asked for: each time is a process.
const POLL: Duration = Duration::from_millis(100);

/// A point in the JSON that the program prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Point {
    /// Seconds.
    pub t: u32,
    /// Ordinal within the second.
    pub i: u32,
}

impl From<Point> for Ts {
    fn from(point: Point) -> Self {
        Self { secs: point.t, inc: point.i }
    }
}

/// A snapshot, as `headstock snapshots --json` tells it.
#[derive(Debug, Clone, Deserialize)]
pub struct SnapshotLine {
    /// Its name.
    pub id: String,
    /// Name of the job.
    pub job: String,
    /// The last entry in it.
    pub optime: Point,
    /// Documents in it.
    pub documents: u64,
    /// Sum of their BSON lengths.
    pub logical_bytes: u64,
    /// Bytes that it added to the store.
    pub added_bytes: u64,
    /// Hash of all its content.
    pub content_root: String,
}

/// A job, as `headstock status --json` tells it.
#[derive(Debug, Clone, Deserialize)]
pub struct JobLine {
    /// Its name.
    pub name: String,
    /// `scanning`, `catching-up` or `tailing`.
    pub phase: String,
    /// Progress of the scan.
    pub scan: Option<ScanLine>,
    /// The last entry that is durable.
    pub received: Option<Point>,
    /// Why nothing is applied any more.
    pub stopped: Option<String>,
    /// What cannot be restored.
    pub gaps: Vec<GapLine>,
    /// Seconds until the source's oplog runs past the job.
    pub oplog_seconds_left: Option<u64>,
}

/// A range of time that cannot be restored.
#[derive(Debug, Clone, Deserialize)]
pub struct GapLine {
    /// Which namespaces; empty for all.
    pub namespaces: Vec<String>,
    /// The last point before it.
    pub after: Point,
    /// The first point after it.
    pub until: Option<Point>,
    /// Why.
    pub reason: String,
}

/// Progress of a scan.
#[derive(Debug, Clone, Deserialize)]
pub struct ScanLine {
    /// Documents read.
    pub documents: u64,
    /// Documents to read, about.
    pub documents_estimate: u64,
}

/// What `headstock status --json` tells.
#[derive(Debug, Clone, Deserialize)]
pub struct StatusLine {
    /// Figures of the store.
    pub store: StoreLine,
    /// The jobs.
    pub jobs: Vec<JobLine>,
}

/// Figures of a store.
#[derive(Debug, Clone, Deserialize)]
pub struct StoreLine {
    /// Bytes of its blocks as they are stored.
    pub stored_bytes: u64,
}

/// A store directory and the program that works on it.
pub struct Backup {
    program: Program,
    store: PathBuf,
    key_file: Option<PathBuf>,
}

impl Backup {
    /// Names both; the store is made by the first sync.
    pub fn new(program: Program, store: impl Into<PathBuf>) -> Self {
        Self { program, store: store.into(), key_file: None }
    }

    /// The same for an encrypted store, which that key file opens.
    #[must_use]
    pub fn with_key(self, file: impl Into<PathBuf>) -> Self {
        Self { key_file: Some(file.into()), ..self }
    }

    /// The store's directory.
    pub fn store(&self) -> &Path {
        &self.store
    }

    /// The program.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// `command --store DIR` and what follows.
    fn line<'a>(&'a self, command: &[&'a str], more: &[&'a str]) -> Vec<&'a std::ffi::OsStr> {
        let words = command.iter().map(|word| std::ffi::OsStr::new(*word));
        let store = ["--store".as_ref(), self.store.as_os_str()];
        let key = self.key_file.iter().flat_map(|file| ["--key-file".as_ref(), file.as_os_str()]);
        words
            .chain(store)
            .chain(key)
            .chain(more.iter().map(|word| std::ffi::OsStr::new(*word)))
            .collect()
    }

    /// `headstock sync`.
    ///
    /// # Errors
    /// It fails.
    pub async fn sync(&self, source: &str, more: &[&str]) -> Result<()> {
        let command = ["sync", "--source", source];
        self.program.run(&self.line(&command, more)).await.map(drop)
    }

    /// `headstock sync`, going on beside the caller.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_sync(&self, source: &str, more: &[&str]) -> Result<Running> {
        self.program.spawn(&self.line(&["sync", "--source", source], more))
    }

    /// `headstock daemon`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_daemon(&self, source: &str, more: &[&str]) -> Result<Running> {
        self.program.spawn(&self.line(&["daemon", "--source", source], more))
    }

    /// `headstock snapshots`, oldest first.
    ///
    /// # Errors
    /// It fails.
    pub async fn snapshots(&self) -> Result<Vec<SnapshotLine>> {
        self.read(&["snapshots", "--json"]).await
    }

    /// The newest snapshot of a job.
    ///
    /// # Errors
    /// There is none.
    pub async fn newest(&self, job: &str) -> Result<SnapshotLine> {
        let all = self.snapshots().await?;
        let newest = all.into_iter().rfind(|snapshot| snapshot.job == job);
        newest.ok_or(Error::Reply { command: "snapshots", field: "a snapshot of the job" })
    }

    /// `headstock status`.
    ///
    /// # Errors
    /// It fails.
    pub async fn status(&self) -> Result<StatusLine> {
        self.read(&["status", "--json"]).await
    }

    /// Runs a command on the store.
    ///
    /// # Errors
    /// It fails.
    pub async fn run(&self, command: &[&str], more: &[&str]) -> Result<String> {
        self.program.run(&self.line(command, more)).await
    }

    /// `headstock restore`.
    ///
    /// # Errors
    /// It fails.
    pub async fn restore(&self, at: &str, to: &str, more: &[&str]) -> Result<()> {
        let command = ["restore", "--at", at, "--to", to];
        self.program.run(&self.line(&command, more)).await.map(drop)
    }

    /// Restores into a fresh stand-alone server, which leaves expired documents alone; returns it and
    /// its state.
    ///
    /// # Errors
    /// The server does not start, or the restore fails.
    pub async fn restored(
        &self,
        at: &str,
        more: &[&str],
        detail: Detail,
    ) -> Result<(Standalone, SourceState)> {
        let server = Standalone::start(&without_ttl(Options::default())).await?;
        self.restore(at, &server.uri(), more).await?;
        let state = SourceState::capture(server.client(), detail).await?;
        Ok((server, state))
    }

    /// The same, into a fresh set of one member of a release: stand-alone servers do not take
    /// collections with encrypted fields.
    ///
    /// # Errors
    /// As [`Backup::restored`].
    pub async fn restored_to_set(
        &self,
        release: Release,
        at: &str,
        more: &[&str],
        detail: Detail,
    ) -> Result<(ReplicaSet, SourceState)> {
        let mongod = Some(Mongod::fetch(release)?);
        let set = ReplicaSet::start(without_ttl(Options { mongod, ..Options::default() })).await?;
        self.restore(at, &set.uri(), more).await?;
        let state = SourceState::capture(set.client(), detail).await?;
        Ok((set, state))
    }

    /// Waits until the store has `count` snapshots while `running` works.
    ///
    /// # Errors
    /// `running` ends before, or it takes too long.
    pub async fn wait_for_snapshots(&self, count: usize, running: &mut Running) -> Result<()> {
        let deadline = Instant::now() + PROGRESS_LIMIT;
        // Until the store exists, listing it fails.
        while self.snapshots().await.map_or(0, |all| all.len()) < count {
            self.check("take a snapshot", running, deadline).await?;
        }
        Ok(())
    }

    /// Waits until the initial sync is over and the oplog is followed while `running` works.
    ///
    /// # Errors
    /// `running` ends before, or it takes too long.
    pub async fn wait_until_following(&self, running: &mut Running) -> Result<()> {
        let deadline = Instant::now() + PROGRESS_LIMIT;
        let following = |status: &StatusLine| status.jobs.iter().any(|job| job.phase == "tailing");
        while !self.status().await.is_ok_and(|status| following(&status)) {
            self.check("finish the initial sync", running, deadline).await?;
        }
        Ok(())
    }

    /// Waits until the oplog up to `ts` is durable while `running` works.
    ///
    /// # Errors
    /// `running` ends before, or it takes too long.
    pub async fn wait_for_received(&self, ts: Ts, running: &mut Running) -> Result<()> {
        let deadline = Instant::now() + PROGRESS_LIMIT;
        let reached = |status: &StatusLine| {
            status.jobs.iter().any(|job| job.received.is_some_and(|at| Ts::from(at) >= ts))
        };
        while !self.status().await.is_ok_and(|status| reached(&status)) {
            self.check("receive the oplog", running, deadline).await?;
        }
        Ok(())
    }

    async fn check(&self, what: &'static str, by: &mut Running, deadline: Instant) -> Result<()> {
        if !by.is_running()? || Instant::now() > deadline {
            return Err(Error::NoProgress { what, log: by.log() });
        }
        tokio::time::sleep(POLL).await;
        Ok(())
    }

    async fn read<T: for<'de> Deserialize<'de>>(&self, command: &[&str]) -> Result<T> {
        let output = self.run(command, &[]).await?;
        serde_json::from_str(&output).map_err(|source| Error::Json { output, source })
    }
}

/// Options of servers that leave expired documents alone.
fn without_ttl(options: Options) -> Options {
    let arguments = ["--setParameter", "ttlMonitorEnabled=false"].map(str::to_owned).to_vec();
    Options { arguments, ..options }
}
