//! A head as Cedar entities. One place makes names of entities, so the schema, the slices and the rules agree on them.

use std::collections::{HashMap, HashSet};

use cedar_policy::{Entities, Entity, EntityId, EntityTypeName, EntityUid, RestrictedExpression};

use crate::ask::{Deed, Head, Principal};

/// Why a head cannot be asked about. It does not happen for heads whose names passed their bounds; it blocks.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the question cannot be put: {0}")]
pub struct HeadError(String);

/// A head as Cedar sees it.
#[derive(Debug, Clone)]
pub struct Cast {
    /// The principal.
    pub principal: EntityUid,
    /// The action.
    pub action: EntityUid,
    /// The resource.
    pub resource: EntityUid,
    /// These three with all that they are in.
    pub entities: Entities,
}

type Attributes = HashMap<String, RestrictedExpression>;

/// Collects entities with their parents.
struct Stage {
    entities: Vec<Entity>,
}

/// The name of an entity of ours.
pub(crate) fn uid(kind: &str, id: &str) -> Result<EntityUid, HeadError> {
    let name: EntityTypeName =
        ["Cogward::", kind].concat().parse().map_err(|_| HeadError(format!("`{kind}` is no kind of entity")))?;
    Ok(EntityUid::from_type_name_and_id(name, EntityId::new(id)))
}

impl Stage {
    fn add(
        &mut self,
        kind: &str,
        id: &str,
        attributes: Attributes,
        parents: &[&EntityUid],
    ) -> Result<EntityUid, HeadError> {
        let uid = uid(kind, id)?;
        let parents: HashSet<EntityUid> = parents.iter().map(|parent| (*parent).clone()).collect();
        let entity = Entity::new(uid.clone(), attributes, parents).map_err(|error| HeadError(error.to_string()))?;
        self.entities.push(entity);
        Ok(uid)
    }

    fn plain(&mut self, kind: &str, id: &str, parents: &[&EntityUid]) -> Result<EntityUid, HeadError> {
        self.add(kind, id, Attributes::new(), parents)
    }

    fn tenant(&mut self, name: &str) -> Result<EntityUid, HeadError> {
        let plane = self.plain("Plane", "plane", &[])?;
        self.plain("Tenant", name, &[&plane])
    }
}

fn text(value: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(value.to_owned())
}

impl Cast {
    /// Casts a head.
    ///
    /// # Errors
    /// When a name of it cannot be an entity.
    pub fn of(head: &Head) -> Result<Self, HeadError> {
        let mut stage = Stage { entities: Vec::new() };
        let principal = principal(&mut stage, &head.principal)?;
        let action = action(&mut stage, &head.deed)?;
        let resource = resource(&mut stage, head)?;
        let mut seen = HashSet::new();
        stage.entities.retain(|entity| seen.insert(entity.uid()));
        let entities = Entities::from_entities(stage.entities, None).map_err(|error| HeadError(error.to_string()))?;
        Ok(Self { principal, action, resource, entities })
    }
}

fn principal(stage: &mut Stage, principal: &Principal) -> Result<EntityUid, HeadError> {
    match principal {
        Principal::Agent(agent) => {
            let tenant = stage.tenant(agent.tenant.as_str())?;
            let tier = stage.plain("Tier", agent.tier.as_str(), &[])?;
            let name = format!("{}/{}", agent.tenant, agent.agent);
            let parent = stage.plain("Agent", &name, &[&tenant])?;
            let mut delegators = Vec::new();
            for delegator in &agent.delegators {
                delegators.push(RestrictedExpression::new_entity_uid(uid("Agent", delegator)?));
            }
            let attributes = Attributes::from([
                ("tenant".to_owned(), text(agent.tenant.as_str())),
                ("agent".to_owned(), text(agent.agent.as_str())),
                ("version".to_owned(), text(agent.version.as_str())),
                ("digest".to_owned(), text(&agent.digest.to_string())),
                ("tier".to_owned(), text(agent.tier.as_str())),
                ("autonomy".to_owned(), text(agent.autonomy.as_str())),
                ("delegators".to_owned(), RestrictedExpression::new_set(delegators)),
            ]);
            let version = format!("{name}@{}", agent.version);
            stage.add("AgentVersion", &version, attributes, &[&parent, &tenant, &tier])
        }
        Principal::Operator(operator) => {
            let mut parents = Vec::new();
            for role in &operator.roles {
                parents.push(stage.plain("Role", role, &[])?);
            }
            if let Some(tenant) = &operator.tenant {
                parents.push(stage.tenant(tenant.as_str())?);
            }
            stage.plain("Operator", &operator.name, &parents.iter().collect::<Vec<_>>())
        }
    }
}

