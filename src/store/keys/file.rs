//! The file `KEYS`, as `format-spec/08-encryption.md` lays it out: slots, and the sealed ring.
//!
//! Owns it, and `KEYS.new`. Each change writes the whole file anew under that name, syncs it, renames it and syncs the directory: after
//! a crash it is the old file or the new one. When a store is created it is durable before `STORE` is. Both copies in it
//! are equal; a reader takes one that is whole. Without this file nothing of the store can be read, ever: a copy of it, kept
//! elsewhere, opens the store to whoever has one of its secrets, and to nobody else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::secret::{Cost, Secret};
use super::{DataKey, Epoch, Keys, MAX_EPOCHS, Ring};
use crate::crypt::{Cipher, KEY_BYTES, Key, SEAL_BYTES};
use crate::store::fs::{Access, Disk};
use crate::store::layout::{FORMAT_VERSION, StoreUuid, field, u16_at, u32_at, u64_at};
use crate::store::writer::now_ms;
use crate::store::{Error, RepositorySalt};

const MAGIC: &[u8; 12] = b"HEADKEY\x1a\n\xa9\r\n";
const NAME: &str = "KEYS";
const COPY_BYTES: usize = 8192;
/// Where the copies start.
const COPIES: [u64; 2] = [0, COPY_BYTES as u64];
const HEADER_BYTES: usize = 64;
/// Slots of a store.
pub(super) const SLOTS: usize = 8;
const SLOT_BYTES: usize = 192;
/// Bytes of a slot that its seal vouches for.
const SLOT_PLAIN_BYTES: usize = 96;
/// Bytes of a slot's label at most.
pub(super) const LABEL_BYTES: usize = 48;
const RING_AT: usize = HEADER_BYTES + SLOTS * SLOT_BYTES;
/// Bytes of the ring before its data keys.
const RING_FIXED_BYTES: usize = 2 * KEY_BYTES + 8;
const DATA_KEY_BYTES: usize = 12 + KEY_BYTES;
const _: () =
    assert!(RING_AT + RING_FIXED_BYTES + MAX_EPOCHS * DATA_KEY_BYTES + SEAL_BYTES < COPY_BYTES - 4);

const KIND_KEY: u8 = 1;
const KIND_PASSPHRASE: u8 = 2;

/// A slot: the key that the ring is sealed with, sealed with a secret.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) is_passphrase: bool,
    pub(super) cost: Cost,
    /// Milliseconds since 1970.
    pub(super) made_ms: u64,
    pub(super) label: String,
    salt: [u8; 16],
    sealed: Vec<u8>,
}

impl Slot {
    /// Seals the ring's key with a secret.
    pub(super) fn new(store: &StoreUuid, secret: &Secret, label: &str, ring_key: &Key) -> Self {
        let is_passphrase = secret.is_passphrase();
        let cost = if is_passphrase { Cost::USUAL } else { Cost { memory_kib: 0, passes: 0 } };
        let (salt, label) = (rand::random(), label.to_owned());
        let mut slot =
            Self { is_passphrase, cost, made_ms: now_ms(), label, salt, sealed: Vec::new() };
        let key = secret.slot_key(&salt, cost).expect("the usual cost is one");
        let mut sealed = Vec::new();
        Cipher::new(&key).seal(&slot.associated(store), ring_key.bytes(), &mut sealed);
        slot.sealed = sealed;
        slot
    }

    fn associated(&self, store: &StoreUuid) -> Vec<u8> {
        [&store[..], &self.encode()[..SLOT_PLAIN_BYTES]].concat()
    }

