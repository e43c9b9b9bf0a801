//! What the commands that look inside a backup share.

use std::io;
use std::sync::Arc;

use super::Error;
use super::args::ReadArgs;
use super::progress::RestoreWatch;
use crate::daemon::Signals;
use crate::inspect::{self, Id, Line};
use crate::oplog::OpTime;
use crate::restore::{At, Backup, Cancel, Progress, View};

/// A backup being read.
pub struct Reading {
    /// What is read.
    pub backup: Backup,
    /// Asks the work to stop.
    pub cancel: Cancel,
    watch: Arc<RestoreWatch>,
}

impl Reading {
    /// Opens the job at a point.
    pub fn view(&self, at: &At) -> Result<View, Error> {
        Ok(View::open(self.backup.clone(), at, &*self.watch, &self.cancel)?)
    }

    /// Tells every version of a document.
    pub fn log(
        &self,
        ns: &str,
        id: &Id,
        each: &mut dyn FnMut(Line<'_>) -> io::Result<()>,
    ) -> Result<(), Error> {
        Ok(inspect::log(&self.backup, ns, id, &*self.watch, &self.cancel, each)?)
    }

    /// Tells something beside the output.
    pub fn note(&self, text: &str) {
        self.watch.note(text);
    }

    /// Leaves the terminal to the output.
    pub fn begin_output(&self) {
        self.watch.stop();
    }
}

/// Opens a job and does blocking work on it, which a signal stops: scratch files go in any case.
pub async fn read<T: Send + 'static>(
    args: ReadArgs,
    work: impl FnOnce(&Reading) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let mut signals = Signals::listen()?;
    let (cancel, watch) = (Cancel::new(), Arc::new(RestoreWatch::new()));
    let asked = cancel.clone();
    let backup = args.open().await?;
    let mut working = tokio::task::spawn_blocking(move || {
        let reading = Reading { backup, cancel, watch };
        let outcome = work(&reading);
        reading.watch.stop();
        outcome
    });
    let lost = |source: tokio::task::JoinError| Error::Runtime { source: source.into() };
    tokio::select! {
        outcome = &mut working => outcome.map_err(lost)?,
        () = signals.stop() => {
            asked.cancel();
            working.await.map_err(lost)?
        }
    }
}

/// A point as `--json` prints it.
pub fn point(at: OpTime) -> String {
    format!("{{\"t\":{},\"i\":{}}}", at.ts.secs, at.ts.inc)
}
