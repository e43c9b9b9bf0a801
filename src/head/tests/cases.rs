//! One rule each, by hand-made entries.

use bson::{RawDocumentBuf, rawdoc};

use super::Place;
use super::entries::{
    abort, apply_ops, command, commit, create, delete, entry, field, id_index, insert, noop,
    optime, position, ts, update, uuid,
};
use super::model::tree;
use crate::head::{Collection, Divergences, Error, Head, Scope};
use crate::oplog::Uuid;
use crate::tree::{Cursor, Order, Root};

/// A head that applies numbered entries.
struct Source {
    place: Place,
    head: Head,
    n: u32,
}

impl Source {
    fn new() -> Self {
        Self::scanned(Vec::new(), 0)
    }

    /// A scan that is caught up with at entry `until`.
    fn scanned(collections: Vec<Collection>, until: u32) -> Self {
        Self::at(Place::new(1 << 20), collections, until)
    }

    fn filtered(include: &str) -> Self {
        let include = vec![include.parse().expect("a filter")];
        let scope = Scope::new(include, Vec::new()).expect("one");
        Self::at(Place { scope, ..Place::new(1 << 20) }, Vec::new(), 0)
    }

    fn at(place: Place, collections: Vec<Collection>, until: u32) -> Self {
        let (blocks, config) = (place.blocks.clone(), place.config());
        let head = Head::from_scan(blocks, config, position(0), optime(until), collections)
            .expect("starts");
        Self { place, head, n: 0 }
    }

    fn try_apply(&mut self, operation: &RawDocumentBuf) -> Result<(), Error> {
        self.n += 1;
        self.head.apply(&entry(self.n, operation))
    }

    fn apply(&mut self, operation: &RawDocumentBuf) -> &mut Self {
        self.try_apply(operation).expect("applies");
        self
    }

    fn reload(&mut self) -> &mut Self {
        let root = self.place.flush(&mut self.head);
        self.head = self.place.load(&root);
        self
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> =
            self.head.collections().iter().map(|entry| entry.ns.clone()).collect();
        names.sort();
        names
    }

    fn collection(&self, uuid: Uuid) -> Collection {
        let all = self.head.collections();
        (*all.iter().find(|entry| entry.uuid == uuid).expect("there")).clone()
    }

    fn documents(&mut self, uuid: Uuid) -> Vec<RawDocumentBuf> {
        self.place.flush(&mut self.head);
        let root = self.collection(uuid).root;
        let mut cursor = Cursor::new(&*self.place.blocks, &root);
        let mut documents = Vec::new();
        while let Some(document) = cursor.next().expect("readable") {
            documents.push(document);
        }
        documents
    }
}

fn scanned(ns: &str, id: u8, root: Root) -> Collection {
    let indexes = vec![id_index()];
    let (uuid, ns) = (uuid(id), ns.to_owned());
    Collection { uuid, ns, options: rawdoc! {}, indexes, order: Order::Keyed, root }
}

fn plain(name: &str, id: u8) -> RawDocumentBuf {
    create("app", name, uuid(id), &rawdoc! {})
}

fn rename(id: u8, from: &str, to: &str, dropped: Option<u8>) -> RawDocumentBuf {
    let mut o = rawdoc! { "renameCollection": from, "to": to, "stayTemp": false };
    if let Some(dropped) = dropped {
        o.append(bson::raw::cstr!("dropTarget"), bson::Binary::from(uuid(dropped)));
    }
    command("app", uuid(id), o)
}

#[test]
fn create_takes_options_and_id_index() {
    let mut source = Source::new();
    let options = rawdoc! { "validator": { "a": 1 }, "collation": { "locale": "de" } };
    source.apply(&create("app", "a", uuid(1), &options));
    let clustered = rawdoc! { "create": "b", "clusteredIndex": true };
    source.apply(&command("app", uuid(2), clustered));
    source.apply(&command("app", uuid(3), rawdoc! { "create": "c" }));
    let made = source.collection(uuid(1));
    assert_eq!((made.options, made.indexes), (options, vec![id_index()]));
    assert!(source.collection(uuid(2)).indexes.is_empty());
    let old = rawdoc! { "v": 1, "key": { "_id": 1 }, "name": "_id_" };
    assert_eq!(source.collection(uuid(3)).indexes, [old]);
}

