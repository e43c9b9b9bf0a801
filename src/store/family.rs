//! Storing blocks of one family: compressed with a dictionary, once there is one.

use std::sync::Arc;

use super::dictionaries::{self, Known, LEARN_BYTES, Learner};
use super::{Shared, Store};
use crate::block::{
    Block, BlockId, BlockRead, BlockWrite, Dictionary, Error, Family, Kind, StoredForm,
};

/// Blocks of a family whose stored form is looked at.
const LOOK_AT_BYTES: u64 = 64 << 10;

/// A store as one family writes to it.
pub struct OfFamily {
    store: Store,
    id: [u8; 16],
    form: Form,
}

enum Form {
    With(Arc<Dictionary>),
    Learns(Arc<Learner>),
}

impl Store {
    /// The store for blocks of a family: those that are there tell which dictionary they use, or one is made of them, or, if there are
    /// none, of those that are put. None if a dictionary is of no use.
    #[must_use]
    pub fn family(&self, family: &Family<'_>) -> Option<OfFamily> {
        let shared = &*self.shared;
        if !shared.options.durable {
            return None;
        }
        let of = |form| Some(OfFamily { store: self.clone(), id: family.id, form });
        match shared.dictionaries.family(&family.id) {
            Some(Known::UsesNone) => return None,
            Some(Known::Uses(form)) => {
                if let Some(dictionary) = shared.dictionary(form) {
                    return of(Form::With(dictionary));
                }
            }
            Some(Known::Learns(_)) | None => {}
        }
        match self.dictionary_of(family) {
            Ok(Some(dictionary)) => of(Form::With(dictionary)),
            Ok(None) if shared.is_useless(family.id) => None,
            Ok(None) => of(Form::Learns(shared.dictionaries.learn(family.id)?)),
            Err(error) => {
                tracing::warn!(%error, "blocks are stored without a dictionary");
                None
            }
        }
    }

    /// The store for blocks that a given dictionary fits.
    #[must_use]
    pub fn with_dictionary(&self, dictionary: Dictionary) -> OfFamily {
        let dictionary = self.shared.dictionaries.keep_ready(dictionary);
        OfFamily { store: self.clone(), id: [0; 16], form: Form::With(dictionary) }
    }

    /// The dictionary that blocks of a family use, or one made of them.
    fn dictionary_of(&self, family: &Family<'_>) -> Result<Option<Arc<Dictionary>>, Error> {
        let shared = &*self.shared;
        for id in (family.examples)(LOOK_AT_BYTES)? {
            let form = shared.form_of(&id)?;
            if let Some(dictionary) = form.and_then(|form| shared.dictionary(form)) {
                shared.dictionaries.note(family.id, Known::Uses(dictionary.form()));
                return Ok(Some(dictionary));
            }
        }
        let (mut samples, mut lengths) = (Vec::new(), Vec::new());
        for id in (family.examples)(LEARN_BYTES as u64)? {
            if samples.len() >= LEARN_BYTES {
                break;
            }
            let block = self.get(&id)?;
            samples.extend_from_slice(&block.bytes);
            lengths.push(block.bytes.len());
        }
        // Fewer stand where a scan goes on that had just begun: what comes tells more.
        if samples.len() < LEARN_BYTES / 4 {
            return Ok(None);
        }
        Ok(shared.learned(family.id, &samples, &lengths))
    }
}

impl Shared {
    /// The form of a block in a sealed segment; none if it is plain.
    fn form_of(&self, id: &BlockId) -> Result<Option<StoredForm>, Error> {
        let Some(entry) = self.index.probes().find(id)? else { return Ok(None) };
        let form = self.segments.sealed(entry.segment)?.form(&entry)?;
        Ok((form != StoredForm::PLAIN).then_some(form))
    }

    fn is_useless(&self, family: [u8; 16]) -> bool {
        matches!(self.dictionaries.family(&family), Some(Known::UsesNone))
    }

    /// Makes a dictionary of samples and notes it, or that there is none.
    fn learned(
        &self,
        family: [u8; 16],
        samples: &[u8],
        lengths: &[usize],
    ) -> Option<Arc<Dictionary>> {
        let small_enough = |one: &Dictionary| self.writer().is_ok_and(|writer| writer.fits(one));
        let trained = dictionaries::train(samples, lengths).filter(small_enough);
        let trained = trained.map(|dictionary| self.dictionaries.keep_ready(dictionary));
        let known = trained.as_ref().map_or(Known::UsesNone, |one| Known::Uses(one.form()));
        self.dictionaries.note(family, known);
        trained
    }
}

impl OfFamily {
    /// Stores a block as [`BlockWrite::put`] does, and tells how many bytes that added.
    ///
    /// # Errors
    /// As [`BlockWrite::put`].
    pub fn put_counted(&self, kind: Kind, raw: &[u8]) -> Result<(BlockId, u64), Error> {
        let id = BlockId::of(kind, raw);
        let dictionary = match &self.form {
            Form::With(dictionary) => Some(Arc::clone(dictionary)),
            Form::Learns(learner) => self.learn(learner, kind, raw),
        };
        Ok((id, self.store.put_with(id, kind, raw, dictionary.as_deref())?))
    }

    /// What was learned by now, if anything was.
    fn learn(&self, learner: &Learner, kind: Kind, raw: &[u8]) -> Option<Arc<Dictionary>> {
        if !kind.may_use_dictionary() {
            return None;
        }
        let shared = &*self.store.shared;
        if let Some((samples, lengths)) = learner.take(raw) {
            return shared.learned(self.id, &samples, &lengths);
        }
        match shared.dictionaries.family(&self.id) {
            Some(Known::Uses(form)) => shared.dictionary(form),
            _ => None,
        }
    }
}

impl BlockRead for OfFamily {
    fn get(&self, id: &BlockId) -> Result<Block, Error> {
        self.store.get(id)
    }

    fn kind_of(&self, id: &BlockId) -> Result<Option<Kind>, Error> {
        self.store.kind_of(id)
    }
}

impl BlockWrite for OfFamily {
    fn put(&self, kind: Kind, raw: &[u8]) -> Result<BlockId, Error> {
        self.put_counted(kind, raw).map(|(id, _)| id)
    }
}
