//! An open head.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bson::RawDocument;

use super::capped::{self, Bounds, Capped};
use super::catalog::Catalog;
use super::change::{Context, Counters};
use super::changes::Changes;
use super::held::Held;
use super::options::{is_finished_index, is_temporary, whole};
use super::pending::{self, Pending};
use super::runs::Scratch;
use super::sweep::sweep;
use super::{Collection, Error, HeadRoot, Scanned, Scope};
use crate::block::{BlockRead, BlockWrite};
use crate::oplog::{self, NameOrder, OpTime, Position, Ts, Uuid};
use crate::store::RepositorySalt;
use crate::tree::{Content, Order, Shape};

/// Runs of changes may grow to this many budgets before a flush is due, however small the head.
const RUN_BUDGETS: u64 = 8;
/// Runs of changes may grow to this part of the head (one in so many bytes) before a flush is due:
/// more would make recovery after a crash, which repeats them, as long as the sweep it puts off.
const RUN_SHARE: u64 = 4;

/// What a head needs from its surroundings.
#[derive(Clone)]
pub struct Config {
    /// Decides where trees are cut.
    pub salt: RepositorySalt,
    /// Where sorted runs of changes go: an existing directory that only this head uses.
    pub scratch_dir: PathBuf,
    /// Whether they are encrypted, each with a key that nobody keeps.
    pub seals_scratch: bool,
    /// Which namespaces are tracked.
    pub scope: Scope,
    /// Bytes of pending changes held in memory before a run is written.
    pub change_budget_bytes: usize,
    /// Whether the source's servers are older than 5.0: they trim capped collections without
    /// logging it, and append the new fields of an update in byte order.
    pub trims_capped_unlogged: bool,
}

/// Operations that did not fit the state they met. On consistent data all are zero; anything else
/// means that the head and the source differ and asks for a dbHash check. The head did what a
/// secondary does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Divergences {
    /// Updates whose document was missing; it was created.
    pub update_on_missing: u64,
    /// Deletes of documents or collections that were missing; nothing was done.
    pub delete_on_missing: u64,
    /// Inserts of documents that were there, as far as it was seen; they were replaced.
    pub insert_on_existing: u64,
    /// Catalog commands on indexes or collections that were not as the command presumes.
    pub catalog: u64,
}

/// How the trees of a head are cut.
struct Shapes {
    keyed: Shape,
    positional: Shape,
    links: Shape,
}

/// An open head: catalog in memory, changes pending, documents in blocks.
pub struct Head {
    pub(super) blocks: Arc<dyn BlockRead>,
    pub(super) config: Config,
    shapes: Shapes,
    position: Position,
    consistent_from: Option<OpTime>,
    pub(super) catalog: Catalog,
    pub(super) changes: Changes,
    pub(super) capped: BTreeMap<Uuid, Capped>,
    pub(super) held: Held,
    /// Its `divergences` are those at the last flush; the counters of the context run on.
    pub(super) pending: Pending,
    pub(super) context: Context,
    /// Collections went that the root it was loaded from has.
    narrowed: bool,
    /// A scan of what is not held is still to be taken in.
    pub(super) expecting: bool,
    spent: bool,
}

impl Head {
    fn new(
        blocks: Arc<dyn BlockRead>,
        config: Config,
        position: Position,
        catalog: Catalog,
        pending: Pending,
        held: Held,
    ) -> Self {
        let name_order =
            if config.trims_capped_unlogged { NameOrder::Bytes } else { NameOrder::Numeric };
        let counters = Arc::new(Counters::starting_at(pending.divergences));
        let context = Context { name_order, counters };
        let shapes = Shapes {
            keyed: Shape::new(config.salt, Order::Keyed, Content::Documents),
            positional: Shape::new(config.salt, Order::Positional, Content::Documents),
            links: Shape::new(config.salt, Order::Keyed, Content::Links),
        };
        let scratch = Scratch { dir: config.scratch_dir.clone(), seals: config.seals_scratch };
        let changes = Changes::new(config.change_budget_bytes, scratch, context.clone());
        Self {
            blocks,
            config,
            shapes,
            position,
            consistent_from: None,
            catalog,
            changes,
            capped: BTreeMap::new(),
            held,
            pending,
            context,
            narrowed: false,
            expecting: false,
            spent: false,
        }
    }

