//! A seeded random workload: ordinary and special collections, every family of update operator,
//! transactions, and changes of the catalog, by several writers at a bounded rate.
//!
//! Each writer draws from a generator of its own, derived from the seed. How the writers' operations
//! interleave is up to the scheduler and the server, so a seed gives the same operations, not the
//! same oplog. Many operations are refused (a duplicate key, a missing collection): that is part
//! of the mixture, and [`Summary`] counts them.

mod crud;
mod ddl;
mod documents;
mod shapes;
mod special;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bson::{Document, doc};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use mongodb::error::ErrorKind;
use mongodb::{Client, Collection, Database};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::sleep;

use super::crew::{Crew, Pace};
use super::{Detail, Error, ReplicaSet, Result, SourceState};
use crate::oplog::OpTime;

/// The databases that are written to; the second has an odd name.
const DATABASES: [&str; 2] = ["shop", "od-d_\u{fc}"];
/// After an error of the connection: servers are being killed.
const BACK_OFF: Duration = Duration::from_millis(100);
/// Base time of time series, 2026-01-01T00:00:00Z, ms.
const SERIES_START_MS: i64 = 1_767_225_600_000;

/// Documents of an insert while the first ones are loaded.
const LOAD_BATCH: usize = 1_000;
/// Inserts under way at a time while documents are loaded in no order.
const LOADERS: usize = 4;

/// What a workload does.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Decides everything that is random.
    pub seed: u64,
    /// Concurrent writers.
    pub writers: u32,
    /// Operations a second, all writers together.
    pub operations_per_second: u32,
    /// Different `_id` values for each collection.
    pub ids: u32,
    /// Documents inserted into each ordinary collection before the writers start.
    pub preload: u32,
    /// Whether there are transactions of more than 16 MiB.
    pub large_transactions: bool,
    /// Whether the catalog changes.
    pub ddl: bool,
}

impl Plan {
    /// A small mixture of everything.
    pub fn small(seed: u64) -> Self {
        Self {
            seed,
            writers: 3,
            operations_per_second: 400,
            ids: 700,
            preload: 500,
            large_transactions: true,
            ddl: true,
        }
    }
}

/// The operations, with their weights.
#[derive(Debug, Clone, Copy)]
enum Kind {
    InsertOne,
    InsertMany,
    InsertCommand,
    InsertOdd,
    InsertCapped,
    UpdateCapped,
    WriteSeries,
    Update,
    UpdateByPipeline,
    Replace,
    Upsert,
    FindAndModify,
    Delete,
    Transaction,
    LargeTransaction,
    TransactionWithDdl,
    Create,
    DropCollection,
    Recreate,
    Rename,
    AggregateInto,
    ToCapped,
    ChangeOptions,
    CreateIndex,
    DropIndex,
    ChangeView,
    ChangeUsers,
    WholeDatabase,
}

const DOCUMENT_KINDS: [(Kind, u32); 14] = [
    (Kind::InsertOne, 100),
    (Kind::InsertMany, 60),
    (Kind::InsertCommand, 20),
    (Kind::InsertOdd, 20),
    (Kind::InsertCapped, 40),
    (Kind::UpdateCapped, 6),
    (Kind::WriteSeries, 30),
    (Kind::Update, 300),
    (Kind::UpdateByPipeline, 60),
    (Kind::Replace, 60),
    (Kind::Upsert, 60),
    (Kind::FindAndModify, 60),
    (Kind::Delete, 130),
    (Kind::Transaction, 60),
];

const CATALOG_KINDS: [(Kind, u32); 13] = [
    (Kind::TransactionWithDdl, 8),
    (Kind::Create, 12),
    (Kind::DropCollection, 16),
    (Kind::Recreate, 2),
    (Kind::Rename, 10),
    (Kind::AggregateInto, 10),
    (Kind::ToCapped, 4),
    (Kind::ChangeOptions, 10),
    (Kind::CreateIndex, 14),
    (Kind::DropIndex, 6),
    (Kind::ChangeView, 6),
    (Kind::ChangeUsers, 6),
    (Kind::WholeDatabase, 4),
];

/// How often each operation was done and refused.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    counts: BTreeMap<String, (u64, u64)>,
}

impl Summary {
    /// Operations done.
    pub fn done(&self) -> u64 {
        self.counts.values().map(|(done, _)| done).sum()
    }

    /// Operations that were never once done, by name.
    pub fn never_done(&self) -> Vec<&str> {
        self.counts
            .iter()
            .filter(|(_, count)| count.0 == 0)
            .map(|(name, _)| name.as_str())
            .collect()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, (done, refused)) in &self.counts {
            write!(f, "{name} {done}+{refused} ")?;
        }
        Ok(())
    }
}

/// A running workload.
pub struct Workload {
    crew: Crew,
    summary: Arc<Mutex<Summary>>,
}

