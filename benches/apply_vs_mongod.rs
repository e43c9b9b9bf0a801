//! Applying oplog entries beside a mongod that replays the same entries by `applyOps`, in one run: small
//! `$set` updates over many documents, inserts, transactions; and a point in time that lies so many
//! updates after a snapshot, as a restore makes it.
//!
//! The mongod is a stand-alone one, which writes no oplog of its own, on one connection, as a replaying
//! tool would use it.

mod common;

use std::sync::Arc;
use std::time::Duration;

use bson::raw::{RawArrayBuf, cstr};
use bson::spec::BinarySubtype;
use bson::{Binary, RawDocumentBuf, Timestamp, rawdoc};
use common::{bytes_of, position, sized, store, timed};
use headstock::block::stream;
use headstock::head::{Head, Manifest, RULE_VERSION, Scope};
use headstock::lab::{Options, Standalone};
use headstock::oplog::OpTime;
use headstock::oplog::slice::{Slice, SliceBuilder};
use headstock::restore::{At, Backup, Cancel, Silent, View};
use headstock::store::Store;
use headstock::tree::Cursor;
use md5::{Digest as _, Md5};
use mongodb::Client;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// Operations in one `applyOps` command: enough to hide the round trip.
const OPERATIONS_PER_COMMAND: usize = 1_000;
/// Operations in one transaction.
const OPERATIONS_PER_TRANSACTION: u32 = 10;
/// Entries in one slice.
const ENTRIES_PER_SLICE: usize = 20_000;
/// How many times the server's rate is aimed at.
const AIM: f64 = 10.0;

/// A document of about 200 bytes.
fn small(rng: &mut StdRng, n: u32) -> RawDocumentBuf {
    rawdoc! {
        "_id": i64::from(n),
        "customer": rng.random_range(0..100_000),
        "status": "open",
        "total": rng.random_range(0.0..10_000.0),
        "address": { "street": "Lathe Road", "zip": rng.random_range(0..99_999) },
        "note": format!("{:032x}{:032x}", rng.random::<u128>(), rng.random::<u128>()),
    }
}

/// An operation as it stands in an entry or in an applyOps, without its collection's UUID.
fn operation(kind: u8, id: i64, rng: &mut StdRng) -> RawDocumentBuf {
    let (op, o) = match kind {
        0 => {
            let set = rawdoc! { "status": "paid", "total": rng.random_range(0.0..1e4) };
            ("u", rawdoc! { "$v": 2, "diff": { "u": set } })
        }
        1 => ("i", small(rng, u32::try_from(id).expect("a number"))),
        _ => ("d", rawdoc! { "_id": id }),
    };
    let mut out = rawdoc! { "op": op, "ns": common::NAMESPACE, "o": o };
    if op != "d" {
        out.append(cstr!("o2"), rawdoc! { "_id": id });
    }
    out
}

fn with_uuid(operation: &RawDocumentBuf) -> RawDocumentBuf {
    let mut out = operation.clone();
    let bytes = common::UUID.0.to_vec();
    out.append(cstr!("ui"), Binary { subtype: BinarySubtype::Uuid, bytes });
    out
}

fn entry(mut body: RawDocumentBuf, n: u32) -> RawDocumentBuf {
    let at = position(n);
    body.append(cstr!("ts"), Timestamp::from(at.optime.ts));
    body.append(cstr!("t"), at.optime.term);
    body.append(cstr!("v"), 2_i64);
    body.append(cstr!("wall"), bson::DateTime::from_millis(at.wall_ms));
    body
}

/// One kind of load: the operations for the server, and the entries for us.
struct Load {
    name: &'static str,
    operations: Vec<RawDocumentBuf>,
    entries: Vec<RawDocumentBuf>,
}

impl Load {
    fn single(name: &'static str, from: u32, operations: Vec<RawDocumentBuf>) -> Self {
        let entries = operations.iter().zip(from..);
        let entries = entries.map(|(one, n)| entry(with_uuid(one), n)).collect();
        Self { name, operations, entries }
    }

    fn transactions(name: &'static str, from: u32, operations: Vec<RawDocumentBuf>) -> Self {
        let groups = operations.chunks(OPERATIONS_PER_TRANSACTION as usize).zip(from..);
        let entries = groups.map(|(group, n)| {
            let inner: RawArrayBuf = group.iter().map(with_uuid).collect();
            let body = rawdoc! {
                "op": "c", "ns": "admin.$cmd", "o": { "applyOps": inner },
                "lsid": { "id": i64::from(n) }, "txnNumber": 1_i64,
                "prevOpTime": { "ts": Timestamp { time: 0, increment: 0 }, "t": -1_i64 },
            };
            entry(body, n)
        });
        Self { name, entries: entries.collect(), operations }
    }
}

fn loads(documents: u32) -> Vec<Load> {
    let mut rng = StdRng::seed_from_u64(5);
    let count = documents;
    let any = |rng: &mut StdRng| i64::from(rng.random_range(0..documents));
    let mut update = |_| {
        let id = any(&mut rng);
        operation(0, id, &mut rng)
    };
    let updates: Vec<_> = (0..count).map(&mut update).collect();
    let mut from = 1;
    let first = Load::single("small $set", from, updates);
    from += count;
    let new = |n: u32| i64::from(documents + n);
    let inserts: Vec<_> = (0..count).map(|n| operation(1, new(n), &mut rng)).collect();
    let second = Load::single("inserts", from, inserts);
    from += count;
    let mixed = (0..count).map(|n| match n % OPERATIONS_PER_TRANSACTION {
        0..3 => operation(1, new(count + n), &mut rng),
        3..9 => {
            let id = any(&mut rng);
            operation(0, id, &mut rng)
        }
        _ => operation(2, new(count + n - 9), &mut rng),
    });
    vec![first, second, Load::transactions("transactions of ten", from, mixed.collect())]
}

