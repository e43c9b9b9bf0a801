//! The local store: segments, index and commit log in one directory.
//!
//! Knows blocks and roots; knows no MongoDB. The format is `format-spec/`; what each file of a store
//! promises, and why a crash cannot break it, stands at the head of the module that writes it:
//!
//! | path | module | what |
//! |---|---|---|
//! | `STORE` | `identity` | name and salt, written once |
//! | `KEYS` | `keys` | of an encrypted store: its keys, sealed |
//! | `LOCK`, `readers/` | `recover`, `readers` | who writes, who reads |
//! | `segments/<id>.seg` | `append`, `segment`, `scan` | blocks |
//! | `HEAD`, `log/<n>.log` | `log`, `record` | commits: all that the store holds |
//! | `index/<n>.run` | `index`, `run`, `table` | a cache: which segment holds a block |
//! | `RESERVE` | `reserve` | space without content, for when the disk is full |
//! | `scratch/` | whoever needs it | removed at every open |
//!
//! A block is appended to the active segment and found at once by this process; it counts for
//! everyone once a commit names it. Liveness comes from commits alone: there are no tombstones.

mod append;
pub mod compact;
mod dictionaries;
mod error;
mod export;
mod family;
pub mod fs;
pub mod fsck;
mod identity;
mod index;
pub mod keys;
#[cfg(test)]
mod last_numbers;
mod layout;
mod location;
mod log;
mod map;
mod marks;
mod open;
mod readers;
mod record;
mod recover;
pub mod repair;
mod reserve;
mod run;
mod scan;
mod segment;
mod session;
mod stored;
pub(crate) mod sync;
mod table;
#[cfg(test)]
mod vectors;
mod vault;
mod verified;
mod walk;
mod writer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

pub use error::Error;
pub use export::{MAX_STORED_BLOCK_BYTES, StoredBlock};
pub use keys::Secret;
pub use layout::SegmentId;
pub use location::Location;
pub use map::Map;
pub use session::Session;
pub use vault::Vault;

use crate::block::{
    self, Block, BlockId, BlockRead, BlockWrite, Dictionary, Family, Kind, MAX_BLOCK_BYTES,
    StoredForm,
};
use dictionaries::{Dictionaries, OfSegment};
use family::Compression;
use index::Index;
use layout::{Entry, SEGMENT_HEADER_BYTES};
use readers::Registration;
use record::Commit;
use reserve::Purpose;
use segment::{FindDictionary, Segment, Segments};
use session::Sessions;
use table::Table;
use verified::Verified;
use writer::Writer;

/// The smallest segment: small enough that damage tests can try every byte.
pub const MIN_SEGMENT_BYTES: u64 = 64 << 10;
/// The largest segment: offsets are kept in units of 8 bytes in 32 bits, with room to spare.
pub const MAX_SEGMENT_BYTES: u64 = 4 << 30;

/// Segment size of a scratch store: it is allocated at once, and most change little.
const SCRATCH_SEGMENT_BYTES: u64 = 32 << 20;

/// How often a block is looked for that a compaction may be moving.
const LOOKS_MAX: u32 = 8;

/// How to open or create a store.
#[derive(Debug, Clone)]
pub struct Options {
    /// Bytes of a full segment, from [`MIN_SEGMENT_BYTES`] to [`MAX_SEGMENT_BYTES`].
    pub segment_bytes: u64,
    /// Whether commits are made durable. False only for scratch stores that are thrown away.
    pub durable: bool,
    /// Whether sealed segments are read through memory maps.
    pub mmap: bool,
    /// What opens the store if it is encrypted. A store that is created with one is.
    pub secret: Option<Arc<Secret>>,
}

impl Default for Options {
    /// 128 MiB segments (a unit of compaction under a second, and 8192 of them a TiB), durable,
    /// mapped.
    fn default() -> Self {
        Self { segment_bytes: 128 << 20, durable: true, mmap: true, secret: None }
    }
}

