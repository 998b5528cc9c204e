//! Paths for the client, one function per route with parameters.
//!
//! Names and identifiers have an alphabet that needs no escaping in a path, and their types make sure
//! of it; only version labels may hold a `+`, which a path may hold too (RFC 3986, 3.3). Queries are
//! made by [`with_query`], which does escape; the level of a policy is escaped by [`policy`], and what has a pin by
//! [`tool`].

use cogward_model::{
    AgentName, ContentName, Digest, PolicyScope, RunId, TenantName, UpstreamName, VersionLabel,
    id::{ApprovalId, EventId, HoldId, OperationId, OperatorId, RedactionId},
    manifest::Tier,
    pin_name::PinName,
};
use serde::Serialize;

/// `/api/v1/tenants`
pub const TENANTS: &str = "/api/v1/tenants";
/// `/api/v1/runs`
pub const RUNS: &str = "/api/v1/runs";
/// `/api/v1/events`
pub const EVENTS: &str = "/api/v1/events";
/// `/api/v1/plane`
pub const PLANE: &str = "/api/v1/plane";
/// `/api/v1/doctor`
pub const DOCTOR: &str = "/api/v1/doctor";
/// `/api/v1/whoami`
pub const WHOAMI: &str = "/api/v1/whoami";

/// `/api/v1/floors`
pub const FLOORS: &str = "/api/v1/floors";
/// `/api/v1/floor-shortfalls`
pub const SHORTFALLS: &str = "/api/v1/floor-shortfalls";
/// `/api/v1/operators`
pub const OPERATORS: &str = "/api/v1/operators";

/// The erasures of a tenant's evidence.
#[must_use]
pub fn redactions(tenant: &TenantName) -> String {
    format!("{TENANTS}/{tenant}/redactions")
}

/// An erasure.
#[must_use]
pub fn redaction(tenant: &TenantName, redaction: RedactionId) -> String {
    format!("{}/{redaction}", redactions(tenant))
}

/// A step of an erasure: `approve`, `deny`, `execute`; or its `receipt`.
#[must_use]
pub fn redaction_step(tenant: &TenantName, redaction: RedactionId, step: &str) -> String {
    format!("{}/{redaction}/{step}", redactions(tenant))
}

/// What is too old, of a tenant's evidence.
#[must_use]
pub fn retention(tenant: &TenantName) -> String {
    format!("{TENANTS}/{tenant}/retention")
}

/// The keys of a tenant's log, or of the plane log.
#[must_use]
pub fn evidence_keys(tenant: &TenantName) -> String {
    format!("{TENANTS}/{tenant}/evidence/keys")
}

/// A change of keys: `rotate`, `revoke`.
#[must_use]
pub fn evidence_keys_change(tenant: &TenantName, change: &str) -> String {
    format!("{}/{change}", evidence_keys(tenant))
}

/// The legal holds of a tenant.
#[must_use]
pub fn holds(tenant: &TenantName) -> String {
    format!("{TENANTS}/{tenant}/holds")
}

/// A legal hold.
#[must_use]
pub fn hold(tenant: &TenantName, hold: HoldId) -> String {
    format!("{}/{hold}", holds(tenant))
}

/// A step of a legal hold: `place`, `release`.
#[must_use]
pub fn hold_step(tenant: &TenantName, hold: HoldId, step: &str) -> String {
    format!("{}/{hold}/{step}", holds(tenant))
}

/// The floors of a tenant; of the plane without one.
#[must_use]
pub fn floors(tenant: Option<&TenantName>) -> String {
    tenant.map_or_else(|| FLOORS.to_owned(), |tenant| format!("{TENANTS}/{tenant}/floors"))
}

/// The floor of a tier, in a tenant or on the plane.
#[must_use]
pub fn floor(tenant: Option<&TenantName>, tier: Tier) -> String {
    format!("{}/{}", floors(tenant), tier.as_str())
}

