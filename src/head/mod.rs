//! The head: a source's replicated state at one optime.
//!
//! A [`Head`] is a catalog of collections by UUID, each the root of a tree of documents, and the
//! changes that oplog entries made since those trees were written. Entries are applied to the catalog
//! at once and to documents as net effects per key, which wait in memory and in sorted runs on
//! scratch until [`Head::flush`] sweeps each changed tree once. What a flush returns, a [`HeadRoot`],
//! is all that is needed to go on from its optime: no older entry is ever asked for.
//!
//! Nothing here is the only copy of anything. Entries are durable as oplog slices before they are
//! applied; a head that failed, or whose process died, is loaded from the last committed root and the
//! slices after it are applied again. So after any error of [`Head::apply`] or [`Head::flush`] the
//! head is spent: drop it and load again.
//!
//! - `catalog` and `commands`: names, options, indexes, and what each catalog command does to them.
//! - `changes`, `runs` and `sweep`: net effects per key, their spilling, their merge into a tree.
//! - `capped`: the same for collections that are ordered by position.
//! - `held`: operations of open transactions.
//! - [`content_root`]: the hash two heads are compared by.
//! - [`namespaces`]: what is backed up and what is left out, with the reason.
//! - [`scope`]: what of that a job's filters keep.
//!
//! The stored forms are `format-spec/06-heads.md`.

mod apply;
mod capped;
mod catalog;
mod change;
mod changes;
mod coll_mod;
mod commands;
pub mod content_root;
mod error;
pub(crate) mod fields;
mod foreign;
mod held;
mod manifest;
mod merge;
pub mod namespaces;
mod options;
mod pending;
mod root;
mod runs;
pub mod scope;
mod state;
mod sweep;
#[cfg(test)]
mod tests;

pub use catalog::{Collection, catalog};
pub use error::{Error, Rescan};
pub use manifest::Manifest;
pub use pending::{open_transactions, undecided};
pub use root::HeadRoot;
pub use scope::Scope;
pub(crate) use state::tracks;
pub use state::{Config, Divergences, Head};

/// What a scan found of one collection, to start a head from: its finished tree and its catalog
/// entry as listCollections and listIndexes showed it.
pub type Scanned = Collection;

/// Version of the rules by which entries are applied. Part of every manifest: a head made under
/// other rules is rebuilt, not continued.
pub const RULE_VERSION: u32 = 1;
