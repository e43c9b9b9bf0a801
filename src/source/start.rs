//! Where a scan starts and ends in the oplog (oplog.md 2.1).
//!
//! Start: `D` = newest entry; the oldest transaction then open is where tailing begins; `B` = newest
//! entry again, after which everything is applied over the scan. A scan must see all that entries up
//! to `B` wrote: a majority read with `afterClusterTime` `B` waits for that, on whatever member.
//!
//! End: an entry at or after everything that any scan delivered. Every scan reports the operation time
//! of its batches; the end is majority-committed and at or after the highest of them.

use std::sync::Arc;

use bson::{Document, Timestamp, doc};

use super::member::{Member, optime};
use super::topology::On;
use super::{Error, Identity, OplogWindow, Source, StartPoint};
use crate::oplog::{OpTime, Position, Ts};

impl Source {
    pub(super) async fn read_identity(&self) -> Result<Identity, Error> {
        let (server_version, fcv) = self
            .inner
            .topology
            .attempt(On::Reader, |member| async move {
                Ok((server_version(&member).await?, stable_fcv(&member).await?))
            })
            .await?;
        let set = self.inner.topology.set().expect("a source has chosen a member");
        Ok(Identity { set_name: set.name.clone(), replica_set_id: set.id, server_version, fcv })
    }

    pub(super) async fn choose_start(&self) -> Result<StartPoint, Error> {
        let start = self.inner.topology.attempt(On::Reader, start_on).await?;
        self.inner.raise_floor(start.base.optime.ts);
        Ok(start)
    }

    pub(super) async fn read_newest_majority(&self) -> Result<Position, Error> {
        let newest = |member: Arc<Member>| async move { member.newest(true).await };
        self.inner.topology.attempt(On::Primary, newest).await
    }

    pub(super) async fn read_oplog_window(&self) -> Result<OplogWindow, Error> {
        let look = |member: Arc<Member>| async move {
            let oldest = member.oldest().await?.optime;
            let newest = member.newest(false).await?.optime;
            let seconds = u64::from(newest.ts.secs.saturating_sub(oldest.ts.secs));
            let seconds = match member.oplog_fill().await? {
                Some((bytes, bytes_max)) if bytes > 0 && bytes < bytes_max => {
                    let grown = u128::from(seconds.max(1)) * u128::from(bytes_max);
                    u64::try_from(grown / u128::from(bytes)).unwrap_or(u64::MAX)
                }
                _ => seconds,
            };
            Ok(OplogWindow { oldest, newest, seconds })
        };
        self.inner.topology.attempt(On::Reader, look).await
    }

    pub(super) async fn choose_end(&self) -> Result<Position, Error> {
        let seen = self.inner.seen();
        let end = |member: Arc<Member>| async move {
            let newest = member.newest(false).await?.optime.ts;
            // An entry that is then rolled back never becomes committed under its timestamp; the wait
            // ends all the same, at a later entry, or fails and is tried again.
            member.wait_majority(newest.max(seen)).await?;
            member.newest(true).await
        };
        self.inner.topology.attempt(On::Primary, end).await
    }
}

async fn start_on(member: Arc<Member>) -> Result<StartPoint, Error> {
    stable_fcv(&member).await?;
    let before = member.newest(false).await?.optime;
    let oldest_open = oldest_open_transaction(&member, before.ts).await?;
    let base = member.newest(false).await?;
    member.wait_majority(base.optime.ts).await?;
    // Both were read before they were committed, so an election may have replaced them.
    for optime in [before, base.optime] {
        if !member.holds(optime).await? {
            let (member, during) = (member.address.clone(), "choosing where to start");
            return Err(Error::RolledBack { member, during });
        }
    }
    Ok(StartPoint { begin_fetch: oldest_open.unwrap_or(before).min(before), base })
}

/// First optime of the oldest transaction that is open or prepared, once everything up to `after` is
/// visible.
async fn oldest_open_transaction(member: &Member, after: Ts) -> Result<Option<OpTime>, Error> {
    let what = "find config.transactions";
    let find = doc! {
        "find": "transactions",
        "filter": { "state": { "$in": ["prepared", "inProgress"] } },
        "sort": { "startOpTime": 1 },
        "limit": 1,
        "readConcern": { "level": "local", "afterClusterTime": Timestamp::from(after) },
    };
    let Some(transaction) = member.first("config", what, find).await? else {
        return Ok(None);
    };
    let start = transaction.get_document("startOpTime").ok().and_then(optime);
    start.map(Some).ok_or_else(|| member.reply(what, "startOpTime"))
}

async fn server_version(member: &Member) -> Result<String, Error> {
    let what = "buildInfo";
    let info = member.command("admin", what, doc! { "buildInfo": 1 }).await?;
    let parts = info.get_array("versionArray").map_err(|_| member.reply(what, "versionArray"))?;
    let parts: Vec<String> =
        parts.iter().take(3).filter_map(bson::Bson::as_i32).map(|part| part.to_string()).collect();
    if parts.len() < 3 {
        return Err(member.reply(what, "versionArray"));
    }
    Ok(parts.join("."))
}

/// The feature compatibility version, refused while it changes.
async fn stable_fcv(member: &Member) -> Result<String, Error> {
    let what = "find admin.system.version";
    let find = doc! {
        "find": "system.version",
        "filter": { "_id": "featureCompatibilityVersion" },
        "limit": 1,
    };
    let document = member.first("admin", what, find).await?;
    let document = document.ok_or_else(|| member.reply(what, "featureCompatibilityVersion"))?;
    let text = |document: &Document, name: &str| document.get_str(name).ok().map(str::to_owned);
    let version = text(&document, "version").ok_or_else(|| member.reply(what, "version"))?;
    match (text(&document, "targetVersion"), text(&document, "previousVersion")) {
        (None, None) => Ok(version),
        (target, previous) => Err(Error::FcvInTransition {
            from: previous.unwrap_or_else(|| version.clone()),
            to: target.unwrap_or(version),
        }),
    }
}
