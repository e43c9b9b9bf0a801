//! Creating and opening a store.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bson::raw::cstr;
use bson::{RawArrayBuf, RawDocument, RawDocumentBuf, rawdoc};

use super::append::Target;
use super::compact;
use super::dictionaries::Dictionaries;
use super::fs::{Disk, File, FsError};
use super::identity::{Found, Identity};
use super::index::{self, Index};
use super::keys;
use super::layout::{ENTRY_BYTES, Entry, SegmentId};
use super::log::{LogFiles, LogRead, Slot};
use super::record::Commit;
use super::reserve::Reserve;
use super::segment::{self, Segments};
use super::session::Sessions;
use super::writer::{Start, Waiting, Writer};
use super::{
    CommitSeq, Error, MAX_SEGMENT_BYTES, MIN_SEGMENT_BYTES, Options, Reader, RepositorySalt, Role,
    Roots, Shared,
    readers::{self, Living},
    recover,
};
use crate::block::{Kind, link, linked};

/// The scratch directory of the writer; a reader's is named as its registration.
const WRITER_SCRATCH: &str = "writer";

/// Where scratch files of a store live.
fn scratch(dir: &Path) -> PathBuf {
    dir.join("scratch")
}

/// Makes the files of an empty store: directories, the log with its first commit, and, when all these
/// are durable, `STORE`.
pub(super) fn create(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    options: &Options,
    salt: RepositorySalt,
) -> Result<(), Error> {
    create_as(disk, dir, options, |uuid| {
        let keys = options.secret.as_ref();
        let keys = keys.map(|secret| keys::create(&**disk, dir, &uuid, salt, secret).map(Arc::new));
        Ok(Identity { uuid, salt, keys: keys.transpose()? })
    })
}

/// The same with the salt and keys of another repository.
pub(super) fn create_like(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    options: &Options,
    other: &Identity,
) -> Result<(), Error> {
    create_as(disk, dir, options, |uuid| {
        let keys = match (&other.keys, &options.secret) {
            (Some(keys), Some(secret)) => {
                Some(Arc::new(keys::create_like(&**disk, dir, &uuid, keys, secret)?))
            }
            _ => None,
        };
        Ok(Identity { uuid, salt: other.salt, keys })
    })
}

fn create_as(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    options: &Options,
    identity: impl FnOnce([u8; 16]) -> Result<Identity, Error>,
) -> Result<(), Error> {
    if !(MIN_SEGMENT_BYTES..=MAX_SEGMENT_BYTES).contains(&options.segment_bytes) {
        return Err(Error::SegmentSize { bytes: options.segment_bytes });
    }
    make_directory(&**disk, dir)?;
    check_empty(&**disk, dir)?;
    let _lock = recover::take_lock(&**disk, dir)?;
    // Another process may have made a store meanwhile.
    check_empty(&**disk, dir)?;
    make_files(disk, dir, options, &identity(rand::random())?)
}

/// Makes a store with the salt and the keys of another, which has the only copy of them, and opens it.
pub(super) fn scratch_of(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    options: &Options,
    identity: &Identity,
) -> Result<Shared, Error> {
    let identity = Identity { uuid: rand::random(), ..identity.clone() };
    disk.create_dir(dir)?;
    make_files(disk, dir, options, &identity)?;
    let lock = recover::take_lock(&**disk, dir)?;
    writer_with(disk, dir, options, &identity, &lock)
}

fn make_files(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    options: &Options,
    identity: &Identity,
) -> Result<(), Error> {
    let log = LogFiles::new(Arc::clone(disk), dir, identity.clone(), options.durable);
    let directories =
        [segment::directory(dir), index::directory(dir), readers::directory(dir), scratch(dir)];
    for directory in directories.iter().chain([&log.directory()]) {
        disk.create_dir(directory)?;
    }
    let genesis = Commit::genesis();
    log.start(None, &genesis, &mut genesis.clone())?;
    disk.sync_dir(dir)?;
    Found::of(identity).write(&**disk, dir)
}

/// Makes the directory of a store with its parents, and their entries durable. That of an existing one
/// too: another attempt to create the store may have made it and ended before.
fn make_directory(disk: &dyn Disk, dir: &Path) -> Result<(), Error> {
    let is_absent =
        |path: &&Path| disk.list(path).is_err_and(|error: FsError| error.is_not_found());
    let absent = dir.ancestors().skip(1).take_while(is_absent).count();
    disk.create_dir(dir)?;
    for parent in dir.ancestors().skip(1).take(absent + 1) {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        match disk.sync_dir(parent) {
            // Somebody who may not read a directory can often not have made anything in it either.
            Err(error) if error.source.kind() == std::io::ErrorKind::PermissionDenied => {
                tracing::warn!(%error, "the entry of the store's directory may not be durable");
            }
            synced => synced?,
        }
    }
    Ok(())
}

