//! Edits of the files of a store, and their checksums made good again.

use super::Script;
use super::keys::{COPY_BYTES, DATA_KEY_BYTES, Keys, RING_FIXED_BYTES, SLOTS_AT};

const RECORD_MAGIC: &[u8] = b"HSR\x1a";
const COMMIT_MAGIC: &[u8] = b"HSC\x1a";
const SECTOR_BYTES: usize = 4096;
const TRAILER_BYTES: usize = 128;
const ENTRY_BYTES: usize = 48;
const COMMIT_FIXED_BYTES: usize = 104;
const HASH_BYTES: usize = 32;
/// Bytes that encryption adds to a record.
const SEALED_BYTES: usize = 44;

/// Slots of `KEYS`, and bytes of one.
const KEY_SLOTS: usize = 8;
const KEY_SLOT_BYTES: usize = 192;

/// A field: where it starts in its structure, and its bytes.
type Field = (usize, usize);

const SECTOR: &[Field] =
    &[(0, 4), (12, 2), (14, 2), (16, 8), (24, 8), (32, 4), (48, 4), (52, 4), (56, 1), (4092, 4)];
const RECORD: &[Field] = &[
    (0, 4),
    (4, 1),
    (5, 1),
    (6, 1),
    (7, 1),
    (8, 4),
    (12, 4),
    (16, 8),
    (48, 4),
    (52, 8),
    (60, 4),
    (64, 1),
    (70, 8),
];
const ENTRY: &[Field] = &[(0, 8), (32, 4), (36, 4), (40, 4), (44, 1), (45, 2)];
const TRAILER: &[Field] =
    &[(0, 4), (16, 4), (24, 8), (32, 8), (40, 8), (48, 4), (56, 4), (88, 8), (120, 4)];
const RUN: &[Field] = &[(0, 4), (12, 2), (14, 2), (16, 4), (32, 8), (40, 8), (48, 8)];
const SLOT: &[Field] = &[(0, 4), (12, 4), (16, 4), (32, 8), (40, 8), (48, 8), (124, 4)];
const COMMIT: &[Field] = &[
    (0, 4),
    (4, 4),
    (8, 8),
    (16, 8),
    (24, 8),
    (32, 4),
    (36, 4),
    (40, 8),
    (48, 4),
    (52, 4),
    (56, 4),
    (60, 4),
    (72, 8),
    (104, 2),
    (106, 4),
];
const KEYS: &[Field] = &[(0, 4), (12, 2), (14, 2), (16, 8), (32, 4), (8188, 4)];
const KEY_SLOT: &[Field] =
    &[(0, 1), (1, 1), (8, 4), (12, 4), (16, 8), (24, 8), (40, 8), (88, 8), (96, 8), (160, 8)];
const RING: &[Field] =
    &[(0, 8), (32, 8), (64, 4), (68, 4), (72, 4), (76, 8), (84, 8), (116, 4), (120, 8), (128, 8)];

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |four| u32::from_le_bytes(four.try_into().expect("four")))
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).map_or(0, |eight| u64::from_le_bytes(eight.try_into().expect("eight")))
}

pub fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

/// Where the records of a whole segment start and end.
pub fn records(bytes: &[u8]) -> Vec<(usize, usize)> {
    let (mut found, mut at) = (Vec::new(), SECTOR_BYTES);
    while bytes.get(at..at + 4) == Some(RECORD_MAGIC) {
        let end = at + (64 + u32_at(bytes, at + 8) as usize).next_multiple_of(8);
        found.push((at, end));
        at = end;
    }
    found
}

/// Where the commits of a whole log start and end.
pub fn commits(bytes: &[u8]) -> Vec<(usize, usize)> {
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(len) = commit_len(bytes, at) {
        found.push((at, at + len));
        at += len;
    }
    found
}

