//! Answering over the control socket.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::task::{JoinHandle, JoinSet};

use super::protocol::{Answer, Request};
use super::socket::{self, Listening};
use super::{Error, control};
use crate::job::{self, Follow, Job, StoreStatus};
use crate::store::compact;

/// Bytes of the longest request.
const REQUEST_BYTES_MAX: u64 = 64 << 10;
/// Conversations at a time; more wait to be accepted.
const CONVERSATIONS_MAX: usize = 16;
/// Pause after a connection could not be accepted, so that a lasting reason does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Answers over the control socket of a store while it lives.
pub struct Answers {
    task: JoinHandle<()>,
}

impl Answers {
    /// Starts to answer for a job that is followed. `daemon`: whether it is followed for ever.
    ///
    /// # Errors
    /// [`Error::Bind`].
    pub fn start(store: &Path, follow: Arc<Follow>, daemon: bool) -> Result<Self, Error> {
        let listening = socket::bind(store)?;
        let desk = Arc::new(Desk { follow, daemon });
        Ok(Self { task: tokio::spawn(async move { run(&listening, desk).await }) })
    }

    /// Stops answering, conversations included, and removes the socket.
    pub async fn stop(mut self) {
        self.task.abort();
        // It ends by being cancelled; there is nothing to learn from it.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What conversations are about.
struct Desk {
    follow: Arc<Follow>,
    daemon: bool,
}

async fn run(listening: &Listening, desk: Arc<Desk>) {
    let mut conversations = JoinSet::new();
    loop {
        while conversations.len() >= CONVERSATIONS_MAX {
            conversations.join_next().await;
        }
        tokio::select! {
            Some(_) = conversations.join_next() => {}
            accepted = listening.listener.accept() => match accepted {
                Ok((stream, _)) => {
                    conversations.spawn(converse(stream, desk.clone()));
                }
                Err(error) => {
                    tracing::warn!("control socket: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

/// One request, one answer.
async fn converse(mut stream: UnixStream, desk: Arc<Desk>) {
    let (reading, mut writing) = stream.split();
    let mut line = String::new();
    let read = BufReader::new(reading.take(REQUEST_BYTES_MAX)).read_line(&mut line).await;
    let answer = match read.map(|_| serde_json::from_str::<Request>(&line)) {
        Ok(Ok(request)) => {
            let done = execute(request, &desk).await;
            done.unwrap_or_else(|error| control::refusal(&error))
        }
        Ok(Err(error)) => {
            let got = error.to_string();
            control::refusal(&Error::Protocol { wanted: "a request", got })
        }
        Err(_) => return,
    };
    let mut text = match serde_json::to_string(&answer) {
        Ok(text) => text,
        Err(error) => return tracing::warn!("control socket: {error}"),
    };
    text.push('\n');
    if let Err(error) = writing.write_all(text.as_bytes()).await {
        tracing::debug!("control socket: who asked has gone: {error}");
    }
}

async fn execute(request: Request, desk: &Arc<Desk>) -> Result<Answer, Error> {
    let follow = &desk.follow;
    match request {
        Request::SnapshotTake { job } => {
            let job = chosen(follow, job.as_deref())?;
            if !follow.has_head() {
                return Err(job::Error::NotConsistent { job: job.name().to_owned() }.into());
            }
            Ok(Answer::Snapshot(Box::new(follow.snapshot().await?)))
        }
        Request::SnapshotDelete { job, id } => {
            let job = chosen(follow, job.as_deref())?;
            blocking(move || control::delete(&job, &id)).await
        }
        Request::SnapshotKeep { job, id, keep } => {
            let job = chosen(follow, job.as_deref())?;
            blocking(move || control::change_keep(&job, &id, keep)).await
        }
        Request::Status => {
            let desk = desk.clone();
            blocking(move || Ok(Answer::Status(Box::new(status(&desk)?)))).await
        }
        Request::Compact { dry_run } => {
            let job = follow.job();
            // A scan's session lasts as long as the scan, unless the disk is full.
            if !follow.has_head() && !job.store().is_full() {
                return Err(job::Error::NotConsistent { job: job.name().to_owned() }.into());
            }
            let store = job.store().clone();
            let settings = compact::Settings::thorough();
            let work = move || control::compact(&store, dry_run, settings).map(Answer::Compacted);
            blocking(work).await
        }
    }
}

/// The job a request is about; the daemon runs one.
fn chosen(follow: &Follow, name: Option<&str>) -> Result<Job, Error> {
    let job = follow.job();
    if name.is_none_or(|name| name == job.name()) {
        return Ok(job.clone());
    }
    Ok(Job::open(job.store().clone(), name)?)
}

/// How the store stands, with what is known of the running job beyond its committed state.
fn status(desk: &Desk) -> Result<StoreStatus, Error> {
    let follow = &desk.follow;
    let mut status = job::status_of(follow.job().store())?;
    status.daemon = desk.daemon;
    let seen = follow.figures().seen();
    for job in &mut status.jobs {
        if job.name == follow.job().name() {
            job.add_live(&seen);
            job.remote = follow.remote();
        }
    }
    Ok(status)
}

async fn blocking(
    work: impl FnOnce() -> Result<Answer, Error> + Send + 'static,
) -> Result<Answer, Error> {
    let lost = |_| Error::Failed("the worker ended without a result".to_owned());
    tokio::task::spawn_blocking(work).await.map_err(lost)?
}