/// Whether nothing stands in a directory but what a creation that was interrupted leaves: it ends with
/// the `STORE` file, and no segment is made before.
fn check_empty(disk: &dyn Disk, dir: &Path) -> Result<(), Error> {
    const LEFTOVERS: &[&str] = &[
        "LOCK",
        "HEAD",
        "KEYS",
        "KEYS.new",
        "log",
        "segments",
        "index",
        "readers",
        "scratch",
        "STORE.new",
    ];
    let names = disk.list(dir)?;
    let foreign = names.iter().any(|name| !LEFTOVERS.contains(&name.as_str()));
    let has_segments = || {
        let made = names.iter().any(|name| name == "segments");
        Ok::<_, Error>(made && !disk.list(&segment::directory(dir))?.is_empty())
    };
    if foreign || has_segments()? {
        return Err(Error::NotEmpty { dir: dir.to_owned() });
    }
    Ok(())
}

/// Opens a store for writing.
pub(super) fn writer(disk: Arc<dyn Disk>, dir: &Path, options: Options) -> Result<Shared, Error> {
    let found = Found::read(&*disk, dir)?;
    let lock = recover::take_lock(&*disk, dir)?;
    // Under the lock, or the keys might be changed meanwhile.
    let identity = found.unlock(&*disk, dir, options.secret.as_deref())?;
    // To delete and to compact is how space is had, and asks for a store that is open.
    let reserve = Reserve::new(Arc::clone(&disk), dir, &options);
    reserve.with(|| writer_with(&disk, dir, &options, &identity, &lock))
}

fn writer_with(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    options: &Options,
    identity: &Identity,
    lock: &Arc<dyn File>,
) -> Result<Shared, Error> {
    let (disk, options, identity) = (Arc::clone(disk), options.clone(), identity.clone());
    let log_files = LogFiles::new(Arc::clone(&disk), dir, identity.clone(), options.durable);
    let read = log_files.read_settled()?;
    if read.torn {
        tracing::info!(offset = read.end, "the commit log ends in a torn record, which is ignored");
    }
    let mut commit = read.newest.clone();
    log_files.remove_others(read.slot.log)?;
    let Options { segment_bytes, durable, mmap, .. } = options;
    let target =
        Target { disk: Arc::clone(&disk), identity: identity.clone(), segment_bytes, durable };
    let recovered = recover::segments(&target, dir, &commit)?;
    let segments = Segments::new(Arc::clone(&disk), dir, identity.clone(), mmap);
    let living = readers::living(&*disk, dir)?;
    let written_since =
        recovered.sealed.keys().filter(|id| !commit.segments.contains_key(id)).copied();
    if let Some((seq, roots)) = newest_copy(&segments, &commit, written_since)? {
        // Its record was durable before its copy was written: it was acknowledged and then damaged.
        tracing::error!(
            commit = seq.0,
            path = %log_files.path(read.slot.log).display(),
            offset = read.end,
            "the newest commit record is damaged; its copy among the blocks is used"
        );
        // What it names may stand in any segment that was found, all of them sealed by now.
        commit = Commit {
            seq,
            roots,
            segments: recovered.sealed.clone(),
            active: None,
            next_segment: recovered.next,
            ..commit
        };
    }
    let slot = clean_log(&log_files, &read, &mut commit)?;
    let waiting = recovered.dropped.iter().map(|(segment, bytes)| Waiting {
        segment: *segment,
        bytes: *bytes,
        dropped_by: commit.seq,
    });
    let waiting = waiting.collect();
    disk.create_dir(&index::directory(dir))?;
    let live = recovered.sealed.keys().copied().collect();
    let store = identity.uuid;
    let index = Index::open(Arc::clone(&disk), dir, store, &options, &segments, live, true)?;
    clear_scratch(&*disk, dir, &living)?;
    let scratch = scratch(dir).join(WRITER_SCRATCH);
    disk.create_dir(&scratch)?;
    let slot = Some(slot);
    let recover::Recovered { sealed, next, .. } = recovered;
    let reserve = Reserve::new(Arc::clone(&disk), dir, &options);
    if let Some(largest) = sealed.values().max() {
        reserve.want_for(*largest);
    }
    let lock = Arc::clone(lock);
    let start = Start { lock, reserve, slot, commit, sealed, next, waiting };
    let writer = Writer::new(target, segment::directory(dir), log_files, start);
    let role = Role::Writer(Box::new(writer));
    let (dir, sessions) = (dir.to_owned(), Sessions::default());
    let dictionaries = Dictionaries::default();
    let shared = Shared {
        dir,
        scratch,
        disk,
        identity,
        options,
        segments,
        index,
        dictionaries,
        sessions,
        role,
    };
    compact::remove_unused(&shared, shared.writer()?)?;
    shared.writer()?.reserve.try_fill();
    Ok(shared)
}

