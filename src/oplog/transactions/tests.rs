use bson::{RawDocumentBuf, Timestamp, rawdoc};

use super::*;
use crate::oplog::{Parsed, parse};

/// An optime in term 1.
fn at(inc: u32) -> OpTime {
    OpTime { ts: Ts { secs: 100, inc }, term: 1 }
}

/// An applyOps entry of `operations` inserts by the session `txn`, with further fields in `o`.
fn entry(inc: u32, prev: u32, txn: i64, operations: i32, fields: RawDocumentBuf) -> RawDocumentBuf {
    let mut array = bson::RawArrayBuf::new();
    for id in 0..operations {
        array.push(rawdoc! { "op": "i", "ns": "d.c", "o": { "_id": id } });
    }
    let mut o = rawdoc! { "applyOps": array };
    for field in &fields {
        let (name, value) = field.expect("valid");
        o.append(name, value);
    }
    command(inc, prev, txn, o)
}

fn command(inc: u32, prev: u32, txn: i64, o: RawDocumentBuf) -> RawDocumentBuf {
    let (secs, term) = if prev == 0 { (0, -1_i64) } else { (100, 1) };
    rawdoc! {
        "lsid": { "id": 7 }, "txnNumber": txn, "op": "c", "ns": "admin.$cmd", "o": o,
        "ts": Timestamp { time: 100, increment: inc }, "t": 1_i64, "v": 2_i64,
        "prevOpTime": { "ts": Timestamp { time: secs, increment: prev }, "t": term },
    }
}

/// Feeds an entry, its handle being its increment.
fn feed(
    assembler: &mut Assembler<u32>,
    entry: &RawDocumentBuf,
    phase: Phase,
) -> Result<Outcome<u32>, Error> {
    let at = crate::oplog::position(entry)?.optime;
    match parse(entry)? {
        Parsed::ApplyOps(entry) => assembler.apply_ops(at, &entry, at.ts.inc, phase),
        Parsed::Commit(entry) => assembler.commit(at, &entry, phase),
        Parsed::Abort(entry) => assembler.abort(at, &entry, phase),
        Parsed::Single(_) => panic!("not a transaction entry"),
    }
}

fn steady(assembler: &mut Assembler<u32>, entry: &RawDocumentBuf) -> Outcome<u32> {
    feed(assembler, entry, Phase::Steady).expect("fits")
}

fn applied(handles: &[u32], visible: u32, prepared: Option<u32>) -> Outcome<u32> {
    Outcome::Apply {
        handles: handles.to_vec(),
        visible_at: at(visible).ts,
        prepared_at: prepared.map(|inc| at(inc).ts),
    }
}

fn partial() -> RawDocumentBuf {
    rawdoc! { "partialTxn": true }
}

fn commit(inc: u32, prev: u32, visible: u32) -> RawDocumentBuf {
    let stamp = Timestamp { time: 100, increment: visible };
    command(inc, prev, 1, rawdoc! { "commitTransaction": 1, "commitTimestamp": stamp })
}

#[test]
fn a_transaction_of_one_entry() {
    let mut assembler = Assembler::new();
    assert_eq!(steady(&mut assembler, &entry(1, 0, 1, 2, rawdoc! {})), applied(&[1], 1, None));
    assert_eq!(assembler.open().count(), 0);
}

#[test]
fn interleaved_chains_are_followed_by_optime() {
    let mut assembler = Assembler::new();
    // Same session and number in both: only the optimes tell them apart.
    assert_eq!(steady(&mut assembler, &entry(1, 0, 1, 2, partial())), Outcome::Hold);
    assert_eq!(steady(&mut assembler, &entry(2, 0, 1, 1, partial())), Outcome::Hold);
    assert_eq!(steady(&mut assembler, &entry(3, 1, 1, 2, partial())), Outcome::Hold);
    let last = entry(4, 2, 1, 1, rawdoc! { "count": 2_i64 });
    assert_eq!(steady(&mut assembler, &last), applied(&[2, 4], 4, None));
    let last = entry(5, 3, 1, 1, rawdoc! { "count": 5_i64 });
    assert_eq!(steady(&mut assembler, &last), applied(&[1, 3, 5], 5, None));
    assert_eq!(assembler.open().count(), 0);
}

