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
mod kinds;
mod moves;
mod shapes;
mod special;

pub use documents::unreadable_id;

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
use super::{Detail, Error, ReplicaSet, Result, SourceState, server_version};
use crate::oplog::OpTime;
use kinds::{Kind, Known, kinds};

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
    /// How often the catalog changes, in multiples of the usual; 0 for never.
    pub ddl: u32,
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
            ddl: 1,
        }
    }
}

/// How often each operation was done and refused.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    kinds: BTreeMap<String, Count>,
    /// The forms of those that have several.
    forms: BTreeMap<String, Count>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    done: u64,
    refused: u64,
}

impl Count {
    fn add(&mut self, done: bool) {
        if done { self.done += 1 } else { self.refused += 1 }
    }
}

impl Summary {
    /// A summary of nothing done yet.
    fn of(kinds: &[(Kind, u32)]) -> Self {
        let kinds = kinds.iter().map(|(kind, _)| (format!("{kind:?}"), Count::default()));
        Self { kinds: kinds.collect(), forms: BTreeMap::new() }
    }

    /// Operations done.
    pub fn done(&self) -> u64 {
        self.kinds.values().map(|count| count.done).sum()
    }

    /// Operations of the plan that were never once done, by name.
    pub fn never_done(&self) -> Vec<&str> {
        never(&self.kinds)
    }

    /// Forms of operations that were never once done, though the operation was drawn.
    pub fn forms_never_done(&self) -> Vec<&str> {
        never(&self.forms)
    }
}

