//! Who a source is, and what is refused.

use bson::doc;
use headstock::lab::{self, Mongod, Options, Release, ReplicaSet, Standalone};
use headstock::source::{Error, ReadFrom, Source};

use crate::support::{collection, set_and_source, source};

#[tokio::test]
async fn identity_and_positions_of_a_set_of_one() {
    let (set, source) = set_and_source(1).await;
    let identity = source.identity().await.expect("identity");
    assert_eq!(identity.set_name, "lab");
    assert!(identity.server_version.starts_with("6.0."), "{}", identity.server_version);
    assert_eq!(identity.fcv, "6.0");
    assert_ne!(identity.replica_set_id, [0; 12]);
    assert_eq!(source.member().await.expect("member"), set.host(0));

    let before = source.newest_majority().await.expect("newest");
    let numbers = collection(&set, "c");
    numbers.insert_one(doc! { "_id": 1 }).await.expect("insert");
    let start = source.start_point().await.expect("start");
    assert!(start.base.optime > before.optime);
    assert!(start.begin_fetch <= start.base.optime);
    numbers.insert_one(doc! { "_id": 2 }).await.expect("insert");
    let end = source.end_point().await.expect("end");
    assert!(end.optime > start.base.optime);
    assert!(end.wall_ms >= start.base.wall_ms);
}

#[tokio::test]
async fn a_start_reaches_back_to_the_oldest_open_transaction() {
    // Only a shard may prepare a transaction.
    let options = Options { arguments: vec!["--shardsvr".to_owned()], ..Options::members(1) };
    let set = ReplicaSet::start(options).await.expect("start");
    let identity = doc! {
        "_id": "shardIdentity",
        "shardName": "s",
        "clusterId": bson::oid::ObjectId::new(),
        "configsvrConnectionString": "nobody/127.0.0.1:1",
    };
    let versions = set.client().database("admin").collection("system.version");
    versions.insert_one(identity).await.expect("a shard");
    let source = source(&set).await;
    let numbers = collection(&set, "c");
    numbers.insert_one(doc! { "_id": 0 }).await.expect("insert");

    let insert = doc! { "insert": "c", "documents": [{ "_id": 1 }] };
    let begun = lab::transaction(set.client(), "v", &[insert]).await;
    let mut session = begun.expect("transaction");
    let before = source.newest_majority().await.expect("newest").optime;
    let admin = set.client().database("admin");
    let prepare = doc! { "prepareTransaction": 1 };
    admin.run_command(prepare).session(&mut session).await.expect("prepare");
    numbers.insert_one(doc! { "_id": 2 }).await.expect("insert");
    let start = source.start_point().await.expect("start");
    assert!(start.begin_fetch > before && start.begin_fetch < start.base.optime, "{start:?}");

    session.abort_transaction().await.expect("abort");
    let latest = source.newest_majority().await.expect("newest").optime;
    let start = source.start_point().await.expect("start");
    assert!(start.begin_fetch >= latest && start.begin_fetch <= start.base.optime, "{start:?}");
}

#[tokio::test]
async fn what_is_no_replica_set_is_refused() {
    let alone = Standalone::start(&Options::default()).await.expect("start");
    let refused = Source::connect(&alone.uri(), ReadFrom::default()).await.err();
    assert!(matches!(refused, Some(Error::NotAReplicaSet { .. })), "{refused:?}");

    let nobody = "mongodb://bob:hunter2@127.0.0.1:1/?serverSelectionTimeoutMS=500";
    let refused = Source::connect(nobody, ReadFrom::default()).await.err().expect("refused");
    assert!(matches!(refused, Error::Unreachable { .. }), "{refused:?}");
    assert!(!format!("{refused} {refused:?}").contains("hunter2"));
}

#[tokio::test]
async fn members_are_chosen_as_asked() {
    let (set, source) = set_and_source(3).await;
    let primary = set.host(set.primary().await.expect("primary"));
    assert_ne!(source.member().await.expect("member"), primary);
    let by = async |from| {
        let source = Source::connect(&set.uri(), from).await.expect("connect");
        source.member().await.expect("member")
    };
    assert_eq!(by(ReadFrom::Primary).await, primary);
    assert_ne!(by(ReadFrom::Secondary).await, primary);
    assert_eq!(by(ReadFrom::Member(set.host(2))).await, set.host(2));
    let stranger = ReadFrom::Member("127.0.0.1:1".to_owned());
    let refused = Source::connect(&set.uri(), stranger).await.err();
    assert!(matches!(refused, Some(Error::NoMember { .. })), "{refused:?}");
    let other_name = set.uri().replace("replicaSet=lab", "replicaSet=other");
    let refused = Source::connect(&other_name, ReadFrom::default()).await.err();
    assert!(matches!(refused, Some(Error::AnotherSet { .. })), "{refused:?}");
}

