//! Which privileges this program needs at a server, and whether a user has them.
//!
//! One table ([`Role::needs`]) says which actions on which resources each role takes. A [`check()`] compares it with what the server
//! says of the user that is logged in; [`commands()`] makes of it the roles and users that an administrator creates. Nothing here writes.

mod check;
mod commands;
mod error;
mod needs;
mod resource;

pub use check::{DATABASE, Missing, RoleReport, ServerReport, check, database_of};
pub use commands::{Commands, commands};
pub use error::Error;
pub use needs::{Need, Place, Role, Version, Weight};
pub use resource::Resource;

/// The newest version that differs in what privileges there are.
pub const NEWEST: Version = (u32::MAX, 0);
