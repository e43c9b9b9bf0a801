//! What must change to get from now to then.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bson::RawDocument;

use super::Both;
use super::accounts::{self, Users};
use super::plan::Action;
use super::settings::{self, Settings};

use crate::head::Collection;
use crate::oplog::Uuid;
use crate::restore::Amount;
use crate::restore::items::{self, Item, Shape, text};
use crate::restore::live;
use crate::restore::{Cancel, Contents, Differ, Error, Filter, Pair, Phase, Progress};
use crate::tree::Difference;

/// Names that a text gives; others are counted.
const NAMED_MAX: usize = 10;
/// By what documents are deleted by age, of an index or of a collection.
const TTL: &str = "expireAfterSeconds";

/// What becomes of one namespace.
pub(super) struct Change {
    /// As it is now.
    pub now: Option<Item>,
    /// As it was then.
    pub then: Option<Item>,
    /// What happens to it.
    pub action: Action,
    /// Why it is recreated.
    pub reason: Option<&'static str>,
    /// Names of indexes that are dropped before documents are written.
    pub drops_indexes: Vec<String>,
    /// Names of indexes that are built after it.
    pub builds_indexes: Vec<String>,
    /// Options that are set.
    pub settings: Settings,
    /// Documents.
    pub counts: Counts,
}

impl Change {
    /// The namespace as it was then, or is now if it goes.
    pub fn newest(&self) -> &Item {
        self.then.as_ref().or(self.now.as_ref()).expect("a change has one of them")
    }

    /// Both sides of a namespace that stays, if it gets another name.
    pub fn renamed(&self) -> Option<(&Item, &Item)> {
        let (now, then) = self.now.as_ref().zip(self.then.as_ref())?;
        (self.action == Action::Change && now.ns != then.ns).then_some((now, then))
    }

    /// The collection on both sides.
    pub fn pair(&self) -> Pair<'_> {
        let (now, then) = (self.now.as_ref(), self.then.as_ref());
        Pair {
            before: now.and_then(|now| now.data.as_ref()),
            after: then.and_then(|then| then.data.as_ref()),
        }
    }
}

/// Documents that differ.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Only then.
    pub added: u64,
    /// At both moments, with other bytes.
    pub changed: u64,
    /// Only now.
    pub removed: u64,
    /// Bytes of those added and changed.
    pub bytes: u64,
}

impl Counts {
    fn add(&mut self, difference: &Difference) {
        let (count, document) = match difference {
            Difference::Added(document) => (&mut self.added, Some(document)),
            Difference::Changed(_, document) => (&mut self.changed, Some(document)),
            Difference::Removed(_) => (&mut self.removed, None),
        };
        *count += 1;
        self.bytes += document.map_or(0, |document| document.as_bytes().len() as u64);
    }

    /// Of a namespace that goes, comes, or both, as a whole.
    fn whole(now: Option<&Item>, then: Option<&Item>) -> Self {
        Self {
            added: then.map_or(0, Item::documents),
            changed: 0,
            removed: now.map_or(0, Item::documents),
            bytes: then.map_or(0, Item::bytes),
        }
    }

    /// Whether nothing differs.
    pub fn is_none(&self) -> bool {
        self.added + self.changed + self.removed == 0
    }
}

/// All that must change.
pub(super) struct Found {
    /// By the name of the namespace.
    pub changes: Vec<Change>,
    /// Users and roles.
    pub users: Users,
    /// Whether the filters select anything of either moment.
    pub selects: bool,
    /// Whether documents of the changes may be past their age.
    expiring: Vec<String>,
}

impl Found {
    /// Compares two moments. Blocking.
    ///
    /// # Errors
    /// [`Error::RewindFiltered`], [`Error::RewindAbsent`], [`Error::RewindDiverted`],
    /// [`Error::HalfSelected`], and those of reading the backup.
    pub fn find(both: &Both, progress: &dyn Progress, cancel: &Cancel) -> Result<Self, Error> {
        both.hold_everything()?;
        progress.begin(Phase::Differ, Amount::default());
        let now = Catalog::new(both.now.contents(), progress)?;
        let then = Catalog::new(both.then.contents(), progress)?;
        let repository = both.repository.clone();
        let mut differ = Differ::new(now.contents(), then.contents(), repository, cancel);
        let mut finder = Finder { both, now: &now, then: &then, changes: Vec::new() };
        finder.views();
        for pair in differ.pairs()? {
            finder.pair(&pair, &mut differ)?;
        }
        finder.check_diverted()?;
        let selects = finder.selects();
        let mut changes = finder.changes;
        changes.sort_by(|a, b| a.newest().ns.cmp(&b.newest().ns));
        let users = accounts::find(both, &now, &then, &mut differ)?;
        let expires = |change: &&Change| change.then.as_ref().is_some_and(expires);
        let expiring = changes.iter().filter(expires).map(|change| change.newest().ns.clone());
        let expiring = expiring.collect();
        Ok(Self { changes, users, selects, expiring })
    }

