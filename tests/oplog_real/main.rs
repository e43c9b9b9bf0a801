//! Updates on real servers, replayed from their oplog.
//!
//! Every family of update operators runs against random documents. The state of the document is
//! read back after each update; then the oplog is parsed and applied, and each state must come out
//! again, byte for byte. A second pass applies each document's entries to states newer than they
//! are, as a scan does that is not caught up, and must end in the same bytes.

mod updates;

use std::collections::BTreeMap;

use bson::raw::RawBsonRef;
use bson::{Bson, Document, RawDocument, RawDocumentBuf, Timestamp, doc};
use futures::TryStreamExt;
use headstock::lab::{Mongod, Options, Release, ReplicaSet};
use headstock::oplog::{self, NameOrder, Operation, Parsed, Rules};
use mongodb::Client;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use updates::{Change, change, document};

/// Updates per run. `HEADSTOCK_TEST_UPDATES` overrides it for a long run.
const UPDATES: usize = 2_000;
/// Documents that the updates change.
const DOCUMENTS: usize = 40;
/// Intermediate states per document from which its entries are applied again.
const RESTARTS_MAX: usize = 12;
/// Families of updates, each of which must succeed at least once.
const FAMILIES: usize = 25;
const DATABASE: &str = "updates";
const COLLECTION: &str = "c";

fn from_environment<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// A run of updates against one set, and what was seen after each.
struct Run {
    client: Client,
    rng: StdRng,
    /// States of each document after each change, by key.
    seen: BTreeMap<String, Vec<Option<RawDocumentBuf>>>,
    /// Successful updates by family.
    families: BTreeMap<&'static str, usize>,
}

/// A key under which equal numbers of different types meet.
fn key(id: RawBsonRef<'_>) -> String {
    match id {
        RawBsonRef::Int32(number) => number.to_string(),
        RawBsonRef::Int64(number) => number.to_string(),
        RawBsonRef::Double(number) => number.to_string(),
        other => format!("{other:?}"),
    }
}

fn key_in(document: &RawDocument) -> String {
    key(document.get("_id").expect("valid").expect("an _id"))
}

fn key_of(id: &Bson) -> String {
    key_in(&RawDocumentBuf::try_from(&doc! { "_id": id }).expect("encodes"))
}

fn id_of(rng: &mut StdRng, n: usize) -> Bson {
    let n = i32::try_from(n).expect("few documents");
    match rng.random_range(0..5) {
        0 | 1 => Bson::Int32(n),
        2 => Bson::Int64(i64::from(n)),
        3 => Bson::String(format!("id {n}")),
        _ => doc! { "n": n, "s": "x" }.into(),
    }
}

impl Run {
    fn new(client: Client, seed: u64) -> Self {
        let rng = StdRng::seed_from_u64(seed);
        Self { client, rng, seen: BTreeMap::new(), families: BTreeMap::new() }
    }

    /// Runs a write command; whether it changed something. Refusals of the server are none of ours.
    async fn write(&self, command: Document) -> bool {
        let reply = self.client.database(DATABASE).run_command(command).await;
        reply.is_ok_and(|reply| {
            !reply.contains_key("writeErrors") && matches!(reply.get_i32("n"), Ok(1))
        })
    }

    async fn state(&self, id: &Bson) -> Option<RawDocumentBuf> {
        let collection = self.client.database(DATABASE).collection::<RawDocumentBuf>(COLLECTION);
        collection.find_one(doc! { "_id": id }).await.expect("a readable document")
    }

    async fn record(&mut self, id: &Bson) {
        let state = self.state(id).await;
        let states = self.seen.entry(key_of(id)).or_default();
        if states.last() != Some(&state) {
            states.push(state);
        }
    }

    async fn insert(&mut self, id: &Bson) {
        let document = document(&mut self.rng, id.clone());
        assert!(self.write(doc! { "insert": COLLECTION, "documents": [document] }).await);
        self.record(id).await;
    }

    async fn update(&mut self, id: &Bson, now: &Document) {
        let Change { family, mut query, update, filters } = change(&mut self.rng, now);
        query.insert("_id", id);
        let mut statement = doc! { "q": query, "u": update, "upsert": self.rng.random_ratio(1, 9) };
        if !filters.is_empty() {
            statement.insert("arrayFilters", filters);
        }
        if self.write(doc! { "update": COLLECTION, "updates": [statement] }).await {
            *self.families.entry(family).or_default() += 1;
            self.record(id).await;
        }
    }

