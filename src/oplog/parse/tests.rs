use bson::spec::BinarySubtype;
use bson::{Binary, RawDocumentBuf, Timestamp, rawdoc};

use super::*;
use crate::oplog::known::TABLE;
use crate::oplog::{Command, Ts, Uuid};

const UUID: Uuid = Uuid([7; 16]);

/// An entry at `100,3@5` of the collection [`UUID`].
fn entry(op: &str, ns: &str, o: RawDocumentBuf) -> RawDocumentBuf {
    rawdoc! {
        "lsid": { "id": 1 }, "txnNumber": 4_i64, "op": op, "ns": ns, "ui": Binary::from(UUID), "o": o,
        "ts": Timestamp { time: 100, increment: 3 }, "t": 5_i64, "v": 2_i64,
        "wall": bson::DateTime::from_millis(100_500), "h": 0_i64, "stmtId": [0, 1],
        "fromMigrate": true, "needsRetryImage": "preImage",
    }
}

fn at() -> OpTime {
    OpTime { ts: Ts { secs: 100, inc: 3 }, term: 5 }
}

fn command(o: &RawDocumentBuf) -> Result<String, Error> {
    let entry = entry("c", "d.$cmd", o.clone());
    match parse(&entry)? {
        Parsed::Single(Operation::Command { db, uuid, command }) => {
            assert_eq!((db, uuid), ("d", Some(UUID)));
            Ok(format!("{command:?}"))
        }
        other => Ok(format!("{other:?}")),
    }
}

#[test]
fn positions() {
    let expected = Position { optime: at(), wall_ms: 100_500 };
    assert_eq!(position(&entry("n", "", rawdoc! {})).expect("valid"), expected);
    let first = rawdoc! { "ts": Timestamp { time: 9, increment: 1 }, "v": 2, "op": "n", "ns": "" };
    let expected = OpTime { ts: Ts { secs: 9, inc: 1 }, term: -1 };
    assert_eq!(position(&first).expect("valid"), Position { optime: expected, wall_ms: 9000 });
    assert!(matches!(position(&rawdoc! { "v": 2 }), Err(Error::NoTimestamp)));
    let ts = Timestamp { time: 9, increment: 1 };
    for wrong in
        [rawdoc! { "ts": ts }, rawdoc! { "ts": ts, "v": 3 }, rawdoc! { "ts": ts, "v": "2" }]
    {
        assert!(matches!(position(&wrong), Err(Error::Version { .. })));
    }
}

#[test]
fn document_operations() {
    let insert = entry("i", "d.c.e", rawdoc! { "_id": 1, "a": 2 });
    let Ok(Parsed::Single(Operation::Insert { ns, uuid, document })) = parse(&insert) else {
        panic!("an insert")
    };
    assert_eq!((ns, uuid, document), ("d.c.e", Some(UUID), &*rawdoc! { "_id": 1, "a": 2 }));
    let delete = entry("d", "d.c", rawdoc! { "shard": 1, "_id": "x" });
    let Ok(Parsed::Single(Operation::Delete { id, .. })) = parse(&delete) else {
        panic!("a delete")
    };
    assert_eq!(id.get_str("_id").ok(), Some("x"));
    assert!(matches!(parse(&entry("d", "d.c", rawdoc! {})), Err(Error::Field { .. })));
    assert!(matches!(parse(&entry("u", "d.c", rawdoc! {})), Err(Error::Field { .. })));
}

