//! The keys of an encrypted store: what its blocks are named with, and what they and its commits are sealed with.
//!
//! One key names blocks, for as long as the store lives: a name that changed would be another block. What seals them is a *data
//! key* of an *epoch*: a new one is begun at any time, what is written from then on uses it, compaction moves the rest over, and the
//! old one is forgotten (`rotation`). All stand in the *ring*, sealed in the file `KEYS` (`file`) with a key that each of several
//! slots holds, opened by a key file or a passphrase (`secret`).

mod file;
mod manage;
mod secret;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

pub(super) use file::{
    copy_for, create, create_like, damage, open_copy, path, unlock, write_again,
};
pub(super) use manage::retire;
pub use manage::{SlotInfo, SlotKind, add, list, remove, rotate};
pub use secret::Secret;

use super::RepositorySalt;
use super::layout::{RecordHeader, SegmentId, u32_at};
use crate::block::{BlockId, Kind};
use crate::crypt::{Cipher, KEY_BYTES, Key, SEAL_BYTES};

const NAMES: &str = "Headstock 2026-11 names of blocks";
const CHAIN: &str = "Headstock 2026-11 hashes of commits";
const BLOCKS: &str = "Headstock 2026-11 contents of blocks";
const COMMITS: &str = "Headstock 2026-11 contents of commits";

/// Part of what a record's seal vouches for, whatever the version of the rest.
const SEAL_VERSION: u16 = 1;
const EPOCH_BYTES: usize = 4;
/// Bytes that encryption adds to a record.
pub(super) const PAYLOAD_BYTES: usize = EPOCH_BYTES + SEAL_BYTES;
/// Data keys at most. Each rotation adds one, and a compaction forgets those that nothing uses any more.
pub(super) const MAX_EPOCHS: usize = 32;

/// The number of a data key, from 1; 0 stands for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct Epoch(pub u32);

impl Epoch {
    /// That of what is not encrypted.
    pub(super) const NONE: Self = Self(0);
}

/// A data key and when it was made, in milliseconds since 1970.
#[derive(Debug, Clone)]
struct DataKey {
    made_ms: u64,
    key: Key,
}

/// What `KEYS` holds sealed.
#[derive(Clone)]
struct Ring {
    naming: Key,
    salt: [u8; 32],
    current: Epoch,
    data: BTreeMap<Epoch, DataKey>,
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("current", &self.current).finish_non_exhaustive()
    }
}

/// The keys of an open store.
#[derive(Debug)]
pub(super) struct Keys {
    ring: Ring,
    /// What the ring is sealed with.
    ring_key: Key,
    names: Key,
    chain: Key,
    ciphers: BTreeMap<Epoch, Ciphers>,
    /// Whether the older data keys were taken out of the file since it was read.
    forgotten: AtomicBool,
}

#[derive(Debug)]
struct Ciphers {
    blocks: Cipher,
    commits: Cipher,
}

impl Keys {
    fn new(ring: Ring, ring_key: Key) -> Self {
        let cipher = |key: &Key, purpose| Cipher::new(&key.derive(purpose));
        let ciphers = ring.data.iter().map(|(epoch, data)| {
            let (blocks, commits) = (cipher(&data.key, BLOCKS), cipher(&data.key, COMMITS));
            (*epoch, Ciphers { blocks, commits })
        });
        let ciphers = ciphers.collect();
        let (names, chain) = (ring.naming.derive(NAMES), ring.naming.derive(CHAIN));
        let forgotten = AtomicBool::default();
        Self { ring, ring_key, names, chain, ciphers, forgotten }
    }

    /// The salt of the store's trees.
    pub(super) fn salt(&self) -> RepositorySalt {
        RepositorySalt(self.ring.salt)
    }

    /// The epoch of what is written.
    pub(super) fn current(&self) -> Epoch {
        self.ring.current
    }

    /// Whether something may still use an older key.
    pub(super) fn has_older(&self) -> bool {
        self.ring.data.len() > 1 && !self.forgotten.load(Ordering::Relaxed)
    }

    /// Whether the data key of an epoch is among these.
    pub(super) fn has(&self, epoch: Epoch) -> bool {
        self.ciphers.contains_key(&epoch)
    }

    /// The name of a block.
    pub(super) fn name(&self, kind: Kind, raw: &[u8]) -> BlockId {
        BlockId::keyed(self.names.bytes(), kind, raw)
    }

