//! `headstock fsck`: verify a store, name what is damaged and what that touches; repair it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::args::{self, From, ReadArgs, read_uri};
use super::progress::Meter;
use super::{Error, Exit, output};
use crate::block::BlockRead;
use crate::blockstore::{Pace, Place};
use crate::job::check::{self, Finding, LostRange};
use crate::job::{RemoteJob, now_ms, remote_check};
use crate::store::fsck::{Level, Part, Settings};
use crate::store::repair::{Foundation, Outcome, Plan, Repair, Salvage};
use crate::store::{Location, Store};

const AFTER_HELP: &str = "\
Works beside a running daemon. Of the store nothing is written but the file CHECKED, which remembers when
each segment was last read whole and found sound.

DEPTHS
  quick  the commit log and small files; of every segment the header, the length and the footer
  graph  also the index, and everything that snapshots and jobs reach; documents are not read
  data   also every record, every block against its hash, every document's place, every oplog slice

--sample, --max-duration and --max-age read only a part of the segments, those that were checked the longest
ago: run every night, they get through a store of any size. Everything of `quick` is checked of all; of the
graph nothing, unless damage is found, which is then told with all that it touches.

--repair prints its plan, does it, and checks again. Where the commit log cannot be used, it is made anew
from the newest commit that any of its records or their copies prove; the index is made anew; every readable
record of a damaged segment is written anew. Blocks that are lost are taken from the stores given by --from
(a copy of this store, or one that holds the same data). Nothing is invented: what nobody has stays lost, and
the check names what that costs. Nothing is thrown away: replaced files are kept in the store's folder
quarantine, to be removed by hand. Interrupted, it is run again. A daemon must be stopped before.

--json prints one object (with --repair --dry-run the plan, with --repair {repair, check}):
  clean          whether nothing is lost: no finding but warnings
  checked        {blocks, bytes, snapshots, trees, slices, segments, whole_segments, oldest_check_ms,
                 never_checked, damaged_segments}: whole_segments are those of which every record was read; the segment
                 read whole the longest ago was at oldest_check_ms (since 1970)
  findings       array of {code, severity, what, where, snapshots, jobs, ranges}: code is a stable name
                 of the kind of damage; severity is warning where a copy or a cache is damaged, else
                 error; where is the file, offset or block; snapshots are those that need it; ranges are
                 the documents it costs, {collection, documents, after, before, snapshots, jobs}, where
                 after and before are the nearest _ids that can still be read (at most 100)
  more_findings  findings beyond those listed

A BLOCKSTORE
With --blockstore (or --blockstore-file) the blockstore is checked, all its jobs or that of --job, beside whoever uses it: quick, the
documents of jobs, snapshots and slices; graph, also that every block is there that they reach; data, also every block against
its hash. With --repair and --from DIR missing and damaged blocks are stored anew from these stores. In the other
direction --repair --from-blockstore-file FILE takes lost blocks of a store from the blockstore.
--json prints {clean, jobs, snapshots, slices, blocks, bytes, mended, findings, more_findings}; findings are {code, what, job, of,
block}: HS-BS-001 a document is not of its form, 002 a block is missing, 003 damaged, 004 its dictionary is missing, 005 slices do
not follow on each other (no damage).

EXIT CODES
  0  nothing found but warnings, or repaired
  1  the check or the repair itself failed
  3  damage found, or left by the repair

EXAMPLES
  headstock fsck --store /backup/rs0
  headstock fsck --store /backup/rs0 --depth quick
  headstock fsck --store /backup/rs0 --max-duration 2h --max-mbps 100    # a part every night
  headstock fsck --store /backup/rs0 --sample 5% --json
  headstock fsck --store /backup/rs0 --repair --dry-run
  headstock fsck --store /backup/rs0 --repair --from /mnt/copy/rs0
  headstock fsck --store /backup/rs0 --repair --from-blockstore-file blockstore.uri
  headstock fsck --blockstore-file blockstore.uri --depth graph
  headstock fsck --blockstore-file blockstore.uri --max-mbps 50
  headstock fsck --blockstore-file blockstore.uri --repair --from /backup/rs0";

