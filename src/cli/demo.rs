//! `headstock demo`: the whole story in one command.

use std::path::PathBuf;

use super::{Error, Exit};

/// Show everything on a throw-away replica set: back up, lose a database, restore, compare
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory to work in; a temporary one that is removed unless given
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Runs the command.
pub async fn run(args: Args) -> Result<Exit, Error> {
    unimplemented!("{:?}", args.dir)
}
