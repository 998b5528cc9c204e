//! The resources and prompts of the granted servers: what of them a run is shown, and whose each one is.
//!
//! A prompt is called as a tool is: by its own name with one server, by `<server>_<name>` with several. A resource
//! keeps its URI; where two servers offer one URI, the first of them in the order of their names has it. What is shown
//! is the text that was approved; the skills of a version are pinned with the version itself.

use std::collections::BTreeMap;

use bytes::Bytes;
use cogward_model::{
    Digest, UpstreamName,
    decision::{Refusal, RefusalCode},
    event::{Event, EventType},
    name_scope::NamePattern,
    pin_name::OtherKind,
};
use futures_util::future::join_all;
use serde_json::value::RawValue;

use super::{
    catalogue::sha256,
    listing,
    members::{Members, quoted},
};
use crate::{Inner, grant::RunGrant, pins::PinsError, run::RunContext};

/// Names of a list that are recorded; the digest covers all of them.
const NAMED_MAX: usize = 256;
/// Longest list that is shown, in bytes.
const LIST_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A list of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shelf {
    Resources,
    Templates,
    Prompts,
}

impl Shelf {
    /// The list that a method asks for.
    pub(super) fn of(method: &str) -> Option<Self> {
        match method {
            "resources/list" => Some(Self::Resources),
            "resources/templates/list" => Some(Self::Templates),
            "prompts/list" => Some(Self::Prompts),
            _ => None,
        }
    }

    /// The member of the result that holds the list.
    pub(super) fn member(self) -> &'static str {
        match self {
            Self::Resources => "resources",
            Self::Templates => "resourceTemplates",
            Self::Prompts => "prompts",
        }
    }

    /// What of it the manifest grants.
    pub(super) fn granted(self, grant: &RunGrant) -> &BTreeMap<UpstreamName, Vec<NamePattern>> {
        match self {
            Self::Resources | Self::Templates => grant.resources(),
            Self::Prompts => grant.prompts(),
        }
    }

    fn kind(self) -> OtherKind {
        match self {
            Self::Resources => OtherKind::Resource,
            Self::Templates => OtherKind::Template,
            Self::Prompts => OtherKind::Prompt,
        }
    }

    fn served(self) -> EventType {
        match self {
            Self::Resources | Self::Templates => EventType::ResourceListServed,
            Self::Prompts => EventType::PromptListServed,
        }
    }
}

/// The list for a run, as a JSON list, recorded when it differs from the one served before.
pub(super) async fn list(inner: &Inner, run: &RunContext, shelf: Shelf) -> Result<Bytes, Refusal> {
    inner.gate.plane_fence().pass().await?;
    run.fence.pass().await?;
    let granted = shelf.granted(&run.grant);
    let asked = granted.iter().map(|(server, patterns)| async move {
        let stock = stock(inner, run, server, shelf.kind()).await;
        let stock = stock.inspect_err(|error| tracing::warn!(%error, "a list was not served")).ok()??;
        Some((server, patterns, stock))
    });
    let all = tokio::select! {
        () = run.cut_signal().cancelled() => return Err(listing::cut()),
        all = join_all(asked) => all,
    };
    if !all.is_empty() && all.iter().all(Option::is_none) {
        return Err(Refusal::new(
            RefusalCode::UpstreamUnavailable,
            "upstream.available",
            "no tool server of this agent answers".to_owned(),
            "An operator can see why with `cogward tool-server list`",
        ));
    }
    let sources = sources(&all);
    if let Some(list) = run.mcp.shown(shelf.member(), sources) {
        return Ok(list);
    }
    let several = run.grant.tools().len() > 1;
    let mut shown: BTreeMap<String, String> = BTreeMap::new();
    for (server, patterns, stock) in all.iter().flatten() {
        for (key, raw) in &stock.items {
            // A template is shown where it names something that may be read when its first part is filled in.
            if !patterns.iter().any(|pattern| within(shelf, pattern, key)) {
                continue;
            }
            let (name, text) = match shelf == Shelf::Prompts && several {
                true => {
                    let name = format!("{server}_{key}");
                    let Some(mut members) = Members::read(raw.get().as_bytes()) else { continue };
                    members.set("name", quoted(&name));
                    (name, String::from_utf8_lossy(&members.json()).into_owned())
                }
                false => (key.clone(), raw.get().to_owned()),
            };
            shown.entry(name).or_insert(text);
        }
    }
    let length = shown.values().map(|text| text.len() + 1).sum::<usize>();
    if length > LIST_BYTES_MAX {
        let detail = "the lists of this agent's tool servers are too long together".to_owned();
        let next = "Grant fewer of them";
        return Err(Refusal::new(RefusalCode::UpstreamUnavailable, "limits.list", detail, next));
    }
    let mut text = String::with_capacity(length + 2);
    text.push('[');
    for (place, item) in shown.values().enumerate() {
        if place > 0 {
            text.push(',');
        }
        text.push_str(item);
    }
    text.push(']');
    let grant = &run.grant;
    let named: Vec<_> = shown.keys().take(NAMED_MAX).map(|name| super::rpc::shown(name, 256)).collect();
    let event = Event::new(shelf.served(), grant.tenant.clone(), grant.attribution())
        .run(grant.run)
        .public("basis", vec!["gateway"])
        .public("policy", grant.version_digest.to_string())
        .public("list", shelf.member())
        .public("count", shown.len() as u64)
        .confidential("names", named)
        .public("definitions", sha256(text.as_bytes()).to_string());
    inner.gate.record(event).await?;
    let list = Bytes::from(text);
    run.mcp.set_shown(shelf.member(), sources, list.clone());
    Ok(list)
}