fn action(stage: &mut Stage, deed: &Deed) -> Result<EntityUid, HeadError> {
    let group = match deed {
        Deed::Memory { .. } => {
            let calls = stage.plain("Action", "tool_call", &[])?;
            stage.plain("Action", deed.action(), &[&calls])?
        }
        _ => stage.plain("Action", deed.action(), &[])?,
    };
    match deed {
        Deed::ToolCall { server, tool, pinned: true } | Deed::Memory { server, tool, pinned: true, .. } => {
            stage.plain("Action", &tool_action(server.as_str(), tool.as_str()), &[&group])
        }
        _ => Ok(group),
    }
}

/// The action of calling one pinned tool.
#[must_use]
pub fn tool_action(server: &str, tool: &str) -> String {
    format!("tool:{server}/{tool}")
}

fn resource(stage: &mut Stage, head: &Head) -> Result<EntityUid, HeadError> {
    let labels = || RestrictedExpression::new_set(head.labels.iter().map(|label| text(label)));
    let named = |pairs: &[(&str, &str)]| -> Attributes {
        let mut attributes: Attributes = pairs.iter().map(|(name, value)| ((*name).to_owned(), text(value))).collect();
        if head.deed.has_labels() {
            attributes.insert("labels".to_owned(), labels());
        }
        attributes
    };
    let server_entity = |stage: &mut Stage, server: &str| {
        stage.add("ToolServer", server, Attributes::from([("name".to_owned(), text(server))]), &[])
    };
    match &head.deed {
        Deed::ToolCall { server, tool, .. } | Deed::Memory { server, tool, .. } => {
            let parent = server_entity(stage, server.as_str())?;
            let attributes = named(&[("server", server.as_str()), ("name", tool.as_str())]);
            stage.add("Tool", &format!("{server}/{tool}"), attributes, &[&parent])
        }
        Deed::ModelCall { provider, model } => {
            let parent = stage.plain("Provider", provider.as_str(), &[])?;
            let attributes = named(&[("provider", provider.as_str()), ("name", model)]);
            stage.add("Model", &format!("{provider}/{model}"), attributes, &[&parent])
        }
        Deed::Egress { host, port } => {
            let mut above: Option<EntityUid> = None;
            let labels_of_host: Vec<&str> = host.split('.').collect();
            // From the top: `com`, `example.com`, `api.example.com`; a host is in the domain of its own name.
            for from in (0..labels_of_host.len()).rev() {
                let name = labels_of_host.get(from..).unwrap_or_default().join(".");
                let domain = stage.plain("Domain", &name, &above.iter().collect::<Vec<_>>())?;
                above = Some(domain);
            }
            let mut attributes = named(&[("name", host)]);
            attributes.insert("port".to_owned(), RestrictedExpression::new_long(i64::from(*port)));
            stage.add("Host", &format!("{host}:{port}"), attributes, &above.iter().collect::<Vec<_>>())
        }
        Deed::Token { audience } => stage.plain("Audience", audience, &[]),
        Deed::RunCommand { agent, .. } => {
            let tenant = agent.split('/').next().unwrap_or_default();
            let tenant = stage.tenant(tenant)?;
            stage.plain("Agent", agent, &[&tenant])
        }
        Deed::OperatorCommand { tenant: Some(tenant), .. } => stage.tenant(tenant.as_str()),
        Deed::OperatorCommand { tenant: None, .. } => stage.plain("Plane", "plane", &[]),
        Deed::Sampling { server } | Deed::Elicitation { server } => server_entity(stage, server.as_str()),
        Deed::ResourceRead { server, uri } => {
            let parent = server_entity(stage, server.as_str())?;
            let attributes = named(&[("server", server.as_str()), ("uri", uri)]);
            stage.add("Resource", &format!("{server}/{uri}"), attributes, &[&parent])
        }
        Deed::PromptGet { server, prompt } => {
            let parent = server_entity(stage, server.as_str())?;
            let attributes = named(&[("server", server.as_str()), ("name", prompt)]);
            stage.add("Prompt", &format!("{server}/{prompt}"), attributes, &[&parent])
        }
    }
}
