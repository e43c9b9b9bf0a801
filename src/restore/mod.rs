//! Restore: a head at a point in time, written to a target. (Contract; the essay comes with the code.)

mod error;
mod items;
mod live;
mod materialise;
mod overlay;
mod plan;
mod point;
mod progress;
mod read;
mod request;
mod resolve;
mod verify;

pub use error::Error;
pub use plan::{
    CheckedBlocks, Compared, Plan, PlannedNamespace, PlannedPoint, Report, TargetFacts,
};
pub use point::{At, Nearest, NearestSnapshots, ParseAtError, rfc3339};
pub use progress::{Amount, Cancel, Phase, Progress, Silent};
pub use request::{Existing, Filter, ParseFilterError, ParseTargetError, Request, Target};

use std::sync::Arc;

use crate::block::BlockId;
use crate::blockstore::Repository;
use crate::head::Manifest;
use crate::oplog::slice::SliceHeader;

/// What is restored from: one job of a repository.
#[derive(Clone)]
pub struct Backup {
    /// Where the blocks are.
    pub repository: Arc<dyn Repository>,
    /// Name of the job.
    pub job: String,
    /// Its snapshots, in any order.
    pub snapshots: Vec<Manifest>,
    /// Its oplog slices, in any order.
    pub slices: Vec<Slice>,
}

/// An oplog slice, as a job's state names it.
#[derive(Debug, Clone)]
pub struct Slice {
    /// What is known of it without reading its entries.
    pub header: SliceHeader,
    /// The stream blocks of its entries, in order.
    pub pieces: Vec<BlockId>,
}

/// A restore that is planned and has touched nothing yet but scratch files, which go with it.
pub struct Restore {
    plan: Plan,
}

/// Plans a restore: finds the base snapshot and slices, checks every block, materialises the head in
/// a scratch store, looks at the target and for conflicts. The target is not touched.
///
/// # Errors
/// Everything that would make the restore fail and can be known now.
pub async fn prepare(
    _backup: Backup,
    _request: Request,
    _progress: Arc<dyn Progress>,
    _cancel: Cancel,
) -> Result<Restore, Error> {
    unimplemented!()
}

impl Restore {
    /// What [`Restore::execute`] will do.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Does it, and compares the target with the backup.
    ///
    /// # Errors
    /// Any failure on the way; a live target then keeps the marker that it is not complete.
    pub async fn execute(self) -> Result<Report, Error> {
        unimplemented!()
    }
}
