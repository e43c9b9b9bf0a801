//! `headstock status`: what the store holds and what its daemon does.

use super::args::StoreArgs;
use super::{Error, Exit, output, points};
use crate::daemon;
use crate::job::{self, JobStatus, RemoteInfo, StoreStatus};

const AFTER_HELP: &str = "\
--json prints one object:
  store    {dir, commit, blocks, stored_bytes, dead_bytes, full, segments, checks}; dead_bytes are
           those of stored_bytes that nothing needed when the daemon last counted them, or null; full
           says whether the disk was when the daemon last stored something; checks are {oldest_check_ms,
           never_checked, damaged_segments}: when the segment whose check is the oldest was found sound
           (since 1970), those never checked, and those that were damaged when they were last
  daemon   whether a daemon runs on the store; its live figures are then in `jobs`
  jobs     array of {name, set_name, replica_set_id, server_version, fcv, phase, scan, head,
           received, lag_seconds, oplog_window_seconds, oplog_seconds_left, restorable, gaps,
           snapshots, slices, restore_window_seconds, include, exclude, stopped, remote}
    phase       scanning, catching-up or tailing
    scan        {documents, bytes, documents_estimate, bytes_estimate, collections,
                collections_done} while scanning, else null
    head        {t, i, term, wall_time} of the last entry that the head has durably, or null
    received    the same of the last durable oplog entry
    oplog_window_seconds  how far the source's oplog reaches back, as last seen, or null
    oplog_seconds_left    until that oplog will have run past the job if it stays where it is
    restorable  array of {from, to, limit}, as `headstock points` prints it
    gaps        array of {namespaces, after, until, reason, noticed_at}: what cannot be restored,
                and why; of all namespaces where none is named
    include     filters of what is backed up, empty for everything; exclude what of that is not
    stopped     why entries are stored but not applied, or null
    remote      {blockstore, trouble, passed_over, received, snapshots, newest_snapshot, snapshots_waiting,
                pushing, sent_bytes}: what is durable in the blockstore while the daemon pushes there, or null;
                received is the last entry pushed since the daemon started, pushing {id, blocks, blocks_sent,
                bytes_sent} of the snapshot on its way, trouble why nothing goes on, passed_over the snapshots that
                cannot be pushed since something in them cannot be read here

EXAMPLES
  headstock status --store /backup/rs0
  headstock status --store /backup/rs0 --json | jq '.jobs[].lag_seconds'";

/// Show the jobs of a store: how far they are, and what can be restored
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    #[command(flatten)]
    store: StoreArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub async fn run(args: Args) -> Result<Exit, Error> {
    let status = daemon::status(&args.store.location()?).await?;
    if args.json {
        output::json(&status)?;
    } else {
        print(&status)?;
    }
    Ok(Exit::Done)
}

fn print(status: &StoreStatus) -> Result<(), Error> {
    let store = &status.store;
    output::line(&format!(
        "store {}: {} in {} blocks, {} segments; {}",
        store.dir,
        output::bytes(store.stored_bytes),
        store.blocks,
        store.segments,
        if status.daemon { "a daemon is running" } else { "no daemon is running" },
    ))?;
    if let Some(dead) = store.dead_bytes {
        output::line(&format!("  dead       {}, as last counted", output::bytes(dead)))?;
    }
    if store.full {
        output::line(
            "  DISK FULL  nothing is stored until there is space; delete snapshots or compact",
        )?;
    }
    output::line(&format!("  checks     {}", output::coverage(&store.checks)))?;
    status.jobs.iter().try_for_each(print_job)
}

fn print_job(job: &JobStatus) -> Result<(), Error> {
    output::line(&format!(
        "job {}: {} of replica set {} ({}, MongoDB {})",
        job.name, job.phase, job.set_name, job.replica_set_id, job.server_version
    ))?;
    if let Some(filters) = output::filters(&job.include, &job.exclude) {
        output::line(&format!("  FILTERED   {filters}"))?;
    }
    if let Some(scan) = &job.scan {
        output::line(&format!(
            "  scanned    {} documents, {} of about {}; {} of {} collections done",
            scan.documents,
            output::bytes(scan.bytes),
            output::bytes(scan.bytes_estimate),
            scan.collections_done,
            scan.collections,
        ))?;
    }
    for (name, point) in [("head", &job.head), ("received", &job.received)] {
        if let Some(point) = point {
            output::line(&format!("  {name:<10} {} ({},{})", point.wall_time, point.t, point.i))?;
        }
    }
    if let (Some(lag), Some(window), Some(left)) =
        (job.lag_seconds, job.oplog_window_seconds, job.oplog_seconds_left)
    {
        let warning = if job::is_short(left, window) { "  WARNING: little is left" } else { "" };
        output::line(&format!(
            "  behind     {lag} s; the source's oplog holds {}, {} until it runs past{warning}",
            output::hours(window),
            output::hours(left),
        ))?;
    }
    for span in &job.restorable {
        let limit = span.limit.as_ref().map(|limit| format!(", {}", points::limit(limit)));
        output::line(&format!(
            "  restorable {} ({},{}) to {} ({},{}){}",
            span.from.wall_time,
            span.from.t,
            span.from.i,
            span.to.wall_time,
            span.to.t,
            span.to.i,
            limit.unwrap_or_default()
        ))?;
    }
    for gap in &job.gaps {
        let until = gap.until.as_ref().map_or("now", |until| &until.wall_time);
        let of = match &gap.namespaces[..] {
            [] => String::new(),
            some => format!("{}: ", some.join(", ")),
        };
        output::line(&format!(
            "  GAP        {} to {until}: {of}{}",
            gap.after.wall_time, gap.reason
        ))?;
    }
    output::line(&format!(
        "  kept       {} snapshots, {} oplog slices, window {} s",
        job.snapshots, job.slices, job.restore_window_seconds
    ))?;
    if let Some(remote) = &job.remote {
        print_remote(job, remote)?;
    }
    match &job.stopped {
        Some(reason) => output::line(&format!("  STOPPED    {reason}")),
        None => Ok(()),
    }
}

fn print_remote(job: &JobStatus, remote: &RemoteInfo) -> Result<(), Error> {
    let behind = job.received.as_ref().zip(remote.received.as_ref());
    let behind = behind.map_or(String::new(), |(here, there)| {
        format!(", oplog to {} ({} s behind)", there.wall_time, here.t.saturating_sub(there.t))
    });
    let name = if remote.blockstore.is_empty() { "blockstore" } else { &remote.blockstore };
    output::line(&format!(
        "  pushed     {name}: {} snapshots, {} waiting{behind}; {} sent",
        remote.snapshots,
        remote.snapshots_waiting,
        output::bytes(remote.sent_bytes),
    ))?;
    if let Some(pushing) = &remote.pushing {
        output::line(&format!(
            "  pushing    {}: {} blocks are there, {} of them sent ({})",
            pushing.id,
            pushing.blocks,
            pushing.blocks_sent,
            output::bytes(pushing.bytes_sent),
        ))?;
    }
    for why in &remote.passed_over {
        output::line(&format!("  NOT PUSHED {why}; see `headstock fsck`"))?;
    }
    match &remote.trouble {
        Some(trouble) => output::line(&format!("  NOT PUSHED {trouble}")),
        None => Ok(()),
    }
}
