//! Pushing, and what comes out again.

use std::ops::Range;
use std::time::{Duration, Instant};

use bson::spec::BinarySubtype;
use bson::{Binary, Document, doc};
use headstock::lab::Backup;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::timeout;

use crate::scene::Scene;

/// Documents of a collection that is large enough to have a dictionary.
const DOCUMENTS: i32 = 90_000;
/// Documents of a collection of which another job has the same.
const SHARED: i32 = 30_000;
/// How fast a check is to read.
const CHECKED_MBPS: u64 = 6;
/// Documents of a mebibyte.
const LARGE: i32 = 40;

/// Limit of a rebuild that cannot be.
const REFUSAL_LIMIT: Duration = Duration::from_secs(60);

pub async fn load(scene: &Scene, from: i32, to: i32, word: &str) {
    load_into("orders", scene, from..to, word).await;
}

async fn load_into(name: &str, scene: &Scene, range: Range<i32>, word: &str) {
    let orders = scene.source.client().database("shop").collection::<Document>(name);
    for chunk in range.collect::<Vec<_>>().chunks(5000) {
        let documents = chunk.iter().map(|n| {
            let text = format!("{word} {} of {}", n % 97, (i64::from(*n) * 7919) % 10_007);
            doc! { "_id": n, "status": "shipped", "customer": { "name": text.repeat(4), "n": n }, "note": text.repeat(6) }
        });
        orders.insert_many(documents).await.expect("insert");
    }
}

/// Documents that cannot be compressed and come to more than one answer of a blockstore holds.
async fn load_large(scene: &Scene) {
    let mut rng = StdRng::seed_from_u64(7);
    let files = scene.source.client().database("shop").collection::<Document>("files");
    for n in 0..LARGE {
        let mut bytes = vec![0; 1 << 20];
        rng.fill(&mut bytes[..]);
        let data = Binary { subtype: BinarySubtype::Generic, bytes };
        files.insert_one(doc! { "_id": n, "data": data }).await.expect("insert");
    }
}

