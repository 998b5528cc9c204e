//! What a leaf can be found by.

use cogward_ledger::map::{self, Kind};
use cogward_model::{event::EventType, id::OperatorId};
use serde::Deserialize;

use crate::{
    keys::{KeyringError, TenantKeys},
    vault::{self, KEY_ID_BYTES, Sealed},
};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Term {
    // The order is that in which they are looked at: what is rare first.
    Run,
    Approval,
    Policy,
    Operator,
    User,
    Tool,
    Version,
    Agent,
    ToolServer,
    Type,
    Decision,
}

impl Term {
    /// The word in the index, in queries and in their record.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Approval => "approval",
            Self::Policy => "policy",
            Self::Operator => "operator",
            Self::User => "user",
            Self::Tool => "tool",
            Self::Version => "version",
            Self::Agent => "agent",
            Self::ToolServer => "tool_server",
            Self::Type => "type",
            Self::Decision => "decision",
        }
    }
}

#[derive(Deserialize)]
struct Leaf {
    body: Body,
}

#[derive(Deserialize)]
struct Body {
    id: String,
    #[serde(default)]
    act: Option<String>,
    #[serde(default)]
    decision: serde_json::Value,
    #[serde(default)]
    policy_verdict: serde_json::Value,
    #[serde(default)]
    policy: serde_json::Value,
    #[serde(default)]
    operator: serde_json::Value,
    #[serde(default)]
    by: serde_json::Value,
    #[serde(default)]
    requested_by: serde_json::Value,
    #[serde(default)]
    approved_by: serde_json::Value,
}

/// A pseudonym as a text.
pub(crate) fn hex(bytes: &[u8; KEY_ID_BYTES]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The field with the name of the person on whose authority a leaf is.
pub(crate) const PERSON: &str = "sub";

/// What is asked for in the place of a decision to find whatever was refused.
pub const REFUSED: &str = "refused";

/// What stands in the index for a term.
pub(crate) fn tag(keys: &TenantKeys, term: Term, value: &str) -> [u8; KEY_ID_BYTES] {
    keys.data.index_tag(&[term.as_str(), "\0", value].concat())
}

/// The person on whose authority a leaf is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Person {
    Nobody,
    /// By the pseudonym: a keyed hash of the name, which stands beside the key that seals it.
    Known(String),
    /// There was one. Who it was is gone with the key.
    Erased,
}

/// The person on whose authority the leaf of an event is.
pub(crate) fn person(keys: &TenantKeys, event: &str, sealed: &[Vec<u8>]) -> Result<Person, KeyringError> {
    let mut named = sealed.iter().filter_map(|frame| Sealed::peek(frame));
    let Some(of_sub) = named.find(|(_, field)| *field == PERSON) else { return Ok(Person::Nobody) };
    Ok(match vault::facts_of(keys, event, of_sub)? {
        Some(facts) if facts.subject == [0; 16] => Person::Nobody,
        Some(facts) => Person::Known(hex(&facts.subject)),
        None => Person::Erased,
    })
}

/// Everything that a leaf can be found by, with the keys that the verifiable index has for it.
pub(crate) fn of(
    keys: &TenantKeys,
    leaf: &[u8],
    sealed: &[Vec<u8>],
) -> Result<Option<Vec<(Term, String)>>, KeyringError> {
    let Some((id, mut terms)) = public(leaf) else { return Ok(None) };
    if let Person::Known(pseudonym) = person(keys, &id, sealed)? {
        terms.push((Term::User, pseudonym));
    }
    terms.sort();
    terms.dedup();
    Ok(Some(terms))
}

/// What stands in the leaf itself, with the id of its event.
fn public(leaf: &[u8]) -> Option<(String, Vec<(Term, String)>)> {
    let mut terms: Vec<(Term, String)> = Vec::with_capacity(10);
    for (kind, value) in map::values(leaf).ok()? {
        let term = match kind {
            Kind::Agent => Term::Agent,
            Kind::Run => Term::Run,
            Kind::Tool => Term::Tool,
            Kind::ToolServer => Term::ToolServer,
            Kind::Approval => Term::Approval,
            Kind::Type => Term::Type,
            Kind::Subject => Term::User,
        };
        terms.push((term, value));
    }
    let Body { id, act, decision, policy_verdict, policy, operator, by, requested_by, approved_by } =
        serde_json::from_slice::<Leaf>(leaf).ok()?.body;
    if let Some((_, version)) = act.as_deref().and_then(|act| act.split_once('@')) {
        terms.push((Term::Version, version.to_owned()));
    }
    for decision in [decision.as_str(), policy_verdict.as_str()].into_iter().flatten() {
        terms.push((Term::Decision, decision.to_owned()));
    }
    let kind = terms.iter().find(|(term, _)| *term == Term::Type).map(|(_, kind)| kind.as_str());
    let always = EventType::ALL.iter().any(|known| known.is_refusal() && Some(known.as_str()) == kind);
    if always || decision.as_str() == Some("block") || policy_verdict.as_str() == Some("block") {
        terms.push((Term::Decision, REFUSED.to_owned()));
    }
    // Whose command it was, who asked for it and who agreed; and the operator whom it is about.
    let operators = [&operator, &by, &requested_by, &approved_by].into_iter().filter_map(serde_json::Value::as_str);
    terms.extend(operators.filter(|id| id.parse::<OperatorId>().is_ok()).map(|id| (Term::Operator, id.to_owned())));
    // `tenant:retail sha256:…`, one or several: by the digest.
    let several = policy.as_array().into_iter().flatten().filter_map(serde_json::Value::as_str);
    for named in policy.as_str().into_iter().chain(several) {
        terms.extend(named.rsplit(' ').next().map(|digest| (Term::Policy, digest.to_owned())));
    }
    Some((id, terms))
}
