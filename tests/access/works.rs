//! What each role is for, done as the user who has it: everything that touches a privilege.

use bson::spec::BinarySubtype;
use bson::{Binary, DateTime, Document, doc};
use headstock::access::Role;
use headstock::lab::ReplicaSet;
use serde_json::Value;

use crate::scene::{Ended, Scene, run};

/// Databases that no test makes.
const OWN: [&str; 3] = ["admin", "config", "local"];

impl Scene {
    /// Does all that a role is for. The first command that did not go well, or the last.
    pub async fn work(&self, role: Role) -> Ended {
        match role {
            Role::Source => self.back_up(),
            Role::Blockstore => self.push().await,
            Role::BlockstoreRead => self.read(),
            Role::Groom => self.groom().await,
            Role::Target => self.restore().await,
            Role::Rewind => self.rewind().await,
        }
    }

    fn back_up(&self) -> Ended {
        let store = self.fresh("backed-up");
        let uris = [("SOURCE", self.uri(Role::Source))];
        all(&[&["sync", "--store", &store], &["verify", "--store", &store]], &uris)
    }

    async fn push(&self) -> Ended {
        self.blockstore().drop().await.expect("drop");
        let store = self.fresh("pushed");
        let uris = [("SOURCE", self.uri(Role::Source)), ("BLOCKSTORE", self.uri(Role::Blockstore))];
        let sync = ["sync", "--store", &store];
        let rescan = ["sync", "--store", &store, "--rescan"];
        let pushed = all(&[&sync, &rescan], &uris);
        if pushed.code != Some(0) {
            return pushed;
        }
        let snapshots = run(&["snapshots", "--json"], &uris);
        if snapshots.code != Some(0) {
            return snapshots;
        }
        let snapshots = snapshots.json();
        let id = |at: usize| snapshots[at]["id"].as_str().expect("an id").to_owned();
        self.set
            .client()
            .database("shop")
            .collection("orders")
            .insert_one(doc! {})
            .await
            .expect("insert");
        let (first, second) = (id(0), id(1));
        let keep = ["snapshot", "keep", "--store", &store, &second];
        run(&keep, &[]).well("keep");
        let ended = all(&[&sync, &["snapshot", "delete", &first]], &uris);
        if ended.code != Some(0) {
            return ended;
        }
        // A block that is lost, and one that is damaged.
        let blocks = self.blockstore().collection::<Document>("blocks");
        let some = blocks.find_one_and_delete(doc! { "kind": { "$ne": 7 } }).await.expect("delete");
        let other = doc! { "kind": some.expect("a block").get_i32("kind").expect("a kind") };
        let nothing = Binary { subtype: BinarySubtype::Generic, bytes: vec![1] };
        blocks.update_one(other, doc! { "$set": { "data": nothing } }).await.expect("update");
        run(&["fsck", "--repair", "--from", &store], &uris[1..])
    }

    fn read(&self) -> Ended {
        let dump = format!("dump:{}", self.fresh("dump"));
        let rebuilt = self.fresh("rebuilt");
        let words: &[&[&str]] = &[
            &["restore", "--to", &dump],
            &["rebuild", "--store", &rebuilt],
            &["fsck"],
            &["snapshots"],
            &["points"],
        ];
        all(words, &[("BLOCKSTORE", self.uri(Role::BlockstoreRead))])
    }

    async fn groom(&self) -> Ended {
        let blocks = self.blockstore().collection::<Document>("blocks");
        for (byte, kind) in [(0, 1), (1, 7)] {
            let binary = |bytes| Binary { subtype: BinarySubtype::Generic, bytes };
            let dead = doc! {
                "_id": binary(vec![byte; 32]), "kind": kind, "codec": 0, "epoch": 0, "raw": 1, "len": 1,
                "stamp": 0_i64, "data": binary(vec![1]),
            };
            let by_id = doc! { "_id": dead.get("_id").expect("an id").clone() };
            blocks.replace_one(by_id, dead).upsert(true).await.expect("a dead block");
        }
        let marks = self.fresh("marks");
        run(&["groom", "--marks", &marks], &[("BLOCKSTORE", self.uri(Role::Groom))])
    }

