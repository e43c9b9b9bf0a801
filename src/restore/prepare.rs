//! Plans a restore. Nothing here touches the target.

use std::sync::Arc;

use super::items::{self, Item, Selection};
use super::live::{self, Existing as Names, Found, Live, Marker};
use super::materialise::{View, materialise};
use super::plan::{DATA_DIRECTORY, Plan, PlannedNamespace, STAND_ALONE, TargetFacts};
use super::resolve::History;
use super::verify::verify;
use super::{
    Backup, Cancel, CheckedBlocks, Error, Existing, Progress, Proof, Request, Restore, Target,
    dbpath, files,
};
use crate::blockstore::Repository;
use crate::head::Manifest;

/// Servers compress documents, but seldom to less than this part of their size: with less room than
/// that a restore cannot end well.
const LEAST_ROOM_DIVISOR: u64 = 4;

/// A target that was looked at.
pub(super) enum Opened {
    Live(Live),
    Dump(std::path::PathBuf),
    Archive(std::path::PathBuf),
    DbPath { dir: std::path::PathBuf, mongod: std::path::PathBuf },
}

/// What was looked up at a target.
struct Looked {
    facts: TargetFacts,
    names: Names,
    resumes: bool,
}

/// Plans a restore: finds the base snapshot and slices, materialises the head in a scratch store,
/// checks every block, looks at the target and for conflicts. The target is not touched.
///
/// # Errors
/// Everything that would make the restore fail and can be known now.
pub async fn prepare(
    backup: Backup,
    request: Request,
    progress: Arc<dyn Progress>,
    cancel: Cancel,
) -> Result<Restore, Error> {
    // First what is cheap: a target that cannot be used is told before the work.
    let target = open(&request, &progress, &cancel).await?;
    let job = backup.job.clone();
    let repository = backup.repository.clone();
    let history = History::new(backup);
    let (view, selection, blocks) = {
        let (request, progress, cancel) = (request.clone(), progress.clone(), cancel.clone());
        let repository = repository.clone();
        let reading = move || read(&*repository, &history, &request, &*progress, &cancel);
        tokio::task::spawn_blocking(reading).await.map_err(|_| Error::Worker)??
    };
    let marker = marker(&job, &request, &view);
    let looked = look(&target, &marker).await?;
    fits(&view.base, &looked.facts, selection.bytes())?;
    takes_encrypted(&looked.facts, &selection)?;
    let plan = Planner {
        job,
        repository: repository.describe(),
        request: &request,
        view: &view,
        selection: &selection,
        looked,
        blocks,
    }
    .plan(&marker)?;
    Ok(Restore { plan, view, selection, target, marker, progress, cancel })
}

async fn open(
    request: &Request,
    progress: &Arc<dyn Progress>,
    cancel: &Cancel,
) -> Result<Opened, Error> {
    Ok(match &request.target {
        Target::Live(uri) => {
            Opened::Live(Live::connect(uri, progress.clone(), cancel.clone()).await?)
        }
        Target::Dump(dir) => {
            files::check_free_dir(dir)?;
            Opened::Dump(dir.clone())
        }
        Target::Archive(file) => {
            files::check_free_file(file, request.existing)?;
            Opened::Archive(file.clone())
        }
        Target::DbPath(dir) => {
            files::check_free_dir(dir)?;
            let mongod = dbpath::find_mongod(request.mongod.as_deref())?;
            Opened::DbPath { dir: dir.clone(), mongod }
        }
    })
}

