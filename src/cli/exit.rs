//! Exit codes.

use std::process::ExitCode;

/// How a command ended. The numbers are documented in `--help` and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It did what it was asked to.
    Done = 0,
    /// It failed.
    Failed = 1,
    /// The arguments make no sense.
    Usage = 2,
    /// `fsck` or `compact` found damage, `verify` or a rewind differences, or `check-access` something missing.
    Damage = 3,
    /// A plan found a reason not to start; nothing was touched.
    Refused = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
