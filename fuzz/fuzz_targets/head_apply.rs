//! A script of entries, valid or changed in some bytes, for the parser and the applier: each ends in an
//! applied entry or a typed error, after which the head is loaded again, and what is flushed passes
//! the verification of its trees. (The fuzzer itself watches the memory.)
#![no_main]

use std::sync::Arc;

use bson::raw::RawArrayBuf;
use bson::spec::BinarySubtype;
use bson::{Binary, RawDocument, RawDocumentBuf, Timestamp, rawdoc};
use headstock::block::MemoryBlocks;
use headstock::head::{Collection, Config, Error, Head, HeadRoot, Scope};
use headstock::oplog::{OpTime, Position, Ts, Uuid};
use headstock::store::RepositorySalt;
use headstock::tree::{self, Content, Order, Root, Shape};
use libfuzzer_sys::fuzz_target;

/// Entries of one script: an entry may make a document of 16 MiB out of a few bytes.
const MAX_ENTRIES: u32 = 32;
/// Bytes of pending changes before a run is written: so few that runs are written.
const CHANGE_BUDGET_BYTES: usize = 16 << 10;
const SALT: RepositorySalt = RepositorySalt([7; 32]);
const KEYED: Uuid = Uuid([1; 16]);
const CAPPED: Uuid = Uuid([2; 16]);

/// A script's bytes, taken from the front.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken.to_vec()
    }
}

/// A head on blocks in memory, and what it was last flushed to.
struct Place {
    blocks: Arc<MemoryBlocks>,
    config: Config,
    flushed: HeadRoot,
}

impl Place {
    fn load(&self) -> Head {
        let head = Head::load(self.blocks.clone(), self.config.clone(), &self.flushed);
        head.expect("a head that was flushed")
    }

    /// Flushes and loads again; where that fails, what was flushed before is loaded.
    fn flush(&mut self, mut head: Head) -> Head {
        match head.flush(&*self.blocks) {
            Ok(root) => self.flushed = root,
            Err(_) => return self.load(),
        }
        for collection in head.collections() {
            let shape = Shape::new(SALT, collection.order, Content::Documents);
            let verified = tree::verify(&*self.blocks, &shape, &collection.root, &mut |_| {});
            verified.expect("a valid tree");
        }
        self.load()
    }
}

fuzz_target!(|data: &[u8]| {
    let mut script = Script(data);
    let Some(flags) = script.byte() else { return };
    let scratch = headstock::lab::temporary_folder(&std::env::temp_dir()).expect("scratch");
    let config = Config {
        salt: SALT,
        scope: Scope::all(),
        scratch_dir: scratch.path().to_owned(),
        seals_scratch: false,
        change_budget_bytes: CHANGE_BUDGET_BYTES,
        trims_capped_unlogged: flags & 1 == 1,
    };
    let blocks = Arc::new(MemoryBlocks::new());
    let fuzzy_until = at(u32::from(flags >> 4)).optime;
    let collections = vec![collection("app.c", KEYED), collection("app.log", CAPPED)];
    let head = Head::from_scan(blocks.clone(), config.clone(), at(0), fuzzy_until, collections);
    let mut head = head.expect("starts");
    let flushed = head.flush(&*blocks).expect("flushes");
    let mut place = Place { blocks, config, flushed };
    let mut previous = OpTime::NULL;
    for n in 1..=MAX_ENTRIES {
        let Some(kind) = script.byte() else { break };
        let entry = entry(n, kind, &mut script, previous);
        if kind % KINDS >= TRANSACTIONS {
            previous = at(n).optime;
        }
        if head.apply(&entry).is_err() {
            assert!(matches!(head.apply(&entry), Err(Error::Spent)));
            head = place.load();
        }
        if kind & 0x80 != 0 || head.flush_due() {
            head = place.flush(head);
        }
    }
    place.flush(head);
});

/// The position of the `n`th entry.
fn at(n: u32) -> Position {
    let ts = Ts { secs: 1_767_225_600 + n / 4, inc: 1 + n % 4 };
    Position { optime: OpTime { ts, term: 1 }, wall_ms: i64::from(ts.secs) * 1_000 }
}

fn index(name: &str) -> RawDocumentBuf {
    rawdoc! { "v": 2, "key": { "k": 1 }, "name": name }
}