#[test]
fn rename_drops_its_target_and_ends_temp() {
    let mut source = Source::new();
    source.apply(&create("app", "tmp.x", uuid(1), &rawdoc! { "temp": true }));
    source.apply(&plain("a", 2)).apply(&insert("app.tmp.x", uuid(1), &rawdoc! { "_id": 1 }));
    source.apply(&rename(1, "app.tmp.x", "app.a", Some(2)));
    assert_eq!(source.names(), ["app.a"]);
    assert_eq!(source.collection(uuid(1)).options, rawdoc! {});
    assert_eq!(source.documents(uuid(1)), [rawdoc! { "_id": 1 }]);
}

#[test]
fn a_name_is_never_taken_silently() {
    let mut source = Source::new();
    source.apply(&plain("a", 1)).apply(&plain("b", 2));
    let taken = source.try_apply(&rename(1, "app.a", "app.b", None));
    assert!(matches!(taken, Err(Error::NameTaken { holder, .. }) if holder == uuid(2)));
    assert!(matches!(source.try_apply(&noop()), Err(Error::Spent)));
}

#[test]
fn drop_database_drops_what_is_left() {
    let mut source = Source::new();
    source.apply(&plain("a", 1)).apply(&create("apple", "a", uuid(2), &rawdoc! {}));
    source.apply(&rawdoc! { "op": "c", "ns": "app.$cmd", "o": { "dropDatabase": 1 } });
    assert_eq!(source.names(), ["apple.a"]);
    assert_eq!(source.head.divergences().catalog, 1);
}

#[test]
fn left_out_namespaces_are_not_tracked() {
    let mut source = Source::new();
    source.apply(&create("config", "transactions", uuid(1), &rawdoc! {}));
    source.apply(&insert("config.transactions", uuid(1), &rawdoc! { "_id": 1 }));
    source.apply(&delete("config.transactions", uuid(1), &rawdoc! { "_id": 1 }));
    source.apply(&create("config", "x", uuid(2), &rawdoc! {}));
    source.apply(&rename(2, "config.x", "config.cache.x", None));
    assert!(source.names().is_empty());
    assert_eq!(source.head.divergences().delete_on_missing, 0);
    source.apply(&rename(1, "config.transactions", "config.y", None));
    assert!(source.names().is_empty());
    assert_eq!(source.head.absent().get(&uuid(1)).map(String::as_str), Some("config.y"));
}

#[test]
fn filters_decide_by_name_and_what_is_missing_is_known() {
    let mut source = Source::filtered("app.kept*");
    let temporary = rawdoc! { "temp": true };
    source.apply(&create("app", "tmp.agg_out.1", uuid(1), &temporary));
    source.apply(&insert("app.tmp.agg_out.1", uuid(1), &rawdoc! { "_id": 1 }));
    source.apply(&rename(1, "app.tmp.agg_out.1", "app.kept", None));
    source.apply(&plain("other", 2));
    source.apply(&insert("app.other", uuid(2), &rawdoc! { "_id": 1 }));
    source.apply(&create("app", "tmp.agg_out.2", uuid(3), &temporary));
    source.apply(&rename(3, "app.tmp.agg_out.2", "app.other2", None));
    assert_eq!(source.names(), ["app.kept"]);
    assert_eq!(source.documents(uuid(1)), [rawdoc! { "_id": 1 }]);
    // Into the filter: writes to it are passed over, and it stays known through a flush.
    source.apply(&rename(2, "app.other", "app.kept2", None));
    source.apply(&insert("app.kept2", uuid(2), &rawdoc! { "_id": 2 }));
    source.apply(&delete("app.kept2", uuid(2), &rawdoc! { "_id": 2 }));
    source.reload();
    assert_eq!(source.head.absent().get(&uuid(2)).map(String::as_str), Some("app.kept2"));
    assert_eq!(source.names(), ["app.kept"]);
    // And it is forgotten when it goes again.
    source.apply(&rename(2, "app.kept2", "app.other", None));
    assert!(source.head.absent().is_empty());
    source.apply(&rename(1, "app.kept", "app.gone", None));
    assert!(source.names().is_empty());
    assert_eq!(source.head.divergences(), Divergences::default());
}

