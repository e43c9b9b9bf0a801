//! Trees joined from trees are the trees that a bulk build gives, and adopt what they can.

use proptest::prelude::*;

use super::*;

/// Sizes of documents, and where the sequence of them is split into pieces.
fn sequences() -> impl Strategy<Value = (Vec<usize>, Vec<prop::sample::Index>)> {
    let size = prop_oneof![30 => 0..500_usize, 1 => 3000..70_000_usize];
    let large = prop_oneof![200 => size, 1 => 520_000..1_200_000_usize];
    let sizes =
        prop_oneof![prop::collection::vec(large.clone(), 0..40), prop::collection::vec(large, 900)];
    (sizes, prop::collection::vec(any::<prop::sample::Index>(), 0..4))
}

fn split<'d>(
    documents: &'d [RawDocumentBuf],
    at: &[prop::sample::Index],
) -> Vec<&'d [RawDocumentBuf]> {
    let mut at: Vec<usize> = at.iter().map(|at| at.index(documents.len() + 1)).collect();
    at.sort_unstable();
    let starts = [0].into_iter().chain(at.iter().copied());
    let ends = at.iter().copied().chain([documents.len()]);
    starts.zip(ends).map(|(start, end)| &documents[start..end]).collect()
}

#[test]
fn pieces_join_to_the_bulk_tree() {
    for shape in [keyed(), positional()] {
        runner(40)
            .run(&sequences(), |(sizes, at)| {
                let documents: Vec<_> = (sizes.iter().enumerate())
                    .map(|(id, size)| document(id as i32, *size, 'p'))
                    .collect();
                let blocks = MemoryBlocks::new();
                let whole = build(&blocks, &shape, &documents);
                check(&blocks, &shape, &whole);
                prop_assert_eq!(&contents(&blocks, &whole), &documents);
                let mut builder = Builder::new(&blocks, &shape);
                for (index, piece) in split(&documents, &at).into_iter().enumerate() {
                    if index % 3 == 1 {
                        piece.iter().try_for_each(|document| builder.push(document)).unwrap();
                    } else {
                        builder.push_tree(&build(&blocks, &shape, piece)).unwrap();
                    }
                }
                let bytes = documents.iter().map(|document| document.as_bytes().len() as u64);
                prop_assert_eq!(builder.counts(), (documents.len() as u64, bytes.sum()));
                prop_assert_eq!(builder.finish().unwrap(), whole);
                Ok(())
            })
            .unwrap();
    }
}

#[test]
fn joining_reads_only_the_seams() {
    let shape = keyed();
    let documents: Vec<_> = (0..40_000).map(|id| document(id, 100, 'p')).collect();
    let blocks = Counting::default();
    let pieces: Vec<Root> =
        documents.chunks(10_000).map(|piece| build(&blocks, &shape, piece)).collect();
    blocks.reads.store(0, Relaxed);
    let mut builder = Builder::new(&blocks, &shape);
    pieces.iter().for_each(|piece| builder.push_tree(piece).unwrap());
    let joined = builder.finish().unwrap();
    let reads = blocks.reads.load(Relaxed);
    // Each seam: a path per side, the leaves until cuts meet again, and the nodes over them.
    assert!(reads < 160, "{reads} of {} blocks read", blocks.inner.size().0);
    assert_eq!(joined, build(&blocks, &shape, &documents));
}

#[test]
fn a_tree_that_is_not_above_is_refused() {
    let (blocks, shape) = (MemoryBlocks::new(), keyed());
    let low = build(&blocks, &shape, &(0..500).map(|id| document(id, 90, 'p')).collect::<Vec<_>>());
    for start in [-400, 100, 499] {
        let other: Vec<_> = (start..start + 600).map(|id| document(id, 90, 'p')).collect();
        let other = build(&blocks, &shape, &other);
        let mut builder = Builder::new(&blocks, &shape);
        builder.push_tree(&low).unwrap();
        assert!(matches!(builder.push_tree(&other), Err(Error::OutOfOrder { .. })), "{start}");
    }
    let mut builder = Builder::new(&blocks, &shape);
    builder.push(&document(5, 1, 'p')).unwrap();
    let refused = builder.push(&document(5.0, 1, 'p'));
    assert!(matches!(refused, Err(Error::OutOfOrder { .. })));
    let wrong = build(&blocks, &positional(), &[document(9, 600_000, 'p')]);
    let mut builder = Builder::new(&blocks, &shape);
    assert!(matches!(builder.push_tree(&wrong), Err(Error::WrongOrder { .. })));
}
