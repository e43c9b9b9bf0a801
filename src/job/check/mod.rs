//! Checking a store: what the store floor checks, and above it every tree, slice and manifest.
//!
//! The store's own check finds damaged files and blocks. What it cannot know is what they mean: here
//! each job's state is walked, every tree verified, every slice read and chained, and each finding is
//! told with the snapshots that need what is damaged.

mod harm;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;

use serde::Serialize;

use super::{Error, State, scan, slices, snapshot};
use crate::block::{self, BlockId, BlockRead, Kind};
use crate::head::{self, HeadRoot};
use crate::oplog::OpTime;
use crate::store::fsck::{self, Coverage, Level, Settings};
use crate::store::{self, Location, Store};
use crate::tree::{self, Content, Order, Root, Shape};

pub use harm::LostRange;

/// What a check found. `--json` prints it: field names never change.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Whether nothing is lost: no finding but warnings.
    pub clean: bool,
    /// What was checked.
    pub checked: Checked,
    /// What was found.
    pub findings: Vec<Finding>,
    /// Findings beyond those listed.
    pub more_findings: u64,
}

/// How much was checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// Records of segments, each a block.
    pub blocks: u64,
    /// Bytes of segments.
    pub bytes: u64,
    /// Snapshots.
    pub snapshots: u64,
    /// Trees, each once however many snapshots share it.
    pub trees: u64,
    /// Oplog slices.
    pub slices: u64,
    /// Segments, and those of which every record was read.
    pub segments: u64,
    /// See `segments`.
    pub whole_segments: u64,
    /// What this check and earlier ones know of the segments.
    #[serde(flatten)]
    pub coverage: Coverage,
}

/// One thing that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable name of the kind of damage.
    pub code: String,
    /// `error`, or `warning` where a copy or a cache is damaged and nothing is lost.
    pub severity: String,
    /// What is wrong.
    pub what: String,
    /// The file and offset, the block, or the part of a job.
    #[serde(rename = "where")]
    pub place: String,
    /// Snapshots that need what is damaged.
    pub snapshots: Vec<String>,
    /// Jobs whose head, scan or slices need it.
    pub jobs: Vec<String>,
    /// Documents that cannot be read for it, by collection; at most a hundred.
    pub ranges: Vec<LostRange>,
}

/// Codes of the findings above the store.
mod code {
    pub const OPEN: &str = "HS-OPEN-001";
    pub const STATE: &str = "HS-JOB-001";
    pub const MANIFEST: &str = "HS-JOB-002";
    pub const RECEIVED: &str = "HS-JOB-003";
    pub const SCAN: &str = "HS-JOB-004";
    pub const TREE: &str = "HS-TREE-001";
    pub const CATALOG: &str = "HS-HEAD-001";
    pub const PENDING: &str = "HS-HEAD-002";
    pub const SLICES: &str = "HS-SLICE-001";
    pub const SLICE: &str = "HS-SLICE-002";
    pub const SLICE_GAP: &str = "HS-SLICE-003";
}

/// Severity of everything found above the store.
const ERROR: &str = "error";

/// Checks a store beside whoever writes it, as deep as `settings` say: trees and slices are walked from
/// [`Level::Graph`] on, documents read at [`Level::Data`], and of a part of a store only its segments are
/// read. `progress` hears now and then how far the check is.
///
/// # Errors
/// [`Error::NoStore`], and what keeps the check itself from running. Damage is no error.
pub fn run(
    location: impl Into<Location>,
    settings: &Settings,
    progress: &mut dyn FnMut(&Checked),
) -> Result<Report, Error> {
    let location = location.into();
    if !Store::exists(&location.dir) {
        return Err(Error::NoStore { dir: location.dir });
    }
    // A bad sector is an error of a read, and a signal of a map.
    let options = store::Options { mmap: false, ..location.options() };
    let store = match Store::open_reader(&location.dir, options) {
        Ok(store) => store,
        Err(error) if error.is_no_damage() => return Err(error.into()),
        Err(error) => return Ok(does_not_open(&location.dir, &error)),
    };
    // Trees are checked first, and what is read of them is not verified again as a record.
    let store = store.noting(settings);
    let mut check = Check {
        store: &store,
        settings,
        progress,
        checked: Checked::default(),
        found: Vec::new(),
        more_findings: 0,
        tainted: BTreeSet::new(),
        verified: HashMap::new(),
        known: tree::Checked::default(),
        owners: Vec::new(),
    };
    for (name, id) in store.roots().1 {
        check.job(&name, &id);
    }
    check.store()?;
    Ok(check.report())
}

