//! A file system in memory that keeps apart what is durable and what was only written.
//!
//! What survives a power cut is what `format-spec/00-assumptions.md` promises and nothing more: bytes
//! and lengths after a sync of the file, entries after a sync of their directory. Of the rest any part
//! may survive, in any order, torn anywhere; [`SimDisk::unsynced`] counts the operations it consists of and
//! [`SimDisk::restarted`] gives the disk after a cut that some of them survived. After a failed sync of a file
//! the bytes that it was to make durable never become so, whatever later syncs say, and are yet what is
//! read until the cut; lengths and entries are made durable by a later sync.
//!
//! Operations that change something are counted; the power can be cut after any of them, and any kind
//! can be made to fail.

mod entries;
mod node;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use entries::{Entries, Target};
use node::{Bytes, Node, NodeId};

use crate::store::Map;
use crate::store::fs::{Access, Disk, File, FsError, Operation};
use crate::store::sync::{Mutex, MutexGuard};

/// What of one un-synced operation survives a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survives {
    /// Nothing of it.
    Nothing,
    /// All of it.
    Whole,
    /// Of a write the first bytes; of anything else nothing.
    First(usize),
    /// Of a write all but the first bytes; anything else whole.
    AllBut(usize),
}

/// Bytes of a sector.
const SECTOR_BYTES: u64 = 512;

/// A kind of operation that fails.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// Which.
    pub operation: Operation,
    /// How many of them succeed before.
    pub after: u64,
    /// How many of them fail then.
    pub times: u64,
    /// How they fail.
    pub kind: ErrorKind,
}

/// A file system in memory. Every clone is the same one.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    nodes: BTreeMap<NodeId, Node>,
    entries: Entries,
    /// Number of the next file, and of the next un-synced operation.
    next: u64,
    /// Operations that changed something.
    done: u64,
    /// After so many, the power is gone.
    cut_after: Option<u64>,
    faults: Vec<Fault>,
    /// Operations that failed by a fault.
    failed: u64,
    /// Sectors of files that cannot be read any more.
    bad: BTreeSet<(PathBuf, u64)>,
    /// Bytes that all files may have; without bound if none.
    capacity: Option<u64>,
    /// Bytes that were read.
    read: u64,
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimDisk({} operations)", self.operations())
    }
}

impl SimDisk {
    /// A disk with a directory and nothing else.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        let mut state = State::default();
        root.ancestors().for_each(|path| state.entries.put_durable(path, Target::Directory));
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Operations that changed something so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state().done
    }

    /// Cuts the power after so many operations that change something: all others fail.
    pub fn cut_after(&self, operations: u64) {
        self.state().cut_after = Some(operations);
    }

    /// Makes operations fail from now on, in place of what was to fail before.
    pub fn fail(&self, faults: &[Fault]) {
        self.state().faults = faults.to_vec();
    }

    /// Bytes that were read so far.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.state().read
    }

    /// Bytes of all files.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.state().used()
    }

    /// Lets files have so many bytes in all from now on; without bound if none.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// Has a sector of a file be bad from now on, that of an offset in bytes: what needs it cannot be read.
    pub fn spoil(&self, path: &Path, offset: u64) {
        self.state().bad.insert((path.to_owned(), offset / SECTOR_BYTES));
    }

    /// Operations that failed by a fault so far.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.state().failed
    }

    /// Lengths of the un-synced operations in their order: bytes of a write, none of anything else.
    #[must_use]
    pub fn unsynced(&self) -> Vec<Option<usize>> {
        self.state().unsynced().into_iter().map(|(_, bytes)| bytes).collect()
    }

    /// The disk after a power cut now, of whose un-synced operations `survives` tells, by their place in
    /// [`SimDisk::unsynced`], what survives. This one stays as it is.
    #[must_use]
    pub fn restarted(&self, mut survives: impl FnMut(usize) -> Survives) -> Self {
        let state = self.state();
        let unsynced = state.unsynced().into_iter().enumerate();
        let fates: BTreeMap<u64, Survives> =
            unsynced.map(|(at, (number, _))| (number, survives(at))).collect();
        let fate = |number: u64| fates.get(&number).copied().unwrap_or(Survives::Nothing);
        let entries = state.entries.after_a_cut(fate);
        let named = |id: &NodeId| entries.files().any(|file| file == *id);
        let kept = state.nodes.iter().filter(|(id, _)| named(id));
        let nodes = kept.map(|(id, node)| (*id, node.after_a_cut(fate))).collect();
        let next = state.next;
        let restarted = State { nodes, entries, next, ..State::default() };
        Self { state: Arc::new(Mutex::new(restarted)) }
    }

    /// Paths and contents of all files.
    #[must_use]
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let state = self.state();
        let files = state.entries.all().filter_map(|(path, target)| match target {
            Target::File(id) => Some((path.clone(), state.nodes[&id].content().to_vec())),
            Target::Directory => None,
        });
        files.collect()
    }

    /// Puts a file there, durably, or takes one away: damage.
    pub fn put_file(&self, path: &Path, content: Option<Vec<u8>>) {
        let mut state = self.state();
        match content {
            Some(content) => {
                let id = state.new_node(Node::durable(Bytes::of(content)));
                state.entries.put_durable(path, Target::File(id));
            }
            None => state.entries.remove_durable(path),
        }
    }

    fn is_off(&self) -> bool {
        let state = self.state();
        state.cut_after.is_some_and(|cut| state.done >= cut)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics with the disk locked")
    }

    /// A changing operation, if power and faults allow it.
    fn change<T>(
        &self,
        operation: Operation,
        path: &Path,
        change: impl FnOnce(&mut State) -> Result<T, ErrorKind>,
    ) -> Result<T, FsError> {
        let mut state = self.state();
        let failed = |kind: ErrorKind| error(operation, path, kind);
        state.allow(operation).map_err(failed)?;
        let done = change(&mut state).map_err(failed)?;
        state.done += 1;
        Ok(done)
    }

    /// An operation that only looks.
    fn look<T>(
        &self,
        operation: Operation,
        path: &Path,
        look: impl FnOnce(&State) -> Result<T, ErrorKind>,
    ) -> Result<T, FsError> {
        let mut state = self.state();
        let failed = |kind: ErrorKind| error(operation, path, kind);
        state.allow(operation).map_err(failed)?;
        look(&state).map_err(failed)
    }
}