    /// A head from a finished scan. Collections that are left out ([`super::namespaces`]) are passed
    /// over. Entries up to `fuzzy_until` are applied by the rules of an initial sync; from there on
    /// the head is consistent. `blocks` must also read what later flushes write.
    ///
    /// # Errors
    /// [`Error::MovedAside`] if two collections have one name and no entry is to come that could
    /// tell whose it is.
    pub fn from_scan(
        blocks: Arc<dyn BlockRead>,
        config: Config,
        start: Position,
        fuzzy_until: OpTime,
        collections: Vec<Scanned>,
    ) -> Result<Self, Error> {
        let pending = Pending::none();
        let mut head = Self::new(blocks, config, start, Catalog::new(), pending, Held::default());
        head.expect(fuzzy_until);
        head.adopt(collections)?;
        Ok(head)
    }

    /// A scan of what the head does not hold ends at `fuzzy_until`: entries up to there are applied by the
    /// rules of an initial sync. To what the head holds they do the same as ever.
    pub fn expect(&mut self, fuzzy_until: OpTime) {
        self.expecting = true;
        self.pending.fuzzy_until = self.pending.fuzzy_until.max(Some(fuzzy_until));
        self.consistent_from = None;
    }

    /// Takes what a scan found that began at the head's position, see [`Head::expect`]. What the head
    /// holds already is passed over.
    ///
    /// # Errors
    /// [`Error::MovedAside`] as for [`Head::from_scan`].
    pub fn adopt(&mut self, collections: Vec<Scanned>) -> Result<(), Error> {
        self.guarded(|head| {
            let ts = head.position.optime.ts;
            for mut collection in collections {
                let held = head.catalog.get(collection.uuid).is_some();
                if held || !tracks(&head.config.scope, &collection) {
                    continue;
                }
                collection.indexes.retain(|spec| is_finished_index(spec));
                if let Some(holder) = head.catalog.holder(&collection.ns) {
                    head.catalog.move_aside(ts, holder)?;
                }
                head.pending.absent.remove(&collection.uuid);
                head.catalog.insert(ts, collection)?;
            }
            head.expecting = false;
            head.catch_up()
        })
    }

    /// Feeds an entry at or before the scan's start, in order and before any [`Head::apply`]: only
    /// open chains and prepared transactions are collected from it.
    ///
    /// # Errors
    /// [`Error::Oplog`]; the head is spent then.
    pub fn preload(&mut self, entry: &RawDocument) -> Result<(), Error> {
        self.guarded(|head| head.preload_at(entry, oplog::position(entry)?.optime))
    }

    /// Opens a committed head. `blocks` must also read what later flushes write.
    ///
    /// # Errors
    /// [`Error::Tree`], [`Error::Block`], [`Error::Malformed`].
    pub fn load(
        blocks: Arc<dyn BlockRead>,
        config: Config,
        root: &HeadRoot,
    ) -> Result<Self, Error> {
        let catalog = Catalog::load(&*blocks, &root.catalog)?;
        let mut held = Held::default();
        let pending = match &root.pending {
            Some(id) => pending::read(&*blocks, id, &mut held)?,
            None => Pending::none(),
        };
        let mut head = Self::new(blocks, config, root.position, catalog, pending, held);
        head.consistent_from = root.consistent_from;
        // Until a scan is caught up with, names are those of other moments: `catch_up` lets go then.
        head.narrowed = head.pending.fuzzy_until.is_none() && head.forget_what_is_not_tracked();
        Ok(head)
    }