fn never(counts: &BTreeMap<String, Count>) -> Vec<&str> {
    let never = counts.iter().filter(|(_, count)| count.done == 0);
    never.map(|(name, _)| name.as_str()).collect()
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, Count { done, refused }) in self.kinds.iter().chain(&self.forms) {
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
        let version = server_version(client).await?;
        let major = version.split('.').next().and_then(|major| major.parse().ok());
        let major = major.ok_or(Error::Reply { command: "buildInfo", field: "version" })?;
        prepare(client, plan, major).await?;
        let kinds = kinds(plan, major);
        let summary = Arc::new(Mutex::new(Summary::of(&kinds)));
        let mut crew = Crew::new();
        let share = f64::from(plan.writers) / f64::from(plan.operations_per_second.max(1));
        for number in 1..=plan.writers {
            let mut hand = Hand::new(client.clone(), plan, major, number);
            // Several at once fill the small cache of a server, and wait until they are ended.
            let alone = |kind: Kind| number == 1 || kind != Kind::LargeTransaction;
            let kinds: Vec<_> = kinds.iter().copied().filter(|(kind, _)| alone(*kind)).collect();
            let mut first: Vec<Kind> = kinds.iter().map(|(kind, _)| *kind).collect();
            first.shuffle(&mut hand.rng);
            let summary = Arc::clone(&summary);
            let writer = Writer { hand, first, kinds, summary };
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

async fn prepare(client: &Client, plan: &Plan, major: u32) -> Result<()> {
    let mut hand = Hand::new(client.clone(), plan, major, 0);
    let shapes = shapes::shapes(major);
    let mut filled = shapes::writable(&shapes);
    filled.dedup();
    for name in DATABASES {
        let database = client.database(name);
        for shape in &shapes {
            shape.make(&database).await.map_err(Error::driver("create a collection"))?;
        }
        for shape in &filled {
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
    /// First number of the server's version.
    major: u32,
    /// Collections that take the ordinary writes.
    writable: Vec<&'static str>,
    /// What the operation under way chose from, and chose.
    chosen: Option<Chosen>,
}

/// A choice among the forms of an operation.
struct Chosen {
    of: Vec<&'static str>,
    form: &'static str,
}

impl Hand {
    fn new(client: Client, plan: &Plan, major: u32, number: u32) -> Self {
        let rng = StdRng::seed_from_u64(plan.seed.wrapping_mul(1_000).wrapping_add(number.into()));
        Self {
            client,
            rng,
            ids: plan.ids.max(1),
            clock_ms: SERIES_START_MS,
            last_database: DATABASES[0],
            major,
            writable: shapes::writable(&shapes::shapes(major)),
            chosen: None,
        }
    }

    /// One of the forms that the server knows; the summary counts it by name.
    fn choose<T>(&mut self, forms: impl IntoIterator<Item = (Known, &'static str, T)>) -> T {
        let known = forms.into_iter().filter(|(known, ..)| known.by(self.major));
        let mut forms: Vec<(&'static str, T)> = known.map(|(_, name, form)| (name, form)).collect();
        let of = forms.iter().map(|(name, _)| *name).collect();
        let (form, value) = forms.swap_remove(self.rng.random_range(0..forms.len()));
        self.chosen = Some(Chosen { of, form });
        value
    }

    /// A database, drawn anew.
    fn database(&mut self) -> Database {
        self.last_database = DATABASES[usize::from(self.rng.random_bool(0.3))];
        self.client.database(self.last_database)
    }

    /// The one that was not drawn last.
    fn other_database(&self) -> &'static str {
        if self.last_database == DATABASES[0] { DATABASES[1] } else { DATABASES[0] }
    }

    fn churn_name(&mut self) -> String {
        format!("churn_{}", self.rng.random_range(0..shapes::CHURN))
    }

    fn collection_name(&mut self) -> String {
        if self.rng.random_bool(0.15) {
            return self.churn_name();
        }
        self.writable[self.rng.random_range(0..self.writable.len())].to_owned()
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
            Kind::WriteUnreadable => self.write_unreadable().await,
            Kind::InsertCapped => self.insert_capped().await,
            Kind::UpdateCapped => self.update_capped().await,
            Kind::WriteSeries => self.write_series().await,
            Kind::Update => self.update().await,
            Kind::UpdateByPipeline => self.update_by_pipeline().await,
            Kind::Replace => self.replace().await,
            Kind::Upsert => self.upsert().await,
            Kind::FindAndModify => self.find_and_modify().await,
            Kind::Delete => self.delete().await,
            Kind::Empty => self.empty().await,
            Kind::Move => self.move_documents().await,
            Kind::SwapKeys => self.swap_keys().await,
            Kind::StoreFunction => self.store_function().await,
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
            Kind::AbortIndex => self.abort_index().await,
            Kind::DropIndex => self.drop_index().await,
            Kind::ChangeView => self.change_view().await,
            Kind::ChangeUsers => self.change_users().await,
            Kind::WholeDatabase => self.whole_database().await,
        }
    }
}

struct Writer {
    hand: Hand,
    /// Each operation once, before they are drawn by weight.
    first: Vec<Kind>,
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
        if let Some(kind) = self.first.pop() {
            return kind;
        }
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

    fn count(&mut self, kind: Kind, done: bool) {
        let mut summary = self.summary.lock().unwrap_or_else(PoisonError::into_inner);
        summary.kinds.entry(format!("{kind:?}")).or_default().add(done);
        let Some(Chosen { of, form }) = self.hand.chosen.take() else { return };
        let name = |form| format!("{kind:?}/{form}");
        for form in of {
            summary.forms.entry(name(form)).or_default();
        }
        summary.forms.entry(name(form)).or_default().add(done);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::{Mongod, Options, Release};

    async fn does_everything(release: Release) {
        let mongod = Some(Mongod::fetch(release).expect("a server"));
        let options = Options { mongod, ..Options::members(1) };
        let set = ReplicaSet::start(options).await.expect("start");
        let plan = Plan { operations_per_second: 4_000, ddl: 3, ..Plan::small(1) };
        let mut workload = Workload::start(set.client(), &plan).await.expect("workload");
        let mut last = None;
        for round in 0.. {
            sleep(Duration::from_secs(3)).await;
            let (at, state) = workload.pause(&set, Detail::Collections).await.expect("pause");
            let again = SourceState::capture(set.client(), Detail::Collections).await;
            assert_eq!(state.differences(&again.expect("capture")), Vec::<String>::new());
            assert!(last.is_none_or(|last| last < at));
            last = Some(at);
            let summary = workload.summary();
            let never = [summary.never_done(), summary.forms_never_done()].concat();
            if never.is_empty() {
                assert!(summary.forms.len() > 50, "few forms: {summary}");
                break;
            }
            // On a machine that others use, too, few operations fit a round.
            assert!(round < 60, "never done: {never:?} of {summary}");
            workload.resume();
        }
        workload.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_operation_is_done_and_pauses_are_quiet() {
        does_everything(Release::V6_0_5).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_operation_is_done_and_pauses_are_quiet_on_4_4() {
        does_everything(Release::V4_4_2).await;
    }
}
