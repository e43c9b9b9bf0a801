//! Checks the test vectors of `format-spec/vectors` against the code.

use std::collections::BTreeMap;

use super::fs::{Disk, RealDisk};
use super::identity::{Found, Identity};
use super::keys::Epoch;
use super::layout::{
    Entry, RecordHeader, SegmentId, StoreUuid, TRAILER_BYTES, Trailer, check_segment_header,
    encode_segment_header,
};
use super::log::Slot;
use super::record::{self, Commit, Place, Raw};
use super::scan::open_payload;
use super::{CommitSeq, RepositorySalt, Secret};
use crate::block::{self, BlockId, Codec, Dictionary, Kind};
use crate::crypt::Key;

/// The `name = hex` lines of a file of vectors.
fn vectors(file: &str) -> BTreeMap<String, Vec<u8>> {
    let path = format!("{}/format-spec/vectors/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, hex) = line.split_once(" = ").unwrap();
            let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
            (name.to_owned(), (0..hex.len()).step_by(2).map(byte).collect())
        })
        .collect()
}

fn store(vectors: &BTreeMap<String, Vec<u8>>) -> StoreUuid {
    vectors["store"][..].try_into().unwrap()
}

#[test]
fn names_and_references_of_blocks() {
    let vectors = vectors("blocks.txt");
    let raw = &vectors["raw"];
    for kind in Kind::ALL {
        let name = format!("{kind:?}").to_lowercase();
        assert_eq!(BlockId::of(kind, raw).as_bytes()[..], vectors[&name], "{name}");
    }
    assert_eq!(BlockId::of(Kind::Leaf, b"").as_bytes()[..], vectors["leaf_empty"]);
    for (kind, name) in [(Kind::Node, "node"), (Kind::Links, "links"), (Kind::Commit, "links")] {
        let found = block::references(kind, &vectors[&format!("{name}_raw")]).unwrap();
        let bytes: Vec<u8> = found.iter().flat_map(|id| *id.as_bytes()).collect();
        assert_eq!(bytes, vectors[&format!("{name}_names")]);
    }
    assert!(block::references(Kind::Stream, &vectors["links_raw"]).unwrap().is_empty());
}

#[test]
fn a_block_stored_with_a_dictionary() {
    let vectors = vectors("dictionary.txt");
    let raw = vectors["dictionary"].clone();
    let dictionary = Dictionary::new(BlockId::of(Kind::Dictionary, &raw), raw.into());
    assert_eq!(dictionary.form().0.to_le_bytes()[..], vectors["form"]);
    let (raw, frame) = (&vectors["raw"], &vectors["frame"]);
    let expand = |with| block::decompress(Codec::Zstd, frame, raw.len(), with);
    assert_eq!(expand(Some(&dictionary)).unwrap(), *raw);
    assert!(expand(None).is_err());
    let (codec, form, stored) = block::compress(raw, Some(&dictionary));
    assert_eq!((codec, form), (Codec::Zstd, dictionary.form()));
    assert!(stored.len() < block::compress(raw, None).2.len());
    assert_eq!(block::decompress(codec, &stored, raw.len(), Some(&dictionary)).unwrap(), *raw);
}

#[test]
fn a_segment_of_one_record() {
    let vectors = vectors("segment.txt");
    let (store, id, offset) = (store(&vectors), SegmentId(0x2a), 4096);
    let plain = Identity::plain(store, RepositorySalt([0; 32]));
    let sector = encode_segment_header(&plain, id);
    assert_eq!(sector[..64], vectors["header_start"]);
    assert_eq!(sector[4092..], vectors["header_crc"]);
    assert!(sector[64..4092].iter().all(|byte| *byte == 0));
    assert_eq!(check_segment_header(&sector, &plain, id), Ok(Epoch::NONE));

    let record = &vectors["record"];
    let header = RecordHeader::decode(&record[..64], &store, id, offset).unwrap();
    assert_eq!((header.kind, header.codec), (Kind::Leaf, Codec::Raw));
    assert_eq!(header.span(), record.len() as u64);
    let payload = &record[64..64 + header.stored_len as usize];
    assert_eq!(open_payload(&plain, &header, payload, None).unwrap(), payload);
    assert_eq!(crc32fast::hash(payload), header.payload_crc);
    assert_eq!(header.encode(&store, id, offset)[..], record[..64]);
    assert!(RecordHeader::decode(&record[..64], &store, id, offset + 8).is_err());

    let stored_len = header.stored_len;
    let entry = Entry { id: header.id, segment: id, offset, stored_len, kind: Kind::Leaf };
    let data_end = offset + record.len() as u64;
    let footer = Trailer::encode_footer(&store, id, data_end, (stored_len.into(), false), &[entry]);
    assert_eq!(footer, vectors["footer"]);
    let (entries, trailer) = footer.split_at(footer.len() - TRAILER_BYTES);
    let size = data_end + footer.len() as u64;
    let decoded = Trailer::decode(trailer, &store, id, size).unwrap();
    assert!(decoded.verify(entries, trailer));
    assert_eq!(Entry::decode(entries).unwrap(), entry);
}