fn line(what: &str, count: usize, took: Duration) -> f64 {
    let rate = count as f64 / took.as_secs_f64();
    println!(
        "{what:<44} {count:>9} operations {:>7.2} s {rate:>10.0} a second",
        took.as_secs_f64()
    );
    rate
}

async fn replay(client: &Client, operations: &[RawDocumentBuf]) {
    for part in operations.chunks(OPERATIONS_PER_COMMAND) {
        let operations: RawArrayBuf = part.iter().cloned().collect();
        let mut command = rawdoc! { "applyOps": operations };
        command.append(cstr!("writeConcern"), rawdoc! { "w": 1 });
        client.database("admin").run_raw_command(command).await.expect("applyOps");
    }
}

/// The backup of a job whose newest snapshot is `head`'s root and which holds these entries after it.
fn backup(store: &Store, root: headstock::head::HeadRoot, entries: &[RawDocumentBuf]) -> Backup {
    let at = root.position;
    let manifest = Manifest {
        id: Manifest::new_id(at.optime.ts),
        head: root,
        taken_ms: at.wall_ms,
        set_name: "bench".to_owned(),
        replica_set_id: [0; 12],
        fcv: "6.0".to_owned(),
        server_version: "6.0.5".to_owned(),
        rule_version: RULE_VERSION,
        added_bytes: 0,
        keep: false,
        scope: Scope::all(),
    };
    let (mut slices, mut prev): (Vec<Slice>, OpTime) = (Vec::new(), at.optime);
    for part in entries.chunks(ENTRIES_PER_SLICE) {
        let mut builder = SliceBuilder::new(prev);
        for entry in part {
            builder.push(entry).expect("the next entry");
        }
        let (header, bytes) = builder.finish().expect("entries");
        prev = header.last.optime;
        slices.push(Slice { header, pieces: stream::write(store, &bytes).expect("blocks") });
    }
    Backup {
        repository: Arc::new(store.clone()),
        job: "bench".to_owned(),
        snapshots: vec![manifest],
        slices,
        gaps: Vec::new(),
    }
}

/// md5 over the documents by `_id`, as the server computes it.
async fn server_md5(client: &Client) -> String {
    let (database, name) = common::NAMESPACE.split_once('.').expect("a namespace");
    let command = rawdoc! { "dbHash": 1, "collections": [name] };
    let reply = client.database(database).run_raw_command(command).await.expect("dbHash");
    let hashes = reply.get_document("collections").expect("collections");
    hashes.get_str(name).expect("an md5").to_owned()
}

fn our_md5(store: &Store, head: &Head) -> String {
    let mut md5 = Md5::new();
    let mut cursor = Cursor::new(store, &head.collections()[0].root);
    while let Some(run) = cursor.next_run().expect("readable") {
        md5.update(&run);
    }
    md5.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let count = sized(1_000_000, 10_000);
    let mut rng = StdRng::seed_from_u64(4);
    let documents: Vec<_> = (0..count).map(|n| small(&mut rng, n)).collect();
    println!("{count} documents, {:.0} MB", bytes_of(&documents) as f64 / 1e6);
    let options = Options { cache_gb: 2.0, ..Options::default() };
    let server = runtime.block_on(Standalone::start(&options)).expect("a server");
    let (database, name) = common::NAMESPACE.split_once('.').expect("a namespace");
    let collection = server.client().database(database).collection::<RawDocumentBuf>(name);
    for part in documents.chunks(10_000) {
        runtime.block_on(async { collection.insert_many(part).await.expect("insert") });
    }

    let (_folder, store) = store();
    let mut head = common::head(&store, &documents);
    let root = head.flush(&store).expect("flush");
    store.commit(|_| {}).expect("commit");
    drop(documents);
    let loads = loads(count);
    let mut ratios = Vec::new();
    for (number, load) in loads.iter().enumerate() {
        let ((), took) = timed(|| runtime.block_on(replay(server.client(), &load.operations)));
        let theirs = line(&format!("mongod applyOps, {}", load.name), load.operations.len(), took);
        if number == 0 {
            let backup = backup(&store, root.clone(), &load.entries);
            let last = position(count).optime.ts;
            let open = || View::open(backup, &At::Exact(last), &Silent, &Cancel::new());
            let (view, took) = timed(|| open().expect("a point"));
            assert_eq!(view.optime().ts, last);
            let ours = line("point in time after a snapshot", load.operations.len(), took);
            ratios.push(("point in time", ours / theirs));
        }
        let ((), took) = timed(|| {
            load.entries.iter().for_each(|entry| head.apply(entry).expect("apply"));
            head.flush(&store).expect("flush");
            store.commit(|_| {}).expect("commit");
        });
        let ours = line(&format!("applied into trees, {}", load.name), load.operations.len(), took);
        ratios.push((load.name, ours / theirs));
    }
    assert_eq!(runtime.block_on(server_md5(server.client())), our_md5(&store, &head));
    for (name, ratio) in ratios {
        println!("{name}: {ratio:.1} times the rate of the server (aim {AIM:.0})");
    }
}