/// What a commit names: by root name (one per job), the `Links` block that holds its state.
pub type Roots = BTreeMap<String, BlockId>;

/// The number of a commit; grows by one with each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct CommitSeq(pub u64);

impl CommitSeq {
    /// The number of the commit after this one.
    fn next(self) -> Result<Self, Error> {
        number_after(self.0, "commit").map(Self)
    }
}

/// The number after another, which the last of all has not.
fn number_after(number: u64, what: &'static str) -> Result<u64, Error> {
    number.checked_add(1).ok_or(Error::Exhausted { what })
}

/// The secret that decides where trees are cut; made once per repository.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RepositorySalt(pub [u8; 32]);

/// An open store. Cheap to clone; every clone is the same store. A writer holds the directory's
/// lock until the last clone is dropped; a reader is registered until then.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
    purpose: Purpose,
    compression: Compression,
    /// Takes note of what is read.
    verified: Option<Arc<Verified>>,
}

struct Shared {
    dir: PathBuf,
    scratch: PathBuf,
    disk: Arc<dyn fs::Disk>,
    identity: identity::Identity,
    options: Options,
    segments: Segments,
    index: Index,
    dictionaries: Dictionaries,
    sessions: Sessions,
    role: Role,
}

enum Role {
    Writer(Box<Writer>),
    Reader(Box<Reader>),
}

/// What a reader has beyond a writer: the start of the segment that was active at its commit.
struct Reader {
    commit: Arc<Commit>,
    active: Option<(Segment, Table)>,
    // Before the registration: while that stands, the writer leaves the directory alone.
    _scratch: readers::Scratch,
    _registration: Registration,
}

impl Store {
    /// Creates a store in an empty or absent directory, with a fresh random salt.
    ///
    /// # Errors
    /// [`Error::NotEmpty`], [`Error::SegmentSize`], and those of the disk.
    pub fn create(dir: &Path, options: Options) -> Result<Self, Error> {
        Self::create_with_salt(dir, options, RepositorySalt(rand::random()))
    }

    /// Creates a store with a given salt (a scratch store beside its base, or a rebuild).
    ///
    /// # Errors
    /// As [`Store::create`].
    pub fn create_with_salt(
        dir: &Path,
        options: Options,
        salt: RepositorySalt,
    ) -> Result<Self, Error> {
        Self::create_on(Arc::new(fs::RealDisk), dir, options, salt)
    }

    /// Creates a store on a given disk.
    ///
    /// # Errors
    /// As [`Store::create`].
    pub fn create_on(
        disk: Arc<dyn fs::Disk>,
        dir: &Path,
        options: Options,
        salt: RepositorySalt,
    ) -> Result<Self, Error> {
        open::create(&disk, dir, &options, salt)?;
        Self::open_on(disk, dir, options)
    }

    /// Opens for writing: takes the lock, recovers the tail.
    ///
    /// # Errors
    /// [`Error::NotAStore`], [`Error::Locked`], [`Error::Damaged`], [`Error::LogGone`] or [`Error::SegmentGone`] if
    /// something that a commit named is not as it was, and those of the disk.
    pub fn open(dir: &Path, options: Options) -> Result<Self, Error> {
        Self::open_on(Arc::new(fs::RealDisk), dir, options)
    }

