//! A block in the form in which it is appended: compressed, and sealed in an encrypted store.

use std::borrow::Cow;

use super::Error;
use super::identity::Identity;
use super::keys::Keys;
use super::layout::{RecordHeader, Sealing};
use super::scan::unseal;
use crate::block::{self, BlockId, Dictionary, Kind};

/// A block as it is stored.
pub(super) struct Stored<'a> {
    pub(super) header: RecordHeader,
    pub(super) bytes: Cow<'a, [u8]>,
    /// What it was compressed with.
    pub(super) dictionary: Option<&'a Dictionary>,
}

impl<'a> Stored<'a> {
    /// Its name.
    pub(super) fn id(&self) -> BlockId {
        self.header.id
    }

    /// Compresses a block, and seals it in an encrypted store.
    pub(super) fn of(
        identity: &Identity,
        (id, kind, raw): (BlockId, Kind, &'a [u8]),
        dictionary: Option<&'a Dictionary>,
    ) -> Result<Self, Error> {
        let (codec, form, bytes) = block::compress(raw, dictionary);
        let dictionary = dictionary.filter(|one| one.form() == form);
        let raw_len = length(raw.len())?;
        let (sealing, stored_len, payload_crc) = (Sealing::None, 0, 0);
        let header =
            RecordHeader { kind, codec, sealing, stored_len, raw_len, id, payload_crc, form };
        Self { header, bytes, dictionary }.sealed(identity)
    }

    /// The block of a record of another segment: its bytes as they are, unless they are sealed with an older key.
    pub(super) fn moved(
        identity: &Identity,
        header: &RecordHeader,
        payload: &'a [u8],
        dictionary: Option<&'a Dictionary>,
    ) -> Result<Self, Error> {
        if Keys::epoch_of(payload).is_some_and(|epoch| epoch == identity.epoch())
            || identity.keys.is_none()
        {
            return Ok(Self { header: *header, bytes: Cow::Borrowed(payload), dictionary });
        }
        let bytes = unseal(identity, header, payload)
            .map_err(|what| block::Error::Damaged { id: header.id, what })?;
        Self { header: *header, bytes, dictionary }.sealed(identity)
    }

    fn sealed(mut self, identity: &Identity) -> Result<Self, Error> {
        if let Some(keys) = &identity.keys {
            self.bytes = Cow::Owned(keys.seal(&self.header, &self.bytes));
            self.header.sealing = Sealing::XChaCha20Poly1305;
        }
        self.header.stored_len = length(self.bytes.len())?;
        self.header.payload_crc = crc32fast::hash(&self.bytes);
        Ok(self)
    }
}

fn length(len: usize) -> Result<u32, Error> {
    u32::try_from(len).map_err(|_| Error::Block(block::Error::TooLarge { len }))
}
