//! Pushing slices as they come.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::{Binding, LOOK_EVERY, Pusher};
use crate::blockstore::{Asserter, Change, NAMES_MAX, Purpose, Reaper, Session, Slice};
use crate::job::{Error, Job, now_ms};
use crate::oplog::{OpTime, Ts};

/// Time between looks for slices that left the restore window.
const TIDY_EVERY: Duration = Duration::from_secs(60);
/// Time between looks where each reads all slices that are there.
const LOOK_AGAIN_EVERY: Duration = Duration::from_secs(5);
/// Slices of one commit.
const TOGETHER_MAX: usize = 16;

/// What is to be committed next.
struct Next {
    slices: Vec<Slice>,
    /// They do not follow on what is there.
    anew: bool,
    /// The last entry that the job had when it was looked at.
    received: Option<OpTime>,
}

impl Pusher {
    pub(super) async fn push_slices(&self, binding: &Binding) -> Result<(), Error> {
        let connection = binding.blockstore.connection();
        let mut session =
            Session::start(connection, Purpose::Write, Some(binding.daemon.id)).await?;
        let (mut tidied, mut reaper) = (Instant::now(), Reaper::default());
        loop {
            let next = self.next(binding).await?;
            if next.slices.is_empty() {
                let reached = binding.bound.received().await.max(next.received);
                binding.pushed.send_replace(reached.unwrap_or(OpTime::NULL));
                if tidied.elapsed() >= TIDY_EVERY {
                    tidied = Instant::now();
                    self.expire(binding, &mut session).await?;
                    reaper.look(connection).await?;
                }
                // That nothing is to be pushed anew took reading all that is there.
                tokio::time::sleep(if next.anew { LOOK_AGAIN_EVERY } else { LOOK_EVERY }).await;
                session.move_on().await?;
                continue;
            }
            let (store, pace) = (self.job.store(), self.pace.clone());
            let asserter =
                Asserter::new(connection, store, session.step(), session.generation, pace);
            let pieces: Vec<_> =
                next.slices.iter().flat_map(|slice| slice.pieces.iter().copied()).collect();
            for names in pieces.chunks(NAMES_MAX) {
                asserter.assert(names.to_vec()).await?;
            }
            let anew = if next.anew { Some(self.unpinned(binding).await?) } else { None };
            let state = self.job.state().to_bson_without_data();
            let change = Change::Slices { slices: &next.slices, anew };
            binding.bound.commit(&mut session, Some(&state), &change).await?;
            // What it named is retained: nothing to assert again.
            session.move_on().await?;
            let reached = next.slices.last().map(|slice| slice.header.last);
            self.figures.slices(next.slices.len(), reached, asserter.sent());
            binding.pushed.send_replace(binding.bound.received().await.unwrap_or(OpTime::NULL));
        }
    }

    /// Waits until no snapshot is pinned, whose slices would be superseded. Returns how many pins there were by then.
    async fn unpinned(&self, binding: &Binding) -> Result<i64, Error> {
        loop {
            if let Some(pins) = binding.bound.unpinned().await? {
                return Ok(pins);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Removes what no restore within the window needs.
    async fn expire(&self, binding: &Binding, session: &mut Session) -> Result<(), Error> {
        let window = i64::try_from(self.job.state().restore_window_ms).unwrap_or(i64::MAX);
        let begin = now_ms().saturating_sub(window);
        let mut expired = 0;
        while let more @ 1.. = binding.bound.expire_slices(session, begin).await? {
            expired += more;
        }
        if expired > 0 {
            let job = self.job.name();
            tracing::info!(job, expired, "oplog slices left the restore window of the blockstore");
        }
        Ok(())
    }

    async fn next(&self, binding: &Binding) -> Result<Next, Error> {
        let there = binding.bound.received().await;
        let next = self.with_job(move |job| following(job, there)).await?;
        if !next.anew {
            return Ok(next);
        }
        // Another history than what is there, or slices expired before they were pushed.
        let slices = binding.blockstore.slices(self.job.name()).await?;
        let known: HashMap<Ts, OpTime> = slices
            .iter()
            .map(|slice| (slice.header.first.optime.ts, slice.header.last.optime))
            .collect();
        self.with_job(move |job| unlike(job, &known)).await
    }
}

/// The slices that follow on the last entry that is there. If others do that come after it, they are to be chosen `anew`.
fn following(job: &Job, there: Option<OpTime>) -> Result<Next, Error> {
    let _session = job.store().session();
    let state = job.state();
    let received = state.received.map(|received| received.optime);
    let mut next = Next { slices: Vec::new(), anew: false, received };
    // Where the job is behind what is there, it catches up first.
    if received.is_none_or(|received| there.is_some_and(|there| received <= there)) {
        return Ok(next);
    }
    let mut from = there.map_or(Ts::ZERO, |there| above(there.ts));
    let first = state.slices.first_from(job.store(), from)?;
    if first.is_none_or(|first| Some(first.header.prev) != there) {
        return Ok(Next { anew: true, ..next });
    }
    while next.slices.len() < TOGETHER_MAX
        && let Some(slice) = state.slices.first_from(job.store(), from)?
    {
        from = above(slice.header.last.optime.ts);
        let end = next.slices.last().map(|slice: &Slice| slice.header.last.optime);
        if end.is_some_and(|end| slice.header.prev != end) {
            break;
        }
        next.slices.push(Slice { header: slice.header, pieces: slice.pieces });
    }
    Ok(next)
}

/// The slices from the first on that is not there.
fn unlike(job: &Job, known: &HashMap<Ts, OpTime>) -> Result<Next, Error> {
    let _session = job.store().session();
    let state = job.state();
    let received = state.received.map(|received| received.optime);
    let mut next = Next { slices: Vec::new(), anew: true, received };
    let mut is_over = false;
    state.slices.for_each(job.store(), &mut |slice| {
        let (first, last) = (slice.header.first.optime.ts, slice.header.last.optime);
        let is_there = next.slices.is_empty() && known.get(&first) == Some(&last);
        let end = next.slices.last().map(|slice| slice.header.last.optime);
        is_over |= end.is_some_and(|end| slice.header.prev != end);
        if !is_there && !is_over && next.slices.len() < TOGETHER_MAX {
            next.slices.push(Slice { header: slice.header, pieces: slice.pieces });
        }
        Ok(())
    })?;
    Ok(next)
}

/// The lowest timestamp above that.
fn above(ts: Ts) -> Ts {
    Ts { inc: ts.inc.saturating_add(1), ..ts }
}
