//! Oplog entries of the source, kept in the scratch store while its collections are read.

use std::sync::Arc;

use tokio::sync::watch;

use super::backup::Opened;
use crate::block::stream;
use crate::job::slices::SliceChain;
use crate::job::tail::SLICE_BYTES;
use crate::job::{Error, blocking};
use crate::oplog::slice::{self, Slice, SliceBuilder};
use crate::oplog::{OpTime, Ts};
use crate::source::Source;

/// Keeps every entry from `from` on, that one included, until one at or above the end is kept, which
/// is told through `end` when it is known.
///
/// # Errors
/// Those of the source and of writing blocks.
pub async fn gather(
    opened: &Arc<Opened>,
    source: &Source,
    from: OpTime,
    end: watch::Receiver<Option<Ts>>,
) -> Result<SliceChain, Error> {
    let mut tail = source.tail(from, true).await?;
    let mut chain = SliceChain::default();
    let mut open = SliceBuilder::new(OpTime::NULL);
    loop {
        let batch = tail.next().await?;
        for entry in slice::entries(&batch) {
            open.push(entry?)?;
            if open.len_bytes() >= SLICE_BYTES {
                (chain, open) = store(opened, chain, open).await?;
            }
        }
        let end = *end.borrow();
        if end.is_some_and(|end| open.last().ts >= end) {
            return match open.len_bytes() {
                0 => Ok(chain),
                _ => store(opened, chain, open).await.map(|(chain, _)| chain),
            };
        }
    }
}

async fn store(
    opened: &Arc<Opened>,
    mut chain: SliceChain,
    full: SliceBuilder,
) -> Result<(SliceChain, SliceBuilder), Error> {
    let owner = opened.clone();
    blocking("verifier", &opened.job, move || {
        let next = SliceBuilder::new(full.last());
        let (header, bytes) = full.finish()?;
        let pieces = stream::write(&*owner.blocks, &bytes)?;
        chain.push(&*owner.blocks, owner.salt(), Slice { header, pieces })?;
        Ok((chain, next))
    })
    .await
}
