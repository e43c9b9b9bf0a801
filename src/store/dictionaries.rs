//! Dictionaries of this opening of a store: those in use, and what is known of families of blocks.
//!
//! Writes nothing itself. A dictionary stands in each segment that has records compressed with it, before them
//! (`append`): so a segment can be recovered, salvaged, moved and removed without looking into any other, and a dictionary
//! lives exactly as long as what needs it.
//!
//! Which dictionary a family uses is written down nowhere: its blocks tell, by their stored form.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, Weak};

use bytes::Bytes;

use super::fs::{File, FsError};
use super::identity::Identity;
use super::layout::{Entry, RECORD_HEADER_BYTES};
use super::segment::check_record;
use super::sync::{Mutex, MutexGuard};
use crate::block::{BlockId, Dictionary, Kind, StoredForm, compress};

/// Dictionaries held ready, with about a megabyte each.
const READY_MAX: usize = 16;
/// Families that something is known of. Beyond that all is forgotten, and looked up again.
const FAMILIES_MAX: usize = 1 << 14;
/// Raw bytes that a dictionary is made from: 16 times its own. Four times as many halved the speed at which 24 MB were
/// stored, and gained nothing (`benches/leaves.md`).
pub(super) const LEARN_BYTES: usize = 1 << 20;
/// Families that learn at the same time.
const LEARNING_MAX: usize = 8;
/// Dictionaries that wait for a segment that they are worth a place in.
const UNSTORED_MAX: usize = 64;
/// One part in so many of the samples is kept to try it on.
const TRIED_PART: usize = 4;
/// A dictionary is used if it saves one part in so many of what it is tried on.
const WORTH_PART: usize = 16;

/// What is known of a family.
#[derive(Debug, Clone)]
pub(super) enum Known {
    /// Its blocks are compressed with that dictionary.
    Uses(StoredForm),
    /// None made it smaller when that was tried; so often it was asked for since.
    UsesNone(u32),
    /// What is put is what it will be made from.
    Learns(Weak<Learner>),
}

/// Collects what a dictionary is made from.
#[derive(Debug, Default)]
pub(super) struct Learner {
    samples: Mutex<Samples>,
}

#[derive(Debug, Default)]
struct Samples {
    bytes: Vec<u8>,
    lengths: Vec<usize>,
    ended: bool,
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Dictionaries {
    ready: Mutex<Ready>,
    families: Mutex<HashMap<[u8; 16], Known>>,
    /// Those that were made and may stand in no segment yet: they would be made again and again.
    unstored: Mutex<HashMap<StoredForm, Unstored>>,
}

#[derive(Debug)]
struct Unstored {
    id: BlockId,
    raw: Bytes,
    family: [u8; 16],
    used: u64,
}

#[derive(Debug, Default)]
struct Ready {
    by_form: HashMap<StoredForm, (Arc<Dictionary>, u64)>,
    clock: u64,
}

impl Ready {
    fn get(&mut self, form: StoredForm) -> Option<Arc<Dictionary>> {
        self.clock += 1;
        let (dictionary, used) = self.by_form.get_mut(&form)?;
        *used = self.clock;
        Some(Arc::clone(dictionary))
    }

    fn keep(&mut self, dictionary: Dictionary) -> Arc<Dictionary> {
        self.clock += 1;
        let used = self.clock;
        let place = self.by_form.entry(dictionary.form());
        let kept = Arc::clone(&place.or_insert_with(|| (Arc::new(dictionary), used)).0);
        if self.by_form.len() > READY_MAX {
            let oldest = self.by_form.iter().min_by_key(|(_, (_, used))| *used);
            if let Some(form) = oldest.map(|(form, _)| *form) {
                self.by_form.remove(&form);
            }
        }
        kept
    }
}

impl Dictionaries {
    /// One that is ready.
    pub(super) fn ready(&self, form: StoredForm) -> Option<Arc<Dictionary>> {
        lock(&self.ready).get(form)
    }

    /// Holds one ready, in the place of the one that was not used for the longest.
    pub(super) fn keep_ready(&self, dictionary: Dictionary) -> Arc<Dictionary> {
        lock(&self.ready).keep(dictionary)
    }

    /// One that was made and may stand in no segment yet.
    pub(super) fn unstored(&self, form: StoredForm) -> Option<Dictionary> {
        let mut unstored = lock(&self.unstored);
        let newest = unstored.values().map(|one| one.used).max()?;
        let one = unstored.get_mut(&form)?;
        one.used = newest + 1;
        Some(Dictionary::new(one.id, one.raw.clone()))
    }

    /// Holds one that was made for a family. If too many wait, those go that a segment has by now; else the one that was not asked for
    /// for the longest, whose family does without: it puts too little.
    pub(super) fn keep_made(
        &self,
        family: [u8; 16],
        dictionary: Dictionary,
        is_stored: &dyn Fn(StoredForm) -> bool,
    ) -> Arc<Dictionary> {
        let waiting: Vec<StoredForm> = lock(&self.unstored).keys().copied().collect();
        if waiting.len() >= UNSTORED_MAX {
            // Not under the lock: it takes reads.
            let stored: Vec<StoredForm> =
                waiting.into_iter().filter(|form| is_stored(*form)).collect();
            lock(&self.unstored).retain(|form, _| !stored.contains(form));
        }
        let mut unstored = lock(&self.unstored);
        let oldest = unstored.iter().min_by_key(|(_, one)| one.used).map(|(form, _)| *form);
        let oldest = oldest.filter(|_| unstored.len() >= UNSTORED_MAX);
        if let Some(gone) = oldest.and_then(|form| unstored.remove(&form)) {
            self.note(gone.family, Known::UsesNone(0));
        }
        let used = unstored.values().map(|one| one.used).max().unwrap_or(0) + 1;
        let (id, raw) = (dictionary.id(), dictionary.raw().clone());
        unstored.insert(dictionary.form(), Unstored { id, raw, family, used });
        drop(unstored);
        self.keep_ready(dictionary)
    }

