//! A second reader of the log of objects, written from its page (10, section 2) alone: what the program says of itself is not taken for granted.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bson::{Bson, Document};

/// Bytes of a hash.
const HASH: usize = 32;

/// The documents after the last entry.
pub struct Log {
    path: PathBuf,
    documents: BTreeMap<(String, String), Document>,
    /// Entries that are there.
    pub entries: usize,
    /// Checkpoints that are there.
    pub checkpoints: usize,
}

impl Log {
    pub fn read(path: &Path) -> Self {
        let mut log = Self {
            path: path.to_owned(),
            documents: BTreeMap::new(),
            entries: names(&path.join("log")).len(),
            checkpoints: names(&path.join("checkpoints")).len(),
        };
        let mut number = 0_i64;
        let mut prev = Vec::new();
        if let Some(newest) = names(&path.join("checkpoints")).pop() {
            let bytes = fs::read(path.join("checkpoints").join(&newest)).expect("a checkpoint");
            let (packed, hash) = bytes.split_at(bytes.len() - HASH);
            assert_eq!(blake3::hash(packed).as_bytes(), hash, "checkpoint {newest}");
            let raw = zstd::stream::decode_all(packed).expect("zstd");
            let mut rest = &raw[..];
            let head = Document::from_reader(&mut rest).expect("a head");
            number = head.get_i64("number").expect("a number");
            assert_eq!(newest, format!("{number:020}"));
            prev = head.get_binary_generic("entry").expect("a hash").clone();
            while !rest.is_empty() {
                let one = Document::from_reader(&mut rest).expect("a document");
                let document = one.get_document("document").expect("it").clone();
                let of = one.get_str("of").expect("of").to_owned();
                log.documents.insert((of, document["_id"].to_string()), document);
            }
            number += 1;
        }
        while let Ok(bytes) = fs::read(path.join("log").join(format!("{number:020}"))) {
            let (document, hash) = bytes.split_at(bytes.len() - HASH);
            assert_eq!(blake3::hash(document).as_bytes(), hash, "entry {number}");
            let entry = Document::from_reader(document).expect("an entry");
            assert_eq!(entry.get_i64("number").expect("a number"), number);
            let before = entry.get_binary_generic("prev").expect("a hash");
            assert!(*before == prev || number == 0, "entry {number} does not follow");
            prev = hash.to_vec();
            for change in entry.get_array("changes").expect("changes") {
                log.apply(change.as_document().expect("a change"));
            }
            number += 1;
        }
        log
    }

    fn apply(&mut self, change: &Document) {
        let of = change.get_str("of").expect("of").to_owned();
        let key = (of, change["id"].to_string());
        match change.get("document") {
            Some(Bson::Document(document)) => _ = self.documents.insert(key, document.clone()),
            None => _ = self.documents.remove(&key),
            Some(other) => panic!("{other}"),
        }
    }

    /// The documents of a collection.
    pub fn documents(&self, of: &str) -> Vec<&Document> {
        let found = self.documents.iter().filter(|((one, _), _)| one == of);
        found.map(|(_, document)| document).collect()
    }

    /// The files of all packs that are there, whether a document names them, and how long that says they are.
    pub fn packs(&self) -> Vec<(PathBuf, Option<i64>)> {
        let dir = self.path.join("packs");
        let bytes = |name: &str| {
            let of_name = |one: &&&Document| one.get_str("_id").expect("a name") == name;
            let all = self.documents("packs");
            all.iter().find(of_name).map(|one| one.get_i64("bytes").expect("bytes"))
        };
        names(&dir).into_iter().map(|name| (dir.join(&name), bytes(&name))).collect()
    }
}

/// What is in a directory, in order; nothing if it is not there.
fn names(path: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let name = |entry: std::io::Result<fs::DirEntry>| {
        entry.expect("an entry").file_name().into_string().expect("a name")
    };
    let mut names: Vec<String> = entries.map(name).collect();
    names.sort_unstable();
    names
}
