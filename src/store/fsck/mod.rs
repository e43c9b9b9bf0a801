//! Verification of a whole store. Reads only, through `read_at` and never a map for segments, so that
//! a bad sector is a finding. Runs on a reader beside a writer, or on a writer (which first seals what it is
//! writing).
//!
//! Four passes: the small files; every segment (header, length, footer, and with [`Level::Data`] every
//! record and every block against its name); from [`Level::Graph`] on the index against the footers, and
//! everything that the commit reaches. Memory: two bits per block, and what is damaged.

mod memory;
mod records;
mod report;
mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::store::fs::{Access, FsError};
use crate::store::identity::{self, Found};
use crate::store::keys;
use crate::store::layout::{Entry, SegmentId, Trailer};
use crate::store::log::LogFiles;
use crate::store::run::{Cursor, Run};
use crate::store::segment::{Segment, check_header};
use crate::store::sync::Mutex;
use crate::store::table::Table;
use crate::store::verified::Verified;
use crate::store::walk::{Fault, Walk, Why};
use crate::store::{Error, Options, Role, Shared, Store, index};

pub use memory::Coverage;
use memory::Memory;
pub use report::{Code, Finding, Report, Severity};
pub(super) use settings::Throttle;
pub use settings::{Level, Part, Settings};

/// What a verification is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// Reading segments: bytes done and in all.
    Segments {
        /// Bytes read.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// Comparing the index with the footers.
    Index,
    /// Walking the graph: blocks seen.
    Graph {
        /// Blocks seen.
        blocks: u64,
    },
}

/// Verifies the store in a directory, as a reader beside any writer. A store that does not open is a
/// report with that finding.
///
/// # Errors
/// Those of the disk, where they are no finding.
pub fn run_on(
    dir: &std::path::Path,
    options: Options,
    settings: impl Into<Settings>,
    on_progress: &mut dyn FnMut(Progress),
) -> Result<Report, Error> {
    match Store::open_reader(dir, options) {
        Ok(store) => run(&store, settings, on_progress),
        Err(error) if error.is_no_damage() => Err(error),
        Err(error) => {
            let mut report = Report::default();
            report.add(Finding::new(Code::Open, error.to_string()).in_file(dir.to_owned()));
            Ok(report)
        }
    }
}

/// What checks know of a store's segments. Of a writer those that are sealed by now, of a reader those of its
/// commit.
#[must_use]
pub fn coverage(store: &Store) -> Coverage {
    let shared = &*store.shared;
    let memory = Memory::load(&*shared.disk, &shared.dir);
    match &shared.role {
        Role::Writer(writer) => {
            memory.coverage(&writer.sealed(), writer.newest().active.map(|(id, _)| id))
        }
        Role::Reader(reader) => {
            let commit = &reader.commit;
            memory.coverage(&commit.segments, commit.active.map(|(id, _)| id))
        }
    }
}

/// Verifies an open store.
///
/// # Errors
/// Those of the disk, where they are no finding.
pub fn run(
    store: &Store,
    settings: impl Into<Settings>,
    on_progress: &mut dyn FnMut(Progress),
) -> Result<Report, Error> {
    let settings = settings.into();
    let shared = &*store.shared;
    let commit = shared.settled_commit()?;
    let throttle = Throttle::new(&settings);
    let report = Report { commit: Some(commit.seq), ..Report::default() };
    let damaged = BTreeSet::new();
    let verified = store.verified.as_deref();
    let mut check =
        Check { shared, verified, report, damaged, done: 0, total: 0, throttle, on_progress };
    check.small_files()?;
    let sealed = match &shared.role {
        Role::Writer(writer) => writer.sealed(),
        Role::Reader(_) => commit.segments.clone(),
    };
    let active = match &shared.role {
        Role::Reader(_) => commit.active,
        Role::Writer(_) => None,
    };
    check.segments(&settings, &sealed, active)?;
    // Damage is told with all that it touches, wherever it was looked for.
    let walks =
        settings.level > Level::Quick && (settings.part.is_none() || !check.damaged.is_empty());
    if !walks || check.throttle.is_stopped() {
        return Ok(check.report);
    }
    (check.on_progress)(Progress::Index);
    check.index()?;
    let Check { report, damaged, on_progress, .. } = check;
    graph(shared, &commit.roots, &damaged, report, on_progress)
}

struct Check<'a> {
    shared: &'a Shared,
    /// What was read before.
    verified: Option<&'a Verified>,
    report: Report,
    damaged: BTreeSet<(SegmentId, u64)>,
    done: u64,
    total: u64,
    throttle: Throttle,
    on_progress: &'a mut dyn FnMut(Progress),
}

