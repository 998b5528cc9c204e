//! The skills of a version as MCP resources (`skill://NAME/PATH`), for its own runs and nobody else.
//!
//! What keeps them is not this crate's to know ([`crate::inside`]). Each run has a client of its own, so that one run's list is
//! never another's; reading is granted by the version itself, judged by the policies and recorded as any resource is.

use std::{fmt, sync::Arc};

use cogward_model::{TenantName, UpstreamName, name_scope::NamePattern};

use crate::{Inner, inside::InsideServer, mcp::upstream::ToolServerClient, run::RunContext};

/// The name under which policies and evidence know them. No tool server can be added under it.
pub const SKILLS_SERVER: &str = "cogward-skills";

/// What a version has of them.
#[derive(Debug, Clone)]
pub struct Skills {
    /// The name of the server.
    pub(crate) name: UpstreamName,
    /// Which resources they are.
    pub(crate) patterns: Vec<NamePattern>,
    server: Arc<dyn InsideServer>,
}

impl Skills {
    /// Those with these names, as a server has them. None without any.
    #[must_use]
    pub fn new<'n>(names: impl Iterator<Item = &'n str>, server: Arc<dyn InsideServer>) -> Option<Self> {
        let patterns: Vec<NamePattern> = names.filter_map(|name| format!("skill://{name}/*").parse().ok()).collect();
        let name = SKILLS_SERVER.parse().ok().filter(|_| !patterns.is_empty())?;
        Some(Self { name, patterns, server })
    }
}

/// The skills of one run.
pub(crate) struct RunSkills(Option<(UpstreamName, Arc<ToolServerClient>)>);

impl RunSkills {
    pub(crate) fn of(tenant: &TenantName, skills: Option<&Skills>) -> Self {
        Self(skills.map(|Skills { name, server, .. }| {
            let client = ToolServerClient::of_inside(tenant.clone(), name.clone(), Arc::clone(server));
            (name.clone(), Arc::new(client))
        }))
    }

    /// Whether there are any.
    pub(crate) fn any(&self) -> bool {
        self.0.is_some()
    }
}

impl fmt::Debug for RunSkills {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RunSkills({})", self.any())
    }
}

impl RunSkills {
    /// Whether a server is that of the version's own skills, which are pinned with the version.
    pub(crate) fn is(&self, server: &UpstreamName) -> bool {
        self.0.as_ref().is_some_and(|(name, _)| name == server)
    }
}

impl Inner {
    /// A tool server as a run has it: its own skills, or one that the operator connected.
    pub(crate) fn server_of(&self, run: &RunContext, server: &UpstreamName) -> Option<Arc<ToolServerClient>> {
        match &run.skills.0 {
            Some((name, client)) if name == server => Some(Arc::clone(client)),
            _ => self.upstreams.tool_server(&run.grant.tenant, server),
        }
    }
}
