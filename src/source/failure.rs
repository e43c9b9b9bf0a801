//! Turns driver errors into ours, and tells which of them another attempt may cure.

use std::time::Duration;

use mongodb::error::{Error as DriverError, ErrorKind};

use super::Error;
use crate::oplog::{Ts, Uuid};

/// Attempts without progress before an operation gives up. With the back-off below that is about a
/// minute: elections take 12 s by default, the restart of a member longer.
pub(super) const ATTEMPTS_MAX: u32 = 14;

/// First wait between attempts.
const BACK_OFF_FIRST: Duration = Duration::from_millis(50);

/// Longest wait between attempts.
const BACK_OFF_MAX: Duration = Duration::from_secs(10);

/// How long to wait before attempt `attempt` (from 1), doubling.
pub(super) fn back_off(attempt: u32) -> Duration {
    // The bound of the shift only keeps it defined; the cap is reached long before.
    BACK_OFF_FIRST.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(BACK_OFF_MAX)
}

/// Server codes by which a collection named by UUID is known to be gone.
const NAMESPACE_NOT_FOUND: i32 = 26;

/// The user lacks a privilege.
const UNAUTHORIZED: i32 = 13;

/// Credentials were refused.
const AUTHENTICATION_FAILED: i32 = 18;

/// `find` names an index that does not exist (and other bad values).
const BAD_VALUE: i32 = 2;

/// Invalid options; the server's code for a cluster time that a lagging member does not know.
const INVALID_OPTIONS: i32 = 72;

/// History of that age is not kept any more.
const SNAPSHOT_TOO_OLD: i32 = 239;

/// The collection's catalog entry has changed since then.
const SNAPSHOT_UNAVAILABLE: i32 = 246;

/// The command does not exist on this server.
pub(super) const COMMAND_NOT_FOUND: i32 = 59;

/// InterruptedDueToReplStateChange.
const INTERRUPTED_BY_STATE_CHANGE: i32 = 11602;

/// Codes after which the same command may be sent again to the same member: only the cursor or the
/// operation was ended, or what is in its way ends soon.
const OPERATION_ENDED: &[i32] = &[
    24,  // LockTimeout
    43,  // CursorNotFound
    50,  // MaxTimeMSExpired
    112, // WriteConflict
    134, // ReadConcernMajorityNotAvailableYet
    136, // CappedPositionLost
    175, // QueryPlanKilled: renamed, dropped, or its index dropped
    202, // NetworkInterfaceExceededTimeLimit
    237, // CursorKilled
    SNAPSHOT_TOO_OLD,
    SNAPSHOT_UNAVAILABLE,
    262,   // ExceededTimeLimit
    290,   // TransactionExceededLifetimeLimitSeconds
    11601, // Interrupted (killOp)
    INTERRUPTED_BY_STATE_CHANGE,
    // listIndexes while an index of a time series is built, where its spec has what the reply's form
    // has not, such as a collation (6.0.5): it can be listed when it is built.
    5_254_501,
];

/// Codes after which another member is the better choice.
const MEMBER_LEFT: &[i32] = &[
    6,     // HostUnreachable
    7,     // HostNotFound
    89,    // NetworkTimeout
    91,    // ShutdownInProgress
    189,   // PrimarySteppedDown
    9001,  // SocketException
    10058, // LegacyNotPrimary
    10107, // NotWritablePrimary
    11600, // InterruptedAtShutdown
    13435, // NotPrimaryNoSecondaryOk
    13436, // NotPrimaryOrSecondary: recovering or rolling back
];

/// Whether another attempt, at this member or another, may go better.
pub(crate) fn is_passing(error: &DriverError) -> bool {
    driver_cure(error) != Cure::None
}

/// Whether a server's error code says that it is not primary any more, or shuts down.
pub(crate) fn is_of_change_of_primary(code: i32) -> bool {
    MEMBER_LEFT.contains(&code) || code == INTERRUPTED_BY_STATE_CHANGE
}

/// What another attempt may do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cure {
    /// Nothing: it would fail again.
    None,
    /// Ask the same member again.
    Again,
    /// Ask another member, if there is one.
    Elsewhere,
}

/// The server's error code, if the server answered.
pub(super) fn code(error: &DriverError) -> Option<i32> {
    match error.kind.as_ref() {
        ErrorKind::Command(command) => Some(command.code),
        _ => None,
    }
}

