//! Stored forms, the chain of slices, and the merging of pieces.

mod power;

use std::collections::{BTreeMap, BTreeSet};

use bson::{RawDocumentBuf, rawdoc};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::scan::merge;
use super::scan::progress::{Piece, Progress, RangeProgress};
use super::*;
use crate::block::{self, BlockRead as _, BlockWrite as _, Kind, MemoryBlocks};
use crate::head;
use crate::lab::ReplicaSet;
use crate::oplog::slice::{Slice, SliceHeader};
use crate::oplog::{OpTime, Position, Ts, Uuid};
use crate::source::{Arrival, Identity, Listed, Range, ReadFrom, Source, StartPoint};
use crate::store::fs::{FsError, Operation};
use crate::store::{self, RepositorySalt};
use crate::tree::{self, Content, Cursor, Order, Root, Shape};

const SALT: RepositorySalt = RepositorySalt([7; 32]);

fn optime(secs: u32) -> OpTime {
    OpTime { ts: Ts { secs, inc: 1 }, term: 3 }
}

fn at(secs: u32) -> Position {
    Position { optime: optime(secs), wall_ms: i64::from(secs) * 1000 }
}

fn identity() -> Identity {
    Identity {
        set_name: "rs0".to_owned(),
        replica_set_id: [5; 12],
        server_version: "6.0.5".to_owned(),
        fcv: "6.0".to_owned(),
    }
}

/// The slice that ends at `secs` and goes on from ten seconds before.
fn slice(blocks: &MemoryBlocks, secs: u32) -> Slice {
    let pieces = block::stream::write(blocks, &secs.to_le_bytes()).expect("put");
    let header = SliceHeader {
        prev: optime(secs - 10),
        first: at(secs - 9),
        last: at(secs),
        entries: 10,
        raw_bytes: 4,
        kinds: BTreeSet::from(["i".to_owned()]),
    };
    Slice { header, pieces }
}

fn chain(blocks: &MemoryBlocks, slices: u32) -> SliceChain {
    let mut chain = SliceChain::default();
    for number in 1..=slices {
        chain.push(blocks, SALT, slice(blocks, number * 10)).expect("push");
    }
    chain
}

fn manifest(secs: u32) -> head::Manifest {
    head::Manifest {
        id: format!("at {secs}"),
        head: head::HeadRoot {
            position: at(secs),
            consistent_from: Some(optime(1)),
            catalog: Root::default(),
            pending: None,
            content_root: [0; 32],
            documents: 0,
            logical_bytes: 0,
        },
        taken_ms: 0,
        set_name: "rs0".to_owned(),
        replica_set_id: [5; 12],
        fcv: "6.0".to_owned(),
        server_version: "6.0.5".to_owned(),
        rule_version: head::RULE_VERSION,
        added_bytes: 0,
        keep: false,
        scope: head::Scope::all(),
    }
}

fn ends(blocks: &MemoryBlocks, chain: &SliceChain) -> Vec<u32> {
    let mut ends = Vec::new();
    let mut each = |slice: Slice| {
        ends.push(slice.header.last.optime.ts.secs);
        Ok(())
    };
    chain.for_each(blocks, &mut each).expect("read");
    ends
}

#[test]
fn slices_are_found_and_expire_wherever_they_stand() {
    let blocks = MemoryBlocks::new();
    let mut chain = chain(&blocks, 100);
    assert_eq!(ends(&blocks, &chain), (1..=100).map(|number| number * 10).collect::<Vec<_>>());
    for from in [0, 1, 2, 500, 501, 502, 955, 985, 991, 992] {
        let found = chain.first_from(&blocks, Ts { secs: from, inc: 1 }).expect("read");
        let first = found.map(|slice| slice.header.first.optime.ts.secs);
        let expected = (1..=100).map(|number| number * 10 - 9).find(|first| *first >= from);
        assert_eq!(first, expected, "from {from}");
    }
    assert_eq!(chain.expire(&blocks, SALT, optime(305)).expect("expire"), 30);
    assert_eq!(ends(&blocks, &chain)[0], 310);
    assert_eq!(chain.expire(&blocks, SALT, optime(990)).expect("expire"), 69);
    assert_eq!(ends(&blocks, &chain), [1000]);
    assert_eq!(chain.count(), 1);
}

