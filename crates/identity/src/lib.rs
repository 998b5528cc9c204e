//! Who may command the plane, and what the plane must keep from everyone else.
//!
//! [`Operators`] makes, verifies and revokes operator credentials: the plane keeps a hash, the person
//! keeps the token, and the token is shown once. [`Secrets`] seals the credentials of upstreams under
//! a key of the plane, so that neither a copy of the database nor a copy of the key alone gives them
//! away. Neither type can print what it guards. [`access`] says who a client outside is, by its bound token.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

pub mod access;
mod credential;
mod kek;
mod operators;
mod secrets;

pub use cogward_store::Role;
pub use credential::Credential;
pub use kek::KekError;
pub use operators::{CreateError, Created, Operator, Operators, RevokeError, Rotated, VerifyError};
pub use secrets::{SecretError, Secrets};
