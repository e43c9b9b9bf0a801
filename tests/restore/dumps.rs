//! Dumps, archives and data directories, read back by readers written from the formats' documentation.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bson::{Document, RawDocument, doc};
use headstock::lab::{Mongod, Options, Standalone};
use headstock::restore::{Error, Request};
use md5::{Digest as _, Md5};

use crate::support::{request, restore, run, same, shared};

/// md5 and number of documents by namespace, as `dbHash` would tell them.
type Hashes = BTreeMap<String, (String, u64)>;

async fn source_hashes() -> Hashes {
    let shared = shared().await;
    let blocks = shared.made.backup.repository.blocks();
    let head = &shared.made.backup.snapshots[0].head;
    let catalog = headstock::head::catalog(&*blocks, head).expect("a catalog");
    let mut hashes = Hashes::new();
    for collection in catalog {
        let mut cursor = headstock::tree::Cursor::new(&*blocks, &collection.root);
        let mut md5 = Md5::new();
        while let Some(document) = cursor.next().expect("a document") {
            md5.update(document.as_bytes());
        }
        hashes.insert(collection.ns, (hex(md5), collection.root.documents));
    }
    // Views stand in metadata, momentary things of the server nowhere.
    hashes.retain(|ns, _| !ns.ends_with(".system.views") && !ns.starts_with("config."));
    hashes
}

fn hex(md5: Md5) -> String {
    md5.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn split(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let length = u32::from_le_bytes(rest[..4].try_into().expect("a length")) as usize;
        let (document, tail) = rest.split_at(length);
        assert_eq!(document.last(), Some(&0), "a document ends with a zero");
        rest = tail;
        Some(document)
    })
}

fn unescape(name: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = name.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digits = [rest.next().expect("a digit"), rest.next().expect("a digit")];
                let digits = std::str::from_utf8(&digits).expect("digits");
                bytes.push(u8::from_str_radix(digits, 16).expect("hexadecimal"));
            }
            b'+' => bytes.push(b' '),
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).expect("UTF-8")
}

/// Documents and metadata of a dump directory.
fn read_dump(dir: &Path) -> (Hashes, BTreeMap<String, Document>) {
    let (mut hashes, mut metadata) = (Hashes::new(), BTreeMap::new());
    for db in fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path()) {
        if !db.is_dir() {
            continue;
        }
        let name = db.file_name().expect("a name").to_str().expect("UTF-8").to_owned();
        let files: Vec<PathBuf> = fs::read_dir(&db)
            .expect("a directory")
            .map(|file| file.expect("a file").path())
            .collect();
        for file in &files {
            let called = file.file_name().expect("a name").to_str().expect("UTF-8");
            assert!(called.len() <= 255, "{called}");
            let bytes = fs::read(file).expect("a file");
            if let Some(stem) = called.strip_suffix(".metadata.json") {
                let text = String::from_utf8(bytes).expect("UTF-8");
                let json: Document = serde_json::from_str(&text).expect(&text);
                let collection = json.get_str("collectionName").expect("a name").to_owned();
                if !stem.contains("%24") {
                    assert_eq!(unescape(stem), collection);
                }
                metadata.insert(format!("{name}.{collection}"), json);
            } else if let Some(stem) = called.strip_suffix(".bson") {
                let mut md5 = Md5::new();
                let documents = split(&bytes).inspect(|document| md5.update(document)).count();
                // A name that was cut has its whole form in the metadata beside it.
                let beside = db.join(format!("{stem}.metadata.json"));
                let whole = fs::read_to_string(beside).ok().map(|text| {
                    let json: Document = serde_json::from_str(&text).expect("metadata");
                    json.get_str("collectionName").expect("a name").to_owned()
                });
                let collection = whole.unwrap_or_else(|| unescape(stem));
                hashes.insert(format!("{name}.{collection}"), (hex(md5), documents as u64));
            }
        }
    }
    (hashes, metadata)
}