/// What of one server may be shown.
struct Stock {
    items: Vec<(String, Box<RawValue>)>,
    digest: Option<Digest>,
}

/// What one server has, if it answered.
type Had<'a> = Option<(&'a UpstreamName, &'a Vec<NamePattern>, Stock)>;

/// What of a server may be shown: what is approved and offered. `None` when it is not connected.
async fn stock(
    inner: &Inner,
    run: &RunContext,
    server: &UpstreamName,
    kind: OtherKind,
) -> Result<Option<Stock>, PinsError> {
    let Some(client) = inner.server_of(run, server) else { return Ok(None) };
    if run.skills.is(server) {
        let listed = client.list(kind).await?;
        let items = listed.items().iter().map(|item| (item.name.key().to_owned(), item.raw.clone())).collect();
        return Ok(Some(Stock { items, digest: Some(listed.digest()) }));
    }
    let pins = inner.pinned_entries(&run.grant.tenant, server, kind, &client).await?;
    let items = pins.iter().map(|(key, entry)| (key.clone(), entry.raw.clone())).collect();
    Ok(Some(Stock { items, digest: pins.digest() }))
}

/// The same exactly when every server has the same list, or is as absent, as before.
fn sources(all: &[Had<'_>]) -> Digest {
    let each = all.iter().map(|one| match one {
        Some((server, _, stock)) => format!("{server} {};", stock.digest.map(|d| d.to_string()).unwrap_or_default()),
        None => "-;".to_owned(),
    });
    sha256(each.collect::<String>().as_bytes())
}

fn within(shelf: Shelf, pattern: &NamePattern, key: &str) -> bool {
    match shelf {
        Shelf::Resources | Shelf::Prompts => pattern.holds(key),
        Shelf::Templates => {
            let filled = key.split_once('{').map_or(key, |(head, _)| head);
            pattern.holds(key) || pattern.holds(&format!("{filled}x"))
        }
    }
}

/// The server of a prompt, and the prompt's name there.
pub(super) fn prompt(grant: &RunGrant, name: &str) -> Option<(UpstreamName, String)> {
    if grant.tools().len() == 1 {
        return grant.tools().keys().next().map(|server| (server.clone(), name.to_owned()));
    }
    let (server, own) = name.split_once('_')?;
    let server = grant.tools().keys().find(|known| known.as_str() == server)?;
    Some((server.clone(), own.to_owned()))
}

/// The server of a resource: of those that may be read, the first that lists it, otherwise the first.
pub(super) async fn resource(inner: &Inner, run: &RunContext, uri: &str) -> Option<UpstreamName> {
    let granted = run.grant.resources();
    let mut fitting = granted.iter().filter(|(_, patterns)| patterns.iter().any(|pattern| pattern.holds(uri)));
    let (first, second) = (fitting.next(), fitting.next());
    let Some((first, _)) = first else {
        // It will be refused; a name is needed to record it under.
        return granted.keys().next().or_else(|| run.grant.tools().keys().next()).cloned();
    };
    if second.is_none() || inner.gate.plane_fence().pass().await.is_err() || run.fence.pass().await.is_err() {
        return Some(first.clone());
    }
    for (server, patterns) in granted {
        if !patterns.iter().any(|pattern| pattern.holds(uri)) {
            continue;
        }
        let stock = tokio::select! {
            () = run.cut_signal().cancelled() => return Some(first.clone()),
            stock = stock(inner, run, server, OtherKind::Resource) => stock,
        };
        if let Ok(Some(stock)) = stock
            && stock.items.iter().any(|(key, _)| key == uri)
        {
            return Some(server.clone());
        }
    }
    Some(first.clone())
}
