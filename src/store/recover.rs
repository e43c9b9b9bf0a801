//! What a writer does to a store before it writes: takes the lock, reads the log, and brings the
//! segments into the state that the log names.
//!
//! - A segment that the newest commit lists as sealed must be there.
//! - The segment that was active at that commit must be there up to the length the commit names; it
//!   is cut behind its last whole record and sealed. A record damaged before that length is passed over
//!   and left in its place: its block is unreadable, which fsck tells, and of a dictionary what needs it, unless another segment
//!   has it too. The footer tells that there was damage, so that compaction takes care of such copies.
//! - Segments started after that commit hold only blocks that nothing names yet. They are kept (blocks
//!   are named by their content, so they can do no harm and spare work), cut and sealed likewise.
//! - Any other segment was dropped by a commit: it is removed as soon as no reader uses it.
//!
//! Every step can be interrupted and starts over at the next open: sealing makes the records durable
//! before the footer, so a segment with a valid footer is whole, and one without is scanned again.
//! What no commit proves to be durable is written again: its writer may have been killed before it was,
//! or have met a disk that failed, and is then read from the machine's memory as if nothing had happened.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::append::{Target, seal_file};
use super::dictionaries::OfSegment;
use super::fs::{Access, Disk, File, write_again};
use super::identity::Identity;
use super::layout::{Entry, RecordHeader, SEGMENT_HEADER_BYTES, SegmentId};
use super::record::Commit;
use super::scan::{Scanner, Step, entry_of, open_payload, unseal};
use super::segment::{self, check_header, read_footer};
use super::{Error, sync};
use crate::block::{Dictionary, StoredForm};

/// How often the lock is tried. A process that let go of it may for a moment still hold it in a child
/// that it forked and that has not yet run its program.
const LOCK_ATTEMPTS: u32 = 20;
/// Between two attempts.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// The segments of a store after recovery.
pub(super) struct Recovered {
    /// Sealed and counting, with their lengths in bytes.
    pub(super) sealed: BTreeMap<SegmentId, u64>,
    /// Dropped by a commit, their files still there, with their lengths in bytes.
    pub(super) dropped: Vec<(SegmentId, u64)>,
    /// The lowest number that no segment ever had.
    pub(super) next: SegmentId,
}

/// Takes the one-writer lock of a store.
pub(super) fn take_lock(disk: &dyn Disk, dir: &Path) -> Result<Arc<dyn File>, Error> {
    let path = dir.join("LOCK");
    let file = match disk.create(&path) {
        Ok(file) => file,
        Err(_) => disk.open(&path, Access::Write)?,
    };
    let mut attempts = 1;
    while !file.try_lock()? {
        if attempts < LOCK_ATTEMPTS {
            attempts += 1;
            sync::sleep(LOCK_PAUSE);
            continue;
        }
        let len = file.size()?.min(64);
        let mut text = vec![0; len as usize];
        file.read_at(0, &mut text)?;
        let holder = String::from_utf8_lossy(&text).trim().to_owned();
        return Err(Error::Locked { dir: dir.to_owned(), holder });
    }
    file.set_size(0)?;
    match file.write_at(0, format!("process {}\n", std::process::id()).as_bytes()) {
        // It is for people, and a store on a full disk must open.
        Err(error) if error.is_full() => tracing::warn!(%error, "the lock names no holder"),
        written => written?,
    }
    Ok(file)
}

/// Brings the segments into the state that the newest commit names.
pub(super) fn segments(
    target: &Target,
    store_dir: &Path,
    commit: &Commit,
) -> Result<Recovered, Error> {
    let dir = segment::directory(store_dir);
    let mut sealed = commit.segments.clone();
    let (mut dropped, mut present) = (Vec::new(), Vec::new());
    let mut next = commit.next_segment;
    for name in target.disk.list(&dir)? {
        let Some(id) = SegmentId::of_file_name(&name) else {
            tracing::warn!(file = name, "a file that is no segment is left alone");
            continue;
        };
        present.push(id);
        next = next.max(SegmentId(id.0.saturating_add(1)));
        let committed = commit.active.filter(|(active, _)| *active == id).map(|(_, len)| len);
        if commit.segments.contains_key(&id) {
            continue;
        }
        if committed.is_none() && id < commit.next_segment {
            let file = target.disk.open(&dir.join(&name), Access::Read)?;
            dropped.push((id, file.size()?));
        } else if let Some(size) = close(target, &dir.join(&name), id, committed)? {
            sealed.insert(id, size);
        }
    }
    let active = commit.active.map(|(id, _)| id);
    let gone = commit.segments.keys().copied().chain(active).find(|id| !present.contains(id));
    match gone {
        Some(id) => Err(Error::SegmentGone { segment: id, path: dir.join(id.file_name()) }),
        None => Ok(Recovered { sealed, dropped, next }),
    }
}

