//! Tests of the whole floor: hand-made entries, and random ones against a naive model.

mod cases;
mod entries;
mod model;
mod random;
mod workload;

use std::path::PathBuf;
use std::sync::Arc;

use super::{Config, Head, HeadRoot, Scope};
use crate::block::MemoryBlocks;
use crate::store::RepositorySalt;

/// The salt of all test trees.
const SALT: RepositorySalt = RepositorySalt([3; 32]);

/// A place for a head: blocks in memory and a scratch directory.
struct Place {
    blocks: Arc<MemoryBlocks>,
    scratch: tempfile::TempDir,
    budget_bytes: usize,
    trims: bool,
    scope: Scope,
}

impl Place {
    fn new(budget_bytes: usize) -> Self {
        let scratch = tempfile::tempdir().expect("a temporary directory");
        let (blocks, scope) = (Arc::new(MemoryBlocks::new()), Scope::all());
        Self { blocks, scratch, budget_bytes, trims: false, scope }
    }

    fn config(&self) -> Config {
        Config {
            salt: SALT,
            scope: self.scope.clone(),
            scratch_dir: PathBuf::from(self.scratch.path()),
            seals_scratch: true,
            change_budget_bytes: self.budget_bytes,
            trims_capped_unlogged: self.trims,
        }
    }

    fn load(&self, root: &HeadRoot) -> Head {
        Head::load(self.blocks.clone(), self.config(), root).expect("a head that was flushed")
    }

    fn flush(&self, head: &mut Head) -> HeadRoot {
        head.flush(&*self.blocks).expect("flushes")
    }

    /// Files in scratch.
    fn scratch_files(&self) -> usize {
        std::fs::read_dir(self.scratch.path()).expect("listed").count()
    }
}
