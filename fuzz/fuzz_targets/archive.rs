//! Collections of documents out of a script as an archive: a parser of the archive written here finds the same
//! documents and checksums. Then the archive with some bytes changed, for the reader that a restore checks its
//! archive with: it ends in a typed error where that parser gives up, and else both find the same;
//! what it takes for the archive that was written has the documents that were.
#![no_main]

mod common;

use std::collections::BTreeMap;

use bson::{RawDocument, RawDocumentBuf, rawdoc};
use common::{Script, content, forge};
use headstock::restore::fuzzing;
use libfuzzer_sys::fuzz_target;

const NAMES: [&str; 6] =
    ["app.c", "app.dotted.name", "admin.system.users", "admin.system.version", "b.c", "app.d"];
const MAX_DOCUMENTS: u8 = 12;
const MAX_EDITS: u8 = 4;
const TERMINATOR: &[u8] = &[0xff; 4];
/// What no server takes for a document.
const MAX_DOCUMENT_BYTES: usize = (16 << 20) + (16 << 10);

type Namespace = (String, String);
/// The documents of a namespace behind each other, and whether its end was seen.
type Parsed = BTreeMap<Namespace, Vec<u8>>;

fuzz_target!(|data: &[u8]| {
    let mut script = Script(data);
    let collections = collections(&mut script);
    let (archive, start, written) = fuzzing::write(&collections).expect("is written");
    let parsed = parse(&archive[head(&archive)..]).expect("can be parsed");
    let expected: Parsed = collections
        .iter()
        .map(|(ns, documents)| {
            (split(ns), documents.iter().flat_map(|one| one.as_bytes()).copied().collect())
        })
        .collect();
    assert!(parsed == expected, "other documents than were given");
    assert!(sums(&parsed) == written);
    assert_eq!(fuzzing::read(&archive[start..]).expect("reads what was written"), written);

    let mut forged = archive[start..].to_vec();
    for _ in 0..=script.next() % MAX_EDITS {
        let near = script.below(forged.len());
        forge::edit_anywhere(&mut forged, &mut script, near);
    }
    let (found, parsed) = (fuzzing::read(&forged), parse(&forged));
    assert_eq!(found.is_ok(), parsed.is_some(), "{found:?}");
    if let (Ok(found), Some(parsed)) = (found, parsed) {
        assert_eq!(found, sums(&parsed));
        assert!(found != written || parsed == expected, "other documents pass");
    }
});

fn collections(script: &mut Script<'_>) -> Vec<(String, Vec<RawDocumentBuf>)> {
    let chosen = script.next();
    let names = NAMES.iter().enumerate().filter(|(at, _)| chosen & (1 << at) != 0);
    let mut collections = Vec::new();
    for (_, name) in names {
        let documents = (0..script.next() % MAX_DOCUMENTS).map(|n| {
            let len = script.below(300) << (script.next() % 8);
            let bytes = content(script.next(), len);
            let bytes = bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes };
            rawdoc! { "_id": i32::from(n), "name": *name, "bytes": bytes }
        });
        collections.push(((*name).to_owned(), documents.collect()));
    }
    collections
}

fn split(ns: &str) -> Namespace {
    let (db, collection) = ns.split_once('.').expect("has a dot");
    (db.to_owned(), collection.to_owned())
}

/// Bytes of the magic number, the header and the metadata.
fn head(archive: &[u8]) -> usize {
    assert_eq!(archive[..4], [0x6d, 0xe2, 0x99, 0x81]);
    let mut at = 4;
    while archive[at..at + 4] != *TERMINATOR {
        let len = forge::u32_at(archive, at) as usize;
        RawDocument::from_bytes(&archive[at..at + len]).expect("a document");
        at += len;
    }
    at + 4
}

/// The next document, or nothing at a terminator; none where there is neither.
fn next<'a>(rest: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let length = *rest.first_chunk::<4>()?;
    if length == *TERMINATOR {
        *rest = &rest[4..];
        return Some(None);
    }
    let len = u32::from_le_bytes(length) as usize;
    let (document, after) = rest.split_at_checked(len)?;
    *rest = after;
    (5..=MAX_DOCUMENT_BYTES).contains(&len).then_some(Some(document))
}

/// What stands in segments, none if they are malformed or a checksum differs.
fn parse(mut rest: &[u8]) -> Option<Parsed> {
    let mut parsed = Parsed::new();
    while !rest.is_empty() {
        let header = RawDocument::from_bytes(next(&mut rest)??).ok()?;
        let name = |field| header.get_str(field).ok().map(str::to_owned);
        let documents = parsed.entry((name("db")?, name("collection")?)).or_default();
        let (crc, eof) = (header.get_i64("CRC").ok()?, header.get("EOF").ok().flatten());
        while let Some(document) = next(&mut rest)? {
            documents.extend_from_slice(document);
        }
        let ends = eof.is_some_and(|value| match value {
            bson::RawBsonRef::Boolean(value) => value,
            bson::RawBsonRef::Int32(value) => value != 0,
            bson::RawBsonRef::Int64(value) => value != 0,
            bson::RawBsonRef::Double(value) => value != 0.0,
            _ => false,
        });
        if ends && crc as u64 != crc64(documents) {
            return None;
        }
    }
    Some(parsed)
}

fn sums(parsed: &Parsed) -> fuzzing::Found {
    let sum = |bytes: &Vec<u8>| (bytes.len() as u64, crc64(bytes));
    parsed.iter().map(|(ns, bytes)| (ns.clone(), sum(bytes))).collect()
}

/// CRC-64/XZ, a bit at a time.
fn crc64(bytes: &[u8]) -> u64 {
    let step = |crc: u64| (crc >> 1) ^ (0xC96C_5795_D787_0F42 * (crc & 1));
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u64::from(*byte), |crc, _| step(crc)))
}