impl Check<'_> {
    fn small_files(&mut self) -> Result<(), Error> {
        let shared = self.shared;
        let path = identity::path(&shared.dir);
        let file = shared.disk.open(&path, Access::Read)?;
        for copy in Found::copies(&*file)? {
            if let Err(fault) = copy {
                let what = format!("a copy of the store's name and salt: {fault:?}");
                self.report.add(Finding::new(Code::Identity, what).in_file(path.clone()));
            }
        }
        if self.shared.identity.keys.is_some() {
            for (at, what) in keys::damage(&*shared.disk, &shared.dir, &shared.identity.uuid)? {
                let what = format!("a copy of the store's keys: {what}");
                let mut finding = Finding::new(Code::Keys, what);
                finding.offset = Some(at);
                self.report.add(finding.in_file(keys::path(&shared.dir)));
            }
        }
        let disk = Arc::clone(&shared.disk);
        let log = LogFiles::new(disk, &shared.dir, shared.identity.clone(), true);
        for (at, slot) in log.slots()?.into_iter().enumerate() {
            if let Err(what) = slot
                && !log.is_unused(at)?
            {
                let finding = Finding::new(Code::HeadSlot, format!("slot {at}: {what}"));
                self.report.add(finding.in_file(log.head_path()));
            }
        }
        // A writer at work may be half through a record: that is no finding of a reader.
        if let Role::Writer(_) = shared.role
            && let Ok(read) = log.read()
            && read.torn
        {
            let mut finding =
                Finding::new(Code::LogTail, "something stands behind the last commit");
            finding.offset = Some(read.end);
            self.report.add(finding.in_file(log.path(read.slot.log)));
        }
        Ok(())
    }

    fn advance(&mut self, bytes: u64) {
        self.done += bytes;
        self.report.bytes += bytes;
        self.throttle.spend(bytes);
        (self.on_progress)(Progress::Segments { done: self.done, total: self.total });
    }

    /// Verifies what every level does of all segments, and the records of those that are chosen.
    fn segments(
        &mut self,
        settings: &Settings,
        sealed: &BTreeMap<SegmentId, u64>,
        active: Option<(SegmentId, u64)>,
    ) -> Result<(), Error> {
        let (disk, dir) = (&*self.shared.disk, &self.shared.dir);
        let mut memory = Memory::load(disk, dir);
        let part = settings.part.unwrap_or_default();
        let chosen = match settings.level {
            Level::Data => part.choose(&memory, sealed),
            Level::Quick | Level::Graph => Vec::new(),
        };
        self.total = chosen.iter().filter_map(|id| sealed.get(id)).sum();
        let in_part: BTreeSet<SegmentId> = chosen.iter().copied().collect();
        for (id, len) in sealed.iter().filter(|(id, _)| !in_part.contains(id)) {
            self.segment(*id, (*len, true), false)?;
        }
        if let Some((id, len)) = active {
            let (whole, found) = (settings.level == Level::Data, self.report.total_findings());
            self.total += if whole { len } else { 0 };
            self.segment(id, (len, false), whole)?;
            if whole && !self.throttle.is_stopped() {
                memory.note(id, len, self.report.total_findings() == found);
            }
        }
        for id in chosen {
            let late = part.max_duration.is_some_and(|most| self.throttle.elapsed() >= most);
            let (len, found) = (sealed[&id], self.report.total_findings());
            let whole = !late && !self.throttle.is_stopped();
            self.segment(id, (len, true), whole)?;
            if whole && !self.throttle.is_stopped() {
                self.report.whole_segments += 1;
                memory.note(id, len, self.report.total_findings() == found);
            }
        }
        let active = active.map(|(id, _)| id);
        self.report.coverage = memory.coverage(sealed, active);
        if settings.level == Level::Data {
            memory.save(disk, dir, |id| sealed.contains_key(&id) || active == Some(id));
        }
        Ok(())
    }

    /// Verifies a segment of a length, sealed or not; a part that cannot be read is a finding. `whole`:
    /// its records too.
    fn segment(
        &mut self,
        id: SegmentId,
        (len, sealed): (u64, bool),
        whole: bool,
    ) -> Result<(), Error> {
        self.report.segments += 1;
        let before = self.done;
        let opened = self.shared.segments.unsealed(id).map(|segment| {
            let header = check_header(&*segment.file, &self.shared.identity, id);
            (segment, header)
        });
        match opened {
            Ok((segment, header)) => {
                if let Err(error) = header {
                    self.header_finding(id, &error);
                }
                self.opened(&segment, (len, sealed), whole)?;
            }
            Err(error) => self.header_finding(id, &error),
        }
        if whole {
            let rest = (before + len).saturating_sub(self.done);
            self.advance(rest);
        }
        Ok(())
    }

    fn header_finding(&mut self, id: SegmentId, error: &Error) {
        let code = match error {
            Error::SegmentGone { .. } => Code::SegmentGone,
            Error::Damaged { .. } | Error::UnknownVersion { .. } => Code::SegmentHeader,
            _ => Code::Unreadable,
        };
        self.report.add(Finding::new(code, error.to_string()).at(id, 0));
    }

    fn opened(
        &mut self,
        segment: &Segment,
        (len, sealed): (u64, bool),
        whole: bool,
    ) -> Result<(), Error> {
        let id = segment.id;
        let size = segment.file.size()?;
        if (sealed && size != len) || size < len {
            let what = format!("the file has {size} bytes, the commit says {len}");
            self.report.add(Finding::new(Code::SegmentLength, what).at(id, size.min(len)));
        }
        let (limit, footer) = if sealed {
            let footer = self.footer(segment, size)?;
            (footer.as_ref().map_or(size, |(trailer, _)| trailer.data_end), footer)
        } else {
            (len.min(size), None)
        };
        if !whole {
            return Ok(());
        }
        let result = self.records(segment, (limit, sealed), footer.as_ref());
        if let Err(Error::Io(error)) = &result {
            let finding = Finding::new(Code::Unreadable, error.to_string()).at(id, 0);
            self.report.add(finding);
        } else {
            result?;
        }
        Ok(())
    }

    fn footer(&mut self, segment: &Segment, size: u64) -> Result<Option<(Trailer, Table)>, Error> {
        let finding = match segment.footer_in_memory() {
            Ok(footer) => return Ok(Some(footer)),
            Err(Error::Damaged { what, .. }) => Finding::new(Code::SegmentFooter, what),
            Err(error @ Error::Io(_)) => Finding::new(Code::Unreadable, error.to_string()),
            Err(error) => return Err(error),
        };
        self.report.add(finding.at(segment.id, size));
        Ok(None)
    }

    /// Compares every index run with the footers of the segments it lists.
    fn index(&mut self) -> Result<(), Error> {
        let shared = self.shared;
        let probes = shared.index.probes();
        self.unusable_runs()?;
        for run in probes.runs.iter().filter(|run| run.path.is_some()) {
            if !run.verify()? {
                self.run_finding(run, Code::RunEntries, "its entries' checksum differs");
            }
            for id in run.segments.iter().filter(|id| probes.live.contains(id)) {
                let Ok((_, table)) = shared.segments.sealed(*id).and_then(|one| one.footer())
                else {
                    continue;
                };
                if !lists_all(run, &table)? {
                    self.run_finding(run, Code::RunList, "it lacks entries of a footer");
                }
            }
        }
        Ok(())
    }

    fn run_finding(&mut self, run: &Run, code: Code, what: &str) {
        let file = run.path.clone().unwrap_or_default();
        self.report.add(Finding::new(code, what).in_file(file));
    }

    fn unusable_runs(&mut self) -> Result<(), Error> {
        let shared = self.shared;
        let dir = index::directory(&shared.dir);
        let names = match shared.disk.list(&dir) {
            Err(error) if FsError::is_not_found(&error) => return Ok(()),
            other => other?,
        };
        for name in names.iter().filter(|name| name.ends_with(".run")) {
            let path = dir.join(name);
            let opened = Run::open(&*shared.disk, &path, &shared.identity.uuid, false);
            if let Ok(Err(what)) = opened {
                self.report.add(Finding::new(Code::RunHeader, what).in_file(path));
            }
        }
        Ok(())
    }
}

