//! Applies recorded entries to a head and compares it with what the server showed.

use std::path::PathBuf;
use std::sync::Arc;

use bson::RawDocumentBuf;
use headstock::block::MemoryBlocks;
use headstock::head::{Collection, Config, Divergences, Error, Head, HeadRoot, catalog};
use headstock::lab::Release;
use headstock::oplog::{OpTime, Position, Ts, position};
use tempfile::TempDir;

use crate::record::Recording;
use crate::shown::{self, SALT, State, documents_of, held, require_documents, require_equal};

/// Bytes of pending changes before a run is written: small, so that runs are written.
const CHANGE_BUDGET_BYTES: usize = 256 << 10;
/// Of so many moments one is taken for the time of a scan.
const SCAN_EVERY: usize = 16;

/// A place for a head: blocks in memory and a scratch directory.
pub struct Place {
    pub blocks: Arc<MemoryBlocks>,
    scratch: TempDir,
    trims_capped_unlogged: bool,
}

impl Place {
    pub fn new(release: Release) -> Self {
        let scratch = tempfile::tempdir().expect("a temporary directory");
        let trims_capped_unlogged = release == Release::V4_4_2;
        Self { blocks: Arc::new(MemoryBlocks::new()), scratch, trims_capped_unlogged }
    }

    fn config(&self) -> Config {
        Config {
            salt: SALT,
            scope: headstock::head::Scope::all(),
            scratch_dir: PathBuf::from(self.scratch.path()),
            seals_scratch: false,
            change_budget_bytes: CHANGE_BUDGET_BYTES,
            trims_capped_unlogged: self.trims_capped_unlogged,
        }
    }

    /// A head that starts from a scan and has caught up with it at `until`.
    pub fn scanned(&self, start: Position, until: OpTime, collections: Vec<Collection>) -> Head {
        Head::from_scan(self.blocks.clone(), self.config(), start, until, collections)
            .expect("starts")
    }

    fn start(&self, start: Position, state: &State, until: OpTime) -> Head {
        let collections = state.iter().map(|(ns, shown)| shown.scanned(ns, &self.blocks));
        self.scanned(start, until, collections.collect())
    }

    pub fn flush(&self, head: &mut Head) -> HeadRoot {
        head.flush(&*self.blocks).expect("flushes")
    }

    fn load(&self, root: &HeadRoot) -> Head {
        Head::load(self.blocks.clone(), self.config(), root).expect("a head that was flushed")
    }
}

/// Whether the head is flushed and loaded anew after each entry, or flushed at moments only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flushes {
    EachEntry,
    Moments,
}

/// Applies all entries in every way there is.
pub fn check(recording: &Recording) {
    let compared = replay(recording, Flushes::EachEntry);
    replay(recording, Flushes::Moments);
    let scans = scans(recording);
    println!(
        "{}: {} entries, {} moments, {compared} collections at the time of an entry, {scans} scans",
        recording.release.version(),
        recording.entries.len(),
        recording.moments.len(),
    );
    if recording.release != Release::V4_4_2 {
        assert!(compared > recording.entries.len(), "too little was compared: {compared}");
    }
}

fn at(entry: &RawDocumentBuf) -> OpTime {
    position(entry).expect("a position").optime
}

/// Applies the entries one by one; returns how many collections were compared between moments.
fn replay(recording: &Recording, flushes: Flushes) -> usize {
    let place = Place::new(recording.release);
    let start = recording.start;
    let mut head = place.start(start, &recording.scanned, start.optime);
    let mut moments = recording.moments.iter().peekable();
    while moments.next_if(|moment| moment.at <= start.optime.ts).is_some() {}
    let mut compared = 0;
    for (number, entry) in recording.entries.iter().enumerate() {
        let ts = at(entry).ts;
        head.apply(entry).unwrap_or_else(|error| panic!("{entry:?}: {error}"));
        let is_moment = moments.peek().is_some_and(|moment| moment.at == ts);
        if flushes == Flushes::Moments && !is_moment {
            continue;
        }
        let root = place.flush(&mut head);
        if flushes == Flushes::EachEntry {
            head = place.load(&root);
            let later = &recording.entries[number + 1..];
            compared += compare_past(recording, &place, &root, ts, later);
        }
        while let Some(moment) = moments.next_if(|moment| moment.at == ts) {
            let wanted = |name: &str| moment.is_of(name);
            let found = held(&head.collections(), &*place.blocks, &wanted);
            require_equal(&found, &moment.state, &format!("{} {flushes:?}", moment.what));
        }
    }
    assert!(moments.next().is_none(), "a moment at no entry");
    assert_eq!(head.divergences(), Divergences::default());
    compared
}

