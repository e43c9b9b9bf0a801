//! Documents that an encrypted repository seals: states, manifests, slices (page 09, section 1).
//!
//! The seal vouches for the repository, the collection and the `_id`, so that none can stand in the place of another.

use bson::raw::cstr;
use bson::spec::BinarySubtype;
use bson::{Binary, RawBson, RawBsonRef, RawDocument, RawDocumentBuf};

use super::Error;
use super::backend::Of;
use super::connection::Connection;
use crate::store::Vault;

impl Connection {
    /// Says what seals, once the repository is known.
    pub fn unlocked(&self, uuid: [u8; 16], vault: Vault) {
        // The first stands: a connection is of one repository.
        let _ = self.vault.set((uuid, vault));
    }

    /// What seals.
    pub fn vault(&self) -> &Vault {
        &self.vault.get().expect("a repository is opened with its vault").1
    }

    /// A private document as it is stored in one with that `_id`.
    pub fn seal(&self, of: Of, id: RawBson, document: RawDocumentBuf) -> RawBson {
        match self.vault().seal(&self.associated(of, id), document.as_bytes()) {
            Some(bytes) => RawBson::Binary(Binary { subtype: BinarySubtype::Generic, bytes }),
            None => RawBson::Document(document),
        }
    }

    /// The private document in a field of another.
    pub fn unseal(
        &self,
        of: Of,
        holder: &RawDocument,
        field: &'static str,
    ) -> Result<RawDocumentBuf, Error> {
        let malformed = || self.malformed(of, field);
        match holder.get(field).ok().flatten().ok_or_else(malformed)? {
            RawBsonRef::Document(document) if !self.vault().is_encrypted() => {
                Ok(document.to_owned())
            }
            RawBsonRef::Binary(sealed) => {
                let id = holder.get("_id").ok().flatten().ok_or_else(malformed)?;
                let associated = self.associated(of, id.into());
                let opened = self.vault().unseal(&associated, sealed.bytes);
                let opened = opened.and_then(|bytes| RawDocumentBuf::from_bytes(bytes).ok());
                opened.ok_or_else(malformed)
            }
            _ => Err(malformed()),
        }
    }

    fn associated(&self, of: Of, id: RawBson) -> Vec<u8> {
        let uuid = self.vault.get().map(|(uuid, _)| *uuid).unwrap_or_default();
        let mut named = RawDocumentBuf::new();
        named.append(cstr!("_id"), id);
        [&uuid[..], of.0.as_bytes(), &[0], named.as_bytes()].concat()
    }
}
