//! Proof that every block a restore will read is there, before the target is touched.
//!
//! A walk from the roots of the chosen namespaces. Each block is read, which checks its content
//! against its name; with trust, blocks that name no others are only looked up. Memory is bounded
//! by the fan-out of nodes times their levels, never by the number of blocks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use super::{Amount, Cancel, CheckedBlocks, Error, Phase, Progress, Proof};
use crate::block::{self, BlockId, BlockRead, references};
use crate::head::Collection;

/// Threads that read and hash: more gain nothing on the few cores a backup may use.
const MAX_THREADS: usize = 4;
/// Blocks a thread takes at a time.
const BLOCKS_PER_TURN: usize = 64;

/// Checks every block under the collections. Blocking.
pub(super) fn verify(
    blocks: &dyn BlockRead,
    collections: &[&Collection],
    trust: bool,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<CheckedBlocks, Error> {
    let tops = collections.iter().map(|collection| collection.root.top).enumerate();
    let roots = tops.filter_map(|(index, top)| Some((index, top?))).collect();
    let bytes = collections.iter().map(|collection| collection.root.bytes).sum();
    progress.begin(Phase::CheckBlocks, Amount { documents: 0, bytes });
    let walk = Walk {
        blocks,
        collections,
        trust,
        progress,
        cancel,
        queue: Mutex::new(Queue { waiting: roots, working: 0, failed: None }),
        changed: Condvar::new(),
        checked: AtomicU64::new(0),
        hashed_bytes: AtomicU64::new(0),
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| walk.work());
        }
    });
    let failed = walk.queue.into_inner().unwrap_or_else(PoisonError::into_inner).failed;
    match failed {
        Some(why) => Err(why),
        None => Ok(CheckedBlocks {
            blocks: walk.checked.into_inner(),
            hashed_bytes: walk.hashed_bytes.into_inner(),
            documents: if trust { Proof::Trusted } else { Proof::Hashed },
        }),
    }
}

struct Queue {
    /// Blocks to look at, each with the index of its collection. Taken from the end: depth first.
    waiting: Vec<(usize, BlockId)>,
    /// Threads that may still add to `waiting`.
    working: usize,
    failed: Option<Error>,
}

struct Walk<'a> {
    blocks: &'a dyn BlockRead,
    collections: &'a [&'a Collection],
    trust: bool,
    progress: &'a dyn Progress,
    cancel: &'a Cancel,
    queue: Mutex<Queue>,
    changed: Condvar,
    checked: AtomicU64,
    hashed_bytes: AtomicU64,
}

impl Walk<'_> {
    fn work(&self) {
        let mut found = Vec::new();
        while let Some(turn) = self.take() {
            let outcome = turn.into_iter().try_for_each(|(item, id)| {
                let look = self.look(id, item, &mut found);
                look.map_err(|why| Error::unreadable(&self.collections[item].ns)(why))
            });
            self.give(&mut found, outcome);
        }
    }

    fn take(&self) -> Option<Vec<(usize, BlockId)>> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if queue.failed.is_some() {
                return None;
            }
            if !queue.waiting.is_empty() {
                queue.working += 1;
                let rest = queue.waiting.len().saturating_sub(BLOCKS_PER_TURN);
                return Some(queue.waiting.split_off(rest));
            }
            if queue.working == 0 {
                return None;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn give(&self, found: &mut Vec<(usize, BlockId)>, outcome: Result<(), Error>) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.working -= 1;
        queue.waiting.append(found);
        if let Err(why) = outcome {
            queue.failed.get_or_insert(why);
        }
        self.changed.notify_all();
    }

    fn look(
        &self,
        id: BlockId,
        item: usize,
        found: &mut Vec<(usize, BlockId)>,
    ) -> Result<(), Error> {
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        self.checked.fetch_add(1, Ordering::Relaxed);
        if self.trust {
            let kind = self.blocks.kind_of(&id)?.ok_or(block::Error::Missing { id })?;
            if !kind.has_references() {
                return Ok(());
            }
        }
        let block = self.blocks.get(&id)?;
        let bytes = block.bytes.len() as u64;
        self.hashed_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.progress.advance(Amount { documents: 0, bytes });
        let below = references(block.kind, &block.bytes)?;
        found.extend(below.into_iter().map(|child| (item, child)));
        Ok(())
    }
}
