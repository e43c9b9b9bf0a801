//! The names of the simulated disk: which are durable, and what was done to them since.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::Survives;
use super::node::NodeId;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    File(NodeId),
    Directory,
}

type Names = BTreeMap<PathBuf, Target>;

/// All names.
#[derive(Debug, Clone, Default)]
pub(super) struct Entries {
    durable: Names,
    current: Names,
    unsynced: Vec<Unsynced>,
}

/// What was done since the last sync of the directory.
#[derive(Debug, Clone)]
struct Unsynced {
    number: u64,
    change: Change,
}

#[derive(Debug, Clone)]
enum Change {
    Put(PathBuf, Target),
    Rename(PathBuf, PathBuf, Target),
    Remove(PathBuf),
}

impl Entries {
    pub fn all(&self) -> impl Iterator<Item = (&PathBuf, Target)> {
        self.current.iter().map(|(path, target)| (path, *target))
    }

    /// Files that have a name.
    pub fn files(&self) -> impl Iterator<Item = NodeId> {
        self.current.values().filter_map(|target| match target {
            Target::File(id) => Some(*id),
            Target::Directory => None,
        })
    }

    pub fn is_there(&self, path: &Path) -> bool {
        self.current.contains_key(path)
    }

    pub fn file(&self, path: &Path) -> Result<NodeId, ErrorKind> {
        match self.current.get(path) {
            Some(Target::File(id)) => Ok(*id),
            Some(Target::Directory) => Err(ErrorKind::IsADirectory),
            None => Err(ErrorKind::NotFound),
        }
    }

    /// Names directly in a directory.
    pub fn list(&self, directory: &Path) -> Result<Vec<String>, ErrorKind> {
        if !self.is_there(directory) {
            return Err(ErrorKind::NotFound);
        }
        let inside = self.current.keys().filter(|path| path.parent() == Some(directory));
        let names = inside.filter_map(|path| path.file_name());
        Ok(names.map(|name| name.to_string_lossy().into_owned()).collect())
    }

    /// Everything under a path, what contains before what is contained.
    pub fn inside(&self, path: &Path) -> Result<Vec<PathBuf>, ErrorKind> {
        if !self.is_there(path) {
            return Err(ErrorKind::NotFound);
        }
        let inside = |one: &&PathBuf| one.starts_with(path) && *one != path;
        Ok(self.current.keys().filter(inside).cloned().collect())
    }

    pub fn create(&mut self, path: &Path, target: Target, number: u64) -> Result<(), ErrorKind> {
        if self.is_there(path) {
            return Err(ErrorKind::AlreadyExists);
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        if parent.is_some_and(|parent| self.current.get(parent) != Some(&Target::Directory)) {
            return Err(ErrorKind::NotFound);
        }
        self.push(Change::Put(path.to_owned(), target), number);
        Ok(())
    }

    pub fn rename(&mut self, from: &Path, to: &Path, number: u64) -> Result<(), ErrorKind> {
        let target = *self.current.get(from).ok_or(ErrorKind::NotFound)?;
        self.push(Change::Rename(from.to_owned(), to.to_owned(), target), number);
        Ok(())
    }

    pub fn remove(&mut self, path: &Path, number: u64) -> Result<(), ErrorKind> {
        if !self.inside(path)?.is_empty() {
            return Err(ErrorKind::DirectoryNotEmpty);
        }
        self.push(Change::Remove(path.to_owned()), number);
        Ok(())
    }

    fn push(&mut self, change: Change, number: u64) {
        change.apply(&mut self.current);
        self.unsynced.push(Unsynced { number, change });
    }

    pub fn sync(&mut self, directory: &Path) {
        let synced = |one: &mut Unsynced| one.change.is_in(directory);
        for one in self.unsynced.extract_if(.., synced) {
            one.change.apply(&mut self.durable);
        }
    }

    pub fn unsynced(&self) -> impl Iterator<Item = (u64, Option<usize>)> {
        self.unsynced.iter().map(|one| (one.number, None))
    }

    pub fn after_a_cut(&self, fate: impl Fn(u64) -> Survives) -> Self {
        let mut names = self.durable.clone();
        for one in &self.unsynced {
            if matches!(fate(one.number), Survives::Whole | Survives::AllBut(_)) {
                one.change.apply(&mut names);
            }
        }
        // What lies in a directory that did not survive is out of reach.
        let there = names.clone();
        names.retain(|path, _| {
            let mut parents = path.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty());
            parents.all(|parent| there.get(parent) == Some(&Target::Directory))
        });
        Self { durable: names.clone(), current: names, unsynced: Vec::new() }
    }

    pub fn put_durable(&mut self, path: &Path, target: Target) {
        self.durable.insert(path.to_owned(), target);
        self.current.insert(path.to_owned(), target);
    }

    pub fn remove_durable(&mut self, path: &Path) {
        self.durable.remove(path);
        self.current.remove(path);
    }
}

impl Change {
    fn is_in(&self, directory: &Path) -> bool {
        let (Self::Put(path, _) | Self::Rename(_, path, _) | Self::Remove(path)) = self;
        path.parent() == Some(directory)
    }

    fn apply(&self, names: &mut Names) {
        match self {
            Self::Put(path, target) => _ = names.insert(path.clone(), *target),
            Self::Rename(from, to, target) => {
                names.remove(from);
                names.insert(to.clone(), *target);
            }
            Self::Remove(path) => _ = names.remove(path),
        }
    }
}
