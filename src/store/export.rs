//! Blocks as they are stored, for who keeps them elsewhere: compressed once, sealed once, and never for a copy.
//!
//! What is handed out carries the checksum of its record, and what is taken in is hashed to its name before it is
//! appended: a block that was damaged on the way never becomes a block of this store.

use super::layout::{MAX_STORED_BYTES, RECORD_HEADER_BYTES, RecordHeader, Sealing};
use super::reserve::Purpose;
use super::{Entry, Error, LOOKS_MAX, Role, Shared, Store};
use crate::block::{self, BlockId, Codec, Dictionary, Kind, MAX_BLOCK_BYTES, StoredForm};

/// Bytes of a stored block at most, whatever its codec and seal.
pub const MAX_STORED_BLOCK_BYTES: usize = MAX_STORED_BYTES;

/// A block as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBlock {
    /// Its name.
    pub id: BlockId,
    /// What it is.
    pub kind: Kind,
    /// How it is compressed.
    pub codec: Codec,
    /// Whether its bytes are sealed: they begin with the epoch of the data key then.
    pub sealed: bool,
    /// Bytes of its raw content.
    pub raw_len: u32,
    /// The dictionary that it is compressed with.
    pub dictionary: Option<BlockId>,
    /// The stored bytes.
    pub bytes: Vec<u8>,
}

impl StoredBlock {
    /// The epoch of the data key that it is sealed with; 0 if it is not.
    #[must_use]
    pub fn epoch(&self) -> i32 {
        let epoch = self.bytes.first_chunk().filter(|_| self.sealed);
        epoch.map_or(0, |epoch| i32::from_le_bytes(*epoch))
    }

    /// The record header of such a block, without a place.
    pub(super) fn header(&self) -> Result<RecordHeader, block::Error> {
        let damaged = |what| block::Error::Damaged { id: self.id, what };
        let form = self.dictionary.as_ref().map_or(StoredForm::PLAIN, StoredForm::with);
        if form != StoredForm::PLAIN
            && (self.codec != Codec::Zstd || !self.kind.may_use_dictionary())
        {
            return Err(damaged("it names a dictionary and cannot have used one"));
        }
        if self.bytes.len() > MAX_STORED_BYTES || self.raw_len as usize > MAX_BLOCK_BYTES {
            return Err(damaged("it is above the limit of a block"));
        }
        Ok(RecordHeader {
            kind: self.kind,
            codec: self.codec,
            sealing: if self.sealed { Sealing::XChaCha20Poly1305 } else { Sealing::None },
            stored_len: self.bytes.len() as u32,
            raw_len: self.raw_len,
            id: self.id,
            payload_crc: crc32fast::hash(&self.bytes),
            form,
        })
    }
}

impl Store {
    /// A block as it is stored here. Its checksum is checked; whether it hashes to its name is for who reads it.
    ///
    /// # Errors
    /// [`block::Error::Missing`], [`block::Error::Damaged`], and those of the disk.
    pub fn stored(&self, id: &BlockId) -> Result<StoredBlock, Error> {
        let mut looks = 1;
        loop {
            let drops = self.shared.index.drops();
            let got = self.stored_once(id);
            let is_gone = matches!(
                got,
                Err(Error::SegmentGone { .. } | Error::Block(block::Error::Missing { .. }))
            );
            // A compaction moved it between the look-up and the read.
            if !is_gone || self.shared.index.drops() == drops || looks == LOOKS_MAX {
                return got;
            }
            looks += 1;
        }
    }

    fn stored_once(&self, id: &BlockId) -> Result<StoredBlock, Error> {
        let shared = &*self.shared;
        let Some((entry, record)) = shared.record(id)? else {
            return Err(block::Error::Missing { id: *id }.into());
        };
        let damaged = |what| Error::Block(block::Error::Damaged { id: *id, what });
        let (header, payload) = record.split_at(RECORD_HEADER_BYTES);
        let uuid = &shared.identity.uuid;
        let header = RecordHeader::decode(header, uuid, entry.segment, entry.offset);
        let header = header.map_err(damaged)?;
        if header.id != *id || header.stored_len as usize != payload.len() {
            return Err(damaged("the record is not the one its index entry names"));
        }
        if crc32fast::hash(payload) != header.payload_crc {
            return Err(damaged("the stored bytes' checksum differs"));
        }
        let dictionary = match header.form {
            StoredForm::PLAIN => None,
            form => Some(shared.dictionary(form).ok_or_else(|| {
                damaged("the dictionary that it was compressed with cannot be had")
            })?),
        };
        Ok(StoredBlock {
            id: *id,
            kind: header.kind,
            codec: header.codec,
            sealed: header.sealing != Sealing::None,
            raw_len: header.raw_len,
            dictionary: dictionary.map(|one| one.id()),
            bytes: payload.to_vec(),
        })
    }

    /// Takes a block in as it is stored elsewhere, with its dictionary if it has one, checked against its name. Returns the
    /// bytes that were added: none if it was there.
    ///
    /// # Errors
    /// [`block::Error::Damaged`] if it is not what its name says, and those of a put.
    pub fn put_stored(
        &self,
        block: &StoredBlock,
        dictionary: Option<&Dictionary>,
    ) -> Result<u64, Error> {
        let header = block.header()?;
        let shared = &*self.shared;
        let writer = shared.writer()?;
        writer.check_latch()?;
        if shared.has(&block.id)? {
            return Ok(0);
        }
        let parts = (&shared.segments, &shared.index);
        // Only collections that are large enough to be worth one have a dictionary.
        let used = dictionary.map(|one| (one, usize::MAX));
        writer.move_record(parts, (&header, &block.bytes), used, Purpose::Data)
    }
}

impl Shared {
    /// Where a block is, and its record.
    fn record(&self, id: &BlockId) -> Result<Option<(Entry, Vec<u8>)>, Error> {
        match &self.role {
            Role::Writer(writer) => {
                if let Some(found) = writer.record(id) {
                    return found.map(Some);
                }
            }
            Role::Reader(reader) => {
                if let Some((segment, table)) = &reader.active
                    && let Some((_, entry)) = table.find(id, |_| true)?
                {
                    return Ok(Some((entry, segment.record(&entry)?)));
                }
            }
        }
        let Some(entry) = self.index.probes().find(id)? else { return Ok(None) };
        let record = self.segments.sealed(entry.segment)?.record(&entry)?;
        Ok(Some((entry, record)))
    }
}
