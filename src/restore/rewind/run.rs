//! The course of a rewind: what goes, names, then each collection, then views, users and roles.
//!
//! Names first, so that each is free when it is needed; indexes that then had not go before documents
//! are written, and those that only then had are built after it, each with documents that satisfy it.
//! What lets the server delete by age comes after all documents.

use std::collections::HashSet;

use bson::RawDocument;

use super::Rewind;
use super::accounts::ACCOUNTS;
use super::documents::Writer;
use super::find::Change;
use super::plan::{Action, Written};
use crate::head::Collection;
use crate::head::namespaces::split;
use crate::restore::items::{Item, Shape, by_dependency, text};
use crate::restore::live::{expiring, lasting};
use crate::restore::{Amount, Error, Phase};

impl Rewind {
    /// Does it. Run again, after a new plan, it goes on with what is left.
    ///
    /// # Errors
    /// Any failure on the way. The target is then between both moments.
    pub async fn execute(&self) -> Result<Written, Error> {
        let mut written = Written::default();
        let plan = &self.plan;
        let documents = plan.added + plan.changed + plan.removed;
        self.progress.begin(Phase::Load, Amount { documents, bytes: plan.bytes });
        self.drop_all().await?;
        self.rename_all().await?;
        for change in &self.found.changes {
            self.collection(change, &mut written).await?;
        }
        let views = self.found.changes.iter().filter_map(|change| change.then.as_ref());
        let views = views.filter(|item| item.shape == Shape::View);
        for view in by_dependency(views.collect()) {
            self.live.create(view).await?;
        }
        self.progress.begin(Phase::BuildIndexes, Amount::default());
        for change in &self.found.changes {
            self.let_expire(change, &mut written).await?;
        }
        self.accounts().await?;
        Ok(written)
    }

    /// Drops what goes, and what is in the way of a name. Views first: nothing depends on them.
    async fn drop_all(&self) -> Result<(), Error> {
        let is_view = |item: &Item| item.shape == Shape::View;
        let gone: Vec<&Item> = self.found.changes.iter().filter_map(in_the_way).collect();
        let (views, others): (Vec<_>, Vec<_>) = gone.into_iter().partition(|item| is_view(item));
        for item in views.into_iter().chain(others) {
            self.live.drop_namespace(item.db(), item.name()).await?;
        }
        Ok(())
    }

    /// Gives collections their names. What stands in the way is itself renamed first, and where they
    /// stand in a circle, one gets a name of no meaning in between.
    async fn rename_all(&self) -> Result<(), Error> {
        let renamed = self.found.changes.iter().filter_map(Change::renamed);
        let mut left: Vec<(String, String)> =
            renamed.map(|(now, then)| (now.ns.clone(), then.ns.clone())).collect();
        while !left.is_empty() {
            let taken: HashSet<&String> = left.iter().map(|(from, _)| from).collect();
            let free = left.iter().position(|(_, to)| !taken.contains(to));
            match free {
                Some(free) => {
                    let (from, to) = left.swap_remove(free);
                    self.live.rename(&from, &to).await?;
                }
                None => {
                    let (from, _) = &mut left[0];
                    let aside = rand::random::<u64>();
                    let aside = format!("{}.headstock_rewind_{aside:016x}", split(from).0);
                    self.live.rename(from, &aside).await?;
                    *from = aside;
                }
            }
        }
        Ok(())
    }

    async fn collection(&self, change: &Change, written: &mut Written) -> Result<(), Error> {
        let Some(then) = change.then.as_ref().filter(|item| item.shape != Shape::View) else {
            return Ok(());
        };
        if change.action == Action::Change {
            self.live.set_options(then, &change.settings.first).await?;
            self.live.drop_indexes(then, &change.drops_indexes).await?;
            let (both, live) = (&self.both, &self.live);
            let writer = Writer { both, live, progress: &self.progress, cancel: &self.cancel };
            writer.write(change, written).await?;
            let specs = lasting(then, builds(change, then));
            written.indexes += self.live.create_indexes(then, &specs).await?;
            return Ok(());
        }
        if change.action == Action::Recreate {
            self.live.drop_namespace(then.db(), then.name()).await?;
        }
        self.live.create(then).await?;
        let summary = self.live.load(self.both.then.blocks.clone(), then).await?;
        self.live.lower_bounds(then).await?;
        written.inserted += summary.documents;
        written.bytes += summary.bytes;
        written.indexes += self.live.build_indexes(then).await?;
        Ok(())
    }

    async fn let_expire(&self, change: &Change, written: &mut Written) -> Result<(), Error> {
        let Some(then) = change.then.as_ref().filter(|item| item.shape != Shape::View) else {
            return Ok(());
        };
        let built = match change.action {
            Action::Change => {
                self.live.set_options(then, &change.settings.last).await?;
                let specs = expiring(then, builds(change, then));
                self.live.create_indexes(then, &specs).await?
            }
            _ => self.live.let_expire(then).await?.unwrap_or_default(),
        };
        written.indexes += built;
        Ok(())
    }

    /// Makes users and roles those of then, if any differ.
    async fn accounts(&self) -> Result<(), Error> {
        let users = &self.found.users;
        if users.users.len() + users.roles.len() == 0 {
            return Ok(());
        }
        let (now, then) = (&self.both.now, &self.both.then);
        let both = |all| ACCOUNTS.map(|ns| named(all, ns));
        let now = (now.blocks.clone(), both(&now.collections));
        let then = (then.blocks.clone(), both(&then.collections));
        self.live.replace_users(then, now, &users.spared).await
    }
}

fn named<'a>(all: &'a [Collection], ns: &str) -> Option<&'a Collection> {
    all.iter().find(|collection| collection.ns == ns)
}

/// What must go before anything is renamed or made; none if it is in nothing's way.
fn in_the_way(change: &Change) -> Option<&Item> {
    let now = change.now.as_ref()?;
    let moves = change.then.as_ref().is_none_or(|then| then.ns != now.ns);
    match change.action {
        Action::Drop => Some(now),
        Action::Recreate if moves || now.shape == Shape::View => Some(now),
        Action::Recreate | Action::Create | Action::Change => None,
    }
}

/// The index specs of then that are built.
fn builds<'a>(change: &'a Change, then: &'a Item) -> impl Iterator<Item = &'a RawDocument> {
    let chosen = |spec: &&RawDocument| {
        text(spec, "name").is_some_and(|name| change.builds_indexes.iter().any(|one| one == name))
    };
    then.secondary_indexes().filter(chosen)
}
