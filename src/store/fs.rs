//! The seam between Headstock and the file system.
//!
//! Everything that a floor keeps on disk (segments, logs, index runs, scratch files) goes through
//! [`Disk`] and [`File`], so that tests can put a disk of their own underneath. Every error says
//! which operation failed on which path. Nothing here buffers: what [`File::write_at`] took is
//! readable at once, and durable after [`File::sync`] (the entry of a new file in its directory
//! after [`Disk::sync_dir`]).

use std::fmt;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::map::Map;

/// Bytes of zeros written at once where the file system cannot allocate.
const ZERO_CHUNK_BYTES: usize = 64 << 10;

/// Bytes that [`write_again`] holds.
const AGAIN_BYTES: usize = 1 << 20;

/// What was being done to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// Making a new file.
    Create,
    /// Opening a file.
    Open,
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Reserving space.
    Allocate,
    /// Changing the length.
    SetLength,
    /// Asking for the length.
    Size,
    /// Making durable.
    Sync,
    /// Locking.
    Lock,
    /// Mapping into memory.
    Map,
    /// Renaming.
    Rename,
    /// Removing.
    Remove,
    /// Listing a directory.
    List,
    /// Making a directory.
    CreateDirectory,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "create",
            Self::Open => "open",
            Self::Read => "read",
            Self::Write => "write",
            Self::Allocate => "allocate space for",
            Self::SetLength => "set the length of",
            Self::Size => "ask the length of",
            Self::Sync => "make durable",
            Self::Lock => "lock",
            Self::Map => "map",
            Self::Rename => "rename",
            Self::Remove => "remove",
            Self::List => "list",
            Self::CreateDirectory => "create directory",
        })
    }
}

/// A failed file operation.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}: {source}", path.display())]
pub struct FsError {
    /// What was being done.
    pub operation: Operation,
    /// To which path.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl FsError {
    fn new(operation: Operation, path: &Path, source: impl Into<io::Error>) -> Self {
        Self { operation, path: path.to_owned(), source: source.into() }
    }

    /// That there is no space for a path.
    pub(super) fn full(path: &Path) -> Self {
        Self::new(Operation::Allocate, path, io::ErrorKind::StorageFull)
    }

    /// Whether the disk, or the quota on it, is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    /// Whether nothing was done but to ask for space, so that it can be done again.
    pub(super) fn only_asked_for_space(&self) -> bool {
        use Operation::{Allocate, Create, CreateDirectory};
        matches!(self.operation, Create | Allocate | CreateDirectory)
    }

    /// Whether the path is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading only.
    Read,
    /// Reading and writing.
    Write,
}

/// A file system.
pub trait Disk: fmt::Debug + Send + Sync {
    /// Makes a new file for reading and writing; an existing one is an error.
    ///
    /// # Errors
    /// [`FsError`], as for every operation of this trait.
    fn create(&self, path: &Path) -> Result<Arc<dyn File>, FsError>;
    /// Opens an existing file.
    fn open(&self, path: &Path, access: Access) -> Result<Arc<dyn File>, FsError>;
    /// Renames within one file system, replacing the target.
    fn rename(&self, from: &Path, to: &Path) -> Result<(), FsError>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> Result<(), FsError>;
    /// Removes a file, or a directory with all inside.
    fn remove_tree(&self, path: &Path) -> Result<(), FsError>;
    /// The names in a directory, sorted.
    fn list(&self, directory: &Path) -> Result<Vec<String>, FsError>;
    /// Makes a directory and its parents; an existing one is fine.
    fn create_dir(&self, directory: &Path) -> Result<(), FsError>;
    /// Makes the entries of a directory durable.
    fn sync_dir(&self, directory: &Path) -> Result<(), FsError>;
}

/// An open file. Offsets and lengths are bytes.
pub trait File: fmt::Debug + Send + Sync {
    /// The path it was opened under.
    fn path(&self) -> &Path;
    /// Fills a buffer from an offset; a file that ends before is an error.
    ///
    /// # Errors
    /// [`FsError`], as for every operation of this trait.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), FsError>;
    /// Writes all of the bytes at an offset.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), FsError>;
    /// Its length.
    fn size(&self) -> Result<u64, FsError>;
    /// Cuts or extends it.
    fn set_size(&self, bytes: u64) -> Result<(), FsError>;
    /// Reserves space up to a length, so that no write below it can find the disk full.
    fn allocate(&self, bytes: u64) -> Result<(), FsError>;
    /// Makes content and length durable.
    fn sync(&self) -> Result<(), FsError>;
    /// Takes the exclusive lock on it, or returns false if another holds it. It goes with the handle.
    fn try_lock(&self) -> Result<bool, FsError>;
    /// Maps its first bytes for reading. Only for files that are never written or cut again.
    fn map(&self, bytes: u64) -> Result<Map, FsError>;
}

