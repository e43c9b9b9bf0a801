//! Grooming: removing blocks that nothing reaches, beside whoever writes and reads (page 09, section 4).
//!
//! Order of steps: the generation is raised; writing sessions of before are waited for, and ended where they are dead; all that the
//! roots reach is marked, into a file; then blocks below the new generation that were not marked are removed, the condition being part of
//! each removal. A groom that stops at any moment has done no harm, and one that finds the marks of its generation whole
//! goes on with them. Safety rests on the stamps, on no clock and on no other groomer.

mod marks;
mod sweep;
mod wait;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bson::doc;
use bson::oid::ObjectId;
use serde::Serialize;

use super::backend::{GENERATION, SNAPSHOTS};
use super::connection::Connection;
use super::session::{Purpose, Session, generation};
use super::{Blockstore, Error, Reader, lacking};
use crate::head::{HeadRoot, Manifest};
pub(super) use marks::Jobs;
use marks::{Marker, Marks};
pub(super) use sweep::Sweep;

/// How often the generation is raised that others raise at the same time.
const RAISES_MAX: u32 = 16;

/// How to groom.
pub struct GroomRequest {
    /// Tell what would be removed, and remove nothing.
    pub dry_run: bool,
    /// Where marks are kept: 40 bytes for each block that lives.
    pub marks: PathBuf,
}

/// What a groom hears of itself.
pub trait GroomProgress: Send + Sync {
    /// Waiting for so many writing sessions.
    fn waiting(&self, sessions: u64);
    /// So many blocks are marked.
    fn marked(&self, blocks: u64);
    /// So many were looked at, and so many of them removed.
    fn swept(&self, looked: u64, removed: u64);
    /// Whether to stop.
    fn is_stopped(&self) -> bool;
}

/// What a groom did, or would do. `--json` prints it: field names never change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GroomReport {
    /// Whether it was only planned.
    pub dry_run: bool,
    /// The generation that it was done for.
    pub generation: i64,
    /// Blocks that something reaches, dictionaries aside.
    pub live_blocks: u64,
    /// Their stored bytes.
    pub live_bytes: u64,
    /// Blocks that nothing reaches and that are old enough to go.
    pub dead_blocks: u64,
    /// Their stored bytes.
    pub dead_bytes: u64,
    /// Blocks that were removed.
    pub removed_blocks: u64,
    /// By job, what it reaches.
    pub jobs: Vec<GroomedJob>,
}

/// What a job reaches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GroomedJob {
    /// Its name. Jobs beyond the 63rd are counted together.
    pub job: String,
    /// Stored bytes of all blocks that it reaches.
    pub live_bytes: u64,
    /// Of these, bytes that no other job reaches.
    pub own_bytes: u64,
}

impl Blockstore {
    /// Removes what nothing reaches, or tells what that is.
    ///
    /// # Errors
    /// [`Error::Stopped`]; [`Error::Block`] if something that is reached cannot be read, since then it is not known what that
    /// reaches; those of the disk and of the blockstore.
    pub async fn groom(
        &self,
        request: GroomRequest,
        progress: Arc<dyn GroomProgress>,
    ) -> Result<GroomReport, Error> {
        let connection = self.connection().clone();
        let session = Session::start(&connection, Purpose::Groom, None).await?;
        let made = |source| Error::Marks { path: request.marks.clone(), source };
        marks::make_private(&request.marks).map_err(made)?;
        let jobs = self.job_names().await?;
        let now = generation(&connection).await?;
        let begun =
            if request.dry_run { None } else { self.begun(&request.marks).map_err(made)? };
        // Those of a generation that is still to come are of a time before this repository was brought back.
        let begun = begun.filter(|(generation, _)| *generation <= now);
        let generation = match (&begun, request.dry_run) {
            (Some((generation, _)), _) => *generation,
            (None, true) => now,
            (None, false) => raise(&connection, session.id).await?,
        };
        let dry_run = request.dry_run;
        let reader = Reader::of(&connection, session);
        let dir = request.marks.clone();
        let groom = Groom { connection, dir, generation, progress };
        let path = match begun {
            Some((_, path)) => path,
            None => {
                if !dry_run {
                    groom.wait().await?;
                }
                let path = groom.dir.join(self.marks_name(generation, dry_run));
                groom.mark(self, &reader, &jobs, &path).await?;
                path
            }
        };
        let jobs = jobs.into_iter().map(|job| GroomedJob { job, ..GroomedJob::default() });
        let report =
            GroomReport { dry_run, generation, jobs: jobs.collect(), ..GroomReport::default() };
        let marks = Marks::open(&path).map_err(groom.disk())?;
        let Groom { connection, dir, generation, progress } = groom;
        let sweep = Sweep { generation, report, reader, marks, dir, progress };
        let report = connection.sweep(sweep).await?;
        std::fs::remove_file(&path)
            .map_err(|source| Error::Marks { path: request.marks, source })?;
        Ok(report)
    }

    fn marks_name(&self, generation: i64, dry_run: bool) -> String {
        let uuid: String = self.facts.uuid.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{uuid}-{generation}.{}", if dry_run { "plan" } else { "marks" })
    }

