//! Makes and removes collections, views and indexes at a live target.

use bson::raw::{CStr, cstr};
use bson::{Document, RawArrayBuf, RawDocument, RawDocumentBuf, rawdoc};

use super::{Live, NAMESPACE_NOT_FOUND, capped};
use crate::restore::Error;
use crate::restore::items::{Item, SCRIPTS, Shape, is_id_index, without};

/// The field by which documents are deleted by age, of an index or of a collection.
const TTL: &str = "expireAfterSeconds";
/// The server's code for a namespace that is there already.
const NAMESPACE_EXISTS: i32 = 48;

impl Live {
    /// Drops a collection or view, if it is there. `system.js` cannot be dropped and is emptied.
    pub async fn drop_namespace(&self, db: &str, name: &str) -> Result<(), Error> {
        let ns = format!("{db}.{name}");
        if name == SCRIPTS {
            let command = rawdoc! { "delete": name, "deletes": [{ "q": {}, "limit": 0 }] };
            let reply = self.run(db, "delete", command, &ns).await?;
            return self.check_reply("delete", &ns, &reply);
        }
        match self.run(db, "drop", rawdoc! { "drop": name }, &ns).await {
            Err(Error::Refused { code: NAMESPACE_NOT_FOUND, .. }) => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    /// Creates an empty collection, a time series with its view, or a view, with the options of the
    /// backup. Whatever lets the server delete documents by age waits for [`Live::let_expire`].
    pub async fn create(&self, item: &Item) -> Result<(), Error> {
        let mut command = rawdoc! { "create": item.name() };
        let options = without(&item.ns, &item.options, &[TTL, "uuid"])?;
        let options = capped::roomy(item, options)?;
        extend(&item.ns, &mut command, &options)?;
        let id_index = item.indexes().find(|spec| is_id_index(spec));
        if let (Shape::Plain | Shape::Capped, Some(spec)) = (item.shape, id_index) {
            command.append(cstr!("idIndex"), without(&item.ns, spec, &["ns"])?);
        }
        match self.run(item.db(), "create", command, &item.ns).await {
            Err(Error::Refused { code: NAMESPACE_EXISTS, .. }) if item.is_scripts() => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    /// Gives a collection another name in its database, which nothing has.
    pub async fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        let command = rawdoc! { "renameCollection": from, "to": to };
        self.run("admin", "renameCollection", command, from).await.map(drop)
    }

    /// Sets options of a collection that is there.
    pub async fn set_options(&self, item: &Item, options: &RawDocument) -> Result<(), Error> {
        if options.is_empty() {
            return Ok(());
        }
        let mut command = rawdoc! { "collMod": item.name() };
        extend(&item.ns, &mut command, options)?;
        self.run(item.db(), "collMod", command, &item.ns).await.map(drop)
    }

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
        let specs: Vec<&RawDocument> =
            item.secondary_indexes().filter(|spec| !expires(spec)).collect();
        self.create_indexes(item, &specs).await
    }

    /// Builds TTL indexes and sets the age limits of time series and clustered collections.
    /// Returns how many indexes it built; none means that nothing of the item expires.
    pub async fn let_expire(&self, item: &Item) -> Result<Option<u64>, Error> {
        let specs: Vec<&RawDocument> =
            item.secondary_indexes().filter(|spec| expires(spec)).collect();
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

    /// Builds indexes of an item. Returns how many.
    pub async fn create_indexes(&self, item: &Item, specs: &[&RawDocument]) -> Result<u64, Error> {
        if specs.is_empty() {
            return Ok(0);
        }
        let mut indexes = RawArrayBuf::new();
        for spec in specs {
            indexes.push(without(&item.ns, spec, &["ns"])?);
        }
        let mut command = rawdoc! { "createIndexes": item.data_name(), "indexes": indexes };
        if self.replica_set.is_some() {
            // The default waits for every voting member, for ever if one is down.
            command.append(cstr!("commitQuorum"), 1);
        }
        command.append(cstr!("writeConcern"), rawdoc! { "w": 1 });
        self.run(item.db(), "createIndexes", command, &item.ns).await?;
        Ok(specs.len() as u64)
    }

    /// Turns what a write command reports inside an `ok` reply into an error.
    pub(super) fn check_reply(
        &self,
        command: &'static str,
        ns: &str,
        reply: &Document,
    ) -> Result<(), Error> {
        let first = reply.get_array("writeErrors").ok().and_then(|errors| errors.first());
        let first = first.and_then(|error| error.as_document());
        let Some(refusal) = first.or_else(|| reply.get_document("writeConcernError").ok()) else {
            return Ok(());
        };
        Err(self.refused(command, ns, refusal))
    }

    /// The error of a `writeErrors` entry or a `writeConcernError`.
    pub(super) fn refused(&self, command: &'static str, ns: &str, refusal: &Document) -> Error {
        Error::Refused {
            target: self.name.clone(),
            command,
            ns: ns.to_owned(),
            code: refusal.get_i32("code").unwrap_or_default(),
            message: refusal.get_str("errmsg").unwrap_or("no reason given").to_owned(),
        }
    }
}

/// Whether an index lets the server delete documents by age.
pub(in crate::restore) fn expires(spec: &RawDocument) -> bool {
    matches!(spec.get(TTL), Ok(Some(_)))
}

fn extend(ns: &str, command: &mut RawDocumentBuf, options: &RawDocument) -> Result<(), Error> {
    for element in options.iter() {
        let (name, value): (&CStr, _) = element.map_err(|why| Error::Malformed {
            ns: ns.to_owned(),
            what: "an option",
            source: Some(Box::new(why)),
        })?;
        command.append(name, value);
    }
    Ok(())
}
