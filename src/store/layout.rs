//! The bytes of a segment file, as `format-spec/01-segment.md` lays them out. All integers are
//! little-endian. Encoding and checking only; no file is touched here.

use std::fmt;

use super::Error;
use super::identity::Identity;
use super::keys::Epoch;
use crate::block::{BlockId, Codec, Kind, MAX_BLOCK_BYTES, StoredForm};

/// Bytes of the header sector at the start of every segment.
pub(super) const SEGMENT_HEADER_BYTES: u64 = 4096;
/// Bytes of the header before each record's payload.
pub(super) const RECORD_HEADER_BYTES: usize = 64;
/// Records start at multiples of this.
pub(super) const ALIGNMENT: u64 = 8;
/// Bytes of an entry of a footer or an index run.
pub(super) const ENTRY_BYTES: usize = 48;
/// Bytes of the trailer that ends a sealed segment.
pub(super) const TRAILER_BYTES: usize = 128;
/// Stored bytes of a record at most: a raw block, and room for an authentication tag and nonce.
pub(super) const MAX_STORED_BYTES: usize = MAX_BLOCK_BYTES + 64;
/// The format version this program writes, and the newest it reads.
pub(super) const FORMAT_VERSION: u16 = 1;

/// Where the header sector of an encrypted store's segment vouches for its epoch.
const HEADER_MAC: std::ops::Range<usize> = 64..96;

const SEGMENT_MAGIC: &[u8; 12] = b"HEADSEG\x1a\n\xa9\r\n";
const RECORD_MAGIC: u32 = u32::from_le_bytes(*b"HSR\x1a");
const END_MAGIC: &[u8; 8] = b"HSEND\x1a\r\n";
/// The number that stands for BLAKE3-256 in a segment header.
const HASH_BLAKE3: u8 = 1;

/// The number of a segment, from 1; never given twice in the life of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct SegmentId(pub u32);

impl SegmentId {
    /// The name of its file.
    pub(super) fn file_name(self) -> String {
        format!("{:08x}.seg", self.0)
    }

    /// The segment a file name stands for. None has the number 0, or the last, which has none after it.
    pub(super) fn of_file_name(name: &str) -> Option<Self> {
        let digits = name.strip_suffix(".seg")?;
        if digits.len() != 8 {
            return None;
        }
        let number = u32::from_str_radix(digits, 16).ok();
        number.filter(|number| (1..u32::MAX).contains(number)).map(Self)
    }

    /// The number after this one.
    pub(super) fn next(self) -> Result<Self, Error> {
        self.0.checked_add(1).map(Self).ok_or(Error::Exhausted { what: "segment" })
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// The random name of a store, part of every checksum in it.
pub(super) type StoreUuid = [u8; 16];

/// A fixed part of a little-endian structure. The ranges are constants of this module.
pub(super) fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("a range of N bytes has N bytes")
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(field(bytes, at))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(field(bytes, at))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(field(bytes, at))
}

/// Rounds up to the alignment of records.
pub(super) const fn aligned(bytes: u64) -> u64 {
    bytes.next_multiple_of(ALIGNMENT)
}

/// What is wrong with the header sector of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeaderFault {
    Magic,
    Version(u16),
    Checksum,
    Stranger,
    Forged,
}

impl HeaderFault {
    pub(super) const fn what(self) -> &'static str {
        match self {
            Self::Magic => "the segment header has no magic",
            Self::Version(_) => "the segment header asks for a newer reader",
            Self::Checksum => "the segment header's checksum differs",
            Self::Forged => "the segment header's epoch is not vouched for",
            Self::Stranger => "the segment header names another store or segment",
        }
    }
}

pub(super) fn encode_segment_header(identity: &Identity, segment: SegmentId) -> Vec<u8> {
    let epoch = identity.epoch();
    let mut sector = vec![0; SEGMENT_HEADER_BYTES as usize];
    sector[..12].copy_from_slice(SEGMENT_MAGIC);
    sector[12..14].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    sector[14..16].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    sector[32..48].copy_from_slice(&identity.uuid);
    sector[48..52].copy_from_slice(&segment.0.to_le_bytes());
    sector[52..56].copy_from_slice(&epoch.0.to_le_bytes());
    sector[56] = HASH_BLAKE3;
    if let Some(keys) = &identity.keys {
        sector[HEADER_MAC].copy_from_slice(&keys.header_mac(&identity.uuid, segment, epoch));
    }
    let crc = crc32fast::hash(&sector[..4092]);
    sector[4092..].copy_from_slice(&crc.to_le_bytes());
    sector
}

