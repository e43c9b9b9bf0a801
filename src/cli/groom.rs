//! `headstock groom`: remove what nothing in the blockstore reaches.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::args::{BlockstoreArgs, KeyArgs};
use super::progress::Groom;
use super::{Error, Exit, output};
use crate::blockstore::{Blockstore, GroomReport, GroomRequest};
use crate::daemon::Signals;

const AFTER_HELP: &str = "\
Snapshots and slices that were removed leave blocks behind that nothing reaches. This removes them, while daemons push and others
restore and rebuild: it may be run at any time and on any machine, several at once too. It waits for pushes that
began before it, marks what is reached, in files of 40 bytes a block (--marks), and removes the rest. Interrupted, it
goes on where it was when it is run again with the same --marks.

--dry-run removes nothing and waits for nobody; what pushes have sent that are under way counts as dead in it.

--json prints {dry_run, generation, live_blocks, live_bytes, dead_blocks, dead_bytes, removed_blocks, jobs}; jobs is an array of
{job, live_bytes, own_bytes}: stored bytes that the job reaches, and of these those that no other job does.

EXAMPLES
  headstock groom --blockstore-file blockstore.uri --dry-run
  headstock groom --blockstore mongodb://b0,b1,b2/?replicaSet=bs --marks /var/lib/headstock/marks";

/// Remove blocks of the blockstore that nothing reaches any more
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    #[command(flatten)]
    blockstore: BlockstoreArgs,
    #[command(flatten)]
    key: KeyArgs,
    /// Directory for what is marked; one of the system's unless given
    #[arg(long, value_name = "DIR")]
    marks: Option<PathBuf>,
    /// Tell what would go, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub async fn run(args: Args) -> Result<Exit, Error> {
    let mut signals = Signals::listen()?;
    let place = args.key.place(args.blockstore.uri()?.ok_or(Error::NoBlockstore)?)?;
    let stopped = Arc::new(AtomicBool::new(false));
    let watch = Arc::new(Groom::new(stopped.clone()));
    let user = rustix::process::geteuid().as_raw();
    let usual = || std::env::temp_dir().join(format!("headstock-marks-{user}"));
    let marks = args.marks.unwrap_or_else(usual);
    let request = GroomRequest { dry_run: args.dry_run, marks };
    let work = async {
        let blockstore = Blockstore::open(&place).await?;
        blockstore.groom(request, watch.clone()).await
    };
    let report = signals.over(work, || stopped.store(true, Ordering::Relaxed)).await;
    watch.stop();
    tell(&report?, args.json)?;
    Ok(Exit::Done)
}

fn tell(report: &GroomReport, json: bool) -> Result<(), Error> {
    if json {
        return output::json(report);
    }
    for job in &report.jobs {
        output::line(&format!(
            "job {}: {} alive, {} of them its own",
            job.job,
            output::bytes(job.live_bytes),
            output::bytes(job.own_bytes),
        ))?;
    }
    let removed = if report.dry_run {
        "nothing removed (dry run)".to_owned()
    } else {
        format!("{} removed", report.removed_blocks)
    };
    output::line(&format!(
        "alive: {} blocks, {}; dead: {} blocks, {}; {removed}",
        report.live_blocks,
        output::bytes(report.live_bytes),
        report.dead_blocks,
        output::bytes(report.dead_bytes),
    ))
}
