//! Writes to collections that have rules of their own, and transactions.

use bson::{Bson, DateTime, Document, JavaScriptCodeWithScope, doc};
use mongodb::ClientSession;
use mongodb::error::Result;
use rand::Rng as _;

use super::documents::{document, large_document, text};
use super::{Hand, Known};

/// Documents of a transaction that does not fit one oplog entry of 16 MiB: 5 of 4 MB.
const LARGE_DOCUMENTS: usize = 5;
const LARGE_BYTES: usize = 4_000_000;
/// Large documents kept; more than this are deleted first.
const LARGE_KEPT_MAX: u64 = 8;

impl Hand {
    pub(super) async fn insert_capped(&mut self) -> Result<()> {
        let name = if self.rng.random_bool(0.7) { "capped" } else { "capped_bytes" };
        let count = self.rng.random_range(1..30);
        let documents: Vec<Document> = (0..count)
            .map(|_| doc! { "n": self.rng.random_range(0..999), "s": text(&mut self.rng, 20) })
            .collect();
        self.database().collection::<Document>(name).insert_many(documents).await.map(drop)
    }

    pub(super) async fn update_capped(&mut self) -> Result<()> {
        let filter = doc! { "n": { "$gte": self.rng.random_range(0..999) } };
        let update = doc! { "$inc": { "n": 1 } };
        let collection = self.database().collection::<Document>("capped");
        collection.update_one(filter, update).await.map(drop)
    }

    pub(super) async fn write_series(&mut self) -> Result<()> {
        let series = self.database().collection::<Document>("series");
        if self.rng.random_bool(0.03) {
            let meta = format!("sensor-{}", self.rng.random_range(0..6));
            return series.delete_many(doc! { "meta": meta }).await.map(drop);
        }
        let count = self.rng.random_range(1..40);
        let mut measurements = Vec::with_capacity(count);
        for _ in 0..count {
            self.clock_ms += self.rng.random_range(1..120_000);
            let meta = format!("sensor-{}", self.rng.random_range(0..6));
            let (v, w) = (self.rng.random_range(0.0..50.0), self.rng.random_range(0..9));
            let at = DateTime::from_millis(self.clock_ms);
            measurements.push(doc! { "t": at, "meta": meta, "v": v, "w": { "x": w } });
        }
        series.insert_many(measurements).await.map(drop)
    }

    /// Functions of a database, which are documents of a collection of the system's.
    pub(super) async fn store_function(&mut self) -> Result<()> {
        let functions = self.database().collection::<Document>("system.js");
        let name = doc! { "_id": format!("f{}", self.rng.random_range(0..5)) };
        let code = format!("function (x) {{ return x + {}; }}", self.rng.random_range(0..99));
        let scope = doc! { "n": self.rng.random_range(0..99) };
        let scoped = JavaScriptCodeWithScope { code: code.clone(), scope };
        let value = self.choose([
            (Known::Always, "code", Some(Bson::JavaScriptCode(code))),
            (Known::Always, "code with scope", Some(Bson::JavaScriptCodeWithScope(scoped))),
            (Known::Always, "remove", None),
        ]);
        let Some(value) = value else { return functions.delete_one(name).await.map(drop) };
        let new = doc! { "value": value };
        functions.replace_one(name, new).upsert(true).await.map(drop)
    }

    /// Two to eight writes in any collections; every other is aborted.
    pub(super) async fn transaction(&mut self) -> Result<()> {
        let mut session = self.client.start_session().await?;
        session.start_transaction().await?;
        let count = self.rng.random_range(2..=8);
        let mut written = Ok(());
        for _ in 0..count {
            written = self.write_in(&mut session).await;
            if written.is_err() {
                break;
            }
        }
        let abort = self.choose([(Known::Always, "commit", false), (Known::Always, "abort", true)]);
        if written.is_err() || abort {
            // A transaction that the server has aborted already cannot be aborted again.
            let aborted = session.abort_transaction().await;
            return written.and(aborted);
        }
        session.commit_transaction().await
    }

    async fn write_in(&mut self, session: &mut ClientSession) -> Result<()> {
        let collection = self.collection();
        let filter = doc! { "_id": self.some_id() };
        match self.rng.random_range(0..7) {
            0 | 1 => {
                // An upsert: a duplicate key would abort the whole transaction.
                let mut new = self.fresh_document();
                new.remove("_id");
                collection.replace_one(filter, new).upsert(true).session(session).await.map(drop)
            }
            2 | 3 => {
                let update = doc! { "$inc": { "n": 1 }, "$set": { "o.txn": true } };
                collection.update_one(filter, update).session(session).await.map(drop)
            }
            4 => collection.delete_one(filter).session(session).await.map(drop),
            5 => {
                let id = bson::oid::ObjectId::new();
                let new = document(&mut self.rng, id.into());
                collection.insert_one(new).session(&mut *session).await?;
                let again = doc! { "_id": id };
                collection.delete_one(again.clone()).session(&mut *session).await?;
                let new = document(&mut self.rng, id.into());
                collection.insert_one(new).session(&mut *session).await?;
                let update = doc! { "$push": { "l": 1 } };
                collection.update_one(again, update).session(session).await.map(drop)
            }
            _ => {
                let n = self.rng.random_range(0..900);
                let few = doc! { "n": { "$gte": n, "$lt": n + 5 } };
                let update = doc! { "$set": { "in": "transaction" } };
                collection.update_many(few, update).session(session).await.map(drop)
            }
        }
    }

    /// Creates a collection with an index and a document in one transaction.
    pub(super) async fn transaction_with_ddl(&mut self) -> Result<()> {
        let (database, name) = (self.database(), self.churn_name());
        let document = self.fresh_document();
        let mut session = self.client.start_session().await?;
        session.start_transaction().await?;
        let index = doc! { "key": { "n": 1 }, "name": "n_1" };
        let commands = [
            doc! { "create": &name },
            doc! { "createIndexes": &name, "indexes": [index] },
            doc! { "insert": &name, "documents": [document] },
        ];
        for command in commands {
            if let Err(error) = database.run_command(command).session(&mut session).await {
                return session.abort_transaction().await.and(Err(error));
            }
        }
        session.commit_transaction().await
    }

    /// A transaction of several oplog entries.
    pub(super) async fn large_transaction(&mut self) -> Result<()> {
        let large = self.database().collection::<Document>("large");
        if large.estimated_document_count().await? > LARGE_KEPT_MAX {
            large.delete_many(doc! {}).await?;
        }
        let mut session = self.client.start_session().await?;
        session.start_transaction().await?;
        for _ in 0..LARGE_DOCUMENTS {
            let id = bson::oid::ObjectId::new().into();
            let document = large_document(&mut self.rng, id, LARGE_BYTES);
            large.insert_one(document).session(&mut session).await?;
        }
        let collection = self.collection();
        let update = doc! { "$set": { "with": "large" } };
        collection.update_one(doc! { "_id": 0 }, update).session(&mut session).await?;
        session.commit_transaction().await
    }
}
