//! Pins of what is no tool: resources, their templates, prompts. What an agent is shown of them is the text that was
//! approved; what stands in a resource is data and not pinned.

use std::{collections::BTreeMap, sync::Arc};

use cogward_model::{
    Digest, TenantName, UpstreamName,
    decision::{Refusal, RefusalCode},
    pin::PinState,
    pin_name::{OtherKind, PinName},
};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{AHEAD, ATTEMPTS, EACH_LIST, EACH_TOOL, HeldTool, PinTable, PinsError, Unwritten};
use crate::{
    Inner,
    mcp::{sha256, upstream::ToolServerClient},
};

/// An approved definition that is offered unchanged.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The approved text.
    pub raw: Box<RawValue>,
    /// Its digest.
    pub digest: Digest,
}

/// The pins of one kind of one server at one time. Never changed; another one takes its place.
#[derive(Debug, Default)]
pub struct EntryPins {
    seen: Option<Digest>,
    served: BTreeMap<String, Entry>,
    held: BTreeMap<String, HeldTool>,
    digest: Option<Digest>,
}

impl EntryPins {
    /// Pins that hold for the list with the digest `seen`.
    #[must_use]
    pub fn new(seen: Option<Digest>, served: BTreeMap<String, Entry>, held: BTreeMap<String, HeldTool>) -> Self {
        let all: Vec<u8> = served.values().flat_map(|entry| *entry.digest.as_bytes()).collect();
        Self { seen, digest: Some(sha256(&all)), served, held }
    }

    /// The digest of the list that they hold for.
    #[must_use]
    pub fn seen(&self) -> Option<Digest> {
        self.seen
    }

    /// Over what is served: the same exactly when all of it is the same.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// What is served under a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.served.get(key)
    }

    /// All that is served, by its keys.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Entry)> {
        self.served.iter()
    }

    /// What is known under a key and not served.
    #[must_use]
    pub fn held(&self, key: &str) -> Option<HeldTool> {
        self.held.get(key).copied()
    }

    /// The first template that a URI may come of: one that is blocked, one that is served, or one that nobody approved.
    #[must_use]
    pub fn template_of(&self, uri: &str) -> Option<(&str, Result<Digest, Digest>)> {
        let held = |wanted: fn(&HeldTool) -> bool| {
            let found = self.held.iter().find(|(template, held)| wanted(held) && comes_of(uri, template));
            found.map(|(template, held)| (template.as_str(), Err(held.digest)))
        };
        let served = || {
            let found = self.served.iter().find(|(template, _)| comes_of(uri, template));
            found.map(|(template, entry)| (template.as_str(), Ok(entry.digest)))
        };
        held(|held| held.state == PinState::Blocked).or_else(served).or_else(|| held(|held| held.offered))
    }
}

/// Whether a URI may come of a template (RFC 6570): what stands between the expressions stands in it in the same
/// order. What an expression may hold is not looked at; what may be read is the manifest's to say.
fn comes_of(uri: &str, template: &str) -> bool {
    let mut literals = Vec::new();
    let mut rest = template;
    while let Some((literal, after)) = rest.split_once('{') {
        let Some((_, after)) = after.split_once('}') else { return false };
        literals.push(literal);
        rest = after;
    }
    let Some((first, between)) = literals.split_first() else { return uri == template };
    let Some(mut left) = uri.strip_prefix(first).and_then(|left| left.strip_suffix(rest)) else { return false };
    for literal in between {
        match left.find(literal).and_then(|at| left.get(at + literal.len()..)) {
            Some(after) => left = after,
            None => return false,
        }
    }
    true
}

/// The refusal of something whose definition nobody approved.
#[must_use]
pub fn entry_not_approved(server: &UpstreamName, what: &PinName) -> Refusal {
    let shown = crate::mcp::shown(&what.to_string(), 256);
    Refusal::new(
        RefusalCode::Quarantined,
        "tool.pin",
        format!("the definition of `{server}/{shown}` is not approved"),
        format!("An operator can look at it with `cogward tool diff {server} '{shown}'` and approve it"),
    )
}

impl EntryPins {
    /// What the pins say of one key: its definition when it is served, the refusal when it is known and is not, nothing
    /// when it is not known, or was approved and is not offered at the moment.
    ///
    /// # Errors
    /// The digest that is offered, or was last.
    pub fn look(&self, key: &str) -> Result<Option<Digest>, Digest> {
        match (self.get(key), self.held(key)) {
            (Some(entry), _) => Ok(Some(entry.digest)),
            (None, Some(held)) if held.offered || held.state != PinState::Approved => Err(held.digest),
            (None, _) => Ok(None),
        }
    }
}