    /// The ring's key, if this is the secret's slot.
    fn open(&self, store: &StoreUuid, secret: &Secret) -> Result<Option<Key>, &'static str> {
        if self.is_passphrase != secret.is_passphrase() {
            return Ok(None);
        }
        let key = secret.slot_key(&self.salt, self.cost)?;
        let opened =
            Cipher::new(&key).open(&self.associated(store), &self.sealed).map(Zeroizing::new);
        Ok(opened.and_then(|opened| Key::from_slice(&opened)))
    }

    fn encode(&self) -> [u8; SLOT_BYTES] {
        let mut slot = [0; SLOT_BYTES];
        slot[0] = if self.is_passphrase { KIND_PASSPHRASE } else { KIND_KEY };
        slot[1] = self.label.len() as u8;
        slot[8..12].copy_from_slice(&self.cost.memory_kib.to_le_bytes());
        slot[12..16].copy_from_slice(&self.cost.passes.to_le_bytes());
        slot[16..24].copy_from_slice(&self.made_ms.to_le_bytes());
        slot[24..40].copy_from_slice(&self.salt);
        slot[40..40 + self.label.len()].copy_from_slice(self.label.as_bytes());
        slot[SLOT_PLAIN_BYTES..SLOT_PLAIN_BYTES + self.sealed.len()].copy_from_slice(&self.sealed);
        slot
    }

    /// Reads a slot; none if it is free.
    fn decode(slot: &[u8]) -> Result<Option<Self>, &'static str> {
        let is_passphrase = match slot[0] {
            0 => return Ok(None),
            KIND_KEY => false,
            KIND_PASSPHRASE => true,
            _ => return Err("a slot is of an unknown kind"),
        };
        let label = slot[40..40 + LABEL_BYTES].get(..usize::from(slot[1]));
        let label = label.and_then(|label| std::str::from_utf8(label).ok());
        let sealed = SLOT_PLAIN_BYTES..SLOT_PLAIN_BYTES + KEY_BYTES + SEAL_BYTES;
        Ok(Some(Self {
            is_passphrase,
            cost: Cost { memory_kib: u32_at(slot, 8), passes: u32_at(slot, 12) },
            made_ms: u64_at(slot, 16),
            label: label.ok_or("a slot's label is no text")?.to_owned(),
            salt: field(slot, 24),
            sealed: slot[sealed].to_vec(),
        }))
    }
}

impl Ring {
    fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut ring = Zeroizing::new(Vec::with_capacity(COPY_BYTES));
        ring.extend_from_slice(self.naming.bytes());
        ring.extend_from_slice(&self.salt);
        ring.extend_from_slice(&self.current.0.to_le_bytes());
        ring.extend_from_slice(&(self.data.len() as u32).to_le_bytes());
        for (epoch, data) in &self.data {
            ring.extend_from_slice(&epoch.0.to_le_bytes());
            ring.extend_from_slice(&data.made_ms.to_le_bytes());
            ring.extend_from_slice(data.key.bytes());
        }
        ring
    }

    fn decode(ring: &[u8]) -> Option<Self> {
        let (fixed, rest) = ring.split_at_checked(RING_FIXED_BYTES)?;
        let entry = |bytes: &[u8]| {
            let key = Key::from_slice(&bytes[12..])?;
            Some((Epoch(u32_at(bytes, 0)), DataKey { made_ms: u64_at(bytes, 4), key }))
        };
        let data: BTreeMap<Epoch, DataKey> =
            rest.chunks_exact(DATA_KEY_BYTES).map(entry).collect::<Option<_>>()?;
        let current = Epoch(u32_at(fixed, 2 * KEY_BYTES));
        let whole = rest.len() == u32_at(fixed, 2 * KEY_BYTES + 4) as usize * DATA_KEY_BYTES;
        let naming = Key::from_slice(&fixed[..KEY_BYTES])?;
        let salt = field(fixed, KEY_BYTES);
        (whole && data.contains_key(&current)).then_some(Self { naming, salt, current, data })
    }
}

/// The content of `KEYS`.
#[derive(Debug, Clone)]
pub(super) struct KeyFile {
    pub(super) store: StoreUuid,
    pub(super) slots: [Option<Slot>; SLOTS],
    ring: Vec<u8>,
}

pub(in crate::store) fn path(dir: &Path) -> PathBuf {
    dir.join(NAME)
}

