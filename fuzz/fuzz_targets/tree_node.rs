//! Any bytes as the top of a tree: reading and verifying must end in an answer or a typed error.
#![no_main]

use headstock::block::{BlockWrite, Kind, MemoryBlocks};
use headstock::store::RepositorySalt;
use headstock::tree::{self, Content, Cursor, Order, Root, Shape};
use libfuzzer_sys::fuzz_target;

/// Documents to read before giving up: a hostile node may claim any number.
const MAX_READ: usize = 1000;

fuzz_target!(|data: &[u8]| {
    let Some((flags, raw)) = data.split_first() else { return };
    let blocks = MemoryBlocks::new();
    let (kind, level) = if flags & 1 == 0 { (Kind::Leaf, 0) } else { (Kind::Node, flags >> 4) };
    let Ok(top) = blocks.put(kind, raw) else { return };
    let root =
        Root { top: Some(top), level, documents: u64::from(*flags), bytes: raw.len() as u64 };
    let order = if flags & 2 == 0 { Order::Keyed } else { Order::Positional };
    let shape = Shape::new(RepositorySalt([7; 32]), order, Content::Documents);
    let _ = tree::verify(&blocks, &shape, &root, &mut |_| {});
    let mut cursor = Cursor::new(&blocks, &root);
    for _ in 0..MAX_READ {
        if !matches!(cursor.next(), Ok(Some(_))) {
            break;
        }
    }
});
