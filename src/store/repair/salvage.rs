//! The second step of a repair: readable records of damaged segments, and blocks of other stores.
//!
//! Order: what can be had again is appended and committed; the damaged files go into the quarantine; a
//! commit leaves their segments out. Crash before the first commit: nothing happened but copies that do no
//! harm. Between file and second commit: the store names a segment that is gone, so it does not open, and
//! repair leaves it out: all that could be read of it is in the first commit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{DamagedSegment, Repair, Salvage};
use crate::block::{self, BlockId, BlockRead, Kind};
use crate::store::compact::{drop_segments, remove_unused};
use crate::store::dictionaries::OfSegment;
use crate::store::fsck::{self, Code, Level, Report};
use crate::store::layout::{RecordHeader, SegmentId};
use crate::store::reserve::Purpose;
use crate::store::scan::{Scanner, Step, entry_of, open_payload};
use crate::store::writer::Writer;
use crate::store::{Error, Shared, Store};

/// How often what was brought in is looked through for what it names and the store lacks. A tree has
/// fewer levels, and what names trees stands a few above.
const ROUNDS_MAX: usize = 64;

/// What is damaged, and what of it another store has.
pub(super) fn plan(store: &Store, report: &Report, others: &[Arc<dyn BlockRead>]) -> Salvage {
    let sizes = &store.shared.commit().segments;
    let segments = report.damaged_segments.iter().map(|(&segment, codes)| {
        let bytes = sizes.get(&segment).copied().unwrap_or(0);
        let codes = codes.iter().map(|code| code.as_str().to_owned()).collect();
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
    others: &[Arc<dyn BlockRead>],
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
    // A report tells so many findings and no more: what went with a segment is looked for in the graph.
    let mut fresh = !found.is_empty() || !segments.is_empty();
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
    let mut dictionaries = OfSegment::new(Arc::clone(&file), &shared.identity);
    let mut scanner = Scanner::new(file, shared.identity.uuid, id, size);
    let mut saved = 0;
    loop {
        let (offset, was_whole) = match scanner.step() {
            Step::Record { offset, header, payload } => {
                dictionaries.saw(&entry_of(id, offset, &header));
                let was_whole = save_record(shared, writer, &dictionaries, (&header, payload))?;
                // A dictionary comes along with what needs it.
                saved += u64::from(was_whole && header.kind != Kind::Dictionary);
                (offset, was_whole)
            }
            Step::Invalid { offset, .. } | Step::Unreadable { offset, .. } => (offset, false),
            Step::End => return Ok(saved),
        };
        // The length of one that is not whole may be wrong: whole ones may stand within it.
        if !was_whole && !scanner.resync_behind(offset) {
            return Ok(saved);
        }
    }
}

/// Appends the block of a record that is whole. False if it is not.
fn save_record(
    shared: &Shared,
    writer: &Writer,
    dictionaries: &OfSegment,
    (header, payload): (&RecordHeader, &[u8]),
) -> Result<bool, Error> {
    if crc32fast::hash(payload) != header.payload_crc {
        return Ok(false);
    }
    if header.kind == Kind::Dictionary {
        return Ok(open_payload(&shared.identity, header, payload, None).is_ok());
    }
    let dictionary = shared.any_dictionary(dictionaries, header.form);
    // How much will need it is not known before all is read; it stood in the damaged segment, too.
    let used = dictionary.as_deref().map(|one| (one, usize::MAX));
    let parts = (&shared.segments, &shared.index);
    match writer.move_record(parts, (header, payload), used, Purpose::Data) {
        Err(Error::Block(block::Error::Damaged { .. })) => Ok(false),
        saved => saved.map(|_| true),
    }
}

/// Appends a block that another store has. The store may have it in a record that cannot be read.
fn bring_in(
    shared: &Shared,
    writer: &Writer,
    id: BlockId,
    others: &[Arc<dyn BlockRead>],
) -> Result<Option<BlockId>, Error> {
    let Some(found) = others.iter().find_map(|other| other.get(&id).ok()) else { return Ok(None) };
    if shared.identity.name(found.kind, &found.bytes) != id {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{BlockWrite as _, Kind};
    use crate::store::layout::{RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES};
    use crate::store::segment::directory;
    use crate::store::{MIN_SEGMENT_BYTES, Options};

    /// The length of a record is made to reach over the next two: these are saved, and all that is left.
    #[test]
    fn records_within_one_that_is_not_whole_are_saved() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let options = Options { segment_bytes: MIN_SEGMENT_BYTES, ..Options::default() };
        let store = Store::create(dir.path(), options.clone()).expect("create");
        let leaves: Vec<BlockId> =
            (0..4_u8).map(|n| store.put(Kind::Leaf, &[n; 8]).expect("put")).collect();
        let mut node = 4_u32.to_le_bytes().to_vec();
        leaves.iter().for_each(|id| node.extend_from_slice(id.as_bytes()));
        let node = store.put(Kind::Node, &node).expect("put");
        let mut links = bson::RawDocumentBuf::new();
        links.append(bson::raw::cstr!("node"), block::link(&node));
        let links = store.put(Kind::Links, links.as_bytes()).expect("put");
        store.commit(|roots| _ = roots.insert("job".to_owned(), links)).expect("commit");
        let (uuid, id) = (store.shared.identity.uuid, SegmentId(1));
        drop(store);

        let path = directory(dir.path()).join(id.file_name());
        let mut bytes = std::fs::read(&path).expect("read");
        let at = SEGMENT_HEADER_BYTES as usize;
        let header = &bytes[at..at + RECORD_HEADER_BYTES];
        let mut header =
            RecordHeader::decode(header, &uuid, id, SEGMENT_HEADER_BYTES).expect("a record");
        header.stored_len += 2 * header.span() as u32;
        let header = header.encode(&uuid, id, SEGMENT_HEADER_BYTES);
        bytes[at..at + RECORD_HEADER_BYTES].copy_from_slice(&header);
        std::fs::write(&path, bytes).expect("write");

        let repair = Repair::new(dir.path(), Vec::new(), 1);
        let outcome = repair.execute(&mut |_| {}).expect("repair");
        assert_eq!(outcome.salvage.lost, leaves[..1]);
        let store = Store::open(dir.path(), options).expect("open");
        leaves[1..].iter().for_each(|id| _ = store.get(id).expect("was saved"));
    }
}
