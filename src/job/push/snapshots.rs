//! Pushing snapshots: what the newest that is there has not got.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Binding, LOOK_EVERY, Pusher};
use crate::block::BlockId;
use crate::blockstore::{self, Asserter, Change, NAMES_MAX, Purpose, Session, lacking};
use crate::head::{HeadRoot, Manifest};
use crate::job::{Error, Job, snapshot};
use crate::oplog::OpTime;

/// Time between looks for snapshots that somebody asked to be removed.
const LOOK_FOR_UNWANTED_EVERY: Duration = Duration::from_secs(5);
/// Batches of blocks under way at a time.
const WORKERS: usize = 8;

impl Pusher {
    pub(super) async fn push_snapshots(&self, binding: &Binding) -> Result<(), Error> {
        let there = binding.blockstore.snapshots(self.job.name()).await?;
        let mut there: BTreeMap<String, Manifest> =
            there.into_iter().map(|manifest| (manifest.id.clone(), manifest)).collect();
        let mut looked = Instant::now();
        let (mut root, mut here, mut bad) = (None, Vec::new(), BTreeSet::new());
        loop {
            let tree = self.job.state().snapshots;
            if root != Some(tree) {
                here = self.with_job(|job| snapshot::manifests(job.store(), &job.state())).await?;
                root = Some(tree);
            }
            self.figures.snapshots(&there, &here);
            self.change_keep(binding, &mut there, &here).await?;
            if looked.elapsed() >= LOOK_FOR_UNWANTED_EVERY {
                looked = Instant::now();
                self.delete_unwanted(binding, &mut there).await?;
            }
            let newest = newest(&there);
            let is_next = |one: &&Manifest| is_waiting(newest, one) && !bad.contains(&one.id);
            let next = here.iter().find(is_next).cloned();
            let Some(next) = next else {
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            };
            let mut pushed = binding.pushed.subscribe();
            let optime = next.head.position.optime;
            let waited = pushed.wait_for(|pushed| pushed.ts >= optime.ts).await;
            waited.map_err(|_| blockstore::Error::WorkerLost)?;
            match self.push_snapshot(binding, &there, &next).await {
                // Later ones may not need what cannot be read here.
                Err(error) if error.damaged_block().is_some() => {
                    self.figures.pushing(None);
                    self.figures.passed_over(&next.id, &error);
                    bad.insert(next.id);
                    continue;
                }
                pushed => pushed?,
            }
            self.figures.committed();
            tracing::info!(job = self.job.name(), snapshot = next.id, "snapshot pushed");
            there.insert(next.id.clone(), next);
        }
    }

    /// Removes what somebody asked to be removed.
    async fn delete_unwanted(
        &self,
        binding: &Binding,
        there: &mut BTreeMap<String, Manifest>,
    ) -> Result<(), Error> {
        if !binding.bound.has_unwanted().await? {
            return Ok(());
        }
        let connection = binding.blockstore.connection();
        let mut session =
            Session::start(connection, Purpose::Write, Some(binding.daemon.id)).await?;
        for id in binding.bound.delete_unwanted(&mut session).await? {
            tracing::info!(job = self.job.name(), snapshot = id, "removed from the blockstore");
            there.remove(&id);
        }
        session.end().await?;
        Ok(())
    }

    /// Carries protection over.
    async fn change_keep(
        &self,
        binding: &Binding,
        there: &mut BTreeMap<String, Manifest>,
        here: &[Manifest],
    ) -> Result<(), Error> {
        for manifest in here {
            let Some(other) = there.get_mut(&manifest.id) else { continue };
            if other.keep == manifest.keep {
                continue;
            }
            let connection = binding.blockstore.connection();
            let mut session =
                Session::start(connection, Purpose::Write, Some(binding.daemon.id)).await?;
            let change = Change::Keep { id: &manifest.id, keep: manifest.keep };
            let state = self.job.state().to_bson_without_data();
            binding.bound.commit(&mut session, Some(&state), &change).await?;
            session.end().await?;
            other.keep = manifest.keep;
        }
        Ok(())
    }

