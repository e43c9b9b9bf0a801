//! Blockstores of objects: the same as a replica set does, in a directory and in a bucket.

use bson::{Document, doc};

use crate::scene::Scene;

/// Documents of a collection that is large enough to have a dictionary.
const DOCUMENTS: i32 = 90_000;

/// A sync pushes; the next pushes what changed and nothing more; what is restored from the blockstore alone and what is rebuilt from
/// it are what the source holds; and a rebuilt store is pushed on from.
async fn what_is_pushed_comes_out_again(scene: Scene) {
    crate::push::load(&scene, 0, DOCUMENTS, "lorem").await;
    let backup = scene.store("first");
    let (source, uri) = (scene.source.uri(), scene.uri());
    backup.sync(&source, &["--blockstore", &uri]).await.expect("sync");
    let stored = |scene: &Scene| {
        let packs = scene.objects().packs();
        assert!(packs.iter().all(|(_, bytes)| bytes.is_some()), "each has its document");
        packs.into_iter().filter_map(|(_, bytes)| bytes).sum::<i64>()
    };
    let bytes = stored(&scene);
    println!("{bytes} bytes after the first push");
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
    let more = stored(&scene) - bytes;
    println!("{more} bytes more after the second");
    assert!(more < bytes / 4, "{more} of {bytes}");
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
    crate::push::load(&scene, DOCUMENTS, DOCUMENTS + 2000, "ipsum").await;
    rebuilt.sync(&source, &["--blockstore", &uri]).await.expect("sync");
    assert_eq!(scene.count("snapshots").await, 3);
    let truth = scene.truth().await;
    assert!(truth.differences(&scene.restored("source").await).is_empty());
    let check = scene.json("fsck", &[]).await;
    assert_eq!(check["clean"], true, "{check}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_to_a_directory_comes_out_again() {
    what_is_pushed_comes_out_again(Scene::of_directory().await).await;
}

/// Two jobs push, are groomed, restored and rebuilt beside each other, as in a replica set.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_reached_goes_from_a_directory() {
    let scene = Scene::of_directory().await;
    crate::groom::beside_everything(&scene).await;
    let log = scene.objects();
    assert!(log.packs().iter().all(|(_, bytes)| bytes.is_some()), "an object that nothing names");
    println!("{} entries, {} checkpoints are left", log.entries, log.checkpoints);
}
