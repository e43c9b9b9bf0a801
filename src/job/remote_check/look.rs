//! Looking at the blocks of a job.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Code, Depth, Finding, Report, Settings};
use crate::block::{self, BlockId};
use crate::blockstore::{self, Found, Reader, lacking};
use crate::head::Manifest;
use crate::job::remote::RemoteJob;
use crate::job::{Error, blocking};
use crate::oplog::slice::Slice;
use crate::store::StoredBlock;
use crate::tree;

/// Blocks looked at together.
const TOGETHER: usize = 256;
/// Batches under way at a time.
const WORKERS: usize = 4;

/// Some blocks of a snapshot or slice.
struct Batch {
    of: Arc<str>,
    ids: Vec<BlockId>,
}

/// What the walk and the tasks tell.
enum Told {
    Looked { blocks: u64, bytes: u64 },
    Found { of: Arc<str>, code: Code, what: String, block: BlockId },
}

/// Looks through a job.
pub(super) async fn look(
    job: RemoteJob,
    settings: &Settings,
    report: &mut Report,
    on_progress: &Arc<dyn Fn(&Report) + Send + Sync>,
) -> Result<(), Error> {
    let RemoteJob { reader, state, snapshots, slices, .. } = job;
    let (batches, waiting) = mpsc::channel::<Batch>(WORKERS);
    let (tell, mut told) = mpsc::channel::<Told>(TOGETHER);
    let mut tasks = JoinSet::new();
    let waiting = Arc::new(tokio::sync::Mutex::new(waiting));
    for _ in 0..WORKERS {
        let (reader, waiting, tell) = (reader.clone(), waiting.clone(), tell.clone());
        let settings = settings.clone();
        tasks.spawn(async move {
            let mut dictionaries = HashMap::new();
            loop {
                let batch = waiting.lock().await.recv().await;
                let Some(batch) = batch else { return Ok(()) };
                look_at(&reader, &settings, batch, &mut dictionaries, &tell).await?;
            }
        });
    }
    drop(waiting);
    let walker = reader.clone();
    tasks.spawn(async move {
        blocking("check", "the job", move || walk(&walker, &snapshots, &slices, &batches, &tell))
            .await
    });
    while let Some(news) = told.recv().await {
        match news {
            Told::Looked { blocks, bytes } => {
                report.blocks += blocks;
                report.bytes += bytes;
                on_progress(report);
            }
            Told::Found { of, code, what, block } => report.add(Finding {
                code,
                what,
                job: state.name.clone(),
                of: of.to_string(),
                block: Some(block),
            }),
        }
    }
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|_| blockstore::Error::WorkerLost)??;
    }
    // What was missed counts only if the pins held to the end.
    reader.check().await?;
    Ok(())
}

/// Hands out what snapshots reach, of each what the one before it has not, and what slices name.
fn walk(
    reader: &Reader,
    snapshots: &[Manifest],
    slices: &[Slice],
    batches: &mpsc::Sender<Batch>,
    tell: &mpsc::Sender<Told>,
) -> Result<(), Error> {
    let mut before = None;
    for snapshot in snapshots {
        let mut out =
            Out { of: format!("snapshot {}", snapshot.id).into(), ids: Vec::new(), batches };
        let walked = lacking(reader, &snapshot.head, before, &mut |id| out.push(id));
        out.send()?;
        before = Some(&snapshot.head);
        if let Err(error) = walked {
            let (code, what, block) = hidden(error)?;
            let told = Told::Found { of: out.of.clone(), code, what, block };
            tell.blocking_send(told).map_err(|_| blockstore::Error::WorkerLost)?;
            // What it has below that block is not known to have been looked at.
            before = None;
        }
    }
    for slice in slices {
        let of = format!("slice {}", slice.header.first.optime.ts);
        let mut out = Out { of: of.into(), ids: slice.pieces.clone(), batches };
        out.send()?;
    }
    Ok(())
}

