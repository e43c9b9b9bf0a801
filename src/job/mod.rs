//! A job: the backup of one source, from its first scan to the expiry of its last snapshot.
//!
//! # How it runs
//!
//! [`Follow`] runs three workers over one [`Job`]:
//!
//! - The *tail* reads majority-committed entries and makes oplog slices of them. A slice is durable
//!   before anything else happens to its entries.
//! - The *scan*, while there is no head, copies collections into trees, several ranges at a time.
//! - The *applier* reads slices back in order and applies them to the head. It flushes when changes
//!   have piled up, for a snapshot and at the end.
//!
//! # What is committed, and in which order
//!
//! A job is one root of the store's commits: [`State`]. Each worker puts blocks first and then
//! changes the state through [`Job::update`], which commits. So after a crash the state is that of
//! some last change of each worker, and all blocks that it names are there:
//!
//! - slices up to `received`: the tail goes on after it, so that no entry is missed or kept twice;
//! - scan progress: each range goes on at its last committed `_id`;
//! - the head: slices after its position are applied again, which is the same as if nothing had
//!   happened, for an entry applied but not flushed has left no trace in any commit.
//!
//! A slice goes only when a committed head covers it and no restore needs it ([`snapshot`]).
//!
//! What only a new scan can cure is cured by one (`heal`), and what cannot be restored because of it is
//! noted ([`Gaps`]).

pub mod check;
mod apply;
mod counted;
mod error;
mod figures;
mod follow;
mod gaps;
mod handle;
mod heal;
mod info;
mod push;
mod read;
pub mod rebuild;
mod remote;
pub mod remote_check;
pub mod rewind;
mod scan;
mod slices;
pub mod snapshot;
mod state;
mod tail;
pub mod verify;

#[cfg(test)]
mod tests;

pub(crate) use crate::blockstore::{cause_text, in_one_line};
pub use apply::snapshot_of_what_is_stored;
pub use error::Error;
pub use figures::{Activity, Expected, Figures, Seen};
pub use follow::{Follow, FollowOptions};
pub use gaps::{Gap, Gaps};
pub use handle::{Job, NAME_BYTES_MAX, now_ms};
pub use info::{
    GapInfo, JobPoints, JobStatus, LimitInfo, OptimeInfo, PointInfo, ScanInfo, SnapshotInfo,
    SpanInfo, StoreInfo, StoreStatus, is_short, wall_time,
};
pub use push::{Push, PushOptions, RemoteInfo, RemoteSnapshot, prepare_store};
pub use read::{list_snapshots, open_backup, points, status, status_of};
pub use remote::{RemoteJob, list_remote_snapshots, remote_points};
pub use slices::SliceChain;
pub use state::{ScanState, State, Stopped};

use crate::block::BlockId;
use crate::store::Store;

/// Runs blocking work off the asynchronous threads.
async fn blocking<T: Send + 'static>(
    worker: &'static str,
    job: &str,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let lost = || Error::WorkerLost { job: job.to_owned(), worker };
    tokio::task::spawn_blocking(work).await.map_err(|_| lost())?
}

/// The job of a name, or the only one, and the block of its state.
fn pick(store: &Store, name: Option<&str>) -> Result<(String, BlockId), Error> {
    let (_, roots) = store.roots();
    let have = || roots.keys().cloned().collect();
    match name {
        Some(name) => match roots.get(name) {
            Some(id) => Ok((name.to_owned(), *id)),
            None => Err(Error::NoSuchJob { job: name.to_owned(), have: have() }),
        },
        None => match roots.iter().next() {
            Some((name, id)) if roots.len() == 1 => Ok((name.clone(), *id)),
            _ => Err(Error::WhichJob { have: have() }),
        },
    }
}

/// Lower-case hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
