//! A backup that cannot be read is found out before the target is touched.

use std::sync::Arc;

use bson::doc;
use headstock::block::{Block, BlockId, BlockRead, Error as BlockError, Kind};
use headstock::blockstore::Repository;
use headstock::lab::{Options, Standalone};
use headstock::restore::{Backup, Error, Request};
use headstock::store::{self, RepositorySalt, Store};

use crate::support::{Made, command, plan, request, restore, run, shared, source, target};

/// A repository that lost one block.
struct Lossy {
    inner: Arc<dyn Repository>,
    lost: BlockId,
    /// Whether it is damaged, and only who reads it finds that out.
    damaged: bool,
}

struct LossyBlocks(Arc<dyn BlockRead>, BlockId, bool);

impl Repository for Lossy {
    fn blocks(&self) -> Arc<dyn BlockRead> {
        Arc::new(LossyBlocks(self.inner.blocks(), self.lost, self.damaged))
    }
    fn salt(&self) -> RepositorySalt {
        self.inner.salt()
    }
    fn scratch_store(&self, dir: &std::path::Path) -> Result<Store, store::Error> {
        self.inner.scratch_store(dir)
    }

    fn is_encrypted(&self) -> bool {
        self.inner.is_encrypted()
    }

    fn scratch_dir(&self) -> std::path::PathBuf {
        self.inner.scratch_dir()
    }
    fn describe(&self) -> String {
        self.inner.describe()
    }
}

impl BlockRead for LossyBlocks {
    fn get(&self, id: &BlockId) -> Result<Block, BlockError> {
        if *id == self.1 { Err(BlockError::Missing { id: *id }) } else { self.0.get(id) }
    }
    fn kind_of(&self, id: &BlockId) -> Result<Option<Kind>, BlockError> {
        if *id == self.1 && !self.2 { Ok(None) } else { self.0.kind_of(id) }
    }
}

/// Every block under the first collection found with more than one leaf.
fn some_leaf(backup: &Backup) -> BlockId {
    let blocks = backup.repository.blocks();
    let catalog = headstock::head::catalog(&*blocks, &backup.snapshots[0].head).expect("catalog");
    let log = catalog.iter().find(|one| one.ns == "trap_capped.log").expect("a collection");
    let mut id = log.root.top.expect("not empty");
    loop {
        let block = blocks.get(&id).expect("a block");
        match headstock::block::references(block.kind, &block.bytes).expect("references").last() {
            Some(child) => id = *child,
            None => return id,
        }
    }
}

#[test]
fn a_missing_block_is_named_before_the_target_is_touched() {
    run(async {
        let whole = &shared().await.made.backup;
        let (inner, lost) = (whole.repository.clone(), some_leaf(whole));
        let repository = Lossy { inner, lost, damaged: false };
        let backup = Backup { repository: Arc::new(repository), ..whole.clone() };
        let server = Standalone::start(&Options::default()).await.expect("a server");
        for trust in [false, true] {
            let asked = Request { trust, ..request(&server.uri(), &["trap_capped"]) };
            let refused = plan(&backup, asked).await;
            assert!(
                matches!(&refused, Err(Error::Unreadable { ns, .. }) if ns == "trap_capped.log"),
                "trust {trust}: {refused:?}"
            );
        }
        let names = server.client().list_database_names().await.expect("names");
        assert_eq!(names, ["admin", "config", "local"]);
        // Another database does not need the block.
        plan(&backup, request(&server.uri(), &["trap_forms"])).await.expect("a plan");
    });
}

/// Files are written while blocks are hashed; what could not be finished is not there.
#[test]
fn a_damaged_block_leaves_no_file() {
    run(async {
        let whole = &shared().await.made.backup;
        let (inner, lost) = (whole.repository.clone(), some_leaf(whole));
        let repository = Lossy { inner, lost, damaged: true };
        let backup = Backup { repository: Arc::new(repository), ..whole.clone() };
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("restored");
        for scheme in ["dump", "archive"] {
            for only_plan in [false, true] {
                let target = format!("{scheme}:{}", path.display());
                let asked = Request { only_plan, ..request(&target, &["trap_capped"]) };
                let planned = plan(&backup, asked.clone()).await.map(drop);
                let failed = if only_plan {
                    planned
                } else {
                    planned.expect("a plan");
                    restore(&backup, asked).await.map(drop)
                };
                assert!(
                    matches!(&failed, Err(Error::Unreadable { ns, .. }) if ns == "trap_capped.log"),
                    "{scheme} {only_plan}: {failed:?}"
                );
                let left = std::fs::read_dir(folder.path()).expect("a folder").count();
                assert_eq!(left, 0, "{scheme}");
            }
        }
    });
}

#[test]
fn a_filter_that_matches_nothing_and_a_bad_address_are_refused() {
    run(async {
        let backup = &shared().await.made.backup;
        let dir = tempfile::tempdir().expect("a directory");
        let target = format!("dump:{}", dir.path().join("d").display());
        let nothing = plan(backup, request(&target, &["no_such"])).await;
        assert!(matches!(nothing, Err(Error::NothingSelected { .. })), "{nothing:?}");
        let refused = plan(backup, request("mongodb://u:secret@h:99999/", &[])).await;
        let refused = refused.expect_err("not an address");
        assert!(matches!(refused, Error::Uri), "{refused:?}");
        assert!(!format!("{refused} {refused:?}").contains("secret"));
    });
}

/// A stand-alone server would refuse them in the middle of a restore.
#[test]
fn encrypted_collections_are_refused_by_what_cannot_take_them_before_anything_is_touched() {
    run(async {
        let set = source(1).await;
        let key = bson::Uuid::from_bytes([3; 16]);
        let field = doc! { "path": "secret", "bsonType": "string", "keyId": key };
        let options = doc! { "create": "people", "encryptedFields": { "fields": [field] } };
        command(set.client(), "sealed", options).await;
        command(set.client(), "sealed", doc! { "create": "plain" }).await;
        let made = Made::of(&set).await;
        let server = target().await;
        let refused = plan(&made.backup, request(&server.uri(), &["sealed"])).await;
        assert!(
            matches!(&refused, Err(Error::Encrypted { ns, .. }) if ns == "sealed.people"),
            "{refused:?}"
        );
        let allowed = plan(&made.backup, request(&server.uri(), &["sealed.plain"])).await;
        assert_eq!(allowed.expect("a plan").namespaces.len(), 1);
    });
}