impl PinTable {
    /// Puts the pins of one kind of a server in the place of the ones before.
    pub fn put_entries(&self, tenant: &TenantName, server: &UpstreamName, kind: OtherKind, pins: EntryPins) {
        let key = (tenant.clone(), server.clone(), kind);
        self.entries.write().unwrap_or_else(std::sync::PoisonError::into_inner).insert(key, Arc::new(pins));
    }

    /// The pins of one kind of a server as they are, examined or not.
    #[must_use]
    pub fn entries(&self, tenant: &TenantName, server: &UpstreamName, kind: OtherKind) -> Option<Arc<EntryPins>> {
        let key = (tenant.clone(), server.clone(), kind);
        self.entries.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(&key).cloned()
    }
}

impl Inner {
    /// The pins of one kind of a server, which hold for what it lists now.
    ///
    /// # Errors
    /// [`PinsError`]; nothing of the kind may be served then.
    pub(crate) async fn pinned_entries(
        &self,
        tenant: &TenantName,
        server: &UpstreamName,
        kind: OtherKind,
        client: &ToolServerClient,
    ) -> Result<Arc<EntryPins>, PinsError> {
        let holding = |seen| self.pins.entries(tenant, server, kind).filter(|pins| pins.seen() == Some(seen));
        let mut listed = client.list(kind).await?;
        if let Some(pins) = holding(listed.digest()) {
            return Ok(pins);
        }
        let turn = self.pins.turn(tenant, server, kind.kind());
        let mut busy_until = turn.lock().await;
        for _ in 0..ATTEMPTS {
            if let Some(pins) = holding(listed.digest()) {
                return Ok(pins);
            }
            let now = Instant::now();
            let ahead = busy_until.map(|at| at.saturating_duration_since(now)).unwrap_or_default();
            if ahead > AHEAD {
                return Err(PinsError::Unsettled { server: server.clone(), after: ahead - AHEAD });
            }
            let unwritten = |why| PinsError::Unwritten { server: server.clone(), why };
            let keeper =
                self.keeper.get().ok_or_else(|| unwritten(Unwritten("nobody keeps what is approved".into())))?;
            let examined = keeper.examine_entries(tenant.clone(), server.clone(), kind, Arc::clone(&listed));
            let changed = examined.await.map_err(unwritten)?;
            if changed > 0 {
                let each = EACH_TOOL.saturating_mul(u32::try_from(changed).unwrap_or(u32::MAX));
                *busy_until = Some(now + ahead + EACH_LIST + each);
            }
            if let Some(pins) = holding(listed.digest()) {
                return Ok(pins);
            }
            listed = client.list(kind).await?;
        }
        Err(PinsError::Unsettled { server: server.clone(), after: AHEAD })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_is_held_against_the_literals_of_a_template() {
        for (template, uri, fits) in [
            ("test://t/{id}/data", "test://t/1/data", true),
            ("test://t/{id}/data", "test://t//data", true),
            ("test://t/{id}/data", "test://t/1/date", false),
            ("test://t/{id}/data", "other://t/1/data", false),
            ("file:///{+path}", "file:///a/b/c", true),
            ("a{x}b{y}c", "a1b2c", true),
            ("a{x}b{y}c", "a1c2b", false),
            ("{x}", "anything", true),
            ("plain", "plain", true),
            ("plain", "plain2", false),
            ("broken{x", "brokenx", false),
            // The end does not stand in for the beginning.
            ("ab{x}ba", "aba", false),
        ] {
            assert_eq!(comes_of(uri, template), fits, "{template} {uri}");
        }
    }

    #[test]
    fn what_was_blocked_by_name_is_blocked_whether_it_is_listed_or_not() {
        let digest = Digest::from_bytes([1; 32]);
        let held = |state, offered| HeldTool { state, digest, offered };
        let held = BTreeMap::from([
            ("new".to_owned(), held(PinState::Quarantined, true)),
            ("hidden".to_owned(), held(PinState::Blocked, false)),
            ("gone".to_owned(), held(PinState::Approved, false)),
        ]);
        let pins = EntryPins::new(None, BTreeMap::new(), held);
        assert_eq!(pins.look("new"), Err(digest));
        assert_eq!(pins.look("hidden"), Err(digest));
        assert_eq!(pins.look("gone"), Ok(None));
        assert_eq!(pins.look("unknown"), Ok(None));
    }
}
