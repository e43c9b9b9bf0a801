//! What catalog commands do to the catalog.
//!
//! Everything goes by UUID. While a scan is caught up with ("fuzzy"), the catalog is newer than the
//! entries: what is already so is passed over, what is gone is not missed, and a name that is needed
//! is taken from its holder, which stands aside until its own entry names it again.

use std::collections::BTreeMap;

use bson::{RawDocument, RawDocumentBuf};

use super::capped::Capped;
use super::catalog::Catalog;
use super::change::{Counters, count};
use super::changes::Changes;
use super::namespaces::split;
use super::options::{
    default_id_index, index_name, is_capped, is_clustered, is_temporary, is_true, without,
};
use super::{Collection, Error, Rescan, Scope, coll_mod};
use crate::oplog::{Command, IndexBuild, Ts, Uuid};
use crate::tree::{Order, Root};

/// An index build that was started and neither committed nor aborted.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Build {
    pub collection: Uuid,
    pub indexes: Vec<RawDocumentBuf>,
}

/// Started index builds.
pub(super) type Builds = BTreeMap<Uuid, Build>;

/// What commands change, and where in the oplog they stand.
pub(super) struct Commands<'a> {
    pub catalog: &'a mut Catalog,
    pub builds: &'a mut Builds,
    pub absent: &'a mut BTreeMap<Uuid, String>,
    pub scope: &'a Scope,
    pub changes: &'a mut Changes,
    pub capped: &'a mut BTreeMap<Uuid, Capped>,
    pub counters: &'a Counters,
    pub ts: Ts,
    pub fuzzy: bool,
    /// What is not held is found by a scan that began later.
    pub expecting: bool,
}

