//! Looking inside a backup: what differs between two points, one document at a point, and every version
//! of one document.
//!
//! All of it is read through views ([`crate::restore::View`]) and oplog slices, beside whoever writes the
//! store, and writes nothing into the repository. Results are handed out one by one, so that memory is
//! bounded by the largest document and not by the result.

mod diff;
mod ejson;
mod error;
mod get;
mod log;

pub use diff::{CollectionChange, Counts, Event, Kind, diff};
pub use ejson::{Id, ParseIdError, json_of_document, json_of_id, json_of_text};
pub use error::Error;
pub use get::get;
pub use log::{Change, Line, Version, log};
