//! Restore: a head at a point in time, written to a target. Never touches a source's oplog.
//!
//! A restore has two steps. [`prepare()`] makes a [`Plan`] and touches nothing: it finds the snapshot and
//! slices that give the point (`resolve`, where `spans` tells what is a point), makes the state at the point over a scratch store
//! (`materialise`), chooses namespaces (`items`), reads every block under them (`verify`), and looks at the
//! target. [`Restore::execute`] writes, and compares what it wrote with the backup.
//!
//! Targets differ in one thing: how a half-written one is kept from looking whole. A server ([`Target::Live`])
//! holds a marker in a database of its own from first to last (`live`). A directory, an archive and a data
//! directory have another name until they are whole (`files`, `dump`, `archive`, `dbpath`).
//!
//! A server that is the job's own source can also be brought back by writing what differs (`rewind`).
//!
//! Time travel happens here, not at the target: it gets one bulk load of a finished state, whatever the point.
//! Memory is bounded by batches, change budgets and the catalog, never by documents.

mod archive;
mod dbpath;
mod differ;
mod dump;
mod error;
pub(crate) mod extjson;
mod files;
#[cfg(fuzzing)]
pub mod fuzzing;
mod metadata;
mod items;
mod live;
mod materialise;
mod overlay;
mod plan;
mod prepare;
mod point;
mod progress;
mod read;
mod request;
mod resolve;
mod rewind;
mod spans;
mod synced;
mod verify;

pub use differ::{Contents, Differ, Pair};
pub use error::Error;
pub use materialise::View;
pub(crate) use overlay::Overlay;
pub use plan::{
    CheckedBlocks, Compared, Plan, PlannedNamespace, PlannedPoint, Proof, Report, TargetFacts,
};
pub use point::{At, Nearest, NearestSnapshots, ParseAtError, rfc3339};
pub use progress::{Amount, Cancel, Phase, Progress, Silent};
pub use request::{Existing, Filter, ParseFilterError, ParseTargetError, Request, Target};
pub use rewind::{
    Action, Destination, Moment, PlannedChange, PlannedNow, Rewind, RewindPlan, RewindRequest,
    Written,
};
pub use spans::{Limit, Span, Walk};

use std::sync::Arc;
use std::time::Instant;

use crate::block::{BlockRead, stream};
use crate::blockstore::Repository;
use crate::head::Manifest;
use crate::oplog::slice::{self, Slice};
use crate::oplog::{OpTime, Ts};
use items::Selection;
use live::{Marker, Work};
use prepare::Opened;
pub use prepare::prepare;
use resolve::{History, Route};

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
    /// Entries after each of which the slices lead to no restore point from a snapshot before it.
    pub gaps: Vec<OpTime>,
}

impl Backup {
    /// The spans in which every point can be restored, oldest first.
    ///
    /// # Errors
    /// Those of reading the blocks that tell what is undecided.
    pub fn spans(&self) -> Result<Vec<Span>, Error> {
        History::new(self.clone()).spans()
    }

    /// The same with what leads through each, for who follows something from point to point.
    ///
    /// # Errors
    /// As [`Backup::spans`].
    pub fn stretches(&self) -> Result<Vec<Stretch>, Error> {
        let history = History::new(self.clone());
        let stretch = |span: Span| {
            let route = history.route(&At::Exact(span.from.optime.ts))?;
            let Route { base, slices, reach, .. } = route;
            let later = history.snapshots_within(&span);
            Ok(Stretch { span, base, later, slices, reach })
        };
        history.spans()?.into_iter().map(stretch).collect()
    }
}

/// A span of points and what leads through it.
#[derive(Debug, Clone)]
pub struct Stretch {
    /// The points.
    pub span: Span,
    /// The snapshot at its first point.
    pub base: Manifest,
    /// The snapshots at later points, in order.
    pub later: Vec<Manifest>,
    /// The slices that go on from there, in order. The first may begin before the snapshot.
    pub slices: Vec<Slice>,
    /// Entries above this do not belong to it. Those above the last point may decide transactions
    /// that were prepared before it.
    pub reach: Ts,
}

/// Reads the entries of a slice ([`slice::entries`]), checked against its header.
///
/// # Errors
/// [`Error::Unreadable`].
pub fn read_slice(slice: &Slice, blocks: &dyn BlockRead) -> Result<Vec<u8>, Error> {
    let name = format!("the oplog slice from {}", slice.header.first.optime);
    let bytes = stream::read(blocks, &slice.pieces);
    let bytes = bytes.map_err(|why| Error::unreadable(&name)(why))?;
    slice::check(&slice.header, &bytes).map_err(|why| Error::unreadable(&name)(why))?;
    Ok(bytes)
}

/// A restore that is planned and has touched nothing yet but scratch files, which go with it.
pub struct Restore {
    plan: Plan,
    view: View,
    selection: Selection,
    target: Opened,
    marker: Marker,
    progress: Arc<dyn Progress>,
    cancel: Cancel,
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
    /// Any failure on the way. A live target then keeps the marker that it is not complete; a path
    /// to be made does not exist.
    pub async fn execute(self) -> Result<Report, Error> {
        let started = Instant::now();
        let done = match &self.target {
            Opened::Live(live) => live.restore(&self.work()).await?,
            Opened::DbPath { dir, mongod } => dbpath::restore(&self, dir, mongod).await?,
            Opened::Dump(dir) => files::run(&self, dir, dump::restore).await?,
            Opened::Archive(file) => files::run(&self, file, archive::restore).await?,
        };
        let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(Report {
            documents: done.documents,
            bytes: done.bytes,
            indexes: done.indexes,
            elapsed_ms,
            compared: done.outcome.compared,
            notes: done.outcome.notes,
            plan: self.plan,
        })
    }

    fn work(&self) -> Work<'_> {
        Work {
            selection: &self.selection,
            blocks: self.view.blocks.clone(),
            marker: self.marker.clone(),
            drops: &self.plan.drops,
        }
    }
}
