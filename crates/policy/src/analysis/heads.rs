//! Heads that stand for all heads: every principal and resource that rules tell apart, and one that none of them names.

use std::{collections::BTreeSet, str::FromStr, sync::Arc};

use cogward_model::{
    AgentName, Digest, TenantName, ToolName, UpstreamName, VersionLabel,
    manifest::{AutonomyClass, Tier},
};

use super::{
    constants::{Compared, Constants, Root},
    domain::{self, ELSE},
};
use crate::{
    ask::{AgentVersion, Deed, Head, MemoryOperation, Operator, Principal},
    level::PolicyScope,
    schema::Schema,
    value::Value,
};

/// The most heads that are looked at.
pub(super) const HEADS_MAX: usize = 20_000;

/// Heads for the rules behind some constants.
pub(super) struct Heads<'a> {
    level: &'a PolicyScope,
    constants: &'a Constants,
    schema: &'a Schema,
    /// Whether they stand for all.
    pub all: bool,
}

impl<'a> Heads<'a> {
    pub fn new(level: &'a PolicyScope, constants: &'a Constants, schema: &'a Schema) -> Self {
        Self { level, constants, schema, all: true }
    }

    pub fn collect(&mut self) -> Vec<Arc<Head>> {
        let agents = self.agents();
        let operators = self.operators();
        let mut heads = Vec::new();
        for (deed, labelled) in self.deeds() {
            let labels = if labelled { self.labels() } else { vec![BTreeSet::new()] };
            let commands = matches!(deed, Deed::RunCommand { .. } | Deed::OperatorCommand { .. });
            for principal in if commands { &operators } else { &agents } {
                for labels in &labels {
                    if heads.len() >= HEADS_MAX {
                        self.all = false;
                        return heads;
                    }
                    let head = Head { principal: principal.clone(), deed: deed.clone(), labels: labels.clone() };
                    heads.push(Arc::new(head));
                }
            }
        }
        heads
    }

    fn compared(&self, root: Root, steps: &[&str]) -> Compared {
        self.constants.at(root, steps).cloned().unwrap_or_default()
    }

    fn is_read(&self, root: Root, step: &str) -> bool {
        self.constants.at(root, &[step]).is_some()
    }

    /// Names of a kind: those that rules compare a place with, more, and one that is not named.
    fn names<T: FromStr + Ord>(&self, root: Root, step: &str, more: impl IntoIterator<Item = String>) -> BTreeSet<T> {
        let compared = self.compared(root, &[step]);
        let texts = domain::texts(&compared).into_iter().chain(more).chain([ELSE.to_owned()]);
        texts.filter_map(|text| text.parse().ok()).collect()
    }

    fn labels(&mut self) -> Vec<BTreeSet<String>> {
        let members = self.compared(Root::Resource, &["labels"]).members;
        let texts = members.into_iter().filter_map(|member| match member {
            Value::Text(text) => Some(text),
            _ => None,
        });
        let (sets, all) = domain::subsets(texts);
        self.all &= all;
        sets
    }

    fn tenants(&self) -> BTreeSet<TenantName> {
        if let Some(tenant) = self.level.tenant() {
            return BTreeSet::from([tenant.clone()]);
        }
        let of_agents = self.constants.named("Agent").chain(self.constants.named("AgentVersion"));
        let of_agents = of_agents.filter_map(|id| Some(id.split_once('/')?.0.to_owned()));
        let named = self.constants.named("Tenant").map(str::to_owned).chain(of_agents).collect::<Vec<_>>();
        self.names(Root::Principal, "tenant", named)
    }

