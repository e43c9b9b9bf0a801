//! Packs: objects of many blocks, with an index of their names (page 10, section 3).

use bytes::Bytes;

use crate::block::{BlockId, Codec, Kind};
use crate::store::StoredBlock;

/// Bytes of a pack, more or less: one request, and little beside the time that a request takes.
pub(super) const PACK_BYTES: usize = 16 << 20;
/// What a pack begins with.
const MAGIC: &[u8; 8] = b"HSPACK01";
/// What its trailer begins with.
const TRAILER_MAGIC: &[u8; 8] = b"HSPKIDX1";
/// Bytes of a trailer.
pub(super) const TRAILER_BYTES: usize = 56;
/// Bytes of a block in the index.
pub(super) const RECORD_BYTES: usize = 56;
/// Stands for no dictionary.
const NONE: u32 = u32::MAX;

/// Where a block is in a pack, and in which form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pub id: BlockId,
    pub offset: u64,
    pub len: u32,
    pub raw_len: u32,
    pub dictionary: Option<BlockId>,
    pub kind: Kind,
    pub codec: Codec,
    pub sealed: bool,
}

impl Record {
    /// The block, of its stored bytes.
    pub fn block(&self, bytes: Vec<u8>) -> StoredBlock {
        StoredBlock {
            id: self.id,
            kind: self.kind,
            codec: self.codec,
            sealed: self.sealed,
            raw_len: self.raw_len,
            dictionary: self.dictionary,
            bytes,
        }
    }
}

/// Gathers blocks for a pack.
#[derive(Clone)]
pub(super) struct Builder {
    bytes: Vec<u8>,
    pub records: Vec<Record>,
}

impl Builder {
    pub fn new() -> Self {
        Self { bytes: MAGIC.to_vec(), records: Vec::new() }
    }

    pub fn push(&mut self, block: &StoredBlock) {
        self.records.push(Record {
            id: block.id,
            offset: self.bytes.len() as u64,
            len: block.bytes.len() as u32,
            raw_len: block.raw_len,
            dictionary: block.dictionary,
            kind: block.kind,
            codec: block.codec,
            sealed: block.sealed,
        });
        self.bytes.extend_from_slice(&block.bytes);
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.bytes.len() >= PACK_BYTES
    }

    /// The object.
    pub fn finish(self) -> (Bytes, Vec<Record>) {
        let Self { mut bytes, mut records } = self;
        records.sort_by_key(|record| record.id);
        let index_at = bytes.len();
        let mut dictionaries: Vec<BlockId> =
            records.iter().filter_map(|record| record.dictionary).collect();
        dictionaries.sort_unstable();
        dictionaries.dedup();
        dictionaries.iter().for_each(|id| bytes.extend_from_slice(id.as_bytes()));
        for record in &records {
            let place = |id| dictionaries.binary_search(&id).map_or(NONE, |place| place as u32);
            bytes.extend_from_slice(record.id.as_bytes());
            bytes.extend_from_slice(&record.offset.to_le_bytes());
            bytes.extend_from_slice(&record.len.to_le_bytes());
            bytes.extend_from_slice(&record.raw_len.to_le_bytes());
            bytes.extend_from_slice(&record.dictionary.map_or(NONE, place).to_le_bytes());
            let cipher = u8::from(record.sealed);
            bytes.extend([record.kind.to_byte(), record.codec.to_byte(), cipher, 0]);
        }
        let hash = blake3::hash(&bytes[index_at..]);
        bytes.extend_from_slice(TRAILER_MAGIC);
        bytes.extend_from_slice(&(index_at as u64).to_le_bytes());
        bytes.extend_from_slice(&(dictionaries.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(records.len() as u32).to_le_bytes());
        bytes.extend_from_slice(hash.as_bytes());
        (bytes.into(), records)
    }
}

/// What a trailer says.
pub(super) struct Trailer {
    index_at: u64,
    dictionaries: u32,
    records: u32,
    hash: [u8; 32],
}

impl Trailer {
    /// The trailer of a pack, of its last bytes.
    pub fn read(end: &[u8]) -> Option<Self> {
        let trailer: &[u8; TRAILER_BYTES] = end.last_chunk()?;
        let (magic, rest) = trailer.split_first_chunk::<8>()?;
        let (index_at, rest) = rest.split_first_chunk::<8>()?;
        let (dictionaries, rest) = rest.split_first_chunk::<4>()?;
        let (records, rest) = rest.split_first_chunk::<4>()?;
        (magic == TRAILER_MAGIC).then_some(())?;
        Some(Self {
            index_at: u64::from_le_bytes(*index_at),
            dictionaries: u32::from_le_bytes(*dictionaries),
            records: u32::from_le_bytes(*records),
            hash: rest.try_into().ok()?,
        })
    }

