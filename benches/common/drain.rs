//! A source that is filled, and the least that any backup of it must do: one process that reads the same
//! collections through the same driver, and keeps nothing.

use std::num::NonZero;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use bson::{RawDocumentBuf, rawdoc};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use mongodb::Client;

/// Where the collections of these benches are.
pub const DATABASE: &str = "bench";
/// `c0` and on.
pub const COLLECTIONS: u32 = 4;
const LEVEL: i32 = 3;
/// Batches that wait for a compressor, as many as read ahead is worth.
const WAITING: usize = 4;
/// What a bench starts itself with.
pub const ARGUMENT: &str = "--drain";
/// Reads and compresses nothing.
pub const ONLY_READ: &str = "--only-read";

/// Fills every collection with `count` documents that its maker makes of their numbers; returns their bytes.
pub async fn load<M: FnMut(u32) -> RawDocumentBuf>(
    client: &Client,
    count: u32,
    maker: impl Fn(u32) -> M,
) -> u64 {
    let database = client.database(DATABASE);
    let parts = (0..COLLECTIONS).map(|number| {
        let collection = database.collection::<RawDocumentBuf>(&format!("c{number}"));
        let mut make = maker(number);
        async move {
            let mut bytes = 0;
            for from in (0..count).step_by(2_000) {
                let to = (from + 2_000).min(count);
                let batch: Vec<_> = (from..to).map(&mut make).collect();
                bytes += super::bytes_of(&batch);
                collection.insert_many(batch).ordered(false).await?;
            }
            Ok::<_, mongodb::error::Error>(bytes)
        }
    });
    let loaded = stream::iter(parts).buffer_unordered(COLLECTIONS as usize);
    loaded.try_fold(0, |sum, bytes| async move { Ok(sum + bytes) }).await.expect("load")
}

/// Whether this process is the drain; if so, all of it.
pub async fn is_drain() -> bool {
    let arguments: Vec<String> = std::env::args().collect();
    let Some(at) = arguments.iter().position(|argument| argument == ARGUMENT) else { return false };
    let level = (!arguments.iter().any(|argument| argument == ONLY_READ)).then_some(LEVEL);
    drain(&arguments[at + 1], level).await;
    true
}

/// Reads everything, and compresses it with as many threads as there are processors.
async fn drain(uri: &str, level: Option<i32>) {
    let database = Client::with_uri_str(uri).await.expect("connect").database(DATABASE);
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let (sender, receiver) = mpsc::sync_channel::<Vec<u8>>(WAITING);
    let receiver = Arc::new(Mutex::new(receiver));
    let compressors: Vec<_> = (0..threads)
        .map(|_| {
            let receiver = Arc::clone(&receiver);
            thread::spawn(move || {
                let mut left = 0;
                loop {
                    let batch = receiver.lock().expect("no panics").recv();
                    let Ok(batch) = batch else { return left };
                    left += match level {
                        Some(level) => zstd::bulk::compress(&batch, level).expect("compress").len(),
                        None => batch.len(),
                    };
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
    let left: usize = compressors.into_iter().map(|thread| thread.join().expect("no panics")).sum();
    println!("{left}");
}
