//! The order in which a set logged the inserts into its capped collections.
//!
//! A primary gives concurrent inserts their optimes before it gives them their places, so it may hold
//! two neighbours the other way round than the oplog, and than every secondary, has them (seen on 4.4.2
//! and 6.0.5). A backup that followed the oplog holds what the secondaries do.

use std::collections::HashMap;

use bson::{Binary, Bson, RawDocumentBuf, Timestamp, doc};
use futures::TryStreamExt as _;
use mongodb::Client;

use super::{Error, Result};
use crate::inspect::json_of_id;
use crate::oplog::{Ts, Uuid};

/// The place in the oplog of the last insert of each document of some collections.
#[derive(Debug)]
pub struct LogOrder {
    places: HashMap<(Uuid, String), usize>,
}

impl LogOrder {
    /// Reads the oplog up to `until` (all of it if none) for inserts into `collections`.
    ///
    /// # Errors
    /// The driver's.
    pub async fn read(client: &Client, collections: &[Uuid], until: Option<Ts>) -> Result<Self> {
        let action = "read the oplog for inserts";
        let of: Vec<Bson> = collections.iter().map(|uuid| Binary::from(*uuid).into()).collect();
        let mut filter = doc! { "op": "i", "ui": { "$in": of } };
        if let Some(until) = until {
            filter.insert("ts", doc! { "$lte": Timestamp::from(until) });
        }
        let oplog = client.database("local").collection::<RawDocumentBuf>("oplog.rs");
        let find = oplog.find(filter).sort(doc! { "$natural": 1 });
        let find = find.projection(doc! { "ui": 1, "o._id": 1 });
        let mut cursor = find.await.map_err(Error::driver(action))?;
        let (mut places, mut read) = (HashMap::new(), 0);
        while let Some(entry) = cursor.try_next().await.map_err(Error::driver(action))? {
            if let Ok(Some(ui)) = entry.get("ui")
                && let Some(uuid) = Uuid::from_value(ui)
                && let Ok(inserted) = entry.get_document("o")
            {
                places.insert((uuid, json_of_id(inserted)), read);
                read += 1;
            }
        }
        Ok(Self { places })
    }

    /// Sorts the documents of a collection as they were logged; those that were inserted before the
    /// oplog begins stay in front.
    pub fn sort(&self, collection: Uuid, documents: &mut [RawDocumentBuf]) {
        let place = |id: String| self.places.get(&(collection, id)).copied();
        documents.sort_by_cached_key(|document| place(json_of_id(document)));
    }
}
