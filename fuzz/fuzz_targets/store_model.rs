//! A script of operations on a store, beside a model of it: blocks put, states committed, taken over from older
//! ones and given up, compactions, openings, on a disk whose operations fail, that fills up, and whose
//! power goes. What was acknowledged is there after it, and nothing half-done; a healthy disk lets nothing
//! fail; a check finds nothing. The store is encrypted if the script begins so, and then gets new data keys.
#![no_main]

mod common;

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use common::keys::Keys;
use common::{
    Blocks, STORE, Script, check_reach, content, keys_path, links, name, node, open, options,
    put_block, reach, read, rotate,
};
use headstock::block::{self, BlockId, BlockRead as _, Kind};
use headstock::lab::{Fault, SimDisk, Survives};
use headstock::store::fs::Operation;
use headstock::store::fsck::{self, Level};
use headstock::store::{Options, RepositorySalt, Roots, Session, Store, compact};
use libfuzzer_sys::fuzz_target;

const MAX_STEPS: u32 = 60;
/// Blocks that one operation puts: enough to fill a segment.
const MAX_PUT: u8 = 24;

/// Kinds of operations, and how they fail.
const FAULTS: [(Operation, ErrorKind); 14] = [
    (Operation::Create, ErrorKind::StorageFull),
    (Operation::Open, ErrorKind::Other),
    (Operation::Read, ErrorKind::Other),
    (Operation::Write, ErrorKind::Other),
    (Operation::Write, ErrorKind::StorageFull),
    (Operation::Allocate, ErrorKind::StorageFull),
    (Operation::SetLength, ErrorKind::Other),
    (Operation::Sync, ErrorKind::Other),
    (Operation::Sync, ErrorKind::Other),
    (Operation::Sync, ErrorKind::StorageFull),
    (Operation::Rename, ErrorKind::Other),
    (Operation::Remove, ErrorKind::Other),
    (Operation::List, ErrorKind::Other),
    (Operation::CreateDirectory, ErrorKind::StorageFull),
];

/// An open store and what is known of it.
struct Place {
    disk: SimDisk,
    options: Options,
    /// If it is encrypted.
    keys: Option<Keys>,
    store: Option<Store>,
    /// Keeps what was put from being compacted away.
    session: Option<Session>,
    /// Every block that anybody tried to put.
    blocks: Blocks,
    /// What was put since the last opening or compaction.
    fresh: Vec<BlockId>,
    /// What the newest acknowledged commit names.
    roots: Roots,
    /// What commits that failed since would have named: one of them may have got through.
    attempts: Vec<Roots>,
    /// Whether nothing was made to fail since the last opening.
    is_healthy: bool,
    /// Whether the power is gone, or goes after some more operations.
    power_goes: bool,
}

fuzz_target!(|data: &[u8]| {
    let mut script = Script(data);
    let mut place = Place::new(script.next() & 1 == 1);
    for _ in 0..MAX_STEPS {
        let Some(step) = script.byte() else { break };
        place.step(step, &mut script);
    }
    place.reopen(script.next() & 1 == 0, &mut script);
    let store = place.store();
    let report = fsck::run(store, Level::Data, &mut |_| {}).expect("is checked");
    assert!(report.findings.is_empty(), "{:?}", report.findings);
});

impl Place {
    fn new(is_encrypted: bool) -> Self {
        let disk = SimDisk::new(Path::new("/disk"));
        let (shared, salt) = (Arc::new(disk.clone()), RepositorySalt([7; 32]));
        let options = options(false, is_encrypted);
        let store = Store::create_on(shared, Path::new(STORE), options.clone(), salt);
        let store = store.expect("is created");
        let keys = is_encrypted.then(|| Keys::open(&read(&disk, &keys_path())));
        Self {
            disk,
            options,
            keys,
            session: Some(store.session()),
            store: Some(store),
            blocks: Blocks::new(),
            fresh: Vec::new(),
            roots: Roots::new(),
            attempts: Vec::new(),
            is_healthy: true,
            power_goes: false,
        }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().expect("is open between two steps")
    }

    fn step(&mut self, step: u8, script: &mut Script<'_>) {
        match step % 20 {
            0..5 => self.put_some(script),
            5..8 => self.commit_new(script),
            8 | 9 => self.take_over(script),
            10 => {
                let name = self.any_name(script);
                self.commit(|roots| _ = roots.remove(&name));
            }
            11 => self.commit(|_| {}),
            12 | 13 => self.compact(script),
            14 => self.reopen(false, script),
            15 => self.reopen(true, script),
            16 | 17 => self.fail(script),
            18 => {
                let room = u64::from(script.next()) << script.below(16);
                self.disk.set_capacity((room > 0).then(|| self.disk.used() + room));
                self.is_healthy = false;
            }
            _ => self.read(script),
        }
    }

    /// A result that may be an error on a disk that is not well only.
    fn check<T, E: std::fmt::Debug>(&self, result: Result<T, E>) -> Option<T> {
        assert!(result.is_ok() || !self.is_healthy, "{:?} on a healthy disk", result.err());
        result.ok()
    }

    fn put(&mut self, kind: Kind, raw: Vec<u8>) -> Option<BlockId> {
        let id = self.check(put_block(self.store(), kind, &raw))?;
        assert_eq!(id, name(self.keys.as_ref(), kind, &raw));
        self.blocks.insert(id, (kind, raw));
        self.fresh.push(id);
        Some(id)
    }

