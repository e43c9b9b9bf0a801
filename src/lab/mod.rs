//! Throw-away replica sets of real mongod processes, for the demo and the tests.
//!
//! [`Mongod`] finds (or fetches) a server binary, [`ReplicaSet`] and [`Standalone`] run it on
//! loopback ports in a temporary directory and leave nothing behind. [`Workload`] writes to them all that
//! a backup has to follow, [`SourceState`] says what a server holds, and [`Backup`] drives the program as
//! a user does. Nothing of a backup depends on this module; it stands beside the floors, not in them.

mod backup;
mod crew;
mod error;
mod mongod;
mod oracle;
mod process;
mod program;
mod replica_set;
mod shop;
mod workload;

pub use backup::{Backup, JobLine, Point, ScanLine, SnapshotLine, StatusLine, StoreLine};
pub use error::Error;
pub use mongod::{Mongod, Release};
pub use oracle::{Detail, SourceState};
pub use program::{Program, Running};
pub use replica_set::{Options, ReplicaSet, Standalone};
pub use shop::{Shop, Size};
pub use workload::{Plan, Summary, Workload};

/// Result of a lab operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;