/// The report of a store that cannot even be opened.
fn does_not_open(dir: &Path, error: &store::Error) -> Report {
    let finding = Finding {
        code: code::OPEN.to_owned(),
        severity: ERROR.to_owned(),
        what: error.to_string(),
        place: dir.display().to_string(),
        snapshots: Vec::new(),
        jobs: Vec::new(),
        ranges: Vec::new(),
    };
    Report { findings: vec![finding], ..Report::default() }
}

/// Who needs a block: a snapshot, or a job itself.
struct Owner {
    job: String,
    snapshot: Option<String>,
    head: Option<HeadRoot>,
    /// What it reaches blocks from.
    roots: Vec<BlockId>,
}

/// A finding before it is known whom it touches.
struct Found {
    code: &'static str,
    severity: &'static str,
    what: String,
    place: String,
    /// The damaged block, where it is one.
    block: Option<BlockId>,
    /// Who was being checked.
    owner: Option<usize>,
}

struct Check<'a> {
    store: &'a Store,
    settings: &'a Settings,
    progress: &'a mut dyn FnMut(&Checked),
    checked: Checked,
    found: Vec<Found>,
    more_findings: u64,
    /// Blocks that are damaged or lead to one that is.
    tainted: BTreeSet<BlockId>,
    /// Trees verified, and whether they were whole.
    verified: HashMap<(BlockId, bool, bool), bool>,
    /// What was read of them.
    known: tree::Checked,
    owners: Vec<Owner>,
}

