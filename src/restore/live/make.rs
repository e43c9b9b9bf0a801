//! Makes and removes collections and views at a live target.

use bson::raw::{CStr, cstr};
use bson::{Document, RawDocument, RawDocumentBuf, rawdoc};

use super::indexes::TTL;
use super::{Live, NAMESPACE_NOT_FOUND, capped};
use crate::restore::Error;
use crate::restore::items::{Item, SCRIPTS, Shape, is_id_index, without};

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
