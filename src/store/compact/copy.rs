//! Copying forward what must outlive a segment: what lives in it, and the dictionaries that others read through it.
//!
//! Writes only through the writer, as every put does; nothing of the old segment is touched.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError};

use crate::block::{self, Block, Dictionary, Kind, StoredForm};
use crate::store::dictionaries::OfSegment;
use crate::store::layout::{Entry, RecordHeader, SegmentId, Trailer};
use crate::store::marks::Marks;
use crate::store::reserve::Purpose;
use crate::store::run::Cursor;
use crate::store::scan::{Scanner, Step, entry_of};
use crate::store::segment::Segment;
use crate::store::sync::Mutex;
use crate::store::table::Table;
use crate::store::writer::Writer;
use crate::store::{Error, Shared};

/// What became of the living records of a segment.
pub(super) struct Copied {
    /// Bytes that were appended.
    pub(super) bytes: u64,
    /// Whether all of them were copied; the others cannot be read.
    pub(super) is_whole: bool,
}

/// Copies the marked records of a closed segment to the active one, each checked against its name. What cannot be read is left out.
pub(super) fn copy_live(
    shared: &Shared,
    writer: &Writer,
    marks: &Mutex<Marks>,
    id: SegmentId,
) -> Result<Copied, Error> {
    let live = marks.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(live_blocks) = live.of(id).map(|marks| marks.live_blocks) else {
        return Ok(Copied { bytes: 0, is_whole: true });
    };
    drop(live);
    let old = match Old::open(shared, marks, id) {
        Err(error @ (Error::Damaged { .. } | Error::SegmentGone { .. } | Error::Io(_))) => {
            tracing::error!(segment = %id, %error, "nothing of it can be copied");
            return Ok(Copied { bytes: 0, is_whole: false });
        }
        old => old?,
    };
    // Whether a dictionary is worth its place in another segment depends on all that comes.
    let mut ahead = HashMap::<StoredForm, usize>::new();
    if old.trailer.kinds[usize::from(Kind::Dictionary.to_byte())] > 0 {
        old.each_living(&mut |_, header, _| {
            *ahead.entry(header.form).or_default() += header.raw_len as usize;
            Ok(())
        })?;
    }
    let (mut copied, mut bytes) = (0, 0);
    old.each_living(&mut |dictionaries, header, payload| {
        let dictionary = shared.any_dictionary(dictionaries, header.form);
        let used = dictionary.as_deref().map(|one| (one, ahead.get(&one.form()).map_or(0, |&n| n)));
        let parts = (&shared.segments, &shared.index);
        match writer.move_record(parts, (header, payload), used, Purpose::Reclaim) {
            Ok(added) => (bytes, copied) = (bytes + added, copied + 1),
            Err(Error::Block(error @ block::Error::Damaged { .. })) => {
                tracing::error!(segment = %id, %error, "a block that is needed cannot be copied");
            }
            Err(error) => return Err(error),
        }
        if let Some(ahead) = ahead.get_mut(&header.form) {
            *ahead = ahead.saturating_sub(header.raw_len as usize);
        }
        Ok(())
    })?;
    Ok(Copied { bytes, is_whole: copied == live_blocks })
}

/// A closed segment whose living records are copied.
struct Old<'a> {
    shared: &'a Shared,
    marks: &'a Mutex<Marks>,
    segment: Arc<Segment>,
    trailer: Trailer,
    table: Table,
}

/// Is given the dictionaries that stand before a record, its header and its stored bytes.
type OnRecord<'a> = &'a mut dyn FnMut(&OfSegment, &RecordHeader, &[u8]) -> Result<(), Error>;

impl<'a> Old<'a> {
    fn open(shared: &'a Shared, marks: &'a Mutex<Marks>, id: SegmentId) -> Result<Self, Error> {
        let segment = shared.segments.sealed(id)?;
        let (trailer, table) = segment.footer_in_memory()?;
        Ok(Self { shared, marks, segment, trailer, table })
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
        let mut scanner = Scanner::new(file(), shared.identity.uuid, id, self.trailer.data_end);
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
/// copy is read through these. What needs them moves along only where it goes itself.
pub(super) fn keep_dictionaries(
    shared: &Shared,
    writer: &Writer,
    gone: &[SegmentId],
) -> Result<(), Error> {
    let gone: BTreeSet<SegmentId> = gone.iter().copied().collect();
    let mut looked_for = BTreeSet::new();
    for id in &gone {
        for entry in dictionaries_of(shared, *id)? {
            let form = StoredForm::with(&entry.id);
            if looked_for.contains(&form) || !is_missed_without(shared, form, &gone)? {
                looked_for.insert(form);
                continue;
            }
            // If this copy is damaged too, another of those that go may be whole.
            if let Ok(Block { bytes, .. }) =
                shared.segments.sealed(*id).and_then(|one| one.read(&entry))
            {
                let dictionary = Dictionary::new(entry.id, bytes);
                writer.put_dictionary((&shared.segments, &shared.index), &dictionary)?;
                looked_for.insert(form);
            }
        }
    }
    Ok(())
}

/// The dictionaries that a segment has, as far as that can be told.
fn dictionaries_of(shared: &Shared, id: SegmentId) -> Result<Vec<Entry>, Error> {
    let opened = shared.segments.sealed(id).and_then(|segment| segment.entries());
    let (trailer, table) = match opened {
        // A repair has set it aside.
        Err(Error::Damaged { .. } | Error::SegmentGone { .. } | Error::Io(_)) => {
            return Ok(Vec::new());
        }
        opened => opened?,
    };
    let kind = usize::from(Kind::Dictionary.to_byte());
    let (mut cursor, mut found) = (Cursor::new(&table), Vec::new());
    if trailer.is_some_and(|trailer| trailer.kinds[kind] == 0) {
        return Ok(found);
    }
    while let Some(bytes) = cursor.step()? {
        found.extend(Entry::decode(&bytes).filter(|entry| entry.kind == Kind::Dictionary));
    }
    Ok(found)
}

/// Whether segments that stay have copies of a dictionary, of which none can be read.
fn is_missed_without(
    shared: &Shared,
    form: StoredForm,
    gone: &BTreeSet<SegmentId>,
) -> Result<bool, Error> {
    if shared.open_dictionary(form).is_some() {
        return Ok(false);
    }
    let (mut is_there, mut is_read) = (false, false);
    shared.index.probes().find_dictionary(form, &mut |entry| {
        if gone.contains(&entry.segment) {
            return false;
        }
        is_there = true;
        is_read = shared.segments.sealed(entry.segment).and_then(|one| one.read(entry)).is_ok();
        is_read
    })?;
    Ok(is_there && !is_read)
}
