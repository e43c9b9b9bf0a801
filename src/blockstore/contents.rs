//! What a blockstore says of its jobs: states, snapshots, slices.

use bson::oid::ObjectId;
use bson::{Document, RawDocument, RawDocumentBuf, doc};

use super::Error;
use super::backend::{DAEMONS, JOBS, Of, Query, SLICES, SNAPSHOTS};
use super::connection::Connection;
use crate::head::Manifest;
use crate::oplog::slice::{Slice, SliceHeader};

/// A job, as its document says.
#[derive(Debug, Clone)]
pub struct JobDocument {
    /// Its name.
    pub name: String,
    /// Its state without head, slices and snapshots; none before the first commit.
    pub state: Option<RawDocumentBuf>,
    /// Where its daemon runs, if it belongs to one.
    pub host: Option<String>,
}

impl Connection {
    /// The names of all jobs that are not removed.
    pub async fn job_names(&self) -> Result<Vec<String>, Error> {
        let found = self.find(JOBS, Query::all(doc! { "removed": { "$ne": true } }, "_id")).await?;
        let mut names = Vec::new();
        for job in found {
            if !self.vault().is_encrypted() {
                names.push(self.text(JOBS, &job, "_id")?);
            } else if job.get("state").is_ok_and(|state| state.is_some()) {
                // Before its first commit nothing tells its name.
                let state = self.unseal(JOBS, &job, "state")?;
                names.push(self.text(JOBS, &state, "job")?);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// A job of that name, or the only one.
    pub async fn job(&self, name: Option<&str>) -> Result<JobDocument, Error> {
        let have = self.job_names().await?;
        let name = match (name, &have[..]) {
            (Some(name), have) if have.iter().any(|one| one == name) => name.to_owned(),
            (None, [one]) => one.clone(),
            (Some(name), _) => {
                let (blockstore, job) = (self.name(), name.to_owned());
                return Err(Error::NoSuchJob { blockstore, job, have });
            }
            (None, _) => return Err(Error::WhichJob { blockstore: self.name(), have }),
        };
        let found = self.find_one(JOBS, doc! { "_id": self.vault().hidden(&name) }).await?;
        let found = found.ok_or_else(|| self.malformed(JOBS, "_id"))?;
        let has_state = found.get("state").is_ok_and(|state| state.is_some());
        let state = has_state.then(|| self.unseal(JOBS, &found, "state")).transpose()?;
        let host = match found.get_object_id("daemon") {
            Ok(daemon) => self.find_one(DAEMONS, doc! { "_id": daemon }).await?,
            Err(_) => None,
        };
        let host = host.and_then(|daemon| Some(daemon.get_str("host").ok()?.to_owned()));
        Ok(JobDocument { name, state, host })
    }

    /// The snapshots of a job, oldest first.
    pub async fn snapshots(&self, job: &str) -> Result<Vec<Manifest>, Error> {
        self.snapshots_of(doc! { "_id.job": job }).await
    }

    /// Those of them that a session has pinned.
    pub async fn pinned(&self, job: &str, session: ObjectId) -> Result<Vec<Manifest>, Error> {
        self.snapshots_of(doc! { "_id.job": job, "pins": session }).await
    }

    async fn snapshots_of(&self, filter: Document) -> Result<Vec<Manifest>, Error> {
        let found = self.find(SNAPSHOTS, Query::all(filter, "_id.id")).await?;
        let read = |document: &RawDocumentBuf| {
            let keep = document.get_bool("keep").map_err(|_| self.malformed(SNAPSHOTS, "keep"))?;
            Ok(Manifest { keep, ..self.manifest(document)? })
        };
        let mut manifests = found.iter().map(read).collect::<Result<Vec<_>, Error>>()?;
        manifests.sort_by_key(|manifest| manifest.head.position.optime);
        Ok(manifests)
    }

    /// The manifest in the document of a snapshot.
    pub fn manifest(&self, document: &RawDocument) -> Result<Manifest, Error> {
        Ok(Manifest::from_bson(&self.unseal(SNAPSHOTS, document, "manifest")?)?)
    }

    /// The slices of a job, oldest first.
    pub async fn slices(&self, job: &str) -> Result<Vec<Slice>, Error> {
        self.slices_of(doc! { "_id.job": job }).await
    }

    /// The slices of all jobs but these.
    pub async fn slices_of_others(&self, jobs: &[String]) -> Result<Vec<Slice>, Error> {
        self.slices_of(doc! { "_id.job": { "$nin": jobs } }).await
    }

    async fn slices_of(&self, filter: Document) -> Result<Vec<Slice>, Error> {
        let found = self.find(SLICES, Query::all(filter, "_id.ts")).await?;
        let read = |document: &RawDocumentBuf| {
            let slice = self.unseal(SLICES, document, "slice")?;
            let (header, pieces) = SliceHeader::from_document(&slice)?;
            Ok(Slice { header, pieces })
        };
        found.iter().map(read).collect()
    }

    fn text(&self, of: Of, document: &RawDocument, field: &'static str) -> Result<String, Error> {
        document.get_str(field).map(str::to_owned).map_err(|_| self.malformed(of, field))
    }
}
