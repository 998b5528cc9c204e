//! The decision function of cogward: Cedar policies at four levels, three verdicts, obligations and escalations.
//!
//! A [`Version`] is a policy text at a [`PolicyScope`], immutable and named by its digest. The active versions of one
//! principal are a [`Hierarchy`]; it answers an [`Ask`] with a [`Decided`]. The strictest verdict over the levels
//! holds, so a lower level can only narrow. Whatever cannot be evaluated blocks.
//!
//! Nothing in here does I/O and nothing is async: the same ask and the same versions give the same answer at any time,
//! which is what [`explain()`] relies on.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing))]

pub mod analysis;
mod annotations;
pub mod ask;
mod context;
pub mod entities;
pub mod escalation;
pub mod explain;
pub mod finding;
pub mod hierarchy;
mod lean;
pub mod level;
mod nearest;
pub mod needs;
pub mod obligation;
pub mod path;
pub mod projection;
mod quick;
mod reads;
pub mod rule;
pub mod schema;
pub mod shape;
pub mod slice;
mod source;
pub mod track;
pub mod value;
pub mod verdict;
pub mod version;

pub use ask::{Ask, AskError, BudgetLeft, Deed, Facts, Head, Principal};
pub use escalation::Escalation;
pub use explain::{Explanation, explain};
pub use finding::{Finding, Findings, Severity};
pub use hierarchy::{Active, Hierarchy};
pub use level::{LevelKind, PolicyScope};
pub use nearest::nearest;
pub use needs::Needs;
pub use obligation::Obligation;
pub use path::{Path, Paths};
pub use projection::ProjectionError;
pub use rule::Rule;
pub use schema::Schema;
pub use shape::Shape;
pub use slice::Slice;
pub use track::Tracker;
pub use value::{Record, Value};
pub use verdict::{Decided, LevelDecision, Verdict};
pub use version::Version;
