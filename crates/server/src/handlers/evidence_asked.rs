//! What a question to the evidence may ask for: a word that nothing can have is refused, not answered with nothing.

use cogward_api::EvidenceQuery;
use cogward_evidence::REFUSED;
use cogward_model::{Digest, Timestamp, ToolName, UpstreamName, event::EventType, id::OperatorId};

use crate::{failure::Failure, plane::Plane};

/// Decisions and verdicts that leaves have, and the word for every kind of refusal.
const DECISIONS: [&str; 4] = ["permit", "block", "escalate", REFUSED];

fn unknown(what: &str, given: &str, known: &[&'static str], list: &str) -> Failure {
    let shown: String = given.chars().filter(|c| !c.is_control()).take(64).collect();
    let refusal =
        Failure::invalid(format!("`{shown}` is no {what}: nothing can be found by it")).rule("evidence.query");
    match cogward_policy::nearest(given, known.iter().copied()) {
        Some(near) => refusal.next_step(format!("did you mean `{near}`? {list}")),
        None => refusal.next_step(list.to_owned()),
    }
}

/// Refuses a type of event that does not exist.
pub(super) fn event_type(kind: Option<&str>) -> Result<(), Failure> {
    let Some(kind) = kind else { return Ok(()) };
    if EventType::ALL.iter().any(|known| known.as_str() == kind) {
        return Ok(());
    }
    let known: Vec<&'static str> = EventType::ALL.iter().map(|known| known.as_str()).collect();
    Err(unknown("type of event", kind, &known, "docs/evidence/events.md lists them all"))
}

/// Refuses a decision that no leaf has.
fn decision(word: Option<&str>) -> Result<(), Failure> {
    match word {
        // What other systems say for it.
        Some("deny" | "denied" | "refuse") => {
            Err(unknown("decision", "deny", &[], "`block` is the decision; `refused` finds every kind of refusal"))
        }
        Some(word) if !DECISIONS.contains(&word) => Err(unknown(
            "decision",
            word,
            &DECISIONS,
            "a decision is `permit`, `block` or `escalate`; `refused` finds every kind of refusal (docs/policy.md)",
        )),
        _ => Ok(()),
    }
}

/// Refuses a tool without its server, and what cannot be the name of one. A question is recorded with what was asked for, in
/// clear and for ever: free text has no place in it.
pub(super) fn tool(name: Option<&str>) -> Result<(), Failure> {
    let Some(name) = name else { return Ok(()) };
    let (server, tool) = name.split_once('/').unwrap_or((name, ""));
    if server.parse::<UpstreamName>().is_ok() && tool.parse::<ToolName>().is_ok() {
        return Ok(());
    }
    Err(Failure::invalid("a tool is asked for with its server, as `SERVER/TOOL`")
        .rule("evidence.query")
        .next_step("all tools of a server: `--tool-server SERVER` (`tool_server` in the request)"))
}

/// Refuses what cannot be the name of a tool server.
pub(super) fn tool_server(name: Option<&str>) -> Result<(), Failure> {
    match name.map(str::parse::<UpstreamName>) {
        Some(Err(error)) => {
            Err(Failure::invalid(format!("no tool server has that name: {error}")).rule("evidence.query"))
        }
        _ => Ok(()),
    }
}

/// Refuses what cannot be the digest of a policy version.
fn policy(digest: Option<&str>) -> Result<(), Failure> {
    match digest.map(str::parse::<Digest>) {
        Some(Err(_)) => {
            Err(Failure::invalid("a policy version is asked for by its digest, `sha256:` and 64 hex digits")
                .rule("evidence.query")
                .next_step("`cogward policy list` shows the digests"))
        }
        _ => Ok(()),
    }
}

/// Refuses a window that ends before it begins.
pub(super) fn window(since: Option<Timestamp>, until: Option<Timestamp>) -> Result<(), Failure> {
    match (since, until) {
        (Some(since), Some(until)) if until <= since => {
            Err(Failure::invalid(format!("the window ends ({until}) before it begins ({since})"))
                .rule("evidence.query")
                .next_step("it is from a time on and before another: the first is the earlier one"))
        }
        _ => Ok(()),
    }
}

/// Everything that a search may say wrong.
pub(super) fn search(query: &EvidenceQuery) -> Result<(), Failure> {
    event_type(query.kind.as_deref())?;
    decision(query.decision.as_deref())?;
    tool(query.tool.as_deref())?;
    tool_server(query.tool_server.as_deref())?;
    policy(query.policy.as_deref())?;
    window(query.since, query.until)
}

/// The operator of a public id, or of a name: names are unique, also of those who are revoked.
pub(super) async fn operator(app: &Plane, given: Option<String>) -> Result<Option<OperatorId>, Failure> {
    let Some(given) = given else { return Ok(None) };
    if let Ok(id) = given.parse::<OperatorId>() {
        return Ok(Some(id));
    }
    let row = app.store.operator_named(&given).await?;
    let missing = || Failure::missing("operator", given.clone()).next_step("`cogward operator list` names them");
    row.map(|row| Some(row.id)).ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(refused: Result<(), Failure>) -> String {
        format!("{:?}", refused.unwrap_err())
    }

    #[test]
    fn a_word_that_nothing_has_is_refused_with_the_nearest() {
        assert!(event_type(Some("tool.call.decided")).is_ok() && event_type(None).is_ok());
        let said = step(event_type(Some("tool.call.decide")));
        assert!(
            said.contains("did you mean `tool.call.decided`?") && said.contains("docs/evidence/events.md"),
            "{said}"
        );
        assert!(step(event_type(Some("nonsense.of.mine"))).contains("docs/evidence/events.md"));
        for word in DECISIONS {
            assert!(decision(Some(word)).is_ok());
        }
        assert!(step(decision(Some("deny"))).contains("`block` is the decision"));
        assert!(step(decision(Some("premit"))).contains("did you mean `permit`?"));
        assert!(tool(Some("files/read")).is_ok());
        assert!(step(tool(Some("files"))).contains("--tool-server"));
        // Recorded in clear and for ever: no place for the name of a person.
        assert!(tool(Some("Jane Smith/account")).is_err() && tool(Some("files/Jane Smith")).is_err());
        assert!(tool_server(Some("files")).is_ok() && tool_server(Some("Jane Smith")).is_err());
        assert!(policy(Some("Jane Smith")).is_err() && policy(Some(&format!("sha256:{}", "0".repeat(64)))).is_ok());
        let at = |text: &str| Some(text.parse::<Timestamp>().unwrap());
        let (early, late) = (at("2026-11-01T00:00:00.000000Z"), at("2026-12-01T00:00:00.000000Z"));
        assert!(window(early, late).is_ok() && window(late, None).is_ok() && window(None, early).is_ok());
        assert!(window(late, early).is_err() && window(early, early).is_err());
    }
}
