//! Archives in memory, for `fuzz/fuzz_targets/archive.rs`: without a backup, and read from bytes that nobody
//! wrote. In no other build.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bson::RawDocumentBuf;

use super::archive::{self, Sums};
use super::files::FileWork;
use super::items::{Item, Shape};
use super::{Cancel, Error, Silent};
use crate::block::MemoryBlocks;
use crate::head::Collection;
use crate::oplog::Uuid;
use crate::store::RepositorySalt;
use crate::tree::{Builder, Content, Order};

/// Bytes and CRC-64 of the documents by database and collection.
pub type Found = BTreeMap<(String, String), (u64, u64)>;

/// An archive of collections, each a namespace and its documents; where its segments start in it; and what it
/// says that it wrote.
///
/// # Errors
/// Those of a restore.
pub fn write(
    collections: &[(String, Vec<RawDocumentBuf>)],
) -> Result<(Vec<u8>, usize, Found), Error> {
    let blocks = MemoryBlocks::new();
    let items = collections.iter().map(|(ns, documents)| item(&blocks, ns, documents));
    let items = items.collect::<Result<_, _>>()?;
    let (mut out, work) = (Vec::new(), work(items, blocks));
    let (start, sums) = archive::write(&work, Path::new("archive"), &mut out)?;
    Ok((out, start, found(sums)))
}

/// What the reader that a restore checks its archive with finds in bytes from the first segment on.
///
/// # Errors
/// Those of a restore.
pub fn read(segments: &[u8]) -> Result<Found, Error> {
    let work = work(Vec::new(), MemoryBlocks::new());
    archive::read_segments(segments, Path::new("archive"), &work).map(found)
}

fn work(items: Vec<Item>, blocks: MemoryBlocks) -> FileWork {
    FileWork {
        items,
        blocks: Arc::new(blocks),
        server_version: "6.0.5".to_owned(),
        progress: Arc::new(Silent),
        cancel: Cancel::new(),
    }
}

fn item(blocks: &MemoryBlocks, ns: &str, documents: &[RawDocumentBuf]) -> Result<Item, Error> {
    let shape = crate::tree::Shape::new(RepositorySalt([7; 32]), Order::Keyed, Content::Documents);
    let mut builder = Builder::new(blocks, &shape);
    let built = documents.iter().try_for_each(|document| builder.push(document));
    let root = built.and_then(|()| builder.finish()).map_err(Error::unreadable(ns))?;
    let data = Collection {
        uuid: Uuid([1; 16]),
        ns: ns.to_owned(),
        options: RawDocumentBuf::new(),
        indexes: Vec::new(),
        order: Order::Keyed,
        root,
    };
    let options = RawDocumentBuf::new();
    Ok(Item { ns: ns.to_owned(), shape: Shape::Plain, options, data: Some(data) })
}

fn found(sums: Sums) -> Found {
    sums.into_iter().map(|(ns, sum)| (ns, (sum.bytes, sum.crc()))).collect()
}
