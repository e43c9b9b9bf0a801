//! Changes of the catalog: collections, indexes, views, users.

use bson::{Document, doc};
use futures::TryStreamExt as _;
use mongodb::error::Result;
use rand::Rng as _;

use super::{Hand, shapes};

impl Hand {
    pub(super) async fn create(&mut self) -> Result<()> {
        let name = self.churn_name();
        let options = match self.rng.random_range(0..6) {
            0 => doc! {},
            1 => doc! { "capped": true, "size": 40_000, "max": 50 },
            2 => doc! { "collation": { "locale": "de", "strength": 1 } },
            3 => doc! { "clusteredIndex": { "key": { "_id": 1 }, "unique": true, "name": "c" } },
            4 => doc! { "validator": { "n": { "$gte": 0 } }, "validationAction": "warn" },
            _ => doc! { "storageEngine": { "wiredTiger": { "configString": "" } } },
        };
        let mut command = doc! { "create": name };
        command.extend(options);
        self.database().run_command(command).await.map(drop)
    }

    pub(super) async fn drop_collection(&mut self) -> Result<()> {
        let name = self.churn_name();
        self.database().run_command(doc! { "drop": name }).await.map(drop)
    }

    /// Drops one of the special collections and makes it anew: same name, another UUID.
    pub(super) async fn recreate(&mut self) -> Result<()> {
        let shapes = shapes::commands();
        let command = shapes[self.rng.random_range(0..shapes.len())].clone();
        let name = command.get_str("create").unwrap_or_default();
        let database = self.database();
        database.run_command(doc! { "drop": name }).await?;
        database.run_command(command).await.map(drop)
    }

    /// Within a database, onto a free or a taken name, or into the other database.
    pub(super) async fn rename(&mut self) -> Result<()> {
        let from = format!("{}.{}", self.database().name(), self.churn_name());
        let to = match self.rng.random_bool(0.8) {
            true => format!("{}.{}", self.last_database(), self.churn_name()),
            false => format!("{}.{}", self.database().name(), self.churn_name()),
        };
        let replace = self.rng.random_bool(0.6);
        let command = doc! { "renameCollection": from, "to": to, "dropTarget": replace };
        self.client.database("admin").run_command(command).await.map(drop)
    }

    /// `$out` and `$merge`: a temporary collection that takes the place of another, and upserts.
    pub(super) async fn aggregate_into(&mut self) -> Result<()> {
        let collection = self.collection();
        let to = self.churn_name();
        let last = match self.rng.random_bool(0.6) {
            true => doc! { "$out": to },
            false => doc! { "$merge": { "into": to, "whenMatched": "merge" } },
        };
        let project = doc! { "$project": { "n": 1, "s": 1, "twice": { "$add": ["$n", "$n"] } } };
        let cursor = collection.aggregate([project, last]).await?;
        cursor.try_collect::<Vec<Document>>().await.map(drop)
    }

    pub(super) async fn make_capped(&mut self) -> Result<()> {
        let (name, other) = (self.churn_name(), self.churn_name());
        let command = match self.rng.random_bool(0.5) {
            true => doc! { "convertToCapped": name, "size": 30_000 },
            false => {
                doc! { "cloneCollectionAsCapped": name, "toCollection": other, "size": 30_000 }
            }
        };
        self.database().run_command(command).await.map(drop)
    }

    pub(super) async fn change_options(&mut self) -> Result<()> {
        let n = self.rng.random_range(1..100);
        let churn = self.churn_name();
        let command = match self.rng.random_range(0..10) {
            0 => doc! { "collMod": "checked", "validator": { "n": { "$lt": 1000 + n } } },
            1 => doc! { "collMod": "checked", "validationLevel": "moderate" },
            2 => doc! { "collMod": &churn, "validator": { "s": { "$type": "string" } },
            "validationAction": "warn" },
            3 => doc! { "collMod": &churn, "validator": {} },
            4 => doc! { "collMod": "capped", "cappedMax": 150 + n },
            5 => doc! { "collMod": "capped_bytes", "cappedSize": 60_000 + n * 256 },
            6 => doc! { "collMod": "imaged",
            "changeStreamPreAndPostImages": { "enabled": n % 2 == 0 } },
            7 => doc! { "collMod": "series", "expireAfterSeconds": i64::from(n) * 100_000_000 },
            8 => doc! { "collMod": "plain", "index": { "name": "s_1", "hidden": n % 2 == 0 } },
            _ => doc! { "collMod": "plain",
            "index": { "name": "ttl", "expireAfterSeconds": 500_000_000 + n } },
        };
        self.database().run_command(command).await.map(drop)
    }

