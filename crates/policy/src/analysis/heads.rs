//! Heads that stand for all heads: every principal and resource that rules tell apart, and one that none of them names.

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
    sync::Arc,
};

use cogward_model::{
    AgentName, Digest, TenantName, ToolName, UpstreamName, VersionLabel,
    manifest::{AutonomyClass, Tier},
};

use super::{
    constants::{Compared, Constants, Root},
    domain,
};
use crate::{
    ask::{AgentVersion, Deed, Head, MemoryOperation, Operator, Principal},
    level::PolicyScope,
    path::Paths,
    schema::Schema,
    shape::{Field, Kind},
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
        let labels_of_all = self.labels();
        let mut heads = Vec::new();
        for deed in self.deeds() {
            let labels = if deed.has_labels() { labels_of_all.clone() } else { vec![BTreeSet::new()] };
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
    fn names<T: FromStr + Ord>(
        &mut self,
        root: Root,
        step: &str,
        more: impl IntoIterator<Item = String>,
    ) -> BTreeSet<T> {
        let (names, all) = domain::names(&self.compared(root, &[step]), more, &self.constants.other);
        self.all &= all;
        names
    }

    /// What there is no room for is not asked about.
    fn push<T>(&mut self, all: &mut Vec<T>, one: T) -> bool {
        let room = all.len() < HEADS_MAX;
        if room {
            all.push(one);
        }
        self.all &= room;
        room
    }

    fn labels(&mut self) -> Vec<BTreeSet<String>> {
        if !self.is_read(Root::Resource, "labels") {
            return vec![BTreeSet::new()];
        }
        let members = self.compared(Root::Resource, &["labels"]).members;
        let texts = members.into_iter().filter_map(|member| match member {
            Value::Text(text) => Some(text),
            _ => None,
        });
        let (sets, all) = domain::subsets(texts.chain([self.constants.other.clone()]));
        self.all &= all;
        sets
    }

    fn tenants(&mut self) -> BTreeSet<TenantName> {
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
        let labels: BTreeSet<VersionLabel> =
            self.names(Root::Principal, "version", versions.into_iter().map(|(_, version)| version));
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
        let digest = self.compared(Root::Principal, &["digest"]);
        let mut digests: BTreeSet<Digest> = digest.texts.iter().filter_map(|text| text.parse().ok()).collect();
        let other = (0..=u8::MAX).map(|byte| Digest::from_bytes([byte; 32])).find(|other| !digests.contains(other));
        // What digests begin with says nothing, so it is not told apart.
        self.all &= other.is_some() && digest.prefixes.is_empty();
        digests.extend(other);
        let mut delegators = vec![Vec::new()];
        if self.is_read(Root::Principal, "delegators") {
            delegators.extend(self.constants.named("Agent").map(|agent| vec![agent.to_owned()]));
            // Chains of several are not put together.
            self.all = false;
        }
        let mut principals = Vec::new();
        for tenant in self.tenants() {
            if principals.len() >= HEADS_MAX {
                break;
            }
            for agent in &agents {
                for version in &labels {
                    for (tier, autonomy) in tiers.iter().flat_map(|tier| autonomies.iter().map(move |a| (*tier, *a))) {
                        for (digest, delegators) in
                            digests.iter().flat_map(|digest| delegators.iter().map(move |d| (*digest, d)))
                        {
                            let one = AgentVersion {
                                tenant: tenant.clone(),
                                agent: agent.clone(),
                                version: version.clone(),
                                digest,
                                tier,
                                autonomy,
                                delegators: delegators.clone(),
                            };
                            if !self.push(&mut principals, Principal::Agent(one)) {
                                return principals;
                            }
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
        let names: Vec<&str> = self.constants.named("Operator").chain([self.constants.other.as_str()]).collect();
        let tenants: Vec<Option<TenantName>> = [None].into_iter().chain(self.tenants().into_iter().map(Some)).collect();
        let mut principals = Vec::new();
        for name in names {
            for tenant in &tenants {
                for roles in &roles {
                    let (name, tenant, roles) = (name.to_owned(), tenant.clone(), roles.clone());
                    if !self.push(&mut principals, Principal::Operator(Operator { name, tenant, roles })) {
                        return principals;
                    }
                }
            }
        }
        principals
    }

    /// Every deed that rules tell apart.
    fn deeds(&mut self) -> Vec<Deed> {
        let mut deeds = Vec::new();
        self.of_pinned(&mut deeds);
        self.of_servers(&mut deeds);
        self.of_models(&mut deeds);
        self.of_hosts(&mut deeds);
        let other = self.constants.other.as_str();
        for audience in self.constants.named("Audience").chain([other]) {
            self.push(&mut deeds, Deed::Token { audience: audience.to_owned() });
        }
        let commands = domain::texts(&self.compared(Root::Context, &["command"]), other);
        let tenants = self.tenants();
        for command in commands {
            for tenant in &tenants {
                let agents = self.constants.named("Agent").map(str::to_owned).chain([format!("{tenant}/{other}")]);
                for agent in agents.filter(|agent| agent.split_once('/').is_some_and(|(of, _)| of == tenant.as_str())) {
                    self.push(&mut deeds, Deed::RunCommand { agent, command: command.clone() });
                }
                let (tenant, command) = (Some(tenant.clone()), command.clone());
                if !self.push(&mut deeds, Deed::OperatorCommand { tenant, command }) {
                    return deeds;
                }
            }
            if matches!(self.level, PolicyScope::Plane) {
                self.push(&mut deeds, Deed::OperatorCommand { tenant: None, command });
            }
        }
        deeds
    }

    /// Every tool that rules name, in the head or in a condition.
    fn tools(&self) -> BTreeSet<(&'a str, &'a str)> {
        let constants = self.constants;
        let actions = constants.named("Action").filter_map(|id| id.strip_prefix("tool:"));
        constants.named("Tool").chain(actions).filter_map(|id| id.split_once('/')).collect()
    }

    /// The approved tools, whose calls have arguments: of those that rules do not tell apart by their names, one for each
    /// shape of what they read. And one that may be approved later.
    fn of_pinned(&mut self, deeds: &mut Vec<Deed>) {
        let tools = self.tools();
        let named: BTreeSet<&str> = tools
            .iter()
            .flat_map(|(server, tool)| [*server, *tool])
            .chain(self.constants.named("ToolServer"))
            .collect();
        let (servers, names) = (self.compared(Root::Resource, &["server"]), self.compared(Root::Resource, &["name"]));
        // What rules can see of a name: which one it is if they have it, and how it begins.
        let seen = |text: &str, compared: &Compared| {
            let known = named.contains(text) || compared.texts.contains(text);
            let begins = compared.prefixes.iter().filter(|prefix| text.starts_with(prefix.as_str())).cloned();
            (known.then(|| text.to_owned()), begins.collect::<Vec<String>>())
        };
        let mut kinds = BTreeSet::new();
        let mut pinned: Vec<(UpstreamName, ToolName)> = Vec::new();
        for (server, tool, _) in self.schema.tools() {
            let (shapes, all) = self.schema.shapes(server, tool);
            self.all &= all;
            let shapes = shapes.iter().map(|shape| trimmed(shape.fields(), &self.constants.arguments));
            let shapes: Vec<String> = shapes.map(|fields| serde_json::to_string(&fields).unwrap_or_default()).collect();
            if kinds.insert((seen(server, &servers), seen(tool, &names), shapes)) {
                match (server.parse(), tool.parse()) {
                    (Ok(server), Ok(tool)) => pinned.push((server, tool)),
                    _ => self.all = false,
                }
            }
        }
        let other = self.constants.other.as_str();
        pinned.extend(other.parse().ok().zip(other.parse().ok()));
        let memories = self.tells_memories_apart();
        for (server, tool) in pinned {
            for operation in MemoryOperation::ALL.into_iter().filter(|_| memories) {
                let (server, tool) = (server.clone(), tool.clone());
                self.push(deeds, Deed::Memory { server, tool, operation, pinned: true });
            }
            self.push(deeds, Deed::ToolCall { server, tool, pinned: true });
        }
    }

    /// A call of a memory is told from that of any other tool by its action and by its operation alone.
    fn tells_memories_apart(&self) -> bool {
        self.is_read(Root::Context, "operation") || self.constants.named("Action").any(|id| id == "memory")
    }

    fn of_servers(&mut self, deeds: &mut Vec<Deed>) {
        let constants = self.constants;
        let targets = |kind: &'static str| constants.named(kind).filter_map(|id| id.split_once('/'));
        let tools = self.tools();
        let named = constants.named("ToolServer").chain(tools.iter().map(|(server, _)| *server));
        let named = named.chain(targets("Resource").chain(targets("Prompt")).map(|(server, _)| server));
        let more: Vec<String> = named.map(str::to_owned).collect();
        // A server is compared by the name of a tool's server, and by its own where it is the resource.
        let mut servers: BTreeSet<UpstreamName> = self.names(Root::Resource, "server", more.clone());
        servers.extend(self.names::<UpstreamName>(Root::Resource, "name", more));
        let names: BTreeSet<ToolName> =
            self.names(Root::Resource, "name", tools.iter().map(|(_, tool)| (*tool).to_owned()));
        let uris = domain::texts(&self.compared(Root::Resource, &["uri"]), &constants.other);
        let uris: BTreeSet<String> =
            uris.into_iter().chain(targets("Resource").map(|(_, uri)| uri.to_owned())).collect();
        let prompts: BTreeSet<String> =
            self.names(Root::Resource, "name", targets("Prompt").map(|(_, prompt)| prompt.to_owned()));
        let memories = self.tells_memories_apart();
        for server in servers {
            // Every tool has calls at which it is not pinned: before it is approved, or in another tenant.
            for tool in &names {
                let deed = Deed::ToolCall { server: server.clone(), tool: tool.clone(), pinned: false };
                self.push(deeds, deed);
                for operation in MemoryOperation::ALL.into_iter().filter(|_| memories) {
                    let (server, tool) = (server.clone(), tool.clone());
                    self.push(deeds, Deed::Memory { server, tool, operation, pinned: false });
                }
            }
            for uri in &uris {
                self.push(deeds, Deed::ResourceRead { server: server.clone(), uri: uri.clone() });
            }
            for prompt in &prompts {
                self.push(deeds, Deed::PromptGet { server: server.clone(), prompt: prompt.clone() });
            }
            self.push(deeds, Deed::Sampling { server: server.clone() });
            if !self.push(deeds, Deed::Elicitation { server }) {
                return;
            }
        }
    }

    fn of_models(&mut self, deeds: &mut Vec<Deed>) {
        let constants = self.constants;
        let models: BTreeSet<(&str, &str)> = constants.named("Model").filter_map(|id| id.split_once('/')).collect();
        let named = constants.named("Provider").chain(models.iter().map(|(provider, _)| *provider));
        let providers: BTreeSet<UpstreamName> =
            self.names(Root::Resource, "provider", named.map(str::to_owned).collect::<Vec<_>>());
        let names: BTreeSet<String> =
            self.names(Root::Resource, "name", models.iter().map(|(_, model)| (*model).to_owned()));
        for provider in providers {
            for model in &names {
                let deed = Deed::ModelCall { provider: provider.clone(), model: model.clone() };
                if !self.push(deeds, deed) {
                    return;
                }
            }
        }
    }

    fn of_hosts(&mut self, deeds: &mut Vec<Deed>) {
        let constants = self.constants;
        let hosts = constants.named("Host").filter_map(|id| id.rsplit_once(':'));
        let named: Vec<(String, u16)> =
            hosts.filter_map(|(host, port)| Some((host.to_owned(), port.parse().ok()?))).collect();
        let other = constants.other.as_str();
        let domains: Vec<&str> = constants.named("Domain").collect();
        let mut more: Vec<String> = named.iter().map(|(host, _)| host.clone()).collect();
        more.extend(domains.iter().flat_map(|domain| [(*domain).to_owned(), format!("{other}.{domain}")]));
        // A host is in a domain by how its name ends, and may begin as rules say besides.
        let prefixes = self.compared(Root::Resource, &["name"]).prefixes;
        if prefixes.len().saturating_mul(domains.len()) > HEADS_MAX {
            self.all = false;
        } else {
            let both = |prefix: &String| {
                let prefix = prefix.clone();
                domains.iter().map(move |domain| format!("{prefix}{other}.{domain}"))
            };
            more.extend(prefixes.iter().flat_map(both));
        }
        let names: BTreeSet<String> = self.names(Root::Resource, "name", more);
        let ports = domain::longs(&self.compared(Root::Resource, &["port"]), 1, i64::from(u16::MAX));
        let ports = ports.into_iter().filter_map(|port| u16::try_from(port).ok());
        let ports: BTreeSet<u16> = ports.chain(named.iter().map(|(_, port)| *port)).chain([443]).collect();
        for host in names {
            for port in &ports {
                if !self.push(deeds, Deed::Egress { host: host.clone(), port: *port }) {
                    return;
                }
            }
        }
    }
}

/// What is read of some fields.
fn trimmed(fields: &BTreeMap<String, Field>, read: &Paths) -> BTreeMap<String, Field> {
    if read.is_whole() {
        return fields.clone();
    }
    let trim = |(name, field): (&String, &Field)| {
        let below = read.below(name)?;
        let kind = match &field.kind {
            Kind::Record(inner) => Kind::Record(trimmed(inner, below)),
            kind => kind.clone(),
        };
        Some((name.clone(), Field { kind, required: field.required }))
    };
    fields.iter().filter_map(trim).collect()
}
