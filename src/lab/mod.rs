//! What the demo and the tests work on: throw-away replica sets of real mongod processes, and a disk that fails.
//!
//! [`Mongod`] finds (or fetches) a server binary, [`ReplicaSet`] and [`Standalone`] run it on
//! loopback ports in a temporary directory and leave nothing behind. [`Workload`] writes to them all that
//! a backup has to follow, [`SourceState`] says what a server holds, and [`Backup`] drives the program as
//! a user does; [`SimDisk`] is a file system whose power can be cut. Nothing of a backup depends on this
//! module; it stands beside the floors, not in them.

mod backup;
mod crew;
mod error;
mod log_order;
mod mongod;
mod oracle;
mod process;
mod program;
mod replica_set;
mod shop;
mod sim_disk;
mod workload;

pub use backup::{Backup, GapLine, JobLine, Point, ScanLine, SnapshotLine, StatusLine, StoreLine};
pub use error::Error;
pub use log_order::LogOrder;
pub use mongod::{Mongod, Release};
pub use oracle::{Detail, SourceState};
pub use program::{Program, Running};
pub use replica_set::{Options, ReplicaSet, Standalone};
pub use shop::{Shop, Size};
pub use sim_disk::{Fault, SimDisk, Survives};
pub use workload::{Plan, Summary, Workload, unreadable_id};

use std::path::Path;

use bson::doc;
use mongodb::Client;
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

/// Result of a lab operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;
