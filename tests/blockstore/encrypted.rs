//! An encrypted store in a blockstore: sealed before it leaves, and opened by its key alone.

use bson::{Bson, Document, RawDocumentBuf, doc};

use crate::scene::Scene;

/// Runs the program, which must fail, and returns what it says.
async fn refused(scene: &Scene, words: &[&str]) -> String {
    let ended = scene.program.run(words).await;
    format!("{:?}", ended.expect_err("it is refused"))
}

/// What is pushed tells nothing of the data; with the key it is restored, rebuilt and pushed on from, also after the data key
/// was rotated; without it, with another, or by a store that is not encrypted, nothing is had.
#[tokio::test(flavor = "multi_thread")]
async fn only_the_key_opens_what_was_pushed() {
    let scene = Scene::of(1).await;
    crate::push::load(&scene, 0, 20_000, "confidential").await;
    let (source, uri) = (scene.source.uri(), scene.uri());
    let [key, other] = ["key", "other"].map(|name| scene.path(name));
    let [key, other] = [&key, &other].map(|path| path.to_str().expect("a path"));
    for file in [key, other] {
        scene.program.run(&["key", "new", file]).await.expect("a key");
    }
    let backup = scene.store("first").with_key(key);
    backup.sync(&source, &["--encrypt", "--blockstore", &uri]).await.expect("sync");

    let database = scene.database();
    for name in database.list_collection_names().await.expect("names") {
        let all = database.collection::<RawDocumentBuf>(&name).find(doc! {}).await.expect("find");
        let all: Vec<RawDocumentBuf> =
            futures::TryStreamExt::try_collect(all).await.expect("drain");
        for document in all {
            let has = |word| memchr::memmem::find(document.as_bytes(), word).is_some();
            assert!(!has(b"shop") && !has(b"confidential"), "{name}: {document:?}");
            let is_named = name == "jobs" && document.get_str("_id").expect("a name").len() != 64;
            assert!(!is_named, "{document:?}");
        }
    }
    let job = database.collection::<Document>("jobs").find_one(doc! {}).await.expect("find");
    assert!(matches!(job.expect("a job").get("state"), Some(Bson::Binary(_))));

    let dump = format!("dump:{}", scene.path("dump").display());
    let restore = ["restore", "--blockstore", &uri, "--to", &dump];
    assert!(refused(&scene, &restore).await.contains("is encrypted"));
    let with_other = [&restore[..], &["--key-file", other]].concat();
    assert!(refused(&scene, &with_other).await.contains("key"));
    let plain = scene.path("plain");
    let plain = plain.to_str().expect("a path");
    scene.program.run(&["sync", "--source", &source, "--store", plain]).await.expect("sync");
    let pushes = ["sync", "--source", &source, "--store", plain, "--blockstore", &uri];
    assert!(refused(&scene, &pushes).await.contains("must both be encrypted"));

    backup.run(&["key", "rotate"], &[]).await.expect("rotate");
    crate::push::load(&scene, 20_000, 22_000, "confidential").await;
    backup.sync(&source, &["--blockstore", &uri]).await.expect("sync");
    assert!(
        scene
            .truth()
            .await
            .differences(&scene.restored_with("source", &["--key-file", key]).await)
            .is_empty()
    );
    let (rebuilt, _) = scene.rebuild("second", &["--key-file", key]).await;
    let rebuilt = rebuilt.with_key(key);
    let newest = backup.newest("source").await.expect("a snapshot").content_root;
    assert_eq!(rebuilt.newest("source").await.expect("a snapshot").content_root, newest);
    rebuilt.run(&["fsck"], &[]).await.expect("sound");
    scene.program.run(&["fsck", "--blockstore", &uri, "--key-file", key]).await.expect("sound");
    let marks = scene.path("marks");
    let marks = marks.to_str().expect("a path");
    let words = ["groom", "--blockstore", &uri, "--key-file", key, "--marks", marks];
    scene.program.run(&words).await.expect("groom");
    rebuilt.sync(&source, &["--blockstore", &uri]).await.expect("sync");
    scene.program.run(&["fsck", "--blockstore", &uri, "--key-file", key]).await.expect("sound");
}

/// One store changes its data key, is compacted, which forgets the old one, and changes it again: pushing goes on. Where two stores do so
/// that share a repository, the second is told.
#[tokio::test(flavor = "multi_thread")]
async fn data_keys_are_changed_and_forgotten() {
    let scene = Scene::of(1).await;
    crate::push::load(&scene, 0, 1000, "lorem").await;
    let (source, uri) = (scene.source.uri(), scene.uri());
    let key = scene.path("key");
    let key = key.to_str().expect("a path");
    scene.program.run(&["key", "new", key]).await.expect("a key");
    let [one, two] = ["one", "two"].map(|name| scene.store(name).with_key(key));
    for (backup, job) in [(&one, "one"), (&two, "two")] {
        let more = ["--encrypt", "--blockstore", &uri, "--job", job];
        backup.sync(&source, &more).await.expect("sync");
    }
    for round in 1..3 {
        one.run(&["key", "rotate"], &[]).await.expect("rotate");
        crate::push::load(&scene, round * 1000, round * 1000 + 100, "lorem").await;
        one.sync(&source, &["--blockstore", &uri, "--job", "one"]).await.expect("sync");
        one.run(&["compact"], &[]).await.expect("compact");
    }
    scene.program.run(&["fsck", "--blockstore", &uri, "--key-file", key]).await.expect("sound");
    scene.rebuild("rebuilt", &["--key-file", key, "--job", "one"]).await;
    two.sync(&source, &["--blockstore", &uri, "--job", "two"]).await.expect("with its old key");
    two.run(&["key", "rotate"], &[]).await.expect("rotate");
    let pushed = two.sync(&source, &["--blockstore", &uri, "--job", "two"]).await;
    let told = format!("{:?}", pushed.expect_err("it has another key of that epoch"));
    assert!(told.contains("cannot be brought together"), "{told}");
}
