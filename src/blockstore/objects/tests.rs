//! The log upon a storage that fails before and after it has done what was asked, and takes its time, so that clients meet entries that
//! others have written, truncated, and taken for lost.

mod copies;
mod packs;
mod through;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bson::rawdoc;
use object_store::Result;
use object_store::memory::InMemory;
use object_store::path::Path;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::log::{Log, Outcome};
use super::state::{Change, State};
use super::storage::Storage;
use crate::blockstore::Error;
use through::{Meddles, Request, Through};

/// Clients that write.
const WRITERS: u64 = 4;
/// Transactions of each.
const TRANSACTIONS: u64 = 60;
/// Entries between two checkpoints: others are truncated while somebody waits for an answer.
const ENTRIES: i64 = 4;
/// The longest that a request is on its way, in milliseconds: some are, and most are not.
const SLOW_MS: u64 = 400;

/// Has a will of its own.
struct Shaky {
    rng: Mutex<StdRng>,
}

fn lost() -> object_store::Error {
    object_store::Error::Generic { store: "shaky", source: "the answer was lost".into() }
}

impl Shaky {
    fn draw<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.rng.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn wait(&self) {
        let longest = if self.draw(|rng| rng.random_ratio(1, 12)) { SLOW_MS } else { 4 };
        tokio::time::sleep(Duration::from_millis(self.draw(|rng| rng.random_range(0..longest))))
            .await;
    }

    /// Whether the request, or its answer, is lost.
    fn loses(&self) -> Result<()> {
        if self.draw(|rng| rng.random_ratio(1, 15)) { Err(lost()) } else { Ok(()) }
    }
}

#[async_trait]
impl Meddles for Shaky {
    async fn before(&self, _: Request, _: &Path) -> Result<()> {
        self.wait().await;
        self.loses()
    }

    async fn after(&self, request: Request, _: &Path) -> Result<()> {
        if request == Request::Get {
            return Ok(());
        }
        self.wait().await;
        self.loses()
    }
}

fn client(inner: &Arc<InMemory>, seed: u64) -> Log {
    let rng = Mutex::new(StdRng::seed_from_u64(seed));
    let store = Arc::new(Through { inner: inner.clone(), meddler: Shaky { rng } });
    let storage = Storage::in_memory(store);
    Log::with_checkpoints(storage, ENTRIES)
}

/// Adds a token, and one to how many there are.
fn add(state: &State, token: &str) -> Result<Outcome<i64>, Error> {
    let count = state
        .all("count")
        .next()
        .map_or(0, |(_, held)| held.document.get_i64("value").expect("a count"));
    let change = |of: &str, document: bson::RawDocumentBuf| Change {
        of: of.to_owned(),
        id: super::entry::id_of(&document).expect("an _id"),
        document: Some(document),
    };
    let changes = vec![
        change("count", rawdoc! { "_id": 0, "value": count + 1 }),
        change("tokens", rawdoc! { "_id": token }),
    ];
    Ok(Outcome::Change(changes, state.number + 1))
}

/// Tries until the storage has answered.
async fn now(log: &Log) -> State {
    for _ in 0..1000 {
        match log.now().await {
            Ok(state) => return state.clone(),
            Err(error) => assert!(error.is_of_connection(), "{error}"),
        }
    }
    panic!("the storage never answers");
}

#[derive(Default)]
struct Truth {
    made: Mutex<BTreeSet<String>>,
    unknown: Mutex<BTreeSet<String>>,
    /// The newest entry of which somebody knows that it was made.
    newest: AtomicI64,
}

async fn write(log: Log, number: u64, truth: Arc<Truth>) {
    for transaction in 0..TRANSACTIONS {
        let token = format!("{number}-{transaction}");
        loop {
            match log.transact(|state| add(state, &token)).await {
                Ok(Ok(entry)) => {
                    truth.made.lock().expect("a lock").insert(token);
                    truth.newest.fetch_max(entry, Ordering::SeqCst);
                    break;
                }
                Ok(Err(_)) => {
                    truth.unknown.lock().expect("a lock").insert(token);
                    break;
                }
                Err(error) => assert!(
                    error.is_of_connection() || matches!(error, Error::Contended),
                    "{error}"
                ),
            }
        }
    }
}

/// What is read is never older than what somebody was told to be made before the reading began.
async fn read(inner: Arc<InMemory>, seed: u64, truth: Arc<Truth>) {
    let mut log = client(&inner, seed);
    for look in 0..TRANSACTIONS {
        if look % 7 == 0 {
            log = client(&inner, seed + look);
        }
        let before = truth.newest.load(Ordering::SeqCst);
        let state = now(&log).await;
        assert!(state.number >= before, "{} was read, {before} was made", state.number);
        let tokens = state.all("tokens").count() as i64;
        let count = state
            .all("count")
            .next()
            .map_or(0, |(_, held)| held.document.get_i64("value").expect("a count"));
        assert_eq!(tokens, count, "after entry {}", state.number);
    }
}

async fn run(seed: u64) {
    let inner = Arc::new(InMemory::new());
    let first = client(&inner, seed);
    while first.begin().await.is_err() {}
    let truth = Arc::new(Truth::default());
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..WRITERS {
        tasks.spawn(write(client(&inner, seed * 31 + number), number, truth.clone()));
    }
    for number in 0..2 {
        tasks.spawn(read(inner.clone(), seed * 37 + 1000 * number, truth.clone()));
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
    let state = now(&client(&inner, seed + 1)).await;
    let found: BTreeSet<String> = state
        .all("tokens")
        .map(|(_, held)| held.document.get_str("_id").expect("a token").to_owned())
        .collect();
    let made = truth.made.lock().expect("a lock");
    let unknown = truth.unknown.lock().expect("a lock");
    let missing: Vec<_> = made.difference(&found).collect();
    assert!(missing.is_empty(), "seed {seed}: made and not there: {missing:?}");
    let of_nobody: Vec<_> = found.iter().filter(|one| !made.contains(*one)).collect();
    assert!(of_nobody.iter().all(|one| unknown.contains(*one)), "seed {seed}: {of_nobody:?}");
    assert!(made.len() as u64 > WRITERS * TRANSACTIONS / 2, "seed {seed}: {}", made.len());
}

/// Whatever is made is there, once; whatever is read is whole and of now. In virtual time: every run of a seed is the same.
#[tokio::test(start_paused = true)]
async fn what_is_made_stays_and_what_is_read_is_of_now() {
    for seed in 0..20 {
        run(seed).await;
    }
}