impl Check<'_> {
    /// What the store's own check finds. A damaged record and the block that it holds are one finding.
    fn store(&mut self) -> Result<(), Error> {
        let (checked, progress) = (&mut self.checked, &mut *self.progress);
        let report = fsck::run(self.store, self.settings.clone(), &mut |at| {
            if let fsck::Progress::Segments { done, .. } = at {
                checked.bytes = done;
            }
            progress(checked);
        })?;
        (self.checked.blocks, self.checked.bytes) = (report.records, report.bytes);
        self.checked.segments = report.segments;
        self.checked.whole_segments = report.whole_segments;
        self.checked.coverage = report.coverage;
        self.more_findings = report.more_findings;
        self.tainted = report.tainted;
        let place = |finding: &fsck::Finding| finding.segment.zip(finding.offset);
        let blocks: BTreeMap<_, _> = report
            .findings
            .iter()
            .filter_map(|finding| Some((place(finding)?, finding.block?)))
            .collect();
        let found = report.findings.iter().map(|finding| Found {
            code: finding.code.as_str(),
            severity: match finding.severity {
                fsck::Severity::Error => ERROR,
                fsck::Severity::Warning => "warning",
            },
            what: finding.what.clone(),
            place: place_of(finding),
            block: finding.block.or_else(|| blocks.get(&place(finding)?).copied()),
            owner: None,
        });
        // What is wrong with a record comes before what is wrong with a tree for that.
        self.found.splice(..0, found);
        Ok(())
    }

    /// Whether only the state of each job is read, and its snapshots are counted.
    fn is_shallow(&self) -> bool {
        self.settings.level == Level::Quick || self.settings.part.is_some()
    }

    fn job(&mut self, name: &str, id: &BlockId) {
        let job = self.owner(name, None, None);
        let state = match State::read(self.store, id) {
            Ok(state) => state,
            Err(error) => return self.finding(job, code::STATE, format!("job {name}"), error),
        };
        self.owners[job].roots = job_roots(&state);
        self.owners[job].head.clone_from(&state.head);
        self.tree(job, "snapshots", &state.snapshots, Order::Keyed, Content::Links);
        match snapshot::manifests(self.store, &state) {
            Ok(manifests) => {
                for manifest in manifests {
                    let owner = self.owner(name, Some(manifest.id), Some(manifest.head.clone()));
                    self.checked.snapshots += 1;
                    self.head(owner, &manifest.head);
                }
            }
            Err(error) => self.finding(job, code::MANIFEST, format!("job {name}"), error),
        }
        if let Some(head) = &state.head {
            self.head(job, head);
        }
        if let Some(scan) = &state.scan {
            self.scan(job, &scan.progress);
        }
        self.slices(job, name, &state);
    }

    fn owner(&mut self, job: &str, snapshot: Option<String>, head: Option<HeadRoot>) -> usize {
        let roots = head.as_ref().map(head_roots).unwrap_or_default();
        self.owners.push(Owner { job: job.to_owned(), snapshot, head, roots });
        self.owners.len() - 1
    }

    /// The catalog, each collection, and the pending state.
    fn head(&mut self, owner: usize, head: &HeadRoot) {
        if self.is_shallow()
            || !self.tree(owner, "catalog", &head.catalog, Order::Keyed, Content::Links)
        {
            return;
        }
        match head::catalog(self.store, head) {
            Ok(collections) => {
                for collection in collections {
                    let (root, order) = (collection.root, collection.order);
                    self.tree(owner, &collection.ns, &root, order, Content::Documents);
                }
            }
            Err(error) => self.finding(owner, code::CATALOG, "catalog".to_owned(), error),
        }
        if let Some(pending) = &head.pending {
            self.graph(owner, pending);
        }
    }

    fn scan(&mut self, owner: usize, progress: &Root) {
        if self.is_shallow()
            || !self.tree(owner, "scan progress", progress, Order::Keyed, Content::Links)
        {
            return;
        }
        match scan::trees(self.store, progress) {
            Ok(trees) => {
                for (order, root) in trees {
                    self.tree(owner, "scanned piece", &root, order, Content::Documents);
                }
            }
            Err(error) => self.finding(owner, code::SCAN, "scan progress".to_owned(), error),
        }
    }

    /// Every slice, read and chained.
    fn slices(&mut self, owner: usize, name: &str, state: &State) {
        let chain = &state.slices;
        if self.is_shallow()
            || !self.tree(owner, "slices", chain.tree(), Order::Keyed, Content::Links)
        {
            return;
        }
        let mut last: Option<OpTime> = None;
        let store = self.store;
        let walked = chain.for_each(store, &mut |slice| {
            let place = format!("job {name}, slice {}", slice.header.first.optime.ts);
            if let Some(last) = last
                && !slice.header.prev.is_null()
                && let Err(error) = slice.header.follows(last)
            {
                self.finding(owner, code::SLICE_GAP, place.clone(), error);
            }
            last = Some(slice.header.last.optime);
            self.checked.slices += 1;
            if self.settings.level == Level::Data
                && let Err(error) = slices::read(&slice, store)
            {
                self.finding(owner, code::SLICE, place, error);
            }
            (self.progress)(&self.checked);
            Ok(())
        });
        if let Err(error) = walked {
            self.finding(owner, code::SLICES, format!("job {name}"), error);
        }
        if state.received.map(|at| at.optime) != last && last.is_some() {
            let error = Error::Malformed { what: "job state", field: "received" };
            self.finding(owner, code::RECEIVED, format!("job {name}"), error);
        }
    }

    /// Verifies a tree, each once. True if it is whole.
    fn tree(
        &mut self,
        owner: usize,
        what: &str,
        root: &Root,
        order: Order,
        content: Content,
    ) -> bool {
        let Some(top) = root.top else { return true };
        let key = (top, order == Order::Keyed, content == Content::Links);
        if let Some(whole) = self.verified.get(&key) {
            return *whole;
        }
        let shape = Shape::new(self.store.salt(), order, content);
        let (checked, progress) = (&mut self.checked, &mut *self.progress);
        checked.trees += 1;
        let mut visited = |_: &BlockId| progress(checked);
        let outcome = if self.settings.level == Level::Data || content == Content::Links {
            tree::verify_beside(self.store, &shape, root, &self.known, &mut visited)
        } else {
            tree::verify_nodes(self.store, &shape, root, &mut visited)
        };
        self.verified.insert(key, outcome.is_ok());
        match outcome {
            Ok(()) => true,
            Err(error) => {
                let place = format!("job {}, {what}", self.owners[owner].job);
                self.finding(owner, code::TREE, place, error);
                false
            }
        }
    }

    /// Reads a block and all it names.
    fn graph(&mut self, owner: usize, top: &BlockId) {
        let mut seen = HashSet::from([*top]);
        let mut open = vec![*top];
        while let Some(id) = open.pop() {
            let named =
                self.store.get(&id).and_then(|block| block::references(block.kind, &block.bytes));
            match named {
                Ok(named) => open.extend(named.into_iter().filter(|id| seen.insert(*id))),
                Err(error) => self.finding(owner, code::PENDING, format!("block {id}"), error),
            }
        }
    }

    fn finding(
        &mut self,
        owner: usize,
        code: &'static str,
        place: String,
        error: impl Into<Error>,
    ) {
        let error: Error = error.into();
        let (what, block) = (error.to_string(), error.damaged_block());
        self.found.push(Found { code, severity: ERROR, what, place, block, owner: Some(owner) });
    }

    /// Tells for each finding whom it touches, and joins findings of one block.
    fn report(self) -> Report {
        let damaged: HashSet<BlockId> = self.found.iter().filter_map(|found| found.block).collect();
        let touched = touched(self.store, &self.owners, &damaged);
        let suspect = |id: &BlockId| self.tainted.contains(id) || damaged.contains(id);
        let mut ranges = harm::ranges(self.store, &self.owners, &suspect);
        let mut findings: Vec<Finding> = Vec::new();
        let mut told: HashSet<BlockId> = HashSet::new();
        for found in self.found {
            if found.block.is_some_and(|block| !told.insert(block)) {
                continue;
            }
            let mut owners: BTreeSet<usize> = found.owner.into_iter().collect();
            owners.extend(found.block.and_then(|block| touched.get(&block)).into_iter().flatten());
            let owners = || owners.iter().map(|owner| &self.owners[*owner]);
            let jobs: BTreeSet<&String> =
                owners().filter(|owner| owner.snapshot.is_none()).map(|owner| &owner.job).collect();
            findings.push(Finding {
                code: found.code.to_owned(),
                severity: found.severity.to_owned(),
                what: found.what,
                place: found.place,
                snapshots: owners().filter_map(|owner| owner.snapshot.clone()).collect(),
                jobs: jobs.into_iter().cloned().collect(),
                ranges: found.block.and_then(|block| ranges.remove(&block)).unwrap_or_default(),
            });
        }
        let sound = findings.iter().all(|finding| finding.severity != ERROR);
        Report {
            clean: sound && self.more_findings == 0,
            checked: self.checked,
            findings,
            more_findings: self.more_findings,
        }
    }
}

