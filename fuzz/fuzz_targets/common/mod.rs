//! What the targets of the store share: a script, a small store on a disk in memory, and damage whose
//! checksums are made good again. The layout is written down here a second time, after `format-spec`.

#![allow(dead_code, reason = "each target uses its part")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bson::raw::cstr;
use bson::{RawArrayBuf, rawdoc};
use headstock::block::{self, BlockId, BlockRead as _, BlockWrite as _, Kind};
use headstock::lab::{SimDisk, Survives};
use headstock::store::fs::{Access, Disk};
use headstock::store::{Error, Options, RepositorySalt, Roots, Store};

pub mod forge;
pub mod keys;

use keys::Keys;

pub const STORE: &str = "/disk/store";
/// The smallest there are, so that a small store has several.
const SEGMENT_BYTES: u64 = 64 << 10;

/// A script's bytes, taken from the front.
pub struct Script<'a>(pub &'a [u8]);

impl Script<'_> {
    pub fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// The next byte, or zero behind the end.
    pub fn next(&mut self) -> u8 {
        self.byte().unwrap_or(0)
    }

    /// So many bytes, or what is left.
    pub fn bytes(&mut self, len: usize) -> &[u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A place below a bound.
    pub fn below(&mut self, bound: usize) -> usize {
        let place = u16::from_le_bytes([self.next(), self.next()]);
        usize::from(place) % bound.max(1)
    }

    /// A number that is a limit of something, is near one, or is any.
    pub fn number(&mut self, near: u64) -> u64 {
        let by = u64::from(self.next() % 16);
        match self.next() % 12 {
            0 => by,
            1 => near.wrapping_add(by),
            2 => near.wrapping_sub(by),
            3 => u64::MAX - by,
            4 => u64::from(u32::MAX) - by,
            5 => (u64::from(u32::MAX) << 32) | (u64::from(u32::MAX) - by),
            6 => i64::MAX as u64 - by,
            7 => 1 << (by * 4),
            8 => near.wrapping_add(8 * by),
            9 => near.wrapping_sub(8 * by),
            10 => near.wrapping_mul(1 + by),
            _ => u64::from_le_bytes(std::array::from_fn(|_| self.next())),
        }
    }
}

/// A block as it was put.
pub type Blocks = BTreeMap<BlockId, (Kind, Vec<u8>)>;

/// Of the flags that a script begins with, the one that says that the store is encrypted.
pub const ENCRYPTED: u8 = 0x40;

/// A small store at three moments, and all that it ever held.
pub struct Scene {
    /// If it is encrypted: by the end with two data keys.
    pub keys: Option<Keys>,
    pub blocks: Blocks,
    /// What each commit named, oldest first.
    pub states: Vec<Roots>,
    pub uuid: [u8; 16],
    /// Closed; its process killed; the same with the log of some commits before.
    moments: [SimDisk; 3],
}

impl Scene {
    /// The one that flags say. Made once: a copy costs less.
    pub fn get(flags: u8) -> &'static Self {
        static SCENES: [OnceLock<Scene>; 2] = [const { OnceLock::new() }; 2];
        let is_encrypted = flags & ENCRYPTED != 0;
        SCENES[usize::from(is_encrypted)].get_or_init(|| Self::make(is_encrypted))
    }

    fn make(is_encrypted: bool) -> Self {
        let options = || options(false, is_encrypted);
        // The fuzzer watches each step of the cipher, which makes that slow.
        let step = if is_encrypted { 200 } else { 900 };
        let disk = SimDisk::new(Path::new("/disk"));
        let salt = RepositorySalt([7; 32]);
        let created = Store::create_on(Arc::new(disk.clone()), Path::new(STORE), options(), salt);
        let mut store = created.expect("is created");
        let (mut blocks, mut states) = (Blocks::new(), vec![store.roots().1]);
        let mut early = None;
        for round in 0..7_u8 {
            let links = graph(&store, (round, step), &mut blocks);
            // Some of what was stored before the store was opened again lives on, some does not.
            let name = format!("job{}", round % 5);
            store.commit(|roots| _ = roots.insert(name, links)).expect("commits");
            states.push(store.roots().1);
            match round {
                2 => {
                    drop(store);
                    if is_encrypted {
                        rotate(&disk);
                    }
                    store = open(&disk, options()).expect("opens");
                }
                4 => early = Some(copy(&disk)),
                _ => {}
            }
        }
        let (killed, early) = (copy(&disk), early.expect("a round was that one"));
        drop(store);
        let behind = copy(&killed);
        for path in [log_path(&early), PathBuf::from(STORE).join("HEAD")] {
            behind.put_file(&path, Some(read(&early, &path)));
        }
        let identity = read(&disk, &PathBuf::from(STORE).join("STORE"));
        let uuid = identity[32..48].try_into().expect("16 bytes");
        let keys = is_encrypted.then(|| Keys::open(&read(&disk, &keys_path())));
        Self { keys, blocks, states, uuid, moments: [disk, killed, behind] }
    }

    /// How it is opened.
    pub fn options(&self, mmap: bool) -> Options {
        options(mmap, self.keys.is_some())
    }

    /// The name of a block.
    pub fn name(&self, kind: Kind, raw: &[u8]) -> BlockId {
        name(self.keys.as_ref(), kind, raw)
    }

    /// A disk with the store at one of the moments.
    pub fn moment(&self, which: u8) -> SimDisk {
        let disk = copy(&self.moments[usize::from(which % 3)]);
        // Space that is kept back says nothing of the store.
        disk.put_file(&PathBuf::from(STORE).join("RESERVE"), None);
        disk
    }
}

