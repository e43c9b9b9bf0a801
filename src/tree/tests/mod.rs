//! Tests of the floor: what every file of them uses.

mod capped;
mod damage;
mod edits;
mod fresh;
mod hostile;
mod measures;
mod pieces;
mod reading;
mod vectors;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use bson::{Bson, RawDocument, RawDocumentBuf, doc};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::*;
use crate::block::{self, Block, BlockId, BlockRead, BlockWrite, Kind, MemoryBlocks};
use crate::store::RepositorySalt;

const SALT: RepositorySalt = RepositorySalt([7; 32]);

fn keyed() -> Shape {
    Shape::new(SALT, Order::Keyed, Content::Documents)
}

fn positional() -> Shape {
    Shape::new(SALT, Order::Positional, Content::Documents)
}

/// A document with that `_id` and a string of `size` letters.
fn document(id: impl Into<Bson>, size: usize, letter: char) -> RawDocumentBuf {
    let document = doc! { "_id": id.into(), "v": letter.to_string().repeat(size) };
    RawDocumentBuf::try_from(&document).expect("a document")
}

/// Blocks in memory that count how often they are read and how many are new.
#[derive(Default)]
struct Counting {
    inner: MemoryBlocks,
    reads: AtomicUsize,
}

impl BlockRead for Counting {
    fn get(&self, id: &BlockId) -> Result<Block, block::Error> {
        self.reads.fetch_add(1, Relaxed);
        self.inner.get(id)
    }

    fn kind_of(&self, id: &BlockId) -> Result<Option<Kind>, block::Error> {
        self.inner.kind_of(id)
    }
}

impl BlockWrite for Counting {
    fn put(&self, kind: Kind, raw: &[u8]) -> Result<BlockId, block::Error> {
        self.inner.put(kind, raw)
    }
}

/// What a keyed tree should hold.
type Model = BTreeMap<Key, RawDocumentBuf>;

fn insert(model: &mut Model, document: RawDocumentBuf) {
    model.insert(Key::of_document(&document).expect("a key"), document);
}

fn build<'d>(
    blocks: &dyn BlockWrite,
    shape: &Shape,
    documents: impl IntoIterator<Item = &'d RawDocumentBuf>,
) -> Root {
    let mut builder = Builder::new(blocks, shape);
    for document in documents {
        builder.push(document).expect("push");
    }
    builder.finish().expect("finish")
}

/// Every document of a tree, read through a cursor.
fn contents(blocks: &MemoryBlocks, root: &Root) -> Vec<RawDocumentBuf> {
    let mut cursor = Cursor::new(blocks, root);
    std::iter::from_fn(|| cursor.next().expect("next")).collect()
}

fn check(blocks: &MemoryBlocks, shape: &Shape, root: &Root) {
    verify(blocks, shape, root, &mut |_| {}).expect("verify");
}

fn apply(blocks: &MemoryBlocks, shape: &Shape, root: &Root, edits: Vec<(Key, Edit)>) -> Root {
    edit(blocks, shape, root, &mut edits.into_iter().map(Ok)).expect("edit")
}

/// A runner whose seed is printed, and taken from `TREE_SEED` if that is set.
pub(super) fn runner(cases: u32) -> TestRunner {
    let seed: u64 = match std::env::var("TREE_SEED") {
        Ok(seed) => seed.parse().expect("TREE_SEED is a number"),
        Err(_) => rand::random(),
    };
    println!("TREE_SEED={seed}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new_with_rng(config, rng)
}
