//! What a command can fail with, and how that is told.

use std::path::PathBuf;

use super::{Exit, redact};
use crate::head::scope::TooManyFilters;
use crate::{access, blockstore, daemon, inspect, job, lab, restore, source, store};

/// The failure of a command.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The asynchronous runtime did not start.
    #[error("cannot start the worker threads")]
    Runtime {
        /// Why.
        source: std::io::Error,
    },
    /// The connection string's file cannot be read.
    #[error("cannot read the connection string from {}", path.display())]
    SourceFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// An encrypted store is to be made, and nothing is to open it.
    #[error(
        "--encrypt asks for what is to open the store: give --key-file (`headstock key new` makes one) or --passphrase-file"
    )]
    EncryptNeedsKey,
    /// A key is given, and the store that would be made would not be encrypted.
    #[error("a key is given and there is no store in {} yet: add --encrypt to make an encrypted one, or leave the key away (--key-file, --passphrase-file, HEADSTOCK_KEY_FILE, HEADSTOCK_PASSPHRASE_FILE)", dir.display())]
    KeyWithoutEncrypt {
        /// Where the store would be.
        dir: PathBuf,
    },
    /// Nothing says what to read.
    #[error("say what to read: --store DIR, or --blockstore URI (or --blockstore-file FILE)")]
    NoRepository,
    /// Nothing says which blockstore.
    #[error(
        "say which blockstore: --blockstore URI, --blockstore-file FILE or HEADSTOCK_BLOCKSTORE"
    )]
    NoBlockstore,
    /// Nothing says which server to check.
    #[error(
        "say which server: --source, --blockstore or --to URI (or --source-file, --blockstore-file, or the environment)"
    )]
    NoServer,
    /// A role is asked for at a server that is not given.
    #[error("role {role} is one at the {place}, which is not given: add its connection string")]
    RoleWithoutServer {
        /// The role.
        role: &'static str,
        /// Where.
        place: &'static str,
    },
    /// Only servers have users.
    #[error("only a server can be checked: --to must be mongodb://..., not {target}")]
    AccessTarget {
        /// What was given.
        target: String,
    },
    /// A blockstore is to be repaired, and nothing says from where.
    #[error("say which store has the blocks: --repair of a blockstore needs --from DIR")]
    RepairFromNothing,
    /// Only a store can do it.
    #[error("this needs a store: give --store DIR, and no --blockstore")]
    OnlyStore,
    /// Standard output is gone.
    #[error("cannot write to standard output")]
    Output {
        /// Why.
        source: std::io::Error,
    },
    /// Too many filters.
    #[error(transparent)]
    Filters(#[from] TooManyFilters),
    /// The store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The source.
    #[error(transparent)]
    Source(#[from] source::Error),
    /// The blockstore.
    #[error(transparent)]
    Blockstore(#[from] blockstore::Error),
    /// A check of privileges.
    #[error(transparent)]
    Access(#[from] access::Error),
    /// A job.
    #[error(transparent)]
    Job(#[from] job::Error),
    /// A restore that had begun.
    #[error(transparent)]
    Restore(#[from] restore::Error),
    /// A restore that was not begun.
    #[error("nothing was restored: {source}")]
    Plan {
        /// Why not.
        source: restore::Error,
    },
    /// A rewind that was not begun.
    #[error("nothing was rewound: {source}")]
    Rewind {
        /// Why not.
        source: job::Error,
    },
    /// A rewind writes to a server.
    #[error("--rewind brings back a running replica set: --to must be mongodb://..., not {target}")]
    RewindTarget {
        /// What was given.
        target: String,
    },
    /// Looking inside a backup.
    #[error(transparent)]
    Inspect(#[from] inspect::Error),
    /// There is no such document.
    #[error("{ns} has no document with _id {id} at {point}")]
    NoDocument {
        /// What was asked for.
        id: String,
        /// Its collection.
        ns: String,
        /// The point.
        point: String,
    },
    /// The daemon, running here or asked through its socket.
    #[error(transparent)]
    Daemon(#[from] daemon::Error),
    /// The demo's servers or its own children.
    #[error("the demo could not go on")]
    Lab(#[from] lab::Error),
}

impl Error {
    /// The exit code that tells a script what happened.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Job(job::Error::WhichJob { .. } | job::Error::BadName { .. })
            | Self::Rewind { source: job::Error::WhichJob { .. } }
            | Self::Daemon(daemon::Error::Job(job::Error::WhichJob { .. })) => Exit::Usage,
            Self::Filters(_)
            | Self::RewindTarget { .. }
            | Self::EncryptNeedsKey
            | Self::NoRepository
            | Self::NoBlockstore
            | Self::RepairFromNothing
            | Self::NoServer
            | Self::RoleWithoutServer { .. }
            | Self::AccessTarget { .. }
            | Self::OnlyStore
            | Self::KeyWithoutEncrypt { .. } => Exit::Usage,
            Self::Plan { .. } | Self::Rewind { .. } => Exit::Refused,
            Self::Daemon(error) if error.is_refusal() => Exit::Refused,
            _ => Exit::Failed,
        }
    }

    /// The whole story for the operator: the error, then each cause that says something new.
    pub fn report(&self) -> String {
        let mut text = format!("headstock: {self}");
        let mut told = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let line = job::cause_text(error);
            if !told.contains(&line) {
                text.push_str("\n  because: ");
                text.push_str(&line);
                told = line;
            }
            cause = error.source();
        }
        if self.wants_rescan() {
            text.push_str(
                "\n  next: run it once with --rescan; snapshots stay, and what is stored",
            );
            text.push_str(" already is not stored again");
        }
        redact::credentials(&text)
    }

    /// Whether only a new scan of the source helps.
    fn wants_rescan(&self) -> bool {
        match self {
            Self::Job(error) | Self::Daemon(daemon::Error::Job(error)) => {
                error.is_healed_by_rescan()
            }
            _ => false,
        }
    }
}
