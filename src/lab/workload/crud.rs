//! Writes to documents: every family of update operator, replacement, upsert, delete.

use bson::{Bson, Document, RawDocumentBuf, doc, rawdoc};
use mongodb::action::Action as _;
use mongodb::error::Result;
use mongodb::options::ReturnDocument;
use rand::Rng as _;

use super::Hand;
use super::Known::Always;
use super::documents::{document, id, odd_document, text, unreadable_id};

/// An update and what it needs beside the document's `_id`.
struct Change {
    update: Document,
    filter: Option<Document>,
    array_filters: Option<Vec<Document>>,
}

impl From<Document> for Change {
    fn from(update: Document) -> Self {
        Self { update, filter: None, array_filters: None }
    }
}

impl Hand {
    pub(super) async fn insert_one(&mut self) -> Result<()> {
        let (collection, document) = (self.collection(), self.fresh_document());
        collection.insert_one(document).await.map(drop)
    }

    /// A batch, now and then one that fails in the middle.
    pub(super) async fn insert_many(&mut self) -> Result<()> {
        let count = self.rng.random_range(2..60);
        let documents: Vec<Document> = (0..count).map(|_| self.fresh_document()).collect();
        let ordered = self.rng.random_bool(0.2);
        self.collection().insert_many(documents).ordered(ordered).await.map(drop)
    }

    /// As a bare command: no session, so no retryable write.
    pub(super) async fn insert_command(&mut self) -> Result<()> {
        let name = self.collection_name();
        let documents = [self.fresh_document(), self.fresh_document()];
        let command = doc! { "insert": name, "documents": documents.to_vec(), "ordered": false };
        self.database().run_command(command).await.map(drop)
    }

    pub(super) async fn insert_odd(&mut self) -> Result<()> {
        let id = self.some_id();
        let document = odd_document(&mut self.rng, id);
        self.database().collection::<RawDocumentBuf>("odd").insert_one(document).await.map(drop)
    }

    /// Writes to a document whose `_id` no driver's type for text holds.
    pub(super) async fn write_unreadable(&mut self) -> Result<()> {
        let id = unreadable_id(self.rng.random_range(1..20));
        let put = rawdoc! { "q": id.clone(), "u": { "n": 1 }, "upsert": true };
        let change = rawdoc! { "$inc": { "n": 1 }, "$set": { "last": id.clone() } };
        let update = rawdoc! { "q": id.clone(), "u": change };
        let delete = rawdoc! { "delete": "odd", "deletes": [{ "q": id, "limit": 1 }] };
        let command = self.choose([
            (Always, "put", rawdoc! { "update": "odd", "updates": [put] }),
            (Always, "update", rawdoc! { "update": "odd", "updates": [update] }),
            (Always, "delete", delete),
        ]);
        self.database().run_raw_command(command).await.map(drop)
    }

    pub(super) async fn update(&mut self) -> Result<()> {
        let change = self.change();
        let mut filter = change.filter.unwrap_or_default();
        let collection = self.collection();
        if self.rng.random_bool(0.12) {
            filter.insert("n", doc! { "$lt": self.rng.random_range(0..60) });
            let update = collection.update_many(filter, change.update);
            return update
                .optional(change.array_filters, |u, f| u.array_filters(f))
                .await
                .map(drop);
        }
        filter.insert("_id", self.some_id());
        let update = collection.update_one(filter, change.update);
        update.optional(change.array_filters, |u, f| u.array_filters(f)).await.map(drop)
    }

    pub(super) async fn update_by_pipeline(&mut self) -> Result<()> {
        let n = self.rng.random_range(0..20);
        let add = doc! { "$add": [{ "$ifNull": ["$n", 0] }, n] };
        let pipeline = match self.rng.random_range(0..7) {
            0 => vec![doc! { "$set": { "n": add, "o.y.z": "$s" } }],
            1 => vec![doc! { "$unset": ["s", "o.x"] }],
            2 => vec![doc! { "$replaceWith": { "_id": "$_id", "n": n, "o": "$o", "was": "$s" } }],
            3 => vec![doc! { "$set": { "l": { "$slice": [{ "$ifNull": ["$l", [1, 2]] }, 2] } } }],
            4 => vec![doc! { "$project": { "tags": 1, "l": 1, "n": 1, "s": 1 } }],
            5 => vec![
                doc! { "$set": { "m": { "$concatArrays": [{ "$ifNull": ["$m", []] }, [n]] } } },
                doc! { "$set": { "size": { "$size": "$m" } } },
            ],
            _ => vec![doc! { "$set": { "o": { "$mergeObjects": ["$o", { "late": n }] } } }],
        };
        let (collection, id) = (self.collection(), self.some_id());
        collection.update_one(doc! { "_id": id }, pipeline).await.map(drop)
    }

    pub(super) async fn replace(&mut self) -> Result<()> {
        let n = self.rng.random_range(0..self.ids);
        let key = id(&mut self.rng, n);
        // Without `_id` the stored one stays; with it, its number type may change.
        let mut new = document(&mut self.rng, key.clone());
        if self.rng.random_bool(0.5) {
            new.remove("_id");
        } else {
            let again = id(&mut self.rng, n);
            new.insert("_id", again);
        }
        let upsert = self.rng.random_bool(0.3);
        self.collection().replace_one(doc! { "_id": key }, new).upsert(upsert).await.map(drop)
    }

    pub(super) async fn upsert(&mut self) -> Result<()> {
        let id = self.some_id();
        let n = self.rng.random_range(0..99);
        let update = doc! {
            "$set": { "s": text(&mut self.rng, 5), "o.x": n },
            "$setOnInsert": { "born": n },
            "$inc": { "hits": 1 },
        };
        self.collection().update_one(doc! { "_id": id }, update).upsert(true).await.map(drop)
    }

