//! What is allowed to happen to a live target.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bson::{Document, doc};
use headstock::lab::{Options, Standalone};
use headstock::restore::{Amount, Cancel, Error, Existing, Phase, Progress, prepare};

use crate::support::{command, marked, plan, request, restore, run, same, shared};

async fn server() -> Standalone {
    Standalone::start(&Options::default()).await.expect("a server")
}

async fn count(server: &Standalone, db: &str, name: &str) -> u64 {
    let collection = server.client().database(db).collection::<Document>(name);
    collection.count_documents(doc! {}).await.expect("count")
}

#[test]
fn what_exists_is_refused_replaced_or_removed_as_asked() {
    run(async {
        let backup = &shared().await.made.backup;
        let server = server().await;
        for (db, name) in [("trap_forms", "ids"), ("trap_forms", "extra"), ("own", "c")] {
            command(
                server.client(),
                db,
                doc! { "insert": name, "documents": [doc! { "_id": "mine" }] },
            )
            .await;
        }
        let asked = |existing| {
            let request = request(&server.uri(), &["trap_forms"]);
            headstock::restore::Request { existing, ..request }
        };
        let refused = restore(backup, asked(Existing::Refuse)).await;
        assert!(
            matches!(&refused, Err(Error::Exists { first, more: 0 }) if first == "trap_forms.ids"),
            "{refused:?}"
        );
        assert_eq!(count(&server, "trap_forms", "ids").await, 1);
        assert!(!marked(server.client()).await);

        let dropped = restore(backup, asked(Existing::Drop)).await.expect("a restore");
        assert_eq!(dropped.plan.drops, ["trap_forms.ids"]);
        assert_eq!(count(&server, "trap_forms", "ids").await, 18);
        assert_eq!(count(&server, "trap_forms", "extra").await, 1);

        let exact = restore(backup, asked(Existing::Exact)).await.expect("a restore");
        assert!(
            exact.plan.drops.contains(&"trap_forms.extra".to_owned()),
            "{:?}",
            exact.plan.drops
        );
        same(&["trap_forms"], &shared().await.state, server.client()).await;
        assert_eq!(count(&server, "own", "c").await, 1);
        assert!(!marked(server.client()).await);
    });
}

#[test]
fn a_plan_touches_nothing() {
    run(async {
        let backup = &shared().await.made.backup;
        let server = server().await;
        let plan = plan(backup, request(&server.uri(), &[])).await.expect("a plan");
        assert!(
            plan.documents > 10_000
                && plan.blocks.blocks > 100
                && plan.blocks.hashed_bytes > 1 << 20
        );
        assert!(plan.to_string().contains("trap_series.weather (timeseries)"), "{plan}");
        assert_eq!(
            server.client().list_database_names().await.expect("names"),
            ["admin", "config", "local"]
        );
        let trusting = headstock::restore::Request { trust: true, ..request(&server.uri(), &[]) };
        let trusted = crate::support::plan(backup, trusting).await.expect("a plan");
        assert_eq!(trusted.blocks.blocks, plan.blocks.blocks);
        assert!(trusted.blocks.hashed_bytes < plan.blocks.hashed_bytes / 4);
    });
}

/// Asks to stop once so many documents were loaded.
struct StopAfter {
    cancel: Cancel,
    documents: AtomicU64,
    limit: u64,
}

impl Progress for StopAfter {
    fn begin(&self, phase: Phase, _total: Amount) {
        let start = if phase == Phase::Load { 0 } else { u64::MAX / 2 };
        self.documents.store(start, Ordering::SeqCst);
    }
    fn advance(&self, done: Amount) {
        let before = self.documents.fetch_add(done.documents, Ordering::SeqCst);
        if before < u64::MAX / 2 && before + done.documents >= self.limit {
            self.cancel.cancel();
        }
    }
    fn note(&self, _text: &str) {}
}

#[test]
fn an_interrupted_restore_is_recognised_and_run_again() {
    run(async {
        let backup = &shared().await.made.backup;
        let server = server().await;
        let asked = |namespaces: &[&str]| headstock::restore::Request {
            existing: Existing::Refuse,
            ..request(&server.uri(), namespaces)
        };
        let cancel = Cancel::new();
        let stop = StopAfter {
            cancel: cancel.clone(),
            documents: AtomicU64::new(u64::MAX / 2),
            limit: 5000,
        };
        let first = prepare(backup.clone(), asked(&["trap_capped"]), Arc::new(stop), cancel).await;
        let stopped = first.expect("a plan").execute().await;
        assert!(matches!(stopped, Err(Error::Cancelled)), "{stopped:?}");
        assert!(marked(server.client()).await);

        let other = restore(backup, asked(&["trap_forms"])).await;
        assert!(
            matches!(&other, Err(Error::OtherRestore { job, .. }) if job == "lab"),
            "{other:?}"
        );
        assert_eq!(count(&server, "trap_forms", "ids").await, 0);

        let again = restore(backup, asked(&["trap_capped"])).await.expect("the same restore");
        assert!(!again.plan.drops.is_empty() && !again.plan.warnings.is_empty());
        same(&["trap_capped"], &shared().await.state, server.client()).await;
        assert!(!marked(server.client()).await);
    });
}

#[test]
fn a_member_that_takes_no_writes_is_refused() {
    run(async {
        let backup = &shared().await.made.backup;
        let set = headstock::lab::ReplicaSet::of(2).await.expect("a set");
        let secondary = 1 - set.primary().await.expect("a primary");
        let refused = plan(backup, request(&set.member_uri(secondary), &[])).await;
        assert!(matches!(refused, Err(Error::NotWritable { .. })), "{refused:?}");
    });
}