    /// Collections that are written whole.
    pub fn whole(&self) -> impl Iterator<Item = &Collection> {
        let whole = |change: &&Change| matches!(change.action, Action::Create | Action::Recreate);
        self.changes.iter().filter(whole).filter_map(|change| change.pair().after)
    }

    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if !self.expiring.is_empty() {
            warnings.push(format!(
                "what is past its age goes again as soon as the server looks: {}",
                some(self.expiring.iter())
            ));
        }
        if !self.users.left.is_empty() {
            warnings.push(format!(
                "left as they are, since the rewind is logged in by them: {}",
                some(self.users.left.iter())
            ));
        }
        warnings
    }
}

/// The first of some names, and how many others there are.
pub(super) fn some<'a>(names: impl ExactSizeIterator<Item = &'a String>) -> String {
    let more = names.len().saturating_sub(NAMED_MAX);
    let mut text = names.take(NAMED_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

/// Whether documents of a namespace are deleted by age.
fn expires(item: &Item) -> bool {
    let has = |document: &RawDocument| matches!(document.get(TTL), Ok(Some(_)));
    has(&item.options) || item.indexes().any(has)
}

/// One moment, as far as it is compared.
pub(super) struct Catalog<'a> {
    /// Collections that are compared, but for users and roles.
    collections: Vec<Collection>,
    whole: Contents<'a>,
    /// Namespaces as users see them, by the UUID of the collection that holds the documents.
    items: HashMap<Uuid, Item>,
    /// Views by name.
    views: BTreeMap<String, Item>,
    pub users: Option<Collection>,
    pub roles: Option<Collection>,
}

impl<'a> Catalog<'a> {
    fn new(whole: Contents<'a>, progress: &dyn Progress) -> Result<Self, Error> {
        let selection = items::select(whole.blocks, whole.collections, &[], progress)?;
        let (mut items, mut views) = (HashMap::new(), BTreeMap::new());
        let mut collections = Vec::new();
        for item in selection.items {
            if let Some(data) = &item.data {
                collections.push(data.clone());
                items.insert(data.uuid, item);
            } else {
                views.insert(item.ns.clone(), item);
            }
        }
        let (users, roles) = (selection.users, selection.roles);
        Ok(Self { collections, whole, items, views, users, roles })
    }

    fn contents(&self) -> Contents<'_> {
        Contents { collections: &self.collections, blocks: self.whole.blocks }
    }

    fn item(&self, of: Option<&Collection>) -> Option<Item> {
        of.and_then(|of| self.items.get(&of.uuid)).cloned()
    }
}

/// Gathers changes.
struct Finder<'a> {
    both: &'a Both,
    now: &'a Catalog<'a>,
    then: &'a Catalog<'a>,
    changes: Vec<Change>,
}

