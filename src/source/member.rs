//! One member: commands with a time limit and errors that name both.

use std::time::Duration;

use bson::{Bson, Document, RawDocumentBuf, Timestamp, doc};
use futures::StreamExt as _;
use mongodb::Client;
use mongodb::raw_batch_cursor::{RawBatch, RawBatchCursor};

use super::Error;
use super::failure::{COMMAND_NOT_FOUND, code, is_privilege, of_driver};
use crate::oplog::{OpTime, Position, Ts};

/// Limit of a command that answers at once.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

/// Limit of a `hello`: a member slower than that is no good choice.
const HELLO_LIMIT: Duration = Duration::from_secs(6);

/// How long a server may wait for a majority, an election included, before we ask again.
const MAJORITY_WAIT: Duration = Duration::from_secs(20);

/// Limit of opening a cursor or of a batch. A range read from a cold disk may take long to fill
/// 16 MB, and a read may wait for `afterClusterTime`.
const BATCH_LIMIT: Duration = Duration::from_secs(180);

/// A member of the source.
pub(super) struct Member {
    pub address: String,
    client: Client,
}

/// What `hello` says.
#[derive(Debug, Clone, Default)]
pub(super) struct Hello {
    pub set_name: Option<String>,
    pub is_mongos: bool,
    pub me: Option<String>,
    pub hosts: Vec<String>,
    pub primary: bool,
    pub secondary: bool,
    pub hidden: bool,
    pub delayed: bool,
    /// Seconds of the newest entry.
    pub last_write_secs: u32,
    /// The term in which a primary was elected.
    pub election_term: Option<i64>,
    /// Seconds of the newest entry that it knows to be majority-committed.
    pub majority_secs: u32,
}

/// Limits and sizes of a cursor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paging {
    /// Documents per batch; the server also stops at 16 MB.
    pub batch_documents: Option<u32>,
    /// How long an awaiting cursor waits for something new.
    pub await_for: Option<Duration>,
    /// How long an answer may take.
    pub limit: Duration,
}

impl Default for Paging {
    fn default() -> Self {
        Self { batch_documents: None, await_for: None, limit: BATCH_LIMIT }
    }
}

/// An open cursor.
///
/// It belongs to the implicit session the driver made for it. The server ends a session, and its
/// cursors, 30 minutes after it was last used; each batch uses it, so only a reader that stalls longer
/// than that loses the cursor (CursorNotFound), and then opens another as after any other loss.
pub(super) struct Batches {
    cursor: RawBatchCursor,
    member: String,
    command: String,
    limit: Duration,
}

impl Batches {
    /// The next batch; none when the server has closed the cursor. Safe to cancel.
    pub async fn next(&mut self) -> Result<Option<RawBatch>, Error> {
        let batch = tokio::time::timeout(self.limit, self.cursor.next()).await;
        let batch = batch.map_err(|_| timed_out(&self.member, &self.command, self.limit))?;
        batch.transpose().map_err(|error| of_driver(&self.member, &self.command, error))
    }
}

fn timed_out(member: &str, command: &str, limit: Duration) -> Error {
    let seconds = limit.as_secs();
    Error::TimedOut { member: member.to_owned(), command: command.to_owned(), seconds }
}

impl Member {
    pub fn new(address: String, client: Client) -> Self {
        Self { address, client }
    }

    /// Runs a command. `what` names it, with its namespace, in errors.
    pub async fn command(
        &self,
        db: &str,
        what: &str,
        command: Document,
    ) -> Result<Document, Error> {
        self.command_within(COMMAND_LIMIT, db, what, command).await
    }

    async fn command_within(
        &self,
        limit: Duration,
        db: &str,
        what: &str,
        command: Document,
    ) -> Result<Document, Error> {
        let db = self.client.database(db);
        let reply = tokio::time::timeout(limit, db.run_command(command)).await;
        let reply = reply.map_err(|_| timed_out(&self.address, what, limit))?;
        reply.map_err(|error| of_driver(&self.address, what, error))
    }

    /// Opens a cursor by a command that makes one.
    pub async fn open(
        &self,
        db: &str,
        what: &str,
        command: RawDocumentBuf,
        paging: Paging,
    ) -> Result<Batches, Error> {
        let db = self.client.database(db);
        let mut action = db.run_raw_cursor_command(command);
        if let Some(documents) = paging.batch_documents {
            action = action.batch_size(documents);
        }
        if let Some(time) = paging.await_for {
            action = action.max_time(time);
        }
        let limit = paging.limit;
        let cursor = tokio::time::timeout(limit, action.batch()).await;
        let cursor = cursor.map_err(|_| timed_out(&self.address, what, limit))?;
        let cursor = cursor.map_err(|error| of_driver(&self.address, what, error))?;
        Ok(Batches { cursor, member: self.address.clone(), command: what.to_owned(), limit })
    }

