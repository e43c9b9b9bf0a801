//! Any way to a content gives the root that a bulk build of it gives.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// How a key number becomes an `_id`.
#[derive(Debug, Clone, Copy)]
enum Ids {
    Integers,
    /// Alike in their first bytes beyond what a node holds, so that separators are out of line.
    LongStrings,
    /// Some a prefix of others, some long, of several types.
    Mixed,
}

impl Ids {
    fn id(self, number: u32) -> Bson {
        match self {
            Self::Integers => Bson::Int32(number as i32),
            Self::LongStrings => Bson::String(format!("{}{number:05}", "k".repeat(600))),
            Self::Mixed => match number % 5 {
                0 => Bson::Double(f64::from(number) / 8.0),
                1 => Bson::String("ab\0".repeat(number as usize)),
                2 => Bson::Document(doc! { "a": number, "b": "x" }),
                3 => Bson::Binary(bson::Binary {
                    subtype: bson::spec::BinarySubtype::Generic,
                    bytes: number.to_be_bytes().to_vec(),
                }),
                _ => Bson::String(format!("{number}")),
            },
        }
    }
}

/// One change: size (0 deletes), whether by merge.
type Change = (usize, bool);

fn change() -> impl Strategy<Value = Change> {
    let size = prop_oneof![
        10 => Just(0_usize),
        30 => 1..400_usize,
        4 => 4000..9000_usize,
        1 => 500_000..1_100_000_usize,
    ];
    (size, any::<bool>())
}

fn to_edit(model: &mut Model, id: Bson, (size, merged): Change) -> (Key, Edit) {
    let new = document(id, size, 'x');
    let key = Key::of_document(&new).expect("a key");
    let edit = match (size, merged) {
        (0, false) => Edit::Delete,
        (0, true) => Edit::Merge(Box::new(|_| Ok(None))),
        (_, false) => Edit::Put(new.clone()),
        (_, true) => {
            let (expected, new) = (model.get(&key).cloned(), new.clone());
            Edit::Merge(Box::new(move |present| {
                assert_eq!(present, expected.as_deref());
                Ok(Some(new))
            }))
        }
    };
    if size == 0 {
        model.remove(&key);
    } else {
        model.insert(key.clone(), new);
    }
    (key, edit)
}

type Batches = (u32, Vec<BTreeMap<u32, Change>>);

fn batches(keys: u32) -> impl Strategy<Value = Batches> {
    let batch = prop::collection::btree_map(0..keys, change(), 0..50);
    // Runs of deletes take whole subtrees away.
    let run = (0..keys, 0..keys / 2).prop_map(|(start, len)| {
        (start..start + len).map(|key| (key, (0, false))).collect::<BTreeMap<_, _>>()
    });
    let batch = prop_oneof![3 => batch, 1 => run];
    (0..keys, prop::collection::vec(batch, 1..6))
}

/// Some keys as they are, some cut off, as runs keep them.
fn cut_keys<'a>(keys: impl Iterator<Item = &'a Key>) -> Vec<Key> {
    let cut = |(at, key): (usize, &Key)| {
        let bytes = key.as_bytes();
        Key::from_encoded(bytes[..bytes.len().div_ceil(1 + at % 3)].to_vec())
    };
    let keys: BTreeSet<Key> = keys.enumerate().map(cut).collect();
    keys.into_iter().collect()
}

/// Rising `_id`s all lie beyond the end, changes all over the tree do not; both are shared.
#[test]
fn every_range_gets_its_share_of_the_edits() {
    let (blocks, shape) = (MemoryBlocks::new(), keyed());
    let key = |n: i32| Key::of_document(&document(n, 1, 'a')).unwrap();
    let documents: Vec<RawDocumentBuf> = (0..20_000).map(|n| document(n, 150, 'a')).collect();
    let root = build(&blocks, &shape, &documents);
    for (root, edited) in [
        (Root::default(), 0..4_000),
        (root, 20_000..24_000),
        (root, 0..20_000),
        (root, 18_000..22_000),
    ] {
        let keys: Vec<Key> = edited.clone().map(key).collect();
        let ranges = Ranges::of(&blocks, &shape, &root, 4, &keys).unwrap();
        assert_eq!(ranges.bounds().len(), 3, "{edited:?}");
        let mut from = 0;
        for bound in ranges.bounds() {
            let to = keys.partition_point(|key| key < bound);
            let share = (to - from) as f64 / keys.len() as f64;
            assert!((0.1..0.4).contains(&share), "{edited:?}: {share}");
            from = to;
        }
    }
}

