//! The bounds that a tree keeps whatever it is given.

use super::*;
use crate::block::MAX_BLOCK_BYTES;

/// Blocks that note the largest and how many were new.
#[derive(Default)]
struct Measured {
    inner: MemoryBlocks,
    largest: AtomicUsize,
}

impl BlockRead for Measured {
    fn get(&self, id: &BlockId) -> Result<Block, block::Error> {
        self.inner.get(id)
    }

    fn kind_of(&self, id: &BlockId) -> Result<Option<Kind>, block::Error> {
        self.inner.kind_of(id)
    }
}

impl BlockWrite for Measured {
    fn put(&self, kind: Kind, raw: &[u8]) -> Result<BlockId, block::Error> {
        self.largest.fetch_max(raw.len(), Relaxed);
        self.inner.put(kind, raw)
    }
}

/// Every block that can be reached from a root by the block floor's rule.
fn reachable(blocks: &MemoryBlocks, root: &Root) -> std::collections::HashSet<BlockId> {
    let (mut seen, mut next) = (std::collections::HashSet::new(), Vec::from_iter(root.top));
    while let Some(id) = next.pop() {
        if seen.insert(id) {
            let block = blocks.get(&id).expect("a reachable block is there");
            next.extend(block::references(block.kind, &block.bytes).expect("references"));
        }
    }
    seen
}

#[test]
fn equal_hashes_keep_leaves_and_nodes_bounded() {
    for hash in [0, u64::MAX] {
        for shape in [keyed(), positional()] {
            let shape = shape.with_constant_hash(hash);
            let blocks = Measured::default();
            let documents: Vec<_> = (0..60_000).map(|id| document(id, 20, 'h')).collect();
            let root = build(&blocks, &shape, &documents);
            // A chunk ends at 64 KiB at the latest, so a small document makes none longer by much.
            assert!(blocks.largest.load(Relaxed) < (64 << 10) + 8192);
            let (count, bytes) = blocks.inner.size();
            assert!(bytes / count as u64 > 1000, "{bytes} bytes in {count} blocks");
            assert!(root.level <= 4, "{root:?}");
        }
    }
}

#[test]
fn the_largest_documents_and_ids_keep_blocks_bounded() {
    let (blocks, shape) = (Measured::default(), keyed());
    let longest = 16 << 20;
    let mut model = Model::new();
    for number in 0..3 {
        // Alike but for their end; zero bytes are the worst case of the encoding of strings.
        let id = format!("{}{number}", "\0".repeat(longest - 64));
        insert(&mut model, document(id, 1, 'l'));
        insert(&mut model, document(number, longest, 'l'));
        insert(&mut model, document(f64::from(number) + 0.5, 10, 'l'));
        insert(&mut model, document(format!("s{number}"), 512 << 10, 'l'));
    }
    let root = build(&blocks, &shape, model.values());
    assert!(blocks.largest.load(Relaxed) <= MAX_BLOCK_BYTES);
    assert!(blocks.largest.load(Relaxed) <= PART_BYTES, "{:?}", blocks.largest);
    check(&blocks.inner, &shape, &root);
    assert!(contents(&blocks.inner, &root).iter().eq(model.values()));
    for (key, document) in &model {
        assert_eq!(get(&blocks, &root, key).unwrap().as_ref(), Some(document));
    }
    assert_eq!(reachable(&blocks.inner, &root).len(), blocks.inner.size().0);

    // Take one long id away and put it back: the others' separators follow.
    let (key, gone) = model.iter().rev().nth(1).map(|(k, d)| (k.clone(), d.clone())).unwrap();
    let without = apply(&blocks.inner, &shape, &root, vec![(key.clone(), Edit::Delete)]);
    let mut smaller = model.clone();
    smaller.remove(&key);
    assert_eq!(without, build(&blocks, &shape, smaller.values()));
    assert_eq!(apply(&blocks.inner, &shape, &without, vec![(key, Edit::Put(gone))]), root);
}

#[test]
fn documents_above_the_limits_are_refused() {
    let blocks = MemoryBlocks::new();
    let mut builder = Builder::new(&blocks, &keyed());
    let refused = builder.push(&document(1, MAX_DOCUMENT_BYTES, 'l'));
    assert!(matches!(refused, Err(Error::DocumentTooLarge { .. })));
    // Parts name no blocks, so a tree of our own documents has none.
    let links = Shape::new(SALT, Order::Keyed, Content::Links);
    let mut builder = Builder::new(&blocks, &links);
    let refused = builder.push(&document(1, PART_BYTES, 'l'));
    assert!(matches!(refused, Err(Error::DocumentTooLarge { limit: PART_BYTES, .. })));
}

#[test]
fn trees_of_links_name_what_their_documents_name() {
    let blocks = MemoryBlocks::new();
    let shape = Shape::new(SALT, Order::Keyed, Content::Links);
    let named: Vec<BlockId> =
        (0..900_u32).map(|n| blocks.put(Kind::Stream, &n.to_le_bytes()).unwrap()).collect();
    let mut builder = Builder::new(&blocks, &shape);
    for (number, id) in named.iter().enumerate() {
        let document = doc! { "_id": number as i32, "link": block::link(id) };
        builder.push(&RawDocumentBuf::try_from(&document).unwrap()).unwrap();
    }
    let root = builder.finish().unwrap();
    check(&blocks, &shape, &root);
    assert!(matches!(verify(&blocks, &keyed(), &root, &mut |_| {}), Err(Error::Malformed { .. })));
    let reached = reachable(&blocks, &root);
    assert!(named.iter().all(|id| reached.contains(id)));
}

#[test]
fn an_edit_beside_hostile_keys_rewrites_little() {
    // Keys chosen, as an attacker who knew the salt could, so that no hash ever asks for a cut.
    let shape = keyed();
    let never = |id: &i32| {
        let document = document(*id, 60, 'h');
        shape.hash(0, Key::of_document(&document).unwrap().as_bytes()) > u64::MAX / 2
    };
    let mut model = Model::new();
    (0..60_000).filter(never).take(20_000).for_each(|id| insert(&mut model, document(id, 60, 'h')));
    let blocks = MemoryBlocks::new();
    let root = build(&blocks, &shape, model.values());
    let (before, _) = blocks.size();
    let key = model.keys().nth(3).unwrap().clone();
    let edited = apply(&blocks, &shape, &root, vec![(key, Edit::Delete)]);
    let (after, _) = blocks.size();
    assert!(after - before < 40, "{} blocks rewritten", after - before);
    check(&blocks, &shape, &edited);
}