fn commit_len(bytes: &[u8], at: usize) -> Option<usize> {
    let len = usize::try_from(u64_at(bytes, at + 8)).ok()?;
    let fits = bytes.len().checked_sub(at)? >= len;
    let starts = bytes.get(at..at + 4) == Some(COMMIT_MAGIC);
    (starts && fits && len >= COMMIT_FIXED_BYTES + HASH_BYTES && len.is_multiple_of(8))
        .then_some(len)
}

/// Writes a number into a field of the structure that stands at a place.
fn set_field(bytes: &mut [u8], script: &mut Script<'_>, at: usize, fields: &[Field]) {
    let (start, len) = fields[script.below(fields.len())];
    let value = script.number(u64_at(bytes, at + start));
    put(bytes, at + start, &value.to_le_bytes()[..len]);
}

/// Changes a segment file.
pub fn edit_segment(bytes: &mut Vec<u8>, script: &mut Script<'_>) {
    let found = records(bytes);
    let record =
        found.get(script.below(found.len())).copied().unwrap_or((SECTOR_BYTES, bytes.len()));
    let trailer = bytes.len().saturating_sub(TRAILER_BYTES);
    match script.next() % 8 {
        0 => set_field(bytes, script, 0, SECTOR),
        1 | 2 => set_field(bytes, script, record.0, RECORD),
        3 => set_field(bytes, script, trailer, TRAILER),
        4 => {
            let entry = trailer.saturating_sub(ENTRY_BYTES * (1 + script.below(64)));
            set_field(bytes, script, entry, ENTRY);
        }
        5 => {
            // One record, or a part of it, where another stands.
            let other = found.get(script.below(found.len())).copied().unwrap_or(record);
            let copied = bytes[other.0.min(bytes.len())..other.1.min(bytes.len())].to_vec();
            let end = bytes.len().min(record.0 + copied.len());
            let len = end.saturating_sub(record.0);
            put(bytes, record.0, &copied[..len]);
        }
        _ => edit_anywhere(bytes, script, record.0),
    }
}

/// Changes a byte, cuts some out, puts some in, or cuts the end off.
pub fn edit_anywhere(bytes: &mut Vec<u8>, script: &mut Script<'_>, near: usize) {
    let how = script.next();
    let place = if how & 0x80 == 0 { near + script.below(256) } else { script.below(bytes.len()) };
    let place = place.min(bytes.len());
    let len = script.below(256).min(bytes.len() - place);
    match how % 5 {
        0 => put(bytes, place, &[script.next()]),
        1 => drop(bytes.drain(place..place + len)),
        2 => drop(bytes.splice(place..place, std::iter::repeat_n(script.next(), len))),
        3 => bytes.truncate(place),
        _ => bytes.extend(std::iter::repeat_n(script.next(), len)),
    }
}

/// Gives the header sector its checksum.
pub fn seal_sector(bytes: &mut [u8]) {
    if let Some(sector) = bytes.get(..SECTOR_BYTES - 4) {
        let crc = crc32fast::hash(sector);
        put(bytes, SECTOR_BYTES - 4, &crc.to_le_bytes());
    }
}

/// Gives all that begins like a record its checksums, as it would have them in a segment of a number.
pub fn seal_records(bytes: &mut [u8], uuid: &[u8; 16], segment: u32) {
    for at in (SECTOR_BYTES..bytes.len().saturating_sub(64)).step_by(8) {
        if bytes[at..at + 4] != *RECORD_MAGIC {
            continue;
        }
        let stored = u32_at(bytes, at + 8) as usize;
        if let Some(stored) = bytes.get(at + 64..at + 64 + stored) {
            let crc = crc32fast::hash(stored);
            put(bytes, at + 48, &crc.to_le_bytes());
        }
        let mut crc = crc32fast::Hasher::new();
        crc.update(uuid);
        crc.update(&segment.to_le_bytes());
        crc.update(&(at as u64).to_le_bytes());
        crc.update(&bytes[at..at + 60]);
        put(bytes, at + 60, &crc.finalize().to_le_bytes());
    }
}

