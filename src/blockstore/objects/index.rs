//! Where blocks are: the indexes of all packs, in order of name, in files of this client (page 10, section 6).
//!
//! Records are gathered in memory, and written in order to runs; runs of one size are merged into one of the next. So memory does
//! not grow with the blocks but by a name for each page of a run, and a look-up reads a page of each run. The files are gone with the client.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;

use tempfile::TempDir;

use super::pack::Record;
use crate::block::{BlockId, Codec, Kind};
use crate::blockstore::sorted::{self, Merged, Record as _};

/// Records gathered before a run is written: 12 MB.
const GATHERED_MAX: usize = 1 << 17;
/// Runs of one level that are merged into one of the next.
const RUNS_MAX: usize = 8;
/// Bytes of a record in a run: as many as two of them fit into a cache line.
const RECORD_BYTES: usize = 64;
/// Records of a page, of which one name is held in memory.
const PAGE_RECORDS: usize = 32;
/// Stands for no dictionary.
const NONE: u32 = u32::MAX;

/// The number that a pack has in an index.
pub(super) type Pack = u32;

/// Which packs have a block, and where.
pub(super) struct Index {
    dir: TempDir,
    gathered: BTreeMap<(BlockId, Pack), Stub>,
    runs: Vec<Run>,
    made: u32,
    dictionaries: Vec<BlockId>,
    by_name: BTreeMap<BlockId, u32>,
}

/// What is kept of a record beside its name and pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Stub {
    offset: u64,
    len: u32,
    raw_len: u32,
    dictionary: u32,
    kind: u8,
    codec: u8,
    sealed: bool,
}

struct Run {
    level: u32,
    file: File,
    records: u64,
    /// The first name of each page.
    firsts: Vec<BlockId>,
}

type Item = (BlockId, Pack, Stub);

