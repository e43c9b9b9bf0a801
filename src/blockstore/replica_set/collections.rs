//! The collections of a blockstore and their indexes (page 09, section 1): made before the documents of a repository.

use std::future::IntoFuture as _;

use bson::doc;
use mongodb::IndexModel;
use mongodb::options::IndexOptions;

use super::{BLOCKS, ReplicaSet};
use crate::blockstore::Error;
use crate::blockstore::backend::{
    DAEMONS, GENERATION, JOBS, Of, REPOSITORY, SESSIONS, SLICES, SNAPSHOTS,
};

/// The server's code of a collection that is there.
const NAMESPACE_EXISTS: i32 = 48;

impl ReplicaSet {
    pub(super) async fn make_collections(&self) -> Result<(), Error> {
        for of in [REPOSITORY, GENERATION, BLOCKS, SESSIONS, DAEMONS, JOBS, SNAPSHOTS, SLICES] {
            make_collection(self, of).await?;
        }
        make_indexes(self).await
    }
}

async fn make_collection(set: &ReplicaSet, of: Of) -> Result<(), Error> {
    let create = set.database.create_collection(of.0);
    match set.ask("create", create.into_future()).await {
        Err(Error::Driver { source, .. })
            if matches!(source.kind.as_ref(), mongodb::error::ErrorKind::Command(error)
                if error.code == NAMESPACE_EXISTS) =>
        {
            Ok(())
        }
        made => made,
    }
}

async fn make_indexes(set: &ReplicaSet) -> Result<(), Error> {
    let plain = |keys| IndexModel::builder().keys(keys).build();
    let of_dictionaries =
        IndexOptions::builder().partial_filter_expression(doc! { "dict": { "$exists": true } });
    let by_dictionary =
        IndexModel::builder().keys(doc! { "dict": 1 }).options(of_dictionaries.build()).build();
    let indexes = [
        (BLOCKS, vec![plain(doc! { "stamp": 1, "_id": 1, "len": 1 }), by_dictionary]),
        (SNAPSHOTS, vec![plain(doc! { "_id.job": 1, "_id.id": 1 }), plain(doc! { "pins": 1 })]),
        (SLICES, vec![plain(doc! { "_id.job": 1, "_id.ts": 1 })]),
    ];
    for (of, models) in indexes {
        let create = set.of(of);
        set.ask("createIndexes", create.create_indexes(models).into_future()).await?;
    }
    Ok(())
}