/// The replacement of an operator's credential.
#[must_use]
pub fn operator_rotate(operator: OperatorId) -> String {
    format!("{OPERATORS}/{operator}/rotate")
}

/// An operator.
#[must_use]
pub fn operator(operator: OperatorId) -> String {
    format!("{OPERATORS}/{operator}")
}

/// The roles of an operator.
#[must_use]
pub fn operator_roles(operator: OperatorId) -> String {
    format!("{OPERATORS}/{operator}/roles")
}

/// `/api/v1/policies`
pub const POLICIES: &str = "/api/v1/policies";
/// `/api/v1/policy-status`
pub const POLICY_STATUS: &str = "/api/v1/policy-status";

/// A level of policy.
#[must_use]
pub fn policy(level: &PolicyScope) -> String {
    // The text of a level has a `/`, which a part of a path can only have escaped.
    let mut path = format!("{POLICIES}/");
    escape(&mut path, &level.to_string());
    path
}

/// Which version of a level decides.
#[must_use]
pub fn policy_active(level: &PolicyScope) -> String {
    format!("{}/active", policy(level))
}

/// A text to be looked at, for a level.
#[must_use]
pub fn policy_check(level: &PolicyScope) -> String {
    format!("{}/check", policy(level))
}

/// The versions of a level.
#[must_use]
pub fn policy_versions(level: &PolicyScope) -> String {
    format!("{}/versions", policy(level))
}

/// A version of a level.
#[must_use]
pub fn policy_version(level: &PolicyScope, version: Digest) -> String {
    format!("{}/versions/{version}", policy(level))
}

/// The approval of a version.
#[must_use]
pub fn policy_approve(level: &PolicyScope, version: Digest) -> String {
    format!("{}/versions/{version}/approve", policy(level))
}

/// What a version would have decided.
#[must_use]
pub fn policy_simulation(level: &PolicyScope, version: Digest) -> String {
    format!("{}/versions/{version}/simulation", policy(level))
}

/// What a version changes.
#[must_use]
pub fn policy_difference(level: &PolicyScope, version: Digest) -> String {
    format!("{}/versions/{version}/difference", policy(level))
}

/// A past decision of a tenant, made again.
#[must_use]
pub fn decision_explanation(tenant: &TenantName, decision: EventId) -> String {
    format!("{TENANTS}/{tenant}/decisions/{decision}/explanation")
}

/// A tenant's approvals.
#[must_use]
pub fn approvals(tenant: &TenantName) -> String {
    format!("{TENANTS}/{tenant}/approvals")
}

/// An approval.
#[must_use]
pub fn approval(tenant: &TenantName, approval: ApprovalId) -> String {
    format!("{TENANTS}/{tenant}/approvals/{approval}")
}

/// The answer to an approval.
#[must_use]
pub fn approval_answer(tenant: &TenantName, approval: ApprovalId, approved: bool) -> String {
    format!("{TENANTS}/{tenant}/approvals/{approval}/{}", if approved { "approve" } else { "deny" })
}

/// A tenant's agents.
#[must_use]
pub fn agents(tenant: &TenantName) -> String {
    format!("{TENANTS}/{tenant}/agents")
}

/// An agent.
#[must_use]
pub fn agent(tenant: &TenantName, agent: &AgentName) -> String {
    format!("{TENANTS}/{tenant}/agents/{agent}")
}

/// An agent's versions.
#[must_use]
pub fn versions(tenant: &TenantName, agent: &AgentName) -> String {
    format!("{TENANTS}/{tenant}/agents/{agent}/versions")
}

/// A version.
#[must_use]
pub fn version(tenant: &TenantName, agent: &AgentName, version: &VersionLabel) -> String {
    format!("{TENANTS}/{tenant}/agents/{agent}/versions/{version}")
}

