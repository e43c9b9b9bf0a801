//! Prepared transactions, at every timestamp: what is given back is what the source shows when it is
//! read as of that cluster time, also from snapshots cut through a transaction whose first entries
//! have expired; and what cannot be told yet is refused.
//!
//! The backup is a job of the program. After its first sync the test stores the oplog itself, so that
//! slices and snapshots stand wherever it wants them; applying, snapshots and expiry are the job's.
//!
//! `HEADSTOCK_LONG=1` asks every history for all of its points, not every fourth by turns.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use bson::{Document, RawDocument, RawDocumentBuf, Timestamp, doc, rawdoc};
use futures::TryStreamExt as _;
use headstock::block::stream;
use headstock::head;
use headstock::job::{self, Job, snapshot, snapshot_of_what_is_stored};
use headstock::lab::{self, Program, ReplicaSet};
use headstock::oplog::slice::{self, Slice, SliceBuilder};
use headstock::oplog::{self, ApplyOpsRole, OpTime, Parsed, Ts, position};
use headstock::restore::{At, Backup, Cancel, Error, Request, Silent, View};
use headstock::store::{self, Store};
use headstock::tree::Cursor;
use md5::{Digest as _, Md5};
use mongodb::{Client, ClientSession};
use tempfile::TempDir;

use crate::support::{command, request, restore, run, shard_with};

const DB: &str = "prepared";
const COLLECTIONS: [&str; 2] = ["sums", "others"];
/// Four of these do not fit one entry.
const LARGE_BYTES: usize = 5 << 20;

/// The short form asks a history for one point in so many.
const SHORT_FORM_EVERY: usize = 4;

/// Documents of each collection, in the order of `_id`: its text and a digest of all bytes.
type Shown = BTreeMap<String, Vec<String>>;

