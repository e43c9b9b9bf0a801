//! How fast scans read: not above a limit, and not from a member that falls behind.

use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use bson::doc;
use headstock::lab::{Mongod, Options, Release, ReplicaSet};
use headstock::source::{Range, ReadFrom, Scan, Source};
use mongodb::Client;

use crate::support::{collection, documents, drain, ids, listed, numbered, read};

/// Loads `megabytes` of documents of 4 kB.
async fn load(set: &ReplicaSet, megabytes: i32) -> Vec<i32> {
    let last = megabytes * 250;
    for from in (0..last).step_by(1_000) {
        let part = numbered(from, (from + 1_000).min(last), 4_000);
        collection(set, "c").insert_many(part).await.expect("insert");
    }
    set.wait_replicated().await.expect("replicated");
    (0..last).collect()
}

async fn a_limit_is_kept(release: Release) {
    let mongod = Some(Mongod::fetch(release).expect("a server"));
    let set = ReplicaSet::start(Options { mongod, ..Options::members(1) }).await.expect("a set");
    let expected = load(&set, 20).await;
    let source = crate::support::source(&set).await;
    source.limit_scans(5_000_000);
    let one = listed(&source, "v.c").await;
    let ranges = source.split(&one, 4).await.expect("split");
    let started = Instant::now();
    // All ranges share one limit.
    let parts = ranges.into_iter().map(|range| read(&source, &one, range));
    let found: Vec<i32> =
        futures::future::join_all(parts).await.iter().flat_map(|part| ids(part)).collect();
    let elapsed = started.elapsed();
    assert_eq!(found, expected);
    println!("20 MB at 5 MB/s took {elapsed:?}");
    // 4 s, but for the burst and what is owed at the end.
    assert!(elapsed > Duration::from_secs(3), "{elapsed:?}");
}

#[tokio::test]
async fn a_limit_is_kept_by_all_ranges_together() {
    a_limit_is_kept(Release::V6_0_5).await;
}

#[tokio::test]
async fn a_limit_is_kept_on_4_4() {
    a_limit_is_kept(Release::V4_4_2).await;
}

/// A busy machine may take this long to find that a member lags by the 15 s that pause a scan.
const LAG_NOTICED: Duration = Duration::from_secs(90);

/// What this process logs from here on.
static LOG: LazyLock<Mutex<Vec<u8>>> = LazyLock::new(|| {
    let log = tracing_subscriber::fmt().with_writer(|| Log).with_ansi(false);
    log.with_max_level(tracing::Level::WARN).init();
    Mutex::default()
});

struct Log;

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOG.lock().expect("the log").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// How many lines of the log say this of a member.
fn logged(what: &str, member: &str) -> usize {
    let log = LOG.lock().expect("the log");
    let text = String::from_utf8_lossy(&log);
    text.lines().filter(|line| line.contains(what) && line.contains(member)).count()
}

/// Has a member replicate, or not.
async fn replicate(member: &Client, on: bool) {
    let mode = if on { "off" } else { "alwaysOn" };
    let command = doc! { "configureFailPoint": "stopReplProducer", "mode": mode };
    member.database("admin").run_command(command).await.expect("a fail point");
}

/// A scan and what it has delivered.
struct Reading {
    scan: Scan,
    found: Vec<i32>,
}

impl Reading {
    async fn begin(source: &Source) -> Self {
        // So slow that it is far from its end in the time of this test.
        source.limit_scans(200_000);
        let one = listed(source, "v.c").await;
        let scan = source.scan(&one, Range::default()).await.expect("scan");
        Self { scan, found: Vec::new() }
    }

    /// Reads for some time, or to the end; tells how many documents came.
    async fn read_for(&mut self, time: Duration) -> usize {
        let before = self.found.len();
        let reading = async {
            while let Some(batch) = self.scan.next().await.expect("goes on") {
                self.found.extend(ids(&documents(&batch)));
            }
        };
        // Whether it ran out of time or of documents, what came counts.
        tokio::time::timeout(time, reading).await.unwrap_or_default();
        self.found.len() - before
    }
}

async fn a_lagging_member(release: Release) {
    LazyLock::force(&LOG);
    let mongod = Some(Mongod::fetch(release).expect("a server"));
    let arguments = ["--setParameter", "enableTestCommands=1"].map(str::to_owned).to_vec();
    let options = Options { mongod, arguments, ..Options::members(3) };
    let set = ReplicaSet::start(options).await.expect("a set");
    let expected = load(&set, 30).await;
    let free = crate::support::source(&set).await;
    let lagging = free.member().await.expect("member");
    let at = (0..3).find(|member| set.host(*member) == lagging).expect("a member");
    assert_ne!(at, set.primary().await.expect("primary"));
    let bound = Source::connect(&set.uri(), ReadFrom::Member(lagging.clone())).await;
    let bound = bound.expect("connect");
    let (mut free_reading, mut bound_reading) =
        (Reading::begin(&free).await, Reading::begin(&bound).await);
    let second = Duration::from_secs(1);
    let (one, two) = tokio::join!(free_reading.read_for(second), bound_reading.read_for(second));
    assert!(one > 0 && two > 0, "{one}, {two}");

    let member = set.member(at).await.expect("connect");
    replicate(&member, false).await;
    // One goes on at another member, the other waits: a line of each says that it pauses.
    let deadline = Instant::now() + LAG_NOTICED;
    while logged("scans go on at another", &lagging) == 0 || logged("scans pause", &lagging) < 2 {
        assert!(Instant::now() < deadline, "a member that lags is still read");
        collection(&set, "t").insert_one(doc! { "n": 1 }).await.expect("insert");
        let step = 2 * second;
        tokio::join!(free_reading.read_for(step), bound_reading.read_for(step));
    }
    assert_ne!(free.member().await.expect("member"), lagging);
    assert_eq!(logged("caught up", &lagging), 0);
    let (one, two) =
        tokio::join!(free_reading.read_for(4 * second), bound_reading.read_for(4 * second));
    assert!(one > 0, "the scan that may read any member does not go on");
    assert_eq!(two, 0, "the scan of a member that lags goes on");

    replicate(&member, true).await;
    for (source, mut reading) in [(free, free_reading), (bound, bound_reading)] {
        source.limit_scans(1_000_000_000);
        let rest = drain(&mut reading.scan).await.expect("goes on");
        reading.found.extend(ids(&rest));
        assert_eq!(reading.found, expected);
    }
    assert_ne!(logged("caught up", &lagging), 0);
}

#[tokio::test]
async fn a_member_that_falls_behind_is_left_alone() {
    a_lagging_member(Release::V6_0_5).await;
}

#[tokio::test]
async fn a_member_that_falls_behind_is_left_alone_on_4_4() {
    a_lagging_member(Release::V4_4_2).await;
}
