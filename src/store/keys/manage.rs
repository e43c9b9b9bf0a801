//! Changing the keys of a store: slots, and the data key.
//!
//! Each change is one writing of `KEYS` (`file`), made under the store's lock so that no writer has an older ring in mind.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::Serialize;

use super::file::{KeyFile, LABEL_BYTES, SLOTS, Slot};
use super::{DataKey, Epoch, Keys, MAX_EPOCHS, Secret};
use crate::crypt::Key;
use crate::store::fs::{Disk, File, RealDisk};
use crate::store::identity::Found;
use crate::store::writer::now_ms;
use crate::store::{Error, recover};

/// What opens a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SlotKind {
    /// A key file.
    KeyFile,
    /// A passphrase.
    Passphrase,
}

/// A slot that is in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SlotInfo {
    /// Its number, from 0.
    pub slot: usize,
    /// What opens it.
    pub kind: SlotKind,
    /// What it was called when it was made.
    pub label: String,
    /// When it was made, in milliseconds since 1970.
    pub made_ms: u64,
}

/// A store whose keys are changed.
struct Change<'a> {
    disk: Arc<dyn Disk>,
    dir: &'a Path,
    file: KeyFile,
    /// The slot that was opened.
    opened: usize,
    keys: Keys,
    _lock: Arc<dyn File>,
}

impl<'a> Change<'a> {
    fn begin(disk: Arc<dyn Disk>, dir: &'a Path, secret: &Secret) -> Result<Self, Error> {
        let store = encrypted(&*disk, dir)?;
        let lock = recover::take_lock(&*disk, dir)?;
        let file = KeyFile::read(&*disk, dir, &store)?;
        let (opened, keys) = file.unlock(dir, secret)?;
        Ok(Self { disk, dir, file, opened, keys, _lock: lock })
    }

    fn commit(&self) -> Result<(), Error> {
        self.file.write(&*self.disk, self.dir)
    }
}

/// The name of a store that is encrypted.
fn encrypted(disk: &dyn Disk, dir: &Path) -> Result<[u8; 16], Error> {
    let found = Found::read(disk, dir)?;
    if found.encrypted { Ok(found.uuid) } else { Err(Error::NotEncrypted { dir: dir.to_owned() }) }
}

/// Lists the slots of a store. Needs no secret.
///
/// # Errors
/// [`Error::NotEncrypted`], [`Error::KeysGone`], [`Error::Damaged`], and those of the disk.
pub fn list(dir: &Path) -> Result<Vec<SlotInfo>, Error> {
    let store = encrypted(&RealDisk, dir)?;
    let file = KeyFile::read(&RealDisk, dir, &store)?;
    let slots = file.slots.iter().enumerate().filter_map(|(slot, one)| Some((slot, one.as_ref()?)));
    let info = |(slot, one): (usize, &Slot)| SlotInfo {
        slot,
        kind: if one.is_passphrase { SlotKind::Passphrase } else { SlotKind::KeyFile },
        label: one.label.clone(),
        made_ms: one.made_ms,
    };
    Ok(slots.map(info).collect())
}

/// Adds a slot that another secret opens. Returns its number.
///
/// # Errors
/// [`Error::Slots`] if none is free or the label is too long, [`Error::WrongKey`], [`Error::Locked`], and as [`list`].
pub fn add(dir: &Path, secret: &Secret, another: &Secret, label: &str) -> Result<usize, Error> {
    add_on(Arc::new(RealDisk), dir, secret, another, label)
}

pub(in crate::store) fn add_on(
    disk: Arc<dyn Disk>,
    dir: &Path,
    secret: &Secret,
    another: &Secret,
    label: &str,
) -> Result<usize, Error> {
    if label.len() > LABEL_BYTES || label.contains(char::is_control) {
        return Err(Error::Slots {
            what: format!("a label is a line of at most {LABEL_BYTES} bytes"),
        });
    }
    let mut change = Change::begin(disk, dir, secret)?;
    let free = change.file.slots.iter().position(Option::is_none);
    let free = free.ok_or_else(|| Error::Slots {
        what: format!("all {SLOTS} slots are in use; remove one first (`headstock key remove`)"),
    })?;
    let slot = Slot::new(&change.file.store, another, label, &change.keys.ring_key);
    change.file.slots[free] = Some(slot);
    change.commit()?;
    Ok(free)
}

