//! Looking inside: differences of two points, single documents.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bson::{Document, RawDocumentBuf, doc};
use headstock::block::{self, Block, BlockId, BlockRead, Kind as BlockKind};
use headstock::blockstore::Repository;
use headstock::inspect::{self, Counts, Event, Id, json_of_document, json_of_id};
use headstock::lab::ReplicaSet;
use headstock::restore::{At, Backup, Cancel, Silent, View};
use headstock::store::{self, RepositorySalt, Store};
use headstock::tree::{Cursor, Difference};

use crate::support::{Made, command, run, shared, source};

/// A repository that counts how often a block is read.
struct Counting {
    inner: Arc<dyn Repository>,
    blocks: Arc<CountingBlocks>,
}

struct CountingBlocks {
    inner: Arc<dyn BlockRead>,
    reads: AtomicUsize,
}

impl BlockRead for CountingBlocks {
    fn get(&self, id: &BlockId) -> Result<Block, block::Error> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.inner.get(id)
    }

    fn kind_of(&self, id: &BlockId) -> Result<Option<BlockKind>, block::Error> {
        self.inner.kind_of(id)
    }
}

impl Repository for Counting {
    fn blocks(&self) -> Arc<dyn BlockRead> {
        self.blocks.clone()
    }

    fn salt(&self) -> RepositorySalt {
        self.inner.salt()
    }

    fn scratch_store(&self, dir: &std::path::Path) -> Result<Store, store::Error> {
        self.inner.scratch_store(dir)
    }

    fn is_encrypted(&self) -> bool {
        self.inner.is_encrypted()
    }

