//! Storing blocks of one family: compressed with a dictionary, once there is one.

use std::sync::Arc;

use bytes::Bytes;

use super::dictionaries::{self, Known, LEARN_BYTES, Learner};
use super::{Shared, Store};
use crate::block::{BlockId, BlockRead as _, Dictionary, Error, Family, Kind, StoredForm};

/// Blocks of a family whose stored form is looked at.
const LOOK_AT_BYTES: u64 = 64 << 10;

/// How often a family for which no dictionary was of use is stored without one before that is tried again.
const LOOK_AGAIN_AFTER: u32 = 1000;

/// How what is put through a store is compressed.
#[derive(Clone)]
pub(super) enum Compression {
    /// Each block by itself.
    Plain,
    With(Arc<Dictionary>),
    /// By itself, until a dictionary of this family is made of what is put.
    Learns([u8; 16], Arc<Learner>),
}

impl Store {
    /// The store for blocks of a family: those that are there tell which dictionary they use, or one is made of them, or, if
    /// there are none, of those that are put. None if a dictionary is of no use.
    #[must_use]
    pub fn family(&self, family: &Family<'_>) -> Option<Self> {
        if !self.shared.options.durable {
            return None;
        }
        let compression = self.compression_of(family).unwrap_or_else(|error| {
            tracing::warn!(%error, "blocks are stored without a dictionary");
            Compression::Plain
        });
        match compression {
            Compression::Plain => None,
            compression => Some(Self { compression, ..self.clone() }),
        }
    }

    /// The store for blocks that a dictionary of these bytes fits.
    #[must_use]
    pub fn with_dictionary(&self, raw: impl Into<Bytes>) -> Self {
        let raw = raw.into();
        let dictionary = Dictionary::new(self.shared.identity.name(Kind::Dictionary, &raw), raw);
        if dictionary.form() == StoredForm::PLAIN {
            return Self { compression: Compression::Plain, ..self.clone() };
        }
        let dictionary = self.shared.dictionaries.keep_ready(dictionary);
        Self { compression: Compression::With(dictionary), ..self.clone() }
    }

    fn compression_of(&self, family: &Family<'_>) -> Result<Compression, Error> {
        let shared = &*self.shared;
        match shared.dictionaries.family(&family.id) {
            Some(Known::UsesNone(asked)) if asked < LOOK_AGAIN_AFTER => {
                shared.dictionaries.note(family.id, Known::UsesNone(asked + 1));
                return Ok(Compression::Plain);
            }
            Some(Known::Uses(form)) => {
                if let Some(dictionary) = shared.dictionary(form) {
                    return Ok(Compression::With(dictionary));
                }
            }
            Some(Known::Learns(_) | Known::UsesNone(_)) | None => {}
        }
        for id in (family.examples)(LOOK_AT_BYTES)? {
            if let Some(dictionary) = shared.form_of(&id)?.and_then(|form| shared.dictionary(form))
            {
                shared.dictionaries.note(family.id, Known::Uses(dictionary.form()));
                return Ok(Compression::With(dictionary));
            }
        }
        let (samples, lengths) = self.samples(&(family.examples)(LEARN_BYTES as u64)?);
        // Fewer stand where a scan goes on that had just begun: what comes tells more.
        Ok(if samples.len() < LEARN_BYTES / 4 {
            let learner = shared.dictionaries.learn(family.id);
            learner.map_or(Compression::Plain, |one| Compression::Learns(family.id, one))
        } else {
            let learned = shared.learned(family.id, &samples, &lengths);
            learned.map_or(Compression::Plain, Compression::With)
        })
    }

    /// What a dictionary is made from, of these blocks as many as it takes.
    fn samples(&self, examples: &[BlockId]) -> (Vec<u8>, Vec<usize>) {
        let (mut samples, mut lengths) = (Vec::new(), Vec::new());
        for id in examples {
            if samples.len() >= LEARN_BYTES {
                break;
            }
            // One that is damaged says nothing of the others.
            let Ok(block) = self.get(id) else { continue };
            samples.extend_from_slice(&block.bytes);
            lengths.push(block.bytes.len());
        }
        (samples, lengths)
    }

    /// The dictionary for a block that is put, if there is one by now.
    pub(super) fn dictionary_for(&self, kind: Kind, raw: &[u8]) -> Option<Arc<Dictionary>> {
        match &self.compression {
            _ if !kind.may_use_dictionary() => None,
            Compression::Plain => None,
            Compression::With(dictionary) => Some(Arc::clone(dictionary)),
            Compression::Learns(family, learner) => match learner.take(raw) {
                Some((samples, lengths)) => self.shared.learned(*family, &samples, &lengths),
                None => match self.shared.dictionaries.family(family) {
                    Some(Known::Uses(form)) => self.shared.dictionary(form),
                    _ => None,
                },
            },
        }
    }
}

impl Shared {
    /// The form of a block in a sealed segment; none if it is plain.
    fn form_of(&self, id: &BlockId) -> Result<Option<StoredForm>, Error> {
        let Some(entry) = self.index.probes().find(id)? else { return Ok(None) };
        let form = self.segments.sealed(entry.segment)?.form(&entry)?;
        Ok((form != StoredForm::PLAIN).then_some(form))
    }

    /// Makes a dictionary of samples and notes it, or that there is none.
    fn learned(
        &self,
        family: [u8; 16],
        samples: &[u8],
        lengths: &[usize],
    ) -> Option<Arc<Dictionary>> {
        let small_enough = |one: &Dictionary| self.writer().is_ok_and(|writer| writer.fits(one));
        let trained = dictionaries::train(&self.identity, samples, lengths).filter(small_enough);
        let is_stored = |form| self.stored_dictionary(form).is_some();
        let trained = trained.map(|one| self.dictionaries.keep_made(family, one, &is_stored));
        let known = trained.as_ref().map_or(Known::UsesNone(0), |one| Known::Uses(one.form()));
        self.dictionaries.note(family, known);
        trained
    }
}
