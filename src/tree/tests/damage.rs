//! Trees that break a rule are found out, and nothing panics on them.

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;
use crate::tree::node::{Entry, Separator, encode, shortest_above};

fn leaf(blocks: &MemoryBlocks, documents: &[RawDocumentBuf]) -> Entry {
    let bytes: Vec<u8> = documents.iter().flat_map(|d| d.as_bytes()).copied().collect();
    Entry {
        child: Some(blocks.put(Kind::Leaf, &bytes).unwrap()),
        parts: Vec::new(),
        documents: documents.len() as u64,
        bytes: bytes.len() as u64,
        separator: Separator::EMPTY,
    }
}

fn top(blocks: &MemoryBlocks, entries: &[Entry]) -> Root {
    let raw = encode(Order::Keyed, Content::Documents, 1, entries);
    Root {
        top: Some(blocks.put(Kind::Node, &raw).unwrap()),
        level: 1,
        documents: entries.iter().map(|entry| entry.documents).sum(),
        bytes: entries.iter().map(|entry| entry.bytes).sum(),
    }
}

/// What is wrong with a tree, also beside a sound one that shares most of it.
fn broken(blocks: &MemoryBlocks, root: &Root) -> &'static str {
    let known = Checked::default();
    verify_beside(blocks, &keyed(), &sound(blocks).0, &known, &mut |_| {}).expect("sound");
    let what = |outcome| match outcome {
        Err(Error::Malformed { what, .. } | Error::MalformedRoot { what }) => what,
        other => panic!("{other:?}"),
    };
    let beside = what(verify_beside(blocks, &keyed(), root, &known, &mut |_| {}));
    let alone = what(verify(blocks, &keyed(), root, &mut |_| {}));
    assert_eq!(beside, alone);
    alone
}

/// A level-1 tree of several leaves that are cut right.
fn sound(blocks: &MemoryBlocks) -> (Root, Vec<Entry>, Vec<RawDocumentBuf>) {
    let documents: Vec<_> = (0..300).map(|id| document(id, 100, 'd')).collect();
    let root = build(blocks, &keyed(), &documents);
    let node = read::node(blocks, &root.top.unwrap(), 1).unwrap();
    assert!(node.entries.len() > 3);
    (root, node.entries, documents)
}

#[test]
fn a_wrongly_cut_leaf_is_found() {
    let blocks = MemoryBlocks::new();
    let (_, entries, documents) = sound(&blocks);
    let first = entries[0].documents as usize;
    let second = first + entries[1].documents as usize;
    // The second document of the second leaf moved to the first leaf, and two leaves made one.
    for (cuts, what) in [
        (vec![first + 1, second], "goes on where the cut rule ends it"),
        (vec![first - 1, second], "ends where the cut rule goes on"),
        (vec![second], "goes on where the cut rule ends it"),
    ] {
        let mut wrong = Vec::new();
        let starts = [0].into_iter().chain(cuts.iter().copied());
        for (start, end) in starts.zip(cuts.iter().copied()) {
            let mut entry = leaf(&blocks, &documents[start..end]);
            if start > 0 {
                let key = |n: usize| Key::of_document(&documents[n]).unwrap().into_bytes();
                let (last, first) = (key(start - 1), key(start));
                let separator = node::shortest_above(&last, &first);
                entry.separator = Separator::Inline(separator.to_vec());
            }
            wrong.push(entry);
        }
        let rest = entries.iter().skip_while(|entry| entry.separator != entries[2].separator);
        wrong.extend(rest.cloned());
        assert_eq!(broken(&blocks, &top(&blocks, &wrong)), what);
    }
}

