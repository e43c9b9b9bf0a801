//! Floor blockstore (contract in progress).
