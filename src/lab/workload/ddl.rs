//! Changes of the catalog: collections, indexes, views, users.

use bson::{Bson, Document, doc};
use futures::TryStreamExt as _;
use mongodb::error::{Error, ErrorKind, Result};
use rand::Rng as _;

use super::kinds::Known::{Always, Before, Since};
use super::{DATABASES, Hand, shapes};

/// Code of a server that finds a key twice.
const DUPLICATE_KEY: i32 = 11_000;

impl Hand {
    /// None is clustered: made capped, it would be what no command creates (seen on 6.0.5).
    pub(super) async fn create(&mut self) -> Result<()> {
        let name = self.churn_name();
        let series = doc! { "timeField": "t", "metaField": "meta", "granularity": "minutes" };
        let options = self.choose([
            (Always, "plain", doc! {}),
            (Always, "capped", doc! { "capped": true, "size": 40_000, "max": 50 }),
            (Always, "capped by size", doc! { "capped": true, "size": 20_000 }),
            (Always, "collation", doc! { "collation": { "locale": "de", "strength": 1 } }),
            (
                Always,
                "validator",
                doc! {
                    "validator": { "n": { "$gte": 0 } }, "validationAction": "warn",
                },
            ),
            (
                Always,
                "engine",
                doc! {
                    "storageEngine": { "wiredTiger": { "configString": "" } },
                    "indexOptionDefaults": { "storageEngine": { "wiredTiger": {} } },
                },
            ),
            (Before(6), "images", doc! { "recordPreImages": true }),
            (Since(6), "images", shapes::images(true)),
            (Since(5), "series", doc! { "timeseries": series }),
            (Since(6), "encrypted", shapes::encrypted()),
        ]);
        let database = self.database();
        if self.rng.random_bool(0.5) {
            // Most names are taken: under this one comes another collection, if any was there.
            database.collection::<Document>(&name).drop().await?;
        }
        let mut command = doc! { "create": name };
        command.extend(options);
        database.run_command(command).await.map(drop)
    }

    pub(super) async fn drop_collection(&mut self) -> Result<()> {
        let name = self.churn_name();
        self.database().run_command(doc! { "drop": name }).await.map(drop)
    }

    /// Drops one of the special collections and makes it anew: same name, another UUID.
    pub(super) async fn recreate(&mut self) -> Result<()> {
        let mut shapes = shapes::shapes(self.major);
        let shape = shapes.swap_remove(self.rng.random_range(0..shapes.len()));
        let database = self.database();
        database.run_command(doc! { "drop": shape.name }).await?;
        shape.make(&database).await
    }

    /// Within a database, onto a free or a taken name, or into the first database.
    pub(super) async fn rename(&mut self) -> Result<()> {
        let (from, to) = (self.churn_name(), self.churn_name());
        let (across, replace) = self.choose([
            (Always, "onto a free name", (false, false)),
            (Always, "onto any name", (false, true)),
            (Always, "across databases, onto a free name", (true, false)),
            (Always, "across databases, onto any name", (true, true)),
        ]);
        // In both directions at once they wait for each other, for ever (seen on 4.4.2).
        let database = self.database();
        let (of, into) = match across {
            true => (DATABASES[1], DATABASES[0]),
            false => (database.name(), database.name()),
        };
        let command = doc! {
            "renameCollection": format!("{of}.{from}"),
            "to": format!("{into}.{to}"),
            "dropTarget": replace,
        };
        self.client.database("admin").run_command(command).await.map(drop)
    }

