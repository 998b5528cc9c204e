//! Tool servers: tried before they are kept, their credentials sealed.

use std::sync::Arc;

use axum::{Json as Answer, extract::State, response::IntoResponse};
use cogward_api::{
    LeftOut, MadeFrom, Page, PageQuery, ProblemCode, ReasonQuery, ToolCounts, ToolServer, ToolServerPut,
};
use cogward_gateway::{
    Credential, SKILLS_SERVER,
    mcp::upstream::{self as upstream_client, UpstreamError},
    pins::identity,
};
use cogward_journal::JournalEvent;
use cogward_model::{
    TenantName, UpstreamName,
    event::EventType,
    manifest::Manifest,
    pin::PinState,
    pin_name::OtherKind,
    upstream::{self, ToolNetwork, ToolSandbox, ToolTransport},
};
use cogward_store::ToolServerRow;
use http::{HeaderMap, StatusCode};
use zeroize::Zeroizing;

use super::{bounded_reason, etag, known_tenant, page_of, precondition};
use crate::{
    adapters::tool_processes,
    events::{by_operator, digest_of, sha256},
    extract::{Asked, Caller, Json, Params},
    failure::Failure,
    pins::{Observed, Offered},
    plane::{App, Plane},
};

/// The name of the sealed credential.
pub(crate) fn secret_name(tenant: &TenantName, name: &UpstreamName) -> String {
    format!("tool-server/{tenant}/{name}")
}

async fn view(plane: &Plane, row: ToolServerRow) -> Result<ToolServer, Failure> {
    let upstream::ToolServer { tenant, name, mut transport, limits } = row.config;
    if let ToolTransport::OpenApi { document, .. } = &mut transport {
        document.text.clear();
    }
    let has_credential = plane.store.secret(&secret_name(&tenant, &name)).await?.is_some();
    let mut tools = ToolCounts::default();
    for (server, state, offered, count) in plane.store.tool_counts(&tenant).await? {
        if server == name {
            match (state, offered) {
                (PinState::Approved, true) => tools.approved += count,
                (PinState::Approved, false) => tools.gone += count,
                (PinState::Quarantined, _) => tools.quarantined += count,
                (PinState::Blocked, _) => tools.blocked += count,
            }
        }
    }
    let client = plane.gateway.upstreams().tool_server(&tenant, &name);
    let made_from = client.as_ref().and_then(|client| client.made_from()).map(made_from);
    let breaker = client.map(|client| client.breaker().as_str().to_owned());
    let updated = row.updated;
    Ok(ToolServer { tenant, name, transport, limits, made_from, breaker, has_credential, tools, updated })
}

fn made_from(from: &upstream_client::MadeFrom) -> MadeFrom {
    let left_out = from.left_out.iter().map(|left| LeftOut { what: left.what.clone(), why: left.why.clone() });
    MadeFrom {
        title: from.title.clone(),
        version: from.version.clone(),
        operations: from.operations as u64,
        left_out: left_out.collect(),
        credentials: from.credentials.clone(),
    }
}

pub(crate) async fn list(
    State(app): State<App>,
    Params(tenant): Params<TenantName>,
    Asked(query): Asked<PageQuery>,
) -> Result<Answer<Page<ToolServer>>, Failure> {
    known_tenant(&app, &tenant).await?;
    let page = app.store.tool_servers(&tenant, &page_of(&query)).await?;
    let mut items = Vec::with_capacity(page.items.len());
    for row in page.items {
        items.push(view(&app, row).await?);
    }
    Ok(Answer(Page { items, next_cursor: page.next }))
}

pub(super) async fn found(plane: &Plane, tenant: &TenantName, name: &UpstreamName) -> Result<ToolServerRow, Failure> {
    plane.store.tool_server(tenant, name).await?.ok_or_else(|| Failure::missing("tool server", name))
}

pub(crate) async fn show(
    State(app): State<App>,
    Params((tenant, name)): Params<(TenantName, UpstreamName)>,
) -> Result<impl IntoResponse, Failure> {
    let row = found(&app, &tenant, &name).await?;
    Ok(([etag(row.revision)], Answer(view(&app, row).await?)))
}

