//! `headstock points`: to which moments a job can be restored.

use super::args::{From, ReadArgs};
use super::{Error, Exit, output};
use crate::job::{self, JobPoints, LimitInfo, PointInfo};

const AFTER_HELP: &str = "\
Every timestamp from FROM to TO, both included, can be given to `restore --at`; one between two oplog
entries means the earlier of them. Between two lines of a job nothing can be restored.

A line ends with the last entry of an unbroken run, or just below what LIMIT names: a transaction that
was prepared there and is undecided as far as the oplog is held, an entry that this version does not
understand, a part of the oplog that cannot be read, or a gap that `headstock status` explains.

--json prints an array of {job, restorable, stopped}, by job:
  restorable  array of {from, to, limit}, oldest first
    from, to    {t, i, term, wall_time}; t and i are SECS and INC of `--at SECS,INC`
    limit       null, or {reason, t, i}: undecided, unknown, unreadable or gap, and where
  stopped     why entries are stored but not applied, or null

EXAMPLES
  headstock points --store /backup/rs0
  headstock points --store /backup/rs0 --job rs0 --json | jq -r '.[0].restorable[-1].to.wall_time'";

/// Show the exact ranges of time to which the jobs of a store can be restored
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    #[command(flatten)]
    job: ReadArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub async fn run(args: Args) -> Result<Exit, Error> {
    let name = args.job.job.as_deref();
    let points = match args.job.from()? {
        From::Store(location) => tokio::task::block_in_place(|| job::points(location, name))?,
        From::Blockstore(place) => job::remote_points(&place, name).await?,
    };
    if args.json {
        output::json(&points)?;
    } else {
        print(&points)?;
    }
    Ok(Exit::Done)
}

fn print(points: &[JobPoints]) -> Result<(), Error> {
    const HEADINGS: [&str; 6] = ["JOB", "FROM", "", "TO", "", "LIMIT"];
    let optime = |point: &PointInfo| format!("{},{}", point.t, point.i);
    let mut rows = Vec::new();
    for of in points {
        rows.extend(of.restorable.iter().map(|span| {
            vec![
                of.job.clone(),
                span.from.wall_time.clone(),
                optime(&span.from),
                span.to.wall_time.clone(),
                optime(&span.to),
                span.limit.as_ref().map(limit).unwrap_or_default(),
            ]
        }));
    }
    output::table(&HEADINGS, &rows, HEADINGS.len())?;
    for of in points {
        if of.restorable.is_empty() {
            output::line(&format!("job {} has no restore point yet", of.job))?;
        }
        if let Some(reason) = &of.stopped {
            output::line(&format!("job {} has STOPPED applying: {reason}", of.job))?;
        }
    }
    Ok(())
}

/// What ends a span, in a few words.
pub(super) fn limit(limit: &LimitInfo) -> String {
    format!("{} at {},{}", limit.reason, limit.t, limit.i)
}
