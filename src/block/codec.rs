//! How the raw bytes of a block are stored: as they are, or as one zstd frame.

use std::borrow::Cow;
use std::cell::RefCell;

use super::{Error, MAX_BLOCK_BYTES};

/// The zstd level of every block. Higher levels cost more time than a backup on two cores has.
const ZSTD_LEVEL: i32 = 3;

/// How a block's raw bytes are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    /// As they are.
    Raw = 0,
    /// One zstd frame without dictionary, content size or checksum beyond zstd's defaults.
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
    static COMPRESSOR: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> =
        const { RefCell::new(None) };
}

/// Compresses a raw block, or leaves it alone where that would gain less than one part in 32.
#[must_use]
pub fn compress(raw: &[u8]) -> (Codec, Cow<'_, [u8]>) {
    let compressed = COMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = zstd::bulk::Compressor::new(ZSTD_LEVEL).ok();
        }
        slot.as_mut().and_then(|compressor| compressor.compress(raw).ok())
    });
    match compressed {
        Some(stored) if stored.len() + raw.len() / 32 < raw.len() => {
            (Codec::Zstd, Cow::Owned(stored))
        }
        _ => (Codec::Raw, Cow::Borrowed(raw)),
    }
}

/// Restores the raw bytes of a block.
///
/// # Errors
/// [`Error::TooLarge`] if the claimed length is above the limit, [`Error::Codec`] if the stored
/// bytes do not decompress to exactly `raw_len`.
pub fn decompress(codec: Codec, stored: &[u8], raw_len: usize) -> Result<Vec<u8>, Error> {
    if raw_len > MAX_BLOCK_BYTES {
        return Err(Error::TooLarge { len: raw_len });
    }
    let raw = match codec {
        Codec::Raw => stored.to_vec(),
        Codec::Zstd => DECOMPRESSOR.with_borrow_mut(|slot| {
            if slot.is_none() {
                *slot = zstd::bulk::Decompressor::new().ok();
            }
            let decompressor = slot.as_mut().ok_or(Error::Codec { what: "no zstd context" })?;
            decompressor
                .decompress(stored, raw_len)
                .map_err(|_| Error::Codec { what: "not a zstd frame of that length" })
        })?,
    };
    if raw.len() == raw_len { Ok(raw) } else { Err(Error::Codec { what: "length differs" }) }
}