fn shown(document: &RawDocument) -> String {
    let id = document.get("_id").expect("readable").expect("an _id");
    let digest = Md5::digest(document.as_bytes());
    format!("{id:?} {}", digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// A shard that remembers every moment, puts two operations of a transaction into an entry, and writes
/// no entries by itself.
async fn source() -> ReplicaSet {
    let set = shard_with(&[
        "--setParameter",
        "maxNumberOfTransactionOperationsInSingleOplogEntry=2",
        "--setParameter",
        "minSnapshotHistoryWindowInSeconds=3600",
        "--setParameter",
        "writePeriodicNoops=false",
    ])
    .await;
    for name in COLLECTIONS {
        command(set.client(), DB, doc! { "create": name }).await;
    }
    write(&set, put("sums", 0..6)).await;
    set
}

fn put(collection: &str, ids: std::ops::Range<i32>) -> Document {
    let documents: Vec<Document> = ids.map(|n| doc! { "_id": n, "n": n }).collect();
    doc! { "insert": collection, "documents": documents }
}

fn large(ids: std::ops::Range<i32>) -> Document {
    let documents = ids.map(|n| doc! { "_id": n, "fill": "x".repeat(LARGE_BYTES) });
    doc! { "insert": "others", "documents": documents.collect::<Vec<_>>() }
}

fn set_by(id: i32, by: &str) -> Document {
    let statement = doc! { "q": { "_id": id }, "u": { "$set": { "by": by } } };
    doc! { "update": "sums", "updates": [statement] }
}

fn remove(id: i32) -> Document {
    doc! { "delete": "sums", "deletes": [{ "q": { "_id": id }, "limit": 1 }] }
}

/// Writes; returns the timestamp of the newest entry then.
async fn write(set: &ReplicaSet, statement: Document) -> Timestamp {
    let reply = command(set.client(), DB, statement).await;
    assert!(!reply.contains_key("writeErrors"), "{reply}");
    reply.get_timestamp("operationTime").expect("a timestamp")
}

async fn begin(set: &ReplicaSet, statements: &[Document]) -> ClientSession {
    lab::transaction(set.client(), DB, statements).await.expect("a transaction")
}

async fn prepare(session: &mut ClientSession) -> Timestamp {
    let admin = session.client().database("admin");
    let reply = admin.run_command(doc! { "prepareTransaction": 1 }).session(session).await;
    reply.expect("prepare").get_timestamp("prepareTimestamp").expect("a timestamp")
}

/// Commits what is prepared. The server wants the prepare entry to be majority-committed.
async fn commit(set: &ReplicaSet, session: &mut ClientSession, at: Timestamp) {
    set.wait_replicated().await.expect("replicated");
    let commit = doc! { "commitTransaction": 1, "commitTimestamp": at };
    set.client().database("admin").run_command(commit).session(session).await.expect("commit");
}

/// What the source shows as of a cluster time.
async fn source_at(client: &Client, at: Ts) -> Shown {
    let mut all = Shown::new();
    for name in COLLECTIONS {
        let find = rawdoc! {
            "find": name, "sort": { "_id": 1 },
            "readConcern": { "level": "snapshot", "atClusterTime": Timestamp::from(at) },
        };
        let cursor = client.database(DB).run_raw_cursor_command(find).await.expect("a read");
        let documents = cursor.with_type::<RawDocumentBuf>().try_collect::<Vec<_>>().await;
        let documents = documents.unwrap_or_else(|why| panic!("{name} at {at}: {why}"));
        let documents = documents.iter().map(|document| shown(document)).collect();
        all.insert(format!("{DB}.{name}"), documents);
    }
    all
}

/// What a backup gives at a point.
fn backup_at(backup: &Backup, at: Ts) -> Result<Shown, Error> {
    let view = View::open(backup.clone(), &At::Exact(at), &Silent, &Cancel::new())?;
    let ours = view.collections().iter().filter(|one| head::namespaces::split(&one.ns).0 == DB);
    let all = ours.map(|collection| {
        let mut documents = Vec::new();
        let mut cursor = Cursor::new(view.blocks(), &collection.root);
        while let Some(document) = cursor.next().expect("readable") {
            documents.push(shown(&document));
        }
        (collection.ns.clone(), documents)
    });
    Ok(all.collect())
}

/// Jobs of one source, all at the same optime.
struct Jobs {
    dir: TempDir,
    names: Vec<String>,
}

impl Jobs {
    async fn of(set: &ReplicaSet, count: usize) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let program = Program::new(env!("CARGO_BIN_EXE_headstock")).expect("the program");
        set.wait_replicated().await.expect("replicated");
        let names: Vec<String> = (0..count).map(|number| format!("job-{number}")).collect();
        let backup = lab::Backup::new(program, dir.path().join("store"));
        for name in &names {
            backup.sync(&set.uri(), &["--job", name]).await.expect("a sync");
        }
        Self { dir, names }
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn open(&self, store: &Store, number: usize) -> Job {
        Job::open(store.clone(), Some(&self.names[number])).expect("a job")
    }

    /// A job to restore from.
    fn backup(&self, number: usize) -> Backup {
        job::open_backup(self.store(), Some(&self.names[number])).expect("a store")
    }
}

/// Stores entries as one slice of a job.
fn add_slice(job: &Job, entries: &[RawDocumentBuf]) {
    let received = job.state().received.expect("a sync").optime;
    let mut builder = SliceBuilder::new(received);
    let new = |entry: &&RawDocumentBuf| position(entry).expect("a position").optime > received;
    let mut new = entries.iter().filter(new).peekable();
    if new.peek().is_none() {
        return;
    }
    for entry in new {
        builder.push(entry).expect("the next entry");
    }
    let (header, bytes) = builder.finish().expect("entries");
    let session = job.store().session();
    let pieces = stream::write(job.store(), &bytes).expect("blocks");
    let change = |state: &mut job::State| {
        state.received = Some(header.last);
        state.slices.push(job.store(), job.store().salt(), Slice { header, pieces })
    };
    job.update(&session, change).expect("a commit");
}

/// What happened at the source after its jobs were made.
struct Past {
    entries: Vec<RawDocumentBuf>,
    optimes: Vec<OpTime>,
    /// Prepare timestamps and the entries that decide.
    decided: Vec<(Ts, Ts)>,
    /// What the source shows as of each entry, and just before and after.
    shown: BTreeMap<Ts, Shown>,
}

impl Past {
    async fn read(set: &ReplicaSet, jobs: &Jobs) -> Self {
        let last = set.wait_replicated().await.expect("replicated").ts;
        let backup = jobs.backup(0);
        let from = backup.snapshots[0].head.position.optime.ts;
        let oplog = set.client().database("local").collection::<RawDocumentBuf>("oplog.rs");
        let range = doc! { "$gt": Timestamp::from(from), "$lte": Timestamp::from(last) };
        let found = oplog.find(doc! { "ts": range }).await.expect("the oplog");
        let entries: Vec<RawDocumentBuf> = found.try_collect().await.expect("entries");
        let at = |entry: &RawDocumentBuf| position(entry).expect("a position").optime;
        let optimes: Vec<OpTime> = entries.iter().map(at).collect();
        let mut decided = Vec::new();
        let mut prepared = BTreeSet::new();
        for (entry, at) in entries.iter().zip(&optimes) {
            let prev = match oplog::parse(entry).expect("a known entry") {
                Parsed::ApplyOps(group) if group.role == ApplyOpsRole::Prepare => {
                    prepared.insert(at.ts);
                    None
                }
                Parsed::Commit(commit) => commit.prev,
                Parsed::Abort(abort) => abort.prev,
                _ => None,
            };
            decided.extend(
                prev.filter(|prev| prepared.contains(&prev.ts))
                    .map(|at_prepare| (at_prepare.ts, at.ts)),
            );
        }
        let around =
            |at: &OpTime| [at.ts.inc - 1, at.ts.inc, at.ts.inc + 1].map(|inc| Ts { inc, ..at.ts });
        let asked: BTreeSet<Ts> = optimes.iter().flat_map(around).collect();
        let mut shown = BTreeMap::new();
        for at in asked.into_iter().filter(|at| from <= *at && *at <= last) {
            shown.insert(at, source_at(set.client(), at).await);
        }
        Self { entries, optimes, decided, shown }
    }

    /// The first transaction that is undecided at a point for who has the entries up to `end`.
    fn undecided(&self, at: Ts, end: Ts) -> Option<Ts> {
        let open =
            self.decided.iter().filter(|(prepared, decided)| *prepared <= at && *decided > end);
        open.map(|(prepared, _)| *prepared).min()
    }

    /// Requires of a backup that has the entries up to `end` what the source shows at each timestamp
    /// that `wanted` takes, or that it is refused for the transaction that is undecided there.
    fn check(&self, backup: &Backup, end: Ts, what: &str, wanted: impl Fn(Ts) -> bool) -> Checked {
        let mut checked = Checked::default();
        for (at, expected) in self.shown.range(..=end).filter(|(at, _)| wanted(**at)) {
            match (backup_at(backup, *at), self.undecided(*at, end)) {
                (Ok(found), None) => {
                    assert_eq!(found, *expected, "{what}: {at}");
                    checked.equal += 1;
                }
                (Err(Error::Undecided { prepared, .. }), Some(first)) => {
                    assert_eq!(prepared, first, "{what}: {at}");
                    checked.refused += 1;
                }
                (found, undecided) => panic!("{what}: {at}, undecided {undecided:?}: {found:?}"),
            }
        }
        checked
    }

    fn last(&self) -> Ts {
        self.optimes.last().expect("entries").ts
    }

    /// How many entries there are up to each after which the same transaction has another.
    fn after_parts(&self) -> Vec<usize> {
        let partial = |count: &usize| match oplog::parse(&self.entries[count - 1]) {
            Ok(Parsed::ApplyOps(group)) => group.role == ApplyOpsRole::Partial,
            _ => false,
        };
        (1..=self.entries.len()).filter(partial).collect()
    }

    /// How many entries there are up to each at which a prepared transaction is undecided.
    fn undecided_after(&self) -> Vec<usize> {
        let open = |count: &usize| {
            let end = self.optimes[count - 1].ts;
            self.undecided(end, end).is_some()
        };
        (1..=self.optimes.len()).filter(open).collect()
    }

    /// The entry before another.
    fn before(&self, at: Ts) -> Option<Ts> {
        self.optimes.iter().map(|optime| optime.ts).rfind(|ts| *ts < at)
    }

    /// Whether there is an entry of this timestamp, and it is asked for in history `number`.
    fn is_due(&self, at: Ts, number: usize) -> bool {
        let long = std::env::var_os("HEADSTOCK_LONG").is_some();
        let place = self.optimes.iter().position(|optime| optime.ts == at);
        place.is_some_and(|place| long || (place + number).is_multiple_of(SHORT_FORM_EVERY))
    }

    fn is_entry(&self, at: Ts) -> bool {
        self.optimes.iter().any(|optime| optime.ts == at)
    }
}

/// Points compared.
#[derive(Debug, Default)]
struct Checked {
    equal: usize,
    refused: usize,
}

/// A job with a slice and a snapshot for each entry.
fn one_by_one(past: &Past, jobs: &Jobs) -> Backup {
    let store = Store::open(&jobs.store(), store::Options::default()).expect("a store");
    let job = jobs.open(&store, 0);
    for entry in past.entries.chunks(1) {
        add_slice(&job, entry);
        snapshot_of_what_is_stored(job.clone()).expect("a snapshot");
    }
    let mut all = jobs.backup(0);
    let synced = all.snapshots[0].head.position.optime;
    all.slices.retain(|slice| slice.header.first.optime > synced);
    assert_eq!(all.slices.len(), past.entries.len());
    all
}

/// Every point, and every point that there is where the entries end while a transaction is undecided.
fn check_ends(past: &Past, all: &Backup) {
    let backup = Backup { snapshots: all.snapshots[..1].to_vec(), ..all.clone() };
    let checked = past.check(&backup, past.last(), "all", |_| true);
    assert_eq!((checked.equal, checked.refused), (past.shown.len(), 0));
    let mut total = Checked::default();
    for count in past.undecided_after() {
        let end = past.optimes[count - 1].ts;
        let backup = Backup { slices: all.slices[..count].to_vec(), ..backup.clone() };
        let first = past.undecided(end, end).expect("a transaction");
        let around = |at| past.is_due(at, count) && Some(at) >= past.before(first);
        let checked = past.check(&backup, end, &format!("to {end}"), around);
        total.equal += checked.equal;
        total.refused += checked.refused;
    }
    println!("{} points; cut short: {total:?}", past.shown.len());
    assert!(total.equal > 0 && total.refused > 10, "{total:?}");
}

/// Every point from each snapshot on that was taken while a transaction was open, without what is
/// older.
fn check_starts(past: &Past, all: &Backup) {
    let (mut cuts, mut total) = (0, 0);
    for count in 1..=past.entries.len() {
        let base = &all.snapshots[count];
        let cut = past.optimes[count - 1].ts;
        assert_eq!(base.head.position.optime.ts, cut);
        if base.head.pending.is_none() {
            continue;
        }
        let (snapshots, slices) = (vec![base.clone()], all.slices[count..].to_vec());
        let backup = Backup { snapshots, slices, ..all.clone() };
        let from = |at| at >= cut && past.is_due(at, count);
        total += past.check(&backup, past.last(), &format!("from {cut}"), from).equal;
        cuts += 1;
    }
    println!("{total} points from {cuts} snapshots with open transactions");
    assert!(cuts > past.undecided_after().len(), "{cuts}");
}

/// Every point from a snapshot on that was taken after `count` entries, when the slices before it
/// have expired; and none of those before it but for the first snapshot.
fn check_expired(past: &Past, jobs: &Jobs, number: usize, count: usize) {
    let store = Store::open(&jobs.store(), store::Options::default()).expect("a store");
    let job = jobs.open(&store, number);
    let (before, after) = past.entries.split_at(count);
    before.chunks(1).for_each(|entry| add_slice(&job, entry));
    let snapshot = snapshot_of_what_is_stored(job.clone()).expect("a snapshot");
    snapshot::set_window(&job, Duration::ZERO).expect("a window");
    let slices = job.state().slices.count();
    assert_eq!(snapshot::expire_slices(&job).expect("expiry"), slices);
    // The first of those to come has three entries, whichever transactions they belong to.
    after.chunks(3).for_each(|entries| add_slice(&job, entries));
    let backup = jobs.backup(number);
    let cut = past.optimes[count - 1].ts;
    let open = head::open_transactions(&store, &backup.snapshots[1].head).expect("readable");
    assert!(!open.is_empty(), "nothing is open at {cut}, snapshot {}", snapshot.id);
    assert_eq!(backup.slices[0].header.prev.ts, cut);
    let checked = past.check(&backup, past.last(), &format!("from {cut}"), |at| at >= cut);
    println!("from {cut} on, {} transactions open: {checked:?}", open.len());
    let base = backup.snapshots[0].head.position.optime.ts;
    for at in past.optimes[..count - 1].iter().map(|optime| optime.ts).filter(|at| *at > base) {
        let refused = backup_at(&backup, at);
        assert!(matches!(refused, Err(Error::Gap { .. })), "{at}: {refused:?}");
    }
}

/// Directories of a dump, at every entry while a transaction was undecided.
async fn check_dumps(past: &Past, backup: &Backup) {
    let dir = tempfile::tempdir().expect("a directory");
    let undecided = past.undecided_after();
    let window = undecided.iter().filter(|count| past.is_due(past.optimes[*count - 1].ts, 0));
    for count in window {
        let at = past.optimes[count - 1].ts;
        let dump = dir.path().join(count.to_string());
        let target = format!("dump:{}", dump.display());
        let asked = Request { at: At::Exact(at), ..request(&target, &[DB]) };
        restore(backup, asked).await.expect("a restore");
        let read = |name: &&str| {
            let bytes = std::fs::read(dump.join(DB).join(format!("{name}.bson"))).expect("a dump");
            let documents = slice::entries(&bytes).map(|one| shown(one.expect("a document")));
            (format!("{DB}.{name}"), documents.collect())
        };
        assert_eq!(COLLECTIONS.iter().map(read).collect::<Shown>(), past.shown[&at], "{at}");
    }
}

/// A chain that is committed at a time between the entries of others, one that is given up, one that is
/// committed at its prepare timestamp, one that is not prepared, and writers of the same collections.
async fn interleaved(set: &ReplicaSet) {
    write(set, put("sums", 100..101)).await;
    let mut first = begin(set, &[put("sums", 10..13), set_by(0, "first"), remove(1)]).await;
    let mut second = begin(set, &[put("sums", 20..21), set_by(2, "second")]).await;
    write(set, set_by(3, "a writer")).await;
    prepare(&mut first).await;
    write(set, put("sums", 101..102)).await;
    prepare(&mut second).await;
    write(set, set_by(4, "a writer")).await;
    let between = write(set, put("others", 0..2)).await;
    write(set, set_by(4, "another writer")).await;
    let mut plain = begin(set, &[put("others", 10..13), set_by(5, "plain")]).await;
    plain.commit_transaction().await.expect("commit");
    second.abort_transaction().await.expect("abort");
    write(set, put("sums", 20..21)).await;
    write(set, set_by(2, "a writer")).await;
    commit(set, &mut first, between).await;
    write(set, set_by(0, "a writer")).await;
    write(set, put("sums", 1..2)).await;
    let mut third = begin(set, &[put("others", 20..21), remove(10), set_by(11, "third")]).await;
    let at_once = prepare(&mut third).await;
    write(set, set_by(12, "a writer")).await;
    commit(set, &mut third, at_once).await;
    write(set, put("sums", 10..11)).await;
}

/// Three entries of large documents that are prepared, and the decision in a later slice.
async fn large_chain(set: &ReplicaSet) {
    let mut chain = begin(set, &[large(30..32), large(32..34), set_by(0, "chain")]).await;
    prepare(&mut chain).await;
    write(set, put("others", 0..2)).await;
    let between = write(set, set_by(1, "a writer")).await;
    write(set, put("others", 2..3)).await;
    commit(set, &mut chain, between).await;
    write(set, set_by(0, "a writer")).await;
}

#[test]
fn prepared_transactions_are_as_the_source_shows_them_at_every_timestamp() {
    run(async {
        let set = source().await;
        let jobs = Jobs::of(&set, 3).await;
        interleaved(&set).await;
        let past = Past::read(&set, &jobs).await;
        let all = one_by_one(&past, &jobs);
        check_ends(&past, &all);
        check_starts(&past, &all);
        check_dumps(&past, &all).await;
        let committed = past.decided[1].1;
        let before_commit = past.optimes.iter().position(|at| at.ts == committed);
        let cuts = [past.after_parts()[0], before_commit.expect("an entry")];
        for (number, count) in (1..).zip(cuts) {
            check_expired(&past, &jobs, number, count);
        }
    });
}

/// More than sixteen megabytes.
#[test]
fn a_large_prepared_chain_is_as_the_source_shows_it_at_every_timestamp() {
    run(async {
        let set = source().await;
        let jobs = Jobs::of(&set, 2).await;
        large_chain(&set).await;
        let past = Past::read(&set, &jobs).await;
        let sizes = past.after_parts().into_iter().map(|count| past.entries[count - 1].as_bytes());
        let bytes: usize = sizes.map(<[u8]>::len).sum();
        assert!(bytes > 16 << 20, "{bytes}");
        let all = one_by_one(&past, &jobs);
        let backup = Backup { snapshots: all.snapshots[..1].to_vec(), ..all };
        let checked = past.check(&backup, past.last(), "all", |at| past.is_entry(at));
        assert_eq!(checked.equal, past.entries.len());
        check_expired(&past, &jobs, 1, past.after_parts()[1]);
    });
}