/// Makes a part of a file durable that another process may have written. A sync alone does not: where
/// one failed before, what it was to write is still read, and no later one writes it.
///
/// # Errors
/// [`FsError`].
pub(super) fn write_again(file: &dyn File, range: std::ops::Range<u64>) -> Result<(), FsError> {
    let mut buffer = vec![0; AGAIN_BYTES.min(usize::try_from(range.end).unwrap_or(AGAIN_BYTES))];
    let mut offset = range.start;
    while offset < range.end {
        let len = (range.end - offset).min(buffer.len() as u64);
        let part = &mut buffer[..len as usize];
        file.read_at(offset, part)?;
        file.write_at(offset, part)?;
        offset += len;
    }
    file.sync()
}

/// The file system of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> Result<Arc<dyn File>, FsError> {
        let file = std::fs::File::options().read(true).write(true).create_new(true).open(path);
        let file = file.map_err(|error| FsError::new(Operation::Create, path, error))?;
        Ok(Arc::new(RealFile { file, path: path.to_owned() }))
    }

    fn open(&self, path: &Path, access: Access) -> Result<Arc<dyn File>, FsError> {
        let file = std::fs::File::options().read(true).write(access == Access::Write).open(path);
        let file = file.map_err(|error| FsError::new(Operation::Open, path, error))?;
        Ok(Arc::new(RealFile { file, path: path.to_owned() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), FsError> {
        std::fs::rename(from, to).map_err(|error| FsError::new(Operation::Rename, from, error))
    }

    fn remove(&self, path: &Path) -> Result<(), FsError> {
        std::fs::remove_file(path).map_err(|error| FsError::new(Operation::Remove, path, error))
    }

    fn remove_tree(&self, path: &Path) -> Result<(), FsError> {
        let failed = |error| FsError::new(Operation::Remove, path, error);
        if std::fs::symlink_metadata(path).map_err(failed)?.is_dir() {
            std::fs::remove_dir_all(path).map_err(failed)
        } else {
            self.remove(path)
        }
    }

    fn list(&self, directory: &Path) -> Result<Vec<String>, FsError> {
        let failed = |error| FsError::new(Operation::List, directory, error);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(directory).map_err(failed)? {
            names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create_dir(&self, directory: &Path) -> Result<(), FsError> {
        std::fs::create_dir_all(directory)
            .map_err(|error| FsError::new(Operation::CreateDirectory, directory, error))
    }

    fn sync_dir(&self, directory: &Path) -> Result<(), FsError> {
        std::fs::File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(|error| FsError::new(Operation::Sync, directory, error))
    }
}

#[derive(Debug)]
struct RealFile {
    file: std::fs::File,
    path: PathBuf,
}

impl RealFile {
    fn failed(&self, operation: Operation, source: impl Into<io::Error>) -> FsError {
        FsError::new(operation, &self.path, source)
    }

    /// Reserves space by writing zeros behind the end, for file systems that cannot do better.
    fn allocate_by_writing(&self, bytes: u64) -> Result<(), FsError> {
        let zeros = [0; ZERO_CHUNK_BYTES];
        let mut offset = self.size()?;
        while offset < bytes {
            let len = (bytes - offset).min(ZERO_CHUNK_BYTES as u64);
            self.file
                .write_all_at(&zeros[..len as usize], offset)
                .map_err(|error| self.failed(Operation::Allocate, error))?;
            offset += len;
        }
        Ok(())
    }
}

impl File for RealFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), FsError> {
        self.file.read_exact_at(buffer, offset).map_err(|error| self.failed(Operation::Read, error))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), FsError> {
        self.file.write_all_at(bytes, offset).map_err(|error| self.failed(Operation::Write, error))
    }

    fn size(&self) -> Result<u64, FsError> {
        self.file
            .metadata()
            .map(|metadata| metadata.len())
            .map_err(|error| self.failed(Operation::Size, error))
    }

    fn set_size(&self, bytes: u64) -> Result<(), FsError> {
        self.file.set_len(bytes).map_err(|error| self.failed(Operation::SetLength, error))
    }

    fn allocate(&self, bytes: u64) -> Result<(), FsError> {
        use rustix::fs::{FallocateFlags, fallocate};
        use rustix::io::Errno;
        loop {
            match fallocate(&self.file, FallocateFlags::empty(), 0, bytes) {
                Ok(()) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => return self.allocate_by_writing(bytes),
                Err(error) => return Err(self.failed(Operation::Allocate, error)),
            }
        }
    }

    fn sync(&self) -> Result<(), FsError> {
        self.file.sync_data().map_err(|error| self.failed(Operation::Sync, error))
    }

    fn try_lock(&self) -> Result<bool, FsError> {
        use rustix::fs::{FlockOperation, flock};
        match flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(self.failed(Operation::Lock, error)),
        }
    }

    fn map(&self, bytes: u64) -> Result<Map, FsError> {
        let size = self.size()?;
        if size < bytes {
            let what = format!("it has {size} bytes, {bytes} were to be mapped");
            let error = io::Error::new(io::ErrorKind::UnexpectedEof, what);
            return Err(self.failed(Operation::Map, error));
        }
        Map::of_file(&self.file, bytes).map_err(|error| self.failed(Operation::Map, error))
    }
}