    fn agents(&mut self) -> Vec<Principal> {
        let versions = self.constants.named("AgentVersion").filter_map(|id| id.split_once('/')?.1.split_once('@'));
        let versions: Vec<(String, String)> = versions.map(|(a, v)| (a.to_owned(), v.to_owned())).collect();
        let of_agents = self.constants.named("Agent").filter_map(|id| Some(id.split_once('/')?.1.to_owned()));
        let named = of_agents.chain(versions.iter().map(|(agent, _)| agent.clone())).collect::<Vec<_>>();
        let agents: BTreeSet<AgentName> = match self.level {
            PolicyScope::Agent(_, agent) => BTreeSet::from([agent.clone()]),
            _ => self.names(Root::Principal, "agent", named),
        };
        let mut labels: BTreeSet<VersionLabel> =
            self.names(Root::Principal, "version", versions.into_iter().map(|(_, version)| version));
        if labels.is_empty() {
            labels.extend("0.0.0-else".parse::<VersionLabel>());
        }
        let tier_read = self.is_read(Root::Principal, "tier")
            || self.is_read(Root::Context, "tier")
            || self.constants.named("Tier").next().is_some();
        let tiers = match self.level {
            PolicyScope::Tier(_, tier) => vec![*tier],
            _ if tier_read => vec![Tier::Development, Tier::Staging, Tier::Production],
            _ => vec![Tier::Production],
        };
        let autonomies = if self.is_read(Root::Principal, "autonomy") || self.is_read(Root::Context, "autonomy") {
            vec![AutonomyClass::UserDelegated, AutonomyClass::Supervised, AutonomyClass::Autonomous]
        } else {
            vec![AutonomyClass::Autonomous]
        };
        let mut digests: BTreeSet<Digest> =
            self.compared(Root::Principal, &["digest"]).texts.iter().filter_map(|text| text.parse().ok()).collect();
        digests.insert(Digest::from_bytes([0; 32]));
        let mut delegators = vec![Vec::new()];
        if self.is_read(Root::Principal, "delegators") {
            delegators.extend(self.constants.named("Agent").map(|agent| vec![agent.to_owned()]));
            // Chains of several are not put together.
            self.all = false;
        }
        let mut principals = Vec::new();
        for tenant in self.tenants() {
            for agent in &agents {
                for version in &labels {
                    for (tier, autonomy) in tiers.iter().flat_map(|tier| autonomies.iter().map(move |a| (*tier, *a))) {
                        for (digest, delegators) in
                            digests.iter().flat_map(|digest| delegators.iter().map(move |d| (*digest, d)))
                        {
                            principals.push(Principal::Agent(AgentVersion {
                                tenant: tenant.clone(),
                                agent: agent.clone(),
                                version: version.clone(),
                                digest,
                                tier,
                                autonomy,
                                delegators: delegators.clone(),
                            }));
                        }
                    }
                }
            }
        }
        principals
    }

    fn operators(&mut self) -> Vec<Principal> {
        let (roles, all) = domain::subsets(self.constants.named("Role").map(str::to_owned));
        self.all &= all;
        let names: Vec<&str> = self.constants.named("Operator").chain([ELSE]).collect();
        let tenants: Vec<Option<TenantName>> = [None].into_iter().chain(self.tenants().into_iter().map(Some)).collect();
        let mut principals = Vec::new();
        for name in names {
            for tenant in &tenants {
                for roles in &roles {
                    let (name, tenant, roles) = (name.to_owned(), tenant.clone(), roles.clone());
                    principals.push(Principal::Operator(Operator { name, tenant, roles }));
                }
            }
        }
        principals
    }

    /// Every deed that rules tell apart, and whether its resource has labels.
    fn deeds(&self) -> Vec<(Deed, bool)> {
        let mut deeds = Vec::new();
        self.of_servers(&mut deeds);
        self.of_models(&mut deeds);
        self.of_hosts(&mut deeds);
        for audience in self.constants.named("Audience").chain([ELSE]) {
            deeds.push((Deed::Token { audience: audience.to_owned() }, false));
        }
        let commands = domain::texts(&self.compared(Root::Context, &["command"]));
        let tenants = self.tenants();
        for command in commands {
            for tenant in &tenants {
                let agents = self.constants.named("Agent").map(str::to_owned).chain([format!("{tenant}/{ELSE}")]);
                for agent in agents.filter(|agent| agent.split_once('/').is_some_and(|(of, _)| of == tenant.as_str())) {
                    deeds.push((Deed::RunCommand { agent, command: command.clone() }, false));
                }
                let (tenant, command) = (Some(tenant.clone()), command.clone());
                deeds.push((Deed::OperatorCommand { tenant, command }, false));
            }
            if matches!(self.level, PolicyScope::Plane) {
                deeds.push((Deed::OperatorCommand { tenant: None, command }, false));
            }
        }
        deeds
    }

