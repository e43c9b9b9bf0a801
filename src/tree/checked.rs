//! Which chunks were checked right behind which others: a tree that has them side by side too need not read them again.
//!
//! What is checked of a chunk depends on the shape of its tree, on its entry, on the last key of the chunk before it, and on whether
//! its tree ends with it. All that is hashed together. Memory is bounded: what is beyond is read again.

use std::collections::HashSet;
use std::sync::PoisonError;

use super::Shape;
use super::node::{Entry, Separator};
use crate::store::sync::RwLock;

/// Pairs that are remembered, of 16 bytes each: with the slack of the table, 36 MB.
const PAIRS_MAX: usize = 7 << 18;

/// See the head of this file.
#[derive(Debug, Default)]
pub struct Checked {
    pairs: RwLock<HashSet<Pair>>,
}

/// A chunk behind another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Pair([u8; 16]);

impl Pair {
    /// `rightmost`: the last chunk of its tree, which may end without a cut.
    pub(super) fn of(shape: &Shape, before: &Entry, entry: &Entry, rightmost: bool) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("headstock: one chunk behind another");
        shape.hash_into(&mut hasher);
        hasher.update(&[u8::from(rightmost)]);
        for entry in [before, entry] {
            // The number of ids comes first, so that no two pairs are the same bytes.
            let mut ids = Vec::new();
            entry.child.iter().chain(&entry.parts).for_each(|id| ids.extend(id.as_bytes()));
            hasher.update(&[u8::from(entry.child.is_some())]);
            hasher.update(&(ids.len() as u64).to_le_bytes()).update(&ids);
        }
        hasher.update(&entry.documents.to_le_bytes()).update(&entry.bytes.to_le_bytes());
        match &entry.separator {
            Separator::Inline(bytes) => hasher.update(&[0]).update(bytes),
            Separator::Stored { len, pieces } => {
                hasher.update(&[1]).update(&len.to_le_bytes());
                pieces.iter().fold(&mut hasher, |hasher, piece| hasher.update(piece.as_bytes()))
            }
        };
        let mut pair = [0; 16];
        hasher.finalize_xof().fill(&mut pair);
        Self(pair)
    }
}

impl Checked {
    pub(super) fn has(&self, pair: &Pair) -> bool {
        self.pairs.read().unwrap_or_else(PoisonError::into_inner).contains(pair)
    }

    pub(super) fn note(&self, pair: Pair) {
        let mut pairs = self.pairs.write().unwrap_or_else(PoisonError::into_inner);
        if pairs.len() < PAIRS_MAX {
            pairs.insert(pair);
        }
    }
}
