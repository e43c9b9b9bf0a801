//! What the tests share: reading a scan or a tail whole, and a source to read.

use std::time::Duration;

use bson::{Document, RawDocument, RawDocumentBuf, doc};
use bytes::Bytes;
use headstock::lab::ReplicaSet;
use headstock::source::{Error, Listed, Range, ReadFrom, Scan, Source, Tail};
use mongodb::Collection;

/// A set and a source on it.
pub async fn set_and_source(members: usize) -> (ReplicaSet, Source) {
    let set = ReplicaSet::of(members).await.expect("a set");
    let source = source(&set).await;
    (set, source)
}

/// A source on a set.
pub async fn source(set: &ReplicaSet) -> Source {
    Source::connect(&set.uri(), ReadFrom::default()).await.expect("connect")
}

/// A collection of the set's primary.
pub fn collection(set: &ReplicaSet, name: &str) -> Collection<Document> {
    set.client().database("v").collection(name)
}

/// Runs a command on `db` of the primary.
pub async fn run(set: &ReplicaSet, db: &str, command: Document) -> Document {
    let shown = format!("{command:?}");
    set.client().database(db).run_command(command).await.unwrap_or_else(|e| panic!("{shown}: {e}"))
}

/// Documents with ascending integer ids and `bytes` of padding.
pub fn numbered(from: i32, to: i32, bytes: usize) -> Vec<Document> {
    (from..to).map(|n| doc! { "_id": n, "pad": "x".repeat(bytes) }).collect()
}

/// The listing of one namespace.
pub async fn listed(source: &Source, ns: &str) -> Listed {
    let all = source.list(&headstock::head::Scope::all()).await.expect("list");
    let names: Vec<&str> = all.iter().map(|one| one.ns.as_str()).collect();
    all.iter().find(|one| one.ns == ns).unwrap_or_else(|| panic!("no {ns} in {names:?}")).clone()
}

/// The documents in concatenated BSON.
pub fn documents(bytes: &Bytes) -> Vec<RawDocumentBuf> {
    let (mut rest, mut found) = (bytes.as_ref(), Vec::new());
    while !rest.is_empty() {
        let length = i32::from_le_bytes(rest[..4].try_into().expect("four bytes"));
        let (one, after) = rest.split_at(usize::try_from(length).expect("positive"));
        found.push(RawDocument::from_bytes(one).expect("valid").to_owned());
        rest = after;
    }
    found
}

/// Reads a scan to its end.
pub async fn drain(scan: &mut Scan) -> Result<Vec<RawDocumentBuf>, Error> {
    let mut all = Vec::new();
    while let Some(batch) = scan.next().await? {
        assert!(!batch.is_empty());
        all.extend(documents(&batch));
    }
    Ok(all)
}

/// Scans a range whole.
pub async fn read(source: &Source, listed: &Listed, range: Range) -> Vec<RawDocumentBuf> {
    drain(&mut source.scan(listed, range).await.expect("scan")).await.expect("read")
}

/// The integer `_id`s of documents.
pub fn ids(documents: &[RawDocumentBuf]) -> Vec<i32> {
    documents.iter().map(|document| document.get_i32("_id").expect("an integer")).collect()
}

/// Entries of a tail until one of them satisfies `until`; at most a minute.
pub async fn entries(tail: &mut Tail, until: impl Fn(&RawDocument) -> bool) -> Vec<RawDocumentBuf> {
    let mut all = Vec::new();
    let read = async {
        loop {
            let found = documents(&tail.next().await.expect("tail"));
            let done = found.iter().any(|entry| until(entry));
            all.extend(found);
            if done {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), read).await.expect("the entry comes in a minute");
    all
}