impl Workload {
    /// Makes the collections, loads the first documents and starts the writers.
    ///
    /// # Errors
    /// The driver's, while the collections are made.
    pub async fn start(client: &Client, plan: &Plan) -> Result<Self> {
        prepare(client, plan).await?;
        let summary = Arc::new(Mutex::new(Summary::default()));
        let mut crew = Crew::new();
        let share = f64::from(plan.writers) / f64::from(plan.operations_per_second.max(1));
        for number in 1..=plan.writers {
            let writer = Writer {
                hand: Hand::new(client.clone(), plan, number),
                kinds: kinds(plan),
                summary: Arc::clone(&summary),
            };
            crew.add(Duration::from_secs_f64(share), |pace| writer.run(pace));
        }
        Ok(Self { crew, summary })
    }

    /// Loads small documents, their `_id`s of all types, in random order and by several clients at a
    /// time, so that members of a set come to hold them in different natural orders.
    ///
    /// # Errors
    /// The driver's.
    pub async fn load(collection: &Collection<Document>, seed: u64, count: u32) -> Result<()> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut numbers: Vec<u32> = (0..count).collect();
        numbers.shuffle(&mut rng);
        let batches: Vec<Vec<Document>> = numbers
            .chunks(LOAD_BATCH)
            .map(|chunk| {
                let small = |n: &u32| doc! { "_id": documents::id(&mut rng, *n), "n": n };
                chunk.iter().map(small).collect()
            })
            .collect();
        let inserts = batches.into_iter().map(|batch| async move {
            match collection.insert_many(batch).ordered(false).await {
                // Two numbers may be one `_id`: a null, a NaN.
                Err(error) if !is_refusal(&error) => Err(Error::driver("load documents")(error)),
                _ => Ok(()),
            }
        });
        stream::iter(inserts).buffer_unordered(LOADERS).try_collect::<()>().await
    }

    /// Waits until no operation runs and holds the writers; returns the optime of the set's newest
    /// entry, which all its members have, and the state at it.
    ///
    /// # Errors
    /// The set does not come to rest, or the driver's.
    pub async fn pause(
        &mut self,
        set: &ReplicaSet,
        detail: Detail,
    ) -> Result<(OpTime, SourceState)> {
        self.crew.rest(set, detail).await
    }

    /// Lets the writers go on.
    pub fn resume(&mut self) {
        self.crew.release();
    }

    /// What was done so far.
    pub fn summary(&self) -> Summary {
        self.summary.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the writers, after the operation each is in.
    pub async fn stop(mut self) -> Summary {
        self.crew.finish().await;
        self.summary()
    }
}

fn kinds(plan: &Plan) -> Vec<(Kind, u32)> {
    let mut kinds = DOCUMENT_KINDS.to_vec();
    if plan.large_transactions {
        kinds.push((Kind::LargeTransaction, 1));
    }
    if plan.ddl {
        kinds.extend(CATALOG_KINDS);
    }
    kinds
}

async fn prepare(client: &Client, plan: &Plan) -> Result<()> {
    let mut hand = Hand::new(client.clone(), plan, 0);
    for name in DATABASES {
        let database = client.database(name);
        for command in shapes::commands() {
            database.run_command(command).await.map_err(Error::driver("create a collection"))?;
        }
        for shape in shapes::WRITABLE.iter().skip(1) {
            load(&database.collection(shape), &mut hand.rng, plan.preload).await?;
        }
    }
    Ok(())
}

async fn load(collection: &Collection<Document>, rng: &mut StdRng, count: u32) -> Result<()> {
    let mut numbers: Vec<u32> = (0..count).collect();
    numbers.shuffle(rng);
    for chunk in numbers.chunks(LOAD_BATCH) {
        let documents = chunk.iter().map(|n| {
            let id = documents::id(rng, *n);
            documents::document(rng, id)
        });
        // Some are refused: equal under a collation, or against a validator.
        let inserted = collection.insert_many(documents).ordered(false).await;
        if let Err(error) = inserted
            && !is_refusal(&error)
        {
            return Err(Error::driver("load documents")(error));
        }
    }
    Ok(())
}

/// Whether a server understood the operation and said no.
fn is_refusal(error: &mongodb::error::Error) -> bool {
    matches!(*error.kind, ErrorKind::Command(_) | ErrorKind::Write(_) | ErrorKind::InsertMany(_))
}

/// One writer's generator and connection: what the operations are methods of.
struct Hand {
    client: Client,
    rng: StdRng,
    ids: u32,
    clock_ms: i64,
    last_database: &'static str,
}