/// Writes the newest commit into a log file of its own where a crash left something torn, so that nothing
/// of it is found later. With no space for that the first commit does it, as always.
fn clean_log(log_files: &LogFiles, read: &LogRead, commit: &mut Commit) -> Result<Slot, Error> {
    let slots = log_files.slots()?;
    let mut torn = read.torn;
    for (at, slot) in slots.iter().enumerate() {
        torn |= slot.is_err() && !log_files.is_unused(at)?;
    }
    if !torn {
        return Ok(read.slot);
    }
    let base = commit.clone();
    let started = match log_files.start(Some(&read.slot), &base, commit) {
        // Later than that, the slot may name the new file, and only another opening tells.
        Err(Error::Full(error)) if error.only_asked_for_space() => {
            tracing::warn!(%error, "the torn end of the commit log stays until the next commit");
            *commit = base;
            return Ok(read.slot);
        }
        started => started?,
    };
    log_files.remove_others(started.slot.log)?;
    Ok(started.slot)
}

/// Opens a store for reading its newest commit.
pub(super) fn reader(disk: Arc<dyn Disk>, dir: &Path, options: Options) -> Result<Shared, Error> {
    let identity = Found::read(&*disk, dir)?.unlock(&*disk, dir, options.secret.as_deref())?;
    let store = identity.uuid;
    let log_files = LogFiles::new(Arc::clone(&disk), dir, identity.clone(), options.durable);
    let (registration, commit) = readers::register(&disk, dir, &log_files)?;
    let segments = Segments::new(Arc::clone(&disk), dir, identity.clone(), options.mmap);
    let live = commit.segments.keys().copied().collect();
    let index = Index::open(Arc::clone(&disk), dir, store, &options, &segments, live, false)?;
    let active = commit.active.map(|(id, len)| {
        let segment = segments.unsealed(id)?;
        let table = segment.scan(len)?;
        Ok::<_, Error>((segment, table))
    });
    let active = active.transpose()?;
    let scratch = scratch(dir).join(registration.name());
    disk.create_dir(&scratch)?;
    let commit = Arc::new(commit);
    let scratch_guard = readers::Scratch { disk: Arc::clone(&disk), path: scratch.clone() };
    let reader = Reader { commit, active, _scratch: scratch_guard, _registration: registration };
    let role = Role::Reader(Box::new(reader));
    let (dir, sessions) = (dir.to_owned(), Sessions::default());
    let dictionaries = Dictionaries::default();
    Ok(Shared {
        dir,
        scratch,
        disk,
        identity,
        options,
        segments,
        index,
        dictionaries,
        sessions,
        role,
    })
}

/// Removes what processes that are gone left in the scratch directory.
fn clear_scratch(disk: &dyn Disk, dir: &Path, living: &[Living]) -> Result<(), FsError> {
    let scratch = scratch(dir);
    disk.create_dir(&scratch)?;
    for name in disk.list(&scratch)? {
        if !living.iter().any(|reader| reader.name == name) {
            disk.remove_tree(&scratch.join(name))?;
        }
    }
    Ok(())
}

/// The newest commit after `commit` that has a copy in one of `ids`, the segments that were written
/// since, if there is one.
fn newest_copy(
    segments: &Segments,
    commit: &Commit,
    ids: impl Iterator<Item = SegmentId>,
) -> Result<Option<(CommitSeq, Roots)>, Error> {
    let mut newest = None;
    for id in ids {
        let segment = segments.sealed(id)?;
        let (_, table) = segment.entries()?;
        for entry in table.bytes(0, table.count())?.chunks_exact(ENTRY_BYTES) {
            let Some(entry) = Entry::decode(entry).filter(|entry| entry.kind == Kind::Commit)
            else {
                continue;
            };
            let block = match segment.read(&entry) {
                Ok(block) => block,
                Err(error) => {
                    tracing::warn!(%error, "a copy of a commit cannot be read");
                    continue;
                }
            };
            let newer = newest.as_ref().map_or(commit.seq, |(seq, _)| *seq);
            newest = read_commit_block(&block.bytes).filter(|(seq, _)| *seq > newer).or(newest);
        }
    }
    Ok(newest)
}

/// Reads [`commit_block`] back; none if it is none.
pub(super) fn read_commit_block(bytes: &[u8]) -> Option<(CommitSeq, Roots)> {
    let document = RawDocument::from_bytes(bytes).ok()?;
    let seq = u64::try_from(document.get_i64("commit").ok()?).ok()?;
    let mut roots = Roots::new();
    for root in document.get_array("roots").ok()? {
        let root = root.ok()?.as_document()?;
        let block = linked(root.get("block").ok()??)?;
        roots.insert(root.get_str("name").ok()?.to_owned(), block);
    }
    Some((CommitSeq(seq), roots))
}

/// A commit as a run of one BSON document: the roots as links, so that it can be walked like any block.
pub(super) fn commit_block(commit: &Commit) -> Vec<u8> {
    let mut roots = RawArrayBuf::new();
    for (name, id) in &commit.roots {
        let mut root: RawDocumentBuf = rawdoc! { "name": name.as_str() };
        root.append(cstr!("block"), link(id));
        roots.push(root);
    }
    let seq = i64::try_from(commit.seq.0).unwrap_or(i64::MAX);
    let time = i64::try_from(commit.time_ms).unwrap_or(i64::MAX);
    let mut document = rawdoc! { "commit": seq, "time": time };
    document.append(cstr!("roots"), roots);
    document.into_bytes()
}
