//! Restoring a snapshot to a mongodump directory: planning with every block read and hashed, then
//! writing.

mod common;

use std::sync::Arc;

use common::{documents, head, report, sized, store, timed};
use headstock::head::{Manifest, RULE_VERSION};
use headstock::restore::{self, At, Backup, Cancel, Existing, Request, Silent, Target};

fn main() {
    let documents = documents(sized(400_000, 10_000));
    let (folder, store) = store();
    let head = head(&store, &documents).flush(&store).expect("flush");
    store.commit(|_| {}).expect("commit");
    let (count, bytes) = (head.documents, head.logical_bytes);
    let manifest = Manifest {
        id: "bench".to_owned(),
        head,
        taken_ms: 0,
        set_name: "bench".to_owned(),
        replica_set_id: [1; 12],
        fcv: "6.0".to_owned(),
        server_version: "6.0.5".to_owned(),
        rule_version: RULE_VERSION,
        added_bytes: 0,
        keep: false,
        scope: headstock::head::Scope::all(),
    };
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    for trust in [false, true] {
        let backup = Backup {
            repository: Arc::new(store.clone()),
            job: "bench".to_owned(),
            snapshots: vec![manifest.clone()],
            slices: Vec::new(),
            gaps: Vec::new(),
        };
        let request = Request {
            at: At::Latest,
            namespaces: Vec::new(),
            existing: Existing::Refuse,
            trust,
            only_plan: false,
            target: Target::Dump(folder.path().join(format!("dump-{trust}"))),
            mongod: None,
        };
        let (done, took) = timed(|| {
            runtime.block_on(async {
                let prepared =
                    restore::prepare(backup, request, Arc::new(Silent), Cancel::new()).await;
                prepared.expect("plan").execute().await.expect("restore")
            })
        });
        assert_eq!((done.documents, done.bytes), (count, bytes));
        let name = if trust { "restore to dump, trusting" } else { "restore to dump, checked" };
        report(name, count, bytes, took, store.stats().stored_bytes);
    }
}
