//! A random workload that writes an oplog and keeps the state after each entry.

use bson::raw::{RawBson, RawBsonRef};
use bson::{Binary, RawDocumentBuf, rawdoc};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::entries::{self, entry, id_document, optime, ts};
use super::model::{Model, Modelled, Write};
use crate::oplog::{OpTime, Uuid};
use crate::tree::Key;

/// Names that collections may have.
const NAMES: u8 = 6;
/// Documents' numbers: few, so that keys are hit often.
const IDS: i32 = 40;

/// A transaction under way.
struct Open {
    uuid: Uuid,
    last: OpTime,
    /// Number of its prepare entry.
    prepared: Option<u32>,
    writes: Vec<Write>,
}

pub(super) struct Workload {
    pub rng: StdRng,
    pub model: Model,
    /// The entries, the first numbered 1.
    pub entries: Vec<RawDocumentBuf>,
    /// The state after so many entries.
    pub states: Vec<Model>,
    open: Vec<Open>,
    builds: Vec<(Uuid, Uuid, RawDocumentBuf)>,
    next_uuid: u16,
    next_index: u32,
    next_transaction: i32,
}

impl Workload {
    pub fn new(seed: u64) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            model: Model::default(),
            entries: Vec::new(),
            states: vec![Model::default()],
            open: Vec::new(),
            builds: Vec::new(),
            next_uuid: 0,
            next_index: 0,
            next_transaction: 0,
        }
    }

    /// The number of the next entry.
    fn next(&self) -> u32 {
        u32::try_from(self.entries.len()).expect("few entries") + 1
    }

    fn log(&mut self, operation: &RawDocumentBuf) {
        self.entries.push(entry(self.next(), operation));
        self.states.push(self.model.clone());
    }

    /// Adds one entry, or a few that belong together.
    pub fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..5 => self.create(),
            5..7 => self.drop_collection(),
            7..10 => self.rename(),
            10..15 => self.indexes(),
            15..18 => self.coll_mod(),
            18..20 => self.empty_capped(),
            20..24 => self.begin(),
            24..36 => self.go_on(),
            36..42 => self.group(),
            42..44 => self.log(&entries::noop()),
            _ => self.write(),
        }
    }

    fn some(&mut self) -> Option<Uuid> {
        let all: Vec<Uuid> = self.model.collections.keys().copied().collect();
        all.choose(&mut self.rng).copied()
    }

    /// A collection that no open transaction holds.
    fn some_free(&mut self) -> Option<Uuid> {
        let uuid = self.some()?;
        self.open.iter().all(|open| open.uuid != uuid).then_some(uuid)
    }

    fn new_uuid(&mut self) -> Uuid {
        self.next_uuid += 1;
        let mut bytes: [u8; 16] = self.rng.random();
        bytes[14..].copy_from_slice(&self.next_uuid.to_be_bytes());
        Uuid(bytes)
    }

    fn create(&mut self) {
        let name = format!("c{}", self.rng.random_range(0..NAMES));
        let ns = format!("app.{name}");
        if self.model.holder(&ns).is_some() {
            return;
        }
        let uuid = self.new_uuid();
        let max = self.rng.random_bool(0.3).then(|| self.rng.random_range(1..12));
        let options = match max {
            Some(max) => rawdoc! { "capped": true, "size": 1 << 20, "max": max as i32 },
            None => rawdoc! { "validator": { "x": { "$ne": 1 } } },
        };
        let indexes = vec![entries::id_index()];
        let made = Modelled { ns, options: options.clone(), indexes, max, documents: Vec::new() };
        self.model.collections.insert(uuid, made);
        self.log(&entries::create("app", &name, uuid, &options));
    }

    fn forget(&mut self, uuid: Uuid) {
        self.model.collections.remove(&uuid);
        self.builds.retain(|(_, of, _)| *of != uuid);
    }

    fn drop_collection(&mut self) {
        let Some(uuid) = self.some_free() else { return };
        let ns = self.model.collections[&uuid].ns.clone();
        self.forget(uuid);
        let name = ns.trim_start_matches("app.");
        self.log(&entries::command("app", uuid, rawdoc! { "drop": name }));
    }

    fn rename(&mut self) {
        let Some(uuid) = self.some_free() else { return };
        let from = self.model.collections[&uuid].ns.clone();
        let to = format!("app.c{}", self.rng.random_range(0..NAMES));
        if from == to {
            return;
        }
        let target = self.model.holder(&to);
        if target.is_some_and(|target| self.open.iter().any(|open| open.uuid == target)) {
            return;
        }
        let mut o = rawdoc! { "renameCollection": from, "to": to.as_str(), "stayTemp": false };
        if let Some(target) = target {
            o.append(bson::raw::cstr!("dropTarget"), Binary::from(target));
            self.forget(target);
        }
        self.model.collections.get_mut(&uuid).expect("there").ns = to;
        self.log(&entries::command("app", uuid, o));
    }

    fn indexes(&mut self) {
        let Some(uuid) = self.some_free() else { return };
        let name = self.model.collections[&uuid].ns.trim_start_matches("app.").to_owned();
        self.next_index += 1;
        let index = format!("x{}", self.next_index);
        let spec = rawdoc! { "v": 2, "key": entries::field(&index, 1), "name": index.as_str() };
        let indexes = &mut self.model.collections.get_mut(&uuid).expect("there").indexes;
        let o = match self.rng.random_range(0..4) {
            0 => {
                indexes.push(spec);
                rawdoc! {
                    "createIndexes": name, "v": 2, "key": entries::field(&index, 1), "name": index,
                }
            }
            1 if indexes.len() > 1 => {
                let gone = indexes.pop().expect("more than one");
                rawdoc! { "dropIndexes": name, "index": gone.get_str("name").expect("a name") }
            }
            2 => {
                let build = self.new_uuid();
                self.builds.push((build, uuid, spec.clone()));
                let id = Binary::from(build);
                rawdoc! { "startIndexBuild": name, "indexBuildUUID": id, "indexes": [spec] }
            }
            _ => return self.end_build(),
        };
        self.log(&entries::command("app", uuid, o));
    }

    fn end_build(&mut self) {
        let Some((build, uuid, spec)) = self.builds.pop() else { return };
        let found = self.model.collections.get_mut(&uuid).expect("there");
        let name = found.ns.trim_start_matches("app.").to_owned();
        let (id, specs) = (Binary::from(build), [spec.clone()]);
        let specs: bson::RawArrayBuf = specs.into_iter().collect();
        let o = if self.rng.random_bool(0.7) {
            found.indexes.push(spec);
            rawdoc! { "commitIndexBuild": name, "indexBuildUUID": id, "indexes": specs }
        } else {
            rawdoc! { "abortIndexBuild": name, "indexBuildUUID": id, "indexes": specs }
        };
        self.log(&entries::command("app", uuid, o));
    }

    fn coll_mod(&mut self) {
        let Some(uuid) = self.some_free() else { return };
        let level = ["strict", "moderate"][self.rng.random_range(0..2)];
        let found = self.model.collections.get_mut(&uuid).expect("there");
        let name = found.ns.trim_start_matches("app.").to_owned();
        found.options = match found.max {
            None => rawdoc! {
                "validator": { "x": { "$ne": 1 } },
                "validationAction": "error",
                "validationLevel": level,
            },
            Some(max) => rawdoc! {
                "capped": true, "size": 1 << 20, "max": max as i32,
                "validationAction": "error",
                "validationLevel": level,
            },
        };
        self.log(&entries::command(
            "app",
            uuid,
            rawdoc! { "collMod": name, "validationLevel": level },
        ));
    }

    fn empty_capped(&mut self) {
        let Some(uuid) = self.some_free() else { return };
        let found = self.model.collections.get_mut(&uuid).expect("there");
        if found.max.is_none() {
            return;
        }
        found.documents.clear();
        let name = found.ns.trim_start_matches("app.").to_owned();
        self.log(&entries::command("app", uuid, rawdoc! { "emptycapped": name }));
    }

    /// An `_id`: numbers of every type, strings, documents.
    fn id(&mut self) -> RawBson {
        let n = self.rng.random_range(0..IDS);
        match n % 8 {
            0 => RawBson::String(format!("s{n}")),
            1 => RawBson::Document(rawdoc! { "a": n, "b": "x" }),
            _ => self.number(n),
        }
    }

    fn number(&mut self, n: i32) -> RawBson {
        match self.rng.random_range(0..3) {
            0 => RawBson::Int32(n),
            1 => RawBson::Int64(n.into()),
            _ => RawBson::Double(n.into()),
        }
    }

    /// The same value, perhaps of another number type.
    fn same_id(&mut self, id: RawBsonRef<'_>) -> RawDocumentBuf {
        let n = match id {
            RawBsonRef::Int32(n) => n,
            RawBsonRef::Int64(n) => i32::try_from(n).expect("small"),
            RawBsonRef::Double(n) => n as i32,
            other => return id_document(other),
        };
        let number = self.number(n);
        id_document(number.as_raw_bson_ref())
    }

    fn document(&mut self, id: RawBsonRef<'_>) -> RawDocumentBuf {
        let mut out = id_document(id);
        for name in ["a", "b", "c"] {
            if self.rng.random_bool(0.6) {
                let name: &bson::raw::CStr = name.try_into().expect("no zero byte");
                out.append(name, self.rng.random_range(0..1000));
            }
        }
        let text = "t".repeat(self.rng.random_range(0..60));
        out.append(bson::raw::cstr!("text"), text);
        out
    }

    /// A write to a document that no open transaction has touched.
    fn some_write(&mut self, uuid: Uuid) -> Option<Write> {
        let id = self.id();
        let key = Key::of_value(id.as_raw_bson_ref()).expect("a key");
        let found = &self.model.collections[&uuid];
        let present = found.place(&key).map(|at| found.documents[at].1.clone());
        let Some(present) = present else {
            return Some(Write::Insert(self.document(id.as_raw_bson_ref())));
        };
        let stored = present.get("_id").expect("valid").expect("an _id");
        match self.rng.random_range(0..10) {
            0..2 => Some(Write::Delete(id_document(stored))),
            2..4 => {
                let new = self.same_id(stored);
                let new = self.document(new.get("_id").expect("valid").expect("an _id"));
                Some(Write::Update(id_document(stored), new))
            }
            _ => Some(Write::Update(id_document(stored), self.diff(&present))),
        }
    }

    /// Only what a server would log: updates of present fields, inserts of missing ones.
    fn diff(&mut self, present: &RawDocumentBuf) -> RawDocumentBuf {
        let (mut u, mut i, mut d) =
            (RawDocumentBuf::new(), RawDocumentBuf::new(), RawDocumentBuf::new());
        for name in ["a", "b", "c"] {
            let there = matches!(present.get(name), Ok(Some(_)));
            let name: &bson::raw::CStr = name.try_into().expect("no zero byte");
            match (self.rng.random_range(0..4), there) {
                (0 | 1, true) => u.append(name, self.rng.random_range(0..1000)),
                (0, false) => i.append(name, self.rng.random_range(0..1000)),
                (2, true) => d.append(name, false),
                _ => {}
            }
        }
        let mut diff = RawDocumentBuf::new();
        for (name, section) in [("d", d), ("u", u), ("i", i)] {
            if !section.is_empty() {
                diff.append(<&bson::raw::CStr>::try_from(name).expect("no zero byte"), section);
            }
        }
        if diff.is_empty() {
            diff = rawdoc! { "u": { "text": "same" } };
        }
        rawdoc! { "$v": 2, "diff": diff }
    }

    fn write(&mut self) {
        let Some(uuid) = self.some_free() else { return };
        // A document that is hit many times in a row is read and folded.
        let times = if self.rng.random_bool(0.01) { 150 } else { 1 };
        for _ in 0..times {
            let Some(write) = self.some_write(uuid) else { return };
            let operation = self.model.operation(uuid, &write);
            self.model.write(uuid, &write);
            self.log(&operation);
            self.overflow(uuid);
        }
        if times > 1 {
            self.hammer(uuid);
        }
    }

    /// Many updates of one document.
    fn hammer(&mut self, uuid: Uuid) {
        let Some((_, document)) = self.model.collections[&uuid].documents.first().cloned() else {
            return;
        };
        let id = id_document(document.get("_id").expect("valid").expect("an _id"));
        let mut there = matches!(document.get("h"), Ok(Some(_)));
        for n in 0..150 {
            let section = if std::mem::replace(&mut there, true) { "u" } else { "i" };
            let mut diff = RawDocumentBuf::new();
            diff.append(
                <&bson::raw::CStr>::try_from(section).expect("no zero byte"),
                rawdoc! { "h": n },
            );
            let write = Write::Update(id.clone(), rawdoc! { "$v": 2, "diff": diff });
            let operation = self.model.operation(uuid, &write);
            self.model.write(uuid, &write);
            self.log(&operation);
        }
    }

    /// Deletes what is too much in a capped collection, as servers since 5.0 log it.
    fn overflow(&mut self, uuid: Uuid) {
        let found = &self.model.collections[&uuid];
        if found.max.is_some_and(|max| found.documents.len() > max) {
            let oldest = &found.documents[0].1;
            let write = Write::Delete(id_document(oldest.get("_id").expect("valid").expect("_id")));
            let operation = self.model.operation(uuid, &write);
            self.model.write(uuid, &write);
            self.log(&operation);
        }
    }

    /// Several operations in one entry, on their own.
    fn group(&mut self) {
        let Some(uuid) = self.some_free() else { return };
        if self.model.collections[&uuid].max.is_some() {
            return;
        }
        let mut operations = Vec::new();
        for _ in 0..self.rng.random_range(1..6) {
            let Some(write) = self.some_write(uuid) else { continue };
            operations.push(self.model.operation(uuid, &write));
            self.model.write(uuid, &write);
        }
        self.log(&entries::apply_ops(&operations, rawdoc! {}, None));
    }

    /// Starts a transaction; its collection is not written to otherwise until it ends.
    fn begin(&mut self) {
        let Some(uuid) = self.some_free() else { return };
        if self.model.collections[&uuid].max.is_some() {
            return;
        }
        let mut open = Open { uuid, last: OpTime::NULL, prepared: None, writes: Vec::new() };
        let operations = self.more(&mut open);
        let previous = None;
        open.last = optime(self.next());
        self.log(&entries::apply_ops(&operations, rawdoc! { "partialTxn": true }, previous));
        self.open.push(open);
        self.next_transaction += 1;
    }

    /// Operations for one entry of a transaction, on top of those before.
    fn more(&mut self, open: &mut Open) -> Vec<RawDocumentBuf> {
        let outside = self.model.clone();
        for write in &open.writes {
            self.model.write(open.uuid, write);
        }
        let mut operations = Vec::new();
        for _ in 0..self.rng.random_range(0..4) {
            if let Some(write) = self.some_write(open.uuid) {
                operations.push(self.model.operation(open.uuid, &write));
                self.model.write(open.uuid, &write);
                open.writes.push(write);
            }
        }
        self.model = outside;
        operations
    }

    /// Continues, prepares or ends a transaction.
    fn go_on(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let mut open = self.open.swap_remove(self.rng.random_range(0..self.open.len()));
        if let Some(prepared) = open.prepared {
            if self.rng.random_bool(0.7) {
                self.finish(&open);
                let operation = entries::commit(ts(prepared), open.last);
                self.log(&operation);
            } else {
                self.log(&entries::abort(open.last));
            }
            return;
        }
        let previous = Some(open.last);
        let operations = self.more(&mut open);
        let count = open.writes.len() as i64;
        match self.rng.random_range(0..3) {
            0 => {
                let extra = rawdoc! { "partialTxn": true };
                open.last = optime(self.next());
                self.log(&entries::apply_ops(&operations, extra, previous));
                self.open.push(open);
            }
            1 => {
                let extra = rawdoc! { "prepare": true, "count": count };
                open.prepared = Some(self.next());
                open.last = optime(self.next());
                self.log(&entries::apply_ops(&operations, extra, previous));
                self.open.push(open);
            }
            _ => {
                self.finish(&open);
                let extra = rawdoc! { "count": count };
                self.log(&entries::apply_ops(&operations, extra, previous));
            }
        }
    }

    fn finish(&mut self, open: &Open) {
        for write in &open.writes {
            self.model.write(open.uuid, write);
        }
    }

    /// Prepare entries, by number, that are undecided now.
    pub fn prepared(&self) -> Vec<u32> {
        let mut prepared: Vec<u32> = self.open.iter().filter_map(|open| open.prepared).collect();
        prepared.sort_unstable();
        prepared
    }
}