fn error(operation: Operation, path: &Path, kind: ErrorKind) -> FsError {
    FsError { operation, path: path.to_owned(), source: kind.into() }
}

impl State {
    fn new_node(&mut self, node: Node) -> NodeId {
        let id = NodeId(self.number());
        self.nodes.insert(id, node);
        id
    }

    /// Numbers of the un-synced operations in their order, and lengths of writes.
    fn unsynced(&self) -> Vec<(u64, Option<usize>)> {
        let writes = self.nodes.values().flat_map(Node::unsynced);
        let mut all: Vec<_> = writes.chain(self.entries.unsynced()).collect();
        all.sort_unstable();
        all
    }

    fn used(&self) -> u64 {
        self.entries.files().map(|id| self.nodes[&id].content().len() as u64).sum()
    }

    /// Fails where there is no space for a file to become that long.
    fn check_space(&self, id: NodeId, len: u64) -> Result<(), ErrorKind> {
        let Some(capacity) = self.capacity else { return Ok(()) };
        let before = self.nodes.get(&id).map_or(0, |node| node.content().len() as u64);
        if len > before && self.used() + (len - before) > capacity {
            return Err(ErrorKind::StorageFull);
        }
        Ok(())
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Fails where the power is gone or a fault is due.
    fn allow(&mut self, operation: Operation) -> Result<(), ErrorKind> {
        if self.cut_after.is_some_and(|cut| self.done >= cut) {
            return Err(ErrorKind::Other);
        }
        for fault in self.faults.iter_mut().filter(|fault| fault.operation == operation) {
            if fault.after > 0 {
                fault.after -= 1;
            } else if fault.times > 0 {
                fault.times -= 1;
                self.failed += 1;
                return Err(fault.kind);
            }
        }
        Ok(())
    }
}

impl Disk for SimDisk {
    fn create(&self, path: &Path) -> Result<Arc<dyn File>, FsError> {
        let id = self.change(Operation::Create, path, |state| {
            let id = state.new_node(Node::default());
            let number = state.number();
            state.entries.create(path, Target::File(id), number)?;
            Ok(id)
        })?;
        Ok(Arc::new(SimFile { disk: self.clone(), id, path: path.to_owned() }))
    }