#[test]
fn a_prepared_chain_is_visible_at_its_commit_timestamp() {
    let mut assembler = Assembler::new();
    steady(&mut assembler, &entry(1, 0, 1, 3, partial()));
    let prepare = entry(2, 1, 1, 1, rawdoc! { "prepare": true, "count": 4_i64 });
    assert_eq!(steady(&mut assembler, &prepare), Outcome::Hold);
    steady(&mut assembler, &entry(3, 0, 2, 0, rawdoc! { "prepare": true }));
    assert_eq!(assembler.undecided(), [at(2).ts, at(3).ts]);
    assert_eq!(steady(&mut assembler, &commit(15, 2, 13)), applied(&[1, 2], 13, Some(2)));
    assert_eq!(assembler.undecided(), [at(3).ts]);
    assert_eq!(steady(&mut assembler, &commit(16, 3, 14)), applied(&[3], 14, Some(3)));
    assert!(assembler.undecided().is_empty());
}

#[test]
fn aborts_discard() {
    let mut assembler = Assembler::new();
    let abort = |inc, prev, txn| command(inc, prev, txn, rawdoc! { "abortTransaction": 1 });
    steady(&mut assembler, &entry(1, 0, 1, 1, rawdoc! { "prepare": true }));
    assert_eq!(steady(&mut assembler, &abort(2, 1, 1)), Outcome::Discard(vec![1]));
    // Left by a failover: no predecessor, found by session and number.
    steady(&mut assembler, &entry(3, 0, 4, 1, partial()));
    steady(&mut assembler, &entry(4, 3, 4, 1, partial()));
    steady(&mut assembler, &entry(5, 0, 5, 1, partial()));
    assert_eq!(steady(&mut assembler, &abort(6, 0, 4)), Outcome::Discard(vec![3, 4]));
    assert_eq!(steady(&mut assembler, &abort(7, 0, 4)), Outcome::Discard(vec![]));
    assert_eq!(assembler.open().count(), 1);
}

#[test]
fn vectored_inserts_stand_alone() {
    let mut assembler = Assembler::new();
    let vectored = |inc, prev| {
        let mut entry = entry(inc, prev, 1, 2, rawdoc! {});
        entry.append(bson::raw::cstr!("multiOpType"), 1);
        entry
    };
    assert_eq!(steady(&mut assembler, &vectored(2, 0)), applied(&[2], 2, None));
    assert_eq!(steady(&mut assembler, &vectored(3, 2)), applied(&[3], 3, None));
    // Even where an open chain ends at its predecessor.
    steady(&mut assembler, &entry(4, 0, 1, 1, partial()));
    assert_eq!(steady(&mut assembler, &vectored(5, 4)), applied(&[5], 5, None));
    assert_eq!(assembler.open().count(), 1);
}

#[test]
fn a_predecessor_that_is_no_part_of_it() {
    let mut assembler = Assembler::new();
    assert_eq!(steady(&mut assembler, &entry(9, 5, 1, 2, rawdoc! {})), applied(&[9], 9, None));
    let counted = entry(10, 5, 1, 2, rawdoc! { "count": 2_i64 });
    assert_eq!(steady(&mut assembler, &counted), applied(&[10], 10, None));
}