    /// Where the index is in the object.
    pub fn index(&self) -> std::ops::Range<u64> {
        let dictionaries = u64::from(self.dictionaries) * BlockId::LEN as u64;
        let records = u64::from(self.records) * RECORD_BYTES as u64;
        self.index_at..self.index_at.saturating_add(dictionaries + records)
    }

    /// Reads the index; none if it is not the one that this trailer was written for.
    pub fn records(&self, index: &[u8]) -> Option<Vec<Record>> {
        if blake3::hash(index).as_bytes() != &self.hash {
            return None;
        }
        let names = self.dictionaries as usize * BlockId::LEN;
        let (names, records) = index.split_at_checked(names)?;
        let names: Vec<BlockId> =
            names.chunks_exact(BlockId::LEN).filter_map(BlockId::from_slice).collect();
        let records = records.chunks_exact(RECORD_BYTES);
        records.map(|record| self.record(record, &names)).collect()
    }

    fn record(&self, bytes: &[u8], names: &[BlockId]) -> Option<Record> {
        let (id, rest) = bytes.split_at(BlockId::LEN);
        let (offset, rest) = rest.split_first_chunk::<8>()?;
        let (len, rest) = rest.split_first_chunk::<4>()?;
        let (raw_len, rest) = rest.split_first_chunk::<4>()?;
        let (dictionary, rest) = rest.split_first_chunk::<4>()?;
        let dictionary = match u32::from_le_bytes(*dictionary) {
            NONE => None,
            place => Some(*names.get(place as usize)?),
        };
        let record = Record {
            id: BlockId::from_slice(id)?,
            offset: u64::from_le_bytes(*offset),
            len: u32::from_le_bytes(*len),
            raw_len: u32::from_le_bytes(*raw_len),
            dictionary,
            kind: Kind::from_byte(rest[0])?,
            codec: Codec::from_byte(rest[1])?,
            sealed: rest[2] == 1,
        };
        let end = record.offset.checked_add(record.len.into())?;
        (end <= self.index_at).then_some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u32) -> BlockId {
        BlockId::from_bytes(*blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    fn block(number: u32) -> StoredBlock {
        StoredBlock {
            id: name(number),
            kind: Kind::Leaf,
            codec: Codec::Zstd,
            sealed: number.is_multiple_of(2),
            raw_len: number * 7,
            dictionary: number.is_multiple_of(3).then(|| name(1000 + number % 2)),
            bytes: vec![number as u8; number as usize % 50],
        }
    }

    #[test]
    fn a_pack_gives_back_what_was_put_in() {
        let mut builder = Builder::new();
        (0..200).for_each(|number| builder.push(&block(number)));
        let (bytes, records) = builder.finish();
        let trailer = Trailer::read(&bytes).expect("a trailer");
        let range = trailer.index();
        let index = &bytes[range.start as usize..range.end as usize];
        assert_eq!(trailer.records(index).as_ref(), Some(&records));
        for number in 0..200 {
            let found = records.binary_search_by_key(&name(number), |record| record.id);
            let record = records[found.expect("it is there")];
            let at = record.offset as usize;
            let read = record.block(bytes[at..at + record.len as usize].to_vec());
            assert_eq!(read, block(number));
        }
        let mut harmed = index.to_vec();
        for at in (0..harmed.len()).step_by(41) {
            harmed[at] ^= 1;
            assert_eq!(trailer.records(&harmed), None, "byte {at}");
            harmed[at] ^= 1;
        }
        assert!(Trailer::read(&bytes[..bytes.len() - 1]).is_none());
    }
}
