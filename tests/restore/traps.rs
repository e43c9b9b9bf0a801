//! Each thing that a naive restore loses, restored into a server and compared with the source.

use std::time::{Duration, Instant};

use bson::doc;
use headstock::lab::{Options, ReplicaSet};
use headstock::restore::Error;

use crate::support::{command, marked, request, restore, round_trip, run, shared, target};

#[test]
fn documents_that_break_their_validator() {
    run(async {
        round_trip(&["trap_validator"]).await;
    });
}

/// The target deletes by age every second, and everything in here is past its age.
#[test]
fn what_is_past_its_age_is_there_to_be_compared_and_goes_later() {
    run(async {
        let shared = shared().await;
        let server = target().await;
        let report = restore(
            &shared.made.backup,
            request(&server.uri(), &["trap_capped", "trap_large", "trap_ttl"]),
        )
        .await
        .expect("restore");
        // The other two take longer than the server takes to delete.
        assert_eq!(
            (&*report.compared[2].database, report.compared[2].collections),
            ("trap_ttl", 3)
        );
        assert!(
            report.notes.iter().any(|note| note.contains("expire again")),
            "{:?}",
            report.notes
        );
        let db = server.client().database("trap_ttl");
        let deadline = Instant::now() + Duration::from_secs(60);
        for name in ["indexed", "clustered"] {
            let gone = async || {
                db.collection::<bson::Document>(name).count_documents(doc! {}).await.expect("count")
                    == 0
            };
            while !gone().await {
                assert!(Instant::now() < deadline, "{name} does not expire");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        let expected: Vec<String> = shared
            .state
            .names()
            .filter(|ns| ns.starts_with("trap_ttl."))
            .map(str::to_owned)
            .collect();
        let mut found = headstock::lab::SourceState::capture(
            server.client(),
            headstock::lab::Detail::Collections,
        )
        .await
        .expect("state");
        found.retain(|ns| ns.starts_with("trap_ttl."));
        assert_eq!(found.names().collect::<Vec<_>>(), expected);
        let mut only = shared.state.clone();
        only.retain(|ns| ns.starts_with("trap_ttl."));
        // Everything but the documents is the same.
        let mut differences = only.differences(&found);
        differences.retain(|line| !line.contains("md5") && !line.contains("document"));
        assert!(differences.is_empty(), "{differences:?}");
    });
}

#[test]
fn empty_timestamps() {
    run(async {
        round_trip(&["trap_timestamp"]).await;
    });
}

#[test]
fn the_order_of_capped_collections() {
    run(async {
        round_trip(&["trap_capped"]).await;
    });
}

#[test]
fn time_series_through_their_buckets() {
    run(async {
        let report = round_trip(&["trap_series"]).await;
        let kinds: Vec<_> =
            report.plan.namespaces.iter().map(|one| (&*one.ns, &*one.kind)).collect();
        assert_eq!(
            kinds,
            [("trap_series.plain", "timeseries"), ("trap_series.weather", "timeseries")]
        );
    });
}

#[test]
fn buckets_without_a_view_beside_a_collection_of_their_name() {
    run(async {
        let report = round_trip(&["trap_diverted"]).await;
        let shown = report.plan.namespaces.iter();
        let shown: Vec<_> = shown.map(|one| (&*one.ns, one.documents, &*one.indexes)).collect();
        let [(_, buckets, by), weather] = shown[..] else { panic!("{shown:?}") };
        assert!(buckets > 6 && by == ["m"], "{shown:?}");
        let indexes = ["_id_", "m", "t"].map(str::to_owned);
        assert_eq!(weather, ("trap_diverted.weather", 6, &indexes[..]));
        // Over itself: the buckets have to go before the collection is written.
        round_trip(&["trap_diverted"]).await;
        // The server would drop the collection in the place of the buckets.
        let (shared, server) = (shared().await, target().await);
        let buckets = request(&server.uri(), &["trap_diverted.system.buckets.weather"]);
        let refused = restore(&shared.made.backup, buckets).await.expect_err("a refusal");
        assert!(matches!(refused, Error::DropsOther { .. }), "{refused}");
        drop(server);
        round_trip(&["trap_diverted"]).await;
    });
}

#[test]
fn indexes_of_every_kind() {
    run(async {
        let report = round_trip(&["trap_indexes"]).await;
        // The French order of the _ids of `collated` is not that of their bytes: compared all the same.
        assert_eq!(report.compared[0].collections, 3, "{:?}", report.compared);
        assert!(report.notes.is_empty(), "{:?}", report.notes);
    });
}

#[test]
fn indexes_that_are_the_same_but_for_their_names() {
    run(async {
        round_trip(&["trap_equal_indexes"]).await;
    });
}

#[test]
fn views_on_views() {
    run(async {
        round_trip(&["trap_views"]).await;
        // Over itself: system.js can be emptied but not dropped.
        round_trip(&["trap_views"]).await;
    });
}

#[test]
fn field_order_repeated_names_and_odd_ids() {
    run(async {
        round_trip(&["trap_forms"]).await;
    });
}

#[test]
fn the_largest_documents() {
    run(async {
        round_trip(&["trap_large"]).await;
    });
}

#[test]
fn odd_names() {
    run(async {
        round_trip(&["trap_names", "trap_names-2_"]).await;
    });
}

/// The restoring user stands in the backup too, with another password and fewer rights.
#[test]
fn users_are_merged_and_the_restoring_one_stays() {
    run(async {
        let shared = shared().await;
        let set =
            ReplicaSet::start(Options { auth: true, ..Options::members(1) }).await.expect("a set");
        let report =
            restore(&shared.made.backup, request(&set.uri(), &["admin", "trap_names"])).await;
        let report = report.expect("a restore");
        assert_eq!((report.plan.users, report.plan.roles), (2, 1));
        assert!(report.notes.iter().any(|note| note.contains("admin.root")), "{:?}", report.notes);
        // The client's connections are still root's.
        let users =
            command(set.client(), "admin", doc! { "usersInfo": { "forAllDBs": true } }).await;
        assert_eq!(users.get_array("users").expect("users").len(), 2);
        let reader = format!(
            "mongodb://reader:a-password@{}/?authSource=trap_names&directConnection=true",
            set.host(0)
        );
        let reader = mongodb::Client::with_uri_str(reader).await.expect("a client");
        let read = reader.database("trap_names").collection::<bson::Document>("CaseA");
        assert_eq!(read.count_documents(doc! {}).await.expect("may read"), 1);
    });
}

/// An index build waits for every voting member unless it is told not to.
#[test]
fn index_builds_with_a_member_down() {
    run(async {
        let shared = shared().await;
        let mut set = ReplicaSet::of(3).await.expect("a set");
        let primary = set.primary().await.expect("a primary");
        set.kill((primary + 1) % 3).expect("killed");
        let work = restore(&shared.made.backup, request(&set.uri(), &["trap_indexes"]));
        let report =
            tokio::time::timeout(Duration::from_secs(240), work).await.expect("no waiting");
        assert!(report.expect("a restore").indexes > 5);
        assert!(!marked(set.client()).await);
    });
}
