//! `headstock sync` beside the least that any backup must do: one process that drains the same
//! collections through the same driver and compresses what it gets (zstd level 3, as many threads as
//! there are processors), and keeps nothing. One source, one run, and the peak memory of both:
//! RssAnon + RssShmem, and RssFile (mapped files, which the system takes back at need) beside it.
//!
//! `--drain URI` is the second process; the bench starts itself with it.

mod common;

use std::path::PathBuf;
use std::time::Instant;

use common::drain::{self, COLLECTIONS};
use common::process::{Usage, measure};
use common::{document, megabytes_per_second, sized};
use headstock::lab::{Backup, Options, Program, ReplicaSet};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

/// Pairs of runs; the machine's noise is why there are several.
const ROUNDS: u32 = 5;
/// Sync's rate in relation to the drain's.
const AIM: f64 = 0.8;
const AIM_MEMORY_MB: f64 = 400.0;

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    runtime.block_on(async {
        if !drain::is_drain().await {
            compare().await;
        }
    });
}

fn print(what: &str, bytes: u64, usage: Usage) -> f64 {
    let rate = megabytes_per_second(bytes, usage.wall);
    println!(
        "{what:<12} {:>8.1} MB {:>7.2} s {rate:>8.1} MB/s  peak {:>6.1} MB of its own, {:>6.1} MB of files",
        bytes as f64 / 1e6,
        usage.wall.as_secs_f64(),
        usage.peak.own as f64 / 1e6,
        usage.peak.file as f64 / 1e6,
    );
    rate
}

async fn compare() {
    // The server's cache holds all of it, so that both measure themselves and not its disk.
    let options = Options { cache_gb: 2.0, ..Options::members(1) };
    let set = ReplicaSet::start(options).await.expect("start a set");
    let count = sized(800_000, 20_000) / COLLECTIONS;
    let maker = |number: u32| {
        let mut rng = StdRng::seed_from_u64(number.into());
        move |n| document(&mut rng, n)
    };
    let bytes = drain::load(set.client(), count, maker).await;
    set.wait_replicated().await.expect("replicated");

    let itself: PathBuf = std::env::current_exe().expect("own path");
    let drainer = Program::new(itself).expect("program");
    let uri = set.uri();
    let folder = tempfile::tempdir().expect("temporary folder");
    let drain = || drainer.spawn(&[drain::ARGUMENT, &uri]).expect("start the drain");

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
        peak = peak.max(measured.peak.own as f64 / 1e6);
    }
    ratios.sort_by(f64::total_cmp);
    let ratio = ratios[ratios.len() / 2];
    println!(
        "sync at {ratio:.2} of the drain in the median of {} rounds (aim {AIM}); peak {peak:.0} MB \
         (aim {AIM_MEMORY_MB:.0})",
        ratios.len()
    );
}
