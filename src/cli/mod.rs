//! The command line: one file per subcommand, each thin.
//!
//! Arguments, output and exit codes are an interface that scripts rely on; `--help` documents them,
//! so the text here is the operator's manual. What a command does lives in the floors below.

mod args;
mod check_access;
mod compact;
mod daemon;
mod demo;
mod diff;
mod error;
mod exit;
mod fsck;
mod get;
mod groom;
mod key;
mod log;
mod logging;
mod namespaces;
mod output;
mod points;
mod progress;
mod reading;
mod rebuild;
mod redact;
mod restore;
mod snapshot;
mod snapshots;
mod status;
mod sync;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use error::Error;
pub use exit::Exit;

const AFTER_HELP: &str = "\
EXIT CODES
  0  done
  1  failed: the message says what, where, why and what to do next
  2  wrong usage
  3  fsck or compact found damage, verify or a rewind differences, or check-access something missing
  4  refused: the plan found a reason not to start, and nothing was touched

THE SOURCE
  Every command that talks to MongoDB takes its connection string from --source, from the
  environment variable HEADSTOCK_SOURCE, or from a file named by --source-file. A string with a
  password belongs into one of the last two: arguments are visible in the list of processes. What its user must be
  allowed to do, `headstock check-access` tells.

ENCRYPTED STORES
  A store made with --encrypt is opened by a key file or a passphrase: --key-file or --passphrase-file,
  or the names of these files in HEADSTOCK_KEY_FILE or HEADSTOCK_PASSPHRASE_FILE. See `headstock key --help`.

EXAMPLES
  headstock demo
  headstock sync --source mongodb://db0,db1,db2/?replicaSet=rs0 --store /backup/rs0
  headstock daemon --source-file /etc/headstock/rs0.uri --store /backup/rs0 --snapshot-every 6h
  headstock snapshots --store /backup/rs0
  headstock points --store /backup/rs0
  headstock verify --store /backup/rs0 --source mongodb://db0,db1,db2/?replicaSet=rs0
  headstock restore --store /backup/rs0 --at 2026-03-01T12:30:00Z --to mongodb://spare:27017";

/// Continuous backup of MongoDB replica sets.
#[derive(Debug, Parser)]
#[command(name = "headstock", version, about, after_long_help = AFTER_HELP)]
#[command(arg_required_else_help = true, subcommand_required = true, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    log: args::LogArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Args),
    Sync(sync::Args),
    Daemon(daemon::Args),
    Snapshots(snapshots::Args),
    Points(points::Args),
    Snapshot(snapshot::Args),
    Diff(diff::Args),
    Get(get::Args),
    Log(log::Args),
    Restore(restore::Args),
    Rebuild(rebuild::Args),
    Groom(groom::Args),
    Status(status::Args),
    Fsck(fsck::Args),
    Verify(verify::Args),
    Compact(compact::Args),
    Key(key::Args),
    Namespaces(namespaces::Args),
    CheckAccess(check_access::Args),
}

/// Runs the program: parses the arguments of the process, runs the command, reports its outcome.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let long_running = matches!(cli.command, Command::Daemon(_));
    logging::start(cli.log.log.as_deref(), long_running);
    match run(cli.command) {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("{}", error.report());
            error.exit().into()
        }
    }
}

fn run(command: Command) -> Result<Exit, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::Runtime { source })?;
    runtime.block_on(async {
        match command {
            Command::Demo(args) => demo::run(args).await,
            Command::Sync(args) => sync::run(args).await,
            Command::Daemon(args) => daemon::run(args).await,
            Command::Snapshots(args) => snapshots::run(args).await,
            Command::Points(args) => points::run(args).await,
            Command::Snapshot(args) => snapshot::run(args).await,
            Command::Diff(args) => diff::run(args).await,
            Command::Get(args) => get::run(args).await,
            Command::Log(args) => log::run(args).await,
            Command::Restore(args) => restore::run(args).await,
            Command::Rebuild(args) => rebuild::run(args).await,
            Command::Groom(args) => groom::run(args).await,
            Command::Status(args) => status::run(args).await,
            Command::Fsck(args) => fsck::run(args).await,
            Command::Verify(args) => verify::run(args).await,
            Command::Compact(args) => compact::run(args).await,
            Command::Key(args) => tokio::task::block_in_place(|| key::run(args)),
            Command::Namespaces(args) => namespaces::run(&args),
            Command::CheckAccess(args) => check_access::run(args).await,
        }
    })
}

/// Prints a usage error or the help asked for. An argument that the parser quotes back may be a
/// connection string in the wrong place, so its credentials are masked.
fn usage(error: &clap::Error) -> ExitCode {
    if error.use_stderr() {
        eprint!("{}", redact::credentials(&error.render().to_string()));
        Exit::Usage.into()
    } else {
        match error.print() {
            Ok(()) => Exit::Done.into(),
            Err(_) => Exit::Failed.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_parser_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
