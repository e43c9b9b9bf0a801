//! `headstock diff`: what differs between two points.

use std::io::{self, Write};

use super::args::ReadArgs;
use super::{Error, Exit, reading};
use crate::inspect::{
    self, CollectionChange, Counts, Event, json_of_document, json_of_id, json_of_text,
};
use crate::restore::{At, Filter};
use crate::tree::Difference;

const AFTER_HELP: &str = "\
A and B are points as `restore --at` takes them; two snapshots cost only what differs, any other point
also what was written since the snapshot before it.

Collections are matched by UUID, so that a renamed one is one; a collection that was dropped and made
again is compared by its documents. Documents are told by their _id, in its order:
  + only at B      - only at A      ~ at both, with other bytes
Views are the documents of system.views, a time series is what its buckets are.

--json prints one object per line (JSON Lines), told apart by `event`:
  points      {event, from, to}: the last oplog entries in A and B, as {t, i}
  collection  {event, change, ns, uuid, renamed_from, options, indexes}: change is created, dropped,
              replaced (made again) or changed; options: whether they differ; indexes: names of those
              that do
  document    {event, change, ns, id, before, after}: change is added, removed or changed; before and
              after are whole documents in canonical Extended JSON, absent where there is none
  end         {event, ns, added, removed, changed, reordered}: after the documents of a collection
  total       {event, added, removed, changed}: last

EXAMPLES
  headstock diff --store /backup/rs0 2026-03-01T12:30:00Z latest
  headstock diff --store /backup/rs0 1767225600,12 1767225600,13 --ns shop.orders --json
  headstock diff --store /backup/rs0 1767225600.0000000012-5f3a latest --summary";

/// Show what differs between two points: collections, and documents added, removed and changed
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    #[command(flatten)]
    job: ReadArgs,
    /// The first point
    #[arg(value_name = "A")]
    from: At,
    /// The second point
    #[arg(value_name = "B")]
    to: At,
    /// Only this database or collection, by its name at either point; may be given several times
    #[arg(long, value_name = "DB[.COLL]")]
    ns: Vec<Filter>,
    /// Only count documents
    #[arg(long, conflicts_with = "json")]
    summary: bool,
    /// Print JSON Lines
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub async fn run(args: Args) -> Result<Exit, Error> {
    let Args { job, from, to, ns, summary, json } = args;
    reading::read(job, move |reading| {
        let (before, after) = (reading.view(&from)?, reading.view(&to)?);
        reading.begin_output();
        let mut out = io::BufWriter::new(io::stdout().lock());
        let mut told = || -> Result<(), inspect::Error> {
            if json {
                let (from, to) = (reading::point(before.optime()), reading::point(after.optime()));
                writeln!(out, "{{\"event\":\"points\",\"from\":{from},\"to\":{to}}}")
                    .map_err(inspect::Error::Output)?;
            }
            let mut each = |event: Event<'_>| match json {
                true => json_line(&mut out, &event),
                false => text_line(&mut out, &event, summary),
            };
            let repository = reading.backup.repository.clone();
            let total =
                inspect::diff(&before, &after, repository, &ns, &reading.cancel, &mut each)?;
            tell_total(&mut out, total, json)
                .and_then(|()| out.flush())
                .map_err(inspect::Error::Output)
        };
        Ok(told()?)
    })
    .await?;
    Ok(Exit::Done)
}

fn text_line(out: &mut dyn Write, event: &Event<'_>, summary: bool) -> io::Result<()> {
    match event {
        Event::Collection(change) => {
            writeln!(out, "{:<8}  {}{}", change.kind.name(), change.ns, particulars(change))
        }
        Event::Document(..) if summary => Ok(()),
        Event::Document(_, difference) => {
            let (sign, document) = match difference {
                Difference::Added(document) => ('+', document),
                Difference::Removed(document) => ('-', document),
                Difference::Changed(_, document) => ('~', document),
            };
            writeln!(out, "  {sign} {}", json_of_id(document))
        }
        Event::End { reordered: true, .. } => writeln!(out, "  the same documents, reordered"),
        Event::End { counts, .. } => writeln!(out, "  {}", count(*counts)),
    }
}

/// What besides documents differs of a collection, in words.
fn particulars(change: &CollectionChange) -> String {
    let mut parts = Vec::new();
    parts.extend(change.renamed_from.as_ref().map(|from| format!("renamed from {from}")));
    if change.options {
        parts.push("other options".to_owned());
    }
    if !change.indexes.is_empty() {
        parts.push(format!("other indexes: {}", change.indexes.join(" ")));
    }
    if parts.is_empty() { String::new() } else { format!(" ({})", parts.join("; ")) }
}

fn count(counts: Counts) -> String {
    let Counts { added, removed, changed } = counts;
    format!("documents: {added} added, {removed} removed, {changed} changed")
}

fn tell_total(out: &mut dyn Write, total: Counts, json: bool) -> io::Result<()> {
    if !json {
        return writeln!(out, "{}", count(total));
    }
    let Counts { added, removed, changed } = total;
    writeln!(
        out,
        "{{\"event\":\"total\",\"added\":{added},\"removed\":{removed},\"changed\":{changed}}}"
    )
}

fn json_line(out: &mut dyn Write, event: &Event<'_>) -> io::Result<()> {
    match event {
        Event::Collection(change) => {
            let line = serde_json::json!({
                "event": "collection",
                "change": change.kind.name(),
                "ns": change.ns,
                "uuid": change.uuid.to_string(),
                "renamed_from": change.renamed_from,
                "options": change.options,
                "indexes": change.indexes,
            });
            writeln!(out, "{line}")
        }
        Event::Document(of, difference) => {
            let (change, before, after) = match difference {
                Difference::Added(after) => ("added", None, Some(after)),
                Difference::Removed(before) => ("removed", Some(before), None),
                Difference::Changed(before, after) => ("changed", Some(before), Some(after)),
            };
            write!(out, "{{\"event\":\"document\",\"change\":\"{change}\"")?;
            write!(out, ",\"ns\":{}", json_of_text(&of.ns))?;
            if let Some(document) = after.or(before) {
                write!(out, ",\"id\":{}", json_of_id(document))?;
            }
            for (name, document) in [("before", before), ("after", after)] {
                if let Some(document) = document {
                    write!(out, ",\"{name}\":{}", json_of_document(document))?;
                }
            }
            writeln!(out, "}}")
        }
        Event::End { of, counts: Counts { added, removed, changed }, reordered } => writeln!(
            out,
            "{{\"event\":\"end\",\"ns\":{},\"added\":{added},\"removed\":{removed},\
             \"changed\":{changed},\"reordered\":{reordered}}}",
            json_of_text(&of.ns),
        ),
    }
}
