//! Where trees are cut.
//!
//! A chunk (leaf or node) ends after an item whose salted hash is below the hazard of the bytes that
//! the item adds: the sizes then follow a Weibull distribution of order 4, which scatters far less
//! than a plain threshold would, and cuts realign soon after a change. The hash is of the key and
//! never of the value: a changed value of the same length cannot move a cut.

use std::fmt;
use std::sync::Arc;

use crate::block::{Kind, MAX_BLOCK_BYTES};
use crate::store::RepositorySalt;

use super::{MAX_LEVEL, PART_BYTES};

/// Whether documents stand in key order or in the order they were appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// By key.
    Keyed,
    /// By position (capped collections).
    Positional,
}

/// What the leaves hold, hence the kind of their blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// User documents: [`crate::block::Kind::Leaf`].
    Documents,
    /// Our own documents that name blocks: [`crate::block::Kind::Links`]. None may be longer than
    /// [`PART_BYTES`], because a part names no blocks.
    Links,
}

impl Content {
    /// The kind of a leaf.
    pub(super) const fn leaf_kind(self) -> Kind {
        match self {
            Self::Documents => Kind::Leaf,
            Self::Links => Kind::Links,
        }
    }
}

/// Sizes of the chunks of one sort.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rule {
    /// Scale of the distribution in bytes: the mean is about nine tenths of it.
    scale: u64,
    /// No cut before a chunk has this many bytes.
    min: u64,
    /// A cut at the latest when it has this many.
    max: u64,
}

/// Leaves. Small, because a changed document costs its leaf: measured in `benches/leaves.md`.
pub(super) const LEAF: Rule = Rule { scale: 4 << 10, min: 1 << 10, max: 64 << 10 };

/// Inner nodes. Their ids do not compress, and one is rewritten per level and change.
pub(super) const NODE: Rule = Rule { scale: 4 << 10, min: 1 << 10, max: 64 << 10 };

/// Fewest entries in a node that is not the last of its level, so that each level is at most half
/// as long as the one under it.
pub(super) const MIN_NODE_ENTRIES: usize = 2;

const _: () = assert!(LEAF.max as usize + PART_BYTES <= MAX_BLOCK_BYTES);

impl Rule {
    /// Whether a chunk of `before` bytes ends after an item that makes it `after` bytes. The hash is
    /// asked for only where it decides.
    pub(super) fn cuts(self, before: u64, after: u64, hash: impl FnOnce() -> u64) -> bool {
        if after < self.min {
            return false;
        }
        if after >= self.max {
            return true;
        }
        let fourth = |size: u64| u128::from(size).pow(4);
        let (hazard, certain) = (fourth(after) - fourth(before), fourth(self.scale));
        hazard >= certain || u128::from(hash()) < (hazard << 64) / certain
    }
}

/// How a tree is cut. Two trees compare by root only if built with the same shape.
#[derive(Clone)]
pub struct Shape {
    pub(super) order: Order,
    pub(super) content: Content,
    pub(super) leaf: Rule,
    /// One per level; level 0 is the leaves'.
    salts: Arc<[[u8; 32]]>,
    #[cfg(test)]
    constant_hash: Option<u64>,
}

impl fmt::Debug for Shape {
    // Without the salts: they are secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shape")
            .field("order", &self.order)
            .field("content", &self.content)
            .finish_non_exhaustive()
    }
}

impl Shape {
    /// The shape of a repository's trees.
    #[must_use]
    pub fn new(salt: RepositorySalt, order: Order, content: Content) -> Self {
        let level_salt = |level| {
            let mut hasher = blake3::Hasher::new();
            hasher.update(&salt.0);
            hasher.update(&[level]);
            *hasher.finalize().as_bytes()
        };
        Self {
            order,
            content,
            leaf: LEAF,
            salts: (0..=MAX_LEVEL).map(level_salt).collect(),
            #[cfg(test)]
            constant_hash: None,
        }
    }

    /// The same with leaves of another size, in bytes: for the benchmark that compares sizes. No store has such trees.
    ///
    /// # Panics
    /// If a leaf might not fit a block.
    #[must_use]
    pub fn with_leaves_of(mut self, scale: u64) -> Self {
        assert!(scale <= LEAF.max, "a leaf of {scale} bytes");
        self.leaf = Rule { scale, min: scale / 4, max: LEAF.max };
        self
    }

    /// A shape to which every item's hash is the same, for tests of the bounds.
    #[cfg(test)]
    pub(super) fn with_constant_hash(mut self, hash: u64) -> Self {
        self.constant_hash = Some(hash);
        self
    }

    /// The hash that decides about an item at a level: of a key at level 0, of an entry's identity
    /// above it.
    pub(super) fn hash(&self, level: u8, item: &[u8]) -> u64 {
        #[cfg(test)]
        if let Some(hash) = self.constant_hash {
            return hash;
        }
        let hash = blake3::keyed_hash(&self.salts[usize::from(level)], item);
        let (first, _) = hash.as_bytes().split_first_chunk().expect("a hash has 32 bytes");
        u64::from_le_bytes(*first)
    }

    /// Hashes all that a shape is.
    pub(super) fn hash_into(&self, hasher: &mut blake3::Hasher) {
        let Rule { scale, min, max } = self.leaf;
        let kinds = [self.is_keyed(), self.content == Content::Links].map(u8::from);
        hasher.update(&self.salts[0]).update(&kinds);
        [scale, min, max].iter().for_each(|size| _ = hasher.update(&size.to_le_bytes()));
    }

    pub(super) fn is_keyed(&self) -> bool {
        self.order == Order::Keyed
    }
}
