//! Look-up in a sorted table of entries: a footer, an index run, or the start of a segment still
//! being written. Ids are hashes and so uniform: a look-up guesses the place and reads one window.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use super::Error;
use super::fs::File;
use super::layout::{ENTRY_BYTES, Entry};
use super::map::Map;
use super::sync::atomic::{AtomicU64, Ordering};
use crate::block::{BlockId, Kind, StoredForm};

/// Entries read at once around a guess: one page, and more than the usual error of the guess in a
/// table of a million entries.
const WINDOW_ENTRIES: u64 = 85;
/// Guesses before falling back to halving, so that a table that is not uniform costs no more than a
/// binary search.
const MAX_GUESSES: u32 = 4;

/// Bytes of a table that may be read into memory where maps are not used. Runs are each more than three times as large as all
/// smaller ones together, so that all such have a third more at most.
const MEMORY_BYTES: u64 = 32 << 20;

/// Where the bytes of a table are.
#[derive(Debug)]
pub(super) enum Backing {
    Map(Arc<Map>),
    File(Arc<dyn File>),
    /// A file that is read into memory once look-ups have cost as much.
    Warming(Warming),
    Owned(Vec<u8>),
}

impl Backing {
    /// That of a table which is not mapped: a small one is in memory once that costs no more than reading it piece by piece has.
    pub(super) fn without_map(file: Arc<dyn File>, entries: u64) -> Self {
        if entries * ENTRY_BYTES as u64 <= MEMORY_BYTES {
            Self::Warming(Warming { file, reads: AtomicU64::new(0), entries: OnceLock::new() })
        } else {
            Self::File(file)
        }
    }
}

/// A table in a file, in memory from when as many pieces of it were read as it has.
#[derive(Debug)]
pub(super) struct Warming {
    file: Arc<dyn File>,
    reads: AtomicU64,
    entries: OnceLock<Option<Vec<u8>>>,
}

impl Warming {
    /// All entries of a table that starts there, if it is time and they can be read.
    fn entries(&self, start: u64, count: u64) -> Option<&[u8]> {
        let pieces = count.div_ceil(WINDOW_ENTRIES);
        if self.reads.fetch_add(1, Ordering::Relaxed) < pieces {
            return None;
        }
        let read = || {
            let mut entries = vec![0; (count * ENTRY_BYTES as u64) as usize];
            // A sector that cannot be read fails the look-ups that need it, and no others.
            self.file.read_at(start, &mut entries).is_ok().then_some(entries)
        };
        self.entries.get_or_init(read).as_deref()
    }
}

/// A sorted table of entries.
#[derive(Debug)]
pub(super) struct Table {
    backing: Backing,
    /// Of the first entry, in bytes.
    start: u64,
    count: u64,
}

impl Table {
    pub(super) const fn new(backing: Backing, start: u64, count: u64) -> Self {
        Self { backing, start, count }
    }

    /// A table in memory, of entries in the order of their ids.
    pub(super) fn owned(entries: &[Entry]) -> Self {
        let bytes = entries.iter().flat_map(Entry::encode).collect();
        Self::new(Backing::Owned(bytes), 0, entries.len() as u64)
    }

    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    /// The bytes of entries from one ordinal to another.
    pub(super) fn bytes(&self, from: u64, to: u64) -> Result<Cow<'_, [u8]>, Error> {
        let at = self.start + from * ENTRY_BYTES as u64;
        let len = (to - from) as usize * ENTRY_BYTES;
        match &self.backing {
            Backing::Map(map) => Ok(Cow::Borrowed(&map[at as usize..at as usize + len])),
            Backing::Owned(bytes) => Ok(Cow::Borrowed(&bytes[at as usize..at as usize + len])),
            Backing::File(file) => Self::read(&**file, at, len),
            Backing::Warming(warming) => match warming.entries(self.start, self.count) {
                Some(entries) => {
                    let from = from as usize * ENTRY_BYTES;
                    Ok(Cow::Borrowed(&entries[from..from + len]))
                }
                None => Self::read(&*warming.file, at, len),
            },
        }
    }

    fn read(file: &dyn File, at: u64, len: usize) -> Result<Cow<'static, [u8]>, Error> {
        let mut buffer = vec![0; len];
        file.read_at(at, &mut buffer)?;
        Ok(Cow::Owned(buffer))
    }

    /// The ordinal of the first entry whose id is not below the given one.
    pub(super) fn lower_bound(&self, id: &BlockId) -> Result<u64, Error> {
        let (mut low, mut high) = (0, self.count);
        let (mut low_key, mut high_key) = (0, u64::MAX);
        let wanted = prefix(id.as_bytes());
        let mut guesses = 0;
        while low < high {
            let guess = if guesses < MAX_GUESSES && high_key > low_key {
                let share = u128::from(wanted.saturating_sub(low_key));
                let place = share * u128::from(high - low) / u128::from(high_key - low_key);
                low + (place as u64).min(high - low - 1)
            } else {
                low + (high - low) / 2
            };
            guesses += 1;
            let from = guess.saturating_sub(WINDOW_ENTRIES / 2).max(low);
            let to = (from + WINDOW_ENTRIES).min(high);
            let window = self.bytes(from, to)?;
            let first = &window[..BlockId::LEN];
            let last_at = window.len() - ENTRY_BYTES;
            let last = &window[last_at..last_at + BlockId::LEN];
            if from > low && id.as_bytes()[..] <= *first {
                (high, high_key) = (from, prefix(first));
            } else if to < high && id.as_bytes()[..] > *last {
                (low, low_key) = (to, prefix(last));
            } else {
                return Ok(from + place_in(&window, id));
            }
        }
        Ok(low)
    }

    /// The first entry of that id which `accept` takes, with its ordinal.
    pub(super) fn find(
        &self,
        id: &BlockId,
        accept: impl Fn(&Entry) -> bool,
    ) -> Result<Option<(u64, Entry)>, Error> {
        let mut ordinal = self.lower_bound(id)?;
        while ordinal < self.count {
            let bytes = self.bytes(ordinal, ordinal + 1)?;
            if bytes[..BlockId::LEN] != id.as_bytes()[..] {
                break;
            }
            if let Some(entry) = Entry::decode(&bytes)
                && accept(&entry)
            {
                return Ok(Some((ordinal, entry)));
            }
            ordinal += 1;
        }
        Ok(None)
    }
}

