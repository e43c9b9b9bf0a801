//! What can go wrong with a daemon, or with asking one.

use std::path::PathBuf;

use super::Answer;
use crate::{job, source, store};

/// An error of the daemon floor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Signals cannot be listened for.
    #[error("cannot listen for signals")]
    Signals {
        /// Why.
        source: std::io::Error,
    },
    /// The command was told to stop.
    #[error("stopped by a signal; what was done is kept, run the command again to go on")]
    Interrupted,
    /// The control socket cannot be made.
    #[error("cannot make the control socket {}", path.display())]
    Bind {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Talking to the daemon failed.
    #[error("the daemon at {} does not answer; is it ending? try again", path.display())]
    Talk {
        /// Its socket.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The daemon answered what this program does not understand.
    #[error("the daemon answers {got} where {wanted} was expected; is it another version?")]
    Protocol {
        /// What was expected.
        wanted: &'static str,
        /// What came.
        got: String,
    },
    /// The daemon said no.
    #[error("{0}")]
    Refused(String),
    /// The daemon failed at what it was asked.
    #[error("the daemon reports: {0}")]
    Failed(String),
    /// A job.
    #[error(transparent)]
    Job(#[from] job::Error),
    /// The source.
    #[error(transparent)]
    Source(#[from] source::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Error {
    /// The error that an answer is of another kind than the request's.
    #[must_use]
    pub fn unexpected(answer: &Answer) -> Self {
        Self::Protocol { wanted: "another answer", got: format!("{answer:?}") }
    }

    /// Whether it means that nothing was done because it must not be.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Refused(_)
                | Self::Job(job::Error::Kept { .. } | job::Error::NotConsistent { .. })
        )
    }

    /// The error and its causes in one line.
    #[must_use]
    pub fn in_one_line(&self) -> String {
        job::in_one_line(self)
    }
}
