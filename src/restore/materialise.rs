//! The state at a point in time, made inside our own engine.
//!
//! The base snapshot's head is opened over an [`Overlay`], the slices up to the point are applied,
//! entries beyond it only decide transactions that were prepared before it, and the sweep writes the
//! trees that changed into a scratch store. The repository is only read; the scratch store goes with
//! the [`View`].

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use tempfile::TempDir;

use super::overlay::Overlay;
use super::point::Nearest;
use super::resolve::{History, Route};
use super::spans::before;
use super::{
    Amount, At, Backup, Cancel, Contents, Error, Phase, PlannedPoint, Progress, read_slice, rfc3339,
};
use crate::block::BlockRead;
use crate::blockstore::Repository;
use crate::head::{self, Collection, Head, Manifest};
use crate::oplog::slice::{self, Slice};
use crate::oplog::{self, OpTime, Ts, Uuid};
use crate::store::Store;

/// Bytes of changes held in memory while slices are applied; more goes to scratch files. A quarter
/// of what a whole restore may use.
const CHANGE_BUDGET_BYTES: usize = 64 << 20;
/// Entries between two looks at the request to stop.
const ENTRIES_PER_CHECK: usize = 1 << 10;
/// Slices that the channel holds: none, so that one is read and waits while one is applied.
const SLICES_HELD: usize = 0;

/// The catalog and blocks of a job at a point in time.
pub struct View {
    /// The snapshot it was made from.
    pub(super) base: Manifest,
    /// Optime of the last entry in it.
    pub(super) optime: OpTime,
    /// Everything stamped at or before this is in it.
    pub(super) upto: Ts,
    /// How many slices were applied.
    pub(super) slices: u64,
    /// Every collection.
    pub(super) collections: Vec<Collection>,
    /// Names of collections whose documents the backup does not have at the point, by UUID.
    pub(super) absent: BTreeMap<Uuid, String>,
    /// Where their documents are.
    pub(super) blocks: Arc<dyn BlockRead>,
    /// Holds the scratch store's files until the view is dropped.
    _scratch: Option<TempDir>,
}

impl View {
    /// Opens a job at a point. Where that is a snapshot, nothing is read but its catalog; else the
    /// oplog slices after the newest snapshot before it are applied over a scratch store. The
    /// repository is only read. Blocking.
    ///
    /// # Errors
    /// Those of a point that is none, and of reading the backup.
    pub fn open(
        backup: Backup,
        at: &At,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Self, Error> {
        let repository = backup.repository.clone();
        materialise(&*repository, &History::new(backup), at, progress, cancel)
    }

    /// Optime of the last entry in it.
    #[must_use]
    pub fn optime(&self) -> OpTime {
        self.optime
    }

    /// Every collection, by UUID.
    #[must_use]
    pub fn collections(&self) -> &[Collection] {
        &self.collections
    }

    /// The collection of a name `db.name`.
    #[must_use]
    pub fn collection(&self, ns: &str) -> Option<&Collection> {
        self.collections.iter().find(|collection| collection.ns == ns)
    }

    /// Where the documents of its collections are.
    #[must_use]
    pub fn blocks(&self) -> &dyn BlockRead {
        &*self.blocks
    }

    /// The same to be compared with another moment.
    #[must_use]
    pub fn contents(&self) -> Contents<'_> {
        Contents { collections: &self.collections, blocks: &*self.blocks }
    }

    /// The point as a plan tells it, which was asked for as `asked`.
    pub(super) fn planned(&self, asked: &At) -> PlannedPoint {
        let ts = self.optime.ts;
        PlannedPoint {
            asked: asked.to_string(),
            t: ts.secs,
            i: ts.inc,
            time: rfc3339(ts.secs),
            snapshot: self.base.id.clone(),
            slices: self.slices,
        }
    }
}

