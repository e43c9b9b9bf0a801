//! `headstock sync` beside the least that any backup must do: one process that drains the same
//! collections through the same driver and compresses what it gets (zstd level 3, as many threads as
//! there are processors), and keeps nothing. One source, one run, and the peak memory of both:
//! RssAnon + RssShmem, and RssFile (mapped files, which the system takes back at need) beside it.
//!
//! `--drain URI` is the second process; the bench starts itself with it.

mod common;

use std::fs;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use bson::{RawDocumentBuf, rawdoc};
use common::{document, megabytes_per_second, sized};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use headstock::lab::{Backup, Options, Program, ReplicaSet, Running};
use mongodb::Client;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

const DATABASE: &str = "bench";
const COLLECTIONS: u32 = 4;
const LEVEL: i32 = 3;
/// Batches that wait for a compressor, as many as read ahead is worth.
const WAITING: usize = 4;
/// Pairs of runs; the machine's noise is why there are several.
const ROUNDS: u32 = 5;
const SAMPLE_EVERY: Duration = Duration::from_millis(20);
/// Sync's rate in relation to the drain's.
const AIM: f64 = 0.8;
const AIM_MEMORY_MB: f64 = 400.0;

/// Peak memory of a process, bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Peak {
    own: u64,
    file: u64,
}

impl Peak {
    fn sample(&mut self, pid: u32) {
        // The process may have ended.
        let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { return };
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name));
            let kb = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
            kb.unwrap_or(0) * 1024
        };
        self.own = self.own.max(field("RssAnon:") + field("RssShmem:"));
        self.file = self.file.max(field("RssFile:"));
    }
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().position(|argument| argument == "--drain") {
        Some(at) => runtime.block_on(drain(&arguments[at + 1])),
        None => runtime.block_on(compare()),
    }
}

/// Reads everything and compresses it.
async fn drain(uri: &str) {
    let database = Client::with_uri_str(uri).await.expect("connect").database(DATABASE);
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let (sender, receiver) = mpsc::sync_channel::<Vec<u8>>(WAITING);
    let receiver = Arc::new(Mutex::new(receiver));
    let compressors: Vec<_> = (0..threads)
        .map(|_| {
            let receiver = Arc::clone(&receiver);
            thread::spawn(move || {
                let mut compressed = 0;
                loop {
                    let batch = receiver.lock().expect("no panics").recv();
                    let Ok(batch) = batch else { return compressed };
                    compressed += zstd::bulk::compress(&batch, LEVEL).expect("compress").len();
                }
            })
        })
        .collect();
    let reads = (0..COLLECTIONS).map(|number| {
        let (database, sender) = (database.clone(), sender.clone());
        async move {
            let command = rawdoc! { "find": format!("c{number}") };
            let mut batches = database.run_raw_cursor_command(command).batch().await?;
            while let Some(batch) = batches.next().await {
                let bytes = batch?.as_raw_document().as_bytes().to_vec();
                tokio::task::block_in_place(|| sender.send(bytes)).expect("compressors wait");
            }
            Ok::<_, mongodb::error::Error>(())
        }
    });
    let all = stream::iter(reads).map(tokio::spawn).buffer_unordered(COLLECTIONS as usize);
    all.for_each(|read| async { read.expect("no panics").expect("read") }).await;
    drop(sender);
    let compressed: usize =
        compressors.into_iter().map(|thread| thread.join().expect("no panics")).sum();
    println!("{compressed}");
}

/// Fills the source; returns its bytes.
async fn load(client: &Client, count: u32) -> u64 {
    let database = client.database(DATABASE);
    let parts = (0..COLLECTIONS).map(|number| {
        let collection = database.collection::<RawDocumentBuf>(&format!("c{number}"));
        async move {
            let mut rng = StdRng::seed_from_u64(number.into());
            let mut bytes = 0;
            for from in (0..count / COLLECTIONS).step_by(2_000) {
                let to = (from + 2_000).min(count / COLLECTIONS);
                let batch: Vec<_> = (from..to).map(|n| document(&mut rng, n)).collect();
                bytes += common::bytes_of(&batch);
                collection.insert_many(batch).ordered(false).await?;
            }
            Ok::<_, mongodb::error::Error>(bytes)
        }
    });
    let loaded = stream::iter(parts).buffer_unordered(COLLECTIONS as usize);
    loaded.try_fold(0, |sum, bytes| async move { Ok(sum + bytes) }).await.expect("load")
}

/// Waits for the end of a process; returns how long it took and its peak.
async fn measure(mut running: Running, begun: Instant) -> (Duration, Peak) {
    let mut peak = Peak::default();
    let pid = running.id().expect("just started");
    while running.is_running().expect("ask") {
        peak.sample(pid);
        tokio::time::sleep(SAMPLE_EVERY).await;
    }
    let took = begun.elapsed();
    running.wait().await.expect("a clean end");
    (took, peak)
}

fn print(what: &str, bytes: u64, (took, peak): (Duration, Peak)) -> f64 {
    let rate = megabytes_per_second(bytes, took);
    println!(
        "{what:<12} {:>8.1} MB {:>7.2} s {rate:>8.1} MB/s  peak {:>6.1} MB of its own, {:>6.1} MB of files",
        bytes as f64 / 1e6,
        took.as_secs_f64(),
        peak.own as f64 / 1e6,
        peak.file as f64 / 1e6,
    );
    rate
}

async fn compare() {
    // The server's cache holds all of it, so that both measure themselves and not its disk.
    let options = Options { cache_gb: 2.0, ..Options::members(1) };
    let set = ReplicaSet::start(options).await.expect("start a set");
    let bytes = load(set.client(), sized(800_000, 20_000)).await;
    set.wait_replicated().await.expect("replicated");

    let itself: PathBuf = std::env::current_exe().expect("own path");
    let drainer = Program::new(itself).expect("program");
    let uri = set.uri();
    let folder = tempfile::tempdir().expect("temporary folder");
    let drain = || drainer.spawn(&["--drain", &uri]).expect("start the drain");

    // Once unmeasured, to warm the server's cache.
    drain().wait().await.expect("drain");
    let (mut ratios, mut peak) = (Vec::new(), 0.0_f64);
    for round in 0..if common::smoke() { 1 } else { ROUNDS } {
        let begun = Instant::now();
        let drained = print("drain", bytes, measure(drain(), begun).await);
        let backup = Backup::new(
            Program::new(env!("CARGO_BIN_EXE_headstock")).expect("program"),
            folder.path().join(format!("store-{round}")),
        );
        let begun = Instant::now();
        let sync = backup.start_sync(&uri, &[]).expect("start the sync");
        let measured = measure(sync, begun).await;
        let synced = print("sync", bytes, measured);
        let stored = backup.status().await.expect("status").store.stored_bytes;
        println!("{:>12} stored {:.1} MB", "", stored as f64 / 1e6);
        ratios.push(synced / drained);
        peak = peak.max(measured.1.own as f64 / 1e6);
    }
    ratios.sort_by(f64::total_cmp);
    let ratio = ratios[ratios.len() / 2];
    println!(
        "sync at {ratio:.2} of the drain in the median of {} rounds (aim {AIM}); peak {peak:.0} MB \
         (aim {AIM_MEMORY_MB:.0})",
        ratios.len()
    );
}