    fn open(&self, path: &Path, _: Access) -> Result<Arc<dyn File>, FsError> {
        let id = self.look(Operation::Open, path, |state| state.entries.file(path))?;
        Ok(Arc::new(SimFile { disk: self.clone(), id, path: path.to_owned() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), FsError> {
        self.change(Operation::Rename, from, |state| {
            let number = state.number();
            state.entries.rename(from, to, number)
        })
    }

    fn remove(&self, path: &Path) -> Result<(), FsError> {
        self.change(Operation::Remove, path, |state| {
            let number = state.number();
            state.entries.remove(path, number)
        })
    }

    fn remove_tree(&self, path: &Path) -> Result<(), FsError> {
        let inside = self.look(Operation::Remove, path, |state| state.entries.inside(path))?;
        for path in inside.iter().rev() {
            self.remove(path)?;
        }
        self.remove(path)
    }

    fn list(&self, directory: &Path) -> Result<Vec<String>, FsError> {
        self.look(Operation::List, directory, |state| state.entries.list(directory))
    }

    fn create_dir(&self, directory: &Path) -> Result<(), FsError> {
        let missing: Vec<&Path> = {
            let state = self.state();
            let missing =
                |path: &&Path| !path.as_os_str().is_empty() && !state.entries.is_there(path);
            directory.ancestors().filter(missing).collect()
        };
        for path in missing.into_iter().rev() {
            self.change(Operation::CreateDirectory, path, |state| {
                let number = state.number();
                state.entries.create(path, Target::Directory, number)
            })?;
        }
        Ok(())
    }

    fn sync_dir(&self, directory: &Path) -> Result<(), FsError> {
        self.change(Operation::Sync, directory, |state| {
            state.entries.sync(directory);
            Ok(())
        })
    }
}

/// An open file. As on a real disk, it goes on when its entry is gone.
struct SimFile {
    disk: SimDisk,
    id: NodeId,
    path: PathBuf,
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimFile({})", self.path.display())
    }
}

impl SimFile {
    fn change(
        &self,
        operation: Operation,
        len: u64,
        change: impl FnOnce(&mut Node, u64),
    ) -> Result<(), FsError> {
        self.disk.change(operation, &self.path, |state| {
            state.check_space(self.id, len)?;
            let number = state.number();
            change(state.nodes.get_mut(&self.id).ok_or(ErrorKind::NotFound)?, number);
            Ok(())
        })
    }

    fn look<T>(
        &self,
        operation: Operation,
        look: impl FnOnce(&Bytes) -> Result<T, ErrorKind>,
    ) -> Result<T, FsError> {
        self.disk.look(operation, &self.path, |state| {
            look(state.nodes.get(&self.id).ok_or(ErrorKind::NotFound)?.content())
        })
    }
}

impl File for SimFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), FsError> {
        let sectors = offset / SECTOR_BYTES..(offset + buffer.len() as u64).div_ceil(SECTOR_BYTES);
        let mut state = self.disk.state();
        state.read += buffer.len() as u64;
        if state.bad.iter().any(|(path, at)| *path == self.path && sectors.contains(at)) {
            return Err(error(Operation::Read, &self.path, ErrorKind::Other));
        }
        drop(state);
        self.look(Operation::Read, |content| {
            content.read(offset as usize, buffer).then_some(()).ok_or(ErrorKind::UnexpectedEof)
        })
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), FsError> {
        let end = offset + bytes.len() as u64;
        let written =
            self.change(Operation::Write, end, |node, number| node.write(offset, bytes, number));
        if written.is_err() && !self.disk.is_off() {
            // A write that fails may have done a part.
            let mut state = self.disk.state();
            let number = state.number();
            if let Some(node) = state.nodes.get_mut(&self.id) {
                node.write(offset, &bytes[..bytes.len() / 2], number);
            }
        }
        written
    }

    fn size(&self) -> Result<u64, FsError> {
        self.look(Operation::Size, |content| Ok(content.len() as u64))
    }

    fn set_size(&self, bytes: u64) -> Result<(), FsError> {
        self.change(Operation::SetLength, bytes, |node, number| node.set_size(bytes, number))
    }

    fn allocate(&self, bytes: u64) -> Result<(), FsError> {
        self.change(Operation::Allocate, bytes, |node, number| {
            let bytes = bytes.max(node.content().len() as u64);
            node.set_size(bytes, number);
        })
    }

    fn sync(&self) -> Result<(), FsError> {
        let synced = self.change(Operation::Sync, 0, |node, _| node.sync());
        if synced.is_err()
            && !self.disk.is_off()
            && let Some(node) = self.disk.state().nodes.get_mut(&self.id)
        {
            node.fail_sync();
        }
        synced
    }

    fn try_lock(&self) -> Result<bool, FsError> {
        self.disk.look(Operation::Lock, &self.path, |_| Ok(()))?;
        let mut state = self.disk.state();
        let node = state.nodes.get_mut(&self.id);
        let node = node.ok_or_else(|| error(Operation::Lock, &self.path, ErrorKind::NotFound))?;
        let holder = std::ptr::from_ref(self).addr();
        Ok(node.lock(holder))
    }

    fn map(&self, bytes: u64) -> Result<Map, FsError> {
        self.look(Operation::Map, |content| {
            let mut start = vec![0; bytes as usize];
            let is_there = content.read(0, &mut start);
            is_there.then(|| Map::owned(start)).ok_or(ErrorKind::UnexpectedEof)
        })
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let holder = std::ptr::from_ref(self).addr();
        if let Some(node) = self.disk.state().nodes.get_mut(&self.id) {
            node.unlock(holder);
        }
    }
}
