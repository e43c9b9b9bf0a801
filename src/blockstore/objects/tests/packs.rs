//! Packs of several clients, where one does something between two requests of another.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bson::oid::ObjectId;
use bson::{doc, rawdoc};
use bytes::Bytes;
use futures::future::BoxFuture;
use object_store::Result;
use object_store::memory::InMemory;
use object_store::path::Path;

use super::through::{Meddles, Request, Through};
use crate::block::{BlockId, Codec, Kind};
use crate::blockstore::Error;
use crate::blockstore::backend::{
    ANSWER_BYTES, Backend as _, BlockWriter, Found, GENERATION, Miss, SESSIONS, SessionOfWriter,
    Step,
};
use crate::blockstore::objects::storage::Storage;
use crate::blockstore::objects::{Objects, PACKS, sweep};
use crate::blockstore::pace::Pace;
use crate::store::StoredBlock;

/// What is done before the next entry is created, or pack.
type Deed = BoxFuture<'static, ()>;

/// A storage in memory, where something happens before one of the next puts.
#[derive(Clone, Default)]
struct Meddler {
    inner: Arc<InMemory>,
    before: Arc<Mutex<Option<(&'static str, Deed)>>>,
    /// Whether puts of packs fail.
    fails: Arc<Mutex<u32>>,
}

impl Meddler {
    fn client(&self) -> Objects {
        let store = Through { inner: self.inner.clone(), meddler: self.clone() };
        Objects::of(Storage::in_memory(Arc::new(store)))
    }

    fn before(&self, folder: &'static str, deed: Deed) {
        *self.before.lock().unwrap_or_else(PoisonError::into_inner) = Some((folder, deed));
    }

    fn take(&self, path: &Path) -> Option<Deed> {
        let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        before.take_if(|(folder, _)| path.as_ref().starts_with(*folder)).map(|(_, deed)| deed)
    }
}

#[async_trait]
impl Meddles for Meddler {
    async fn before(&self, request: Request, path: &Path) -> Result<()> {
        if request == Request::Get {
            return Ok(());
        }
        if let Some(deed) = self.take(path) {
            deed.await;
        }
        let mut fails = self.fails.lock().unwrap_or_else(PoisonError::into_inner);
        if path.as_ref().starts_with("packs/") && *fails > 0 {
            *fails -= 1;
            return Err(object_store::Error::Generic { store: "m", source: "lost".into() });
        }
        Ok(())
    }

