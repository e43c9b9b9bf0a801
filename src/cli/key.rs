//! `headstock key`: key files, and the slots and data keys of an encrypted store.

use std::path::PathBuf;

use serde::Serialize;

use super::args::StoreArgs;
use super::{Error, Exit, output};
use crate::job::wall_time;
use crate::store::Secret;
use crate::store::keys::{self, SlotInfo, SlotKind};

const AFTER_HELP: &str = "\
A store made with --encrypt is opened by any of up to eight slots: each is a key file or a passphrase.
All lead to the same keys, which stand in the store's file KEYS. Without that file nothing of the store
can be read by anybody: keep a copy of it elsewhere, and a new one after each of these commands and
after each compaction that follows a rotation.

Stop the daemon before add, remove and rotate.

  new     makes a key file; whoever has it opens the stores that it was given to
  list    the slots of a store
  add     another key file or passphrase for a store
  remove  takes a slot away; not the one that the key given opens
  rotate  what is written from now on is encrypted with a new data key. Compaction moves the rest over
          and forgets the old key: then a copy of KEYS from now on opens nothing that was deleted before.
          Whoever held a removed key and a copy of KEYS of then can still read what was stored then, and
          open later copies of KEYS, unless there is but one slot when this is run: then that ends

EXAMPLES
  headstock key new /etc/headstock/backup.key
  headstock sync --source-file /etc/headstock/rs0.uri --store /backup/rs0 --encrypt \\
      --key-file /etc/headstock/backup.key
  headstock key add --store /backup/rs0 --key-file /etc/headstock/backup.key \\
      --new-passphrase-file /safe/passphrase --label safe
  headstock key list --store /backup/rs0
  headstock key remove --store /backup/rs0 --key-file /etc/headstock/backup.key --slot 1
  headstock key rotate --store /backup/rs0 --key-file /etc/headstock/backup.key
  headstock compact --store /backup/rs0 --key-file /etc/headstock/backup.key";

/// Make key files; manage what opens an encrypted store
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make a key file
    New {
        /// Where; must not exist
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// List the slots of a store
    List {
        /// Directory of the store
        #[arg(long, value_name = "DIR", env = "HEADSTOCK_STORE")]
        store: PathBuf,
        /// Print JSON: array of {slot, kind, label, made_ms}; kind is key-file or passphrase
        #[arg(long)]
        json: bool,
    },
    /// Let another key file or passphrase open a store
    Add {
        #[command(flatten)]
        store: StoreArgs,
        #[command(flatten)]
        new: NewArgs,
        /// What to call it in lists
        #[arg(long, value_name = "TEXT", default_value = "")]
        label: String,
    },
    /// Take a slot away from a store
    Remove {
        #[command(flatten)]
        store: StoreArgs,
        /// The slot's number, as `list` tells it
        #[arg(long, value_name = "N")]
        slot: usize,
    },
    /// Encrypt with a new data key from now on
    Rotate {
        #[command(flatten)]
        store: StoreArgs,
    },
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct NewArgs {
    /// The key file that is to open it
    #[arg(long, value_name = "FILE")]
    new_key_file: Option<PathBuf>,
    /// File whose first line is the passphrase that is to open it
    #[arg(long, value_name = "FILE")]
    new_passphrase_file: Option<PathBuf>,
}

impl NewArgs {
    fn secret(&self) -> Result<Secret, Error> {
        let passphrase = || self.new_passphrase_file.as_deref().map(Secret::read_passphrase);
        let secret = self.new_key_file.as_deref().map(Secret::read_key).or_else(passphrase);
        Ok(secret.expect("the parser asks for one of the two")?)
    }
}

/// Runs the command.
pub fn run(args: Args) -> Result<Exit, Error> {
    match args.action {
        Action::New { file } => {
            Secret::write_new_key(&file)?;
            output::line(&format!("made {}", file.display()))?;
        }
        Action::List { store, json } => print(&keys::list(&store)?, json)?,
        Action::Add { store, new, label } => {
            let slot = keys::add(&store.store, &given(&store)?, &new.secret()?, &label)?;
            output::line(&format!("added slot {slot}"))?;
        }
        Action::Remove { store, slot } => {
            keys::remove(&store.store, &given(&store)?, slot)?;
            output::line(&format!("removed slot {slot}"))?;
        }
        Action::Rotate { store } => {
            let epoch = keys::rotate(&store.store, &given(&store)?)?;
            output::line(&format!(
                "data key {} is in use from now on; compaction moves what is sealed with older ones",
                epoch.0
            ))?;
        }
    }
    Ok(Exit::Done)
}

/// What opens the store now.
fn given(store: &StoreArgs) -> Result<Secret, Error> {
    store
        .key
        .secret()?
        .ok_or_else(|| crate::store::Error::KeyNeeded { dir: store.store.clone() }.into())
}

fn print(slots: &[SlotInfo], json: bool) -> Result<(), Error> {
    #[derive(Serialize)]
    #[serde(transparent)]
    struct Slots<'a>(&'a [SlotInfo]);
    if json {
        return output::json(&Slots(slots));
    }
    for SlotInfo { slot, kind, label, made_ms } in slots {
        let kind = match kind {
            SlotKind::KeyFile => "key file",
            SlotKind::Passphrase => "passphrase",
        };
        output::line(&format!(
            "{slot}  {kind:<10}  {}  {label}",
            wall_time(made_ms.cast_signed())
        ))?;
    }
    Ok(())
}
