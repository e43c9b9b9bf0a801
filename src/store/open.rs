//! Creating and opening a store.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bson::raw::cstr;
use bson::{RawArrayBuf, RawDocumentBuf, rawdoc};

use super::append::Target;
use super::compact;
use super::fs::{Disk, FsError};
use super::identity::Identity;
use super::index::{self, Index};
use super::log::LogFiles;
use super::record::Commit;
use super::segment::{self, Segments};
use super::session::Sessions;
use super::writer::{Start, Waiting, Writer};
use super::{
    Error, MAX_SEGMENT_BYTES, MIN_SEGMENT_BYTES, Options, Reader, RepositorySalt, Role, Shared,
    readers::{self, Living},
    recover,
};
use crate::block::link;

/// The scratch directory of the writer; a reader's is named as its registration.
const WRITER_SCRATCH: &str = "writer";

/// Where scratch files of a store live.
fn scratch(dir: &Path) -> PathBuf {
    dir.join("scratch")
}

/// Makes the files of an empty store: directories, the log with its first commit, `STORE` last.
pub(super) fn create(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    options: &Options,
    salt: RepositorySalt,
) -> Result<(), Error> {
    if !(MIN_SEGMENT_BYTES..=MAX_SEGMENT_BYTES).contains(&options.segment_bytes) {
        return Err(Error::SegmentSize { bytes: options.segment_bytes });
    }
    disk.create_dir(dir)?;
    if !disk.list(dir)?.is_empty() {
        return Err(Error::NotEmpty { dir: dir.to_owned() });
    }
    let _lock = recover::take_lock(&**disk, dir)?;
    let identity = Identity { uuid: rand::random(), salt };
    let log = LogFiles::new(Arc::clone(disk), dir, identity.uuid, options.durable);
    let directories =
        [segment::directory(dir), index::directory(dir), readers::directory(dir), scratch(dir)];
    for directory in directories.iter().chain([&log.directory()]) {
        disk.create_dir(directory)?;
    }
    let genesis = Commit::genesis();
    log.start(None, &genesis, &mut genesis.clone())?;
    identity.write(&**disk, dir)
}

/// Opens a store for writing.
pub(super) fn writer(disk: Arc<dyn Disk>, dir: &Path, options: Options) -> Result<Shared, Error> {
    let identity = Identity::read(&*disk, dir)?;
    let lock = recover::take_lock(&*disk, dir)?;
    let store = identity.uuid;
    let log_files = LogFiles::new(Arc::clone(&disk), dir, store, options.durable);
    let mut read = log_files.read()?;
    if read.torn {
        tracing::info!(offset = read.end, "the commit log ends in a torn record, which is ignored");
    }
    let commit = read.commits.pop().expect("a log that was read has at least one commit");
    log_files.remove_others(read.slot.log)?;
    let Options { segment_bytes, durable, mmap } = options;
    let target = Target { disk: Arc::clone(&disk), store, segment_bytes, durable };
    let recovered = recover::segments(&target, dir, &commit)?;
    let segments = Segments::new(Arc::clone(&disk), dir, store, mmap);
    let living = readers::living(&*disk, dir)?;
    let waiting = recovered.dropped.iter().map(|(segment, bytes)| Waiting {
        segment: *segment,
        bytes: *bytes,
        dropped_by: commit.seq,
    });
    let waiting = waiting.collect();
    disk.create_dir(&index::directory(dir))?;
    let live = recovered.sealed.keys().copied().collect();
    let index = Index::open(Arc::clone(&disk), dir, store, &options, &segments, live, true)?;
    index.remove_leftovers()?;
    index.merge()?;
    clear_scratch(&*disk, dir, &living)?;
    let scratch = scratch(dir).join(WRITER_SCRATCH);
    disk.create_dir(&scratch)?;
    let slot = Some(read.slot);
    let recover::Recovered { sealed, next, .. } = recovered;
    let start = Start { lock, slot, commit, sealed, next, waiting };
    let writer = Writer::new(target, segment::directory(dir), log_files, start);
    let role = Role::Writer(Box::new(writer));
    let (dir, sessions) = (dir.to_owned(), Sessions::default());
    let shared = Shared { dir, scratch, disk, identity, options, segments, index, sessions, role };
    compact::remove_unused(&shared, shared.writer()?)?;
    Ok(shared)
}

/// Opens a store for reading its newest commit.
pub(super) fn reader(disk: Arc<dyn Disk>, dir: &Path, options: Options) -> Result<Shared, Error> {
    let identity = Identity::read(&*disk, dir)?;
    let store = identity.uuid;
    let log_files = LogFiles::new(Arc::clone(&disk), dir, store, options.durable);
    let (registration, commit) = readers::register(&disk, dir, &log_files)?;
    let segments = Segments::new(Arc::clone(&disk), dir, store, options.mmap);
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
    let role = Role::Reader(Box::new(Reader { commit, active, _registration: registration }));
    let (dir, sessions) = (dir.to_owned(), Sessions::default());
    Ok(Shared { dir, scratch, disk, identity, options, segments, index, sessions, role })
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
