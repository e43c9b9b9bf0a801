//! Merges users and roles into a live target.
//!
//! They go into temporary collections of `admin`, from which the server itself merges them: it adds
//! and replaces, and removes none. The user that restores, and the roles it has, are left as they are at the
//! target: replaced in the middle of the restore they could lock it out. So this comes last.

use std::collections::HashSet;
use std::sync::Arc;

use bson::{Document, rawdoc};

use super::Live;
use crate::block::BlockRead;
use crate::head::Collection;
use crate::restore::Error;
use crate::restore::items::{Item, Shape, text};
use crate::restore::read::{self, Batch, Batches};

/// Where their documents are, and the collections of users and of roles.
pub(in crate::restore) type Accounts<'a> = (Arc<dyn BlockRead>, [Option<&'a Collection>; 2]);

/// Which users or roles of a collection are meant, by their ids.
#[derive(Clone, Copy)]
enum Chosen<'a> {
    But(&'a HashSet<String>),
    Only(&'a HashSet<String>),
}

/// Where users and roles stand until the server merges them.
const TEMPORARY_USERS: &str = "headstock_restore_users";
/// See [`TEMPORARY_USERS`].
const TEMPORARY_ROLES: &str = "headstock_restore_roles";

impl Live {
    /// Merges users and roles. Returns what was left as it is.
    pub async fn merge_users(
        &self,
        blocks: Arc<dyn BlockRead>,
        users: Option<&Collection>,
        roles: Option<&Collection>,
    ) -> Result<Vec<String>, Error> {
        let spared = self.own_identity().await?;
        let mut left = Vec::new();
        let mut merged = Vec::new();
        let pairs =
            [(users, TEMPORARY_USERS, "system.users"), (roles, TEMPORARY_ROLES, "system.roles")];
        for (collection, temporary, into) in pairs {
            self.drop_namespace("admin", temporary).await?;
            let Some(collection) = collection else { continue };
            let chosen = Chosen::But(&spared);
            let (ids, kept) = self.stage(blocks.clone(), collection, temporary, chosen).await?;
            left.extend(kept);
            merged.extend(ids.into_iter().map(|id| (into, id)));
        }
        if merged.is_empty() {
            return Ok(left);
        }
        self.merge_staged(false).await?;
        for (collection, id) in merged {
            if !self.has(collection, &id).await? {
                return Err(Error::Different {
                    ns: format!("admin.{collection}"),
                    what: "documents",
                    found: "none".to_owned(),
                    expected: id,
                });
            }
        }
        self.drop_namespace("admin", TEMPORARY_USERS).await?;
        self.drop_namespace("admin", TEMPORARY_ROLES).await?;
        Ok(left)
    }

    /// Makes users and roles those of `then`, but for the spared, which stay as they are `now`.
    pub async fn replace_users(
        &self,
        then: Accounts<'_>,
        now: Accounts<'_>,
        spared: &HashSet<String>,
    ) -> Result<(), Error> {
        for (index, temporary) in [TEMPORARY_USERS, TEMPORARY_ROLES].into_iter().enumerate() {
            self.drop_namespace("admin", temporary).await?;
            for ((blocks, sides), chosen) in
                [(&then, Chosen::But(spared)), (&now, Chosen::Only(spared))]
            {
                if let Some(collection) = sides[index] {
                    self.stage(blocks.clone(), collection, temporary, chosen).await?;
                }
            }
        }
        self.merge_staged(true).await?;
        self.drop_namespace("admin", TEMPORARY_USERS).await?;
        self.drop_namespace("admin", TEMPORARY_ROLES).await
    }

    /// Lets the server add what is staged; with `replace` it also replaces those that are there, and
    /// drops all others.
    async fn merge_staged(&self, replace: bool) -> Result<(), Error> {
        let command = rawdoc! {
            "_mergeAuthzCollections": 1,
            "tempUsersCollection": format!("admin.{TEMPORARY_USERS}"),
            "tempRolesCollection": format!("admin.{TEMPORARY_ROLES}"),
            "db": "",
            "drop": replace,
        };
        self.run("admin", "_mergeAuthzCollections", command, "admin.system.users").await.map(drop)
    }

    /// `db.name` of the users that are logged in here and of every role they have.
    pub async fn own_identity(&self) -> Result<HashSet<String>, Error> {
        let status = rawdoc! { "connectionStatus": 1 };
        let reply = self.run("admin", "connectionStatus", status, "").await?;
        let info = reply.get_document("authInfo");
        let info = info.map_err(|_| self.lacks("connectionStatus", "authInfo"))?;
        let mut identity = HashSet::new();
        for (list, name) in [("authenticatedUsers", "user"), ("authenticatedUserRoles", "role")] {
            let entries = info.get_array(list).map(Vec::as_slice).unwrap_or_default();
            for entry in entries.iter().filter_map(|entry| entry.as_document()) {
                if let (Ok(db), Ok(name)) = (entry.get_str("db"), entry.get_str(name)) {
                    identity.insert(format!("{db}.{name}"));
                }
            }
        }
        Ok(identity)
    }

    /// Writes chosen users or roles into a temporary collection. Returns those written and those left.
    async fn stage(
        &self,
        blocks: Arc<dyn BlockRead>,
        collection: &Collection,
        temporary: &'static str,
        chosen: Chosen<'_>,
    ) -> Result<(Vec<String>, Vec<String>), Error> {
        let item = Item {
            ns: collection.ns.clone(),
            shape: Shape::Plain,
            options: collection.options.clone(),
            data: Some(collection.clone()),
        };
        let (wanted, listed) = match chosen {
            Chosen::But(ids) => (false, ids.clone()),
            Chosen::Only(ids) => (true, ids.clone()),
        };
        let cancel = self.cancel.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let mut batches = Batches::new(temporary, true);
            let (mut commands, mut ids, mut left) = (Vec::<Batch>::new(), Vec::new(), Vec::new());
            let mut full = |batch| {
                commands.push(batch);
                Ok(())
            };
            read::documents(&*blocks, &item, &cancel, &mut |document| {
                let id = text(document, "_id").unwrap_or_default().to_owned();
                if listed.contains(&id) != wanted {
                    left.push(id);
                    return Ok(());
                }
                ids.push(id);
                batches.push(document, &mut full)
            })?;
            batches.flush(&mut full)?;
            Ok::<_, Error>((commands, ids, left))
        });
        let (commands, ids, left) = reading.await.map_err(|_| Error::Worker)??;
        for batch in commands {
            let reply: Document = self.run("admin", "insert", batch.command, temporary).await?;
            self.check_reply("insert", temporary, &reply)?;
        }
        Ok((ids, left))
    }
}