    /// Applies the next entry. Must be above [`Head::position`].
    ///
    /// # Errors
    /// Any; the head is spent then.
    pub fn apply(&mut self, entry: &RawDocument) -> Result<(), Error> {
        self.guarded(|head| {
            let (at, parsed) = oplog::read(entry)?;
            let (last, next) = (head.position.optime, at.optime);
            if next.ts <= last.ts || next.term < last.term {
                return Err(Error::OutOfOrder { last, next });
            }
            head.apply_at(entry, parsed, at)?;
            head.position = at;
            head.catch_up()
        })
    }

    /// For a restore to `at`, after every entry up to `at` was applied: takes the entries above `at`
    /// in order and applies only the commits of transactions prepared at or before `at` whose
    /// commitTimestamp is at or before it. True when none of those prepared at or before `at` is
    /// undecided any more; ask [`Head::undecided`] first, there may be none to begin with.
    ///
    /// # Errors
    /// Any; the head is spent then.
    pub fn decide(&mut self, entry: &RawDocument, at: Ts) -> Result<bool, Error> {
        self.guarded(|head| {
            let optime = oplog::position(entry)?.optime;
            if optime.ts > at {
                head.decide_at(entry, optime, at)?;
            }
            Ok(head.undecided().is_empty())
        })
    }

