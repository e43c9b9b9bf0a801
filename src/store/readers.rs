//! The registry of readers: `readers/<pid>-<n>`, each under flock by a living reader.
//!
//! A reader locks a file under a temporary name, writes the newest commit into it, renames it to its
//! final name, and then reads the log again: the commit found now is the one it reads. The writer
//! drops segments by a commit first, lists the readers afterwards, and keeps what was dropped after
//! the commit of any reader. So either the writer sees the registration, whose commit is no later
//! than the reader's, or the reader sees the drop. A file whose lock is free belongs to a reader that
//! is gone, and the writer removes it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::fs::{Access, Disk, File};
use super::layout::u64_at;
use super::log::LogFiles;
use super::record::Commit;
use super::{CommitSeq, Error, sync};

/// How often a reader tries to read a log whose files the writer keeps replacing.
const MAX_ATTEMPTS: u32 = 64;
/// Between two attempts: a writer replaces a log file in less.
const PAUSE: Duration = Duration::from_millis(1);

static NEXT_NAME: AtomicU32 = AtomicU32::new(0);

/// Where readers of a store register.
pub(super) fn directory(store_dir: &Path) -> PathBuf {
    store_dir.join("readers")
}

/// A reader's place in the registry; removed when dropped.
#[derive(Debug)]
pub(super) struct Registration {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    _lock: Arc<dyn File>,
}

impl Registration {
    /// Its name in the registry.
    pub(super) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// A living reader.
#[derive(Debug, Clone)]
pub(super) struct Living {
    /// Its name in the registry.
    pub(super) name: String,
    /// The commit it reads.
    pub(super) commit: CommitSeq,
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Err(error) = self.disk.remove(&self.path) {
            tracing::debug!(%error, "a reader's registration is left to the writer to remove");
        }
    }
}

/// The scratch directory of a reader, gone with this value. What a crash leaves, the next writer
/// removes.
pub(super) struct Scratch {
    pub disk: Arc<dyn Disk>,
    pub path: PathBuf,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = self.disk.remove_tree(&self.path) {
            tracing::debug!(%error, "a reader's scratch directory is left to the writer to remove");
        }
    }
}

/// Registers a reader of the newest commit.
pub(super) fn register(
    disk: &Arc<dyn Disk>,
    store_dir: &Path,
    log: &LogFiles,
) -> Result<(Registration, Commit), Error> {
    let mut last = None;
    for _ in 0..MAX_ATTEMPTS {
        let attempt = newest(log).and_then(|commit| {
            let Some(registration) = enter(disk, store_dir, commit.seq)? else { return Ok(None) };
            Ok(Some((registration, newest(log)?)))
        });
        match attempt {
            Ok(Some(registered)) => return Ok(registered),
            Ok(None) => {}
            // The writer may have replaced a log file, or be half through a record.
            Err(error) => last = Some(error),
        }
        sync::sleep(PAUSE);
    }
    Err(last.unwrap_or(Error::Contended { attempts: MAX_ATTEMPTS }))
}

fn newest(log: &LogFiles) -> Result<Commit, Error> {
    Ok(log.read()?.newest)
}

/// Enters the registry, or returns `None` if the writer took the new file for a stale one.
fn enter(
    disk: &Arc<dyn Disk>,
    store_dir: &Path,
    seq: CommitSeq,
) -> Result<Option<Registration>, Error> {
    let number = NEXT_NAME.fetch_add(1, Ordering::Relaxed);
    let name = format!("{}-{number}-{:08x}", std::process::id(), rand::random::<u32>());
    let path = directory(store_dir).join(&name);
    let temporary = directory(store_dir).join(format!("{name}.new"));
    let file = disk.create(&temporary)?;
    if !file.try_lock()? {
        return Ok(None);
    }
    file.write_at(0, &seq.0.to_le_bytes())?;
    match disk.rename(&temporary, &path) {
        Ok(()) => Ok(Some(Registration { disk: Arc::clone(disk), path, _lock: file })),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The living readers. Registrations of readers that are gone are removed.
pub(super) fn living(disk: &dyn Disk, store_dir: &Path) -> Result<Vec<Living>, Error> {
    let dir = directory(store_dir);
    let mut living = Vec::new();
    for name in disk.list(&dir)? {
        let path = dir.join(&name);
        let file = match disk.open(&path, Access::Read) {
            Err(error) if error.is_not_found() => continue,
            other => other?,
        };
        if file.try_lock()? {
            match disk.remove(&path) {
                Err(error) if !error.is_not_found() => return Err(error.into()),
                _ => {}
            }
        } else if !name.ends_with(".new") {
            let mut seq = [0; 8];
            file.read_at(0, &mut seq)?;
            living.push(Living { name, commit: CommitSeq(u64_at(&seq, 0)) });
        }
    }
    Ok(living)
}