impl Commands<'_> {
    pub fn run(&mut self, db: &str, uuid: Option<Uuid>, command: Command<'_>) -> Result<(), Error> {
        let full = |name: &str| format!("{db}.{name}");
        match command {
            Command::Create { name, spec, id_index } => {
                self.create(&full(name), uuid, spec, id_index)
            }
            Command::Drop { name } => self.drop_named(uuid, &full(name)),
            Command::DropDatabase => self.drop_database(db),
            Command::Rename { from, to, drop_target, stay_temp } => {
                self.rename(uuid, from, to, drop_target, stay_temp)
            }
            Command::CollMod { name, changes } => self.coll_mod(uuid, &full(name), changes),
            Command::CreateIndexes { name, spec } => {
                let spec = self.read(&full(name), without(spec, &["createIndexes"]))?;
                self.create_indexes(uuid, &full(name), vec![spec])
            }
            Command::StartIndexBuild(build) => self.start_build(uuid, &full(build.name), &build),
            Command::CommitIndexBuild(build) => {
                self.builds.remove(&build.build);
                let ns = full(build.name);
                let specs = self.specs(&ns, &build)?;
                self.create_indexes(uuid, &ns, specs)
            }
            Command::AbortIndexBuild(build) => {
                self.builds.remove(&build.build);
                Ok(())
            }
            Command::DropIndexes { name, index } => self.drop_index(uuid, &full(name), index),
            Command::EmptyCapped { name } => self.empty(uuid, &full(name)),
            Command::ConvertToCapped { name, .. } => {
                self.rescan(&full(name), Rescan::ConvertedToCapped)
            }
            Command::TruncateRange { ns } => self.rescan(ns, Rescan::Truncated),
            Command::ImportCollection { spec } => {
                let ns = spec.get_str("importCollection").unwrap_or(db);
                self.rescan(ns, Rescan::Imported)
            }
            // It names no collection where a filter by name would find it.
            Command::ViewlessTimeseries { .. } if !self.scope.keeps_temporary(db) => Ok(()),
            Command::ViewlessTimeseries { .. } => {
                let (ns, why) = (db.to_owned(), Rescan::ViewlessTimeseries);
                Err(Error::NeedsRescan { ts: self.ts, ns, why })
            }
        }
    }

    fn find(&self, uuid: Option<Uuid>, ns: &str) -> Option<Uuid> {
        match uuid {
            Some(uuid) => self.catalog.get(uuid).map(|_| uuid),
            None => self.catalog.holder(ns),
        }
    }

    /// The collection of a command that needs one; none if it is rightly not there.
    fn need(&self, uuid: Option<Uuid>, ns: &str) -> Result<Option<Uuid>, Error> {
        match self.find(uuid, ns) {
            None if self.scope.keeps(ns) && !self.is_absent(uuid) && !self.fuzzy => {
                Err(Error::UnknownCollection { ts: self.ts, ns: ns.to_owned(), uuid })
            }
            found => Ok(found),
        }
    }

    /// Whether the documents of a collection are known to be missing.
    fn is_absent(&self, uuid: Option<Uuid>) -> bool {
        uuid.is_some_and(|uuid| self.absent.contains_key(&uuid))
    }

    fn surprise(&self) {
        if !self.fuzzy {
            count(&self.counters.catalog);
        }
    }

    fn rescan(&self, ns: &str, why: Rescan) -> Result<(), Error> {
        let found = self.expecting && self.catalog.holder(ns).is_none();
        if self.scope.keeps(ns) && !found {
            return Err(Error::NeedsRescan { ts: self.ts, ns: ns.to_owned(), why });
        }
        Ok(())
    }

    fn read<T>(&self, ns: &str, result: Result<T, bson::error::Error>) -> Result<T, Error> {
        result.map_err(|source| Error::Bson { what: "catalog command", ns: ns.to_owned(), source })
    }

    /// Makes a name free for a collection.
    fn vacate(&mut self, ns: &str, uuid: Uuid) -> Result<(), Error> {
        match self.catalog.holder(ns) {
            Some(holder) if holder != uuid && self.fuzzy => {
                self.catalog.move_aside(self.ts, holder)
            }
            _ => Ok(()),
        }
    }

    fn create(
        &mut self,
        ns: &str,
        uuid: Option<Uuid>,
        spec: &RawDocument,
        id_index: Option<&RawDocument>,
    ) -> Result<(), Error> {
        let temporary = is_temporary(spec) && self.scope.keeps_temporary(ns);
        if !temporary && !self.scope.keeps(ns) {
            return Ok(());
        }
        let ts = self.ts;
        if self.read(ns, spec.get("viewOn"))?.is_some() {
            let (ns, field) = (ns.to_owned(), "viewOn".to_owned());
            return Err(Error::UnknownField { ts, command: "create", ns, field });
        }
        let uuid = uuid.ok_or(Error::UnknownCollection { ts, ns: ns.to_owned(), uuid })?;
        self.vacate(ns, uuid)?;
        if self.catalog.get(uuid).is_some() {
            self.surprise();
            return self.catalog.rename(ts, uuid, ns);
        }
        let options = self.read(ns, without(spec, &["create", "idIndex"]))?;
        let indexless = is_clustered(&options)
            || matches!(options.get("autoIndexId"), Ok(Some(value)) if !is_true(value));
        let indexes = match id_index {
            Some(spec) => vec![spec.to_owned()],
            None if indexless => Vec::new(),
            None => vec![default_id_index()],
        };
        let order = if is_capped(&options) { Order::Positional } else { Order::Keyed };
        let ns = ns.to_owned();
        self.catalog
            .insert(ts, Collection { uuid, ns, options, indexes, order, root: Root::default() })
    }

    /// Removes a collection and all that waits for it.
    pub fn forget(&mut self, uuid: Uuid) {
        self.catalog.remove(uuid);
        self.changes.forget(uuid);
        self.capped.remove(&uuid);
        self.absent.remove(&uuid);
        self.builds.retain(|_, build| build.collection != uuid);
    }

    fn drop_named(&mut self, uuid: Option<Uuid>, ns: &str) -> Result<(), Error> {
        match self.find(uuid, ns) {
            Some(uuid) => self.forget(uuid),
            None if self.is_absent(uuid) => {
                uuid.map(|uuid| self.absent.remove(&uuid));
            }
            None if self.scope.keeps(ns) => self.surprise(),
            None => {}
        }
        Ok(())
    }

    fn drop_database(&mut self, db: &str) -> Result<(), Error> {
        let of_db = self.catalog.iter().map(|entry| &entry.collection);
        let left: Vec<Uuid> =
            of_db.filter(|entry| split(&entry.ns).0 == db).map(|entry| entry.uuid).collect();
        for uuid in left {
            self.surprise();
            self.forget(uuid);
        }
        self.absent.retain(|_, ns| split(ns).0 != db);
        Ok(())
    }

    fn rename(
        &mut self,
        uuid: Option<Uuid>,
        from: &str,
        to: &str,
        drop_target: Option<Uuid>,
        stay_temp: bool,
    ) -> Result<(), Error> {
        let found = self.find(uuid, from);
        if let Some(target) = drop_target.filter(|target| Some(*target) != found) {
            self.forget(target);
        }
        let Some(uuid) = found else { return self.rename_unheld(uuid, from, to) };
        let tracked = self.scope.keeps(to) || (stay_temp && self.scope.keeps_temporary(to));
        if !tracked && !self.fuzzy {
            self.forget(uuid);
            return Ok(());
        }
        self.vacate(to, uuid)?;
        self.catalog.rename(self.ts, uuid, to)?;
        if !stay_temp && let Some(collection) = self.catalog.change(uuid) {
            let options = without(&collection.options, &["temp"]);
            collection.options = options.map_err(|source| Error::Bson {
                what: "options",
                ns: to.to_owned(),
                source,
            })?;
        }
        Ok(())
    }

    /// A collection that was not tracked may get a name that is: its documents are in no entry.
    fn rename_unheld(&mut self, uuid: Option<Uuid>, from: &str, to: &str) -> Result<(), Error> {
        let known = uuid.is_some_and(|uuid| self.absent.remove(&uuid).is_some());
        let tracked = self.scope.keeps(to);
        match uuid {
            Some(uuid) if tracked && (known || !self.scope.keeps(from)) => {
                self.absent.insert(uuid, to.to_owned());
                Ok(())
            }
            _ if self.fuzzy || !tracked => Ok(()),
            _ => Err(Error::UnknownCollection { ts: self.ts, ns: from.to_owned(), uuid }),
        }
    }

    fn coll_mod(
        &mut self,
        uuid: Option<Uuid>,
        ns: &str,
        changes: &RawDocument,
    ) -> Result<(), Error> {
        let Some(uuid) = self.need(uuid, ns)? else { return Ok(()) };
        if let Some(collection) = self.catalog.change(uuid)
            && !coll_mod::apply(collection, changes, self.ts)?
        {
            self.surprise();
        }
        Ok(())
    }

    fn create_indexes(
        &mut self,
        uuid: Option<Uuid>,
        ns: &str,
        specs: Vec<RawDocumentBuf>,
    ) -> Result<(), Error> {
        let Some(uuid) = self.need(uuid, ns)? else { return Ok(()) };
        let Some(collection) = self.catalog.change(uuid) else { return Ok(()) };
        let mut existing = false;
        for spec in specs {
            let name = index_name(&spec);
            if collection.indexes.iter().any(|index| index_name(index) == name) {
                existing = true;
            } else {
                collection.indexes.push(spec);
            }
        }
        if existing {
            self.surprise();
        }
        Ok(())
    }

    fn specs(&self, ns: &str, build: &IndexBuild<'_>) -> Result<Vec<RawDocumentBuf>, Error> {
        let mut specs = Vec::new();
        for spec in build.indexes {
            if let Some(spec) = self.read(ns, spec)?.as_document() {
                specs.push(spec.to_owned());
            }
        }
        Ok(specs)
    }

    fn start_build(
        &mut self,
        uuid: Option<Uuid>,
        ns: &str,
        build: &IndexBuild<'_>,
    ) -> Result<(), Error> {
        let Some(collection) = self.need(uuid, ns)? else { return Ok(()) };
        let indexes = self.specs(ns, build)?;
        self.builds.entry(build.build).or_insert(Build { collection, indexes });
        Ok(())
    }

    fn drop_index(&mut self, uuid: Option<Uuid>, ns: &str, name: &str) -> Result<(), Error> {
        let Some(uuid) = self.find(uuid, ns) else {
            if self.scope.keeps(ns) && !self.is_absent(uuid) {
                self.surprise();
            }
            return Ok(());
        };
        if let Some(collection) = self.catalog.change(uuid) {
            collection.indexes.retain(|spec| index_name(spec) != name);
        }
        Ok(())
    }

    fn empty(&mut self, uuid: Option<Uuid>, ns: &str) -> Result<(), Error> {
        let Some(uuid) = self.need(uuid, ns)? else { return Ok(()) };
        self.catalog.empty(uuid);
        self.changes.forget(uuid);
        self.capped.remove(&uuid);
        Ok(())
    }
}
