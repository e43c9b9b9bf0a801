use super::*;
use crate::block::{Kind, MemoryBlocks, references, stream};
use crate::oplog::known;

fn at(secs: u32, inc: u32, term: i64) -> OpTime {
    OpTime { ts: Ts { secs, inc }, term }
}

fn insert(at: OpTime, padding: usize) -> RawDocumentBuf {
    rawdoc! {
        "op": "i", "ns": "d.c", "o": { "_id": 1, "p": "x".repeat(padding) },
        "ts": Timestamp::from(at.ts), "t": at.term, "v": 2_i64,
        "wall": DateTime::from_millis(i64::from(at.ts.secs) * 1000 + 7),
    }
}

/// A slice of three entries after `5,1@2`.
fn slice() -> (SliceHeader, Vec<u8>) {
    let mut builder = SliceBuilder::new(at(5, 1, 2));
    assert!(builder.is_empty());
    builder.push(&insert(at(5, 2, 2), 10)).expect("in order");
    builder.push(&insert(at(9, 1, 2), STREAM_BLOCK_BYTES)).expect("in order");
    let transaction = rawdoc! {
        "op": "c", "ns": "admin.$cmd", "ts": Timestamp { time: 9, increment: 4 }, "t": 3_i64,
        "v": 2_i64, "o": { "applyOps": [
            { "op": "u", "ns": "d.c", "o": { "$v": 2, "diff": { "u": { "a": 1 } } }, "o2": { "_id": 1 } },
            { "op": "c", "ns": "d.$cmd", "o": { "create": "e" } },
        ] },
    };
    builder.push(&transaction).expect("in order");
    assert_eq!(builder.last(), at(9, 4, 3));
    builder.finish().expect("not empty")
}

#[test]
fn what_is_built_reads_back() {
    let (header, bytes) = slice();
    assert_eq!((header.prev, header.first.optime), (at(5, 1, 2), at(5, 2, 2)));
    assert_eq!((header.last.optime, header.entries), (at(9, 4, 3), 3));
    assert_eq!((header.first.wall_ms, header.last.wall_ms), (5007, 9000));
    assert_eq!(header.raw_bytes, bytes.len() as u64);
    let kinds: Vec<&str> = header.kinds.iter().map(String::as_str).collect();
    assert_eq!(kinds, ["c.applyOps", "c.create", "i", "u.v2"]);
    check(&header, &bytes).expect("matches");
    let positions: Vec<OpTime> = entries(&bytes)
        .map(|entry| position(entry.expect("whole")).expect("valid").optime)
        .collect();
    assert_eq!(positions, [at(5, 2, 2), at(9, 1, 2), at(9, 4, 3)]);
    header.follows(at(5, 1, 2)).expect("chained");
    assert!(header.follows(at(5, 1, 1)).is_err());
}

#[test]
fn the_document_names_its_blocks() {
    let (header, bytes) = slice();
    let blocks = MemoryBlocks::default();
    let pieces = stream::write(&blocks, &bytes).expect("stored");
    assert_eq!(pieces.len(), 2);
    let document = header.to_document(&pieces);
    assert_eq!(references(Kind::Links, document.as_bytes()).expect("valid"), pieces);
    let (read, read_pieces) = SliceHeader::from_document(&document).expect("valid");
    assert_eq!((&read, &read_pieces), (&header, &pieces));
    check(&read, &stream::read(&blocks, &read_pieces).expect("stored")).expect("matches");
    assert!(SliceHeader::from_document(&header.to_document(&pieces[..1])).is_err());
}

#[test]
fn a_document_that_contradicts_itself_is_refused() {
    let (header, bytes) = slice();
    let blocks = MemoryBlocks::default();
    let pieces = stream::write(&blocks, &bytes).expect("stored");
    let cases = [
        SliceHeader { prev: header.first.optime, ..header.clone() },
        SliceHeader { first: Position { optime: at(9, 5, 2), wall_ms: 0 }, ..header.clone() },
        SliceHeader { prev: at(5, 1, 4), ..header.clone() },
        SliceHeader { entries: 0, ..header.clone() },
        SliceHeader { raw_bytes: MAX_SLICE_BYTES as u64 + 1, ..header.clone() },
    ];
    for case in cases {
        let error = SliceHeader::from_document(&case.to_document(&pieces)).expect_err("refused");
        assert!(matches!(error, Error::Slice(SliceError::Document { .. })), "{error}");
    }
    assert!(SliceHeader::from_document(&rawdoc! { "_id": 1 }).is_err());
}

#[test]
fn order_is_kept() {
    let mut builder = SliceBuilder::new(at(5, 1, 2));
    for wrong in [at(5, 1, 2), at(5, 0, 2), at(4, 9, 3), at(6, 1, 1)] {
        let error = builder.push(&insert(wrong, 0)).expect_err("refused");
        assert!(matches!(error, Error::Slice(SliceError::Order { .. })), "{error}");
    }
    assert!(builder.is_empty());
    assert!(matches!(builder.clone().finish(), Err(Error::Slice(SliceError::Empty))));
    builder.push(&insert(at(5, 2, 2), 0)).expect("in order");
    assert!(builder.push(&insert(at(5, 2, 2), 0)).is_err());
}

