//! How the raw bytes of a block are stored: as they are, or as one zstd frame.

use std::borrow::Cow;
use std::cell::RefCell;
use std::io::Cursor;

use zstd::zstd_safe::{CCtx, DCtx, compress_bound};

use super::{Dictionary, Error, MAX_BLOCK_BYTES, StoredForm};

/// The zstd level of every block. Higher levels cost more time than a backup on two cores has.
pub(super) const ZSTD_LEVEL: i32 = 3;

/// How a block's raw bytes are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    /// As they are.
    Raw = 0,
    /// One zstd frame, with the dictionary that the stored form names or without one.
    Zstd = 1,
}

impl Codec {
    /// The byte that stands for the codec on disk.
    #[must_use]
    pub const fn to_byte(self) -> u8 {
        self as u8
    }

    /// The codec a byte stands for.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Raw),
            1 => Some(Self::Zstd),
            _ => None,
        }
    }
}

thread_local! {
    static COMPRESSOR: RefCell<Option<CCtx<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<DCtx<'static>>> = const { RefCell::new(None) };
}

/// Compresses a raw block, with a dictionary if one is given, or leaves it alone where that would gain less than one part in
/// 32.
#[must_use]
pub fn compress<'a>(
    raw: &'a [u8],
    dictionary: Option<&Dictionary>,
) -> (Codec, StoredForm, Cow<'a, [u8]>) {
    let encoder =
        dictionary.and_then(|dictionary| Some((dictionary.form(), dictionary.encoder()?)));
    let mut stored = Vec::with_capacity(compress_bound(raw.len()));
    let compressed = COMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = CCtx::try_create();
        }
        let context = slot.as_mut()?;
        let written = match encoder {
            Some((_, encoder)) => context.compress_using_cdict(&mut stored, raw, encoder),
            None => context.compress(&mut stored, raw, ZSTD_LEVEL),
        };
        written.ok()
    });
    match compressed {
        Some(len) if len + raw.len() / 32 < raw.len() => {
            (Codec::Zstd, encoder.map_or(StoredForm::PLAIN, |(form, _)| form), Cow::Owned(stored))
        }
        _ => (Codec::Raw, StoredForm::PLAIN, Cow::Borrowed(raw)),
    }
}

/// Restores the raw bytes of a block that was compressed with that dictionary, or without.
///
/// # Errors
/// [`Error::TooLarge`] if the claimed length is above the limit, [`Error::Codec`] if the stored
/// bytes do not decompress to exactly `raw_len`.
pub fn decompress(
    codec: Codec,
    stored: &[u8],
    raw_len: usize,
    dictionary: Option<&Dictionary>,
) -> Result<Vec<u8>, Error> {
    decompress_behind(&[], codec, stored, raw_len, dictionary)
}

/// The same behind some bytes in one buffer.
///
/// # Errors
/// As [`decompress`].
pub fn decompress_behind(
    before: &[u8],
    codec: Codec,
    stored: &[u8],
    raw_len: usize,
    dictionary: Option<&Dictionary>,
) -> Result<Vec<u8>, Error> {
    if raw_len > MAX_BLOCK_BYTES {
        return Err(Error::TooLarge { len: raw_len });
    }
    let whole_len = before.len() + raw_len;
    let mut whole = Vec::with_capacity(whole_len);
    whole.extend_from_slice(before);
    match codec {
        Codec::Raw => whole.extend_from_slice(stored),
        Codec::Zstd => {
            let decoder = dictionary.map(Dictionary::decoder).transpose()?;
            let mut raw = Cursor::new(whole);
            raw.set_position(before.len() as u64);
            DECOMPRESSOR.with_borrow_mut(|slot| {
                if slot.is_none() {
                    *slot = DCtx::try_create();
                }
                let context = slot.as_mut().ok_or(Error::Codec { what: "no zstd context" })?;
                let read = match decoder {
                    Some(decoder) => context.decompress_using_ddict(&mut raw, stored, decoder),
                    None => context.decompress(&mut raw, stored),
                };
                read.map_err(|_| Error::Codec { what: "not a zstd frame of that length" })
            })?;
            whole = raw.into_inner();
        }
    }
    if whole.len() == whole_len { Ok(whole) } else { Err(Error::Codec { what: "length differs" }) }
}
