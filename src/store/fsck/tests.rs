//! Damage that takes more than one record.

use super::*;

use crate::block::{self, BlockId, BlockWrite as _, Kind};
use crate::store::MIN_SEGMENT_BYTES;
use crate::store::layout::SEGMENT_HEADER_BYTES;
use crate::store::segment::directory;

/// The headers of two records that follow each other are damaged: both blocks are told.
#[test]
fn of_records_damaged_in_a_row_each_is_told() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let options = Options { segment_bytes: MIN_SEGMENT_BYTES, ..Options::default() };
    let store = Store::create(dir.path(), options.clone()).expect("create");
    let leaves: Vec<BlockId> =
        (0..4_u8).map(|n| store.put(Kind::Leaf, &[n; 8]).expect("put")).collect();
    let named = leaves.iter().map(block::link).collect::<bson::RawArrayBuf>();
    let mut links = bson::RawDocumentBuf::new();
    links.append(bson::raw::cstr!("leaves"), named);
    let links = store.put(Kind::Links, links.as_bytes()).expect("put");
    store.commit(|roots| _ = roots.insert("job".to_owned(), links)).expect("commit");
    drop(store);

    let path = directory(dir.path()).join(SegmentId(1).file_name());
    let mut bytes = std::fs::read(&path).expect("read");
    for record in 0..2 {
        // Each has a header and eight bytes.
        bytes[SEGMENT_HEADER_BYTES as usize + record * 72] ^= 1;
    }
    std::fs::write(&path, bytes).expect("write");

    let store = Store::open(dir.path(), options).expect("open");
    let report = run(&store, Level::Data, &mut |_| {}).expect("check");
    let unreadable = report.findings.iter().filter(|one| one.code == Code::BlockUnreadable);
    let told: BTreeSet<BlockId> = unreadable.filter_map(|one| one.block).collect();
    assert_eq!(told, leaves[..2].iter().copied().collect());
}