pub(crate) async fn put(
    State(app): State<App>,
    caller: Caller,
    Params((tenant, name)): Params<(TenantName, UpstreamName)>,
    headers: HeaderMap,
    body: Json<ToolServerPut>,
) -> Result<impl IntoResponse, Failure> {
    let ToolServerPut { mut transport, limits, credential, approve_tools, reason } = body.value;
    bounded_reason(reason.as_deref())?;
    known_tenant(&app, &tenant).await?;
    if name.as_str() == SKILLS_SERVER {
        return Err(Failure::invalid(format!("`{name}` is the plane's own: skills are served under it")).rule("name"));
    }
    // Refused before it is tried: a try starts a program or opens a connection.
    let before = app.store.tool_server(&tenant, &name).await?.map(|row| row.revision);
    precondition(&headers, before)?;
    if credential.is_some() && matches!(&transport, ToolTransport::Stdio { credential_env: None, .. }) {
        return Err(Failure::invalid("a credential was given, and `credential_env` does not say in which variable")
            .rule("transport.credential_env"));
    }
    if let Some(why) = tool_processes::unseen(&transport) {
        return Err(Failure::invalid(why).rule("transport.mounts"));
    }
    if let ToolTransport::OpenApi { document, .. } = &mut transport {
        document.digest.get_or_insert_with(|| sha256(document.text.as_bytes()));
    }
    let config = upstream::ToolServer { tenant: tenant.clone(), name: name.clone(), transport, limits };
    let secret = credential.map(|c| Zeroizing::new(c.into_exposed()));
    let for_gateway = || secret.clone().map(Credential::new);
    let offered = try_out(&app, config.clone(), for_gateway()).await?;
    let tools = offered.first().map_or(0, Offered::count);

    let _changes = app.pins.changes().await;
    let mut tx = app.store.begin().await?;
    precondition(&headers, tx.tool_server(&tenant, &name).await?.map(|row| row.revision))?;
    let at = tx.now();
    let revision = tx.tool_server_put(&config, &caller.0.name, at).await?;
    keep_secret(&app, &mut tx, &secret_name(&tenant, &name), secret.as_ref()).await?;
    let mut event = by_operator(EventType::ToolServerAdded, tenant.clone(), &caller.0, reason.as_deref())
        .public("tool_server", name.as_str())
        .public("revision", revision)
        .public("transport", kind_of(&config.transport))
        .public("confined", confined(&config.transport))
        .public("has_credential", secret.is_some())
        .public("tools", tools as u64)
        .public("upstream", identity(&config).to_string())
        .confidential("config", digest_of(&config));
    if let Some(document) = document_of(&config.transport) {
        event = event.public("document", document);
    }
    let rows = tx.tool_pins(&tenant, &name).await?;
    let mut observed: Vec<Observed> = offered.iter().map(|offered| Observed::of(&config, &rows, offered, at)).collect();
    let mut events = vec![event];
    for observed in &mut observed {
        if approve_tools {
            observed.approve_all(&caller.0, reason.as_deref(), at);
        }
        observed.write(&mut tx).await?;
        events.extend(observed.events());
        events.extend(observed.approvals(&caller.0, reason.as_deref()));
    }
    let committed = tx.commit(events).await?;
    // Nothing of the server before this one is served any more; of this one only what is written.
    app.pins.forget(&tenant, &name);
    app.publish(committed).await?;
    app.gateway.upstreams().put_tool_server(config.clone(), for_gateway());
    for observed in &observed {
        app.pins.put(&config, observed.kind, Some(observed.list), &observed.rows());
        app.pins.tell(observed);
    }
    let approved: usize = observed.iter().map(Observed::approved).sum();
    app.journal.publish(JournalEvent::tenant("tool_server.added", tenant.clone()).detail(serde_json::json!({
        "tool_server": name, "revision": revision, "tools": tools, "approved": approved,
    })));
    let row = found(&app, &tenant, &name).await?;
    let status = if revision == 1 { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, [etag(revision)], Answer(view(&app, row).await?)))
}

fn kind_of(transport: &ToolTransport) -> &'static str {
    match transport {
        ToolTransport::Stdio { .. } => "stdio",
        ToolTransport::Http { .. } => "http",
        ToolTransport::Memory { .. } => "memory",
        ToolTransport::OpenApi { .. } => "openapi",
    }
}

/// The document that tools are made of.
fn document_of(transport: &ToolTransport) -> Option<String> {
    let ToolTransport::OpenApi { document, .. } = transport else { return None };
    document.digest.map(|digest| digest.to_string())
}

/// How far a program is confined, for the record; nothing is to be said of a server that is elsewhere.
fn confined(transport: &ToolTransport) -> &'static str {
    let confinement = transport.confinement();
    match (transport, confinement.sandbox, confinement.network) {
        (ToolTransport::Http { .. } | ToolTransport::OpenApi { .. }, _, _) => "elsewhere",
        (ToolTransport::Memory { .. }, _, _) => "the plane",
        (_, ToolSandbox::None, _) => "none",
        (_, ToolSandbox::Standard, ToolNetwork::Host) => "standard, network of the host",
        (_, ToolSandbox::Standard, ToolNetwork::None) => "standard",
    }
}

