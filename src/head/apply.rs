//! Entries to changes: what [`Head::apply`] does with each.

use bson::RawDocument;

use super::capped::Capped;
use super::change::{Change, Missing, Pending, count};
use super::changes::{Target, Was};
use super::commands::Commands;
use super::held::HeldId;
use super::{Error, Head, Rescan};
use crate::oplog::transactions::{Outcome, Phase};
use crate::oplog::{
    self, ApplyOps, OpTime, Operation, Parsed, Position, Ts, Update, Uuid, operations, parse,
};
use crate::tree::{Key, Order};

/// Where servers keep their versions,
const VERSIONS: &str = "admin.system.version";
/// and the document of the feature compatibility version.
const FCV: &str = "featureCompatibilityVersion";

impl Head {
    /// Applies an entry whose position was checked.
    pub(super) fn apply_at(
        &mut self,
        entry: &RawDocument,
        parsed: Parsed<'_>,
        at: Position,
    ) -> Result<(), Error> {
        let optime = at.optime;
        match parsed {
            Parsed::Single(operation) => self.operation(operation, optime.ts)?,
            Parsed::ApplyOps(group) => {
                let id = self.held.reserve();
                let outcome =
                    self.pending.transactions.apply_ops(optime, &group, id, Phase::Steady)?;
                self.settle(outcome, Some((id, entry)), optime.ts)?;
            }
            Parsed::Commit(commit) => {
                let outcome = self.pending.transactions.commit(optime, &commit, Phase::Steady)?;
                self.settle(outcome, None, optime.ts)?;
            }
            Parsed::Abort(abort) => {
                let outcome = self.pending.transactions.abort(optime, &abort, Phase::Steady)?;
                self.settle(outcome, None, optime.ts)?;
            }
        }
        Ok(())
    }

    /// Collects what an entry before the scan's start leaves open.
    pub(super) fn preload_at(&mut self, entry: &RawDocument, optime: OpTime) -> Result<(), Error> {
        let transactions = &mut self.pending.transactions;
        let outcome = match parse(entry)? {
            Parsed::Single(_) => return Ok(()),
            Parsed::ApplyOps(group) => {
                let id = self.held.reserve();
                let outcome = transactions.apply_ops(optime, &group, id, Phase::Preload)?;
                if outcome == Outcome::Hold {
                    self.held.keep(id, entry);
                }
                outcome
            }
            Parsed::Commit(commit) => transactions.commit(optime, &commit, Phase::Preload)?,
            Parsed::Abort(abort) => transactions.abort(optime, &abort, Phase::Preload)?,
        };
        // What took effect is in the scan.
        if let Outcome::Apply { handles, .. } | Outcome::Discard(handles) = outcome {
            handles.into_iter().for_each(|handle| self.held.forget(handle));
        }
        Ok(())
    }

    /// Takes a decision above `at` for what was prepared at or before it.
    pub(super) fn decide_at(
        &mut self,
        entry: &RawDocument,
        optime: OpTime,
        at: Ts,
    ) -> Result<(), Error> {
        // What began above `at` is not held, and so passed over as in a preload.
        let outcome = match parse(entry)? {
            Parsed::Single(_) | Parsed::ApplyOps(_) => return Ok(()),
            Parsed::Commit(commit) => {
                self.pending.transactions.commit(optime, &commit, Phase::Preload)?
            }
            Parsed::Abort(abort) => {
                self.pending.transactions.abort(optime, &abort, Phase::Preload)?
            }
        };
        match outcome {
            Outcome::Apply { handles, visible_at, .. } if visible_at > at => {
                handles.into_iter().for_each(|handle| self.held.forget(handle));
                Ok(())
            }
            outcome => self.settle(outcome, None, optime.ts),
        }
    }

