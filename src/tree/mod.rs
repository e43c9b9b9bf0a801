//! Ordered maps from key to document over blocks: history-independent search trees.
//!
//! Problem: a collection changes a little between two snapshots, and two daemons that arrive at the
//! same documents by different ways must arrive at the same blocks. A tree whose shape depends on
//! the order of its edits stores things twice and cannot be compared by one hash. So here shape
//! follows from content alone: a leaf is a run of documents that ends where a salted hash of the
//! last document's key says so ([`Shape`]), and inner nodes are runs of entries cut the same way.
//! The same documents give the same [`Root`] whatever the path.
//!
//! - [`Key`] orders documents as the server's `_id` index does.
//! - [`Builder`] makes a tree from sorted input, bottom-up, in memory of one node per level, and
//!   adopts subtrees of other trees unread.
//! - [`edit()`] and [`edit_positional`] sweep once over the changes, [`Ranges`] on several threads.
//! - [`Cursor`], [`get`], [`diff()`] and [`unlike()`] read; [`verify()`] checks every rule of the format.
//!
//! The format is `format-spec/04-trees.md`. Nothing here trusts a block: every read is bounded by
//! [`MAX_LEVEL`], and what breaks a rule is an [`Error`] that names the block.

mod builder;
mod checked;
mod cursor;
mod diff;
mod edit;
mod error;
mod family;
mod fresh;
mod graft;
mod hurt;
mod key;
mod node;
mod parts;
mod positional;
mod read;
mod root;
mod shape;
mod unlike;
mod verify;

pub use builder::Builder;
pub use checked::Checked;
pub use cursor::{Cursor, get};
pub use diff::{Difference, diff};
pub use edit::{Edit, Merge, edit};
pub use error::Error;
pub use family::{MIN_FAMILY_BYTES, family};
pub use fresh::fresh;
pub use hurt::{Hurt, hurt};
pub use key::Key;
pub use parts::{RangeEdits, Ranges};
pub use positional::{Verdict, edit_positional, trim_front};
pub use root::Root;
pub use shape::{Content, Order, Shape};
pub use unlike::{Side, unlike};
pub use verify::{verify, verify_beside, verify_nodes};

/// Levels of inner nodes a tree may have. Each node but the last of its level has two entries or
/// more, so this is more than 2^32 leaves in the worst case and never reached in practice.
pub const MAX_LEVEL: u8 = 32;

/// The longest document, in bytes: the server's 16 MiB for users, and what its own machinery may
/// add in oplog entries and internal collections.
pub const MAX_DOCUMENT_BYTES: usize = (16 << 20) + (64 << 10);

/// A longer document does not stand in a leaf but in part blocks of this length.
pub const PART_BYTES: usize = 512 << 10;

/// Nesting of an `_id`, in levels. Servers refuse documents nested deeper than 200 levels by
/// default and 250 at most.
pub const MAX_NESTING: usize = 256;

/// The longest separator that stands in its node, in bytes. A longer one would crowd out the
/// children, so it stands in stream blocks that the node names.
const MAX_INLINE_SEPARATOR_BYTES: usize = 512;

/// The longest key, in bytes: three times the longest document, and a little (see [`Key`]).
const MAX_KEY_BYTES: usize = 3 * MAX_DOCUMENT_BYTES + 16;

#[cfg(test)]
mod tests;
