//! `headstock sync`: bring the head to the source's newest majority optime, snapshot, exit.

use std::sync::Arc;
use std::time::Duration;

use super::args::{self, FollowArgs};
use super::progress::Watch;
use super::{Error, Exit, output};
use crate::daemon::{self, Answers, Signals};
use crate::job::{self, Follow, FollowOptions, Job};
use crate::source::Source;

const AFTER_HELP: &str = "\
The first sync of a job copies every collection while it follows the oplog; each later one applies
what happened since. Interrupted at any moment, the next sync goes on where the last stopped.

A member that falls more than 15 s behind the primary is not copied from until it has caught up,
unless another member can be read instead; a line in the log says so. --max-mbps makes copying gentler.

EXAMPLES
  headstock sync --source mongodb://db0,db1,db2/?replicaSet=rs0 --store /backup/rs0
  headstock sync --source mongodb://db0,db1,db2/?replicaSet=rs0 --store /backup/rs0 --max-mbps 20
  headstock sync --source-file rs0.uri --store /backup/rs0 --blockstore-file blockstore.uri
  HEADSTOCK_SOURCE=mongodb://backup:PASSWORD@db0/ headstock sync --store /backup/rs0 --job orders";

/// How long a blockstore may do nothing before the sync ends without it: longer than an election or a restart, and than the lease of a
/// daemon that died.
const PUSH_PATIENCE: Duration = Duration::from_secs(90);

/// Back up a replica set once: bring the store to its newest majority-committed state, take a
/// snapshot, exit
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    #[command(flatten)]
    follow: FollowArgs,
    /// Oplog to keep for restores to any second (10s, 15m, 6h, 1d); as before unless given, 1d at
    /// first
    #[arg(long, value_name = "TIME", value_parser = args::duration)]
    restore_window: Option<std::time::Duration>,
    /// The source has another history than the job holds, because it was restored or initiated anew:
    /// go on with it. Restore points of the old one stay, and unchanged data is not stored again
    #[arg(long, conflicts_with_all = ["no_rescan", "rescan"])]
    new_timeline: bool,
}

/// Runs the command.
pub async fn run(args: Args) -> Result<Exit, Error> {
    let mut signals = Signals::listen()?;
    let follow = tokio::select! {
        follow = start(&args) => Arc::new(follow?),
        () = signals.stop() => return Err(daemon::Error::Interrupted.into()),
    };
    let answers = Answers::start(&args.follow.store.store, follow.clone(), false)?;
    let watch = Watch::start(follow.figures());
    let work = async {
        let snapshot = follow.snapshot().await?;
        follow.wait_until_pushed(&snapshot.id, PUSH_PATIENCE).await?;
        Ok(snapshot)
    };
    let outcome = tokio::select! {
        outcome = work => outcome.map_err(Error::Job),
        () = signals.stop() => Err(daemon::Error::Interrupted.into()),
    };
    follow.job().store().stop_compactions();
    answers.stop().await;
    let stopped = follow.stop().await;
    watch.stop();
    let snapshot = outcome?;
    stopped?;
    output::line(&format!(
        "snapshot {} of job {} at {}: {} documents, {} ({} added to the store)",
        snapshot.id,
        snapshot.job,
        snapshot.wall_time,
        snapshot.documents,
        output::bytes(snapshot.logical_bytes),
        output::bytes(snapshot.added_bytes),
    ))?;
    Ok(Exit::Done)
}

async fn start(args: &Args) -> Result<Follow, Error> {
    let (store, name) = (args.follow.location()?, args.follow.job.as_deref());
    let source =
        Source::connect(&args.follow.source.uri()?, args.follow.source.read_from.clone()).await?;
    if let Some(limit) = args.follow.pace.bytes_per_second() {
        source.limit_scans(limit);
    }
    let push = args.follow.push.options(&store)?;
    if let Some(push) = &push {
        job::prepare_store(&store, push).await?;
    }
    let job = Job::open_or_create(store, name, &source, args.new_timeline).await?;
    let options = FollowOptions {
        restore_window: args.restore_window,
        scope: args.follow.scope()?,
        rescan: args.follow.rescan,
        new_timeline: args.new_timeline,
        heal: !args.follow.no_rescan,
        patient: false,
        push,
    };
    Ok(Follow::start(job, source, options).await?)
}