/// Makes the view of a point. Blocking.
pub(super) fn materialise(
    repository: &dyn Repository,
    history: &History,
    at: &At,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<View, Error> {
    let route = history.route(at)?;
    let mut outcome = follow(repository, &route, progress, cancel)?;
    if !route.named {
        // What was received last need not be a point: then `latest` is the newest that is.
        let lower = match &outcome {
            Outcome::Undecided(_) => history.newest()?,
            Outcome::NotApplied { last: Some(ts), .. } => Some(history.route(&At::Exact(*ts))?),
            _ => None,
        };
        if let Some(route) = lower {
            outcome = follow(repository, &route, progress, cancel)?;
        }
    }
    let (job, asked) = (history.job().to_owned(), at.to_string());
    match outcome {
        Outcome::View(view) => Ok(*view),
        Outcome::Undecided(prepared) => {
            let nearest = history.nearest(route.upto)?;
            Err(Error::Undecided { job, asked, prepared, nearest })
        }
        Outcome::NotApplied { entry, last, source } => {
            let above = history.nearest(route.upto)?.above;
            let nearest = Nearest { below: last, above };
            Err(Error::NotApplied { job, asked, entry, nearest, source: Some(source) })
        }
    }
}

enum Outcome {
    View(Box<View>),
    /// Prepare timestamp of the first transaction that is undecided.
    Undecided(Ts),
    /// An entry could not be applied.
    NotApplied {
        entry: Ts,
        /// The newest point before it.
        last: Option<Ts>,
        source: Box<head::Error>,
    },
}

fn follow(
    repository: &dyn Repository,
    route: &Route,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Outcome, Error> {
    let base = &route.base;
    if base.head.position.optime.ts == route.upto && base.head.pending.is_none() {
        let blocks = repository.blocks();
        let collections = head::catalog(&*blocks, &base.head)?;
        return Ok(Outcome::View(Box::new(View {
            base: base.clone(),
            optime: base.head.position.optime,
            upto: route.upto,
            slices: 0,
            collections,
            absent: BTreeMap::new(),
            blocks,
            _scratch: None,
        })));
    }
    let dir = scratch_dir(repository)?;
    let scratch = repository.scratch_store(&dir.path().join("blocks"))?;
    let overlay = Arc::new(Overlay::new(repository.blocks(), scratch));
    let mut head = Head::load(overlay.clone(), config(repository, base, dir.path())?, &base.head)?;
    let (upto, reach) = (route.upto, route.reach);
    let mut advance = Advance { overlay: &overlay, upto, reach, progress, cancel, slices: 0 };
    if let Err(stopped) = advance.run(&mut head, &route.slices) {
        return stopped.outcome(base, &head);
    }
    let slices = advance.slices;
    if let Some(prepared) = head.undecided().into_iter().find(|prepared| *prepared <= route.upto) {
        return Ok(Outcome::Undecided(prepared));
    }
    progress.begin(Phase::Sweep, Amount::default());
    let root = match head.flush(&*overlay) {
        Ok(root) => root,
        Err(why) => return Stopped::Head(Ts::ZERO, why).outcome(base, &head),
    };
    Ok(Outcome::View(Box::new(View {
        base: base.clone(),
        optime: root.position.optime,
        upto: route.upto,
        slices,
        absent: head.absent().clone(),
        collections: head.collections().into_iter().cloned().collect(),
        blocks: overlay,
        _scratch: Some(dir),
    })))
}

/// A directory for derived blocks, which goes when it is dropped.
fn scratch_dir(repository: &dyn Repository) -> Result<TempDir, Error> {
    let parent = repository.scratch_dir();
    std::fs::create_dir_all(&parent).map_err(Error::io("create", &parent))?;
    let dir = tempfile::Builder::new().prefix("restore-").tempdir_in(&parent);
    dir.map_err(Error::io("create a directory in", &parent))
}

/// A store for derived blocks, in a directory that goes when it is dropped.
pub(super) fn scratch(repository: &dyn Repository) -> Result<(TempDir, Store), Error> {
    let dir = scratch_dir(repository)?;
    let store = repository.scratch_store(&dir.path().join("blocks"))?;
    Ok((dir, store))
}

fn config(repository: &dyn Repository, base: &Manifest, dir: &Path) -> Result<head::Config, Error> {
    let scratch_dir = dir.join("changes");
    std::fs::create_dir(&scratch_dir).map_err(Error::io("create", &scratch_dir))?;
    let major = base.server_version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    Ok(head::Config {
        salt: repository.salt(),
        scope: base.scope.clone(),
        scratch_dir,
        seals_scratch: repository.is_encrypted(),
        change_budget_bytes: CHANGE_BUDGET_BYTES,
        trims_capped_unlogged: major.is_some_and(|major| major < 5),
    })
}

/// Why slices were not applied up to the point.
enum Stopped {
    /// The head failed, at the entry of that timestamp if it is not zero.
    Head(Ts, head::Error),
    /// Anything else.
    Other(Error),
}

impl<E: Into<Error>> From<E> for Stopped {
    fn from(why: E) -> Self {
        Self::Other(why.into())
    }
}

impl Stopped {
    /// An entry that cannot be applied is an outcome, all else an error.
    fn outcome(self, base: &Manifest, head: &Head) -> Result<Outcome, Error> {
        use head::Error as H;
        let (at, why) = match self {
            Self::Other(why) => return Err(why),
            Self::Head(at, why) => (at, why),
        };
        let entry = match &why {
            H::Update { ts, .. } => *ts,
            H::Tree(_) | H::Block(_) | H::Scratch(_) | H::ScratchDamaged { .. } => Ts::ZERO,
            _ => at,
        };
        if entry == Ts::ZERO {
            return Err(why.into());
        }
        let undecided = head.undecided().first().copied().unwrap_or(entry);
        let last = Some(before(entry.min(undecided)));
        let last = last.filter(|last| *last >= base.head.position.optime.ts);
        Ok(Outcome::NotApplied { entry, last, source: Box::new(why) })
    }
}

/// Applies slices to a head up to a point, and decides beyond it.
struct Advance<'a> {
    overlay: &'a Overlay,
    upto: Ts,
    /// Where the entries end that go on from the snapshot.
    reach: Ts,
    progress: &'a dyn Progress,
    cancel: &'a Cancel,
    /// Slices applied so far.
    slices: u64,
}

impl Advance<'_> {
    fn run(&mut self, head: &mut Head, slices: &[Slice]) -> Result<(), Stopped> {
        let within = slices.iter().filter(|slice| slice.header.first.optime.ts <= self.upto);
        let total = within.fold(Amount::default(), |total, slice| Amount {
            documents: total.documents + slice.header.entries,
            bytes: total.bytes + slice.header.raw_bytes,
        });
        self.progress.begin(Phase::ApplySlices, total);
        let overlay = self.overlay;
        std::thread::scope(|scope| {
            let (sender, receiver) = sync_channel(SLICES_HELD);
            scope.spawn(move || {
                let mut read = slices.iter().map(|slice| (slice, read_slice(slice, overlay)));
                // Nobody listens when the rest does not matter.
                read.try_for_each(|read| sender.send(read))
            });
            for (slice, bytes) in receiver {
                let is_beyond = slice.header.first.optime.ts > self.upto;
                if is_beyond && self.decided(head) || self.slice(head, slice, &bytes?)? {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Applies one slice; true when nothing after it matters.
    fn slice(&mut self, head: &mut Head, slice: &Slice, bytes: &[u8]) -> Result<bool, Stopped> {
        let header = &slice.header;
        if header.first.optime.ts <= self.upto {
            self.slices += 1;
        }
        let start = head.position().optime.ts;
        for (index, entry) in slice::entries(bytes).enumerate() {
            if index % ENTRIES_PER_CHECK == 0 && self.cancel.is_cancelled() {
                return Err(Error::Cancelled.into());
            }
            let entry = entry?;
            let ts = oplog::position(entry)?.optime.ts;
            if ts <= start {
                continue;
            }
            if ts > self.reach {
                return Ok(true);
            }
            let failed = |why| Stopped::Head(ts, why);
            if ts > self.upto {
                if self.decided(head) || head.decide(entry, self.upto).map_err(failed)? {
                    return Ok(true);
                }
                continue;
            }
            head.apply(entry).map_err(failed)?;
            if head.flush_due() {
                head.flush(self.overlay).map_err(failed)?;
            }
            let bytes = entry.as_bytes().len() as u64;
            self.progress.advance(Amount { documents: 1, bytes });
        }
        Ok(false)
    }

    fn decided(&self, head: &Head) -> bool {
        head.undecided().first().is_none_or(|prepared| *prepared > self.upto)
    }
}