/// Gives the footer its checksum, where it says of itself where it starts.
pub fn seal_footer(bytes: &mut [u8]) {
    let Some(trailer) = bytes.len().checked_sub(TRAILER_BYTES) else { return };
    let start = u64_at(bytes, trailer + 24) as usize;
    if let Some(covered) = bytes.get(start..trailer + 88) {
        let hash = *blake3::hash(covered).as_bytes();
        put(bytes, trailer + 88, &hash);
    }
}

/// Changes a log file.
pub fn edit_log(bytes: &mut Vec<u8>, script: &mut Script<'_>) {
    let found = commits(bytes);
    let (at, end) = found.get(script.below(found.len())).copied().unwrap_or((0, 0));
    match script.next() % 8 {
        0..3 => set_field(bytes, script, at, COMMIT),
        3 | 4 => {
            let added = segments_added(bytes, at);
            let at = added.get(script.below(added.len())).copied().unwrap_or(at);
            set_field(bytes, script, at, &[(0, 4), (4, 8)]);
        }
        5 => bytes.truncate(end),
        6 => {
            let first = script.number(u64_at(bytes, 16));
            for (n, (at, _)) in found.iter().enumerate() {
                put(bytes, at + 16, &first.wrapping_add(n as u64).to_le_bytes());
            }
        }
        _ => edit_anywhere(bytes, script, at),
    }
}

/// Where a commit names the segments that it adds.
fn segments_added(bytes: &[u8], at: usize) -> Vec<usize> {
    let mut place = at + COMMIT_FIXED_BYTES;
    for (count_at, behind_name) in [(48, HASH_BYTES), (52, 0)] {
        for _ in 0..u32_at(bytes, at + count_at).min(64) {
            place += 2 + (u32_at(bytes, place) & 0xffff) as usize + behind_name;
        }
    }
    (0..u32_at(bytes, at + 56).min(64)).map(|n| place + 12 * n as usize).collect()
}

/// Changes the header of an index run, and gives it its checksum.
pub fn edit_run(bytes: &mut Vec<u8>, script: &mut Script<'_>) {
    match script.next() % 4 {
        0..3 => set_field(bytes, script, 0, RUN),
        _ => edit_anywhere(bytes, script, 128),
    }
    if let Some(header) = bytes.get(..124) {
        let crc = crc32fast::hash(header);
        put(bytes, 124, &crc.to_le_bytes());
    }
}

/// Changes the two slots.
pub fn edit_slots(bytes: &mut Vec<u8>, script: &mut Script<'_>) {
    match script.next() % 4 {
        0..3 => {
            let at = script.below(2) * SECTOR_BYTES;
            set_field(bytes, script, at, SLOT);
        }
        _ => {
            let near = script.below(2) * SECTOR_BYTES;
            edit_anywhere(bytes, script, near);
        }
    }
}

/// The slot that counts: its place, and the number of the log that it names.
pub fn newest_slot(bytes: &[u8]) -> (usize, u64) {
    let newest = [0, SECTOR_BYTES].into_iter().max_by_key(|at| u64_at(bytes, at + 32));
    let at = newest.expect("two");
    (at, u64_at(bytes, at + 40))
}

