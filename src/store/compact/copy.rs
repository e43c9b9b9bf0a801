//! Copying forward what must outlive a segment: what lives in it, and the dictionaries that others read through it.
//!
//! Writes only through the writer, as every put does; nothing of the old segment is touched. It is read twice: before the first
//! record is moved, all that live are found to be whole.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError};

use crate::block::{self, Block, Dictionary, StoredForm};
use crate::store::dictionaries::OfSegment;
use crate::store::layout::{Entry, RecordHeader, SegmentId};
use crate::store::marks::Marks;
use crate::store::reserve::Purpose;
use crate::store::run;
use crate::store::scan::{Scanner, Step, entry_of};
use crate::store::segment::Segment;
use crate::store::sync::Mutex;
use crate::store::table::Table;
use crate::store::writer::Writer;
use crate::store::{Error, Shared};

/// Copies the marked records of a closed segment to the active one, each checked against its name. Returns the bytes appended; none if
/// one of them cannot be read: then nothing is copied, since the segment stays anyway.
pub(super) fn copy_live(
    shared: &Shared,
    writer: &Writer,
    marks: &Mutex<Marks>,
    id: SegmentId,
) -> Result<Option<u64>, Error> {
    let old = match Old::open(shared, marks, id) {
        Err(error @ (Error::Damaged { .. } | Error::SegmentGone { .. } | Error::Io(_))) => {
            tracing::error!(segment = %id, %error, "nothing of it can be copied");
            return Ok(None);
        }
        old => old?,
    };
    let Some(old) = old else { return Ok(Some(0)) };
    // Whether a dictionary is worth its place in another segment depends on all that comes.
    let Some(mut ahead) = old.raw_bytes_by_form()? else { return Ok(None) };
    let (mut copied, mut bytes) = (0, 0);
    old.each_living(&mut |dictionaries, header, payload| {
        let dictionary = shared.any_dictionary(dictionaries, header.form);
        let ahead = ahead.entry(header.form).or_default();
        let used = dictionary.as_deref().map(|one| (one, *ahead));
        let parts = (&shared.segments, &shared.index);
        match writer.move_record(parts, (header, payload), used, Purpose::Reclaim) {
            Ok(added) => (bytes, copied) = (bytes + added, copied + 1),
            Err(Error::Block(error @ block::Error::Damaged { .. })) => {
                tracing::error!(segment = %id, %error, "a block that is needed cannot be copied");
            }
            Err(error) => return Err(error),
        }
        *ahead = ahead.saturating_sub(header.raw_len as usize);
        Ok(())
    })?;
    Ok((copied == old.live_blocks).then_some(bytes))
}

/// A closed segment whose living records are copied.
struct Old<'a> {
    shared: &'a Shared,
    marks: &'a Mutex<Marks>,
    segment: Arc<Segment>,
    /// Where its records end.
    data_end: u64,
    table: Table,
    live_blocks: u64,
}

/// Is given the dictionaries that stand before a record, its header and its stored bytes.
type OnRecord<'a> = &'a mut dyn FnMut(&OfSegment, &RecordHeader, &[u8]) -> Result<(), Error>;

impl<'a> Old<'a> {
    /// None if nothing lives in it.
    fn open(
        shared: &'a Shared,
        marks: &'a Mutex<Marks>,
        id: SegmentId,
    ) -> Result<Option<Self>, Error> {
        let live = marks.lock().unwrap_or_else(PoisonError::into_inner);
        let live_blocks = live.of(id).map_or(0, |marks| marks.live_blocks);
        drop(live);
        if live_blocks == 0 {
            return Ok(None);
        }
        let segment = shared.segments.sealed(id)?;
        let (trailer, table) = segment.entries()?;
        let data_end = trailer.map_or(segment.file.size()?, |trailer| trailer.data_end);
        Ok(Some(Self { shared, marks, segment, data_end, table, live_blocks }))
    }