#[test]
fn a_rescan_cuts_off_what_its_slices_overlap() {
    let blocks = MemoryBlocks::new();
    for cut in [5, 305, 310, 311, 985, 1001] {
        let mut chain = chain(&blocks, 100);
        chain.cut_off(&blocks, SALT, optime(cut)).expect("cut off");
        let expected: Vec<u32> =
            (1..=100).map(|number| number * 10).filter(|end| *end < cut).collect();
        assert_eq!(ends(&blocks, &chain), expected, "cut at {cut}");
    }
}

#[test]
fn the_state_reads_back_and_names_all_its_blocks() {
    let blocks = MemoryBlocks::new();
    let mut state = State::new("orders".to_owned(), identity(), 1_700_000_000_000);
    let start = StartPoint { begin_fetch: optime(1), base: at(2) };
    state.scan = Some(ScanState { end: Some(at(9)), listed: true, ..ScanState::new(start) });
    state.received = Some(at(1000));
    state.slices = chain(&blocks, 100);
    let reason = "an entry of another kind".to_owned();
    state.stopped =
        Some(Stopped { reason: reason.clone(), after: Some(optime(990)), unknown_kind: true });
    let gap = |secs| Gap {
        namespaces: Vec::new(),
        after: at(secs),
        reason: reason.clone(),
        noticed_ms: 5,
    };
    let snapshots = [manifest(20), manifest(60)];
    for secs in [10, 40, 50, 70] {
        state.gaps.add(gap(secs), &snapshots);
    }
    let after: Vec<u32> = state.gaps.iter().map(|gap| gap.after.optime.ts.secs).collect();
    assert_eq!(after, [40, 70], "before every snapshot, and two with none between, tell nothing");
    state.oplog_window_secs = Some(3_600);
    let id = state.write(&blocks).expect("write");
    assert_eq!(State::read(&blocks, &id).expect("read"), state);
    let raw = blocks.get(&id).expect("block");
    let named = block::references(raw.kind, &raw.bytes).expect("links");
    assert!(named.contains(&state.slices.tree().top.expect("not empty")));
    let last = slice(&blocks, 1000).pieces[0];
    assert!(named.contains(&last), "pieces of slices beside the tree are named too");
    assert!(State::read(&blocks, &last).is_err(), "a block of another kind is refused");
}