    async fn restore(&self) -> Ended {
        empty(&self.target).await;
        let store = self.fresh("to-restore");
        let sync = ["sync", "--store", &store];
        run(&sync, &[("SOURCE", self.uri(Role::Source))]).well("sync");
        let restore = ["restore", "--store", &store];
        let exact = ["restore", "--store", &store, "--exact"];
        let ended = all(&[&restore, &exact], &[("TARGET", self.uri(Role::Target))]);
        // What is missed without being needed is told.
        match ended.text.contains("only counted") || ended.text.contains("not compared") {
            true => Ended { code: None, ..ended },
            false => ended,
        }
    }

    async fn rewind(&self) -> Ended {
        empty(&self.target).await;
        fill(&self.target).await;
        let store = self.fresh("to-rewind");
        let sync = ["sync", "--store", &store];
        let source = [("SOURCE", self.target_source.as_str())];
        run(&sync, &source).well("sync");
        let snapshots = run(&["snapshots", "--store", &store, "--json"], &[]).json();
        let point = snapshots[0]["id"].as_str().expect("a snapshot").to_owned();
        change(&self.target).await;
        run(&sync, &source).well("sync");
        let words = ["restore", "--rewind", "--store", &store, "--at", &point];
        run(&words, &[("TARGET", self.uri(Role::Rewind))])
    }
}

/// Runs commands one after the other, up to the first that does not go well.
fn all(commands: &[&[&str]], uris: &[(&str, &str)]) -> Ended {
    let mut text = String::new();
    for words in commands {
        let ended = run(words, uris);
        text += &ended.text;
        if ended.code != Some(0) {
            let (code, text) = (ended.code, format!("{words:?}: {}", ended.text));
            return Ended { code, text, output: ended.output };
        }
    }
    Ended { code: Some(0), output: text.clone(), text }
}

async fn command(set: &ReplicaSet, command: Document) {
    let shown = command.to_string();
    let done = set.client().database("shop").run_command(command).await;
    done.unwrap_or_else(|why| panic!("{shown}: {why}"));
}

async fn insert(set: &ReplicaSet, collection: &str, documents: impl IntoIterator<Item = Document>) {
    let documents: Vec<Document> = documents.into_iter().collect();
    let insert =
        doc! { "insert": collection, "documents": documents, "bypassDocumentValidation": true };
    command(set, insert).await;
}

/// Removes all that a test makes.
async fn empty(set: &ReplicaSet) {
    let client = set.client();
    for db in client.list_database_names().await.expect("names") {
        if !OWN.contains(&db.as_str()) {
            client.database(&db).drop().await.expect("drop");
        }
    }
    for name in ["headstock_restore_users", "headstock_restore_roles"] {
        client.database("admin").collection::<Document>(name).drop().await.expect("drop");
    }
    let shop = client.database("shop");
    shop.run_command(doc! { "dropAllUsersFromDatabase": 1 }).await.expect("drop users");
    shop.run_command(doc! { "dropAllRolesFromDatabase": 1 }).await.expect("drop roles");
}

/// One of each kind of what a database holds.
pub async fn fill(set: &ReplicaSet) {
    let numbers =
        |range: std::ops::Range<i32>| range.map(|id| doc! { "_id": id, "x": format!("no. {id}") });
    insert(set, "orders", numbers(0..300)).await;
    let index = |name: &str| doc! { "key": { name: 1 }, "name": name };
    let mut expires = index("t");
    expires.insert("expireAfterSeconds", 1_000_000);
    command(set, doc! { "createIndexes": "orders", "indexes": [index("x"), expires] }).await;
    for name in ["gone", "renamed"] {
        insert(set, name, numbers(0..2)).await;
    }
    command(set, doc! { "create": "valid", "validator": { "a": { "$gt": 5 } } }).await;
    insert(set, "valid", [doc! { "_id": 1, "a": 1 }]).await;
    command(set, doc! { "create": "capped", "capped": true, "size": 4096 }).await;
    insert(set, "capped", numbers(0..10)).await;
    command(set, doc! { "create": "collated", "collation": { "locale": "en" } }).await;
    insert(set, "collated", [doc! { "_id": "a" }, doc! { "_id": "B" }]).await;
    command(set, doc! { "create": "view", "viewOn": "orders", "pipeline": [{ "$limit": 1 }] })
        .await;
    for name in ["series", "series_gone"] {
        let series = doc! { "timeField": "t", "metaField": "m" };
        command(
            set,
            doc! { "create": name, "timeseries": series, "expireAfterSeconds": 100_000_000_i64 },
        )
        .await;
        insert(set, name, measures(3)).await;
        command(
            set,
            doc! { "createIndexes": name, "indexes": [{ "key": { "m": 1, "t": 1 }, "name": "m" }] },
        )
        .await;
    }
    lose(set, "lost").await;
    insert(set, "system.js", [script("f", 1), script("g", 1)]).await;
    command(set, doc! { "createRole": "role", "privileges": [], "roles": ["read"] }).await;
    command(set, doc! { "createUser": "user", "pwd": "x", "roles": ["role"] }).await;
}