/// Compares what the server showed of collections at the time of one entry.
fn compare_past(
    recording: &Recording,
    place: &Place,
    root: &HeadRoot,
    ts: Ts,
    later: &[RawDocumentBuf],
) -> usize {
    let Some(past) = recording.past.get(&ts) else { return 0 };
    let mut then = place.load(root);
    if !then.undecided().is_empty() {
        let decided = |entry: &RawDocumentBuf| then.decide(entry, ts).expect("decides");
        assert!(later.iter().any(decided), "{ts}: never decided");
    }
    let root = place.flush(&mut then);
    let collections = catalog(&*place.blocks, &root).expect("readable");
    for (uuid, wanted) in past {
        let found = collections.iter().find(|collection| collection.uuid == *uuid);
        let found = found.unwrap_or_else(|| panic!("{uuid} is missing at {ts}"));
        let documents = documents_of(&found.root, &*place.blocks);
        require_documents(&documents, wanted, &format!("{} at {ts}", found.ns));
    }
    past.len()
}

/// Applies entries to states that are newer than they are, as after a scan, and requires the state at
/// the last of them; returns how often.
fn scans(recording: &Recording) -> usize {
    let place = Place::new(recording.release);
    let start = recording.start;
    let mut head = place.start(start, &recording.scanned, start.optime);
    let moments: Vec<Ts> = recording.moments.iter().map(|moment| moment.at).collect();
    let last = recording.entries.last().map(|entry| at(entry).ts);
    let (mut scans, mut begin) = (0, (start, 0));
    for (number, entry) in recording.entries.iter().enumerate() {
        head.apply(entry).expect("applied before");
        let ts = at(entry).ts;
        if changes_fcv(entry) {
            // No scan goes on over it: the next one begins here.
            let root = place.flush(&mut head);
            refused(&place, begin.0, &root, &recording.entries[begin.1..=number]);
            begin = (position(entry).expect("a position"), number + 1);
            continue;
        }
        let moment = moments.binary_search(&ts).is_ok_and(|found| found % SCAN_EVERY == 0);
        if moment || Some(ts) == last {
            let root = place.flush(&mut head);
            scan_at(&place, begin.0, &root, &recording.entries[begin.1..=number]);
            scans += 1;
        }
    }
    scans
}

fn changes_fcv(entry: &RawDocumentBuf) -> bool {
    let id = entry.get_document("o2").and_then(|document| document.get_str("_id"));
    let ns = entry.get_str("ns");
    ns.is_ok_and(|ns| ns == "admin.system.version")
        && id.is_ok_and(|id| id == "featureCompatibilityVersion")
}

/// A scan during which the last of the entries changes the feature compatibility version.
fn refused(place: &Place, start: Position, root: &HeadRoot, entries: &[RawDocumentBuf]) {
    let collections = catalog(&*place.blocks, root).expect("readable");
    let (last, before) = entries.split_last().expect("entries");
    let mut head = place.scanned(start, at(last), collections);
    before.iter().for_each(|entry| head.apply(entry).expect("applies"));
    let refused = head.apply(last);
    assert!(matches!(refused, Err(Error::NeedsRescan { .. })), "{refused:?}");
}

/// Takes `root`, the state after `entries`, for a scan that began before the first of them.
fn scan_at(place: &Place, start: Position, root: &HeadRoot, entries: &[RawDocumentBuf]) {
    let collections = catalog(&*place.blocks, root).expect("readable");
    let last = at(entries.last().expect("entries"));
    let mut head = place.scanned(start, last, collections.clone());
    for entry in entries {
        head.apply(entry).unwrap_or_else(|error| panic!("scanned at {last}: {entry:?}: {error}"));
    }
    assert_eq!(head.consistent_from(), Some(last));
    place.flush(&mut head);
    let wanted: Vec<&Collection> = collections.iter().collect();
    let wanted = held(&wanted, &*place.blocks, &|_| true);
    let found = shown::held(&head.collections(), &*place.blocks, &|_| true);
    require_equal(&found, &wanted, &format!("scanned at {last}"));
}
