//! Reading jobs of a blockstore, with no store here.

use std::path::PathBuf;
use std::sync::Arc;

use super::read::unreachable_after;
use super::{Error, JobPoints, SnapshotInfo, SpanInfo, State, blocking};
use crate::blockstore::{Blockstore, Place, Reader, RemoteRepository};
use crate::head::Manifest;
use crate::oplog::slice::Slice;
use crate::restore;

/// A job of a blockstore, with its snapshots pinned: as long as this lives, it can be read.
pub struct RemoteJob {
    /// The blockstore.
    pub blockstore: Blockstore,
    /// Its blocks.
    pub reader: Reader,
    /// The job's state; without head, slices and snapshots.
    pub state: State,
    /// Its snapshots, oldest first.
    pub snapshots: Vec<Manifest>,
    /// Its slices, oldest first.
    pub slices: Vec<Slice>,
}

impl RemoteJob {
    /// Opens a job, or the only one, to read it.
    ///
    /// # Errors
    /// [`Error::Blockstore`]; [`Error::NotConsistent`] if nothing was committed for it yet.
    pub async fn open(place: &Place, job: Option<&str>) -> Result<Self, Error> {
        Self::of(Blockstore::open(place).await?, job).await
    }

    /// The same in a blockstore that is open.
    pub(super) async fn of(blockstore: Blockstore, job: Option<&str>) -> Result<Self, Error> {
        let name = blockstore.job(job).await?.name;
        let reader = blockstore.reader(&name).await?;
        // What is read after the pins is there as long as they are.
        let state = blockstore.job(Some(&name)).await?.state;
        let state = state.ok_or_else(|| Error::NotConsistent { job: name.clone() })?;
        let state = State::from_bson_without_data(&state)?;
        let snapshots = reader.pinned(&name).await?;
        let slices = blockstore.slices(&name).await?;
        Ok(Self { blockstore, reader, state, snapshots, slices })
    }

    /// The same as a restore sees it. Scratch files go to a directory of this machine.
    #[must_use]
    pub fn into_backup(self, scratch: PathBuf) -> restore::Backup {
        let Self { blockstore, reader, state, snapshots, slices } = self;
        restore::Backup {
            gaps: unreachable_after(&state),
            job: state.name,
            repository: Arc::new(RemoteRepository { blockstore, reader, scratch }),
            snapshots,
            slices,
        }
    }
}

/// Lists the snapshots of one job, or of all jobs, oldest first within a job.
///
/// # Errors
/// [`Error::Blockstore`].
pub async fn list_remote_snapshots(
    place: &Place,
    job: Option<&str>,
) -> Result<Vec<SnapshotInfo>, Error> {
    let blockstore = Blockstore::open(place).await?;
    let mut found = Vec::new();
    for name in names(&blockstore, job).await? {
        let manifests = blockstore.snapshots(&name).await?;
        found.extend(manifests.iter().map(|manifest| SnapshotInfo::new(&name, manifest)));
    }
    Ok(found)
}

/// Tells to which points one job, or each of all jobs, can be restored.
///
/// # Errors
/// [`Error::Blockstore`], and those of reading blocks.
pub async fn remote_points(place: &Place, job: Option<&str>) -> Result<Vec<JobPoints>, Error> {
    let blockstore = Blockstore::open(place).await?;
    let mut found = Vec::new();
    for name in names(&blockstore, job).await? {
        let job = RemoteJob::of(blockstore.clone(), Some(&name)).await?;
        let stopped = job.state.stopped.as_ref().map(|stopped| stopped.reason.clone());
        let backup = job.into_backup(std::env::temp_dir());
        let spans = blocking("reader", &name, move || Ok(backup.spans()?)).await?;
        let restorable = spans.into_iter().map(SpanInfo::from).collect();
        found.push(JobPoints { job: name, restorable, stopped });
    }
    Ok(found)
}

async fn names(blockstore: &Blockstore, job: Option<&str>) -> Result<Vec<String>, Error> {
    Ok(match job {
        Some(name) => vec![blockstore.job(Some(name)).await?.name],
        None => blockstore.job_names().await?,
    })
}