#[test]
fn update_forms() {
    let cases = [
        (rawdoc! { "_id": 1.0, "a": 2 }, "Replace"),
        (rawdoc! { "$v": 2, "_id": 1 }, "Replace"),
        (rawdoc! { "a": 2, "_id": 1 }, "Replace"),
        (rawdoc! { "$v": 2, "diff": { "u": { "a": 2 } } }, "V2"),
        (rawdoc! { "$v": 1, "$set": { "a": 2 } }, "V1"),
        (rawdoc! { "$set": { "a": 2 }, "$v": 1, "$unset": { "b": true } }, "V1"),
        (rawdoc! { "$unset": { "a": true } }, "V1"),
        (rawdoc! { "$v": 3, "diff": { "u": { "a": 2 } } }, "unknown"),
        (rawdoc! { "$v": 2 }, "unknown"),
        (rawdoc! { "$v": "2", "diff": { "u": { "a": 2 } } }, "unknown"),
        (rawdoc! { "$v": 1, "$inc": { "a": 2 } }, "unknown"),
        (rawdoc! { "$inc": { "a": 2 } }, "unknown"),
        (rawdoc! { "a": 2 }, "unknown"),
        (rawdoc! {}, "unknown"),
    ];
    for (o, expected) in cases {
        let mut entry = entry("u", "d.c", o.clone());
        entry.append(bson::raw::cstr!("o2"), rawdoc! { "shard": 4, "_id": 1 });
        entry.append(bson::raw::cstr!("b"), true);
        let found = match parse(&entry) {
            Ok(Parsed::Single(Operation::Update { id, update, upsert, .. })) => {
                assert_eq!((id.get_i32("_id").ok(), upsert), (Some(1), true));
                format!("{update:?}").split('(').next().unwrap_or_default().to_owned()
            }
            Err(Error::Unknown { what: UnknownPart::UpdateForm, .. }) => "unknown".to_owned(),
            other => panic!("{other:?}"),
        };
        assert_eq!(found, expected, "{o:?}");
    }
}

/// A sample of each command in the table, by name.
fn sample(name: &str) -> RawDocumentBuf {
    let build = || Binary { subtype: BinarySubtype::Uuid, bytes: vec![9; 16] };
    let specs = || bson::rawbson!([{ "v": 2, "key": { "a": 1 }, "name": "a_1" }]);
    let mut o = RawDocumentBuf::new();
    let first = bson::raw::CString::try_from(name).expect("no NUL");
    match name {
        "renameCollection" | "truncateRange" => o.append(&first, "d.c"),
        "dropDatabase" | "commitTransaction" | "abortTransaction" => o.append(&first, 1),
        "applyOps" => o.append(&first, bson::RawArrayBuf::new()),
        _ => o.append(&first, "c"),
    }
    let more = match name {
        "renameCollection" => rawdoc! { "to": "d.e", "stayTemp": true, "dropTarget": build() },
        "startIndexBuild" | "commitIndexBuild" | "abortIndexBuild" => {
            rawdoc! { "indexBuildUUID": build(), "indexes": specs() }
        }
        "dropIndexes" | "deleteIndexes" | "deleteIndex" | "dropIndex" => rawdoc! { "index": "a_1" },
        "commitTransaction" => rawdoc! { "commitTimestamp": Timestamp { time: 1, increment: 2 } },
        "create" => rawdoc! { "idIndex": { "v": 2, "key": { "_id": 1 }, "name": "_id_" } },
        _ => rawdoc! {},
    };
    for field in &more {
        let (name, value) = field.expect("valid");
        o.append(name, value);
    }
    o
}

#[test]
fn every_row_of_the_table_is_parsed_as_it_says() {
    for row in TABLE {
        let Some(name) = row.command else { continue };
        let entry = entry("c", "d.$cmd", sample(name));
        let parsed = parse(&entry).unwrap_or_else(|error| panic!("{name}: {error}"));
        let fits = match (row.treatment, &parsed) {
            (Treatment::Ignored, Parsed::Single(Operation::Noop(noop))) => *noop == row,
            (Treatment::Applied, Parsed::Single(Operation::Command { command, .. })) => !matches!(
                command,
                Command::ImportCollection { .. } | Command::ViewlessTimeseries { .. }
            ),
            (Treatment::Rescan, Parsed::Single(Operation::Command { command, .. })) => matches!(
                command,
                Command::ImportCollection { .. } | Command::ViewlessTimeseries { .. }
            ),
            (Treatment::Transaction, parsed) => !matches!(parsed, Parsed::Single(_)),
            _ => false,
        };
        assert!(fits, "{name}: {parsed:?}");
    }
    for row in TABLE.iter().filter(|row| row.treatment == Treatment::Ignored) {
        let entry = entry(row.op, "d.$cmd", row.command.map(sample).unwrap_or_default());
        assert!(matches!(parse(&entry), Ok(Parsed::Single(Operation::Noop(noop))) if noop == row));
    }
}

