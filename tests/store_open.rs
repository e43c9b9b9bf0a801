//! Opening a store costs the same however large it is.

mod store_common;

use std::path::Path;
use std::sync::Arc;

use headstock::lab::SimDisk;
use headstock::store::{Options, RepositorySalt, Store};
use rand::SeedableRng;
use rand::rngs::StdRng;
use store_common::{put_graph, reach_all, small};

/// Where the store is.
const STORE: &str = "/disk/store";
/// Bytes read of the log, twice, of the newest segment and of the headers of index runs.
const CONSTANT_BYTES: u64 = 2_300_000;
/// Bytes read for each segment: its number in a run, and of the few that no run lists yet the footer. A look into
/// each segment would take more.
const SEGMENT_BYTES: u64 = 500;

fn options() -> Options {
    Options { mmap: false, ..small(false) }
}

/// Bytes that opening for writing and for reading read of a store of so many segments.
fn read_by_opening(segments: u64) -> [u64; 2] {
    let disk = SimDisk::new(Path::new("/disk"));
    let on = Arc::new(disk.clone());
    let salt = RepositorySalt([6; 32]);
    let store = Store::create_on(on.clone(), Path::new(STORE), options(), salt).expect("create");
    let mut random = StdRng::seed_from_u64(segments);
    for name in 0.. {
        let id = put_graph(&store, &mut random, 20, 6000);
        store.commit(|roots| _ = roots.insert((name % 4).to_string(), id)).expect("commit");
        if store.stats().segments >= segments {
            break;
        }
    }
    // As after a crash: the newest segment is not sealed.
    let disk = disk.restarted(|_| headstock::lab::Survives::Whole);
    let on = Arc::new(disk.clone());
    let before = disk.bytes_read();
    let store = Store::open_on(on.clone(), Path::new(STORE), options()).expect("open");
    let by_writer = disk.bytes_read() - before;
    let reader = Store::open_reader_on(on, Path::new(STORE), options()).expect("open");
    let by_reader = disk.bytes_read() - before - by_writer;
    assert_eq!(reach_all(&reader), reach_all(&store));
    [by_writer, by_reader]
}

#[test]
fn opening_reads_no_more_of_a_large_store() {
    for segments in [2, 100] {
        let [by_writer, by_reader] = read_by_opening(segments);
        println!("{segments} segments: {by_writer} bytes to write, {by_reader} to read");
        let most = CONSTANT_BYTES + segments * SEGMENT_BYTES;
        assert!(by_writer < most && by_reader < most, "{segments}: {by_writer}, {by_reader}");
    }
}
