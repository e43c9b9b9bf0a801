//! The `STORE` file: who this store is. Written once, last of all files when a store is created, by
//! rename, so that a directory with a `STORE` file holds a whole store. It holds two copies, since
//! without the salt nothing could be added to the store's trees.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::fs::{Access, Disk, File};
use super::keys::{self, Epoch, Keys, Secret};
use super::layout::{FORMAT_VERSION, StoreUuid, field, u16_at, u32_at, u64_at};
use super::{Error, RepositorySalt};
use crate::block::{BlockId, Kind};

const MAGIC: &[u8; 12] = b"HEADSTK\x1a\n\xa9\r\n";
const BYTES: usize = 128;
/// Where the copies start: in sectors of their own.
const COPIES: [u64; 2] = [0, 4096];
const NAME: &str = "STORE";

/// The feature bit of an encrypted store, which a reader must know.
const ENCRYPTED: u64 = 1;

/// The name and salt of a store, and its keys if it is encrypted.
#[derive(Clone)]
pub(super) struct Identity {
    pub(super) uuid: StoreUuid,
    pub(super) salt: RepositorySalt,
    pub(super) keys: Option<Arc<Keys>>,
}

impl fmt::Debug for Identity {
    // Without the salt, which is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Identity");
        shown.field("uuid", &self.uuid).field("keys", &self.keys).finish_non_exhaustive()
    }
}

impl Identity {
    /// That of a store that is not encrypted.
    pub(super) const fn plain(uuid: StoreUuid, salt: RepositorySalt) -> Self {
        Self { uuid, salt, keys: None }
    }

    /// The name of a block of this store.
    pub(super) fn name(&self, kind: Kind, raw: &[u8]) -> BlockId {
        match &self.keys {
            Some(keys) => keys.name(kind, raw),
            None => BlockId::of(kind, raw),
        }
    }

    /// The same of a kind byte and the raw bytes behind it, in one piece.
    pub(super) fn name_joined(&self, joined: &[u8]) -> BlockId {
        BlockId::of_joined(joined, self.keys.as_ref().map(|keys| keys.name_key()))
    }

    /// What is written now is of this epoch.
    pub(super) fn epoch(&self) -> Epoch {
        self.keys.as_ref().map_or(Epoch::NONE, |keys| keys.current())
    }
}

/// What `STORE` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) uuid: StoreUuid,
    /// Zeros if the store is encrypted: its keys have it then.
    salt: [u8; 32],
    pub(super) encrypted: bool,
}

pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join(NAME)
}

impl Found {
    pub(super) fn of(identity: &Identity) -> Self {
        let encrypted = identity.keys.is_some();
        let salt = if encrypted { [0; 32] } else { identity.salt.0 };
        Self { uuid: identity.uuid, salt, encrypted }
    }

    /// Opens the keys, if there are any, with what the operator gave.
    pub(super) fn unlock(
        self,
        disk: &dyn Disk,
        dir: &Path,
        secret: Option<&Secret>,
    ) -> Result<Identity, Error> {
        let Self { uuid, salt, encrypted } = self;
        match (encrypted, secret) {
            (false, None) => Ok(Identity::plain(uuid, RepositorySalt(salt))),
            (false, Some(_)) => Err(Error::NotEncrypted { dir: dir.to_owned() }),
            (true, None) => Err(Error::KeyNeeded { dir: dir.to_owned() }),
            (true, Some(secret)) => {
                let keys = keys::unlock(disk, dir, &uuid, secret)?;
                Ok(Identity { uuid, salt: keys.salt(), keys: Some(Arc::new(keys)) })
            }
        }
    }

    pub(super) fn encode(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..12].copy_from_slice(MAGIC);
        bytes[12..14].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[14..16].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        let features = if self.encrypted { ENCRYPTED } else { 0 };
        bytes[16..24].copy_from_slice(&features.to_le_bytes());
        bytes[32..48].copy_from_slice(&self.uuid);
        bytes[48..80].copy_from_slice(&self.salt);
        let crc = crc32fast::hash(&bytes[..124]);
        bytes[124..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(super) fn write(&self, disk: &dyn Disk, dir: &Path) -> Result<(), Error> {
        let temporary = dir.join("STORE.new");
        match disk.remove(&temporary) {
            Err(error) if !error.is_not_found() => return Err(error.into()),
            _ => {}
        }
        let file = disk.create(&temporary)?;
        COPIES.iter().try_for_each(|at| file.write_at(*at, &self.encode()))?;
        file.sync()?;
        disk.rename(&temporary, &path(dir))?;
        Ok(disk.sync_dir(dir)?)
    }

    pub(super) fn read(disk: &dyn Disk, dir: &Path) -> Result<Self, Error> {
        let path = path(dir);
        let file = disk.open(&path, Access::Read).map_err(|error| {
            if error.is_not_found() {
                Error::NotAStore { dir: dir.to_owned() }
            } else {
                Error::from(error)
            }
        })?;
        let mut copies = Self::copies(&*file)?.into_iter();
        let found = copies.clone().find_map(Result::ok);
        match (found, copies.find_map(Result::err)) {
            (Some(found), _) => Ok(found),
            (None, Some(Fault::Version(version))) => Err(Error::UnknownVersion { path, version }),
            (None, Some(Fault::Damaged(what))) => Err(Error::Damaged { path, offset: 0, what }),
            (None, None) => Err(Error::NotAStore { dir: dir.to_owned() }),
        }
    }

    /// Each copy, or what is wrong with it.
    pub(super) fn copies(file: &dyn File) -> Result<[Result<Self, Fault>; 2], Error> {
        let size = file.size()?;
        let mut copies = [Err(Fault::Damaged("the copy is missing")); 2];
        for (copy, at) in copies.iter_mut().zip(COPIES) {
            if size >= at + BYTES as u64 {
                let mut bytes = [0; BYTES];
                let read = file.read_at(at, &mut bytes);
                let unreadable = |_| Fault::Damaged("the copy cannot be read");
                *copy = read.map_err(unreadable).and_then(|()| Self::decode(&bytes));
            }
        }
        Ok(copies)
    }

    fn decode(bytes: &[u8; BYTES]) -> Result<Self, Fault> {
        if bytes[..12] != *MAGIC {
            return Err(Fault::Damaged("the copy has no magic"));
        }
        if crc32fast::hash(&bytes[..124]) != u32_at(bytes, 124) {
            return Err(Fault::Damaged("the copy's checksum differs"));
        }
        let (version, features) = (u16_at(bytes, 14), u64_at(bytes, 16));
        if version > FORMAT_VERSION || features & !ENCRYPTED != 0 {
            return Err(Fault::Version(version));
        }
        Ok(Self { uuid: field(bytes, 32), salt: field(bytes, 48), encrypted: features != 0 })
    }
}

/// What is wrong with a copy.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    Damaged(&'static str),
    Version(u16),
}