#[test]
fn surprises_are_counted_and_treated_as_a_secondary_does() {
    let mut source = Source::new();
    source.apply(&plain("a", 1));
    source.apply(&insert("app.a", uuid(1), &rawdoc! { "_id": 1 }));
    source.apply(&insert("app.a", uuid(1), &rawdoc! { "_id": 1, "a": 2 }));
    let set = rawdoc! { "$v": 2, "diff": { "u": { "a": 5 } } };
    source.apply(&update("app.a", uuid(1), &rawdoc! { "_id": 7 }, &set));
    source.apply(&delete("app.gone", uuid(5), &rawdoc! { "_id": 1 }));
    let wanted = [rawdoc! { "_id": 1, "a": 2 }, rawdoc! { "_id": 7, "a": 5 }];
    assert_eq!(source.documents(uuid(1)), wanted);
    let counted = source.reload().head.divergences();
    assert_eq!(counted.insert_on_existing, 1);
    assert_eq!(counted.update_on_missing, 1);
    assert_eq!(counted.delete_on_missing, 1);
    let lost = source.try_apply(&insert("app.gone", uuid(5), &rawdoc! { "_id": 1 }));
    assert!(matches!(lost, Err(Error::UnknownCollection { .. })));
}

/// A head is moved to the thread that does the work.
#[test]
fn a_head_may_change_threads() {
    fn sendable<T: Send>(_: &T) {}
    sendable(&Source::new().head);
}

#[test]
fn entries_come_in_order() {
    let mut source = Source::new();
    source.apply(&noop());
    source.n = 0;
    assert!(matches!(source.try_apply(&noop()), Err(Error::OutOfOrder { .. })));
}

#[test]
fn replacement_may_change_the_number_type_of_an_id() {
    let mut source = Source::new();
    source.apply(&plain("a", 1)).apply(&insert("app.a", uuid(1), &rawdoc! { "_id": 1 }));
    source.reload();
    let new = rawdoc! { "_id": 1.0, "a": 2 };
    source.apply(&update("app.a", uuid(1), &rawdoc! { "_id": 1 }, &new));
    assert_eq!(source.documents(uuid(1)), [new]);
}

#[test]
fn index_builds_count_from_their_commit() {
    let mut source = Source::new();
    source.apply(&plain("a", 1));
    let spec = rawdoc! { "v": 2, "key": { "x": 1 }, "name": "x_1" };
    let build = |name: &str| {
        let mut o = field(name, "a");
        o.append(bson::raw::cstr!("indexBuildUUID"), bson::Binary::from(uuid(40)));
        o.append(
            bson::raw::cstr!("indexes"),
            [spec.clone()].into_iter().collect::<bson::RawArrayBuf>(),
        );
        command("app", uuid(1), o)
    };
    source.apply(&build("startIndexBuild")).reload();
    assert_eq!(source.collection(uuid(1)).indexes.len(), 1);
    source.apply(&build("commitIndexBuild"));
    assert_eq!(source.collection(uuid(1)).indexes, [id_index(), spec.clone()]);
    source.apply(&command("app", uuid(1), rawdoc! { "dropIndexes": "a", "index": "x_1" }));
    assert_eq!(source.collection(uuid(1)).indexes, [id_index()]);
}

#[test]
fn what_documents_cannot_be_derived_from_stops() {
    for o in
        [rawdoc! { "importCollection": "app.a" }, rawdoc! { "convertToCapped": "a", "size": 4096 }]
    {
        let mut source = Source::new();
        source.apply(&plain("a", 1));
        let stopped = source.try_apply(&command("app", uuid(1), o));
        assert!(matches!(stopped, Err(Error::NeedsRescan { .. })), "{stopped:?}");
    }
}

