//! `headstock restore`: plan, tell the plan, then do it.

use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::args::ReadArgs;
use super::progress::RestoreWatch;
use super::{Error, Exit, output};
use crate::daemon::Signals;
use crate::job::rewind::{self, Rewind};
use crate::restore::{self, At, Cancel, Existing, Filter, Report, Request, RewindRequest, Target};

const AFTER_HELP: &str = "\
POINTS IN TIME (--at)
  latest                the newest point that is restorable
  1767225600.0000000012-5f3a    a snapshot, by its id
  2026-03-01T12:30:00Z  everything stamped in that second or before it; a fraction of a second or a
                        missing zone is refused
  1767225600,12         everything stamped at or before it: that oplog entry, or if there is none the
                        last before it; a transaction is in as a whole or not at all
`headstock points` prints which there are; any other is refused, and the nearest are named.

TARGETS (--to)
  mongodb://...   a running replica set or stand-alone server
  dump:DIR        a directory as mongodump writes it
  archive:FILE    a file as mongodump --archive writes it
  dbpath:DIR      a data directory that a mongod opens at once

Everything is planned and checked before the target is touched; --dry-run stops there. Without
--drop a namespace that exists at the target is an error. A restore that was interrupted leaves a
marker at the target; run it again.

REWIND (--rewind)
The target is the job's own source, and what differs between the point and now is written over it:
documents deleted, replaced and inserted by _id, validators and ages set, indexes dropped and built,
collections renamed, dropped and made. What is equal is not touched, and the source is not read but
for its oplog. A collection is written whole only if it was dropped, or is capped and differs, or has
an option that can only be given when it is made. Refused unless the target is the job's replica set
and its oplog goes on from the last entry that the job holds; a point after that entry needs a sync
first. Refused, too, for a job with --include or --exclude, now or at the point: what it does not hold
cannot be told from what was made since. Restore what is wanted of it with --ns NS --drop instead.
Works beside a running daemon. The job follows what a rewind writes like any other write, so every point stays: a rewind is
undone by a rewind to a point before it. One that was interrupted (SIGTERM, crash) leaves the target
between both moments; run it again, and it finds and writes what is left. Applications should not
write meanwhile: what they write may be lost, or differ from the point; at the end source and point
are compared, and what differs is printed. The user needs the role
that `headstock check-access --print-role rewind` prints.

--rewind --json prints (with --dry-run only what is in plan):
  plan       {job, repository, point, now, target, namespaces, added, changed, removed, bytes, users,
             roles, blocks, warnings}; namespaces is an array of {ns, kind, action, renamed_from,
             reason, added, changed, removed, bytes, sets_options, drops_indexes, builds_indexes}, action
             is drop, create, recreate or change; bytes are those of the documents to be written
  written    {deleted, replaced, inserted, bytes, indexes}
  elapsed_ms
  compared   {t, i, time}: the moment of the source that was compared with the point at the end
  equal      whether it was as at the point
  differs    what was not, as in namespaces

EXIT CODES
  0  restored and compared equal
  1  failed
  2  wrong usage
  3  rewound, but the source differs from the point again: others write to it, or documents expire
  4  refused: the plan found a reason not to start, and nothing was touched

EXAMPLES
  headstock restore --store /backup/rs0 --to mongodb://spare:27017 --dry-run
  headstock restore --store /backup/rs0 --at 2026-03-01T12:30:00Z --ns shop.orders --drop \\
      --to mongodb://db0,db1,db2/?replicaSet=rs0
  headstock restore --store /backup/rs0 --at 1767225600,12 --to dbpath:/var/lib/mongo-restored
  headstock restore --store /backup/rs0 --rewind --at 2026-03-01T12:30:00Z --ns shop --dry-run \\
      --to mongodb://db0,db1,db2/?replicaSet=rs0";