/// The sandboxes of a version that are ready.
#[must_use]
pub fn warm(tenant: &TenantName, agent: &AgentName, version: &VersionLabel) -> String {
    format!("{TENANTS}/{tenant}/agents/{agent}/versions/{version}/warm")
}

/// A tenant's tool servers.
#[must_use]
pub fn tool_servers(tenant: &TenantName) -> String {
    format!("{TENANTS}/{tenant}/tool-servers")
}

/// A tool server.
#[must_use]
pub fn tool_server(tenant: &TenantName, name: &UpstreamName) -> String {
    format!("{TENANTS}/{tenant}/tool-servers/{name}")
}

/// How much there is in a memory.
#[must_use]
pub fn memory(tenant: &TenantName, server: &UpstreamName) -> String {
    format!("{TENANTS}/{tenant}/tool-servers/{server}/memory")
}

/// The forgetting of memories.
#[must_use]
pub fn memory_forget(tenant: &TenantName, server: &UpstreamName) -> String {
    format!("{TENANTS}/{tenant}/tool-servers/{server}/memory/forget")
}

/// The tools of a tool server.
#[must_use]
pub fn tools(tenant: &TenantName, server: &UpstreamName) -> String {
    format!("{TENANTS}/{tenant}/tool-servers/{server}/tools")
}

/// A tool.
#[must_use]
pub fn tool(tenant: &TenantName, server: &UpstreamName, tool: &PinName) -> String {
    // What is no tool has the name that its server gives it.
    let mut path = format!("{}/", tools(tenant, server));
    escape(&mut path, &tool.to_string());
    path
}

/// What is different between the approved definition of a tool and the one that is offered.
#[must_use]
pub fn tool_diff(tenant: &TenantName, server: &UpstreamName, name: &PinName) -> String {
    format!("{}/diff", tool(tenant, server, name))
}

/// The approval of a tool.
#[must_use]
pub fn tool_approve(tenant: &TenantName, server: &UpstreamName, name: &PinName) -> String {
    format!("{}/approve", tool(tenant, server, name))
}

/// The blocking of a tool.
#[must_use]
pub fn tool_block(tenant: &TenantName, server: &UpstreamName, name: &PinName) -> String {
    format!("{}/block", tool(tenant, server, name))
}

/// The labels of a tool.
#[must_use]
pub fn tool_labels(tenant: &TenantName, server: &UpstreamName, name: &PinName) -> String {
    format!("{}/labels", tool(tenant, server, name))
}

/// A tenant's providers.
#[must_use]
pub fn providers(tenant: &TenantName) -> String {
    format!("{TENANTS}/{tenant}/providers")
}

/// A provider.
#[must_use]
pub fn provider(tenant: &TenantName, name: &UpstreamName) -> String {
    format!("{TENANTS}/{tenant}/providers/{name}")
}

/// A tenant's trusted issuers.
#[must_use]
pub fn issuers(tenant: &TenantName) -> String {
    format!("{TENANTS}/{tenant}/issuers")
}

/// A trusted issuer.
#[must_use]
pub fn issuer(tenant: &TenantName, name: &UpstreamName) -> String {
    format!("{TENANTS}/{tenant}/issuers/{name}")
}

/// A tenant's credentials for inspected hosts.
#[must_use]
pub fn credentials(tenant: &TenantName) -> String {
    format!("{TENANTS}/{tenant}/credentials")
}

/// A credential for an inspected host.
#[must_use]
pub fn credential(tenant: &TenantName, name: &UpstreamName) -> String {
    format!("{TENANTS}/{tenant}/credentials/{name}")
}

/// An input of an agent, for an upload.
#[must_use]
pub fn input(tenant: &TenantName, agent: &AgentName, input: &ContentName) -> String {
    format!("{TENANTS}/{tenant}/agents/{agent}/inputs/{input}")
}

/// A run.
#[must_use]
pub fn run(run: RunId) -> String {
    format!("{RUNS}/{run}")
}