pub fn options(mmap: bool, is_encrypted: bool) -> Options {
    let secret = is_encrypted.then(|| Arc::new(keys::secret()));
    Options { segment_bytes: SEGMENT_BYTES, mmap, secret, ..Options::default() }
}

pub fn open(disk: &SimDisk, options: Options) -> Result<Store, Error> {
    Store::open_on(Arc::new(disk.clone()), Path::new(STORE), options)
}

pub fn open_reader(disk: &SimDisk, options: Options) -> Result<Store, Error> {
    Store::open_reader_on(Arc::new(disk.clone()), Path::new(STORE), options)
}

/// The name of a block in a store of these keys.
pub fn name(keys: Option<&Keys>, kind: Kind, raw: &[u8]) -> BlockId {
    keys.map_or_else(|| BlockId::of(kind, raw), |keys| keys.name(kind, raw))
}

pub fn keys_path() -> PathBuf {
    Path::new(STORE).join("KEYS")
}

/// Begins a new data key of an encrypted store that nobody has open.
pub fn rotate(disk: &SimDisk) {
    let mut file = read(disk, &keys_path());
    let mut keys = Keys::open(&file);
    keys.rotate();
    keys.write(&mut file);
    disk.put_file(&keys_path(), Some(file));
}

/// Another disk with all that stands on one.
pub fn copy(disk: &SimDisk) -> SimDisk {
    disk.restarted(|_| Survives::Whole)
}

/// Paths of the files in a directory of the store.
pub fn paths(disk: &SimDisk, directory: &str) -> Vec<PathBuf> {
    let directory = Path::new(STORE).join(directory);
    let names = disk.list(&directory).unwrap_or_default();
    names.into_iter().map(|name| directory.join(name)).collect()
}

/// The log file in use: a store at rest has no other.
pub fn log_path(disk: &SimDisk) -> PathBuf {
    paths(disk, "log").pop().expect("a store has a log")
}

pub fn read(disk: &SimDisk, path: &Path) -> Vec<u8> {
    let file = disk.open(path, Access::Read).expect("is there");
    let mut bytes = vec![0; file.size().expect("has a length") as usize];
    file.read_at(0, &mut bytes).expect("is read");
    bytes
}

/// Bytes of a seed, every other time such that they do not compress.
pub fn content(seed: u8, len: usize) -> Vec<u8> {
    let mut state = u32::from(seed).wrapping_mul(2_654_435_761) | 1;
    let mask = if seed & 1 == 0 { 0xff } else { 0x0f };
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8 & mask
    };
    (0..len).map(next).collect()
}

/// Puts a block, about every other leaf with a dictionary.
pub fn put_block(store: &Store, kind: Kind, raw: &[u8]) -> Result<BlockId, block::Error> {
    if kind != Kind::Leaf || raw.first().is_none_or(|first| first & 1 == 0) {
        return store.put(kind, raw);
    }
    store.with_dictionary(dictionary()).put(kind, raw)
}

/// The one that they use.
pub fn dictionary() -> Vec<u8> {
    content(1, 256)
}

/// Puts leaves of lengths some steps apart under nodes under a `Links` block, and returns that.
fn graph(store: &Store, (round, step): (u8, usize), blocks: &mut Blocks) -> BlockId {
    let mut put = |kind, raw: Vec<u8>| {
        let id = put_block(store, kind, &raw).expect("is put");
        blocks.insert(id, (kind, raw));
        id
    };
    let mut nodes = Vec::new();
    for n in 0..3_u8 {
        let leaf =
            |m: u8| content(round * 16 + n * 4 + m, 400 + step * usize::from((round + n + m) % 7));
        let leaves: Vec<BlockId> = (0..3).map(|m| put(Kind::Leaf, leaf(m))).collect();
        nodes.push(put(Kind::Node, node(&leaves)));
    }
    put(Kind::Links, links(&nodes))
}

/// A node that names blocks.
pub fn node(children: &[BlockId]) -> Vec<u8> {
    let names = children.iter().flat_map(|id| *id.as_bytes());
    (children.len() as u32).to_le_bytes().into_iter().chain(names).collect()
}

/// A document that names blocks.
pub fn links(named: &[BlockId]) -> Vec<u8> {
    let mut document = rawdoc! { "of": "a fuzzer" };
    document.append(cstr!("named"), named.iter().map(block::link).collect::<RawArrayBuf>());
    document.into_bytes()
}

/// Everything that roots reach, by what was put.
pub fn reach(blocks: &Blocks, roots: &Roots) -> BTreeSet<BlockId> {
    let (mut found, mut left) = (BTreeSet::new(), roots.values().copied().collect::<Vec<_>>());
    while let Some(id) = left.pop() {
        if found.insert(id) {
            let (kind, raw) = &blocks[&id];
            left.extend(block::references(*kind, raw).expect("was put whole"));
        }
    }
    found
}

/// Fails unless a store gives all that its roots reach as it was put.
pub fn check_reach(store: &Store, blocks: &Blocks) {
    for id in reach(blocks, &store.roots().1) {
        let block = store.get(&id).expect("what a root reaches can be read");
        assert!((block.kind, &block.bytes[..]) == (blocks[&id].0, &blocks[&id].1[..]));
    }
}
