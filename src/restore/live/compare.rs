//! Compares what a live target holds with what the backup held.
//!
//! Counts of every collection, and the md5 of `dbHash` where it is the md5 of our trees. Where it is not,
//! the documents are read back in the order of the tree: of a capped collection in the order in which
//! they were inserted, which `dbHash` does not see; of one whose default collation is not simple by
//! `_id` under the simple collation, since `dbHash` reads its `_id` index in the other's order. Views
//! are compared document by document. What could not be compared is said.

use std::collections::HashMap;

use bson::{Document, RawDocument, RawDocumentBuf, doc, rawdoc};
use futures::TryStreamExt as _;
use md5::{Digest as _, Md5};
use mongodb::error::ErrorKind;
use mongodb::options::{Collation, Hint};

use super::{Live, UNAUTHORIZED};
use crate::restore::items::{Item, Shape, VIEWS, text, without};
use crate::restore::plan::Compared;
use crate::restore::read::{self, Summary};
use crate::restore::{Amount, Error};

/// Collections that one `dbHash` command may name; above, the whole database is asked for.
const MAX_NAMED_COLLECTIONS: usize = 1000;

/// What a comparison found, differences excepted: those are errors.
#[derive(Debug, Default)]
pub(in crate::restore) struct Outcome {
    /// Per database.
    pub compared: Vec<Compared>,
    /// What was not compared, and why.
    pub notes: Vec<String>,
}

impl Live {
    /// Compares the items of one database.
    pub async fn compare(
        &self,
        db: &str,
        items: &[(&Item, Summary)],
        outcome: &mut Outcome,
    ) -> Result<(), Error> {
        let stored: Vec<_> = items.iter().filter(|(item, _)| item.data.is_some()).collect();
        let hashes = self.hashes(db, &stored, outcome).await?;
        let mut compared = Compared { database: db.to_owned(), collections: 0, documents: 0 };
        for (item, summary) in stored {
            self.compare_count(item, summary).await?;
            let found = match (&hashes, hashed(item)) {
                (_, false) => Some(self.read_md5(item).await?),
                (Some(hashes), true) => {
                    Some(hashes.get(item.data_name()).map_or_else(|| "none".into(), Clone::clone))
                }
                (None, true) => None,
            };
            let (documents, bytes) = (summary.documents, summary.bytes);
            if let Some(found) = found {
                different(item, "md5", &found, &summary.md5_hex())?;
                compared.collections += 1;
                compared.documents += documents;
            }
            self.progress.advance(Amount { documents, bytes });
        }
        for (view, _) in items.iter().filter(|(item, _)| item.shape == Shape::View) {
            self.compare_view(view, outcome).await?;
        }
        match outcome.compared.iter_mut().find(|one| one.database == db) {
            Some(one) => {
                one.collections += compared.collections;
                one.documents += compared.documents;
            }
            None => outcome.compared.push(compared),
        }
        Ok(())
    }

    async fn hashes(
        &self,
        db: &str,
        stored: &[&(&Item, Summary)],
        outcome: &mut Outcome,
    ) -> Result<Option<HashMap<String, String>>, Error> {
        let stored: Vec<_> = stored.iter().filter(|(item, _)| hashed(item)).collect();
        if stored.is_empty() {
            return Ok(None);
        }
        let mut command = doc! { "dbHash": 1 };
        if stored.len() <= MAX_NAMED_COLLECTIONS {
            let names: Vec<&str> = stored.iter().map(|(item, _)| item.data_name()).collect();
            command.insert("collections", names);
        }
        let command = RawDocumentBuf::try_from(&command).expect("a document of names is valid");
        let reply = match self.run(db, "dbHash", command, db).await {
            Err(Error::Refused { code: UNAUTHORIZED, .. }) => {
                let why = "the user may not run dbHash there";
                outcome.notes.push(format!("{db}: only counted, {why}"));
                return Ok(None);
            }
            reply => reply?,
        };
        let hashes = reply.get_document("collections");
        let hashes = hashes.map_err(|_| self.lacks("dbHash", "collections"))?;
        let pair =
            |(name, hash): (&String, &bson::Bson)| Some((name.clone(), hash.as_str()?.to_owned()));
        Ok(Some(hashes.iter().filter_map(pair).collect()))
    }

