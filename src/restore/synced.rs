//! A file that is brought to the disk while it is written, so that its sync at the end waits for little.
//!
//! Order: what was written before a sync that another thread does is on the disk when that ends; [`Synced::finish`] waits for
//! them, tells the first that failed (a later one would not), and syncs once more. Until then nothing is promised.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::thread::JoinHandle;

/// Bytes between two syncs: a tenth of a second of a fast disk, so that the last has no more left.
const STRIDE_BYTES: usize = 32 << 20;

/// See the head of this file.
pub(super) struct Synced {
    file: Arc<File>,
    /// Bytes written since a sync was asked for.
    behind: usize,
    ask: SyncSender<()>,
    /// None once it has told why it failed.
    syncing: Option<JoinHandle<io::Result<()>>>,
}

impl Synced {
    pub(super) fn new(file: File) -> io::Result<Self> {
        let file = Arc::new(file);
        let (ask, asked) = mpsc::sync_channel(1);
        let synced = Arc::clone(&file);
        let sync = move || asked.into_iter().try_for_each(|()| synced.sync_data());
        let syncing = Some(std::thread::Builder::new().name("syncer".to_owned()).spawn(sync)?);
        Ok(Self { file, behind: 0, ask, syncing })
    }

    /// Makes all durable.
    pub(super) fn finish(self) -> io::Result<()> {
        let Self { file, ask, mut syncing, .. } = self;
        drop(ask);
        ended(&mut syncing)?;
        file.sync_all()
    }
}

/// What the thread that syncs came to.
fn ended(syncing: &mut Option<JoinHandle<io::Result<()>>>) -> io::Result<()> {
    let joined = syncing.take().map(JoinHandle::join);
    let ended = joined.and_then(Result::ok);
    ended.unwrap_or_else(|| Err(io::Error::other("a sync failed before, or its thread panicked")))
}

impl Write for Synced {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = (&*self.file).write(bytes)?;
        self.behind += written;
        if self.behind >= STRIDE_BYTES {
            match self.ask.try_send(()) {
                Ok(()) => self.behind = 0,
                // One is under way and another waits: what was written now is that one's.
                Err(TrySendError::Full(())) => {}
                Err(TrySendError::Disconnected(())) => ended(&mut self.syncing)?,
            }
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        (&*self.file).flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_was_written_is_in_the_file_and_a_failed_sync_is_told() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("file");
        let mut synced = Synced::new(File::create_new(&path).expect("create")).expect("a thread");
        let piece: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
        (0..100).for_each(|_| synced.write_all(&piece).expect("write"));
        synced.finish().expect("synced");
        let found = std::fs::read(&path).expect("read");
        assert!(found.len() == 100 << 20 && found.chunks(1 << 20).all(|one| one == piece));
        // What cannot be synced at all.
        let (read, write) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let reading = std::thread::spawn(move || io::copy(&mut &read, &mut io::sink()));
        let socket = || File::from(std::os::fd::OwnedFd::from(write.try_clone().expect("clone")));
        let mut synced = Synced::new(socket()).expect("a thread");
        synced.write_all(b"to nowhere").expect("write");
        synced.finish().expect_err("a socket");
        // It is told while it is written, if that takes long.
        let mut synced = Synced::new(socket()).expect("a thread");
        let failed = (0..1000).try_for_each(|_| synced.write_all(&piece));
        failed.expect_err("a socket");
        drop((synced, write));
        reading.join().expect("read").expect("read");
    }
}
