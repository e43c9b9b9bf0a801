//! `headstock fsck`: verify everything, name what is damaged and what that touches.

use super::args::StoreArgs;
use super::progress::Meter;
use super::{Error, Exit, output};
use crate::job::check;

const AFTER_HELP: &str = "\
Every header, checksum and hash of the store is checked, then every tree of every snapshot and of the
head, the oplog slices and their chain. Works beside a running daemon; nothing is written.

--json prints one object:
  clean     whether nothing was found
  checked   {blocks, bytes, snapshots, trees, slices}
  findings  array of {code, what, where, snapshots, jobs}: code is a stable name of the kind of
            damage, where the file and offset or block, snapshots those that need what is damaged

EXIT CODES
  0  nothing found
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
        output::line(&format!("{}: {} ({})", finding.code, finding.what, finding.place))?;
        match finding.snapshots.is_empty() {
            true => output::line("  touches no snapshot")?,
            false => output::line(&format!("  touches {}", finding.snapshots.join(", ")))?,
        }
    }
    let checked = &report.checked;
    output::line(&format!(
        "{}: {} blocks, {}, {} snapshots, {} trees, {} slices checked",
        match report.findings.len() {
            0 => "clean".to_owned(),
            count => format!("DAMAGED, {count} findings"),
        },
        checked.blocks,
        output::bytes(checked.bytes),
        checked.snapshots,
        checked.trees,
        checked.slices,
    ))
}