/// Verify a store or a blockstore: every block, tree and slice; or repair it
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    #[command(flatten)]
    of: ReadArgs,
    /// How deep to look
    #[arg(long, value_name = "DEPTH", default_value = "data")]
    #[arg(conflicts_with_all = ["sample", "max_duration", "max_age"])]
    depth: Depth,
    /// Read this share of the segments only, those checked the longest ago
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    sample: Option<u8>,
    /// Begin no segment after this long (10s, 15m, 6h); those checked the longest ago come first
    #[arg(long, value_name = "TIME", value_parser = args::duration)]
    max_duration: Option<Duration>,
    /// Read at most so many megabytes (1,000,000 bytes) of segments, or of a blockstore's blocks, per second
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_mbps: Option<u32>,
    /// Bring back what can be had again of what is damaged
    #[arg(long, conflicts_with_all = ["depth", "sample", "max_duration", "max_age", "max_mbps"])]
    repair: bool,
    /// A store to take lost blocks from (may be given several times)
    #[arg(long, value_name = "DIR", requires = "repair")]
    from: Vec<PathBuf>,
    /// A blockstore to take lost blocks of a store from: a file that holds its connection string
    #[arg(long, value_name = "FILE", requires = "repair", conflicts_with_all = ["blockstore", "blockstore_file"])]
    from_blockstore_file: Option<PathBuf>,
    /// Only tell what a repair would do
    #[arg(long, requires = "repair")]
    dry_run: bool,
    /// Leave out segments that were found sound within this time (10h, 30d)
    #[arg(long, value_name = "TIME", value_parser = args::duration)]
    max_age: Option<Duration>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How deep a check looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Depth {
    /// Files, the commit log, headers and footers
    Quick,
    /// Also all that snapshots and jobs reach
    Graph,
    /// Also every record, block and document
    Data,
}

fn percent(text: &str) -> Result<u8, &'static str> {
    let number = text.strip_suffix('%').unwrap_or(text).parse();
    let number = number.ok().filter(|number| (1..=100).contains(number));
    number.ok_or("expected a whole number of percent from 1 to 100")
}

impl Args {
    fn bytes_per_second(&self) -> Option<u64> {
        self.max_mbps.map(|megabytes| u64::from(megabytes) * 1_000_000)
    }

    fn settings(&self) -> Settings {
        let level = match self.depth {
            Depth::Quick => Level::Quick,
            Depth::Graph => Level::Graph,
            Depth::Data => Level::Data,
        };
        let (percent, max_duration) = (self.sample, self.max_duration);
        let part = Part { percent, max_duration, unchecked_for: self.max_age };
        let is_part = part != Part::default();
        Settings {
            part: is_part.then_some(part),
            bytes_per_second: self.bytes_per_second(),
            ..Settings::from(level)
        }
    }
}

/// Runs the command.
pub async fn run(args: Args) -> Result<Exit, Error> {
    let settings = args.settings();
    let location = match args.of.from()? {
        From::Store(location) => location,
        From::Blockstore(place) => return remote(&args, &place).await,
    };
    if args.repair {
        let others = match &args.from_blockstore_file {
            Some(file) => {
                let place = Place { uri: read_uri(file)?, secret: location.secret.clone() };
                vec![others(&place, args.of.job.as_deref()).await?]
            }
            None => Vec::new(),
        };
        return repair(&args, &location, others, &settings);
    }
    let report = check(&location, &settings)?;
    if args.json {
        output::json(&report)?;
    } else {
        print(&report, &settings)?;
    }
    Ok(exit(&report))
}

fn check(location: &Location, settings: &Settings) -> Result<check::Report, Error> {
    let meter = Meter::new();
    let report = tokio::task::block_in_place(|| {
        check::run(location, settings, &mut |checked| meter.show(checked))
    })?;
    meter.stop();
    Ok(report)
}

fn exit(report: &check::Report) -> Exit {
    if report.clean { Exit::Done } else { Exit::Damage }
}

/// What a repair came to.
#[derive(Serialize)]
struct Repaired<'a> {
    repair: &'a Outcome,
    check: &'a check::Report,
}

