//! The commit log: `HEAD` and `log/<n>.log`.
//!
//! Owns both. `HEAD` is two 4 KiB slots; the valid one of the higher generation names the log file in
//! use. A log file starts with a full record, records follow behind each other, the rest is zeros.
//! Order of writes of a commit: record, fdatasync. Of a new log file: create, allocate, record,
//! fsync, directory fsync, then the other slot of `HEAD`, fsync, then the old file is removed.
//!
//! An open for writing makes what it read durable before it does anything, by writing it again.
//!
//! Crash: a record that is not whole was never acknowledged and is ignored, with all behind it;
//! the first commit after an open always starts a new file, so nothing is written behind a torn
//! record, and an open that finds something torn starts one with the newest commit again. If a record that is not whole has a whole one behind it, the file was damaged later, and
//! the log refuses rather than go back in time. A torn slot leaves the other, whose file still stands.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::fs::{Access, Disk, File, FsError, write_again};
use super::identity::Identity;
use super::keys;
use super::layout::{ALIGNMENT, StoreUuid, field, u32_at, u64_at};
use super::record::{self, ChainHash, Commit, FIXED_BYTES, MAX_RECORD_BYTES, Place, Raw};
use super::{Error, number_after};

/// Bytes of a log file before the next commit starts a new one: keeps opening fast.
pub(super) const LOG_BYTES: u64 = 1 << 20;
/// No log file has more: none is started with more space than twice its first record.
const MAX_LOG_BYTES: u64 = 2 * MAX_RECORD_BYTES;
const SLOT_BYTES: u64 = 4096;
const SLOT_MAGIC: &[u8; 12] = b"HEADSLT\x1a\n\xa9\r\n";
/// How often a log is read until it is what was made durable.
const SETTLE_TRIES: usize = 4;
/// Bytes of a slot that carry something, checksum included.
const SLOT_USED: usize = 128;

/// What a slot of `HEAD` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) generation: u64,
    /// The number of the log file in use.
    pub(super) log: u64,
    /// The hash of that file's first record.
    pub(super) first: ChainHash,
}

impl Slot {
    pub(super) fn encode(&self, store: &StoreUuid) -> Vec<u8> {
        let mut slot = vec![0; SLOT_BYTES as usize];
        slot[..12].copy_from_slice(SLOT_MAGIC);
        slot[16..32].copy_from_slice(store);
        slot[32..40].copy_from_slice(&self.generation.to_le_bytes());
        slot[40..48].copy_from_slice(&self.log.to_le_bytes());
        slot[48..80].copy_from_slice(&self.first);
        let crc = crc32fast::hash(&slot[..SLOT_USED - 4]);
        slot[SLOT_USED - 4..SLOT_USED].copy_from_slice(&crc.to_le_bytes());
        slot
    }

    pub(super) fn decode(slot: &[u8], store: &StoreUuid) -> Result<Self, &'static str> {
        if slot[..12] != *SLOT_MAGIC {
            return Err("the slot has no magic");
        }
        if crc32fast::hash(&slot[..SLOT_USED - 4]) != u32_at(slot, SLOT_USED - 4) {
            return Err("the slot's checksum differs");
        }
        if slot[16..32] != *store {
            return Err("the slot is of another store");
        }
        Ok(Self { generation: u64_at(slot, 32), log: u64_at(slot, 40), first: field(slot, 48) })
    }
}

/// The files of a store's commit log.
#[derive(Debug, Clone)]
pub(super) struct LogFiles {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    store: Identity,
    durable: bool,
}

/// A log file as read.
pub(super) struct LogRead {
    pub(super) slot: Slot,
    pub(super) newest: Commit,
    /// Where valid records end, in bytes.
    pub(super) end: u64,
    /// Whether something stands behind the last valid record.
    pub(super) torn: bool,
}

impl LogFiles {
    pub(super) fn new(disk: Arc<dyn Disk>, dir: &Path, store: Identity, durable: bool) -> Self {
        Self { disk, dir: dir.to_owned(), store, durable }
    }

    pub(super) fn head_path(&self) -> PathBuf {
        self.dir.join("HEAD")
    }

    pub(super) fn path(&self, log: u64) -> PathBuf {
        self.directory().join(format!("{log:016x}.log"))
    }