/// Connects and asks for what it defines: its tools first, then what else can be had of it.
async fn try_out(
    plane: &App,
    config: upstream::ToolServer,
    credential: Option<Credential>,
) -> Result<Vec<Offered>, Failure> {
    let next = match &config.transport {
        ToolTransport::Stdio { .. } => {
            "what it said is in the plane's log; it runs in `/` with an environment of its own and in a sandbox, so every \
             path must be absolute and mounted (`--mount`), and it has no network unless `--network host`; then add it again"
        }
        ToolTransport::Http { .. } | ToolTransport::OpenApi { .. } => {
            "see that it runs and answers `tools/list`, then add it again"
        }
        ToolTransport::Memory { .. } => {
            "see that its store runs, takes the credential and may be written to, then add it again"
        }
    };
    let of_document = matches!(&config.transport, ToolTransport::OpenApi { .. });
    // A large document takes its time to read.
    let app = plane.clone();
    let client = tokio::task::spawn_blocking(move || app.gateway.upstreams().client(config, credential)).await;
    let client = Arc::new(client.map_err(|e| Failure::internal("the tool server cannot be tried", &e))?);
    let tools = client.tools().await;
    if let Ok(tools) = &tools
        && !of_document
    {
        let mut offered = vec![Offered::tools(tools)];
        for kind in OtherKind::ALL {
            // What cannot be listed now is looked at when an agent asks for it, and nobody has approved it then.
            match client.list(kind).await {
                Ok(listed) => offered.push(Offered::entries(kind, &listed)),
                Err(error) => tracing::info!(kind = kind.kind().as_str(), %error, "a list could not be read"),
            }
        }
        return Ok(offered);
    }
    match tools {
        Ok(tools) => {
            let unusable = tokio::task::spawn_blocking(move || client.unusable()).await;
            let unusable = unusable.map_err(|e| Failure::internal("the document cannot be tried", &e))?;
            let Some(first) = unusable.first() else { return Ok(vec![Offered::tools(&tools)]) };
            let names: Vec<_> = unusable.iter().take(20).map(|tool| format!("`{}`", tool.what)).collect();
            let why = format!("{} could never be called, `{}` since {}", names.join(", "), first.what, first.why);
            Err(Failure::invalid(why).rule("transport.document").next_step("leave them out with `--exclude`"))
        }
        Err(error @ UpstreamError::Unusable { .. }) => Err(Failure::invalid(error.to_string()).rule("transport")),
        Err(error) => Err(Failure::new(ProblemCode::UpstreamUnavailable, error.to_string())
            .rule("tool_server.reachable")
            .next_step(next)),
    }
}

/// Seals the credential, or forgets the one that was kept.
pub(crate) async fn keep_secret(
    plane: &Plane,
    tx: &mut cogward_store::Tx,
    name: &str,
    secret: Option<&Zeroizing<String>>,
) -> Result<(), Failure> {
    use cogward_identity::SecretError;
    let kept = match secret {
        Some(secret) => plane.secrets.put(tx, name, secret.as_bytes()).await,
        None => plane.secrets.delete(tx, name).await.map(drop),
    };
    kept.map_err(|error| match error {
        SecretError::Length => Failure::invalid(error.to_string()).rule("credential"),
        error => Failure::internal("the credential cannot be kept", &error),
    })
}

pub(crate) async fn remove(
    State(app): State<App>,
    caller: Caller,
    Params((tenant, name)): Params<(TenantName, UpstreamName)>,
    uri: http::Uri,
) -> Result<StatusCode, Failure> {
    let reason = reason_of(&uri)?;
    found(&app, &tenant, &name).await?;
    for row in app.store.runs_live().await? {
        if row.tenant != tenant {
            continue;
        }
        let version = app.store.version(&row.tenant, &row.agent, &row.version).await?;
        let manifest = version.and_then(|v| serde_json::from_str::<Manifest>(&v.manifest_json).ok());
        if manifest.is_none_or(|m| m.spec.permissions.tools.iter().any(|grant| grant.server == name)) {
            return Err(Failure::new(ProblemCode::InUse, format!("the run `{}` may use it", row.id))
                .next_step("end the run first, or wait until it has ended"));
        }
    }
    let _changes = app.pins.changes().await;
    let mut tx = app.store.begin().await?;
    // What was approved was approved of this server; one that comes under the same name is another.
    tx.tool_pins_delete(&tenant, &name).await?;
    if !tx.tool_server_delete(&tenant, &name).await? {
        return Err(Failure::missing("tool server", &name));
    }
    keep_secret(&app, &mut tx, &secret_name(&tenant, &name), None).await?;
    let event = by_operator(EventType::ToolServerRemoved, tenant.clone(), &caller.0, Some(&reason))
        .public("tool_server", name.as_str());
    let committed = tx.commit(vec![event]).await?;
    app.gateway.upstreams().remove_tool_server(&tenant, &name);
    app.pins.forget(&tenant, &name);
    app.publish(committed).await?;
    app.journal.publish(
        JournalEvent::tenant("tool_server.removed", tenant).detail(serde_json::json!({ "tool_server": name })),
    );
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) fn reason_of(uri: &http::Uri) -> Result<String, Failure> {
    let query = axum::extract::Query::<ReasonQuery>::try_from_uri(uri);
    let reason = match query {
        Ok(query) => query.0.reason,
        Err(error) if error.body_text().contains("missing field") => String::new(),
        Err(error) => return Err(Failure::invalid(error.body_text())),
    };
    super::runs::given_reason(Some(reason))
}
