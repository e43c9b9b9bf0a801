//! Dictionaries: what the leaves of a collection have in common, so that small blocks compress like large ones.
//!
//! A dictionary is a block itself. It is named by the *stored form* of the blocks compressed with it and by nothing
//! else: neither the name of a block nor a tree depends on it.

use std::fmt;
use std::sync::OnceLock;

use bytes::Bytes;
use zstd::zstd_safe::{CDict, DDict};

use super::codec::ZSTD_LEVEL;
use super::{BlockId, Error};

/// Bytes of a trained dictionary at most. Segments repeat those they use, so it is smaller than what zstd makes by default
/// (110 KB), which gains less than two percent more.
pub const MAX_DICTIONARY_BYTES: usize = 64 << 10;

/// How a block's bytes are stored beyond its codec: the first 8 bytes of the name of the dictionary, as a
/// little-endian number; zero for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct StoredForm(pub u64);

impl StoredForm {
    /// Without a dictionary.
    pub const PLAIN: Self = Self(0);

    /// That of blocks compressed with the dictionary of that name.
    #[must_use]
    pub fn with(dictionary: &BlockId) -> Self {
        let (first, _) = dictionary.as_bytes().split_first_chunk().expect("a name has 32 bytes");
        Self(u64::from_le_bytes(*first))
    }

    /// The least name that a dictionary of this form can have.
    #[must_use]
    pub fn least_name(self) -> BlockId {
        let mut name = [0; BlockId::LEN];
        name[..8].copy_from_slice(&self.0.to_le_bytes());
        BlockId::from_bytes(name)
    }
}

/// A dictionary, prepared for use when it is first used.
pub struct Dictionary {
    id: BlockId,
    raw: Bytes,
    encoder: OnceLock<Option<CDict<'static>>>,
    decoder: OnceLock<Option<DDict<'static>>>,
}

impl fmt::Debug for Dictionary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Dictionary");
        shown.field("id", &self.id).field("bytes", &self.raw.len()).finish_non_exhaustive()
    }
}

impl Dictionary {
    /// The dictionary whose block has this name and these bytes.
    #[must_use]
    pub fn new(id: BlockId, raw: Bytes) -> Self {
        Self { id, raw, encoder: OnceLock::new(), decoder: OnceLock::new() }
    }

    /// Makes the bytes of one, of blocks like those it is to be used for, one after another in `samples`. None if they have too
    /// little in common.
    #[must_use]
    pub fn train(samples: &[u8], lengths: &[usize]) -> Option<Bytes> {
        let raw = zstd::dict::from_continuous(samples, lengths, MAX_DICTIONARY_BYTES).ok()?;
        Some(raw.into())
    }

    /// The name of its block.
    #[must_use]
    pub fn id(&self) -> BlockId {
        self.id
    }

    /// The bytes of its block.
    #[must_use]
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// The form of what is compressed with it.
    #[must_use]
    pub fn form(&self) -> StoredForm {
        StoredForm::with(&self.id)
    }

    pub(super) fn encoder(&self) -> Option<&CDict<'static>> {
        self.encoder.get_or_init(|| CDict::try_create(&self.raw, ZSTD_LEVEL)).as_ref()
    }

    pub(super) fn decoder(&self) -> Result<&DDict<'static>, Error> {
        let decoder = self.decoder.get_or_init(|| DDict::try_create(&self.raw)).as_ref();
        decoder.ok_or(Error::Codec { what: "its dictionary is none" })
    }
}