    async fn after(&self, _: Request, _: &Path) -> Result<()> {
        Ok(())
    }
}

fn block(number: u32) -> StoredBlock {
    block_of(number, 100)
}

fn block_of(number: u32, times: usize) -> StoredBlock {
    let bytes = number.to_le_bytes().repeat(times);
    StoredBlock {
        id: BlockId::from_bytes(*blake3::hash(&bytes).as_bytes()),
        kind: Kind::Leaf,
        codec: Codec::Raw,
        sealed: false,
        raw_len: bytes.len() as u32,
        dictionary: None,
        bytes,
    }
}

/// A repository, and a client of it.
async fn begun(meddler: &Meddler) -> Objects {
    let objects = meddler.client();
    objects.prepare().await.expect("begin");
    let generation = rawdoc! { "_id": 0, "value": 1_i64 };
    objects.insert_one(GENERATION, &generation).await.expect("insert");
    objects
}

/// A session with that stamp, and what writes for it.
async fn session(objects: &Objects, stamp: i64) -> (ObjectId, Arc<dyn BlockWriter>) {
    let id = ObjectId::new();
    let document = rawdoc! { "_id": id, "beat": 0_i64, "lease_ms": 1_i64, "kind": "write" };
    objects.insert_one(SESSIONS, &document).await.expect("insert");
    let step = Step::Update {
        of: SESSIONS,
        filter: doc! { "_id": id },
        change: doc! { "$inc": { "beat": 1_i64 } },
        miss: Miss::Session,
    };
    (id, objects.writer(SessionOfWriter { id, step, stamp, pace: Pace::default() }))
}

async fn orphans(objects: &Objects) {
    let filter = doc! { "_id": 0 };
    let change = doc! { "$inc": { "starts": 1_i64 } };
    let step = Step::Update { of: GENERATION, filter, change, miss: Miss::Session };
    sweep::remove_orphans(objects, step).await.expect("orphans");
}

async fn written(objects: &Objects, numbers: std::ops::Range<u32>) {
    let (_, writer) = session(objects, 1).await;
    writer.insert(numbers.map(block).collect()).await.expect("insert");
    writer.finish().await.expect("finish");
}

/// Between the look at a block and the touch of its pack, a groom removes that: the block is not taken for there.
#[tokio::test]
async fn a_pack_that_goes_before_it_is_touched_is_not_relied_on() {
    let meddler = Meddler::default();
    let objects = begun(&meddler).await;
    written(&objects, 0..5).await;
    let (_, writer) = session(&objects, 2).await;
    let other = meddler.client();
    meddler.before(
        "log/",
        Box::pin(async move {
            let filter = doc! { "stamp": { "$lt": 2_i64 } };
            other.transact(&[Step::DeleteAll { of: PACKS, filter }]).await.expect("removed");
        }),
    );
    let id = block(3).id;
    assert_eq!(writer.raise(&[id]).await.expect("raise"), [], "it went before the touch");
    writer.insert(vec![block(3)]).await.expect("insert");
    writer.finish().await.expect("finish");
    let found = meddler.client().present(&[id]).await.expect("present");
    assert_eq!(found, [Found { id, dictionary: None }]);
}

/// An answer holds so much and not much more; who asks for those that it has not gets them.
#[tokio::test]
async fn an_answer_is_bounded() {
    let meddler = Meddler::default();
    let objects = begun(&meddler).await;
    let large: Vec<StoredBlock> = (0..80).map(|number| block_of(number, 1 << 18)).collect();
    let mut open: HashSet<BlockId> = large.iter().map(|block| block.id).collect();
    let (_, writer) = session(&objects, 1).await;
    writer.insert(large).await.expect("insert");
    writer.finish().await.expect("finish");
    let mut answers = 0;
    while !open.is_empty() {
        let asked: Vec<BlockId> = open.iter().copied().collect();
        let read = objects.stored(&asked).await.expect("read");
        let bytes: usize = read.iter().map(|block| block.bytes.len()).sum();
        assert!((1..2 * ANSWER_BYTES).contains(&bytes), "{bytes}");
        answers += 1;
        assert!(read.iter().all(|block| open.remove(&block.id)), "each is asked for once");
    }
    assert!(answers > 2, "{answers}");
}

/// A touch that comes first keeps the pack from a removal on its condition.
#[tokio::test]
async fn a_pack_that_was_touched_stays() {
    let meddler = Meddler::default();
    let objects = begun(&meddler).await;
    written(&objects, 0..5).await;
    let (_, writer) = session(&objects, 2).await;
    let id = block(3).id;
    assert_eq!(writer.raise(&[id]).await.expect("raise"), [Found { id, dictionary: None }]);
    let filter = doc! { "stamp": { "$lt": 2_i64 } };
    meddler.client().transact(&[Step::DeleteAll { of: PACKS, filter }]).await.expect("executed");
    assert_eq!(meddler.client().stored(&[id]).await.expect("read"), [block(3)]);
}

/// An object that is not named stays as long as its session lives, and goes then; one that was named stays.
#[tokio::test]
async fn an_object_is_an_orphan_once_its_session_is_gone() {
    let meddler = Meddler::default();
    let objects = begun(&meddler).await;
    written(&objects, 0..5).await;
    let (id, writer) = session(&objects, 1).await;
    let other = meddler.client();
    // Between the pack's object and its document.
    let deed = Box::pin(async move { orphans(&other).await });
    meddler.before("log/", deed);
    writer.insert(vec![block(7)]).await.expect("insert");
    writer.finish().await.expect("finish");
    let read = meddler.client().stored(&[block(7).id, block(3).id]).await.expect("read");
    assert_eq!(read.len(), 2, "both are there");
    let late = format!("packs/{}-00ffffff", id.to_hex());
    objects.storage.create(&late, Bytes::from_static(b"x")).await.expect("create");
    orphans(&meddler.client()).await;
    assert!(objects.storage.get(&late).await.expect("get").is_some(), "its session lives");
    objects.delete_one(SESSIONS, doc! { "_id": id }).await.expect("delete");
    orphans(&meddler.client()).await;
    assert!(objects.storage.get(&late).await.expect("get").is_none(), "nobody can name it");
    assert_eq!(meddler.client().stored(&[block(7).id]).await.expect("read").len(), 1);
}

/// A session that was ended writes a pack: it is not registered, and nothing of it counts.
#[tokio::test]
async fn who_lost_his_session_registers_nothing() {
    let meddler = Meddler::default();
    let objects = begun(&meddler).await;
    let (id, writer) = session(&objects, 1).await;
    writer.insert(vec![block(7)]).await.expect("insert");
    let other = meddler.client();
    let ended = async move { _ = other.delete_one(SESSIONS, doc! { "_id": id }).await };
    meddler.before("packs/", Box::pin(ended));
    assert!(matches!(writer.finish().await, Err(Error::SessionLost)));
    assert_eq!(meddler.client().present(&[block(7).id]).await.expect("present"), []);
}

/// A pack could not be written however often it was tried: what was in it is not taken for written by who goes on with the same writer.
#[tokio::test(start_paused = true)]
async fn a_writer_that_lost_a_pack_does_not_finish() {
    let meddler = Meddler::default();
    let objects = begun(&meddler).await;
    let (_, writer) = session(&objects, 1).await;
    writer.insert(vec![block(7)]).await.expect("insert");
    *meddler.fails.lock().expect("a lock") = 100;
    writer.finish().await.expect_err("it cannot be written");
    *meddler.fails.lock().expect("a lock") = 0;
    let again = writer.insert(vec![block(7)]).await;
    assert!(matches!(again, Err(Error::NotMade)), "{again:?}");
    assert!(matches!(writer.finish().await, Err(Error::NotMade)));
    let (_, writer) = session(&objects, 1).await;
    writer.insert(vec![block(7)]).await.expect("insert");
    writer.finish().await.expect("finish");
    assert_eq!(meddler.client().stored(&[block(7).id]).await.expect("read"), [block(7)]);
}

/// A reader whose block was moved, and its pack deleted, finds it where it is now.
#[tokio::test]
async fn a_block_that_was_moved_is_found() {
    let meddler = Meddler::default();
    let objects = begun(&meddler).await;
    written(&objects, 0..5).await;
    let reader = meddler.client();
    assert_eq!(reader.stored(&[block(3).id]).await.expect("read"), [block(3)]);
    let old = objects.storage.list("packs").await.expect("list");
    written(&objects, 3..4).await;
    let name = &old[0];
    objects.delete_one(PACKS, doc! { "_id": name.as_str() }).await.expect("delete");
    objects.storage.delete(&format!("packs/{name}")).await.expect("delete");
    let read = reader.stored(&[block(3).id, block(4).id]).await.expect("read");
    assert_eq!(read, [block(3)], "what was not moved is not there");
}
