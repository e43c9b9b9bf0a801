//! Pushing, rebuilding and grooming beside the least that each must do, on one replica set and in one run: an `insertMany` of the same
//! documents of blocks with the same write concern; a `find` of the documents that a rebuild brings back, and of its blocks by name,
//! decompressed and hashed, which is what it cannot do without; nothing for the rest. Then the same in a directory of objects: a push
//! beside writing as many bytes to files that are synced.

mod common;

use std::collections::HashMap;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bson::spec::BinarySubtype;
use bson::{Binary, Document, RawDocument, RawDocumentBuf, doc};
use common::drain::{self, COLLECTIONS};
use common::{document, megabytes_per_second, sized};
use futures::TryStreamExt as _;
use headstock::block::{self, BlockId, Codec, Dictionary, Kind};
use headstock::blockstore::Place;
use headstock::job::{Job, Push, PushOptions};
use headstock::lab::{Backup, Options, Program, ReplicaSet};
use headstock::store::{Options as StoreOptions, Store};
use mongodb::Collection;
use mongodb::options::{Acknowledgment, WriteConcern};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::task::JoinSet;

/// Rounds; the machine's noise is why there are several.
const ROUNDS: usize = 3;
/// Rates of a push and of a rebuild in relation to their limits.
const AIM: f64 = 0.8;
/// Writers of the limit, as many as a push has tasks.
const WRITERS: usize = 4;
/// Bytes of one `insertMany`, as in a push.
const BATCH_BYTES: usize = 4 << 20;
/// Bytes of a file of the limit: those of a pack.
const FILE_BYTES: usize = 16 << 20;
/// Blocks that a rebuild asks for at once.
const NAMES: usize = 1024;
/// How long a push may stand still.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    tokio::runtime::Runtime::new().expect("runtime").block_on(compare());
}

/// What one round came to.
struct Round {
    push: f64,
    rebuild: f64,
}

