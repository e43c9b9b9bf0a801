//! Asking the daemon of a store, or doing it here where none runs.

use std::path::Path;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use super::{Answer, Error, Request, control, socket};
use crate::job::{self, StoreStatus};
use crate::store::Location;

/// Bytes of the longest answer: the status of a store with thousands of jobs.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// Asks the daemon that runs on a store. Where none runs, opens the store for writing and does it.
///
/// # Errors
/// [`Error::Refused`], [`Error::Failed`], [`Error::Talk`], and those of doing it here.
pub async fn ask_or_do(store: &Location, request: Request) -> Result<Answer, Error> {
    let answer = match ask(&store.dir, &request).await? {
        Some(answer) => answer,
        None => {
            let store = store.clone();
            let work = move || control::alone(&store, request);
            let lost = |_| Error::Failed("the worker ended without a result".to_owned());
            tokio::task::spawn_blocking(work).await.map_err(lost)??
        }
    };
    match answer {
        Answer::Refused(why) if why.refused => Err(Error::Refused(why.text)),
        Answer::Refused(why) => Err(Error::Failed(why.text)),
        answer => Ok(answer),
    }
}

/// How a store stands: by its daemon's live figures, or by reading it.
///
/// # Errors
/// Those of reading the store.
pub async fn status(store: &Location) -> Result<StoreStatus, Error> {
    match ask(&store.dir, &Request::Status).await? {
        Some(Answer::Status(status)) => Ok(*status),
        Some(other) => Err(Error::unexpected(&other)),
        None => Ok(tokio::task::block_in_place(|| job::status(store))?),
    }
}

async fn ask(store: &Path, request: &Request) -> Result<Option<Answer>, Error> {
    let Some(mut stream) = socket::connect(store).await? else { return Ok(None) };
    let talk = |source| Error::Talk { path: socket::path(store), source };
    let mut line = serde_json::to_string(request).map_err(|error| talk(error.into()))?;
    line.push('\n');
    stream.write_all(line.as_bytes()).await.map_err(talk)?;
    let mut answer = String::new();
    let mut reader = BufReader::new(stream.take(ANSWER_BYTES_MAX));
    reader.read_line(&mut answer).await.map_err(talk)?;
    match serde_json::from_str(&answer) {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if answer.is_empty() => Err(talk(error.into())),
        Err(_) => Err(Error::Protocol { wanted: "JSON", got: answer }),
    }
}
