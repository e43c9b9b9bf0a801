//! What can go wrong while looking inside.

use crate::{block, head, oplog, restore, tree};

/// An error of the inspect floor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The point is none, or the backup cannot be read.
    #[error(transparent)]
    Restore(#[from] restore::Error),
    /// No collection has that name at the point.
    #[error(
        "there is no collection {ns} at {point}; a view has no documents of its own, those of a \
         time series are in its system.buckets collection"
    )]
    NoCollection {
        /// The name asked for.
        ns: String,
        /// The point.
        point: String,
    },
    /// The result could not be handed on.
    #[error("cannot write the result")]
    Output(#[source] std::io::Error),
}

/// Errors of the floors that a backup is read through are those of reading it.
macro_rules! of_reading {
    ($($lower:ty),*) => {$(
        impl From<$lower> for Error {
            fn from(why: $lower) -> Self {
                Self::Restore(why.into())
            }
        }
    )*};
}

of_reading!(block::Error, tree::Error, oplog::Error, head::Error);