fn lists_all(run: &Run, footer: &Table) -> Result<bool, Error> {
    let mut cursor = Cursor::new(footer);
    while let Some(bytes) = cursor.step()? {
        let Some(entry) = Entry::decode(&bytes) else { return Ok(false) };
        if run.table.find(&entry.id, |other| *other == entry)?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Walks everything that the roots reach.
fn graph(
    shared: &Shared,
    roots: &crate::store::Roots,
    damaged: &BTreeSet<(SegmentId, u64)>,
    mut report: Report,
    on_progress: &mut dyn FnMut(Progress),
) -> Result<Report, Error> {
    let marks = Mutex::default();
    let mut walk = Walk::new(shared, damaged, &marks);
    for (name, id) in roots {
        let mut on_fault = |fault: Fault| {
            report.add(fault_finding(fault));
            Ok(())
        };
        let mut on_block = |blocks| {
            on_progress(Progress::Graph { blocks });
            Ok(())
        };
        walk.root(name, *id, &mut on_fault, &mut on_block)?;
    }
    report.reachable = walk.visited;
    report.tainted = walk.tainted;
    Ok(report)
}

fn fault_finding(fault: Fault) -> Finding {
    let parent = match &fault.parent {
        Ok(id) => format!("block {id}"),
        Err(root) => format!("root {root:?}"),
    };
    let (code, what) = match &fault.why {
        Why::Missing => (Code::BlockMissing, "is missing".to_owned()),
        Why::Unreadable(error) => (Code::BlockUnreadable, format!("cannot be read: {error}")),
        Why::Malformed(error) => (Code::BlockMalformed, error.to_string()),
        Why::WrongKind(kind) => (Code::BlockKind, format!("is a {kind:?} block")),
    };
    let mut finding = Finding::new(code, format!("what {parent} names {what}")).of_block(fault.id);
    if let Some((segment, offset)) = fault.place {
        finding = finding.at(segment, offset);
    }
    finding
}

#[cfg(test)]
mod tests;
