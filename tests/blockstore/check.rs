//! Checking a blockstore, and repairs in both directions.

use bson::{Binary, Document, doc};
use serde_json::Value;

use crate::scene::Scene;

/// A check that may find damage: its report and exit code.
pub async fn check(scene: &Scene, more: &[&str]) -> (Value, i32) {
    let uri = scene.uri();
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_headstock"));
    command.args(["fsck", "--blockstore", &uri, "--json"]).args(more);
    let output = command.output().await.expect("the program starts");
    let report = serde_json::from_slice(&output.stdout);
    let report = report.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    (report, output.status.code().expect("an exit code"))
}

pub fn codes(report: &Value) -> Vec<String> {
    let findings = report["findings"].as_array().expect("an array").iter();
    findings.map(|one| one["code"].as_str().expect("a code").to_owned()).collect()
}

/// Blocks of each kind are damaged and removed, one after the other: each is told by its code at the depth that can see it, mended from
/// the store that pushed it, and found sound then.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_there_is_told_and_mended() {
    let scene = Scene::of(1).await;
    crate::push::load(&scene, 0, 90_000, "lorem").await;
    let backup = scene.store("store");
    let (source, uri) = (scene.source.uri(), scene.uri());
    backup.sync(&source, &["--blockstore", &uri]).await.expect("sync");
    assert_eq!(check(&scene, &[]).await.1, 0);
    let blocks = scene.database().collection::<Document>("blocks");
    let store = backup.store().to_str().expect("a path").to_owned();
    let cases = [
        (doc! { "kind": 1, "dict": { "$exists": true } }, "leaf"),
        (doc! { "kind": 3 }, "node"),
        (doc! { "kind": 5 }, "links"),
        (doc! { "kind": 7 }, "dictionary"),
    ];
    // One that is used: what was learned first may have been given up.
    let user = blocks.find_one(doc! { "dict": { "$exists": true } }).await.expect("find");
    let used = user.expect("a user").get("dict").expect("its dictionary").clone();
    for (filter, kind) in cases {
        let filter = if kind == "dictionary" {
            doc! { "_id": used.clone() }
        } else {
            filter
        };
        let block = blocks.find_one(filter).await.expect("find").expect(kind);
        let id = block.get("_id").expect("an _id").clone();
        let Binary { subtype, mut bytes } = block
            .get("data")
            .and_then(|data| match data {
                bson::Bson::Binary(binary) => Some(binary.clone()),
                _ => None,
            })
            .expect("data");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        let damaged = doc! { "$set": { "data": Binary { subtype, bytes } } };
        blocks.update_one(doc! { "_id": id.clone() }, damaged).await.expect("damage");
        let (report, exit) = check(&scene, &[]).await;
        assert_eq!(exit, 3, "{kind} damaged: {report}");
        assert!(codes(&report).iter().all(|code| code == "HS-BS-003"), "{kind}: {report}");
        let (report, exit) = check(&scene, &["--repair", "--from", &store]).await;
        assert_eq!(exit, 0, "{kind} damaged and mended: {report}");
        assert_eq!(report["mended"], 1, "{kind}");
        blocks.delete_one(doc! { "_id": id }).await.expect("remove");
        let (report, exit) = check(&scene, &["--depth", "graph"]).await;
        assert_eq!(exit, 3, "{kind} removed: {report}");
        let expected = if kind == "dictionary" { "HS-BS-004" } else { "HS-BS-002" };
        assert!(codes(&report).iter().any(|code| code == expected), "{kind}: {report}");
        let (report, exit) = check(&scene, &["--repair", "--from", &store]).await;
        assert_eq!(exit, 0, "{kind} removed and mended: {report}");
        assert_eq!(check(&scene, &["--depth", "data"]).await.1, 0, "{kind}");
    }
    assert!(scene.truth().await.differences(&scene.restored("source").await).is_empty());
}