#[test]
fn missing_parts_are_errors_once_all_are_seen() {
    let mut assembler = Assembler::new();
    let cases = [
        entry(9, 5, 1, 2, partial()),
        entry(9, 5, 1, 2, rawdoc! { "count": 3_i64 }),
        entry(9, 5, 1, 2, rawdoc! { "count": 3_i64, "prepare": true }),
        commit(9, 5, 8),
        command(9, 5, 1, rawdoc! { "abortTransaction": 1 }),
    ];
    for case in &cases {
        let error = feed(&mut assembler, case, Phase::Steady).expect_err("refused");
        let expected = TransactionError::UnknownPredecessor { at: at(9), prev: at(5) };
        assert!(matches!(error, Error::Transaction(found) if found == expected), "{error}");
        let preloaded = feed(&mut assembler, case, Phase::Preload).expect("passed over");
        assert!(matches!(preloaded, Outcome::Discard(_)));
    }
    // A chain cannot be committed before it is prepared, nor go on after.
    steady(&mut assembler, &entry(20, 0, 1, 1, partial()));
    assert!(feed(&mut assembler, &commit(21, 20, 21), Phase::Steady).is_err());
    steady(&mut assembler, &entry(22, 20, 1, 1, rawdoc! { "prepare": true }));
    assert!(feed(&mut assembler, &entry(23, 22, 1, 1, partial()), Phase::Steady).is_err());
}

#[test]
fn the_stated_count_is_checked_and_a_refusal_changes_nothing() {
    let mut assembler = Assembler::new();
    steady(&mut assembler, &entry(1, 0, 1, 2, partial()));
    let wrong = entry(2, 1, 1, 1, rawdoc! { "count": 4_i64 });
    let error = feed(&mut assembler, &wrong, Phase::Steady).expect_err("refused");
    let expected = TransactionError::Count { at: at(2), stated: 4, found: 3 };
    assert!(matches!(error, Error::Transaction(found) if found == expected), "{error}");
    let right = entry(2, 1, 1, 1, rawdoc! { "count": 3_i64 });
    assert_eq!(steady(&mut assembler, &right), applied(&[1, 2], 2, None));
}

#[test]
fn open_state_is_exported_and_restored() {
    let mut assembler = Assembler::new();
    steady(&mut assembler, &entry(1, 0, 1, 2, partial()));
    steady(&mut assembler, &entry(2, 1, 1, 2, partial()));
    steady(&mut assembler, &entry(3, 0, 9, 1, rawdoc! { "prepare": true }));
    let chains: Vec<_> = assembler.open().cloned().collect();
    assert_eq!(chains[0].lsid, rawdoc! { "id": 7 }.into_bytes());
    assert_eq!((chains[1].txn_number, chains[1].prepared), (Some(9), true));
    let mut restored = Assembler::restore(chains.clone()).expect("consistent");
    assert_eq!(restored.undecided(), [at(3).ts]);
    let last = entry(4, 2, 1, 1, rawdoc! { "count": 5_i64 });
    assert_eq!(steady(&mut restored, &last), applied(&[1, 2, 4], 4, None));
    assert_eq!(steady(&mut restored, &commit(6, 3, 5)), applied(&[3], 5, Some(3)));
    let twice = [chains[0].clone(), chains[0].clone()];
    assert!(Assembler::restore(twice).is_err());
    assert!(Assembler::restore([Chain { parts: Vec::new(), ..chains[0].clone() }]).is_err());
}

#[test]
fn open_transactions_are_bounded() {
    let chain = |secs| Chain {
        lsid: Vec::new(),
        txn_number: None,
        prepared: false,
        parts: vec![Part {
            optime: OpTime { ts: Ts { secs, inc: 1 }, term: 1 },
            operations: 1,
            handle: 0,
        }],
    };
    let limit = u32::try_from(MAX_OPEN_TRANSACTIONS).expect("small");
    let mut full = Assembler::restore((1..=limit).map(|n| chain(n + 1000))).expect("just fits");
    let error = feed(&mut full, &entry(1, 0, 1, 2, partial()), Phase::Steady).expect_err("full");
    assert!(matches!(error, Error::Transaction(TransactionError::TooMany { .. })), "{error}");
}