/// Many updates of one document are folded into what the tree and the runs have of it.
#[test]
fn folding_reads_the_tree_and_the_runs() {
    let mut source = Source::at(Place::new(40_000), Vec::new(), 0);
    source.apply(&plain("a", 1));
    let id = rawdoc! { "_id": "k" };
    source.apply(&insert("app.a", uuid(1), &id)).reload();
    let set = |name: &str, n: i32| {
        update(
            "app.a",
            uuid(1),
            &rawdoc! { "_id": "k" },
            &rawdoc! {
                "$v": 2, "diff": { "u": field(name, n) },
            },
        )
    };
    for round in ["x", "y"] {
        for n in 0..10 {
            source.apply(&set(round, n));
        }
        let large = rawdoc! { "_id": round, "fill": "f".repeat(50_000) };
        source.apply(&insert("app.a", uuid(1), &large));
    }
    assert_eq!(source.place.scratch_files(), 2);
    for n in 0..100 {
        source.apply(&set("z", n));
    }
    // The fold leaves the whole document in memory, so one more spill does not lose the rest.
    let wanted = rawdoc! { "_id": "k", "x": 9, "y": 9, "z": 99 };
    assert!(source.documents(uuid(1)).contains(&wanted));
    assert_eq!(source.head.divergences(), crate::head::Divergences::default());
}

/// The chain of the reference, flushed and loaded between all of its entries.
#[test]
fn a_chain_survives_flushes() {
    let mut source = Source::new();
    source.apply(&plain("a", 1));
    let one = |n: i32| insert("app.a", uuid(1), &rawdoc! { "_id": n });
    let partial = rawdoc! { "partialTxn": true };
    source.apply(&apply_ops(&[one(1), one(2)], partial.clone(), None)).reload();
    let second = optime(source.n);
    source.apply(&apply_ops(&[one(3), one(4)], partial, Some(second))).reload();
    assert!(source.documents(uuid(1)).is_empty());
    let third = optime(source.n);
    source.apply(&apply_ops(&[one(5)], rawdoc! { "count": 5_i64 }, Some(third)));
    assert_eq!(source.documents(uuid(1)).len(), 5);
    assert_eq!(source.place.flush(&mut source.head).pending, None);
}

/// A prepared transaction belongs to every point from its commitTimestamp on, although its commit
/// entry is later.
#[test]
fn prepared_transactions_are_decided() {
    // Prepared at entries 2 and 3 (committed with timestamps 3 and 6) and 4 (aborted).
    let prepare = |n: i32| {
        let operation = insert("app.a", uuid(1), &rawdoc! { "_id": n });
        apply_ops(&[operation], rawdoc! { "prepare": true }, None)
    };
    let mut source = Source::new();
    source.apply(&plain("a", 1)).apply(&prepare(1)).apply(&prepare(2)).apply(&prepare(3));
    source.reload();
    assert_eq!(source.head.undecided(), [ts(2), ts(3), ts(4)]);
    let at = ts(4);
    let other = apply_ops(&[insert("app.a", uuid(1), &rawdoc! { "_id": 9 })], rawdoc! {}, None);
    for (n, operation, done) in [
        (5, other, false),
        (6, prepare(8), false),
        (7, commit(ts(6), optime(6)), false),
        (8, abort(optime(4)), false),
        (9, commit(ts(3), optime(2)), false),
        (10, commit(ts(6), optime(3)), true),
    ] {
        assert_eq!(source.head.decide(&entry(n, &operation), at).expect("decides"), done, "{n}");
    }
    assert_eq!(source.documents(uuid(1)), [rawdoc! { "_id": 1 }]);
    assert_eq!(source.head.position(), position(4));
}