/// Reads the header sector: the epoch of the segment's records.
pub(super) fn check_segment_header(
    sector: &[u8],
    identity: &Identity,
    segment: SegmentId,
) -> Result<Epoch, HeaderFault> {
    if sector[..12] != *SEGMENT_MAGIC {
        return Err(HeaderFault::Magic);
    }
    if crc32fast::hash(&sector[..4092]) != u32_at(sector, 4092) {
        return Err(HeaderFault::Checksum);
    }
    let min_reader = u16_at(sector, 14);
    let needs_more = u64_at(sector, 16) != 0 || sector[56] != HASH_BLAKE3;
    if min_reader > FORMAT_VERSION || needs_more {
        return Err(HeaderFault::Version(min_reader));
    }
    if sector[32..48] != identity.uuid || u32_at(sector, 48) != segment.0 {
        return Err(HeaderFault::Stranger);
    }
    let epoch = Epoch(u32_at(sector, 52));
    let vouched = identity
        .keys
        .as_ref()
        .is_none_or(|keys| sector[HEADER_MAC] == keys.header_mac(&identity.uuid, segment, epoch));
    if vouched { Ok(epoch) } else { Err(HeaderFault::Forged) }
}

/// How stored bytes are kept from who has no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Sealing {
    /// Not at all.
    None = 0,
    /// By XChaCha20-Poly1305, with the data key of the epoch that they begin with.
    XChaCha20Poly1305 = 1,
}

/// The header of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordHeader {
    pub(super) kind: Kind,
    pub(super) codec: Codec,
    pub(super) sealing: Sealing,
    pub(super) stored_len: u32,
    pub(super) raw_len: u32,
    pub(super) id: BlockId,
    /// CRC-32 of the stored bytes.
    pub(super) payload_crc: u32,
    /// Which dictionary they were compressed with.
    pub(super) form: StoredForm,
}

impl RecordHeader {
    /// Bytes from this record to the next.
    pub(super) const fn span(&self) -> u64 {
        aligned(RECORD_HEADER_BYTES as u64 + self.stored_len as u64)
    }

    pub(super) fn encode(
        &self,
        store: &StoreUuid,
        segment: SegmentId,
        offset: u64,
    ) -> [u8; RECORD_HEADER_BYTES] {
        let mut header = [0; RECORD_HEADER_BYTES];
        header[..4].copy_from_slice(&RECORD_MAGIC.to_le_bytes());
        header[4] = self.kind.to_byte();
        header[5] = self.codec.to_byte();
        header[6] = self.sealing as u8;
        header[8..12].copy_from_slice(&self.stored_len.to_le_bytes());
        header[12..16].copy_from_slice(&self.raw_len.to_le_bytes());
        header[16..48].copy_from_slice(self.id.as_bytes());
        header[48..52].copy_from_slice(&self.payload_crc.to_le_bytes());
        header[52..60].copy_from_slice(&self.form.0.to_le_bytes());
        let crc = record_crc(store, segment, offset, &header[..60]);
        header[60..].copy_from_slice(&crc.to_le_bytes());
        header
    }

    /// Reads a header, or says which check it fails.
    pub(super) fn decode(
        header: &[u8],
        store: &StoreUuid,
        segment: SegmentId,
        offset: u64,
    ) -> Result<Self, &'static str> {
        if u32_at(header, 0) != RECORD_MAGIC {
            return Err("no record starts here");
        }
        if record_crc(store, segment, offset, &header[..60]) != u32_at(header, 60) {
            return Err("the record header's checksum differs");
        }
        let kind = Kind::from_byte(header[4]).ok_or("the record is of an unknown kind")?;
        let codec = Codec::from_byte(header[5]).ok_or("the record is of an unknown codec")?;
        let sealing = match (header[6], header[7]) {
            (0, 0) => Sealing::None,
            (1, 0) => Sealing::XChaCha20Poly1305,
            _ => return Err("the record needs a cipher or a feature of a newer version"),
        };
        let form = StoredForm(u64_at(header, 52));
        if form != StoredForm::PLAIN && (codec != Codec::Zstd || !kind.may_use_dictionary()) {
            return Err("the record names a dictionary and cannot have used one");
        }
        let (stored_len, raw_len) = (u32_at(header, 8), u32_at(header, 12));
        if stored_len as usize > MAX_STORED_BYTES || raw_len as usize > MAX_BLOCK_BYTES {
            return Err("the record is above the limit of a block");
        }
        let id = BlockId::from_bytes(field(header, 16));
        let payload_crc = u32_at(header, 48);
        Ok(Self { kind, codec, sealing, stored_len, raw_len, id, payload_crc, form })
    }
}

/// The checksum of a record header: seeded with its place, so that stale, recycled or misdirected
/// bytes never pass for a record.
fn record_crc(store: &StoreUuid, segment: SegmentId, offset: u64, header: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(store);
    crc.update(&segment.0.to_le_bytes());
    crc.update(&offset.to_le_bytes());
    crc.update(header);
    crc.finalize()
}

/// Where a block is stored: an entry of a footer or an index run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: BlockId,
    pub(super) segment: SegmentId,
    /// Of the record's header, in bytes.
    pub(super) offset: u64,
    pub(super) stored_len: u32,
    pub(super) kind: Kind,
}

