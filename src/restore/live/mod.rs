//! A running server as a target: a replica set, or a stand-alone one.
//!
//! Order of writes, so that no half-written target looks like a finished one: the marker
//! ([`marker`], majority), drops, then per collection `create`, documents, indexes; then views; then
//! the comparison ([`compare`]); then everything that lets the server delete documents by time, users
//! and roles (buckets of a time series that lost their view come after all others have been compared, and are
//! compared by themselves); the marker's removal (majority) is last. A restore that ends anywhere before leaves the
//! marker, by which the same restore run again knows that what it finds is its own.
//!
//! Documents are inserted with `w: 1`; what a failover could undo is found by the comparison, which
//! is made against the primary, and made durable by the majority write that removes the marker.

mod by_id;
mod capped;
mod compare;
mod indexes;
mod load;
mod make;
mod marker;
mod run;
mod users;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bson::{Document, RawDocumentBuf, Utf8Lossy, rawdoc};
use futures::TryStreamExt as _;
use mongodb::Client;
use mongodb::error::ErrorKind;
use mongodb::options::ClientOptions;

use super::plan::{STAND_ALONE, TargetFacts};
use super::{Cancel, Error, Progress, Target};
pub(super) use by_id::{Operations, Verb};
pub(super) use compare::Outcome;
pub(super) use indexes::{equal_keys, expiring, lasting};
pub(super) use marker::{Found, MARKER_DATABASE, Marker};
pub(super) use run::{Done, Work, dropped_along, in_the_way, surplus};

/// The server's code for a user that may not do something.
const UNAUTHORIZED: i32 = 13;
/// The server's code for a namespace that is not there.
const NAMESPACE_NOT_FOUND: i32 = 26;
/// Databases that are the server's own.
pub(super) const OWN_DATABASES: [&str; 3] = ["admin", "config", "local"];

/// A connection to a target. Cheap to clone.
#[derive(Clone)]
pub(super) struct Live {
    client: Client,
    /// What to call it: no secrets.
    name: String,
    /// Whether it is a member of a replica set.
    replica_set: Option<String>,
    version: String,
    fcv: String,
    progress: Arc<dyn Progress>,
    cancel: Cancel,
}

/// Names and types of a target's namespaces, by database.
pub(super) type Existing = BTreeMap<String, HashMap<String, String>>;

impl Live {
    /// Connects and looks who it is.
    pub async fn connect(
        uri: &str,
        progress: Arc<dyn Progress>,
        cancel: Cancel,
    ) -> Result<Self, Error> {
        let name = Target::Live(uri.to_owned()).to_string();
        let mut options = ClientOptions::parse(uri).await.map_err(|_| Error::Uri)?;
        options.app_name.get_or_insert_with(|| "headstock restore".to_owned());
        let client = Client::with_options(options)
            .map_err(|why| Error::Options { target: name.clone(), source: Box::new(why) })?;
        let (version, fcv) = (String::new(), String::new());
        let mut live = Self { client, name, replica_set: None, version, fcv, progress, cancel };
        live.look().await?;
        Ok(live)
    }

    async fn look(&mut self) -> Result<(), Error> {
        let hello = self.run("admin", "hello", rawdoc! { "hello": 1 }, "").await?;
        if hello.get_str("msg").is_ok_and(|msg| msg == "isdbgrid") {
            return Err(Error::Mongos { target: self.name.clone() });
        }
        if !hello.get_bool("isWritablePrimary").unwrap_or(false) {
            return Err(Error::NotWritable { target: self.name.clone() });
        }
        self.replica_set = hello.get_str("setName").ok().map(str::to_owned);
        let build = self.run("admin", "buildInfo", rawdoc! { "buildInfo": 1 }, "").await?;
        self.version = self.field(&build, "buildInfo", "version")?;
        let ask = rawdoc! { "getParameter": 1, "featureCompatibilityVersion": 1 };
        let reply = self.run("admin", "getParameter", ask, "").await?;
        let fcv = reply.get_document("featureCompatibilityVersion").ok();
        self.fcv = match fcv {
            Some(fcv) => self.field(fcv, "getParameter", "version")?,
            None => return Err(self.lacks("getParameter", "featureCompatibilityVersion")),
        };
        Ok(())
    }