/// Closes a segment that may have been open at a crash: seals it, or removes it if it holds nothing and no commit names it.
fn close(
    target: &Target,
    path: &Path,
    id: SegmentId,
    committed: Option<u64>,
) -> Result<Option<u64>, Error> {
    let file = target.disk.open(path, Access::Write)?;
    let size = file.size()?;
    match check_header(&*file, &target.identity, id) {
        // The header is synced before any record: without it there are none.
        Err(Error::Damaged { .. }) if committed.is_none() => return remove(target, path),
        Err(Error::Damaged { what, .. }) => tracing::error!(segment = %id, what, "damage"),
        other => _ = other?,
    }
    let unproven = committed.unwrap_or(0);
    if let Ok((trailer, _)) = read_footer(&*file, &target.identity.uuid, id)?
        && committed.is_none_or(|len| trailer.data_end >= len)
    {
        if !target.durable {
            return Ok(Some(size));
        }
        write_again(&*file, unproven..size)?;
        // What was in memory only may have left it between the reading and the writing.
        if read_footer(&*file, &target.identity.uuid, id)?.is_ok() {
            return Ok(Some(size));
        }
    }
    let mut whole = whole_prefix(target, Arc::clone(&file), id, size, unproven)?;
    if target.durable && whole.end > unproven {
        write_again(&*file, unproven..whole.end)?;
        whole = whole_prefix(target, Arc::clone(&file), id, size, unproven)?;
    }
    if whole.entries.is_empty() && committed.is_none() {
        return remove(target, path);
    }
    let Whole { end, raw_bytes, has_gaps, mut entries } = whole;
    let size = seal_file(target, &*file, id, end, (raw_bytes, has_gaps), &mut entries)?;
    tracing::info!(segment = %id, bytes = size, "sealed a segment that was left open");
    Ok(Some(size))
}

fn remove(target: &Target, path: &Path) -> Result<Option<u64>, Error> {
    target.disk.remove(path)?;
    Ok(None)
}

struct Whole {
    end: u64,
    raw_bytes: u64,
    /// Whether a damaged record was passed over.
    has_gaps: bool,
    entries: Vec<Entry>,
}

/// Whether a record is as it was written. One without its dictionary is no torn record: that would stand here too, torn, and end the walk
/// before. It is damaged, at a place that was durable.
fn is_intact(
    identity: &Identity,
    (header, payload): (&RecordHeader, &[u8]),
    dictionary: Option<&Dictionary>,
) -> bool {
    crc32fast::hash(payload) == header.payload_crc
        && if dictionary.is_none() && header.form != StoredForm::PLAIN {
            unseal(identity, header, payload).is_ok()
        } else {
            open_payload(identity, header, payload, dictionary).is_ok()
        }
}

/// Finds the records before the first that is not whole. Up to `committed` bytes headers are
/// enough, their content being durable since that commit; behind, content is checked as well.
fn whole_prefix(
    target: &Target,
    file: Arc<dyn File>,
    id: SegmentId,
    size: u64,
    committed: u64,
) -> Result<Whole, Error> {
    if size < committed {
        let what = "the segment is shorter than the newest commit says";
        return Err(Error::Damaged { path: file.path().to_owned(), offset: size, what });
    }
    let mut dictionaries = OfSegment::new(Arc::clone(&file), &target.identity);
    let mut scanner = Scanner::new(file, target.identity.uuid, id, size);
    let (end, has_gaps, entries) = (SEGMENT_HEADER_BYTES, false, Vec::new());
    let mut whole = Whole { end, raw_bytes: 0, has_gaps, entries };
    loop {
        match scanner.step() {
            Step::Record { offset, header, payload } => {
                if offset >= committed {
                    // It may be readable another time, so nothing is sealed without it.
                    let dictionary = dictionaries.get(header.form)?;
                    if !is_intact(&target.identity, (&header, payload), dictionary.as_deref()) {
                        break;
                    }
                }
                whole.end = offset + header.span();
                whole.raw_bytes += u64::from(header.raw_len);
                let entry = entry_of(id, offset, &header);
                dictionaries.saw(&entry);
                whole.entries.push(entry);
            }
            Step::End => break,
            // It may be readable another time, so nothing is sealed without it.
            Step::Unreadable { error, .. } => return Err(error.into()),
            Step::Invalid { offset, .. } if offset >= committed => break,
            Step::Invalid { offset, what } => {
                tracing::error!(segment = %id, offset, what, "damage; run `headstock fsck`");
                whole.has_gaps = true;
                if !scanner.resync() {
                    break;
                }
            }
        }
    }
    // Bytes that a commit named stay where they are, damaged or not.
    whole.end = whole.end.max(committed);
    Ok(whole)
}
