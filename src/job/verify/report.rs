//! What a comparison found. `--json` prints it: field names never change.

use std::fmt;

use serde::Serialize;

use crate::job::PointInfo;

/// Findings that are listed; all are counted.
const FINDINGS_LISTED_MAX: usize = 200;

/// What a comparison of a backup with its source found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Whether everything was compared and nothing differs.
    pub equal: bool,
    /// Name of the job.
    pub job: String,
    /// Replica set name.
    pub set_name: String,
    /// What was compared, for each optime at which something was.
    pub compared: Vec<Compared>,
    /// How much differs.
    pub counts: Counts,
    /// What differs, the first of each collection in key order.
    pub findings: Vec<Finding>,
    /// Findings beyond those listed.
    pub more_findings: u64,
    /// Collections that could not be compared: they kept changing otherwise than document by document.
    pub unchecked: Vec<String>,
}

/// What was compared at one optime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// The optime.
    pub at: PointInfo,
    /// How the source was read.
    pub method: Method,
    /// Entries up to the optime that the backup did not hold yet and that were taken from the source's
    /// oplog.
    pub entries_ahead: u64,
    /// Collections.
    pub collections: u64,
    /// Documents in them at the source.
    pub documents: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// How the source was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Every document as of the optime.
    Snapshot,
    /// At no particular moment, and brought to the optime by the source's oplog.
    Oplog,
}

/// How much differs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Documents that the source has and the backup lacks, those of missing collections included.
    pub missing_documents: u64,
    /// Documents that only the backup has, those of extra collections included.
    pub extra_documents: u64,
    /// Documents that differ in their content.
    pub different_documents: u64,
    /// Collections that the source has and the backup lacks.
    pub missing_collections: u64,
    /// Collections that only the backup has.
    pub extra_collections: u64,
    /// Names, options and indexes that differ.
    pub catalog: u64,
    /// Capped collections whose documents are the same in another order.
    pub reordered: u64,
}

/// The kind of a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The backup lacks a collection.
    MissingCollection,
    /// The source has no such collection.
    ExtraCollection,
    /// The collection has another name.
    Name,
    /// The collection has other options.
    Options,
    /// The backup lacks an index.
    MissingIndex,
    /// The source has no such index.
    ExtraIndex,
    /// An index has another spec.
    DifferentIndex,
    /// The backup lacks a document.
    MissingDocument,
    /// The source has no such document.
    ExtraDocument,
    /// A document has another content.
    DifferentDocument,
    /// The same documents stand in another order.
    Order,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind.
    pub kind: Kind,
    /// The collection, by its name in the backup, or at the source if the backup lacks it.
    pub ns: String,
    /// `_id` of the document as Extended JSON, where it is one.
    pub id: Option<String>,
    /// How it differs, in words; empty where the kind says all.
    pub detail: String,
}

impl Counts {
    /// Everything that differs.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.missing_documents
            + self.extra_documents
            + self.different_documents
            + self.missing_collections
            + self.extra_collections
            + self.catalog
            + self.reordered
    }
}

impl Report {
    /// Lists a difference, which the caller counts.
    pub(super) fn list(&mut self, finding: impl FnOnce() -> Finding) {
        if self.findings.len() < FINDINGS_LISTED_MAX {
            self.findings.push(finding());
        } else {
            self.more_findings += 1;
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Snapshot => "snapshot read",
            Self::Oplog => "scan and oplog",
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, ns, id, detail } = self;
        let id = id.as_deref().unwrap_or_default();
        match kind {
            Kind::MissingCollection => write!(f, "{ns}: missing in the backup ({detail})"),
            Kind::ExtraCollection => write!(f, "{ns}: not at the source ({detail})"),
            Kind::Name => write!(f, "{ns}: named {detail} at the source"),
            Kind::Options => write!(f, "{ns}: options differ: {detail}"),
            Kind::MissingIndex => write!(f, "{ns}: index {detail} is missing in the backup"),
            Kind::ExtraIndex => write!(f, "{ns}: index {detail} is not at the source"),
            Kind::DifferentIndex => write!(f, "{ns}: index {detail} has another spec"),
            Kind::MissingDocument => write!(f, "{ns}: document {id} is missing in the backup"),
            Kind::ExtraDocument => write!(f, "{ns}: document {id} is not at the source"),
            Kind::DifferentDocument => write!(f, "{ns}: document {id} differs: {detail}"),
            Kind::Order => write!(f, "{ns}: the same documents in another order ({detail})"),
        }
    }
}
