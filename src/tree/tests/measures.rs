//! What trees cost: figures are printed, and bounds on them held.

use std::collections::HashSet;
use std::time::Instant;

use bson::oid::ObjectId;
use rand::rngs::StdRng;
use rand::seq::index::sample;
use rand::{Rng, SeedableRng};

use super::*;

/// 1 KB documents under ObjectIds as a driver makes them.
fn orders(count: u32, random: &mut StdRng) -> Vec<RawDocumentBuf> {
    let one = |n: u32, random: &mut StdRng| {
        let mut id = [9; 12];
        id[..4].copy_from_slice(&(1_700_000_000 + n / 50).to_be_bytes());
        id[9..].copy_from_slice(&n.to_be_bytes()[1..]);
        let payload: String = (0..980).map(|_| random.random_range('a'..='z')).collect();
        RawDocumentBuf::try_from(&doc! { "_id": ObjectId::from_bytes(id), "v": payload }).unwrap()
    };
    (0..count).map(|n| one(n, random)).collect()
}

/// The leaves of a tree.
fn leaves(blocks: &MemoryBlocks, root: &Root) -> HashSet<BlockId> {
    let mut found = HashSet::new();
    let mut next: Vec<(BlockId, u8)> = root.top.map(|top| (top, root.level)).into_iter().collect();
    while let Some((id, level)) = next.pop() {
        if level == 0 {
            found.insert(id);
            continue;
        }
        let node = read::node(blocks, &id, level).unwrap();
        next.extend(node.entries.iter().filter_map(|entry| Some((entry.child?, level - 1))));
    }
    found
}

#[test]
fn small_changes_cost_little() {
    let mut random = StdRng::seed_from_u64(11);
    let (blocks, shape) = (MemoryBlocks::new(), keyed());
    let mut documents = orders(20_000, &mut random);
    let raw: usize = documents.iter().map(|document| document.as_bytes().len()).sum();
    let clock = Instant::now();
    let root = build(&blocks, &shape, &documents);
    let rate = raw as f64 / 1e6 / clock.elapsed().as_secs_f64();
    let whole = leaves(&blocks, &root);
    let mean = raw / whole.len();
    println!("build {rate:.0} MB/s, {} leaves of {mean} bytes, {root:?}", whole.len());
    assert!((3000..4500).contains(&mean), "{mean}");

    // One document in a hundred gets another value of the same length.
    let touched: Vec<usize> =
        sample(&mut random, documents.len(), documents.len() / 100).into_vec();
    let mut edits = BTreeMap::new();
    for index in &touched {
        let mut raw = documents[*index].as_bytes().to_vec();
        let end = raw.len() - 2;
        raw[end - 1] ^= 1;
        let changed = RawDocumentBuf::from_bytes(raw).unwrap();
        edits.insert(Key::of_document(&changed).unwrap(), Edit::Put(changed.clone()));
        documents[*index] = changed;
    }
    let changed = apply(&blocks, &shape, &root, edits.into_iter().collect());
    let new_leaves = leaves(&blocks, &changed).difference(&whole).count();
    let mut cursor = Cursor::new(&blocks, &root);
    let mut ends = Vec::new();
    while let Some(run) = cursor.next_run().unwrap() {
        ends.push(ends.last().unwrap_or(&0) + run.len());
    }
    let position = |index: usize| index * (raw / documents.len()) + 1;
    let holding: HashSet<usize> =
        touched.iter().map(|index| ends.partition_point(|end| *end <= position(*index))).collect();
    println!("1 %: {new_leaves} of {} leaves, {} held a change", whole.len(), holding.len());
    assert_eq!(new_leaves, holding.len());

    let mut inserted = 0;
    for _ in 0..200 {
        let mut id = [9; 12];
        id[..4].copy_from_slice(&(1_700_000_000 + random.random_range(0..400_u32)).to_be_bytes());
        random.fill(&mut id[4..]);
        let new = document(ObjectId::from_bytes(id), 980, 'i');
        let key = Key::of_document(&new).unwrap();
        let after = apply(&blocks, &shape, &root, vec![(key, Edit::Put(new))]);
        inserted += leaves(&blocks, &after).difference(&whole).count();
    }
    let per_insert = f64::from(u32::try_from(inserted).unwrap()) / 200.0;
    println!("insert: {per_insert} leaves");
    assert!(per_insert < 3.5, "{per_insert}");
}
