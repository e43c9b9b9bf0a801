//! Every operation and command this version knows, how it is treated and why.
//!
//! [`super::parse()`] looks each entry up here first: what has no row stops the backup.

/// A row of the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Known {
    /// Value of `op`.
    pub op: &'static str,
    /// First field of `o`, where `op` is `c`.
    pub command: Option<&'static str>,
    /// What is done.
    pub treatment: Treatment,
    /// Why, in a few words.
    pub why: &'static str,
}

/// What is done with an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    /// Changes documents or the catalog.
    Applied,
    /// Part of a transaction's life.
    Transaction,
    /// Changes nothing that is backed up.
    Ignored,
    /// Cannot be derived from the oplog: the collection must be scanned again.
    Rescan,
}

impl std::fmt::Display for Treatment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Applied => "applied",
            Self::Transaction => "transaction",
            Self::Ignored => "ignored",
            Self::Rescan => "rescan",
        })
    }
}

/// Kind of an applyOps entry that prepares a transaction, in slice headers.
pub const PREPARE_KIND: &str = "c.applyOps#prepare";

/// The row of an operation, if it is known.
#[must_use]
pub fn lookup(op: &str, command: Option<&str>) -> Option<&'static Known> {
    TABLE.iter().find(|row| row.op == op && row.command == command)
}

/// The row of a kind as slice headers name it: `i`, `c.create`, `u.v2` (see
/// `format-spec/05-slices.md`). None if this version does not know the kind.
#[must_use]
pub fn lookup_kind(kind: &str) -> Option<&'static Known> {
    if kind == PREPARE_KIND {
        return lookup("c", Some("applyOps"));
    }
    match kind.split_once('.') {
        Some(("c", command)) => lookup("c", Some(command)),
        Some(("u", "replace" | "v1" | "v2")) => lookup("u", None),
        None if kind != "u" => lookup(kind, None),
        _ => None,
    }
}

const fn op(op: &'static str, treatment: Treatment, why: &'static str) -> Known {
    Known { op, command: None, treatment, why }
}

const fn command(name: &'static str, treatment: Treatment, why: &'static str) -> Known {
    Known { op: "c", command: Some(name), treatment, why }
}

use Treatment::{Applied, Ignored, Rescan, Transaction};

const CONTAINER: &str = "writes a storage container by ident, no document";
const GLOBAL_INDEX: &str = "writes a global index, no document";
const SHARDING_CATALOG: &str = "touches only a shard's own copy of routing data, left out";

/// The table.
pub static TABLE: &[Known] = &[
    op("i", Applied, "insert, or replacement of the document with this _id"),
    op("u", Applied, "replacement, $v:1 modifiers or $v:2 delta"),
    op("d", Applied, "delete by _id"),
    op("n", Ignored, "no effect on documents"),
    op("xi", Ignored, GLOBAL_INDEX),
    op("xd", Ignored, GLOBAL_INDEX),
    op("ci", Ignored, CONTAINER),
    op("cu", Ignored, CONTAINER),
    op("cd", Ignored, CONTAINER),
    op("km", Ignored, "key material of encryption at rest"),
    command("applyOps", Transaction, "several operations, or a part of a transaction"),
    command("commitTransaction", Transaction, "a prepared transaction takes effect"),
    command("abortTransaction", Transaction, "a transaction is given up"),
    command("create", Applied, "new collection or view"),
    command("drop", Applied, "removes the collection by UUID"),
    command("dropDatabase", Applied, "removes what is left of the database"),
    command("renameCollection", Applied, "new name within the database, may drop the target"),
    command("collMod", Applied, "changes options or an index"),
    command("createIndexes", Applied, "one index on an empty or new collection"),
    command("startIndexBuild", Applied, "remembered as unfinished, not an index yet"),
    command("commitIndexBuild", Applied, "the indexes exist from here on"),
    command("abortIndexBuild", Applied, "forgets the build"),
    command("dropIndexes", Applied, "removes one index by name"),
    command("deleteIndexes", Applied, "older name of dropIndexes"),
    command("deleteIndex", Applied, "older name of dropIndexes"),
    command("dropIndex", Applied, "older name of dropIndexes"),
    command("emptycapped", Applied, "removes all documents"),
    command("convertToCapped", Applied, "only in very old oplogs"),
    command("truncateRange", Applied, "removes records by range, only in collections left out"),
    command("dbCheck", Ignored, "consistency check of the source"),
    command("importCollection", Rescan, "data files appear outside the oplog"),
    command(
        "upgradeDowngradeViewlessTimeseries",
        Rescan,
        "setFCV merges or splits a time series collection and its buckets",
    ),
    command("modifyCollectionShardingIndexCatalog", Ignored, SHARDING_CATALOG),
    command("modifyShardedCollectionGlobalIndexCatalog", Ignored, SHARDING_CATALOG),
    command("createGlobalIndex", Ignored, GLOBAL_INDEX),
    command("dropGlobalIndex", Ignored, GLOBAL_INDEX),
    command("createDatabaseMetadata", Ignored, SHARDING_CATALOG),
    command("dropDatabaseMetadata", Ignored, SHARDING_CATALOG),
    command("updateCollectionMetadata", Ignored, SHARDING_CATALOG),
    command("setAllowChunkOperations", Ignored, SHARDING_CATALOG),
    command("setMultikeyMetadata", Ignored, "bookkeeping of an index"),
    command("dropIdent", Ignored, "bookkeeping of a storage file"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_unique() {
        for (position, row) in TABLE.iter().enumerate() {
            let again = TABLE.iter().skip(position + 1);
            let mut again =
                again.filter(|other| (other.op, other.command) == (row.op, row.command));
            assert_eq!(again.next(), None);
            assert_eq!(row.op == "c", row.command.is_some());
            assert!(!row.why.is_empty());
        }
    }

    #[test]
    fn unknown_has_no_row() {
        assert_eq!(lookup("x", None), None);
        assert_eq!(lookup("c", None), None);
        assert_eq!(lookup("c", Some("frobnicate")), None);
        assert_eq!(lookup("i", Some("create")), None);
    }
}
