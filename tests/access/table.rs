//! The table of privileges is right: what it says is enough, and nothing in it is too much.

use std::time::{Duration, Instant};

use bson::{Document, doc};
use headstock::access::{self, Missing, Need, Place, Resource, Role, Weight};
use headstock::lab::{Mongod, Options, Release};

use crate::scene::{DATABASE, Scene, VERSION, allow, create, document, run, start};
use crate::works::{checked, fill};

/// Rows whose lack no short run shows: what a daemon does that runs for longer than a lease, or that is done again by others.
const UNSEEN: &[(Role, &str, &str)] = &[
    (Role::BlockstoreRead, "sessions", "remove"),
    (Role::BlockstoreRead, "daemons", "find"),
    (Role::Groom, "sessions", "update"),
    (Role::Groom, "sessions", "remove"),
    (Role::Groom, "daemons", "remove"),
    (Role::Groom, "snapshots", "update"),
    (Role::Blockstore, "sessions", "remove"),
    (Role::Blockstore, "daemons", "find"),
    (Role::Blockstore, "daemons", "update"),
    (Role::Blockstore, "daemons", "remove"),
];
/// In the short form, one of so many is taken away from the program, and not only from the check.
const STRIDE: usize = 20;
/// How long a sync may take that is refused; it would wait for 90 s for what may pass.
const REFUSAL_LIMIT: Duration = Duration::from_secs(30);

fn is_unseen(role: Role, need: &Need) -> bool {
    let resource = need.resource.to_string();
    UNSEEN.iter().any(|(of, collection, action)| {
        *of == role && resource == format!("{DATABASE}.{collection}") && need.action == *action
    })
}

fn place(role: Role) -> (Place, &'static str) {
    match role.place() {
        Place::Source => (Place::Source, "SOURCE"),
        Place::Blockstore => (Place::Blockstore, "BLOCKSTORE"),
        Place::Target => (Place::Target, "TARGET"),
    }
}

/// Takes each row away in turn: the check names it, and the program needs it. Returns what was otherwise.
async fn take_away(scene: &Scene, role: Role) -> Vec<String> {
    let needs = role.needs(DATABASE, VERSION);
    let is_long = std::env::var_os("HEADSTOCK_LONG").is_some();
    let (spread, mut faults) = (role.name().len(), Vec::new());
    for (number, need) in needs.iter().enumerate() {
        let others: Vec<Need> = needs.iter().filter(|one| *one != need).cloned().collect();
        allow(scene.at(role), role, &others).await;
        // What makes the repository is not missed once that is there.
        let named: Vec<(Resource, &str)> = match need.weight {
            Weight::Once if scene.has_repository().await => Vec::new(),
            _ => vec![(need.resource.clone(), need.action)],
        };
        let missing = missing(scene, role).await.into_iter();
        let missing: Vec<_> = missing.map(|one| (one.resource, one.action)).collect();
        assert_eq!(missing, named, "{role:?}");
        let is_tried = is_long || (number + spread).is_multiple_of(STRIDE);
        if need.weight != Weight::Advised && is_tried && !is_unseen(role, need) {
            let ended = scene.work(role).await;
            let is_told =
                ended.text.contains("not authorized") || ended.text.contains("check-access");
            if ended.code == Some(0) || !is_told {
                faults.push(format!("{role:?} without {need:?}: {}", ended.text));
            }
        }
    }
    allow(scene.at(role), role, &needs).await;
    faults
}