    pub(super) async fn find_and_modify(&mut self) -> Result<()> {
        let (collection, filter) = (self.collection(), doc! { "_id": self.some_id() });
        let image = match self.rng.random_bool(0.5) {
            true => ReturnDocument::After,
            false => ReturnDocument::Before,
        };
        match self.rng.random_range(0..4) {
            0 => collection.find_one_and_delete(filter).await.map(drop),
            1 => {
                let mut new = self.fresh_document();
                new.remove("_id");
                collection.find_one_and_replace(filter, new).return_document(image).await.map(drop)
            }
            2 => {
                let update = vec![doc! { "$set": { "by": "pipeline", "n": { "$size": "$l" } } }];
                collection.find_one_and_update(filter, update).await.map(drop)
            }
            _ => {
                let update = doc! { "$inc": { "n": 1 }, "$push": { "l": 3 } };
                let action = collection.find_one_and_update(filter, update).upsert(true);
                action.return_document(image).await.map(drop)
            }
        }
    }

    pub(super) async fn delete(&mut self) -> Result<()> {
        let name = match self.rng.random_range(0..8) {
            0 => "odd".to_owned(),
            1 => "capped".to_owned(),
            _ => self.collection_name(),
        };
        let collection = self.database().collection::<Document>(&name);
        if self.rng.random_bool(0.25) {
            let n = self.rng.random_range(0..950);
            let filter = doc! { "n": { "$gte": n, "$lt": n + 50 } };
            return collection.delete_many(filter).await.map(drop);
        }
        collection.delete_one(doc! { "_id": self.some_id() }).await.map(drop)
    }

    /// One operator, or several on different fields.
    fn change(&mut self) -> Change {
        if self.rng.random_bool(0.5) { self.field_change() } else { self.array_change() }
    }

    fn field_change(&mut self) -> Change {
        let n = self.rng.random_range(0..100);
        let words = text(&mut self.rng, 12);
        let update = match self.rng.random_range(0..16) {
            0 => doc! { "$set": { "s": words } },
            1 => doc! { "$set": { "o.x": n, "o.y.z": words, "deep.er.still": n } },
            2 => doc! { "$set": { "l.2": n, "m.0.v": n } },
            3 => doc! { "$set": { "l.11": n } },
            4 => doc! { "$set": { "zz": 1, "aa": 2, "10": 3, "9": 4 } },
            5 => doc! { "$unset": { "s": "", "o.y.w": "" } },
            6 => doc! { "$unset": { "l.1": "", "m.1.k": "" } },
            7 => doc! { "$inc": { "n": n, "d": 0.5, "o.x": -1 } },
            8 => doc! { "$mul": { "n": 2, "d": 1.25 } },
            9 => doc! { "$min": { "n": n, "t": bson::DateTime::from_millis(i64::from(n)) } },
            10 => doc! { "$max": { "n": n, "d": 1e5 } },
            11 => doc! { "$rename": { "s": "renamed", "o.x": "x" } },
            12 => doc! { "$rename": { "renamed": "s", "x": "o.x" } },
            13 => doc! { "$currentDate": { "t": true, "ts": { "$type": "timestamp" } } },
            14 => doc! { "$bit": { "bits": { "xor": n, "or": 1 } } },
            _ => doc! {
                "$set": { "s": words, "o.y.new": n }, "$unset": { "e": "" }, "$inc": { "n": 1 },
                "$push": { "l": n }, "$addToSet": { "tags": "both" },
            },
        };
        update.into()
    }

    fn array_change(&mut self) -> Change {
        let n = self.rng.random_range(0..20);
        let each = doc! { "$each": [n, n + 1, 0] };
        let update = match self.rng.random_range(0..15) {
            0 => doc! { "$push": { "l": n } },
            1 => doc! { "$push": { "l": { "$each": [n, n], "$position": 1 } } },
            2 => doc! { "$push": { "l": { "$each": [n, 5, 1], "$slice": -6, "$sort": 1 } } },
            3 => {
                doc! { "$push": { "m": { "$each": [{ "k": n, "v": 1 }], "$sort": { "v": -1 } } } }
            }
            4 => doc! { "$pop": { "l": 1, "m": -1 } },
            5 => doc! { "$pull": { "l": { "$gt": n } } },
            6 => doc! { "$pull": { "m": { "k": n } } },
            7 => doc! { "$pullAll": { "l": [1, 2, n] } },
            8 => doc! { "$addToSet": { "l": each } },
            9 => doc! { "$addToSet": { "tags": text(&mut self.rng, 2) } },
            10 => doc! { "$inc": { "l.$[]": 1 } },
            11 => doc! { "$set": { "m.$[].v": n } },
            12 => {
                return Change {
                    update: doc! { "$set": { "m.$[e].v": 99, "m.$[e].new": n } },
                    filter: None,
                    array_filters: Some(vec![doc! { "e.v": { "$lt": 25 } }]),
                };
            }
            13 => {
                return Change {
                    update: doc! { "$inc": { "m.$.v": 7 } },
                    filter: Some(doc! { "m.k": 1 }),
                    array_filters: None,
                };
            }
            _ => doc! { "$set": { "m.3.q.5": n, "tags.0": "first" } },
        };
        update.into()
    }

    pub(super) fn fresh_document(&mut self) -> Document {
        let id = self.some_id();
        document(&mut self.rng, id)
    }

    pub(super) fn some_id(&mut self) -> Bson {
        let n = self.rng.random_range(0..self.ids);
        id(&mut self.rng, n)
    }
}