    async fn push_snapshot(
        &self,
        binding: &Binding,
        there: &BTreeMap<String, Manifest>,
        manifest: &Manifest,
    ) -> Result<(), Error> {
        let connection = binding.blockstore.connection();
        let mut session =
            Session::start(connection, Purpose::Write, Some(binding.daemon.id)).await?;
        let base = self.pin_base(binding, &session, there).await?;
        let asserter = Asserter::new(connection, self.job.store(), &session, self.pace.clone());
        self.figures.pushing(Some((manifest.id.clone(), asserter.clone())));
        self.assert_lacking(&asserter, manifest.head.clone(), base).await?;
        let state = self.job.state().to_bson_without_data();
        binding.bound.commit(&mut session, Some(&state), &Change::Snapshot(manifest)).await?;
        self.figures.pushing(None);
        session.end().await?;
        Ok(())
    }

    /// Pins the newest snapshot that is both here and there, so that nothing of it need be asked about.
    async fn pin_base(
        &self,
        binding: &Binding,
        session: &Session,
        there: &BTreeMap<String, Manifest>,
    ) -> Result<Option<HeadRoot>, Error> {
        let here = self.with_job(|job| snapshot::manifests(job.store(), &job.state())).await?;
        let is_there =
            |one: &Manifest| there.get(&one.id).is_some_and(|other| other.head == one.head);
        for manifest in here.into_iter().rev().filter(is_there) {
            if binding.bound.pin(session, &manifest.id).await? {
                return Ok(Some(manifest.head));
            }
        }
        Ok(None)
    }

    /// Asserts what a head has that another has not: one thread walks, some tasks send.
    async fn assert_lacking(
        &self,
        asserter: &Asserter,
        new: HeadRoot,
        old: Option<HeadRoot>,
    ) -> Result<(), Error> {
        let (batches, waiting) = mpsc::channel::<Vec<BlockId>>(WORKERS);
        let waiting = std::sync::Arc::new(tokio::sync::Mutex::new(waiting));
        let mut workers = JoinSet::new();
        for _ in 0..WORKERS {
            let (asserter, waiting) = (asserter.clone(), waiting.clone());
            workers.spawn(async move {
                loop {
                    let batch = waiting.lock().await.recv().await;
                    match batch {
                        Some(batch) => asserter.assert(batch).await?,
                        None => return Ok::<(), blockstore::Error>(()),
                    }
                }
            });
        }
        drop(waiting);
        let walking = self.with_job(move |job| walk(job, &new, old.as_ref(), &batches));
        let sending = async {
            while let Some(ended) = workers.join_next().await {
                ended.map_err(|_| blockstore::Error::WorkerLost)??;
            }
            Ok::<(), Error>(())
        };
        // Who sends knows best why it ended: who walks only that nobody listens.
        let (walked, sent) = tokio::join!(walking, sending);
        sent.and(walked)?;
        Ok(asserter.finish().await?)
    }
}

/// The optime of the newest snapshot that is there.
pub(super) fn newest(there: &BTreeMap<String, Manifest>) -> Option<OpTime> {
    there.values().map(|one| one.head.position.optime).max()
}

/// Whether a snapshot is to be pushed: one after the newest that is there. One before it that is not there was removed, or belongs to what was
/// before a rebuild.
pub(super) fn is_waiting(newest: Option<OpTime>, manifest: &Manifest) -> bool {
    Some(manifest.head.position.optime) > newest
}

/// Walks through what is lacking, in batches; ends if nobody takes them.
fn walk(
    job: &Job,
    new: &HeadRoot,
    old: Option<&HeadRoot>,
    batches: &mpsc::Sender<Vec<BlockId>>,
) -> Result<(), Error> {
    let mut batch = Vec::with_capacity(NAMES_MAX);
    let send = |batch: &mut Vec<BlockId>| {
        let full = std::mem::replace(batch, Vec::with_capacity(NAMES_MAX));
        batches.blocking_send(full).map_err(|_| blockstore::Error::WorkerLost)
    };
    lacking(job.store(), new, old, &mut |id| {
        batch.push(id);
        if batch.len() == NAMES_MAX { send(&mut batch) } else { Ok(()) }
    })?;
    if batch.is_empty() { Ok(()) } else { Ok(send(&mut batch)?) }
}
