//! The course of a live restore: see the module above for the order and its reason.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};

use super::{Existing, Live, Marker, OWN_DATABASES, Outcome};
use crate::block::BlockRead;
use crate::head::namespaces::split;
use crate::restore::items::{BUCKETS, Item, Selection, Shape, by_dependency, series_of};
use crate::restore::read::Summary;
use crate::restore::request::Filter;
use crate::restore::{Amount, Error, Phase};

/// Collections that are made at a time. Each has senders of its own; more only cost memory.
const COLLECTIONS_AT_A_TIME: usize = 3;

/// What a live restore does.
pub(in crate::restore) struct Work<'a> {
    /// What to make.
    pub selection: &'a Selection,
    /// Where the documents are.
    pub blocks: Arc<dyn BlockRead>,
    /// The marker.
    pub marker: Marker,
    /// What to drop first.
    pub drops: &'a [String],
}

/// What a restore into a target did.
#[derive(Debug, Default)]
pub(in crate::restore) struct Done {
    /// Documents written.
    pub documents: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Indexes built.
    pub indexes: u64,
    /// What was compared, and what not.
    pub outcome: Outcome,
}

impl Live {
    /// Does it all.
    pub async fn restore(&self, work: &Work<'_>) -> Result<Done, Error> {
        self.put_marker(&work.marker).await?;
        for ns in work.drops {
            let (db, name) = split(ns);
            self.drop_namespace(db, name).await?;
        }
        let mut done = Done::default();
        for items in work.selection.in_turn() {
            self.make_all(&items, work, &mut done).await?;
        }
        self.add_users(work, &mut done).await?;
        self.remove_marker(&work.marker).await?;
        Ok(done)
    }

    /// Makes items, compares them and lets them expire.
    async fn make_all(
        &self,
        items: &[&Item],
        work: &Work<'_>,
        done: &mut Done,
    ) -> Result<(), Error> {
        if items.is_empty() {
            return Ok(());
        }
        let loaded = self.load_all(items, work, done).await?;
        let views = items.iter().copied().filter(|item| item.shape == Shape::View);
        let views = by_dependency(views.collect());
        for view in &views {
            self.create(view).await?;
        }
        let views = views.into_iter().map(|view| (view, Summary::default()));
        self.compare_all(loaded.into_iter().chain(views).collect(), done).await?;
        self.let_all_expire(items, done).await
    }

    async fn load_all<'a>(
        &self,
        items: &[&'a Item],
        work: &Work<'_>,
        done: &mut Done,
    ) -> Result<Vec<(&'a Item, Summary)>, Error> {
        self.progress.begin(Phase::Load, amount(items));
        let mut items: Vec<&Item> =
            items.iter().copied().filter(|item| item.data.is_some()).collect();
        // The largest first: one begun last would be loaded alone.
        items.sort_by_key(|item| std::cmp::Reverse(item.bytes()));
        let making = futures::stream::iter(items).map(|item| {
            let blocks = work.blocks.clone();
            async move {
                self.create(item).await?;
                let summary = self.load(blocks, item).await?;
                self.lower_bounds(item).await?;
                let indexes = self.build_indexes(item).await?;
                Ok::<_, Error>((item, summary, indexes))
            }
        });
        let made: Vec<_> = making.buffer_unordered(COLLECTIONS_AT_A_TIME).try_collect().await?;
        let mut loaded = Vec::with_capacity(made.len());
        for (item, summary, indexes) in made {
            done.documents += summary.documents;
            done.bytes += summary.bytes;
            done.indexes += indexes;
            loaded.push((item, summary));
        }
        Ok(loaded)
    }

    async fn compare_all(
        &self,
        items: Vec<(&Item, Summary)>,
        done: &mut Done,
    ) -> Result<(), Error> {
        let all: Vec<&Item> = items.iter().map(|(item, _)| *item).collect();
        self.progress.begin(Phase::Compare, amount(&all));
        let mut databases = BTreeMap::<&str, Vec<(&Item, Summary)>>::new();
        for (item, summary) in items {
            databases.entry(item.db()).or_default().push((item, summary));
        }
        for (db, items) in databases {
            self.compare(db, &items, &mut done.outcome).await?;
        }
        Ok(())
    }

    async fn let_all_expire(&self, items: &[&Item], done: &mut Done) -> Result<(), Error> {
        self.progress.begin(Phase::BuildIndexes, Amount::default());
        let mut expiring = Vec::new();
        for item in items {
            if let Some(built) = self.let_expire(item).await? {
                done.indexes += built;
                expiring.push(item.ns.as_str());
            }
        }
        if let Some(first) = expiring.first() {
            let others = match expiring.len() - 1 {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            done.outcome.notes.push(format!(
                "documents expire again in {first}{others}: the server may be deleting what is past \
                 its age by now"
            ));
        }
        Ok(())
    }

    async fn add_users(&self, work: &Work<'_>, done: &mut Done) -> Result<(), Error> {
        let (users, roles) = (work.selection.users.as_ref(), work.selection.roles.as_ref());
        if users.is_none() && roles.is_none() {
            return Ok(());
        }
        let left = self.merge_users(work.blocks.clone(), users, roles).await?;
        if !left.is_empty() {
            done.outcome.notes.push(format!(
                "left as they are at the target, since this restore is logged in by them: {}",
                left.join(", ")
            ));
        }
        Ok(())
    }
}

/// Documents and bytes of items.
fn amount(items: &[&Item]) -> Amount {
    let (documents, bytes) =
        (items.iter().map(|item| item.documents()), items.iter().map(|item| item.bytes()));
    Amount { documents: documents.sum(), bytes: bytes.sum() }
}

/// Names of the target that stand where an item goes.
pub(in crate::restore) fn in_the_way(existing: &Existing, item: &Item) -> Vec<String> {
    let Some(names) = existing.get(item.db()) else { return Vec::new() };
    // Buckets may be left without their view, and would then be taken for those of the new one.
    let buckets = format!("{BUCKETS}{}", item.name());
    let taken = [item.name(), &buckets].into_iter().filter(|name| names.contains_key(*name));
    taken.map(|name| format!("{}.{name}", item.db())).collect()
}

/// A namespace that is not to be dropped, and buckets that a server does not drop without it: it takes
/// their name for that of a time series, whatever has it (seen on 6.0.5).
pub(in crate::restore) fn dropped_along(
    existing: &Existing,
    drops: &[String],
) -> Option<(String, String)> {
    drops.iter().find_map(|buckets| {
        let ns = series_of(buckets)?;
        let (db, name) = split(&ns);
        let stays = existing.get(db)?.contains_key(name) && !drops.contains(&ns);
        stays.then(|| (ns, buckets.clone()))
    })
}

/// Namespaces of the target within the filters that no item replaces, the server's own excepted.
pub(in crate::restore) fn surplus(
    existing: &Existing,
    items: &[Item],
    filters: &[Filter],
) -> Vec<String> {
    let kept: HashSet<&str> = items.iter().map(|item| item.ns.as_str()).collect();
    let mut surplus = Vec::new();
    for (db, names) in existing.iter().filter(|(db, _)| !OWN_DATABASES.contains(&db.as_str())) {
        for name in names.keys().filter(|name| !name.starts_with("system.")) {
            let ns = format!("{db}.{name}");
            let covered = filters.is_empty() || filters.iter().any(|filter| filter.covers(&ns));
            if covered && !kept.contains(&*ns) {
                surplus.push(ns);
            }
        }
    }
    surplus.sort_unstable();
    surplus
}
