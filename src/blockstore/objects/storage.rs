//! Objects in a directory or a bucket, and what is asked of them (page 10, section 1).
//!
//! Nothing waits for ever, and a name that is created is created once, by whoever comes first.

use std::future::Future;
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt as _, PutMode, PutPayload};

use crate::blockstore::Error;

/// The longest time that an answer about a small object is waited for.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// The same of a pack: that takes as long at 28 KB/s.
const TRANSFER_LIMIT: Duration = Duration::from_secs(600);
/// Folders of large objects.
const LARGE: [&str; 2] = ["packs/", "checkpoints/"];
/// What stands behind the name of an object while it is written to a directory, before a number.
const STAGED: char = '#';
/// An object above this size is given the longer time.
const SMALL_BYTES: usize = 1 << 20;

/// Objects below a prefix. Cheap to clone; every clone is the same.
#[derive(Clone)]
pub(super) struct Storage {
    pub store: Arc<dyn ObjectStore>,
    /// The same, which sends nothing twice: a create that comes late must not be a copy of another.
    pub once: Arc<dyn ObjectStore>,
    /// Of a directory, which that is.
    pub root: Option<Root>,
    pub prefix: Path,
    /// What to call it; holds no secret.
    pub name: Arc<str>,
}

/// A directory as it was opened.
#[derive(Debug, Clone)]
pub(super) struct Root {
    pub path: PathBuf,
    /// Device and inode.
    pub identity: (u64, u64),
}

impl Storage {
    /// One for a test.
    #[cfg(test)]
    pub fn in_memory(store: Arc<dyn ObjectStore>) -> Self {
        let (once, prefix) = (store.clone(), Path::default());
        Self { store, once, root: None, prefix, name: "memory".into() }
    }

    fn at(&self, name: &str) -> Path {
        name.split('/').fold(self.prefix.clone(), |path, part| path.join(part))
    }

    async fn within<T>(
        &self,
        limit: Duration,
        what: &'static str,
        asked: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(limit, asked).await {
            Ok(answer) => answer.map_err(|source| self.error(what, source)),
            Err(_) => Err(Error::TimedOut {
                blockstore: self.name.to_string(),
                command: what,
                seconds: limit.as_secs(),
            }),
        }
    }

    fn error(&self, what: &'static str, source: object_store::Error) -> Error {
        Error::Objects { blockstore: self.name.to_string(), what, source: Box::new(source) }
    }