    /// What names are keyed with.
    pub(super) fn name_key(&self) -> &[u8; KEY_BYTES] {
        self.names.bytes()
    }

    /// Seals the stored bytes of a record.
    pub(super) fn seal(&self, header: &RecordHeader, stored: &[u8]) -> Vec<u8> {
        let epoch = self.current();
        let mut sealed = Vec::with_capacity(stored.len() + PAYLOAD_BYTES);
        sealed.extend_from_slice(&epoch.0.to_le_bytes());
        self.ciphers[&epoch].blocks.seal(&associated(header, epoch), stored, &mut sealed);
        sealed
    }

    /// The epoch that a record's payload says it is of.
    pub(super) fn epoch_of(payload: &[u8]) -> Option<Epoch> {
        (payload.len() >= PAYLOAD_BYTES).then(|| Epoch(u32_at(payload, 0)))
    }

    /// Restores the stored bytes of a record, or says which check failed.
    pub(super) fn open(
        &self,
        header: &RecordHeader,
        payload: &[u8],
    ) -> Result<Vec<u8>, &'static str> {
        let epoch = Self::epoch_of(payload).ok_or("the record is shorter than its seal")?;
        let ciphers = self.ciphers.get(&epoch).ok_or("the record's data key is not in the ring")?;
        let opened = ciphers.blocks.open(&associated(header, epoch), &payload[EPOCH_BYTES..]);
        opened.ok_or("the record's seal is broken")
    }

    /// Seals the lists of a commit record behind its fixed part.
    pub(super) fn seal_commit(&self, fixed: &[u8], lists: &[u8], out: &mut Vec<u8>) {
        self.ciphers[&self.current()].commits.seal(fixed, lists, out);
    }

    /// Restores them.
    pub(super) fn open_commit(&self, epoch: Epoch, fixed: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        self.ciphers.get(&epoch)?.commits.open(fixed, sealed)
    }

    /// Seals a document that stands beside blocks, with the epoch before it.
    pub(super) fn seal_document(&self, associated: &[u8], document: &[u8]) -> Vec<u8> {
        let mut sealed = self.current().0.to_le_bytes().to_vec();
        self.seal_commit(associated, document, &mut sealed);
        sealed
    }

    /// Restores it.
    pub(super) fn open_document(&self, associated: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (epoch, sealed) = sealed.split_at_checked(EPOCH_BYTES)?;
        self.open_commit(Epoch(u32_at(epoch, 0)), associated, sealed)
    }

    /// Whether what these seal and name can be opened and is named so with others, too.
    pub(super) fn are_among(&self, others: &Self) -> bool {
        let same = |(epoch, data): (&Epoch, &DataKey)| {
            others.ring.data.get(epoch).is_some_and(|other| other.key.bytes() == data.key.bytes())
        };
        self.ring.naming.bytes() == others.ring.naming.bytes()
            && self.ring.salt == others.ring.salt
            && self.ring.data.iter().all(same)
    }

    /// These keys with the data keys of others beside; none if both have another one of the same epoch, or name blocks otherwise, or
    /// there would be too many.
    pub(super) fn with(&self, others: &Self) -> Option<Self> {
        let mut ring = self.ring.clone();
        for (epoch, data) in &others.ring.data {
            let own = ring.data.entry(*epoch).or_insert_with(|| data.clone());
            if own.key.bytes() != data.key.bytes() {
                return None;
            }
        }
        let alike =
            ring.naming.bytes() == others.ring.naming.bytes() && ring.salt == others.ring.salt;
        let fits = ring.data.len() <= MAX_EPOCHS;
        (alike && fits).then(|| Self::new(ring, self.ring_key.clone()))
    }

    /// What vouches for the epoch that a segment's header tells.
    pub(super) fn header_mac(
        &self,
        store: &[u8; 16],
        segment: SegmentId,
        epoch: Epoch,
    ) -> [u8; 32] {
        let mut hasher = self.chain_hasher();
        hasher.update(store).update(&segment.0.to_le_bytes()).update(&epoch.0.to_le_bytes());
        *hasher.finalize().as_bytes()
    }

    /// The hash of a commit record, which only who has the keys can make.
    pub(super) fn chain_hasher(&self) -> blake3::Hasher {
        blake3::Hasher::new_keyed(self.chain.bytes())
    }
}

