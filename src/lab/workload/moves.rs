//! Documents that change places: under another `_id`, with the unique key of another, all at once.

use bson::{Bson, Document, doc};
use futures::TryStreamExt as _;
use mongodb::error::Result;
use rand::Rng as _;

use super::{Hand, Known, is_refusal};

/// Documents that move together, at most.
const MOVED_MAX: i64 = 6;
/// Documents of a collection that was emptied.
const REFILLED: usize = 40;

impl Hand {
    /// Deletes every document of a collection and inserts some.
    pub(super) async fn empty(&mut self) -> Result<()> {
        let collection = self.collection();
        collection.delete_many(doc! {}).await?;
        let documents: Vec<Document> = (0..REFILLED).map(|_| self.fresh_document()).collect();
        match collection.insert_many(documents).ordered(false).await {
            // Some have the `_id` of another.
            Err(error) if !is_refusal(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Deletes a few documents and inserts them under other `_id`s, of other types mostly.
    pub(super) async fn move_documents(&mut self) -> Result<()> {
        let collection = self.collection();
        let near = doc! { "n": { "$gte": self.rng.random_range(0..1000) } };
        let found = collection.find(near).limit(MOVED_MAX).await?;
        let mut documents: Vec<Document> = found.try_collect().await?;
        let ids: Vec<Bson> = documents.iter().filter_map(|one| one.get("_id").cloned()).collect();
        collection.delete_many(doc! { "_id": { "$in": ids } }).await?;
        for document in &mut documents {
            document.insert("_id", self.some_id());
        }
        if documents.is_empty() {
            return Ok(());
        }
        collection.insert_many(documents).ordered(false).await.map(drop)
    }

    /// Two documents give each other their unique keys, by way of a key that nobody has.
    pub(super) async fn swap_keys(&mut self) -> Result<()> {
        let keyed = self.database().collection::<Document>("keyed");
        let pair = [self.some_id(), self.some_id()].map(|id| doc! { "_id": id });
        let unused = -1 - i64::from(self.rng.random::<u32>());
        let fresh: [i64; 2] = self.rng.random();
        let together =
            self.choose([(Known::Always, "one by one", false), (Known::Always, "together", true)]);
        let mut session = self.client.start_session().await?;
        if together {
            session.start_transaction().await?;
        }
        let mut keys = fresh;
        for (key, one) in keys.iter_mut().zip(&pair) {
            let found = keyed.find_one(one.clone()).session(&mut session).await?;
            *key = found.and_then(|found| found.get_i64("k").ok()).unwrap_or(*key);
        }
        let [one, other] = &pair;
        for (document, key) in [(one, unused), (other, keys[0]), (one, keys[1])] {
            let change = doc! { "$set": { "k": key } };
            keyed.update_one(document.clone(), change).session(&mut session).await?;
        }
        if together { session.commit_transaction().await } else { Ok(()) }
    }
}