    /// Opens for writing on a given disk.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_on(disk: Arc<dyn fs::Disk>, dir: &Path, options: Options) -> Result<Self, Error> {
        open::writer(disk, dir, options).map(Self::of)
    }

    /// Opens for reading the newest commit beside a writer: registers under `readers/`, never writes
    /// anything else.
    ///
    /// # Errors
    /// [`Error::NotAStore`], [`Error::Damaged`], [`Error::Contended`], and those of the disk.
    pub fn open_reader(dir: &Path, options: Options) -> Result<Self, Error> {
        Self::open_reader_on(Arc::new(fs::RealDisk), dir, options)
    }

    /// Opens for reading on a given disk.
    ///
    /// # Errors
    /// As [`Store::open_reader`].
    pub fn open_reader_on(
        disk: Arc<dyn fs::Disk>,
        dir: &Path,
        options: Options,
    ) -> Result<Self, Error> {
        open::reader(disk, dir, options).map(Self::of)
    }

    /// Makes a store that need not survive, in a directory that does not exist: with the salt of this one, and its keys if it is
    /// encrypted, so that the same content has the same names and roots in both.
    ///
    /// # Errors
    /// As [`Store::create`].
    pub fn scratch(&self, dir: &Path) -> Result<Self, Error> {
        Self::scratch_with(dir, &self.shared.identity)
    }

    fn scratch_with(dir: &Path, identity: &identity::Identity) -> Result<Self, Error> {
        let disk: Arc<dyn fs::Disk> = Arc::new(fs::RealDisk);
        let options = Options {
            segment_bytes: SCRATCH_SEGMENT_BYTES,
            durable: false,
            mmap: false,
            secret: None,
        };
        open::scratch_of(&disk, dir, &options, identity).map(Self::of)
    }

    fn of(shared: Shared) -> Self {
        Self {
            shared: Arc::new(shared),
            purpose: Purpose::Data,
            compression: Compression::Plain,
            verified: None,
        }
    }

    /// The same store for deletions: what is put through it may use the space that is kept back for when the
    /// disk is full. Only for a few blocks that let others go.
    #[must_use]
    pub fn reclaiming(&self) -> Self {
        Self { purpose: Purpose::Reclaim, ..self.clone() }
    }

    /// The same store, which notes what is read through it, and so was found to be what its name says: [`fsck::run`] on it does not
    /// decompress and hash that again. It is read as fast as the settings of that check allow.
    #[must_use]
    pub fn noting(&self, settings: &fsck::Settings) -> Self {
        Self { verified: Some(Arc::new(Verified::new(settings))), ..self.clone() }
    }

    /// Whether the disk was too full for anything but giving space back when somebody last tried.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.shared.writer().is_ok_and(|writer| writer.reserve.is_refused())
    }

    /// Whether a directory holds a store.
    #[must_use]
    pub fn exists(dir: &Path) -> bool {
        identity::path(dir).is_file()
    }

    /// Whether a store is encrypted, which nobody needs a key to be told.
    ///
    /// # Errors
    /// [`Error::NotAStore`], [`Error::Damaged`], and those of the disk.
    pub fn is_encrypted_in(dir: &Path) -> Result<bool, Error> {
        identity::Found::read(&fs::RealDisk, dir).map(|found| found.encrypted)
    }

    /// The random name of the store, which no other has.
    #[must_use]
    pub fn uuid(&self) -> [u8; 16] {
        self.shared.identity.uuid
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }

    /// The repository salt.
    #[must_use]
    pub fn salt(&self) -> RepositorySalt {
        self.shared.identity.salt
    }

    /// Whether what it holds is encrypted, and so must be what is derived from it.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.shared.identity.keys.is_some()
    }

    /// The newest commit and what it names. A reader sees the commit it was opened at.
    #[must_use]
    pub fn roots(&self) -> (CommitSeq, Roots) {
        let commit = self.shared.commit();
        (commit.seq, commit.roots.clone())
    }

    /// Makes every block put so far durable, then the commit: `edit` gets the current roots, with
    /// what other committers are about to commit, and changes them. Returns when the commit is
    /// durable. Committers that wait at the same time share one.
    ///
    /// # Errors
    /// [`Error::Full`] if there is no space (nothing changed, it can be repeated), [`Error::Latched`] after a failed
    /// write, [`Error::ReadOnly`] on a reader, [`Error::RootName`], [`Error::TooManyRoots`].
    pub fn commit(&self, edit: impl FnOnce(&mut Roots)) -> Result<CommitSeq, Error> {
        let commit = self.shared.writer()?.commit(edit, &[])?;
        self.keep_copy(&commit);
        Ok(commit.seq)
    }

    /// Writes a commit as a block too, from which a lost log can be made again.
    fn keep_copy(&self, commit: &Commit) {
        if let Err(error) = self.put(Kind::Commit, &open::commit_block(commit)) {
            tracing::warn!(%error, commit = commit.seq.0, "a commit has no copy among the blocks");
        }
    }

    /// Keeps blocks that no commit names yet, and those of the newest commit, from being compacted away. Hold
    /// one from before the state is read that a change starts from (what is taken over from it is not put
    /// again) to the commit that names what was put. A compaction waits for those that live when it begins.
    #[must_use]
    pub fn session(&self) -> Session {
        self.shared.sessions.enter()
    }

    /// Has compactions of this opening of the store end as soon as they can, with [`Error::Stopped`].
    pub fn stop_compactions(&self) {
        self.shared.sessions.stop();
    }

    /// Bytes and blocks held, added since opening, segments, index runs. Blocks of a reader are those
    /// of its commit; blocks stored twice count twice.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Where scratch files of this opening of the store may live: an existing directory on the same
    /// file system, its own for every process, emptied by the next writer once this one is gone.
    #[must_use]
    pub fn scratch_dir(&self) -> PathBuf {
        self.shared.scratch.clone()
    }
}