/// A sync pushes; the next pushes what changed and nothing more; what is restored from the blockstore alone and what is rebuilt from
/// it are what the source holds; and a rebuilt store is pushed on from.
pub async fn comes_out_again(scene: &Scene) {
    load(scene, 0, DOCUMENTS, "lorem").await;
    load_large(scene).await;
    let backup = scene.store("first");
    let (source, uri) = (scene.source.uri(), scene.uri());
    backup.sync(&source, &["--blockstore", &uri]).await.expect("sync");
    let stored = scene.stored().await;
    println!("{stored} bytes after the first push");
    assert_eq!(scene.count("snapshots").await, 1);
    assert!(scene.truth().await.differences(&scene.restored("source").await).is_empty());

    let orders = scene.source.client().database("shop").collection::<Document>("orders");
    for n in (0..DOCUMENTS).step_by(500) {
        orders
            .update_one(doc! { "_id": n }, doc! { "$set": { "status": "back" } })
            .await
            .expect("update");
    }
    backup.sync(&source, &["--blockstore", &uri]).await.expect("sync");
    let more = scene.stored().await - stored;
    println!("{more} bytes more after the second");
    assert!(more < stored / 4, "{more} of {stored}");
    assert_eq!(scene.count("snapshots").await, 2);
    assert_eq!(scene.count("sessions").await, 0);
    assert_eq!(scene.count("daemons").await, 0);

    let newest = backup.newest("source").await.expect("a snapshot");
    let (rebuilt, report) = scene.rebuild("second", &[]).await;
    println!("{report}");
    assert_eq!(
        rebuilt.newest("source").await.expect("a snapshot").content_root,
        newest.content_root
    );
    rebuilt.run(&["fsck"], &[]).await.expect("sound");
    load(scene, DOCUMENTS, DOCUMENTS + 2000, "ipsum").await;
    rebuilt.sync(&source, &["--blockstore", &uri]).await.expect("sync");
    assert_eq!(scene.count("snapshots").await, 3);
    let truth = scene.truth().await;
    assert!(truth.differences(&scene.restored("source").await).is_empty());
    let check = scene.json("fsck", &[]).await;
    assert_eq!(check["clean"], true, "{check}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_comes_out_again() {
    let scene = Scene::of(1).await;
    comes_out_again(&scene).await;
    let blocks = scene.database().collection::<Document>("blocks");
    let with_dictionary = blocks.count_documents(doc! { "dict": { "$exists": true } });
    let with_dictionary = with_dictionary.await.expect("count");
    assert!(with_dictionary > scene.count("blocks").await / 2, "a collection has a dictionary");
    let begun = Instant::now();
    let check = scene.json("fsck", &["--max-mbps", &CHECKED_MBPS.to_string()]).await;
    let (took, bytes) = (begun.elapsed(), check["bytes"].as_u64().expect("a number"));
    println!("{bytes} bytes checked in {took:?}");
    // Some go before the limit counts.
    assert!(took.as_secs() + 1 >= bytes / (CHECKED_MBPS * 1_000_000), "{bytes} in {took:?}");
}

/// A rebuild that finds much missing says so and ends, whatever it has under way then.
#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_of_what_is_not_there_ends() {
    let scene = Scene::of(1).await;
    load(&scene, 0, DOCUMENTS, "lorem").await;
    let (backup, uri) = (scene.store("first"), scene.uri());
    backup.sync(&scene.source.uri(), &["--blockstore", &uri]).await.expect("sync");
    let blocks = scene.database().collection::<Document>("blocks");
    // Leaves alone: whoever reads parents first has asked for many by then.
    let gone = blocks.delete_many(doc! { "dict": { "$exists": true } }).await.expect("delete");
    assert!(gone.deleted_count > 500, "{gone:?}");
    for attempt in 0..5 {
        let path = scene.path(&format!("rebuilt-{attempt}"));
        let path = path.to_str().expect("a path");
        let words = ["rebuild", "--blockstore", &uri, "--store", path];
        let ended = timeout(REFUSAL_LIMIT, scene.program.run(&words)).await.expect("it hangs");
        let said = ended.expect_err("much is missing").to_string();
        assert!(said.contains("is missing"), "{said}");
    }
}

/// A job whose blocks are there in part, after many that are not: those are found and stay as the others do, though an insertion
/// comes before the question.
#[tokio::test(flavor = "multi_thread")]
async fn what_another_job_has_pushed_is_asserted_too() {
    let scene = Scene::of(1).await;
    let (source, uri) = (scene.source.uri(), scene.uri());
    for name in ["x", "y", "z"] {
        load_into(name, &scene, 0..SHARED, name).await;
    }
    let words = |job: &'static str| ["--blockstore", &uri, "--job", job];
    scene.store("one").sync(&source, &words("one")).await.expect("sync");
    let shared = scene.count("blocks").await;
    // From now on what is asserted can be told from what only was.
    scene.groom(&[]).await;
    let generation = scene.documents("generation").await[0].get_i64("value").expect("a number");
    // More than are under way at once come before what is there.
    for name in ["a", "b", "c", "d", "e", "f"] {
        load_into(name, &scene, 0..SHARED, name).await;
    }
    let backup = scene.store("two");
    backup.sync(&source, &words("two")).await.expect("sync");
    let blocks = scene.database().collection::<Document>("blocks");
    let low = blocks.count_documents(doc! { "stamp": { "$lt": generation } }).await.expect("count");
    let all = scene.count("blocks").await;
    println!("{shared} blocks, then {all}, {low} of them of the first job alone");
    assert!(shared > 3000 && all > 2 * shared, "the collections are there");
    assert!(low < 50, "{low} were not asserted");
    let (rebuilt, _) = scene.rebuild("rebuilt", &["--job", "two"]).await;
    let root = |backup: Backup| async move {
        backup.newest("two").await.expect("a snapshot").content_root
    };
    assert_eq!(root(rebuilt).await, root(backup).await);
    let check = scene.json("fsck", &[]).await;
    assert_eq!(check["clean"], true, "{check}");
}