/// A value of a user that looks like the name of a block must not keep one alive or be missed.
#[test]
fn progress_reads_back_and_users_values_name_no_block() {
    let blocks = MemoryBlocks::new();
    let trap = block::link(&blocks.put(Kind::Stream, b"trap").expect("put"));
    let listed = Listed {
        uuid: Uuid([9; 16]),
        ns: "shop.orders".to_owned(),
        options: rawdoc! { "note": "x".repeat(5_000), "trap": trap.clone() },
        indexes: vec![rawdoc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" }],
        building: Vec::new(),
        arrival: Arrival::ByCollation,
        documents_estimate: 12,
        bytes_estimate: 3_400,
    };
    let mut range = RangeProgress::new(Range {
        lower: Some(rawdoc! { "_id": trap.clone() }),
        upper: Some(rawdoc! { "_id": "u".repeat(2_000) }),
    });
    range.last_id = Some(rawdoc! { "_id": 4_i64 });
    let top = blocks.put(Kind::Leaf, rawdoc! { "_id": 1 }.as_bytes()).expect("put");
    let root = Root { top: Some(top), level: 0, documents: 1, bytes: 14 };
    range.pieces.push(Piece { root, rank: 2 });
    let progress = Progress { ranges: vec![range], ..Progress::new(listed) };
    let document = progress.to_bson(&blocks).expect("encode");
    let read = Progress::from_bson(&blocks, &document).expect("decode");
    assert_eq!(format!("{read:?}"), format!("{progress:?}"));
    assert_eq!(read.amount(), (1, 14));
    let named = block::references(Kind::Links, document.as_bytes()).expect("links");
    let trapped = block::linked((&trap).into()).expect("a name");
    assert!(named.contains(&top) && !named.contains(&trapped));
}

#[test]
fn pieces_in_any_order_merge_into_what_a_map_holds() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let blocks = MemoryBlocks::new();
    let shape = Shape::new(SALT, Order::Keyed, Content::Documents);
    let mut expected: BTreeMap<i32, RawDocumentBuf> = BTreeMap::new();
    let mut roots = Vec::new();
    for piece in 0..40 {
        let mut sorter = merge::Sorter::default();
        for number in 0..rng.random_range(0..60) {
            let id = rng.random_range(0..500);
            let document = rawdoc! { "_id": id, "piece": piece, "number": number };
            sorter.push(&document).expect("push");
            expected.insert(id, document);
        }
        roots.extend(sorter.finish(&blocks, &shape).expect("finish"));
    }
    let merged = merge::merge_all(&blocks, &shape, roots).expect("merge");
    let mut cursor = Cursor::new(&blocks, &merged);
    let mut found = Vec::new();
    while let Some(document) = cursor.next().expect("read") {
        found.push(document);
    }
    assert_eq!(found, expected.into_values().collect::<Vec<_>>(), "seed {seed}");
}

/// A store with one job that has nothing yet.
fn store_with_a_job(dir: &std::path::Path) -> Store {
    let store = Store::create(dir, store::Options::default()).expect("create");
    let state = State::new("orders".to_owned(), identity(), 1_700_000_000_000);
    let id = state.write(&store).expect("write");
    store.commit(|roots| _ = roots.insert("orders".to_owned(), id)).expect("commit");
    store
}

#[test]
fn what_others_add_is_not_counted() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = store_with_a_job(dir.path());
    let counted = counted::Counted::new(&store);
    let before = store.stats().added_bytes;
    counted.put(Kind::Leaf, b"mine").expect("put");
    let mine = store.stats().added_bytes - before;
    store.put(Kind::Leaf, b"of another").expect("put");
    counted.put(Kind::Leaf, b"of another").expect("put");
    assert_eq!(counted.added_bytes(), mine);
    assert!(mine > 0);
}

/// Two commands that open the same job must not undo each other's changes.
#[test]
fn a_change_over_another_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = store_with_a_job(dir.path());
    let open = || Job::open(store.clone(), None).expect("open");
    let (one, other) = (open(), open());
    let set = |job: &Job, bytes: u64| {
        let session = job.store().session();
        job.update(&session, |state| {
            state.added_bytes = bytes;
            Ok(())
        })
    };
    set(&one, 1).expect("the first change");
    let refused = set(&other, 2);
    assert!(matches!(refused, Err(Error::Overtaken { .. })), "{refused:?}");
    assert_eq!(open().state().added_bytes, 1);
    set(&one, 3).expect("a later change");
    assert_eq!(open().state().added_bytes, 3);
}

#[test]
fn a_full_disk_is_waited_out_however_deep_it_was_met() {
    let failed = |kind: std::io::ErrorKind| {
        let (operation, path) = (Operation::Allocate, "x".into());
        FsError { operation, path, source: kind.into() }
    };
    let disk = || failed(std::io::ErrorKind::StorageFull);
    let block = || block::Error::from(store::Error::from(disk()));
    let broken = failed(std::io::ErrorKind::PermissionDenied);
    for (error, transient) in [
        (Error::Store(disk().into()), true),
        (Error::Block(block()), true),
        (Error::Tree(block().into()), true),
        (Error::Head(tree::Error::from(block()).into()), true),
        (Error::Head(head::Error::Scratch(disk())), true),
        (Error::Store(broken.into()), false),
        (Error::Store(store::Error::Latched { cause: "x".to_owned() }), false),
    ] {
        assert_eq!(error.is_transient(), transient, "{error:?}");
    }
}