    pub(super) fn family(&self, id: &[u8; 16]) -> Option<Known> {
        lock(&self.families).get(id).cloned()
    }

    pub(super) fn note(&self, id: [u8; 16], known: Known) {
        let mut families = lock(&self.families);
        if families.len() >= FAMILIES_MAX {
            families.clear();
        }
        families.insert(id, known);
    }

    /// Has a family learn, if not too many do: together with whoever else writes it.
    pub(super) fn learn(&self, id: [u8; 16]) -> Option<Arc<Learner>> {
        let mut families = lock(&self.families);
        if let Some(Known::Learns(learner)) = families.get(&id)
            && let Some(learner) = learner.upgrade()
        {
            return Some(learner);
        }
        let learns = |known: &&Known| matches!(known, Known::Learns(one) if one.strong_count() > 0);
        if families.values().filter(learns).count() >= LEARNING_MAX
            || families.len() >= FAMILIES_MAX
        {
            return None;
        }
        let learner = Arc::new(Learner::default());
        families.insert(id, Known::Learns(Arc::downgrade(&learner)));
        Some(learner)
    }
}

impl Learner {
    /// Takes a block as a sample. Gives back all, once, when there are enough.
    pub(super) fn take(&self, raw: &[u8]) -> Option<(Vec<u8>, Vec<usize>)> {
        let mut samples = lock(&self.samples);
        if samples.ended {
            return None;
        }
        samples.bytes.extend_from_slice(raw);
        samples.lengths.push(raw.len());
        samples.ended = samples.bytes.len() >= LEARN_BYTES;
        let samples = samples.ended.then_some(&mut *samples)?;
        Some((std::mem::take(&mut samples.bytes), std::mem::take(&mut samples.lengths)))
    }
}

/// A dictionary for blocks like the samples, if it is worth it: tried on those that it is not made from.
pub(super) fn train(identity: &Identity, samples: &[u8], lengths: &[usize]) -> Option<Dictionary> {
    let (made_from, tried_on) = lengths.split_at(lengths.len() - lengths.len() / TRIED_PART);
    let (from, on) = samples.split_at(made_from.iter().sum());
    let raw = Dictionary::train(from, made_from)?;
    let dictionary = Dictionary::new(identity.name(Kind::Dictionary, &raw), raw);
    if dictionary.form() == StoredForm::PLAIN {
        return None;
    }
    let (mut plain, mut with, mut rest) = (0, 0, on);
    for length in tried_on {
        let (raw, others) = rest.split_at(*length);
        plain += compress(raw, None).2.len();
        with += compress(raw, Some(&dictionary)).2.len();
        rest = others;
    }
    (with + plain / WORTH_PART < plain).then_some(dictionary)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The dictionaries of one segment, whose records are walked in order.
pub(super) struct OfSegment {
    file: Arc<dyn File>,
    identity: Identity,
    places: HashMap<StoredForm, Entry>,
    ready: Mutex<Ready>,
    /// Those whose record here is damaged: as many as a segment has records at most, as are the others.
    damaged: Mutex<HashSet<StoredForm>>,
    /// Those that were looked for in vain, here and elsewhere.
    lost: Mutex<HashSet<StoredForm>>,
}

impl OfSegment {
    pub(super) fn new(file: Arc<dyn File>, identity: &Identity) -> Self {
        Self {
            file,
            identity: identity.clone(),
            places: HashMap::new(),
            ready: Mutex::default(),
            damaged: Mutex::default(),
            lost: Mutex::default(),
        }
    }

    /// Takes note of a record that the walk has come to.
    pub(super) fn saw(&mut self, entry: &Entry) {
        if entry.kind == Kind::Dictionary {
            self.places.insert(StoredForm::with(&entry.id), *entry);
        }
    }

    /// Whether one stands before the record that the walk has come to, damaged or not.
    pub(super) fn has(&self, form: StoredForm) -> bool {
        self.places.contains_key(&form)
    }

    /// Whether it was looked for in vain.
    pub(super) fn is_lost(&self, form: StoredForm) -> bool {
        lock(&self.lost).contains(&form)
    }

    /// Remembers what a search elsewhere came to.
    pub(super) fn keep(
        &self,
        form: StoredForm,
        found: Option<Dictionary>,
    ) -> Option<Arc<Dictionary>> {
        if found.is_none() {
            lock(&self.lost).insert(form);
        }
        found.map(|found| lock(&self.ready).keep(found))
    }

    /// One that stands before the record that the walk has come to; none if there is none, or it is damaged. What cannot be read
    /// may be another time, and is an error.
    pub(super) fn get(&self, form: StoredForm) -> Result<Option<Arc<Dictionary>>, FsError> {
        if let Some(ready) = lock(&self.ready).get(form) {
            return Ok(Some(ready));
        }
        let entry = self.places.get(&form).filter(|_| !lock(&self.damaged).contains(&form));
        let Some(entry) = entry else { return Ok(None) };
        let mut record = vec![0; RECORD_HEADER_BYTES + entry.stored_len as usize];
        self.file.read_at(entry.offset, &mut record)?;
        let block = check_record(&self.identity, entry, &record, &|_| None);
        let Ok(block) = block else {
            lock(&self.damaged).insert(form);
            return Ok(None);
        };
        Ok(Some(lock(&self.ready).keep(Dictionary::new(entry.id, block.bytes))))
    }
}
