//! The second step of a repair: readable records of damaged segments, and blocks of other stores.
//!
//! Order: what can be had again is appended and committed; the damaged files go into the quarantine; a
//! commit leaves their segments out. Crash before the first commit: nothing happened but copies that do no
//! harm. Between file and second commit: the store names a segment that is gone, so it does not open, and
//! repair leaves it out: all that could be read of it is in the first commit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{DamagedSegment, Repair, Salvage, damaged_segments};
use crate::block::{self, BlockId, BlockRead as _, Kind};
use crate::store::compact::{drop_segments, remove_unused};
use crate::store::dictionaries::OfSegment;
use crate::store::fsck::{self, Code, Level, Report};
use crate::store::layout::SegmentId;
use crate::store::reserve::Purpose;
use crate::store::scan::{Scanner, Step, entry_of};
use crate::store::writer::Writer;
use crate::store::{Error, Shared, Store};

/// How often what was brought in is looked through for what it names and the store lacks. A tree has
/// fewer levels, and what names trees stands a few above.
const ROUNDS_MAX: usize = 64;

/// What is damaged, and what of it another store has.
pub(super) fn plan(store: &Store, report: &Report, others: &[Store]) -> Salvage {
    let sizes = &store.shared.commit().segments;
    let segments = damaged_segments(report).into_iter().map(|(segment, codes)| {
        let bytes = sizes.get(&segment).copied().unwrap_or(0);
        DamagedSegment { segment, bytes, codes }
    });
    let segments = segments.collect();
    let (mut found, mut lost) = (Vec::new(), Vec::new());
    for id in lacking(report) {
        let had = others.iter().any(|other| other.get(&id).is_ok());
        if had { found.push(id) } else { lost.push(id) }
    }
    Salvage { segments, found, lost }
}

/// Blocks that something names and that cannot be read.
fn lacking(report: &Report) -> BTreeSet<BlockId> {
    let lacking = |code| matches!(code, Code::BlockMissing | Code::BlockUnreadable);
    let findings = report.findings.iter().filter(|finding| lacking(finding.code));
    findings.filter_map(|finding| finding.block).collect()
}

/// Salvages. Returns what was done, and the records that were appended anew.
pub(super) fn execute(
    repair: &Repair,
    store: &Store,
    planned: Salvage,
    others: &[Store],
) -> Result<(Salvage, u64), Error> {
    let Salvage { segments, found: wanted, lost } = planned;
    let (mut saved, mut found) = (0, Vec::new());
    let shared = &*store.shared;
    let writer = shared.writer()?;
    for one in &segments {
        saved += save_records(shared, writer, one.segment)?;
    }
    for id in &wanted {
        found.extend(bring_in(shared, writer, *id, others)?);
    }
    store.commit(|_| {})?;
    set_aside(repair, store, &segments)?;
    let mut lacking: BTreeSet<BlockId> = lost.into_iter().collect();
    let mut fresh = !found.is_empty();
    for _ in 0..ROUNDS_MAX {
        if !fresh {
            break;
        }
        // What was brought in may name more that is not here.
        let report = fsck::run(store, Level::Graph, &mut |_| {})?;
        lacking = self::lacking(&report);
        let before = found.len();
        for id in &lacking {
            found.extend(bring_in(shared, writer, *id, others)?);
        }
        store.commit(|_| {})?;
        fresh = found.len() > before;
    }
    let lost = lacking.into_iter().filter(|id| store.get(id).is_err()).collect();
    Ok((Salvage { segments, found, lost }, saved))
}

/// Appends every record of a segment anew that is whole. Returns how many.
fn save_records(shared: &Shared, writer: &Writer, id: SegmentId) -> Result<u64, Error> {
    let segment = match shared.segments.unsealed(id) {
        Ok(segment) => segment,
        Err(error) => {
            tracing::warn!(segment = %id, %error, "nothing of the segment can be read");
            return Ok(0);
        }
    };
    let (file, size) = (Arc::clone(&segment.file), segment.file.size()?);
    let mut dictionaries = OfSegment::new(Arc::clone(&file), shared.identity.uuid);
    let mut scanner = Scanner::new(file, shared.identity.uuid, id, size);
    let mut saved = 0;
    loop {
        match scanner.step() {
            // A dictionary comes along with what needs it.
            Step::Record { offset, header, .. } if header.kind == Kind::Dictionary => {
                dictionaries.saw(&entry_of(id, offset, &header));
            }
            Step::Record { header, payload, .. } => {
                if crc32fast::hash(payload) != header.payload_crc {
                    continue;
                }
                let dictionary = shared.dictionary_in(&dictionaries, header.form);
                let parts = (&shared.segments, &shared.index);
                let record = (&header, payload);
                match writer.move_record(parts, record, dictionary.as_deref(), Purpose::Data) {
                    Err(Error::Block(block::Error::Damaged { .. })) => {}
                    saving => {
                        saving?;
                        saved += 1;
                    }
                }
            }
            Step::End => return Ok(saved),
            Step::Invalid { .. } | Step::Unreadable { .. } => {
                if !scanner.resync() {
                    return Ok(saved);
                }
            }
        }
    }
}

/// Appends a block that another store has. The store may have it in a record that cannot be read.
fn bring_in(
    shared: &Shared,
    writer: &Writer,
    id: BlockId,
    others: &[Store],
) -> Result<Option<BlockId>, Error> {
    let Some(found) = others.iter().find_map(|other| other.get(&id).ok()) else { return Ok(None) };
    if BlockId::of(found.kind, &found.bytes) != id {
        return Err(block::Error::Damaged { id, what: "another store gave another block" }.into());
    }
    let parts = (&shared.segments, &shared.index);
    writer.put(parts, (id, found.kind, &found.bytes), None, Purpose::Data)?;
    Ok(Some(id))
}

/// Takes damaged segments out of the store, their files into the quarantine.
fn set_aside(repair: &Repair, store: &Store, segments: &[DamagedSegment]) -> Result<(), Error> {
    let shared = &*store.shared;
    let present: BTreeMap<SegmentId, u64> = shared.writer()?.sealed();
    let mut gone = Vec::new();
    for one in segments {
        let Some(bytes) = present.get(&one.segment) else { continue };
        shared.segments.forget(one.segment);
        match repair.set_aside(&shared.segments.path(one.segment)) {
            Err(error) if !error.is_not_found() => return Err(error.into()),
            _ => gone.push((one.segment, *bytes)),
        }
    }
    drop_segments(store, shared.writer()?, &gone)?;
    remove_unused(shared, shared.writer()?).map(drop)
}