#[test]
fn preloaded_transactions_are_applied_when_committed() {
    let mut source = Source::new();
    source.apply(&plain("a", 1));
    let root = source.place.flush(&mut source.head);
    let collections = crate::head::catalog(&*source.place.blocks, &root).expect("readable");
    let one = |n: i32| insert("app.a", uuid(1), &rawdoc! { "_id": n });
    let (blocks, config) = (source.place.blocks.clone(), source.place.config());
    let mut head =
        Head::from_scan(blocks, config, position(9), optime(20), collections).expect("starts");
    let partial = rawdoc! { "partialTxn": true };
    let unknown = apply_ops(&[one(5)], rawdoc! { "count": 2_i64 }, Some(optime(1)));
    head.preload(&entry(5, &unknown)).expect("passed over");
    head.preload(&entry(6, &apply_ops(&[one(1)], partial, None))).expect("collected");
    let last = apply_ops(&[one(2)], rawdoc! { "count": 2_i64 }, Some(optime(6)));
    head.apply(&entry(10, &last)).expect("applies");
    assert_eq!(head.flush(&*source.place.blocks).expect("flushes").documents, 2);
}

#[test]
fn fuzzy_names_move_aside_and_come_back() {
    let tree_of =
        |place: &Place, n: i32| tree(&*place.blocks, Order::Keyed, [rawdoc! { "_id": n }].iter());
    // Scanned after both renames: 1 was `a` and is `b`, 2 was `b` and is `a`.
    let place = Place::new(1 << 20);
    let found =
        vec![scanned("app.b", 1, tree_of(&place, 1)), scanned("app.a", 2, tree_of(&place, 2))];
    let mut source = Source::at(place, found, 4);
    source.apply(&rename(1, "app.a", "app.t", None)).reload();
    source.apply(&rename(2, "app.b", "app.a", None));
    source.apply(&rename(1, "app.t", "app.b", None));
    assert_eq!(source.head.consistent_from(), None);
    source.apply(&noop());
    assert_eq!(source.head.consistent_from(), Some(optime(4)));
    assert_eq!(source.names(), ["app.a", "app.b"]);
    assert_eq!(source.documents(uuid(1)), [rawdoc! { "_id": 1 }]);
    assert_eq!(source.documents(uuid(2)), [rawdoc! { "_id": 2 }]);
}

#[test]
fn fuzzy_create_of_what_has_another_name() {
    // 1 was created as `a` and renamed to `b` before it was listed.
    let mut source = Source::scanned(vec![scanned("app.b", 1, Root::default())], 3);
    source.apply(&plain("a", 1));
    assert_eq!(source.names(), ["app.a"]);
    source.apply(&rename(1, "app.a", "app.b", None)).apply(&noop());
    assert_eq!(source.names(), ["app.b"]);
}

#[test]
fn fuzzy_skips_what_is_gone() {
    let mut source = Source::scanned(Vec::new(), 6);
    let set = rawdoc! { "$v": 2, "diff": { "u": { "a": 5 } } };
    source.apply(&insert("app.x", uuid(9), &rawdoc! { "_id": 1 }));
    source.apply(&update("app.x", uuid(9), &rawdoc! { "_id": 1 }, &set));
    source.apply(&command("app", uuid(9), rawdoc! { "collMod": "x", "validator": {} }));
    source.apply(&rename(9, "app.x", "app.y", Some(8)));
    source.apply(&command("app", uuid(9), rawdoc! { "drop": "y" })).apply(&noop());
    assert!(source.names().is_empty());
    assert_eq!(source.head.divergences(), crate::head::Divergences::default());
}

#[test]
fn a_collection_left_aside_means_a_new_scan() {
    let mut source = Source::scanned(vec![scanned("app.a", 1, Root::default())], 2);
    source.apply(&plain("a", 2)).reload();
    let stopped = source.try_apply(&noop());
    assert!(matches!(stopped, Err(Error::MovedAside { names }) if names.len() == 1));
}

