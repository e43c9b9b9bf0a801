//! Makes a real server write entries, and keeps what it shows after each step.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bson::{Document, RawDocumentBuf, Timestamp, doc};
use headstock::lab::{Mongod, Options, Release, ReplicaSet};
use headstock::oplog::{Position, Ts, Uuid, position};
use mongodb::options::ReturnDocument;
use mongodb::{Client, ClientSession};
use tokio::task::JoinHandle;

use crate::cases::{Case, Step, Write};
use crate::forms::{Forms, forms};
use crate::shown::{self, Documents, State};

/// Limit of every wait for an entry.
const ENTRY_LIMIT: Duration = Duration::from_secs(60);
/// How often the oplog is looked at.
const POLL: Duration = Duration::from_millis(20);
/// Databases whose state belongs to every case.
const COMMON: [&str; 2] = ["admin", "config"];

/// What was shown after a step.
pub struct Moment {
    /// Case and step.
    pub what: String,
    /// The newest entry then.
    pub at: Ts,
    /// Databases that were looked at; all if there are none.
    pub databases: Vec<&'static str>,
    /// What they held.
    pub state: State,
}

impl Moment {
    /// Whether a database was looked at.
    pub fn is_of(&self, database: &str) -> bool {
        self.databases.is_empty() || self.databases.contains(&database)
    }
}

/// Entries, and the states between them.
pub struct Recording {
    pub release: Release,
    /// The scan that everything starts from.
    pub start: Position,
    pub scanned: State,
    /// Entries after `start`.
    pub entries: Vec<RawDocumentBuf>,
    pub moments: Vec<Moment>,
    /// Documents of collections at the time of single entries, where the server can tell them.
    pub past: BTreeMap<Ts, BTreeMap<Uuid, Documents>>,
}

/// Sets that cases may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A plain replica set.
    Plain,
    /// A shard without a cluster: only those prepare transactions.
    Shard,
}

/// Runs cases one after another on one set.
struct Recorder {
    set: ReplicaSet,
    release: Release,
    sessions: BTreeMap<u32, ClientSession>,
    prepared: BTreeMap<u32, Timestamp>,
    background: Option<JoinHandle<mongodb::error::Result<Document>>>,
    /// The newest entry taken up.
    last: Position,
    entries: Vec<RawDocumentBuf>,
    /// Entries at whose time documents are still to be read.
    unread: Vec<Ts>,
    moments: Vec<Moment>,
    past: BTreeMap<Ts, BTreeMap<Uuid, Documents>>,
}

/// Runs cases on a new set.
pub async fn record(release: Release, role: Role, cases: &[Case]) -> Recording {
    let mut arguments = vec!["--setParameter".to_owned(), "enableTestCommands=1".to_owned()];
    arguments.extend(["--setParameter".to_owned(), "ttlMonitorSleepSecs=1".to_owned()]);
    if release != Release::V4_4_2 {
        let feature = "featureFlagClusterWideConfig=true".to_owned();
        arguments.extend(["--setParameter".to_owned(), feature]);
    }
    if role == Role::Shard {
        arguments.push("--shardsvr".to_owned());
    }
    let mongod = Some(Mongod::fetch(release).expect("a server"));
    // Large transactions stay in the cache; where it is small, 6.0.27 may give one up.
    let options = Options { mongod, arguments, cache_gb: 1.0, ..Options::default() };
    let set = ReplicaSet::start(options).await.expect("a set");
    if role == Role::Shard {
        let identity = doc! {
            "_id": "shardIdentity", "shardName": "s", "clusterId": bson::oid::ObjectId::new(),
            "configsvrConnectionString": "nobody/127.0.0.1:1",
        };
        let versions = set.client().database("admin").collection("system.version");
        versions.insert_one(identity).await.expect("a shard");
    }
    let (start, scanned) = quiet_state(set.client(), &|_| true).await;
    let mut recorder = Recorder {
        set,
        release,
        sessions: BTreeMap::new(),
        prepared: BTreeMap::new(),
        background: None,
        last: start,
        entries: Vec::new(),
        unread: Vec::new(),
        moments: Vec::new(),
        past: BTreeMap::new(),
    };
    for case in cases {
        recorder.run(case).await;
    }
    recorder.settle("the end".to_owned(), &[]).await;
    let Recorder { entries, moments, past, .. } = recorder;
    Recording { release, start, scanned, entries, moments, past }
}

