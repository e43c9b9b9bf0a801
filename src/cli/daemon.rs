//! `headstock daemon`: follow a source until told to stop.

use std::time::Duration;

use super::args::{self, FollowArgs};
use super::progress::Watch;
use super::{Error, Exit};
use crate::daemon::{self, Daemon, Scrub, Signals};

const AFTER_HELP: &str = "\
SIGTERM and SIGINT end the daemon cleanly: what it holds is written, and it exits with 0. Killed in
any other way it loses nothing either; it only has more to do at its next start.
While it runs, `headstock snapshot`, `status` and `compact` on its store are answered by it, through
the socket control.sock in the store's directory.

A member that falls more than 15 s behind the primary is not copied from until it has caught up,
unless another member can be read instead; a line in the log says so. --max-mbps makes copying gentler.

The store is checked in the background (--scrub-within, --scrub-mbps). Damage is an error in the log and stays
in `headstock status`; `headstock fsck` says what it costs.

EXAMPLES
  headstock daemon --source mongodb://db0,db1,db2/?replicaSet=rs0 --store /backup/rs0
  headstock daemon --source-file /etc/headstock/rs0.uri --store /backup/rs0 \\
      --snapshot-every 6h --restore-window 3d";

/// Follow a replica set continuously, taking snapshots at an interval, until SIGTERM
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    #[command(flatten)]
    follow: FollowArgs,
    /// Time between snapshots (10s, 15m, 6h, 1d)
    #[arg(long, value_name = "TIME", default_value = "6h", value_parser = args::duration)]
    snapshot_every: Duration,
    /// How far back any second can be restored (10s, 15m, 6h, 1d); older oplog is dropped
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = args::duration)]
    restore_window: Duration,
    /// Remove unreachable blocks when they are more than this share of the store, in percent, or the disk
    /// is full; 0 leaves that to `headstock compact`
    #[arg(long, value_name = "PERCENT", default_value_t = daemon::COMPACT_AT_PERCENT)]
    #[arg(value_parser = clap::value_parser!(u8).range(0..=100))]
    compact_at: u8,
    /// Time within which every file of blocks is read whole and checked, in the background (10s, 15m, 6h,
    /// 30d); 0s leaves that to `headstock fsck`
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = args::duration)]
    scrub_within: Duration,
    /// Megabytes (1,000,000 bytes) read per second for that, at most
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    scrub_mbps: u32,
}

/// Runs the command.
pub async fn run(args: Args) -> Result<Exit, Error> {
    let mut signals = Signals::listen()?;
    let scope = args.follow.scope()?;
    let store = args.follow.location()?;
    let options = daemon::Options {
        scope,
        push: args.follow.push.options(&store)?,
        store,
        job: args.follow.job,
        snapshot_every: args.snapshot_every,
        restore_window: args.restore_window,
        compact_at_percent: args.compact_at,
        scrub: Scrub {
            within: args.scrub_within,
            bytes_per_second: u64::from(args.scrub_mbps) * 1_000_000,
        },
        rescan: args.follow.rescan,
        heal: !args.follow.no_rescan,
        scan_bytes_per_second: args.follow.pace.bytes_per_second(),
    };
    let uri = args.follow.source.uri()?;
    let daemon = tokio::select! {
        daemon = Daemon::start(&uri, args.follow.source.read_from, options) => daemon?,
        () = signals.stop() => return Ok(Exit::Done),
    };
    let watch = Watch::start(daemon.figures());
    let outcome = daemon.run(signals).await;
    watch.stop();
    outcome?;
    Ok(Exit::Done)
}
