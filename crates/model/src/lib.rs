//! The words of cogward: identifiers, the manifest, actions and decisions, states, events, money and time.
//!
//! Nothing in here does I/O and nothing is async. Every other crate speaks in these types, so a
//! run, a tool or an amount of money means the same thing in the gate, the ledger and the API.
//! The crate refuses early: a value of one of these types has already passed its bounds.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

pub mod action;
pub mod attestation;
pub mod clock;
pub mod content;
pub mod decision;
pub mod digest;
pub mod event;
pub mod floor;
pub mod http_scope;
pub mod id;
pub mod limits;
pub mod listener;
pub mod manifest;
pub mod memory;
pub mod money;
pub mod name;
pub mod name_scope;
pub mod outside;
pub mod pin;
pub mod pin_name;
pub mod policy_scope;
pub mod redaction;
pub mod run;
pub mod upstream;
pub mod violation;
pub mod visible;

pub use clock::{Clock, Entropy, SystemClock, SystemEntropy, Timestamp};
pub use digest::Digest;
pub use id::{Id, RunId};
pub use listener::Listener;
pub use money::NanoUsd;
pub use name::{AgentName, ContentName, DataLabel, RoleName, TenantName, ToolName, UpstreamName, VersionLabel};
pub use policy_scope::PolicyScope;