/// A process that ended between choosing where its scan starts and listing must not leave a scan that
/// reads members which have not come that far. No member ever comes as far as this one.
#[tokio::test]
async fn a_scan_goes_on_no_earlier_than_its_base() {
    let set = ReplicaSet::of(1).await.expect("a set");
    let source = Source::connect(&set.uri(), ReadFrom::default()).await.expect("connect");
    let dir = tempfile::tempdir().expect("a directory");
    let job =
        Job::open_or_create(&dir.path().join("store"), None, &source, false).await.expect("job");
    let newest = source.newest_majority().await.expect("newest");
    let mut base = newest;
    base.optime.ts.secs += 3600;
    let owner = job.clone();
    let begin = move || {
        let start = StartPoint { begin_fetch: newest.optime, base };
        owner.update(&owner.store().session(), |state| {
            state.scan = Some(ScanState::new(start));
            Ok(())
        })
    };
    blocking("test", "test", begin).await.expect("begin");
    let figures = Figures::default();
    let scan = scan::run(&job, &source, &figures);
    let ended = tokio::time::timeout(std::time::Duration::from_secs(5), scan).await;
    assert!(!matches!(ended, Ok(Ok(()))), "scanned a member that is before the base");
}

/// A head may lack what its filters name until what was scanned beside it is in it.
#[test]
fn no_snapshot_is_taken_of_a_head_beside_a_scan() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let store = store_with_a_job(folder.path());
    let job = Job::open(store, None).expect("open");
    let start = StartPoint { begin_fetch: optime(30), base: at(30) };
    let set = |scan: Option<ScanState>| {
        job.update(&job.store().session(), |state| {
            state.head = Some(manifest(20).head);
            state.scan = scan;
            Ok(())
        })
        .expect("committed");
        snapshot::take(&job)
    };
    let refused = set(Some(ScanState::new(start)));
    assert!(matches!(refused, Err(Error::NotConsistent { .. })), "{refused:?}");
    set(None).expect("a snapshot");
}

/// Who asks an applier that was stopped meanwhile, as a new scan does, must not wait for ever.
#[tokio::test]
async fn an_applier_that_has_ended_keeps_nobody_waiting() {
    let machine = power::Machine::new();
    let job = power::World::new(1).begin(&machine).expect("a job with a head");
    let (_sender, received) = tokio::sync::watch::channel(None);
    let applier = apply::Applier::start(job.clone(), Figures::default(), received);
    applier.stop(&job).await.expect("stop");
    let asked = applier.snapshot(&job, OpTime::NULL);
    let answer = tokio::time::timeout(std::time::Duration::from_secs(20), asked).await;
    assert!(matches!(answer.expect("an answer"), Err(Error::Interrupted { .. })));
}

/// A slice that has what a snapshot is to have ends at once, and not when its time is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_waits_for_no_slice() {
    let set = ReplicaSet::of(1).await.expect("a set");
    let source = Source::connect(&set.uri(), ReadFrom::default()).await.expect("connect");
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("store");
    let job = Job::open_or_create(&path, None, &source, false).await.expect("job");
    let follow = Follow::start(job, source, FollowOptions::default()).await.expect("started");
    follow.snapshot().await.expect("of the initial sync");
    let written = set.client().database("shop").collection::<bson::Document>("orders");
    let mut least = tail::SLICE_TIME;
    // This machine may be slow at one time or another.
    for _ in 0..5 {
        written.insert_one(bson::doc! {}).await.expect("insert");
        let asked = tokio::time::Instant::now();
        follow.snapshot().await.expect("a snapshot");
        least = least.min(asked.elapsed());
    }
    follow.stop().await.expect("stopped");
    assert!(least < tail::SLICE_TIME / 2, "{least:?}");
}
