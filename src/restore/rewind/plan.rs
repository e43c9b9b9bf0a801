//! The plan of a rewind: all that will happen, known before anything is touched.

use std::fmt;

use serde::Serialize;

use super::find::Change;
use crate::restore::plan::write_target;
use crate::restore::{CheckedBlocks, PlannedPoint, TargetFacts};

/// What a rewind will do. Printed by its `Display`, stable as JSON by its field names.
#[derive(Debug, Clone, Serialize)]
pub struct RewindPlan {
    /// The job.
    pub job: String,
    /// The repository read.
    pub repository: String,
    /// The point to go back to.
    pub point: PlannedPoint,
    /// The moment of the target that the point was compared with.
    pub now: PlannedNow,
    /// The target, without secrets.
    pub target: TargetFacts,
    /// Every namespace that will be touched, in the order of its name.
    pub namespaces: Vec<PlannedChange>,
    /// Documents that will be written anew.
    pub added: u64,
    /// Documents that will be replaced.
    pub changed: u64,
    /// Documents that will go.
    pub removed: u64,
    /// Bytes of the documents that will be written.
    pub bytes: u64,
    /// Users that will be written or dropped.
    pub users: usize,
    /// Roles that will be written or dropped.
    pub roles: usize,
    /// What was checked of the blocks of namespaces that are written whole. Those of others were read
    /// to make the plan.
    pub blocks: CheckedBlocks,
    /// What the user should know before going on.
    pub warnings: Vec<String>,
}

/// A moment of a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedNow {
    /// Seconds of its optime.
    pub t: u32,
    /// Ordinal of the optime within its second.
    pub i: u32,
    /// The optime's second, RFC 3339 in UTC.
    pub time: String,
}

/// What happens to a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It is not at the point and goes.
    Drop,
    /// It is only at the point and is written whole.
    Create,
    /// It is dropped and written whole.
    Recreate,
    /// It stays, and what differs is written.
    Change,
}

/// One namespace of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedChange {
    /// `db.name` at the point; of one that goes its name now.
    pub ns: String,
    /// `collection`, `capped`, `clustered`, `timeseries`, `view`, `users`, `roles`.
    pub kind: String,
    /// What happens to it.
    pub action: Action,
    /// Its name now, if that is another.
    pub renamed_from: Option<String>,
    /// Why it is recreated.
    pub reason: Option<String>,
    /// Documents that are written anew; of a time series, buckets.
    pub added: u64,
    /// Documents that are replaced.
    pub changed: u64,
    /// Documents that go.
    pub removed: u64,
    /// Bytes of the documents that are written.
    pub bytes: u64,
    /// Names of options that are set.
    pub sets_options: Vec<String>,
    /// Names of indexes that are dropped.
    pub drops_indexes: Vec<String>,
    /// Names of indexes that are built.
    pub builds_indexes: Vec<String>,
}

impl From<&Change> for PlannedChange {
    fn from(change: &Change) -> Self {
        let (newest, now) = (change.newest(), change.now.as_ref());
        Self {
            ns: newest.ns.clone(),
            kind: newest.shape.name().to_owned(),
            action: change.action,
            renamed_from: now.map(|now| now.ns.clone()).filter(|ns| *ns != newest.ns),
            reason: change.reason.map(str::to_owned),
            added: change.counts.added,
            changed: change.counts.changed,
            removed: change.counts.removed,
            bytes: change.counts.bytes,
            sets_options: change.settings.names(),
            drops_indexes: change.drops_indexes.clone(),
            builds_indexes: change.builds_indexes.clone(),
        }
    }
}

/// What a rewind wrote.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Written {
    /// Documents deleted; those of dropped collections do not count.
    pub deleted: u64,
    /// Documents replaced.
    pub replaced: u64,
    /// Documents inserted.
    pub inserted: u64,
    /// Bytes of the documents replaced and inserted.
    pub bytes: u64,
    /// Indexes built.
    pub indexes: u64,
}

impl fmt::Display for RewindPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (point, now) = (&self.point, &self.now);
        writeln!(f, "rewind of job {} from {}", self.job, self.repository)?;
        writeln!(
            f,
            "  point     {},{} ({}): snapshot {} and {} oplog slices",
            point.t, point.i, point.time, point.snapshot, point.slices
        )?;
        writeln!(f, "  now       {},{} ({})", now.t, now.i, now.time)?;
        write_target(f, &self.target)?;
        writeln!(
            f,
            "  writes    {} namespaces: +{} ~{} -{} documents, {} bytes, {} users, {} roles",
            self.namespaces.len(),
            self.added,
            self.changed,
            self.removed,
            self.bytes,
            self.users,
            self.roles
        )?;
        for namespace in &self.namespaces {
            writeln!(f, "    {namespace}")?;
        }
        for warning in &self.warnings {
            writeln!(f, "  warning   {warning}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Drop => "drop",
            Self::Create => "create",
            Self::Recreate => "recreate",
            Self::Change => "change",
        })
    }
}

impl fmt::Display for PlannedChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ns, kind, action, added, changed, removed, bytes, .. } = self;
        write!(f, "{ns} ({kind}): {action}")?;
        if let Some(reason) = &self.reason {
            write!(f, ", since its {reason} differ")?;
        }
        if let Some(from) = &self.renamed_from {
            write!(f, ", renamed from {from}")?;
        }
        if added + changed + removed > 0 {
            write!(f, ", +{added} ~{changed} -{removed} documents, {bytes} bytes")?;
        }
        for (verb, names) in [
            ("sets options", &self.sets_options),
            ("drops indexes", &self.drops_indexes),
            ("builds indexes", &self.builds_indexes),
        ] {
            if !names.is_empty() {
                write!(f, ", {verb} {}", names.join(" "))?;
            }
        }
        Ok(())
    }
}
