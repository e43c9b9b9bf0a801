//! Manifests: named, retained heads.

use bson::raw::cstr;
use bson::{DateTime, RawDocument, RawDocumentBuf};

use super::fields::{self, Fields};
use super::{Error, HeadRoot, Scope};
use crate::block::{self, BlockId, BlockRead, BlockWrite, Kind};
use crate::oplog::Ts;

/// A named, retained head. Stored as one `Links` block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Name, unique in the job: see [`Manifest::new_id`].
    pub id: String,
    /// The state.
    pub head: HeadRoot,
    /// Milliseconds since the Unix epoch when it was taken.
    pub taken_ms: i64,
    /// Replica set name.
    pub set_name: String,
    /// `replSetConfig.settings.replicaSetId`, 12 bytes.
    pub replica_set_id: [u8; 12],
    /// Feature compatibility version.
    pub fcv: String,
    /// Version of the server read from.
    pub server_version: String,
    /// Version of the apply rules, [`super::RULE_VERSION`] when it was taken.
    pub rule_version: u32,
    /// Stored bytes that this snapshot added.
    pub added_bytes: u64,
    /// Never expired by a policy.
    pub keep: bool,
    /// Which namespaces it holds.
    pub scope: Scope,
}

impl Manifest {
    /// A new name: `<secs>.<inc>-<4 hex digits>`, both numbers padded to ten digits so that names
    /// sort by time, the digits random so that two snapshots at one optime differ.
    #[must_use]
    pub fn new_id(at: Ts) -> String {
        format!("{:010}.{:010}-{:04x}", at.secs, at.inc, rand::random::<u16>())
    }

    /// As a document for a `Links` block. `_id` is the name, so that manifests can stand in a tree.
    #[must_use]
    pub fn to_bson(&self) -> RawDocumentBuf {
        let mut out = RawDocumentBuf::new();
        out.append(cstr!("_id"), self.id.as_str());
        out.append(cstr!("head"), self.head.to_bson());
        out.append(cstr!("taken"), DateTime::from_millis(self.taken_ms));
        out.append(cstr!("set_name"), self.set_name.as_str());
        out.append(cstr!("replica_set_id"), fields::bytes(&self.replica_set_id));
        out.append(cstr!("fcv"), self.fcv.as_str());
        out.append(cstr!("server_version"), self.server_version.as_str());
        out.append(cstr!("rule_version"), i64::from(self.rule_version));
        out.append(cstr!("added_bytes"), fields::count(self.added_bytes));
        out.append(cstr!("keep"), self.keep);
        out.append(cstr!("scope"), self.scope.to_bson());
        out
    }

    /// Reads [`Manifest::to_bson`] back.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn from_bson(document: &RawDocument) -> Result<Self, Error> {
        let read = Fields { what: "manifest", document };
        let rule_version = u32::try_from(read.count("rule_version")?);
        Ok(Self {
            id: read.text("_id")?,
            head: HeadRoot::from_bson(read.document("head")?.document)?,
            taken_ms: read.millis("taken")?,
            set_name: read.text("set_name")?,
            replica_set_id: read.binary("replica_set_id")?,
            fcv: read.text("fcv")?,
            server_version: read.text("server_version")?,
            rule_version: rule_version.map_err(|_| read.malformed("rule_version"))?,
            added_bytes: read.count("added_bytes")?,
            keep: read.flag("keep")?,
            scope: Scope::from_bson(read.document("scope")?)?,
        })
    }

    /// Stores the manifest as a block.
    ///
    /// # Errors
    /// [`Error::Block`].
    pub fn write(&self, blocks: &dyn BlockWrite) -> Result<BlockId, Error> {
        Ok(blocks.put(Kind::Links, self.to_bson().as_bytes())?)
    }

    /// Reads back what [`Manifest::write`] stored.
    ///
    /// # Errors
    /// [`Error::Block`], [`Error::Malformed`].
    pub fn read(blocks: &dyn BlockRead, id: &BlockId) -> Result<Self, Error> {
        let block = blocks.get(id)?;
        let malformed = Error::Malformed { what: "manifest", field: "document" };
        if block.kind != Kind::Links {
            return Err(Error::Block(block::Error::Malformed {
                what: "a manifest is of another kind",
            }));
        }
        Self::from_bson(RawDocument::from_bytes(&block.bytes).map_err(|_| malformed)?)
    }
}
