//! Checking a blockstore, and mending it from a store.
//!
//! What is retained must be there and be what its name says. Each job is read under pins, as a restore does it: a thread walks
//! through what its snapshots reach, of each what the one before it has not, and tasks look at the blocks that it comes to. A block that
//! names others and cannot be read hides what is below: that snapshot is not looked through further, and told.

mod look;
mod mend;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;

use super::remote::RemoteJob;
use super::{Error, State};
use crate::block::BlockId;
use crate::blockstore::{Blockstore, Pace, Place};
use crate::oplog::OpTime;
use crate::store::Store;

/// Findings kept; more are counted.
const FINDINGS_MAX: usize = 10_000;
/// How often what was mended is checked again, since it may have hidden more.
const ROUNDS_MAX: u32 = 16;

/// How deep a check looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// The documents of jobs, snapshots and slices.
    Quick,
    /// Also that all is there that they reach.
    Graph,
    /// Also that every block is what its name says.
    Data,
}

/// How to look.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How deep.
    pub depth: Depth,
    /// Stored bytes of blocks read per second; of the data alone, and not by what finds the way to it.
    pub pace: Pace,
}

/// What was found. The codes are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Code {
    /// A document of a job is not of its form.
    #[serde(rename = "HS-BS-001")]
    Document,
    /// A block that something names is missing.
    #[serde(rename = "HS-BS-002")]
    Missing,
    /// A block that something names is not what its name says, or cannot be decompressed.
    #[serde(rename = "HS-BS-003")]
    Damaged,
    /// A dictionary that a block is stored with is missing.
    #[serde(rename = "HS-BS-004")]
    Dictionary,
    /// Slices do not follow on each other. No fault where a scan began anew: `headstock points` tells what can be restored.
    #[serde(rename = "HS-BS-005")]
    Gap,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// What kind of damage.
    pub code: Code,
    /// The same for people.
    pub what: String,
    /// The job that it hurts.
    pub job: String,
    /// The first snapshot that needs it, or the slice.
    pub of: String,
    /// The block.
    pub block: Option<BlockId>,
}

/// What a check came to. `--json` prints it: field names never change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether all that is retained can be read.
    pub clean: bool,
    /// Jobs looked through.
    pub jobs: u64,
    /// Snapshots looked through.
    pub snapshots: u64,
    /// Slices looked through.
    pub slices: u64,
    /// Blocks looked at.
    pub blocks: u64,
    /// Their stored bytes, where they were read.
    pub bytes: u64,
    /// Blocks that were stored anew.
    pub mended: u64,
    /// What was found and not mended.
    pub findings: Vec<Finding>,
    /// Findings beyond those.
    pub more_findings: u64,
    /// Blocks that were told.
    #[serde(skip)]
    seen: BTreeSet<(Code, BlockId)>,
}

impl Report {
    fn add(&mut self, finding: Finding) {
        // A dictionary is met with each of its users.
        let known = finding.block.is_some_and(|block| self.seen.contains(&(finding.code, block)));
        if known {
            return;
        }
        if self.findings.len() < FINDINGS_MAX {
            self.seen.extend(finding.block.map(|block| (finding.code, block)));
            self.findings.push(finding);
        } else {
            self.more_findings += 1;
        }
    }

    fn finish(mut self) -> Self {
        self.findings.sort_unstable();
        self.findings.dedup();
        let harmless = |finding: &Finding| finding.code == Code::Gap;
        self.clean = self.more_findings == 0 && self.findings.iter().all(harmless);
        self
    }
}

/// Checks the jobs of a blockstore, or one of them. What it can it brings back from `from`.
///
/// # Errors
/// [`Error::Blockstore`]; damage is no error.
pub async fn run(
    place: &Place,
    job: Option<&str>,
    settings: &Settings,
    from: &[Store],
    on_progress: Arc<dyn Fn(&Report) + Send + Sync>,
) -> Result<Report, Error> {
    let blockstore = Blockstore::open(place).await?;
    let (mut mended, mut before) = (0, Vec::new());
    for _ in 0..ROUNDS_MAX {
        let mut report =
            Report { mended, ..check(&blockstore, job, settings, &on_progress).await? };
        // What is found again was not mended by what these stores have.
        if report.clean || from.is_empty() || report.findings == before {
            return Ok(report);
        }
        before.clone_from(&report.findings);
        let now = mend::mend(&blockstore, &report, from).await?;
        mended += now;
        report.mended = mended;
        if now == 0 {
            return Ok(report);
        }
    }
    Ok(Report { mended, ..check(&blockstore, job, settings, &on_progress).await? })
}

async fn check(
    blockstore: &Blockstore,
    job: Option<&str>,
    settings: &Settings,
    on_progress: &Arc<dyn Fn(&Report) + Send + Sync>,
) -> Result<Report, Error> {
    let names = match job {
        Some(name) => vec![blockstore.job(Some(name)).await?.name],
        None => blockstore.job_names().await?,
    };
    let mut report = Report::default();
    for name in names {
        report.jobs += 1;
        match RemoteJob::of(blockstore.clone(), Some(&name)).await {
            Ok(job) => {
                check_chain(&job.state, &job, &mut report);
                report.snapshots += job.snapshots.len() as u64;
                report.slices += job.slices.len() as u64;
                if settings.depth > Depth::Quick {
                    look::look(job, settings, &mut report, on_progress).await?;
                }
            }
            // It has nothing yet.
            Err(Error::NotConsistent { .. }) => {}
            Err(error) if is_of_form(&error) => report.add(Finding {
                code: Code::Document,
                what: error.to_string(),
                job: name.clone(),
                of: "its documents".to_owned(),
                block: None,
            }),
            Err(error) => return Err(error),
        }
        on_progress(&report);
    }
    Ok(report.finish())
}

/// Whether slices follow on each other.
fn check_chain(state: &State, job: &RemoteJob, report: &mut Report) {
    let mut end: Option<OpTime> = None;
    for slice in &job.slices {
        if let Some(end) = end.filter(|end| slice.header.prev != *end) {
            report.add(Finding {
                code: Code::Gap,
                what: format!("the slices after {end} do not follow on it"),
                job: state.name.clone(),
                of: format!("slice {}", slice.header.first.optime.ts),
                block: None,
            });
        }
        end = Some(slice.header.last.optime);
    }
}

/// Whether a document there is the trouble.
fn is_of_form(error: &Error) -> bool {
    use crate::blockstore::Error as Remote;
    matches!(
        error,
        Error::Malformed { .. }
            | Error::Head(_)
            | Error::Oplog(_)
            | Error::Blockstore(Remote::Malformed { .. } | Remote::Head(_) | Remote::Oplog(_))
    )
}