    /// One step: mostly an update, sometimes a delete, an upsert or an insert.
    async fn step(&mut self, ids: &[Bson]) {
        let id = &ids[self.rng.random_range(0..ids.len())];
        let states = self.seen.get(&key_of(id));
        let now = states.and_then(|states| states.last()).and_then(Option::as_ref);
        let Some(now) = now.map(|now| Document::try_from(&**now).expect("valid")) else {
            if self.rng.random() {
                self.insert(id).await;
            } else {
                let set = doc! { "$set": { "a.b": 1 }, "$setOnInsert": { "z": 2, "c": 3 } };
                let statement = doc! { "q": { "_id": id }, "u": set, "upsert": true };
                assert!(self.write(doc! { "update": COLLECTION, "updates": [statement] }).await);
                self.record(id).await;
            }
            return;
        };
        if self.rng.random_ratio(1, 60) {
            let deletes = doc! { "q": { "_id": id }, "limit": 1 };
            assert!(self.write(doc! { "delete": COLLECTION, "deletes": [deletes] }).await);
            self.record(id).await;
        } else {
            self.update(id, &now).await;
        }
    }

    /// Entries of the collection, in order.
    async fn entries(&self) -> Vec<RawDocumentBuf> {
        let oplog = self.client.database("local").collection::<RawDocumentBuf>("oplog.rs");
        let filter = doc! {
            "ts": { "$gt": Timestamp { time: 0, increment: 0 } },
            "ns": format!("{DATABASE}.{COLLECTION}"),
        };
        let cursor = oplog.find(filter).await.expect("a cursor");
        cursor.try_collect().await.expect("the oplog")
    }
}

/// Applies one entry to the state of its document; none if it is of no document.
fn applied(
    entry: &RawDocumentBuf,
    old: impl FnOnce(&str) -> Option<RawDocumentBuf>,
    rules: Rules,
) -> Option<(String, Option<RawDocumentBuf>)> {
    let Parsed::Single(operation) = oplog::parse(entry).expect("a known entry") else {
        panic!("no transactions here")
    };
    match operation {
        Operation::Insert { document, .. } => Some((key_in(document), Some(document.to_owned()))),
        Operation::Delete { id, .. } => Some((key_in(id), None)),
        Operation::Update { id, update, upsert, .. } => {
            let (key, rules) =
                (key_in(id), Rules { upsert_missing: rules.upsert_missing || upsert, ..rules });
            let old = old(&key);
            let new = oplog::apply(&update, old.as_deref(), id, rules);
            let new = new.unwrap_or_else(|error| panic!("{entry:?} on {old:?}: {error}"));
            Some((key, new))
        }
        Operation::Noop(_) | Operation::Command { .. } => None,
    }
}

/// Replays entries from nothing; the states and the entries of each document.
fn replay(
    entries: &[RawDocumentBuf],
    name_order: NameOrder,
) -> BTreeMap<String, (Vec<Option<RawDocumentBuf>>, Vec<RawDocumentBuf>)> {
    let mut all: BTreeMap<String, (Vec<Option<RawDocumentBuf>>, Vec<RawDocumentBuf>)> =
        BTreeMap::new();
    let rules = Rules { upsert_missing: false, name_order };
    for entry in entries {
        let old = |key: &str| all.get(key).and_then(|(states, _)| states.last().cloned().flatten());
        let Some((key, new)) = applied(entry, old, rules) else { continue };
        let (states, own) = all.entry(key).or_default();
        if states.last() != Some(&new) {
            states.push(new);
        }
        own.push(entry.clone());
    }
    all
}

/// Drives `updates` steps and compares what the server had with what the oplog gives.
async fn check(mut run: Run, updates: usize, name_order: NameOrder) {
    let ids: Vec<Bson> = (0..DOCUMENTS).map(|n| id_of(&mut run.rng, n)).collect();
    for _ in 0..updates {
        run.step(&ids).await;
    }
    println!("successful updates: {:?}", run.families);
    let families = run.families.len();
    let entries = run.entries().await;
    let replayed = replay(&entries, name_order);
    let mut states_compared = 0;
    for (key, seen) in &run.seen {
        let (states, own) = &replayed[key];
        for (seen, found) in seen.iter().zip(states) {
            assert_eq!(found, seen, "document {key}: {own:#?}");
            states_compared += 1;
        }
        assert_eq!(states.len(), seen.len(), "document {key}");
    }
    let mut restarts = 0;
    let rules = Rules { upsert_missing: false, name_order };
    for (key, (states, own)) in &replayed {
        let step = states.len().div_ceil(RESTARTS_MAX).max(1);
        for start in states.iter().step_by(step) {
            let mut state = start.clone();
            for entry in own {
                let old = state.take();
                state = applied(entry, |_| old, rules).and_then(|(_, new)| new);
            }
            assert_eq!(Some(&state), states.last(), "document {key} from {start:?}");
            restarts += 1;
        }
    }
    println!("{} entries, {states_compared} states equal, {restarts} restarts", entries.len());
    assert_eq!(families, FAMILIES, "a family of updates never succeeded");
    assert!(states_compared > updates / 3, "too few updates did anything");
}

