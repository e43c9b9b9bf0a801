//! The first step of a repair: a store that opens.
//!
//! Writes `STORE` and `KEYS` (by rename), and `HEAD` and a log file as `log` does when it starts one. The new log has
//! one record: the roots of the newest commit that is proven, with every segment that is there. A
//! commit is proven by its record in any log file, whole records behind a damaged one included, or by its
//! copy among the blocks; a difference is applied to the commit of the number before it.
//!
//! Order: the new log file and its slot are durable, then the old log files go into the quarantine. Crash
//! before: the old state, and repair begins again; between: the next opening removes the old files.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::{Foundation, Repair};
use crate::block::Kind;
use crate::store::fs::{Access, Disk};
use crate::store::identity::{Found, Identity};
use crate::store::layout::{ENTRY_BYTES, Entry, SegmentId};
use crate::store::log::{LogFiles, Slot, content, whole_records};
use crate::store::record::{Commit, Place, Raw};
use crate::store::segment::{self, Segments};
use crate::store::{CommitSeq, Error, Roots, identity, keys, open};

/// Says what keeps a store from opening, and what is done about it.
pub(super) fn plan(repair: &Repair) -> Result<Option<Foundation>, Error> {
    let (disk, dir) = (&repair.disk, &*repair.dir);
    let identity = repair.identity()?;
    check_epochs(disk, dir, &identity)?;
    let file = disk.open(&identity::path(dir), Access::Read)?;
    let damaged_copy = Found::copies(&*file)?.iter().any(Result::is_err);
    let keys = identity.keys.is_some() && !keys::damage(&**disk, dir, &identity.uuid)?.is_empty();
    let log_files = log_files(disk, dir, &identity);
    let present = present(&**disk, dir)?;
    let plan = match log_files.read() {
        Ok(read) => {
            let commit = read.newest;
            let gone = gone(&commit, &present);
            let log = (!gone.is_empty())
                .then(|| "it names segments that are gone or too short".to_owned());
            let (identity, commit) = (damaged_copy, commit.seq);
            Foundation { identity, keys, log, commit, source: "the log", gone }
        }
        Err(error @ (Error::Damaged { .. } | Error::LogGone { .. } | Error::Io(_))) => {
            let (newest, source) = newest(disk, dir, &identity)?;
            let gone = Vec::new();
            let log = Some(error.to_string());
            let (identity, commit) = (damaged_copy, newest.seq);
            Foundation { identity, keys, log, commit, source, gone }
        }
        Err(error) => return Err(error),
    };
    Ok((plan.identity || plan.keys || plan.log.is_some()).then_some(plan))
}

/// Refuses keys of another time than the segments': what lacks a key is no damage, and must not be set aside for any.
fn check_epochs(disk: &Arc<dyn Disk>, dir: &Path, identity: &Identity) -> Result<(), Error> {
    let Some(keys) = &identity.keys else { return Ok(()) };
    let segments = Segments::new(Arc::clone(disk), dir, identity.clone(), false);
    for id in present(&**disk, dir)?.into_keys() {
        // One that is damaged tells nothing.
        let epoch = segments.unsealed(id).and_then(|segment| segment.epoch());
        if let Ok(Some(epoch)) = epoch
            && !keys.has(epoch)
        {
            return Err(Error::KeysOfAnotherTime { path: keys::path(dir), epoch });
        }
    }
    Ok(())
}

/// Does what a plan says, under the store's lock.
pub(super) fn execute(repair: &Repair, plan: &Foundation) -> Result<(), Error> {
    let (disk, dir) = (&repair.disk, &*repair.dir);
    let identity = repair.identity()?;
    if plan.identity {
        Found::of(&identity).write(&**disk, dir)?;
    }
    if plan.keys {
        keys::write_again(&**disk, dir, &identity.uuid)?;
    }
    if plan.log.is_none() {
        return Ok(());
    }
    let files = log_files(disk, dir, &identity);
    let present = present(&**disk, dir)?;
    let base = match files.read() {
        Ok(read) => read.newest,
        Err(_) => {
            let (newest, _) = newest(disk, dir, &identity)?;
            // Which of them the commit named is not known; blocks that nothing names do no harm.
            Commit { segments: present.clone(), active: None, ..newest }
        }
    };
    let mut commit = without_gone(&base, &present)?;
    let old = numbers(&**disk, &files)?;
    let slots = files.slots().unwrap_or([Err("the slot cannot be read"); 2]);
    let generation = slots.iter().flatten().map(|slot| slot.generation).max().unwrap_or(0);
    let log = old.iter().copied().max().unwrap_or(0);
    let log = slots.iter().flatten().map(|slot| slot.log).fold(log, u64::max);
    files.start(Some(&Slot { generation, log, first: [0; 32] }), &base, &mut commit)?;
    disk.sync_dir(dir)?;
    for number in old {
        repair.set_aside(&files.path(number))?;
    }
    Ok(())
}

fn log_files(disk: &Arc<dyn Disk>, dir: &Path, store: &Identity) -> LogFiles {
    LogFiles::new(Arc::clone(disk), dir, store.clone(), true)
}

