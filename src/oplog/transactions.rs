//! When the operations of transactions take effect.
//!
//! A transaction is one entry, or a chain of entries linked by `prevOpTime`; its last entry applies
//! it or prepares it, a prepared one waits for commitTransaction or abortTransaction. Chains are
//! followed by optimes and never by session: vectored inserts and retryable writes share those.
//! Where the operations live meanwhile is the caller's choice: a handle stands for those of one
//! entry. Which timestamps are restorable follows from [`Assembler::undecided`]: a transaction
//! prepared at or before T may still turn out to be visible at T.

use std::collections::BTreeMap;

use super::{Abort, ApplyOps, ApplyOpsRole, Commit, Error, OpTime, Session, TransactionError, Ts};

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

impl<H> Chain<H> {
    fn new(session: Session<'_>) -> Self {
        let lsid = session.lsid.map(|lsid| lsid.as_bytes().to_vec()).unwrap_or_default();
        Self { lsid, txn_number: session.txn_number, prepared: false, parts: Vec::new() }
    }

    fn operations(&self) -> u64 {
        self.parts.iter().map(|part| part.operations).sum()
    }

    fn is_of(&self, session: Session<'_>) -> bool {
        session.lsid.is_some_and(|lsid| lsid.as_bytes() == self.lsid)
            && session.txn_number == self.txn_number
    }

    fn into_handles(self) -> Vec<H> {
        self.parts.into_iter().map(|part| part.handle).collect()
    }
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
    /// Open transactions by the optime of their last entry.
    chains: BTreeMap<OpTime, Chain<H>>,
}

impl<H> Default for Assembler<H> {
    fn default() -> Self {
        Self::new()
    }
}

impl<H> Assembler<H> {
    /// Nothing open.
    #[must_use]
    pub const fn new() -> Self {
        Self { chains: BTreeMap::new() }
    }

    /// The state that [`Assembler::open`] showed.
    ///
    /// # Errors
    /// [`TransactionError`] `Empty`, `Duplicate`, `TooMany`.
    pub fn restore(chains: impl IntoIterator<Item = Chain<H>>) -> Result<Self, Error> {
        let mut assembler = Self::new();
        for chain in chains {
            let at = chain.parts.last().ok_or(TransactionError::Empty)?.optime;
            assembler.check_room(at, false)?;
            assembler.chains.insert(at, chain);
        }
        Ok(assembler)
    }

    /// Takes an applyOps entry; `handle` names its operations.
    ///
    /// # Errors
    /// [`TransactionError`]; nothing has changed then.
    pub fn apply_ops(
        &mut self,
        at: OpTime,
        entry: &ApplyOps<'_>,
        handle: H,
        phase: Phase,
    ) -> Result<Outcome<H>, Error> {
        let own = entry.operations.into_iter().count() as u64;
        let prev = match entry.role {
            ApplyOpsRole::Standalone => None,
            _ => entry.prev,
        };
        let open = prev.filter(|prev| self.chains.get(prev).is_some_and(|chain| !chain.prepared));
        let found = own + open.map_or(0, |open| self.chains[&open].operations());
        let whole = entry.count.is_none_or(|stated| stated == found);
        if let (None, Some(prev)) = (open, prev) {
            // A retryable write before the transaction is a predecessor, too, but no part of it:
            // then all operations are in this entry.
            if entry.role == ApplyOpsRole::Partial || !whole {
                return match phase {
                    Phase::Preload => Ok(Outcome::Discard(vec![handle])),
                    Phase::Steady => Err(TransactionError::UnknownPredecessor { at, prev }.into()),
                };
            }
        }
        if let Some(stated) = entry.count
            && !whole
        {
            return Err(TransactionError::Count { at, stated, found }.into());
        }
        let holds = matches!(entry.role, ApplyOpsRole::Partial | ApplyOpsRole::Prepare);
        if holds {
            self.check_room(at, open.is_some())?;
        }
        let chain = open.and_then(|open| self.chains.remove(&open));
        let mut chain = chain.unwrap_or_else(|| Chain::new(entry.session));
        chain.parts.push(Part { optime: at, operations: own, handle });
        if holds {
            chain.prepared = entry.role == ApplyOpsRole::Prepare;
            self.chains.insert(at, chain);
            return Ok(Outcome::Hold);
        }
        let handles = chain.into_handles();
        Ok(Outcome::Apply { handles, visible_at: at.ts, prepared_at: None })
    }

    /// Takes a commitTransaction entry.
    ///
    /// # Errors
    /// [`TransactionError::UnknownPredecessor`]; nothing has changed then.
    pub fn commit(
        &mut self,
        at: OpTime,
        entry: &Commit<'_>,
        phase: Phase,
    ) -> Result<Outcome<H>, Error> {
        let prev = entry.prev.unwrap_or(OpTime::NULL);
        if !self.chains.get(&prev).is_some_and(|chain| chain.prepared) {
            return unknown(at, prev, phase);
        }
        let handles = self.chains.remove(&prev).map(Chain::into_handles).unwrap_or_default();
        let prepared_at = Some(prev.ts);
        Ok(Outcome::Apply { handles, visible_at: entry.commit_ts, prepared_at })
    }

    /// Takes an abortTransaction entry.
    ///
    /// # Errors
    /// [`TransactionError::UnknownPredecessor`]; nothing has changed then.
    pub fn abort(
        &mut self,
        at: OpTime,
        entry: &Abort<'_>,
        phase: Phase,
    ) -> Result<Outcome<H>, Error> {
        if let Some(prev) = entry.prev {
            return match self.chains.remove(&prev) {
                Some(chain) => Ok(Outcome::Discard(chain.into_handles())),
                None => unknown(at, prev, phase),
            };
        }
        // A new primary aborts what its predecessor left unprepared. It need not have logged any
        // part of it, so nothing held is nothing wrong.
        let mut of_session = self.chains.iter().filter(|(_, chain)| !chain.prepared);
        let last = of_session.find(|(_, chain)| chain.is_of(entry.session)).map(|(last, _)| *last);
        let chain = last.and_then(|last| self.chains.remove(&last));
        Ok(Outcome::Discard(chain.map(Chain::into_handles).unwrap_or_default()))
    }

    /// The open transactions, in the order of their last entries.
    pub fn open(&self) -> impl Iterator<Item = &Chain<H>> {
        self.chains.values()
    }

    /// Prepare timestamps of undecided prepared transactions, lowest first.
    #[must_use]
    pub fn undecided(&self) -> Vec<Ts> {
        let prepared = self.chains.iter().filter(|(_, chain)| chain.prepared);
        prepared.map(|(at, _)| at.ts).collect()
    }

    /// Whether an open transaction may end at `at`; `replaces` one that ended before.
    fn check_room(&self, at: OpTime, replaces: bool) -> Result<(), TransactionError> {
        if self.chains.contains_key(&at) {
            return Err(TransactionError::Duplicate { at });
        }
        if !replaces && self.chains.len() >= MAX_OPEN_TRANSACTIONS {
            return Err(TransactionError::TooMany { at, limit: MAX_OPEN_TRANSACTIONS });
        }
        Ok(())
    }
}

/// A decision about a transaction that is not held.
fn unknown<H>(at: OpTime, prev: OpTime, phase: Phase) -> Result<Outcome<H>, Error> {
    match phase {
        Phase::Preload => Ok(Outcome::Discard(Vec::new())),
        Phase::Steady => Err(TransactionError::UnknownPredecessor { at, prev }.into()),
    }
}

#[cfg(test)]
mod tests;
