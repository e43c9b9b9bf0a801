//! `headstock log`: every version of one document.

use std::io::{self, Write};

use super::args::ReadArgs;
use super::{Error, Exit, reading};
use crate::inspect::{Id, Line, Version, json_of_document, json_of_text};
use crate::job::wall_time;
use crate::oplog::Ts;

const AFTER_HELP: &str = "\
One line for each version, oldest first: time, optime, what made it, collection, document. The optime
can be given to `get --at` and `restore --at`; it is the first point that has the version.

  found     there at the first point of a range, or of its collection's backup; what made it is older
  absent    not there at the first point of a range
  inserted  updated  replaced  deleted
  dropped   emptied  renamed      what became of its collection
  left-out  its collection is not backed up any more: its name or the job's filters changed
  gap       nothing is known up to the next line (`headstock points` lists the ranges)

All collections that have the name at some point are followed, by UUID through renames. Changes by one
transaction or entry are one version. The whole oplog of the restorable range is read, but applied only
to this document. --id as in `headstock get`.

--json prints one object per line (JSON Lines):
  {change, at, wall_time, ns, uuid, document}: at is {t, i}; uuid and document are null where there is
  none. A gap is {change, at, until}: the last point before it and the first behind it.

EXAMPLES
  headstock log --store /backup/rs0 --ns shop.orders --id 4711
  headstock log --store /backup/rs0 --ns shop.users --id '\"bob\"' --json | jq -r '.wall_time'";

/// Print every version of one document that can be restored
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    #[command(flatten)]
    job: ReadArgs,
    /// Its collection, by a name that it has at some point
    #[arg(long, value_name = "DB.COLL")]
    ns: String,
    /// Its _id, as Extended JSON
    #[arg(long, value_name = "EJSON", allow_hyphen_values = true)]
    id: Id,
    /// Print JSON Lines
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub async fn run(args: Args) -> Result<Exit, Error> {
    let Args { job, ns, id, json } = args;
    reading::read(job, move |reading| {
        let mut out = io::BufWriter::new(io::stdout().lock());
        let mut each = |line: Line<'_>| match (line, json) {
            (Line::Note(text), _) => {
                reading.note(text);
                Ok(())
            }
            (Line::Version(version), true) => json_line(&mut out, &version),
            (Line::Version(version), false) => text_line(&mut out, &version),
            (Line::Gap { after, until }, true) => {
                let (after, until) = (reading::point(after.optime), reading::point(until.optime));
                writeln!(out, "{{\"change\":\"gap\",\"at\":{after},\"until\":{until}}}")
            }
            (Line::Gap { after, until }, false) => {
                let when = begin(after.wall_ms, after.optime.ts, "gap");
                writeln!(out, "{when} up to {} ({})", wall_time(until.wall_ms), until.optime.ts)
            }
        };
        reading.log(&ns, &id, &mut each)?;
        out.flush().map_err(|source| Error::Output { source })
    })
    .await?;
    Ok(Exit::Done)
}

/// Time, optime and kind of a line.
fn begin(wall_ms: i64, at: Ts, change: &str) -> String {
    format!("{:<24}  {:<14}  {change:<8}", wall_time(wall_ms), at.to_string())
}

fn text_line(out: &mut dyn Write, version: &Version<'_>) -> io::Result<()> {
    let when = begin(version.wall_ms, version.at, version.change.name());
    let document = version.document.map(json_of_document).unwrap_or_default();
    let line = format!("{when}  {}  {document}", version.ns);
    writeln!(out, "{}", line.trim_end())
}

fn json_line(out: &mut dyn Write, version: &Version<'_>) -> io::Result<()> {
    let Ts { secs, inc } = version.at;
    let uuid = version.uuid.map_or("null".to_owned(), |uuid| format!("\"{uuid}\""));
    writeln!(
        out,
        "{{\"change\":\"{}\",\"at\":{{\"t\":{secs},\"i\":{inc}}},\"wall_time\":\"{}\",\"ns\":{},\
         \"uuid\":{uuid},\"document\":{}}}",
        version.change.name(),
        wall_time(version.wall_ms),
        json_of_text(version.ns),
        version.document.map_or("null".to_owned(), json_of_document),
    )
}
