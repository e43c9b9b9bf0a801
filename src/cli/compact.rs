//! `headstock compact`: remove what nothing reaches.

use super::args::StoreArgs;
use super::{Error, Exit, output};
use crate::daemon::{self, Answer, Request};

const AFTER_HELP: &str = "\
Blocks that no snapshot, head or kept oplog slice reaches any more are removed. Safe to interrupt,
safe beside restores; a running daemon is asked to do it.

--json prints one object:
  dry_run              whether it was only planned
  live_blocks          blocks that something needs, and live_bytes
  dead_blocks          blocks that nothing needs, and dead_bytes
  segments_removed     segment files that go
  segments_rewritten   segment files whose living blocks are copied to a new one
  stored_bytes_before  bytes of segment files before, and stored_bytes_after
  waiting_bytes        bytes of removed files that a restore or another reader still uses
  segments_damaged     segment files that stay because something needed in them cannot be read

Exit code 3 if there are such segments: run `headstock fsck`.

EXAMPLES
  headstock compact --store /backup/rs0 --dry-run
  headstock compact --store /backup/rs0";

/// Remove blocks that nothing needs any more
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    #[command(flatten)]
    store: StoreArgs,
    /// Only tell what would be removed
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub async fn run(args: Args) -> Result<Exit, Error> {
    let request = Request::Compact { dry_run: args.dry_run };
    let report = match daemon::ask_or_do(&args.store.location()?, request).await? {
        Answer::Compacted(report) => report,
        other => return Err(daemon::Error::unexpected(&other).into()),
    };
    if args.json {
        output::json(&report)?;
    } else {
        output::line(&format!(
            "{} blocks ({}) nothing needs, {} blocks ({}) are needed",
            report.dead_blocks,
            output::bytes(report.dead_bytes),
            report.live_blocks,
            output::bytes(report.live_bytes),
        ))?;
        output::line(&format!(
            "{} {} segments and {} {}; store {} -> {}",
            if report.dry_run { "would remove" } else { "removed" },
            report.segments_removed,
            if report.dry_run { "rewrite" } else { "rewrote" },
            report.segments_rewritten,
            output::bytes(report.stored_bytes_before),
            output::bytes(report.stored_bytes_after),
        ))?;
        if report.waiting_bytes > 0 {
            let waiting = output::bytes(report.waiting_bytes);
            output::line(&format!("{waiting} of that go when whoever reads them has ended"))?;
        }
        if report.segments_damaged > 0 {
            let damaged = report.segments_damaged;
            output::line(&format!(
                "{damaged} segments stay: they are damaged; run `headstock fsck`"
            ))?;
        }
    }
    Ok(if report.segments_damaged > 0 { Exit::Damage } else { Exit::Done })
}
