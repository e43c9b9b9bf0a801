//! Scanning one range: an asynchronous reader, a short queue, and a thread that builds trees.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::{RawDocument, RawDocumentBuf};
use bytes::Bytes;
use tokio::sync::mpsc;

use super::merge;
use super::progress::{Piece, RangeProgress};
use crate::block::BlockWrite;
use crate::elements;
use crate::job::{Error, Figures};
use crate::oplog::Ts;
use crate::source::{self, Arrival, Listed, Range, Source};
use crate::tree::{self, Builder, Key, Shape};

/// Batches between the reader and the builder of a range. A batch has up to 16 MiB, and some ranges
/// are in flight at once: one waiting here, one being built and one being read are enough to keep
/// both sides busy.
const BATCHES_WAITING: usize = 1;
/// A piece ends at this many bytes: what a kill may cost a range, and what is sorted in memory where
/// a collation decides the order.
const PIECE_BYTES: u64 = 32 << 20;
/// A piece ends after this time, so that a slow source does not put off its checkpoints.
const PIECE_TIME: Duration = Duration::from_millis(250);
/// Pieces of one rank before they become one of the next: bounds the progress document, and what a
/// merge reads at once.
pub const FOLD_PIECES: usize = 16;

/// What a range scan reports.
#[derive(Debug)]
pub struct Report {
    /// Which collection and which of its ranges.
    pub place: (usize, usize),
    /// What there is now.
    pub news: News,
}

/// News of a range.
#[derive(Debug)]
pub enum News {
    /// All its pieces, and the last `_id` in them.
    Pieces(Vec<Piece>, Option<RawDocumentBuf>),
    /// The pieces reported last are all of it.
    Done,
    /// What was delivered must be thrown away and the range started anew.
    Restart(source::Error),
}

/// What goes from the reader to the builder.
enum Message {
    Batch(Bytes),
    End,
}

/// Everything a range scan needs.
pub struct RangeScan {
    pub source: Source,
    pub store: Arc<dyn BlockWrite>,
    pub shape: Shape,
    pub figures: Figures,
    pub listed: Listed,
    /// The moment to read, if all of it is to be as of the same one.
    pub at: Option<Ts>,
    pub progress: RangeProgress,
    pub place: (usize, usize),
    pub reports: mpsc::Sender<Report>,
}

impl RangeScan {
    /// Scans the range to its end. A collection that was dropped meanwhile ends there, its drop is
    /// in the oplog; if it is read as of a moment, that is an error.
    pub async fn run(self) -> Result<(), Error> {
        let (sender, batches) = mpsc::channel(BATCHES_WAITING);
        let last_id = self.progress.last_id.clone();
        let range = Range {
            lower: last_id.clone().or_else(|| self.progress.range.lower.clone()),
            upper: self.progress.range.upper.clone(),
        };
        let (source, listed, at) = (self.source.clone(), self.listed.clone(), self.at);
        let (reports, place) = (self.reports.clone(), self.place);
        let builder = tokio::task::spawn_blocking(move || self.build(batches));
        let read = read(&source, &listed, range, at, sender).await;
        let built = builder.await.map_err(|_| source::Error::ReaderLost { what: listed.ns })?;
        match read {
            Err(error @ source::Error::Restart { .. }) => {
                let report = Report { place, news: News::Restart(error) };
                // Nobody listens any more where the whole scan was stopped.
                reports.send(report).await.unwrap_or_default();
                Ok(())
            }
            read => built.and(read.map_err(Error::from)),
        }
    }

    /// Builds pieces from batches until the end of the range, or until the reader is gone.
    fn build(self, mut batches: mpsc::Receiver<Message>) -> Result<(), Error> {
        let family = self.family();
        let mut pieces = Pieces::of(&self, family.as_deref().unwrap_or(&*self.store))?;
        let mut due = Due::new();
        loop {
            match batches.blocking_recv() {
                Some(Message::Batch(batch)) => {
                    let (documents, bytes) = pieces.take(&batch)?;
                    self.figures.scanned(documents, bytes);
                    due.bytes += bytes;
                }
                Some(Message::End) => {
                    pieces.cut()?;
                    self.report(News::Pieces(pieces.finished, pieces.last_id));
                    self.report(News::Done);
                    return Ok(());
                }
                None => return Ok(()),
            }
            if due.now() && self.listed.arrival != Arrival::Natural {
                pieces.cut()?;
                self.report(News::Pieces(pieces.finished.clone(), pieces.last_id.clone()));
                due = Due::new();
            }
        }
    }

    /// The store for leaves of this collection.
    fn family(&self) -> Option<Box<dyn BlockWrite + '_>> {
        let trees: Vec<_> = self.progress.pieces.iter().map(|piece| piece.root).collect();
        tree::family(&*self.store, self.listed.uuid.0, self.listed.bytes_estimate, &trees)
    }

    /// Reports; where the whole scan was stopped, nobody listens any more and nothing is lost.
    fn report(&self, news: News) {
        let report = Report { place: self.place, news };
        self.reports.blocking_send(report).unwrap_or_default();
    }
}

