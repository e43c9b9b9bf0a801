//! Every operation and command this version knows, how it is treated and why.

/// A row of the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Known {
    /// Value of `op`.
    pub op: &'static str,
    /// First field of `o`, where `op` is `c`.
    pub command: Option<&'static str>,
    /// What is done.
    pub treatment: Treatment,
    /// Why, in a few words.
    pub why: &'static str,
}

/// What is done with an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    /// Changes documents or the catalog.
    Applied,
    /// Part of a transaction's life.
    Transaction,
    /// Changes nothing that is backed up.
    Ignored,
    /// Cannot be derived from the oplog: the collection must be scanned again.
    Rescan,
}
