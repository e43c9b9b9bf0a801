//! Cursors against vectors, differences against maps.

use proptest::prelude::*;

use super::*;

fn sized(ids: impl Iterator<Item = i32>, seed: usize) -> Vec<RawDocumentBuf> {
    // A large document now and then.
    ids.map(|id| {
        let size = if (id as usize + seed) % 211 == 5 { 600_000 } else { (id as usize * 37) % 400 };
        document(id, size, 'r')
    })
    .collect()
}

#[test]
fn cursors_seek_by_key_and_by_rank() {
    let strategy = (0..900_usize, 0..211_usize, prop::collection::vec(-3..2000_i32, 12));
    runner(24)
        .run(&strategy, |(count, seed, targets)| {
            let (blocks, shape) = (MemoryBlocks::new(), keyed());
            let documents = sized((0..count as i32).map(|n| 2 * n), seed);
            let root = build(&blocks, &shape, &documents);
            let mut cursor = Cursor::new(&blocks, &root);
            for target in targets {
                let key = Key::of_value(bson::RawBsonRef::Int32(target)).unwrap();
                let place = documents.partition_point(|d| Key::of_document(d).unwrap() < key);
                cursor.seek(&key).unwrap();
                for expected in documents[place..].iter().take(40) {
                    prop_assert_eq!(cursor.next().unwrap(), Some(expected.clone()));
                }
                let found = documents.get(place).filter(|d| Key::of_document(d).unwrap() == key);
                prop_assert_eq!(get(&blocks, &root, &key).unwrap(), found.cloned());

                let rank = target.max(0) as usize;
                cursor.seek_rank(rank as u64).unwrap();
                let rest = documents.get(rank..).unwrap_or_default();
                for expected in rest.iter().take(40) {
                    prop_assert_eq!(cursor.next().unwrap(), Some(expected.clone()));
                }
            }
            cursor.seek_rank(count as u64 / 2).unwrap();
            let mut bytes = Vec::new();
            while let Some(run) = cursor.next_run().unwrap() {
                bytes.extend_from_slice(&run);
            }
            let rest = documents[count / 2..].iter().flat_map(|d| d.as_bytes()).copied();
            prop_assert!(rest.eq(bytes));
            prop_assert_eq!(cursor.next().unwrap(), None);
            Ok(())
        })
        .unwrap();
}

#[test]
fn the_end_of_a_cursor_is_the_end() {
    let blocks = MemoryBlocks::new();
    let documents = sized(0..700, 0);
    let root = build(&blocks, &keyed(), &documents);
    let mut cursor = Cursor::new(&blocks, &root);
    cursor.seek(&Key::of_value(bson::RawBsonRef::MaxKey).unwrap()).unwrap();
    assert_eq!(cursor.next().unwrap(), None);
    assert_eq!(cursor.next_run().unwrap(), None);
    let mut empty = Cursor::new(&blocks, &Root::default());
    assert_eq!(empty.next().unwrap(), None);
    empty.seek(&Key::of_value(bson::RawBsonRef::MinKey).unwrap()).unwrap();
    assert_eq!(empty.next_run().unwrap(), None);
}

fn differences(blocks: &MemoryBlocks, a: &Root, b: &Root) -> Vec<(Key, Difference)> {
    let mut found = Vec::new();
    diff(blocks, a, blocks, b, &mut |key, difference| {
        found.push((key, difference));
        Ok(true)
    })
    .expect("diff");
    found
}

fn model_differences(a: &Model, b: &Model) -> Vec<(Key, Difference)> {
    let keys: std::collections::BTreeSet<&Key> = a.keys().chain(b.keys()).collect();
    let one = |key: &Key| {
        let difference = match (a.get(key).cloned(), b.get(key).cloned()) {
            (Some(a), Some(b)) if a != b => Difference::Changed(a, b),
            (Some(a), None) => Difference::Removed(a),
            (None, Some(b)) => Difference::Added(b),
            _ => return None,
        };
        Some((key.clone(), difference))
    };
    keys.into_iter().filter_map(one).collect()
}

#[test]
fn differences_of_trees_are_those_of_maps() {
    // Runs of keys that are in the first, in the second, in both alike or in both changed.
    let runs = prop::collection::vec((0..4_u8, 1..300_i32), 0..12);
    runner(60)
        .run(&(runs, 0..211_usize), |(runs, seed)| {
            let (mut a, mut b, mut next) = (Model::new(), Model::new(), 0);
            for (sort, len) in runs {
                for document in sized(next..next + len, seed) {
                    if sort != 0 {
                        insert(&mut a, document.clone());
                    }
                    if sort != 1 {
                        insert(&mut b, document);
                    }
                }
                if sort == 3 {
                    insert(&mut b, super::document(next, 5, 'z'));
                }
                next += len;
            }
            let (blocks, shape) = (MemoryBlocks::new(), keyed());
            let a_root = build(&blocks, &shape, a.values());
            let b_root = build(&blocks, &shape, b.values());
            prop_assert_eq!(differences(&blocks, &a_root, &b_root), model_differences(&a, &b));
            prop_assert_eq!(differences(&blocks, &b_root, &a_root), model_differences(&b, &a));
            Ok(())
        })
        .unwrap();
}

#[test]
fn differences_are_read_where_they_are() {
    let (blocks, shape) = (Counting::default(), keyed());
    let mut model = Model::new();
    (0..50_000).for_each(|id| insert(&mut model, document(id, 100, 'd')));
    let a = build(&blocks, &shape, model.values());
    (9000..9010).for_each(|id| insert(&mut model, document(id, 120, 'e')));
    let b = build(&blocks, &shape, model.values());
    blocks.reads.store(0, Relaxed);
    let mut found = 0;
    diff(&blocks, &a, &blocks, &b, &mut |_, _| {
        found += 1;
        Ok(true)
    })
    .unwrap();
    let reads = blocks.reads.load(Relaxed);
    assert_eq!(found, 10);
    assert!(reads < 40, "{reads} blocks read");
    let mut first = 0;
    diff(&blocks, &a, &blocks, &b, &mut |_, _| {
        first += 1;
        Ok(false)
    })
    .unwrap();
    assert_eq!(first, 1);
}

/// Of a tree that shares most with one that was checked, what is new is read, and the chunks around it.
#[test]
fn what_was_checked_in_another_tree_is_not_read_again() {
    for shape in [keyed(), positional()] {
        let blocks = Counting::default();
        let mut documents: Vec<_> = (0..20_000).map(|id| document(id, 200, 'd')).collect();
        let known = Checked::default();
        let reads = |documents: &[RawDocumentBuf]| {
            let root = build(&blocks, &shape, documents);
            let mut visited = [0, 0];
            blocks.reads.store(0, Relaxed);
            verify_beside(&blocks, &shape, &root, &known, &mut |_| visited[0] += 1).expect("sound");
            let reads = blocks.reads.load(Relaxed);
            verify(&blocks, &shape, &root, &mut |_| visited[1] += 1).expect("sound");
            assert_eq!(visited[0], visited[1]);
            reads
        };
        let all = reads(&documents);
        let again = reads(&documents);
        for id in (0..20_000).step_by(2000) {
            documents[id as usize] = document(id, 200, 'e');
        }
        let changed = reads(&documents);
        assert!(again * 10 < all && changed < again + 40, "{all}, {again}, {changed}");
    }
}
