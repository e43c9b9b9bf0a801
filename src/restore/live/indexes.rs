//! Builds and drops indexes at a live target.
//!
//! A server refuses an index that is another but for its name. Yet a source may have such: before an
//! index was made unique by `collMod` it differed from one that was unique already. They come about
//! here as they did there: built one by one as what is not unique, then made unique; one that stays as
//! it is comes last.

use std::collections::{BTreeMap, HashSet};

use bson::raw::{RawBsonRef, cstr};
use bson::{RawArrayBuf, RawDocument, RawDocumentBuf, rawdoc};

use super::Live;
use crate::restore::Error;
use crate::restore::items::{Item, flag, text, without};
use crate::tree::Key;

/// The field by which documents are deleted by age, of an index or of a collection.
pub(super) const TTL: &str = "expireAfterSeconds";
/// The field of an index that refuses a key twice.
const UNIQUE: &str = "unique";

impl Live {
    /// Drops indexes by their names.
    pub async fn drop_indexes(&self, item: &Item, names: &[String]) -> Result<(), Error> {
        if names.is_empty() {
            return Ok(());
        }
        let names: RawArrayBuf = names.iter().map(String::as_str).collect();
        let command = rawdoc! { "dropIndexes": item.data_name(), "index": names };
        self.run(item.db(), "dropIndexes", command, &item.ns).await.map(drop)
    }

    /// Builds the secondary indexes that let nothing expire. Returns how many.
    pub async fn build_indexes(&self, item: &Item) -> Result<u64, Error> {
        self.create_indexes(item, &lasting(item, item.secondary_indexes())).await
    }

    /// Builds TTL indexes and sets the age limits of time series and clustered collections.
    /// Returns how many indexes it built; none means that nothing of the item expires.
    pub async fn let_expire(&self, item: &Item) -> Result<Option<u64>, Error> {
        let specs = expiring(item, item.secondary_indexes());
        let age = item.options.get(TTL).ok().flatten();
        if specs.is_empty() && age.is_none() {
            return Ok(None);
        }
        if let Some(age) = age {
            let mut command = rawdoc! { "collMod": item.name() };
            command.append(cstr!("expireAfterSeconds"), age);
            self.run(item.db(), "collMod", command, &item.ns).await?;
        }
        self.create_indexes(item, &specs).await.map(Some)
    }

    /// Builds indexes of an item; of those of [`equal_keys`] all or none. Returns how many.
    pub async fn create_indexes(&self, item: &Item, specs: &[&RawDocument]) -> Result<u64, Error> {
        let equal = equal_keys(item);
        let (mut one_by_one, together): (Vec<&RawDocument>, Vec<&RawDocument>) =
            specs.iter().partition(|spec| is_in(&equal, spec));
        self.create_together(item, &together).await?;
        one_by_one.sort_by_key(|spec| !flag(spec, UNIQUE));
        for spec in one_by_one {
            if !flag(spec, UNIQUE) {
                self.create_together(item, &[spec]).await?;
                continue;
            }
            self.create_together(item, &[&without(&item.ns, spec, &[UNIQUE])?]).await?;
            let name = text(spec, "name").unwrap_or_default();
            for change in [cstr!("prepareUnique"), cstr!("unique")] {
                let mut index = rawdoc! { "name": name };
                index.append(change, true);
                let command = rawdoc! { "collMod": item.data_name(), "index": index };
                self.run(item.db(), "collMod", command, &item.ns).await?;
            }
        }
        Ok(specs.len() as u64)
    }

    async fn create_together(&self, item: &Item, specs: &[&RawDocument]) -> Result<(), Error> {
        if specs.is_empty() {
            return Ok(());
        }
        let specs = specs.iter().map(|spec| without(&item.ns, spec, &["ns"]));
        let specs = specs.collect::<Result<Vec<RawDocumentBuf>, _>>()?;
        let indexes = RawArrayBuf::from_iter(specs);
        let mut command = rawdoc! { "createIndexes": item.data_name(), "indexes": indexes };
        if self.replica_set.is_some() {
            // The default waits for every voting member, for ever if one is down.
            command.append(cstr!("commitQuorum"), 1);
        }
        command.append(cstr!("writeConcern"), rawdoc! { "w": 1 });
        self.run(item.db(), "createIndexes", command, &item.ns).await.map(drop)
    }
}

/// Of index specs of an item those that are built before anything may expire.
pub(in crate::restore) fn lasting<'a>(
    item: &Item,
    specs: impl Iterator<Item = &'a RawDocument>,
) -> Vec<&'a RawDocument> {
    let late = late(item);
    specs.filter(|spec| !is_in(&late, spec)).collect()
}

/// Of index specs of an item those by which the server deletes documents by age, and what is built
/// with them.
pub(in crate::restore) fn expiring<'a>(
    item: &Item,
    specs: impl Iterator<Item = &'a RawDocument>,
) -> Vec<&'a RawDocument> {
    let late = late(item);
    specs.filter(|spec| is_in(&late, spec)).collect()
}

/// Names of the indexes of an item that are the same but for their names, or for being unique, where
/// more than one is unique.
pub(in crate::restore) fn equal_keys(item: &Item) -> HashSet<&str> {
    groups(item).into_values().flatten().filter_map(|spec| text(spec, "name")).collect()
}

/// Names of TTL indexes, with all of [`equal_keys`] if one of these is.
fn late(item: &Item) -> HashSet<&str> {
    let expires = |spec: &RawDocument| matches!(spec.get(TTL), Ok(Some(_)));
    let groups = groups(item).into_values();
    let groups = groups.filter(|group| group.iter().any(|spec| expires(spec))).flatten();
    let late = item.secondary_indexes().filter(|spec| expires(spec)).chain(groups);
    late.filter_map(|spec| text(spec, "name")).collect()
}

/// Indexes that a server takes for the same, where more than one is unique.
fn groups(item: &Item) -> BTreeMap<Key, Vec<&RawDocument>> {
    let mut groups = BTreeMap::<_, Vec<_>>::new();
    for spec in item.secondary_indexes() {
        // What has no signature is left to the server to judge.
        if let Some(signature) = signature(spec) {
            groups.entry(signature).or_default().push(spec);
        }
    }
    groups.retain(|_, specs| specs.iter().filter(|spec| flag(spec, UNIQUE)).count() > 1);
    groups
}

/// By what a server tells an index from others, uniqueness apart. Equal for numbers that are equal.
fn signature(spec: &RawDocument) -> Option<Key> {
    let mut signature = RawDocumentBuf::new();
    for field in [cstr!("key"), cstr!("collation"), cstr!("partialFilterExpression")] {
        if let Some(value) = spec.get(field).ok()? {
            signature.append(field, value);
        }
    }
    signature.append(cstr!("sparse"), flag(spec, "sparse"));
    Key::of_value(RawBsonRef::Document(&signature)).ok()
}

fn is_in(names: &HashSet<&str>, spec: &RawDocument) -> bool {
    text(spec, "name").is_some_and(|name| names.contains(name))
}
