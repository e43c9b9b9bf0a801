//! Transactions: in one entry, in several, prepared, committed, aborted, interleaved.

use bson::{Document, doc};

use super::{Case, Step, delete, insert, update};

/// Four of these do not fit one entry.
const LARGE_BYTES: usize = 5 << 20;

pub fn cases() -> Vec<Case> {
    vec![single(), chain(), with_catalog(), interleaved()]
}

fn insert_in(number: u32, documents: impl IntoIterator<Item = Document>) -> Step {
    let documents: Vec<Document> = documents.into_iter().collect();
    Step::In(number, doc! { "insert": "c", "documents": documents })
}

fn set_in(number: u32, id: i32, set: Document) -> Step {
    let statement = doc! { "q": { "_id": id }, "u": { "$set": set } };
    Step::In(number, doc! { "update": "c", "updates": [statement] })
}

fn delete_in(number: u32, id: i32) -> Step {
    let statement = doc! { "q": { "_id": id }, "limit": 1 };
    Step::In(number, doc! { "delete": "c", "deletes": [statement] })
}

fn numbered(ids: std::ops::Range<i32>) -> impl Iterator<Item = Document> {
    ids.map(|n| doc! { "_id": n, "n": n })
}

fn large(ids: std::ops::Range<i32>) -> impl Iterator<Item = Document> {
    ids.map(|n| doc! { "_id": n, "fill": "x".repeat(LARGE_BYTES) })
}

/// One document made, changed, removed and made again; then one that is given up, and one that only
/// reads.
fn single() -> Case {
    Case {
        databases: &["single"],
        meets: vec!["txn.single", "c.applyOps", "i", "d"],
        steps: vec![
            insert(numbered(0..3)),
            Step::Begin(1),
            insert_in(1, numbered(10..12)),
            set_in(1, 10, doc! { "a.b": 1 }),
            delete_in(1, 10),
            insert_in(1, [doc! { "_id": 10, "again": true }]),
            set_in(1, 0, doc! { "n": "changed" }),
            delete_in(1, 1),
            Step::Commit(1),
            Step::Begin(1),
            insert_in(1, numbered(20..22)),
            Step::Abort(1),
            Step::Begin(1),
            Step::In(1, doc! { "find": "c" }),
            Step::Commit(1),
        ],
    }
}

/// More than an entry holds.
fn chain() -> Case {
    Case {
        databases: &["chain"],
        meets: vec!["txn.partial", "txn.chain"],
        steps: vec![
            insert(numbered(0..3)),
            Step::Begin(1),
            insert_in(1, large(10..12)),
            insert_in(1, large(12..14)),
            set_in(1, 0, doc! { "n": 100 }),
            delete_in(1, 13),
            Step::Commit(1),
            Step::Run(doc! { "delete": "c", "deletes": [{ "q": {}, "limit": 0 }] }),
        ],
    }
}

/// Collections and indexes made in a transaction.
fn with_catalog() -> Case {
    let index = doc! { "key": { "x": 1 }, "name": "x_1", "unique": true };
    Case {
        databases: &["with_catalog"],
        meets: vec!["txn.single", "c.create", "c.createIndexes", "i"],
        steps: vec![
            Step::Begin(1),
            Step::In(1, doc! { "create": "made", "collation": { "locale": "fr" } }),
            Step::In(1, doc! { "createIndexes": "made", "indexes": [index.clone()] }),
            Step::In(1, doc! { "insert": "made", "documents": [{ "_id": 1, "x": 1 }] }),
            insert_in(1, numbered(0..2)),
            Step::Commit(1),
            Step::Begin(1),
            Step::In(1, doc! { "create": "not made" }),
            Step::Abort(1),
        ],
    }
}

