//! Floor daemon (contract in progress).
