//! Listing: every kind of collection, options and indexes verbatim.

use bson::{Document, RawDocumentBuf, doc, rawdoc};
use headstock::lab::{Options, ReplicaSet};
use headstock::source::{Arrival, Source};
use mongodb::Client;

use crate::support::{collection, read, run, set_and_source, source};

/// Names a server takes and a careless tool breaks on.
const ODD_NAMES: &[&str] =
    &["dots.in.name", "sp ace", "quo'te\"s", "\u{fc}n\u{ef}\u{2603}", "-", "system.js"];

#[tokio::test]
async fn every_kind_is_listed_with_its_options() {
    let (set, source) = set_and_source(1).await;
    let validator = doc! { "$jsonSchema": { "required": ["a"] } };
    for (name, options) in [
        ("plain", doc! {}),
        ("capped", doc! { "capped": true, "size": 8192, "max": 3 }),
        ("checked", doc! { "validator": validator, "validationLevel": "moderate" }),
        ("collated", doc! { "collation": { "locale": "de", "strength": 2 } }),
        ("clustered", doc! { "clusteredIndex": { "key": { "_id": 1 }, "unique": true } }),
        ("series", doc! { "timeseries": { "timeField": "t", "metaField": "m" } }),
        ("view", doc! { "viewOn": "plain", "pipeline": [] }),
    ] {
        let mut create = doc! { "create": name };
        create.extend(options);
        run(&set, "v", create).await;
    }
    for name in ODD_NAMES {
        collection(&set, name).insert_one(doc! { "_id": *name }).await.expect("insert");
    }
    let listed = source.list(&headstock::head::Scope::all()).await.expect("list");
    let names: Vec<&str> = listed.iter().map(|one| one.ns.as_str()).collect();
    assert!(names.is_sorted());
    for gone in ["v.view", "v.series", "config.transactions", "local.oplog.rs"] {
        assert!(!names.contains(&gone), "{gone} in {names:?}");
    }
    let of = |name: &str| listed.iter().find(|one| one.ns == name).expect("listed");
    assert_eq!(of("v.capped").arrival, Arrival::Natural);
    assert_eq!(of("v.collated").arrival, Arrival::ByCollation);
    for name in ["v.plain", "v.clustered", "v.system.buckets.series", "v.system.views"] {
        assert_eq!(of(name).arrival, Arrival::ByKey, "{name}");
    }
    assert!(of("v.capped").options.get_bool("capped").expect("an option"));
    assert!(of("v.checked").options.get_document("validator").is_ok());
    assert!(of("v.system.buckets.series").options.get_document("timeseries").is_ok());
    assert!(of("v.clustered").indexes[0].get_bool("clustered").expect("the cluster key"));
    for name in ODD_NAMES {
        let documents = read(&source, of(&format!("v.{name}")), Default::default()).await;
        assert_eq!(documents, [rawdoc! { "_id": *name }]);
    }
    let views = read(&source, of("v.system.views"), Default::default()).await;
    assert_eq!(views.len(), 2, "a view and the view of a time series");
}

#[tokio::test]
async fn indexes_are_verbatim() {
    let (set, source) = set_and_source(1).await;
    let specs = [
        doc! { "key": { "a": 1, "b": -1 }, "name": "pair", "unique": true },
        doc! { "key": { "h": 1 }, "name": "hidden", "hidden": true },
        doc! { "key": { "p": 1 }, "name": "partial", "partialFilterExpression": { "p": { "$gt": 5 } } },
        doc! { "key": { "t": "text" }, "name": "text", "weights": { "t": 3 }, "default_language": "german" },
        doc! { "key": { "w.$**": 1 }, "name": "wild" },
        doc! { "key": { "g": "2dsphere" }, "name": "geo" },
        doc! { "key": { "x": "hashed" }, "name": "hashed" },
        doc! { "key": { "e": 1 }, "name": "ttl", "expireAfterSeconds": 3600, "sparse": true },
    ];
    run(&set, "v", doc! { "createIndexes": "c", "indexes": specs.to_vec() }).await;
    let found = crate::support::listed(&source, "v.c").await.indexes;
    let server = run(&set, "v", doc! { "listIndexes": "c" }).await;
    let server = server.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
    let server: Vec<RawDocumentBuf> = server
        .expect("indexes")
        .iter()
        .map(|spec| RawDocumentBuf::try_from(spec.as_document().expect("a spec")).expect("valid"))
        .collect();
    assert_eq!(found, server);
    assert_eq!(found.len(), specs.len() + 1);
}

