//! `tools/list`: the granted tools of all servers, in one order, each definition as its server sent it.
//!
//! With one server the tools keep their names. With several, `<server>_<tool>`: a server's name has no
//! underscore, so the first one ends it and no two tools can meet under one name.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Write as _,
    sync::Arc,
};

use bytes::Bytes;
use cogward_model::{
    Digest, ToolName, UpstreamName,
    decision::{Refusal, RefusalCode},
    event::{Event, EventType},
};
use futures_util::future::join_all;

use super::catalogue::{ToolCatalogue, sha256};
use crate::{Inner, run::RunContext};

/// Longest name of a tool in MCP.
const NAME_MAX: usize = 128;
/// Tools that are named in the record of a served list; the digest covers all of them.
const NAMED_MAX: usize = 256;

/// The names that a run's tools are shown under.
#[derive(Debug)]
pub(super) struct Names {
    shown: BTreeMap<String, (UpstreamName, ToolName)>,
    of: HashMap<(UpstreamName, ToolName), String>,
    servers: Vec<UpstreamName>,
}

impl Names {
    pub(super) fn of(tools: &BTreeMap<UpstreamName, BTreeSet<ToolName>>) -> Self {
        let mut names = Self { shown: BTreeMap::new(), of: HashMap::new(), servers: tools.keys().cloned().collect() };
        for (server, granted) in tools {
            for tool in granted {
                let mut name = if tools.len() == 1 { tool.to_string() } else { format!("{server}_{tool}") };
                if name.len() > NAME_MAX {
                    // Its own digest in place of the end keeps it apart from every other.
                    let mark = sha256(name.as_bytes()).hex();
                    name.truncate(NAME_MAX - 33);
                    let _ = write!(name, "_{}", mark.get(..32).unwrap_or_default());
                }
                names.of.insert((server.clone(), tool.clone()), name.clone());
                names.shown.insert(name, (server.clone(), tool.clone()));
            }
        }
        names
    }

    /// The granted tool behind a name.
    pub(super) fn resolve(&self, name: &str) -> Option<&(UpstreamName, ToolName)> {
        self.shown.get(name)
    }

    /// The server that a name which resolves to nothing is counted under in the ledger.
    pub(super) fn nearest(&self, name: &str) -> Option<&UpstreamName> {
        match self.servers.as_slice() {
            [only] => Some(only),
            several => {
                let prefix = name.split_once('_')?.0;
                several.iter().find(|server| server.as_str() == prefix)
            }
        }
    }
}

/// A list as it was served.
#[derive(Debug)]
pub(super) struct Served {
    /// The JSON list of definitions.
    pub(super) tools: Bytes,
    sources: Vec<(UpstreamName, Option<Digest>)>,
}

/// The list for a run, recorded when it differs from the one served before.
pub(super) async fn list(inner: &Inner, run: &RunContext) -> Result<Arc<Served>, Refusal> {
    inner.gate.plane_fence().pass().await?;
    run.fence.pass().await?;
    let catalogues = catalogues(inner, run).await?;
    let sources: Vec<_> = catalogues.iter().map(|(s, c)| (s.clone(), c.as_ref().map(|c| c.digest()))).collect();
    let same = |served: &Arc<Served>| served.sources == sources;
    if let Some(served) = run.mcp.served().filter(same) {
        return Ok(served);
    }
    let _one = run.mcp.serving.lock().await;
    if let Some(served) = run.mcp.served().filter(same) {
        return Ok(served);
    }
    let names = run.mcp.names(&run.grant);
    let mut shown = BTreeMap::new();
    for (server, catalogue) in &catalogues {
        let Some(catalogue) = catalogue else { continue };
        for tool in catalogue.iter() {
            if let Some(name) = names.of.get(&(server.clone(), tool.name.clone())) {
                shown.insert(name.as_str(), (server, tool));
            }
        }
    }
    let (mut tools, mut named) = (String::from("["), Vec::new());
    for (place, (name, (server, tool))) in shown.iter().enumerate() {
        if place > 0 {
            tools.push(',');
        }
        if *name == tool.name.as_str() {
            tools.push_str(tool.raw.get());
        } else {
            tools.push_str(&tool.renamed(name));
        }
        if named.len() < NAMED_MAX {
            named.push(format!("{server}/{}", tool.name));
        }
    }
    tools.push(']');
    let absent: Vec<_> = sources.iter().filter(|(_, d)| d.is_none()).map(|(s, _)| s.to_string()).collect();
    let grant = &run.grant;
    let event = Event::new(EventType::ToolListServed, grant.tenant.clone(), grant.attribution())
        .run(grant.run)
        .public("basis", vec!["gateway"])
        .public("policy", grant.version_digest.to_string())
        .public("count", shown.len() as u64)
        .public("tools", named)
        .public("definitions", sha256(tools.as_bytes()).to_string())
        .public("unavailable", absent);
    inner.gate.record(event).await?;
    let served = Arc::new(Served { tools: tools.into(), sources });
    run.mcp.set_served(Arc::clone(&served));
    Ok(served)
}

