//! Bringing back blocks of a blockstore from stores that have them.
//!
//! What is missing is asserted like any block that is pushed; what is there and cannot be read is stored anew. Nothing is written that
//! was not read from a store and hashed to its name.

use std::collections::BTreeMap;

use super::{Code, Report};
use crate::block::{BlockId, BlockRead as _};
use crate::blockstore::{Asserter, Blockstore, Pace, Purpose, Session};
use crate::job::{Error, blocking};
use crate::store::Store;

/// Mends what a report tells of, as far as the stores have it. Returns how many blocks.
pub(super) async fn mend(
    blockstore: &Blockstore,
    report: &Report,
    from: &[Store],
) -> Result<u64, Error> {
    let connection = blockstore.connection();
    let session = Session::start(connection, Purpose::Write, None).await?;
    let mut left: BTreeMap<BlockId, Code> =
        report.findings.iter().filter_map(|finding| Some((finding.block?, finding.code))).collect();
    let mut mended = 0;
    for store in from {
        if !store.vault().is_among(blockstore.vault()) {
            continue;
        }
        let asserter = Asserter::new(connection, store, &session, Pace::default());
        for (id, code) in left.clone() {
            let reading = store.clone();
            let had = blocking("repair", "a store", move || Ok(reading.get(&id).is_ok())).await?;
            if !had {
                continue;
            }
            match code {
                Code::Missing => asserter.assert(vec![id]).await?,
                _ => asserter.mend(id).await?,
            }
            left.remove(&id);
            mended += 1;
        }
        asserter.finish().await?;
    }
    session.end().await?;
    Ok(mended)
}
