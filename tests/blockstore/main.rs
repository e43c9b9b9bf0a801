//! A job in a blockstore: pushed, restored from, rebuilt, while its replica set does what replica sets do.

mod failover;
#[path = "../forms/mod.rs"]
mod forms;
mod push;
mod scene;
mod takeover;
mod watch;