impl Shared {
    fn writer(&self) -> Result<&Writer, Error> {
        match &self.role {
            Role::Writer(writer) => Ok(writer),
            Role::Reader(_) => Err(Error::ReadOnly),
        }
    }

    fn commit(&self) -> Arc<Commit> {
        match &self.role {
            Role::Writer(writer) => writer.newest(),
            Role::Reader(reader) => Arc::clone(&reader.commit),
        }
    }

    /// The newest commit, with all that it names in sealed segments (of a writer), or in those of the
    /// commit (of a reader).
    fn settled_commit(&self) -> Result<Arc<Commit>, Error> {
        let commit = self.commit();
        if let Role::Writer(writer) = &self.role {
            writer.seal_active(&self.segments, &self.index)?;
        }
        Ok(commit)
    }

    /// Where a block is. A compaction moves blocks from sealed segments to the open one: a miss counts if
    /// none was moved meanwhile.
    fn find(&self, id: &BlockId) -> Result<Option<Entry>, Error> {
        let mut looks = 1;
        loop {
            let drops = self.index.drops();
            let found = match self.find_open(id)? {
                Some(entry) => Some(entry),
                None => self.index.probes().find(id)?,
            };
            if found.is_some() || self.index.drops() == drops || looks == LOOKS_MAX {
                return Ok(found);
            }
            looks += 1;
        }
    }

    /// Where a block is among those of no sealed segment.
    fn find_open(&self, id: &BlockId) -> Result<Option<Entry>, Error> {
        Ok(match &self.role {
            Role::Writer(writer) => writer.find(id),
            Role::Reader(reader) => match &reader.active {
                Some((_, table)) => table.find(id, |_| true)?.map(|(_, entry)| entry),
                None => None,
            },
        })
    }

    /// Whether a block is there and stays until a commit that is yet to come has named it. One that is being
    /// moved may be missed: appending it once more does no harm.
    fn has(&self, id: &BlockId) -> Result<bool, Error> {
        let keeping = self.sessions.keeping();
        if self.find_open(id)?.is_some() {
            return Ok(true);
        }
        // Of sealed segments only: marks are of their tables.
        let Some(entry) = self.index.probes().find(id)? else { return Ok(false) };
        let Some(marks) = &*keeping else { return Ok(true) };
        let kept = marks.lock().unwrap_or_else(PoisonError::into_inner).keep(self, &entry);
        match kept {
            // It has just been removed, or cannot be read.
            Err(Error::SegmentGone { .. } | Error::Damaged { .. }) => Ok(false),
            kept => kept,
        }
    }