#[test]
fn fuzzy_capped_collections_get_the_order_of_the_oplog() {
    let place = Place::new(1 << 20);
    // The scan saw 2, inserted after its start, but not 1, which had gone, nor 4, inserted later.
    let seen = [rawdoc! { "_id": 0 }, rawdoc! { "_id": 2 }, rawdoc! { "_id": 3 }];
    let root = tree(&*place.blocks, Order::Positional, seen.iter());
    let options = rawdoc! { "capped": true, "size": 4096, "max": 4 };
    let capped = Collection { options, order: Order::Positional, ..scanned("app.a", 1, root) };
    let mut source = Source::at(place, vec![capped], 5);
    for n in 1..=2 {
        source.apply(&insert("app.a", uuid(1), &rawdoc! { "_id": n }));
    }
    source.reload();
    source.apply(&delete("app.a", uuid(1), &rawdoc! { "_id": 1 }));
    for n in 3..=4 {
        source.apply(&insert("app.a", uuid(1), &rawdoc! { "_id": n }));
    }
    let wanted: Vec<_> = [0, 2, 3, 4].iter().map(|n| rawdoc! { "_id": *n }).collect();
    assert_eq!(source.documents(uuid(1)), wanted);
}

#[test]
fn old_servers_trim_capped_collections_unlogged() {
    let mut place = Place::new(1 << 20);
    place.trims = true;
    let mut source = Source::at(place, Vec::new(), 0);
    let by_count = rawdoc! { "capped": true, "size": 4096, "max": 3 };
    source.apply(&create("app", "a", uuid(1), &by_count));
    let by_bytes = rawdoc! { "capped": true, "size": 4096 };
    source.apply(&create("app", "b", uuid(2), &by_bytes));
    for n in 0..10 {
        source.apply(&insert("app.a", uuid(1), &rawdoc! { "_id": n % 4, "n": n }));
        let large = rawdoc! { "_id": n, "x": "x".repeat(1000) };
        source.apply(&insert("app.b", uuid(2), &large));
        if n % 3 == 0 {
            source.reload();
        }
    }
    let kept: Vec<_> = source.documents(uuid(1)).iter().map(|d| d.get_i32("n").ok()).collect();
    assert_eq!(kept, [Some(7), Some(8), Some(9)]);
    let kept: Vec<_> = source.documents(uuid(2)).iter().map(|d| d.get_i32("_id").ok()).collect();
    assert_eq!(kept, [Some(6), Some(7), Some(8), Some(9)]);
}

#[test]
fn large_options_and_specs_are_kept() {
    let mut source = Source::new();
    let text = "x".repeat(300_000);
    let options = rawdoc! { "validator": { "$comment": text.as_str() } };
    source.apply(&create("app", "a", uuid(1), &options));
    let spec = rawdoc! {
        "v": 2, "key": { "x": 1 }, "name": "x_1",
        "partialFilterExpression": { "x": text.as_str() },
    };
    let mut o = rawdoc! { "createIndexes": "a" };
    for field in spec.iter() {
        let (name, value) = field.expect("valid");
        o.append(name, value);
    }
    source.apply(&command("app", uuid(1), o)).reload();
    let made = source.collection(uuid(1));
    assert_eq!((made.options, made.indexes), (options, vec![id_index(), spec]));
}

#[test]
fn every_block_of_a_head_is_reachable_from_its_root() {
    let mut source = Source::new();
    source.apply(&create(
        "app",
        "a",
        uuid(1),
        &rawdoc! { "validator": { "x": "x".repeat(70_000) } },
    ));
    let operation = insert("app.a", uuid(1), &rawdoc! { "_id": 1 });
    source.apply(&operation);
    let other = insert("app.a", uuid(1), &rawdoc! { "_id": 2 });
    source.apply(&apply_ops(&[other], rawdoc! { "partialTxn": true }, None));
    let root = source.place.flush(&mut source.head);
    let blocks = &*source.place.blocks;
    let mut todo = crate::block::references(crate::block::Kind::Links, root.to_bson().as_bytes())
        .expect("well formed");
    let mut seen = std::collections::BTreeSet::new();
    while let Some(id) = todo.pop() {
        if seen.insert(id) {
            let block = crate::block::BlockRead::get(blocks, &id).expect("present");
            todo.extend(crate::block::references(block.kind, &block.bytes).expect("well formed"));
        }
    }
    // The blocks are all of one flush, so all are reached.
    assert_eq!(seen.len(), blocks.size().0);
}
