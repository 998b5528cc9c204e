//! What a run may do: the declared scope of its version, compiled for look-up. Default deny.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use cogward_budget::Scope;
use cogward_model::{
    AgentName, Digest, RunId, TenantName, ToolName, UpstreamName, VersionLabel,
    action::Action,
    decision::{Refusal, RefusalCode},
    event::Attribution,
    manifest::{AutonomyClass, EgressGrant, EgressProtocol, EvidenceNeeds, Inspect, Manifest, ModelGrant, Tier},
    name_scope::NamePattern,
};

use crate::skills::Skills;

/// A run's authority. Made once when the run starts; nothing widens it.
#[derive(Debug)]
pub struct RunGrant {
    /// The run.
    pub run: RunId,
    /// Its tenant.
    pub tenant: TenantName,
    /// Its agent.
    pub agent: AgentName,
    /// The version's label.
    pub version: VersionLabel,
    /// The version's digest: code, prompts, tools, model, parameters, policy.
    pub version_digest: Digest,
    /// The user for whom it acts.
    pub subject: Option<String>,
    /// On whose authority it acts.
    pub autonomy: AutonomyClass,
    /// Its environment tier.
    pub tier: Tier,
    /// What must be recorded.
    pub evidence: EvidenceNeeds,
    /// The file that its telemetry is kept in, if it is accepted.
    pub telemetry: Option<PathBuf>,
    /// The budgets that its calls count against.
    pub budgets: Arc<[Scope]>,
    /// How long it may take altogether.
    pub wall_clock: Duration,
    tools: BTreeMap<UpstreamName, BTreeSet<ToolName>>,
    resources: BTreeMap<UpstreamName, Vec<NamePattern>>,
    prompts: BTreeMap<UpstreamName, Vec<NamePattern>>,
    sampling: BTreeMap<UpstreamName, String>,
    models: HashMap<String, ModelGrant>,
    egress: HashMap<(String, u16), EgressGrant>,
    skills: Option<Skills>,
}

impl RunGrant {
    /// The authority that a manifest gives to a run.
    pub fn new(
        run: RunId,
        manifest: &Manifest,
        version_digest: Digest,
        subject: Option<String>,
        budgets: Vec<Scope>,
    ) -> Self {
        let permissions = &manifest.spec.permissions;
        let mut tools: BTreeMap<UpstreamName, BTreeSet<ToolName>> = BTreeMap::new();
        let (mut resources, mut prompts) = (BTreeMap::new(), BTreeMap::new());
        for grant in &permissions.tools {
            tools.entry(grant.server.clone()).or_default().extend(grant.allow.iter().cloned());
            for (all, own) in [(&mut resources, &grant.resources), (&mut prompts, &grant.prompts)] {
                if !own.is_empty() {
                    let of: &mut Vec<NamePattern> = all.entry(grant.server.clone()).or_default();
                    of.extend(own.iter().cloned());
                }
            }
        }
        Self {
            run,
            tenant: manifest.metadata.tenant.clone(),
            agent: manifest.metadata.name.clone(),
            version: manifest.metadata.version.clone(),
            version_digest,
            subject,
            autonomy: manifest.spec.autonomy,
            tier: manifest.spec.tier,
            evidence: manifest.spec.evidence,
            telemetry: None,
            budgets: budgets.into(),
            wall_clock: Duration::from_secs(manifest.spec.budgets.run.wall_clock_seconds),
            tools,
            resources,
            prompts,
            sampling: permissions.tools.iter().filter_map(|t| Some((t.server.clone(), t.sampling.clone()?))).collect(),
            models: permissions.models.iter().map(|m| (m.name.clone(), m.clone())).collect(),
            egress: permissions.egress.iter().map(|e| ((e.host.clone(), e.port), e.clone())).collect(),
            skills: None,
        }
    }

    /// With the skills of its version, which it may read as resources.
    #[must_use]
    pub fn with_skills(mut self, skills: Option<Skills>) -> Self {
        if let Some(skills) = &skills {
            self.resources.insert(skills.name.clone(), skills.patterns.clone());
        }
        self.skills = skills;
        self
    }

    pub(crate) fn skills(&self) -> Option<&Skills> {
        self.skills.as_ref()
    }

    /// Keeps the run's telemetry at `path`.
    #[must_use]
    pub fn with_telemetry(mut self, path: PathBuf) -> Self {
        self.telemetry = Some(path);
        self
    }

    /// The tools that may be listed and called, by server, in a stable order.
    #[must_use]
    pub fn tools(&self) -> &BTreeMap<UpstreamName, BTreeSet<ToolName>> {
        &self.tools
    }

