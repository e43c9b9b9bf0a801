//! What a dump and an archive have in common: a path that does not exist until it is whole.
//!
//! Everything is written under the path's name with [`PARTIAL`] added, synced, read back and compared, and
//! then renamed; so a path of the name asked for is a finished restore, whenever the program died. What a restore that failed or an
//! earlier run left under the partial name is removed. Each block is checked against its name when it is read for this: to read all of
//! them before would prove no more, since nothing of the target's is touched until all is written.

use std::fs::{self, File};
use std::io::{Read as _, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crc64fast::Digest;

use super::items::{Item, Selection, Shape};
use super::live::Done;
use super::plan::{Compared, TargetFacts};
use super::read;
use super::{Amount, Cancel, Error, Existing, Phase, Progress, Restore};
use crate::block::BlockRead;
use crate::head::Collection;

/// What is added to the name of a path that is being made.
const PARTIAL: &str = ".headstock-partial";
/// Bytes between two system calls, and between two looks at the request to stop.
pub(super) const BUFFER_BYTES: usize = 1 << 20;
/// Collections of `config` that mongodump keeps.
const DUMPED_CONFIG: [&str; 7] =
    ["chunks", "collections", "databases", "settings", "shards", "tags", "version"];

/// What is written into files.
pub(super) struct FileWork {
    /// Every namespace, those of the server included that mongodump writes.
    pub items: Vec<Item>,
    /// Where the documents are.
    pub blocks: Arc<dyn BlockRead>,
    /// Version of the server that was backed up.
    pub server_version: String,
    /// Hears how it goes.
    pub progress: Arc<dyn Progress>,
    /// Asked between documents.
    pub cancel: Cancel,
}

/// Writes everything under a path that does not exist, synced, and compares it.
pub(super) type Writer = fn(&FileWork, &Path) -> Result<Done, Error>;

/// Runs a writer under the partial name, then renames.
pub(super) async fn run(restore: &Restore, path: &Path, write: Writer) -> Result<Done, Error> {
    let work = FileWork {
        items: all_items(&restore.selection),
        blocks: restore.view.blocks.clone(),
        server_version: restore.view.base.server_version.clone(),
        progress: restore.progress.clone(),
        cancel: restore.cancel.clone(),
    };
    let path = path.to_path_buf();
    let writing = move || {
        let partial = begin(&path)?;
        let (documents, bytes) = (
            work.items.iter().map(Item::documents).sum(),
            work.items.iter().map(Item::bytes).sum(),
        );
        work.progress.begin(Phase::Load, Amount { documents, bytes });
        let written = write(&work, &partial);
        if written.is_err()
            && let Err(why) = clear(&partial)
        {
            tracing::warn!("what was written stays until the next attempt: {why}");
        }
        let done = written?;
        finish(&partial, &path)?;
        Ok(done)
    };
    tokio::task::spawn_blocking(writing).await.map_err(|_| Error::Worker)?
}

/// The items, and what of `admin` and `config` mongodump writes besides.
fn all_items(selection: &Selection) -> Vec<Item> {
    let plain = |collection: &Collection| Item {
        ns: collection.ns.clone(),
        shape: Shape::Plain,
        options: collection.options.clone(),
        data: Some(collection.clone()),
    };
    let config = selection.config.iter().filter(|collection| {
        let name = collection.ns.strip_prefix("config.");
        name.is_some_and(|name| DUMPED_CONFIG.contains(&name))
    });
    let system = [&selection.users, &selection.roles, &selection.version].into_iter().flatten();
    let mut items = selection.items.clone();
    items.extend(system.chain(config).map(plain));
    items.sort_by(|a, b| a.ns.cmp(&b.ns));
    items
}

/// Makes room for a path: its directory, and its partial name free.
pub(super) fn begin(path: &Path) -> Result<PathBuf, Error> {
    let parent = parent(path);
    fs::create_dir_all(&parent).map_err(Error::io("create", &parent))?;
    let partial = partial(path);
    clear(&partial)?;
    Ok(partial)
}

/// Removes what stands under a partial name.
fn clear(partial: &Path) -> Result<(), Error> {
    let removed = match fs::symlink_metadata(partial) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(partial),
        Ok(_) => fs::remove_file(partial),
        Err(_) => Ok(()),
    };
    removed.map_err(Error::io("remove", partial))
}

/// Gives what was made and synced its name.
pub(super) fn finish(partial: &Path, path: &Path) -> Result<(), Error> {
    fs::rename(partial, path).map_err(Error::io("rename to", path))?;
    sync_dir(&parent(path))
}