/// What a run has printed.
#[must_use]
pub fn run_logs(run: RunId) -> String {
    format!("{RUNS}/{run}/logs")
}

/// What a run's telemetry is.
#[must_use]
pub fn run_telemetry(run: RunId) -> String {
    format!("{RUNS}/{run}/telemetry")
}

/// What a run has left.
#[must_use]
pub fn run_artifacts(run: RunId) -> String {
    format!("{RUNS}/{run}/artifacts")
}

/// One thing that a run has left.
#[must_use]
pub fn run_artifact(run: RunId, artifact: &ContentName) -> String {
    format!("{RUNS}/{run}/artifacts/{artifact}")
}

/// A run's evidence.
#[must_use]
pub fn run_evidence(run: RunId) -> String {
    format!("{RUNS}/{run}/evidence")
}

/// A command on a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunCommand {
    /// Freeze it.
    Suspend,
    /// Let it go on.
    Resume,
    /// Ask it to end.
    Cancel,
    /// End it now.
    Kill,
}

impl RunCommand {
    /// Every command.
    pub const ALL: [Self; 4] = [Self::Suspend, Self::Resume, Self::Cancel, Self::Kill];

    /// The last part of its path.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Cancel => "cancel",
            Self::Kill => "kill",
        }
    }
}

/// A command on a run.
#[must_use]
pub fn run_command(run: RunId, command: RunCommand) -> String {
    format!("{RUNS}/{run}/{}", command.as_str())
}

/// An operation.
#[must_use]
pub fn operation(operation: OperationId) -> String {
    format!("/api/v1/operations/{operation}")
}

/// The export of a tenant's evidence.
#[must_use]
pub fn evidence_export(tenant: &TenantName) -> String {
    format!("{TENANTS}/{tenant}/evidence/export")
}

/// The search in a tenant's evidence.
#[must_use]
pub fn evidence_search(tenant: &TenantName) -> String {
    format!("{TENANTS}/{tenant}/evidence/search")
}

/// The proof of a leaf.
#[must_use]
pub fn leaf_proof(tenant: &TenantName, leaf: u64) -> String {
    format!("{TENANTS}/{tenant}/evidence/leaves/{leaf}/proof")
}

/// The proof that a ledger only grew.
#[must_use]
pub fn consistency_proof(tenant: &TenantName) -> String {
    format!("{TENANTS}/{tenant}/evidence/consistency")
}

/// The proof of a run.
#[must_use]
pub fn run_proof(run: RunId) -> String {
    format!("{RUNS}/{run}/evidence/proof")
}

/// The commitment to a sample's number.
#[must_use]
pub fn evidence_sample(tenant: &TenantName) -> String {
    format!("{TENANTS}/{tenant}/evidence/sample")
}

/// The rebuilding of the query index.
pub const EVIDENCE_REINDEX: &str = "/api/v1/evidence/index/rebuild";

/// The checkpoint of a tenant's ledger.
#[must_use]
pub fn evidence_checkpoint(tenant: &TenantName) -> String {
    format!("{TENANTS}/{tenant}/evidence/checkpoint")
}

/// A tenant's log as tiles: `checkpoint`, `tile/…`, `log.vkey`.
#[must_use]
pub fn log_file(tenant: &TenantName, file: &str) -> String {
    format!("{TENANTS}/{tenant}/log/{file}")
}

/// The plane log as tiles.
#[must_use]
pub fn plane_log_file(file: &str) -> String {
    format!("/api/v1/evidence/log/{file}")
}

/// How far the plane log is witnessed.
pub const EVIDENCE_STATUS: &str = "/api/v1/evidence/status";
/// What a witness without a network is handed.
pub const WITNESS_REQUEST: &str = "/api/v1/evidence/witness-request";
/// What witnesses said.
pub const COSIGNATURES: &str = "/api/v1/evidence/cosignatures";
/// What a time stamp authority without a network is handed.
pub const TIMESTAMP_REQUESTS: &str = "/api/v1/evidence/timestamp-requests";
/// What time stamp authorities answered.
pub const TIMESTAMPS: &str = "/api/v1/evidence/timestamps";