fn collection(ns: &str, uuid: Uuid) -> Collection {
    let (order, options) = if uuid == CAPPED {
        (Order::Positional, rawdoc! { "capped": true, "size": 4096, "max": 4 })
    } else {
        (Order::Keyed, rawdoc! {})
    };
    let indexes = vec![index("_id_"), index("x")];
    Collection { uuid, ns: ns.to_owned(), options, indexes, order, root: Root::default() }
}

/// An entry: an operation with some of its bytes changed, or any bytes as one.
fn entry(n: u32, kind: u8, script: &mut Script<'_>, previous: OpTime) -> RawDocumentBuf {
    let seed = script.byte().unwrap_or_default();
    let mut body = if kind & 0x7f == 0x7f {
        script.bytes(usize::from(seed))
    } else {
        let operation = operation(kind % KINDS, seed, previous);
        inside(&operation).to_vec()
    };
    let changes = script.byte().unwrap_or_default() % 8;
    for _ in 0..changes {
        let place = usize::from(script.byte().unwrap_or_default()) * 3;
        let place = place.min(body.len());
        match (script.byte().unwrap_or_default(), script.byte().unwrap_or_default()) {
            (how, value) if how < 0xc0 => {
                if let Some(byte) = body.get_mut(place) {
                    *byte = value;
                }
            }
            (how, value) if how < 0xe0 => body.insert(place, value),
            (_, value) => {
                let end = (place + usize::from(value)).min(body.len());
                body.drain(place..end);
            }
        }
    }
    let optime = at(n).optime;
    let head = rawdoc! { "ts": Timestamp::from(optime.ts), "t": optime.term, "v": 2_i64 };
    let elements = [inside(&head), &body].concat();
    let len = i32::try_from(elements.len() + 5).expect("a small entry");
    let bytes = [&len.to_le_bytes()[..], &elements, &[0]].concat();
    RawDocumentBuf::from_bytes(bytes).expect("length and end fit")
}

/// The elements of a document.
fn inside(document: &RawDocument) -> &[u8] {
    let bytes = document.as_bytes();
    &bytes[4..bytes.len() - 1]
}

/// Kinds of operations, and the first of those that belong to transactions.
const KINDS: u8 = 40;
const TRANSACTIONS: u8 = 32;

/// An operation of a kind.
fn operation(kind: u8, seed: u8, previous: OpTime) -> RawDocumentBuf {
    match kind {
        0..16 => write(kind, seed),
        16..TRANSACTIONS => command(kind, seed),
        _ => transaction(kind, seed, previous),
    }
}

fn write(kind: u8, seed: u8) -> RawDocumentBuf {
    let (ns, uuid) = if seed & 0x80 == 0 { ("app.c", KEYED) } else { ("app.log", CAPPED) };
    let (id, n) = (i32::from(seed & 7), i32::from(seed >> 3));
    let column = |bytes: Vec<u8>, subtype| Binary { subtype, bytes };
    let nested = rawdoc! { "d": 1, "l": [1, { "m": 1 }] };
    let (op, o) = match kind {
        0 | 1 => ("i", rawdoc! { "_id": id, "a": n, "l": [1, [2], { "x": 3 }], "s": nested }),
        2 => ("i", rawdoc! { "_id": id, "b": column(vec![1; 9], BinarySubtype::Column) }),
        3 => ("i", rawdoc! { "_id": { "k": id }, "fill": "x".repeat(64 * usize::from(seed)) }),
        4 => ("d", rawdoc! { "_id": id }),
        5 => ("u", rawdoc! { "_id": f64::from(id), "whole": n }),
        6 => ("u", rawdoc! { "$v": 1, "$set": { "l.5": n, "s.d": n, "10": 1, "9": 2 } }),
        7 => ("u", rawdoc! { "$v": 1, "$unset": { "a": true, "l.0": true }, "$set": { "q.r": n } }),
        8 => (
            "u",
            rawdoc! { "$v": 2, "diff": { "d": { "a": false }, "u": { "b": n }, "i": { "c": n } } },
        ),
        9 => ("u", rawdoc! { "$v": 2, "diff": { "sl": { "a": true, "l": n, "u0": n } } }),
        10 => (
            "u",
            rawdoc! { "$v": 2, "diff": { "sl": { "a": true, "u1": 1, "s2": { "u": { "x": n } } } } },
        ),
        11 => (
            "u",
            rawdoc! { "$v": 2, "diff": { "ss": { "i": { "z": n }, "sl": { "a": true, "l": 1 } } } },
        ),
        12 => {
            let tail = column(vec![2; 5], BinarySubtype::Generic);
            ("u", rawdoc! { "$v": 2, "diff": { "b": { "b": { "o": n, "d": tail } } } })
        }
        13 => ("n", rawdoc! { "msg": "periodic noop" }),
        14 => ("xi", rawdoc! { "ik": 1 }),
        _ => ("i", rawdoc! { "_id": "text", "t": Timestamp { time: 0, increment: 0 } }),
    };
    let mut out = rawdoc! { "op": op, "ns": ns, "ui": Binary::from(uuid), "o": o };
    out.append(bson::raw::cstr!("o2"), rawdoc! { "_id": id });
    if kind == 7 {
        out.append(bson::raw::cstr!("b"), true);
    }
    out
}