/// Restore a replica set, or some of its namespaces, as it was at a chosen moment
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    #[command(flatten)]
    job: ReadArgs,
    /// Point in time: latest, a snapshot, an RFC 3339 time, or SECS,INC [default: latest]
    #[arg(long, value_name = "POINT")]
    at: Option<At>,
    /// Only this database or collection; may be given several times
    #[arg(long, value_name = "DB[.COLL]")]
    ns: Vec<Filter>,
    /// Replace namespaces that exist at the target
    #[arg(long, conflicts_with = "exact")]
    drop: bool,
    /// As --drop, and remove namespaces that the backup lacks
    #[arg(long)]
    exact: bool,
    /// Bring the job's own source back to the point by writing only what differs
    #[arg(long, conflicts_with_all = ["drop", "exact", "mongod"], requires = "at")]
    rewind: bool,
    /// Plan and check only
    #[arg(long)]
    dry_run: bool,
    /// Do not read and hash every needed block before starting (for files, that is done while they are written)
    #[arg(long)]
    trust: bool,
    /// The mongod that builds a data directory; else $MONGOD, else the one on PATH
    #[arg(long, value_name = "FILE")]
    mongod: Option<PathBuf>,
    /// Where to (a connection string with a password: use the environment)
    #[arg(long, value_name = "TARGET", env = "HEADSTOCK_TARGET", hide_env_values = true)]
    to: Target,
    /// Print the plan (--dry-run) or the report as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub async fn run(args: Args) -> Result<Exit, Error> {
    if args.rewind {
        return rewind(args).await;
    }
    let mut signals = Signals::listen()?;
    let backup = args.job.open().await?;
    let request = Request {
        at: args.at.unwrap_or(At::Latest),
        namespaces: args.ns,
        existing: match (args.drop, args.exact) {
            (_, true) => Existing::Exact,
            (true, _) => Existing::Drop,
            _ => Existing::Refuse,
        },
        trust: args.trust,
        only_plan: args.dry_run,
        target: args.to,
        mongod: args.mongod,
    };
    let cancel = Cancel::new();
    let watch = Arc::new(RestoreWatch::new());
    let work = async {
        let restore = restore::prepare(backup, request, watch.clone(), cancel.clone())
            .await
            .map_err(|source| Error::Plan { source })?;
        if args.dry_run {
            watch.stop();
            return tell_plan(restore.plan(), args.json);
        }
        if !args.json {
            watch.suspend(|| tell_plan(restore.plan(), false))?;
        }
        let report = restore.execute().await?;
        watch.stop();
        tell_report(&report, args.json)
    };
    signals.over(work, || cancel.cancel()).await?;
    Ok(Exit::Done)
}

/// Runs the command with `--rewind`.
async fn rewind(args: Args) -> Result<Exit, Error> {
    let Target::Live(target) = args.to else {
        return Err(Error::RewindTarget { target: args.to.to_string() });
    };
    let mut signals = Signals::listen()?;
    let request = rewind::Request {
        store: args.job.location()?,
        job: args.job.job,
        rewind: RewindRequest {
            at: args.at.unwrap_or(At::Latest),
            namespaces: args.ns,
            trust: args.trust,
            target,
        },
    };
    let (cancel, watch) = (Cancel::new(), Arc::new(RestoreWatch::new()));
    let work = async {
        let rewind = Rewind::prepare(request, watch.clone(), cancel.clone()).await;
        let rewind = rewind.map_err(|source| Error::Rewind { source })?;
        if args.dry_run {
            watch.stop();
            return tell_plan(rewind.plan(), args.json).map(|()| Exit::Done);
        }
        if !args.json {
            watch.suspend(|| tell_plan(rewind.plan(), false))?;
        }
        let report = rewind.execute(&*watch).await?;
        watch.stop();
        tell_rewind(&report, args.json)?;
        Ok(if report.equal { Exit::Done } else { Exit::Damage })
    };
    signals.over(work, || cancel.cancel()).await
}

fn tell_rewind(report: &rewind::Report, json: bool) -> Result<(), Error> {
    if json {
        return output::json(report);
    }
    let (written, compared) = (&report.written, &report.compared);
    output::line(&format!(
        "rewound in {:.1} s: {} documents deleted, {} replaced, {} inserted, {}, {} indexes",
        report.elapsed_ms as f64 / 1000.0,
        written.deleted,
        written.replaced,
        written.inserted,
        output::bytes(written.bytes),
        written.indexes,
    ))?;
    let at = format!("{} ({},{})", compared.time, compared.t, compared.i);
    if report.equal {
        return output::line(&format!("EQUAL: the source at {at} and the point"));
    }
    for left in &report.differs {
        output::line(&format!("  differs: {left}"))?;
    }
    output::line(&format!(
        "DIFFERENT: the source at {at} and the point; stop what writes to it and run this again"
    ))
}

fn tell_plan<P: Display + Serialize>(plan: &P, json: bool) -> Result<(), Error> {
    if json { output::json(plan) } else { output::line(plan.to_string().trim_end()) }
}

fn tell_report(report: &Report, json: bool) -> Result<(), Error> {
    if json {
        return output::json(report);
    }
    let seconds = report.elapsed_ms as f64 / 1000.0;
    let rate = (report.bytes as f64 / seconds.max(0.001)) as u64;
    output::line(&format!(
        "restored {} documents, {}, {} indexes in {seconds:.1} s ({}/s)",
        report.documents,
        output::bytes(report.bytes),
        report.indexes,
        output::bytes(rate),
    ))?;
    for compared in &report.compared {
        output::line(&format!(
            "  {}: {} collections equal, {} documents",
            compared.database, compared.collections, compared.documents
        ))?;
    }
    report.notes.iter().try_for_each(|note| output::line(&format!("  note: {note}")))
}