/// Chains the records of a log of a number anew. Returns the hash of the first.
pub fn seal_log(bytes: &mut [u8], uuid: &[u8; 16], number: u64) -> [u8; HASH_BYTES] {
    let (mut first, mut before, mut at) = (None, None::<[u8; HASH_BYTES]>, 0);
    while let Some(len) = commit_len(bytes, at) {
        if let Some(before) = before {
            put(bytes, at + 72, &before);
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(uuid).update(&number.to_le_bytes()).update(&(at as u64).to_le_bytes());
        hasher.update(&bytes[at..at + len - HASH_BYTES]);
        let hash = *hasher.finalize().as_bytes();
        put(bytes, at + len - HASH_BYTES, &hash);
        first = first.or(Some(hash));
        before = Some(hash);
        at += len;
    }
    first.unwrap_or_default()
}

/// Gives both slots their checksums, and the one at a place the hash of the log that it names.
pub fn seal_slots(bytes: &mut [u8], at: usize, first: &[u8; HASH_BYTES]) {
    put(bytes, at + 48, first);
    for at in [0, SECTOR_BYTES] {
        if let Some(slot) =
            bytes.get(at..at + 124).filter(|slot| slot.iter().any(|byte| *byte != 0))
        {
            let crc = crc32fast::hash(slot);
            put(bytes, at + 124, &crc.to_le_bytes());
        }
    }
}

/// Changes a file `KEYS`.
pub fn edit_keys(bytes: &mut Vec<u8>, script: &mut Script<'_>) {
    let copy = script.below(2) * COPY_BYTES;
    let slot = |script: &mut Script<'_>| copy + SLOTS_AT + KEY_SLOT_BYTES * script.below(KEY_SLOTS);
    match script.next() % 8 {
        0 | 1 => set_field(bytes, script, copy, KEYS),
        2 | 3 => {
            let at = slot(script);
            set_field(bytes, script, at, KEY_SLOT);
        }
        4 => {
            let (from, to) = (slot(script), slot(script));
            if let Some(copied) = bytes.get(from..from + KEY_SLOT_BYTES).map(<[u8]>::to_vec) {
                put(bytes, to, &copied);
            }
        }
        5 | 6 => {
            let place = copy + script.below(COPY_BYTES);
            let len = script.next().into();
            put(bytes, place, script.bytes(len));
        }
        _ => edit_anywhere(bytes, script, copy),
    }
}

/// Changes what `KEYS` holds sealed, or makes of it what it is at another time.
pub fn edit_ring(ring: &mut Vec<u8>, script: &mut Script<'_>) {
    match script.next() % 4 {
        0 | 1 => set_field(ring, script, 0, RING),
        2 => forget(ring, script.below(2)),
        _ => edit_anywhere(ring, script, 64),
    }
}

/// Takes one of two data keys out of a ring.
fn forget(ring: &mut Vec<u8>, which: usize) {
    if ring.len() == RING_FIXED_BYTES + 2 * DATA_KEY_BYTES {
        let at = RING_FIXED_BYTES + which * DATA_KEY_BYTES;
        ring.drain(at..at + DATA_KEY_BYTES);
        let current = u32_at(ring, RING_FIXED_BYTES);
        put(ring, 64, &current.to_le_bytes());
        put(ring, 68, &1_u32.to_le_bytes());
    }
}

/// Puts any bytes where a record has its own, sealed if the script names an epoch of the keys.
pub fn edit_sealed(bytes: &mut Vec<u8>, script: &mut Script<'_>, keys: &Keys) {
    let found = records(bytes);
    let Some((at, _)) = found.get(script.below(found.len())).copied() else { return };
    if script.next() % 4 == 0 {
        set_field(bytes, script, at, RECORD);
    }
    let start = at + 64;
    let end = start + u32_at(bytes, at + 8) as usize;
    let fits = (start + SEALED_BYTES..=bytes.len()).contains(&end);
    let (epoch, len) = (script.next() % 4, script.next().into());
    let any = script.bytes(len);
    let Some(cipher) = keys.of_blocks(epoch.into()).filter(|_| fits) else {
        return put(bytes, start, any);
    };
    let mut plain = any.to_vec();
    plain.resize(end - start - SEALED_BYTES, 0);
    let epoch = u32::from(epoch).to_le_bytes();
    let mut associated = [1, 0, bytes[at + 4], bytes[at + 5]].to_vec();
    for part in [&epoch[..], &bytes[at + 12..at + 48], &bytes[at + 52..at + 60], &[0; 4]] {
        associated.extend_from_slice(part);
    }
    let mut sealed = epoch.to_vec();
    cipher.seal(&associated, &plain, &mut sealed);
    put(bytes, start, &sealed);
}