fn check_metadata(metadata: &BTreeMap<String, Document>) {
    let of = |ns: &str| metadata.get(ns).unwrap_or_else(|| panic!("no {ns}"));
    let names = |ns: &str| -> Vec<String> {
        let indexes = of(ns).get_array("indexes").expect("indexes");
        indexes
            .iter()
            .map(|spec| {
                spec.as_document().expect("a spec").get_str("name").expect("a name").to_owned()
            })
            .collect()
    };
    assert_eq!(of("trap_validator.strict").get_str("type").ok(), Some("collection"));
    assert_eq!(of("trap_validator.strict").get_str("uuid").expect("a uuid").len(), 32);
    assert!(names("trap_indexes.all").contains(&"wild".to_owned()));
    let weather = of("trap_series.weather");
    assert_eq!(weather.get_str("type").ok(), Some("timeseries"));
    assert!(weather.get_document("options").expect("options").contains_key("timeseries"));
    let indexes = weather.get_array("indexes").expect("indexes");
    let key = |name: &str| {
        let spec = indexes
            .iter()
            .filter_map(|spec| spec.as_document())
            .find(|spec| spec.get_str("name").ok() == Some(name));
        spec.and_then(|spec| spec.get_document("key").ok())
            .unwrap_or_else(|| panic!("{name} in {indexes:?}"))
            .clone()
    };
    assert_eq!(key("by sensor"), doc! { "m.s": 1, "t": -1 });
    assert_eq!(key("where"), doc! { "loc": "2dsphere" });
    let versioned = |spec: &Document| spec.contains_key("2dsphereIndexVersion");
    assert!(indexes.iter().filter_map(|spec| spec.as_document()).any(versioned), "{indexes:?}");
    let view = of("trap_views.a");
    assert_eq!(view.get_str("type").ok(), Some("view"));
    assert_eq!(view.get_document("options").expect("options").get_str("viewOn").ok(), Some("m"));
    assert!(!metadata.contains_key("trap_series.system.buckets.weather"));
}

#[test]
fn a_dump_holds_every_document_byte_for_byte() {
    run(async {
        let backup = &shared().await.made.backup;
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("new").join("dump");
        let asked = || request(&format!("dump:{}", path.display()), &[]);
        let report = restore(backup, asked()).await.expect("a dump");
        let (hashes, metadata) = read_dump(&path);
        let expected = source_hashes().await;
        assert_eq!(hashes, expected);
        assert_eq!(
            report.documents,
            expected.values().map(|(_, documents)| documents).sum::<u64>()
        );
        check_metadata(&metadata);
        let prelude = fs::read_to_string(path.join("prelude.json")).expect("a prelude");
        assert!(prelude.contains("\"ServerVersion\":\"6.0.5\""), "{prelude}");
        assert_eq!(fs::read_dir(path.parent().expect("a parent")).expect("entries").count(), 1);

        let again = restore(backup, asked()).await;
        assert!(matches!(again, Err(Error::NotEmpty { .. })), "{again:?}");
    });
}

/// A reader of archives: magic, prelude, then segments by their terminators. As mongorestore does, it
/// wants users, roles and their version before all else.
fn read_archive(bytes: &[u8]) -> (Hashes, BTreeMap<String, Document>) {
    assert_eq!(bytes[..4], [0x6d, 0xe2, 0x99, 0x81]);
    let mut rest = &bytes[4..];
    let mut block = || -> Option<Vec<&[u8]>> {
        let mut documents = Vec::new();
        while !rest.is_empty() {
            if rest[..4] == [0xFF; 4] {
                rest = &rest[4..];
                return Some(documents);
            }
            let length = u32::from_le_bytes(rest[..4].try_into().expect("a length")) as usize;
            documents.push(&rest[..length]);
            rest = &rest[length..];
        }
        assert!(documents.is_empty(), "no terminator at the end");
        None
    };
    let text =
        |document: &RawDocument, field: &str| document.get_str(field).expect(field).to_owned();
    let prelude = block().expect("a prelude");
    let header = RawDocument::from_bytes(prelude[0]).expect("a header");
    assert_eq!(
        (header.get_str("version").ok(), header.get_i32("concurrent_collections").ok()),
        (Some("0.1"), Some(1))
    );
    let mut metadata = BTreeMap::new();
    for document in &prelude[1..] {
        let document = RawDocument::from_bytes(document).expect("metadata");
        let ns = format!("{}.{}", text(document, "db"), text(document, "collection"));
        metadata.insert(ns, serde_json::from_str(&text(document, "metadata")).expect("JSON"));
    }
    let mut open = BTreeMap::<String, (Md5, crc64::Slow, u64)>::new();
    let mut hashes = Hashes::new();
    while let Some(segment) = block() {
        let header = RawDocument::from_bytes(segment[0]).expect("a header");
        let ns = format!("{}.{}", text(header, "db"), text(header, "collection"));
        let special = ns.starts_with("admin.system.");
        assert!(
            !special || hashes.keys().all(|ns: &String| ns.starts_with("admin.system.")),
            "{ns}"
        );
        let sums = open.entry(ns.clone()).or_default();
        for document in &segment[1..] {
            sums.0.update(document);
            sums.1.update(document);
            sums.2 += 1;
        }
        if header.get_bool("EOF").expect("EOF") {
            let (md5, crc, documents) = open.remove(&ns).expect("open");
            assert_eq!(header.get_i64("CRC").expect("CRC"), crc.value().cast_signed(), "{ns}");
            hashes.insert(ns, (hex(md5), documents));
        }
    }
    assert!(open.is_empty(), "without an end: {:?}", open.keys());
    (hashes, metadata)
}

