//! What the tests share: one runtime, one source, its backup, and one target server.
//!
//! The backup is made by reading the source through the driver, not through the floors that a
//! daemon uses, so that what is compared was read in two ways.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use bson::{Document, RawDocumentBuf, doc};
use futures::TryStreamExt as _;
use headstock::block::{BlockRead, stream};
use headstock::head::{self, Collection, Config, Head, Manifest, RULE_VERSION};
use headstock::lab::{Detail, Options, ReplicaSet, SourceState, Standalone};
use headstock::oplog::slice::{Slice, SliceBuilder};
use headstock::oplog::{self, OpTime, Position};
use headstock::restore::{
    At, Backup, Cancel, Error, Existing, Plan, Report, Request, Silent, Target, prepare,
};
use headstock::source::{ReadFrom, Source};
use headstock::store::{self, Store};
use headstock::tree::{Builder, Content, Order, Shape};
use mongodb::Client;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use crate::trouble;

/// All tests run on one runtime: the clients of the shared servers live on it.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime"));
static SHARED: OnceCell<Shared> = OnceCell::const_new();
static TARGET: OnceCell<Mutex<Standalone>> = OnceCell::const_new();

/// The source with everything in [`trouble`], and its backup.
pub struct Shared {
    pub made: Made,
    pub state: SourceState,
    _source: ReplicaSet,
}

/// Runs a test.
pub fn run<F: Future>(test: F) -> F::Output {
    RUNTIME.block_on(test)
}

/// The backup of the source full of traps.
pub async fn shared() -> &'static Shared {
    let make = async || {
        let source = source(1).await;
        trouble::load(source.client()).await;
        let state =
            SourceState::capture(source.client(), Detail::Documents).await.expect("a state");
        Shared { made: Made::of(&source).await, state, _source: source }
    };
    SHARED.get_or_init(make).await
}

/// A set that deletes nothing by age and takes an entry for each operation of a transaction.
pub async fn source(members: usize) -> ReplicaSet {
    let single = "maxNumberOfTransactionOperationsInSingleOplogEntry=1";
    let arguments = ["--setParameter", "ttlMonitorEnabled=false", "--setParameter", single];
    let arguments = arguments.map(str::to_owned).to_vec();
    let options = Options { arguments, ..Options::members(members) };
    ReplicaSet::start(options).await.expect("a source")
}

/// A set of one that may prepare transactions, as only a shard may.
pub async fn shard() -> ReplicaSet {
    shard_with(&[]).await
}

/// The same with more arguments.
pub async fn shard_with(more: &[&str]) -> ReplicaSet {
    let arguments = [&["--shardsvr"], more].concat().into_iter().map(str::to_owned).collect();
    let options = Options { arguments, ..Options::members(1) };
    let set = ReplicaSet::start(options).await.expect("a source");
    let identity = doc! {
        "_id": "shardIdentity",
        "shardName": "s",
        "clusterId": bson::oid::ObjectId::new(),
        "configsvrConnectionString": "nobody/127.0.0.1:1",
    };
    let versions = set.client().database("admin").collection("system.version");
    versions.insert_one(identity).await.expect("a shard");
    set
}

/// The stand-alone server that tests restore into, one at a time: a target has one marker. It deletes
/// by age every second.
pub async fn target() -> MutexGuard<'static, Standalone> {
    let make = async || {
        let arguments = ["--setParameter", "ttlMonitorSleepSecs=1"].map(str::to_owned).to_vec();
        let options = Options { arguments, ..Options::default() };
        Mutex::new(Standalone::start(&options).await.expect("a target"))
    };
    TARGET.get_or_init(make).await.lock().await
}

/// A backup in a store of its own.
pub struct Made {
    pub backup: Backup,
    pub store: Store,
    /// Optime of its first snapshot.
    pub at: OpTime,
    /// The last entry that is in a slice, or would be.
    received: OpTime,
    dir: TempDir,
}

