//! Reads the documents of a collection for a target, and their md5 on the way.
//!
//! The md5 over the documents in the order of the tree is what a server's `dbHash` reports for the
//! collection, since its `_id` index or record order is the tree's order. Excepted are collections
//! whose default collation is not simple, and capped ones, which `dbHash` reads by `_id` too: those are
//! read back in the tree's order. So the comparison after a restore costs no second read of the backup.

use std::sync::mpsc;

use bson::raw::{RawBsonRef, cstr};
use bson::spec::ElementType;
use bson::{RawArrayBuf, RawDocument, RawDocumentBuf, rawdoc};
use bytes::Bytes;
use md5::{Digest as _, Md5};

use super::items::Item;
use super::{Cancel, Error};
use crate::block::BlockRead;
use crate::elements;
use crate::head::Collection;
use crate::tree::{self, Cursor};

/// Bytes of documents that are handed from one thread to another at once, beyond the last run.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces that are read before they are needed.
const PIECES_AHEAD: usize = 2;
/// Bytes of documents in one insert command, beyond its last document: large enough to amortise a
/// round trip, small enough for several to be under way.
const MAX_BATCH_BYTES: usize = 4 << 20;
/// Documents in one insert command, a tenth of what servers take.
const MAX_BATCH_DOCUMENTS: usize = 10_000;
/// Bytes of a command besides its documents: fields, a namespace and array indexes.
const COMMAND_BYTES: usize = 1 << 10;

/// What was read of a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Summary {
    /// md5 over the documents, in order.
    pub md5: [u8; 16],
    /// How many there were.
    pub documents: u64,
    /// Sum of their lengths.
    pub bytes: u64,
}

impl Summary {
    /// The md5 as `dbHash` writes it.
    pub fn md5_hex(&self) -> String {
        hex(&self.md5)
    }
}

/// An md5 as servers write it.
pub(super) fn hex(md5: &[u8; 16]) -> String {
    md5.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Hands every document of an item to `each`, in order. Blocking.
pub(super) fn documents(
    blocks: &dyn BlockRead,
    item: &Item,
    cancel: &Cancel,
    each: &mut dyn FnMut(&RawDocument) -> Result<(), Error>,
) -> Result<Summary, Error> {
    let mut summary = Summary::default();
    let Some(data) = &item.data else { return Ok(summary) };
    let mut md5 = Md5::new();
    runs(blocks, data, cancel, &mut |run| {
        md5.update(run);
        summary.bytes += run.len() as u64;
        summary.documents += for_each_document(&data.ns, run, each)?;
        Ok(())
    })?;
    summary.md5 = md5.finalize().into();
    Ok(summary)
}

/// Hands the documents of a collection to `each`, one after the other, as many at once as stand in a leaf. Another thread reads
/// and checks those that follow. Blocking.
pub(super) fn runs(
    blocks: &dyn BlockRead,
    data: &Collection,
    cancel: &Cancel,
    each: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    std::thread::scope(|scope| {
        let (send, receive) = mpsc::sync_channel(PIECES_AHEAD);
        scope.spawn(move || {
            let mut cursor = Cursor::new(blocks, &data.root);
            // Nobody listens any more where `each` has failed.
            while let Some(piece) = next_piece(&mut cursor).transpose()
                && send.send(piece).is_ok()
            {}
        });
        for piece in receive {
            for run in piece.map_err(|why| Error::unreadable(&data.ns)(why))? {
                if cancel.is_cancelled() {
                    return Err(Error::Cancelled);
                }
                each(&run)?;
            }
        }
        Ok(())
    })
}

/// The next runs of documents, about [`PIECE_BYTES`] of them.
fn next_piece(cursor: &mut Cursor<'_>) -> Result<Option<Vec<Bytes>>, tree::Error> {
    let (mut piece, mut bytes) = (Vec::new(), 0);
    while bytes < PIECE_BYTES
        && let Some(run) = cursor.next_run()?
    {
        bytes += run.len();
        piece.push(run);
    }
    Ok((!piece.is_empty()).then_some(piece))
}

/// Hands each document of a run on. Returns how many there are.
pub(super) fn for_each_document(
    ns: &str,
    mut run: &[u8],
    each: &mut dyn FnMut(&RawDocument) -> Result<(), Error>,
) -> Result<u64, Error> {
    let mut documents = 0;
    while !run.is_empty() {
        let (document, tail) = split_document(ns, run)?;
        each(document)?;
        documents += 1;
        run = tail;
    }
    Ok(documents)
}

fn split_document<'a>(ns: &str, bytes: &'a [u8]) -> Result<(&'a RawDocument, &'a [u8]), Error> {
    let malformed = |source| Error::Malformed { ns: ns.to_owned(), what: "a document", source };
    let length = bytes.first_chunk::<4>().map(|length| u32::from_le_bytes(*length) as usize);
    let length = length.filter(|length| *length <= bytes.len()).ok_or_else(|| malformed(None))?;
    let (document, tail) = bytes.split_at(length);
    Ok((RawDocument::from_bytes(document).map_err(|why| malformed(Some(Box::new(why))))?, tail))
}

/// One command that writes documents.
pub(super) struct Batch {
    /// The command.
    pub command: RawDocumentBuf,
    /// Documents it writes.
    pub documents: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Gathers documents into commands.
pub(super) struct Batches<'a> {
    collection: &'a str,
    ordered: bool,
    command: Vec<u8>,
    array_at: usize,
    documents: usize,
    bytes: usize,
}

