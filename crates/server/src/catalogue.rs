//! What policies can name of the tools that this plane knows.

use std::{collections::BTreeSet, sync::Arc};

use cogward_model::{PolicyScope, TenantName, UpstreamName, upstream::ToolTransport};
use cogward_policy::{Finding, Schema, Shape};
use cogward_store::PageRequest;

use crate::{failure::Failure, plane::Plane};

/// Tenants that are read at once.
const PAGE: u32 = 200;

/// The schema for policies of a level, and what deserves a look about it.
///
/// A tool has arguments with types, and an action of its own, once its definition is approved: only then the gate asks
/// about that action. A policy of the plane sees the tools of all tenants; where two have a tool of one name, it sees
/// what their arguments have in common.
pub(crate) async fn schema(plane: &Plane, level: &PolicyScope) -> Result<(Schema, Vec<Finding>), Failure> {
    let tenants = match level.tenant() {
        Some(tenant) => vec![tenant.clone()],
        None => tenants(plane).await?,
    };
    let mut schema = Schema::new();
    for tenant in tenants {
        let memories = memories(plane, &tenant).await?;
        for tool in plane.store.approved_tools(&tenant).await? {
            let definition: serde_json::Value = serde_json::from_str(&tool.definition)
                .map_err(|error| Failure::internal("the definition of a tool cannot be read", &error))?;
            let input = definition.get("inputSchema").unwrap_or(&serde_json::Value::Null);
            let (name, shape) = (tool.tool.as_str(), Arc::new(Shape::of(input)));
            if memories.contains(&tool.server) {
                schema.memory_tool(tool.server.as_str(), name, shape);
            } else {
                schema.tool(tool.server.as_str(), name, shape);
            }
        }
    }
    Ok((schema, Vec::new()))
}

/// The tool servers of a tenant that are memories.
async fn memories(plane: &Plane, tenant: &TenantName) -> Result<BTreeSet<UpstreamName>, Failure> {
    let (mut all, mut after) = (BTreeSet::new(), None);
    loop {
        let page = plane.store.tool_servers(tenant, &PageRequest { after, limit: PAGE }).await?;
        let kept = page.items.into_iter().filter(|row| matches!(row.config.transport, ToolTransport::Memory { .. }));
        all.extend(kept.map(|row| row.config.name));
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(all),
        }
    }
}

async fn tenants(plane: &Plane) -> Result<Vec<TenantName>, Failure> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = plane.store.tenants(&PageRequest { after, limit: PAGE }).await?;
        all.extend(page.items.into_iter().map(|row| row.name));
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(all),
        }
    }
}