impl Made {
    /// Reads a quiet source whole.
    pub async fn of(source: &ReplicaSet) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let options =
            store::Options { segment_bytes: 64 << 20, durable: false, mmap: false, secret: None };
        let store = Store::create(&dir.path().join("store"), options).expect("a store");
        let manifest = scanned(source, &store, dir.path()).await;
        let at = manifest.head.position.optime;
        let backup = Backup {
            repository: Arc::new(store.clone()),
            job: "lab".to_owned(),
            snapshots: vec![manifest],
            slices: Vec::new(),
            gaps: Vec::new(),
        };
        Self { backup, store, at, received: at, dir }
    }

    /// Reads the source whole once more, beside what is there; the oplog since the last slice is lost.
    pub async fn scan_again(&mut self, source: &ReplicaSet) -> OpTime {
        let manifest = scanned(source, &self.store, self.dir.path()).await;
        self.received = manifest.head.position.optime;
        self.backup.snapshots.push(manifest);
        self.received
    }

    /// Takes a snapshot of what the newest one and the slices after it come to.
    pub fn add_snapshot(&mut self) {
        let base = self.backup.snapshots.last().expect("a snapshot").clone();
        let config = config(&self.store, self.dir.path());
        let blocks: Arc<dyn BlockRead> = Arc::new(self.store.clone());
        let mut head = Head::load(blocks, config, &base.head).expect("a head");
        for slice in &self.backup.slices {
            let bytes = stream::read(&self.store, &slice.pieces).expect("a slice");
            for entry in oplog::slice::entries(&bytes) {
                let entry = entry.expect("an entry");
                let at = oplog::position(entry).expect("a position").optime;
                if at > head.position().optime {
                    head.apply(entry).expect("applies");
                }
            }
        }
        let head = head.flush(&self.store).expect("a root");
        let id = Manifest::new_id(head.position.optime.ts);
        self.backup.snapshots.push(Manifest { id, head, ..base });
    }

    /// Adds what the source wrote since the last slice, as one slice.
    pub async fn add_slice(&mut self, source: &ReplicaSet) -> OpTime {
        source.wait_replicated().await.expect("replicated");
        let prev = self.received;
        let entries: Vec<RawDocumentBuf> = source
            .client()
            .database("local")
            .collection::<RawDocumentBuf>("oplog.rs")
            .find(doc! { "ts": { "$gt": bson::Timestamp::from(prev.ts) } })
            .await
            .expect("the oplog")
            .try_collect()
            .await
            .expect("entries");
        for entry in &entries {
            oplog::parse(entry).expect("a known entry");
        }
        self.add_entries(&entries)
    }

    /// Adds entries as one slice.
    pub fn add_entries(&mut self, entries: &[RawDocumentBuf]) -> OpTime {
        let mut builder = SliceBuilder::new(self.received);
        for entry in entries {
            builder.push(entry).expect("the next entry");
        }
        let (header, bytes) = builder.finish().expect("entries");
        let pieces = stream::write(&self.store, &bytes).expect("blocks");
        self.received = header.last.optime;
        self.backup.slices.push(Slice { header, pieces });
        self.received
    }
}

/// Reads a quiet source whole into a store.
async fn scanned(source: &ReplicaSet, store: &Store, dir: &Path) -> Manifest {
    let at = source.wait_replicated().await.expect("replicated");
    let opened = Source::connect(&source.uri(), ReadFrom::default()).await.expect("connect");
    let identity = opened.identity().await.expect("identity");
    let mut collections = Vec::new();
    for listed in opened.list(&headstock::head::Scope::all()).await.expect("list") {
        let capped = listed.options.get_bool("capped").unwrap_or(false);
        let order = if capped { Order::Positional } else { Order::Keyed };
        let documents = read(source.client(), &listed.ns, capped).await;
        let shape = Shape::new(store.salt(), order, Content::Documents);
        let mut builder = Builder::new(store, &shape);
        for document in &documents {
            builder.push(document).expect("in order");
        }
        let root = builder.finish().expect("a tree");
        let (uuid, ns) = (listed.uuid, listed.ns);
        let (options, indexes) = (listed.options, listed.indexes);
        collections.push(Collection { uuid, ns, options, indexes, order, root });
    }
    let position = Position { optime: at, wall_ms: i64::from(at.ts.secs) * 1000 };
    let blocks: Arc<dyn BlockRead> = Arc::new(store.clone());
    let config = config(store, dir);
    let mut head = Head::from_scan(blocks, config, position, at, collections).expect("a head");
    Manifest {
        id: Manifest::new_id(at.ts),
        head: head.flush(store).expect("a root"),
        taken_ms: position.wall_ms,
        set_name: identity.set_name,
        replica_set_id: identity.replica_set_id,
        fcv: identity.fcv,
        server_version: identity.server_version,
        rule_version: RULE_VERSION,
        added_bytes: 0,
        keep: false,
        scope: head::Scope::all(),
    }
}