async fn compare() {
    let source = ReplicaSet::start(Options { cache_gb: 1.0, ..Options::members(1) }).await;
    let source = source.expect("a source");
    let count = sized(600_000, 20_000) / COLLECTIONS;
    let maker = |number: u32| {
        let mut rng = StdRng::seed_from_u64(number.into());
        move |n| document(&mut rng, n)
    };
    let bytes = drain::load(source.client(), count, maker).await;
    println!("{:.0} MB of documents", bytes as f64 / 1e6);
    let mut rounds = Vec::new();
    for _ in 0..if common::smoke() { 1 } else { ROUNDS } {
        rounds.push(round(&source, bytes).await);
    }
    let median = |pick: fn(&Round) -> f64| {
        let mut all: Vec<f64> = rounds.iter().map(pick).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    println!(
        "push at {:.2} of insertMany, rebuild at {:.2} of find, in the median of {} rounds (aims {AIM})",
        median(|round| round.push),
        median(|round| round.rebuild),
        rounds.len(),
    );
}

async fn round(source: &ReplicaSet, bytes: u64) -> Round {
    let blockstore = ReplicaSet::start(Options { cache_gb: 2.0, ..Options::members(1) }).await;
    let blockstore = blockstore.expect("a blockstore");
    let folder = tempfile::tempdir().expect("temporary folder");
    let program = || Program::new(env!("CARGO_BIN_EXE_headstock")).expect("program");
    let backup = Backup::new(program(), folder.path().join("store"));
    backup.sync(&source.uri(), &[]).await.expect("sync");

    let (pushed, first) = push(&backup, &blockstore.uri()).await;
    let blocks = blockstore.client().database("headstock").collection("blocks");
    let inserted = insert(&blockstore, &blocks).await;
    let push_ratio = inserted.as_secs_f64() / pushed.as_secs_f64();
    println!(
        "push     {:>6.1} MB stored {:>6.2} s {:>6.1} MB/s; insertMany {:>6.2} s: {push_ratio:.2}",
        first as f64 / 1e6,
        pushed.as_secs_f64(),
        megabytes_per_second(first, pushed),
        inserted.as_secs_f64(),
    );

    change(source).await;
    backup.sync(&source.uri(), &[]).await.expect("sync");
    let (again, second) = push(&backup, &blockstore.uri()).await;
    println!(
        "again    {:>6.1} MB stored {:>6.2} s after 1 % changed: {:.1} % of the bytes, {:.1} % of the time",
        second as f64 / 1e6,
        again.as_secs_f64(),
        second as f64 * 100.0 / first as f64,
        again.as_secs_f64() * 100.0 / pushed.as_secs_f64(),
    );

    let unpacked = unpacked(&blocks).await;
    let read = read_source(source).await;
    let begun = Instant::now();
    let (uri, dir) = (blockstore.uri(), folder.path().join("rebuilt"));
    let store = dir.to_str().expect("a path");
    let words = ["rebuild", "--blockstore", &uri, "--store", store];
    program().run(&words).await.expect("rebuild");
    let rebuilt = begun.elapsed();
    let rebuild_ratio = read.as_secs_f64() / rebuilt.as_secs_f64();
    println!(
        "rebuild  {:>6.1} MB of documents {:>6.2} s {:>6.1} MB/s; find of the documents at the source {:>6.2} s: {rebuild_ratio:.2}; \
         its blocks by name, decompressed and hashed, nothing else {:>6.2} s: {:.2}",
        bytes as f64 / 1e6,
        rebuilt.as_secs_f64(),
        megabytes_per_second(bytes, rebuilt),
        read.as_secs_f64(),
        unpacked.as_secs_f64(),
        unpacked.as_secs_f64() / rebuilt.as_secs_f64(),
    );
    groom(&program(), &blockstore.uri(), folder.path()).await;
    objects(&backup, &program(), folder.path(), (bytes, read)).await;
    Round { push: push_ratio, rebuild: rebuild_ratio }
}

/// Pushes the job of a store: how long that took, and bytes sent.
async fn push(backup: &Backup, blockstore: &str) -> (Duration, u64) {
    let newest = backup.newest("lab").await.expect("a snapshot");
    let store = Store::open(backup.store(), StoreOptions::default()).expect("open");
    let job = Job::open(store, None).expect("a job");
    let place = Place { uri: blockstore.to_owned(), secret: None };
    let options = PushOptions { place, bytes_per_second: None };
    let begun = Instant::now();
    let push = Push::start(job, options);
    push.wait_for(&newest.id, PATIENCE).await.expect("pushed");
    let (took, sent) = (begun.elapsed(), push.info().sent_bytes);
    push.stop().await;
    (took, sent)
}

/// Inserts the same documents once more, elsewhere, as fast as it goes.
async fn insert(set: &ReplicaSet, blocks: &Collection<RawDocumentBuf>) -> Duration {
    let all: Vec<RawDocumentBuf> =
        blocks.find(doc! {}).await.expect("find").try_collect().await.expect("drain");
    let (mut batches, mut batch, mut size) = (Vec::new(), Vec::new(), 0);
    for document in all {
        size += document.as_bytes().len();
        batch.push(document);
        if size >= BATCH_BYTES {
            batches.push(std::mem::take(&mut batch));
            size = 0;
        }
    }
    batches.push(batch);
    let mut concern = WriteConcern::builder().build();
    (concern.w, concern.journal) = (Some(Acknowledgment::Majority), Some(true));
    let limit = set.client().database("limit").collection::<RawDocumentBuf>("blocks");
    // With the index by stamp that blocks have.
    let index =
        mongodb::IndexModel::builder().keys(doc! { "stamp": 1, "_id": 1, "len": 1 }).build();
    limit.create_index(index).await.expect("index");
    let batches = Arc::new(Mutex::new(batches));
    let begun = Instant::now();
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let (limit, batches, concern) = (limit.clone(), batches.clone(), concern.clone());
        writers.spawn(async move {
            loop {
                let batch = batches.lock().expect("no panic").pop();
                let Some(batch) = batch.filter(|batch| !batch.is_empty()) else { return };
                limit
                    .insert_many(batch)
                    .ordered(false)
                    .write_concern(concern.clone())
                    .await
                    .expect("insert");
            }
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended.expect("a writer");
    }
    let took = begun.elapsed();
    limit.drop().await.expect("drop");
    took
}

/// Changes one document of a hundred.
async fn change(source: &ReplicaSet) {
    let database = source.client().database(drain::DATABASE);
    for name in database.list_collection_names().await.expect("names") {
        let collection = database.collection::<Document>(&name);
        let ids: Vec<Document> = collection
            .find(doc! {})
            .projection(doc! { "_id": 1 })
            .await
            .expect("find")
            .try_collect()
            .await
            .expect("ids");
        // All over the collection: neighbours would share their leaves.
        let chosen: Vec<_> =
            ids.iter().step_by(100).filter_map(|one| one.get("_id")).cloned().collect();
        let filter = doc! { "_id": { "$in": chosen } };
        collection.update_many(filter, doc! { "$inc": { "revision": 1 } }).await.expect("update");
    }
}

/// Reads every block by its name and checks it against that, as fast as it goes: what no rebuild can do without.
async fn unpacked(blocks: &Collection<RawDocumentBuf>) -> Duration {
    let (mut names, mut dictionaries) = (Vec::new(), HashMap::new());
    let mut cursor = blocks.find(doc! {}).await.expect("find");
    while cursor.advance().await.expect("advance") {
        let block = cursor.current();
        let id = name_of(block, "_id").expect("a name");
        if block.get_i32("kind").expect("kind") == i32::from(Kind::Dictionary.to_byte()) {
            let raw = open(block, &dictionaries).split_off(1);
            dictionaries.insert(id, Arc::new(Dictionary::new(id, raw.into())));
        }
        names.push(Binary { subtype: BinarySubtype::Generic, bytes: id.as_bytes().to_vec() });
    }
    let dictionaries = Arc::new(dictionaries);
    let batches: Vec<Vec<Binary>> = names.chunks(NAMES).map(<[Binary]>::to_vec).collect();
    let batches = Arc::new(Mutex::new(batches));
    let begun = Instant::now();
    let mut readers = JoinSet::new();
    for _ in 0..WRITERS {
        let (blocks, batches, dictionaries) =
            (blocks.clone(), batches.clone(), dictionaries.clone());
        readers.spawn(async move {
            loop {
                let batch = batches.lock().expect("no panic").pop();
                let Some(batch) = batch else { return };
                let find = blocks.find(doc! { "_id": { "$in": batch } });
                let mut cursor = find.batch_size(NAMES as u32).await.expect("find");
                while cursor.advance().await.expect("advance") {
                    let block = cursor.current();
                    let name = BlockId::of_joined(&open(block, &dictionaries), None);
                    assert_eq!(Some(name), name_of(block, "_id"));
                }
            }
        });
    }
    while let Some(ended) = readers.join_next().await {
        ended.expect("a reader");
    }
    begun.elapsed()
}

fn name_of(block: &RawDocument, field: &str) -> Option<BlockId> {
    BlockId::from_slice(block.get_binary(field).ok()?.bytes)
}

/// The kind and the raw bytes of a stored block.
fn open(block: &RawDocument, dictionaries: &HashMap<BlockId, Arc<Dictionary>>) -> Vec<u8> {
    let byte = |field| block.get_i32(field).expect("a number") as u8;
    let codec = Codec::from_byte(byte("codec")).expect("a codec");
    let dictionary = name_of(block, "dict").map(|id| &*dictionaries[&id]);
    let stored = block.get_binary("data").expect("data").bytes;
    let raw_len = block.get_i32("raw").expect("raw") as usize;
    block::decompress_behind(&[byte("kind")], codec, stored, raw_len, dictionary).expect("opens")
}

/// Reads every document, as fast as it goes.
async fn drained(blocks: &Collection<RawDocumentBuf>) -> Duration {
    let begun = Instant::now();
    let mut cursor = blocks.find(doc! {}).await.expect("find");
    let mut bytes = 0;
    while cursor.advance().await.expect("advance") {
        bytes += cursor.current().as_bytes().len();
    }
    assert!(bytes > 0);
    begun.elapsed()
}

/// Reads the documents themselves where they came from, as fast as it goes.
async fn read_source(source: &ReplicaSet) -> Duration {
    let database = source.client().database(drain::DATABASE);
    let begun = Instant::now();
    for name in database.list_collection_names().await.expect("names") {
        drained(&database.collection(&name)).await;
    }
    begun.elapsed()
}

/// Removes the first snapshot and what only it needed.
async fn groom(program: &Program, uri: &str, folder: &Path) {
    let snapshots =
        program.json(&["snapshots", "--blockstore", uri, "--json"]).await.expect("list");
    let first = snapshots[0]["id"].as_str().expect("an id");
    program.run(&["snapshot", "delete", "--blockstore", uri, first]).await.expect("delete");
    let marks = folder.join("marks");
    let begun = Instant::now();
    let words =
        ["groom", "--blockstore", uri, "--json", "--marks", marks.to_str().expect("a path")];
    let report = program.json(&words).await.expect("groom");
    let took = begun.elapsed().as_secs_f64();
    let count = |field: &str| report[field].as_u64().unwrap_or(0);
    let (live, removed) = (count("live_blocks"), count("removed_blocks"));
    println!(
        "groom    {live} blocks alive, {removed} removed in {took:.2} s: {:.0} blocks/s",
        (live + removed) as f64 / took,
    );
}

/// The same in a directory: of what it took at the source, `read` is given.
async fn objects(backup: &Backup, program: &Program, folder: &Path, read: (u64, Duration)) {
    let (dir, files) = (folder.join("objects"), folder.join("files"));
    std::fs::create_dir(&dir).expect("make");
    std::fs::create_dir(&files).expect("make");
    let uri = dir.display().to_string();
    let (pushed, sent) = push(backup, &uri).await;
    let written = write_files(&files, sent);
    println!(
        "objects  {:>6.1} MB stored {:>6.2} s {:>6.1} MB/s; files of that size, synced {:>6.2} s: {:.2}",
        sent as f64 / 1e6,
        pushed.as_secs_f64(),
        megabytes_per_second(sent, pushed),
        written.as_secs_f64(),
        written.as_secs_f64() / pushed.as_secs_f64(),
    );
    let begun = Instant::now();
    let store = folder.join("of-objects");
    let store = store.to_str().expect("a path");
    program.run(&["rebuild", "--blockstore", &uri, "--store", store]).await.expect("rebuild");
    let (rebuilt, (bytes, read)) = (begun.elapsed(), read);
    println!(
        "rebuild  {:>6.1} MB of documents {:>6.2} s {:>6.1} MB/s, from objects: {:.2} of a find at the source",
        bytes as f64 / 1e6,
        rebuilt.as_secs_f64(),
        megabytes_per_second(bytes, rebuilt),
        read.as_secs_f64() / rebuilt.as_secs_f64(),
    );
    groom(program, &uri, folder).await;
}

/// Writes as many bytes to new files, each synced.
fn write_files(dir: &Path, mut bytes: u64) -> Duration {
    let content: Vec<u8> = (0..FILE_BYTES).map(|_| rand::random()).collect();
    let begun = Instant::now();
    for number in 0.. {
        let len = bytes.min(FILE_BYTES as u64);
        if len == 0 {
            break;
        }
        let mut file = std::fs::File::create_new(dir.join(format!("{number}"))).expect("create");
        file.write_all(&content[..len as usize]).expect("write");
        file.sync_all().expect("sync");
        bytes -= len;
    }
    begun.elapsed()
}