/// Two transactions and writes outside of them, by turns.
fn interleaved() -> Case {
    Case {
        databases: &["interleaved"],
        meets: vec!["txn.single", "txn.partial", "txn.chain"],
        steps: vec![
            insert(numbered(0..5)),
            Step::Begin(1),
            Step::Begin(2),
            insert_in(1, numbered(10..12)),
            set_in(2, 0, doc! { "by": 2 }),
            update(1, doc! { "$set": { "by": "nobody" } }),
            insert_in(2, large(20..22)),
            set_in(1, 2, doc! { "by": 1 }),
            delete(3),
            insert_in(2, large(22..24)),
            insert_in(1, numbered(13..15)),
            Step::Commit(2),
            insert(numbered(40..41)),
            Step::Commit(1),
            Step::Run(doc! { "delete": "c", "deletes": [{ "q": {}, "limit": 0 }] }),
        ],
    }
}

/// Cases for a shard: the only server that prepares.
pub fn prepared() -> Vec<Case> {
    vec![committed(), aborted(), prepared_chain(), several(), empty()]
}

/// Committed after other writes, at its own prepare timestamp and later.
fn committed() -> Case {
    Case {
        databases: &["committed"],
        meets: vec!["txn.prepare", "c.commitTransaction"],
        steps: vec![
            insert(numbered(0..5)),
            Step::Begin(1),
            insert_in(1, numbered(10..12)),
            set_in(1, 0, doc! { "by": 1 }),
            delete_in(1, 1),
            Step::Prepare(1),
            update(2, doc! { "$set": { "by": "nobody" } }),
            insert(numbered(20..22)),
            Step::Decide(1, 0),
            update(0, doc! { "$set": { "by": "nobody" } }),
            Step::Begin(1),
            set_in(1, 0, doc! { "by": 1 }),
            Step::Prepare(1),
            insert(numbered(30..34)),
            Step::Decide(1, 2),
        ],
    }
}

fn aborted() -> Case {
    Case {
        databases: &["aborted"],
        meets: vec!["txn.prepare", "c.abortTransaction"],
        steps: vec![
            insert(numbered(0..2)),
            Step::Begin(1),
            insert_in(1, numbered(10..12)),
            set_in(1, 0, doc! { "by": 1 }),
            Step::Prepare(1),
            insert(numbered(20..22)),
            Step::Abort(1),
            insert(numbered(10..11)),
        ],
    }
}

fn prepared_chain() -> Case {
    Case {
        databases: &["prepared_chain"],
        meets: vec!["txn.partial", "txn.prepare", "c.commitTransaction", "c.abortTransaction"],
        steps: vec![
            insert(numbered(0..2)),
            Step::Begin(1),
            insert_in(1, large(10..12)),
            insert_in(1, large(12..14)),
            Step::Prepare(1),
            insert(numbered(20..22)),
            Step::Decide(1, 1),
            Step::Begin(2),
            insert_in(2, large(30..32)),
            insert_in(2, large(32..34)),
            Step::Prepare(2),
            insert(numbered(40..42)),
            Step::Abort(2),
            Step::Run(doc! { "delete": "c", "deletes": [{ "q": {}, "limit": 0 }] }),
        ],
    }
}

/// Three at once, decided in another order, one of them not prepared.
fn several() -> Case {
    Case {
        databases: &["several"],
        meets: vec!["txn.prepare", "txn.single", "c.commitTransaction", "c.abortTransaction"],
        steps: vec![
            insert(numbered(0..5)),
            Step::Begin(1),
            Step::Begin(2),
            Step::Begin(3),
            set_in(1, 0, doc! { "by": 1 }),
            set_in(2, 1, doc! { "by": 2 }),
            set_in(3, 2, doc! { "by": 3 }),
            Step::Prepare(2),
            insert(numbered(10..12)),
            Step::Prepare(1),
            Step::Commit(3),
            delete(3),
            Step::Decide(1, 0),
            insert(numbered(20..22)),
            Step::Abort(2),
        ],
    }
}

/// Prepared without having written.
fn empty() -> Case {
    Case {
        databases: &["empty"],
        meets: vec!["txn.prepare.empty", "c.commitTransaction"],
        steps: vec![
            insert(numbered(0..2)),
            Step::Begin(1),
            Step::In(1, doc! { "find": "c" }),
            Step::Prepare(1),
            insert(numbered(10..12)),
            Step::Decide(1, 0),
        ],
    }
}