    /// Creates an object: false if there is one of that name.
    pub async fn create(&self, name: &str, bytes: Bytes) -> Result<bool, Error> {
        let limit = if bytes.len() > SMALL_BYTES { TRANSFER_LIMIT } else { COMMAND_LIMIT };
        self.check_root().await?;
        let path = self.at(name);
        let put = self.once.put_opts(&path, PutPayload::from(bytes), PutMode::Create.into());
        match self.within(limit, "create", put).await {
            Ok(_) => Ok(true),
            Err(Error::Objects { source, .. })
                if matches!(*source, object_store::Error::AlreadyExists { .. }) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether a directory is the one that was opened: a share may have been taken away, and a path made anew below it.
    async fn check_root(&self) -> Result<(), Error> {
        let Some(root) = &self.root else { return Ok(()) };
        let now = tokio::fs::metadata(&root.path).await.map(|facts| (facts.dev(), facts.ino()));
        match now {
            Ok(now) if now == root.identity => Ok(()),
            _ => Err(Error::DirectoryGone { blockstore: self.name.to_string() }),
        }
    }

    /// Writes an object over one that may be there.
    pub async fn put(&self, name: &str, bytes: Bytes) -> Result<(), Error> {
        self.check_root().await?;
        let path = self.at(name);
        let put = self.store.put(&path, PutPayload::from(bytes));
        self.within(COMMAND_LIMIT, "put", put).await.map(drop)
    }

    /// An object, if it is there.
    pub async fn get(&self, name: &str) -> Result<Option<Bytes>, Error> {
        self.get_some(name, None).await
    }

    /// A part of an object.
    pub async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Option<Bytes>, Error> {
        self.get_some(name, Some(GetRange::Bounded(range))).await
    }

    /// The last bytes of an object, at most so many.
    pub async fn get_end(&self, name: &str, bytes: u64) -> Result<Option<Bytes>, Error> {
        self.get_some(name, Some(GetRange::Suffix(bytes))).await
    }

    async fn get_some(&self, name: &str, range: Option<GetRange>) -> Result<Option<Bytes>, Error> {
        let path = self.at(name);
        let options = GetOptions { range, ..GetOptions::default() };
        let begin = match &options.range {
            Some(GetRange::Bounded(range)) => range.start,
            _ => 0,
        };
        let is_large = LARGE.iter().any(|folder| name.starts_with(folder));
        let limit = if is_large { TRANSFER_LIMIT } else { COMMAND_LIMIT };
        let get = async { self.store.get_opts(&path, options).await?.bytes().await };
        match self.within(limit, "get", get).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if is_not_there(&error) => Ok(None),
            Err(error) if begin > 0 => {
                // Storages differ in what they say of a part that is beyond the end of a cut object.
                let head = self.within(COMMAND_LIMIT, "head", self.store.head(&path)).await;
                if head.is_ok_and(|head| head.size <= begin) { Ok(None) } else { Err(error) }
            }
            Err(error) => Err(error),
        }
    }

    /// Deletes an object, if it is there.
    pub async fn delete(&self, name: &str) -> Result<(), Error> {
        let path = self.at(name);
        match self.within(COMMAND_LIMIT, "delete", self.store.delete(&path)).await {
            Err(error) if !is_not_there(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Deletes an object of a folder, so that no crash of the storage brings it back without those that are deleted later.
    pub async fn delete_in_order(&self, folder: &str, name: &str) -> Result<(), Error> {
        self.delete(&format!("{folder}/{name}")).await?;
        let Some(root) = &self.root else { return Ok(()) };
        let dir = root.path.join(folder);
        let sync = async {
            let file = tokio::fs::File::open(&dir).await?;
            file.sync_all().await
        };
        let failed = |source: std::io::Error| object_store::Error::Generic {
            store: "directory",
            source: Box::new(source),
        };
        self.within(COMMAND_LIMIT, "sync", async { sync.await.map_err(failed) }).await
    }

    /// Files of a folder that writers of a directory left when they were killed, by the name of the object that they were to be: a list
    /// does not show them.
    pub async fn unfinished(&self, folder: &str) -> Result<Vec<(String, PathBuf)>, Error> {
        let Some(root) = &self.root else { return Ok(Vec::new()) };
        let dir = root.path.join(folder);
        let read = async {
            let mut found = Vec::new();
            let mut entries = tokio::fs::read_dir(&dir).await?;
            while let Some(entry) = entries.next_entry().await? {
                let name = entry.file_name().to_string_lossy().into_owned();
                if let Some((object, _)) = name.split_once(STAGED) {
                    found.push((object.to_owned(), entry.path()));
                }
            }
            Ok::<_, std::io::Error>(found)
        };
        match tokio::time::timeout(COMMAND_LIMIT, read).await {
            Ok(Ok(found)) => Ok(found),
            // Nothing was written there yet; what else is wrong with it others tell.
            Ok(Err(_)) | Err(_) => Ok(Vec::new()),
        }
    }

    /// The names of the objects in a folder, in order: the last part of each.
    pub async fn list(&self, folder: &str) -> Result<Vec<String>, Error> {
        let path = self.at(folder);
        let listing = self.store.list(Some(&path)).try_collect::<Vec<_>>();
        let found = self.within(TRANSFER_LIMIT, "list", listing).await?;
        let name = |path: &Path| path.filename().map(str::to_owned);
        let mut found: Vec<String> = found.iter().filter_map(|one| name(&one.location)).collect();
        found.sort_unstable();
        Ok(found)
    }
}

fn is_not_there(error: &Error) -> bool {
    matches!(error, Error::Objects { source, .. }
        if matches!(**source, object_store::Error::NotFound { .. }))
}