    /// `$out` and `$merge`: a temporary collection that takes the place of another, and upserts.
    pub(super) async fn aggregate_into(&mut self) -> Result<()> {
        let collection = self.collection();
        let (to, other) = (self.churn_name(), self.other_database());
        let merge = |matched: Bson| doc! { "$merge": { "into": &to, "whenMatched": matched } };
        let adds = doc! { "$set": { "n": "$$new.n", "merged": true } };
        let last = self.choose([
            (Always, "out", doc! { "$out": &to }),
            (Always, "out across databases", doc! { "$out": { "db": other, "coll": &to } }),
            (Always, "merge", merge("merge".into())),
            (Always, "merge, replace", merge("replace".into())),
            (Always, "merge, keep", merge("keepExisting".into())),
            (Always, "merge by pipeline", merge(vec![adds].into())),
        ]);
        let project = doc! { "$project": { "n": 1, "s": 1, "twice": { "$add": ["$n", "$n"] } } };
        let cursor = collection.aggregate([project, last]).await?;
        cursor.try_collect::<Vec<Document>>().await.map(drop)
    }

    pub(super) async fn make_capped(&mut self) -> Result<()> {
        let (name, other) = (self.churn_name(), self.churn_name());
        let command = self.choose([
            (Always, "in place", doc! { "convertToCapped": &name, "size": 30_000 }),
            (
                Always,
                "as a copy",
                doc! {
                    "cloneCollectionAsCapped": &name, "toCollection": other, "size": 30_000,
                },
            ),
        ]);
        self.database().run_command(command).await.map(drop)
    }

    /// Every form of collMod but those of views.
    pub(super) async fn change_options(&mut self) -> Result<()> {
        let n = self.rng.random_range(1..100);
        let churn = self.churn_name();
        let granularity = if n % 2 == 0 { "minutes" } else { "hours" };
        let long = doc! { "keyPattern": { "t": 1 }, "expireAfterSeconds": 500_000_000 + n };
        let command = self.choose([
            (
                Always,
                "validator",
                doc! {
                    "collMod": "checked", "validator": { "n": { "$lt": 1000 + n } },
                },
            ),
            (Always, "level", doc! { "collMod": "checked", "validationLevel": "moderate" }),
            (
                Always,
                "action",
                doc! {
                    "collMod": &churn, "validator": { "s": { "$type": "string" } },
                    "validationAction": "warn",
                },
            ),
            (Always, "no validator", doc! { "collMod": &churn, "validator": {} }),
            (Before(6), "images", doc! { "collMod": "imaged", "recordPreImages": n % 2 == 0 }),
            (
                Since(6),
                "images",
                doc! {
                    "collMod": "imaged", "changeStreamPreAndPostImages": { "enabled": n % 2 == 0 },
                },
            ),
            (Since(6), "max", doc! { "collMod": "capped", "cappedMax": 150 + n }),
            (
                Since(6),
                "size",
                doc! {
                    "collMod": "capped_bytes", "cappedSize": 60_000 + n * 256,
                },
            ),
            (
                Since(5),
                "expiring series",
                doc! {
                    "collMod": "series", "expireAfterSeconds": i64::from(n) * 100_000_000,
                },
            ),
            (Since(5), "lasting series", doc! { "collMod": "series", "expireAfterSeconds": "off" }),
            (
                Since(5),
                "granularity",
                doc! {
                    "collMod": "series", "timeseries": { "granularity": granularity },
                },
            ),
            (
                Since(6),
                "expiring cluster",
                doc! {
                    "collMod": "clustered", "expireAfterSeconds": i64::from(n) * 100_000_000,
                },
            ),
            (
                Since(6),
                "lasting cluster",
                doc! {
                    "collMod": "clustered", "expireAfterSeconds": "off",
                },
            ),
            (
                Always,
                "hidden",
                doc! {
                    "collMod": "plain", "index": { "name": "s_1", "hidden": n % 2 == 0 },
                },
            ),
            (Always, "expiring", doc! { "collMod": "plain", "index": long }),
            (
                Since(6),
                "to be unique",
                doc! {
                    "collMod": "keyed", "index": { "name": "only_1", "prepareUnique": n % 3 > 0 },
                },
            ),
            (
                Since(6),
                "unique",
                doc! {
                    "collMod": "keyed", "index": { "name": "only_1", "unique": true },
                },
            ),
        ]);
        self.database().run_command(command).await.map(drop)
    }