/// A set whose index builds stand still while [`hold_builds`] says so.
async fn set_that_can_hold_builds() -> (ReplicaSet, Source) {
    let arguments = ["--setParameter", "enableTestCommands=1"].map(str::to_owned).to_vec();
    let options = Options { arguments, ..Options::members(1) };
    let set = ReplicaSet::start(options).await.expect("start");
    let source = source(&set).await;
    (set, source)
}

async fn hold_builds(member: &Client, hold: bool) {
    let mode = if hold { "alwaysOn" } else { "off" };
    let point = doc! { "configureFailPoint": "hangAfterStartingIndexBuild", "mode": mode };
    member.database("admin").run_command(point).await.expect("a fail point");
}

#[tokio::test]
async fn a_build_under_way_is_not_taken_for_an_index() {
    let (set, source) = set_that_can_hold_builds().await;
    collection(&set, "c").insert_one(doc! { "_id": 1, "a": 1 }).await.expect("insert");
    let alone = set.member(0).await.expect("client");
    hold_builds(&alone, true).await;
    let (db, spec) = (alone.database("v"), doc! { "key": { "a": 1 }, "name": "a_1" });
    let build = tokio::spawn(async move {
        db.run_command(doc! { "createIndexes": "c", "indexes": [spec] }).await
    });
    let since = std::time::Instant::now();
    let listed = loop {
        assert!(since.elapsed().as_secs() < 30, "the build is never seen as one under way");
        let listed = crate::support::listed(&source, "v.c").await;
        if !listed.building.is_empty() {
            break listed;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert_eq!(listed.indexes.len(), 1, "{:?}", listed.indexes);
    assert_eq!(listed.building[0].spec.get_str("name").expect("a name"), "a_1");
    hold_builds(&alone, false).await;
    let built: Document = build.await.expect("no panic").expect("built");
    assert_eq!(built.get_i32("numIndexesAfter").expect("a count"), 2);
    let listed = crate::support::listed(&source, "v.c").await;
    assert_eq!((listed.indexes.len(), listed.building.len()), (2, 0));
}

/// A server that cannot show such a build refuses to list any index of the collection until it is over.
#[tokio::test]
async fn a_build_that_cannot_be_listed_is_waited_for() {
    let (set, source) = set_that_can_hold_builds().await;
    let series = doc! { "create": "s", "timeseries": { "timeField": "t", "metaField": "m" } };
    run(&set, "v", series).await;
    let measured = doc! { "t": bson::DateTime::from_millis(5), "m": 1, "n": 2 };
    collection(&set, "s").insert_one(measured).await.expect("insert");
    let alone = set.member(0).await.expect("client");
    hold_builds(&alone, true).await;
    let collation = doc! { "locale": "fr" };
    let spec = doc! { "key": { "n": 1 }, "name": "n_1", "collation": collation };
    let db = alone.database("v");
    let build = tokio::spawn(async move {
        db.run_command(doc! { "createIndexes": "s", "indexes": [spec] }).await
    });
    let list = doc! { "listIndexes": "system.buckets.s", "includeBuildUUIDs": true };
    let since = std::time::Instant::now();
    let db = alone.database("v");
    while db.run_command(list.clone()).await.is_ok() {
        assert!(since.elapsed().as_secs() < 30, "the build never stands in the way");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let listing =
        tokio::spawn(
            async move { crate::support::listed(&source, "v.system.buckets.s").await.indexes },
        );
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert!(!listing.is_finished(), "listed what cannot be");
    hold_builds(&alone, false).await;
    build.await.expect("no panic").expect("built");
    let indexes = listing.await.expect("no panic");
    assert!(
        indexes.iter().any(|spec| spec.get_str("name").is_ok_and(|name| name == "n_1")),
        "{indexes:?}"
    );
}
