//! Blocks of which there are several copies, packs that cannot be read, and directories that go: in a directory, with whole grooms.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bson::rawdoc;
use tempfile::TempDir;

use crate::block::{BlockId, Codec, Kind, stream};
use crate::blockstore::backend::{BlockWriter, DAEMONS, Found, SessionOfWriter};
use crate::blockstore::connection::Connection;
use crate::blockstore::groom::{GroomProgress, GroomReport, GroomRequest};
use crate::blockstore::objects::{PACKS, place};
use crate::blockstore::{
    Asserter, Blockstore, Bound, Change, Daemon, Error, Pace, Place, Purpose, Session,
};
use crate::oplog::slice::{Slice, SliceBuilder};
use crate::oplog::{OpTime, Ts};
use crate::store::{Options, Store, StoredBlock};

/// How long a groom is given to come to the session for which it waits.
const WAITING: Duration = Duration::from_millis(1500);

/// Goes on, or stops when it comes to its sweep.
struct Progress {
    stops: bool,
    is_stopped: AtomicBool,
}

impl GroomProgress for Progress {
    fn waiting(&self, _: u64) {}
    fn marked(&self, _: u64) {}
    fn swept(&self, _: u64, _: u64) {
        self.is_stopped.store(self.stops, Ordering::SeqCst);
    }
    fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::SeqCst)
    }
}

struct Scene {
    dir: TempDir,
    store: Store,
    place: Place,
    connection: Connection,
}

impl Scene {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let objects = dir.path().join("objects");
        std::fs::create_dir(&objects).expect("make");
        let store = Store::create(&dir.path().join("store"), Options::default()).expect("a store");
        let place = Place { uri: objects.display().to_string(), secret: None };
        let blockstore = Blockstore::open_for(&place, &store).await.expect("open");
        Self { dir, store, place, connection: blockstore.connection().clone() }
    }

    async fn bound(&self) -> Bound {
        let daemon = Daemon::new([1; 16]);
        daemon.start(&self.connection).await.expect("start");
        Bound::take(&self.connection, &daemon, "job").await.expect("take")
    }

    async fn session(&self) -> Session {
        Session::start(&self.connection, Purpose::Write, None).await.expect("a session")
    }

    fn writer(&self, session: &Session) -> Arc<dyn BlockWriter> {
        let (id, step, stamp) = (session.id, session.step(), session.generation);
        self.connection.writer(SessionOfWriter { id, step, stamp, pace: Pace::default() })
    }

    /// Grooms as another client, which keeps its marks under that name.
    fn groom(
        &self,
        marks: &str,
        stops: bool,
    ) -> impl Future<Output = Result<GroomReport, Error>> + use<> {
        let (place, marks) = (self.place.clone(), self.dir.path().join(marks));
        async move {
            let progress = Arc::new(Progress { stops, is_stopped: AtomicBool::new(false) });
            let request = GroomRequest { dry_run: false, marks };
            Blockstore::open(&place).await?.groom(request, progress).await
        }
    }

    /// Which of some blocks are there for who comes now.
    async fn present(&self, ids: &[BlockId]) -> Vec<Found> {
        let blockstore = Blockstore::open(&self.place).await.expect("open");
        blockstore.connection().present(ids).await.expect("present")
    }

    /// A slice of one entry with so much noise.
    fn slice(&self, bytes: usize) -> Slice {
        let mut builder = SliceBuilder::new(OpTime::NULL);
        let noise: String = (0..bytes).map(|_| rand::random_range('a'..='z')).collect();
        let entry = rawdoc! {
            "ts": bson::Timestamp::from(Ts { secs: 100, inc: 1 }), "t": 1_i64, "v": 2_i64,
            "op": "n", "ns": "", "o": { "msg": noise }, "wall": bson::DateTime::from_millis(0),
        };
        builder.push(&entry).expect("push");
        let (header, bytes) = builder.finish().expect("finish");
        Slice { header, pieces: stream::write(&self.store, &bytes).expect("put") }
    }

    fn stored(&self, ids: &[BlockId]) -> Vec<StoredBlock> {
        ids.iter().map(|id| self.store.stored(id).expect("stored")).collect()
    }

    fn packs(&self) -> Vec<PathBuf> {
        let packs = std::fs::read_dir(self.dir.path().join("objects/packs")).expect("packs");
        packs.map(|entry| entry.expect("an entry").path()).collect()
    }
}

async fn write(writer: &dyn BlockWriter, blocks: Vec<StoredBlock>) {
    writer.insert(blocks).await.expect("insert");
    writer.finish().await.expect("finish");
}

