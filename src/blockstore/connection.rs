//! A blockstore that is open: where its documents and blocks are kept, and what seals those that are private.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use bson::{Document, RawDocumentBuf};

use super::Error;
use super::backend::{Backend, Of, Query};
use super::objects::{Objects, is_of_objects};
use super::replica_set::ReplicaSet;
use crate::store::Vault;

/// See the head of this file; what a backend does can be asked of it. Cheap to clone; every clone is the same.
#[derive(Clone)]
pub struct Connection {
    backend: Arc<dyn Backend>,
    /// What seals the documents that are private, once the repository is known.
    pub(super) vault: Arc<OnceLock<([u8; 16], Vault)>>,
}

impl Connection {
    /// Reaches a blockstore.
    pub async fn open(uri: &str) -> Result<Self, Error> {
        let backend: Arc<dyn Backend> = if is_of_objects(uri) {
            Arc::new(Objects::open(uri).await?)
        } else {
            Arc::new(ReplicaSet::open(uri).await?)
        };
        Ok(Self { backend, vault: Arc::default() })
    }

    /// The form of a document of a collection is wrong.
    pub fn malformed(&self, of: Of, field: &'static str) -> Error {
        Error::Malformed { blockstore: self.name(), collection: of.0, field }
    }

    /// One document, or none.
    pub async fn find_one(
        &self,
        of: Of,
        filter: Document,
    ) -> Result<Option<RawDocumentBuf>, Error> {
        let query = Query { filter, limit: 1, ..Query::default() };
        Ok(self.backend.find(of, query).await?.pop())
    }
}

impl Deref for Connection {
    type Target = dyn Backend;

    fn deref(&self) -> &Self::Target {
        &*self.backend
    }
}
