//! Any bytes as a block of any kind: listing what it names must end in an answer or an error.
#![no_main]

use headstock::block::{self, BlockId, Kind};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((first, raw)) = data.split_first() else { return };
    let Some(kind) = Kind::from_byte(first % 8) else { return };
    if let Ok(references) = block::references(kind, raw) {
        assert!(references.len() * BlockId::LEN <= raw.len());
    }
    let (codec, stored) = block::compress(raw);
    assert_eq!(block::decompress(codec, &stored, raw.len()).unwrap(), raw);
});