    pub(super) fn directory(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// The two slots of `HEAD`, or what is wrong with each.
    pub(super) fn slots(&self) -> Result<[Result<Slot, &'static str>; 2], FsError> {
        let head = self.disk.open(&self.head_path(), Access::Read)?;
        let size = head.size()?;
        let mut slots = [Err("the slot is missing"); 2];
        for (at, slot) in slots.iter_mut().enumerate() {
            let offset = at as u64 * SLOT_BYTES;
            if size >= offset + SLOT_BYTES {
                let mut bytes = vec![0; SLOT_BYTES as usize];
                head.read_at(offset, &mut bytes)?;
                *slot = Slot::decode(&bytes, &self.store.uuid);
            }
        }
        Ok(slots)
    }

    /// Whether a slot was never written.
    pub(super) fn is_unused(&self, slot: usize) -> Result<bool, FsError> {
        let head = self.disk.open(&self.head_path(), Access::Read)?;
        if head.size()? < (slot as u64 + 1) * SLOT_BYTES {
            return Ok(false);
        }
        let mut bytes = vec![0; SLOT_BYTES as usize];
        head.read_at(slot as u64 * SLOT_BYTES, &mut bytes)?;
        Ok(bytes.iter().all(|byte| *byte == 0))
    }

    /// Reads the log file in use.
    pub(super) fn read(&self) -> Result<LogRead, Error> {
        let slots = self.slots()?;
        let newest = slots.into_iter().flatten().max_by_key(|slot| slot.generation);
        let slot = newest.ok_or_else(|| Error::Damaged {
            path: self.head_path(),
            offset: 0,
            what: "neither slot is valid",
        })?;
        let file = match self.disk.open(&self.path(slot.log), Access::Read) {
            Err(error) if error.is_not_found() => match slots.iter().position(Result::is_err) {
                // What this slot names went away when the other one was written.
                Some(bad) => {
                    let offset = bad as u64 * SLOT_BYTES;
                    let what = "the slot is damaged, and the other names a log file that is gone";
                    return Err(Error::Damaged { path: self.head_path(), offset, what });
                }
                None => {
                    return Err(Error::LogGone {
                        log: self.path(slot.log),
                        head: self.head_path(),
                    });
                }
            },
            other => other?,
        };
        self.parse(slot, &content(&*file)?)
    }

    /// Reads the log file in use, and makes durable what is read. Another process may have been killed
    /// before it was, and what is then done by it, such as removing files, cannot be taken back.
    pub(super) fn read_settled(&self) -> Result<LogRead, Error> {
        let mut read = self.read()?;
        if !self.durable {
            return Ok(read);
        }
        for _ in 0..SETTLE_TRIES {
            self.settle(&read)?;
            // What was in memory only may have left it between the reading and the writing.
            let again = self.read()?;
            let is_settled = (again.slot, again.end) == (read.slot, read.end);
            read = again;
            if is_settled {
                return Ok(read);
            }
        }
        let what = "each reading of the log tells something else";
        Err(Error::Damaged { path: self.path(read.slot.log), offset: read.end, what })
    }

    fn settle(&self, read: &LogRead) -> Result<(), Error> {
        let log = self.disk.open(&self.path(read.slot.log), Access::Write)?;
        write_again(&*log, 0..read.end)?;
        self.disk.sync_dir(&self.directory())?;
        let head = self.disk.open(&self.head_path(), Access::Write)?;
        let slot = read.slot.generation % 2 * SLOT_BYTES;
        write_again(&*head, slot..slot + SLOT_BYTES)?;
        Ok(self.disk.sync_dir(&self.dir)?)
    }

    fn place(&self, log: u64, offset: u64) -> Place<'_> {
        Place { store: &self.store, log, offset }
    }

    fn parse(&self, slot: Slot, bytes: &[u8]) -> Result<LogRead, Error> {
        let path = self.path(slot.log);
        let damaged = |offset, what| Error::Damaged { path: path.clone(), offset, what };
        let (mut newest, mut end) = (None, 0);
        while let Some(raw) = raw_at(bytes, end, &self.place(slot.log, end)) {
            if end == 0 && raw.hash != slot.first {
                return Err(damaged(0, "the log file is not the one that HEAD names"));
            }
            if let Some(epoch) = raw.unknown_epoch() {
                let path = keys::path(&self.dir);
                return Err(Error::KeysOfAnotherTime { path, epoch });
            }
            // One at a time: each names all segments.
            newest = Some(raw.apply(newest.as_ref()).map_err(|what| damaged(end, what))?);
            end += raw_len(bytes, end);
        }
        let newest = newest.ok_or_else(|| damaged(0, "the log file has no valid first record"))?;
        // A record ends with its checksum: none starts behind the last byte that is not zero.
        let written = written_len(bytes) as u64;
        let mut later = end + ALIGNMENT;
        while later < written {
            if raw_at(bytes, later, &self.place(slot.log, later)).is_some() {
                let what = "an invalid commit record has a valid one behind it";
                return Err(damaged(end, what));
            }
            later += ALIGNMENT;
        }
        let torn = written > end;
        Ok(LogRead { slot, newest, end, torn })
    }