#[test]
fn commands_carry_their_fields() {
    let cases: [(RawDocumentBuf, &[&str]); 6] = [
        (sample("create"), &["Create", "name: \"c\"", "id_index: Some"]),
        (rawdoc! { "create": "c", "capped": true }, &["id_index: None"]),
        (
            sample("renameCollection"),
            &["from: \"d.c\"", "to: \"d.e\"", "drop_target: Some(Uuid([9", "stay_temp: true"],
        ),
        (
            rawdoc! { "renameCollection": "d.c", "to": "d.e", "stayTemp": false, "dropTarget": false },
            &["drop_target: None", "stay_temp: false"],
        ),
        (sample("commitIndexBuild"), &["CommitIndexBuild", "build: Uuid([9", "name: \"c\""]),
        (sample("deleteIndexes"), &["DropIndexes", "index: \"a_1\""]),
    ];
    for (o, expected) in cases {
        let found = command(&o).expect("known");
        for part in expected {
            assert!(found.contains(part), "{found} lacks {part}");
        }
    }
}

#[test]
fn commands_without_their_fields_are_refused() {
    let cases = [
        (rawdoc! { "create": 1 }, "create"),
        (rawdoc! { "drop": true }, "drop"),
        (rawdoc! { "renameCollection": "d.c" }, "to"),
        (rawdoc! { "renameCollection": "d.c", "to": "d.e", "dropTarget": true }, "o.dropTarget"),
        (rawdoc! { "dropIndexes": "c", "index": { "a": 1 } }, "index"),
        (rawdoc! { "startIndexBuild": "c", "indexes": [] }, "indexBuildUUID"),
        (rawdoc! { "applyOps": 1 }, "applyOps"),
        (rawdoc! { "applyOps": [], "count": -1_i64 }, "o.count"),
        (rawdoc! { "commitTransaction": 1 }, "commitTimestamp"),
    ];
    for (o, expected) in cases {
        match command(&o) {
            Err(Error::Field { field, at: found, .. }) => {
                assert_eq!((field, found), (expected, at()))
            }
            other => panic!("{o:?}: {other:?}"),
        }
    }
}

#[test]
fn what_is_unknown_is_named() {
    let error = parse(&entry("zz", "d.c", rawdoc! { "x": 1 })).expect_err("unknown").to_string();
    assert!(
        error.contains("100,3@5") && error.contains("\"zz\"") && error.contains("d.c"),
        "{error}"
    );
    let error =
        command(&rawdoc! { "frobnicate": 1, "create": "c" }).expect_err("unknown").to_string();
    assert!(error.contains("frobnicate") && error.contains("100,3@5"), "{error}");
    assert!(parse(&entry("c", "d.$cmd", rawdoc! {})).is_err());
    assert!(parse(&rawdoc! { "ts": Timestamp { time: 1, increment: 1 }, "v": 2_i64 }).is_err());
}