fn command(kind: u8, seed: u8) -> RawDocumentBuf {
    let other = Uuid([seed & 3; 16]);
    let name = ["c", "d", "log", "system.views"][usize::from(seed & 3)];
    let full = format!("app.{name}");
    let build = |command: RawDocumentBuf| {
        let mut o = command;
        let specs: RawArrayBuf = [index("y"), index("z")].into_iter().collect();
        o.append(bson::raw::cstr!("indexBuildUUID"), Binary::from(Uuid([9; 16])));
        o.append(bson::raw::cstr!("indexes"), specs);
        o
    };
    let o = match kind {
        16 => rawdoc! { "create": name, "idIndex": index("_id_"), "collation": { "locale": "de" } },
        17 => rawdoc! { "create": name, "capped": true, "size": 4096, "autoIndexId": false },
        18 => {
            rawdoc! { "create": name, "clusteredIndex": true, "timeseries": { "timeField": "t" } }
        }
        19 => rawdoc! { "drop": name },
        20 => rawdoc! { "dropDatabase": 1 },
        21 => rawdoc! {
            "renameCollection": "app.c", "to": full, "stayTemp": false,
            "dropTarget": Binary::from(CAPPED),
        },
        22 => rawdoc! { "renameCollection": full, "to": "app.c", "dropTarget": false },
        23 => rawdoc! { "collMod": name, "validator": { "a": 1 }, "cappedMax": i32::from(seed) },
        24 => rawdoc! { "collMod": name, "index": { "name": "x", "hidden": true, "unique": true } },
        25 => rawdoc! { "collMod": name, "timeseries": { "granularity": "hours" } },
        26 => rawdoc! { "createIndexes": name, "v": 2, "key": { "q": 1 }, "name": "q" },
        27 => build(rawdoc! { "startIndexBuild": name }),
        28 => build(rawdoc! { "commitIndexBuild": name }),
        29 => build(rawdoc! { "abortIndexBuild": name }),
        30 => rawdoc! { "dropIndexes": name, "index": "y" },
        _ => rawdoc! { "emptycapped": name },
    };
    rawdoc! { "op": "c", "ns": "app.$cmd", "ui": Binary::from(other), "o": o }
}

fn transaction(kind: u8, seed: u8, previous: OpTime) -> RawDocumentBuf {
    let of = |n: u8| operation(seed.wrapping_mul(n) % TRANSACTIONS, seed ^ n, OpTime::NULL);
    let operations: RawArrayBuf = (1..=seed % 4).map(of).collect();
    let o = match kind {
        32 | 33 => rawdoc! { "applyOps": operations },
        34 => rawdoc! { "applyOps": operations, "partialTxn": true },
        35 => rawdoc! { "applyOps": operations, "prepare": true },
        36 => rawdoc! { "applyOps": operations, "count": i64::from(seed % 4) },
        37 => rawdoc! { "abortTransaction": 1 },
        _ => {
            let at = Timestamp::from(previous.ts);
            rawdoc! { "commitTransaction": 1, "commitTimestamp": at }
        }
    };
    let previous = if seed & 0x80 == 0 { previous } else { OpTime::NULL };
    let mut entry = rawdoc! {
        "op": "c", "ns": "admin.$cmd", "o": o, "lsid": { "id": 1 }, "txnNumber": 1_i64,
        "prevOpTime": { "ts": Timestamp::from(previous.ts), "t": previous.term },
    };
    if kind == 33 {
        entry.append(bson::raw::cstr!("multiOpType"), i32::from(seed >> 6));
    }
    entry
}