impl Index {
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            dir: tempfile::Builder::new().prefix("headstock-index-").tempdir()?,
            gathered: BTreeMap::new(),
            runs: Vec::new(),
            made: 0,
            dictionaries: Vec::new(),
            by_name: BTreeMap::new(),
        })
    }

    /// Takes the records of a pack in. `lives`: whether a pack is still registered; the records of others are forgotten at the next merge.
    pub fn add(
        &mut self,
        pack: Pack,
        records: &[Record],
        lives: &dyn Fn(Pack) -> bool,
    ) -> io::Result<()> {
        for record in records {
            let dictionary = record.dictionary.map_or(NONE, |id| self.number(id));
            let stub = Stub {
                offset: record.offset,
                len: record.len,
                raw_len: record.raw_len,
                dictionary,
                kind: record.kind.to_byte(),
                codec: record.codec.to_byte(),
                sealed: record.sealed,
            };
            self.gathered.insert((record.id, pack), stub);
        }
        if self.gathered.len() < GATHERED_MAX {
            return Ok(());
        }
        let gathered = std::mem::take(&mut self.gathered);
        let mut items = gathered.into_iter().map(|((id, pack), stub)| Ok((id, pack, stub)));
        self.write(0, &mut items)?;
        self.merge(lives)
    }

    fn number(&mut self, id: BlockId) -> u32 {
        *self.by_name.entry(id).or_insert_with(|| {
            self.dictionaries.push(id);
            (self.dictionaries.len() - 1) as u32
        })
    }

    fn write(
        &mut self,
        level: u32,
        items: &mut dyn Iterator<Item = io::Result<Item>>,
    ) -> io::Result<()> {
        self.made += 1;
        let path = self.dir.path().join(format!("{}.run", self.made));
        let mut out = BufWriter::new(File::create_new(&path)?);
        let (mut records, mut firsts) = (0, Vec::new());
        for item in items {
            let item = item?;
            if records % PAGE_RECORDS as u64 == 0 {
                firsts.push(item.0);
            }
            out.write_all(item.to_bytes().as_ref())?;
            records += 1;
        }
        out.flush()?;
        let file = File::open(&path)?;
        // Its space is free as soon as nobody reads it.
        std::fs::remove_file(&path)?;
        self.runs.push(Run { level, file, records, firsts });
        Ok(())
    }

    /// Merges the last runs as long as there are enough of one level.
    fn merge(&mut self, lives: &dyn Fn(Pack) -> bool) -> io::Result<()> {
        while let Some(level) = self.runs.last().map(|run| run.level)
            && self.runs.iter().filter(|run| run.level == level).count() >= RUNS_MAX
        {
            let first = self.runs.iter().position(|run| run.level == level).unwrap_or_default();
            let merging = self.runs.split_off(first);
            let mut merging = merged(&merging)?.filter(|item| match item {
                Ok((_, pack, _)) => lives(*pack),
                Err(_) => true,
            });
            self.write(level + 1, &mut merging)?;
        }
        Ok(())
    }

    /// Every pack that has a block, and where.
    pub fn find(&self, id: &BlockId) -> io::Result<Vec<(Pack, Record)>> {
        let mut found = Vec::new();
        for ((_, pack), stub) in self.gathered.range((*id, 0)..=(*id, Pack::MAX)) {
            found.extend(self.record(*id, *stub).map(|record| (*pack, record)));
        }
        for run in &self.runs {
            run.find(id, &mut |pack, stub| {
                found.extend(self.record(*id, stub).map(|record| (pack, record)));
            })?;
        }
        Ok(found)
    }

    /// All that it has now, in order of name.
    pub fn all(
        &self,
    ) -> io::Result<impl Iterator<Item = io::Result<(Pack, Record)>> + Send + use<>> {
        let gathered: Vec<Item> =
            self.gathered.iter().map(|((id, pack), stub)| (*id, *pack, *stub)).collect();
        let mut gathered = gathered.into_iter().peekable();
        let mut runs = merged(&self.runs)?.peekable();
        let items = std::iter::from_fn(move || match (gathered.peek(), runs.peek()) {
            (Some(one), Some(Ok(other))) if one < other => gathered.next().map(Ok),
            (_, Some(_)) => runs.next(),
            (_, None) => gathered.next().map(Ok),
        });
        let dictionaries = self.dictionaries.clone();
        Ok(items.filter_map(move |item| match item {
            Ok((id, pack, stub)) => {
                record(id, stub, &dictionaries).map(|record| Ok((pack, record)))
            }
            Err(error) => Some(Err(error)),
        }))
    }

    fn record(&self, id: BlockId, stub: Stub) -> Option<Record> {
        record(id, stub, &self.dictionaries)
    }
}

fn record(id: BlockId, stub: Stub, dictionaries: &[BlockId]) -> Option<Record> {
    let dictionary = match stub.dictionary {
        NONE => None,
        number => Some(*dictionaries.get(number as usize)?),
    };
    Some(Record {
        id,
        offset: stub.offset,
        len: stub.len,
        raw_len: stub.raw_len,
        dictionary,
        kind: Kind::from_byte(stub.kind)?,
        codec: Codec::from_byte(stub.codec)?,
        sealed: stub.sealed,
    })
}

impl Run {
    fn find(&self, id: &BlockId, found: &mut dyn FnMut(Pack, Stub)) -> io::Result<()> {
        // The first page that may have it: copies of one name may begin in the page before that which begins with it.
        let first = self.firsts.partition_point(|first| first < id).saturating_sub(1);
        for page in first..self.firsts.len() {
            if self.firsts[page] > *id {
                break;
            }
            let from = (page * PAGE_RECORDS) as u64;
            let records = (self.records - from).min(PAGE_RECORDS as u64) as usize;
            let mut bytes = vec![0; records * RECORD_BYTES];
            self.file.read_exact_at(&mut bytes, from * RECORD_BYTES as u64)?;
            for record in bytes.chunks_exact(RECORD_BYTES) {
                if &record[..BlockId::LEN] == id.as_bytes() {
                    let (_, pack, stub) = Item::from_bytes(record);
                    found(pack, stub);
                }
            }
        }
        Ok(())
    }
}