    fn get(&self, id: &BlockId, verified: Option<&Verified>) -> Result<Block, Error> {
        let mut looks = 1;
        loop {
            let drops = self.index.drops();
            let dictionary = |form| self.dictionary(form);
            let got = match self.get_open(id, &dictionary) {
                Some(got) => got,
                None => self.read_sealed(id, &dictionary, verified),
            };
            let is_gone = matches!(
                got,
                Err(Error::SegmentGone { .. }
                    | Error::Block(block::Error::Missing { .. } | block::Error::Damaged { .. }))
            );
            // A compaction moved it between the look-ups and the read.
            if !is_gone || self.index.drops() == drops || looks == LOOKS_MAX {
                return got;
            }
            looks += 1;
        }
    }

    /// Reads a block of no sealed segment.
    fn get_open(
        &self,
        id: &BlockId,
        dictionary: FindDictionary<'_>,
    ) -> Option<Result<Block, Error>> {
        match &self.role {
            Role::Writer(writer) => writer.get(id, dictionary),
            Role::Reader(reader) => {
                let (segment, table) = reader.active.as_ref()?;
                let entry = table.find(id, |_| true).transpose()?;
                Some(entry.and_then(|(_, entry)| segment.read_with(&entry, dictionary)))
            }
        }
    }

    fn read_sealed(
        &self,
        id: &BlockId,
        dictionary: FindDictionary<'_>,
        verified: Option<&Verified>,
    ) -> Result<Block, Error> {
        let Some(entry) = self.index.probes().find(id)? else {
            return Err(Error::Block(block::Error::Missing { id: *id }));
        };
        let segment = self.segments.sealed(entry.segment)?;
        let block = segment.read_with(&entry, dictionary)?;
        if let Some(verified) = verified {
            verified.note(&entry, segment.file.size()?);
        }
        Ok(block)
    }

    /// A dictionary: one that is ready, or any copy of it that can be read.
    fn dictionary(&self, form: StoredForm) -> Option<Arc<Dictionary>> {
        if let Some(ready) = self.dictionaries.ready(form) {
            return Some(ready);
        }
        let dictionary = self.stored_dictionary(form).or_else(|| self.dictionaries.unstored(form));
        dictionary.map(|dictionary| self.dictionaries.keep_ready(dictionary))
    }

    /// Any copy of a dictionary that can be read.
    fn stored_dictionary(&self, form: StoredForm) -> Option<Dictionary> {
        let mut found = self.open_dictionary(form);
        let mut read = |entry: &Entry| {
            let segment = self.segments.sealed(entry.segment);
            found = found.take().or_else(|| segment.and_then(|one| one.read(entry)).ok());
            found.is_some()
        };
        if let Err(error) = self.index.probes().find_dictionary(form, &mut read) {
            tracing::warn!(%error, "a dictionary cannot be looked for");
        }
        let raw = found?.bytes;
        Some(Dictionary::new(self.identity.name(Kind::Dictionary, &raw), raw))
    }

    /// A dictionary of a segment that is walked; another copy, if it cannot be read there.
    fn dictionary_in(&self, segment: &OfSegment, form: StoredForm) -> Option<Arc<Dictionary>> {
        if form == StoredForm::PLAIN || segment.is_lost(form) {
            return None;
        }
        let here = segment.get(form).unwrap_or_else(|error| {
            tracing::warn!(%error, "another copy of a dictionary is used");
            None
        });
        here.or_else(|| segment.keep(form, self.stored_dictionary(form)))
    }

    /// The same for who wants the blocks whatever it takes: what this process holds ready does, too.
    fn any_dictionary(&self, segment: &OfSegment, form: StoredForm) -> Option<Arc<Dictionary>> {
        self.dictionary_in(segment, form).or_else(|| self.dictionaries.ready(form))
    }

    /// One that stands in no sealed segment.
    fn open_dictionary(&self, form: StoredForm) -> Option<Block> {
        match &self.role {
            Role::Writer(writer) => {
                let id = writer.find_dictionary(form)?;
                writer.get(&id, &|_| None)?.ok()
            }
            Role::Reader(reader) => {
                let (segment, table) = reader.active.as_ref()?;
                let entry = table.find_dictionary(form, &mut |_| true).ok()??;
                segment.read(&entry).ok()
            }
        }
    }