#[test]
fn a_log_of_two_commits() {
    let vectors = vectors("commit-log.txt");
    let store = store(&vectors);
    let (a, b) = (BlockId::of(Kind::Leaf, b"a"), BlockId::of(Kind::Leaf, b"b"));
    let plain = Identity::plain(store, RepositorySalt([0; 32]));
    let place = Place { store: &plain, log: 5, offset: 0 };
    let mut first = Commit {
        seq: CommitSeq(7),
        time_ms: 1_700_000_000_000,
        roots: [("rs0".to_owned(), a), ("rs1".to_owned(), b)].into(),
        segments: [(SegmentId(1), 70_000), (SegmentId(2), 65_536)].into(),
        active: Some((SegmentId(3), 8192)),
        next_segment: SegmentId(4),
        hash: [0; 32],
    };
    assert_eq!(record::encode(&mut first, &Commit::genesis(), true, &place), vectors["full"]);
    let mut second = first.clone();
    second.seq = CommitSeq(8);
    second.time_ms += 1000;
    second.roots = [("rs1".to_owned(), a)].into();
    second.segments = [(SegmentId(2), 65_536), (SegmentId(3), 66_000)].into();
    second.active = Some((SegmentId(4), 4096));
    second.next_segment = SegmentId(5);
    let place_of_next = Place { offset: vectors["full"].len() as u64, ..place };
    assert_eq!(record::encode(&mut second, &first, false, &place_of_next), vectors["next"]);
    let read = Raw::check(&vectors["full"], &place).unwrap().apply(None).unwrap();
    assert_eq!(read, first);
    let next = Raw::check(&vectors["next"], &place_of_next).unwrap();
    assert_eq!(next.apply(Some(&read)).unwrap(), second);

    let slot = Slot { generation: 9, log: 5, first: first.hash };
    let bytes = slot.encode(&store);
    assert_eq!(bytes[..128], vectors["slot"]);
    assert_eq!(Slot::decode(&bytes, &store).unwrap(), slot);
}

#[test]
fn a_copy_of_name_and_salt() {
    let vectors = vectors("commit-log.txt");
    let identity = Identity::plain(store(&vectors), RepositorySalt([0x5a; 32]));
    let found = Found::of(&identity);
    assert_eq!(found.encode()[..], vectors["identity"]);
    let dir = tempfile::tempdir().unwrap();
    found.write(&RealDisk, dir.path()).unwrap();
    assert_eq!(Found::read(&RealDisk, dir.path()).unwrap(), found);
    assert_eq!(RealDisk.list(dir.path()).unwrap(), ["STORE"]);
}

/// Those of page 08, which another program computed: both secrets open the keys, and these a record and a commit.
#[test]
fn keys_a_record_and_a_commit_of_an_encrypted_store() {
    let vectors = vectors("encryption.txt");
    let dir = tempfile::tempdir().unwrap();
    let mut copy = vectors["keys_start"].clone();
    copy.resize(1600, 0);
    copy.extend_from_slice(&vectors["keys_ring"]);
    copy.resize(8188, 0);
    copy.extend_from_slice(&vectors["keys_crc"]);
    std::fs::write(dir.path().join("KEYS"), [&copy[..], &copy[..]].concat()).unwrap();
    let mut start = vectors["identity"].clone();
    start.resize(4096, 0);
    let identity = [&start[..], &vectors["identity"]].concat();
    std::fs::write(dir.path().join("STORE"), identity).unwrap();
    let found = Found::read(&RealDisk, dir.path()).unwrap();
    assert!(found.encrypted && found.uuid == store(&vectors));
    assert_eq!(found.encode()[..], vectors["identity"]);
    let secrets = [
        Secret::Key(Key::from_slice(&vectors["key_file_key"]).unwrap()),
        Secret::Passphrase(vectors["passphrase"].clone().into()),
    ];
    for secret in &secrets {
        let identity = found.unlock(&RealDisk, dir.path(), Some(secret)).unwrap();
        check_encrypted(&vectors, &identity);
    }
}

fn check_encrypted(vectors: &BTreeMap<String, Vec<u8>>, identity: &Identity) {
    assert_eq!(identity.salt.0[..], vectors["ring"][32..64]);
    assert_eq!(identity.epoch(), Epoch(2));
    let name = identity.name(Kind::Leaf, &vectors["raw"]);
    assert_eq!(name.as_bytes()[..], vectors["name"]);

    let (id, record) = (SegmentId(42), &vectors["record"]);
    let header = RecordHeader::decode(&record[..64], &identity.uuid, id, 4096).unwrap();
    let payload = &record[64..64 + header.stored_len as usize];
    assert_eq!(crc32fast::hash(payload), header.payload_crc);
    assert_eq!(open_payload(identity, &header, payload, None).unwrap()[..], vectors["raw"]);
    let plain = Identity::plain(identity.uuid, identity.salt);
    assert!(open_payload(&plain, &header, payload, None).is_err());

    let place = Place { store: identity, log: 5, offset: 0 };
    let commit = Raw::check(&vectors["commit"], &place).unwrap().apply(None).unwrap();
    assert_eq!((commit.seq, commit.next_segment), (CommitSeq(7), SegmentId(5)));
    assert_eq!(commit.roots.keys().collect::<Vec<_>>(), ["rs0", "rs1"]);
    assert_eq!(commit.segments, [(SegmentId(2), 65_536), (SegmentId(3), 66_000)].into());
    assert_eq!(commit.active, Some((SegmentId(4), 4096)));
    assert!(Raw::check(&vectors["commit"], &Place { store: &plain, ..place }).is_none());
}