/// The blocks that a job has beside its snapshots.
fn job_roots(state: &State) -> Vec<BlockId> {
    let mut roots: Vec<BlockId> = state.head.as_ref().map(head_roots).unwrap_or_default();
    roots.extend(state.slices.tree().top);
    roots.extend(state.scan.as_ref().and_then(|scan| scan.progress.top));
    roots
}

fn head_roots(head: &HeadRoot) -> Vec<BlockId> {
    head.catalog.top.into_iter().chain(head.pending).collect()
}

/// Where a finding of the store is, in words.
fn place_of(finding: &fsck::Finding) -> String {
    let mut parts = Vec::new();
    parts.extend(finding.segment.map(|segment| format!("segment {segment}")));
    parts.extend(finding.file.as_ref().map(|file| file.display().to_string()));
    parts.extend(finding.offset.map(|offset| format!("offset {offset}")));
    parts.extend(finding.block.map(|block| format!("block {block}")));
    parts.join(", ")
}

/// Which owners reach which damaged blocks. Walks whole graphs, so only where there is damage.
fn touched(
    store: &Store,
    owners: &[Owner],
    damaged: &HashSet<BlockId>,
) -> BTreeMap<BlockId, Vec<usize>> {
    let mut found: BTreeMap<BlockId, Vec<usize>> = BTreeMap::new();
    if damaged.is_empty() {
        return found;
    }
    for (index, owner) in owners.iter().enumerate() {
        let mut seen: HashSet<BlockId> = owner.roots.iter().copied().collect();
        let mut open: Vec<BlockId> = owner.roots.clone();
        while let Some(id) = open.pop() {
            if damaged.contains(&id) {
                found.entry(id).or_default().push(index);
            }
            // A damaged block names nothing any more; what was under it is found by its own check.
            let inner = store.kind_of(&id).ok().flatten().is_some_and(Kind::has_references);
            let named = inner.then(|| store.get(&id)).and_then(Result::ok);
            let named = named.and_then(|block| block::references(block.kind, &block.bytes).ok());
            open.extend(named.into_iter().flatten().filter(|id| seen.insert(*id)));
        }
    }
    found
}