impl KeyFile {
    fn header(store: &StoreUuid) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..12].copy_from_slice(MAGIC);
        header[12..14].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        header[14..16].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        header[16..32].copy_from_slice(store);
        header
    }

    /// Seals a ring into the file.
    pub(super) fn put_ring(&mut self, ring: &Ring, ring_key: &Key) {
        self.ring.clear();
        Cipher::new(ring_key).seal(&Self::header(&self.store), &ring.encode(), &mut self.ring);
    }

    fn encode(&self) -> Vec<u8> {
        let mut copy = vec![0; COPY_BYTES];
        copy[..HEADER_BYTES].copy_from_slice(&Self::header(&self.store));
        copy[32..36].copy_from_slice(&(self.ring.len() as u32).to_le_bytes());
        for (place, slot) in
            copy[HEADER_BYTES..RING_AT].chunks_exact_mut(SLOT_BYTES).zip(&self.slots)
        {
            if let Some(slot) = slot {
                place.copy_from_slice(&slot.encode());
            }
        }
        copy[RING_AT..RING_AT + self.ring.len()].copy_from_slice(&self.ring);
        let crc = crc32fast::hash(&copy[..COPY_BYTES - 4]);
        copy[COPY_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        copy
    }

    fn decode(copy: &[u8], store: &StoreUuid) -> Result<Self, &'static str> {
        if copy.len() != COPY_BYTES || copy[..12] != *MAGIC {
            return Err("the copy has no magic");
        }
        if crc32fast::hash(&copy[..COPY_BYTES - 4]) != u32_at(copy, COPY_BYTES - 4) {
            return Err("the copy's checksum differs");
        }
        if u16_at(copy, 14) > FORMAT_VERSION {
            return Err("the copy asks for a newer reader");
        }
        if copy[16..32] != *store {
            return Err("the keys are those of another store");
        }
        let ring = copy[RING_AT..COPY_BYTES - 4].get(..u32_at(copy, 32) as usize);
        let ring = ring.ok_or("the ring is longer than any")?.to_vec();
        let mut slots = [const { None }; SLOTS];
        let places = copy[HEADER_BYTES..RING_AT].chunks_exact(SLOT_BYTES);
        for (slot, place) in slots.iter_mut().zip(places) {
            *slot = Slot::decode(place)?;
        }
        Ok(Self { store: *store, slots, ring })
    }

    /// Each copy in the file of a store, or what is wrong with it.
    fn copies(
        disk: &dyn Disk,
        dir: &Path,
        store: &StoreUuid,
    ) -> Result<[Result<Self, &'static str>; COPIES.len()], Error> {
        let path = path(dir);
        let file = match disk.open(&path, Access::Read) {
            Err(error) if error.is_not_found() => return Err(Error::KeysGone { path }),
            other => other?,
        };
        let size = file.size()?;
        let mut copies = [const { Err("the file ends before the copy does") }; COPIES.len()];
        for (copy, at) in copies.iter_mut().zip(COPIES) {
            if size >= at + COPY_BYTES as u64 {
                let mut bytes = vec![0; COPY_BYTES];
                let read = file.read_at(at, &mut bytes).map_err(|_| "it cannot be read");
                *copy = read.and_then(|()| Self::decode(&bytes, store));
            }
        }
        Ok(copies)
    }

    /// Reads the file of a store.
    pub(super) fn read(disk: &dyn Disk, dir: &Path, store: &StoreUuid) -> Result<Self, Error> {
        let mut why = "";
        for copy in Self::copies(disk, dir, store)? {
            match copy {
                Ok(keys) => return Ok(keys),
                Err(what) => why = what,
            }
        }
        Err(Error::KeysDamaged { path: path(dir), what: why })
    }

    /// Writes it, see the head of this file.
    pub(super) fn write(&self, disk: &dyn Disk, dir: &Path) -> Result<(), Error> {
        let temporary = dir.join("KEYS.new");
        match disk.remove(&temporary) {
            Err(error) if !error.is_not_found() => return Err(error.into()),
            _ => {}
        }
        let (file, copy) = (disk.create(&temporary)?, self.encode());
        COPIES.iter().try_for_each(|at| file.write_at(*at, &copy))?;
        file.sync()?;
        disk.rename(&temporary, &path(dir))?;
        Ok(disk.sync_dir(dir)?)
    }

    /// The slot that a secret opens, and the keys that it opens to.
    pub(super) fn unlock(&self, dir: &Path, secret: &Secret) -> Result<(usize, Keys), Error> {
        let path = path(dir);
        for (at, slot) in self.slots.iter().enumerate() {
            let Some(slot) = slot else { continue };
            // One that cannot be opened at all keeps nobody from the others.
            let Ok(opened) = slot.open(&self.store, secret) else { continue };
            if let Some(ring_key) = opened {
                let ring = Cipher::new(&ring_key).open(&Self::header(&self.store), &self.ring);
                let ring = ring.map(Zeroizing::new).and_then(|ring| Ring::decode(&ring));
                let what = "the ring's seal is broken";
                let ring = ring.ok_or(Error::KeysDamaged { path, what })?;
                return Ok((at, Keys::new(ring, ring_key)));
            }
        }
        Err(Error::WrongKey { path })
    }
}

