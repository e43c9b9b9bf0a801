//! When the operations of transactions take effect.

use super::{Abort, ApplyOps, Commit, Error, OpTime, Ts};

/// The most transactions that may be open at once. A server's own limits (tickets, sessions,
/// cache) keep it at some thousands.
pub const MAX_OPEN_TRANSACTIONS: usize = 1 << 16;

/// Whether all entries of open transactions can be expected to have been seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Entries before the start of a scan, to collect what is open there. Parts of transactions
    /// whose beginning was not read are passed over: they are decided before the scan's start.
    Preload,
    /// Every entry is seen; one that refers to nothing held is an error.
    Steady,
}

/// One entry of an open transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part<H> {
    /// The entry.
    pub optime: OpTime,
    /// Number of operations in it.
    pub operations: u64,
    /// Where the caller keeps them.
    pub handle: H,
}

/// An open transaction: exported and restored with the head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain<H> {
    /// Bytes of `lsid`; empty if the entries have none.
    pub lsid: Vec<u8>,
    /// `txnNumber`.
    pub txn_number: Option<i64>,
    /// Whether the last part is a prepare entry.
    pub prepared: bool,
    /// Its entries, in order; never empty.
    pub parts: Vec<Part<H>>,
}

/// What an entry means for the operations held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<H> {
    /// Nothing takes effect; the handle is kept.
    Hold,
    /// The operations behind these handles take effect now, in this order, atomically.
    Apply {
        /// Handles in order, that of this entry last if it has operations.
        handles: Vec<H>,
        /// The timestamp from which on a reader sees them: this entry's, or commitTimestamp.
        visible_at: Ts,
        /// Timestamp of the prepare entry, where there was one.
        prepared_at: Option<Ts>,
    },
    /// The operations behind these handles will never take effect.
    Discard(Vec<H>),
}

/// Follows transactions by the optimes that chain them.
#[derive(Debug, Clone)]
pub struct Assembler<H> {
    _chains: Vec<Chain<H>>,
}

impl<H: Clone> Default for Assembler<H> {
    fn default() -> Self {
        Self::new()
    }
}

impl<H: Clone> Assembler<H> {
    /// Nothing open.
    #[must_use]
    pub fn new() -> Self {
        unimplemented!()
    }

    /// The state that [`Assembler::open`] showed.
    ///
    /// # Errors
    /// [`super::TransactionError`] `Duplicate`, `TooMany`.
    pub fn restore(_chains: impl IntoIterator<Item = Chain<H>>) -> Result<Self, Error> {
        unimplemented!()
    }

    /// Takes an applyOps entry; `handle` names its operations.
    ///
    /// # Errors
    /// [`super::TransactionError`]; nothing has changed then.
    pub fn apply_ops(
        &mut self,
        _at: OpTime,
        _entry: &ApplyOps<'_>,
        _handle: H,
        _phase: Phase,
    ) -> Result<Outcome<H>, Error> {
        unimplemented!()
    }

    /// Takes a commitTransaction entry.
    ///
    /// # Errors
    /// [`super::TransactionError::UnknownPredecessor`]; nothing has changed then.
    pub fn commit(
        &mut self,
        _at: OpTime,
        _entry: &Commit<'_>,
        _phase: Phase,
    ) -> Result<Outcome<H>, Error> {
        unimplemented!()
    }

    /// Takes an abortTransaction entry.
    ///
    /// # Errors
    /// [`super::TransactionError::UnknownPredecessor`]; nothing has changed then.
    pub fn abort(
        &mut self,
        _at: OpTime,
        _entry: &Abort<'_>,
        _phase: Phase,
    ) -> Result<Outcome<H>, Error> {
        unimplemented!()
    }

    /// The open transactions, in the order of their last entries.
    pub fn open(&self) -> impl Iterator<Item = &Chain<H>> {
        self._chains.iter()
    }

    /// Prepare timestamps of undecided prepared transactions, lowest first.
    #[must_use]
    pub fn undecided(&self) -> Vec<Ts> {
        unimplemented!()
    }
}
