//! The restore floor against real servers: one backup of a source full of traps, restored to every
//! kind of target.

mod dumps;
mod live;
mod looking;
mod points;
mod prepared;
mod safety;
mod support;
mod traps;
mod trouble;
mod versions;
