//! Floor restore (contract in progress).