impl<'a> Batches<'a> {
    /// `collection` without its database; `ordered` where the order of documents must be kept.
    pub fn new(collection: &'a str, ordered: bool) -> Self {
        Self { collection, ordered, command: Vec::new(), array_at: 0, documents: 0, bytes: 0 }
    }

    /// Adds a document; hands what is full to `full`, in order.
    pub fn push(
        &mut self,
        document: &RawDocument,
        full: &mut dyn FnMut(Batch) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let length = document.as_bytes().len();
        if has_empty_timestamp(document) {
            self.flush(full)?;
            return full(self.verbatim(document)?);
        }
        // The server takes commands a little above its document limit, so the largest document
        // goes alone.
        if self.documents > 0 && self.bytes + length > MAX_BATCH_BYTES {
            self.flush(full)?;
        }
        if self.documents == 0 {
            self.begin();
        }
        self.command.push(ElementType::EmbeddedDocument as u8);
        self.command.extend_from_slice(self.documents.to_string().as_bytes());
        self.command.push(0);
        self.command.extend_from_slice(document.as_bytes());
        self.documents += 1;
        self.bytes += length;
        if self.documents >= MAX_BATCH_DOCUMENTS { self.flush(full) } else { Ok(()) }
    }

    /// Hands over what is left.
    pub fn flush(&mut self, full: &mut dyn FnMut(Batch) -> Result<(), Error>) -> Result<(), Error> {
        if self.documents == 0 {
            return Ok(());
        }
        let mut command = std::mem::take(&mut self.command);
        command.push(0);
        let array = u32::try_from(command.len() - self.array_at).expect("bounded by the batch");
        command[self.array_at..self.array_at + 4].copy_from_slice(&array.to_le_bytes());
        command.push(0);
        let whole = u32::try_from(command.len()).expect("bounded by the batch");
        command[..4].copy_from_slice(&whole.to_le_bytes());
        let command = RawDocumentBuf::from_bytes(command).map_err(|why| Error::Malformed {
            ns: self.collection.to_owned(),
            what: "a batch of documents",
            source: Some(Box::new(why)),
        })?;
        let (documents, bytes) = (self.documents as u64, self.bytes as u64);
        (self.documents, self.bytes) = (0, 0);
        full(Batch { command, documents, bytes })
    }

    fn begin(&mut self) {
        let head = rawdoc! {
            "insert": self.collection,
            "ordered": self.ordered,
            "bypassDocumentValidation": true,
            "writeConcern": { "w": 1 },
        };
        self.command = head.into_bytes();
        self.command.reserve(COMMAND_BYTES);
        self.command.pop();
        self.command.push(ElementType::Array as u8);
        self.command.extend_from_slice(b"documents\0");
        self.array_at = self.command.len();
        self.command.extend_from_slice(&[0; 4]);
    }

    /// Servers replace a top-level `Timestamp(0, 0)` in every insert and replacement, but not in the
    /// result of a pipeline; an upsert by a pipeline of one literal writes the document as it is.
    fn verbatim(&self, document: &RawDocument) -> Result<Batch, Error> {
        let mut command = rawdoc! { "update": self.collection };
        let mut update = RawDocumentBuf::new();
        update.append(cstr!("q"), by_id(document)?);
        update.append(cstr!("u"), literal(document));
        update.append(cstr!("upsert"), true);
        command.append(cstr!("updates"), RawArrayBuf::from_iter([update]));
        command.append(cstr!("bypassDocumentValidation"), true);
        command.append(cstr!("writeConcern"), rawdoc! { "w": 1 });
        Ok(Batch { command, documents: 1, bytes: document.as_bytes().len() as u64 })
    }
}

/// What selects the document of the same `_id`, whose bytes are taken as they are: a string need not be
/// UTF-8.
pub(super) fn by_id(document: &RawDocument) -> Result<RawDocumentBuf, Error> {
    let malformed =
        || Error::Malformed { ns: "a document".to_owned(), what: "an _id", source: None };
    let id = elements::id(document).map_err(|_| malformed())?.ok_or_else(malformed)?;
    let equal = id.alone(b"$eq");
    Ok(rawdoc! { "_id": equal })
}

/// The pipeline whose result is the document as it is.
pub(super) fn literal(document: &RawDocument) -> RawArrayBuf {
    let mut literal = RawDocumentBuf::new();
    literal.append(cstr!("$literal"), document);
    let mut stage = RawDocumentBuf::new();
    stage.append(cstr!("$replaceWith"), literal);
    RawArrayBuf::from_iter([stage])
}

/// Whether a server would change the document when it is inserted.
pub(super) fn has_empty_timestamp(document: &RawDocument) -> bool {
    document.iter_elements().flatten().any(|element| {
        element.element_type() == ElementType::Timestamp
            && element.key().as_str() != "_id"
            && matches!(
                element.value(),
                Ok(RawBsonRef::Timestamp(ts)) if ts.time == 0 && ts.increment == 0
            )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_is_not_utf8_is_selected_as_it_is() {
        let mut bytes = rawdoc! { "n": 1, "_id": "@@" }.into_bytes();
        let at = bytes.windows(2).position(|two| two == b"@@").expect("the _id");
        bytes[at..at + 2].copy_from_slice(&[0xff, 0xfe]);
        let document = RawDocumentBuf::from_bytes(bytes).expect("a document");
        let selected = by_id(&document).expect("an _id").into_bytes();
        let mut expected = rawdoc! { "_id": { "$eq": "@@" } }.into_bytes();
        let at = expected.windows(2).position(|two| two == b"@@").expect("the _id");
        expected[at..at + 2].copy_from_slice(&[0xff, 0xfe]);
        assert_eq!(selected, expected);
    }
}