    /// What the plan says of it.
    pub async fn facts(&self) -> Result<TargetFacts, Error> {
        let stats = self.run("admin", "dbStats", rawdoc! { "dbStats": 1 }, "").await;
        let free_bytes = stats.ok().and_then(|stats| {
            let bytes = |field| stats.get_f64(field).ok();
            Some((bytes("fsTotalSize")? - bytes("fsUsedSize")?).max(0.0) as u64)
        });
        let kind = match &self.replica_set {
            Some(set) => format!("replica set {set}"),
            None => STAND_ALONE.to_owned(),
        };
        Ok(TargetFacts {
            name: self.name.clone(),
            kind,
            version: Some(self.version.clone()),
            fcv: Some(self.fcv.clone()),
            free_bytes,
        })
    }

    /// Every namespace, but for those of the server and of our marker.
    pub async fn existing(&self) -> Result<Existing, Error> {
        let list = rawdoc! { "listDatabases": 1, "nameOnly": true };
        let reply = self.run("admin", "listDatabases", list, "").await?;
        let databases = reply.get_array("databases");
        let databases = databases.map_err(|_| self.lacks("listDatabases", "databases"))?;
        let mut existing = Existing::new();
        for database in databases {
            let database =
                database.as_document().ok_or_else(|| self.lacks("listDatabases", "name"));
            let name = self.field(database?, "listDatabases", "name")?;
            if name != MARKER_DATABASE && name != "local" {
                existing.insert(name.clone(), self.names(&name).await?);
            }
        }
        Ok(existing)
    }

    async fn names(&self, db: &str) -> Result<HashMap<String, String>, Error> {
        let list = rawdoc! { "listCollections": 1, "nameOnly": true };
        let cursor = self.client.database(db).run_raw_cursor_command(list).await;
        let mut cursor = cursor.map_err(|why| self.failed("listCollections", db, why))?;
        let mut names = HashMap::new();
        while let Some(found) =
            cursor.try_next().await.map_err(|why| self.failed("listCollections", db, why))?
        {
            let name = self.field(&found, "listCollections", "name")?;
            let kind = found.get_str("type").unwrap_or("collection").to_owned();
            names.insert(name, kind);
        }
        Ok(names)
    }

    /// Asks the server to end; the connection breaks with it, so the answer says nothing.
    pub async fn shut_down(self) {
        let _ = self.run("admin", "shutdown", rawdoc! { "shutdown": 1 }, "").await;
    }

    /// Runs a command. `ns` is for messages.
    async fn run(
        &self,
        db: &str,
        what: &'static str,
        command: RawDocumentBuf,
        ns: &str,
    ) -> Result<Document, Error> {
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let database = self.client.database(db);
        tokio::select! {
            () = self.cancel.cancelled() => Err(Error::Cancelled),
            reply = database.run_raw_command(command) => reply.or_else(|why| {
                unreadable_reply(&why).ok_or_else(|| self.failed(what, ns, why))
            }),
        }
    }

    fn failed(&self, command: &'static str, ns: &str, why: mongodb::error::Error) -> Error {
        if let ErrorKind::Command(refusal) = &*why.kind {
            return Error::Refused {
                target: self.name.clone(),
                command,
                ns: ns.to_owned(),
                code: refusal.code,
                message: refusal.message.clone(),
            };
        }
        Error::Driver { target: self.name.clone(), action: command, source: Box::new(why) }
    }

    fn lacks(&self, command: &'static str, field: &'static str) -> Error {
        Error::Reply { target: self.name.clone(), command, field }
    }

    fn field(
        &self,
        reply: &Document,
        command: &'static str,
        field: &'static str,
    ) -> Result<String, Error> {
        reply.get_str(field).map(str::to_owned).map_err(|_| self.lacks(command, field))
    }
}

/// A reply that the driver gives as an error, since it tells an `_id` or a unique value that is a string
/// but not UTF-8. Nobody looks at these here.
fn unreadable_reply(why: &mongodb::error::Error) -> Option<Document> {
    let reply = why.server_response().filter(|_| matches!(*why.kind, ErrorKind::Bson(_)))?;
    let Utf8Lossy(reply) = bson::deserialize_from_slice(reply.as_bytes()).ok()?;
    Some(reply)
}
