//! Positional trees: the same sequence has the same root.

use proptest::prelude::*;

use super::*;

fn sequence(start: i32, count: i32) -> Vec<RawDocumentBuf> {
    // Repeated ids, and a document without one, are as good as any.
    let one = |id: i32| match id % 50 {
        7 => RawDocumentBuf::try_from(&doc! { "x": id }).unwrap(),
        _ => document(id % 40, (id as usize * 31) % 500, 'c'),
    };
    (start..start + count).map(one).collect()
}

fn no_append() -> impl Iterator<Item = Result<RawDocumentBuf, Error>> {
    std::iter::empty()
}

#[test]
fn trims_and_appends_give_the_bulk_root() {
    let step = (any::<prop::sample::Index>(), 0..400_i32);
    runner(60)
        .run(&(0..1500_i32, prop::collection::vec(step, 1..5)), |(count, steps)| {
            let (blocks, shape) = (MemoryBlocks::new(), positional());
            let mut documents = sequence(0, count);
            let mut root = build(&blocks, &shape, &documents);
            for (trim, added) in steps {
                let trim = trim.index(documents.len() + 1);
                documents.drain(..trim);
                root = trim_front(&blocks, &shape, &root, trim as u64).unwrap();
                prop_assert_eq!(root, build(&blocks, &shape, &documents));
                check(&blocks, &shape, &root);

                let more = sequence(5000, added);
                documents.extend_from_slice(&more);
                let mut more = more.into_iter().map(Ok);
                let mut rest = |_: &RawDocument| Ok(Verdict::KeepRest);
                root = edit_positional(&blocks, &shape, &root, &mut rest, &mut more).unwrap();
                prop_assert_eq!(root, build(&blocks, &shape, &documents));
            }
            prop_assert_eq!(contents(&blocks, &root), documents);
            Ok(())
        })
        .unwrap();
}

#[test]
fn verdicts_are_carried_out() {
    let verdicts = prop::collection::vec(0..6_u8, 0..600);
    runner(40)
        .run(&(600..900_i32, verdicts), |(count, verdicts)| {
            let (blocks, shape) = (MemoryBlocks::new(), positional());
            let documents = sequence(0, count);
            let other = document("other", 90, 'o');
            let mut expected = Vec::new();
            for (index, document) in documents.iter().enumerate() {
                match verdicts.get(index) {
                    Some(0) => {}
                    Some(1) => expected.push(other.clone()),
                    _ => expected.push(document.clone()),
                }
            }
            let root = build(&blocks, &shape, &documents);
            let (mut seen, mut after_rest) = (0, false);
            let mut judge = |present: &RawDocument| {
                assert!(!after_rest);
                assert_eq!(present, &*documents[seen]);
                seen += 1;
                Ok(match verdicts.get(seen - 1) {
                    Some(0) => Verdict::Remove,
                    Some(1) => Verdict::Replace(other.clone()),
                    Some(_) => Verdict::Keep,
                    None => {
                        after_rest = true;
                        Verdict::KeepRest
                    }
                })
            };
            let edited = edit_positional(&blocks, &shape, &root, &mut judge, &mut no_append());
            prop_assert_eq!(edited.unwrap(), build(&blocks, &shape, &expected));
            Ok(())
        })
        .unwrap();
}

#[test]
fn trimming_reads_the_path_to_the_cut() {
    let (blocks, shape) = (Counting::default(), positional());
    let documents: Vec<_> = (0..60_000).map(|id| document(id, 100, 'c')).collect();
    let root = build(&blocks, &shape, &documents);
    blocks.reads.store(0, Relaxed);
    let trimmed = trim_front(&blocks, &shape, &root, 31_111).unwrap();
    let reads = blocks.reads.load(Relaxed);
    assert!(reads < 60, "{reads} blocks read");
    assert_eq!(trimmed, build(&blocks, &shape, &documents[31_111..]));
    assert_eq!(trim_front(&blocks, &shape, &root, 60_000).unwrap(), Root::default());
    assert_eq!(trim_front(&blocks, &shape, &root, 0).unwrap(), root);
}

