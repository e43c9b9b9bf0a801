//! A source, a blockstore, and stores that are pushed to it.

use std::path::{Path, PathBuf};

use bson::Document;
use futures::TryStreamExt as _;
use headstock::blockstore::Place;
use headstock::lab::{
    Backup, Detail, Mongod, Options, Program, Release, ReplicaSet, S3Server, SourceState,
    Standalone,
};
use mongodb::Database;
use object_store::aws::AmazonS3;
use object_store::path::Path as Name;
use object_store::{ObjectStore as _, ObjectStoreExt as _};

use tempfile::TempDir;

use crate::log::Log;

/// What a blockstore is kept in.
pub enum Kept {
    Set(Box<ReplicaSet>),
    Directory(PathBuf),
    Bucket(Box<S3Server>),
}

/// What a test runs on.
pub struct Scene {
    pub source: ReplicaSet,
    pub kept: Kept,
    pub program: Program,
    folder: TempDir,
}

impl Scene {
    /// A source of one member and a blockstore of so many.
    pub async fn of(members: usize) -> Self {
        Self::with(Kept::Set(Box::new(Self::set(members, "bs").await))).await
    }

    /// A source of one member and a blockstore of objects in a directory.
    pub async fn of_directory() -> Self {
        let mut scene = Self::with(Kept::Directory(PathBuf::new())).await;
        let path = scene.path("objects");
        std::fs::create_dir(&path).expect("make");
        scene.kept = Kept::Directory(path);
        scene
    }

    /// A source of one member and a blockstore of objects in a bucket.
    pub async fn of_bucket() -> Self {
        let server = S3Server::start().await.expect("an S3 server");
        let scene = Self::with(Kept::Bucket(Box::new(server))).await;
        let Kept::Bucket(server) = &scene.kept else { unreachable!("it was given one") };
        let (id, key) = (server.access_key(), server.secret_key());
        let keys = format!("[default]\naws_access_key_id = {id}\naws_secret_access_key = {key}\n");
        std::fs::write(scene.path("keys"), keys).expect("write");
        scene
    }

    async fn with(kept: Kept) -> Self {
        let source = Self::set(1, "source").await;
        let program = Program::new(env!("CARGO_BIN_EXE_headstock")).expect("program");
        Self { source, kept, program, folder: tempfile::tempdir().expect("a folder") }
    }

    async fn set(members: usize, name: &str) -> ReplicaSet {
        let mongod = Some(Mongod::fetch(Release::V6_0_5).expect("a server"));
        let arguments = vec!["--setParameter".to_owned(), "ttlMonitorEnabled=false".to_owned()];
        let options = Options { mongod, arguments, ..Options::members(members) };
        ReplicaSet::start(Options { name: name.to_owned(), ..options }).await.expect("a set")
    }