    /// Does what may leave the head half changed.
    fn guarded<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        if self.spent {
            return Err(Error::Spent);
        }
        self.spent = true;
        let done = work(self)?;
        self.spent = false;
        Ok(done)
    }

    /// At the end of the scan's entries: everything must have its own name again.
    fn catch_up(&mut self) -> Result<(), Error> {
        let at = self.position.optime;
        let Some(until) = self.pending.fuzzy_until.filter(|until| until.ts <= at.ts) else {
            return Ok(());
        };
        self.forget_what_is_not_tracked();
        let aside = self.catalog.iter().filter(|entry| entry.aside);
        let names: Vec<String> = aside.map(|entry| entry.collection.ns.clone()).collect();
        if !names.is_empty() {
            return Err(Error::MovedAside { names });
        }
        self.pending.fuzzy_until = None;
        self.consistent_from = Some(until.max(at));
        Ok(())
    }

    /// Whether the root that the head was loaded from has collections which are not tracked any more, so
    /// that a flush is needed although no entry was applied.
    #[must_use]
    pub fn is_narrowed(&self) -> bool {
        self.narrowed
    }

    /// Returns whether there was anything.
    fn forget_what_is_not_tracked(&mut self) -> bool {
        let entries = self.catalog.iter().map(|entry| &entry.collection);
        let others = entries.filter(|collection| !tracks(&self.config.scope, collection));
        let others: Vec<Uuid> = others.map(|collection| collection.uuid).collect();
        let (ts, any) = (self.position.optime.ts, !others.is_empty());
        others.into_iter().for_each(|uuid| self.commands(ts).forget(uuid));
        any
    }

    /// Collections with names that are tracked, whose documents the head does not have: they got the
    /// names from names that were not. By UUID, with their names.
    #[must_use]
    pub fn absent(&self) -> &BTreeMap<Uuid, String> {
        &self.pending.absent
    }

    /// Prepare timestamps of undecided prepared transactions, lowest first.
    #[must_use]
    pub fn undecided(&self) -> Vec<Ts> {
        self.pending.transactions.undecided()
    }

    /// Position of the last entry applied.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// From when on the state can be restored; none while a scan is not caught up with.
    #[must_use]
    pub fn consistent_from(&self) -> Option<OpTime> {
        self.consistent_from
    }

    /// Bytes of changes not yet swept, in memory and in runs.
    #[must_use]
    pub fn pending_bytes(&self) -> u64 {
        self.changes.pending_bytes() + (self.capped_bytes() + self.held.bytes()) as u64
    }

    fn capped_bytes(&self) -> usize {
        self.capped.values().map(Capped::bytes).sum()
    }

    /// Whether the next [`Head::flush`] should not be put off: what cannot be spilled (capped
    /// collections, operations of open transactions) has outgrown its budget, or the runs a share
    /// of the head. Ask after each [`Head::apply`].
    #[must_use]
    pub fn flush_due(&self) -> bool {
        if self.held.over_budget()
            || self.capped_bytes() > self.config.change_budget_bytes
            || self.capped.values().any(Capped::overdue)
        {
            return true;
        }
        let runs = self.changes.run_bytes();
        runs > RUN_BUDGETS * self.config.change_budget_bytes as u64
            && runs > self.counts().1 / RUN_SHARE
    }

    /// Documents and bytes at the last flush.
    fn counts(&self) -> (u64, u64) {
        self.catalog
            .iter()
            .map(|entry| &entry.collection.root)
            .fold((0, 0), |sum, root| (sum.0 + root.documents, sum.1 + root.bytes))
    }

    /// Surprises since the head was first made.
    #[must_use]
    pub fn divergences(&self) -> Divergences {
        self.context.counters.read()
    }

    /// Sweeps pending changes into trees and the catalog, and returns what a commit must name. Later
    /// work of this head relies on the blocks written, so what is returned must be committed before
    /// anything may remove unnamed blocks.
    ///
    /// # Errors
    /// Any; the head is spent then.
    pub fn flush(&mut self, blocks: &dyn BlockWrite) -> Result<HeadRoot, Error> {
        self.guarded(|head| {
            let changes = head.changes.drain();
            sweep(blocks, &head.shapes.keyed, &mut head.catalog, changes, &head.context)?;
            head.sweep_capped(blocks)?;
            let catalog = head.catalog.flush(blocks, &head.shapes.links)?;
            head.pending.divergences = head.context.counters.read();
            let pending =
                pending::write(blocks, &head.shapes.links, &head.pending, &mut head.held)?;
            head.narrowed = false;
            let (documents, logical_bytes) = head.counts();
            Ok(HeadRoot {
                position: head.position,
                consistent_from: head.consistent_from,
                catalog,
                pending,
                content_root: head.catalog.content_root()?,
                documents,
                logical_bytes,
            })
        })
    }

    fn sweep_capped(&mut self, blocks: &dyn BlockWrite) -> Result<(), Error> {
        let shape = &self.shapes.positional;
        for (uuid, changes) in std::mem::take(&mut self.capped) {
            let Some(entry) = self.catalog.get(uuid) else { continue };
            let before = entry.collection.root;
            let bounds = bounds(&entry.collection);
            let family = crate::tree::family(blocks, uuid.0, before.bytes, &[before]);
            let blocks = family.as_deref().unwrap_or(blocks);
            let mut root = changes.sweep(blocks, shape, &before, &self.context)?;
            if self.config.trims_capped_unlogged {
                root = capped::trim(blocks, shape, &root, bounds)?;
            }
            if root != before
                && let Some(collection) = self.catalog.change(uuid)
            {
                collection.root = root;
            }
        }
        Ok(())
    }

    /// The catalog, by UUID. Roots are those of the last flush.
    #[must_use]
    pub fn collections(&self) -> Vec<&Collection> {
        self.catalog.iter().map(|entry| &entry.collection).collect()
    }
}

/// Whether a collection is tracked.
pub(crate) fn tracks(scope: &Scope, collection: &Collection) -> bool {
    scope.keeps(&collection.ns)
        || (is_temporary(&collection.options) && scope.keeps_temporary(&collection.ns))
}

/// How a capped collection is bounded.
fn bounds(collection: &Collection) -> Bounds {
    let number = |name| {
        let value = collection.options.get(name).ok().flatten().and_then(whole);
        value.and_then(|number| u64::try_from(number).ok()).filter(|number| *number > 0)
    };
    Bounds { bytes: number("size").unwrap_or(u64::MAX), documents: number("max") }
}