/// The position of the newest entry.
async fn newest(client: &Client) -> Position {
    let oplog = client.database("local").collection::<RawDocumentBuf>("oplog.rs");
    let newest = oplog.find_one(doc! {}).sort(doc! { "$natural": -1 }).await.expect("the oplog");
    position(&newest.expect("an entry")).expect("a position")
}

/// A state that no entry changed while it was read, and the newest entry then.
async fn quiet_state(client: &Client, wanted: &dyn Fn(&str) -> bool) -> (Position, State) {
    loop {
        let before = newest(client).await;
        let state = shown::shown(client, wanted).await;
        if newest(client).await == before {
            return (before, state);
        }
    }
}

impl Recorder {
    fn client(&self) -> &Client {
        self.set.client()
    }

    /// Runs a case and requires that its entries have the forms that it claims.
    async fn run(&mut self, case: &Case) {
        let first = self.entries.len();
        let databases: Vec<&'static str> = case.databases.iter().copied().chain(COMMON).collect();
        for (number, step) in case.steps.iter().enumerate() {
            let what = format!("{}, {}, step {number}", self.release.version(), case.databases[0]);
            self.step(case.databases[0], step, first, &what).await;
            self.settle(format!("{what}: {step:?}"), &databases).await;
        }
        assert!(self.sessions.is_empty() && self.background.is_none(), "left open");
        let met: Forms = self.entries[first..].iter().flat_map(|entry| forms(entry)).collect();
        for claimed in &case.meets {
            let name = case.databases[0];
            assert!(met.contains(*claimed), "{name} claims {claimed} but met only {met:?}");
        }
    }

    async fn step(&mut self, database: &'static str, step: &Step, first: usize, what: &str) {
        let done = self.perform(database, step, first).await;
        if let Err(error) = done {
            panic!("{what}: {step:?}: {error}");
        }
    }

    async fn perform(
        &mut self,
        database: &'static str,
        step: &Step,
        first: usize,
    ) -> mongodb::error::Result<()> {
        let db = self.client().database(database);
        match step {
            Step::Run(command) => accepted(&db.run_command(command.clone()).await?),
            Step::On(other, command) => {
                let reply = self.client().database(other).run_command(command.clone()).await?;
                accepted(&reply);
            }
            Step::Raw(command) => accepted(&db.run_raw_command(command.clone()).await?),
            Step::Refused(command) => {
                let reply = db.run_command(command.clone()).await;
                assert!(reply.is_err(), "{command} is not refused: {reply:?}");
            }
            Step::Retryable(write) => self.write(database, write).await?,
            Step::Begin(number) => {
                let mut session = self.client().start_session().await?;
                session.start_transaction().await?;
                self.sessions.insert(*number, session);
            }
            Step::In(number, command) => {
                let session = self.sessions.get_mut(number).expect("begun");
                accepted(&db.run_command(command.clone()).session(session).await?);
            }
            Step::Commit(number) => {
                self.sessions.remove(number).expect("begun").commit_transaction().await?;
            }
            Step::Abort(number) => {
                self.prepared.remove(number);
                self.sessions.remove(number).expect("begun").abort_transaction().await?;
            }
            Step::Prepare(number) => {
                let admin = self.client().database("admin");
                let prepare = doc! { "prepareTransaction": 1, "writeConcern": { "w": "majority" } };
                let session = self.sessions.get_mut(number).expect("begun");
                let reply = admin.run_command(prepare).session(session);
                let at = reply.await?.get_timestamp("prepareTimestamp").expect("a timestamp");
                self.prepared.insert(*number, at);
            }
            Step::Decide(number, after) => self.decide(*number, *after).await?,
            Step::Start(command) => {
                let command = command.clone();
                self.background = Some(tokio::spawn(async move { db.run_command(command).await }));
            }
            Step::Join => accepted(&self.background.take().expect("started").await.expect("ends")?),
            Step::JoinRefused => {
                let reply = self.background.take().expect("started").await.expect("ends");
                assert!(reply.is_err(), "not refused: {reply:?}");
            }
            Step::Until(form) => self.wait_for(form, first).await,
        }
        Ok(())
    }

