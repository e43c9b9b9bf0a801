//! What an operator gives to open an encrypted store: a key file, or a passphrase.

use std::fmt;
use std::io::Read;
use std::path::Path;

use argon2::{Algorithm, Argon2, Params, Version};
use zeroize::Zeroizing;

use crate::crypt::{KEY_BYTES, Key};
use crate::store::Error;

/// Bytes of a key file or a file with a passphrase at most.
const FILE_BYTES_MAX: u64 = 4096;
/// Bytes of a passphrase at least: enough that an empty file is none.
const PASSPHRASE_BYTES_MIN: usize = 8;
const KEY_FILE_SLOT: &str = "Headstock 2026-11 slot of a key file";

/// The key of a key file, or a passphrase. Wiped from memory when it is dropped.
pub enum Secret {
    /// 32 random bytes.
    Key(Key),
    /// What people remember or a safe holds.
    Passphrase(Zeroizing<Vec<u8>>),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key(_) => "Key(..)",
            Self::Passphrase(_) => "Passphrase(..)",
        })
    }
}

/// What a passphrase costs whoever tries one: Argon2id, version 0x13, one lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cost {
    pub(super) memory_kib: u32,
    pub(super) passes: u32,
}

impl Cost {
    /// RFC 9106's second recommendation, with one lane, as every implementation has it.
    pub(super) const USUAL: Self = Self { memory_kib: 64 << 10, passes: 3 };
    /// What a slot may ask for at most, so that a forged one takes neither the machine's memory nor hours.
    pub(super) const MAX: Self = Self { memory_kib: 1 << 20, passes: 64 };
}

impl Secret {
    /// Reads a key file: 64 hexadecimal digits, as [`Secret::write_new_key`] writes it.
    ///
    /// # Errors
    /// [`Error::BadSecret`] if it is none.
    pub fn read_key(path: &Path) -> Result<Self, Error> {
        let text = read(path)?;
        let key = std::str::from_utf8(&text).ok().and_then(|text| from_hex(text.trim()));
        let what = "a key file has 64 hexadecimal digits; make one with `headstock key new`";
        key.map(Self::Key)
            .ok_or_else(|| Error::BadSecret { path: path.to_owned(), what: what.into() })
    }

    /// Reads a passphrase: the first line of a file.
    ///
    /// # Errors
    /// [`Error::BadSecret`] if the file cannot be read or the line is shorter than 8 bytes.
    pub fn read_passphrase(path: &Path) -> Result<Self, Error> {
        let text = read(path)?;
        let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() < PASSPHRASE_BYTES_MIN {
            let what = format!("a passphrase has at least {PASSPHRASE_BYTES_MIN} bytes");
            return Err(Error::BadSecret { path: path.to_owned(), what });
        }
        Ok(Self::Passphrase(Zeroizing::new(line.to_vec())))
    }

    /// Makes a key file with a fresh key, for its owner alone to read.
    ///
    /// # Errors
    /// [`Error::BadSecret`] if there is a file already, or it cannot be written.
    pub fn write_new_key(path: &Path) -> Result<(), Error> {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;
        let key = Key::random();
        let digits = key.bytes().iter().map(|byte| format!("{byte:02x}"));
        let text = Zeroizing::new(digits.collect::<String>() + "\n");
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let mut file = file.map_err(|error| bad(path, &error))?;
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        let durable = written.and_then(|()| std::fs::File::open(parent)?.sync_all());
        durable.map_err(|error| {
            // A part of a key would only keep another from being made here.
            if let Err(left) = std::fs::remove_file(path) {
                tracing::warn!(%left, "a key file that is none stays behind");
            }
            bad(path, &error)
        })
    }

    /// Whether it is a passphrase.
    pub(super) const fn is_passphrase(&self) -> bool {
        matches!(self, Self::Passphrase(_))
    }

    /// The key that a slot of this salt is sealed with.
    pub(super) fn slot_key(&self, salt: &[u8; 16], cost: Cost) -> Result<Key, &'static str> {
        match self {
            Self::Key(key) => {
                let mut material = Zeroizing::new([0; KEY_BYTES + 16]);
                material[..KEY_BYTES].copy_from_slice(key.bytes());
                material[KEY_BYTES..].copy_from_slice(salt);
                let derived = Zeroizing::new(blake3::derive_key(KEY_FILE_SLOT, &*material));
                Ok(Key::from_slice(&*derived).expect("a key has as many bytes"))
            }
            Self::Passphrase(text) => {
                if cost.memory_kib > Cost::MAX.memory_kib || cost.passes > Cost::MAX.passes {
                    return Err("a slot asks for more memory or passes than any has");
                }
                let none = "a slot asks for a cost that Argon2 does not have";
                let params = Params::new(cost.memory_kib, cost.passes, 1, Some(KEY_BYTES));
                let argon =
                    Argon2::new(Algorithm::Argon2id, Version::V0x13, params.map_err(|_| none)?);
                let mut derived = Zeroizing::new([0; KEY_BYTES]);
                argon.hash_password_into(text, salt, &mut *derived).map_err(|_| none)?;
                Ok(Key::from_slice(&*derived).expect("a key has as many bytes"))
            }
        }
    }
}

fn bad(path: &Path, error: &std::io::Error) -> Error {
    Error::BadSecret { path: path.to_owned(), what: error.to_string() }
}

/// Reads a small file, which may be a pipe.
fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    let mut text = Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX as usize + 1));
    let file = std::fs::File::open(path).map_err(|error| bad(path, &error))?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(|error| bad(path, &error))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        let what = "it is too long for a key or a passphrase".to_owned();
        return Err(Error::BadSecret { path: path.to_owned(), what });
    }
    Ok(text)
}

fn from_hex(text: &str) -> Option<Key> {
    let digits = text.as_bytes();
    if digits.len() != 2 * KEY_BYTES {
        return None;
    }
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
    }
    Key::from_slice(&*bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_reads_back_and_nothing_else_is_one() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("key");
        Secret::write_new_key(&path).expect("written");
        let first = std::fs::read(&path).expect("read");
        assert!(matches!(Secret::read_key(&path), Ok(Secret::Key(_))));
        assert!(Secret::write_new_key(&path).is_err(), "a key is never overwritten");
        assert_eq!(std::fs::read(&path).expect("read"), first);
        for wrong in
            [&b""[..], b"abc", &[b'g'; 64], &[b'0'; 63], &[b'0'; 66], &[b'+'; 64], &[0; 5000]]
        {
            std::fs::write(&path, wrong).expect("write");
            let refused = Secret::read_key(&path).expect_err("no key").to_string();
            assert!(refused.contains("key"), "{refused}");
        }
    }

    #[test]
    fn a_passphrase_is_a_line() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("passphrase");
        for text in ["correct horse", "correct horse\n", "correct horse\r\nnot this\n"] {
            std::fs::write(&path, text).expect("write");
            let Ok(Secret::Passphrase(read)) = Secret::read_passphrase(&path) else {
                panic!("{text}")
            };
            assert_eq!(&read[..], b"correct horse");
        }
        std::fs::write(&path, "short").expect("write");
        assert!(matches!(Secret::read_passphrase(&path), Err(Error::BadSecret { .. })));
    }
}