/// CRC-64/XZ bit by bit, as its catalogue entry defines it.
mod crc64 {
    #[derive(Default)]
    pub struct Slow(u64);
    impl Slow {
        pub fn update(&mut self, bytes: &[u8]) {
            let mut crc = !self.0;
            for byte in bytes {
                crc ^= u64::from(*byte);
                for _ in 0..8 {
                    crc = if crc & 1 == 1 { (crc >> 1) ^ 0xC96C_5795_D787_0F42 } else { crc >> 1 };
                }
            }
            self.0 = !crc;
        }
        pub fn value(&self) -> u64 {
            self.0
        }
    }
}

#[test]
fn an_archive_holds_every_document_byte_for_byte() {
    run(async {
        let backup = &shared().await.made.backup;
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("whole.archive");
        let asked =
            |existing| Request { existing, ..request(&format!("archive:{}", path.display()), &[]) };
        restore(backup, asked(headstock::restore::Existing::Refuse)).await.expect("an archive");
        let (mut hashes, metadata) = read_archive(&fs::read(&path).expect("a file"));
        // A view has an end and nothing before it.
        let empty = hex(Md5::new());
        for view in ["a", "m", "z", "collated"] {
            assert_eq!(hashes.remove(&format!("trap_views.{view}")), Some((empty.clone(), 0)));
        }
        assert_eq!(hashes, source_hashes().await);
        check_metadata(&metadata);
        let again = restore(backup, asked(headstock::restore::Existing::Refuse)).await;
        assert!(matches!(again, Err(Error::NotEmpty { .. })), "{again:?}");
        restore(backup, asked(headstock::restore::Existing::Drop)).await.expect("replaced");
        assert_eq!(fs::read_dir(dir.path()).expect("entries").count(), 1);
    });
}

#[test]
fn a_data_directory_opens_and_is_the_source() {
    run(async {
        let shared = shared().await;
        let mongod = Mongod::fetch(headstock::lab::Release::default()).expect("a mongod");
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("data");
        let asked = Request {
            mongod: Some(mongod.binary().to_path_buf()),
            existing: headstock::restore::Existing::Refuse,
            ..request(&format!("dbpath:{}", path.display()), &[])
        };
        let report = restore(&shared.made.backup, asked).await.expect("a data directory");
        assert!(report.indexes > 10);
        assert_eq!(fs::read_dir(dir.path()).expect("entries").count(), 1);
        let lock = fs::read(path.join("mongod.lock")).expect("a lock file");
        assert!(lock.is_empty(), "not shut down cleanly");
        let arguments = ["--setParameter", "ttlMonitorEnabled=false"].map(str::to_owned).to_vec();
        let options = Options { arguments, ..Options::default() };
        let server = Standalone::open(&options, &path).await.expect("it opens");
        let databases: Vec<&str> =
            shared.state.names().map(|ns| headstock::head::namespaces::split(ns).0).collect();
        same(&databases, &shared.state, server.client()).await;
        assert!(!crate::support::marked(server.client()).await);
    });
}