    /// md5 over the documents, read in the order of the tree. The server sorts on disk what is too
    /// large to sort in memory.
    async fn read_md5(&self, item: &Item) -> Result<String, Error> {
        let failed = |why| self.failed("find", &item.ns, why);
        let documents = self.client.database(item.db());
        let documents = documents.collection::<RawDocumentBuf>(item.data_name());
        let find = documents.find(doc! {});
        let find = if item.shape == Shape::Capped {
            find.hint(Hint::Keys(doc! { "$natural": 1 }))
        } else {
            let simple = Collation::builder().locale("simple").build();
            find.sort(doc! { "_id": 1 }).collation(simple).allow_disk_use(true)
        };
        let mut cursor = find.await.map_err(failed)?;
        let mut md5 = Md5::new();
        while let Some(document) = cursor.try_next().await.map_err(failed)? {
            if self.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            md5.update(document.as_bytes());
        }
        Ok(read::hex(&md5.finalize().into()))
    }

    async fn compare_count(&self, item: &Item, summary: &Summary) -> Result<(), Error> {
        let command = rawdoc! { "count": item.data_name() };
        let reply = self.run(item.db(), "count", command, &item.ns).await?;
        let found = reply.get_i32("n").map(i64::from).or_else(|_| reply.get_i64("n"));
        let found = found.map_err(|_| self.lacks("count", "n"))?;
        different(item, "count", &found.to_string(), &summary.documents.to_string())?;
        different(item, "count", &found.to_string(), &item.documents().to_string())
    }

    async fn compare_view(&self, view: &Item, outcome: &mut Outcome) -> Result<(), Error> {
        let views = self.client.database(view.db()).collection::<RawDocumentBuf>(VIEWS);
        let found = match views.find_one(doc! { "_id": &view.ns }).await {
            Err(why) => match &*why.kind {
                ErrorKind::Command(refusal) if refusal.code == UNAUTHORIZED => {
                    let why = "the user may not read system.views there";
                    outcome.notes.push(format!("{}: not compared, {why}", view.ns));
                    return Ok(());
                }
                _ => return Err(self.failed("find", &view.ns, why)),
            },
            Ok(found) => found,
        };
        let found = found.map(|found| without(&view.ns, &found, &["_id"])).transpose()?;
        let shown = |document: &RawDocument| format!("{document:?}");
        let found = found.map_or_else(|| "none".to_owned(), |found| shown(&found));
        different(view, "definition", &found, &shown(&view.options))
    }

    /// Whether a user or role is there after a merge.
    pub(super) async fn has(&self, collection: &str, id: &str) -> Result<bool, Error> {
        let merged = self.client.database("admin").collection::<Document>(collection);
        let found = merged.find_one(doc! { "_id": id }).projection(doc! { "_id": 1 }).await;
        found.map(|found| found.is_some()).map_err(|why| self.failed("find", collection, why))
    }
}

/// Whether `dbHash` reads the collection in the order of our tree.
fn hashed(item: &Item) -> bool {
    let collation = item.options.get("collation").ok().flatten();
    let simple = collation
        .and_then(|collation| collation.as_document())
        .is_none_or(|collation| text(collation, "locale") == Some("simple"));
    simple && item.shape != Shape::Capped
}

fn different(item: &Item, what: &'static str, found: &str, expected: &str) -> Result<(), Error> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Different {
        ns: item.ns.clone(),
        what,
        found: found.to_owned(),
        expected: expected.to_owned(),
    })
}