#[test]
fn a_top_node_left_with_one_child_gives_way_to_it() {
    let shape = positional();
    let documents: Vec<_> = (0..3000).map(|id| document(id, 1500, 'c')).collect();
    let mut tried = 0;
    for count in 300..documents.len() {
        let blocks = MemoryBlocks::new();
        let root = build(&blocks, &shape, &documents[..count]);
        if root.level < 2 {
            continue;
        }
        let top = read::node(&blocks, &root.top.unwrap(), root.level).unwrap();
        let last = top.entries.last().unwrap();
        let node = read::node(&blocks, &last.child.unwrap(), root.level - 1).unwrap();
        if node.entries.len() > 1 {
            continue;
        }
        let before = root.documents - last.documents;
        let trimmed = trim_front(&blocks, &shape, &root, before).unwrap();
        let rest = &documents[before as usize..count];
        assert_eq!(trimmed, build(&MemoryBlocks::new(), &shape, rest));
        tried += 1;
        if tried == 3 {
            return;
        }
    }
    panic!("{tried} trees end with a node of one child");
}

#[test]
fn each_order_refuses_the_other() {
    let blocks = MemoryBlocks::new();
    let documents = sequence(100, 300);
    let root = build(&blocks, &positional(), &documents);
    let refused = edit(&blocks, &positional(), &root, &mut std::iter::empty());
    assert!(matches!(refused, Err(Error::WrongOrder { needed: "keyed" })));
    let refused = trim_front(&blocks, &keyed(), &root, 1);
    assert!(matches!(refused, Err(Error::WrongOrder { needed: "positional" })));
    let key = Key::of_value(bson::RawBsonRef::Int32(1)).unwrap();
    let refused = get(&blocks, &root, &key);
    assert!(matches!(refused, Err(Error::WrongOrder { needed: "keyed" })));
    assert!(matches!(Builder::new(&blocks, &keyed()).push(&documents[7]), Err(Error::NoId)));
}

/// Documents that are in one sequence only are found, and little else is read.
#[test]
fn what_is_unlike_is_found_wherever_it_stands() {
    let unique = |range: std::ops::Range<i32>| -> Vec<_> {
        range.map(|id| document(id, (id as usize * 31) % 500, 'c')).collect()
    };
    let step =
        (0..3000_usize, 0..400_i32, prop::collection::vec(any::<prop::sample::Index>(), 0..4));
    runner(40)
        .run(&(0..3000_i32, step), |(count, (trim, added, changed))| {
            let (blocks, shape) = (Counting::default(), positional());
            let before = unique(0..count);
            let mut after: Vec<_> = before.iter().skip(trim).cloned().collect();
            after.extend(unique(count..count + added));
            let changed = if after.is_empty() { Vec::new() } else { changed };
            for index in &changed {
                let place = index.index(after.len());
                let id = after[place].get_i32("_id").unwrap();
                after[place] = document(id, 40, 'x');
            }
            let (a, b) = (build(&blocks, &shape, &before), build(&blocks, &shape, &after));
            blocks.reads.store(0, Relaxed);
            let mut found = [Vec::new(), Vec::new()];
            unlike(&blocks, &a, &blocks, &b, &mut |side, document| {
                found[usize::from(side == Side::Second)].push(document.to_owned());
                Ok(())
            })
            .unwrap();
            for (found, all, other) in [(&found[0], &before, &after), (&found[1], &after, &before)]
            {
                let lacked: Vec<_> = all.iter().filter(|one| !other.contains(one)).collect();
                prop_assert!(lacked.iter().all(|one| found.contains(one)));
                let in_order = all.iter().filter(|one| found.contains(one)).collect::<Vec<_>>();
                prop_assert_eq!(found.iter().collect::<Vec<_>>(), in_order);
            }
            if trim == 0 && added == 0 && changed.is_empty() {
                prop_assert_eq!(found[0].len() + found[1].len(), 0);
            }
            Ok(())
        })
        .unwrap();

    let (blocks, shape) = (Counting::default(), positional());
    let before = unique(0..50_000);
    let a = build(&blocks, &shape, &before);
    let b = build(&blocks, &shape, &unique(20..50_020));
    blocks.reads.store(0, Relaxed);
    let mut documents = 0;
    unlike(&blocks, &a, &blocks, &b, &mut |_, _| {
        documents += 1;
        Ok(())
    })
    .unwrap();
    let reads = blocks.reads.load(Relaxed);
    assert!((40..400).contains(&documents) && reads < 60, "{documents} documents, {reads} reads");
}
