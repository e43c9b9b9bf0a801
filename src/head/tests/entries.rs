//! Oplog entries made by hand.

use bson::raw::{CString, RawArrayBuf, RawBson, RawBsonRef, cstr};
use bson::{Binary, DateTime, RawDocumentBuf, Timestamp, rawdoc};

use crate::oplog::{OpTime, Position, Ts, Uuid};

/// The cluster time of the `n`th entry. Leaves gaps, as servers do.
pub(super) fn ts(n: u32) -> Ts {
    Ts { secs: 1_700_000_000 + n / 10, inc: 1 + n % 10 * 2 }
}

pub(super) fn optime(n: u32) -> OpTime {
    OpTime { ts: ts(n), term: 1 }
}

pub(super) fn position(n: u32) -> Position {
    Position { optime: optime(n), wall_ms: 1_700_000_000_000 + i64::from(n) }
}

pub(super) fn uuid(n: u8) -> Uuid {
    Uuid([n; 16])
}

fn optime_document(at: OpTime) -> RawDocumentBuf {
    rawdoc! { "ts": Timestamp::from(at.ts), "t": at.term }
}

/// `{_id: value}`.
pub(super) fn id_document(id: RawBsonRef<'_>) -> RawDocumentBuf {
    let mut out = RawDocumentBuf::new();
    out.append(cstr!("_id"), id);
    out
}

/// `{name: value}`.
pub(super) fn field(name: &str, value: impl Into<RawBson>) -> RawDocumentBuf {
    let name = CString::try_from(name).expect("no zero byte");
    [(name, value.into())].into_iter().collect()
}

/// Completes an operation to the `n`th entry.
pub(super) fn entry(n: u32, operation: &RawDocumentBuf) -> RawDocumentBuf {
    let mut out = operation.clone();
    out.append(cstr!("ts"), Timestamp::from(ts(n)));
    out.append(cstr!("t"), 1_i64);
    out.append(cstr!("v"), 2_i64);
    out.append(cstr!("wall"), DateTime::from_millis(position(n).wall_ms));
    out
}

pub(super) fn insert(ns: &str, ui: Uuid, document: &RawDocumentBuf) -> RawDocumentBuf {
    let id = document.get("_id").expect("valid").expect("an _id");
    rawdoc! { "op": "i", "ns": ns, "ui": Binary::from(ui), "o": document.clone(), "o2": id_document(id) }
}

pub(super) fn update(
    ns: &str,
    ui: Uuid,
    id: &RawDocumentBuf,
    o: &RawDocumentBuf,
) -> RawDocumentBuf {
    rawdoc! { "op": "u", "ns": ns, "ui": Binary::from(ui), "o": o.clone(), "o2": id.clone() }
}

pub(super) fn delete(ns: &str, ui: Uuid, id: &RawDocumentBuf) -> RawDocumentBuf {
    rawdoc! { "op": "d", "ns": ns, "ui": Binary::from(ui), "o": id.clone() }
}

/// A command of a collection.
pub(super) fn command(db: &str, ui: Uuid, o: RawDocumentBuf) -> RawDocumentBuf {
    rawdoc! { "op": "c", "ns": format!("{db}.$cmd"), "ui": Binary::from(ui), "o": o }
}

pub(super) fn create(db: &str, name: &str, ui: Uuid, options: &RawDocumentBuf) -> RawDocumentBuf {
    let mut o = rawdoc! { "create": name };
    for field in options.iter() {
        let (key, value) = field.expect("valid");
        o.append(key, value);
    }
    o.append(cstr!("idIndex"), id_index());
    command(db, ui, o)
}

pub(super) fn id_index() -> RawDocumentBuf {
    rawdoc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" }
}

/// The entries of an applyOps; `extra` are fields of `o` after it.
pub(super) fn apply_ops(
    operations: &[RawDocumentBuf],
    extra: RawDocumentBuf,
    previous: Option<OpTime>,
) -> RawDocumentBuf {
    let operations: RawArrayBuf = operations.iter().cloned().collect();
    let mut o = rawdoc! { "applyOps": operations };
    for field in extra.iter() {
        let (key, value) = field.expect("valid");
        o.append(key, value);
    }
    session(o, previous)
}

pub(super) fn commit(at: Ts, prepared: OpTime) -> RawDocumentBuf {
    let o = rawdoc! { "commitTransaction": 1, "commitTimestamp": Timestamp::from(at) };
    session(o, Some(prepared))
}

pub(super) fn abort(prepared: OpTime) -> RawDocumentBuf {
    session(rawdoc! { "abortTransaction": 1 }, Some(prepared))
}

fn session(o: RawDocumentBuf, previous: Option<OpTime>) -> RawDocumentBuf {
    let null = OpTime { ts: Ts { secs: 0, inc: 0 }, term: -1 };
    rawdoc! {
        "lsid": { "id": Binary::from(uuid(9)) },
        "txnNumber": 1_i64,
        "op": "c",
        "ns": "admin.$cmd",
        "o": o,
        "prevOpTime": optime_document(previous.unwrap_or(null)),
    }
}

pub(super) fn noop() -> RawDocumentBuf {
    rawdoc! { "op": "n", "ns": "", "o": { "msg": "periodic noop" } }
}