    /// Does what became of held operations. `now` is the entry at hand, if it has operations.
    fn settle(
        &mut self,
        outcome: Outcome<HeldId>,
        now: Option<(HeldId, &RawDocument)>,
        ts: Ts,
    ) -> Result<(), Error> {
        match outcome {
            Outcome::Hold => {
                if let Some((id, entry)) = now {
                    self.held.keep(id, entry);
                }
            }
            Outcome::Discard(handles) => {
                handles.into_iter().for_each(|handle| self.held.forget(handle));
            }
            Outcome::Apply { handles, .. } => {
                for handle in handles {
                    match now {
                        Some((id, entry)) if id == handle => self.group(entry, ts)?,
                        _ => {
                            let blocks = self.blocks.clone();
                            if let Some(entry) = self.held.take(&*blocks, handle)? {
                                self.group(&entry, ts)?;
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Applies the operations of an applyOps entry; `ts` is that of the entry that decided it.
    fn group(&mut self, entry: &RawDocument, ts: Ts) -> Result<(), Error> {
        let (at, Parsed::ApplyOps(ApplyOps { operations: array, .. })) = oplog::read(entry)? else {
            return Err(Error::Malformed { what: "held oplog entry", field: "o.applyOps" });
        };
        for operation in operations(at.optime, array) {
            self.operation(operation?, ts)?;
        }
        Ok(())
    }

    /// Whether entries are still applied over documents that may be newer.
    fn is_fuzzy(&self, ts: Ts) -> bool {
        self.pending.fuzzy_until.is_some_and(|until| ts <= until.ts)
    }

    /// A scan reads collections by the rules of one version.
    fn check_fcv(&self, ns: &str, id: &RawDocument, ts: Ts) -> Result<(), Error> {
        let changes = ns == VERSIONS && id.get_str("_id").is_ok_and(|id| id == FCV);
        // Before the scan began it was of no matter to it.
        if !changes || !self.is_fuzzy(ts) || self.expecting {
            return Ok(());
        }
        Err(Error::NeedsRescan { ts, ns: ns.to_owned(), why: Rescan::FcvChanged })
    }

    fn operation(&mut self, operation: Operation<'_>, ts: Ts) -> Result<(), Error> {
        if let Operation::Update { ns, id, .. } = operation {
            self.check_fcv(ns, id, ts)?;
        }
        match operation {
            Operation::Noop(_) => Ok(()),
            Operation::Insert { ns, uuid, document } => match self.target(ns, uuid, ts)? {
                Some(target) => self.insert(target, document, ts),
                None => Ok(()),
            },
            Operation::Update { ns, uuid, id, update, upsert } => {
                let missing = match (upsert, self.is_fuzzy(ts)) {
                    (true, _) => Missing::Create,
                    (false, true) => Missing::Skip,
                    (false, false) => Missing::Surprise,
                };
                match self.target(ns, uuid, ts)? {
                    Some(target) => self.update(target, id, &update, missing, ts),
                    None => Ok(()),
                }
            }
            Operation::Delete { ns, uuid, id } => match self.lookup(ns, uuid) {
                Some(target) => self.delete(target, id, ts),
                None => {
                    if self.misses(ns, uuid) && !self.is_fuzzy(ts) {
                        count(&self.context.counters.delete_on_missing);
                    }
                    Ok(())
                }
            },
            Operation::Command { db, uuid, command } => self.commands(ts).run(db, uuid, command),
        }
    }

    pub(super) fn commands(&mut self, ts: Ts) -> Commands<'_> {
        let fuzzy = self.is_fuzzy(ts);
        Commands {
            catalog: &mut self.catalog,
            builds: &mut self.pending.builds,
            absent: &mut self.pending.absent,
            scope: &self.config.scope,
            changes: &mut self.changes,
            capped: &mut self.capped,
            counters: &self.context.counters,
            ts,
            fuzzy,
            expecting: self.expecting,
        }
    }

    fn lookup(&self, ns: &str, uuid: Option<Uuid>) -> Option<(Target, Order)> {
        let uuid = uuid.or_else(|| self.catalog.holder(ns))?;
        let entry = self.catalog.get(uuid)?;
        let (order, root) = (entry.collection.order, entry.collection.root);
        Some((Target { uuid, incarnation: entry.incarnation, root }, order))
    }

    /// Whether it is wrong that the head has no such collection. One that is renamed away before the
    /// operation's transaction is committed has the name of its time, which goes.
    fn misses(&self, ns: &str, uuid: Option<Uuid>) -> bool {
        let absent = uuid.is_some_and(|uuid| self.pending.absent.contains_key(&uuid));
        self.config.scope.keeps(ns) && !absent
    }

    /// The collection an operation writes to; none if it is left out, or gone by the end of the scan.
    fn target(
        &self,
        ns: &str,
        uuid: Option<Uuid>,
        ts: Ts,
    ) -> Result<Option<(Target, Order)>, Error> {
        match self.lookup(ns, uuid) {
            None if self.misses(ns, uuid) && !self.is_fuzzy(ts) => {
                Err(Error::UnknownCollection { ts, ns: ns.to_owned(), uuid })
            }
            found => Ok(found),
        }
    }

    fn capped(&mut self, uuid: Uuid) -> &mut Capped {
        self.capped.entry(uuid).or_default()
    }

    fn insert(
        &mut self,
        (target, order): (Target, Order),
        document: &RawDocument,
        ts: Ts,
    ) -> Result<(), Error> {
        let (key, fuzzy) = (Key::of_document(document)?, self.is_fuzzy(ts));
        if order == Order::Positional {
            let (trims, context) = (self.config.trims_capped_unlogged, self.context.clone());
            let document = document.to_owned();
            self.capped(target.uuid).insert(key, document, fuzzy, trims, &context);
            return Ok(());
        }
        let put = Change::Put(document.to_owned());
        if self.changes.record(&*self.blocks, &target, key, put)? == Was::There && !fuzzy {
            count(&self.context.counters.insert_on_existing);
        }
        Ok(())
    }

    fn update(
        &mut self,
        (target, order): (Target, Order),
        id: &RawDocument,
        update: &Update<'_>,
        missing: Missing,
        ts: Ts,
    ) -> Result<(), Error> {
        let update = Pending::new(update, id, missing, ts)?;
        let key = Key::of_document(&update.id)?;
        if order == Order::Positional {
            let context = self.context.clone();
            return self.capped(target.uuid).update(key, update, &context);
        }
        self.changes.record(&*self.blocks, &target, key, Change::Updates(vec![update])).map(drop)
    }

    fn delete(
        &mut self,
        (target, order): (Target, Order),
        id: &RawDocument,
        ts: Ts,
    ) -> Result<(), Error> {
        let (key, fuzzy) = (Key::of_document(id)?, self.is_fuzzy(ts));
        if order == Order::Positional {
            self.capped(target.uuid).delete(key);
            return Ok(());
        }
        let was = self.changes.record(&*self.blocks, &target, key, Change::Delete)?;
        if was == Was::Missing && !fuzzy {
            count(&self.context.counters.delete_on_missing);
        }
        Ok(())
    }
}