pub(super) fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(PARTIAL);
    PathBuf::from(name)
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// Makes the names in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(Error::io("sync", dir))
}

/// Refuses a directory that holds anything.
pub(super) fn check_free_dir(dir: &Path) -> Result<(), Error> {
    match fs::read_dir(dir).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::NotEmpty { path: dir.to_path_buf() }),
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(why) => Err(Error::io("look into", dir)(why)),
    }
}

/// Refuses a file that is there, unless it may be replaced.
pub(super) fn check_free_file(file: &Path, existing: Existing) -> Result<(), Error> {
    match fs::symlink_metadata(file) {
        Ok(found) if found.is_dir() || existing == Existing::Refuse => {
            Err(Error::NotEmpty { path: file.to_path_buf() })
        }
        _ => Ok(()),
    }
}

/// What is known of a path to be made.
pub(super) fn facts(kind: &str, scheme: &str, path: &Path) -> Result<TargetFacts, Error> {
    let mut there = std::path::absolute(path).map_err(Error::io("find", path))?;
    while !there.exists() && there.pop() {}
    let room = rustix::fs::statvfs(&there);
    let room = room.map_err(|errno| Error::io("ask for the room of", &there)(errno.into()))?;
    Ok(TargetFacts {
        name: format!("{scheme}{}", path.display()),
        kind: kind.to_owned(),
        version: None,
        fcv: None,
        free_bytes: Some(room.f_bavail.saturating_mul(room.f_frsize)),
    })
}

/// Length and checksum of what was written for a namespace: the CRC-64 that mongodump archives end each namespace with.
#[derive(Clone, Default)]
pub(super) struct Written {
    pub bytes: u64,
    crc: Digest,
}

impl Written {
    /// Takes further bytes in.
    pub fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.crc.write(bytes);
    }

    /// The checksum of what was taken in.
    pub fn crc(&self) -> u64 {
        self.crc.sum64()
    }
}

/// Writes the documents of an item, one after the other.
pub(super) fn write_documents(
    work: &FileWork,
    item: &Item,
    path: &Path,
    out: &mut dyn Write,
) -> Result<Written, Error> {
    let mut written = Written::default();
    let (mut pending, mut documents) = (Amount::default(), 0);
    let Some(data) = &item.data else { return Ok(written) };
    read::runs(&*work.blocks, data, &work.cancel, &mut |run| {
        out.write_all(run).map_err(Error::io("write", path))?;
        written.add(run);
        let count = read::for_each_document(&data.ns, run, &mut |_| Ok(()))?;
        documents += count;
        pending.documents += count;
        pending.bytes += run.len() as u64;
        if pending.bytes >= BUFFER_BYTES as u64 {
            work.progress.advance(std::mem::take(&mut pending));
        }
        Ok(())
    })?;
    work.progress.advance(pending);
    same(item, "count", documents, item.documents())?;
    same(item, "bytes", written.bytes, item.bytes())?;
    Ok(written)
}

/// Length and checksum of a file, read back.
pub(super) fn read_back(path: &Path, cancel: &Cancel) -> Result<Written, Error> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut read = Written::default();
    loop {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let length = file.read(&mut buffer).map_err(Error::io("read back", path))?;
        if length == 0 {
            return Ok(read);
        }
        read.add(&buffer[..length]);
    }
}

/// Fails if what was read back of an item is not what was written.
pub(super) fn compare(item: &Item, found: &Written, expected: &Written) -> Result<(), Error> {
    same(item, "bytes", found.bytes, expected.bytes)?;
    same(item, "checksum", found.crc(), expected.crc())
}

fn same(item: &Item, what: &'static str, found: u64, expected: u64) -> Result<(), Error> {
    if found == expected {
        return Ok(());
    }
    let (found, expected) = (found.to_string(), expected.to_string());
    Err(Error::Different { ns: item.ns.clone(), what, found, expected })
}

/// Counts an item that was compared.
pub(super) fn count(done: &mut Done, item: &Item) {
    done.documents += item.documents();
    done.bytes += item.bytes();
    let compared = &mut done.outcome.compared;
    // Items come in the order of their names, so a database's stand together.
    if compared.last().is_none_or(|last| last.database != item.db()) {
        let database = item.db().to_owned();
        compared.push(Compared { database, collections: 0, documents: 0 });
    }
    let last = compared.last_mut().expect("one was pushed above");
    last.collections += u64::from(item.data.is_some());
    last.documents += item.documents();
}