/// A path with a query made from one of the query types. Fields that are not set are left out.
///
/// # Errors
/// When `query` is not a flat struct of texts, numbers and truth values.
pub fn with_query(path: &str, query: &impl Serialize) -> Result<String, serde_json::Error> {
    let serde_json::Value::Object(fields) = serde_json::to_value(query)? else {
        return Ok(path.to_owned());
    };
    let mut whole = path.to_owned();
    let mut mark = '?';
    for (name, value) in fields {
        let text = match value {
            serde_json::Value::Null => continue,
            serde_json::Value::String(text) => text,
            plain @ (serde_json::Value::Bool(_) | serde_json::Value::Number(_)) => plain.to_string(),
            serde_json::Value::Array(_) | serde_json::Value::Object(_) => {
                return Err(serde::ser::Error::custom(format!("`{name}` cannot be in a query")));
            }
        };
        whole.push(mark);
        whole.push_str(&name);
        whole.push('=');
        escape(&mut whole, &text);
        mark = '&';
    }
    Ok(whole)
}

/// Escapes everything but RFC 3986's unreserved letters.
fn escape(into: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            into.push(char::from(byte));
        } else {
            into.push('%');
            for nibble in [byte >> 4, byte & 15] {
                into.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0').to_ascii_uppercase());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use cogward_model::{Id, SystemClock, SystemEntropy};

    use super::*;
    use crate::{ROUTES, RunQuery};

    /// Whether `path` is one that the table has.
    fn known(path: &str) -> bool {
        let parts: Vec<_> = path.split('/').collect();
        ROUTES.iter().any(|route| {
            let pattern: Vec<_> = route.path.split('/').collect();
            pattern.len() == parts.len() && pattern.iter().zip(&parts).all(|(p, t)| p.starts_with('{') || p == t)
        })
    }

    #[test]
    fn every_built_path_is_in_the_table() {
        let tenant = TenantName::default_tenant();
        let name: AgentName = "claims".parse().unwrap();
        let label: VersionLabel = "1.0.0+build".parse().unwrap();
        let upstream: UpstreamName = "files".parse().unwrap();
        let read: PinName = "read_text_file".parse().unwrap();
        let id: RunId = Id::new(&SystemClock, &SystemEntropy);
        let content: ContentName = "report.pdf".parse().unwrap();
        let operator: OperatorId = Id::new(&SystemClock, &SystemEntropy);
        let op: OperationId = Id::new(&SystemClock, &SystemEntropy);
        let level: PolicyScope = "agent:default/claims".parse().unwrap();
        let (digest, decision) = (Digest::from_bytes([7; 32]), Id::new(&SystemClock, &SystemEntropy));
        let waiting: ApprovalId = Id::new(&SystemClock, &SystemEntropy);
        let (redaction_id, hold_id) =
            (RedactionId::new(&SystemClock, &SystemEntropy), HoldId::new(&SystemClock, &SystemEntropy));
        let mut all = vec![
            TENANTS.to_owned(),
            RUNS.to_owned(),
            EVENTS.to_owned(),
            PLANE.to_owned(),
            DOCTOR.to_owned(),
            WHOAMI.to_owned(),
            agents(&tenant),
            agent(&tenant, &name),
            versions(&tenant, &name),
            version(&tenant, &name, &label),
            warm(&tenant, &name, &label),
            tool_servers(&tenant),
            tool_server(&tenant, &upstream),
            memory(&tenant, &upstream),
            memory_forget(&tenant, &upstream),
            tools(&tenant, &upstream),
            tool(&tenant, &upstream, &read),
            tool_diff(&tenant, &upstream, &read),
            tool_approve(&tenant, &upstream, &read),
            tool_block(&tenant, &upstream, &read),
            tool_labels(&tenant, &upstream, &read),
            providers(&tenant),
            provider(&tenant, &upstream),
            issuers(&tenant),
            issuer(&tenant, &upstream),
            credentials(&tenant),
            credential(&tenant, &upstream),
            run(id),
            run_logs(id),
            run_telemetry(id),
            run_evidence(id),
            run_artifacts(id),
            run_artifact(id, &content),
            input(&tenant, &name, &content),
            operation(op),
            evidence_export(&tenant),
            evidence_checkpoint(&tenant),
            log_file(&tenant, "checkpoint"),
            plane_log_file("checkpoint"),
            EVIDENCE_STATUS.to_owned(),
            WITNESS_REQUEST.to_owned(),
            COSIGNATURES.to_owned(),
            TIMESTAMP_REQUESTS.to_owned(),
            TIMESTAMPS.to_owned(),
            evidence_search(&tenant),
            leaf_proof(&tenant, 7),
            consistency_proof(&tenant),
            run_proof(id),
            evidence_sample(&tenant),
            EVIDENCE_REINDEX.to_owned(),
            floors(None),
            floors(Some(&tenant)),
            floor(None, Tier::Production),
            floor(Some(&tenant), Tier::Production),
            SHORTFALLS.to_owned(),
            OPERATORS.to_owned(),
            operator_rotate(operator),
            self::operator(operator),
            operator_roles(operator),
            POLICIES.to_owned(),
            POLICY_STATUS.to_owned(),
            policy(&level),
            policy_active(&level),
            policy_check(&level),
            policy_versions(&level),
            policy_version(&level, digest),
            policy_approve(&level, digest),
            policy_simulation(&level, digest),
            policy_difference(&level, digest),
            decision_explanation(&tenant, decision),
            redactions(&tenant),
            redaction(&tenant, redaction_id),
            redaction_step(&tenant, redaction_id, "approve"),
            redaction_step(&tenant, redaction_id, "deny"),
            redaction_step(&tenant, redaction_id, "execute"),
            redaction_step(&tenant, redaction_id, "receipt"),
            retention(&tenant),
            evidence_keys(&tenant),
            evidence_keys_change(&tenant, "rotate"),
            evidence_keys_change(&tenant, "revoke"),
            holds(&tenant),
            hold(&tenant, hold_id),
            hold_step(&tenant, hold_id, "place"),
            hold_step(&tenant, hold_id, "release"),
            approvals(&tenant),
            approval(&tenant, waiting),
            approval_answer(&tenant, waiting, true),
            approval_answer(&tenant, waiting, false),
        ];
        all.extend(RunCommand::ALL.map(|command| run_command(id, command)));
        for path in &all {
            assert!(known(path), "{path}");
        }
        // And the other way round: a route that the client cannot reach was forgotten here.
        let reachable = ROUTES.iter().filter(|r| r.path.starts_with("/api/")).map(|r| r.path);
        let distinct: std::collections::BTreeSet<_> = reachable.collect();
        assert_eq!(all.len(), distinct.len());
    }

    #[test]
    fn a_query_escapes_what_a_url_would_read_otherwise() {
        let query = RunQuery { cursor: Some("a&b=c/ä".into()), limit: Some(3), ..RunQuery::default() };
        let path = with_query("/x", &query).unwrap();
        let (path, pairs) = path.split_once('?').unwrap();
        // Their order says nothing.
        let pairs: std::collections::BTreeSet<_> = pairs.split('&').collect();
        assert_eq!((path, pairs), ("/x", ["cursor=a%26b%3Dc%2F%C3%A4", "limit=3"].into()));
        assert_eq!(with_query("/x", &RunQuery::default()).unwrap(), "/x");
        assert!(with_query("/x", &crate::Page::whole(vec![1])).is_err());
    }
}
