//! `headstock rebuild`: a job from the blockstore, on an empty machine.

use std::sync::Arc;

use super::args::{BlockstoreArgs, StoreArgs};
use super::progress::RestoreWatch;
use super::{Error, Exit, output};
use crate::blockstore::Place;
use crate::daemon::Signals;
use crate::job::rebuild::{self, Report, Request};
use crate::restore::{At, Cancel};

const AFTER_HELP: &str = "\
The newest usable snapshot at or before POINT and the oplog slices after it are fetched from the blockstore, every block
checked against its name, and the slices are applied; the source is not needed. Then start the daemon on the store as usual:
it goes on after the last entry received, as long as the source's oplog reaches back so far.

Blocks that the store has already are not fetched. A rebuild that was interrupted goes on where it was when it is run again. If the
snapshot turns out to be damaged, the one before it is used, and told.

--json prints {job, base, passed_over, blocks, bytes, present, slices, snapshot}: the snapshot that it began with, newer ones
that could not be used and why, blocks fetched and their bytes, blocks that were there, slices applied, and the
snapshot of what came out, as `headstock snapshots` prints it.

EXAMPLES
  headstock rebuild --blockstore-file blockstore.uri --job rs0 --store /backup/rs0
  headstock rebuild --blockstore mongodb://b0,b1,b2/?replicaSet=bs --store /backup/rs0 --at 2026-03-01T12:30:00Z";

/// Rebuild a job from the blockstore, without its source
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    #[command(flatten)]
    blockstore: BlockstoreArgs,
    #[command(flatten)]
    store: StoreArgs,
    /// Name of the job; may be left out where the blockstore has one
    #[arg(long, value_name = "NAME")]
    job: Option<String>,
    /// The newest moment to take in, as `restore --at` takes it
    #[arg(long, value_name = "POINT", default_value = "latest")]
    at: At,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub async fn run(args: Args) -> Result<Exit, Error> {
    let mut signals = Signals::listen()?;
    let location = args.store.location()?;
    let uri = args.blockstore.uri()?.ok_or(Error::NoBlockstore)?;
    let request = Request {
        place: Place { uri, secret: location.secret.clone() },
        job: args.job,
        location,
        at: args.at,
    };
    let (cancel, watch) = (Cancel::new(), Arc::new(RestoreWatch::new()));
    let work = rebuild::rebuild(request, watch.clone(), cancel.clone());
    let report = signals.over(work, || cancel.cancel()).await;
    watch.stop();
    tell(&report?, args.json)?;
    Ok(Exit::Done)
}

fn tell(report: &Report, json: bool) -> Result<(), Error> {
    if json {
        return output::json(report);
    }
    output::line(&format!(
        "job {} rebuilt from snapshot {}: {} blocks fetched ({}), {} were here, {} oplog slices applied",
        report.job,
        report.base,
        report.blocks,
        output::bytes(report.bytes),
        report.present,
        report.slices,
    ))?;
    for passed_over in &report.passed_over {
        output::line(&format!("  passed over: {passed_over}"))?;
    }
    match &report.snapshot {
        Some(snapshot) => output::line(&format!(
            "  snapshot {} at {}: {} documents, {}",
            snapshot.id,
            snapshot.wall_time,
            snapshot.documents,
            output::bytes(snapshot.logical_bytes),
        )),
        None => Ok(()),
    }
}
