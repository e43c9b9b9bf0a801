//! Any bytes as a block of any kind: listing what it names must end in an answer or an error, and it is stored and
//! read back, with a dictionary too.
#![no_main]

use headstock::block::{self, BlockId, Dictionary, Kind, StoredForm};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((first, raw)) = data.split_first() else { return };
    let Some(kind) = Kind::from_byte(first % 8) else { return };
    if let Ok(references) = block::references(kind, raw) {
        assert!(references.len() * BlockId::LEN <= raw.len());
    }
    let (codec, _, stored) = block::compress(raw, None);
    assert_eq!(block::decompress(codec, &stored, raw.len(), None).unwrap(), raw);
    // Any bytes are a dictionary or none.
    let (dictionary, raw) = raw.split_at(raw.len() / 2);
    let name = BlockId::of(Kind::Dictionary, dictionary);
    let dictionary = Dictionary::new(name, dictionary.to_vec().into());
    let (codec, form, stored) = block::compress(raw, Some(&dictionary));
    let used = (form != StoredForm::PLAIN).then_some(&dictionary);
    assert_eq!(block::decompress(codec, &stored, raw.len(), used).unwrap(), raw);
    _ = block::decompress(codec, raw, stored.len(), Some(&dictionary));
});
