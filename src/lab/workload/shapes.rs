//! The collections that a workload starts with.

use bson::{Document, doc};

/// Collections that take any of the ordinary writes.
pub(super) const WRITABLE: [&str; 6] =
    ["plain", "plain", "clustered", "folded", "checked", "imaged"];
/// Number of collections that come, go and change their names.
pub(super) const CHURN: u32 = 7;

/// The `create` commands of the special collections.
pub(super) fn commands() -> Vec<Document> {
    vec![
        doc! { "create": "capped", "capped": true, "size": 100_000, "max": 200 },
        doc! { "create": "capped_bytes", "capped": true, "size": 65_536 },
        doc! { "create": "series",
        "timeseries": { "timeField": "t", "metaField": "meta", "granularity": "seconds" } },
        doc! { "create": "clustered",
        "clusteredIndex": { "key": { "_id": 1 }, "unique": true, "name": "by id" } },
        doc! { "create": "folded", "collation": { "locale": "en", "strength": 2 } },
        doc! { "create": "checked", "validator": { "n": { "$lt": 900 } } },
        doc! { "create": "imaged", "changeStreamPreAndPostImages": { "enabled": true } },
        doc! { "create": "odd" },
        doc! { "create": "large" },
    ]
}