    fn put_some(&mut self, script: &mut Script<'_>) {
        let (first, size) = (script.next(), 1 + script.below(6000));
        for n in 0..=script.next() % MAX_PUT {
            self.put(Kind::Leaf, content(first.wrapping_add(n), size + usize::from(n)));
        }
    }

    /// Some of what was put, below a node.
    fn commit_new(&mut self, script: &mut Script<'_>) {
        let some = script.below(self.fresh.len());
        let chosen: Vec<BlockId> = self.fresh.iter().rev().skip(some).take(6).copied().collect();
        let name = self.any_name(script);
        let Some(node) = self.put(Kind::Node, node(&chosen)) else { return };
        let Some(links) = self.put(Kind::Links, links(&[node])) else { return };
        self.commit(|roots| _ = roots.insert(name, links));
    }

    /// A new state that names what an old one names, without putting that again.
    fn take_over(&mut self, script: &mut Script<'_>) {
        let name = self.any_name(script);
        let Some(old) = self.roots.get(&name) else { return };
        let (kind, raw) = &self.blocks[old];
        let mut named = block::references(*kind, raw).expect("was put whole");
        named.truncate(3);
        named.extend(self.put(Kind::Leaf, content(script.next(), 300)));
        let Some(links) = self.put(Kind::Links, links(&named)) else { return };
        let other = self.any_name(script);
        self.commit(|roots| _ = roots.insert(other, links));
    }

    fn any_name(&self, script: &mut Script<'_>) -> String {
        format!("job{}", script.next() % 3)
    }

    fn commit(&mut self, edit: impl FnOnce(&mut Roots)) {
        let mut roots = self.roots.clone();
        edit(&mut roots);
        self.attempts.push(roots.clone());
        if self.check(self.store().commit(|all| *all = roots.clone())).is_some() {
            self.roots = roots;
            self.attempts.clear();
        }
        assert_eq!(self.store().roots().1, self.roots);
    }

    fn compact(&mut self, script: &mut Script<'_>) {
        // It waits for those who were there before.
        self.session = None;
        let settings = match script.next() & 1 {
            0 => compact::Settings::default(),
            _ => compact::Settings::thorough(),
        };
        self.check(compact::execute(self.store(), settings, &mut |_, _| {}));
        self.session = Some(self.store().session());
        self.fresh.clear();
        assert_eq!(self.store().roots().1, self.roots);
        if self.is_healthy {
            check_reach(self.store(), &self.blocks);
        }
    }

    fn fail(&mut self, script: &mut Script<'_>) {
        self.is_healthy = false;
        let after = u64::from(script.next() % 16);
        if script.next() % 4 == 0 {
            self.power_goes = true;
            return self.disk.cut_after(self.disk.operations() + after);
        }
        let (operation, kind) = FAULTS[script.below(FAULTS.len())];
        let times = if script.next() & 1 == 0 { 1 } else { u64::MAX };
        self.disk.fail(&[Fault { operation, after, times, kind }]);
    }

    fn read(&self, script: &mut Script<'_>) {
        let reached: Vec<BlockId> = reach(&self.blocks, &self.roots).into_iter().collect();
        let all = if script.next() & 1 == 0 { &self.fresh } else { &reached };
        let Some(id) = all.get(script.below(all.len())) else { return };
        let Some(block) = self.check(self.store().get(id)) else { return };
        assert!((block.kind, &block.bytes[..]) == (self.blocks[id].0, &self.blocks[id].1[..]));
    }

    /// Ends the process, or cuts the power as well, and opens on a disk that is well again.
    fn reopen(&mut self, cuts: bool, script: &mut Script<'_>) {
        self.session = None;
        if cuts || self.power_goes {
            // Before anything is sealed in an orderly manner.
            let lengths = self.disk.unsynced();
            let cut = self.disk.restarted(|at| fate(lengths[at], script));
            self.store = None;
            self.disk = cut;
        } else {
            self.store = None;
            self.disk.fail(&[]);
            self.disk.set_capacity(None);
        }
        if self.keys.is_some() && script.next() % 4 == 0 {
            rotate(&self.disk);
        }
        let store = open(&self.disk, self.options.clone()).expect("opens by itself");
        let found = store.roots().1;
        let is_known = found == self.roots || self.attempts.contains(&found);
        assert!(is_known, "{found:?}, acknowledged {:?}, tried {:?}", self.roots, self.attempts);
        check_reach(&store, &self.blocks);
        self.session = Some(store.session());
        (self.store, self.roots) = (Some(store), found);
        self.attempts.clear();
        self.fresh.clear();
        (self.is_healthy, self.power_goes) = (true, false);
        // What is built on is not taken back by a later cut.
        let later = open(&self.disk.restarted(|_| Survives::Nothing), self.options.clone());
        let later = later.expect("opens after a cut that follows");
        assert_eq!(later.roots().1, self.roots);
        check_reach(&later, &self.blocks);
    }
}

/// What survives of an operation.
fn fate(length: Option<usize>, script: &mut Script<'_>) -> Survives {
    let part = script.below(length.unwrap_or_default() + 1);
    match script.next() % 4 {
        0 => Survives::Nothing,
        1 => Survives::Whole,
        2 => Survives::First(part),
        _ => Survives::AllBut(part),
    }
}
