//! A change of versions as claims that a solver can prove: whatever one set of Cedar rules allows, another allows too.
//!
//! Cedar leaves out a rule that fails; here a forbid that fails blocks. A proof therefore holds for questions at which
//! no rule fails, and whoever proves must also ask which rules can.

use std::sync::Arc;

use cedar_policy::{Policy, PolicySet};

use crate::{rule::Rule, schema::Schema, track::Tracker, version::Version};

/// What is claimed: all that `first` allows `second` allows.
#[derive(Debug, Clone)]
pub struct Claim {
    /// In words.
    pub text: &'static str,
    /// The one that may not allow more.
    pub first: PolicySet,
    /// The one that bounds it.
    pub second: PolicySet,
}

/// Why a change cannot be put to a solver.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the change cannot be put to a solver: {0}")]
pub struct SetError(String);

impl SetError {
    fn of(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// Everything is allowed: a level without a say.
const ALL: &str = "permit(principal, action, resource);";

/// What has to hold for the change to grant nothing: nothing that is blocked now is let through, and nothing that
/// needs an approval now goes without. Obligations are not part of it.
///
/// # Errors
/// When a rule cannot be written as Cedar has it.
pub fn grants_nothing(before: Option<&Version>, after: Option<&Version>) -> Result<[Claim; 2], SetError> {
    Ok([
        Claim {
            text: "whatever was blocked stays blocked",
            first: let_through(after, false)?,
            second: let_through(before, false)?,
        },
        Claim {
            text: "whatever needed an approval still needs one",
            first: let_through(after, true)?,
            second: let_through(before, true)?,
        },
    ])
}

/// The Cedar schema of both versions.
///
/// # Errors
/// When Cedar does not read it, or when it would not be what the gate asks about: the versions call two counts by one
/// name, or a rule reads arguments and tenants' tools of one name differ in theirs.
pub fn schema_of(schema: &Schema, versions: [Option<&Version>; 2]) -> Result<cedar_policy::Schema, SetError> {
    let mut trackers: Vec<Arc<Tracker>> = Vec::new();
    for tracker in versions.into_iter().flatten().flat_map(|version| version.trackers()) {
        match trackers.iter().find(|known| known.name == tracker.name) {
            Some(known) if known.key() != tracker.key() => {
                let name = &tracker.name;
                return Err(SetError(format!("the tracker `{name}` counts something else in the other version")));
            }
            Some(_) => {}
            None => trackers.push(Arc::clone(tracker)),
        }
    }
    let mut rules = versions.into_iter().flatten().flat_map(|version| version.rules());
    if schema.is_shared_ground() && rules.any(|rule| !rule.reads.needs.arguments.is_empty()) {
        let why = "a rule reads arguments, and tenants have tools of one name whose arguments differ";
        return Err(SetError(why.to_owned()));
    }
    let (schema, _) = cedar_policy::Schema::from_cedarschema_str(&schema.text(&trackers)).map_err(SetError::of)?;
    Ok(schema)
}

/// The rules of a version as Cedar has them, with their names.
pub fn rules(version: &Version) -> impl Iterator<Item = (&str, bool, &Policy)> {
    version.rules().iter().map(|rule| (rule.id.as_str(), rule.forbids, &rule.policy))
}

/// A set that allows what the version lets through: `unasked`, only without an approval.
fn let_through(version: Option<&Version>, unasked: bool) -> Result<PolicySet, SetError> {
    let Some(version) = version else { return ALL.parse().map_err(SetError::of) };
    let mut policies = Vec::new();
    for rule in version.rules() {
        if unasked && rule.escalation.is_some() {
            policies.push(changed(rule, "asks", &[])?);
        } else {
            policies.push(rule.policy.clone());
        }
        if !rule.require_labels.is_empty() {
            policies.push(changed(rule, "requires", &rule.require_labels)?);
        }
    }
    PolicySet::from_policies(policies).map_err(SetError::of)
}

/// A permit as a forbid, where the resource lacks one of the labels if there are any.
fn changed(rule: &Rule, mark: &str, labels: &[String]) -> Result<Policy, SetError> {
    let mut json = rule.policy.to_json().map_err(SetError::of)?;
    json["effect"] = "forbid".into();
    if !labels.is_empty() {
        let all = serde_json::json!({
            "containsAll": {
                "left": {".": {"left": {"Var": "resource"}, "attr": "labels"}},
                "right": {"Set": labels.iter().map(|label| serde_json::json!({"Value": label})).collect::<Vec<_>>()},
            }
        });
        // A host, a tool server and what commands are about carry none.
        let some = serde_json::json!({"has": {"left": {"Var": "resource"}, "attr": "labels"}});
        let has = serde_json::json!({"&&": {"left": some, "right": all}});
        let unless = serde_json::json!({"kind": "unless", "body": has});
        match json["conditions"].as_array_mut() {
            Some(conditions) => conditions.push(unless),
            None => json["conditions"] = serde_json::json!([unless]),
        }
    }
    let id = format!("{} {mark}", rule.id);
    Policy::from_json(Some(cedar_policy::PolicyId::new(id)), json).map_err(SetError::of)
}
