//! What a tree has that another has not, by its blocks.

use std::collections::BTreeSet;

use crate::block::references;

use super::*;

/// Every block of a tree, by the names in its blocks.
fn blocks_of(blocks: &MemoryBlocks, root: &Root) -> BTreeSet<BlockId> {
    let mut found = BTreeSet::new();
    let mut open: Vec<BlockId> = root.top.into_iter().collect();
    while let Some(id) = open.pop() {
        if found.insert(id) {
            let block = blocks.get(&id).expect("a block");
            open.extend(references(block.kind, &block.bytes).expect("references"));
        }
    }
    found
}

fn told(blocks: &MemoryBlocks, new: &Root, old: &Root) -> Vec<BlockId> {
    let mut told = Vec::new();
    fresh(blocks, new, old, &mut |id| {
        told.push(id);
        Ok::<_, Error>(())
    })
    .expect("fresh");
    told
}

/// From one content to another by random changes of documents small, large and in parts, with separators out of line: nothing that the
/// old tree lacks is left out, little is told that it has, and against nothing all is told.
#[test]
fn nothing_that_the_other_tree_lacks_is_left_out() {
    let (blocks, mut random) = (MemoryBlocks::default(), 7_u64);
    let mut next = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) % below
    };
    let mut content: BTreeMap<u64, (usize, char)> = (0..6000).map(|n| (n, (90, 'a'))).collect();
    let id = |number: u64| match number % 2000 {
        0 => Bson::String(format!("{}{number:05}", "k".repeat(700))),
        _ => Bson::Int64(number as i64),
    };
    let made = |content: &BTreeMap<u64, (usize, char)>| {
        let mut model = Model::new();
        content.iter().for_each(|(number, (size, letter))| {
            insert(&mut model, document(id(*number), *size, *letter));
        });
        build(&blocks, &keyed(), model.values())
    };
    let mut old = made(&content);
    let all = told(&blocks, &old, &Root::default());
    assert_eq!(BTreeSet::from_iter(all), blocks_of(&blocks, &old));
    for round in 0..40 {
        for _ in 0..next(12) {
            let size = [0, 90, 9000, 1_200_000][next(4) as usize];
            content.insert(next(6500), (size, char::from(b'b' + next(20) as u8)));
        }
        if round % 10 == 9 {
            content = content.split_off(&next(1000));
        }
        let new = made(&content);
        let told = told(&blocks, &new, &old);
        let (has, had) = (blocks_of(&blocks, &new), blocks_of(&blocks, &old));
        let told_set: BTreeSet<BlockId> = told.iter().copied().collect();
        assert!(told_set.is_superset(&(&has - &had)), "round {round}");
        assert!(told_set.is_subset(&has), "round {round}");
        let needless = told_set.intersection(&had).count();
        assert!(needless <= 2 + told.len() / 4, "round {round}: {needless} of {}", told.len());
        old = new;
    }
    assert!(told(&blocks, &old, &old).is_empty());
    assert!(told(&blocks, &Root::default(), &old).is_empty());
}

/// A tree that is larger than what is compared became a single leaf, which is told.
#[test]
fn a_large_tree_that_became_small_tells_its_new_leaf() {
    use super::super::node::{Entry, Separator, encode};
    let blocks = MemoryBlocks::default();
    let leaf = |number: u32| BlockId::from_bytes(*blake3::hash(&number.to_le_bytes()).as_bytes());
    let entry = |child: BlockId, documents: u64| Entry {
        child: Some(child),
        parts: Vec::new(),
        documents,
        bytes: documents * 100,
        separator: Separator::Inline(Vec::new()),
    };
    // 140,000 leaves: half a GB of documents. No leaf is read.
    let nodes: Vec<Entry> = (0..10_u32)
        .map(|node| {
            let leaves: Vec<Entry> =
                (0..14_000_u32).map(|n| entry(leaf(node * 14_000 + n), 1)).collect();
            let raw = encode(Order::Keyed, Content::Documents, 1, &leaves);
            entry(blocks.put(Kind::Node, &raw).expect("put"), 14_000)
        })
        .collect();
    let top = encode(Order::Keyed, Content::Documents, 2, &nodes);
    let top = blocks.put(Kind::Node, &top).expect("put");
    let old = Root { top: Some(top), level: 2, documents: 140_000, bytes: 14_000_000 };
    let new = leaf(9_999_999);
    let new = Root { top: Some(new), level: 0, documents: 1, bytes: 100 };
    assert_eq!(told(&blocks, &new, &old), vec![new.top.expect("a leaf")]);
}
