//! What names and seals the blocks of a repository: its salt, and its keys if it is encrypted.
//!
//! For who keeps blocks of a store elsewhere, or makes a store of what is kept there: the same content has the same name and root in
//! both, and what is sealed stays so on the way.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::fs::{Disk, RealDisk};
use super::identity::Identity;
use super::{Error, Options, RepositorySalt, Secret, Store, StoredBlock, keys, open, scan};
use crate::block::{self, Dictionary, Kind};

/// See the head of this file. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Vault {
    identity: Identity,
    /// What opens the keys.
    secret: Option<Arc<Secret>>,
}

impl Vault {
    /// That of a repository that is not encrypted.
    #[must_use]
    pub fn plain(uuid: [u8; 16], salt: RepositorySalt) -> Self {
        Self { identity: Identity::plain(uuid, salt), secret: None }
    }

    /// That of an encrypted one, whose keys stand in `copy`, sealed. `name` is what to call it in errors.
    ///
    /// # Errors
    /// [`Error::WrongKey`], [`Error::KeysDamaged`].
    pub fn unlock(
        uuid: [u8; 16],
        copy: &[u8],
        secret: &Arc<Secret>,
        name: &str,
    ) -> Result<Self, Error> {
        let keys = keys::open_copy(copy, &uuid, secret, Path::new(name))?;
        let identity = Identity { uuid, salt: keys.salt(), keys: Some(Arc::new(keys)) };
        Ok(Self { identity, secret: Some(Arc::clone(secret)) })
    }

    /// The same keys for another repository, and a copy of them that the same secret opens; none if it is not encrypted.
    #[must_use]
    pub fn for_repository(&self, uuid: [u8; 16]) -> (Self, Option<Vec<u8>>) {
        let copy = self.identity.keys.as_ref().zip(self.secret.as_ref());
        let copy = copy.map(|(keys, secret)| keys::copy_for(keys, &uuid, secret));
        let identity = Identity { uuid, ..self.identity.clone() };
        (Self { identity, secret: self.secret.clone() }, copy)
    }

    /// Whether it has keys.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.identity.keys.is_some()
    }

    /// The salt of trees.
    #[must_use]
    pub fn salt(&self) -> RepositorySalt {
        self.identity.salt
    }

    /// Whether another names blocks as this one does, and can open all that this one seals.
    #[must_use]
    pub fn is_among(&self, other: &Self) -> bool {
        match (&self.identity.keys, &other.identity.keys) {
            (None, None) => self.salt() == other.salt(),
            (Some(own), Some(others)) => own.are_among(others),
            _ => false,
        }
    }

    /// This one, which can open what the other seals too. None if the two have other data keys of one epoch, or name blocks otherwise.
    #[must_use]
    pub fn with(&self, other: &Self) -> Option<Self> {
        let keys = self.identity.keys.as_ref()?.with(other.identity.keys.as_ref()?)?;
        let identity = Identity { keys: Some(Arc::new(keys)), ..self.identity.clone() };
        Some(Self { identity, secret: self.secret.clone() })
    }

    /// Whether another names blocks as this one does.
    #[must_use]
    pub fn names_as(&self, other: &Self) -> bool {
        let key = |vault: &Self| vault.identity.keys.as_ref().map(|keys| *keys.name_key());
        self.salt() == other.salt() && key(self) == key(other)
    }

    /// The raw bytes of a stored block, checked against its name.
    ///
    /// # Errors
    /// [`block::Error::Damaged`].
    pub fn open(
        &self,
        stored: &StoredBlock,
        dictionary: Option<&Dictionary>,
    ) -> Result<Bytes, block::Error> {
        scan::open_payload(&self.identity, &stored.header()?, &stored.bytes, dictionary)
    }

    /// Seals a document, which vouches for `associated` too; none if there are no keys.
    #[must_use]
    pub fn seal(&self, associated: &[u8], document: &[u8]) -> Option<Vec<u8>> {
        Some(self.identity.keys.as_ref()?.seal_document(associated, document))
    }

    /// Restores it; none if it is not what was sealed.
    #[must_use]
    pub fn unseal(&self, associated: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        self.identity.keys.as_ref()?.open_document(associated, sealed)
    }

    /// A name that tells nothing without the keys: 64 hexadecimal digits; the name itself if there are none.
    #[must_use]
    pub fn hidden(&self, name: &str) -> String {
        match &self.identity.keys {
            Some(keys) => blake3::keyed_hash(keys.name_key(), name.as_bytes()).to_string(),
            None => name.to_owned(),
        }
    }

    /// Makes a store with the same salt and keys in an empty or absent directory, and opens it.
    ///
    /// # Errors
    /// As [`Store::create`].
    pub fn create_store(&self, dir: &Path, options: Options) -> Result<Store, Error> {
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let options = Options { secret: self.secret.clone(), ..options };
        open::create_like(&disk, dir, &options, &self.identity)?;
        Store::open_on(disk, dir, options)
    }

    /// Makes a store that need not survive, as [`Store::scratch`] does.
    ///
    /// # Errors
    /// As [`Store::create`].
    pub fn scratch(&self, dir: &Path) -> Result<Store, Error> {
        Store::scratch_with(dir, &self.identity)
    }

    /// The name of a block.
    #[must_use]
    pub fn name(&self, kind: Kind, raw: &[u8]) -> block::BlockId {
        self.identity.name(kind, raw)
    }
}

impl Store {
    /// What names and seals its blocks.
    #[must_use]
    pub fn vault(&self) -> Vault {
        let Self { shared, .. } = self;
        Vault { identity: shared.identity.clone(), secret: shared.options.secret.clone() }
    }
}
