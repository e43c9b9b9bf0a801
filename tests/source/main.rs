//! The source floor against real replica sets.

mod failover;
mod list;
mod member;
mod pace;
mod scan;
mod support;
mod tail;