    fn of_servers(&self, deeds: &mut Vec<(Deed, bool)>) {
        let targets = |kind: &'static str| self.constants.named(kind).filter_map(|id| id.split_once('/'));
        let actions = self
            .constants
            .named("Action")
            .filter_map(|id| id.strip_prefix("tool:"))
            .filter_map(|id| id.split_once('/'));
        let tools: BTreeSet<(&str, &str)> = targets("Tool").chain(actions).collect();
        let named = self.constants.named("ToolServer").chain(tools.iter().map(|(server, _)| *server));
        let named = named.chain(targets("Resource").chain(targets("Prompt")).map(|(server, _)| server));
        let more: Vec<String> = named.map(str::to_owned).collect();
        // A server is compared by the name of a tool's server, and by its own where it is the resource.
        let mut servers: BTreeSet<UpstreamName> = self.names(Root::Resource, "server", more.clone());
        servers.extend(self.names::<UpstreamName>(Root::Resource, "name", more));
        let names: BTreeSet<ToolName> =
            self.names(Root::Resource, "name", tools.iter().map(|(_, tool)| (*tool).to_owned()));
        let uris = domain::texts(&self.compared(Root::Resource, &["uri"]));
        let uris: BTreeSet<String> =
            uris.into_iter().chain(targets("Resource").map(|(_, uri)| uri.to_owned())).collect();
        let prompts: BTreeSet<String> =
            self.names(Root::Resource, "name", targets("Prompt").map(|(_, prompt)| prompt.to_owned()));
        // A call of a memory is told from that of any other tool by its action and by its operation alone.
        let memories =
            self.is_read(Root::Context, "operation") || self.constants.named("Action").any(|id| id == "memory");
        for server in servers {
            for tool in &names {
                let pinned = self.schema.shape(server.as_str(), tool.as_str()).is_some();
                deeds.push((Deed::ToolCall { server: server.clone(), tool: tool.clone(), pinned }, true));
                for operation in MemoryOperation::ALL.into_iter().filter(|_| memories) {
                    let (server, tool) = (server.clone(), tool.clone());
                    deeds.push((Deed::Memory { server, tool, operation, pinned }, true));
                }
            }
            for uri in &uris {
                deeds.push((Deed::ResourceRead { server: server.clone(), uri: uri.clone() }, true));
            }
            for prompt in &prompts {
                deeds.push((Deed::PromptGet { server: server.clone(), prompt: prompt.clone() }, true));
            }
            deeds.push((Deed::Sampling { server: server.clone() }, true));
            deeds.push((Deed::Elicitation { server }, true));
        }
    }

    fn of_models(&self, deeds: &mut Vec<(Deed, bool)>) {
        let models: BTreeSet<(&str, &str)> =
            self.constants.named("Model").filter_map(|id| id.split_once('/')).collect();
        let named = self.constants.named("Provider").chain(models.iter().map(|(provider, _)| *provider));
        let providers: BTreeSet<UpstreamName> =
            self.names(Root::Resource, "provider", named.map(str::to_owned).collect::<Vec<_>>());
        let names: BTreeSet<String> =
            self.names(Root::Resource, "name", models.iter().map(|(_, model)| (*model).to_owned()));
        for provider in providers {
            for model in &names {
                deeds.push((Deed::ModelCall { provider: provider.clone(), model: model.clone() }, true));
            }
        }
    }

    fn of_hosts(&self, deeds: &mut Vec<(Deed, bool)>) {
        let hosts = self.constants.named("Host").filter_map(|id| id.rsplit_once(':'));
        let named: Vec<(String, u16)> =
            hosts.filter_map(|(host, port)| Some((host.to_owned(), port.parse().ok()?))).collect();
        let domains = self.constants.named("Domain").flat_map(|domain| [domain.to_owned(), format!("below.{domain}")]);
        let names = domains.chain(named.iter().map(|(host, _)| host.clone())).collect::<Vec<_>>();
        let names: BTreeSet<String> = self.names(Root::Resource, "name", names);
        let ports = domain::longs(&self.compared(Root::Resource, &["port"]), 1, i64::from(u16::MAX));
        let ports = ports.into_iter().filter_map(|port| u16::try_from(port).ok());
        let ports: BTreeSet<u16> = ports.chain(named.iter().map(|(_, port)| *port)).chain([443]).collect();
        for host in names {
            for port in &ports {
                deeds.push((Deed::Egress { host: host.clone(), port: *port }, true));
            }
        }
    }
}