impl Table {
    /// The first entry of a dictionary of that form which `accept` takes.
    pub(super) fn find_dictionary(
        &self,
        form: StoredForm,
        accept: &mut dyn FnMut(&Entry) -> bool,
    ) -> Result<Option<Entry>, Error> {
        let mut ordinal = self.lower_bound(&form.least_name())?;
        while ordinal < self.count {
            let bytes = self.bytes(ordinal, ordinal + 1)?;
            if bytes[..8] != form.0.to_le_bytes() {
                break;
            }
            if let Some(entry) = Entry::decode(&bytes)
                && entry.kind == Kind::Dictionary
                && accept(&entry)
            {
                return Ok(Some(entry));
            }
            ordinal += 1;
        }
        Ok(None)
    }
}

/// How many entries of a window are below an id.
fn place_in(window: &[u8], id: &BlockId) -> u64 {
    let (mut low, mut high) = (0, window.len() / ENTRY_BYTES);
    let wanted = prefix(id.as_bytes());
    while low < high {
        let middle = low + (high - low) / 2;
        let name = &window[middle * ENTRY_BYTES..][..BlockId::LEN];
        let first = prefix(name);
        if first < wanted || (first == wanted && *name < id.as_bytes()[..]) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low as u64
}

fn prefix(id: &[u8]) -> u64 {
    u64::from_be_bytes(super::layout::field(id, 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::layout::SegmentId;

    fn entry(id: BlockId, offset: u64) -> Entry {
        Entry { id, segment: SegmentId(1), offset, stored_len: 1, kind: Kind::Leaf }
    }

    fn check(mut ids: Vec<BlockId>) {
        ids.sort_unstable();
        let entries: Vec<Entry> =
            ids.iter().enumerate().map(|(at, id)| entry(*id, at as u64 * 8)).collect();
        let table = Table::owned(&entries);
        for id in &ids {
            let first = ids.partition_point(|other| other < id) as u64;
            assert_eq!(table.lower_bound(id).unwrap(), first);
            assert_eq!(table.find(id, |_| true).unwrap().unwrap().0, first);
        }
        for seed in 0..200_u32 {
            let stranger = BlockId::of(Kind::Part, &seed.to_le_bytes());
            let place = ids.partition_point(|other| *other < stranger) as u64;
            assert_eq!(table.lower_bound(&stranger).unwrap(), place);
            assert!(table.find(&stranger, |_| true).unwrap().is_none());
        }
    }

    #[test]
    fn finds_what_a_sorted_list_has() {
        for count in [0_u32, 1, 2, 84, 85, 86, 1000, 20_000] {
            check((0..count).map(|n| BlockId::of(Kind::Leaf, &n.to_le_bytes())).collect());
        }
    }

    #[test]
    fn finds_ids_that_are_not_uniform() {
        let clustered = (0..5000_u32).map(|n| {
            let mut id = [0; 32];
            id[28..].copy_from_slice(&n.to_be_bytes());
            if n % 7 == 0 {
                id[0] = 0xff;
            }
            BlockId::from_bytes(id)
        });
        check(clustered.collect());
    }

    #[test]
    fn passes_over_copies_that_are_not_accepted() {
        let id = BlockId::of(Kind::Leaf, b"twice");
        let table = Table::owned(&[entry(id, 8), entry(id, 16)]);
        let found = table.find(&id, |entry| entry.offset == 16).unwrap().unwrap();
        assert_eq!(found.0, 1);
    }
}