/// Removes a slot: its secret no longer opens the store. Whoever has that secret and a copy of `KEYS` from before still opens
/// what the keys of then were used for; begin a new data key with [`rotate`] where that matters.
///
/// # Errors
/// [`Error::Slots`] if the slot is not in use or is the last, and as [`add`].
pub fn remove(dir: &Path, secret: &Secret, slot: usize) -> Result<(), Error> {
    remove_on(Arc::new(RealDisk), dir, secret, slot)
}

pub(in crate::store) fn remove_on(
    disk: Arc<dyn Disk>,
    dir: &Path,
    secret: &Secret,
    slot: usize,
) -> Result<(), Error> {
    let mut change = Change::begin(disk, dir, secret)?;
    if change.file.slots.get(slot).is_none_or(Option::is_none) {
        return Err(Error::Slots { what: format!("slot {slot} is not in use") });
    }
    if slot == change.opened {
        let what = format!(
            "slot {slot} is the one that the secret given opens; give that of another slot, so that one is sure to stay"
        );
        return Err(Error::Slots { what });
    }
    change.file.slots[slot] = None;
    change.commit()
}

/// Begins a new data key: what is written from now on uses it. A compaction moves the rest over and forgets the old one. If there is
/// one slot only, the key that the ring is sealed with is a new one too. Returns the new epoch.
///
/// # Errors
/// [`Error::Slots`] if there are too many keys that a compaction has not forgotten yet, and as [`add`].
pub fn rotate(dir: &Path, secret: &Secret) -> Result<Epoch, Error> {
    rotate_on(Arc::new(RealDisk), dir, secret)
}

pub(in crate::store) fn rotate_on(
    disk: Arc<dyn Disk>,
    dir: &Path,
    secret: &Secret,
) -> Result<Epoch, Error> {
    let mut change = Change::begin(disk, dir, secret)?;
    let mut ring = change.keys.ring.clone();
    if ring.data.len() >= MAX_EPOCHS {
        let what = format!("{MAX_EPOCHS} data keys are in use; run `headstock compact` first");
        return Err(Error::Slots { what });
    }
    let next = ring.current.0.checked_add(1).ok_or(Error::Exhausted { what: "data key" })?;
    ring.current = Epoch(next);
    ring.data.insert(ring.current, DataKey { made_ms: now_ms(), key: Key::random() });
    let mut ring_key = change.keys.ring_key.clone();
    // Other slots hold the ring's key sealed with secrets that are not at hand.
    if change.file.slots.iter().flatten().count() == 1
        && let Some(only) = &mut change.file.slots[change.opened]
    {
        ring_key = Key::random();
        *only = Slot::new(&change.file.store, secret, &only.label, &ring_key);
    }
    change.file.put_ring(&ring, &ring_key);
    change.commit()?;
    Ok(ring.current)
}

/// Forgets the data keys that are not `used`, of a store whose lock is held. Returns how many.
pub(in crate::store) fn retire(
    disk: &dyn Disk,
    dir: &Path,
    (store, keys): (&[u8; 16], &Keys),
    used: &BTreeSet<Epoch>,
) -> Result<usize, Error> {
    let mut ring = keys.ring.clone();
    ring.data.retain(|epoch, _| used.contains(epoch) || *epoch == ring.current);
    let forgotten = keys.ring.data.len() - ring.data.len();
    if forgotten > 0 {
        let mut file = KeyFile::read(disk, dir, store)?;
        file.put_ring(&ring, &keys.ring_key);
        file.write(disk, dir)?;
    }
    keys.forgotten.store(ring.data.len() == 1, Ordering::Relaxed);
    Ok(forgotten)
}
