//! Pushing slices as they come.

use std::time::{Duration, Instant};

use super::{Binding, LOOK_EVERY, Pusher};
use crate::blockstore::{Asserter, Change, NAMES_MAX, Purpose, Reaper, Session};
use crate::job::slices::cut;
use crate::job::{Error, Job, State, now_ms};
use crate::oplog::slice::Slice;
use crate::oplog::{OpTime, Ts};
use crate::store;

/// Time between looks for slices that left the restore window.
const TIDY_EVERY: Duration = Duration::from_secs(60);
/// Time between looks where each reads all slices that are there.
const LOOK_AGAIN_EVERY: Duration = Duration::from_secs(5);
/// Slices of one commit.
const TOGETHER_MAX: usize = 16;

/// What is to be committed next.
#[derive(Default)]
struct Next {
    slices: Vec<Slice>,
    /// They do not follow on what is there.
    anew: bool,
    /// The last entry that the job had when it was looked at.
    received: Option<OpTime>,
    /// That there is none took reading all slices.
    took_long: bool,
    /// Keeps blocks that no commit names.
    _session: Option<store::Session>,
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
                tokio::time::sleep(if next.took_long { LOOK_AGAIN_EVERY } else { LOOK_EVERY })
                    .await;
                session.move_on().await?;
                continue;
            }
            let asserter = Asserter::new(connection, self.job.store(), &session, self.pace.clone());
            let pieces: Vec<_> =
                next.slices.iter().flat_map(|slice| slice.pieces.iter().copied()).collect();
            for names in pieces.chunks(NAMES_MAX) {
                asserter.assert(names.to_vec()).await?;
            }
            asserter.finish().await?;
            let state = self.job.state().to_bson_without_data();
            let change = Change::Slices { slices: &next.slices, anew: next.anew };
            binding.bound.commit(&mut session, Some(&state), &change).await?;
            // What it named is retained: nothing to assert again.
            session.move_on().await?;
            let committed = Instant::now();
            let reached = next.slices.last().map(|slice| slice.header.last);
            self.figures.slices(next.slices.len(), reached, asserter.sent());
            binding.pushed.send_replace(binding.bound.received().await.unwrap_or(OpTime::NULL));
            tokio::time::sleep_until((committed + connection.gather()).into()).await;
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
        self.with_job(move |job| following(job, there)).await
    }
}

/// The slices that go on from the last entry that is there. Where the job has cut them otherwise, the one that reaches over it is cut
/// there: what is there stays, and nothing is missed. Where the job has it not at all (another history, or what lay between expired before it
/// was pushed), those that come after begin `anew`.
fn following(job: &Job, there: Option<OpTime>) -> Result<Next, Error> {
    let (store, session) = (job.store(), job.store().session());
    let state = job.state();
    let received = state.received.map(|received| received.optime);
    let next = Next { received, ..Next::default() };
    // Where the job is behind what is there, it catches up first.
    if received.is_none_or(|received| there.is_some_and(|there| received <= there)) {
        return Ok(next);
    }
    let from = there.map_or(Ts::ZERO, |there| there.ts.next());
    let first = state.slices.first_from(store, from)?;
    let follows = first.as_ref().is_some_and(|first| Some(first.header.prev) == there);
    if let (false, Some(there)) = (follows, there)
        && let Some(over) = state.slices.first_reaching(store, from)?
        && over.header.first.optime <= there
        && let Some(rest) = cut(store, &over, there, Ts::MAX)?
    {
        return Ok(Next { slices: vec![rest], _session: Some(session), ..next });
    }
    let slices = run(job, &state, from)?;
    Ok(Next { took_long: slices.is_empty(), slices, anew: !follows, ..next })
}

