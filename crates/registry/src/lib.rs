//! What may be registered: the manifest of an agent, its package, and the rules between them.
//!
//! - [`manifest`] reads YAML into [`cogward_model::manifest::Manifest`] and names every fault of a
//!   file at once, each with file, line, column, rule and fix.
//! - [`package`] turns the files of a version into a stream and back, under one content digest that
//!   both sides compute. The receiving side takes the stream as hostile.
//! - [`content`] does the same for what goes into a run and comes out of it.
//! - [`rules`] are those that need to know what else the plane has.
//!
//! Nothing here decides who may register, or writes state: that is the caller's transaction.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

pub mod content;
mod finding;
pub mod manifest;
pub mod package;
pub mod rules;

pub use finding::{Finding, Findings};
