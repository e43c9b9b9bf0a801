//! The name of a block.

use std::cell::RefCell;
use std::fmt;
use std::str::FromStr;

use super::Kind;

/// The name of a block: BLAKE3-256 over its kind byte followed by its raw content.
///
/// The kind is part of the hash so that bytes of one kind can never be taken for another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId([u8; BlockId::LEN]);

impl BlockId {
    /// Bytes in a name.
    pub const LEN: usize = 32;

    /// Names a block.
    #[must_use]
    pub fn of(kind: Kind, raw: &[u8]) -> Self {
        name(kind, raw, None)
    }

    /// Names a block of an encrypted store, so that only who has the key can tell the name of given content.
    #[must_use]
    pub fn keyed(key: &[u8; 32], kind: Kind, raw: &[u8]) -> Self {
        name(kind, raw, Some(key))
    }

    /// The same of a kind byte and the raw bytes behind it, in one piece.
    #[must_use]
    pub fn of_joined(joined: &[u8], key: Option<&[u8; 32]>) -> Self {
        let hash = key.map_or_else(|| blake3::hash(joined), |key| blake3::keyed_hash(key, joined));
        Self(*hash.as_bytes())
    }

    /// A name from its bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes of the name.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// A name from a slice, or `None` if it is not [`BlockId::LEN`] bytes long.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

/// Raw bytes up to which a copy behind the kind byte is hashed: as one piece, small blocks are hashed nearly twice as fast as in two, of
/// which the first is a byte.
const JOINED_BYTES: usize = 32 << 10;

thread_local! {
    static JOINED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn name(kind: Kind, raw: &[u8], key: Option<&[u8; 32]>) -> BlockId {
    if raw.len() > JOINED_BYTES {
        let mut hasher = key.map_or_else(blake3::Hasher::new, blake3::Hasher::new_keyed);
        return BlockId(*hasher.update(&[kind.to_byte()]).update(raw).finalize().as_bytes());
    }
    JOINED.with_borrow_mut(|joined| {
        joined.clear();
        joined.push(kind.to_byte());
        joined.extend_from_slice(raw);
        BlockId::of_joined(joined, key)
    })
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockId({self})")
    }
}

impl serde::Serialize for BlockId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A string that is not 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a block id is 64 hexadecimal digits")]
pub struct ParseIdError;

impl FromStr for BlockId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.as_bytes();
        if digits.len() != 2 * Self::LEN {
            return Err(ParseIdError);
        }
        let mut bytes = [0; Self::LEN];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| ParseIdError)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| ParseIdError)?;
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In one piece and in two, on both sides of the length from which it is two.
    #[test]
    fn a_name_is_the_hash_of_kind_and_content_whatever_the_length() {
        for len in [0, 1, 4096, JOINED_BYTES, JOINED_BYTES + 1, 1 << 20] {
            let raw = vec![7; len];
            let joined = [&[Kind::Leaf.to_byte()], &raw[..]].concat();
            assert_eq!(BlockId::of(Kind::Leaf, &raw).0, *blake3::hash(&joined).as_bytes());
            let keyed = BlockId::keyed(&[9; 32], Kind::Leaf, &raw);
            assert_eq!(keyed.0, *blake3::keyed_hash(&[9; 32], &joined).as_bytes());
            assert_eq!(keyed, BlockId::of_joined(&joined, Some(&[9; 32])));
        }
    }
}
