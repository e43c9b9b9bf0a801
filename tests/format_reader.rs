//! The format specification is sufficient: its reader in Python (`format-spec/reader`), written from
//! the text alone, lists the snapshots of a store that the daemon made, restores every collection of
//! each to the very bytes that the program reads, and names what is damaged.

mod python_reader;

use std::fs::{self, File};
use std::io::{BufReader, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bson::oid::ObjectId;
use bson::raw::RawArrayBuf;
use bson::spec::BinarySubtype;
use bson::{Binary, Document, doc, rawdoc};
use headstock::block::{BlockId, BlockRead};
use headstock::head::{self, Collection, Manifest};
use headstock::job;
use headstock::lab::{Backup, Plan, Program, ReplicaSet, Workload, unreadable_id};
use headstock::store::{self, Store, compact};
use headstock::tree::{self, Cursor, Order, Root};
use mongodb::Database;
use python_reader::{DAMAGED, Reader, text};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// A collection that the last sync found changed, and one that all snapshots share.
const CHANGED: &str = "forms.plain";
const UNCHANGED: &str = "forms.ids";
/// Documents of the former: enough for nodes over nodes.
const DOCUMENTS: i32 = 10_000;
/// Where the content of a block starts in its record, and its lengths.
const CONTENT: u64 = 64;
const LENGTHS: u64 = 8;
/// Bytes of the trailer of a segment, and where its hash starts.
const TRAILER: u64 = 128;
const TRAILER_HASH: u64 = 88;
/// Documents of all forms: every type of `_id`, such as are no text, and are long, and large documents.
async fn write_forms(database: &Database) {
    Workload::load(&database.collection("ids"), 5, 700).await.expect("load");
    let documents: RawArrayBuf = (1..100).map(unreadable_id).collect();
    let insert = rawdoc! { "insert": "unreadable", "documents": documents };
    database.run_raw_command(insert).await.expect("insert");
    let text = |length| "x".repeat(length);
    let long = (0..200).map(|n| doc! { "_id": format!("{}{n:03}", text(600)), "n": n });
    database.collection("long").insert_many(long).await.expect("insert");
    let noise = Binary { subtype: BinarySubtype::Generic, bytes: noise(3_000_000) };
    let noise = doc! { "_id": "noise", "noise": noise };
    database.collection("large").insert_one(noise).await.expect("insert");
    let large = [10, 9_000_000, 100, 600_000, 524_260].into_iter().enumerate();
    let large = large.map(|(n, length)| doc! { "_id": n as i32, "text": text(length) });
    database.collection("large").insert_many(large).await.expect("insert");
    let plain = (0..DOCUMENTS).map(|n| doc! { "_id": n, "text": text(n as usize * 37 % 200) });
    database.collection("plain").insert_many(plain).await.expect("insert");
    write_alike(database).await;
    database.create_collection("empty").await.expect("create");
}

/// A collection large enough for a dictionary, of documents that one makes smaller.
async fn write_alike(database: &Database) {
    let mut random = StdRng::seed_from_u64(7);
    let mut left = tree::MIN_FAMILY_BYTES as i64 * 5 / 4;
    while left > 0 {
        let documents = (0..2_000).map(|_| {
            let customer: u64 = random.random();
            doc! {
                "_id": ObjectId::new(),
                "customer": { "number": customer as i64, "mail": format!("{customer:x}@shop.test") },
                "address": { "street": format!("Long Street {}", customer % 200), "city": "Oslo" },
                "note": format!("to be handed over to {} at the back door", customer % 9_999),
                "noise": Binary { subtype: BinarySubtype::Generic, bytes: random.random::<[u8; 32]>().to_vec() },
            }
        });
        let documents: Vec<Document> = documents.collect();
        let sizes = documents.iter().map(|one| bson::serialize_to_vec(one).expect("BSON").len());
        left -= sizes.sum::<usize>() as i64;
        database.collection("alike").insert_many(documents).await.expect("insert");
    }
}

/// Whether records of a store name dictionaries.
fn uses_dictionaries(store: &Store) -> bool {
    let plan = compact::plan(store, compact::Settings::default()).expect("a plan");
    plan.segments.iter().any(|one| one.dictionary_bytes > 0)
}

/// Bytes that do not get smaller by compression.
fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    StdRng::seed_from_u64(6).fill(&mut bytes[..]);
    bytes
}

/// The manifests of a store and their blocks, as the program opens them.
struct Expected {
    manifests: Vec<Manifest>,
    blocks: Arc<dyn BlockRead>,
}

impl Expected {
    fn open(store: &Path) -> Self {
        let backup = job::open_backup(store, None).expect("open the store");
        Self { manifests: backup.snapshots, blocks: backup.repository.blocks() }
    }

    fn catalog(&self, manifest: &Manifest) -> Vec<Collection> {
        head::catalog(&*self.blocks, &manifest.head).expect("catalog")
    }

