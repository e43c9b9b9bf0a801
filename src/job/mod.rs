//! Floor job (contract in progress).
