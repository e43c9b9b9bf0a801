//! What collections there are: names, UUIDs, options and indexes, verbatim.
//!
//! The catalog commands know no read concern, so a listing may show what is then rolled back. It
//! counts only if, after everything in it is majority-committed, the member has not rolled back since
//! before the listing; else it is taken again.
//!
//! Indexes are asked for by UUID: a collection renamed since it was listed gives its own indexes, and
//! one dropped since is left out (the entry that dropped it is in the oplog after the base of the
//! scan, and so are all that created, renamed or filled what the listing does not show).

use std::collections::HashMap;
use std::sync::Arc;

use bson::spec::BinarySubtype;
use bson::{Binary, RawBsonRef, RawDocument, RawDocumentBuf, doc, rawdoc};
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::failure::of_collection;
use super::member::Member;
use super::topology::On;
use super::{Arrival, Error, IndexBuild, Listed, Source};
use crate::head::{Scope, namespaces};
use crate::oplog::Uuid;

/// Collections asked for their indexes and sizes at a time.
const ASKED_AT_ONCE: usize = 8;

impl Source {
    pub(super) async fn list_kept(&self, scope: &Scope) -> Result<Vec<Listed>, Error> {
        let floor = self.inner.floor();
        let listing = |member: Arc<Member>| async move {
            if let Some(floor) = floor {
                member.wait_majority(floor).await?;
            }
            let before = member.rollback_id().await?;
            let listed = list_on(&member, scope).await?;
            member.wait_majority(member.newest(false).await?.optime.ts).await?;
            if member.rollback_id().await? != before {
                let (member, during) = (member.address.clone(), "listing collections");
                return Err(Error::RolledBack { member, during });
            }
            Ok(listed)
        };
        self.inner.topology.attempt(On::Reader, listing).await
    }
}

async fn list_on(member: &Member, scope: &Scope) -> Result<Vec<Listed>, Error> {
    let mut found: HashMap<Uuid, Found> = HashMap::new();
    for db in databases(member).await? {
        let what = "listCollections";
        for entry in member.all(&db, what, rawdoc! { "listCollections": 1 }).await? {
            if let Some(one) = Found::read(member, &db, &entry, scope)? {
                // A rename between two databases' listings cannot show a UUID twice (it makes a new
                // one), but the map does not depend on that.
                found.insert(one.uuid, one);
            }
        }
    }
    let asked = stream::iter(found.into_values()).map(|one| complete(member, one));
    let mut listed: Vec<Listed> = asked
        .buffer_unordered(ASKED_AT_ONCE)
        .try_filter_map(async |one| Ok(one))
        .try_collect()
        .await?;
    listed.sort_by(|a, b| a.ns.cmp(&b.ns));
    Ok(listed)
}

async fn databases(member: &Member) -> Result<Vec<String>, Error> {
    let what = "listDatabases";
    let command = doc! { "listDatabases": 1, "nameOnly": true, "authorizedDatabases": false };
    let reply = member.command("admin", what, command).await?;
    let databases = reply.get_array("databases").map_err(|_| member.reply(what, "databases"))?;
    let mut names = Vec::with_capacity(databases.len());
    for database in databases {
        let name = database.as_document().and_then(|database| database.get_str("name").ok());
        names.push(name.ok_or_else(|| member.reply(what, "name"))?.to_owned());
    }
    names.retain(|name| name != "local");
    Ok(names)
}

/// A collection as listCollections shows it.
struct Found {
    uuid: Uuid,
    db: String,
    ns: String,
    options: RawDocumentBuf,
}

impl Found {
    /// None for what has no documents of its own (views, and time series, whose buckets are listed as
    /// a collection) and for what is left out.
    fn read(
        member: &Member,
        db: &str,
        entry: &RawDocument,
        scope: &Scope,
    ) -> Result<Option<Self>, Error> {
        let what = "listCollections";
        let name = entry.get_str("name").map_err(|_| member.reply(what, "name"))?;
        let ns = format!("{db}.{name}");
        let kind = entry.get_str("type").map_err(|_| member.reply(what, "type"))?;
        let options = entry.get_document("options").map_err(|_| member.reply(what, "options"))?;
        let temporary = options.get_bool("temp").unwrap_or(false) && scope.keeps_temporary(&ns);
        if kind == "view" || !(temporary || scope.keeps(&ns)) {
            return Ok(None);
        }
        let uuid = entry.get_document("info").ok().and_then(|info| info.get("uuid").ok().flatten());
        let Some(uuid) = uuid.and_then(Uuid::from_value) else {
            return if kind == "timeseries" {
                Ok(None)
            } else {
                Err(member.reply(what, "info.uuid"))
            };
        };
        Ok(Some(Self { uuid, db: db.to_owned(), ns, options: options.to_owned() }))
    }
}

