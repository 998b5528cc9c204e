//! What a leaf can be found by.

use cogward_ledger::map::{self, Kind};
use serde::Deserialize;

use crate::vault::{KEY_ID_BYTES, Sealed};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Term {
    // The order is that in which they are looked at: what is rare first.
    Run,
    Approval,
    Policy,
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
    #[serde(default)]
    act: Option<String>,
    #[serde(default)]
    decision: serde_json::Value,
    #[serde(default)]
    policy_verdict: serde_json::Value,
    #[serde(default)]
    policy: serde_json::Value,
}

/// A pseudonym as a text.
pub(crate) fn hex(bytes: &[u8; KEY_ID_BYTES]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The pseudonym of the person on whose authority a leaf is: the id of the key that seals the name.
pub(crate) fn subject(sealed: &[Vec<u8>]) -> Option<String> {
    let of_sub = sealed.iter().filter_map(|frame| Sealed::parse(frame)).find(|sealed| sealed.field == "sub")?;
    Some(hex(&of_sub.key_id))
}

/// Everything that a leaf can be found by, with the keys that the verifiable index has for it.
pub(crate) fn of(leaf: &[u8], sealed: &[Vec<u8>]) -> Option<Vec<(Term, String)>> {
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
    let Body { act, decision, policy_verdict, policy } = serde_json::from_slice::<Leaf>(leaf).ok()?.body;
    if let Some((_, version)) = act.as_deref().and_then(|act| act.split_once('@')) {
        terms.push((Term::Version, version.to_owned()));
    }
    for decision in [decision.as_str(), policy_verdict.as_str()].into_iter().flatten() {
        terms.push((Term::Decision, decision.to_owned()));
    }
    // `tenant:retail sha256:…`, one or several: by the digest.
    let several = policy.as_array().into_iter().flatten().filter_map(serde_json::Value::as_str);
    for named in policy.as_str().into_iter().chain(several) {
        terms.extend(named.rsplit(' ').next().map(|digest| (Term::Policy, digest.to_owned())));
    }
    terms.extend(subject(sealed).map(|pseudonym| (Term::User, pseudonym)));
    terms.sort();
    terms.dedup();
    Some(terms)
}
