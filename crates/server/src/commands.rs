//! One place where every command of an operator is decided by policy: a layer around each route that changes something.
//!
//! It stands behind the credential and before the handler. What it does not understand (a run that is not there, a body
//! that is none) it lets through to the handler, which refuses it.

use axum::{
    body::Body,
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use cogward_api::{ProblemCode, Route, RunStart};
use cogward_journal::{JournalEvent, Severity};
use cogward_model::{AgentName, PolicyScope, RunId, TenantName, VersionLabel, event::EventType, manifest::Tier};

use crate::{
    events::by_operator,
    extract::{Caller, JSON_BYTES_MAX, object, read},
    failure::Failure,
    plane::{App, Plane},
    policies::{Blocked, Command},
};

/// A route that is decided, with the plane.
#[derive(Clone)]
pub(crate) struct Decided {
    pub(crate) app: App,
    pub(crate) route: &'static Route,
    pub(crate) name: &'static str,
}

/// The layer.
pub(crate) async fn decide(State(decided): State<Decided>, request: Request, next: Next) -> Response {
    match allowed(&decided, request).await {
        Ok(request) => next.run(request).await,
        Err(refused) => refused.into_response(),
    }
}

async fn allowed(decided: &Decided, request: Request) -> Result<Request, Failure> {
    let app = &decided.app;
    let Some(caller) = request.extensions().get::<Caller>().cloned() else {
        return Err(Failure::new(ProblemCode::Unauthenticated, "no credential"));
    };
    let (command, request) = command(decided, request).await?;
    let Some(command) = command else { return Ok(request) };
    let answer = app.policies.active().decide(&caller.0, &command, app.clock.now());
    match answer {
        Ok(()) => Ok(request),
        Err(blocked) => Err(refused(app, &caller, &command, *blocked).await?),
    }
}

/// What policies call reading the hidden values of evidence. Reading is no command but for this.
const DISCLOSE: &str = "evidence.disclose";

/// Whether the caller may see the hidden values of a tenant's evidence. Where they only come along, nothing is refused:
/// they stay hidden.
pub(crate) fn may_disclose(app: &Plane, caller: &Caller, tenant: &TenantName) -> bool {
    let command = Command { name: DISCLOSE, tenant: Some(tenant.clone()), agent: None };
    app.policies.active().decide(&caller.0, &command, app.clock.now()).is_ok()
}

/// The same where they were asked for: a refusal is recorded.
pub(crate) async fn disclose(app: &Plane, caller: &Caller, tenant: &TenantName) -> Result<(), Failure> {
    let command = Command { name: DISCLOSE, tenant: Some(tenant.clone()), agent: None };
    match app.policies.active().decide(&caller.0, &command, app.clock.now()) {
        Ok(()) => Ok(()),
        Err(blocked) => Err(refused(app, caller, &command, *blocked).await?),
    }
}

/// A part of the path by its name in the route.
fn part<T: std::str::FromStr>(route: &Route, path: &str, name: &str) -> Option<T> {
    let wanted = format!("{{{name}}}");
    let place = route.path.split('/').position(|part| part == wanted)?;
    let text = path.split('/').nth(place)?;
    unescaped(text)?.parse().ok()
}

/// The text of an escaped part of a path.
fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

/// What the request is about; `None` for what the handler refuses anyway.
async fn command(decided: &Decided, request: Request) -> Result<(Option<Command>, Request), Failure> {
    let Decided { app, route, name } = decided;
    let path = request.uri().path().to_owned();
    if *name == "run.start" {
        return start(app, name, request).await;
    }
    if let Some(run) = part::<RunId>(route, &path, "run") {
        let Some(row) = app.store.run(run).await? else { return Ok((None, request)) };
        let tier = tier_of(app, &row.tenant, &row.agent, Some(&row.version)).await?;
        let command = Command { name, tenant: Some(row.tenant), agent: Some((row.agent, tier)) };
        return Ok((Some(command), request));
    }
    let level = part::<PolicyScope>(route, &path, "policy_level");
    let tenant = part::<TenantName>(route, &path, "tenant").or_else(|| level.and_then(|l| l.tenant().cloned()));
    // What is sent for a run is a command for the runs of its agent.
    let agent = part::<AgentName>(route, &path, "agent").filter(|_| name.starts_with("run."));
    let agent = match (agent, &tenant) {
        (Some(agent), Some(tenant)) => {
            let tier = tier_of(app, tenant, &agent, None).await?;
            Some((agent, tier))
        }
        _ => None,
    };
    Ok((Some(Command { name, tenant, agent }), request))
}

/// The one command whose object is in its body. The body is read as the handler reads it, and handed on.
async fn start(app: &Plane, name: &'static str, request: Request) -> Result<(Option<Command>, Request), Failure> {
    let (parts, body) = request.into_parts();
    let bytes = read(body, JSON_BYTES_MAX).await?;
    let command = match object::<RunStart>(&bytes) {
        Ok(RunStart { tenant, agent, version, .. }) => {
            let tier = tier_of(app, &tenant, &agent, version.as_ref()).await?;
            Some(Command { name, tenant: Some(tenant), agent: Some((agent, tier)) })
        }
        Err(_) => None,
    };
    Ok((command, Request::from_parts(parts, Body::from(bytes))))
}

/// The tier of a version, or of the newest.
async fn tier_of(
    app: &Plane,
    tenant: &TenantName,
    agent: &AgentName,
    version: Option<&VersionLabel>,
) -> Result<Option<Tier>, Failure> {
    let row = match version {
        Some(version) => app.store.version(tenant, agent, version).await?,
        None => app.store.version_latest(tenant, agent).await?,
    };
    Ok(row.and_then(|row| Tier::ALL.into_iter().find(|tier| tier.as_str() == row.tier)))
}

async fn refused(app: &Plane, caller: &Caller, command: &Command, blocked: Blocked) -> Result<Failure, Failure> {
    let Blocked { rule, level, rules, detail, policy, input } = blocked;
    let log = command.tenant.clone().unwrap_or_else(TenantName::default_tenant);
    // A tenant that is not there has no log.
    let log = if app.store.tenant(&log).await?.is_some() { log } else { TenantName::default_tenant() };
    let event = by_operator(EventType::OperatorCommandRefused, log.clone(), &caller.0, None)
        .public("command", command.name)
        .public("decision", "block")
        .public("policy_verdict", "block")
        .public("rule", rule.clone())
        .public("policy", policy)
        .public("policy_level", level)
        .public("policy_rules", rules)
        .public("agent", command.agent.as_ref().map(|(agent, _)| agent.to_string()))
        .confidential("policy_input", input);
    app.record(event).await?;
    let notice = JournalEvent::tenant("operator.command_refused", log).severity(Severity::Warning);
    app.journal.publish(notice.detail(serde_json::json!({ "command": command.name, "rule": rule })));
    Ok(Failure::new(ProblemCode::PolicyBlocked, format!("`{}` is not permitted: {detail}", command.name))
        .rule(rule)
        .next_step("`cogward policy status` shows which versions decide"))
}

#[cfg(test)]
mod tests {
    use cogward_api::routes;

    use super::*;

    #[test]
    fn parts_of_a_path_are_read_as_the_router_reads_them() {
        let route = &routes::ACTIVATE_POLICY;
        let path = "/api/v1/policies/agent%3Aretail%2Fclerk/active";
        let level: PolicyScope = part(route, path, "policy_level").unwrap();
        assert_eq!(level.to_string(), "agent:retail/clerk");
        assert_eq!(part::<PolicyScope>(route, "/api/v1/policies/agent%3", "policy_level"), None);
        assert_eq!(part::<RunId>(route, path, "run"), None);
        assert_eq!(unescaped("a%2Fb%"), None);
        assert_eq!(unescaped("%ff"), None);
    }
}
