//! The control socket's address: `control.sock` in the store's directory, at any path length.
//!
//! The address of a Unix socket holds about a hundred bytes, a path to a store may be longer. So the
//! directory is opened, and the socket addressed through the process's own list of open files. The
//! file is in no way part of the store: it is removed when a daemon starts and ends, and a left-over
//! one refuses connections.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

use super::Error;

/// Name of the socket in the store's directory.
const NAME: &str = "control.sock";

/// A listening control socket, removed when dropped.
pub struct Listening {
    pub listener: UnixListener,
    path: PathBuf,
}

/// The socket of a store.
pub fn path(store: &Path) -> PathBuf {
    store.join(NAME)
}

/// Makes the socket. Only whoever holds the store's lock may do this: what is there is left over.
pub fn bind(store: &Path) -> Result<Listening, Error> {
    let path = path(store);
    let bound = remove(&path).and_then(|()| {
        let dir = File::open(store)?;
        UnixListener::bind(through(&dir))
    });
    match bound {
        Ok(listener) => Ok(Listening { listener, path }),
        Err(source) => Err(Error::Bind { path, source }),
    }
}

/// Connects to the daemon of a store; none if no daemon listens.
pub async fn connect(store: &Path) -> Result<Option<UnixStream>, Error> {
    let path = path(store);
    let connected = match File::open(store) {
        Ok(dir) => UnixStream::connect(through(&dir)).await,
        Err(source) => Err(source),
    };
    match connected {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(source) => Err(Error::Talk { path, source }),
    }
}

fn is_absent(error: &io::Error) -> bool {
    // A path through a file is no store either; who opens the store will say so.
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::ConnectionRefused
    )
}

fn through(dir: &File) -> PathBuf {
    Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(NAME)
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}
