//! What a leaf can be found by.

use std::borrow::Cow;

use cogward_ledger::{
    leaf::ParsedChain,
    map::{Keyed, Kind, Said},
};
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

/// A leaf as it is indexed: read once.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Read<'a> {
    #[serde(borrow)]
    body: Body<'a>,
    /// Its place.
    #[serde(borrow)]
    pub(crate) chain: ParsedChain<'a>,
}

#[derive(Deserialize)]
struct Body<'a> {
    id: &'a str,
    #[serde(borrow, default)]
    act: Option<Cow<'a, str>>,
    #[serde(default)]
    run: Option<&'a str>,
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow, default)]
    tool: Said<'a>,
    #[serde(borrow, default)]
    tool_server: Said<'a>,
    #[serde(borrow, default)]
    server: Said<'a>,
    #[serde(borrow, default)]
    approval: Said<'a>,
    #[serde(borrow, default)]
    decision: Said<'a>,
    #[serde(borrow, default)]
    policy_verdict: Said<'a>,
    #[serde(borrow, default)]
    policy: Said<'a>,
    #[serde(borrow, default)]
    operator: Said<'a>,
    #[serde(borrow, default)]
    by: Said<'a>,
    #[serde(borrow, default)]
    requested_by: Said<'a>,
    #[serde(borrow, default)]
    approved_by: Said<'a>,
}

/// A pseudonym as a text.
pub(crate) fn hex(bytes: &[u8; KEY_ID_BYTES]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.filter_map(|digit| char::from_digit(u32::from(digit), 16)).collect()
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
    Read::from_bytes(leaf).map(|read| read.terms(keys, sealed)).transpose()
}

impl<'a> Read<'a> {
    /// Reads a leaf; `None` when it is none.
    pub(crate) fn from_bytes(leaf: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(leaf).ok()
    }

    /// The type of its event.
    pub(crate) fn kind(&self) -> &str {
        self.body.kind
    }

    /// Everything that it can be found by.
    pub(crate) fn terms(self, keys: &TenantKeys, sealed: &[Vec<u8>]) -> Result<Vec<(Term, String)>, KeyringError> {
        let person = person(keys, self.body.id, sealed)?;
        let mut terms = self.public();
        if let Person::Known(pseudonym) = person {
            terms.push((Term::User, pseudonym));
        }
        terms.sort();
        terms.dedup();
        Ok(terms)
    }

    /// What stands in the leaf itself.
    fn public(self) -> Vec<(Term, String)> {
        let Body { act, run, kind, tool, tool_server, server, approval, decision, policy_verdict, policy, .. } =
            self.body;
        let Body { operator, by, requested_by, approved_by, .. } = self.body;
        let mut terms: Vec<(Term, String)> = Vec::with_capacity(16);
        if let Some((_, version)) = act.as_deref().and_then(|act| act.split_once('@')) {
            terms.push((Term::Version, version.to_owned()));
        }
        for decision in [decision.text(), policy_verdict.text()].into_iter().flatten() {
            terms.push((Term::Decision, decision.to_owned()));
        }
        let always = EventType::ALL.iter().any(|known| known.is_refusal() && known.as_str() == kind);
        if always || decision.text() == Some("block") || policy_verdict.text() == Some("block") {
            terms.push((Term::Decision, REFUSED.to_owned()));
        }
        // Whose command it was, who asked for it and who agreed; and the operator whom it is about.
        let operators = [&operator, &by, &requested_by, &approved_by].into_iter().filter_map(|said| said.text());
        terms.extend(operators.filter(|id| id.parse::<OperatorId>().is_ok()).map(|id| (Term::Operator, id.to_owned())));
        // `tenant:retail sha256:…`, one or several: by the digest.
        for named in policy.texts() {
            terms.extend(named.rsplit(' ').next().map(|digest| (Term::Policy, digest.to_owned())));
        }
        let (kind, run) = (Cow::Borrowed(kind), run.map(Cow::Borrowed));
        let keyed = Keyed { kind, act, run, tool, tool_server, server, approval };
        terms.extend(keyed.values().into_iter().map(|(kind, value)| (term(kind), value)));
        terms
    }
}

/// What the verifiable index has keys for can be asked for too.
fn term(kind: Kind) -> Term {
    match kind {
        Kind::Agent => Term::Agent,
        Kind::Run => Term::Run,
        Kind::Tool => Term::Tool,
        Kind::ToolServer => Term::ToolServer,
        Kind::Approval => Term::Approval,
        Kind::Type => Term::Type,
        Kind::Subject => Term::User,
    }
}