/// Wraps what the driver says of `command` on `member`.
pub(super) fn of_driver(member: &str, command: &str, error: DriverError) -> Error {
    let (member, command, source) = (member.to_owned(), command.to_owned(), Box::new(error));
    let refused = matches!(source.kind.as_ref(), ErrorKind::Authentication { .. });
    match code(&source) {
        _ if refused => Error::Authentication { member, source },
        Some(AUTHENTICATION_FAILED) => Error::Authentication { member, source },
        Some(UNAUTHORIZED) => Error::Privilege { member, command, source },
        _ => Error::Driver { member, command, source },
    }
}

/// The same for a command that names a collection by UUID.
pub(super) fn of_collection(uuid: Uuid, error: Error) -> Error {
    match &error {
        Error::Driver { source, .. } if code(source) == Some(NAMESPACE_NOT_FOUND) => {
            Error::Dropped(uuid)
        }
        _ => error,
    }
}

/// The same for a read of `ns` as it was at `at`.
pub(super) fn of_snapshot(ns: &str, at: Ts, error: Error) -> Error {
    let gone = |source: &DriverError| match code(source) {
        Some(SNAPSHOT_TOO_OLD) => Some(true),
        Some(SNAPSHOT_UNAVAILABLE) => Some(false),
        _ => None,
    };
    match error {
        Error::Driver { member, command, source } => match gone(&source) {
            Some(too_old) => Error::SnapshotGone { member, ns: ns.to_owned(), at, too_old, source },
            None => Error::Driver { member, command, source },
        },
        error => error,
    }
}

/// Whether the server refused the hint because there is no such index.
pub(super) fn lacks_index(error: &Error) -> bool {
    matches!(error, Error::Driver { source, .. } if matches!(source.kind.as_ref(),
        ErrorKind::Command(command) if command.code == BAD_VALUE && command.message.contains("hint")))
}

/// Whether the user may not run the command.
pub(super) fn is_privilege(error: &Error) -> bool {
    matches!(error, Error::Privilege { .. })
}

fn driver_cure(error: &DriverError) -> Cure {
    match error.kind.as_ref() {
        ErrorKind::Command(command) if OPERATION_ENDED.contains(&command.code) => Cure::Again,
        ErrorKind::Command(command) if MEMBER_LEFT.contains(&command.code) => Cure::Elsewhere,
        // A member that lags does not know a later cluster time yet; heartbeats tell it within seconds.
        ErrorKind::Command(command)
            if command.code == INVALID_OPTIONS && command.message.contains("ClusterTime") =>
        {
            Cure::Again
        }
        ErrorKind::Io(_)
        | ErrorKind::ConnectionPoolCleared { .. }
        | ErrorKind::ServerSelection { .. }
        | ErrorKind::DnsResolve { .. } => Cure::Elsewhere,
        _ => Cure::None,
    }
}

impl Error {
    /// What another attempt may do about it.
    pub(super) fn cure(&self) -> Cure {
        match self {
            Self::Driver { source, .. } => driver_cure(source),
            Self::TimedOut { .. } | Self::Behind { .. } => Cure::Elsewhere,
            Self::RolledBack { .. } | Self::Closed { .. } => Cure::Again,
            Self::Unreachable { .. } | Self::NoMember { .. } => Cure::Elsewhere,
            _ => Cure::None,
        }
    }

    /// Whether the same may work later with nothing changed here: members down, elections, time-outs.
    /// This floor has by then tried for about a minute.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.cure() != Cure::None || matches!(self, Self::Restart { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_grows_to_its_cap_and_attempts_last_about_a_minute() {
        assert_eq!(back_off(1), BACK_OFF_FIRST);
        assert_eq!(back_off(2), BACK_OFF_FIRST * 2);
        assert_eq!(back_off(40), BACK_OFF_MAX);
        let total: Duration = (1..ATTEMPTS_MAX).map(back_off).sum();
        assert!((60..90).contains(&total.as_secs()), "{total:?}");
    }

    #[test]
    fn a_network_error_is_cured_elsewhere_and_a_wrong_uri_nowhere() {
        let io: DriverError = std::io::Error::other("reset").into();
        assert_eq!(of_driver("m:1", "find", io).cure(), Cure::Elsewhere);
        assert_eq!(Error::Uri { problem: String::new() }.cure(), Cure::None);
        assert!(!Error::Dropped(Uuid([0; 16])).is_transient());
    }
}