/// Makes the keys of a new store, which a secret opens.
pub(in crate::store) fn create(
    disk: &dyn Disk,
    dir: &Path,
    store: &StoreUuid,
    salt: RepositorySalt,
    secret: &Secret,
) -> Result<Keys, Error> {
    let (current, ring_key) = (Epoch(1), Key::random());
    let data = BTreeMap::from([(current, DataKey { made_ms: now_ms(), key: Key::random() })]);
    let ring = Ring { naming: Key::random(), salt: salt.0, current, data };
    let mut slots = [const { None }; SLOTS];
    slots[0] = Some(Slot::new(store, secret, "", &ring_key));
    let mut file = KeyFile { store: *store, slots, ring: Vec::new() };
    file.put_ring(&ring, &ring_key);
    file.write(disk, dir)?;
    Ok(Keys::new(ring, ring_key))
}

/// The content of `KEYS` of another repository that has the same keys, which a secret opens.
fn like(keys: &Keys, store: &StoreUuid, secret: &Secret) -> (KeyFile, Key) {
    let ring_key = Key::random();
    let mut slots = [const { None }; SLOTS];
    slots[0] = Some(Slot::new(store, secret, "", &ring_key));
    let mut file = KeyFile { store: *store, slots, ring: Vec::new() };
    file.put_ring(&keys.ring, &ring_key);
    (file, ring_key)
}

/// One copy of it, for who keeps it elsewhere.
pub(in crate::store) fn copy_for(keys: &Keys, store: &StoreUuid, secret: &Secret) -> Vec<u8> {
    like(keys, store, secret).0.encode()
}

/// Opens such a copy. `path` names it in errors.
pub(in crate::store) fn open_copy(
    copy: &[u8],
    store: &StoreUuid,
    secret: &Secret,
    path: &Path,
) -> Result<Keys, Error> {
    let damaged = |what| Error::KeysDamaged { path: path.to_owned(), what };
    KeyFile::decode(copy, store).map_err(damaged)?.unlock(path, secret).map(|(_, keys)| keys)
}

/// Makes the keys of a new store, which are those of another repository.
pub(in crate::store) fn create_like(
    disk: &dyn Disk,
    dir: &Path,
    store: &StoreUuid,
    keys: &Keys,
    secret: &Secret,
) -> Result<Keys, Error> {
    let (file, ring_key) = like(keys, store, secret);
    file.write(disk, dir)?;
    Ok(Keys::new(keys.ring.clone(), ring_key))
}

/// Where the file of a store has a copy that is not whole, and why.
pub(in crate::store) fn damage(
    disk: &dyn Disk,
    dir: &Path,
    store: &StoreUuid,
) -> Result<Vec<(u64, &'static str)>, Error> {
    let copies = COPIES.into_iter().zip(KeyFile::copies(disk, dir, store)?);
    Ok(copies.filter_map(|(at, copy)| Some((at, copy.err()?))).collect())
}

/// Writes the file of a store again from the copy in it that is whole.
pub(in crate::store) fn write_again(
    disk: &dyn Disk,
    dir: &Path,
    store: &StoreUuid,
) -> Result<(), Error> {
    KeyFile::read(disk, dir, store)?.write(disk, dir)
}

/// Opens the keys of a store.
pub(in crate::store) fn unlock(
    disk: &dyn Disk,
    dir: &Path,
    store: &StoreUuid,
    secret: &Secret,
) -> Result<Keys, Error> {
    KeyFile::read(disk, dir, store)?.unlock(dir, secret).map(|(_, keys)| keys)
}
