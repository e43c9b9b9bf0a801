//! The plan of a restore: all that will happen, known before anything is touched.

use std::fmt;

use serde::Serialize;

use super::Existing;

/// What a restore will do. Printed by its `Display`, stable as JSON by its field names.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// Name of this restore, as its marker at the target will carry it.
    pub restore_id: String,
    /// The job restored from.
    pub job: String,
    /// The repository read.
    pub repository: String,
    /// The point.
    pub point: PlannedPoint,
    /// The target, without secrets.
    pub target: TargetFacts,
    /// What may happen to what is there.
    pub existing: Existing,
    /// Every namespace that will be made, in the order of its name.
    pub namespaces: Vec<PlannedNamespace>,
    /// Namespaces of the target that will be dropped, those that are replaced included.
    pub drops: Vec<String>,
    /// Users that will be merged into the target's.
    pub users: u64,
    /// Roles that will be merged into the target's.
    pub roles: u64,
    /// Documents in all namespaces.
    pub documents: u64,
    /// Sum of their BSON lengths.
    pub bytes: u64,
    /// What was checked of the blocks.
    pub blocks: CheckedBlocks,
    /// What the user should know before going on.
    pub warnings: Vec<String>,
}

/// The point a plan restores to.
#[derive(Debug, Clone, Serialize)]
pub struct PlannedPoint {
    /// What was asked for.
    pub asked: String,
    /// Seconds of the optime.
    pub t: u32,
    /// Ordinal of the optime within its second.
    pub i: u32,
    /// The optime's second, RFC 3339 in UTC.
    pub time: String,
    /// The snapshot it starts from.
    pub snapshot: String,
    /// How many oplog slices are applied over the snapshot.
    pub slices: u64,
}

/// What a server of no replica set is called.
pub(super) const STAND_ALONE: &str = "stand-alone";
/// What a data directory that is built is called.
pub(super) const DATA_DIRECTORY: &str = "data directory";

/// What is known of a target.
#[derive(Debug, Clone, Serialize)]
pub struct TargetFacts {
    /// The target without secrets.
    pub name: String,
    /// `replica set NAME`, `stand-alone`, `directory`, `archive`, `data directory`.
    pub kind: String,
    /// Server version, where there is a server.
    pub version: Option<String>,
    /// Feature compatibility version, where there is a server.
    pub fcv: Option<String>,
    /// Free bytes, where they can be known.
    pub free_bytes: Option<u64>,
}

/// One namespace of a plan.
#[derive(Debug, Clone, Serialize)]
pub struct PlannedNamespace {
    /// `db.name`.
    pub ns: String,
    /// `collection`, `capped`, `clustered`, `timeseries`, `view`.
    pub kind: String,
    /// Documents; of a time series, buckets.
    pub documents: u64,
    /// Sum of their BSON lengths.
    pub bytes: u64,
    /// Names of its indexes.
    pub indexes: Vec<String>,
    /// Whether the target has it and it will be dropped first.
    pub replaces: bool,
}

/// What was checked of the blocks a restore needs.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct CheckedBlocks {
    /// How many are needed, each present.
    pub blocks: u64,
    /// Raw bytes read and hashed before anything is written: of blocks that name others at least.
    pub hashed_bytes: u64,
    /// What of those with documents.
    pub documents: Proof,
}

/// What is known of the blocks with documents before a restore writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proof {
    /// That each was read and hashes to its name.
    #[default]
    Hashed,
    /// That they are present.
    Trusted,
    /// That they are present; each is hashed before its documents are written, under a name that is not the target's.
    HashedWhenWritten,
}

/// What a restore did.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Its plan.
    pub plan: Plan,
    /// Documents written.
    pub documents: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Indexes built.
    pub indexes: u64,
    /// Wall time in milliseconds.
    pub elapsed_ms: u64,
    /// What was compared at the end, per database.
    pub compared: Vec<Compared>,
    /// What the user should know: what could not be compared and why, TTL active again.
    pub notes: Vec<String>,
}

/// A database compared with the backup after a restore.
#[derive(Debug, Clone, Serialize)]
pub struct Compared {
    /// The database.
    pub database: String,
    /// Collections found equal: at a server by count and by the md5 of `dbHash`, or of the documents
    /// read back where `dbHash` has another order; by length and checksum in files.
    pub collections: u64,
    /// Documents in them.
    pub documents: u64,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (point, target) = (&self.point, &self.target);
        writeln!(f, "restore {} of job {} from {}", self.restore_id, self.job, self.repository)?;
        writeln!(
            f,
            "  point     {},{} ({}): snapshot {} and {} oplog slices",
            point.t, point.i, point.time, point.snapshot, point.slices
        )?;
        write_target(f, target)?;
        let checked = match self.blocks.documents {
            Proof::Hashed => "read and hashed",
            Proof::Trusted => "present",
            Proof::HashedWhenWritten => "present, each hashed before its documents are written",
        };
        writeln!(f, "  blocks    {} {checked}", self.blocks.blocks)?;
        writeln!(
            f,
            "  content   {} namespaces, {} documents, {} bytes, {} users, {} roles",
            self.namespaces.len(),
            self.documents,
            self.bytes,
            self.users,
            self.roles
        )?;
        for namespace in &self.namespaces {
            writeln!(f, "    {namespace}")?;
        }
        for ns in &self.drops {
            writeln!(f, "  drop      {ns}")?;
        }
        for warning in &self.warnings {
            writeln!(f, "  warning   {warning}")?;
        }
        Ok(())
    }
}

/// The line of a plan that tells the target.
pub(super) fn write_target(f: &mut fmt::Formatter<'_>, target: &TargetFacts) -> fmt::Result {
    write!(f, "  target    {}, {}", target.name, target.kind)?;
    for (what, value) in [("server", &target.version), ("fcv", &target.fcv)] {
        if let Some(value) = value {
            write!(f, ", {what} {value}")?;
        }
    }
    if let Some(free) = target.free_bytes {
        write!(f, ", {free} bytes free")?;
    }
    writeln!(f)
}

impl fmt::Display for PlannedNamespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ns, kind, documents, bytes, indexes, replaces } = self;
        write!(f, "{ns} ({kind}): {documents} documents, {bytes} bytes")?;
        if !indexes.is_empty() {
            write!(f, ", indexes {}", indexes.join(" "))?;
        }
        if *replaces { f.write_str(", replaces what is there") } else { Ok(()) }
    }
}
