//! Rules that need to know what the plane has. The state comes in as plain data, so that they can be
//! tried without a plane, and later from a dry run.

use std::collections::{BTreeMap, BTreeSet};

use cogward_model::{TenantName, ToolName, UpstreamName};

use crate::{Findings, manifest::Parsed};

/// What is registered for the manifest's tenant.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The tenants of the plane.
    pub tenants: BTreeSet<TenantName>,
    /// The tool servers of the tenant, each with its tools; `None` when it could not be asked.
    pub tool_servers: BTreeMap<UpstreamName, Option<BTreeSet<ToolName>>>,
    /// The providers of the tenant, each with the models that have a price.
    pub providers: BTreeMap<UpstreamName, BTreeSet<String>>,
    /// The credentials of the tenant, each with the host and port that it belongs to.
    pub credentials: BTreeMap<UpstreamName, (String, u16)>,
}

/// Everything in a manifest that the plane does not have. Empty when it can be registered.
#[must_use]
pub fn check(parsed: &Parsed, known: &Known) -> Findings {
    let mut findings = Findings::default();
    let (manifest, places) = (&parsed.manifest, &parsed.places);
    let tenant = &manifest.metadata.tenant;
    if !known.tenants.contains(tenant) {
        let problem = format!("there is no tenant `{tenant}`");
        let fix = listed("use one of", &known.tenants, "create it first");
        findings.push(places.finding("metadata.tenant", "unknown-tenant", problem, fix));
        // Whatever else it names belongs to a tenant, so there is nothing to compare with.
        return findings;
    }
    for (n, grant) in manifest.spec.permissions.tools.iter().enumerate() {
        let path = format!("spec.permissions.tools[{n}]");
        let server = &grant.server;
        match known.tool_servers.get(server) {
            None => {
                let problem = format!("tenant `{tenant}` has no tool server `{server}`");
                let add = format!("add it with `cogward tool-server add {server}`");
                let fix = if known.tool_servers.is_empty() {
                    add
                } else {
                    format!("{}, or {add}", listed("use one of", known.tool_servers.keys(), ""))
                };
                findings.push(places.finding(&format!("{path}.server"), "unknown-tool-server", problem, fix));
            }
            Some(None) => {
                let problem = format!("the tool server `{server}` did not say which tools it has");
                let fix = "see that it runs, then register again: what cannot be checked is not granted";
                findings.push(places.finding(&format!("{path}.server"), "tool-server-silent", problem, fix));
            }
            Some(Some(offered)) => {
                for (m, tool) in grant.allow.iter().enumerate() {
                    if !offered.contains(tool) {
                        let problem = format!("the tool server `{server}` does not offer `{tool}`");
                        let fix = listed("use one of", offered, "remove it");
                        findings.push(places.finding(&format!("{path}.allow[{m}]"), "unknown-tool", problem, fix));
                    }
                }
            }
        }
    }
    for (n, grant) in manifest.spec.permissions.models.iter().enumerate() {
        let path = format!("spec.permissions.models[{n}]");
        let (provider, model) = (&grant.provider, &grant.name);
        match known.providers.get(provider) {
            None => {
                let problem = format!("tenant `{tenant}` has no provider `{provider}`");
                let fix = format!("add it with `cogward provider add {provider}`");
                findings.push(places.finding(&format!("{path}.provider"), "unknown-provider", problem, fix));
            }
            Some(priced) if !priced.contains(model) => {
                let shown: String = model.chars().take(64).collect();
                let problem =
                    format!("the provider `{provider}` has no price for `{shown}`, so its cost cannot be limited");
                let fix = listed("use one of", priced, "add its price to the provider");
                findings.push(places.finding(&format!("{path}.name"), "model-without-price", problem, fix));
            }
            Some(_) => {}
        }
    }
    for (n, grant) in manifest.spec.permissions.egress.iter().enumerate() {
        let Some(name) = grant.inspect.as_ref().and_then(|i| i.credential.as_ref()).map(|c| &c.name) else { continue };
        let path = format!("spec.permissions.egress[{n}].inspect.credential.name");
        let (problem, fix) = match known.credentials.get(name) {
            None => (
                format!("tenant `{tenant}` has no credential `{name}`"),
                format!("store it with `cogward credential add {name} --host {} --credential-file FILE`", grant.host),
            ),
            Some((host, port)) if (host, port) != (&grant.host, &grant.port) => (
                format!("the credential `{name}` does not belong to `{}:{}`", grant.host, grant.port),
                "name the credential of this host; a credential is sent to the one host that it was stored for".into(),
            ),
            Some(_) => continue,
        };
        findings.push(places.finding(&path, "unknown-credential", problem, fix));
    }
    findings
}

/// A short list of choices; `otherwise` when there is none.
fn listed<T: std::fmt::Display>(lead: &str, choices: impl IntoIterator<Item = T>, otherwise: &str) -> String {
    let all: Vec<String> = choices.into_iter().take(9).map(|c| format!("`{c}`")).collect();
    match all.get(..8) {
        Some(first) if all.len() > 8 => format!("{lead} {} and more", first.join(", ")),
        _ if all.is_empty() => otherwise.to_owned(),
        _ => format!("{lead} {}", all.join(", ")),
    }
}