    /// A write that can be repeated, as drivers send it.
    async fn write(&self, database: &str, write: &Write) -> mongodb::error::Result<()> {
        let collection = self.client().database(database).collection::<Document>("c");
        match write.clone() {
            Write::Insert(documents) => collection.insert_many(documents).await.map(drop),
            Write::Update(filter, update) => collection.update_one(filter, update).await.map(drop),
            Write::Delete(filter) => collection.delete_one(filter).await.map(drop),
            Write::FindAndUpdate(filter, update, after) => {
                let which = if after { ReturnDocument::After } else { ReturnDocument::Before };
                let update = collection.find_one_and_update(filter, update).return_document(which);
                update.await.map(drop)
            }
            Write::FindAndDelete(filter) => collection.find_one_and_delete(filter).await.map(drop),
        }
    }

    /// Commits a prepared transaction at its prepare timestamp and `after` increments.
    async fn decide(&mut self, number: u32, after: u32) -> mongodb::error::Result<()> {
        let prepared = self.prepared.remove(&number).expect("prepared");
        let at = Timestamp { increment: prepared.increment + after, ..prepared };
        let mut session = self.sessions.remove(&number).expect("begun");
        let commit = doc! { "commitTransaction": 1, "commitTimestamp": at };
        let admin = self.client().database("admin");
        admin.run_command(commit).session(&mut session).await.map(drop)
    }

    /// Waits for an entry of the case that has this form.
    async fn wait_for(&mut self, form: &str, first: usize) {
        let deadline = Instant::now() + ENTRY_LIMIT;
        loop {
            self.take_entries(newest(self.client()).await).await;
            if self.entries[first..].iter().any(|entry| forms(entry).contains(form)) {
                return;
            }
            assert!(Instant::now() < deadline, "no {form} in time");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Keeps what the server shows now of databases, or of all if none are named.
    async fn settle(&mut self, what: String, databases: &[&'static str]) {
        let wanted = |name: &str| databases.is_empty() || databases.contains(&name);
        let (at, state) = quiet_state(self.client(), &wanted).await;
        self.take_entries(at).await;
        // Whoever reads at the time of a prepared transaction waits for its decision.
        if self.prepared.is_empty() {
            self.read_past(&state).await;
        }
        let databases = databases.to_vec();
        self.moments.push(Moment { what, at: at.optime.ts, databases, state });
    }

    /// Takes up the entries to `until`.
    async fn take_entries(&mut self, until: Position) {
        let (from, to) = (Timestamp::from(self.last.optime.ts), Timestamp::from(until.optime.ts));
        let filter = doc! { "ts": { "$gt": from, "$lte": to } };
        let find = doc! { "find": "oplog.rs", "filter": filter };
        let entries = shown::try_all(&self.client().database("local"), find).await;
        for entry in entries.expect("entries") {
            self.unread.push(position(&entry).expect("a position").optime.ts);
            self.entries.push(entry);
        }
        self.last = until;
    }

    /// Reads the documents at the time of each entry not read at before. Servers before 5.0 do not
    /// have such reads.
    async fn read_past(&mut self, state: &State) {
        let unread = std::mem::take(&mut self.unread);
        if self.release == Release::V4_4_2 {
            return;
        }
        for at in unread {
            for (ns, shown) in state {
                let db = self.client().database(ns.split_once('.').expect("a full name").0);
                let documents = shown::documents(&db, shown.uuid, &shown.options, Some(at)).await;
                if let Some(documents) = documents {
                    self.past.entry(at).or_default().insert(shown.uuid, documents);
                }
            }
        }
    }
}

/// Requires that a write command did what it was told.
fn accepted(reply: &Document) {
    let failed = reply.contains_key("writeErrors") || reply.contains_key("writeConcernError");
    assert!(!failed, "{reply}");
}