    /// All documents of a cursor whose result is known to be small (a catalog).
    pub async fn all(
        &self,
        db: &str,
        what: &'static str,
        command: RawDocumentBuf,
    ) -> Result<Vec<RawDocumentBuf>, Error> {
        let mut batches = self.open(db, what, command, Paging::default()).await?;
        let mut documents = Vec::new();
        while let Some(batch) = batches.next().await? {
            let array =
                batch.doc_slices().map_err(|error| of_driver(&self.address, what, error))?;
            for element in array {
                let document = element.ok().and_then(|value| value.as_document());
                documents.push(document.ok_or_else(|| self.reply(what, "batch"))?.to_owned());
            }
        }
        Ok(documents)
    }

    /// The first document a `find` gives.
    pub async fn first(
        &self,
        db: &str,
        what: &'static str,
        command: Document,
    ) -> Result<Option<Document>, Error> {
        let reply = self.command_within(MAJORITY_WAIT + COMMAND_LIMIT, db, what, command).await?;
        let cursor = reply.get_document("cursor").map_err(|_| self.reply(what, "cursor"))?;
        let batch = cursor.get_array("firstBatch").map_err(|_| self.reply(what, "firstBatch"))?;
        Ok(batch.first().and_then(Bson::as_document).cloned())
    }

    /// An answer that is not what the protocol says.
    pub fn reply(&self, command: &'static str, field: &'static str) -> Error {
        Error::Reply { member: self.address.clone(), command, field }
    }

    /// Asks who this is.
    pub async fn hello(&self) -> Result<Hello, Error> {
        let asked = self.command_within(HELLO_LIMIT, "admin", "hello", doc! { "hello": 1 }).await;
        let reply = match asked {
            // Servers before 4.4.2 know it under its old name only.
            Err(Error::Driver { source, .. }) if code(&source) == Some(COMMAND_NOT_FOUND) => {
                let old = doc! { "isMaster": 1 };
                self.command_within(HELLO_LIMIT, "admin", "isMaster", old).await?
            }
            other => other?,
        };
        Ok(Hello::read(&reply))
    }

    /// The newest entry this member has; with `majority`, the newest that is majority-committed.
    pub async fn newest(&self, majority: bool) -> Result<Position, Error> {
        let level = if majority { "majority" } else { "local" };
        self.oplog_end(-1, level).await
    }

    /// The oldest entry this member still has.
    pub async fn oldest(&self) -> Result<Position, Error> {
        self.oplog_end(1, "local").await
    }

    /// Bytes in the oplog, and what they may become; none if the user may not ask.
    pub async fn oplog_fill(&self) -> Result<Option<(u64, u64)>, Error> {
        let what = "aggregate local.oplog.rs";
        let aggregate = doc! {
            "aggregate": "oplog.rs",
            "pipeline": [
                { "$collStats": { "storageStats": {} } },
                { "$project": {
                    "size": { "$toLong": "$storageStats.size" },
                    "max": { "$toLong": "$storageStats.maxSize" },
                } },
            ],
            "cursor": {},
        };
        let found = match self.first("local", what, aggregate).await {
            Err(error) if is_privilege(&error) => return Ok(None),
            found => found?,
        };
        let field = |name: &str| {
            let number = found.as_ref()?.get_i64(name).ok()?;
            u64::try_from(number).ok()
        };
        Ok(field("size").zip(field("max")))
    }

    async fn oplog_end(&self, direction: i32, level: &str) -> Result<Position, Error> {
        let find = doc! {
            "find": "oplog.rs",
            "sort": { "$natural": direction },
            "limit": 1,
            "projection": { "ts": 1, "t": 1, "wall": 1 },
            "readConcern": { "level": level },
        };
        let what = "find local.oplog.rs";
        let entry = self.first("local", what, find).await?;
        let entry = entry.ok_or_else(|| self.reply(what, "entry"))?;
        let optime = optime(&entry).ok_or_else(|| self.reply(what, "ts"))?;
        let wall = entry.get_datetime("wall").map(|wall| wall.timestamp_millis());
        let wall_ms = wall.unwrap_or(i64::from(optime.ts.secs) * 1000);
        Ok(Position { optime, wall_ms })
    }

    /// Whether the oplog holds this entry, majority-committed.
    pub async fn holds(&self, wanted: OpTime) -> Result<bool, Error> {
        let find = doc! {
            "find": "oplog.rs",
            "filter": { "ts": Timestamp::from(wanted.ts) },
            "limit": 1,
            "projection": { "ts": 1, "t": 1 },
            "readConcern": { "level": "majority" },
        };
        let entry = self.first("local", "find local.oplog.rs", find).await?;
        Ok(entry.as_ref().and_then(optime) == Some(wanted))
    }

