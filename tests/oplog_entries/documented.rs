//! Entries of servers that cannot be had here, made by hand from their documented format, and entries
//! that no server writes any more.

use std::collections::BTreeSet;

use bson::raw::{RawArrayBuf, cstr};
use bson::spec::BinarySubtype;
use bson::{Binary, DateTime, RawDocumentBuf, Timestamp, rawdoc};
use headstock::head::{Error, Head, Rescan};
use headstock::lab::Release;
use headstock::oplog::{self, OpTime, Position, Ts, UnknownPart, Uuid};

use crate::forms::{Forms, forms};
use crate::replay::Place;
use crate::shown::{Documents, Shown, documents_of, require_documents};

/// The collection that all cases change.
const COLLECTION: Uuid = Uuid([7; 16]);
const NAMESPACE: &str = "app.c";

/// What an entry leaves.
enum Leaves {
    /// Everything as it was.
    Nothing,
    /// These documents.
    Documents(Documents),
    /// These indexes, besides that on `_id`.
    Indexes(Vec<&'static str>),
    /// An error, and a head that stands before the entry.
    Refused(fn(&Error) -> bool),
}

/// One case: entries without their position, and what each leaves.
pub struct Case {
    name: &'static str,
    /// Forms that the entries have.
    pub meets: Vec<&'static str>,
    entries: Vec<(RawDocumentBuf, Leaves)>,
}

fn case(
    name: &'static str,
    meets: Vec<&'static str>,
    entries: Vec<(RawDocumentBuf, Leaves)>,
) -> Case {
    Case { name, meets, entries }
}

/// Every case.
pub fn cases() -> Vec<Case> {
    [
        vec![vectored(), vectored_retryable(), binary(), newer_fields(), abandoned(), old_drops()],
        without_effect(),
        rescans(),
        unknown(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The position of the `n`th entry.
fn at(n: u32) -> Position {
    let ts = Ts { secs: 1_767_225_600 + n / 4, inc: 1 + n % 4 };
    Position { optime: OpTime { ts, term: 3 }, wall_ms: i64::from(ts.secs) * 1_000 }
}

/// `prevOpTime` that names the `n`th entry; 0 stands for none.
fn previous(n: u32) -> RawDocumentBuf {
    let at = if n == 0 { OpTime::NULL } else { at(n).optime };
    rawdoc! { "ts": Timestamp::from(at.ts), "t": at.term }
}

fn start() -> Documents {
    vec![rawdoc! { "_id": 1, "a": 1, "column": column(&[1, 2, 3, 4]) }, rawdoc! { "_id": 2 }]
}

/// A compressed column.
fn column(bytes: &[u8]) -> Binary {
    Binary { subtype: BinarySubtype::Column, bytes: bytes.to_vec() }
}

fn binary_bytes(bytes: &[u8]) -> Binary {
    Binary { subtype: BinarySubtype::Generic, bytes: bytes.to_vec() }
}

fn index(name: &str) -> RawDocumentBuf {
    rawdoc! { "v": 2, "key": { "k": 1 }, "name": name }
}

/// A head that holds the collection.
fn head(place: &Place) -> Head {
    let indexes = ["_id", "x", "y", "z"].map(index).to_vec();
    let shown = Shown { uuid: COLLECTION, options: rawdoc! {}, indexes, documents: start() };
    let collections = vec![shown.scanned(NAMESPACE, &place.blocks)];
    place.scanned(at(0), at(0).optime, collections)
}

/// The operation as the `n`th entry.
fn entry(n: u32, operation: &RawDocumentBuf) -> RawDocumentBuf {
    let mut entry = operation.clone();
    entry.append(cstr!("ts"), Timestamp::from(at(n).optime.ts));
    entry.append(cstr!("t"), at(n).optime.term);
    entry.append(cstr!("v"), 2_i64);
    entry.append(cstr!("wall"), DateTime::from_millis(at(n).wall_ms));
    entry
}

fn insert(document: &RawDocumentBuf) -> RawDocumentBuf {
    let ui = Binary::from(COLLECTION);
    rawdoc! { "op": "i", "ns": NAMESPACE, "ui": ui, "o": document.clone(), "o2": { "_id": 0 } }
}

fn delta(id: i32, diff: RawDocumentBuf) -> RawDocumentBuf {
    let (ui, o) = (Binary::from(COLLECTION), rawdoc! { "$v": 2, "diff": diff });
    rawdoc! { "op": "u", "ns": NAMESPACE, "ui": ui, "o": o, "o2": { "_id": id } }
}

fn command(o: RawDocumentBuf) -> RawDocumentBuf {
    rawdoc! { "op": "c", "ns": "app.$cmd", "ui": Binary::from(COLLECTION), "o": o }
}

fn apply_ops(documents: &[RawDocumentBuf]) -> RawDocumentBuf {
    let operations: RawArrayBuf = documents.iter().map(insert).collect();
    rawdoc! { "applyOps": operations }
}

/// An entry of a session.
fn of_session(o: RawDocumentBuf, prev: u32) -> RawDocumentBuf {
    let lsid = rawdoc! { "id": Binary::from(Uuid([9; 16])), "uid": binary_bytes(&[1; 32]) };
    rawdoc! {
        "lsid": lsid, "txnNumber": 1_i64, "op": "c", "ns": "admin.$cmd", "o": o,
        "prevOpTime": previous(prev),
    }
}

fn numbered(ids: std::ops::Range<i32>) -> Documents {
    ids.map(|n| rawdoc! { "_id": n, "n": n }).collect()
}

fn with_start(more: Documents) -> Leaves {
    Leaves::Documents([start(), more].concat())
}

/// insertMany of an 8.0 server: one entry without a session.
fn vectored() -> Case {
    let entry = rawdoc! { "op": "c", "ns": "admin.$cmd", "o": apply_ops(&numbered(10..13)) };
    let entries = vec![(entry, with_start(numbered(10..13)))];
    case("vectored insert", vec!["c.applyOps", "applyOps.plain", "i"], entries)
}

/// The same with retries: linked by `prevOpTime`, yet each on its own.
fn vectored_retryable() -> Case {
    let part = |ids, prev| {
        let mut entry = of_session(apply_ops(&numbered(ids)), prev);
        entry.append(cstr!("multiOpType"), 1);
        entry
    };
    let entries = vec![
        (part(10..13, 0), with_start(numbered(10..13))),
        (part(13..15, 1), with_start(numbered(10..15))),
        (part(15..16, 2), with_start(numbered(10..16))),
    ];
    let meets = vec!["vectored.retryable", "entry.multiOpType"];
    case("retryable vectored insert", meets, entries)
}

/// Compressed columns that grow (8.0): what is kept of the old bytes, and what follows.
fn binary() -> Case {
    let change = |keep: i32, tail: &[u8]| {
        delta(1, rawdoc! { "b": { "column": { "o": keep, "d": binary_bytes(tail) } } })
    };
    let leaves = |bytes: &[u8]| {
        let changed = rawdoc! { "_id": 1, "a": 1, "column": column(bytes) };
        Leaves::Documents(vec![changed, rawdoc! { "_id": 2 }])
    };
    let missing = delta(2, rawdoc! { "b": { "column": { "o": 0, "d": binary_bytes(&[1]) } } });
    let entries = vec![
        (change(4, &[5, 6]), leaves(&[1, 2, 3, 4, 5, 6])),
        (change(2, &[7]), leaves(&[1, 2, 7])),
        (change(0, &[8, 9]), leaves(&[8, 9])),
        (change(3, &[1]), leaves(&[8, 9])),
        (missing, leaves(&[8, 9])),
    ];
    case("binary diff", vec!["u.v2", "v2.b"], entries)
}

/// Fields that newer servers add to entries of known kinds.
fn newer_fields() -> Case {
    let made = rawdoc! { "_id": 10, "n": 10 };
    let mut insert = insert(&made);
    insert.append(cstr!("rid"), 44_i64);
    insert.append(cstr!("m"), rawdoc! { "sz": 33 });
    let mut update = delta(10, rawdoc! { "i": { "k": 1 } });
    update.append(cstr!("checkExistenceForDiffInsert"), true);
    let create = rawdoc! {
        "op": "c", "ns": "app.$cmd", "ui": Binary::from(Uuid([8; 16])),
        "o": { "create": "d", "recordIdsReplicated": true, "idIndex": index("_id") },
        "o2": { "catalogId": 5_i64, "ident": "collection-1", "idIndexIdent": "index-1" },
        "versionContext": { "OFCV": "8.2" },
    };
    let entries = vec![
        (insert, with_start(vec![made])),
        (update, with_start(vec![rawdoc! { "_id": 10, "n": 10, "k": 1 }])),
        (create, with_start(vec![rawdoc! { "_id": 10, "n": 10, "k": 1 }])),
    ];
    let meets = vec![
        "entry.rid",
        "entry.m",
        "entry.checkExistenceForDiffInsert",
        "entry.versionContext",
        "create.recordIdsReplicated",
    ];
    case("newer fields", meets, entries)
}

/// A new primary gives up what its predecessor left unprepared.
fn abandoned() -> Case {
    let mut partial = apply_ops(&numbered(10..12));
    partial.append(cstr!("partialTxn"), true);
    let entries = vec![
        (of_session(partial, 0), Leaves::Nothing),
        (of_session(rawdoc! { "abortTransaction": 1 }, 0), Leaves::Nothing),
    ];
    case("abandoned chain", vec!["txn.partial", "txn.abort.unprepared"], entries)
}

/// Names that dropIndexes once had.
fn old_drops() -> Case {
    let drop = |o| command(o);
    let entries = vec![
        (drop(rawdoc! { "deleteIndexes": "c", "index": "x" }), Leaves::Indexes(vec!["y", "z"])),
        (drop(rawdoc! { "deleteIndex": "c", "index": "y" }), Leaves::Indexes(vec!["z"])),
        (drop(rawdoc! { "dropIndex": "c", "index": "z" }), Leaves::Indexes(vec![])),
    ];
    case("old drops", vec!["c.deleteIndexes", "c.deleteIndex", "c.dropIndex"], entries)
}

/// Entries that change nothing that is backed up.
fn without_effect() -> Vec<Case> {
    let operation =
        |name: &'static str, entry| case(name, vec![name], vec![(entry, Leaves::Nothing)]);
    let global = |op: &str| {
        rawdoc! {
            "op": op, "ns": "system.globalIndex", "ui": Binary::from(Uuid([6; 16])),
            "o": { "ik": binary_bytes(&[1]), "dk": { "_id": 1 } },
        }
    };
    let container = |op: &str| {
        rawdoc! {
            "op": op, "ns": "admin.$container", "container": "index-7",
            "o": { "k": binary_bytes(&[1]), "v": binary_bytes(&[2]) },
        }
    };
    let key =
        rawdoc! { "op": "km", "ns": "admin.$cmd", "o": { "keyMaterial": binary_bytes(&[3]) } };
    let of = |kind: &'static str, more: RawDocumentBuf| {
        let name = kind.strip_prefix("c.").expect("a command");
        let mut o = RawDocumentBuf::new();
        o.append(bson::raw::CString::try_from(name).expect("no zero byte"), NAMESPACE);
        for field in &more {
            let (name, value) = field.expect("valid");
            o.append(name, value);
        }
        operation(kind, command(o))
    };
    let mut cases = vec![
        operation("xi", global("xi")),
        operation("xd", global("xd")),
        operation("ci", container("ci")),
        operation("cu", container("cu")),
        operation("cd", container("cd")),
        operation("km", key),
        of("c.modifyCollectionShardingIndexCatalog", rawdoc! { "crudType": "insert" }),
        of("c.modifyShardedCollectionGlobalIndexCatalog", rawdoc! { "crudType": "insert" }),
        of("c.createGlobalIndex", rawdoc! {}),
        of("c.dropGlobalIndex", rawdoc! {}),
        of("c.createDatabaseMetadata", rawdoc! { "db": { "_id": "app", "primary": "s" } }),
        of("c.dropDatabaseMetadata", rawdoc! {}),
        of("c.updateCollectionMetadata", rawdoc! {}),
        of("c.setAllowChunkOperations", rawdoc! { "allow": false }),
        of("c.setMultikeyMetadata", rawdoc! {}),
        of("c.dropIdent", rawdoc! {}),
    ];
    let images = rawdoc! {
        "truncateRange": "config.system.preimages", "minRecordId": binary_bytes(&[1]),
        "maxRecordId": binary_bytes(&[2]), "bytesDeleted": 10_i64, "docsDeleted": 2_i64,
    };
    cases.push(operation("c.truncateRange", command(images)));
    cases
}

/// Documents that are in no entry.
fn rescans() -> Vec<Case> {
    let stops = |kind, o, leaves: fn(&Error) -> bool| {
        case(kind, vec![kind], vec![(command(o), Leaves::Refused(leaves))])
    };
    vec![
        stops(
            "c.importCollection",
            rawdoc! {
                "importCollection": "app.imported", "importUUID": Binary::from(Uuid([4; 16])),
                "numRecords": 5_i64, "dataSize": 500_i64, "catalogEntry": {},
                "storageMetadata": {}, "dryRun": false,
            },
            |error| matches!(error, Error::NeedsRescan { why: Rescan::Imported, .. }),
        ),
        stops("c.convertToCapped", rawdoc! { "convertToCapped": "c", "size": 4096 }, |error| {
            matches!(error, Error::NeedsRescan { why: Rescan::ConvertedToCapped, .. })
        }),
        stops(
            "c.truncateRange",
            rawdoc! {
                "truncateRange": NAMESPACE, "minRecordId": 1_i64, "maxRecordId": 2_i64,
                "bytesDeleted": 10_i64, "docsDeleted": 2_i64,
            },
            |error| matches!(error, Error::NeedsRescan { why: Rescan::Truncated, .. }),
        ),
        stops(
            "c.upgradeDowngradeViewlessTimeseries",
            rawdoc! { "upgradeDowngradeViewlessTimeseries": "c", "isUpgrade": true },
            |error| matches!(error, Error::NeedsRescan { why: Rescan::ViewlessTimeseries, .. }),
        ),
    ]
}

/// What is in no table stops, and is named.
fn unknown() -> Vec<Case> {
    fn is(error: &Error, part: UnknownPart) -> bool {
        matches!(error, Error::Oplog(oplog::Error::Unknown { what, .. }) if *what == part)
    }
    let stops = |name, entry, leaves: fn(&Error) -> bool| {
        case(name, vec![], vec![(entry, Leaves::Refused(leaves))])
    };
    let mut multi = of_session(apply_ops(&numbered(10..12)), 0);
    multi.append(cstr!("multiOpType"), 2);
    let nested: RawArrayBuf = [command(rawdoc! { "commitTransaction": 1 })].into_iter().collect();
    let newer = rawdoc! {
        "op": "u", "ns": NAMESPACE, "ui": Binary::from(COLLECTION), "o2": { "_id": 1 },
        "o": { "$v": 3, "diff": { "u": { "a": 2 } } },
    };
    vec![
        stops("an operation", rawdoc! { "op": "zz", "ns": NAMESPACE, "o": {} }, |error| {
            is(error, UnknownPart::Op)
        }),
        stops("a command", command(rawdoc! { "frobnicate": "c" }), |error| {
            is(error, UnknownPart::Command)
        }),
        stops("an update", newer, |error| is(error, UnknownPart::UpdateForm)),
        stops("several operations", multi, |error| is(error, UnknownPart::MultiOpType)),
        stops("a nested transaction", of_session(rawdoc! { "applyOps": nested }, 0), |error| {
            is(error, UnknownPart::NestedTransaction)
        }),
        stops(
            "a collMod",
            command(rawdoc! { "collMod": "c", "frobnicate": 1 }),
            |error| matches!(error, Error::UnknownField { field, .. } if field == "frobnicate"),
        ),
    ]
}

/// Applies every case and requires what it leaves.
pub fn check() {
    for case in cases() {
        let met: Forms = case.entries.iter().flat_map(|(entry, _)| forms(entry)).collect();
        let claimed: BTreeSet<&str> = case.meets.iter().copied().collect();
        for form in claimed {
            assert!(met.contains(form), "{} claims {form} but has only {met:?}", case.name);
        }
        let place = Place::new(Release::V6_0_5);
        let mut head = head(&place);
        for (number, (operation, leaves)) in (1..).zip(&case.entries) {
            apply(&place, &mut head, &entry(number, operation), leaves, case.name);
        }
    }
}

fn apply(place: &Place, head: &mut Head, entry: &RawDocumentBuf, leaves: &Leaves, name: &str) {
    let before = place.flush(head);
    let applied = head.apply(entry);
    if let Leaves::Refused(is_wanted) = leaves {
        let error = applied.expect_err(name);
        assert!(is_wanted(&error), "{name}: {error}");
        assert_eq!(head.position(), before.position, "{name}");
        return;
    }
    applied.unwrap_or_else(|error| panic!("{name}: {error}"));
    let root = place.flush(head);
    assert!(root.position.optime > before.position.optime, "{name}");
    let collections = head.collections();
    let found = collections.iter().find(|found| found.uuid == COLLECTION).expect("still there");
    match leaves {
        Leaves::Nothing => assert_eq!(root.content_root, before.content_root, "{name}"),
        Leaves::Documents(wanted) => {
            require_documents(&documents_of(&found.root, &*place.blocks), wanted, name);
        }
        Leaves::Indexes(wanted) => {
            let names = found.indexes.iter().skip(1).map(|spec| spec.get_str("name"));
            let names: Vec<&str> = names.map(|name| name.expect("a name")).collect();
            assert_eq!(&names, wanted, "{name}");
        }
        Leaves::Refused(_) => unreachable!("returned above"),
    }
}
