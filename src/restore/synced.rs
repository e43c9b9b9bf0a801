//! A file that is brought to the disk while it is written, so that its sync at the end waits for little.
//!
//! Order: what was written before a sync that another thread does is on the disk when that ends; [`Synced::finish`] waits for
//! them, tells the first that failed (a later one would not), and syncs once more. Until then nothing is promised.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender};
use std::thread::JoinHandle;

/// Bytes between two syncs: a tenth of a second of a fast disk, so that the last has no more left.
const STRIDE_BYTES: usize = 32 << 20;

/// See the head of this file.
pub(super) struct Synced {
    file: Arc<File>,
    /// Bytes written since a sync was asked for.
    behind: usize,
    ask: SyncSender<()>,
    syncing: JoinHandle<io::Result<()>>,
}

impl Synced {
    pub(super) fn new(file: File) -> Self {
        let file = Arc::new(file);
        let (ask, asked) = mpsc::sync_channel(1);
        let synced = Arc::clone(&file);
        let syncing =
            std::thread::spawn(move || asked.into_iter().try_for_each(|()| synced.sync_data()));
        Self { file, behind: 0, ask, syncing }
    }

    /// Makes all durable.
    pub(super) fn finish(self) -> io::Result<()> {
        let Self { file, ask, syncing, .. } = self;
        drop(ask);
        syncing.join().map_err(|_| io::Error::other("the thread that syncs has panicked"))??;
        file.sync_all()
    }
}

impl Write for Synced {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = (&*self.file).write(bytes)?;
        self.behind += written;
        // Where one is still under way and another waits, what is written now is that one's.
        if self.behind >= STRIDE_BYTES && self.ask.try_send(()).is_ok() {
            self.behind = 0;
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
        let mut synced = Synced::new(File::create_new(&path).expect("create"));
        let piece: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
        (0..100).for_each(|_| synced.write_all(&piece).expect("write"));
        synced.finish().expect("synced");
        let found = std::fs::read(&path).expect("read");
        assert!(found.len() == 100 << 20 && found.chunks(1 << 20).all(|one| one == piece));
        // What cannot be synced at all.
        let (read, write) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let mut synced = Synced::new(File::from(std::os::fd::OwnedFd::from(write)));
        synced.write_all(b"to nowhere").expect("write");
        synced.finish().expect_err("a socket");
        drop(read);
    }
}
