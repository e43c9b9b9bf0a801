//! What can go wrong with a store.

use std::path::PathBuf;

use super::fs::FsError;
use super::keys::Epoch;
use super::layout::SegmentId;
use crate::block::{self, BlockId};

/// An error of the store floor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A failure of a block.
    #[error(transparent)]
    Block(#[from] block::Error),
    /// A failed file operation.
    #[error(transparent)]
    Io(FsError),
    /// No space is left. Nothing was lost; the operation can be repeated when there is space.
    #[error("the disk is full: {0}")]
    Full(#[source] FsError),
    /// Another process writes to the store.
    #[error("the store {} is in use by another process ({holder}); stop it first", dir.display())]
    Locked {
        /// The store.
        dir: PathBuf,
        /// What the lock file says about who holds it.
        holder: String,
    },
    /// The directory is no store.
    #[error("{} is not a store (it has no STORE file)", dir.display())]
    NotAStore {
        /// The directory.
        dir: PathBuf,
    },
    /// A store was to be created where something is already.
    #[error("cannot create a store in {}: the directory is not empty", dir.display())]
    NotEmpty {
        /// The directory.
        dir: PathBuf,
    },
    /// The store was written by a version this one cannot read.
    #[error("{} has format version {version}, or needs features, that this program does not know", path.display())]
    UnknownVersion {
        /// The file that says so.
        path: PathBuf,
        /// The version it wants a reader to have.
        version: u16,
    },
    /// A file of the store is not as it was written.
    #[error(
        "{} is damaged at offset {offset}: {what}; bring the file back from a copy if there is one, or run `headstock fsck --repair`",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where, in bytes from its start.
        offset: u64,
        /// Which check failed.
        what: &'static str,
    },
    /// An encrypted store, and no key for it.
    #[error(
        "the store {} is encrypted; give what opens it with --key-file or --passphrase-file, or name the file in HEADSTOCK_KEY_FILE or HEADSTOCK_PASSPHRASE_FILE", dir.display()
    )]
    KeyNeeded {
        /// The store.
        dir: PathBuf,
    },
    /// A key for a store that has none.
    #[error(
        "a key was given, and the store {} is not encrypted; leave --key-file or --passphrase-file away, or make a new store with --encrypt",
        dir.display()
    )]
    NotEncrypted {
        /// The store.
        dir: PathBuf,
    },
    /// The key opens none of the store's slots.
    #[error(
        "the key or passphrase given opens no slot of {}; `headstock key list` tells what slots there are",
        path.display()
    )]
    WrongKey {
        /// The file that holds the slots.
        path: PathBuf,
    },
    /// The keys of an encrypted store are not there.
    #[error("{} is gone, without which an encrypted store cannot be read; bring it back from a copy", path.display())]
    KeysGone {
        /// Where they should be.
        path: PathBuf,
    },
    /// The keys of an encrypted store are damaged.
    #[error("{} is damaged: {what}; bring it back from a copy, without it an encrypted store cannot be read", path.display())]
    KeysDamaged {
        /// The file that holds them.
        path: PathBuf,
        /// Which check failed.
        what: &'static str,
    },
    /// Something in the store is sealed with a data key that is not among its keys.
    #[error(
        "{} is of another time than the store: it has not got the data key of epoch {}; bring the file of the store's time back from a copy, or try again if the keys are just being changed. Do not repair the store",
        path.display(), epoch.0
    )]
    KeysOfAnotherTime {
        /// The file that holds the keys.
        path: PathBuf,
        /// The data key that it lacks.
        epoch: Epoch,
    },
    /// A file that should hold a key or a passphrase does not.
    #[error("{}: {what}", path.display())]
    BadSecret {
        /// The file.
        path: PathBuf,
        /// Why.
        what: String,
    },
    /// The slots or data keys of a store cannot be changed as asked.
    #[error("{what}")]
    Slots {
        /// Why.
        what: String,
    },
    /// A segment that the newest commit names is not there.
    #[error("segment {segment} of the store is gone ({}); bring it back from a copy, or run `headstock fsck --repair` (with --from, if another store has its blocks)", path.display())]
    SegmentGone {
        /// Which.
        segment: SegmentId,
        /// Where it should be.
        path: PathBuf,
    },
    /// The log file that `HEAD` names is not there.
    #[error("{} is gone, which {} names: the one was lost, or the other is an old copy; bring back what is of the other's time, or run `headstock fsck --repair`", log.display(), head.display())]
    LogGone {
        /// Where the log file should be.
        log: PathBuf,
        /// The file that names it.
        head: PathBuf,
    },
    /// A write could not be made durable, so nothing more is written until the store is reopened.
    #[error("the store is latched read-only since a write failed ({cause}); reopen it")]
    Latched {
        /// The failure that latched it.
        cause: String,
    },
    /// The commit was gathered with others into one that failed; the roots are as they were before.
    #[error("the commit failed together with another one; it can be repeated")]
    GroupFailed,
    /// A compaction waited for sessions that were there before it, and commits named too much meanwhile.
    #[error(
        "those that wrote when the compaction began went on until {roots} states were committed; try again later"
    )]
    TooBusy {
        /// States that are remembered.
        roots: usize,
    },
    /// Somebody asked it to end, see [`super::Store::stop_compactions`].
    #[error("the compaction was stopped; what it had done stays done, and it can be run again")]
    Stopped,
    /// The last of all numbers is used, or a file says so. What is there can be read.
    #[error("the store has no number left for another {what}")]
    Exhausted {
        /// Of what.
        what: &'static str,
    },
    /// A write to a store that was opened for reading.
    #[error("the store was opened for reading only")]
    ReadOnly,
    /// A reader found its registration removed or the log replaced each time it tried.
    #[error("the log was replaced {attempts} times while a reader registered; try again")]
    Contended {
        /// How often it tried.
        attempts: u32,
    },
    /// A segment size that the format does not allow.
    #[error("a segment of {bytes} bytes is not allowed (from 64 KiB to 4 GiB)")]
    SegmentSize {
        /// The size asked for.
        bytes: u64,
    },
    /// A root's name that the format does not allow.
    #[error("a root name of {len} bytes is above the limit of {max}")]
    RootName {
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// More roots than a commit may name.
    #[error("a commit of {count} roots is above the limit of {max}")]
    TooManyRoots {
        /// Roots it would name.
        count: usize,
        /// The limit.
        max: usize,
    },
    /// Something reachable is not there, so that what may be removed is not known.
    #[error(
        "block {id}, named by {parent}, cannot be read; run `headstock fsck` (and `fsck --repair`) before compacting"
    )]
    Unreachable {
        /// The block that is missing or damaged.
        id: BlockId,
        /// The block or root that names it.
        parent: String,
        /// Why it cannot be read.
        #[source]
        source: block::Error,
    },
}

impl Error {
    /// Whether what keeps a store from opening is not in the store: the disk, the directory or the key given.
    #[must_use]
    pub const fn is_no_damage(&self) -> bool {
        matches!(
            self,
            Self::Io(_)
                | Self::Full(_)
                | Self::NotAStore { .. }
                | Self::KeyNeeded { .. }
                | Self::NotEncrypted { .. }
                | Self::WrongKey { .. }
                | Self::KeysOfAnotherTime { .. }
        )
    }
}

impl From<FsError> for Error {
    fn from(error: FsError) -> Self {
        if error.is_full() { Self::Full(error) } else { Self::Io(error) }
    }
}

impl From<Error> for block::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Block(error) => error,
            error => Self::Backend(Box::new(error)),
        }
    }
}
