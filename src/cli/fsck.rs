//! `headstock fsck`: verify everything, name what is damaged and what that touches.

use super::args::StoreArgs;
use super::progress::Meter;
use super::{Error, Exit, output};
use crate::job::check::{self, Finding};

const AFTER_HELP: &str = "\
Every header, checksum and hash of the store is checked, then every tree of every snapshot and of the
head, the oplog slices and their chain. Works beside a running daemon; nothing is written.

--json prints one object:
  clean          whether nothing is lost: no finding but warnings
  checked        {blocks, bytes, snapshots, trees, slices}
  findings       array of {code, severity, what, where, snapshots, jobs}: code is a stable name of
                 the kind of damage; severity is warning where a copy or a cache is damaged, else
                 error; where is the file, offset or block; snapshots are those that need it
  more_findings  findings beyond those listed

EXIT CODES
  0  nothing found but warnings
  1  the check itself failed
  3  damage found

EXAMPLES
  headstock fsck --store /backup/rs0";

/// Verify every block, tree and slice of a store
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
    let meter = Meter::new();
    let report = tokio::task::block_in_place(|| {
        check::run(&args.store.store, &mut |checked| meter.show(checked))
    })?;
    meter.stop();
    if args.json {
        output::json(&report)?;
    } else {
        print(&report)?;
    }
    Ok(if report.clean { Exit::Done } else { Exit::Damage })
}

fn print(report: &check::Report) -> Result<(), Error> {
    for finding in &report.findings {
        let Finding { code, severity, what, place, snapshots, jobs } = finding;
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
    ))
}