/// The blocks of a blockstore, with a job's snapshots pinned.
async fn others(place: &Place, job: Option<&str>) -> Result<Arc<dyn BlockRead>, Error> {
    Ok(Arc::new(RemoteJob::open(place, job).await?.reader))
}

fn repair(
    args: &Args,
    location: &Location,
    others: Vec<Arc<dyn BlockRead>>,
    settings: &Settings,
) -> Result<Exit, Error> {
    let now_ms = now_ms().cast_unsigned();
    let repair = Repair::new(location, args.from.clone(), now_ms).and_from(others);
    let meter = Meter::new();
    let mut show = |at| meter.show_store(at);
    let plan = tokio::task::block_in_place(|| repair.plan(&mut show))?;
    meter.stop();
    if args.dry_run && args.json {
        output::json(&plan)?;
    } else if !args.json {
        print_plan(&plan)?;
    }
    if args.dry_run {
        let left = !plan.is_empty() || !plan.salvage.lost.is_empty();
        return Ok(if left { Exit::Damage } else { Exit::Done });
    }
    let outcome = tokio::task::block_in_place(|| repair.execute(&mut show))?;
    meter.stop();
    let report = check(location, settings)?;
    if args.json {
        output::json(&Repaired { repair: &outcome, check: &report })?;
    } else {
        print_outcome(&outcome)?;
        print(&report, settings)?;
    }
    Ok(exit(&report))
}

/// Checks a blockstore, and mends it from the stores given.
async fn remote(args: &Args, place: &Place) -> Result<Exit, Error> {
    if args.repair && args.from.is_empty() {
        return Err(Error::RepairFromNothing);
    }
    if args.dry_run
        || args.sample.is_some()
        || args.max_duration.is_some()
        || args.max_age.is_some()
    {
        return Err(Error::OnlyStore);
    }
    let depth = match args.depth {
        Depth::Quick => remote_check::Depth::Quick,
        Depth::Graph => remote_check::Depth::Graph,
        Depth::Data => remote_check::Depth::Data,
    };
    let settings = remote_check::Settings { depth, pace: Pace::new(args.bytes_per_second()) };
    let from = args.from.iter().map(|dir| {
        let location = args.of.another(dir)?;
        Ok::<_, Error>(Store::open_reader(dir, location.options())?)
    });
    let from = from.collect::<Result<Vec<_>, _>>()?;
    let meter = Arc::new(Meter::new());
    let shown = meter.clone();
    let show = Arc::new(move |report: &remote_check::Report| shown.show_remote(report));
    let report = remote_check::run(place, args.of.job.as_deref(), &settings, &from, show).await;
    meter.stop();
    let report = report?;
    if args.json {
        output::json(&report)?;
    } else {
        print_remote(&report)?;
    }
    Ok(if report.clean { Exit::Done } else { Exit::Damage })
}

fn print_remote(report: &remote_check::Report) -> Result<(), Error> {
    for finding in &report.findings {
        let code = serde_json::to_string(&finding.code).unwrap_or_default();
        output::line(&format!(
            "{}: {} (job {}, {})",
            code.trim_matches('"'),
            finding.what,
            finding.job,
            finding.of,
        ))?;
    }
    let found = report.findings.len() as u64 + report.more_findings;
    output::line(&format!(
        "{}: {} jobs, {} snapshots, {} slices, {} blocks, {} read; {} blocks mended",
        if report.clean { "clean".to_owned() } else { format!("DAMAGED, {found} findings") },
        report.jobs,
        report.snapshots,
        report.slices,
        report.blocks,
        output::bytes(report.bytes),
        report.mended,
    ))
}

fn print_plan(plan: &Plan) -> Result<(), Error> {
    if let Some(foundation) = &plan.foundation {
        print_foundation(foundation)?;
        if foundation.log.is_some() {
            return output::line("plan: what else is damaged is looked for when the store opens");
        }
    }
    let Salvage { segments, found, lost } = &plan.salvage;
    for one in segments {
        let (segment, codes) = (one.segment, one.codes.join(", "));
        let bytes = output::bytes(one.bytes);
        output::line(&format!(
            "plan: segment {segment} ({bytes}, {codes}): write readable records anew"
        ))?;
    }
    if !found.is_empty() || !lost.is_empty() {
        let (found, lost) = (found.len(), lost.len());
        output::line(&format!(
            "plan: take {found} lost blocks from other stores; {lost} nobody has"
        ))?;
    }
    if plan.is_empty() && lost.is_empty() {
        output::line("plan: nothing is damaged but what is made anew in any case (the index)")?;
    }
    Ok(())
}

