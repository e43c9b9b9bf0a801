//! Keys, and the cipher that they are used with: XChaCha20-Poly1305, which takes nonces long enough to be drawn at
//! random for as long as anybody writes.

use std::fmt;

use chacha20poly1305::{AeadInOut as _, KeyInit as _, XChaCha20Poly1305};
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use zeroize::Zeroizing;

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
/// Bytes that sealing adds.
pub const SEAL_BYTES: usize = NONCE_BYTES + TAG_BYTES;

/// A key, wiped from memory when it is dropped.
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; KEY_BYTES]>);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Key {
    /// A fresh one, of the system's randomness.
    #[must_use]
    pub fn random() -> Self {
        Self(Zeroizing::new(random()))
    }

    /// The key of these bytes; none if they are not [`KEY_BYTES`].
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|bytes| Self(Zeroizing::new(bytes)))
    }

    /// A key for one purpose, which tells nothing of this one or of those for others (BLAKE3's key derivation).
    #[must_use]
    pub fn derive(&self, purpose: &str) -> Self {
        Self(Zeroizing::new(blake3::derive_key(purpose, &*self.0)))
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

/// Bytes of the system's randomness. A generator of the process would give the same again in a machine that is resumed twice from one image
/// of its memory.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    OsRng.try_fill_bytes(&mut bytes).expect("the system has randomness");
    bytes
}

/// Seals and opens with one key.
pub struct Cipher(XChaCha20Poly1305);

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cipher(..)")
    }
}

impl Cipher {
    /// That of a key.
    #[must_use]
    pub fn new(key: &Key) -> Self {
        Self(XChaCha20Poly1305::new(key.bytes().into()))
    }

    /// Appends the nonce, the encrypted bytes and their tag to `out`. Whoever opens them must give the same associated data.
    ///
    /// # Panics
    /// Above 256 GiB, the cipher's limit.
    pub fn seal(&self, associated: &[u8], plain: &[u8], out: &mut Vec<u8>) {
        let nonce: [u8; NONCE_BYTES] = random();
        out.reserve(plain.len() + SEAL_BYTES);
        out.extend_from_slice(&nonce);
        let start = out.len();
        out.extend_from_slice(plain);
        let tag = self.0.encrypt_inout_detached(
            (&nonce).into(),
            associated,
            out[start..].as_mut().into(),
        );
        out.extend_from_slice(
            &tag.expect("what is sealed is bounded far below the cipher's limit"),
        );
    }

    /// Restores what was sealed; none if anything was changed, or the key or the associated data are others.
    #[must_use]
    pub fn open(&self, associated: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, rest) = sealed.split_first_chunk::<NONCE_BYTES>()?;
        let (encrypted, tag) = rest.split_last_chunk::<TAG_BYTES>()?;
        let mut plain = encrypted.to_vec();
        let opened = self.0.decrypt_inout_detached(
            nonce.into(),
            associated,
            plain.as_mut_slice().into(),
            tag.into(),
        );
        opened.ok().map(|()| plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_unchanged_and_only_unchanged() {
        let (key, other) = (Key::random(), Key::random());
        let mut sealed = Vec::new();
        Cipher::new(&key).seal(b"where", b"what", &mut sealed);
        assert_eq!(sealed.len(), 4 + SEAL_BYTES);
        assert_eq!(Cipher::new(&key).open(b"where", &sealed).as_deref(), Some(&b"what"[..]));
        assert_eq!(Cipher::new(&key).open(b"elsewhere", &sealed), None);
        assert_eq!(Cipher::new(&other).open(b"where", &sealed), None);
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(Cipher::new(&key).open(b"where", &changed), None, "byte {at}");
            assert_eq!(Cipher::new(&key).open(b"where", &sealed[..at]), None, "{at} bytes");
        }
    }

    /// Section A.3.1 of draft-irtf-cfrg-xchacha-03.
    #[test]
    fn opens_the_vector_of_its_specification() {
        let bytes = |hex: &str| -> Vec<u8> {
            let digits: Vec<char> = hex.chars().filter(char::is_ascii_hexdigit).collect();
            digits
                .chunks(2)
                .map(|two| u8::from_str_radix(&String::from_iter(two), 16))
                .map(Result::unwrap)
                .collect()
        };
        let key: Vec<u8> = (0x80..0xa0).collect();
        let associated = bytes("50515253c0c1c2c3c4c5c6c7");
        let mut sealed: Vec<u8> = (0x40..0x58).collect();
        sealed.extend(bytes(
            "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb
             731c7f1b0b4aa6440bf3a82f4eda7e39ae64c6708c54c216cb96b72e1213b452
             2f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9
             21f9664c97637da9768812f615c68b13b52e
             c0875924c1c7987947deafd8780acf49",
        ));
        let plain = Cipher::new(&Key::from_slice(&key).unwrap()).open(&associated, &sealed);
        let expected = "Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the \
                        future, sunscreen would be it.";
        assert_eq!(plain.unwrap(), expected.as_bytes());
    }
}