async fn missing(scene: &Scene, role: Role) -> Vec<Missing> {
    let checked = access::check(place(role).0, scene.uri(role), &[role]).await.expect("a check");
    let of = checked.roles.into_iter().find(|one| one.role == role).expect("the role");
    assert_eq!(of.complete, of.missing.iter().all(|one| one.weight == Weight::Advised));
    of.missing
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_is_enough_and_none_has_too_much() {
    let scene = Scene::set_up().await;
    fill(&scene.set).await;
    // Settings of a cluster are backed up, too.
    let settings = scene.set.client().database("config").collection::<Document>("settings");
    settings.insert_one(doc! { "_id": "balancer", "stopped": true }).await.expect("insert");
    for role in Role::ALL {
        let (_, variable) = place(role);
        let uris = [(variable, scene.uri(role))];
        let (code, report) = checked(&["--role", role.name()], &uris);
        assert_eq!((code, &report["complete"]), (Some(0), &true.into()), "{report}");
        let ended = scene.work(role).await;
        assert_eq!(ended.code, Some(0), "{role:?}: {}", ended.text);
    }
    let mut faults = Vec::new();
    for role in Role::ALL {
        faults.extend(take_away(&scene, role).await);
        // The blockstore is as it was, for those that read it.
        if role == Role::Blockstore {
            scene.work(role).await.well("push");
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_told() {
    let set = start(Options::default()).await;
    let read = create(&set, Role::BlockstoreRead, "pw").await;
    let uris = [("BLOCKSTORE", read.as_str())];
    let (code, report) = checked(&["--role", "restore"], &uris);
    assert_eq!(code, Some(0), "{report}");
    let server = &report["servers"][0];
    assert_eq!(server["users"][0], "admin.headstock-blockstore-read");
    assert_eq!(server["access_control"], true);
    let (code, report) = checked(&[], &uris);
    assert_eq!((code, &report["complete"]), (Some(3), &false.into()));
    let told = run(&["check-access"], &uris);
    assert_eq!(told.code, Some(3), "{}", told.text);
    for line in [
        "blockstore: INCOMPLETE",
        "missing insert on headstock.blocks: blocks are asserted and sent; none is removed",
        "missing createIndex on headstock.slices: the repository is made",
        "blockstore-read: complete (not asked for)",
        "next: `headstock check-access --print-role blockstore` prints",
    ] {
        assert!(told.text.contains(line), "{line}: {}", told.text);
    }
    // A push that is refused is not waited for: nobody grants a privilege meanwhile.
    let folder = tempfile::tempdir().expect("a folder");
    let store = folder.path().join("store");
    let sync = ["sync", "--store", store.to_str().expect("a path")];
    let (source, write) = (set.uri(), create(&set, Role::Blockstore, "pw").await);
    run(&sync, &[("SOURCE", &source), ("BLOCKSTORE", &write)]).well("sync");
    let begin = Instant::now();
    let refused = run(&sync, &[("SOURCE", &source), ("BLOCKSTORE", &read)]);
    assert_eq!(refused.code, Some(1), "{}", refused.text);
    assert!(
        refused.text.contains("does not allow insert; `headstock check-access"),
        "{}",
        refused.text
    );
    assert!(refused.text.contains("not authorized on headstock"), "{}", refused.text);
    assert!(begin.elapsed() < REFUSAL_LIMIT, "{:?}", begin.elapsed());

    let roots = [("SOURCE", set.uri()), ("TARGET", set.uri())];
    let roots: Vec<(&str, &str)> = roots.iter().map(|(name, uri)| (*name, uri.as_str())).collect();
    let (code, report) = checked(&[], &roots);
    // Not even root may read every database's views.
    assert_eq!(code, Some(3), "{report}");
    assert!(report["servers"][0]["roles"][0]["missing"].to_string().contains("system.views"));

    let wrong = set.uri().replace("lab-password", "hunter2");
    for (words, uris, code) in [
        (&["check-access"][..], &[("SOURCE", wrong.as_str())][..], 1),
        (&["check-access"], &[], 2),
        (&["check-access", "--role", "groom"], &[("SOURCE", wrong.as_str())], 2),
        (&["check-access", "--to", "dump:/tmp/x"], &[], 2),
    ] {
        let ended = run(words, uris);
        assert_eq!(ended.code, Some(code), "{words:?}: {}", ended.text);
        assert!(!ended.text.contains("hunter2"), "{}", ended.text);
    }
    let stranger = set.uri().replace("root:lab-password@", "");
    let told = run(&["check-access"], &[("SOURCE", stranger.as_str())]);
    assert_eq!(told.code, Some(3), "{}", told.text);
    assert!(told.text.contains("nobody logged in"), "{}", told.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_access_control_says_so() {
    let set = headstock::lab::ReplicaSet::of(1).await.expect("a set");
    let uri = set.uri();
    let told = run(&["check-access"], &[("SOURCE", uri.as_str())]).well("check");
    assert!(told.text.contains("no access control"), "{}", told.text);
    let (_, report) = checked(&[], &[("BLOCKSTORE", uri.as_str())]);
    assert_eq!(report["servers"][0]["access_control"], false);
}

/// A server that knows no time series takes the roles that are printed for it, and they are enough.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_server_takes_its_roles() {
    let mongod = Some(Mongod::fetch(Release::V4_4_2).expect("a server"));
    let set = start(Options { mongod, ..Options::default() }).await;
    let admin = set.client().database("admin");
    for role in Role::ALL {
        let words =
            ["check-access", "--print-role", role.name(), "--server-version", "4.4", "--json"];
        let printed = run(&words, &[]).well("print").json();
        admin.run_command(document(&printed["createRole"])).await.expect("a role");
    }
    let all: Vec<String> = Role::ALL.iter().map(|role| crate::scene::name(*role)).collect();
    let user = doc! { "createUser": "u", "pwd": "pw", "roles": all };
    admin.run_command(user).await.expect("a user");
    set.client().database("shop").collection("c").insert_one(doc! {}).await.expect("insert");
    let uri = crate::scene::as_user(&set, "u", "pw");
    let uris = [("SOURCE", uri.as_str()), ("BLOCKSTORE", uri.as_str())];
    let (code, report) = checked(&[], &uris);
    assert_eq!(code, Some(0), "{report}");
    let folder = tempfile::tempdir().expect("a folder");
    let store = folder.path().join("store");
    run(&["sync", "--store", store.to_str().expect("a path")], &uris).well("sync");
}
