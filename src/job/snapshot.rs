//! Snapshots of a job, and which oplog slices they still need.
//!
//! A snapshot is a manifest in the tree of manifests by id; it retains the head it holds. Deleting it
//! takes the manifest out of the tree, and what nothing else reaches goes at the next compaction.
//!
//! Any second is restored from the newest snapshot at or before it and the slices from there on. So
//! with a restore window that begins at W, the slices after the newest snapshot at or before W stay,
//! all others go; where no snapshot is as old as W, those after the oldest stay. The slices after the
//! newest snapshot, and those that the head has not durably applied, stay always.

use std::time::Duration;

use super::handle::now_ms;
use super::{Error, Job, SnapshotInfo, State};
use crate::block::BlockRead;
use crate::head::{HeadRoot, Manifest, RULE_VERSION};
use crate::oplog::OpTime;
use crate::store::{RepositorySalt, Store};
use crate::tree::{self, Content, Cursor, Edit, Key, Order, Shape};

/// The shape of the tree of snapshots.
#[must_use]
pub fn shape(salt: RepositorySalt) -> Shape {
    Shape::new(salt, Order::Keyed, Content::Links)
}

/// Every snapshot of a job, oldest first.
///
/// # Errors
/// [`Error::Tree`], [`Error::Head`].
pub fn manifests(blocks: &dyn BlockRead, state: &State) -> Result<Vec<Manifest>, Error> {
    let mut found = Vec::new();
    let mut cursor = Cursor::new(blocks, &state.snapshots);
    while let Some(document) = cursor.next()? {
        found.push(Manifest::from_bson(&document)?);
    }
    found.sort_by_key(|manifest| manifest.head.position.optime);
    Ok(found)
}

/// Takes a snapshot of the committed head. A snapshot of the same state is returned instead of a
/// second one.
///
/// # Errors
/// [`Error::NotConsistent`], and those of the store.
pub(super) fn take(job: &Job) -> Result<SnapshotInfo, Error> {
    let not_consistent = || Error::NotConsistent { job: job.name().to_owned() };
    let session = job.store().session();
    let state = job.state();
    let consistent = state.is_consistent();
    let head = state.head.filter(|_| consistent).ok_or_else(not_consistent)?;
    if let Some(manifest) = newest(job, &head)? {
        return Ok(SnapshotInfo::new(job.name(), &manifest));
    }
    let manifest = job.update(&session, |state| {
        let manifest = Manifest {
            id: Manifest::new_id(head.position.optime.ts),
            head,
            taken_ms: now_ms(),
            set_name: state.identity.set_name.clone(),
            replica_set_id: state.identity.replica_set_id,
            fcv: state.identity.fcv.clone(),
            server_version: state.identity.server_version.clone(),
            rule_version: RULE_VERSION,
            added_bytes: std::mem::take(&mut state.added_bytes),
            keep: false,
            scope: state.scope.clone(),
        };
        put(job, state, &manifest)?;
        Ok(manifest)
    })?;
    Ok(SnapshotInfo::new(job.name(), &manifest))
}

/// The snapshot that holds a head, if there is one.
fn newest(job: &Job, head: &HeadRoot) -> Result<Option<Manifest>, Error> {
    let manifests = manifests(job.store(), &job.state())?;
    let scope = job.state().scope;
    let same = |manifest: &Manifest| {
        let held = &manifest.head;
        held.position == head.position
            && held.content_root == head.content_root
            && held.consistent_from == head.consistent_from
            && manifest.scope == scope
    };
    Ok(manifests.into_iter().rfind(same))
}

/// Deletes a snapshot.
///
/// # Errors
/// [`Error::NoSuchSnapshot`], [`Error::Kept`], and those of the store.
pub fn delete(job: &Job, id: &str) -> Result<SnapshotInfo, Error> {
    let job = &job.reclaiming();
    let manifest = job.update(&job.store().session(), |state| {
        let manifest = find(job, state, id)?;
        if manifest.keep {
            return Err(Error::Kept { id: manifest.id });
        }
        edit(job.store(), state, &manifest.id, Edit::Delete)?;
        Ok(manifest)
    })?;
    Ok(SnapshotInfo::new(job.name(), &manifest))
}

