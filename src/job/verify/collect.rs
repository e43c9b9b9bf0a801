//! Reads collections of the source into trees.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::{Semaphore, mpsc};

use crate::block::BlockWrite;
use crate::head::Scanned;
use crate::job::scan::progress::RangeProgress;
use crate::job::scan::range::{News, RangeScan};
use crate::job::scan::{REPORTS_WAITING, RESTARTS_MAX, UNITS_IN_FLIGHT, join, order, ranges_of};
use crate::job::{Activity, Error, Expected, Figures, blocking};
use crate::oplog::{Ts, Uuid};
use crate::source::{self, Listed, Range, Source};
use crate::store::RepositorySalt;
use crate::tree::{Content, Root, Shape};

/// What was read, and what could not be.
#[derive(Default)]
pub struct Collected {
    /// Collections with their trees.
    pub scanned: Vec<Scanned>,
    /// Collections whose catalog entry changed since the moment.
    pub changed: BTreeSet<Uuid>,
    /// Collections whose history the source no longer keeps.
    pub too_old: BTreeSet<Uuid>,
}

/// Why a collection could not be read as of a moment.
enum Lost {
    Changed,
    TooOld,
}

/// Reads collections.
pub struct Collector<'a> {
    source: &'a Source,
    job: &'a str,
    blocks: Arc<dyn BlockWrite>,
    salt: RepositorySalt,
    /// The moment; none to read what is there.
    at: Option<Ts>,
    figures: &'a Figures,
    /// One for each range being read and each tree being joined.
    permits: Semaphore,
}

impl<'a> Collector<'a> {
    /// One that puts blocks into `blocks`.
    pub fn new(
        (source, job): (&'a Source, &'a str),
        blocks: Arc<dyn BlockWrite>,
        salt: RepositorySalt,
        at: Option<Ts>,
        figures: &'a Figures,
    ) -> Self {
        let permits = Semaphore::new(UNITS_IN_FLIGHT);
        Self { source, job, blocks, salt, at, figures, permits }
    }

    /// Reads collections whole.
    ///
    /// # Errors
    /// Those of the source and of writing trees.
    pub async fn collect(&self, listed: Vec<Listed>) -> Result<Collected, Error> {
        self.figures.activity(Activity::Scanning);
        self.figures.expected(Expected {
            documents: listed.iter().map(|one| one.documents_estimate).sum(),
            bytes: listed.iter().map(|one| one.bytes_estimate).sum(),
            collections: listed.len() as u64,
            collections_done: 0,
        });
        let read = stream::iter(listed).map(async |one| {
            let uuid = one.uuid;
            Ok::<_, Error>((uuid, self.one(one).await?))
        });
        let mut read = read.buffer_unordered(UNITS_IN_FLIGHT);
        let mut collected = Collected::default();
        while let Some((uuid, one)) = read.try_next().await? {
            match one {
                Ok(scanned) => collected.scanned.push(scanned),
                Err(Lost::Changed) => drop(collected.changed.insert(uuid)),
                Err(Lost::TooOld) => drop(collected.too_old.insert(uuid)),
            }
        }
        Ok(collected)
    }

    async fn one(&self, listed: Listed) -> Result<Result<Scanned, Lost>, Error> {
        let shape = Shape::new(self.salt, order(listed.arrival), Content::Documents);
        let root = match self.read(&listed, &shape).await {
            Ok(root) => root,
            Err(Error::Source(source::Error::Dropped(_))) => return Ok(Err(Lost::Changed)),
            Err(Error::Source(source::Error::SnapshotGone { too_old, .. })) => {
                return Ok(Err(if too_old { Lost::TooOld } else { Lost::Changed }));
            }
            Err(error) => return Err(error),
        };
        Ok(Ok(Scanned {
            uuid: listed.uuid,
            ns: listed.ns,
            options: listed.options,
            indexes: listed.indexes,
            order: order(listed.arrival),
            root,
        }))
    }

    /// Reads all ranges of a collection and makes one tree of them.
    async fn read(&self, listed: &Listed, shape: &Shape) -> Result<Root, Error> {
        let ranges = self.source.split(listed, ranges_of(listed)).await?;
        let read = stream::iter(ranges).map(|range| self.range(listed, shape, range));
        let pieces: Vec<Vec<Root>> = read.buffered(UNITS_IN_FLIGHT).try_collect().await?;
        let _permit = self.permit().await;
        let (blocks, shape, arrival) = (self.blocks.clone(), shape.clone(), listed.arrival);
        let join = move || join(&*blocks, &shape, arrival, pieces.concat());
        blocking("verifier", self.job, join).await
    }

    async fn range(
        &self,
        listed: &Listed,
        shape: &Shape,
        range: Range,
    ) -> Result<Vec<Root>, Error> {
        let _permit = self.permit().await;
        let mut attempt = 0;
        loop {
            let (sender, mut reports) = mpsc::channel(REPORTS_WAITING);
            let scan = RangeScan {
                source: self.source.clone(),
                store: self.blocks.clone(),
                shape: shape.clone(),
                figures: self.figures.clone(),
                listed: listed.clone(),
                at: self.at,
                progress: RangeProgress::new(range.clone()),
                place: (0, 0),
                reports: sender,
            };
            let hear = async {
                let (mut pieces, mut restart) = (Vec::new(), None);
                while let Some(report) = reports.recv().await {
                    match report.news {
                        News::Pieces(now, _) => pieces = now,
                        News::Done => {}
                        News::Restart(error) => restart = Some(error),
                    }
                }
                (pieces, restart)
            };
            let (scanned, (pieces, restart)) = tokio::join!(scan.run(), hear);
            scanned?;
            let Some(error) = restart else {
                return Ok(pieces.into_iter().map(|piece| piece.root).collect());
            };
            attempt += 1;
            if attempt > RESTARTS_MAX {
                return Err(error.into());
            }
        }
    }

    async fn permit(&self) -> Option<tokio::sync::SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.permits.acquire().await.ok()
    }
}

/// Collections by UUID.
pub fn by_uuid<T>(all: Vec<T>, uuid: impl Fn(&T) -> Uuid) -> BTreeMap<Uuid, T> {
    all.into_iter().map(|one| (uuid(&one), one)).collect()
}
