//! What a look-up costs in an index of many blocks, and what the index keeps in memory.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::block::Kind;
use crate::store::fs::{File, FsError, RealDisk};
use crate::store::layout::ENTRY_BYTES;
use crate::store::map::Map;
use crate::store::table::{Backing, Table};

/// Reads of a window for a look-up in one table, on average: uniform ids are found at the first guess, where
/// tables are large at the second.
const READS_PER_TABLE: f64 = 2.6;
/// Anonymous memory that opening an index and looking up may add, however many blocks there are.
const MEMORY_BYTES: u64 = 8 << 20;
const LOOK_UPS: u64 = 20_000;

/// A file that counts reads.
#[derive(Debug)]
struct Counting {
    file: Arc<dyn File>,
    reads: Arc<AtomicU64>,
}

impl File for Counting {
    fn path(&self) -> &Path {
        self.file.path()
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), FsError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.file.read_at(offset, buffer)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), FsError> {
        self.file.write_at(offset, bytes)
    }
    fn size(&self) -> Result<u64, FsError> {
        self.file.size()
    }
    fn set_size(&self, bytes: u64) -> Result<(), FsError> {
        self.file.set_size(bytes)
    }
    fn allocate(&self, bytes: u64) -> Result<(), FsError> {
        self.file.allocate(bytes)
    }
    fn sync(&self) -> Result<(), FsError> {
        self.file.sync()
    }
    fn try_lock(&self) -> Result<bool, FsError> {
        self.file.try_lock()
    }
    fn map(&self, bytes: u64) -> Result<Map, FsError> {
        self.file.map(bytes)
    }
}

/// The `n`-th of `count` names in ascending order, as uniform as hashes are.
fn name(n: u64, count: u64, salt: u64) -> BlockId {
    let mut id = *BlockId::of(Kind::Leaf, &(n ^ salt << 48).to_le_bytes()).as_bytes();
    let width = u64::MAX / count;
    let noise = u64::from_be_bytes(id[..8].try_into().expect("8 bytes")) % width;
    id[..8].copy_from_slice(&(n * width + noise).to_be_bytes());
    BlockId::from_bytes(id)
}

/// A file of entries in the order of their names.
fn written(path: &Path, count: u64, salt: u64) -> Arc<dyn File> {
    let file = RealDisk.create(path).expect("create");
    let (mut buffer, mut offset) = (Vec::with_capacity(1 << 20), 0);
    for n in 0..count {
        let segment = SegmentId(u32::try_from(salt).expect("small"));
        let (id, kind) = (name(n, count, salt), Kind::Leaf);
        let entry = Entry { id, segment, offset: 4096 + n % 1000 * 8, stored_len: 1500, kind };
        buffer.extend_from_slice(&entry.encode());
        if buffer.len() + ENTRY_BYTES > 1 << 20 || n + 1 == count {
            file.write_at(offset, &buffer).expect("write");
            offset += buffer.len() as u64;
            buffer.clear();
        }
    }
    file
}

fn anonymous_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find(|line| line.starts_with("RssAnon")).expect("RssAnon");
    let digits = line.split_whitespace().nth(1).expect("a number");
    digits.parse::<u64>().expect("a number") << 10
}

/// A small run is there after each opening, and must not keep the others from being merged.
#[test]
fn a_small_run_keeps_no_others_apart() {
    let sizes = |counts: &[u64]| {
        let run = |(segment, count): (u32, &u64)| {
            let table = Table::new(Backing::Owned(Vec::new()), 0, *count);
            Arc::new(Run::of_footer(SegmentId(segment), table))
        };
        let runs = (1..).zip(counts).map(run).collect();
        let probes = Probes { runs, live: BTreeSet::new() };
        probes.to_merge().iter().map(|run| run.table.count()).collect::<Vec<_>>()
    };
    assert_eq!(sizes(&[2, 70, 71, 72]), [2, 70, 71, 72]);
    assert_eq!(sizes(&[2, 70, 1000, 71]), [2, 70, 71]);
    assert_eq!(sizes(&[2, 7, 28]), [0; 0]);
    assert_eq!(sizes(&[0, 0]), [0, 0]);
    assert_eq!(sizes(&[5]), [0; 0]);
    assert_eq!(sizes(&[70; 100]).len(), MERGE_WIDTH);
}

/// A short form for every day; the long one has 50 million entries (2.4 GB) and takes minutes without
/// optimisation.
#[test]
fn look_ups_in_many_entries_read_little_and_keep_nothing() {
    let is_long = std::env::var_os("HEADSTOCK_LONG").is_some();
    let all: u64 = if is_long { 50_000_000 } else { 300_000 };
    let dir = tempfile::tempdir().expect("temporary folder");
    // As merges leave them: each has more than three times what all smaller ones have.
    let counts = [all * 76 / 100, all * 19 / 100, all * 4 / 100, all / 100];
    let reads = Arc::new(AtomicU64::new(0));
    let files: Vec<_> = (1..)
        .zip(counts)
        .map(|(salt, count)| (written(&dir.path().join(salt.to_string()), count, salt), count))
        .collect();
    let before = anonymous_bytes();
    let mut probes = Probes::default();
    for (salt, (file, count)) in (1..).zip(files) {
        let segment = SegmentId(salt);
        let file = Counting { file, reads: Arc::clone(&reads) };
        let table = Table::new(Backing::File(Arc::new(file)), 0, count);
        probes.live.insert(segment);
        probes.runs.push(Arc::new(Run::of_footer(segment, table)));
    }
    assert!(probes.to_merge().is_empty(), "no merge would make them fewer");
    for look_up in 0..LOOK_UPS {
        let table = (look_up % 4) as usize;
        let n = look_up.wrapping_mul(0x9e37_79b9_7f4a_7c15) % counts[table];
        let id = name(n, counts[table], table as u64 + 1);
        let found = probes.find(&id).expect("look up").expect("it is there");
        assert_eq!(found.segment, SegmentId(table as u32 + 1));
    }
    for stranger in 0..LOOK_UPS {
        let id = BlockId::of(Kind::Part, &stranger.to_le_bytes());
        assert!(probes.find(&id).expect("look up").is_none());
    }
    let grown = anonymous_bytes().saturating_sub(before);
    // Newest first: those that are there are looked for in 2.5 tables on average; of that one the entry, too.
    let (tables, entries) = (LOOK_UPS as f64 * (2.5 + 4.0), LOOK_UPS as f64);
    let per_table = (reads.load(Ordering::Relaxed) as f64 - 2.0 * entries) / tables;
    println!("{all} entries: {per_table:.2} reads a table, {grown} bytes of memory");
    assert!(per_table < READS_PER_TABLE, "{per_table} reads");
    assert!(!is_long || grown < MEMORY_BYTES, "{grown} bytes");
}
