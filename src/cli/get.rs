//! `headstock get`: one document as it was.

use super::args::ReadArgs;
use super::{Error, Exit, output, reading};
use crate::inspect::{self, Id, json_of_document, json_of_text};
use crate::restore::At;

const AFTER_HELP: &str = "\
The document is printed as one line of canonical Extended JSON, with its fields in their order. One that
JSON cannot hold (a string that is not UTF-8) is printed as {\"bsonBase64\": ...}.

--id takes Extended JSON of any type that an _id can have; a text needs its own quotes. Numbers of all
types that are equal are one _id, as they are to the server. One that JSON cannot hold is given as `diff`
prints it: {\"bsonBase64\": ...}, of a document {_id: value}.

A point that is a snapshot costs nothing; any other costs what was written since the snapshot before it.

--json prints {ns, point, document}, the point as {t, i}: the last oplog entry that is in it.

EXIT CODES
  0  found
  1  failed, or there is no such document or collection
  2  wrong usage

EXAMPLES
  headstock get --store /backup/rs0 --ns shop.orders --id 4711
  headstock get --store /backup/rs0 --ns shop.users --id '\"bob\"' --at 2026-03-01T12:30:00Z
  headstock get --store /backup/rs0 --ns shop.carts --id '{\"$oid\": \"65f0c0ffee65f0c0ffee65f0\"}'";

/// Print one document as it was at a point
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    #[command(flatten)]
    job: ReadArgs,
    /// Its collection, by the name at that point
    #[arg(long, value_name = "DB.COLL")]
    ns: String,
    /// Its _id, as Extended JSON
    #[arg(long, value_name = "EJSON", allow_hyphen_values = true)]
    id: Id,
    /// Point in time, as `restore --at` takes it
    #[arg(long, value_name = "POINT", default_value = "latest")]
    at: At,
    /// Print JSON with the point
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub async fn run(args: Args) -> Result<Exit, Error> {
    let Args { job, ns, id, at, json } = args;
    let text = reading::read(job, move |reading| {
        let view = reading.view(&at)?;
        let found = inspect::get(&view, &ns, &id)?;
        let found = found.ok_or_else(|| Error::NoDocument {
            id: id.to_string(),
            ns: ns.clone(),
            point: view.optime().ts.to_string(),
        })?;
        let document = json_of_document(&found);
        if !json {
            return Ok(document);
        }
        let (ns, point) = (json_of_text(&ns), reading::point(view.optime()));
        Ok(format!("{{\"ns\":{ns},\"point\":{point},\"document\":{document}}}"))
    });
    output::line(&text.await?)?;
    Ok(Exit::Done)
}