    /// The first byte of a file in which it is not the documents of a tree.
    fn difference(&self, root: &Root, file: &Path) -> Option<u64> {
        let mut found = BufReader::new(File::open(file).expect("a restored file"));
        let mut cursor = Cursor::new(&*self.blocks, root);
        let (mut at, mut bytes) = (0, Vec::new());
        while let Some(run) = cursor.next_run().expect("a run of documents") {
            bytes.clear();
            found.by_ref().take(run.len() as u64).read_to_end(&mut bytes).expect("read");
            if bytes != run {
                return Some(at);
            }
            at += run.len() as u64;
        }
        bytes.clear();
        found.read_to_end(&mut bytes).expect("read");
        (!bytes.is_empty()).then_some(at)
    }
}

#[test]
fn the_reader_agrees_with_the_vectors() {
    let run = ["unittest", "reader.test_vectors", "reader.test_trees", "reader.test_dictionaries"];
    let output = Reader::set_up().module(&run);
    assert!(output.status.success(), "{}", text(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_collection_of_every_snapshot_is_restored_and_damage_is_named() {
    let reader = Reader::set_up();
    let set = ReplicaSet::of(1).await.expect("start a set");
    let forms = set.client().database("forms");
    write_forms(&forms).await;
    let plan = Plan { preload: 100, large_transactions: false, ..Plan::small(11) };
    let workload = Workload::start(set.client(), &plan).await.expect("workload");
    let folder = tempfile::tempdir().expect("temporary folder");
    let program = Program::new(env!("CARGO_BIN_EXE_headstock")).expect("program");
    let backup = Backup::new(program, folder.path().join("store"));
    let store = backup.store();

    let daemon = backup.start_daemon(&set.uri(), &["--snapshot-every", "1s"]);
    let mut daemon = daemon.expect("start the daemon");
    backup.wait_for_snapshots(2, &mut daemon).await.expect("snapshots");
    reader.succeeds(store, &["check"]);
    workload.stop().await;
    daemon.terminate().await.expect("a clean end");
    let plain = forms.collection::<Document>("plain");
    plain.delete_many(doc! { "_id": { "$mod": [7, 3] } }).await.expect("delete");
    plain
        .update_many(doc! { "_id": { "$lt": 2_000 } }, doc! { "$set": { "a": 1 } })
        .await
        .expect("set");
    backup.sync(&set.uri(), &[]).await.expect("sync");

    let listed = reader.succeeds(store, &["snapshots", "--json"]);
    let listed: serde_json::Value = serde_json::from_slice(&listed).expect("JSON");
    let told = backup.run(&["snapshots", "--json"], &[]).await.expect("snapshots");
    assert_eq!(listed, serde_json::from_str::<serde_json::Value>(&told).expect("JSON"));

    let opened = Store::open_reader(store, store::Options::default()).expect("open the store");
    assert!(uses_dictionaries(&opened));
    drop(opened);
    let expected = Expected::open(store);
    assert!(expected.manifests.len() > 2 && listed.as_array().map(Vec::len) > Some(2), "{listed}");
    let mut kinds = Kinds::default();
    std::thread::scope(|scope| {
        scope.spawn(|| reader.succeeds(store, &["check"]));
        let restore = |manifest| restores_all(&reader, store, &expected, manifest, folder.path());
        for manifest in &expected.manifests {
            scope.spawn(move || restore(manifest));
            expected.catalog(manifest).iter().for_each(|collection| kinds.add(collection));
        }
    });
    kinds.are_all_there();
    let newest = expected.manifests.iter().max_by_key(|manifest| &manifest.id).expect("a snapshot");
    equals_the_dump(&backup, newest, &expected.catalog(newest), folder.path()).await;
    names_damage(&reader, store, newest, &expected.catalog(newest), folder.path());
}

/// Every collection of a snapshot, restored by the reader, has the documents that the program reads.
fn restores_all(
    reader: &Reader,
    store: &Path,
    expected: &Expected,
    manifest: &Manifest,
    folder: &Path,
) {
    let to = folder.join(&manifest.id);
    let arguments = ["restore", "--snapshot", &manifest.id, "--to", to.to_str().expect("text")];
    reader.succeeds(store, &arguments);
    let catalog = expected.catalog(manifest);
    for collection in &catalog {
        let difference = expected.difference(&collection.root, &restored(&to, collection));
        assert_eq!(difference, None, "{} of {}", collection.ns, manifest.id);
    }
    assert_eq!(to.read_dir().expect("list").count(), catalog.len(), "{}", manifest.id);
}

/// The file of a collection in a folder that the reader restored a snapshot to.
fn restored(folder: &Path, collection: &Collection) -> PathBuf {
    folder.join(format!("{}.bson", collection.uuid))
}

/// What the snapshots had to restore.
#[derive(Default)]
struct Kinds {
    capped: bool,
    series: bool,
    clustered: bool,
    unreadable: bool,
    large: bool,
    levels: u8,
}

impl Kinds {
    fn add(&mut self, collection: &Collection) {
        let filled = collection.root.documents > 0;
        self.capped |= filled && collection.order == Order::Positional;
        self.series |= filled && collection.ns.contains(".system.buckets.");
        self.clustered |=
            filled && collection.options.get("clusteredIndex").is_ok_and(|it| it.is_some());
        self.unreadable |= filled && collection.ns == "forms.unreadable";
        self.large |= collection.ns == "forms.large" && collection.root.bytes > 12_000_000;
        self.levels = self.levels.max(collection.root.level);
    }

    fn are_all_there(&self) {
        let Self { capped, series, clustered, unreadable, large, levels } = *self;
        assert!(
            capped && series && clustered && unreadable && large,
            "too few kinds of collections"
        );
        assert!(levels > 1, "no tree of more than one level of nodes");
    }
}

/// Each file of documents in a dump of the newest snapshot is the reader's of that collection.
async fn equals_the_dump(
    backup: &Backup,
    newest: &Manifest,
    catalog: &[Collection],
    folder: &Path,
) {
    let dump = folder.join("dump");
    backup.restore(&newest.id, &format!("dump:{}", dump.display()), &[]).await.expect("dump");
    let mut compared = 0;
    for collection in catalog {
        let (database, name) = collection.ns.split_once('.').expect("a namespace");
        let dumped = dump.join(database).join(format!("{name}.bson"));
        // Views are dumped as their metadata.
        if name != "system.views" {
            let dumped =
                fs::read(&dumped).unwrap_or_else(|why| panic!("{}: {why}", dumped.display()));
            let restored = fs::read(restored(&folder.join(&newest.id), collection)).expect("read");
            assert!(dumped == restored, "{} differs from the dump", collection.ns);
            compared += 1;
        }
    }
    assert!(compared > 20, "only {compared} collections");
}

/// Bytes of blocks are flipped, in a segment that was open and in a sealed one, and one of a footer.
fn names_damage(
    reader: &Reader,
    store: &Path,
    newest: &Manifest,
    catalog: &[Collection],
    folder: &Path,
) {
    let target = folder.join("restored.bson");
    let to = target.to_str().expect("text");
    let mut places = Vec::new();
    for (ns, is_sealed) in [(CHANGED, false), (UNCHANGED, true)] {
        let collection = catalog.iter().find(|collection| collection.ns == ns).expect(ns);
        let (segment, offset) = record_of(store, &collection.root.top.expect("documents"));
        let arguments = ["restore", "--snapshot", &newest.id, "--ns", ns, "--to", to];
        for byte in [offset + CONTENT, offset + LENGTHS] {
            flip(&segment, byte);
            let place = format!("{} at offset {offset}:", segment.display());
            reader.finds(store, &arguments, &place);
            assert!(!target.exists(), "what is not complete has the name of what is");
            flip(&segment, byte);
        }
        // A footer only saves time, and one that the newest commit does not name is not read.
        let trailer = fs::metadata(&segment).expect("length").len() - TRAILER;
        flip(&segment, trailer + TRAILER_HASH);
        let output = reader.on_store(store, &arguments);
        assert!(output.status.success(), "{}", text(&output));
        let whole = fs::read(restored(&folder.join(&newest.id), collection)).expect("read");
        assert!(fs::read(&target).expect("read") == whole, "not the same without a footer");
        fs::remove_file(&target).expect("remove");
        let place = format!("{} at offset {trailer}:", segment.display());
        assert_eq!(text(&output).contains(&place), is_sealed, "{}", text(&output));
        flip(&segment, offset + CONTENT);
        places.push(format!("{} at offset {offset}:", segment.display()));
        places.extend(is_sealed.then_some(place));
    }
    let found = reader.on_store(store, &["check"]);
    assert_eq!(found.status.code(), Some(DAMAGED), "{}", text(&found));
    for place in places {
        assert!(text(&found).contains(&place), "not {place}: {}", text(&found));
    }
}

/// The segment that has a block, and the offset of its record.
fn record_of(store: &Path, id: &BlockId) -> (PathBuf, u64) {
    for entry in store.join("segments").read_dir().expect("list") {
        let path = entry.expect("entry").path();
        let bytes = fs::read(&path).expect("read");
        let is_record = |at: &usize| {
            bytes[*at..].starts_with(b"HSR\x1a") && bytes[at + 16..].starts_with(id.as_bytes())
        };
        if let Some(at) = (4096..bytes.len().saturating_sub(64)).step_by(8).find(is_record) {
            return (path, at as u64);
        }
    }
    panic!("no segment has block {id}");
}

fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).expect("open");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("read");
    file.write_all_at(&[byte[0] ^ 1], at).expect("write");
}
