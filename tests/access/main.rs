//! Who may do what: roles that are just enough, passwords that stay where they are, TLS and certificates.
//!
//! On real servers with access control, with the real program, as users that have no more than `check-access --print-role` gives.

mod scene;
mod secrets;
mod table;
mod tls;
mod works;
