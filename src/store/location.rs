//! Where a store is, and what opens it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Options, Secret};

/// A store's directory, and its key if it is encrypted.
#[derive(Debug, Clone)]
pub struct Location {
    /// The directory.
    pub dir: PathBuf,
    /// What opens it; a store that is created here is encrypted if there is one.
    pub secret: Option<Arc<Secret>>,
}

impl Location {
    /// How it is opened.
    #[must_use]
    pub fn options(&self) -> Options {
        Options { secret: self.secret.clone(), ..Options::default() }
    }
}

impl From<PathBuf> for Location {
    /// A store that is not encrypted.
    fn from(dir: PathBuf) -> Self {
        Self { dir, secret: None }
    }
}

impl From<&PathBuf> for Location {
    fn from(dir: &PathBuf) -> Self {
        Self::from(dir.clone())
    }
}

impl From<&Path> for Location {
    fn from(dir: &Path) -> Self {
        Self::from(dir.to_owned())
    }
}

impl From<&Location> for Location {
    fn from(location: &Location) -> Self {
        location.clone()
    }
}
