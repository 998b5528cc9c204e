//! The REST and event-stream contract of the plane: which routes there are, what travels on them,
//! and what every refusal is called.
//!
//! Nothing in here does I/O. The server binds a handler to each row of [`routes::ROUTES`], the CLI
//! builds its requests from [`paths`], and [`openapi::document`] writes the published description
//! from the same rows: the three cannot drift apart. `openapi/cogward.v1.json` is that document,
//! checked in; `tests/openapi.rs` fails when it is stale.
//!
//! Requests refuse unknown fields. Responses may gain fields: a client ignores what it does not know.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

pub mod openapi;
pub mod paths;
pub mod problem;
mod route;
pub mod routes;
pub mod types;

pub use problem::{Finding, Problem, ProblemCode};
pub use routes::{Method, ROUTES, Route};
pub use types::*;

/// The version in the path of every resource.
pub const VERSION: &str = "v1";
/// Header of a command that may be sent again without being carried out twice.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Header with the cursor of the last event that a stream's client has seen.
pub const LAST_EVENT_ID: &str = "last-event-id";
/// Media type of a package on the wire: a plain tar stream with `agent.yaml` at its top.
pub const TAR: &str = "application/x-tar";
/// The media type of a file as it is.
pub const BYTES: &str = "application/octet-stream";
/// Media type of every problem (RFC 9457).
pub const PROBLEM_JSON: &str = "application/problem+json";
/// Longest idempotency key, in bytes: room for any UUID, no room for a payload.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 128;
/// Most items of one page, and what a page has when the client does not say.
pub const PAGE_ITEMS_MAX: u32 = 200;
/// Items of a page when the client does not say.
pub const PAGE_ITEMS_DEFAULT: u32 = 50;