async fn commit(bound: &Bound, session: &mut Session, slice: &Slice) {
    let change = Change::Slices { slices: std::slice::from_ref(slice), anew: true };
    bound.commit(session, None, &change).await.expect("commit");
}

fn id(byte: u8) -> BlockId {
    BlockId::from_bytes([byte; 32])
}

fn block(byte: u8, kind: Kind, dictionary: Option<BlockId>) -> StoredBlock {
    StoredBlock {
        id: id(byte),
        kind,
        codec: Codec::Zstd,
        sealed: false,
        raw_len: 100,
        dictionary,
        bytes: vec![byte; 100],
    }
}

/// A groom drops the copy that a session has raised, since another counts; an older one goes on, to which that is dead: it stays, for it was raised
/// when it was chosen.
#[tokio::test(flavor = "multi_thread")]
async fn two_grooms_do_not_remove_both_copies() {
    let scene = Scene::new().await;
    let bound = scene.bound().await;
    let slice = scene.slice(5000);
    let blocks = scene.stored(&slice.pieces);
    let first = scene.session().await;
    write(&*scene.writer(&first), blocks.clone()).await;
    first.end().await.expect("end");
    let second = scene.session().await;
    let grooming = tokio::spawn(scene.groom("one", true));
    tokio::time::sleep(WAITING).await;
    let mut third = scene.session().await;
    assert_eq!((second.generation, third.generation), (1, 2));
    let raised = scene.writer(&third).raise(&slice.pieces).await.expect("raise");
    assert_eq!(raised.len(), slice.pieces.len());
    // The second had looked before the first wrote.
    write(&*scene.writer(&second), blocks).await;
    second.end().await.expect("end");
    let stopped = grooming.await.expect("a groom");
    assert!(matches!(stopped, Err(Error::Stopped)), "{stopped:?}");
    commit(&bound, &mut third, &slice).await;
    third.end().await.expect("end");
    scene.groom("two", false).await.expect("groom");
    assert_eq!(scene.packs().len(), 1, "one copy is enough");
    scene.groom("one", false).await.expect("the first goes on");
    assert_eq!(scene.present(&slice.pieces).await.len(), slice.pieces.len());
}

/// A copy that was born later, of a session that is gone, does not hide the one that was asserted by losing its dictionary.
#[tokio::test(flavor = "multi_thread")]
async fn no_copy_loses_its_dictionary() {
    let scene = Scene::new().await;
    let bound = scene.bound().await;
    let first = scene.session().await;
    let blocks = vec![block(1, Kind::Dictionary, None), block(3, Kind::Leaf, Some(id(1)))];
    write(&*scene.writer(&first), blocks).await;
    first.end().await.expect("end");
    let mut second = scene.session().await;
    let grooming = tokio::spawn(scene.groom("one", false));
    tokio::time::sleep(WAITING).await;
    let third = scene.session().await;
    let raises = scene.writer(&third);
    let found = raises.raise(&[id(3)]).await.expect("raise");
    assert_eq!(found, [Found { id: id(3), dictionary: Some(id(1)) }]);
    assert_eq!(raises.raise(&[id(1)]).await.expect("raise").len(), 1);
    let writes = scene.writer(&second);
    write(&*writes, vec![block(2, Kind::Dictionary, None)]).await;
    let slice = scene.slice(600_000);
    let much = scene.stored(&slice.pieces);
    write(&*writes, [vec![block(3, Kind::Leaf, Some(id(2)))], much].concat()).await;
    commit(&bound, &mut second, &slice).await;
    second.end().await.expect("end");
    grooming.await.expect("a groom").expect("groomed");
    third.check_now().await.expect("it lives");
    assert_eq!(scene.present(&[id(2)]).await.len(), 1, "something is stored with it");
    let [found] = scene.present(&[id(3)]).await[..] else { panic!("one copy counts") };
    assert_eq!(scene.present(&[found.dictionary.expect("one")]).await.len(), 1);
}

/// Of two copies that counts which was born later, unless its dictionary is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_without_its_dictionary_does_not_count() {
    let scene = Scene::new().await;
    let session = scene.session().await;
    for blocks in [
        vec![block(1, Kind::Dictionary, None), block(3, Kind::Leaf, Some(id(1)))],
        vec![block(2, Kind::Dictionary, None)],
        vec![block(3, Kind::Leaf, Some(id(2))), block(4, Kind::Leaf, None)],
    ] {
        write(&*scene.writer(&session), blocks).await;
    }
    let of = |dictionary| Found { id: id(3), dictionary: Some(id(dictionary)) };
    assert_eq!(scene.present(&[id(3)]).await, [of(2)], "born later");
    let alone = bson::doc! { "blocks": 1_i64 };
    assert!(scene.connection.delete_one(PACKS, alone).await.expect("delete"));
    assert_eq!(scene.present(&[id(3)]).await, [of(1)]);
}