    /// Raw bytes of what lives, by its form; none if some of it is damaged, or its dictionary cannot be had.
    fn raw_bytes_by_form(&self) -> Result<Option<HashMap<StoredForm, usize>>, Error> {
        let mut by_form = HashMap::<StoredForm, usize>::new();
        let mut whole = 0;
        self.each_living(&mut |dictionaries, header, payload| {
            *by_form.entry(header.form).or_default() += header.raw_len as usize;
            let is_had = header.form == StoredForm::PLAIN
                || self.shared.any_dictionary(dictionaries, header.form).is_some();
            whole += u64::from(is_had && crc32fast::hash(payload) == header.payload_crc);
            Ok(())
        })?;
        Ok((whole == self.live_blocks).then_some(by_form))
    }

    fn is_living(&self, entry: &Entry) -> Result<bool, Error> {
        let found = self.table.find(&entry.id, |other| other.offset == entry.offset)?;
        let Some((ordinal, _)) = found else { return Ok(false) };
        let marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(marks.of(entry.segment).is_some_and(|marks| marks.has(ordinal)))
    }

    /// Reads the records that live, in order, as far as they can be.
    fn each_living(&self, on_record: OnRecord<'_>) -> Result<(), Error> {
        let (shared, id) = (self.shared, self.segment.id);
        let file = || Arc::clone(&self.segment.file);
        let mut dictionaries = OfSegment::new(file(), &shared.identity);
        let mut scanner = Scanner::new(file(), shared.identity.uuid, id, self.data_end);
        loop {
            match scanner.step() {
                Step::Record { offset, header, payload } => {
                    let entry = entry_of(id, offset, &header);
                    dictionaries.saw(&entry);
                    if self.is_living(&entry)? {
                        on_record(&dictionaries, &header, payload)?;
                    }
                }
                Step::End => return Ok(()),
                // Nothing that lives, or it is missed at the end.
                Step::Invalid { .. } | Step::Unreadable { .. } => {
                    if !scanner.resync() {
                        return Ok(());
                    }
                }
            }
        }
    }
}

/// Puts once more the dictionaries of segments that are about to go of which every copy elsewhere is damaged: what stands beside such a
/// copy is read through these. What needs them moves along only where it goes itself. `with_gaps`: of segments that stay, one may
/// have lost its copy without a trace.
pub(super) fn keep_dictionaries(
    shared: &Shared,
    writer: &Writer,
    gone: &[SegmentId],
    with_gaps: bool,
) -> Result<(), Error> {
    let gone: BTreeSet<SegmentId> = gone.iter().copied().collect();
    let mut looked_for = BTreeSet::new();
    for id in &gone {
        for entry in dictionaries_of(shared, *id)? {
            let form = StoredForm::with(&entry.id);
            if looked_for.contains(&form) || !is_missed_without(shared, form, &gone, with_gaps)? {
                looked_for.insert(form);
                continue;
            }
            // If this copy is damaged too, another of those that go may be whole.
            let whole = shared.segments.sealed(*id).and_then(|one| one.read(&entry));
            if let Ok(Block { bytes, .. }) = whole {
                let dictionary = Dictionary::new(entry.id, bytes);
                writer.put_dictionary((&shared.segments, &shared.index), &dictionary)?;
                looked_for.insert(form);
            }
        }
    }
    Ok(())
}

/// The dictionaries that a segment lists; none if it cannot be read at all.
fn dictionaries_of(shared: &Shared, id: SegmentId) -> Result<Vec<Entry>, Error> {
    match shared.segments.sealed(id).and_then(|segment| segment.entries()) {
        Err(Error::Damaged { .. } | Error::SegmentGone { .. } | Error::Io(_)) => Ok(Vec::new()),
        opened => opened.and_then(|(trailer, table)| run::dictionaries(trailer, &table)),
    }
}

/// Whether there is no copy of a dictionary that can be read in segments that stay, and one of them may need it.
fn is_missed_without(
    shared: &Shared,
    form: StoredForm,
    gone: &BTreeSet<SegmentId>,
    with_gaps: bool,
) -> Result<bool, Error> {
    if shared.open_dictionary(form).is_some() {
        return Ok(false);
    }
    let (mut is_needed, mut is_read) = (with_gaps, false);
    shared.index.probes().find_dictionary(form, &mut |entry| {
        if gone.contains(&entry.segment) {
            return false;
        }
        is_needed = true;
        is_read = shared.segments.sealed(entry.segment).and_then(|one| one.read(entry)).is_ok();
        is_read
    })?;
    Ok(is_needed && !is_read)
}