impl Hand {
    fn new(client: Client, plan: &Plan, number: u32) -> Self {
        let rng = StdRng::seed_from_u64(plan.seed.wrapping_mul(1_000).wrapping_add(number.into()));
        let last_database = DATABASES[0];
        Self { client, rng, ids: plan.ids.max(1), clock_ms: SERIES_START_MS, last_database }
    }

    /// A database, drawn anew.
    fn database(&mut self) -> Database {
        self.last_database = DATABASES[usize::from(self.rng.random_bool(0.3))];
        self.client.database(self.last_database)
    }

    /// The one drawn last.
    fn last_database(&self) -> &'static str {
        self.last_database
    }

    fn churn_name(&mut self) -> String {
        format!("churn_{}", self.rng.random_range(0..shapes::CHURN))
    }

    fn collection_name(&mut self) -> String {
        if self.rng.random_bool(0.15) {
            return self.churn_name();
        }
        shapes::WRITABLE[self.rng.random_range(0..shapes::WRITABLE.len())].to_owned()
    }

    fn collection(&mut self) -> Collection<Document> {
        let name = self.collection_name();
        self.database().collection(&name)
    }

    async fn perform(&mut self, kind: Kind) -> mongodb::error::Result<()> {
        match kind {
            Kind::InsertOne => self.insert_one().await,
            Kind::InsertMany => self.insert_many().await,
            Kind::InsertCommand => self.insert_command().await,
            Kind::InsertOdd => self.insert_odd().await,
            Kind::InsertCapped => self.insert_capped().await,
            Kind::UpdateCapped => self.update_capped().await,
            Kind::WriteSeries => self.write_series().await,
            Kind::Update => self.update().await,
            Kind::UpdateByPipeline => self.update_by_pipeline().await,
            Kind::Replace => self.replace().await,
            Kind::Upsert => self.upsert().await,
            Kind::FindAndModify => self.find_and_modify().await,
            Kind::Delete => self.delete().await,
            Kind::Transaction => self.transaction().await,
            Kind::LargeTransaction => self.large_transaction().await,
            Kind::TransactionWithDdl => self.transaction_with_ddl().await,
            Kind::Create => self.create().await,
            Kind::DropCollection => self.drop_collection().await,
            Kind::Recreate => self.recreate().await,
            Kind::Rename => self.rename().await,
            Kind::AggregateInto => self.aggregate_into().await,
            Kind::ToCapped => self.make_capped().await,
            Kind::ChangeOptions => self.change_options().await,
            Kind::CreateIndex => self.create_index().await,
            Kind::DropIndex => self.drop_index().await,
            Kind::ChangeView => self.change_view().await,
            Kind::ChangeUsers => self.change_users().await,
            Kind::WholeDatabase => self.whole_database().await,
        }
    }
}

struct Writer {
    hand: Hand,
    kinds: Vec<(Kind, u32)>,
    summary: Arc<Mutex<Summary>>,
}

impl Writer {
    async fn run(mut self, mut pace: Pace) {
        while let Some(turn) = pace.turn().await {
            let kind = self.draw();
            let result = self.hand.perform(kind).await;
            drop(turn);
            self.count(kind, result.is_ok());
            if let Err(error) = result {
                tracing::debug!(?kind, %error, "refused");
                if !is_refusal(&error) {
                    sleep(BACK_OFF).await;
                }
            }
        }
    }

    fn draw(&mut self) -> Kind {
        let total: u32 = self.kinds.iter().map(|(_, weight)| weight).sum();
        let mut at = self.hand.rng.random_range(0..total);
        for (kind, weight) in &self.kinds {
            if at < *weight {
                return *kind;
            }
            at -= weight;
        }
        Kind::InsertOne
    }

    fn count(&self, kind: Kind, done: bool) {
        let mut summary = self.summary.lock().unwrap_or_else(PoisonError::into_inner);
        let count = summary.counts.entry(format!("{kind:?}")).or_default();
        if done { count.0 += 1 } else { count.1 += 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn every_operation_is_done_and_pauses_are_quiet() {
        let set = ReplicaSet::of(1).await.expect("start");
        let plan = Plan { operations_per_second: 4_000, ..Plan::small(1) };
        let mut workload = Workload::start(set.client(), &plan).await.expect("workload");
        let kinds = kinds(&plan).len();
        let mut last = None;
        for round in 0.. {
            sleep(Duration::from_secs(3)).await;
            let (at, state) = workload.pause(&set, Detail::Collections).await.expect("pause");
            let again = SourceState::capture(set.client(), Detail::Collections).await;
            assert_eq!(state.differences(&again.expect("capture")), Vec::<String>::new());
            assert!(last.is_none_or(|last| last < at));
            last = Some(at);
            let summary = workload.summary();
            if summary.never_done().is_empty() && summary.counts.len() == kinds {
                break;
            }
            assert!(round < 20, "some operations are never done: {summary}");
            workload.resume();
        }
        workload.stop().await;
    }
}