    /// The patterns of the resources that may be read, by server, in a stable order.
    #[must_use]
    pub fn resources(&self) -> &BTreeMap<UpstreamName, Vec<NamePattern>> {
        &self.resources
    }

    /// The patterns of the prompts that may be taken, by server, in a stable order.
    #[must_use]
    pub fn prompts(&self) -> &BTreeMap<UpstreamName, Vec<NamePattern>> {
        &self.prompts
    }

    /// The model that the plane asks for a server which wants one, where the agent's client cannot be asked.
    #[must_use]
    pub fn sampling(&self, server: &UpstreamName) -> Option<&str> {
        self.sampling.get(server).map(String::as_str)
    }

    /// The grant for a model as the agent names it. Names are unique across providers in a manifest.
    #[must_use]
    pub fn model(&self, name: &str) -> Option<&ModelGrant> {
        self.models.get(name)
    }

    /// The models that may be asked, sorted.
    #[must_use]
    pub fn models(&self) -> Vec<&ModelGrant> {
        let mut models: Vec<_> = self.models.values().collect();
        models.sort_by(|a, b| a.name.cmp(&b.name));
        models
    }

    /// What may be spoken with a host, if it is declared.
    #[must_use]
    pub fn egress(&self, host: &str, port: u16) -> Option<EgressProtocol> {
        self.grant_of(host, port).map(|grant| grant.protocol)
    }

    /// The requests that may be made to a host, if it is one whose requests are decided by themselves.
    #[must_use]
    pub fn inspect(&self, host: &str, port: u16) -> Option<&Inspect> {
        self.grant_of(host, port)?.inspect.as_ref()
    }

    /// The hosts whose requests are decided by themselves, sorted.
    #[must_use]
    pub fn inspected_hosts(&self) -> Vec<&str> {
        let inspected = self.egress.values().filter(|grant| grant.inspect.is_some());
        let hosts: BTreeSet<&str> = inspected.map(|grant| grant.host.as_str()).collect();
        hosts.into_iter().collect()
    }

    fn grant_of(&self, host: &str, port: u16) -> Option<&EgressGrant> {
        self.egress.get(&(host.to_owned(), port))
    }

    /// Who acts, for whom.
    #[must_use]
    pub fn attribution(&self) -> Attribution {
        Attribution { agent: Some((self.agent.clone(), self.version.clone())), subject: self.subject.clone() }
    }

    /// The rule that allows an action.
    ///
    /// # Errors
    /// The refusal when nothing declares it. It says nothing about whether the thing exists.
    pub fn permits(&self, action: &Action) -> Result<&'static str, Refusal> {
        let (allowed, rule) = match action {
            Action::ToolCall { server, tool } => {
                (self.tools.get(server).is_some_and(|tools| tools.contains(tool)), "permissions.tools")
            }
            Action::ModelCall { provider, model, .. } => {
                (self.models.get(model).is_some_and(|grant| grant.provider == *provider), "permissions.models")
            }
            // Nothing but single requests goes to an inspected host.
            Action::Egress { host, port } => {
                (self.grant_of(host, *port).is_some_and(|grant| grant.inspect.is_none()), "permissions.egress")
            }
            Action::Request { host, port, method, path } => {
                let inside = |i: &Inspect| i.methods.contains(method) && i.paths.iter().any(|p| p.holds(path));
                (self.inspect(host, *port).is_some_and(inside), "permissions.egress.inspect")
            }
            Action::ResourceRead { server, uri } => {
                (holds(&self.resources, server, uri), "permissions.tools.resources")
            }
            Action::PromptGet { server, prompt } => (holds(&self.prompts, server, prompt), "permissions.tools.prompts"),
            // Whatever answers, it is a model of the agent that is asked.
            Action::Sampling { server } => {
                (self.tools.contains_key(server) && !self.models.is_empty(), "permissions.models")
            }
            Action::Elicitation { server } => (self.tools.contains_key(server), "permissions.tools"),
        };
        if allowed {
            return Ok(rule);
        }
        Err(not_declared(rule, &action.object(), &self.agent, &self.version))
    }
}

fn holds(all: &BTreeMap<UpstreamName, Vec<NamePattern>>, server: &UpstreamName, name: &str) -> bool {
    all.get(server).is_some_and(|patterns| patterns.iter().any(|pattern| pattern.holds(name)))
}

/// The refusal of something that the manifest does not declare.
pub fn not_declared(rule: &str, object: &str, agent: &AgentName, version: &VersionLabel) -> Refusal {
    Refusal::new(
        RefusalCode::NotDeclared,
        rule,
        format!("`{object}` is not declared for {agent}@{version}"),
        format!("Its owner can declare it under `spec.{rule}` and register a new version"),
    )
}
