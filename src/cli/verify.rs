//! `headstock verify`: compare a backup with its live source.

use super::args::{JobArgs, PaceArgs, SourceArgs};
use super::progress::Watch;
use super::{Error, Exit, output};
use crate::daemon::{self, Signals};
use crate::job::Figures;
use crate::job::verify::{self, Report, Request};
use crate::restore::{Cancel, Filter};
use crate::source::Source;

const AFTER_HELP: &str = "\
Backup and source are brought to one optime and compared: collections, options, index specs, and every
document byte for byte. Works beside a running daemon and beside writers; neither the source nor the
store is written. From MongoDB 5.0 on the source is read as of one optime; collections that are
renamed, indexed or otherwise changed meanwhile, and those that take longer to read than the server
keeps history (minSnapshotHistoryWindowInSeconds, 300 s by default), are compared at a later one. On
4.4, or with --by-oplog, collections are read as they are and brought to one optime by the source's
oplog. It takes about as long as a sync, and as much scratch space as the store lacks of the source.
What the backup holds is compared by the names of its blocks; `headstock fsck` proves that the blocks
can be read.

--json prints one object:
  equal          whether everything was compared and nothing differs
  job, set_name  what was compared
  compared       array of {at, method, entries_ahead, collections, documents, bytes}, one for each
                 optime at which something was compared: at is {t, i, term, wall_time}; method is
                 snapshot or oplog; entries_ahead counts oplog entries up to there that the backup did
                 not hold yet and that were taken from the source
  counts         {missing_documents, extra_documents, different_documents, missing_collections,
                 extra_collections, catalog, reordered}: missing in the backup, extra in the backup;
                 catalog counts names, options and indexes that differ
  findings       array of {kind, ns, id, detail}: kind is missing-, extra- or different-document,
                 missing- or extra-collection, name, options, missing-, extra- or different-index, or
                 order; id is the _id as Extended JSON in a string, or null
  more_findings  findings beyond the 200 listed
  unchecked      names of collections that kept changing and could not be compared

EXIT CODES
  0  equal
  1  failed, or something could not be compared
  2  wrong usage
  3  different

EXAMPLES
  headstock verify --store /backup/rs0 --source mongodb://db0,db1,db2/?replicaSet=rs0
  headstock verify --store /backup/rs0 --source-file /etc/headstock/rs0.uri --ns shop --json \\
      | jq -r '.findings[] | [.kind, .ns, .id] | @tsv'";

/// Compare a backup with its live source, document by document
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    #[command(flatten)]
    job: JobArgs,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    pace: PaceArgs,
    /// Only this database or collection; may be given several times
    #[arg(long, value_name = "DB[.COLL]")]
    ns: Vec<Filter>,
    /// Do not ask the server for a moment of its past: read, and catch up by the oplog
    #[arg(long)]
    by_oplog: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub async fn run(args: Args) -> Result<Exit, Error> {
    let mut signals = Signals::listen()?;
    let (cancel, figures) = (Cancel::new(), Figures::default());
    let watch = Watch::start(figures.clone());
    let outcome = tokio::select! {
        outcome = compare(&args, &figures, &cancel) => outcome,
        () = signals.stop() => {
            cancel.cancel();
            Err(daemon::Error::Interrupted.into())
        }
    };
    watch.stop();
    let report = outcome?;
    if args.json {
        output::json(&report)?;
    } else {
        print(&report)?;
    }
    Ok(match (report.equal, report.counts.total()) {
        (true, _) => Exit::Done,
        (false, 0) => Exit::Failed,
        (false, _) => Exit::Damage,
    })
}

async fn compare(args: &Args, figures: &Figures, cancel: &Cancel) -> Result<Report, Error> {
    let source = Source::connect(&args.source.uri()?, args.source.read_from.clone()).await?;
    if let Some(limit) = args.pace.bytes_per_second() {
        source.limit_scans(limit);
    }
    let request = Request {
        store: args.job.store.location()?,
        job: args.job.job.clone(),
        namespaces: args.ns.clone(),
        by_oplog: args.by_oplog,
    };
    Ok(verify::run(request, &source, figures, cancel).await?)
}

fn print(report: &Report) -> Result<(), Error> {
    for finding in &report.findings {
        output::line(&finding.to_string())?;
    }
    if report.more_findings > 0 {
        output::line(&format!("and {} more", report.more_findings))?;
    }
    for name in &report.unchecked {
        output::line(&format!("{name}: NOT COMPARED, it kept changing; run the command again"))?;
    }
    for round in &report.compared {
        let at = &round.at;
        let mut text = format!(
            "compared at {} ({},{}) by {}: {} collections, {} documents, {}",
            at.wall_time,
            at.t,
            at.i,
            round.method,
            round.collections,
            round.documents,
            output::bytes(round.bytes),
        );
        if round.entries_ahead > 0 {
            let ahead = format!("; {} oplog entries ahead of the backup", round.entries_ahead);
            text.push_str(&ahead);
        }
        output::line(&text)?;
    }
    output::line(&verdict(report))
}

fn verdict(report: &Report) -> String {
    let (job, set) = (&report.job, &report.set_name);
    let counts = &report.counts;
    if report.equal {
        return format!("EQUAL: job {job} and replica set {set}");
    }
    if counts.total() == 0 {
        return format!("INCOMPLETE: job {job} and replica set {set}, nothing found to differ");
    }
    format!(
        "DIFFERENT: job {job} and replica set {set}; documents: {} missing, {} extra, {} different; \
         collections: {} missing, {} extra, {} in another order; {} names, options or indexes",
        counts.missing_documents,
        counts.extra_documents,
        counts.different_documents,
        counts.missing_collections,
        counts.extra_collections,
        counts.reordered,
        counts.catalog,
    )
}