/// Adds indexes and sizes. None if the collection is gone by now.
async fn complete(member: &Member, found: Found) -> Result<Option<Listed>, Error> {
    let (indexes, building) = match indexes(member, &found).await {
        Ok(indexes) => indexes,
        Err(Error::Dropped(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let (documents_estimate, bytes_estimate) = estimates(member, &found).await;
    Ok(Some(Listed {
        uuid: found.uuid,
        arrival: arrival(&found.options),
        ns: found.ns,
        options: found.options,
        indexes,
        building,
        documents_estimate,
        bytes_estimate,
    }))
}

type Indexes = (Vec<RawDocumentBuf>, Vec<IndexBuild>);

async fn indexes(member: &Member, found: &Found) -> Result<Indexes, Error> {
    let what = "listIndexes";
    // Without the flag the server lists builds under way as if they were finished.
    let command = rawdoc! { "listIndexes": uuid_value(found.uuid), "includeBuildUUIDs": true };
    let entries = member.all(&found.db, what, command).await;
    let entries = entries.map_err(|error| of_collection(found.uuid, error))?;
    let (mut finished, mut building) = (Vec::new(), Vec::new());
    for entry in entries {
        match entry.get("buildUUID").ok().flatten() {
            None => finished.push(entry),
            Some(build) => {
                let spec = entry.get_document("spec").map_err(|_| member.reply(what, "spec"))?;
                let build = Uuid::from_value(build);
                let build = build.ok_or_else(|| member.reply(what, "buildUUID"))?;
                building.push(IndexBuild { build, spec: spec.to_owned() });
            }
        }
    }
    Ok((finished, building))
}

/// Estimates only: by name, and zero where they cannot be had.
async fn estimates(member: &Member, found: &Found) -> (u64, u64) {
    let (_, name) = namespaces::split(&found.ns);
    let command = doc! {
        "aggregate": name,
        "pipeline": [
            { "$collStats": { "storageStats": {} } },
            { "$project": { "_id": 0, "size": "$storageStats.size", "count": {
                "$ifNull": ["$storageStats.count", "$storageStats.timeseries.bucketCount"] } } },
        ],
        "cursor": {},
    };
    match member.first(&found.db, "aggregate $collStats", command).await {
        Ok(Some(stats)) => {
            let number = |name: &str| match stats.get(name) {
                Some(bson::Bson::Int32(n)) => u64::try_from(*n).unwrap_or(0),
                Some(bson::Bson::Int64(n)) => u64::try_from(*n).unwrap_or(0),
                // Beyond 2^53 the server may answer with a double; an estimate may be rounded.
                Some(bson::Bson::Double(n)) => *n as u64,
                _ => 0,
            };
            (number("count"), number("size"))
        }
        Ok(None) => (0, 0),
        Err(error) => {
            let error: &dyn std::error::Error = &error;
            tracing::debug!(ns = found.ns, error, "no size estimate");
            (0, 0)
        }
    }
}

/// How a scan of a collection with these options arrives.
fn arrival(options: &RawDocument) -> Arrival {
    let capped = options.get("capped").ok().flatten();
    if matches!(capped, Some(RawBsonRef::Boolean(true))) {
        return Arrival::Natural;
    }
    let collation = options.get_document("collation");
    match collation.and_then(|collation| collation.get_str("locale")) {
        Ok("simple") | Err(_) => Arrival::ByKey,
        Ok(_) => Arrival::ByCollation,
    }
}

/// A UUID as commands take it in place of a collection's name.
pub(super) fn uuid_value(uuid: Uuid) -> Binary {
    Binary { subtype: BinarySubtype::Uuid, bytes: uuid.0.to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrival_follows_the_options() {
        for (options, expected) in [
            (rawdoc! {}, Arrival::ByKey),
            (rawdoc! { "capped": true, "size": 4096 }, Arrival::Natural),
            (rawdoc! { "capped": false }, Arrival::ByKey),
            (rawdoc! { "collation": { "locale": "simple" } }, Arrival::ByKey),
            (rawdoc! { "collation": { "locale": "en", "strength": 2 } }, Arrival::ByCollation),
            (rawdoc! { "clusteredIndex": true, "timeseries": {} }, Arrival::ByKey),
        ] {
            assert_eq!(arrival(&options), expected, "{options:?}");
        }
    }
}
