//! Index runs: `index/<n>.run`, sorted entries of several segments in one file.
//!
//! Runs are a cache of footers. Order of writes: everything into a new file under a temporary name,
//! fsync, rename. A crash leaves a whole run, or a leftover that the next writer removes; losing
//! any run costs only the time to merge footers again.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Error;
use super::fs::{Access, Disk, File};
use super::layout::{
    ENTRY_BYTES, Entry, FORMAT_VERSION, SegmentId, StoreUuid, Trailer, aligned, field, u16_at,
    u32_at, u64_at,
};
use super::table::{Backing, Table};
use crate::block::{BlockId, Kind};

const MAGIC: &[u8; 12] = b"HEADRUN\x1a\n\xa9\r\n";
const HEADER_BYTES: usize = 128;
/// Entries of each source read at once during a merge.
const MERGE_CHUNK_ENTRIES: u64 = 1024;
/// Bytes of merged entries written at once.
const WRITE_BYTES: usize = 1 << 20;

/// A sorted table that look-ups probe: an index run, or the footer of one segment.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) table: Table,
    /// The segments whose every record it lists, in order.
    pub(super) segments: Vec<SegmentId>,
    /// Its file, if it is an index run.
    pub(super) path: Option<PathBuf>,
    /// What its entries must hash to, if it is an index run.
    checksum: Option<[u8; 32]>,
}

impl Run {
    /// The footer of a segment as a run.
    pub(super) fn of_footer(segment: SegmentId, table: Table) -> Self {
        Self { table, segments: vec![segment], path: None, checksum: None }
    }

    /// Opens an index run, or says why it is none. The entries' checksum is left to fsck.
    pub(super) fn open(
        disk: &dyn Disk,
        path: &Path,
        store: &StoreUuid,
        mmap: bool,
    ) -> Result<Result<Self, &'static str>, Error> {
        let file = disk.open(path, Access::Read)?;
        let size = file.size()?;
        if size < HEADER_BYTES as u64 {
            return Ok(Err("the index run is shorter than its header"));
        }
        let mut header = [0; HEADER_BYTES];
        file.read_at(0, &mut header)?;
        let (count, listed) = (u64_at(&header, 32), u64_at(&header, 40));
        if header[..12] != *MAGIC || crc32fast::hash(&header[..124]) != u32_at(&header, 124) {
            return Ok(Err("the index run's header is damaged"));
        }
        if u16_at(&header, 14) > FORMAT_VERSION || header[16..32] != *store {
            return Ok(Err("the index run is of another store or version"));
        }
        let entries = count.checked_mul(ENTRY_BYTES as u64);
        let start = (listed <= size / 4).then(|| table_start(listed as usize));
        let Some(start) = start.filter(|start| size.checked_sub(*start) == entries) else {
            return Ok(Err("the index run's length differs"));
        };
        let mut list = vec![0; listed as usize * 4];
        file.read_at(HEADER_BYTES as u64, &mut list)?;
        let segments = list.chunks_exact(4).map(|id| SegmentId(u32_at(id, 0))).collect();
        let backing = match mmap {
            true => Backing::Map(Arc::new(file.map(size)?)),
            false => Backing::without_map(file, count),
        };
        let table = Table::new(backing, start, count);
        let checksum = Some(field(&header, 48));
        Ok(Ok(Self { table, segments, path: Some(path.to_owned()), checksum }))
    }

    /// Whether the segments listed and the entries carry the run's checksum.
    pub(super) fn verify(&self) -> Result<bool, Error> {
        let Some(checksum) = self.checksum else { return Ok(true) };
        let mut hasher = blake3::Hasher::new();
        self.segments.iter().for_each(|id| {
            hasher.update(&id.0.to_le_bytes());
        });
        let mut from = 0;
        while from < self.table.count() {
            let to = (from + MERGE_CHUNK_ENTRIES).min(self.table.count());
            hasher.update(&self.table.bytes(from, to)?);
            from = to;
        }
        Ok(*hasher.finalize().as_bytes() == checksum)
    }
}

fn table_start(listed: usize) -> u64 {
    aligned((HEADER_BYTES + listed * 4) as u64)
}

/// The dictionaries that a table lists; nothing is read where its trailer says that there are none.
pub(super) fn dictionaries(trailer: Option<Trailer>, table: &Table) -> Result<Vec<Entry>, Error> {
    let mut found = Vec::new();
    let kind = usize::from(Kind::Dictionary.to_byte());
    if trailer.is_some_and(|trailer| trailer.kinds[kind] == 0) {
        return Ok(found);
    }
    let mut cursor = Cursor::new(table);
    while let Some(bytes) = cursor.step()? {
        found.extend(Entry::decode(&bytes).filter(|entry| entry.kind == Kind::Dictionary));
    }
    Ok(found)
}

