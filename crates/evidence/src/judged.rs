//! Reading back what policies were asked: one record, or those of a time, with the exact questions that the vault opens.

use cogward_ledger::leaf::Parsed;
use cogward_model::{RunId, TenantName, Timestamp, id::EventId};
use cogward_wal::Position;

use crate::{
    read::{ReadError, disclosed, walk},
    record::Evidence,
};

/// The field that a record has when policies were asked.
const ASKED: &str = "policy_verdict";

/// A record of something that policies were asked about.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// The decision.
    pub id: EventId,
    /// What was decided: the leaf's `type`.
    pub kind: String,
    /// When it was recorded.
    pub time: Timestamp,
    /// The run.
    pub run: Option<RunId>,
    /// The leaf's body, with commitments where values are hidden.
    pub body: serde_json::Value,
    /// The hidden values that the vault still opens, by field.
    pub disclosed: std::collections::BTreeMap<String, serde_json::Value>,
}

/// Which records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JudgedFilter {
    /// Only this one, whether or not policies were asked.
    pub id: Option<EventId>,
    /// Only of this run.
    pub run: Option<RunId>,
    /// From this time on.
    pub since: Option<Timestamp>,
    /// Before this time.
    pub until: Option<Timestamp>,
}

impl JudgedFilter {
    fn wants(&self, parsed: &Parsed<'_>, time: Timestamp) -> bool {
        self.id.is_none_or(|id| id.to_string() == parsed.body.id)
            && self.run.is_none_or(|run| Some(run.to_string().as_str()) == parsed.body.run)
            && self.since.is_none_or(|since| time >= since)
            && self.until.is_none_or(|until| time < until)
    }
}

impl Evidence {
    /// Shows the records of a tenant that fit, in order, until `visit` says that it has seen enough. It blocks.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn visit_judged(
        &self,
        tenant: &TenantName,
        filter: &JudgedFilter,
        visit: &mut dyn FnMut(Judged) -> bool,
    ) -> Result<(), ReadError> {
        let shared = &self.shared;
        let keys = shared.keyring.tenant(tenant)?;
        let all = (Position::default(), shared.progress.end());
        let mut span = filter.run.map_or(all, |run| shared.progress.span(tenant, run));
        // Released segments that end before are not brought back for it.
        if let Some(since) = filter.since {
            span.0 = span.0.max(shared.segments.since(since));
        }
        walk(&shared.segments, span, |at, of, leaf, sealed| {
            if of != tenant.as_str() {
                return Ok(true);
            }
            let damaged = || ReadError::Damaged(at);
            // Most leaves are passed over: looked for in the bytes before they are read.
            if filter.id.is_none() && !contains(leaf, ASKED) {
                return Ok(true);
            }
            let parsed = Parsed::from_bytes(leaf).map_err(|_| damaged())?;
            let time: Timestamp = parsed.chain.time.parse().map_err(|_| damaged())?;
            // Leaves are in the order of their times.
            if filter.until.is_some_and(|until| time >= until) {
                return Ok(false);
            }
            if !filter.wants(&parsed, time) {
                return Ok(true);
            }
            let mut whole: serde_json::Value = serde_json::from_slice(leaf).map_err(|_| damaged())?;
            let body = whole.get_mut("body").map(serde_json::Value::take).ok_or_else(damaged)?;
            if filter.id.is_none() && body.get(ASKED).is_none() {
                return Ok(true);
            }
            let disclosed = disclosed(&keys, tenant, parsed.body.id, &body, sealed).ok_or_else(damaged)?;
            let judged = Judged {
                id: parsed.body.id.parse().map_err(|_| damaged())?,
                kind: parsed.body.kind.to_owned(),
                time,
                run: parsed.body.run.and_then(|run| run.parse().ok()),
                body,
                disclosed,
            };
            Ok::<_, ReadError>(visit(judged) && filter.id.is_none())
        })
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[cfg(test)]
mod tests {
    use cogward_model::{
        Id, SystemClock, SystemEntropy,
        event::{Attribution, Event, EventType},
    };

    use super::*;
    use crate::EvidenceOptions;

    #[tokio::test]
    async fn records_are_found_with_what_the_vault_opens_and_only_of_their_tenant() {
        let dir = tempfile::tempdir().unwrap();
        let evidence = Evidence::open(EvidenceOptions::new(dir.path().join("evidence"))).unwrap();
        let run: RunId = Id::new(&SystemClock, &SystemEntropy);
        let event = |tenant: &str, input: &str| {
            Event::new(EventType::ToolCallDecided, tenant.parse().unwrap(), Attribution::plane())
                .run(run)
                .public("policy_verdict", "permit")
                .confidential("policy_input", input)
        };
        let first = evidence.record(event("default", "one")).await.unwrap();
        evidence.record(event("other", "foreign")).await.unwrap();
        let plain = Event::new(EventType::ToolCallDecided, TenantName::default_tenant(), Attribution::plane());
        let plain = evidence.record(plain.public("decision", "block")).await.unwrap();
        evidence.record(event("default", "two")).await.unwrap();

        let seen = |filter: JudgedFilter| {
            let mut seen = Vec::new();
            evidence
                .visit_judged(&TenantName::default_tenant(), &filter, &mut |judged| {
                    seen.push((judged.id, judged.disclosed.get("policy_input").cloned()));
                    true
                })
                .unwrap();
            seen
        };
        let inputs = |filter| seen(filter).into_iter().map(|(_, input)| input.unwrap()).collect::<Vec<_>>();
        assert_eq!(inputs(JudgedFilter::default()), ["one", "two"]);
        assert_eq!(inputs(JudgedFilter { run: Some(run), ..JudgedFilter::default() }), ["one", "two"]);
        assert_eq!(inputs(JudgedFilter { id: Some(first.id), ..JudgedFilter::default() }), ["one"]);
        let asked_nothing = seen(JudgedFilter { id: Some(plain.id), ..JudgedFilter::default() });
        assert_eq!(asked_nothing, [(plain.id, None)], "one is found whatever it is");
        let late = Timestamp::from_unix_micros(u64::MAX / 2);
        assert!(seen(JudgedFilter { since: Some(late), ..JudgedFilter::default() }).is_empty());
        let early = Timestamp::from_unix_micros(1);
        assert!(seen(JudgedFilter { until: Some(early), ..JudgedFilter::default() }).is_empty());
    }
}
