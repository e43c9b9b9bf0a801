//! What is said over the control socket: one JSON object per line each way.
//!
//! The socket is private to this program and its version; scripts use the commands.

use serde::{Deserialize, Serialize};

use crate::job::{SnapshotInfo, StoreStatus};

/// What a daemon can be asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub enum Request {
    /// Take a snapshot of what is majority-committed now.
    SnapshotTake {
        /// The job, or the only one.
        job: Option<String>,
    },
    /// Delete a snapshot.
    SnapshotDelete {
        /// The job, or the only one.
        job: Option<String>,
        /// The snapshot.
        id: String,
    },
    /// Protect a snapshot, or release it.
    SnapshotKeep {
        /// The job, or the only one.
        job: Option<String>,
        /// The snapshot.
        id: String,
        /// Whether to protect it.
        keep: bool,
    },
    /// Tell how things stand.
    Status,
    /// Remove what nothing reaches.
    Compact {
        /// Only plan it.
        dry_run: bool,
    },
}

/// What a daemon answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The snapshot that was taken, deleted or changed.
    Snapshot(Box<SnapshotInfo>),
    /// How things stand.
    Status(Box<StoreStatus>),
    /// What was, or would be, removed.
    Compacted(CompactReport),
    /// It was not done.
    Refused(Refusal),
}

/// Why something was not done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Refusal {
    /// For the operator.
    pub text: String,
    /// Whether it must not be done, as opposed to having failed.
    pub refused: bool,
}

/// What a compaction removed, or would remove. `--json` prints it: field names never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompactReport {
    /// Whether it was only planned.
    pub dry_run: bool,
    /// Blocks that something needs.
    pub live_blocks: u64,
    /// Their stored bytes.
    pub live_bytes: u64,
    /// Blocks that nothing needs.
    pub dead_blocks: u64,
    /// Their stored bytes.
    pub dead_bytes: u64,
    /// Segment files that go.
    pub segments_removed: u64,
    /// Segment files whose living blocks are copied to a new one.
    pub segments_rewritten: u64,
    /// Bytes of segment files before.
    pub stored_bytes_before: u64,
    /// Bytes of segment files afterwards.
    pub stored_bytes_after: u64,
    /// Bytes of files that no longer count and that readers, such as a restore, still use: they go later.
    pub waiting_bytes: u64,
    /// Segment files that were to be rewritten and stay, since something that lives in them cannot be read.
    #[serde(default)]
    pub segments_damaged: u64,
}
