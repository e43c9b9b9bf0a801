//! Follows one document through one span of points.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use bson::{RawDocument, RawDocumentBuf};

use super::{Change, Line, Version};
use crate::block::{BlockId, BlockRead, stream};
use crate::head::{self, Manifest, Scope, namespaces};
use crate::inspect::{Error, get};
use crate::oplog::slice::Slice;
use crate::oplog::transactions::{Assembler, Chain, Outcome, Part, Phase};
use crate::oplog::{
    self, ApplyOps, Command, NameOrder, OpTime, Operation, Parsed, Position, Rules, Ts, Update,
    Uuid, operations, parse, slice,
};
use crate::restore::{self, Amount, Cancel, Progress, Stretch};
use crate::tree::{Key, Order};

/// What is said of a capped collection whose server removes documents without an entry.
const TRIMMED: &str = "the collection is capped and the server is older than 5.0: when it removed the \
                       document to make room is not in the oplog";

/// A collection that is followed.
#[derive(Debug, Clone, PartialEq)]
struct Tracked {
    ns: String,
    document: Option<RawDocumentBuf>,
}

/// Where the operations of an open transaction are.
#[derive(Debug, Clone)]
enum Held {
    /// None of them is of a collection that is followed.
    Other,
    /// In the entry that begins at this byte of this slice.
    InSlice(usize, usize),
    /// In an entry that the snapshot holds.
    Stored(Vec<BlockId>),
}

/// The entry at hand.
#[derive(Clone, Copy)]
struct At<'a> {
    position: Position,
    entry: &'a RawDocument,
    slice: usize,
    offset: usize,
}

/// What one entry does: of each collection that it touches what was before, and how it was changed.
type Step = BTreeMap<Uuid, (Option<Tracked>, Change)>;

pub(super) struct Follow<'a> {
    blocks: &'a dyn BlockRead,
    stretch: &'a Stretch,
    /// The name asked for.
    ns: &'a str,
    wanted: &'a BTreeSet<Uuid>,
    key: &'a Key,
    name_order: NameOrder,
    collections: BTreeMap<Uuid, Tracked>,
    open: Assembler<Held>,
    /// The collections at the first point, until they are told.
    first: BTreeMap<Uuid, Tracked>,
    begun: bool,
    /// What is backed up at the entry at hand.
    scope: &'a Scope,
    /// Snapshots still ahead.
    ahead: &'a [Manifest],
    /// Whether the server removes documents without an entry.
    trimmed: bool,
    /// The slice read last to look up held operations.
    looked_up: Option<(usize, Vec<u8>)>,
}

impl<'a> Follow<'a> {
    pub fn new(
        blocks: &'a dyn BlockRead,
        stretch: &'a Stretch,
        ns: &'a str,
        wanted: &'a BTreeSet<Uuid>,
        key: &'a Key,
    ) -> Result<Self, Error> {
        let base = &stretch.base;
        let major = base.server_version.split('.').next().and_then(|major| major.parse().ok());
        let old = major.is_some_and(|major: u32| major < 5);
        let mut collections = BTreeMap::new();
        let mut trimmed = false;
        let catalog = head::catalog(blocks, &base.head)?;
        for one in catalog.into_iter().filter(|one| wanted.contains(&one.uuid)) {
            let document = get::document(blocks, &one, key)?;
            trimmed |= old && one.order == Order::Positional;
            collections.insert(one.uuid, Tracked { ns: one.ns, document });
        }
        let open = head::open_transactions(blocks, &base.head)?;
        let open = Assembler::restore(open.into_iter().map(stored))?;
        let name_order = if old { NameOrder::Bytes } else { NameOrder::Numeric };
        Ok(Self {
            blocks,
            stretch,
            ns,
            wanted,
            key,
            name_order,
            first: BTreeMap::new(),
            collections,
            open,
            begun: false,
            scope: &base.scope,
            ahead: &stretch.later,
            trimmed,
            looked_up: None,
        })
    }