    pub(super) async fn create_index(&mut self) -> Result<()> {
        let name = match self.rng.random_bool(0.6) {
            true => self.collection_name(),
            false => self.churn_name(),
        };
        let mut index = match self.rng.random_range(0..12) {
            0 => doc! { "key": { "s": 1 }, "name": "s_1" },
            1 => doc! { "key": { "n": 1, "d": -1 }, "name": "n_1_d_-1" },
            2 => doc! { "key": { "n": 1 }, "name": "part",
            "partialFilterExpression": { "n": { "$gt": 500 } } },
            3 => doc! { "key": { "$**": "text" }, "name": "words", "weights": { "s": 5 } },
            4 => doc! { "key": { "geo": "2dsphere" }, "name": "geo" },
            5 => doc! { "key": { "$**": 1 }, "name": "wild", "wildcardProjection": { "o": 1 } },
            6 => doc! { "key": { "n": "hashed" }, "name": "hashed" },
            7 => doc! { "key": { "born": 1 }, "name": "sparse", "sparse": true },
            8 => doc! { "key": { "t": 1 }, "name": "ttl", "expireAfterSeconds": 500_000_000 },
            9 => doc! { "key": { "l": 1 }, "name": "multi", "hidden": true },
            10 => doc! { "key": { "s": 1, "n": 1 }, "name": "fr",
            "collation": { "locale": "fr", "strength": 2 } },
            _ => doc! { "key": { "only": 1 }, "name": "unique", "unique": true, "sparse": true },
        };
        if self.rng.random_bool(0.2) {
            index.insert("background", true);
        }
        let command = doc! { "createIndexes": name, "indexes": [index] };
        self.database().run_command(command).await.map(drop)
    }

    pub(super) async fn drop_index(&mut self) -> Result<()> {
        const NAMES: [&str; 8] = ["s_1", "part", "words", "geo", "wild", "hashed", "fr", "*"];
        let name = self.collection_name();
        let index = NAMES[self.rng.random_range(0..NAMES.len())];
        let command = doc! { "dropIndexes": name, "index": index };
        self.database().run_command(command).await.map(drop)
    }

    pub(super) async fn change_view(&mut self) -> Result<()> {
        let view = format!("view_{}", self.rng.random_range(0..3));
        let on = self.collection_name();
        let pipeline = vec![doc! { "$match": { "n": { "$gt": self.rng.random_range(0..500) } } }];
        let command = match self.rng.random_range(0..4) {
            0 => doc! { "drop": view },
            1 => doc! { "collMod": view, "viewOn": on, "pipeline": pipeline },
            2 => doc! { "create": view, "viewOn": "view_0", "pipeline": pipeline },
            _ => doc! { "create": view, "viewOn": on, "pipeline": pipeline,
            "collation": { "locale": "en", "strength": 2 } },
        };
        self.database().run_command(command).await.map(drop)
    }

    pub(super) async fn change_users(&mut self) -> Result<()> {
        let database = self.database();
        let user = format!("user-{}", self.rng.random_range(0..4));
        let role = format!("role-{}", self.rng.random_range(0..3));
        let privilege = doc! {
            "resource": { "db": database.name(), "collection": "plain" }, "actions": ["find"],
        };
        let pick = self.rng.random_range(0..5);
        let command = match pick {
            0 => doc! { "createUser": user, "pwd": "p", "roles": ["read"] },
            1 => doc! { "updateUser": user, "customData": { "n": self.rng.random_range(0..99) } },
            2 => doc! { "dropUser": user },
            3 => doc! { "createRole": role, "privileges": [privilege], "roles": ["readWrite"] },
            _ => doc! { "dropRole": role },
        };
        database.run_command(command).await.map(drop)
    }

    /// Makes a database of its own and drops it, now or the next time.
    pub(super) async fn whole_database(&mut self) -> Result<()> {
        let database = self.client.database("short-lived");
        if self.rng.random_bool(0.5) {
            return database.drop().await;
        }
        for name in ["a", "b"] {
            let document = self.fresh_document();
            database.collection::<Document>(name).insert_one(document).await?;
        }
        database.run_command(doc! { "create": "v", "viewOn": "a", "pipeline": [] }).await.map(drop)
    }
}