    fn stats(&self) -> Stats {
        let probes = self.index.probes();
        let mut stats = Stats {
            dead_bytes: self.sessions.dead_bytes(),
            blocks: probes.runs.iter().map(|run| run.table.count()).sum(),
            index_runs: probes.runs.len() as u64,
            ..Stats::default()
        };
        match &self.role {
            Role::Writer(writer) => {
                let figures = writer.figures();
                stats.blocks += figures.open_blocks;
                stats.added_bytes = figures.added_bytes;
                stats.segments = figures.segments;
                stats.stored_bytes = figures.stored_bytes;
            }
            Role::Reader(reader) => {
                let commit = &reader.commit;
                stats.segments = commit.segments.len() as u64;
                stats.stored_bytes = commit.segments.values().sum();
                if let Some((_, table)) = &reader.active {
                    stats.segments += 1;
                    stats.blocks += table.count();
                    stats.stored_bytes +=
                        commit.active.map_or(SEGMENT_HEADER_BYTES, |(_, len)| len);
                }
            }
        }
        stats
    }
}

/// Figures of a store.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Stats {
    /// Blocks in the store.
    pub blocks: u64,
    /// Bytes of segment files in use.
    pub stored_bytes: u64,
    /// Of these, bytes that nothing needed when a compaction was last planned or done here, if one was.
    pub dead_bytes: Option<u64>,
    /// Stored bytes appended since the store was opened (headers included, duplicates not).
    pub added_bytes: u64,
    /// Segments.
    pub segments: u64,
    /// Tables that a look-up probes at most, beside the segments being written.
    pub index_runs: u64,
}

impl BlockRead for Store {
    fn get(&self, id: &BlockId) -> Result<Block, block::Error> {
        Ok(self.shared.get(id, self.verified.as_deref())?)
    }

    fn kind_of(&self, id: &BlockId) -> Result<Option<Kind>, block::Error> {
        Ok(self.shared.find(id)?.map(|entry| entry.kind))
    }
}

impl Store {
    /// Stores a block as [`BlockWrite::put`] does, and tells how many bytes that added: none if it
    /// was there.
    ///
    /// # Errors
    /// As [`BlockWrite::put`].
    pub fn put_counted(&self, kind: Kind, raw: &[u8]) -> Result<(BlockId, u64), block::Error> {
        let id = self.name(kind, raw);
        Ok((id, self.put_as(id, kind, raw)?))
    }

    /// The name of a block in this store.
    #[must_use]
    pub fn name(&self, kind: Kind, raw: &[u8]) -> BlockId {
        self.shared.identity.name(kind, raw)
    }

    /// Does so for a caller that has made the block's name already.
    pub(crate) fn put_as(&self, id: BlockId, kind: Kind, raw: &[u8]) -> Result<u64, block::Error> {
        if raw.len() > MAX_BLOCK_BYTES {
            return Err(block::Error::TooLarge { len: raw.len() });
        }
        let shared = &*self.shared;
        let writer = shared.writer()?;
        writer.check_latch()?;
        if shared.has(&id)? {
            return Ok(0);
        }
        let parts = (&shared.segments, &shared.index);
        let dictionary = self.dictionary_for(kind, raw);
        Ok(writer.put(parts, (id, kind, raw), dictionary.as_deref(), self.purpose)?)
    }
}

impl BlockWrite for Store {
    fn put(&self, kind: Kind, raw: &[u8]) -> Result<BlockId, block::Error> {
        self.put_counted(kind, raw).map(|(id, _)| id)
    }

    fn for_family(&self, family: &Family<'_>) -> Option<Box<dyn BlockWrite + '_>> {
        let of_family = self.family(family);
        of_family.map(|store| Box::new(store) as Box<dyn BlockWrite + '_>)
    }
}