    /// The marks of a groom of this repository that did not come to its end, if they are whole: they hold for ever.
    fn begun(&self, dir: &Path) -> std::io::Result<Option<(i64, PathBuf)>> {
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let number = name.strip_suffix(".marks").and_then(|name| name.split_once('-'));
            let generation = number.and_then(|(_, number)| number.parse().ok());
            if let Some(generation) = generation
                && name == self.marks_name(generation, false)
            {
                return Ok(Some((generation, path)));
            }
        }
        Ok(None)
    }
}

/// Raises the generation.
async fn raise(connection: &Connection, groomer: ObjectId) -> Result<i64, Error> {
    for _ in 0..RAISES_MAX {
        let before = generation(connection).await?;
        let filter = doc! { "_id": 0, "value": before };
        let change = doc! { "$inc": { "value": 1_i64 }, "$set": { "groomer": groomer } };
        if connection.update_one(GENERATION, filter, change).await? {
            return Ok(before + 1);
        }
    }
    Err(Error::Contended)
}

/// One groom.
struct Groom {
    connection: Connection,
    dir: PathBuf,
    generation: i64,
    progress: Arc<dyn GroomProgress>,
}

/// What one job retains.
struct Roots {
    job: Jobs,
    heads: Vec<HeadRoot>,
}

impl Groom {
    fn disk(&self) -> impl Fn(std::io::Error) -> Error + '_ {
        |source| Error::Marks { path: self.dir.clone(), source }
    }

    fn check(&self) -> Result<(), Error> {
        if self.progress.is_stopped() { Err(Error::Stopped) } else { Ok(()) }
    }

    /// Marks all that is retained, in a file of that name.
    async fn mark(
        &self,
        blockstore: &Blockstore,
        reader: &Reader,
        jobs: &[String],
        path: &Path,
    ) -> Result<(), Error> {
        let mut marker = Marker::new(&self.dir).map_err(self.disk())?;
        // Snapshots as of one time, and only then slices.
        let snapshots = self.snapshots().await?;
        let mut roots = Vec::new();
        for (number, job) in jobs.iter().enumerate() {
            let id = blockstore.job_id(job);
            let of_job = snapshots.iter().filter(|(of, _)| *of == id);
            let mut heads: Vec<HeadRoot> = of_job.map(|(_, one)| one.head.clone()).collect();
            heads.sort_by_key(|head| head.position.optime);
            let job_bit = Jobs::of(number);
            for slice in blockstore.slices(job).await? {
                let marked = slice.pieces.iter().try_for_each(|id| marker.mark(*id, job_bit));
                marked.map_err(self.disk())?;
            }
            roots.push(Roots { job: job_bit, heads });
        }
        // A job that was removed, or is new, has roots too.
        let ids: Vec<String> = jobs.iter().map(|job| blockstore.job_id(job)).collect();
        let others = snapshots.iter().filter(|(of, _)| !ids.contains(of));
        roots.extend(
            others
                .map(|(_, one)| Roots { job: Jobs::of(Jobs::MAX), heads: vec![one.head.clone()] }),
        );
        for slice in self.connection.slices_of_others(&ids).await? {
            let marked =
                slice.pieces.iter().try_for_each(|id| marker.mark(*id, Jobs::of(Jobs::MAX)));
            marked.map_err(self.disk())?;
        }
        let (reader, progress, dir) = (reader.clone(), self.progress.clone(), self.dir.clone());
        let whole = path.to_owned();
        let marking = move || mark_all(&reader, &roots, marker, &*progress, &dir, &whole);
        tokio::task::spawn_blocking(marking).await.map_err(|_| Error::WorkerLost)?
    }

    /// All snapshots, as of one time.
    async fn snapshots(&self) -> Result<Vec<(String, Manifest)>, Error> {
        let mut found = Vec::new();
        for document in self.connection.find_at_once(SNAPSHOTS).await? {
            let malformed = |field| self.connection.malformed(SNAPSHOTS, field);
            let id = document.get_document("_id").map_err(|_| malformed("_id"))?;
            let job = id.get_str("job").map_err(|_| malformed("_id"))?.to_owned();
            found.push((job, self.connection.manifest(&document)?));
        }
        Ok(found)
    }
}

/// Marks what heads reach: of each, what the one before it in its job has not.
fn mark_all(
    reader: &Reader,
    roots: &[Roots],
    mut marker: Marker,
    progress: &dyn GroomProgress,
    dir: &Path,
    whole: &Path,
) -> Result<(), Error> {
    let disk = |source| Error::Marks { path: dir.to_owned(), source };
    let mut count = 0_u64;
    for Roots { job, heads } in roots {
        let mut before: Option<&HeadRoot> = None;
        for head in heads {
            lacking(reader, head, before, &mut |id| {
                count += 1;
                if count.is_multiple_of(1 << 12) {
                    progress.marked(count);
                    if progress.is_stopped() {
                        return Err(Error::Stopped);
                    }
                }
                marker.mark(id, *job).map_err(disk)
            })?;
            before = Some(head);
        }
    }
    progress.marked(count);
    marker.finish(whole).map_err(disk)
}