/// A block is there whose dictionary is lost: it is written anew, and counts in its new form.
#[tokio::test(flavor = "multi_thread")]
async fn a_block_whose_dictionary_is_lost_is_written_anew() {
    let scene = Scene::new().await;
    let (own, _) = scene.store.put_counted(Kind::Leaf, &[5; 3000]).expect("put");
    let session = scene.session().await;
    let lost = StoredBlock { id: own, ..block(5, Kind::Leaf, Some(id(9))) };
    write(&*scene.writer(&session), vec![lost]).await;
    let asserter = Asserter::new(&scene.connection, &scene.store, &session, Pace::default());
    asserter.assert(vec![own]).await.expect("asserted");
    asserter.finish().await.expect("finish");
    assert_eq!(scene.present(&[own]).await, [Found { id: own, dictionary: None }]);
}

/// The index of a pack cannot be read: no groom takes that for a pack without blocks, and when the object is brought back all is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_cannot_be_read_stays() {
    let scene = Scene::new().await;
    let bound = scene.bound().await;
    let mut session = scene.session().await;
    let slice = scene.slice(300_000);
    write(&*scene.writer(&session), scene.stored(&slice.pieces)).await;
    commit(&bound, &mut session, &slice).await;
    session.end().await.expect("end");
    let [pack] = &scene.packs()[..] else { panic!("one pack") };
    let good = std::fs::read(pack).expect("read");
    let mut bad = good.clone();
    *bad.last_mut().expect("a byte") ^= 1;
    for harmed in [Some(&bad), None] {
        match harmed {
            Some(bytes) => std::fs::write(pack, bytes).expect("write"),
            None => std::fs::remove_file(pack).expect("remove"),
        }
        let report = scene.groom("marks", false).await.expect("groom");
        assert_eq!(report.removed_blocks, 0, "{report:?}");
    }
    std::fs::write(pack, &good).expect("write");
    assert_eq!(scene.present(&slice.pieces).await.len(), slice.pieces.len());
}

/// A pack is cut under a client that knows its index: its blocks are not there, and the connection is not to blame.
#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_is_cut_has_no_blocks() {
    let scene = Scene::new().await;
    let session = scene.session().await;
    write(&*scene.writer(&session), vec![block(1, Kind::Leaf, None), block(2, Kind::Leaf, None)])
        .await;
    assert_eq!(scene.connection.present(&[id(2)]).await.expect("present").len(), 1);
    let [pack] = &scene.packs()[..] else { panic!("one pack") };
    let file = std::fs::OpenOptions::new().write(true).open(pack).expect("open");
    file.set_len(4).expect("cut");
    assert_eq!(scene.connection.stored(&[id(2)]).await.expect("read"), []);
}

/// A share is taken away: nothing is written below its mount point, neither by beats nor by whoever pushes.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_gone_is_not_made_anew() {
    let scene = Scene::new().await;
    let daemon = Daemon::new([1; 16]);
    daemon.start(&scene.connection).await.expect("start");
    let objects = scene.dir.path().join("objects");
    std::fs::rename(&objects, scene.dir.path().join("elsewhere")).expect("rename");
    scene.connection.beat(DAEMONS, daemon.id).await.expect_err("it is gone");
    assert!(!objects.exists());
    Blockstore::open_for(&scene.place, &scene.store).await.map(drop).expect_err("it is gone");
    std::fs::create_dir(&objects).expect("make");
    daemon.start(&scene.connection).await.expect_err("another directory");
    let storage = place::open(&scene.place.uri).expect("open");
    std::fs::rename(&objects, scene.dir.path().join("another")).expect("rename");
    for made in [false, true] {
        if made {
            std::fs::create_dir(&objects).expect("make");
        }
        let told = storage.create("log/x", bytes::Bytes::new()).await;
        assert!(matches!(told, Err(Error::DirectoryGone { .. })), "{told:?}");
        let told = storage.put("beats/x", bytes::Bytes::new()).await;
        assert!(matches!(told, Err(Error::DirectoryGone { .. })), "{told:?}");
    }
    assert!(std::fs::read_dir(&objects).expect("list").next().is_none());
}
