//! The `STORE` file: who this store is. Written once, last of all files when a store is created, by
//! rename, so that a directory with a `STORE` file holds a whole store. It holds two copies, since
//! without the salt nothing could be added to the store's trees.

use std::path::{Path, PathBuf};

use super::fs::{Access, Disk, File};
use super::layout::{FORMAT_VERSION, StoreUuid, field, u16_at, u32_at, u64_at};
use super::{Error, RepositorySalt};

const MAGIC: &[u8; 12] = b"HEADSTK\x1a\n\xa9\r\n";
const BYTES: usize = 128;
/// Where the copies start: in sectors of their own.
const COPIES: [u64; 2] = [0, 4096];
const NAME: &str = "STORE";

/// The name and salt of a store.
#[derive(Clone, Copy)]
pub(super) struct Identity {
    pub(super) uuid: StoreUuid,
    pub(super) salt: RepositorySalt,
}

pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join(NAME)
}

impl Identity {
    pub(super) fn encode(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..12].copy_from_slice(MAGIC);
        bytes[12..14].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[14..16].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[32..48].copy_from_slice(&self.uuid);
        bytes[48..80].copy_from_slice(&self.salt.0);
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
            (Some(identity), _) => Ok(identity),
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
                file.read_at(at, &mut bytes)?;
                *copy = Self::decode(&bytes);
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
        let version = u16_at(bytes, 14);
        if version > FORMAT_VERSION || u64_at(bytes, 16) != 0 {
            return Err(Fault::Version(version));
        }
        Ok(Self { uuid: field(bytes, 32), salt: RepositorySalt(field(bytes, 48)) })
    }
}

/// What is wrong with a copy.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    Damaged(&'static str),
    Version(u16),
}
