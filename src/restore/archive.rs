//! A file as `mongodump --archive` writes it (the tools' `common/archive/spec.md`).
//!
//! Magic number; a header document; one metadata document per namespace; a terminator. Then per
//! namespace a segment: its header, its documents, a terminator, and an end: a header with `EOF` and
//! the CRC-64 of the documents, a terminator. Segments may interleave; here each namespace has one.
//! Users, roles and the version of their form stand before all else: mongorestore keeps in memory what
//! comes of them before the first other namespace, and finds none after it. The file is synced, then
//! read back whole by a reader of its own and compared, then named (see [`super::files`]).

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

use bson::{RawDocument, RawDocumentBuf, rawdoc};

use super::files::{self, BUFFER_BYTES, FileWork, Written};
use super::items::{Item, Shape, flag, text};
use super::live::Done;
use super::synced::Synced;
use super::{Amount, Cancel, Error, Phase, metadata};

/// First bytes of an archive.
const MAGIC: [u8; 4] = 0x8199_E26D_u32.to_le_bytes();
/// Ends a run of documents: a length that no document has.
const TERMINATOR: [u8; 4] = [0xFF; 4];
/// The only version there is.
const FORMAT_VERSION: &str = "0.1";
/// Namespaces whose segments come before all others.
const STAND_FIRST: [&str; 3] = ["admin.system.users", "admin.system.roles", "admin.system.version"];
/// The largest document in an archive: a user's, or our metadata.
const MAX_DOCUMENT_BYTES: usize = (16 << 20) + (16 << 10);

/// Length and checksum of the documents per namespace: database, collection.
pub(super) type Sums = HashMap<(String, String), Written>;

/// Writes the file.
pub(super) fn restore(work: &FileWork, path: &Path) -> Result<Done, Error> {
    let file = File::create_new(path).map_err(Error::io("create", path))?;
    let synced = Synced::new(file).map_err(Error::io("sync", path))?;
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, synced);
    let (head_bytes, written) = write(work, path, &mut out)?;
    let file = out.into_inner().map_err(|why| why.into_error());
    file.and_then(Synced::finish).map_err(Error::io("sync", path))?;
    let bytes = work.items.iter().map(Item::bytes).sum();
    work.progress.begin(Phase::Compare, Amount { documents: 0, bytes });
    let mut found = read_back(path, head_bytes, work)?;
    let mut done = Done::default();
    for item in &work.items {
        let ns = data_ns(item);
        let expected = written.get(&ns).cloned().unwrap_or_default();
        files::compare(item, &found.remove(&ns).unwrap_or_default(), &expected)?;
        files::count(&mut done, item);
    }
    Ok(done)
}

/// Writes all. Returns the bytes before the first segment, and what stands in the segments.
pub(super) fn write(
    work: &FileWork,
    path: &Path,
    out: &mut dyn Write,
) -> Result<(usize, Sums), Error> {
    let head = head(work)?;
    out.write_all(&head).map_err(Error::io("write", path))?;
    let (first, rest): (Vec<&Item>, Vec<&Item>) =
        work.items.iter().partition(|item| STAND_FIRST.contains(&item.ns.as_str()));
    let mut written = Sums::new();
    for item in first.into_iter().chain(rest) {
        written.insert(data_ns(item), segment(work, item, path, out)?);
    }
    Ok((head.len(), written))
}

/// The collection of the documents; a view stands under its own name.
fn data_ns(item: &Item) -> (String, String) {
    let name = if item.data.is_some() { item.data_name() } else { item.name() };
    (item.db().to_owned(), name.to_owned())
}

fn head(work: &FileWork) -> Result<Vec<u8>, Error> {
    let mut head = MAGIC.to_vec();
    let header = rawdoc! {
        "concurrent_collections": 1,
        "version": FORMAT_VERSION,
        "server_version": &*work.server_version,
        "tool_version": concat!("headstock ", env!("CARGO_PKG_VERSION")),
    };
    head.extend_from_slice(header.as_bytes());
    for item in &work.items {
        let kind = match item.shape {
            Shape::TimeSeries | Shape::View => metadata::kind(item),
            _ => "",
        };
        let metadata = rawdoc! {
            "db": item.db(),
            "collection": item.name(),
            "metadata": metadata::json(item)?,
            // For progress only; readers take 32 bits.
            "size": i32::try_from(item.bytes()).unwrap_or(i32::MAX),
            "type": kind,
        };
        head.extend_from_slice(metadata.as_bytes());
    }
    head.extend_from_slice(&TERMINATOR);
    Ok(head)
}

