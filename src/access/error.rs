//! Why a check of privileges did not come to a result.

use super::Place;

/// See the module.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The connection string cannot be used.
    #[error("the connection string of the {} cannot be used: {problem}", place.name())]
    Uri {
        /// Whose.
        place: Place,
        /// What is wrong with it, without its secrets.
        problem: String,
    },
    /// The credentials were refused.
    #[error(
        "the {} {server} refuses the credentials; check user, password (or certificate) and authSource",
        place.name()
    )]
    Authentication {
        /// Which.
        place: Place,
        /// Its address.
        server: String,
        /// What the driver reported.
        source: Box<mongodb::error::Error>,
    },
    /// It does not answer, or not as it should.
    #[error(
        "the {} {server} cannot be asked ({command}); check that it runs, and address, TLS options and firewalls",
        place.name()
    )]
    Unreachable {
        /// Which.
        place: Place,
        /// Its address.
        server: String,
        /// What it was asked.
        command: &'static str,
        /// What the driver reported.
        source: Box<mongodb::error::Error>,
    },
    /// An answer that is not what the protocol says.
    #[error("the {} {server} answers {command} without a valid `{field}`", place.name())]
    Reply {
        /// Which.
        place: Place,
        /// Its address.
        server: String,
        /// What it was asked.
        command: &'static str,
        /// What is missing.
        field: &'static str,
    },
}
