//! A directory as mongodump writes it.
//!
//! `DB/COLLECTION.bson` holds the documents one after the other, `DB/COLLECTION.metadata.json` the options and
//! indexes; a time series has its documents in `system.buckets.NAME.bson`, a view has none. `prelude.json` names
//! the version of the server. Every file is synced, then read back and compared, then the directory is named
//! (see [`super::files`]).

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;

use super::files::{self, BUFFER_BYTES, FileWork};
use super::items::Item;
use super::live::Done;
use super::synced::Synced;
use super::{Amount, Error, Phase, extjson, metadata};
use crate::store::sync::on_cores;

/// Writes the directory.
pub(super) fn restore(work: &FileWork, dir: &Path) -> Result<Done, Error> {
    fs::create_dir(dir).map_err(Error::io("create", dir))?;
    let mut written = Vec::with_capacity(work.items.len());
    for item in &work.items {
        let db = dir.join(item.db());
        fs::create_dir_all(&db).map_err(Error::io("create", &db))?;
        let path = db.join(format!("{}.metadata.json", metadata::file_name(item.name())));
        whole(&path, metadata::json(item)?.as_bytes())?;
        if item.data.is_some() {
            let path = db.join(format!("{}.bson", metadata::file_name(item.data_name())));
            let file = File::create_new(&path).map_err(Error::io("create", &path))?;
            let synced = Synced::new(file).map_err(Error::io("sync", &path))?;
            let mut out = BufWriter::with_capacity(BUFFER_BYTES, synced);
            let sum = files::write_documents(work, item, &path, &mut out)?;
            let file = out.into_inner().map_err(|why| why.into_error());
            file.and_then(Synced::finish).map_err(Error::io("sync", &path))?;
            written.push((item, path, sum));
        }
        files::sync_dir(&db)?;
    }
    whole(&dir.join("prelude.json"), prelude(work).as_bytes())?;
    files::sync_dir(dir)?;
    let mut done = Done::default();
    let bytes = work.items.iter().map(Item::bytes).sum();
    work.progress.begin(Phase::Compare, Amount { documents: 0, bytes });
    let compared = on_cores(&written, |(item, path, sum)| {
        files::compare(item, &files::read_back(path, &work.cancel)?, sum)?;
        work.progress.advance(Amount { documents: 0, bytes: sum.bytes });
        Ok(())
    });
    compared.into_iter().collect::<Result<(), Error>>()?;
    written.iter().for_each(|(item, _, _)| files::count(&mut done, item));
    Ok(done)
}

fn prelude(work: &FileWork) -> String {
    let mut text = String::from("{\"ServerVersion\":");
    extjson::string(&mut text, &work.server_version);
    text.push_str(",\"ToolVersion\":");
    extjson::string(&mut text, concat!("headstock ", env!("CARGO_PKG_VERSION")));
    text.push('}');
    text
}

fn whole(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut file = File::create_new(path).map_err(Error::io("create", path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(Error::io("write", path))
}
