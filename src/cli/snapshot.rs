//! `headstock snapshot take|delete|keep`: asks the running daemon, or works alone.

use super::args::{From, JobArgs, ReadArgs};
use super::{Error, Exit, output};
use crate::blockstore::{Blockstore, Deletion};
use crate::daemon::{self, Answer, Request};

const AFTER_HELP: &str = "\
While a daemon runs on the store it does the work: a snapshot it takes has everything that was
majority-committed at the source when it was asked. Without a daemon a snapshot is taken of what the
store holds, without a connection to the source.
Deleting frees nothing by itself; `headstock compact` then removes what nothing else needs, and in a blockstore `headstock
groom`. With --blockstore the snapshot is removed there, by the job's daemon if it has one; the newest there always stays.

EXAMPLES
  headstock snapshot take --store /backup/rs0
  headstock snapshot keep --store /backup/rs0 1767225600.0000000012-5f3a
  headstock snapshot keep --store /backup/rs0 1767225600.0000000012-5f3a --release
  headstock snapshot delete --store /backup/rs0 1767225600.0000000012-5f3a
  headstock snapshot delete --blockstore-file blockstore.uri --job rs0 1767225600.0000000012-5f3a";

/// Take, delete or protect a snapshot
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Take a snapshot now
    Take {
        #[command(flatten)]
        job: JobArgs,
        /// Print it as JSON, as `headstock snapshots` does
        #[arg(long)]
        json: bool,
    },
    /// Delete a snapshot, of a store or of a blockstore
    Delete {
        #[command(flatten)]
        job: ReadArgs,
        /// The snapshot
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Protect a snapshot from deletion
    Keep {
        #[command(flatten)]
        job: JobArgs,
        /// The snapshot
        #[arg(value_name = "ID")]
        id: String,
        /// Take the protection away again
        #[arg(long)]
        release: bool,
    },
}

/// Runs the command.
pub async fn run(args: Args) -> Result<Exit, Error> {
    let (job, json, request) = match args.action {
        Action::Take { job, json } => {
            let request = Request::SnapshotTake { job: job.job.clone() };
            (job, json, request)
        }
        Action::Delete { job, id } => return delete(job, id).await,
        Action::Keep { job, id, release } => {
            let request = Request::SnapshotKeep { job: job.job.clone(), id, keep: !release };
            (job, false, request)
        }
    };
    tell(daemon::ask_or_do(&job.store.location()?, request).await?, json)?;
    Ok(Exit::Done)
}

async fn delete(job: ReadArgs, id: String) -> Result<Exit, Error> {
    match job.from()? {
        From::Store(location) => {
            let request = Request::SnapshotDelete { job: job.job, id };
            tell(daemon::ask_or_do(&location, request).await?, false)?;
        }
        From::Blockstore(place) => {
            let blockstore = Blockstore::open(&place).await?;
            match blockstore.delete_snapshot(job.job.as_deref(), &id).await? {
                Deletion::Done => output::line(&id)?,
                Deletion::Asked { host } => {
                    output::line(&format!("{id}: the job's daemon on {host} removes it"))?;
                }
                Deletion::Waits => {
                    output::line(&format!("{id}: it is being read, and removed later"))?;
                }
            }
        }
    }
    Ok(Exit::Done)
}

fn tell(answer: Answer, json: bool) -> Result<(), Error> {
    match answer {
        Answer::Snapshot(snapshot) if json => output::json(&*snapshot),
        Answer::Snapshot(snapshot) => output::line(&snapshot.id),
        other => Err(daemon::Error::unexpected(&other).into()),
    }
}
