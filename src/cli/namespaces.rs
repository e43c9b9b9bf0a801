//! `headstock namespaces`: what is backed up, what is not, and why.

use serde::Serialize;

use super::{Error, Exit, output};
use crate::head::namespaces::{LEFT_OUT, left_out};

const AFTER_HELP: &str = "\
Left out is what the table names, in every job. Everything else is backed up, unless the job's own
filters (`sync --include`, `--exclude`) leave it out: `status` and `snapshots` show those.

--json prints an array of {database, collections, reason}; with NAMESPACE, of
{namespace, backed_up, reason}. In the table, * stands for any characters.

EXAMPLES
  headstock namespaces
  headstock namespaces config.transactions shop.orders";

/// Show which namespaces are never backed up, and why
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    /// Tell of these namespaces instead, as DB.COLLECTION
    #[arg(value_name = "NAMESPACE")]
    namespaces: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Row {
    database: String,
    collections: String,
    reason: String,
}

#[derive(Serialize)]
struct Verdict<'a> {
    namespace: &'a str,
    backed_up: bool,
    reason: Option<String>,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<Exit, Error> {
    if args.namespaces.is_empty() {
        table(args.json)?
    } else {
        verdicts(args)?
    }
    Ok(Exit::Done)
}

fn table(json: bool) -> Result<(), Error> {
    let row = |row: &crate::head::namespaces::LeftOut| Row {
        database: row.database.unwrap_or("*").to_owned(),
        collections: row.collections.to_string(),
        reason: row.reason.to_string(),
    };
    let rows: Vec<Row> = LEFT_OUT.iter().map(row).collect();
    if json {
        return output::json(&rows);
    }
    let cells = |row: Row| vec![row.database, row.collections, row.reason];
    let mut rows: Vec<Vec<String>> = rows.into_iter().map(cells).collect();
    rows.push(["*", "all others", "backed up"].map(str::to_owned).to_vec());
    output::table(&["DATABASE", "COLLECTIONS", "LEFT OUT BECAUSE"], &rows, usize::MAX)
}

fn verdicts(args: &Args) -> Result<(), Error> {
    let verdict = |namespace: &'_ String| {
        let reason = left_out(namespace).map(|reason| reason.to_string());
        (reason.is_none(), reason)
    };
    if args.json {
        let verdicts = args.namespaces.iter().map(|namespace| {
            let (backed_up, reason) = verdict(namespace);
            Verdict { namespace, backed_up, reason }
        });
        return output::json(&verdicts.collect::<Vec<_>>());
    }
    args.namespaces.iter().try_for_each(|namespace| {
        let (_, reason) = verdict(namespace);
        let told = reason.map_or("backed up".to_owned(), |reason| format!("left out: {reason}"));
        output::line(&format!("{namespace}: {told}"))
    })
}