/// Protects a snapshot from deletion, or takes the protection away.
///
/// # Errors
/// [`Error::NoSuchSnapshot`], and those of the store.
pub fn keep(job: &Job, id: &str, keep: bool) -> Result<SnapshotInfo, Error> {
    // One that is released can be deleted.
    let job = &job.reclaiming();
    let manifest = job.update(&job.store().session(), |state| {
        let manifest = Manifest { keep, ..find(job, state, id)? };
        put(job, state, &manifest)?;
        Ok(manifest)
    })?;
    Ok(SnapshotInfo::new(job.name(), &manifest))
}

/// Sets the restore window.
///
/// # Errors
/// Those of the store.
pub fn set_window(job: &Job, window: Duration) -> Result<(), Error> {
    // A shorter one lets slices go.
    let job = &job.reclaiming();
    let millis = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
    if job.state().restore_window_ms == millis {
        return Ok(());
    }
    job.update(&job.store().session(), |state| {
        state.restore_window_ms = millis;
        Ok(())
    })
}

/// Removes the slices that nothing needs any more. Returns how many went.
///
/// # Errors
/// Those of the store.
pub fn expire_slices(job: &Job) -> Result<u64, Error> {
    let job = &job.reclaiming();
    let session = job.store().session();
    let state = job.state();
    let Some(expired) = floor(job.store(), &state, now_ms())? else { return Ok(0) };
    let oldest = state.slices.first_from(job.store(), crate::oplog::Ts::ZERO)?;
    if oldest.is_none_or(|slice| slice.header.last.optime > expired) {
        return Ok(0);
    }
    job.update(&session, |state| {
        let store = job.store();
        // A scan that began meanwhile may need slices that the head did not.
        match floor(store, state, now_ms())? {
            Some(floor) => state.slices.expire(store, store.salt(), floor),
            None => Ok(0),
        }
    })
}

/// Where the slices that are still needed begin: those that end at or before it may go. None while
/// all are needed.
fn floor(blocks: &dyn BlockRead, state: &State, now_ms: i64) -> Result<Option<OpTime>, Error> {
    let Some(head) = &state.head else { return Ok(None) };
    let manifests = manifests(blocks, state)?;
    let window = i64::try_from(state.restore_window_ms).unwrap_or(i64::MAX);
    let begin = now_ms.saturating_sub(window);
    let positions = || manifests.iter().map(|manifest| manifest.head.position);
    let base = positions().rfind(|at| at.wall_ms <= begin).or_else(|| positions().next());
    Ok(base.map(|base| base.optime.min(head.position.optime)))
}

fn find(job: &Job, state: &State, id: &str) -> Result<Manifest, Error> {
    let document = tree::get(job.store(), &state.snapshots, &key(id)?)?;
    let missing = || Error::NoSuchSnapshot { job: job.name().to_owned(), id: id.to_owned() };
    Ok(Manifest::from_bson(&document.ok_or_else(missing)?)?)
}

/// Adds a snapshot that was taken elsewhere.
pub(super) fn add(store: &Store, state: &mut State, manifest: &Manifest) -> Result<(), Error> {
    edit(store, state, &manifest.id, Edit::Put(manifest.to_bson()))
}

fn put(job: &Job, state: &mut State, manifest: &Manifest) -> Result<(), Error> {
    add(job.store(), state, manifest)
}

fn edit(store: &Store, state: &mut State, id: &str, edit: Edit) -> Result<(), Error> {
    let mut edits = std::iter::once(Ok((key(id)?, edit)));
    let shape = shape(store.salt());
    state.snapshots = tree::edit(store, &shape, &state.snapshots, &mut edits)?;
    Ok(())
}

fn key(id: &str) -> Result<Key, tree::Error> {
    Key::of_document(&bson::rawdoc! { "_id": id })
}
