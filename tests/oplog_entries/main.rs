//! Every kind of oplog entry there is, applied one by one.
//!
//! A case tells a real server what to do and claims the forms of entries that it writes then. After
//! each step everything the server shows is kept: names, UUIDs, options, index specs and every
//! document; on 6.0 also the documents at the time of each single entry. Then the entries are
//! applied to a head, one by one, and the head must hold the same bytes each time; once more with
//! nothing flushed in between; and once more over states that are newer, as after a scan. What only
//! newer servers write comes from their documented format. `HEADSTOCK_LONG=1` runs all cases on 6.0.27,
//! too.
//!
//! A claim that is not met fails its case, and a row of the table that nothing claims fails
//! [`every_row_and_form_has_a_case`]: table and cases cannot drift apart.

mod cases;
mod documented;
mod forms;
mod record;
mod replay;
mod shown;

use std::collections::BTreeSet;

use headstock::lab::Release;
use headstock::oplog::known::{TABLE, lookup_kind};

use record::{Role, record};

/// Forms that must be claimed besides the rows of the table.
const FORMS: &[&str] = &[
    "u.replace",
    "u.v1",
    "v1.$set",
    "v1.$unset",
    "u.v2",
    "v2.d",
    "v2.u",
    "v2.i",
    "v2.b",
    "v2.s",
    "v2.array.a",
    "v2.array.l",
    "v2.array.u",
    "v2.array.s",
    "entry.upsert",
    "entry.stmtId",
    "entry.needsRetryImage",
    "entry.preImageOpTime",
    "entry.postImageOpTime",
    "entry.fromMigrate",
    "entry.multiOpType",
    "entry.rid",
    "entry.versionContext",
    "entry.checkExistenceForDiffInsert",
    "applyOps.plain",
    "vectored.retryable",
    "txn.single",
    "txn.partial",
    "txn.chain",
    "txn.prepare",
    "txn.prepare.empty",
    "txn.abort.unprepared",
    "create.capped",
    "create.size",
    "create.max",
    "create.validator",
    "create.validationLevel",
    "create.validationAction",
    "create.collation",
    "create.storageEngine",
    "create.indexOptionDefaults",
    "create.clusteredIndex",
    "create.timeseries",
    "create.expireAfterSeconds",
    "create.encryptedFields",
    "create.changeStreamPreAndPostImages",
    "create.recordPreImages",
    "create.recordIdsReplicated",
    "create.temp",
    "create.idIndex",
    "rename.dropTarget",
    "collMod.validator",
    "collMod.validationLevel",
    "collMod.validationAction",
    "collMod.index.expireAfterSeconds",
    "collMod.index.hidden",
    "collMod.index.prepareUnique",
    "collMod.index.unique",
    "collMod.cappedSize",
    "collMod.cappedMax",
    "collMod.expireAfterSeconds",
    "collMod.timeseries.granularity",
    "collMod.changeStreamPreAndPostImages",
    "collMod.recordPreImages",
    "index.collation",
    "index.hidden",
    "index.partialFilterExpression",
    "index.wildcardProjection",
];

/// The short form on a version close to another runs one case of so many.
const SHORT_FORM_EVERY: usize = 4;

/// The sets that cases run on.
const SETS: [(Release, Role); 4] = [
    (Release::V6_0_5, Role::Plain),
    (Release::V4_4_2, Role::Plain),
    (Release::V6_0_5, Role::Shard),
    (Release::V4_4_2, Role::Shard),
];

#[test]
fn every_row_and_form_has_a_case() {
    let mut claimed: BTreeSet<&str> =
        documented::cases().into_iter().flat_map(|case| case.meets).collect();
    for (release, role) in SETS {
        let cases = cases::all(release, role);
        let mut names = BTreeSet::new();
        for database in cases.iter().flat_map(|case| case.databases) {
            assert!(names.insert(*database), "two cases write to {database}");
        }
        claimed.extend(cases.iter().flat_map(|case| &case.meets));
    }
    let rows: Vec<_> = claimed.iter().filter_map(|form| lookup_kind(form)).collect();
    for row in TABLE {
        assert!(rows.contains(&row), "no case for {row:?}");
    }
    for form in FORMS {
        assert!(claimed.contains(form), "no case for {form}");
    }
}

#[test]
fn entries_of_the_documented_format() {
    documented::check();
}

async fn check(release: Release, role: Role) {
    check_cases(release, role, &cases::all(release, role)).await;
}

async fn check_cases(release: Release, role: Role, cases: &[cases::Case]) {
    let recording = record(release, role, cases).await;
    tokio::task::spawn_blocking(move || replay::check(&recording)).await.expect("equal");
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_of_6_0() {
    check(Release::V6_0_5, Role::Plain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_of_6_0_27() {
    let long = std::env::var_os("HEADSTOCK_LONG").is_some();
    let all = cases::all(Release::V6_0_27, Role::Plain).into_iter();
    let some: Vec<_> = all.step_by(if long { 1 } else { SHORT_FORM_EVERY }).collect();
    check_cases(Release::V6_0_27, Role::Plain, &some).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_of_4_4() {
    check(Release::V4_4_2, Role::Plain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prepared_transactions_of_6_0() {
    check(Release::V6_0_5, Role::Shard).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prepared_transactions_of_6_0_27() {
    check(Release::V6_0_27, Role::Shard).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prepared_transactions_of_4_4() {
    check(Release::V4_4_2, Role::Shard).await;
}
