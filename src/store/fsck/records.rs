//! The pass over the records of a segment: read in order on one thread, verified on all cores.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Check, Code, Finding};
use crate::block::{BlockId, Dictionary, StoredForm};
use crate::store::dictionaries::OfSegment;
use crate::store::layout::{Entry, RecordHeader, SegmentId, Trailer};
use crate::store::scan::{Scanner, Step, entry_of, open_payload};
use crate::store::segment::Segment;
use crate::store::sync::on_cores;
use crate::store::table::Table;
use crate::store::verified::Verified;
use crate::store::{Error, Shared};

/// Stored bytes that are verified together.
const BATCH_BYTES: usize = 2 << 20;

/// Memory that a dictionary takes that is ready to decompress with, in its own bytes.
const DICTIONARY_TIMES: usize = 3;

/// Records on their way to be verified.
#[derive(Default)]
struct Batch {
    seen: Vec<Seen>,
    bytes: usize,
}

impl Batch {
    fn push(&mut self, seen: Seen) {
        let form = |seen: &Seen| seen.header.form;
        let is_new = self.seen.last().map(form) != Some(form(&seen));
        let dictionary = seen.dictionary.as_ref().filter(|_| is_new);
        // Where many take turns, each may be held several times.
        self.bytes +=
            seen.payload.len() + dictionary.map_or(0, |one| DICTIONARY_TIMES * one.raw().len());
        self.seen.push(seen);
    }
}

/// A record whose header holds, and the dictionary that stands before it.
struct Seen {
    entry: Entry,
    header: RecordHeader,
    payload: Vec<u8>,
    dictionary: Option<Arc<Dictionary>>,
}

impl Seen {
    /// What is wrong with it.
    fn problem(&self, shared: &Shared, verified: Option<&Verified>) -> Option<(Code, String)> {
        let Self { entry, header, payload, dictionary } = self;
        if crc32fast::hash(payload) != header.payload_crc {
            return Some((Code::RecordPayload, "the stored bytes' checksum differs".to_owned()));
        }
        if verified.is_some_and(|verified| verified.has(entry)) {
            return None;
        }
        let opened = open_payload(&shared.identity, header, payload, dictionary.as_deref());
        opened.err().map(|error| (Code::RecordContent, error.to_string()))
    }
}

impl Check<'_> {
    /// Verifies the records of a segment up to a limit, and that its footer, if it has one, lists them and no others.
    pub(super) fn records(
        &mut self,
        segment: &Segment,
        (limit, sealed): (u64, bool),
        footer: Option<&(Trailer, Table)>,
    ) -> Result<(), Error> {
        let id = segment.id;
        let mut scanner =
            Scanner::new(Arc::clone(&segment.file), self.shared.identity.uuid, id, limit);
        let mut dictionaries = OfSegment::new(Arc::clone(&segment.file), &self.shared.identity);
        let (mut batch, mut listed) = (Batch::default(), BTreeSet::new());
        let mut lacking = BTreeSet::new();
        loop {
            match scanner.step() {
                Step::Record { offset, header, payload } => {
                    let entry = entry_of(id, offset, &header);
                    dictionaries.saw(&entry);
                    let needs = Some(header.form).filter(|form| *form != StoredForm::PLAIN);
                    if needs.is_some_and(|form| !dictionaries.has(form) && lacking.insert(form)) {
                        let what = "the dictionary that the record needs does not stand before it";
                        let finding = Finding::new(Code::SegmentDictionary, what);
                        self.report.add(finding.at(id, offset).of_block(entry.id));
                    }
                    let dictionary = self.shared.dictionary_in(&dictionaries, header.form);
                    batch.push(Seen { entry, header, payload: payload.to_vec(), dictionary });
                    if batch.bytes >= BATCH_BYTES {
                        self.take(&mut batch, footer, &mut listed)?;
                    }
                    if self.throttle.is_stopped() {
                        return Ok(());
                    }
                }
                Step::End => break,
                Step::Unreadable { offset, header, error } => {
                    let mut finding = Finding::new(Code::Unreadable, error.to_string());
                    if let Some(header) = header {
                        dictionaries.saw(&entry_of(id, offset, &header));
                        finding.block = Some(header.id);
                    }
                    self.report.add(finding.at(id, offset));
                    self.damaged.insert((id, offset));
                    if !scanner.resync() {
                        break;
                    }
                }
                Step::Invalid { offset, what } => {
                    let more = scanner.resync();
                    // Without its own footer, a sealed segment's end cannot be told from damage.
                    if more || footer.is_some() || !sealed {
                        self.report.add(Finding::new(Code::RecordHeader, what).at(id, offset));
                        self.damaged.insert((id, offset));
                    }
                    if !more {
                        break;
                    }
                }
            }
        }
        self.take(&mut batch, footer, &mut listed)?;
        if let Some((trailer, table)) = footer
            && listed.len() as u64 != trailer.count
        {
            let there = listed.len();
            let what = format!("the footer lists {} records, {there} are there", trailer.count);
            self.report.add(Finding::new(Code::SegmentList, what).at(id, trailer.data_end));
            self.unseen(id, table, &listed)?;
        }
        Ok(())
    }

    /// Records that a footer lists and that were not come to: of several damaged ones in a row, only the
    /// first was.
    fn unseen(&mut self, id: SegmentId, footer: &Table, seen: &BTreeSet<u64>) -> Result<(), Error> {
        for ordinal in (0..footer.count()).filter(|ordinal| !seen.contains(ordinal)) {
            if let Some(entry) = Entry::decode(&footer.bytes(ordinal, ordinal + 1)?) {
                self.damaged.insert((id, entry.offset));
            }
        }
        Ok(())
    }

    fn unlisted(&mut self, id: SegmentId, offset: u64, block: BlockId) {
        let finding = Finding::new(Code::SegmentList, "the footer does not list the record");
        self.report.add(finding.at(id, offset).of_block(block));
    }

    /// Verifies the records that were gathered, on all cores, and notes which of a footer's entries they are.
    fn take(
        &mut self,
        batch: &mut Batch,
        footer: Option<&(Trailer, Table)>,
        listed: &mut BTreeSet<u64>,
    ) -> Result<(), Error> {
        let (shared, verified) = (self.shared, self.verified);
        let outcomes = on_cores(&batch.seen, |seen| {
            let listing =
                footer.map(|(_, table)| table.find(&seen.entry.id, |other| *other == seen.entry));
            (seen.problem(shared, verified), listing.transpose())
        });
        for (seen, (problem, listing)) in batch.seen.iter().zip(outcomes) {
            let Entry { id: block, segment, offset, .. } = seen.entry;
            self.report.records += 1;
            if let Some((code, what)) = problem {
                self.damaged.insert((segment, offset));
                self.report.add(Finding::new(code, what).at(segment, offset).of_block(block));
            }
            match listing? {
                Some(Some((ordinal, _))) => _ = listed.insert(ordinal),
                Some(None) => self.unlisted(segment, offset, block),
                None => {}
            }
            self.advance(seen.header.span());
        }
        *batch = Batch::default();
        Ok(())
    }
}
