//! The collections that a workload starts with.

use bson::{Document, doc};
use mongodb::Database;
use mongodb::error::Result;

use super::kinds::Known;

/// Number of collections that come, go and change their names.
pub(super) const CHURN: u32 = 7;

/// A collection of its own kind.
pub(super) struct Shape {
    known: Known,
    /// How often it is drawn for ordinary writes; 0 where it takes writes of its own only.
    share: usize,
    /// Its name.
    pub(super) name: &'static str,
    options: Document,
    indexes: Vec<Document>,
}

impl Shape {
    fn new(known: Known, share: usize, name: &'static str, options: Document) -> Self {
        Self { known, share, name, options, indexes: Vec::new() }
    }

    /// Makes the collection.
    pub(super) async fn make(&self, database: &Database) -> Result<()> {
        let mut command = doc! { "create": self.name };
        command.extend(self.options.clone());
        database.run_command(command).await?;
        if !self.indexes.is_empty() {
            let command = doc! { "createIndexes": self.name, "indexes": &self.indexes };
            database.run_command(command).await?;
        }
        Ok(())
    }
}

/// The special collections that a server of version `major` knows.
pub(super) fn shapes(major: u32) -> Vec<Shape> {
    use Known::{Always, Before, Since};
    let series = doc! { "timeField": "t", "metaField": "meta", "granularity": "seconds" };
    let indexes = vec![
        doc! { "key": { "k": 1 }, "name": "k_1", "unique": true, "sparse": true },
        doc! { "key": { "only": 1 }, "name": "only_1", "sparse": true },
    ];
    let mut shapes = vec![
        Shape::new(Always, 2, "plain", doc! {}),
        Shape::new(Always, 0, "capped", doc! { "capped": true, "size": 100_000, "max": 200 }),
        Shape::new(Always, 0, "capped_bytes", doc! { "capped": true, "size": 65_536 }),
        Shape::new(Since(5), 0, "series", doc! { "timeseries": series }),
        Shape::new(Since(6), 1, "clustered", doc! { "clusteredIndex": clustered() }),
        Shape::new(Always, 1, "folded", doc! { "collation": { "locale": "en", "strength": 2 } }),
        Shape::new(Always, 1, "checked", doc! { "validator": { "n": { "$lt": 900 } } }),
        Shape::new(Before(6), 1, "imaged", doc! { "recordPreImages": true }),
        Shape::new(Since(6), 1, "imaged", images(true)),
        Shape::new(Since(6), 1, "encrypted", encrypted()),
        Shape { indexes, ..Shape::new(Always, 1, "keyed", doc! {}) },
        Shape::new(Always, 0, "odd", doc! {}),
        Shape::new(Always, 0, "large", doc! {}),
    ];
    shapes.retain(|shape| shape.known.by(major));
    shapes
}

/// Names of the collections that take any of the ordinary writes, as often as they are drawn.
pub(super) fn writable(shapes: &[Shape]) -> Vec<&'static str> {
    shapes.iter().flat_map(|shape| std::iter::repeat_n(shape.name, shape.share)).collect()
}

/// The index of a collection that stands in the order of its `_id`.
fn clustered() -> Document {
    doc! { "key": { "_id": 1 }, "unique": true, "name": "by id" }
}

/// The option that has changes keep what was before and after them.
pub(super) fn images(enabled: bool) -> Document {
    doc! { "changeStreamPreAndPostImages": { "enabled": enabled } }
}

/// The option of a collection in which clients encrypt a field.
pub(super) fn encrypted() -> Document {
    let field = doc! {
        "path": "secret", "bsonType": "string", "keyId": bson::Uuid::from_bytes([3; 16]),
    };
    doc! { "encryptedFields": { "fields": [field] } }
}