#[tokio::test]
async fn credentials_and_privileges_are_told_apart() {
    let options = Options { auth: true, ..Options::members(1) };
    let set = ReplicaSet::start(options).await.expect("start");
    let wrong = set.uri().replace(":lab-password@", ":hunter2@");
    let refused = Source::connect(&wrong, ReadFrom::default()).await.err().expect("refused");
    assert!(matches!(refused, Error::Authentication { .. }), "{refused:?}");
    assert!(!format!("{refused} {refused:?}").contains("hunter2"));

    let admin = set.client().database("admin");
    for (user, roles) in [
        ("weak", vec!["read"]),
        ("half", vec!["backup"]),
        ("full", vec!["backup", "clusterMonitor"]),
    ] {
        let create = doc! { "createUser": user, "pwd": "pw", "roles": roles };
        admin.run_command(create).await.expect("user");
    }
    let uri = |user: &str| set.uri().replace("root:lab-password@", &format!("{user}:pw@"));
    let refused = Source::connect(&uri("weak"), ReadFrom::default()).await.err().expect("refused");
    assert!(matches!(refused, Error::Privilege { .. }), "{refused:?}");
    assert!(refused.to_string().contains("clusterMonitor"));
    for user in ["half", "full"] {
        let source = Source::connect(&uri(user), ReadFrom::default()).await.expect(user);
        source.identity().await.expect(user);
        let start = source.start_point().await.expect(user);
        let listed = source.list(&headstock::head::Scope::all()).await.expect(user);
        for one in &listed {
            crate::support::read(&source, one, Default::default()).await;
        }
        assert!(listed.iter().any(|one| one.ns == "admin.system.users"), "{listed:?}");
        source.end_point().await.expect(user);
        let mut tail = source.tail(start.begin_fetch, true).await.expect(user);
        tail.next().await.expect(user);
    }
}

#[tokio::test]
async fn a_changing_feature_compatibility_version_is_refused() {
    let arguments = ["--setParameter", "enableTestCommands=1"].map(str::to_owned).to_vec();
    let set = ReplicaSet::start(Options { arguments, ..Options::members(1) }).await.expect("start");
    let source = source(&set).await;
    let admin = set.client().database("admin");
    let fail = doc! { "configureFailPoint": "failDowngrading", "mode": "alwaysOn" };
    admin.run_command(fail).await.expect("a fail point");
    let lower = doc! { "setFeatureCompatibilityVersion": "5.0" };
    admin.run_command(lower).await.expect_err("stops half-way");
    for error in [source.start_point().await.err(), source.identity().await.err()] {
        assert!(matches!(error, Some(Error::FcvInTransition { .. })), "{error:?}");
    }
}

#[tokio::test]
async fn the_oldest_supported_server_is_read_alike() {
    let mongod = Some(Mongod::fetch(Release::V4_4_2).expect("a server"));
    let set = ReplicaSet::start(Options { mongod, ..Options::members(1) }).await.expect("start");
    let source = source(&set).await;
    let identity = source.identity().await.expect("identity");
    assert_eq!((identity.server_version.as_str(), identity.fcv.as_str()), ("4.4.2", "4.4"));
    let mut documents = crate::support::numbered(0, 3_000, 10);
    documents.insert(0, doc! { "_id": bson::Bson::MinKey });
    documents.push(doc! { "_id": "text" });
    documents.push(doc! { "_id": bson::Bson::MaxKey });
    collection(&set, "c").insert_many(&documents).await.expect("insert");
    let start = source.start_point().await.expect("start");
    let one = crate::support::listed(&source, "v.c").await;
    let ranges = source.split(&one, 4).await.expect("split");
    assert_eq!(ranges.len(), 4);
    let mut found = 0;
    for range in ranges {
        let mut scan = source.scan(&one, range).await.expect("scan");
        let part = crate::support::drain(&mut scan).await.expect("read");
        for (document, expected) in part.iter().zip(&documents[found..]) {
            let document = bson::Document::try_from(document.as_ref()).expect("valid");
            assert_eq!(document, *expected);
        }
        found += part.len();
    }
    assert_eq!(found, documents.len());
    let mut tail = source.tail(start.begin_fetch, true).await.expect("tail");
    tail.next().await.expect("entries");
    assert!(source.end_point().await.expect("end").optime >= start.base.optime);
}
