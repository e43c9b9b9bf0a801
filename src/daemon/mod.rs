//! The daemon: jobs followed for ever, a schedule, a control socket, signals.
//!
//! A daemon owns its store through the store's own lock; the socket `control.sock` in the store's
//! directory is only how other processes ask it to do what they cannot do while it holds that lock.
//! Commands that only read do not need it: they open the store beside the daemon.

mod client;
mod control;
mod error;
mod protocol;
mod run;
mod scrub;
mod serve;
mod signals;
mod socket;

pub use client::{ask_or_do, status};
pub use error::Error;
pub use protocol::{Answer, CompactReport, Refusal, Request};
pub use run::{COMPACT_AT_PERCENT, Daemon, Options};
pub use scrub::Scrub;
pub use serve::Answers;
pub use signals::Signals;