#[test]
fn sizes_are_bounded() {
    let mut builder = SliceBuilder::new(OpTime::NULL);
    let error = builder.push(&insert(at(1, 1, 1), MAX_ENTRY_BYTES)).expect_err("refused");
    assert!(matches!(error, Error::Slice(SliceError::EntryTooLarge { .. })), "{error}");
    let quarter = MAX_SLICE_BYTES / 4 - 200;
    for inc in 1..=4 {
        builder.push(&insert(at(1, inc, 1), quarter)).expect("fits");
    }
    let error = builder.push(&insert(at(1, 5, 1), 1000)).expect_err("refused");
    assert!(matches!(error, Error::Slice(SliceError::Full { .. })), "{error}");
    let (header, bytes) = builder.finish().expect("four entries");
    assert_eq!(header.entries, 4);
    check(&header, &bytes).expect("matches");
}

#[test]
fn other_bytes_are_noticed() {
    let (header, bytes) = slice();
    let first = insert(at(5, 2, 2), 10).into_bytes();
    assert!(check(&header, &bytes[first.len()..]).is_err());
    assert!(check(&header, &first).is_err());
    assert!(check(&header, &bytes[..bytes.len() - 1]).is_err());
    assert!(check(&header, &[]).is_err());
    let mut other = bytes.clone();
    let op = other.windows(3).position(|window| window == b"op\0").expect("an op") + 3 + 4;
    assert_eq!(other[op], b'i');
    other[op] = b'd';
    assert!(check(&header, &other).is_err());
    let wrong = SliceHeader { kinds: BTreeSet::new(), ..header };
    assert!(check(&wrong, &bytes).is_err());
}

#[test]
fn damaged_streams_end_in_one_error() {
    let (_, bytes) = slice();
    for cut in [1, 3, 4, 60, bytes.len() - 1] {
        let found: Vec<_> = entries(&bytes[..cut]).collect();
        assert!(found.last().expect("an error").is_err());
        assert_eq!(found.iter().filter(|entry| entry.is_err()).count(), 1);
    }
    assert_eq!(entries(&[0, 0, 0, 0, 0]).filter(Result::is_err).count(), 1);
    assert_eq!(entries(&[0xff; 40]).filter(Result::is_err).count(), 1);
}

#[test]
fn unknown_kinds_are_stored_and_seen() {
    let mut builder = SliceBuilder::new(OpTime::NULL);
    let mut push = |inc, op: &str, o: RawDocumentBuf| {
        let entry = rawdoc! {
            "ts": Timestamp { time: 1, increment: inc }, "t": 1_i64, "v": 2_i64,
            "op": op, "ns": "d.$cmd", "o": o,
        };
        builder.push(&entry).expect("in order");
    };
    push(1, "zz", rawdoc! {});
    push(2, "c", rawdoc! { "frobnicate": 1 });
    push(3, "c", rawdoc! { "applyOps": [{ "op": "c", "ns": "d.$cmd", "o": { "later": 1 } }, 7] });
    push(4, "u", rawdoc! { "$v": 3, "diff": {} });
    push(5, "c", rawdoc! { "drop": "c" });
    push(6, "c", rawdoc! { "applyOps": [], "partialTxn": true });
    push(7, "c", rawdoc! { "applyOps": [], "prepare": true });
    let (header, bytes) = builder.finish().expect("entries");
    check(&header, &bytes).expect("matches");
    let unknown: Vec<&str> = header
        .kinds
        .iter()
        .map(String::as_str)
        .filter(|kind| known::lookup_kind(kind).is_none())
        .collect();
    assert_eq!(unknown, ["?", "c.frobnicate", "c.later", "u.?", "zz"]);
    assert!(known::lookup_kind("c.drop").is_some() && known::lookup_kind("i").is_some());
    let prepares = header.kinds.iter().filter(|kind| kind.contains("prepare"));
    assert_eq!(prepares.collect::<Vec<_>>(), [known::PREPARE_KIND]);
}

#[test]
fn kinds_are_bounded() {
    let mut builder = SliceBuilder::new(OpTime::NULL);
    let error = (1..=u32::try_from(MAX_KINDS).expect("small") + 1)
        .map(|inc| {
            builder.push(&rawdoc! {
                "ts": Timestamp { time: 1, increment: inc }, "t": 1_i64, "v": 2_i64,
                "op": format!("x{inc}"), "ns": "", "o": {},
            })
        })
        .find_map(Result::err)
        .expect("too many");
    assert!(matches!(error, Error::Slice(SliceError::TooManyKinds { .. })), "{error}");
}