/// A file that is read from its beginning, whoever else reads it.
struct FromBegin {
    file: File,
    at: u64,
}

impl Read for FromBegin {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(into, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// Runs as one.
fn merged(runs: &[Run]) -> io::Result<Merged<Item, FromBegin>> {
    Merged::of(runs.iter().map(|run| Ok(FromBegin { file: run.file.try_clone()?, at: 0 })))
}

impl sorted::Record for Item {
    const BYTES: usize = RECORD_BYTES;

    fn to_bytes(&self) -> impl AsRef<[u8]> {
        let (id, pack, stub) = self;
        let mut bytes = [0; RECORD_BYTES];
        bytes[..32].copy_from_slice(id.as_bytes());
        bytes[32..36].copy_from_slice(&pack.to_le_bytes());
        bytes[36..44].copy_from_slice(&stub.offset.to_le_bytes());
        bytes[44..48].copy_from_slice(&stub.len.to_le_bytes());
        bytes[48..52].copy_from_slice(&stub.raw_len.to_le_bytes());
        bytes[52..56].copy_from_slice(&stub.dictionary.to_le_bytes());
        bytes[56..59].copy_from_slice(&[stub.kind, stub.codec, u8::from(stub.sealed)]);
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Self {
        let word = |at: usize| {
            u32::from_le_bytes(*bytes[at..].first_chunk().expect("a record has its length"))
        };
        let id = BlockId::from_slice(&bytes[..32]).expect("a record begins with a name");
        let stub = Stub {
            offset: u64::from(word(36)) | u64::from(word(40)) << 32,
            len: word(44),
            raw_len: word(48),
            dictionary: word(52),
            kind: bytes[56],
            codec: bytes[57],
            sealed: bytes[58] == 1,
        };
        (id, word(32), stub)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u32) -> BlockId {
        BlockId::from_bytes(*blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    fn record(number: u32, pack: Pack) -> Record {
        Record {
            id: name(number),
            offset: u64::from(number) << 20 | u64::from(pack),
            len: number,
            raw_len: number.wrapping_add(pack),
            dictionary: number.is_multiple_of(5).then(|| name(number % 7)),
            kind: Kind::Leaf,
            codec: Codec::Zstd,
            sealed: number.is_multiple_of(2),
        }
    }

    /// More than are gathered and more than are merged; some blocks are in many packs, and some packs go.
    #[test]
    fn every_copy_is_found() {
        let mut index = Index::new().expect("make");
        let of_pack = GATHERED_MAX as u32 / 4;
        let packs = 4 * RUNS_MAX as u32 + 7;
        for pack in 0..packs {
            let own = (0..of_pack).map(|number| record(pack * of_pack + number, pack));
            let shared = (0..300).map(|number| record(u32::MAX - number, pack));
            let records: Vec<Record> = own.chain(shared).collect();
            index.add(pack, &records, &|pack| pack != 3).expect("add");
        }
        assert!(index.runs.iter().any(|run| run.level == 1), "something was merged");
        for pack in (0..packs).filter(|pack| *pack != 3) {
            for number in (0..of_pack).step_by(977) {
                let number = pack * of_pack + number;
                assert_eq!(
                    index.find(&name(number)).expect("find"),
                    [(pack, record(number, pack))]
                );
            }
        }
        for number in (0..300).map(|number| u32::MAX - number) {
            let mut found = index.find(&name(number)).expect("find");
            found.sort_by_key(|(pack, _)| *pack);
            let expected: Vec<_> =
                (0..packs).filter(|pack| *pack != 3).map(|p| (p, record(number, p))).collect();
            assert_eq!(found, expected, "{number}");
        }
        assert_eq!(index.find(&name(packs * of_pack)).expect("find"), []);
        let all = index.all().expect("all").collect::<io::Result<Vec<_>>>().expect("read");
        assert!(all.is_sorted_by_key(|(pack, record)| (record.id, *pack)));
        assert_eq!(all.len() as u32, (packs - 1) * (of_pack + 300));
    }
}
