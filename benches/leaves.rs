//! How large leaves should be: what is stored, and how fast, by the size of documents and of leaves, with a dictionary and
//! without. Prints the table that stands in `benches/leaves.md`.
//!
//! Each round replaces one part in a hundred of the documents, chosen at random, and keeps what was before: what is stored
//! after it is what that many snapshots take.

mod common;

use std::time::Duration;

use bson::RawDocumentBuf;
use common::{bytes_of, megabytes_per_second, order, sized, timed};
use headstock::block::BlockWrite;
use headstock::store::{Options, Store};
use headstock::tree::{self, Builder, Content, Edit, Key, Order, Root, Shape};
use rand::rngs::StdRng;
use rand::seq::index::sample;
use rand::{Rng as _, SeedableRng as _};

const KIB: u64 = 1 << 10;
const LEAVES: [u64; 3] = [4 * KIB, 8 * KIB, 16 * KIB];
/// Lines of the orders: documents of about 200 B, 1 KB and 8 KB.
const LINES: [usize; 3] = [1, 10, 95];
const ROUNDS: usize = 20;
/// Documents read one by one.
const READS: u32 = 2_000;
const FAMILY: [u8; 16] = [9; 16];
/// What a block takes beside its record: its places in a footer and in the index.
const PLACES_BYTES: u64 = 2 * 48;

/// One line of the table.
struct Line {
    stored: [u64; 4],
    ingest: f64,
    read: Duration,
}

fn main() {
    println!(
        "| documents | leaves | dictionary | stored | ratio | after 1 round | after 5 | after 20 | ingest | point read |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    let bytes = u64::from(sized(64, 24)) << 20;
    for lines in LINES {
        let mut rng = StdRng::seed_from_u64(1);
        let each = order(&mut rng, 0, lines).as_bytes().len() as u64;
        let documents: Vec<_> =
            (0..(bytes / each) as u32).map(|n| order(&mut rng, n, lines)).collect();
        for leaves in LEAVES {
            for with in [false, true] {
                let line = measure(&documents, lines, leaves, with);
                let mb = |bytes: u64| bytes as f64 / 1e6;
                let raw = bytes_of(&documents);
                let mean = raw / documents.len() as u64;
                println!(
                    "| {mean} B | {} KiB | {} | {:.1} MB | {:.2} | {:.1} MB | {:.1} MB | {:.1} MB | {:.0} MB/s | {:.0} us |",
                    leaves / KIB,
                    if with { "yes" } else { "no" },
                    mb(line.stored[0]),
                    raw as f64 / line.stored[0] as f64,
                    mb(line.stored[1]),
                    mb(line.stored[2]),
                    mb(line.stored[3]),
                    line.ingest,
                    line.read.as_secs_f64() * 1e6,
                );
            }
        }
    }
}

fn measure(documents: &[RawDocumentBuf], lines: usize, leaves: u64, with: bool) -> Line {
    let folder = tempfile::tempdir().expect("temporary folder");
    let store = Store::create(&folder.path().join("store"), Options::default()).expect("store");
    let shape = Shape::new(store.salt(), Order::Keyed, Content::Documents).with_leaves_of(leaves);
    let raw = bytes_of(documents);
    let family = |trees: &[Root]| {
        let family = tree::family(&store, FAMILY, raw, trees);
        // Where it is of no use, there is none.
        family.filter(|_| with).unwrap_or_else(|| Box::new(store.clone()))
    };
    let (mut root, took) = timed(|| build(&*family(&[]), &shape, documents));
    let on_disk = || {
        let stats = store.stats();
        stats.added_bytes + stats.blocks * PLACES_BYTES
    };
    let mut stored = [on_disk(); 4];
    let mut rng = StdRng::seed_from_u64(2);
    for round in 1..=ROUNDS {
        root = replace(&*family(&[root]), &shape, &root, documents.len(), lines, &mut rng);
        let at = [1, 5, 20].iter().position(|one| *one == round);
        at.into_iter().for_each(|at| stored[at + 1] = on_disk());
    }
    store.commit(|_| {}).expect("commit");
    let ((), reads) = timed(|| {
        for _ in 0..READS {
            let id = rng.random_range(0..documents.len() as i64);
            let key = Key::of_document(&bson::rawdoc! { "_id": id }).expect("a key");
            assert!(tree::get(&store, &root, &key).expect("read").is_some());
        }
    });
    Line { stored, ingest: megabytes_per_second(raw, took), read: reads / READS }
}

fn build(blocks: &dyn BlockWrite, shape: &Shape, documents: &[RawDocumentBuf]) -> Root {
    let mut builder = Builder::new(blocks, shape);
    documents.iter().for_each(|document| builder.push(document).expect("push"));
    builder.finish().expect("finish")
}

fn replace(
    blocks: &dyn BlockWrite,
    shape: &Shape,
    root: &Root,
    count: usize,
    lines: usize,
    rng: &mut StdRng,
) -> Root {
    let mut chosen: Vec<usize> = sample(rng, count, count / 100).into_iter().collect();
    chosen.sort_unstable();
    let mut edits = chosen.into_iter().map(|n| {
        let document = order(rng, n as u32, lines);
        Ok((Key::of_document(&document)?, Edit::Put(document)))
    });
    tree::edit(blocks, shape, root, &mut edits).expect("edit")
}