#[test]
fn wrong_entries_are_found() {
    let blocks = MemoryBlocks::new();
    let (root, entries, documents) = sound(&blocks);
    let with = |change: &dyn Fn(&mut Vec<Entry>)| {
        let mut changed = entries.clone();
        change(&mut changed);
        broken(&blocks, &top(&blocks, &changed))
    };
    let separator = "separator is not the shortest that separates";
    assert_eq!(
        with(&|entries| match &mut entries[1].separator {
            Separator::Inline(bytes) => bytes.push(1),
            Separator::Stored { .. } => unreachable!(),
        }),
        separator
    );
    assert_eq!(with(&|entries| entries[1].separator = Separator::EMPTY), separator);
    assert_eq!(with(&|entries| entries[1].documents += 1), "counts are not the parent's");
    assert_eq!(with(&|entries| entries[1].bytes -= 1), "counts are not the parent's");
    assert_eq!(with(&|entries| entries.swap(0, 1)), "first separator is not the parent's");
    assert_eq!(with(&|entries| entries.insert(2, entries[1].clone())), "keys out of order");
    // What ended the tree may not end a chunk within it.
    let key = |document: &RawDocumentBuf| Key::of_document(document).unwrap().into_bytes();
    let behind = document(300, 100, 'd');
    let separator = shortest_above(&key(&documents[299]), &key(&behind)).to_vec();
    let behind = Entry { separator: Separator::Inline(separator), ..leaf(&blocks, &[behind]) };
    let ends = "ends where the cut rule goes on";
    assert_eq!(with(&|entries| entries.push(behind.clone())), ends);
    let only = top(&blocks, &entries[..1]);
    assert_eq!(broken(&blocks, &only), "a top node with a single child");
    let mut unsorted = documents[..3].to_vec();
    unsorted.swap(0, 1);
    let unsorted = leaf(&blocks, &unsorted);
    let unsorted = Root {
        top: unsorted.child,
        level: 0,
        documents: unsorted.documents,
        bytes: unsorted.bytes,
    };
    assert_eq!(broken(&blocks, &unsorted), "keys out of order");
    assert_eq!(
        broken(&blocks, &Root { level: 2, ..root }),
        "a node at another level than its parent says"
    );
    assert_eq!(broken(&blocks, &Root { documents: 299, ..root }), "counts are not the parent's");
    assert_eq!(
        broken(&blocks, &Root { top: None, ..root }),
        "an empty tree with a level or counts"
    );
    let other_salt = Shape::new(RepositorySalt([8; 32]), Order::Keyed, Content::Documents);
    assert!(verify(&blocks, &other_salt, &root, &mut |_| {}).is_err());
}

#[test]
fn every_block_is_visited() {
    let blocks = MemoryBlocks::new();
    let mut documents: Vec<_> = (0..2000).map(|id| document(id, 100, 'd')).collect();
    documents.push(document(3000, 3 << 20, 'd'));
    let root = build(&blocks, &keyed(), &documents);
    let mut seen = std::collections::HashSet::new();
    verify(&blocks, &keyed(), &root, &mut |id| {
        seen.insert(*id);
    })
    .unwrap();
    assert_eq!(seen.len(), blocks.size().0);
}

#[test]
fn a_missing_block_is_named() {
    let (blocks, other) = (MemoryBlocks::new(), MemoryBlocks::new());
    let (root, entries, _) = sound(&blocks);
    let top = blocks.get(&root.top.unwrap()).unwrap();
    other.put(top.kind, &top.bytes).unwrap();
    let missing = Cursor::new(&other, &root).next();
    let first = entries[0].child.unwrap();
    assert!(
        matches!(missing, Err(Error::Block(block::Error::Missing { id })) if id == first),
        "{missing:?}"
    );
}

/// Uses a tree in every way; errors are fine.
fn use_all(blocks: &MemoryBlocks, root: &Root) {
    let key = Key::of_value(bson::RawBsonRef::Int32(70)).unwrap();
    let _ = get(blocks, root, &key);
    let mut cursor = Cursor::new(blocks, root);
    let _ = cursor.seek_rank(150);
    while let Ok(Some(_)) = cursor.next_run() {}
    let _ = diff(blocks, root, blocks, &Root::default(), &mut |_, _| Ok(true));
    let put = document(71, 5, 'e');
    let edits =
        vec![Ok((key, Edit::Delete)), Ok((Key::of_document(&put).unwrap(), Edit::Put(put)))];
    let _ = edit(blocks, &keyed(), root, &mut edits.into_iter());
    let _ = Builder::new(blocks, &keyed()).push_tree(root);
    for shape in [keyed(), positional()] {
        let _ = trim_front(blocks, &shape, root, 100);
        let _ = verify(blocks, &shape, root, &mut |_| {});
    }
}