/// Some slices that follow on each other, from the first on that begins at a timestamp or later.
fn run(job: &Job, state: &State, mut from: Ts) -> Result<Vec<Slice>, Error> {
    let mut slices: Vec<Slice> = Vec::new();
    while slices.len() < TOGETHER_MAX
        && let Some(slice) = state.slices.first_from(job.store(), from)?
    {
        let end = slices.last().map(|slice| slice.header.last.optime);
        if end.is_some_and(|end| slice.header.prev != end) {
            break;
        }
        from = slice.header.last.optime.ts.next();
        slices.push(slice);
    }
    Ok(slices)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::BlockRead as _;
    use crate::oplog::slice::{SliceBuilder, SliceHeader};
    use crate::source::Identity;
    use crate::store::{Options, Store};

    fn at(secs: u32) -> OpTime {
        OpTime { ts: Ts { secs, inc: 1 }, term: 1 }
    }

    /// A slice of no-ops at these seconds.
    fn slice(store: &Store, prev: OpTime, seconds: std::ops::RangeInclusive<u32>) -> Slice {
        let mut builder = SliceBuilder::new(prev);
        for secs in seconds {
            let entry = bson::rawdoc! {
                "ts": bson::Timestamp::from(at(secs).ts), "t": 1_i64, "v": 2_i64, "op": "n", "ns": "",
                "o": { "msg": "periodic noop" }, "wall": bson::DateTime::from_millis(0),
            };
            builder.push(&entry).expect("push");
        }
        let (header, bytes) = builder.finish().expect("finish");
        let pieces = crate::block::stream::write(store, &bytes).expect("put");
        Slice { header, pieces }
    }

    /// A job with slices of ten seconds each up to 1000, and what is given.
    fn job(more: impl FnOnce(&Store) -> Slice) -> (tempfile::TempDir, Job) {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::create(dir.path(), Options::default()).expect("create");
        let identity = Identity {
            set_name: "rs0".to_owned(),
            replica_set_id: [5; 12],
            server_version: "6.0.5".to_owned(),
            fcv: "6.0".to_owned(),
        };
        let mut state = State::new("rs0".to_owned(), identity, 0);
        let mut all: Vec<Slice> =
            (10..=1000).step_by(10).map(|end| slice(&store, at(end - 10), end - 9..=end)).collect();
        all.push(more(&store));
        let last = all.last().expect("some").header.last;
        for slice in all {
            state.slices.push(&store, store.salt(), slice).expect("push");
        }
        state.received = Some(last);
        let id = state.write(&store).expect("write");
        store.commit(|roots| _ = roots.insert("rs0".to_owned(), id)).expect("commit");
        (dir, Job::open(store, None).expect("open"))
    }

    fn ends(header: &SliceHeader) -> (OpTime, u32, u32) {
        (header.prev, header.first.optime.ts.secs, header.last.optime.ts.secs)
    }

    #[test]
    fn slices_go_on_after_the_last_that_is_there() {
        let (_dir, job) = job(|store| slice(store, at(1000), 1001..=1010));
        let next = following(&job, None).expect("following");
        assert!(next.anew && next.slices.len() == TOGETHER_MAX);
        let next = following(&job, Some(at(990))).expect("following");
        assert!(!next.anew);
        let found: Vec<_> = next.slices.iter().map(|one| ends(&one.header)).collect();
        assert_eq!(found, [(at(990), 991, 1000), (at(1000), 1001, 1010)]);
        assert!(following(&job, Some(at(1010))).expect("following").slices.is_empty());
        assert!(following(&job, Some(at(2000))).expect("following").slices.is_empty());
    }

    /// What is there was cut by another store: the slice that reaches over its end is cut there.
    #[test]
    fn a_slice_that_reaches_over_the_end_is_cut() {
        let (_dir, job) = job(|store| slice(store, at(1000), 1001..=1010));
        let next = following(&job, Some(at(985))).expect("following");
        assert!(!next.anew);
        let [cut] = &next.slices[..] else { panic!("{} slices", next.slices.len()) };
        assert_eq!(ends(&cut.header), (at(985), 986, 990));
        assert_eq!(cut.header.entries, 5);
        assert!(cut.pieces.iter().all(|id| job.store().get(id).is_ok()));
        let next = following(&job, Some(at(990))).expect("following");
        assert_eq!(next.slices.len(), 2);
    }

    /// The source's oplog had run past the job, or its history is another: what comes after begins anew, and nothing that is there is
    /// taken for it.
    #[test]
    fn after_a_gap_slices_begin_anew() {
        let (_dir, job) = job(|store| slice(store, OpTime::NULL, 2000..=2010));
        let next = following(&job, Some(at(1000))).expect("following");
        assert!(next.anew);
        assert_eq!(
            next.slices.iter().map(|one| ends(&one.header)).collect::<Vec<_>>(),
            [(OpTime::NULL, 2000, 2010)]
        );
        // An entry of that time with another term: of another history.
        let other = OpTime { term: 2, ..at(985) };
        let next = following(&job, Some(other)).expect("following");
        assert!(next.anew);
        assert_eq!(next.slices[0].header.first.optime.ts.secs, 991);
    }
}