    /// A store of that name.
    pub fn store(&self, name: &str) -> Backup {
        Backup::new(
            Program::new(env!("CARGO_BIN_EXE_headstock")).expect("program"),
            self.path(name),
        )
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The connection string of the blockstore.
    pub fn uri(&self) -> String {
        match &self.kept {
            Kept::Set(set) => set.uri(),
            Kept::Directory(path) => path.display().to_string(),
            Kept::Bucket(server) => format!(
                "s3://{}/some/prefix?endpoint={}&region={}&credentials={}",
                server.bucket(),
                server.endpoint(),
                server.region(),
                self.path("keys").display(),
            ),
        }
    }

    /// The replica set that the blockstore is.
    pub fn blockstore(&mut self) -> &mut ReplicaSet {
        let Kept::Set(set) = &mut self.kept else { panic!("it is no replica set") };
        set
    }

    /// The same for the library.
    pub fn place(&self) -> Place {
        Place { uri: self.uri(), secret: None }
    }

    /// The database of the blockstore.
    pub fn database(&self) -> Database {
        let Kept::Set(set) = &self.kept else { panic!("it is no replica set") };
        set.client().database("headstock")
    }

    /// The documents of a collection of the blockstore, but for blocks.
    pub async fn documents(&self, collection: &str) -> Vec<Document> {
        if !matches!(self.kept, Kept::Set(_)) {
            return self.objects().await.documents(collection).into_iter().cloned().collect();
        }
        let collection = self.database().collection::<Document>(collection);
        let found = collection.find(bson::doc! {}).await.expect("find");
        found.try_collect().await.expect("drain")
    }

    /// How many documents a collection of the blockstore has.
    pub async fn count(&self, collection: &str) -> u64 {
        if !matches!(self.kept, Kept::Set(_)) {
            return self.documents(collection).await.len() as u64;
        }
        let collection = self.database().collection::<Document>(collection);
        collection.count_documents(bson::doc! {}).await.expect("count")
    }

    /// Stored bytes of its blocks. Of objects each pack has its document.
    pub async fn stored(&self) -> i64 {
        if let Kept::Set(_) = &self.kept {
            let sum = bson::doc! { "$group": { "_id": 0, "bytes": { "$sum": "$len" } } };
            let blocks = self.database().collection::<Document>("blocks");
            let summed = blocks.aggregate([sum]).await.expect("sum");
            let summed: Vec<Document> = summed.try_collect().await.expect("drain");
            return summed[0]
                .get("bytes")
                .and_then(|bytes| bytes.as_i64().or_else(|| bytes.as_i32().map(i64::from)))
                .expect("bytes");
        }
        let packs = self.objects().await.packs();
        packs.into_iter().map(|(_, bytes)| bytes.expect("each has its document")).sum()
    }

    /// What the objects of the blockstore say, read by the page of the format alone.
    pub async fn objects(&self) -> Log {
        match &self.kept {
            Kept::Set(_) => panic!("it has no objects"),
            Kept::Directory(path) => Log::read(path),
            Kept::Bucket(server) => {
                let copy = self.path("copy");
                copy_bucket(&server.client().expect("a client"), &copy).await;
                Log::read(&copy)
            }
        }
    }

    /// The server that the bucket is in.
    pub fn server(&mut self) -> &mut S3Server {
        let Kept::Bucket(server) = &mut self.kept else { panic!("it is no bucket") };
        server
    }

    /// `headstock rebuild` into a store of that name.
    pub async fn rebuild(&self, name: &str, more: &[&str]) -> (Backup, serde_json::Value) {
        let path = self.path(name);
        let uri = self.uri();
        let mut words = vec!["rebuild", "--blockstore", &uri, "--json", "--store"];
        words.push(path.to_str().expect("a path"));
        words.extend(more);
        let report = self.program.json(&words).await.expect("rebuild");
        (self.store(name), report)
    }

    /// Restores the newest point straight from the blockstore into a fresh server.
    pub async fn restored(&self, job: &str) -> SourceState {
        self.restored_with(job, &[]).await
    }

    /// The same with more arguments.
    pub async fn restored_with(&self, job: &str, more: &[&str]) -> SourceState {
        let server = Standalone::start(&Options::default()).await.expect("a server");
        let (uri, to) = (self.uri(), server.uri());
        let words = ["restore", "--blockstore", &uri, "--job", job, "--to", &to];
        self.program.run(&[&words[..], more].concat()).await.expect("restore");
        SourceState::capture(server.client(), Detail::Collections).await.expect("its state")
    }

    /// Restores the newest point straight from the blockstore to files, which go again.
    pub async fn dumped(&self, job: &str) {
        let (uri, dir) = (self.uri(), self.path(&format!("dump-{:08x}", rand::random::<u32>())));
        let to = format!("dump:{}", dir.display());
        let words = ["restore", "--blockstore", &uri, "--job", job, "--to", &to];
        self.program.run(&words).await.expect("restore");
        std::fs::remove_dir_all(dir).expect("remove");
    }

    /// The same, into a set of the source's version, which takes every kind of collection; with its documents.
    pub async fn restored_to_set(&self, job: &str) -> SourceState {
        let set = Self::set(1, "target").await;
        let (uri, to) = (self.uri(), set.uri());
        let words = ["restore", "--blockstore", &uri, "--job", job, "--to", &to];
        self.program.run(&words).await.expect("restore");
        SourceState::capture(set.client(), Detail::Documents).await.expect("its state")
    }

    /// What the source holds.
    pub async fn truth(&self) -> SourceState {
        self.source.wait_replicated().await.expect("replicated");
        SourceState::capture(self.source.client(), Detail::Collections).await.expect("its state")
    }
}

/// Copies what a bucket has into a directory; what is deleted meanwhile is left out.
async fn copy_bucket(client: &AmazonS3, copy: &Path) {
    if copy.exists() {
        std::fs::remove_dir_all(copy).expect("remove");
    }
    let prefix = Name::from("some/prefix");
    let all: Vec<_> = client.list(Some(&prefix)).try_collect().await.expect("list");
    for one in all {
        let part = one.location.prefix_match(&prefix).expect("below it");
        let file = part.fold(copy.to_owned(), |path, part| path.join(part.as_ref()));
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("make");
        let Ok(got) = client.get(&one.location).await else { continue };
        std::fs::write(&file, got.bytes().await.expect("its bytes")).expect("write");
    }
}