#[test]
fn damaged_blocks_give_errors_and_no_panic() {
    let place = any::<prop::sample::Index>();
    runner(400)
        .run(&(place, any::<u8>(), 0..3_u8), |(place, byte, how)| {
            let blocks = MemoryBlocks::new();
            let (root, entries, _) = sound(&blocks);
            // The top node, or the first leaf under a sound top.
            let of_node = how < 2;
            let id = if of_node { root.top.unwrap() } else { entries[0].child.unwrap() };
            let mut raw = blocks.get(&id).unwrap().bytes.to_vec();
            let place = match how {
                // What follows the ids is where the forms are.
                0 => entries.len() * 32 + place.index(raw.len() - entries.len() * 32),
                _ => place.index(raw.len()),
            };
            raw[place] = byte;
            if byte == 0 {
                raw.truncate(place);
            }
            let root = if of_node {
                Root { top: Some(blocks.put(Kind::Node, &raw).unwrap()), ..root }
            } else {
                let mut entries = entries;
                entries[0].child = Some(blocks.put(Kind::Leaf, &raw).unwrap());
                top(&blocks, &entries)
            };
            use_all(&blocks, &root);
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_root_survives_bson_and_a_wrong_one_does_not() {
    let blocks = MemoryBlocks::new();
    let (root, _, _) = sound(&blocks);
    for root in [root, Root::default()] {
        assert_eq!(Root::from_bson(&root.to_bson()).unwrap(), root);
    }
    let link = block::link(&root.top.unwrap());
    for wrong in [
        doc! { "top": link.clone(), "level": 77, "documents": 1_i64, "bytes": 9_i64 },
        doc! { "top": "x", "level": 0, "documents": 1_i64, "bytes": 9_i64 },
        doc! { "level": 0, "documents": 1_i64, "bytes": 9_i64 },
        doc! { "top": link, "level": 0, "bytes": 9_i64 },
    ] {
        let wrong = RawDocumentBuf::try_from(&wrong).unwrap();
        assert!(matches!(Root::from_bson(&wrong), Err(Error::MalformedRoot { .. })));
    }
}

/// Trees put together at random of the chunks of three that were checked: beside these each is judged as it is alone.
#[test]
fn a_tree_is_judged_beside_others_as_it_is_alone() {
    let mut random = StdRng::seed_from_u64(11);
    for shape in [keyed(), positional()] {
        let (known, blocks) = (Checked::default(), MemoryBlocks::new());
        let pools: Vec<Vec<Entry>> = (0..3)
            .map(|n| {
                let mut documents: Vec<_> = (0..600).map(|id| document(id, 100, 'd')).collect();
                for at in (n..600).step_by(97) {
                    documents[at] = document(at as i32, 100 + n, 'e');
                }
                let root = build(&blocks, &shape, &documents[..600 - 7 * n]);
                verify_beside(&blocks, &shape, &root, &known, &mut |_| {}).expect("sound");
                read::node(&blocks, &root.top.unwrap(), 1).unwrap().entries
            })
            .collect();
        let mut sound = 0;
        for _ in 0..2000 {
            let mut entries = pools[random.random_range(0..3)].clone();
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(0..entries.len());
                let from = &pools[random.random_range(0..3)];
                let other = from[random.random_range(0..from.len())].clone();
                match random.random_range(0..7) {
                    0 => entries.insert(at, other),
                    1 => entries[at] = other,
                    2 => entries.swap(at, 0),
                    3 => entries.truncate(at.max(1)),
                    4 => entries[at].documents += 1,
                    5 => entries[at].separator = other.separator,
                    _ => entries[at].child = other.child,
                }
            }
            let raw = encode(shape.order, Content::Documents, 1, &entries);
            let top = top(&blocks, &entries);
            let root = Root { top: Some(blocks.put(Kind::Node, &raw).unwrap()), ..top };
            let beside = verify_beside(&blocks, &shape, &root, &known, &mut |_| {});
            let alone = verify(&blocks, &shape, &root, &mut |_| {});
            assert_eq!(beside.is_ok(), alone.is_ok(), "{beside:?} {alone:?}");
            sound += u32::from(alone.is_ok());
        }
        assert!((100..1900).contains(&sound), "{sound}");
    }
}
