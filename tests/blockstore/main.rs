//! A job in a blockstore: pushed, restored from, rebuilt, while its replica set does what replica sets do.

mod push;
mod scene;