impl Entry {
    pub(super) fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut entry = [0; ENTRY_BYTES];
        entry[..32].copy_from_slice(self.id.as_bytes());
        entry[32..36].copy_from_slice(&self.segment.0.to_le_bytes());
        let units = u32::try_from(self.offset / ALIGNMENT)
            .expect("a segment is at most 4 GiB, so offsets in units of 8 fit 32 bits");
        entry[36..40].copy_from_slice(&units.to_le_bytes());
        entry[40..44].copy_from_slice(&self.stored_len.to_le_bytes());
        entry[44] = self.kind.to_byte();
        entry
    }

    pub(super) fn decode(entry: &[u8]) -> Option<Self> {
        Some(Self {
            id: BlockId::from_bytes(field(entry, 0)),
            segment: SegmentId(u32_at(entry, 32)),
            offset: u64::from(u32_at(entry, 36)) * ALIGNMENT,
            stored_len: u32_at(entry, 40),
            kind: Kind::from_byte(entry[44])?,
        })
    }
}

/// The end of a sealed segment: where its records end and how many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trailer {
    /// Where records end and the footer's entries start.
    pub(super) data_end: u64,
    /// Entries in the footer.
    pub(super) count: u64,
    /// Raw bytes of all records.
    pub(super) raw_bytes: u64,
    /// Records by kind byte.
    pub(super) kinds: [u32; 8],
    /// Whether there were damaged records when it was made of those in the file: what is not listed may be missed.
    pub(super) has_gaps: bool,
    /// BLAKE3 over entries and the trailer before this field.
    pub(super) checksum: [u8; 32],
}

impl Trailer {
    /// Bytes of a footer with so many entries.
    pub(super) const fn footer_bytes(count: u64) -> u64 {
        count * ENTRY_BYTES as u64 + TRAILER_BYTES as u64
    }

    fn encode_head(&self, store: &StoreUuid, segment: SegmentId) -> [u8; TRAILER_BYTES] {
        let mut trailer = [0; TRAILER_BYTES];
        trailer[..16].copy_from_slice(store);
        trailer[16..20].copy_from_slice(&segment.0.to_le_bytes());
        trailer[24..32].copy_from_slice(&self.data_end.to_le_bytes());
        trailer[32..40].copy_from_slice(&self.count.to_le_bytes());
        trailer[40..48].copy_from_slice(&self.raw_bytes.to_le_bytes());
        trailer[52] = u8::from(self.has_gaps);
        for (slot, count) in trailer[56..88].chunks_exact_mut(4).zip(self.kinds) {
            slot.copy_from_slice(&count.to_le_bytes());
        }
        trailer
    }

    /// The footer of a segment: sorted entries, then the trailer.
    pub(super) fn encode_footer(
        store: &StoreUuid,
        segment: SegmentId,
        data_end: u64,
        (raw_bytes, has_gaps): (u64, bool),
        entries: &[Entry],
    ) -> Vec<u8> {
        let mut kinds = [0; 8];
        let mut footer = Vec::with_capacity(entries.len() * ENTRY_BYTES + TRAILER_BYTES);
        for entry in entries {
            kinds[usize::from(entry.kind.to_byte())] += 1;
            footer.extend_from_slice(&entry.encode());
        }
        let count = entries.len() as u64;
        let checksum = [0; 32];
        let mut trailer = Self { data_end, count, raw_bytes, kinds, has_gaps, checksum };
        let mut bytes = trailer.encode_head(store, segment);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&footer).update(&bytes[..88]);
        trailer.checksum = *hasher.finalize().as_bytes();
        bytes[88..120].copy_from_slice(&trailer.checksum);
        bytes[120..].copy_from_slice(END_MAGIC);
        footer.extend_from_slice(&bytes);
        footer
    }

    /// Reads the trailer of a file of the given length, or says why it is none.
    pub(super) fn decode(
        bytes: &[u8],
        store: &StoreUuid,
        segment: SegmentId,
        file_bytes: u64,
    ) -> Result<Self, &'static str> {
        if bytes[120..] != *END_MAGIC {
            return Err("the segment has no end magic");
        }
        if bytes[..16] != *store || u32_at(bytes, 16) != segment.0 {
            return Err("the footer names another store or segment");
        }
        if u32_at(bytes, 48) != 0 {
            return Err("the footer has a list that only a newer version knows");
        }
        let mut kinds = [0; 8];
        for (count, slot) in kinds.iter_mut().zip(bytes[56..88].chunks_exact(4)) {
            *count = u32_at(slot, 0);
        }
        let trailer = Self {
            data_end: u64_at(bytes, 24),
            count: u64_at(bytes, 32),
            raw_bytes: u64_at(bytes, 40),
            kinds,
            has_gaps: bytes[52] & 1 == 1,
            checksum: field(bytes, 88),
        };
        let end = trailer.count.checked_mul(ENTRY_BYTES as u64).and_then(|entries| {
            trailer.data_end.checked_add(entries)?.checked_add(TRAILER_BYTES as u64)
        });
        if end != Some(file_bytes) || trailer.data_end < SEGMENT_HEADER_BYTES {
            return Err("the footer's lengths do not add up to the file's");
        }
        Ok(trailer)
    }

    /// Whether entries and trailer carry the footer's checksum.
    pub(super) fn verify(&self, entries: &[u8], trailer: &[u8]) -> bool {
        let mut hasher = blake3::Hasher::new();
        hasher.update(entries).update(&trailer[..88]);
        *hasher.finalize().as_bytes() == self.checksum
    }
}
