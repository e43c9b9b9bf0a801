//! A job in a blockstore: pushed, restored from, rebuilt, groomed, checked, while its replica set does what replica sets do.

mod check;
mod encrypted;
mod failover;
#[path = "../forms/mod.rs"]
mod forms;
mod groom;
mod log;
mod objects;
mod push;
mod rebuild;
mod scene;
mod takeover;
mod watch;
