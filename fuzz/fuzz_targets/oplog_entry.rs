//! Any bytes as an oplog entry: parsing, and applying the update that is found to a document, must
//! end in an answer or a typed error.
#![no_main]

use bson::{RawDocument, rawdoc};
use headstock::oplog::{self, NameOrder, Operation, Parsed, Rules};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(entry) = RawDocument::from_bytes(data) else { return };
    let _ = oplog::position(entry);
    let Ok(Parsed::Single(Operation::Update { id, update, .. })) = oplog::parse(entry) else {
        return;
    };
    let old = rawdoc! { "_id": 1, "a": [1, { "b": 2 }, [3]], "s": { "d": 1, "u": { "i": null } } };
    for name_order in [NameOrder::Bytes, NameOrder::Numeric] {
        let rules = Rules { name_order, upsert_missing: true };
        let _ = oplog::apply(&update, Some(&old), id, rules);
        let _ = oplog::apply(&update, None, id, rules);
    }
});