fn print_foundation(foundation: &Foundation) -> Result<(), Error> {
    let Foundation { identity, keys, log, commit, source, gone } = foundation;
    if *identity {
        output::line("plan: write the damaged copy of the store's name and salt again")?;
    }
    if *keys {
        output::line("plan: write the damaged copy of the store's keys again")?;
    }
    if let Some(why) = log {
        output::line(&format!("plan: begin a new log at commit {} ({source}): {why}", commit.0))?;
    }
    let gone: Vec<String> = gone.iter().map(ToString::to_string).collect();
    if !gone.is_empty() {
        output::line(&format!("plan: leave out segments that are gone: {}", gone.join(", ")))?;
    }
    Ok(())
}

fn print_outcome(outcome: &Outcome) -> Result<(), Error> {
    let Salvage { segments, found, lost } = &outcome.salvage;
    output::line(&format!(
        "repaired: {} records of {} segments written anew, {} blocks taken from other stores, {} lost",
        outcome.saved_records,
        segments.len(),
        found.len(),
        lost.len(),
    ))?;
    match &outcome.quarantine {
        Some(kept) => output::line(&format!("what was replaced is kept in {}", kept.display())),
        None => Ok(()),
    }
}

fn print(report: &check::Report, settings: &Settings) -> Result<(), Error> {
    for finding in &report.findings {
        let Finding { code, severity, what, place, snapshots, jobs, ranges } = finding;
        output::line(&format!("{code} {severity}: {what} ({place})"))?;
        let touched: Vec<String> = snapshots
            .iter()
            .map(|id| format!("snapshot {id}"))
            .chain(jobs.iter().map(|job| format!("job {job}")))
            .collect();
        output::line(&match touched.is_empty() {
            true => "  touches no snapshot".to_owned(),
            false => format!("  touches {}", touched.join(", ")),
        })?;
        ranges.iter().try_for_each(|range| output::line(&format!("  {}", told(range))))?;
    }
    let checked = &report.checked;
    output::line(&format!(
        "{}: {} blocks, {}, {} snapshots, {} trees, {} slices checked",
        match report.clean {
            true => "clean".to_owned(),
            false =>
                format!("DAMAGED, {} findings", report.findings.len() as u64 + report.more_findings),
        },
        checked.blocks,
        output::bytes(checked.bytes),
        checked.snapshots,
        checked.trees,
        checked.slices,
    ))?;
    if settings.level == Level::Data {
        coverage(checked, settings)?;
    }
    Ok(())
}

/// `shop.orders: 41 documents after 1203 and before 1245`.
fn told(range: &LostRange) -> String {
    let LostRange { collection, documents, after, before, snapshots, jobs } = range;
    let side = |word: &str, id: &Option<String>| {
        id.as_ref().map(|id| format!("{word} _id {id}")).unwrap_or_default()
    };
    let sides = [side("after", after), side("before", before)];
    let sides: Vec<String> = sides.into_iter().filter(|side| !side.is_empty()).collect();
    let place = if sides.is_empty() { "all there are".to_owned() } else { sides.join(", ") };
    let (snapshots, jobs) = (snapshots.len(), jobs.len());
    let of = format!("{snapshots} snapshots, {jobs} heads");
    format!("{collection}: {documents} documents cannot be read: {place} (in {of})")
}

/// How much of the store was read whole, and how long ago the rest was.
fn coverage(checked: &check::Checked, settings: &Settings) -> Result<(), Error> {
    let whole = checked.whole_segments;
    output::line(&format!(
        "{whole} of {} segments read whole; {}",
        checked.segments,
        output::coverage(&checked.coverage)
    ))?;
    if settings.part.is_some() {
        output::line(
            "a part was checked; `headstock fsck --depth graph` checks what snapshots reach",
        )?;
    }
    Ok(())
}