    pub(super) async fn create_index(&mut self) -> Result<()> {
        let name = match self.rng.random_bool(0.6) {
            true => self.collection_name(),
            false => self.churn_name(),
        };
        let forms = [
            ("s_1", doc! { "key": { "s": 1 } }),
            ("n_1_d_-1", doc! { "key": { "n": 1, "d": -1 } }),
            (
                "part",
                doc! {
                    "key": { "n": 1 }, "partialFilterExpression": { "n": { "$gt": 500 } },
                },
            ),
            ("words", doc! { "key": { "$**": "text" }, "weights": { "s": 5 } }),
            ("geo", doc! { "key": { "geo": "2dsphere" } }),
            ("wild", doc! { "key": { "$**": 1 }, "wildcardProjection": { "o": 1 } }),
            ("hashed", doc! { "key": { "n": "hashed", "d": 1 } }),
            ("sparse", doc! { "key": { "born": 1 }, "sparse": true }),
            ("ttl", doc! { "key": { "t": 1 }, "expireAfterSeconds": 500_000_000 }),
            ("multi", doc! { "key": { "l": 1 }, "hidden": true }),
            (
                "fr",
                doc! {
                    "key": { "s": 1, "n": 1 }, "collation": { "locale": "fr", "strength": 2 },
                },
            ),
            ("unique", doc! { "key": { "only": 1 }, "unique": true, "sparse": true }),
        ];
        let forms = forms.map(|(name, index)| (Always, name, (name, index)));
        let (named, mut index) = self.choose(forms);
        index.insert("name", named);
        if self.rng.random_bool(0.2) {
            index.insert("background", true);
        }
        let command = doc! { "createIndexes": name, "indexes": [index] };
        self.database().run_command(command).await.map(drop)
    }

    /// A build that ends where it finds a key twice.
    pub(super) async fn abort_index(&mut self) -> Result<()> {
        let index = doc! { "key": { "e": 1 }, "name": "never", "unique": true };
        let command = doc! { "createIndexes": self.collection_name(), "indexes": [index] };
        let refused = self.database().run_command(command).await.map(drop);
        match refused {
            Err(error) if is_duplicate_key(&error) => Ok(()),
            // A collection of one document at most.
            other => other,
        }
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
        let command = self.choose([
            (Always, "drop", doc! { "drop": &view }),
            (Always, "change", doc! { "collMod": &view, "viewOn": &on, "pipeline": &pipeline }),
            (
                Always,
                "of a view",
                doc! {
                    "create": &view, "viewOn": "view_0", "pipeline": &pipeline,
                },
            ),
            (
                Always,
                "create",
                doc! {
                    "create": &view, "viewOn": &on, "pipeline": &pipeline,
                    "collation": { "locale": "en", "strength": 2 },
                },
            ),
        ]);
        self.database().run_command(command).await.map(drop)
    }

    pub(super) async fn change_users(&mut self) -> Result<()> {
        let database = self.database();
        let user = format!("user-{}", self.rng.random_range(0..4));
        let role = format!("role-{}", self.rng.random_range(0..3));
        let privilege = doc! {
            "resource": { "db": database.name(), "collection": "plain" }, "actions": ["find"],
        };
        let n = self.rng.random_range(0..99);
        let command = self.choose([
            (
                Always,
                "create a user",
                doc! {
                    "createUser": &user, "pwd": "p", "roles": ["read"],
                },
            ),
            (Always, "update a user", doc! { "updateUser": &user, "customData": { "n": n } }),
            (Always, "drop a user", doc! { "dropUser": &user }),
            (
                Always,
                "create a role",
                doc! {
                    "createRole": &role, "privileges": [privilege.clone()], "roles": ["readWrite"],
                },
            ),
            (Always, "update a role", doc! { "updateRole": &role, "privileges": [privilege] }),
            (Always, "grant", doc! { "grantRolesToUser": &user, "roles": [&role] }),
            (Always, "drop a role", doc! { "dropRole": &role }),
        ]);
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

fn is_duplicate_key(error: &Error) -> bool {
    matches!(&*error.kind, ErrorKind::Command(command) if command.code == DUPLICATE_KEY)
}
