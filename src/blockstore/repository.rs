//! The repository document, and what is made before it.
//!
//! Order of writes: collections, indexes, the generation, and last the document that says that there is a repository; of several
//! clients that make one at a time, the one whose document stands decides, and the others find what they made in its place, since it is
//! the same. So a repository that can be opened is whole.

use std::sync::Arc;

use bson::raw::cstr;
use bson::spec::BinarySubtype;
use bson::{Binary, RawDocumentBuf, doc, rawdoc};

use super::Error;
use super::backend::{GENERATION, REPOSITORY};
use super::connection::Connection;
use crate::store::{RepositorySalt, Secret, Store, Vault};

/// The format that this program writes, and the newest that it reads.
const FORMAT: i32 = 1;

/// What the repository document says.
#[derive(Clone)]
pub(super) struct Facts {
    pub uuid: [u8; 16],
    salt: RepositorySalt,
    /// Of an encrypted one: its keys, sealed.
    keys: Option<Vec<u8>>,
}

impl Facts {
    /// Reads the repository document, if there is one.
    pub async fn find(connection: &Connection) -> Result<Option<Self>, Error> {
        let found = connection.find_one(REPOSITORY, doc! { "_id": 0 }).await?;
        found.map(|document| Self::read(connection, &document)).transpose()
    }

    fn read(connection: &Connection, document: &RawDocumentBuf) -> Result<Self, Error> {
        let malformed = |field| connection.malformed(REPOSITORY, field);
        let min_reader = document.get_i32("min_reader").map_err(|_| malformed("min_reader"))?;
        let needs = document.get_i64("incompatible").map_err(|_| malformed("incompatible"))?;
        if min_reader > FORMAT || needs != 0 {
            let (blockstore, format) = (connection.name(), i64::from(min_reader));
            return Err(Error::NewerFormat { blockstore, format });
        }
        let encrypted = document.get_bool("encrypted").map_err(|_| malformed("encrypted"))?;
        let bytes = |field: &'static str| {
            document.get_binary(field).map(|binary| binary.bytes).map_err(|_| malformed(field))
        };
        Ok(Self {
            uuid: bytes("uuid")?.try_into().map_err(|_| malformed("uuid"))?,
            salt: RepositorySalt(bytes("salt")?.try_into().map_err(|_| malformed("salt"))?),
            keys: if encrypted { Some(bytes("keys")?.to_vec()) } else { None },
        })
    }

    /// Opens what names and seals its blocks.
    pub fn unlock(
        &self,
        connection: &Connection,
        secret: Option<&Arc<Secret>>,
    ) -> Result<Vault, Error> {
        let name = connection.name();
        match (&self.keys, secret) {
            (None, _) => Ok(Vault::plain(self.uuid, self.salt)),
            (Some(keys), Some(secret)) => Ok(Vault::unlock(self.uuid, keys, secret, &name)?),
            (Some(_), None) => Err(Error::Encryption {
                what: format!("{name} is encrypted: give its --key-file or --passphrase-file"),
            }),
        }
    }

    /// Takes in the data keys that a store has had since, before anything is sealed with them.
    pub async fn take_keys(&self, connection: &Connection, store: &Vault) -> Result<Vault, Error> {
        let (vault, copy) = store.for_repository(self.uuid);
        let (old, new) = (self.keys.as_deref().map(generic), copy.as_deref().map(generic));
        let change = doc! { "$set": { "keys": new } };
        if connection.update_one(REPOSITORY, doc! { "_id": 0, "keys": old }, change).await? {
            return Ok(vault);
        }
        // Somebody else changed them: another attempt sees what they are now.
        Err(Error::NotMade)
    }

    /// Makes a repository for stores like that one, or finds the one that somebody makes meanwhile.
    pub async fn make(connection: &Connection, store: &Store) -> Result<Self, Error> {
        connection.prepare().await?;
        let generation = rawdoc! { "_id": 0, "value": 1_i64, "starts": 0_i64 };
        connection.insert_one(GENERATION, &generation).await?;
        let uuid: [u8; 16] = rand::random();
        let (vault, keys) = store.vault().for_repository(uuid);
        let encrypted = vault.is_encrypted();
        let salt = if encrypted { RepositorySalt([0; 32]) } else { vault.salt() };
        let mut document = rawdoc! {
            "_id": 0,
            "format": FORMAT,
            "min_reader": FORMAT,
            "incompatible": 0_i64,
            "compatible": 0_i64,
            "uuid": Binary { subtype: BinarySubtype::Uuid, bytes: uuid.to_vec() },
            "salt": generic(&salt.0),
            "encrypted": encrypted,
        };
        if let Some(keys) = &keys {
            document.append(cstr!("keys"), generic(keys));
        }
        if connection.insert_one(REPOSITORY, &document).await? {
            return Ok(Self { uuid, salt, keys });
        }
        let other = Self::find(connection).await?;
        other.ok_or_else(|| Error::NoRepository { blockstore: connection.name() })
    }
}

fn generic(bytes: &[u8]) -> Binary {
    Binary { subtype: BinarySubtype::Generic, bytes: bytes.to_vec() }
}
