//! The tail: oplog entries become slices, durable before they count.
//!
//! Order: the entries' blocks are put, then the job state that names them and says how far entries
//! are received is committed. A crash before the commit leaves blocks that nothing names, and the
//! next tail reads those entries again.

use std::time::Duration;

use bson::RawDocument;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Error, Figures, Job, blocking};
use crate::block::stream;
use crate::oplog::slice::{self, MAX_ENTRY_BYTES, MAX_SLICE_BYTES, Slice, SliceBuilder};
use crate::oplog::{OpTime, Position};
use crate::source::Source;

/// A slice ends at this many bytes: what is held in memory on either side of the store.
pub const SLICE_BYTES: usize = 4 << 20;
/// A slice ends after this time: how much a crash of this machine together with the loss of the
/// source could cost.
pub(super) const SLICE_TIME: Duration = Duration::from_secs(1);

// A slice that has not reached its size must have room for one more entry.
const _: () = assert!(SLICE_BYTES + MAX_ENTRY_BYTES <= MAX_SLICE_BYTES);

/// Tails the source from where the job stands, for ever. Sends the position of each durable entry
/// that ends a slice to `received`. A slice that has the `wanted` entry ends at once. Cancel it by dropping it: what was
/// committed stays.
///
/// # Errors
/// Those of the source and the store, [`Error::Oplog`] for an entry without a position.
pub async fn run(
    job: &Job,
    source: &Source,
    figures: &Figures,
    received: &watch::Sender<Option<Position>>,
    mut wanted: watch::Receiver<OpTime>,
) -> Result<(), Error> {
    let state = job.state();
    let (from, inclusive) = match (state.received, &state.scan) {
        (Some(last), _) => (last.optime, false),
        (None, Some(scan)) => (scan.begin_fetch, true),
        (None, None) => return Err(Error::NotConsistent { job: job.name().to_owned() }),
    };
    let mut tail = source.tail(from, inclusive).await?;
    let mut open = Open::after(if inclusive { OpTime::NULL } else { from });
    loop {
        let wait = open.since.map(|since| since + SLICE_TIME);
        let batch = tokio::select! {
            batch = tail.next() => batch?,
            () = sleep_until(wait) => bytes::Bytes::new(),
            Ok(()) = wanted.changed() => bytes::Bytes::new(),
        };
        for entry in slice::entries(&batch) {
            open.push(entry?)?;
            if open.builder.len_bytes() >= SLICE_BYTES {
                open = open.store(job, figures, received).await?;
            }
        }
        let wanted = *wanted.borrow_and_update();
        if open.since.is_some_and(|since| since.elapsed() >= SLICE_TIME) || open.has(wanted) {
            open = open.store(job, figures, received).await?;
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// The slice being collected.
struct Open {
    /// The last entry before it.
    prev: OpTime,
    builder: SliceBuilder,
    /// When its first entry came.
    since: Option<Instant>,
}

impl Open {
    fn after(prev: OpTime) -> Self {
        Self { prev, builder: SliceBuilder::new(prev), since: None }
    }

    fn push(&mut self, entry: &RawDocument) -> Result<(), Error> {
        self.builder.push(entry)?;
        self.since.get_or_insert_with(Instant::now);
        Ok(())
    }

    /// Whether an entry is one of its own.
    fn has(&self, entry: OpTime) -> bool {
        self.prev < entry && entry <= self.builder.last()
    }

    /// Makes the slice durable and begins the next.
    async fn store(
        self,
        job: &Job,
        figures: &Figures,
        received: &watch::Sender<Option<Position>>,
    ) -> Result<Self, Error> {
        let next = Self::after(self.builder.last());
        let (header, bytes) = self.builder.finish()?;
        let (entries, raw_bytes, last) = (header.entries, header.raw_bytes, header.last);
        let (owner, window_secs) = (job.clone(), figures.seen().oplog_window_secs);
        blocking("tail", job.name(), move || {
            let store = owner.store();
            let session = store.session();
            let pieces = stream::write(store, &bytes)?;
            owner.update(&session, |state| {
                // A tail that was given up may still be here when another has taken its place.
                let before = state.received.map_or(OpTime::NULL, |received| received.optime);
                if before != header.prev {
                    return Err(Error::Superseded { job: owner.name().to_owned() });
                }
                state.received = Some(header.last);
                state.oplog_window_secs = window_secs.or(state.oplog_window_secs);
                state.slices.push(store, store.salt(), Slice { header, pieces })
            })
        })
        .await?;
        figures.received(entries, raw_bytes, last);
        received.send_replace(Some(last));
        Ok(next)
    }
}
