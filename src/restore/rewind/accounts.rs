//! Users and roles that differ.

use std::collections::{BTreeSet, HashSet};

use bson::RawDocument;

use super::Both;
use super::find::Catalog;
use super::plan::{Action, PlannedChange};
use crate::restore::items::text;
use crate::restore::{Differ, Error, Filter, Pair};
use crate::tree::Difference;

/// The collections of users and of roles.
pub(super) const ACCOUNTS: [&str; 2] = ["admin.system.users", "admin.system.roles"];

/// Documents of `admin.system.users` or `admin.system.roles` that differ, by `_id`.
#[derive(Default)]
pub(super) struct Accounts {
    /// What must be written.
    pub put: BTreeSet<String>,
    /// What must go.
    pub dropped: BTreeSet<String>,
}

impl Accounts {
    pub fn len(&self) -> usize {
        self.put.len() + self.dropped.len()
    }

    fn spare(&mut self, ids: &HashSet<String>) -> Vec<String> {
        let all = self.put.iter().chain(&self.dropped);
        let spared: Vec<String> = all.filter(|id| ids.contains(*id)).cloned().collect();
        for id in &spared {
            self.put.remove(id);
            self.dropped.remove(id);
        }
        spared
    }
}

/// Users and roles that differ.
#[derive(Default)]
pub(super) struct Users {
    pub users: Accounts,
    pub roles: Accounts,
    /// Those that are left as they are, since the rewind is logged in by them.
    pub spared: HashSet<String>,
    /// Those of them that differ.
    pub left: Vec<String>,
}

impl Users {
    /// Leaves these as they are.
    pub fn spare(&mut self, ids: &HashSet<String>) {
        self.left = self.users.spare(ids);
        self.left.extend(self.roles.spare(ids));
        self.spared.clone_from(ids);
    }

    /// As changes of a plan.
    pub fn planned(&self) -> impl Iterator<Item = PlannedChange> {
        let kinds = [("users", &self.users), ("roles", &self.roles)];
        kinds.into_iter().filter(|(_, accounts)| accounts.len() > 0).map(|(kind, accounts)| {
            PlannedChange {
                ns: format!("admin.system.{kind}"),
                kind: kind.to_owned(),
                action: Action::Change,
                renamed_from: None,
                reason: None,
                added: 0,
                changed: accounts.put.len() as u64,
                removed: accounts.dropped.len() as u64,
                bytes: 0,
                sets_options: Vec::new(),
                drops_indexes: Vec::new(),
                builds_indexes: Vec::new(),
            }
        })
    }
}

/// Users and roles that differ, where they are selected: always both, for a user is one of its roles.
pub(super) fn find(
    both: &Both,
    now: &Catalog<'_>,
    then: &Catalog<'_>,
    differ: &mut Differ<'_>,
) -> Result<Users, Error> {
    let mut users = Users::default();
    let covered = |filter: &Filter| ACCOUNTS.iter().any(|ns| filter.covers(ns));
    let selected = both.filters.is_empty() || both.filters.iter().any(covered);
    if !selected {
        return Ok(users);
    }
    let sides =
        [(&mut users.users, &now.users, &then.users), (&mut users.roles, &now.roles, &then.roles)];
    for (accounts, before, after) in sides {
        let pair = Pair { before: before.as_ref(), after: after.as_ref() };
        if pair.before.is_none() && pair.after.is_none() {
            continue;
        }
        let id = |document: &RawDocument| text(document, "_id").unwrap_or_default().to_owned();
        differ.documents(&pair, &mut |_, difference| {
            let (ids, document) = match &difference {
                Difference::Removed(gone) => (&mut accounts.dropped, gone),
                Difference::Added(put) | Difference::Changed(_, put) => (&mut accounts.put, put),
            };
            ids.insert(id(document));
            Ok(true)
        })?;
    }
    Ok(users)
}