/// Buckets of a time series that has lost its view.
async fn lose(set: &ReplicaSet, name: &str) {
    let series = doc! { "timeField": "t", "metaField": "m" };
    let create = doc! {
        "create": format!("system.buckets.{name}"), "timeseries": series, "clusteredIndex": true,
        "expireAfterSeconds": 100_000_000_i64,
    };
    command(set, create).await;
}

/// Changes some of each.
async fn change(set: &ReplicaSet) {
    let delete = |id: i32| doc! { "q": { "_id": { "$lt": id } }, "limit": 0 };
    command(set, doc! { "delete": "orders", "deletes": [delete(10)] }).await;
    let update = doc! { "q": { "_id": { "$lt": 20 } }, "u": { "$set": { "x": 1 } }, "multi": true };
    command(set, doc! { "update": "orders", "updates": [update] }).await;
    insert(set, "orders", [doc! { "_id": 1000 }]).await;
    command(set, doc! { "dropIndexes": "orders", "index": "x" }).await;
    command(
        set,
        doc! { "createIndexes": "orders", "indexes": [{ "key": { "y": 1 }, "name": "y" }] },
    )
    .await;
    for name in ["gone", "series_gone", "view"] {
        command(set, doc! { "drop": name }).await;
    }
    let rename = doc! { "renameCollection": "shop.renamed", "to": "shop.renamed_now" };
    set.client().database("admin").run_command(rename).await.expect("rename");
    command(set, doc! { "collMod": "valid", "validator": {} }).await;
    insert(set, "capped", [doc! { "_id": 1000 }]).await;
    command(set, doc! { "create": "view", "viewOn": "orders", "pipeline": [] }).await;
    insert(set, "series", measures(6)).await;
    command(set, doc! { "dropIndexes": "series", "index": "m" }).await;
    command(
        set,
        doc! { "createIndexes": "series", "indexes": [{ "key": { "v": 1 }, "name": "v" }] },
    )
    .await;
    command(set, doc! { "collMod": "series", "expireAfterSeconds": 100_000_001_i64 }).await;
    let expire = doc! { "collMod": "system.buckets.lost", "expireAfterSeconds": 100_000_001_i64 };
    command(set, expire).await;
    lose(set, "lost_new").await;
    command(set, doc! { "create": "series_new", "timeseries": { "timeField": "t" } }).await;
    command(set, doc! { "delete": "system.js", "deletes": [{ "q": { "_id": "f" }, "limit": 1 }] })
        .await;
    let other = doc! { "q": { "_id": "g" }, "u": script("g", 2) };
    command(set, doc! { "update": "system.js", "updates": [other] }).await;
    insert(set, "system.js", [script("h", 1)]).await;
    command(set, doc! { "dropUser": "user" }).await;
    command(set, doc! { "dropRole": "role" }).await;
    command(set, doc! { "createRole": "other", "privileges": [], "roles": ["read"] }).await;
    command(set, doc! { "createUser": "other", "pwd": "x", "roles": ["other"] }).await;
}

fn measures(metas: i32) -> impl Iterator<Item = Document> {
    (0..metas * 10).map(move |number| {
        let t = DateTime::from_millis(1_700_000_000_000 + i64::from(number) * 1000);
        doc! { "t": t, "m": number % metas, "v": number }
    })
}

fn script(id: &str, result: i32) -> Document {
    let code = bson::JavaScriptCodeWithScope {
        code: format!("function() {{ return {result}; }}"),
        scope: Document::new(),
    };
    doc! { "_id": id, "value": bson::Bson::JavaScriptCode(code.code) }
}

/// The report of a check.
pub fn checked(words: &[&str], uris: &[(&str, &str)]) -> (Option<i32>, Value) {
    let words = [&["check-access", "--json"], words].concat();
    let ended = run(&words, uris);
    (ended.code, ended.json())
}