#[test]
fn apply_ops_are_classified() {
    let role = |fields: RawDocumentBuf, multi: Option<i32>| {
        let mut o = rawdoc! { "applyOps": [], "$db": "admin", "lsid": 1 };
        for field in &fields {
            let (name, value) = field.expect("valid");
            o.append(name, value);
        }
        let mut entry = entry("c", "admin.$cmd", o);
        if let Some(multi) = multi {
            entry.append(bson::raw::cstr!("multiOpType"), multi);
        }
        match parse(&entry) {
            Ok(Parsed::ApplyOps(found)) => Some((found.role, found.count)),
            Err(Error::Unknown { what: UnknownPart::MultiOpType, .. }) => None,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(role(rawdoc! {}, None), Some((ApplyOpsRole::Terminal, None)));
    assert_eq!(role(rawdoc! { "count": 5_i64 }, None), Some((ApplyOpsRole::Terminal, Some(5))));
    assert_eq!(role(rawdoc! { "partialTxn": true }, None), Some((ApplyOpsRole::Partial, None)));
    assert_eq!(role(rawdoc! { "partialTxn": false }, None), Some((ApplyOpsRole::Terminal, None)));
    assert_eq!(role(rawdoc! { "prepare": true }, None), Some((ApplyOpsRole::Prepare, None)));
    assert_eq!(role(rawdoc! {}, Some(1)), Some((ApplyOpsRole::Standalone, None)));
    assert_eq!(role(rawdoc! {}, Some(0)), Some((ApplyOpsRole::Terminal, None)));
    assert_eq!(role(rawdoc! {}, Some(2)), None);
}

#[test]
fn links_and_sessions() {
    let mut raw = entry("c", "admin.$cmd", rawdoc! { "applyOps": [] });
    let prev = rawdoc! { "ts": Timestamp { time: 99, increment: 1 }, "t": 4_i64 };
    raw.append(bson::raw::cstr!("prevOpTime"), prev);
    let Ok(Parsed::ApplyOps(found)) = parse(&raw) else { panic!("an applyOps") };
    assert_eq!(found.prev, Some(OpTime { ts: Ts { secs: 99, inc: 1 }, term: 4 }));
    assert_eq!(found.session.lsid, Some(&*rawdoc! { "id": 1 }));
    assert_eq!(found.session.txn_number, Some(4));
    let mut raw = entry("c", "admin.$cmd", rawdoc! { "abortTransaction": 1 });
    let null = rawdoc! { "ts": Timestamp { time: 0, increment: 0 }, "t": -1_i64 };
    raw.append(bson::raw::cstr!("prevOpTime"), null);
    let Ok(Parsed::Abort(found)) = parse(&raw) else { panic!("an abort") };
    assert_eq!(found.prev, None);
}

#[test]
fn inner_operations() {
    let array = bson::rawbson!([
        { "op": "n", "ns": "", "o": {} },
        { "op": "i", "ns": "d.c", "ui": Binary::from(UUID), "o": { "_id": 1 }, "stmtId": 0 },
        { "op": "c", "ns": "d.$cmd", "ui": Binary::from(UUID), "o": { "create": "e" } },
        { "op": "c", "ns": "d.$cmd", "o": { "dbCheck": "e" } },
        { "op": "c", "ns": "admin.$cmd", "o": { "applyOps": [] } },
        { "op": "zz", "ns": "", "o": {} },
        { "op": "d", "ns": "d.c", "o": { "_id": 1 }, "v": 3 },
        7,
    ]);
    let array = array.as_raw_bson_ref().as_array().expect("an array");
    let found: Vec<_> = operations(at(), array).collect();
    assert_eq!(found.len(), 7);
    assert!(matches!(found[0], Ok(Operation::Insert { uuid: Some(UUID), .. })));
    assert!(matches!(
        found[1],
        Ok(Operation::Command { db: "d", command: Command::Create { name: "e", .. }, .. })
    ));
    assert!(matches!(found[2], Ok(Operation::Noop(row)) if row.command == Some("dbCheck")));
    assert!(matches!(found[3], Err(Error::Unknown { what: UnknownPart::NestedTransaction, .. })));
    assert!(matches!(found[4], Err(Error::Unknown { what: UnknownPart::Op, .. })));
    assert!(matches!(found[5], Err(Error::Version { .. })));
    assert!(matches!(found[6], Err(Error::Field { .. })));
}