    /// Waits until everything up to `ts` is majority-committed and visible to majority reads here.
    pub async fn wait_majority(&self, ts: Ts) -> Result<(), Error> {
        let wait = i64::try_from(MAJORITY_WAIT.as_millis()).expect("a short time");
        let find = doc! {
            "find": "system.version",
            "limit": 1,
            "readConcern": { "level": "majority", "afterClusterTime": Timestamp::from(ts) },
            "maxTimeMS": wait,
        };
        self.first("admin", "find admin.system.version", find).await.map(|_| ())
    }

    /// `settings.replicaSetId` of its configuration.
    pub async fn replica_set_id(&self) -> Result<[u8; 12], Error> {
        let what = "replSetGetConfig";
        match self.command("admin", what, doc! { "replSetGetConfig": 1 }).await {
            Ok(reply) => {
                let config =
                    reply.get_document("config").map_err(|_| self.reply(what, "config"))?;
                let settings = config.get_document("settings");
                let id = settings.and_then(|settings| settings.get_object_id("replicaSetId"));
                Ok(id.map_err(|_| self.reply(what, "replicaSetId"))?.bytes())
            }
            // Replication metadata of any read tells it too, to whom may not see the configuration.
            Err(error) if is_privilege(&error) => self.replica_set_id_by_metadata().await,
            Err(error) => Err(error),
        }
    }

    async fn replica_set_id_by_metadata(&self) -> Result<[u8; 12], Error> {
        let what = "find local.oplog.rs";
        let find = doc! { "find": "oplog.rs", "limit": 1, "$replData": 1 };
        let reply = self.command("local", what, find).await?;
        let data = reply.get_document("$replData").map_err(|_| self.reply(what, "$replData"))?;
        let id = data.get_object_id("replicaSetId");
        Ok(id.map_err(|_| self.reply(what, "replicaSetId"))?.bytes())
    }

    /// The member's rollback id: another one after than before means that it rolled back between.
    /// None if the user may not ask. Read from `serverStatus`, which the role `backup` allows;
    /// `replSetGetRBID` is for members of the set only.
    pub async fn rollback_id(&self) -> Result<Option<i32>, Error> {
        let what = "serverStatus";
        let ask = doc! {
            "serverStatus": 1, "repl": 1, "wiredTiger": 0, "metrics": 0, "locks": 0, "tcmalloc": 0,
        };
        match self.command("admin", what, ask).await {
            Ok(reply) => {
                let rbid = reply.get_document("repl").and_then(|repl| repl.get_i32("rbid"));
                Ok(Some(rbid.map_err(|_| self.reply(what, "repl.rbid"))?))
            }
            Err(error) if is_privilege(&error) => {
                tracing::warn!(
                    member = self.address,
                    "no privilege for serverStatus (`headstock check-access` names what is missing): a rollback while listing collections would go unseen"
                );
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// An electionId ends with the term, in eight bytes.
fn election_term(id: &bson::oid::ObjectId) -> i64 {
    let [_, _, _, _, term @ ..] = id.bytes();
    i64::from_be_bytes(term)
}

/// `ts` and `t` of an entry or an optime document.
pub(super) fn optime(document: &Document) -> Option<OpTime> {
    let ts = document.get_timestamp("ts").ok()?;
    Some(OpTime { ts: ts.into(), term: document.get_i64("t").unwrap_or(-1) })
}

impl Hello {
    fn read(reply: &Document) -> Self {
        let flag = |name: &str| reply.get_bool(name).unwrap_or(false);
        let text = |name: &str| reply.get_str(name).ok().map(str::to_owned);
        let names = |name: &str| {
            let array = reply.get_array(name).ok().into_iter().flatten();
            array.filter_map(Bson::as_str).map(str::to_owned).collect::<Vec<_>>()
        };
        let delay = ["secondaryDelaySecs", "slaveDelay"].into_iter().filter_map(|name| {
            let value = reply.get(name)?;
            value.as_i64().or_else(|| value.as_i32().map(i64::from))
        });
        let seconds = |field: &str| {
            let write = reply.get_document("lastWrite");
            let optime = write.and_then(|write| write.get_document(field));
            optime.and_then(|optime| optime.get_timestamp("ts")).map_or(0, |ts| ts.time)
        };
        Self {
            set_name: text("setName"),
            is_mongos: reply.get_str("msg").is_ok_and(|message| message == "isdbgrid"),
            me: text("me"),
            hosts: [names("hosts"), names("passives")].concat(),
            primary: flag("isWritablePrimary") || flag("ismaster"),
            secondary: flag("secondary"),
            hidden: flag("hidden"),
            delayed: delay.sum::<i64>() > 0,
            last_write_secs: seconds("opTime"),
            majority_secs: seconds("majorityOpTime"),
            election_term: reply.get_object_id("electionId").ok().map(|id| election_term(&id)),
        }
    }
}