/// Reads a table from its start.
pub(super) struct Cursor<'a> {
    table: &'a Table,
    next: u64,
    chunk: Vec<u8>,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) const fn new(table: &'a Table) -> Self {
        Self { table, next: 0, chunk: Vec::new(), at: 0 }
    }

    /// The next entry's bytes.
    pub(super) fn step(&mut self) -> Result<Option<[u8; ENTRY_BYTES]>, Error> {
        if self.at == self.chunk.len() {
            let to = (self.next + MERGE_CHUNK_ENTRIES).min(self.table.count());
            if to == self.next {
                return Ok(None);
            }
            self.chunk.clear();
            self.chunk.extend_from_slice(&self.table.bytes(self.next, to)?);
            (self.next, self.at) = (to, 0);
        }
        let entry = field(&self.chunk, self.at);
        self.at += ENTRY_BYTES;
        Ok(Some(entry))
    }
}

/// Merges runs into a new file of the given final path; entries of segments that are not live are
/// left out.
pub(super) fn merge(
    disk: &dyn Disk,
    path: &Path,
    store: &StoreUuid,
    durable: bool,
    sources: &[Arc<Run>],
    live: &BTreeSet<SegmentId>,
) -> Result<(), Error> {
    let segments: BTreeSet<SegmentId> = sources
        .iter()
        .flat_map(|run| run.segments.iter().copied())
        .filter(|id| live.contains(id))
        .collect();
    let temporary = path.with_extension("new");
    match disk.remove(&temporary) {
        Err(error) if !error.is_not_found() => return Err(error.into()),
        _ => {}
    }
    let written = write_merged(disk, &temporary, store, durable, (sources, &segments, live));
    if written.is_err()
        && let Err(error) = disk.remove(&temporary)
    {
        tracing::warn!(%error, "a part of an index run is left behind");
    }
    written?;
    Ok(disk.rename(&temporary, path)?)
}

/// Writes a merged run under its temporary name.
fn write_merged(
    disk: &dyn Disk,
    temporary: &Path,
    store: &StoreUuid,
    durable: bool,
    (sources, segments, live): (&[Arc<Run>], &BTreeSet<SegmentId>, &BTreeSet<SegmentId>),
) -> Result<(), Error> {
    let file = disk.create(temporary)?;
    let list: Vec<u8> = segments.iter().flat_map(|id| id.0.to_le_bytes()).collect();
    let mut out = Output::new(&*file, table_start(segments.len()));
    out.hasher.update(&list);
    merge_entries(sources, live, &mut out)?;
    out.flush()?;
    let mut header = [0; HEADER_BYTES];
    header[..12].copy_from_slice(MAGIC);
    header[12..14].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    header[14..16].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    header[16..32].copy_from_slice(store);
    header[32..40].copy_from_slice(&out.count.to_le_bytes());
    header[40..48].copy_from_slice(&(segments.len() as u64).to_le_bytes());
    header[48..80].copy_from_slice(out.hasher.finalize().as_bytes());
    let crc = crc32fast::hash(&header[..124]);
    header[124..].copy_from_slice(&crc.to_le_bytes());
    file.write_at(0, &header)?;
    file.write_at(HEADER_BYTES as u64, &list)?;
    if out.count == 0 {
        file.set_size(table_start(segments.len()))?;
    }
    if durable {
        file.sync()?;
    }
    Ok(())
}

fn merge_entries(
    sources: &[Arc<Run>],
    live: &BTreeSet<SegmentId>,
    out: &mut Output<'_>,
) -> Result<(), Error> {
    let mut cursors: Vec<_> = sources.iter().map(|run| Cursor::new(&run.table)).collect();
    let mut heap = BinaryHeap::with_capacity(cursors.len());
    for (at, cursor) in cursors.iter_mut().enumerate() {
        if let Some(entry) = cursor.step()? {
            heap.push(Reverse((entry, at)));
        }
    }
    let mut last = None;
    while let Some(Reverse((entry, at))) = heap.pop() {
        if live.contains(&SegmentId(u32_at(&entry, BlockId::LEN))) && last != Some(entry) {
            out.push(&entry)?;
            last = Some(entry);
        }
        if let Some(next) = cursors[at].step()? {
            heap.push(Reverse((next, at)));
        }
    }
    Ok(())
}

struct Output<'a> {
    file: &'a dyn File,
    offset: u64,
    buffer: Vec<u8>,
    count: u64,
    hasher: blake3::Hasher,
}

impl<'a> Output<'a> {
    fn new(file: &'a dyn File, offset: u64) -> Self {
        let buffer = Vec::with_capacity(WRITE_BYTES);
        Self { file, offset, buffer, count: 0, hasher: blake3::Hasher::new() }
    }

    fn push(&mut self, entry: &[u8; ENTRY_BYTES]) -> Result<(), Error> {
        self.buffer.extend_from_slice(entry);
        self.count += 1;
        if self.buffer.len() + ENTRY_BYTES > WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.hasher.update(&self.buffer);
        self.file.write_at(self.offset, &self.buffer)?;
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}