fn apply_in_parts(
    blocks: &MemoryBlocks,
    shape: &Shape,
    root: &Root,
    parts: usize,
    edits: BTreeMap<Key, Edit>,
) -> Root {
    let ranges = Ranges::of(blocks, shape, root, parts, &cut_keys(edits.keys())).unwrap();
    let (mut rest, mut each) = (edits, Vec::<RangeEdits<'_>>::new());
    for bound in ranges.bounds() {
        let above = rest.split_off(bound);
        each.push(Box::new(std::mem::replace(&mut rest, above).into_iter().map(Ok)));
    }
    each.push(Box::new(rest.into_iter().map(Ok)));
    ranges.edit(blocks, shape, each).unwrap()
}

fn edits_give_the_bulk_root(shape: &Shape, ids: Ids, keys: u32, cases: u32) {
    runner(cases)
        .run(&(prop_oneof![batches(40), batches(keys)], 1..5_usize), |((start, batches), parts)| {
            let blocks = MemoryBlocks::new();
            let mut model = Model::new();
            (0..start).for_each(|n| insert(&mut model, document(ids.id(n), 150, 'a')));
            let mut root = build(&blocks, shape, model.values());
            for batch in batches {
                let edits: BTreeMap<Key, Edit> = batch
                    .into_iter()
                    .map(|(key, change)| to_edit(&mut model, ids.id(key), change))
                    .collect();
                root = if parts == 1 {
                    apply(&blocks, shape, &root, edits.into_iter().collect())
                } else {
                    apply_in_parts(&blocks, shape, &root, parts, edits)
                };
                prop_assert_eq!(root, build(&blocks, shape, model.values()));
                check(&blocks, shape, &root);
            }
            prop_assert!(contents(&blocks, &root).iter().eq(model.values()));
            Ok(())
        })
        .unwrap();
}

/// Cases per shape and sort of ids; `TREE_CASES` for a long run.
fn cases(short: u32) -> u32 {
    match std::env::var("TREE_CASES") {
        Ok(cases) => cases.parse().expect("TREE_CASES is a number"),
        Err(_) => short,
    }
}

#[test]
fn edits_in_any_batches_give_the_bulk_root() {
    edits_give_the_bulk_root(&keyed(), Ids::Integers, 4000, cases(60));
    edits_give_the_bulk_root(&keyed(), Ids::LongStrings, 400, cases(20));
    edits_give_the_bulk_root(&keyed(), Ids::Mixed, 1500, cases(30));
}

#[test]
fn so_they_do_under_equal_hashes() {
    for hash in [0, u64::MAX] {
        let shape = keyed().with_constant_hash(hash);
        edits_give_the_bulk_root(&shape, Ids::Integers, 4000, cases(20));
        edits_give_the_bulk_root(&shape, Ids::LongStrings, 400, cases(10));
    }
}

#[test]
fn edits_read_and_write_the_paths_to_what_they_change() {
    let (blocks, shape) = (Counting::default(), keyed());
    let documents: Vec<_> = (0..100_000).map(|id| document(id, 100, 'a')).collect();
    let root = build(&blocks, &shape, &documents);
    let (all, _) = blocks.inner.size();
    blocks.reads.store(0, Relaxed);
    let put = |id: i32| {
        let document = document(id, 100, 'b');
        (Key::of_document(&document).unwrap(), Edit::Put(document))
    };
    let edits = (0..10).map(|n| Ok(put(n * 9_973 + 17)));
    let edited = edit(&blocks, &shape, &root, &mut { edits }).unwrap();
    let reads = blocks.reads.load(Relaxed);
    let (now, _) = blocks.inner.size();
    let per_path = 1 + usize::from(root.level);
    assert!(reads <= 10 * per_path, "{reads} of {all} blocks read");
    // Sizes and keys are as before, so no cut moves.
    assert!(now - all <= 10 * per_path, "{} blocks written", now - all);
    assert_ne!(edited, root);

    let back = (0..10).map(|n| document(n * 9_973 + 17, 100, 'a'));
    let back = back.map(|d| Ok((Key::of_document(&d).unwrap(), Edit::Put(d))));
    assert_eq!(edit(&blocks, &shape, &edited, &mut { back }).unwrap(), root);
}

#[test]
fn edits_out_of_order_or_of_another_key_are_refused() {
    let (blocks, shape) = (MemoryBlocks::new(), keyed());
    let key = |id: i32| Key::of_value(bson::RawBsonRef::Int32(id)).unwrap();
    for ids in [[2, 1], [1, 1]] {
        let mut edits = ids.into_iter().map(|id| Ok((key(id), Edit::Delete)));
        let refused = edit(&blocks, &shape, &Root::default(), &mut edits);
        assert!(matches!(refused, Err(Error::OutOfOrder { .. })), "{refused:?}");
    }
    let mut other = [Ok((key(2), Edit::Put(document(3, 1, 'x'))))].into_iter();
    let refused = edit(&blocks, &shape, &Root::default(), &mut other);
    assert!(matches!(refused, Err(Error::KeyMismatch)), "{refused:?}");
    let fails = Edit::Merge(Box::new(|_| Err("no".into())));
    let refused = edit(&blocks, &shape, &Root::default(), &mut [Ok((key(2), fails))].into_iter());
    assert!(matches!(refused, Err(Error::Input(_))), "{refused:?}");
}
