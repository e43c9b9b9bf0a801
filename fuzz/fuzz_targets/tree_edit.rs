//! A script of edits in batches: the tree must hold what a `BTreeMap` holds, have the root of a bulk
//! build, and pass its own verification.
#![no_main]

use std::collections::BTreeMap;

use bson::{RawDocumentBuf, rawdoc};
use headstock::block::MemoryBlocks;
use headstock::store::RepositorySalt;
use headstock::tree::{self, Builder, Content, Edit, Key, Order, Root, Shape};
use libfuzzer_sys::fuzz_target;

// Three bytes an edit: key, kind and size, and whether a batch ends here.
fuzz_target!(|data: &[u8]| {
    let blocks = MemoryBlocks::new();
    let shape = Shape::new(RepositorySalt([7; 32]), Order::Keyed, Content::Documents);
    let mut model: BTreeMap<Key, RawDocumentBuf> = BTreeMap::new();
    let mut batch: BTreeMap<Key, Option<RawDocumentBuf>> = BTreeMap::new();
    let mut root = Root::default();
    for step in data.chunks_exact(3) {
        let id = i32::from(step[0]);
        let size = usize::from(step[1] & 0x7f) * 64;
        let document = rawdoc! { "_id": id, "v": "x".repeat(size) };
        let key = Key::of_document(&document).unwrap();
        let deletes = step[1] & 0x80 != 0;
        batch.insert(key, (!deletes).then_some(document));
        if step[2] & 3 == 0 {
            root = sweep(&blocks, &shape, &root, &mut model, std::mem::take(&mut batch));
        }
    }
    root = sweep(&blocks, &shape, &root, &mut model, batch);
    let mut builder = Builder::new(&blocks, &shape);
    model.values().for_each(|document| builder.push(document).unwrap());
    assert_eq!(builder.finish().unwrap(), root);
    tree::verify(&blocks, &shape, &root, &mut |_| {}).unwrap();
});

fn sweep(
    blocks: &MemoryBlocks,
    shape: &Shape,
    root: &Root,
    model: &mut BTreeMap<Key, RawDocumentBuf>,
    batch: BTreeMap<Key, Option<RawDocumentBuf>>,
) -> Root {
    for (key, document) in &batch {
        match document {
            Some(document) => model.insert(key.clone(), document.clone()),
            None => model.remove(key),
        };
    }
    let mut edits = batch
        .into_iter()
        .map(|(key, document)| Ok((key, document.map_or(Edit::Delete, Edit::Put))));
    tree::edit(blocks, shape, root, &mut edits).unwrap()
}
