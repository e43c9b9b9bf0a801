//! What the demo and the tests work on: throw-away replica sets of real mongod processes, and a disk that fails.
//!
//! [`Mongod`] finds (or fetches) a server binary, [`ReplicaSet`] and [`Standalone`] run it on
//! loopback ports in a temporary directory and leave nothing behind. [`Workload`] writes to them all that
//! a backup has to follow, [`SourceState`] says what a server holds, and [`Backup`] drives the program as
//! a user does; [`SimDisk`] is a file system whose power can be cut, and [`S3Server`] is a bucket. Nothing
//! of a backup depends on this module; it stands beside the floors, not in them.

mod backup;
mod crew;
mod error;
mod log_order;
mod mongod;
mod oracle;
mod process;
mod program;
mod replica_set;
mod s3;
mod shop;
mod sim_disk;
mod wheel;
mod workload;

pub use backup::{Backup, GapLine, JobLine, Point, ScanLine, SnapshotLine, StatusLine, StoreLine};
pub use error::Error;
pub use log_order::LogOrder;
pub use mongod::{Mongod, Release};
pub use oracle::{Detail, SourceState};
pub use program::{Program, Running};
pub use replica_set::{Options, ReplicaSet, Standalone};
pub use s3::S3Server;
pub use shop::{Shop, Size};
pub use sim_disk::{Fault, SimDisk, Survives};
pub use workload::{Plan, Summary, Workload, unreadable_id};

use std::path::Path;
use std::time::Duration;

use bson::{Document, doc};
use mongodb::error::TRANSIENT_TRANSACTION_ERROR;
use mongodb::{Client, ClientSession};
use tempfile::TempDir;

/// Makes a folder under `parent` that goes when it is dropped.
///
/// # Errors
/// `parent` cannot be made or written to.
pub fn temporary_folder(parent: &Path) -> Result<TempDir> {
    std::fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    let folder = tempfile::Builder::new().prefix("headstock-lab-").tempdir_in(parent);
    folder.map_err(Error::io("create a folder in", parent))
}

/// The version of a server.
///
/// # Errors
/// The driver's.
pub async fn server_version(client: &Client) -> Result<String> {
    let info = client.database("admin").run_command(doc! { "buildInfo": 1 }).await;
    let info = info.map_err(Error::driver("ask for its version"))?;
    let version = info.get_str("version").map(str::to_owned);
    version.map_err(|_| Error::Reply { command: "buildInfo", field: "version" })
}

/// How often a transaction is begun before the server's refusal is passed on.
const BEGIN_ATTEMPTS: u32 = 50;

/// Begins a transaction that makes `statements` in `database`; it is begun anew as long as the server asks for that, as
/// it does while its snapshot is older than a collection.
///
/// # Errors
/// The driver's; a statement that is refused in its reply.
pub async fn transaction(
    client: &Client,
    database: &str,
    statements: &[Document],
) -> Result<ClientSession> {
    let mut left = BEGIN_ATTEMPTS;
    loop {
        left -= 1;
        match begun(client, database, statements).await {
            Err(error) if left > 0 && error.contains_label(TRANSIENT_TRANSACTION_ERROR) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            begun => return begun.map_err(Error::driver("begin a transaction")),
        }
    }
}

async fn begun(
    client: &Client,
    database: &str,
    statements: &[Document],
) -> mongodb::error::Result<ClientSession> {
    let mut session = client.start_session().await?;
    session.start_transaction().await?;
    for statement in statements {
        let database = client.database(database);
        let reply = database.run_command(statement.clone()).session(&mut session).await?;
        if let Some(refused) = reply.get("writeErrors") {
            return Err(mongodb::error::Error::custom(refused.to_string()));
        }
    }
    Ok(session)
}

/// Result of a lab operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;