impl Finder<'_> {
    fn covers(&self, item: &Item) -> bool {
        let filters = &self.both.filters;
        let data = item.data.as_ref().map(|data| &data.ns);
        let covered =
            |filter: &Filter| filter.covers(&item.ns) || data.is_some_and(|ns| filter.covers(ns));
        filters.is_empty() || filters.iter().any(covered)
    }

    /// Whether the filters select anything of either moment.
    fn selects(&self) -> bool {
        let filters = &self.both.filters;
        let mut all = [self.now, self.then]
            .into_iter()
            .flat_map(|catalog| catalog.items.values().chain(catalog.views.values()));
        let admin = filters.iter().any(|filter| filter.database == "admin");
        filters.is_empty() || admin || all.any(|item| self.covers(item))
    }

    /// Fails where something is to be done to a collection or view beside buckets that take what is
    /// written to it, or to these: dropped by name, they take the other with them (seen on 6.0.5).
    fn check_diverted(&self) -> Result<(), Error> {
        let touched = self.changes.iter().flat_map(|change| [&change.now, &change.then]);
        let touched: BTreeSet<&String> = touched.flatten().map(|item| &item.ns).collect();
        for (when, moment) in [("now", self.now), ("at this point", self.then)] {
            let names = moment.items.values().map(|item| &item.ns).chain(moment.views.keys());
            let names: BTreeSet<&String> = names.collect();
            for buckets in moment.items.values() {
                let ns = buckets.diverts().filter(|ns| names.contains(ns));
                let touches = |ns: &String| touched.contains(ns) || touched.contains(&buckets.ns);
                if let Some(ns) = ns.filter(touches) {
                    return Err(Error::RewindDiverted { when, ns, buckets: buckets.ns.clone() });
                }
            }
        }
        Ok(())
    }

    fn views(&mut self) {
        let (now, then) = (&self.now.views, &self.then.views);
        let names: BTreeSet<&String> = now.keys().chain(then.keys()).collect();
        for ns in names {
            let (now, then) = (now.get(ns), then.get(ns));
            let action = match (now, then) {
                (Some(now), Some(then)) if now.options == then.options => continue,
                (Some(_), Some(_)) => Action::Recreate,
                (Some(_), None) => Action::Drop,
                _ => Action::Create,
            };
            let reason = (action == Action::Recreate).then_some("definitions");
            let whole = Change {
                now: now.cloned(),
                then: then.cloned(),
                action,
                reason,
                drops_indexes: Vec::new(),
                builds_indexes: Vec::new(),
                settings: Settings::default(),
                counts: Counts::default(),
            };
            if self.covers(whole.newest()) {
                self.changes.push(whole);
            }
        }
    }

    fn pair(&mut self, pair: &Pair<'_>, differ: &mut Differ<'_>) -> Result<(), Error> {
        let (now, then) = (self.now.item(pair.before), self.then.item(pair.after));
        let covered = |item: &Option<Item>| item.as_ref().map(|item| self.covers(item));
        match (covered(&now), covered(&then)) {
            (Some(one), Some(other)) if one != other => {
                let ns = |item: Option<Item>| item.map(|item| item.ns).unwrap_or_default();
                return Err(Error::HalfSelected { now: ns(now), then: ns(then) });
            }
            (Some(true), _) | (_, Some(true)) => {}
            _ => return Ok(()),
        }
        let mut indexes = pair.indexes_differ()?;
        if let Some(then) = &then {
            all_or_none(&mut indexes, then);
        }
        let reason = match (&now, &then) {
            (Some(now), Some(then)) => reason(pair, &indexes, now, then)?,
            _ => None,
        };
        let action = match (&now, &then) {
            (Some(_), Some(_)) if reason.is_none() => Action::Change,
            (Some(_), Some(_)) => Action::Recreate,
            (Some(_), None) => Action::Drop,
            (None, _) => Action::Create,
        };
        let mut settings = Settings::default();
        let mut counts = Counts::whole(now.as_ref(), then.as_ref());
        let (mut drops_indexes, mut builds_indexes) = (Vec::new(), Vec::new());
        match action {
            Action::Drop | Action::Recreate => {}
            Action::Create => builds_indexes = index_names(then.as_ref(), None),
            Action::Change => {
                counts = Counts::default();
                differ.documents(pair, &mut |_, difference| {
                    counts.add(&difference);
                    Ok(true)
                })?;
                settings = Settings::find(pair)?;
                drops_indexes = index_names(now.as_ref(), Some(&indexes));
                builds_indexes = index_names(then.as_ref(), Some(&indexes));
            }
        }
        if action == Action::Recreate {
            builds_indexes = index_names(then.as_ref(), None);
        }
        let change =
            Change { now, then, action, reason, drops_indexes, builds_indexes, settings, counts };
        if !change.is_nothing() {
            self.changes.push(change);
        }
        Ok(())
    }
}

impl Change {
    /// Whether there is nothing to be done: a collection was made anew with the same content, or stored
    /// functions, which cannot be dropped, were emptied.
    fn is_nothing(&self) -> bool {
        let untouched = self.counts.is_none()
            && self.drops_indexes.is_empty()
            && self.builds_indexes.is_empty();
        match self.action {
            Action::Change => untouched && self.renamed().is_none() && self.settings.is_empty(),
            Action::Drop => untouched && self.newest().is_scripts(),
            Action::Create | Action::Recreate => false,
        }
    }
}

/// Why a collection that both moments have cannot be changed in place.
fn reason(
    pair: &Pair<'_>,
    indexes: &[String],
    now: &Item,
    then: &Item,
) -> Result<Option<&'static str>, Error> {
    let unlike = matches!((pair.before, pair.after), (Some(a), Some(b)) if a.root != b.root);
    Ok(match () {
        () if now.shape != then.shape => Some("kinds"),
        () if settings::others_differ(pair)? => Some("options"),
        () if indexes.iter().any(|name| name == "_id_") => Some("_id indexes"),
        () if now.db() != then.db() => Some("databases"),
        () if now.shape == Shape::TimeSeries && now.ns != then.ns => Some("names"),
        () if then.shape == Shape::Capped && unlike => Some("documents"),
        () => None,
    })
}

/// Adds to names of indexes all that can only be built with them.
fn all_or_none(names: &mut Vec<String>, then: &Item) {
    let equal = live::equal_keys(then);
    if names.iter().any(|name| equal.contains(&**name)) {
        let missing = equal.into_iter().filter(|one| !names.iter().any(|name| name == one));
        let missing: Vec<String> = missing.map(str::to_owned).collect();
        names.extend(missing);
    }
}

/// Names of the secondary indexes of a namespace, or of those of them that differ.
fn index_names(item: Option<&Item>, differing: Option<&[String]>) -> Vec<String> {
    let specs = item.into_iter().flat_map(Item::secondary_indexes);
    let names = specs.filter_map(|spec| text(spec, "name")).map(str::to_owned);
    names.filter(|name| differing.is_none_or(|differing| differing.contains(name))).collect()
}