/// What the granted servers offer. One that does not answer leaves the others untouched; an agent that
/// would see nothing at all because none answers is told so.
async fn catalogues(
    inner: &Inner,
    run: &RunContext,
) -> Result<Vec<(UpstreamName, Option<Arc<ToolCatalogue>>)>, Refusal> {
    let asked = run.grant.tools().keys().map(|server| async move {
        let client = inner.upstreams.tool_server(&run.grant.tenant, server);
        let catalogue = match client {
            Some(client) => {
                let pins = inner.pinned(&run.grant.tenant, server, &client).await;
                pins.inspect_err(|error| tracing::warn!(%error, "tools not listed")).ok()
            }
            None => None,
        };
        (server.clone(), catalogue.map(|pins| Arc::clone(pins.served())))
    });
    let catalogues = tokio::select! {
        () = run.cut_signal().cancelled() => return Err(cut()),
        catalogues = join_all(asked) => catalogues,
    };
    if !catalogues.is_empty() && catalogues.iter().all(|(_, catalogue)| catalogue.is_none()) {
        let servers: Vec<_> = catalogues.iter().map(|(server, _)| format!("`{server}`")).collect();
        return Err(Refusal::new(
            RefusalCode::UpstreamUnavailable,
            "upstream.available",
            format!("no tool server of this agent answers ({})", servers.join(", ")),
            "An operator can see why with `cogward tool-server list`",
        ));
    }
    Ok(catalogues)
}

/// The refusal of a run that is cut while it waits.
pub(super) fn cut() -> Refusal {
    Refusal::new(
        RefusalCode::LifecycleFence,
        "lifecycle.run",
        "the run was stopped",
        "Only an operator can let it act again",
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(servers: &[(&str, &[&str])]) -> Names {
        let grants = servers
            .iter()
            .map(|(server, tools)| (server.parse().unwrap(), tools.iter().map(|t| t.parse().unwrap()).collect()));
        Names::of(&grants.collect())
    }

    #[test]
    fn one_server_keeps_its_names_and_several_are_told_apart() {
        let one = names(&[("files", &["read_text_file"])]);
        assert!(one.resolve("read_text_file").is_some() && one.resolve("files_read_text_file").is_none());
        let two = names(&[("a", &["b_c"]), ("a-b", &["c"])]);
        assert_eq!(two.resolve("a_b_c").unwrap().0.as_str(), "a");
        assert_eq!(two.resolve("a-b_c").unwrap().0.as_str(), "a-b");
        assert!(two.resolve("b_c").is_none() && two.resolve("c").is_none());
        assert_eq!(two.nearest("a_anything").unwrap().as_str(), "a");
        assert!(two.nearest("x_y").is_none() && two.nearest("xy").is_none());
    }

    proptest! {
        #[test]
        fn every_granted_tool_has_one_name_within_the_alphabet(
            grants in proptest::collection::btree_map("[a-z][a-z0-9-]{0,60}[a-z0-9]", proptest::collection::btree_set("[A-Za-z0-9_.-]{1,128}", 1..4), 1..4)
        ) {
            let grants: BTreeMap<UpstreamName, BTreeSet<ToolName>> = grants
                .into_iter()
                .map(|(s, t)| (s.parse().unwrap(), t.into_iter().map(|t| t.parse().unwrap()).collect()))
                .collect();
            let names = Names::of(&grants);
            prop_assert_eq!(names.shown.len(), grants.values().map(BTreeSet::len).sum::<usize>());
            for (name, tool) in &names.shown {
                prop_assert!(name.parse::<ToolName>().is_ok());
                prop_assert_eq!(names.of.get(tool), Some(name));
            }
        }
    }
}
