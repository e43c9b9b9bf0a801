//! What a daemon says of its push, and waiting for it.

use std::time::Duration;

use headstock::lab::{Backup, Point, Running};
use headstock::oplog::Ts;
use serde::Deserialize;
use tokio::time::{Instant, sleep};

/// Limit of every wait: several elections, leases and pauses on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);
/// Each look is a process.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How the only job of a store stands in the blockstore, as `headstock status --json` tells it.
#[derive(Debug, Clone, Deserialize)]
pub struct Remote {
    pub trouble: Option<String>,
    pub received: Option<Point>,
    pub snapshots: u64,
    pub snapshots_waiting: u64,
    pub pushing: Option<serde_json::Value>,
    pub sent_bytes: u64,
}

impl Remote {
    /// Whether everything up to there is in the blockstore, and nothing is wrong.
    pub fn has_all(&self, upto: Ts) -> bool {
        let has_oplog = self.received.is_some_and(|received| Ts::from(received) >= upto);
        has_oplog && self.snapshots_waiting == 0 && self.trouble.is_none()
    }
}

/// What is told now; none before there is a job.
pub async fn remote(backup: &Backup) -> Option<Remote> {
    let told = backup.run(&["status", "--json"], &[]).await.ok()?;
    let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
    let remote = told.get("jobs")?.get(0)?.get("remote")?.clone();
    serde_json::from_value(remote).ok()
}

/// Waits until what is told is as asked for.
pub async fn wait_for_remote(
    backup: &Backup,
    daemon: &mut Running,
    what: &str,
    is_so: impl Fn(&Remote) -> bool,
) -> Remote {
    let began = Instant::now();
    loop {
        let told = remote(backup).await;
        if let Some(remote) = told.as_ref().filter(|remote| is_so(remote)) {
            println!("{what} after {:.1?}", began.elapsed());
            return remote.clone();
        }
        let runs = daemon.is_running().expect("ask");
        if !runs || began.elapsed() > LIMIT {
            panic!("not {what}: {told:?}; it runs: {runs}; its log:\n{}", daemon.log());
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Waits until the store has a snapshot of that moment or a later one.
pub async fn wait_for_snapshot_of(backup: &Backup, daemon: &mut Running, moment: Ts) {
    let began = Instant::now();
    while backup
        .snapshots()
        .await
        .expect("snapshots")
        .iter()
        .all(|one| Ts::from(one.optime) < moment)
    {
        let runs = daemon.is_running().expect("ask");
        assert!(runs && began.elapsed() < LIMIT, "no snapshot; its log:\n{}", daemon.log());
        sleep(LOOK_EVERY).await;
    }
}
