//! What a verification says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Serialize;

use super::Coverage;
use crate::block::BlockId;
use crate::store::{CommitSeq, SegmentId};

/// Findings kept; more are counted. A disk that is that broken needs no longer list.
const MAX_FINDINGS: usize = 10_000;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something that a commit names, or could name, is not as it was written.
    Error,
    /// A copy or a cache is not as it was written; nothing is lost.
    Warning,
}

/// What was found. The codes are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Code {
    /// The store cannot be opened.
    Open,
    /// A copy of the store's name and salt is damaged.
    Identity,
    /// A copy of the store's keys is damaged.
    Keys,
    /// A slot of `HEAD` is damaged.
    HeadSlot,
    /// The log has something behind its last commit.
    LogTail,
    /// A segment is missing.
    SegmentGone,
    /// A segment's header is damaged.
    SegmentHeader,
    /// A segment's footer is damaged or missing.
    SegmentFooter,
    /// A segment's footer and records differ.
    SegmentList,
    /// A segment's length is not what the commit says.
    SegmentLength,
    /// A segment has records that were compressed with a dictionary which does not stand before them. They may be read with a
    /// copy of it in another segment, as long as there is one.
    SegmentDictionary,
    /// A record's header is damaged.
    RecordHeader,
    /// A record's stored bytes are damaged.
    RecordPayload,
    /// A record's content is not what its name says.
    RecordContent,
    /// An index run is unusable.
    RunHeader,
    /// An index run's entries are damaged.
    RunEntries,
    /// An index run and a footer differ.
    RunList,
    /// A block that something names is missing.
    BlockMissing,
    /// A block that something names cannot be read.
    BlockUnreadable,
    /// A block that names others is malformed.
    BlockMalformed,
    /// A block stands where none of its kind may.
    BlockKind,
    /// A part of a file cannot be read.
    Unreadable,
}

impl Code {
    /// The code as it is printed.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "HS-OPEN-001",
            Self::Identity => "HS-STORE-001",
            Self::Keys => "HS-KEY-001",
            Self::HeadSlot => "HS-LOG-001",
            Self::LogTail => "HS-LOG-002",
            Self::SegmentGone => "HS-SEG-001",
            Self::SegmentHeader => "HS-SEG-002",
            Self::SegmentFooter => "HS-SEG-003",
            Self::SegmentList => "HS-SEG-004",
            Self::SegmentLength => "HS-SEG-005",
            Self::SegmentDictionary => "HS-SEG-006",
            Self::RecordHeader => "HS-REC-001",
            Self::RecordPayload => "HS-REC-002",
            Self::RecordContent => "HS-REC-003",
            Self::RunHeader => "HS-IDX-001",
            Self::RunEntries => "HS-IDX-002",
            Self::RunList => "HS-IDX-003",
            Self::BlockMissing => "HS-BLK-001",
            Self::BlockUnreadable => "HS-BLK-002",
            Self::BlockMalformed => "HS-BLK-003",
            Self::BlockKind => "HS-BLK-004",
            Self::Unreadable => "HS-IO-001",
        }
    }

    /// Whether it is about the file of a segment, and not only about a block whose record is there.
    const fn is_of_segment(self) -> bool {
        matches!(
            self,
            Self::SegmentGone
                | Self::SegmentHeader
                | Self::SegmentFooter
                | Self::SegmentList
                | Self::SegmentLength
                | Self::SegmentDictionary
                | Self::RecordHeader
                | Self::RecordPayload
                | Self::RecordContent
                | Self::Unreadable
        )
    }

    /// How bad it is.
    #[must_use]
    pub const fn severity(self) -> Severity {
        match self {
            Self::Identity
            | Self::Keys
            | Self::HeadSlot
            | Self::LogTail
            | Self::RunHeader
            | Self::RunEntries
            | Self::RunList => Severity::Warning,
            _ => Severity::Error,
        }
    }
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// What kind of thing.
    pub code: Code,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, for people.
    pub what: String,
    /// The segment it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segment: Option<SegmentId>,
    /// Where in the segment or file, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// The block it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block: Option<BlockId>,
    /// The file, if it is no segment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
}

impl Finding {
    pub(super) fn new(code: Code, what: impl Into<String>) -> Self {
        let (severity, what) = (code.severity(), what.into());
        Self { code, severity, what, segment: None, offset: None, block: None, file: None }
    }

    pub(super) fn at(mut self, segment: SegmentId, offset: u64) -> Self {
        (self.segment, self.offset) = (Some(segment), Some(offset));
        self
    }

    pub(super) fn of_block(mut self, id: BlockId) -> Self {
        self.block = Some(id);
        self
    }

    pub(super) fn in_file(mut self, file: PathBuf) -> Self {
        self.file = Some(file);
        self
    }
}

/// What a verification came to.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// The commit that was verified; absent if the store could not be opened.
    pub commit: Option<CommitSeq>,
    /// What is wrong, at most ten thousand.
    pub findings: Vec<Finding>,
    /// Findings beyond those.
    pub more_findings: u64,
    /// Segments looked at.
    pub segments: u64,
    /// Sealed segments of which every record was read.
    pub whole_segments: u64,
    /// What this check and earlier ones know of the segments.
    #[serde(flatten)]
    pub coverage: Coverage,
    /// Bytes of segments read.
    pub bytes: u64,
    /// Records looked at.
    pub records: u64,
    /// Blocks that the commit reaches.
    pub reachable: u64,
    /// Blocks that are faulty or name, directly or not, a faulty one: whatever names one of these is
    /// affected.
    #[serde(skip)]
    pub tainted: BTreeSet<BlockId>,
    /// What is wrong with segments, those included of which no finding is listed.
    #[serde(skip)]
    pub(in crate::store) damaged_segments: BTreeMap<SegmentId, BTreeSet<Code>>,
}

impl Report {
    /// Whether nothing is lost: no finding, or warnings alone.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.more_findings == 0
            && self.findings.iter().all(|finding| finding.severity == Severity::Warning)
    }

    /// Findings, those that are only counted included.
    #[must_use]
    pub fn total_findings(&self) -> u64 {
        self.findings.len() as u64 + self.more_findings
    }

    /// Whether a block, or anything below it, is faulty.
    #[must_use]
    pub fn is_affected(&self, id: &BlockId) -> bool {
        self.tainted.contains(id)
    }

    pub(super) fn add(&mut self, finding: Finding) {
        if let Some(segment) = finding.segment.filter(|_| finding.code.is_of_segment()) {
            self.damaged_segments.entry(segment).or_default().insert(finding.code);
        }
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        } else {
            self.more_findings += 1;
        }
    }
}