    fn scratch_dir(&self) -> PathBuf {
        self.inner.scratch_dir()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

fn view(backup: &Backup, at: &At) -> View {
    View::open(backup.clone(), at, &Silent, &Cancel::new()).expect("a view")
}

/// What a diff of two points tells, a line for each event.
fn told(backup: &Backup, from: &At, to: &At, filters: &[&str]) -> (Vec<String>, Counts) {
    let (before, after) = (view(backup, from), view(backup, to));
    let mut lines = Vec::new();
    let filters: Vec<_> = filters.iter().map(|ns| ns.parse().expect("a filter")).collect();
    let mut each = |event: Event<'_>| {
        lines.push(match event {
            Event::Collection(change) => {
                let mut line = format!("{} {}", change.kind.name(), change.ns);
                let from = change.renamed_from.as_ref();
                line.push_str(&from.map(|from| format!(" from {from}")).unwrap_or_default());
                line.push_str(if change.options { " options" } else { "" });
                line.push_str(
                    &change.indexes.iter().map(|name| format!(" {name}")).collect::<String>(),
                );
                line
            }
            Event::Document(_, Difference::Added(one)) => format!("+ {}", json_of_id(one)),
            Event::Document(_, Difference::Removed(one)) => format!("- {}", json_of_id(one)),
            Event::Document(_, Difference::Changed(one, other)) => {
                assert_ne!(one, other);
                format!("~ {}", json_of_id(other))
            }
            Event::End { counts, reordered, .. } => {
                let Counts { added, removed, changed } = counts;
                format!("{added} {removed} {changed}{}", if reordered { " reordered" } else { "" })
            }
        });
        Ok(())
    };
    let repository = backup.repository.clone();
    let cancel = Cancel::new();
    let total = inspect::diff(&before, &after, repository, &filters, &cancel, &mut each);
    let total = total.expect("a diff");
    (lines, total)
}

async fn fill(set: &ReplicaSet) {
    let db = set.client().database("seen");
    for name in ["steady", "busy", "old_name", "gone", "nightly", "unchanged"] {
        let documents = (0..50).map(|n| doc! { "_id": n, "v": n });
        db.collection(name).insert_many(documents).await.expect("insert");
    }
    let create = doc! { "create": "log", "capped": true, "size": 1 << 20, "max": 30 };
    command(set.client(), "seen", create).await;
    db.collection("log").insert_many((0..30).map(|n| doc! { "_id": n })).await.expect("insert");
    let index = doc! { "key": { "v": 1 }, "name": "v_1" };
    command(set.client(), "seen", doc! { "createIndexes": "busy", "indexes": [index] }).await;
}

async fn change(set: &ReplicaSet) {
    let db = set.client().database("seen");
    let busy = db.collection::<Document>("busy");
    busy.insert_one(doc! { "_id": "new" }).await.expect("insert");
    busy.delete_one(doc! { "_id": 7 }).await.expect("delete");
    busy.update_one(doc! { "_id": 9 }, doc! { "$set": { "v": -1 } }).await.expect("update");
    // There and back is no difference, and neither is another type of the same _id by itself.
    busy.update_one(doc! { "_id": 11 }, doc! { "$set": { "v": -1 } }).await.expect("update");
    busy.update_one(doc! { "_id": 11 }, doc! { "$set": { "v": 11 } }).await.expect("update");
    let rename = doc! { "renameCollection": "seen.old_name", "to": "seen.new_name" };
    command(set.client(), "admin", rename).await;
    command(set.client(), "seen", doc! { "drop": "gone" }).await;
    let add = doc! { "$set": { "v": { "$cond": [{ "$eq": ["$_id", 3] }, "three", "$v"] } } };
    let out = doc! { "aggregate": "nightly", "pipeline": [add, doc! { "$out": "nightly" }], "cursor": {} };
    command(set.client(), "seen", out).await;
    let log = db.collection::<Document>("log");
    log.insert_many((30..34).map(|n| doc! { "_id": n })).await.expect("insert");
    command(set.client(), "seen", doc! { "dropIndexes": "busy", "index": "v_1" }).await;
    let validator = doc! { "v": { "$exists": true } };
    command(set.client(), "seen", doc! { "collMod": "steady", "validator": validator }).await;
    db.collection("made").insert_one(doc! { "_id": 1 }).await.expect("insert");
}

#[test]
fn a_diff_tells_what_differs_and_reads_little_else() {
    run(async {
        let set = source(1).await;
        fill(&set).await;
        let large = set.client().database("seen").collection("large");
        for part in 0..4 {
            let pad = "x".repeat(700);
            let documents =
                (part * 5000..(part + 1) * 5000).map(|n| doc! { "_id": n, "pad": &pad });
            large.insert_many(documents).await.expect("insert");
        }
        let mut made = Made::of(&set).await;
        change(&set).await;
        for n in [1, 9_999, 19_999] {
            large.delete_one(doc! { "_id": n }).await.expect("delete");
        }
        made.add_slice(&set).await;
        let number = |n: i32| format!("{{\"$numberInt\":\"{n}\"}}");
        let mut expected = vec![
            "changed seen.busy v_1".to_owned(),
            format!("- {}", number(7)),
            format!("~ {}", number(9)),
            "+ \"new\"".to_owned(),
            "1 1 1".to_owned(),
            "dropped seen.gone".to_owned(),
        ];
        expected.extend((0..50).map(|n| format!("- {}", number(n))));
        expected.extend(["0 50 0".to_owned(), "changed seen.large".to_owned()]);
        expected.extend([1, 9_999, 19_999].map(|n| format!("- {}", number(n))));
        expected.extend(["0 3 0".to_owned(), "changed seen.log".to_owned()]);
        expected.extend((0..4).map(|n| format!("- {}", number(n))));
        expected.extend((30..34).map(|n| format!("+ {}", number(n))));
        expected.extend([
            "4 4 0".to_owned(),
            "created seen.made".to_owned(),
            format!("+ {}", number(1)),
            "1 0 0".to_owned(),
            "changed seen.new_name from seen.old_name".to_owned(),
            "0 0 0".to_owned(),
            "replaced seen.nightly".to_owned(),
            format!("~ {}", number(3)),
            "0 0 1".to_owned(),
            "changed seen.steady options".to_owned(),
            "0 0 0".to_owned(),
        ]);
        let first = At::Snapshot(made.backup.snapshots[0].id.clone());
        let (lines, total) = told(&made.backup, &first, &At::Latest, &["seen"]);
        assert_eq!(lines, expected);
        assert_eq!(total, Counts { added: 6, removed: 58, changed: 2 });
        let (back, other_way) = told(&made.backup, &At::Latest, &first, &["seen"]);
        assert_eq!(back.len(), lines.len());
        assert_eq!(other_way, Counts { added: 58, removed: 6, changed: 2 });
        let (one, _) = told(&made.backup, &first, &At::Latest, &["seen.old_name"]);
        assert_eq!(one, ["changed seen.new_name from seen.old_name", "0 0 0"]);
        assert_eq!(told(&made.backup, &first, &first, &[]).0, [""; 0]);

        // Between two snapshots only the paths to what differs are read.
        made.add_snapshot();
        let second = At::Snapshot(made.backup.snapshots[1].id.clone());
        let blocks = made.backup.repository.blocks();
        let blocks = Arc::new(CountingBlocks { inner: blocks, reads: AtomicUsize::new(0) });
        let inner = made.backup.repository.clone();
        let counting = Arc::new(Counting { inner, blocks: blocks.clone() });
        let counted = Backup { repository: counting, ..made.backup.clone() };
        let (lines, _) = told(&counted, &first, &second, &["seen"]);
        assert_eq!(lines, expected);
        let reads = blocks.reads.load(Ordering::Relaxed);
        let all = inspect_all(&counted, &first);
        assert!(reads < 120 && all > 1000, "{reads} blocks were read, of {all} leaves and more");
    });
}

/// How many leaves a snapshot has.
fn inspect_all(backup: &Backup, at: &At) -> usize {
    let view = view(backup, at);
    let mut leaves = 0;
    for collection in view.collections() {
        let mut cursor = Cursor::new(view.blocks(), &collection.root);
        while cursor.next_run().expect("a leaf").is_some() {
            leaves += 1;
        }
    }
    leaves
}

/// Only their order differs: the same documents, removed and inserted again.
#[test]
fn a_capped_collection_may_be_in_another_order() {
    run(async {
        let set = source(1).await;
        let create = doc! { "create": "log", "capped": true, "size": 4096 };
        command(set.client(), "seen", create).await;
        let log = set.client().database("seen").collection::<Document>("log");
        log.insert_many((0..5).map(|n| doc! { "_id": n })).await.expect("insert");
        let mut made = Made::of(&set).await;
        log.delete_one(doc! { "_id": 2 }).await.expect("delete");
        log.insert_one(doc! { "_id": 2 }).await.expect("insert");
        made.add_slice(&set).await;
        let first = At::Snapshot(made.backup.snapshots[0].id.clone());
        let (lines, _) = told(&made.backup, &first, &At::Latest, &["seen"]);
        assert_eq!(lines, ["changed seen.log", "0 0 0 reordered"]);
    });
}

#[test]
fn documents_of_any_id_are_got_as_they_were() {
    run(async {
        let backup = &shared().await.made.backup;
        let newest = view(backup, &At::Latest);
        for ns in ["trap_forms.ids", "trap_forms.fields", "trap_capped.log", "trap_large.wide"] {
            let Some(collection) = newest.collection(ns) else { panic!("no {ns}") };
            let mut cursor = Cursor::new(newest.blocks(), &collection.root);
            let mut left = 40;
            while let Some(document) = cursor.next().expect("a document").filter(|_| left > 0) {
                left -= 1;
                let id: Id = json_of_id(&document).parse().expect("an _id");
                let found = inspect::get(&newest, ns, &id).expect("a look");
                assert_eq!(found.as_ref(), Some(&document), "{id} in {ns}");
            }
            let missing: Id = "\"no such _id\"".parse().expect("an _id");
            assert_eq!(inspect::get(&newest, ns, &missing).expect("a look"), None);
        }
        let id: Id = "1".parse().expect("an _id");
        let refused = inspect::get(&newest, "trap_views.a", &id);
        assert!(matches!(refused, Err(inspect::Error::NoCollection { .. })), "{refused:?}");

        let set = source(1).await;
        let things = set.client().database("seen").collection::<Document>("things");
        let mut made = Made::of(&set).await;
        let mut points = vec![(made.at.ts, None)];
        for n in 0..3 {
            let document = doc! { "_id": 1, "n": n };
            let all = doc! { "_id": 1 };
            things.replace_one(all.clone(), &document).upsert(true).await.expect("replace");
            points.push((made.add_slice(&set).await.ts, Some(document)));
        }
        for (ts, expected) in points {
            let view = view(&made.backup, &At::Exact(ts));
            let found = inspect::get(&view, "seen.things", &id);
            let Some(expected) = expected else {
                assert!(matches!(found, Err(inspect::Error::NoCollection { .. })), "{found:?}");
                continue;
            };
            let expected = RawDocumentBuf::try_from(&expected).expect("a document");
            let found = found.expect("a look").expect("a document");
            assert_eq!(json_of_document(&found), json_of_document(&expected));
        }
    });
}