fn namespace_header(item: &Item, eof: bool, crc: u64) -> RawDocumentBuf {
    let (db, collection) = data_ns(item);
    // The format has no unsigned numbers: the bits of the checksum stand in a signed one.
    let crc = i64::from_le_bytes(crc.to_le_bytes());
    rawdoc! { "db": db, "collection": collection, "EOF": eof, "CRC": crc }
}

fn segment(
    work: &FileWork,
    item: &Item,
    path: &Path,
    out: &mut dyn Write,
) -> Result<Written, Error> {
    let mut sum = Written::default();
    let put =
        |out: &mut dyn Write, bytes: &[u8]| out.write_all(bytes).map_err(Error::io("write", path));
    if item.documents() > 0 {
        put(out, namespace_header(item, false, 0).as_bytes())?;
        sum = files::write_documents(work, item, path, out)?;
        put(out, &TERMINATOR)?;
    }
    put(out, namespace_header(item, true, sum.crc()).as_bytes())?;
    put(out, &TERMINATOR)?;
    Ok(sum)
}

/// Length and checksum per namespace, by reading what follows the head.
fn read_back(path: &Path, head_bytes: usize, work: &FileWork) -> Result<Sums, Error> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let mut input = BufReader::with_capacity(BUFFER_BYTES, file);
    let skipped = std::io::copy(&mut input.by_ref().take(head_bytes as u64), &mut std::io::sink());
    skipped.map_err(Error::io("read back", path))?;
    read_segments(input, path, work)
}

/// Length and checksum per namespace, by reading from the first segment on.
pub(super) fn read_segments(input: impl Read, path: &Path, work: &FileWork) -> Result<Sums, Error> {
    let mut reader = Reader { input, path, document: Vec::new(), cancel: &work.cancel };
    let mut found = Sums::new();
    while let Some(header) = reader.header()? {
        let sum = found.entry(header.ns).or_default();
        while reader.document()? {
            sum.add(&reader.document);
        }
        if let Some(crc) = header.end
            && crc != sum.crc()
        {
            return Err(reader.broken("a checksum differs"));
        }
        work.progress.advance(Amount { documents: 0, bytes: 0 });
    }
    Ok(found)
}

struct Header {
    ns: (String, String),
    /// The checksum, where the namespace ends.
    end: Option<u64>,
}

struct Reader<'a, R> {
    input: R,
    path: &'a Path,
    document: Vec<u8>,
    cancel: &'a Cancel,
}

impl<R: Read> Reader<'_, R> {
    fn broken(&self, what: &'static str) -> Error {
        let source = std::io::Error::new(std::io::ErrorKind::InvalidData, what);
        Error::io("read back", self.path)(source)
    }

    /// The header of the next segment, none at the end of the file.
    fn header(&mut self) -> Result<Option<Header>, Error> {
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let mut length = [0; 4];
        let first = self.input.read(&mut length[..1]).map_err(Error::io("read back", self.path))?;
        if first == 0 {
            return Ok(None);
        }
        self.exact(&mut length[1..])?;
        if !self.rest(length)? {
            return Err(self.broken("a segment without a header"));
        }
        let header = RawDocument::from_bytes(&self.document);
        let header = header.map_err(|_| self.broken("a header that is not BSON"))?;
        let name = |field| text(header, field).map(str::to_owned);
        let ns = name("db").zip(name("collection"));
        let ns = ns.ok_or_else(|| self.broken("a header without a namespace"))?;
        let crc = header.get_i64("CRC").map_err(|_| self.broken("a header without a checksum"))?;
        let crc = u64::from_le_bytes(crc.to_le_bytes());
        Ok(Some(Header { ns, end: flag(header, "EOF").then_some(crc) }))
    }

    /// Reads the next document; false at a terminator.
    fn document(&mut self) -> Result<bool, Error> {
        let mut length = [0; 4];
        self.exact(&mut length)?;
        self.rest(length)
    }

    fn rest(&mut self, length: [u8; 4]) -> Result<bool, Error> {
        if length == TERMINATOR {
            return Ok(false);
        }
        let bytes = u32::from_le_bytes(length) as usize;
        if !(5..=MAX_DOCUMENT_BYTES).contains(&bytes) {
            return Err(self.broken("a length that no document has"));
        }
        let mut document = std::mem::take(&mut self.document);
        document.clear();
        document.extend_from_slice(&length);
        document.resize(bytes, 0);
        let outcome = self.exact(&mut document[4..]);
        self.document = document;
        outcome.map(|()| true)
    }

    fn exact(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        self.input.read_exact(buffer).map_err(Error::io("read back", self.path))
    }
}
