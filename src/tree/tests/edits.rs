//! Any way to a content gives the root that a bulk build of it gives.

use proptest::prelude::*;

use super::*;

/// One change: key number, size (0 deletes), whether by merge.
type Change = (u32, usize, bool);

fn change(keys: u32) -> impl Strategy<Value = Change> {
    let size = prop_oneof![2 => Just(0_usize), 6 => 1..400_usize, 1 => 4000..9000_usize];
    (0..keys, size, any::<bool>())
}

fn to_edit(model: &mut Model, (key, size, merged): Change) -> (Key, Edit) {
    let new = document(key as i32, size, 'x');
    let id = Key::of_document(&new).expect("a key");
    let edit = match (size, merged) {
        (0, false) => Edit::Delete,
        (0, true) => Edit::Merge(Box::new(|_| Ok(None))),
        (_, false) => Edit::Put(new.clone()),
        (_, true) => {
            let (expected, new) = (model.get(&id).cloned(), new.clone());
            Edit::Merge(Box::new(move |present| {
                assert_eq!(present, expected.as_deref());
                Ok(Some(new))
            }))
        }
    };
    if size == 0 {
        model.remove(&id);
    } else {
        model.insert(id.clone(), new);
    }
    (id, edit)
}

#[test]
fn edits_in_any_batches_give_the_bulk_root() {
    let batches = |keys| {
        let batch = prop::collection::btree_map(0..keys, change(keys), 0..60);
        (0..keys, prop::collection::vec(batch, 1..6))
    };
    let strategy = prop_oneof![batches(40), batches(3000)];
    runner(60)
        .run(&strategy, |(start, batches)| {
            let (blocks, shape) = (MemoryBlocks::new(), keyed());
            let mut model = Model::new();
            (0..start).for_each(|id| insert(&mut model, document(id as i32, 150, 'a')));
            let mut root = build(&blocks, &shape, model.values());
            for batch in batches {
                let edits = batch
                    .into_iter()
                    .map(|(key, (_, size, merged))| to_edit(&mut model, (key, size, merged)))
                    .collect();
                root = apply(&blocks, &shape, &root, edits);
                prop_assert_eq!(root, build(&blocks, &shape, model.values()));
                check(&blocks, &shape, &root);
            }
            prop_assert!(contents(&blocks, &root).iter().eq(model.values()));
            Ok(())
        })
        .unwrap();
}
