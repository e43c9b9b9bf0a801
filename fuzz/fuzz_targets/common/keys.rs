//! `KEYS` of an encrypted store, opened and sealed here a second time, after page 08 of `format-spec`.

use headstock::block::{BlockId, Kind};
use headstock::crypt::{Cipher, Key};
use headstock::store::Secret;

use super::forge::{put, u32_at};

pub const COPY_BYTES: usize = 8192;
pub const SLOTS_AT: usize = 64;
const RING_AT: usize = 1600;
/// Bytes of the ring before its data keys, and of each of these.
pub const RING_FIXED_BYTES: usize = 72;
pub const DATA_KEY_BYTES: usize = 44;
const SECRET: [u8; 32] = [9; 32];
/// Data keys at most.
const MAX_EPOCHS: u32 = 32;

/// What opens the stores of the targets: a key file, since a passphrase takes its time.
pub fn secret() -> Secret {
    Secret::Key(Key::from_slice(&SECRET).expect("a key"))
}

/// The ring of a store, open.
pub struct Keys {
    ring_key: Key,
    pub ring: Vec<u8>,
}

impl Keys {
    /// Opens the first slot of a file, which is that of [`secret`].
    pub fn open(file: &[u8]) -> Self {
        let slot = &file[SLOTS_AT..SLOTS_AT + 192];
        let material = [&SECRET, &slot[24..40]].concat();
        let slot_key = derive(&material, "Headstock 2026-11 slot of a key file");
        let associated = [&file[16..32], &slot[..96]].concat();
        let ring_key = Cipher::new(&slot_key).open(&associated, &slot[96..168]);
        let ring_key = Key::from_slice(&ring_key.expect("the slot of the key")).expect("a key");
        let sealed = &file[RING_AT..RING_AT + u32_at(file, 32) as usize];
        let ring = Cipher::new(&ring_key).open(&associated_with_ring(file), sealed);
        Self { ring_key, ring: ring.expect("the ring of that key") }
    }

    /// The name of a block.
    pub fn name(&self, kind: Kind, raw: &[u8]) -> BlockId {
        let names = derive(&self.ring[..32], "Headstock 2026-11 names of blocks");
        BlockId::keyed(names.bytes(), kind, raw)
    }

    /// What seals the blocks of an epoch, if the ring has it.
    pub fn of_blocks(&self, epoch: u32) -> Option<Cipher> {
        let data = self.data().find(|data| u32_at(data, 0) == epoch)?;
        Some(Cipher::new(&derive(&data[12..], "Headstock 2026-11 contents of blocks")))
    }

    fn data(&self) -> impl Iterator<Item = &[u8]> {
        self.ring.get(RING_FIXED_BYTES..).unwrap_or_default().chunks_exact(DATA_KEY_BYTES)
    }

    /// Whether it has no key that another has not.
    pub fn is_part_of(&self, other: &Self) -> bool {
        self.ring.get(..64) == Some(&other.ring[..64])
            && self.data().all(|data| other.data().any(|one| one == data))
    }

    /// Begins a new data key, if there is room for one.
    pub fn rotate(&mut self) {
        let (current, count) = (u32_at(&self.ring, 64), u32_at(&self.ring, 68));
        if count < MAX_EPOCHS {
            put(&mut self.ring, 64, &(current + 1).to_le_bytes());
            put(&mut self.ring, 68, &(count + 1).to_le_bytes());
            self.ring.extend((current + 1).to_le_bytes());
            self.ring.extend([current as u8; 40]);
        }
    }

    /// Seals the ring into both copies of a file.
    pub fn write(&self, file: &mut [u8]) {
        let mut sealed = Vec::new();
        Cipher::new(&self.ring_key).seal(&associated_with_ring(file), &self.ring, &mut sealed);
        for at in [0, COPY_BYTES] {
            put(file, at + 32, &(sealed.len() as u32).to_le_bytes());
            put(file, at + RING_AT, &sealed);
        }
        seal_copies(file);
    }
}

/// Gives both copies their checksums.
pub fn seal_copies(file: &mut [u8]) {
    for copy in file.chunks_exact_mut(COPY_BYTES) {
        let crc = crc32fast::hash(&copy[..COPY_BYTES - 4]);
        put(copy, COPY_BYTES - 4, &crc.to_le_bytes());
    }
}

fn derive(key: &[u8], purpose: &str) -> Key {
    Key::from_slice(&blake3::derive_key(purpose, key)).expect("a key")
}

fn associated_with_ring(file: &[u8]) -> Vec<u8> {
    [&file[..32], &[0; 32]].concat()
}
