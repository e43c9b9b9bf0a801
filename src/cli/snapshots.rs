//! `headstock snapshots`: list what can be restored.

use super::args::{From, ReadArgs};
use super::{Error, Exit, output};
use crate::job::{self, SnapshotInfo};

const AFTER_HELP: &str = "\
--json prints an array, oldest snapshot first, of objects with these fields:
  id             name of the snapshot, for `restore --at` and `snapshot`
  job            name of the job
  optime         {t, i, term}: the last oplog entry in it
  wall_time      that entry's wall clock, RFC 3339
  taken_at       when the snapshot was taken, RFC 3339
  documents      documents in it
  logical_bytes  sum of their BSON lengths
  added_bytes    bytes that it added to the store
  content_root   hash of all its content, hexadecimal: equal where two snapshots are equal
  keep           whether it is protected from deletion
  include        filters of what it holds, empty for everything; exclude what of that it does not
  set_name       replica set, and replica_set_id, fcv, server_version of the source

EXAMPLES
  headstock snapshots --store /backup/rs0
  headstock snapshots --blockstore-file blockstore.uri --job rs0
  headstock snapshots --store /backup/rs0 --json | jq -r '.[-1].id'";

/// List the snapshots of a store or blockstore, oldest first
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
    let snapshots = match args.job.from()? {
        From::Store(location) => {
            tokio::task::block_in_place(|| job::list_snapshots(location, name))?
        }
        From::Blockstore(place) => job::list_remote_snapshots(&place, name).await?,
    };
    if args.json {
        output::json(&snapshots)?;
    } else {
        print(&snapshots)?;
    }
    Ok(Exit::Done)
}

fn print(snapshots: &[SnapshotInfo]) -> Result<(), Error> {
    const HEADINGS: [&str; 8] =
        ["ID", "JOB", "TIME", "KEEP", "HOLDS", "DOCUMENTS", "SIZE", "ADDED"];
    const FIRST_FIGURE: usize = 5;
    let rows: Vec<Vec<String>> = snapshots
        .iter()
        .map(|snapshot| {
            vec![
                snapshot.id.clone(),
                snapshot.job.clone(),
                snapshot.wall_time.clone(),
                if snapshot.keep { "keep" } else { "" }.to_owned(),
                output::filters(&snapshot.include, &snapshot.exclude)
                    .unwrap_or_else(|| "everything".to_owned()),
                snapshot.documents.to_string(),
                output::bytes(snapshot.logical_bytes),
                output::bytes(snapshot.added_bytes),
            ]
        })
        .collect();
    output::table(&HEADINGS, &rows, FIRST_FIGURE)
}