fn config(store: &Store, dir: &Path) -> Config {
    let scratch_dir = dir.join("changes");
    std::fs::create_dir_all(&scratch_dir).expect("a directory");
    Config {
        salt: store.salt(),
        scope: head::Scope::all(),
        scratch_dir,
        seals_scratch: false,
        change_budget_bytes: 1 << 20,
        trims_capped_unlogged: false,
    }
}

async fn read(client: &Client, ns: &str, natural: bool) -> Vec<RawDocumentBuf> {
    let (db, name) = head::namespaces::split(ns);
    let collection = client.database(db).collection::<RawDocumentBuf>(name);
    // The simple collation: the order of keys is that of the values, whatever the collection's is.
    let simple = mongodb::options::Collation::builder().locale("simple").build();
    let sort = if natural {
        doc! { "$natural": 1 }
    } else {
        doc! { "_id": 1 }
    };
    let find = collection.find(doc! {}).sort(sort);
    let found = if natural { find.await } else { find.collation(simple).await };
    found.expect(ns).try_collect().await.expect(ns)
}

/// A request for all of one database.
pub fn request(target: &str, namespaces: &[&str]) -> Request {
    Request {
        at: At::Latest,
        namespaces: namespaces.iter().map(|ns| ns.parse().expect("a filter")).collect(),
        existing: Existing::Drop,
        trust: false,
        only_plan: false,
        target: target.parse::<Target>().expect("a target"),
        mongod: None,
    }
}

/// Plans.
pub async fn plan(backup: &Backup, request: Request) -> Result<Plan, Error> {
    let restore = prepare(backup.clone(), request, Arc::new(Silent), Cancel::new()).await?;
    Ok(restore.plan().clone())
}

/// Plans and executes.
pub async fn restore(backup: &Backup, request: Request) -> Result<Report, Error> {
    prepare(backup.clone(), request, Arc::new(Silent), Cancel::new()).await?.execute().await
}

/// Restores databases of the shared backup into the shared target and compares documents, options
/// and indexes with the source's.
pub async fn round_trip(databases: &[&str]) -> Report {
    let shared = shared().await;
    let server = target().await;
    let report = restore(&shared.made.backup, request(&server.uri(), databases)).await;
    let report = report.expect("a restore");
    same(databases, &shared.state, server.client()).await;
    report
}

/// Compares databases of a server with a state.
pub async fn same(databases: &[&str], expected: &SourceState, client: &Client) {
    let of = |ns: &str| databases.contains(&head::namespaces::split(ns).0);
    let mut expected = expected.clone();
    expected.retain(of);
    assert!(!expected.is_empty(), "nothing to compare in {databases:?}");
    let mut found = SourceState::capture(client, Detail::Documents).await.expect("a state");
    found.retain(of);
    let report = expected.differences(&found);
    assert!(report.is_empty(), "{}", report.join("\n"));
}

/// Runs a command.
pub async fn command(client: &Client, db: &str, command: Document) -> Document {
    let shown = format!("{command:?}");
    client.database(db).run_command(command).await.unwrap_or_else(|why| panic!("{shown}: {why}"))
}

/// Whether a server holds a marker.
pub async fn marked(client: &Client) -> bool {
    let names = client.list_database_names().await.expect("names");
    names.iter().any(|name| name == "headstock_restore")
}
