//! What a sweep needs to know: which blocks were marked, and what it counts.

use std::path::PathBuf;
use std::sync::Arc;

use super::marks::{Jobs, Marks};
use super::{GroomProgress, GroomReport};
use crate::block::BlockId;
use crate::blockstore::{Error, Reader};

/// What was not marked and has a stamp below the generation may go.
pub struct Sweep {
    /// That of the groom.
    pub generation: i64,
    /// What was counted so far.
    pub report: GroomReport,
    /// Reads blocks, in the groomer's session.
    pub reader: Reader,
    pub(super) marks: Marks,
    pub(super) dir: PathBuf,
    pub(super) progress: Arc<dyn GroomProgress>,
}

impl Sweep {
    /// Blocks with a lower stamp may go. A plan counts what a groom of now would find: all that has no higher stamp than the next
    /// generation.
    pub fn below(&self) -> i64 {
        if self.report.dry_run { self.generation + 1 } else { self.generation }
    }

    /// The jobs that reach a block; none if it was not marked. Quick for names in order.
    pub fn find(&mut self, id: &BlockId) -> Result<Option<Jobs>, Error> {
        self.marks.find(id).map_err(|source| Error::Marks { path: self.dir.clone(), source })
    }

    /// Counts a block that lives.
    pub fn count(&mut self, jobs: Jobs, bytes: u64) {
        let report = &mut self.report;
        report.live_blocks += 1;
        report.live_bytes += bytes;
        let is_own = jobs.0.count_ones() == 1;
        for number in jobs.numbers() {
            // Of a job that was removed, or is new, the list says nothing.
            let Some(job) = report.jobs.get_mut(number) else { continue };
            job.live_bytes += bytes;
            job.own_bytes += if is_own { bytes } else { 0 };
        }
    }

    /// Tells how far it is, and ends if that is asked for.
    pub fn looked(&self, blocks: u64) -> Result<(), Error> {
        self.progress.swept(blocks, self.report.removed_blocks);
        if self.progress.is_stopped() { Err(Error::Stopped) } else { Ok(()) }
    }
}