    /// Tells every version.
    pub fn run(
        &mut self,
        progress: &dyn Progress,
        cancel: &Cancel,
        each: &mut dyn FnMut(Line<'_>) -> io::Result<()>,
    ) -> Result<(), Error> {
        if self.trimmed {
            each(Line::Note(TRIMMED)).map_err(Error::Output)?;
        }
        self.settle_first()?;
        let stretch = self.stretch;
        for (index, slice) in stretch.slices.iter().enumerate() {
            if cancel.is_cancelled() {
                return Err(restore::Error::Cancelled.into());
            }
            if !self.slice(index, slice, each)? {
                break;
            }
            let header = &slice.header;
            progress.advance(Amount { documents: header.entries, bytes: header.raw_bytes });
        }
        let end = OpTime { ts: self.stretch.reach, term: i64::MAX };
        self.pass_before(end, each)?;
        self.begin(each)
    }

    /// Takes one slice; false if nothing after it matters.
    fn slice(
        &mut self,
        index: usize,
        slice: &Slice,
        each: &mut dyn FnMut(Line<'_>) -> io::Result<()>,
    ) -> Result<bool, Error> {
        let bytes = restore::read_slice(slice, self.blocks)?;
        let (from, to) = (self.stretch.span.from.optime, self.stretch.span.to.optime);
        let mut offset = 0;
        for entry in slice::entries(&bytes) {
            let entry = entry?;
            let position = oplog::position(entry)?;
            let at = At { position, entry, slice: index, offset };
            offset += entry.as_bytes().len();
            if position.optime <= from {
                continue;
            }
            if position.optime.ts > self.stretch.reach {
                return Ok(false);
            }
            if position.optime.ts > to.ts && self.open.undecided().iter().all(|ts| *ts > to.ts) {
                return Ok(false);
            }
            self.pass_before(position.optime, each)?;
            self.entry(at, each)?;
        }
        Ok(true)
    }

    /// Passes the snapshots before an entry.
    fn pass_before(
        &mut self,
        entry: OpTime,
        each: &mut dyn FnMut(Line<'_>) -> io::Result<()>,
    ) -> Result<(), Error> {
        while let Some((snapshot, ahead)) = self.ahead.split_first()
            && snapshot.head.position.optime < entry
        {
            self.ahead = ahead;
            self.pass(snapshot, each)?;
        }
        Ok(())
    }

    /// With filters, a snapshot may have collections that no entry brought, and lack some that were
    /// followed: the filters changed, or a collection was scanned that had come under them.
    fn pass(
        &mut self,
        snapshot: &'a Manifest,
        each: &mut dyn FnMut(Line<'_>) -> io::Result<()>,
    ) -> Result<(), Error> {
        let before = std::mem::replace(&mut self.scope, &snapshot.scope);
        if before.is_all() && snapshot.scope.is_all() {
            return Ok(());
        }
        let mut step = Step::new();
        let mut left: BTreeSet<Uuid> = self.collections.keys().copied().collect();
        let catalog = head::catalog(self.blocks, &snapshot.head)?;
        for one in catalog.into_iter().filter(|one| self.wanted.contains(&one.uuid)) {
            if !left.remove(&one.uuid) {
                let document = get::document(self.blocks, &one, self.key)?;
                self.touch(one.uuid, Change::Found, &mut step);
                self.collections.insert(one.uuid, Tracked { ns: one.ns, document });
            }
        }
        left.into_iter().for_each(|uuid| self.remove(uuid, Change::LeftOut, &mut step));
        let at = snapshot.head.position;
        self.tell(&step, at.optime.ts, at, each)
    }

    fn entry(
        &mut self,
        at: At<'_>,
        each: &mut dyn FnMut(Line<'_>) -> io::Result<()>,
    ) -> Result<(), Error> {
        let optime = at.position.optime;
        // Beyond the last point only decisions count, of what was prepared before it.
        let (beyond, phase) = match optime.ts > self.stretch.span.to.optime.ts {
            true => (true, Phase::Preload),
            false => (false, Phase::Steady),
        };
        let outcome = match parse(at.entry)? {
            Parsed::Single(_) | Parsed::ApplyOps(_) if beyond => return Ok(()),
            Parsed::Single(operation) => {
                if !self.concerns(&operation) {
                    return Ok(());
                }
                let mut step = Step::new();
                self.operation(operation, &mut step)?;
                return self.tell(&step, optime.ts, at.position, each);
            }
            Parsed::ApplyOps(group) => {
                let mut inner = operations(optime, group.operations).flatten();
                let held = match inner.any(|one| self.concerns(&one)) {
                    true => Held::InSlice(at.slice, at.offset),
                    false => Held::Other,
                };
                self.open.apply_ops(optime, &group, held, phase)
            }
            Parsed::Commit(commit) => self.open.commit(optime, &commit, phase),
            Parsed::Abort(abort) => self.open.abort(optime, &abort, phase),
        };
        match outcome? {
            Outcome::Apply { handles, visible_at, .. } if self.is_later_point(visible_at) => {
                self.take_effect(handles, visible_at, at, each)
            }
            _ => Ok(()),
        }
    }

    /// Whether a timestamp is a point of the span, other than the first.
    fn is_later_point(&self, ts: Ts) -> bool {
        let span = &self.stretch.span;
        span.from.optime.ts < ts && ts <= span.to.optime.ts
    }

    /// Applies the operations of a transaction, or of an applyOps of its own.
    fn take_effect(
        &mut self,
        handles: Vec<Held>,
        visible_at: Ts,
        at: At<'_>,
        each: &mut dyn FnMut(Line<'_>) -> io::Result<()>,
    ) -> Result<(), Error> {
        let mut step = Step::new();
        for held in handles {
            match held {
                Held::Other => {}
                Held::InSlice(slice, offset) if (slice, offset) == (at.slice, at.offset) => {
                    self.group(at.entry, &mut step)?;
                }
                held => {
                    let entry = self.look_up(held)?;
                    self.group(&entry, &mut step)?;
                }
            }
        }
        self.tell(&step, visible_at, at.position, each)
    }

    /// Applies what the snapshot holds of transactions that are visible at it although their commit
    /// comes later. What they write is locked until then, so nothing comes in between.
    fn settle_first(&mut self) -> Result<(), Error> {
        let from = self.stretch.span.from.optime;
        let mut open = self.open.clone();
        for slice in &self.stretch.slices {
            if open.undecided().iter().all(|prepared| *prepared > from.ts) {
                break;
            }
            let bytes = restore::read_slice(slice, self.blocks)?;
            for entry in slice::entries(&bytes) {
                let entry = entry?;
                let at = oplog::position(entry)?.optime;
                if at <= from || at.ts > self.stretch.reach {
                    continue;
                }
                let outcome = match parse(entry)? {
                    Parsed::Commit(commit) => open.commit(at, &commit, Phase::Preload)?,
                    Parsed::Abort(abort) => open.abort(at, &abort, Phase::Preload)?,
                    _ => continue,
                };
                if let Outcome::Apply { handles, visible_at, .. } = outcome
                    && visible_at <= from.ts
                {
                    for held in handles {
                        let entry = self.look_up(held)?;
                        self.group(&entry, &mut Step::new())?;
                    }
                }
            }
        }
        self.first = self.collections.clone();
        Ok(())
    }

    /// The entry of held operations.
    fn look_up(&mut self, held: Held) -> Result<RawDocumentBuf, Error> {
        let bytes = match held {
            Held::Other => Vec::new(),
            Held::Stored(pieces) => stream::read(self.blocks, &pieces)?,
            Held::InSlice(index, offset) => {
                if self.looked_up.as_ref().is_none_or(|(slice, _)| *slice != index) {
                    let slice = &self.stretch.slices[index];
                    self.looked_up = Some((index, restore::read_slice(slice, self.blocks)?));
                }
                let bytes = self.looked_up.as_ref().map_or(&[][..], |(_, bytes)| &bytes[offset..]);
                let mut entries = slice::entries(bytes);
                let entry = entries.next().transpose()?;
                entry.map(|entry| entry.as_bytes().to_vec()).unwrap_or_default()
            }
        };
        RawDocumentBuf::from_bytes(bytes).map_err(|why| {
            let (ns, what) = (self.ns.to_owned(), "a held oplog entry");
            restore::Error::Malformed { ns, what, source: Some(Box::new(why)) }.into()
        })
    }

    fn group(&mut self, entry: &RawDocument, step: &mut Step) -> Result<(), Error> {
        let parsed = parse(entry)?;
        let Parsed::ApplyOps(ApplyOps { operations: array, .. }) = parsed else { return Ok(()) };
        let at = oplog::position(entry)?.optime;
        for operation in operations(at, array) {
            self.operation(operation?, step)?;
        }
        Ok(())
    }

    /// Whether an operation may touch a collection that is followed.
    fn concerns(&self, operation: &Operation<'_>) -> bool {
        let (uuid, ns) = match operation {
            Operation::Noop(_) => return false,
            Operation::Insert { uuid, ns, .. }
            | Operation::Update { uuid, ns, .. }
            | Operation::Delete { uuid, ns, .. } => (uuid, ns),
            Operation::Command { .. } => return true,
        };
        match uuid {
            Some(uuid) => self.wanted.contains(uuid),
            None => self.collections.values().any(|one| one.ns == **ns),
        }
    }

    /// The collection of an operation, if it is there and followed.
    fn find(&self, uuid: Option<Uuid>, ns: &str) -> Option<Uuid> {
        match uuid {
            Some(uuid) => self.collections.contains_key(&uuid).then_some(uuid),
            None => self.collections.iter().find(|(_, one)| one.ns == ns).map(|(uuid, _)| *uuid),
        }
    }

    fn operation(&mut self, operation: Operation<'_>, step: &mut Step) -> Result<(), Error> {
        match operation {
            Operation::Insert { ns, uuid, document } => {
                if let Some(uuid) = self.find(uuid, ns)
                    && Key::of_document(document)? == *self.key
                {
                    self.put(uuid, Some(document.to_owned()), Change::Replaced, step);
                }
            }
            Operation::Update { ns, uuid, id, update, .. } => {
                if let Some(uuid) = self.find(uuid, ns)
                    && Key::of_document(id)? == *self.key
                {
                    let rules = Rules { upsert_missing: true, name_order: self.name_order };
                    let old = self.collections.get(&uuid).and_then(|one| one.document.as_deref());
                    let new = oplog::apply(&update, old, id, rules)?;
                    let change = match update {
                        Update::Replace(_) => Change::Replaced,
                        Update::V1(_) | Update::V2(_) => Change::Updated,
                    };
                    self.put(uuid, new, change, step);
                }
            }
            Operation::Delete { ns, uuid, id } => {
                if let Some(uuid) = self.find(uuid, ns)
                    && Key::of_document(id)? == *self.key
                {
                    self.put(uuid, None, Change::Deleted, step);
                }
            }
            Operation::Command { db, uuid, command } => self.command(db, uuid, command, step),
            Operation::Noop(_) => {}
        }
        Ok(())
    }

    fn command(&mut self, db: &str, uuid: Option<Uuid>, command: Command<'_>, step: &mut Step) {
        let full = |name: &str| format!("{db}.{name}");
        match command {
            Command::Create { name, spec, .. } => {
                let ns = full(name);
                let temporary = matches!(spec.get_bool("temp"), Ok(true));
                let kept = self.scope.keeps(&ns) || (temporary && self.scope.keeps_temporary(&ns));
                if let Some(uuid) = uuid.filter(|uuid| kept && self.wanted.contains(uuid)) {
                    self.touch(uuid, Change::Renamed, step);
                    let made = Tracked { ns: String::new(), document: None };
                    self.collections.entry(uuid).or_insert(made).ns = ns;
                }
            }
            Command::Drop { name } => {
                if let Some(uuid) = self.find(uuid, &full(name)) {
                    self.remove(uuid, Change::Dropped, step);
                }
            }
            Command::DropDatabase => {
                let of_db = |one: &Tracked| namespaces::split(&one.ns).0 == db;
                let left = self.collections.iter().filter(|(_, one)| of_db(one));
                let left: Vec<Uuid> = left.map(|(uuid, _)| *uuid).collect();
                left.into_iter().for_each(|uuid| self.remove(uuid, Change::Dropped, step));
            }
            Command::Rename { from, to, drop_target, stay_temp } => {
                let found = self.find(uuid, from);
                if let Some(target) = drop_target.filter(|target| Some(*target) != found) {
                    self.remove(target, Change::Dropped, step);
                }
                let Some(uuid) = found else { return };
                let temporary = stay_temp && self.scope.keeps_temporary(to);
                if !temporary && !self.scope.keeps(to) {
                    return self.remove(uuid, Change::LeftOut, step);
                }
                self.touch(uuid, Change::Renamed, step);
                if let Some(one) = self.collections.get_mut(&uuid) {
                    to.clone_into(&mut one.ns);
                }
            }
            Command::EmptyCapped { name } => {
                if let Some(uuid) = self.find(uuid, &full(name)) {
                    self.put(uuid, None, Change::Emptied, step);
                }
            }
            _ => {}
        }
    }

    /// Notes what was before an entry changed a collection, and how it is changed last.
    fn touch(&mut self, uuid: Uuid, change: Change, step: &mut Step) {
        let before = || (self.collections.get(&uuid).cloned(), change);
        step.entry(uuid).or_insert_with(before).1 = change;
    }

    fn put(
        &mut self,
        uuid: Uuid,
        document: Option<RawDocumentBuf>,
        change: Change,
        step: &mut Step,
    ) {
        self.touch(uuid, change, step);
        if let Some(one) = self.collections.get_mut(&uuid) {
            one.document = document;
        }
    }

    fn remove(&mut self, uuid: Uuid, why: Change, step: &mut Step) {
        if self.collections.contains_key(&uuid) {
            self.touch(uuid, why, step);
            self.collections.remove(&uuid);
        }
    }

    /// Tells what is there at the first point, once.
    fn begin(&mut self, each: &mut dyn FnMut(Line<'_>) -> io::Result<()>) -> Result<(), Error> {
        if std::mem::replace(&mut self.begun, true) {
            return Ok(());
        }
        let Position { optime, wall_ms } = self.stretch.span.from;
        let mut found = false;
        for (uuid, one) in &std::mem::take(&mut self.first) {
            let Some(document) = &one.document else { continue };
            found = true;
            let version = Version {
                at: optime.ts,
                wall_ms,
                change: Change::Found,
                ns: &one.ns,
                uuid: Some(*uuid),
                document: Some(document),
            };
            each(Line::Version(version)).map_err(Error::Output)?;
        }
        if found {
            return Ok(());
        }
        let (ns, change) = (self.ns, Change::Absent);
        let version = Version { at: optime.ts, wall_ms, change, ns, uuid: None, document: None };
        each(Line::Version(version)).map_err(Error::Output)
    }

    /// Tells what an entry came to.
    fn tell(
        &mut self,
        step: &Step,
        at: Ts,
        by: Position,
        each: &mut dyn FnMut(Line<'_>) -> io::Result<()>,
    ) -> Result<(), Error> {
        for (uuid, (before, change)) in step {
            let after = self.collections.get(uuid);
            let old = before.as_ref().and_then(|one| one.document.as_deref());
            let new = after.and_then(|one| one.document.as_deref());
            let still = after.is_some();
            let moved = before.as_ref().map(|one| &one.ns) != after.map(|one| &one.ns);
            let change = match (old, new) {
                (None, None) => continue,
                (None, Some(_)) if *change == Change::Found => Change::Found,
                (None, Some(_)) => Change::Inserted,
                (Some(old), Some(new)) if old.as_bytes() == new.as_bytes() => match moved {
                    true => Change::Renamed,
                    false => continue,
                },
                _ => *change,
            };
            let Some(one) = after.or(before.as_ref()).cloned() else { continue };
            self.begin(each)?;
            let version = Version {
                at,
                wall_ms: by.wall_ms,
                change,
                ns: &one.ns,
                uuid: Some(*uuid),
                document: one.document.as_deref().filter(|_| still),
            };
            each(Line::Version(version)).map_err(Error::Output)?;
        }
        Ok(())
    }
}

/// An open transaction of the snapshot.
fn stored(chain: Chain<Vec<BlockId>>) -> Chain<Held> {
    let part = |part: Part<Vec<BlockId>>| Part {
        optime: part.optime,
        operations: part.operations,
        handle: Held::Stored(part.handle),
    };
    Chain {
        parts: chain.parts.into_iter().map(part).collect(),
        lsid: chain.lsid,
        txn_number: chain.txn_number,
        prepared: chain.prepared,
    }
}