fn seed() -> u64 {
    let seed = from_environment("HEADSTOCK_TEST_SEED").unwrap_or_else(rand::random);
    println!("HEADSTOCK_TEST_SEED={seed}");
    seed
}

async fn single_member(release: Release, name_order: NameOrder) {
    let mongod = Mongod::fetch(release).expect("a server");
    let options = Options { mongod: Some(mongod), ..Options::default() };
    let set = ReplicaSet::start(options).await.expect("a set");
    let updates = from_environment("HEADSTOCK_TEST_UPDATES").unwrap_or(UPDATES);
    check(Run::new(set.client().clone(), seed()), updates, name_order).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_on_6_0() {
    single_member(Release::V6_0_5, NameOrder::Numeric).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_on_4_4() {
    single_member(Release::V4_4_2, NameOrder::Bytes).await;
}

/// Repeated names and an `_id` that a pipeline does not put first: what counts is a secondary's
/// document, which for repeated names differs from the primary's.
#[tokio::test(flavor = "multi_thread")]
async fn secondaries_have_what_the_oplog_gives() {
    let set = ReplicaSet::of(2).await.expect("a set");
    let secondary = 1 - set.primary().await.expect("a primary");
    let reader = set.member(secondary).await.expect("a client");
    let run = Run::new(set.client().clone(), 0);
    let filler = "x".repeat(300);
    let cases: [(RawDocumentBuf, Bson); 5] = [
        (
            bson::rawdoc! { "_id": 0, "a": 1, "b": 2, "a": 3, "f": &*filler },
            doc! { "$set": { "a": 9 } }.into(),
        ),
        (
            bson::rawdoc! { "_id": 1, "a": 1, "b": 2, "a": 3, "f": &*filler },
            doc! { "$unset": { "a": 1 } }.into(),
        ),
        (
            bson::rawdoc! { "_id": 2, "a": { "x": 1 }, "a": { "x": 2 }, "f": &*filler },
            doc! { "$set": { "a.x": 9 } }.into(),
        ),
        (
            bson::rawdoc! { "_id": 3, "a": 1 },
            vec![doc! { "$replaceWith": { "$mergeObjects": [{ "z": 1 }, "$$ROOT"] } }].into(),
        ),
        (
            bson::rawdoc! { "_id": 4, "a": 1, "f": &*filler },
            vec![doc! { "$replaceWith": { "$mergeObjects": [{ "z": 1 }, "$$ROOT"] } }].into(),
        ),
    ];
    let concern = || bson::rawdoc! { "w": 2, "wtimeout": 20_000 };
    let database = run.client.database(DATABASE);
    for (document, update) in &cases {
        let id = document.get("_id").expect("valid").expect("present");
        let insert = bson::rawdoc! {
            "insert": COLLECTION, "documents": [document.clone()], "writeConcern": concern(),
        };
        database.run_raw_command(insert).await.expect("an insert");
        let statement = doc! { "q": { "_id": Bson::try_from(id).expect("valid") }, "u": update };
        let command = doc! {
            "update": COLLECTION, "updates": [statement],
            "writeConcern": Document::try_from(&*concern()).expect("valid"),
        };
        let reply = database.run_command(command).await.expect("an update");
        assert!(matches!(reply.get_i32("nModified"), Ok(1)), "{reply}");
        assert!(!reply.contains_key("writeConcernError"), "{reply}");
    }
    let entries = run.entries().await;
    let replayed = replay(&entries, NameOrder::Numeric);
    let collection = reader.database(DATABASE).collection::<RawDocumentBuf>(COLLECTION);
    for (document, update) in &cases {
        let id = document.get("_id").expect("valid").expect("present");
        let filter = doc! { "_id": Bson::try_from(id).expect("valid") };
        let stored = collection.find_one(filter).await.expect("readable");
        let (states, own) = &replayed[&key(id)];
        assert_eq!(states.last(), Some(&stored), "{update:?}: {own:#?}");
    }
}