/// What a record's seal vouches for beyond its bytes: nothing of its place, so that it can be moved as it is.
fn associated(header: &RecordHeader, epoch: Epoch) -> [u8; 56] {
    let mut bytes = [0; 56];
    bytes[..2].copy_from_slice(&SEAL_VERSION.to_le_bytes());
    bytes[2] = header.kind.to_byte();
    bytes[3] = header.codec.to_byte();
    bytes[4..8].copy_from_slice(&epoch.0.to_le_bytes());
    bytes[8..12].copy_from_slice(&header.raw_len.to_le_bytes());
    bytes[12..44].copy_from_slice(header.id.as_bytes());
    bytes[44..52].copy_from_slice(&header.form.0.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::manage::{add_on, remove_on, rotate_on};
    use super::*;
    use crate::block::{BlockRead as _, BlockWrite as _};
    use crate::lab::{SimDisk, Survives};
    use crate::store::{Error, Options, RepositorySalt, Store};

    const STORE: &str = "/disk/store";

    fn key(byte: u8) -> Secret {
        Secret::Key(Key::from_slice(&[byte; 32]).expect("a key"))
    }

    fn open(disk: &SimDisk, byte: u8) -> Result<Store, Error> {
        let options = Options { secret: Some(Arc::new(key(byte))), ..Options::default() };
        Store::open_on(Arc::new(disk.clone()), Path::new(STORE), options)
    }

    /// Changes the keys twice in a way of each kind.
    fn change(disk: &SimDisk) -> Result<(), Error> {
        let on = || Arc::new(disk.clone());
        rotate_on(on(), Path::new(STORE), &key(1))?;
        let slot = add_on(on(), Path::new(STORE), &key(1), &key(2), "second")?;
        rotate_on(on(), Path::new(STORE), &key(2))?;
        remove_on(on(), Path::new(STORE), &key(1), slot)
    }

    /// The power goes after every operation of changes of the keys: the first key opens the store, and what it holds is
    /// read; the second does between its slot's making and its end, and then no more.
    #[test]
    fn the_power_goes_while_keys_are_changed() {
        let disk = SimDisk::new(Path::new("/disk"));
        let options = Options { secret: Some(Arc::new(key(1))), ..Options::default() };
        let salt = RepositorySalt([3; 32]);
        let store = Store::create_on(Arc::new(disk.clone()), Path::new(STORE), options, salt);
        let store = store.expect("create");
        let id = store.put(Kind::Links, &[5, 0, 0, 0, 0]).expect("put");
        store.commit(|roots| _ = roots.insert("one".to_owned(), id)).expect("commit");
        drop(store);
        let (mut cut, mut opened_by_second) = (0, 0);
        loop {
            for survives in [Survives::Nothing, Survives::Whole] {
                let disk = disk.restarted(|_| Survives::Whole);
                let before = disk.operations();
                disk.cut_after(before + cut);
                let changed = change(&disk).is_ok();
                let disk = disk.restarted(|_| survives);
                let store = open(&disk, 1).expect("the first key opens it");
                assert!(store.salt() == salt && store.get(&id).is_ok(), "cut after {cut}");
                drop(store);
                let second = open(&disk, 2).is_ok();
                opened_by_second += usize::from(second);
                assert!(!(changed && second), "its slot was removed");
                if changed {
                    println!("{cut} operations, {opened_by_second} opened by the second key");
                    assert!(opened_by_second > 4);
                    return;
                }
            }
            cut += 1;
        }
    }

    /// A bad sector in the first copy of the keys, or of the name: the second serves.
    #[test]
    fn a_bad_sector_in_one_copy_costs_nothing() {
        for (file, copies) in [("KEYS", [100, 8192 + 100]), ("STORE", [40, 4096 + 40])] {
            let disk = SimDisk::new(Path::new("/disk"));
            let options = Options { secret: Some(Arc::new(key(1))), ..Options::default() };
            let salt = RepositorySalt([3; 32]);
            let on = Arc::new(disk.clone());
            drop(Store::create_on(on, Path::new(STORE), options, salt).expect("create"));
            let path = Path::new(STORE).join(file);
            disk.spoil(&path, copies[0]);
            assert!(open(&disk, 1).expect("the second copy serves").salt() == salt, "{file}");
            disk.spoil(&path, copies[1]);
            assert!(open(&disk, 1).is_err(), "{file}");
        }
    }
}