fn read(
    repository: &dyn Repository,
    history: &History,
    request: &Request,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<(View, Selection, CheckedBlocks), Error> {
    let view = materialise(repository, history, &request.at, progress, cancel)?;
    let filters = &request.namespaces;
    let named = |ns: &String| filters.iter().any(|filter| filter.to_string() == *ns);
    if let Some(ns) = view.absent.values().find(|ns| named(ns)) {
        return Err(Error::Absent { ns: ns.clone() });
    }
    let selection = items::select(&*view.blocks, &view.collections, filters, progress)?;
    if selection.items.is_empty() && !filters.is_empty() && selection.collections().is_empty() {
        let filters: Vec<String> = filters.iter().map(ToString::to_string).collect();
        return Err(Error::NothingSelected { filters: filters.join(", ") });
    }
    let collections = selection.collections();
    let later = request.checks_while_writing();
    let trust = request.trust || later;
    let mut blocks = verify(&*view.blocks, &collections, trust, progress, cancel)?;
    if later {
        blocks.documents = Proof::HashedWhenWritten;
    }
    Ok((view, selection, blocks))
}

fn marker(job: &str, request: &Request, view: &View) -> Marker {
    let mut filters: Vec<String> = request.namespaces.iter().map(ToString::to_string).collect();
    filters.sort_unstable();
    filters.dedup();
    Marker {
        id: format!("{:016x}", rand::random::<u64>()),
        job: job.to_owned(),
        upto: view.upto,
        filters,
        existing: request.existing.to_string(),
    }
}

async fn look(target: &Opened, marker: &Marker) -> Result<Looked, Error> {
    let file = |facts| Looked { facts, names: Names::new(), resumes: false };
    Ok(match target {
        Opened::Live(live) => {
            let resumes = live.find_marker(marker).await? == Found::Ours;
            Looked { facts: live.facts().await?, names: live.existing().await?, resumes }
        }
        Opened::Dump(dir) => file(files::facts("directory", "dump:", dir)?),
        Opened::Archive(path) => file(files::facts("archive", "archive:", path)?),
        Opened::DbPath { dir, mongod } => {
            let mut facts = files::facts(DATA_DIRECTORY, "dbpath:", dir)?;
            facts.version = Some(dbpath::version(mongod)?);
            file(facts)
        }
    })
}

/// Whether version and room of a target are enough to take so many bytes of documents.
pub(super) fn fits(base: &Manifest, facts: &TargetFacts, bytes: u64) -> Result<(), Error> {
    // A data directory made anew has the compatibility version of its server.
    let target_fcv = facts.fcv.as_deref().or(facts.version.as_deref());
    if let Some(target_fcv) = target_fcv
        && major_minor(target_fcv) < major_minor(&base.fcv)
    {
        return Err(Error::TargetTooOld {
            target: facts.name.clone(),
            target_fcv: target_fcv.to_owned(),
            backup_fcv: base.fcv.clone(),
        });
    }
    let server = facts.version.is_some();
    let needed_bytes = if server { bytes / LEAST_ROOM_DIVISOR } else { bytes };
    match facts.free_bytes {
        Some(free_bytes) if free_bytes < needed_bytes => {
            Err(Error::NoRoom { target: facts.name.clone(), free_bytes, needed_bytes })
        }
        _ => Ok(()),
    }
}

/// Servers that are of no replica set refuse collections with encrypted fields (seen on 6.0.5).
fn takes_encrypted(facts: &TargetFacts, selection: &Selection) -> Result<(), Error> {
    if facts.kind != STAND_ALONE && facts.kind != DATA_DIRECTORY {
        return Ok(());
    }
    let is_encrypted = |item: &&Item| matches!(item.options.get("encryptedFields"), Ok(Some(_)));
    match selection.items.iter().find(is_encrypted) {
        Some(item) => Err(Error::Encrypted {
            target: facts.name.clone(),
            kind: facts.kind.clone(),
            ns: item.ns.clone(),
        }),
        None => Ok(()),
    }
}

/// The first two numbers of a version; what is not a number counts as zero.
fn major_minor(version: &str) -> (u32, u32) {
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// What a plan is made of.
struct Planner<'a> {
    job: String,
    repository: String,
    request: &'a Request,
    view: &'a View,
    selection: &'a Selection,
    looked: Looked,
    blocks: CheckedBlocks,
}

impl Planner<'_> {
    fn plan(self, marker: &Marker) -> Result<Plan, Error> {
        let items = &self.selection.items;
        let namespaces: Vec<PlannedNamespace> =
            items.iter().map(|item| self.namespace(item)).collect();
        let mut drops: Vec<String> =
            items.iter().flat_map(|item| live::in_the_way(&self.looked.names, item)).collect();
        if self.request.existing == Existing::Refuse
            && !self.looked.resumes
            && let Some(first) = drops.first()
        {
            return Err(Error::Exists { first: first.clone(), more: drops.len() - 1 });
        }
        if self.request.existing == Existing::Exact {
            drops.extend(live::surplus(&self.looked.names, items, &self.request.namespaces));
        }
        if let Some((ns, buckets)) = live::dropped_along(&self.looked.names, &drops) {
            return Err(Error::DropsOther { ns, buckets });
        }
        let count = |collection: &Option<crate::head::Collection>| {
            collection.as_ref().map_or(0, |collection| collection.root.documents)
        };
        Ok(Plan {
            restore_id: marker.id.clone(),
            point: self.view.planned(&self.request.at),
            existing: self.request.existing,
            namespaces,
            drops,
            users: count(&self.selection.users),
            roles: count(&self.selection.roles),
            documents: self.selection.documents(),
            bytes: self.selection.bytes(),
            blocks: self.blocks,
            warnings: self.warnings(),
            job: self.job,
            repository: self.repository,
            target: self.looked.facts,
        })
    }

    fn namespace(&self, item: &Item) -> PlannedNamespace {
        let name = |spec: &bson::RawDocument| items::text(spec, "name").map(str::to_owned);
        PlannedNamespace {
            ns: item.ns.clone(),
            kind: item.shape.name().to_owned(),
            documents: item.documents(),
            bytes: item.bytes(),
            indexes: item.indexes().filter_map(name).collect(),
            replaces: !live::in_the_way(&self.looked.names, item).is_empty(),
        }
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let facts = &self.looked.facts;
        let base = &self.view.base;
        if !base.scope.is_all() {
            warnings.push(format!("the backup is filtered: it holds {}", base.scope));
        }
        if !self.view.absent.is_empty() {
            warnings.push(format!(
                "not held at this point, just renamed from names that are not backed up: {}",
                self.view.absent.values().map(String::as_str).collect::<Vec<_>>().join(", ")
            ));
        }
        if self.looked.resumes {
            warnings.push(
                "an earlier run of this restore did not finish: what it made is dropped first"
                    .to_owned(),
            );
        }
        if let Some(version) = &facts.version
            && major_minor(version) != major_minor(&base.server_version)
        {
            let from = &base.server_version;
            warnings.push(format!("the backup is of server {from}, the target is {version}"));
        }
        let bytes = self.selection.bytes();
        if facts.free_bytes.is_some_and(|free| free < bytes) {
            warnings.push(format!(
                "{} may run out of room: it compresses {bytes} bytes into what it has free",
                facts.name
            ));
        }
        let server = facts.version.is_some();
        if server && !self.selection.config.is_empty() {
            warnings.push("config.* is not restored into a server, which has its own".to_owned());
        }
        if server && self.selection.version.is_some() {
            warnings.push("admin.system.version stays the target's own".to_owned());
        }
        if !self.selection.temporary.is_empty() {
            let names = self.selection.temporary.join(", ");
            warnings.push(format!("temporary collections are not restored: {names}"));
        }
        if !server && self.request.existing != Existing::Refuse {
            warnings.push("a new file or directory has nothing to drop".to_owned());
        }
        warnings
    }
}