async fn read(
    source: &Source,
    listed: &Listed,
    range: Range,
    at: Option<Ts>,
    sender: mpsc::Sender<Message>,
) -> Result<(), source::Error> {
    let mut scan = match at {
        Some(at) => source.scan_at(listed, range, at).await?,
        None => source.scan(listed, range).await?,
    };
    loop {
        let message = match scan.next().await {
            Ok(Some(batch)) => Message::Batch(batch),
            Ok(None) => Message::End,
            Err(source::Error::Dropped(_)) if at.is_none() => Message::End,
            Err(error) => return Err(error),
        };
        let end = matches!(message, Message::End);
        // The builder is only gone if it failed; its own error tells why.
        if sender.send(message).await.is_err() || end {
            return Ok(());
        }
    }
}

/// When the next piece is due.
struct Due {
    since: Instant,
    bytes: u64,
}

impl Due {
    fn new() -> Self {
        Self { since: Instant::now(), bytes: 0 }
    }

    fn now(&self) -> bool {
        self.bytes >= PIECE_BYTES || (self.bytes > 0 && self.since.elapsed() >= PIECE_TIME)
    }
}

/// The pieces of a range and the one being built.
struct Pieces<'a> {
    store: &'a dyn BlockWrite,
    shape: &'a Shape,
    finished: Vec<Piece>,
    last_id: Option<RawDocumentBuf>,
    /// Key of the last document of an earlier process, until one above it arrives.
    overlap: Option<Key>,
    open: Open<'a>,
}

/// The piece being built.
enum Open<'a> {
    /// Documents arrive in the order of the tree.
    Ordered(Option<Box<Builder<'a>>>),
    /// They are sorted here first.
    Sorted(merge::Sorter),
}

impl<'a> Pieces<'a> {
    fn of(scan: &'a RangeScan, store: &'a dyn BlockWrite) -> Result<Self, Error> {
        let by_key = scan.listed.arrival == Arrival::ByKey;
        let last_id = scan.progress.last_id.clone();
        let overlap = last_id.as_ref().filter(|_| by_key);
        let overlap = overlap.map(|id| Key::of_document(id)).transpose()?;
        Ok(Self {
            store,
            shape: &scan.shape,
            finished: scan.progress.pieces.clone(),
            last_id,
            overlap,
            open: match scan.listed.arrival {
                Arrival::ByCollation => Open::Sorted(merge::Sorter::default()),
                Arrival::ByKey | Arrival::Natural => Open::Ordered(None),
            },
        })
    }

    /// Takes a batch; returns how many documents and bytes it had.
    fn take(&mut self, batch: &[u8]) -> Result<(u64, u64), Error> {
        let mut documents = 0;
        let mut last = None;
        for document in merge::documents(batch) {
            let document = document?;
            documents += 1;
            last = Some(document);
            if !self.seen(document)? {
                self.push(document)?;
            }
        }
        if let Some(last) = last {
            self.last_id = Some(elements::only_id(last).map_err(tree::Error::from)?);
        }
        Ok((documents, batch.len() as u64))
    }

    /// Whether an earlier process already has the document.
    fn seen(&mut self, document: &RawDocument) -> Result<bool, Error> {
        let Some(overlap) = &self.overlap else { return Ok(false) };
        let seen = Key::of_document(document)? <= *overlap;
        if !seen {
            self.overlap = None;
        }
        Ok(seen)
    }

    fn push(&mut self, document: &RawDocument) -> Result<(), Error> {
        match &mut self.open {
            Open::Sorted(sorter) => sorter.push(document)?,
            Open::Ordered(open) => {
                let builder =
                    open.get_or_insert_with(|| Box::new(Builder::new(self.store, self.shape)));
                builder.push(document)?;
            }
        }
        Ok(())
    }

    /// Ends the piece being built, and folds pieces that have become many.
    fn cut(&mut self) -> Result<(), Error> {
        let root = match &mut self.open {
            Open::Sorted(sorter) => sorter.finish(self.store, self.shape)?,
            Open::Ordered(open) => open.take().map(|builder| builder.finish()).transpose()?,
        };
        self.finished.extend(root.map(|root| Piece { root, rank: 0 }));
        while let Some(rank) = foldable(&self.finished) {
            let from = self.finished.len() - FOLD_PIECES;
            let roots: Vec<_> = self.finished.drain(from..).map(|piece| piece.root).collect();
            let root = match &self.open {
                Open::Sorted(_) => merge::merge(self.store, self.shape, &roots)?,
                Open::Ordered(_) => merge::join(self.store, self.shape, &roots)?,
            };
            self.finished.push(Piece { root, rank: rank + 1 });
        }
        Ok(())
    }
}

/// The rank of the last pieces if there are [`FOLD_PIECES`] of it.
fn foldable(pieces: &[Piece]) -> Option<u8> {
    let rank = pieces.last()?.rank;
    let tail = pieces.len().checked_sub(FOLD_PIECES)?;
    let alike = pieces[tail..].iter().all(|piece| piece.rank == rank);
    (alike && rank < u8::MAX).then_some(rank)
}