/// The segment files that are there, with their lengths in bytes.
fn present(disk: &dyn Disk, dir: &Path) -> Result<BTreeMap<SegmentId, u64>, Error> {
    let dir = segment::directory(dir);
    let names = disk.list(&dir)?;
    let ids = names.iter().filter_map(|name| SegmentId::of_file_name(name));
    ids.map(|id| Ok((id, disk.open(&dir.join(id.file_name()), Access::Read)?.size()?))).collect()
}

/// The segments that a commit names and that are not there, or not up to where it names them.
fn gone(commit: &Commit, present: &BTreeMap<SegmentId, u64>) -> Vec<SegmentId> {
    let sealed = commit.segments.keys().filter(|id| !present.contains_key(id)).copied();
    let short = |(id, len): &(SegmentId, u64)| present.get(id).is_none_or(|size| size < len);
    sealed.chain(commit.active.filter(short).map(|(id, _)| id)).collect()
}

/// The commit after one, which names what is there.
fn without_gone(base: &Commit, present: &BTreeMap<SegmentId, u64>) -> Result<Commit, Error> {
    let mut commit = base.clone();
    commit.seq = base.seq.next()?;
    commit.segments.retain(|id, _| present.contains_key(id));
    if let Some((id, len)) = base.active {
        match present.get(&id) {
            Some(size) if *size >= len => {}
            Some(size) => {
                // Named as sealed, it is read as far as it goes, and no opening waits for the rest.
                commit.segments.insert(id, *size);
                commit.active = None;
            }
            None => commit.active = None,
        }
    }
    let highest = present.keys().next_back().map_or(0, |id| id.0);
    commit.next_segment = SegmentId(base.next_segment.0.max(highest.saturating_add(1)));
    Ok(commit)
}

fn numbers(disk: &dyn Disk, files: &LogFiles) -> Result<Vec<u64>, Error> {
    let names = match disk.list(&files.directory()) {
        Err(error) if error.is_not_found() => Vec::new(),
        other => other?,
    };
    let number = |name: &String| u64::from_str_radix(name.strip_suffix(".log")?, 16).ok();
    Ok(names.iter().filter_map(number).collect())
}

/// The newest commit that is proven, and by what.
fn newest(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    store: &Identity,
) -> Result<(Commit, &'static str), Error> {
    let files = log_files(disk, dir, store);
    let mut contents = Vec::new();
    for number in numbers(&**disk, &files)? {
        let file = disk.open(&files.path(number), Access::Read)?;
        contents.push((number, content(&*file)?));
    }
    let mut records = Vec::new();
    for (log, bytes) in &contents {
        records.extend(whole_records(bytes, |offset| Place { store, log: *log, offset }));
    }
    if let Some(epoch) = records.iter().find_map(Raw::unknown_epoch) {
        return Err(Error::KeysOfAnotherTime { path: keys::path(dir), epoch });
    }
    records.sort_by_key(super::super::record::Raw::seq);
    let copy = newest_copy(disk, dir, store)?;
    let copied = |(seq, roots): (CommitSeq, Roots)| Commit { seq, roots, ..Commit::genesis() };
    let mut newest = (Commit::genesis(), "nothing: no commit was found");
    let mut copy = copy.map(copied);
    for raw in &records {
        if let Some(copied) = copy.take_if(|copy| copy.seq <= raw.seq() && copy.seq >= newest.0.seq)
        {
            newest = (copied, COPY);
        }
        if raw.is_full() {
            if let Ok(commit) = raw.apply(None) {
                newest = (commit, RECORD);
            }
        } else if raw.follows(newest.0.seq) {
            let base = Commit { hash: raw.parent(), ..newest.0.clone() };
            if let Ok(commit) = raw.apply(Some(&base)) {
                newest = (commit, RECORD);
            }
        }
    }
    Ok(match copy {
        Some(copied) if copied.seq > newest.0.seq => (copied, COPY),
        _ => newest,
    })
}

const RECORD: &str = "a record of the log";
const COPY: &str = "a copy among the blocks";

/// The newest copy of a commit in any segment.
fn newest_copy(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    store: &Identity,
) -> Result<Option<(CommitSeq, Roots)>, Error> {
    let segments = Segments::new(Arc::clone(disk), dir, store.clone(), false);
    let mut newest: Option<(CommitSeq, Roots)> = None;
    for id in present(&**disk, dir)?.into_keys() {
        let Ok(segment) = segments.unsealed(id) else { continue };
        let Ok((_, table)) = segment.entries() else { continue };
        for entry in table.bytes(0, table.count())?.chunks_exact(ENTRY_BYTES) {
            let entry = Entry::decode(entry).filter(|entry| entry.kind == Kind::Commit);
            let block = entry.and_then(|entry| segment.read(&entry).ok());
            let copy = block.and_then(|block| open::read_commit_block(&block.bytes));
            let newer =
                |(seq, _): &(CommitSeq, Roots)| newest.as_ref().is_none_or(|(old, _)| seq > old);
            newest = copy.filter(newer).or(newest);
        }
    }
    Ok(newest)
}