/// The block that a walk did not get past.
fn hidden(error: blockstore::Error) -> Result<(Code, String, BlockId), Error> {
    use crate::head::Error as Head;
    use blockstore::Error as Remote;
    let what = format!("{error}; what is below it was not looked at");
    let block = match &error {
        Remote::Block(error)
        | Remote::Tree(tree::Error::Block(error))
        | Remote::Head(Head::Block(error) | Head::Tree(tree::Error::Block(error))) => error,
        Remote::Tree(tree::Error::Malformed { id, .. })
        | Remote::Head(Head::Tree(tree::Error::Malformed { id, .. })) => {
            return Ok((Code::Damaged, what, *id));
        }
        _ => return Err(error.into()),
    };
    match block {
        block::Error::Missing { id } => Ok((Code::Missing, what, *id)),
        block::Error::Damaged { id, .. } => Ok((Code::Damaged, what, *id)),
        _ => Err(error.into()),
    }
}

/// Blocks on their way to who looks at them.
struct Out<'a> {
    of: Arc<str>,
    ids: Vec<BlockId>,
    batches: &'a mpsc::Sender<Batch>,
}

impl Out<'_> {
    fn push(&mut self, id: BlockId) -> Result<(), blockstore::Error> {
        self.ids.push(id);
        if self.ids.len() == TOGETHER { self.send() } else { Ok(()) }
    }

    fn send(&mut self) -> Result<(), blockstore::Error> {
        if self.ids.is_empty() {
            return Ok(());
        }
        let batch = Batch { of: self.of.clone(), ids: std::mem::take(&mut self.ids) };
        self.batches.blocking_send(batch).map_err(|_| blockstore::Error::WorkerLost)
    }
}

/// What is wrong with a block, if something is: where its dictionary is the trouble, with that one, whose every user cannot be read.
async fn trouble(
    reader: &Reader,
    stored: &StoredBlock,
) -> Result<Option<(Code, String, BlockId)>, Error> {
    if let Some(used) = stored.dictionary {
        match reader.dictionary(&used).await {
            Ok(Some(_)) => {}
            Ok(None) => {
                let what = format!("block {} needs dictionary {used}, which is missing", stored.id);
                return Ok(Some((Code::Dictionary, what, stored.id)));
            }
            Err(blockstore::Error::Block(error)) => {
                let what = format!("{error}; it is the dictionary of other blocks");
                return Ok(Some((Code::Damaged, what, used)));
            }
            Err(error) => return Err(error.into()),
        }
    }
    match reader.open(stored).await {
        Ok(()) => Ok(None),
        Err(blockstore::Error::Block(error)) => {
            Ok(Some((Code::Damaged, error.to_string(), stored.id)))
        }
        Err(error) => Err(error.into()),
    }
}

/// Looks at some blocks. `dictionaries`: whether those that were met are there.
async fn look_at(
    reader: &Reader,
    settings: &Settings,
    Batch { of, mut ids }: Batch,
    dictionaries: &mut HashMap<BlockId, bool>,
    tell: &mpsc::Sender<Told>,
) -> Result<(), Error> {
    ids.sort_unstable();
    ids.dedup();
    let mut news = vec![];
    let (mut bytes, mut there) = (0, HashSet::new());
    if settings.depth == Depth::Data {
        let mut open = ids.clone();
        while !open.is_empty() {
            let some = reader.some_stored(&open).await?;
            let read = some.iter().map(|stored| stored.bytes.len() as u64).sum();
            if some.is_empty() {
                break;
            }
            for stored in some {
                there.insert(stored.id);
                if let Some((code, what, block)) = trouble(reader, &stored).await? {
                    news.push(Told::Found { of: of.clone(), code, what, block });
                }
            }
            open.retain(|id| !there.contains(id));
            bytes += read;
            settings.pace.wait(read).await;
        }
    } else {
        for Found { id, dictionary } in reader.present(&ids).await? {
            there.insert(id);
            let Some(used) = dictionary else { continue };
            let known = match dictionaries.get(&used) {
                Some(known) => *known,
                None => !reader.present(&[used]).await?.is_empty(),
            };
            dictionaries.insert(used, known);
            if !known {
                let what = format!("block {id} is stored with dictionary {used}, which is missing");
                news.push(Told::Found { of: of.clone(), code: Code::Dictionary, what, block: id });
            }
        }
    }
    for id in ids.iter().filter(|id| !there.contains(id)) {
        let what = format!("block {id} is missing");
        news.push(Told::Found { of: of.clone(), code: Code::Missing, what, block: *id });
    }
    news.push(Told::Looked { blocks: ids.len() as u64, bytes });
    for one in news {
        tell.send(one).await.map_err(|_| blockstore::Error::WorkerLost)?;
    }
    Ok(())
}
