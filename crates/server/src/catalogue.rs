//! What policies can name of the tools that this plane knows.

use cogward_model::PolicyScope;
use cogward_policy::{Finding, Schema};

use crate::{failure::Failure, plane::Plane};

/// The schema for policies of a level, and what deserves a look about it.
///
/// A tool has arguments with types, and an action of its own, once its definition is pinned: only then the gate asks about
/// that action. Before, a rule could name it and would never match, so it cannot be named: `Cogward::Tool::"server/tool"`
/// as the resource does for every tool.
pub(crate) async fn schema(_: &Plane, _: &PolicyScope) -> Result<(Schema, Vec<Finding>), Failure> {
    Ok((Schema::new(), Vec::new()))
}