    /// Starts a log file whose first record is `commit` in full, and makes `HEAD` name it.
    /// `current` is the newest slot, if there is one.
    pub(super) fn start(
        &self,
        current: Option<&Slot>,
        base: &Commit,
        commit: &mut Commit,
    ) -> Result<LogFile, Error> {
        let (generation, log) = match current {
            Some(slot) => (
                number_after(slot.generation, "slot of HEAD")?,
                number_after(slot.log, "log file")?,
            ),
            None => (1, 1),
        };
        let record = record::encode(commit, base, true, &self.place(log, 0));
        let path = self.path(log);
        match self.disk.remove(&path) {
            Ok(()) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
        let file = self.disk.create(&path)?;
        let capacity = LOG_BYTES.max(2 * record.len() as u64);
        file.allocate(capacity)?;
        file.write_at(0, &record)?;
        if self.durable {
            file.sync()?;
            self.disk.sync_dir(&self.directory())?;
        }
        let slot = Slot { generation, log, first: commit.hash };
        self.write_slot(&slot)?;
        let end = record.len() as u64;
        Ok(LogFile { files: self.clone(), slot, file, end, capacity })
    }

    fn write_slot(&self, slot: &Slot) -> Result<(), Error> {
        let head = match self.disk.open(&self.head_path(), Access::Write) {
            Err(error) if error.is_not_found() => {
                let head = self.disk.create(&self.head_path())?;
                head.allocate(2 * SLOT_BYTES)?;
                head
            }
            other => other?,
        };
        self.cut_part_of_slot(&*head)?;
        head.write_at(slot.generation % 2 * SLOT_BYTES, &slot.encode(&self.store.uuid))?;
        if self.durable {
            head.sync()?;
        }
        Ok(())
    }

    /// Cuts off a slot that is not whole, which does not count: a write behind it would fill it up with
    /// zeros, and it would.
    fn cut_part_of_slot(&self, head: &dyn File) -> Result<(), Error> {
        let size = head.size()?;
        if size < 2 * SLOT_BYTES && !size.is_multiple_of(SLOT_BYTES) {
            head.set_size(size - size % SLOT_BYTES)?;
            if self.durable {
                head.sync()?;
            }
        }
        Ok(())
    }

    /// Removes every log file but the one in use.
    pub(super) fn remove_others(&self, used: u64) -> Result<(), Error> {
        let keep = self.path(used);
        for name in self.disk.list(&self.directory())? {
            let path = self.directory().join(name);
            if path != keep {
                self.disk.remove(&path)?;
            }
        }
        Ok(())
    }
}

/// The log file that commits are appended to.
#[derive(Debug)]
pub(super) struct LogFile {
    files: LogFiles,
    pub(super) slot: Slot,
    file: Arc<dyn File>,
    end: u64,
    capacity: u64,
}

impl LogFile {
    /// Appends a commit and makes it durable. Returns false, with nothing written, if the file has no room.
    pub(super) fn append(&mut self, base: &Commit, commit: &mut Commit) -> Result<bool, Error> {
        let place = self.files.place(self.slot.log, self.end);
        let record = record::encode(commit, base, false, &place);
        if self.end + record.len() as u64 > self.capacity {
            return Ok(false);
        }
        self.file.write_at(self.end, &record)?;
        if self.files.durable {
            self.file.sync()?;
        }
        self.end += record.len() as u64;
        Ok(true)
    }
}

/// The bytes of a log file, of a longer one as many as any has.
pub(super) fn content(file: &dyn File) -> Result<Vec<u8>, FsError> {
    let mut bytes = vec![0; file.size()?.min(MAX_LOG_BYTES) as usize];
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}

/// Where the zeros at the end start. Most of a log file is zeros, so that it is worth to pass over many
/// at once.
fn written_len(bytes: &[u8]) -> usize {
    let zeros = [0; SLOT_BYTES as usize];
    let last = bytes.chunks(zeros.len()).rposition(|chunk| *chunk != zeros[..chunk.len()]);
    last.map_or(0, |last| {
        let (start, end) = (last * zeros.len(), bytes.len().min((last + 1) * zeros.len()));
        let byte = bytes[start..end].iter().rposition(|byte| *byte != 0);
        byte.map_or(start, |byte| start + byte + 1)
    })
}

/// Every whole record of a log file's bytes, those behind damage included. `place` tells what an offset is.
pub(super) fn whole_records<'a>(bytes: &'a [u8], place: impl Fn(u64) -> Place<'a>) -> Vec<Raw<'a>> {
    let (mut records, mut offset, written) = (Vec::new(), 0, written_len(bytes) as u64);
    while offset < written {
        match raw_at(bytes, offset, &place(offset)) {
            Some(raw) => {
                offset += raw_len(bytes, offset);
                records.push(raw);
            }
            None => offset += ALIGNMENT,
        }
    }
    records
}

fn raw_len(bytes: &[u8], offset: u64) -> u64 {
    u64_at(bytes, offset as usize + 8)
}

fn raw_at<'a>(bytes: &'a [u8], offset: u64, place: &Place<'a>) -> Option<Raw<'a>> {
    let rest = bytes.get(usize::try_from(offset).ok()?..)?;
    let len = record::claimed_len(rest.get(..FIXED_BYTES)?)?;
    Raw::check(rest.get(..usize::try_from(len).ok()?)?, place)
}
