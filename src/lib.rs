//! Headstock: a continuous backup daemon for MongoDB replica sets.
//!
//! The crate is built in floors. A floor uses only the floors listed above it here; `ARCHITECTURE.md`
//! tells why each exists and how data moves through them.

mod elements;

pub mod crypt;
pub mod block;
pub mod store;
pub mod tree;
pub mod oplog;
pub mod head;
pub mod source;
pub mod blockstore;
pub mod access;
pub mod restore;
pub mod inspect;
pub mod job;
pub mod daemon;
pub mod lab;
pub mod cli;

/// Documents are taken apart into millions of small pieces that live for a sweep.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
